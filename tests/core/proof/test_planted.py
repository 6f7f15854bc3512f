"""Each mistake that can be planted in the core's proofs is noticed by a check that `planted.md` names, or is none."""

from __future__ import annotations

import functools

import pytest
from core.proof.planted import CHECKS, FORMULAS, all_mistakes, checks_of, none, table
from helpers.mutants import Mistake, noticed_by

MISTAKES = all_mistakes()


@functools.cache
def holds(check: str) -> bool:
    """Whether a check finds nothing as things are."""
    return not list(CHECKS[check]())


@pytest.mark.sampled(16)
@pytest.mark.parametrize("mistake", [x for x in MISTAKES if str(x) not in none()], ids=repr)
def test_a_planted_mistake_is_noticed(mistake: Mistake) -> None:
    checks = checks_of(mistake)
    assert all(map(holds, checks))
    assert noticed_by(mistake, checks), f"none of {[*checks]} notices: {mistake}"


def test_the_table_is_that_of_the_code() -> None:
    assert none() - {str(x) for x in MISTAKES} == set()
    assert {row[0] for row in table(0)} == {str(x.function) for x in MISTAKES if str(x) not in none()}
    assert {name for row in table(0) for name in row[1].split(", ")} <= set(CHECKS)


@pytest.mark.parametrize("check", FORMULAS)
def test_formulas_hold(check: str) -> None:
    assert list(FORMULAS[check]()) == []
