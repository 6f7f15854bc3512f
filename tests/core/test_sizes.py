"""Whatever the sizes and counts: an answer or an error of specnorm's, in limited memory and time."""

from __future__ import annotations

import itertools
import sys

import pytest
from core.sizes import DOOR, calls
from helpers.processes import FINDS_TESTS, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")


@pytest.mark.parametrize("first", [0, 36, 80])  # counts of 1e9, of 1e5, and drawn sizes
def test_large_numbers(first: int) -> None:
    assert ran("-m", "core.sizes", first, 8, 40, **FINDS_TESTS) == ""


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, 400, 16))
def test_many_large_numbers(first: int) -> None:
    assert ran("-m", "core.sizes", first, 16, 60, timeout=1800, **FINDS_TESTS) == ""


def test_the_whole_door_is_drawn() -> None:
    labels = [label.partition("(")[0] for label, _ in itertools.islice(calls(), 400)]
    assert {*DOOR} <= {*labels}
