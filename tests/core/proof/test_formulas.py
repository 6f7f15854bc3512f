"""What proofs are made of: formulas and lemmas hold, what rules say is true, and false claims are refused."""

from __future__ import annotations

import pytest
from core.proof.checks import FORMULAS, refused
from core.proof.rules import CHECKS, Check, violations


@pytest.mark.parametrize("check", FORMULAS)
def test_formulas_hold(check: str) -> None:
    assert list(FORMULAS[check]()) == []


def test_every_false_claim_is_refused() -> None:
    assert list(refused()) == []


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda check: check.__name__)
def test_what_rules_say_is_true(check: Check) -> None:
    assert list(violations(check)) == []
    assert sum(claim is not None for claim, _ in check()) > 0
