"""Gates: whether the layers, or the network, of a report are proven to stay within a bound, and the answer in words."""

from __future__ import annotations

from collections.abc import Iterable

from specnorm.proof import number
from specnorm_audit.report import Gate, Outcome, Report
from specnorm_audit.rows import Row

_UNMEASURED = "could be layers and are not measured; --layers with the names of the others leaves out what is none:"


def norms(report: Report, bound: float) -> Gate:
    """Whether all norms are proven to be at most ``bound``.

    Undecided: nothing speaks against it but arrays that could be layers and are not measured.
    """
    option = f"--fail-above {bound!r}"
    if report.error is not None:
        return Gate(option, bound, "undecided", "the model could not be read.")
    places = [place for row in report.layers if (place := _against(row, bound))]
    if places:
        reason = f"{len(places)} of {len(report.layers)} layers are not proven to have a norm of at most {bound!r}:"
        return Gate(option, bound, "failed", reason, tuple(places))
    if report.unmeasured:
        unmeasured = tuple(f"{row.name}: {row.reason}" for row in report.unmeasured)
        return Gate(option, bound, "undecided", f"{len(unmeasured)} arrays {_UNMEASURED}", unmeasured)
    chosen = f", {report.left_out} more left out," if report.left_out else ""
    reason = f"each of {len(report.layers)} layers{chosen} is proven to have a norm of at most {bound!r}, as assumed."
    return Gate(option, bound, "passed", reason)


def _against(row: Row, bound: float) -> str | None:
    if row.status != "ok" or row.lower is None or row.upper is None:
        return f"{row.name}: error: {row.reason or 'its bounds are no numbers'}"
    if row.lower > bound:
        return f"{row.name}: lower = {row.lower!r} > {bound!r}: the norm is above it"
    if not row.upper <= bound:
        return f"{row.name}: upper = {row.upper!r} > {bound!r}, lower = {row.lower!r}: not proven"
    return None


def network(report: Report, bound: float) -> Gate:
    """Whether the network's constant is proven to be at most ``bound``.

    Undecided: proven of a graph that could not be compared with the file's own values.
    """
    option, found = f"--fail-above-network {bound!r}", report.network
    if report.error is not None:
        return Gate(option, bound, "undecided", "the model could not be read.")
    claim = f"f is not proven to have a constant of at most {bound!r}"
    if found is None:
        why = "--layers chose a part of it" if report.left_out else "the file holds no graph, so give an ONNX file"
        return Gate(option, bound, "failed", f"{claim}: {why}.")
    if found.upper is None:
        return Gate(option, bound, "failed", f"{claim}: {found.unknown[0].reason}.")
    finite = found.upper < float("inf")
    constant = f"its constant is at most {number(found.upper, 'upper')}" if finite else found.infinite
    if not found.upper <= bound:
        return Gate(option, bound, "failed", f"{claim}: {constant}.")
    if not found.checked.complete:
        return Gate(option, bound, "undecided", f"f is not decided: {constant} as it was read. {found.checked}")
    return Gate(option, bound, "passed", f"{claim.replace('not proven', 'proven')}: {constant}.")


def of(report: Report, layers: float | None, whole: float | None) -> tuple[Gate, ...]:
    """The gates that are asked for: a bound on every layer's norm, and one on the network's constant."""
    asked = ((norms, layers), (network, whole))
    return tuple(gate(report, bound) for gate, bound in asked if bound is not None)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The first of failed, undecided and passed that is among them."""
    found = {*outcomes}
    return "failed" if "failed" in found else "undecided" if "undecided" in found else "passed"
