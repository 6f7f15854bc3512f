"""Every rule of `certified` has a test that fails without what it supposes, and one that fails where it says less.

Mutants are made from the syntax tree, so that a new rule or a new hypothesis without a test is found here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest
from core.proof.refusals import REFUSED
from core.proof.rules import CHECKS, Check, violations
from helpers.mutants import Function, certified, mutated

from specnorm.proofs.bound import HypothesisError

MAKERS = {
    "Upper._by_rule": "upper", "make_upper": "upper", "Lower._by_rule": "lower", "make_lower": "lower",
    "Upper._of_stack": "uppers", "Upper._largest": "largest",
}  # fmt: skip
"""Constructors of claims, and what they make."""


# -- hypotheses --------------------------------------------------------------------------------------------------------
def raises(node: ast.AST) -> bool:
    """Whether a statement refuses: ``if ...: raise HypothesisError(...)``."""
    first = node.body[0] if isinstance(node, ast.If) else None
    return isinstance(first, ast.Raise) and "HypothesisError" in ast.unparse(first)


def weaker(asked: ast.expr, value: bool) -> Iterator[tuple[ast.expr, bool]]:
    """Terms of a condition, each with what it is to be for the condition to be weaker; ``value`` is the whole one's."""
    if isinstance(asked, ast.UnaryOp) and isinstance(asked.op, ast.Not):
        yield from weaker(asked.operand, not value)
    elif isinstance(asked, ast.BoolOp) and isinstance(asked.op, ast.And) is value:
        for term in asked.values:
            yield from weaker(term, value)
    else:
        yield asked, value


def hypotheses(tree: ast.AST) -> list[tuple[ast.expr, bool]]:
    """Terms that a function's refusals ask, in their tests and in what the names in these stand for."""
    tests = [node.test for node in ast.walk(tree) if isinstance(node, ast.If) and raises(node)]
    if not tests:
        return []
    names = {part.id for test in tests for part in ast.walk(test) if isinstance(part, ast.Name)}
    negated = {
        getattr(part.operand, "id", "")
        for test in tests
        for part in ast.walk(test)
        if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not)
    }
    found = [each for test in tests for each in weaker(test, False)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BoolOp):
            (name,) = (ast.unparse(target) for target in node.targets)
            found += weaker(node.value, name in negated) if name in names else []
    return found


class Replaced(ast.NodeTransformer):
    """One node is a constant."""

    def __init__(self, node: ast.expr, value: bool) -> None:
        self.node, self.value = node, value

    def visit(self, node: ast.AST) -> ast.AST:
        return ast.Constant(self.value) if node is self.node else self.generic_visit(node)


def dropped(number: int) -> Callable[[ast.AST], None]:
    """The change that leaves one term unasked."""
    return lambda tree: void(Replaced(*hypotheses(tree)[number]).visit(tree))


def void(_: object) -> None:
    """A change is made in place."""


ASKED = [(function, number) for function in certified() for number in range(len(hypotheses(function.tree())))]


def accepted() -> Iterator[str]:
    """Cases that are to be refused and are not."""
    for name, case in REFUSED.items():
        try:
            case()
        except HypothesisError:
            continue
        except Exception:  # an error of another kind is noticed, too
            pass
        yield name


@pytest.mark.parametrize(("function", "number"), ASKED, ids=str)
def test_every_hypothesis_is_checked_by_a_case(function: Function, number: int) -> None:
    with mutated(function, dropped(number)):
        assert next(accepted(), None), f"no case misses: {ast.unparse(hypotheses(function.tree())[number][0])}"


def test_every_false_claim_is_refused() -> None:
    wrongly_accepted = list(accepted())
    assert wrongly_accepted == []
    assert len(ASKED) > 40


# -- what a rule says --------------------------------------------------------------------------------------------------
def claims(tree: ast.AST) -> list[ast.Call]:
    """Where a function makes a claim."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in MAKERS]


def too_sharp(number: int) -> Callable[[ast.AST], None]:
    """The change that makes a bound half, or twice, what it is, or forgets the largest part; one above 0 for 0."""

    def change(tree: ast.AST) -> None:
        call = claims(tree)[number]
        value = ast.unparse(call.args[0])
        other = {
            "upper": f"({value}) / 2",
            "uppers": f"({value}) / 2",
            "lower": f"({value}) * 2 + 1e-3",
            "largest": f"sorted({value}, key=float)[:-1]",
        }[MAKERS[ast.unparse(call.func)]]
        call.args[0] = ast.parse(other, mode="eval").body

    return change


RULES = [(function, number) for function in certified() for number in range(len(claims(function.tree())))]


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda check: check.__name__)
def test_what_rules_say_is_true(check: Check) -> None:
    assert list(violations(check)) == []
    assert sum(claim is not None for claim, _ in check()) > 0


@pytest.mark.parametrize(("function", "number"), RULES, ids=str)
def test_what_a_rule_says_is_looked_at(function: Function, number: int) -> None:
    assert function.name in CHECKS, "a rule without a check: give it one in proof/rules.py"
    if ast.unparse(claims(function.tree())[number]).startswith(("Upper._by_rule(0.0", "make_upper(0.0")):
        pytest.skip("half of nothing is nothing: what the rule supposes is looked at above")
    with mutated(function, too_sharp(number)):
        assert next(violations(CHECKS[function.name]), None), "nothing was noticed"


def test_every_check_is_of_a_rule() -> None:
    assert set(CHECKS) == {function.name for function, _ in RULES}
