"""Each mistake of the table `planted.md` is noticed by the check that the table names."""

from __future__ import annotations

import functools

import pytest
from core.proof.planted import CHECKS, FORMULAS, KINDS, Mistake, mistakes, noticed_by, places, rows
from helpers.mutants import certified

ROWS = rows()
NAMED = [*ROWS, *rows(1)]
FUNCTIONS = {str(function): function for function in certified()}


@functools.cache
def holds(check: str) -> bool:
    """Whether a check finds nothing as things are."""
    return not list(CHECKS[check]())


def planted(name: str, kind: str, place: str) -> list[Mistake]:
    """The mistakes that a row of the table may stand for."""
    function = FUNCTIONS[name]
    return [Mistake(function, kind, number) for number, x in enumerate(places(function, kind)) if x == place]


@pytest.mark.sampled(10)
@pytest.mark.parametrize(("name", "kind", "place", "check"), ROWS, ids=lambda x: x.partition(": ")[2] or None)
def test_a_planted_mistake_is_noticed(name: str, kind: str, place: str, check: str) -> None:
    assert holds(check)
    assert noticed_by(planted(name, kind, place)[0], {check: CHECKS[check]}) == check


def test_the_table_is_that_of_the_code() -> None:
    """Each row's mistake can be planted, and each mistake that can be planted has a row."""
    assert all(planted(name, kind, place) for name, kind, place, _ in NAMED)
    assert {kind for _, kind, _, _ in ROWS} == set(KINDS)
    listed = {row[:3] for row in NAMED}
    missing = [str(x) for x in mistakes() if (str(x.function), x.kind, x.site) not in listed]
    assert missing == [], "rows for planted.md: python -m core.proof.planted FUNCTION, in the folder tests"


@pytest.mark.parametrize("check", FORMULAS)
def test_formulas_hold(check: str) -> None:
    assert list(FORMULAS[check]()) == []
