"""Whatever the sizes and counts: an answer or an error of specnorm's, in limited memory and time."""

from __future__ import annotations

import sys

import pytest
from helpers.processes import FINDS_TESTS, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")


@pytest.mark.parametrize("first", [0, 8, 16])  # a comparison in the next eight takes its budget of 60 s
def test_large_numbers(first: int) -> None:
    assert ran("-m", "core.sizes", first, 8, 40, **FINDS_TESTS) == ""


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(24, 392, 16))
def test_many_large_numbers(first: int) -> None:
    assert ran("-m", "core.sizes", first, 16, 100, timeout=1800, **FINDS_TESTS) == ""
