"""Every rule of `certified` has a check that fails where it says less, and every hypothesis a case that it refuses."""

from __future__ import annotations

import pytest
from core.proof.planted import refused
from core.proof.rules import CHECKS, Check, violations
from helpers.mutants import CLAIMS, Mistake, certified, mistakes, noticed_by

RULES = mistakes(certified(), CLAIMS)


def test_every_false_claim_is_refused() -> None:
    assert list(refused()) == []


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda check: check.__name__)
def test_what_rules_say_is_true(check: Check) -> None:
    assert list(violations(check)) == []
    assert sum(claim is not None for claim, _ in check()) > 0


@pytest.mark.parametrize("mistake", RULES, ids=repr)
def test_what_a_rule_says_is_looked_at(mistake: Mistake) -> None:
    name = mistake.function.name
    assert name in CHECKS, "a rule without a check: give it one in proof/rules.py"
    assert noticed_by(mistake, {name: lambda: violations(CHECKS[name])}), "nothing was noticed"


def test_every_check_is_of_a_rule() -> None:
    assert set(CHECKS) >= {mistake.function.name for mistake in RULES}
