"""Gates: whether the layers, or the network, of a report are proven to stay within a bound, and the answer in words."""

from __future__ import annotations

from collections.abc import Iterable

from specnorm.auditing.report import Gate, Outcome, Report
from specnorm.auditing.rows import violations
from specnorm.text import number

_UNMEASURED = "could be layers and are not measured; --layers with the names of the others leaves out what is none:"


def norms(report: Report, bound: float) -> Gate:
    """Whether all norms are proven to be at most ``bound``.

    Undecided: nothing speaks against it but arrays that could be layers and are not measured.
    """
    option = f"--fail-above {bound!r}"
    if report.error is not None:
        return Gate(option, bound, "undecided", "the model could not be read.")
    found, count = violations(report.layers, bound), len(report.layers)
    if found:
        places = []
        for violation in found:
            row = violation.row
            why = {
                "refuted": f"lower = {row.lower!r} > {bound!r}: the norm is above it",
                "unproven": f"upper = {row.upper!r} > {bound!r}, lower = {row.lower!r}: not proven",
                "error": f"error: {row.reason or 'its bounds are no numbers'}",
            }[violation.kind]
            places.append(f"{row.name}: {why}")
        reason = f"{len(found)} of {count} layers are not proven to have a norm of at most {bound!r}:"
        return Gate(option, bound, "failed", reason, tuple(places))
    if report.unmeasured:
        unmeasured = tuple(f"{row.name}: {row.reason}" for row in report.unmeasured)
        return Gate(option, bound, "undecided", f"{len(unmeasured)} arrays {_UNMEASURED}", unmeasured)
    chosen = f", {report.left_out} more left out," if report.left_out else ""
    reason = f"each of {count} layers{chosen} is proven to have a norm of at most {bound!r}, as assumed."
    return Gate(option, bound, "passed", reason)


def network(report: Report, bound: float) -> Gate:
    """Whether the network's constant is proven to be at most ``bound``."""
    return _constant(report, f"--fail-above-network {bound!r}", bound, "f")


def claim(report: Report, claimed: str) -> Gate:
    """Whether f ("nonexpansive") or x - f(x) ("residual-nonexpansive") is proven to have a constant of at most 1."""
    return _constant(report, f"--claim {claimed}", 1.0, "x - f(x)" if claimed == "residual-nonexpansive" else "f")


def _constant(report: Report, option: str, bound: float, words: str) -> Gate:
    """Undecided: proven of a graph that could not be compared with the file's own values."""
    found = report.network if words == "f" else report.residual
    if report.error is not None:
        return Gate(option, bound, "undecided", "the model could not be read.")
    most = "nonexpansive" if option.startswith("--claim") else f"to have a constant of at most {bound!r}"
    if found is None:
        why = "--layers chose a part of it" if report.matched else "the file holds no graph, so give an ONNX file"
        return Gate(option, bound, "failed", f"{words} is not proven {most}: {why}.")
    if found.upper is None:
        return Gate(option, bound, "failed", f"{words} is not proven {most}: {found.unknown[0].reason}.")
    constant = f"its constant is at most {number(found.upper, 'upper')}"
    if not found.upper <= bound:
        return Gate(option, bound, "failed", f"{words} is not proven {most}: {constant}.")
    if not found.checked.complete:
        return Gate(option, bound, "undecided", f"{words} is not decided: {constant} as it was read. {found.checked}")
    return Gate(option, bound, "passed", f"{words} is proven {most}: {constant}.")


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
