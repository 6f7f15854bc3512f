"""Each mistake of the table `planted.md` is noticed by the check that the table names."""

from __future__ import annotations

import functools

import pytest
from core.proof.planted import CHECKS, KINDS, Mistake, noticed_by, rows
from helpers.mutants import certified

ROWS = rows()
FUNCTIONS = {str(function): function for function in certified()}


@functools.cache
def holds(check: str) -> bool:
    """Whether a check finds nothing as things are."""
    return not list(CHECKS[check]())


@pytest.mark.parametrize(("name", "kind", "place", "check"), ROWS, ids=lambda x: x.partition(": ")[2] or None)
def test_a_planted_mistake_is_noticed(name: str, kind: str, place: str, check: str) -> None:
    function = FUNCTIONS[name]
    count = len(Mistake(function, kind, 0).sites(function.tree()))
    found = [x for x in (Mistake(function, kind, number) for number in range(count)) if x.site == place]
    assert found, "the table is out of date: write it again by python -m core.proof.planted"
    assert holds(check)
    assert noticed_by(found[0], {check: CHECKS[check]}) == check


def test_the_table_has_every_kind() -> None:
    assert {kind for _, kind, _, _ in ROWS} == set(KINDS)
    assert len(ROWS) >= 44
