"""Each mistake that can be planted in what proves or checks is noticed, or is none.

`helpers/mutants.py` reads from the functions themselves what mistakes there are. ``planted.md`` names the checks that
notice those of a function, and says of some mistakes why they are none; ``planted.toml`` has mistakes that are written
by hand. A check is one of `core/proof/checks.py`, or a test, ``module:function``.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.mutants import (
    ARITHMETIC,
    CLAIMS,
    HYPOTHESES,
    ROUNDINGS,
    Check,
    Mistake,
    Written,
    check_named,
    functions_in,
    mistakes,
    noticed_by,
)
from test_house import CORE, ROOT, core_files, makes_claims, other_files

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")
pytest.importorskip("onnx", exc_type=ImportError)

from core.proof import roundings, rules
from core.proof.checks import CHECKS

CHECKER = ROOT / "packages" / "check" / "specnorm_check"
HAND: list[dict[str, Any]] = tomllib.loads(Path(__file__).with_name("planted.toml").read_text(encoding="utf-8"))["by"]


def by_hand() -> Iterator[tuple[str, Written, bool]]:
    """Checks, each with a mistake that it notices, and whether it takes so long that it is for the night."""
    for each in HAND:
        for row in each["mistakes"]:
            case, name, *texts = row if "{}" in each["check"] else ("", *row)
            yield each["check"].format(case), Written(name, each["in"], tuple(texts)), each.get("nightly", False)


BY_HAND = list(by_hand())


@functools.cache
def table(part: int) -> list[list[str]]:
    """The rows of ``planted.md``: (0) a function and its checks, (1) a mistake that is none, and why."""
    text = Path(__file__).with_name("planted.md").read_text(encoding="utf-8").split("## ")[1 + part]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def none() -> set[str]:
    """Mistakes that change no claim, or make another valid one."""
    return {" | ".join(row[:3]) for row in table(1)}


def kinds_of(path: Path) -> dict[str, Any]:
    if path.is_relative_to(CHECKER):
        return HYPOTHESES
    if not path.is_relative_to(CORE):
        return HYPOTHESES | CLAIMS
    return ARITHMETIC | HYPOTHESES | CLAIMS | (ROUNDINGS if roundings.are_counted(path) else {})


def all_mistakes() -> list[Mistake]:
    paths = [x for x in [*core_files(), *other_files()] if makes_claims(x) or x.is_relative_to(CHECKER)]
    found = [mistake for path in paths for mistake in mistakes(functions_in(path), kinds_of(path))]
    return [x for x in found if x.kind not in ROUNDINGS or x.function.name not in roundings.BY_HAND]


MISTAKES = [x for x in all_mistakes() if str(x) not in none()]


def package(mistake: Mistake) -> str:
    """The package of a function, if it is not of the core."""
    return "" if mistake.function.path.is_relative_to(CORE) else str(mistake.function).partition(":")[0]


def checks_of(mistake: Mistake) -> dict[str, Check]:
    """The checks that are to notice a mistake."""
    name = mistake.function.name
    if mistake.kind in CLAIMS:
        return {name: functools.partial(rules.violations, rules.CHECKS[name])}
    if mistake.kind in ROUNDINGS:
        return {name: roundings.CHECKS[name]}
    names = next((row[1].split(", ") for row in table(0) if row[0] in (str(mistake.function), package(mistake))), [])
    return {name: CHECKS.get(name) or check_named(name) for name in names}


@functools.cache
def holds(check: Check) -> bool:
    """Whether a check finds nothing as things are."""
    return not list(check())


@pytest.mark.sampled(24, "too sharp", "uncounted")
@pytest.mark.parametrize("mistake", MISTAKES, ids=repr)
def test_a_planted_mistake_is_noticed(mistake: Mistake) -> None:
    checks = checks_of(mistake)
    assert all(holds(check) for name, check in checks.items() if ":" not in name)  # tests run by themselves
    assert noticed_by(mistake, checks), f"none of {[*checks]} notices: {mistake}"


@pytest.mark.parametrize(
    ("check", "mistake"),
    [
        pytest.param(check, x, id=f"{check.rpartition(':')[2]}-{x.name}", marks=[pytest.mark.nightly] * late)
        for check, x, late in BY_HAND
    ],
)
def test_a_mistake_that_is_written_by_hand_is_noticed(check: str, mistake: Written) -> None:
    assert noticed_by(mistake, {check: CHECKS.get(check) or check_named(check)}), f"{check} does not notice: {mistake}"


OF_THEIR_OWN = {check for check, _, _ in BY_HAND if check not in CHECKS and ":test_" not in check}


@pytest.mark.parametrize("check", sorted(OF_THEIR_OWN))
def test_checks_hold(check: str) -> None:
    assert list(check_named(check)()) == []


def test_the_tables_are_those_of_the_code() -> None:
    planted = [x for x in MISTAKES if x.kind in ARITHMETIC | HYPOTHESES]
    assert none() - {str(x) for x in all_mistakes()} == set()
    assert {row[0] for row in table(0)} == {package(x) or str(x.function) for x in planted}
    assert {x.function.name for x in MISTAKES if x.kind in ROUNDINGS} == set(roundings.CHECKS)
    assert {x.function.name for x in MISTAKES if x.kind in CLAIMS} <= set(rules.CHECKS)
