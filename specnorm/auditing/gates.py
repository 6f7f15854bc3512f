"""Verdicts on reports, in words: which layers are not proven to stay within a bound, and what is proven of networks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from specnorm.auditing.report import Report
from specnorm.auditing.rows import violations
from specnorm.text import number

Outcome: TypeAlias = Literal["passed", "failed", "undecided"]


def norms(reports: Sequence[Report], bound: float) -> tuple[Outcome, list[str]]:
    """Whether all norms are proven to be at most ``bound``, and lines that name those that are not.

    Undecided: nothing speaks against it but arrays that could be layers and are not measured.
    """
    found = [violation for report in reports for violation in violations(report.layers, bound)]
    if not found:
        left = [f"  {row.name}: {row.reason}" for report in reports for row in report.unmeasured]
        words = "could be layers and are not measured; --layers with the names of the others leaves out what is none:"
        return ("undecided", [f"gate not decided: {len(left)} arrays {words}", *left]) if left else ("passed", [])
    in_all = sum(len(report.layers) for report in reports)
    text = [f"gate failed: {len(found)} of {in_all} layers are not proven to have a norm of at most {bound!r}:"]
    for violation in found:
        row = violation.row
        why = {
            "refuted": f"lower = {row.lower!r} > {bound!r}: the norm is above it",
            "unproven": f"upper = {row.upper!r} > {bound!r}, lower = {row.lower!r}: not proven",
            "error": f"error: {row.reason or 'its bounds are no numbers'}",
        }[violation.kind]
        text.append(f"  {row.name}: {why}")
    return "failed", text


def claims(reports: Sequence[Report], claim: str) -> tuple[Outcome, list[str]]:
    """Whether each network is proven to be as claimed, and a line on each.

    ``claim`` is "nonexpansive", about f, or "residual-nonexpansive", about x - f(x). Undecided: proven of a graph that
    could not be compared with the file's own values.
    """
    residual, outcomes, text = claim == "residual-nonexpansive", set[Outcome](), []
    for report in reports:
        found = report.residual if residual else report.network
        words = f"{report.model}: {'x - f(x)' if residual else 'f'}"
        outcome: Outcome = "failed"
        if found is None:
            why = "--layers chose a part of it" if report.matched else "the file holds no graph, so give an ONNX file"
            text.append(f"{words} is not proven nonexpansive: {why}.")
        elif found.upper is None:
            text.append(f"{words} is not proven nonexpansive: {found.unknown[0].reason}.")
        else:
            constant = f"its constant is at most {number(found.upper, 'upper')}"
            if not found.upper <= 1:
                text.append(f"{words} is not proven nonexpansive: {constant}.")
            elif found.checked.complete:
                outcome = "passed"
                text.append(f"{words} is proven nonexpansive: {constant}.")
            else:
                outcome = "undecided"
                text.append(f"{words} is not decided: {constant} as it was read. {found.checked}")
        outcomes.add(outcome)
    return worst(outcomes), text


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The first of failed, undecided and passed that is among them."""
    found = {*outcomes}
    return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"


def matches(report: Report) -> list[str]:
    """A line that says how many layers each pattern matched, where there were patterns."""
    if not report.matched:
        return []
    counts = ", ".join(f"{pattern} matches {n}" for pattern, n in report.matched.items())
    return [f"of {len(report.layers) + report.left_out} layers {counts}."]
