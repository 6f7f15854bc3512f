"""The answer of an audit for one model: rows of layers, a summary, a verdict in words, gates, and a table."""

from __future__ import annotations

import math
import operator
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from specnorm.proof import backends, counted, number, visible
from specnorm_audit import tables
from specnorm_audit.rows import Row

if TYPE_CHECKING:
    from specnorm_networks.tools import NetworkBound

    from specnorm_audit.attention.measuring import LogitRow
    from specnorm_audit.layer_certificates import Certificate


Outcome: TypeAlias = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Gate:
    """The answer to a bound that the command line asks to be proven.

    ``places`` has a line for each layer that is not proven to keep the bound, or of which nothing is known.
    """

    option: str
    bound: float
    outcome: Outcome
    reason: str
    places: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The answer in words, without the places."""
        return f"gate {'not decided' if self.outcome == 'undecided' else self.outcome}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "reason": self.sentence, "places": list(self.places)}


@dataclass(frozen=True)
class Report:
    """The result of `specnorm.audit` for one model.

    Parameters
    ----------
    version : str
        Version of specnorm.
    model : str or None
        Path of the file, or name of a live model's type; None for a mapping.
    layers : tuple of Row
        Measured layers, and layers with the reason why they could not be measured.
    skipped : tuple of str
        Names of the model's arrays that are not layers, or were not requested.
    network : NetworkBound or None
        Bound on the whole model, if the file has its graph and all layers were requested.
    environment : mapping of str to str
        Date, versions and platform of the run.
    unmeasured : tuple of Row
        Rows of skipped arrays that could be layers, each with the reason why it is not measured.
    left_out : int
        Number of layers that were not requested.
    certificate : Certificate or None
        Claims that others can check, if requested.
    without_claim : tuple of str
        Layers without a claim in the certificate, each with the reason; and the network, if its claim is missing or
        weaker than its bound.
    gates : tuple of Gate
        Results of the command line's gates.
    inert : tuple of str
        Names in a pickle besides its tensors, such as ``argparse.Namespace``; they were not imported.
    live : bool
        Whether the model was live; its weights are then those that it uses at inference.
    error : str or None
        Reason why nothing was measured; then there are no rows.
    assume_stored : tuple of str
        Patterns of kernels that, as the user states, are used as they are stored.
    ignore : tuple of str
        Patterns of arrays that, as the user states, no layer uses.
    attention : tuple of LogitRow
        The largest logits of attention layers, if requested.
    """

    version: str
    model: str | None
    layers: tuple[Row, ...]
    skipped: tuple[str, ...]
    network: NetworkBound | None = None
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)
    unmeasured: tuple[Row, ...] = ()
    left_out: int = 0
    certificate: Certificate | None = None
    without_claim: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    inert: tuple[str, ...] = ()
    live: bool = False
    error: str | None = None
    assume_stored: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    attention: tuple[LogitRow, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """Counts and extremes over the layers that were measured."""
        measured = [row for row in self.layers if row.status == "ok"]
        summary: dict[str, Any] = {
            "layers": len(self.layers),
            "conv": sum(row.kind == "conv" for row in self.layers),
            "linear": sum(row.kind == "linear" for row in self.layers),
            "errors": len(self.layers) - len(measured),
            "skipped": len(self.skipped),
        }
        others = {
            "unmeasured": [
                {"name": row.name, "shape": list(row.shape), "reason": row.reason} for row in self.unmeasured
            ],
            "inert": list(self.inert),
            "weights": "as at inference" if self.live else "",
            "left_out": self.left_out,
            "assume_stored": list(self.assume_stored),
            "ignore": list(self.ignore),
        }
        summary |= {name: value for name, value in others.items() if value}
        largest = max(measured, key=lambda row: row.upper, default=None)
        summary["max_lower"] = max((row.lower for row in measured), default=None)
        summary["max_upper"] = None if largest is None else largest.upper
        summary["max_upper_layer"] = None if largest is None else largest.name
        summary["network"] = None if self.network is None else self.network.to_dict()
        return summary

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``--format json`` writes them."""
        data: dict[str, Any] = {"version": self.version, "model": self.model, "verdict": verdict(self)}
        if self.error is not None:
            data["error"] = self.error
        data["layers"] = [row.to_dict() for row in self.layers]
        if self.attention:
            data["attention"] = [row.to_dict() for row in self.attention]
        data["summary"] = self.summary
        data["gates"] = [gate.to_dict() for gate in self.gates]
        return data

    def __repr__(self) -> str:
        """One line: the model, and what is proven of it."""
        model = "" if self.model is None else f"{visible(self.model)}: "
        return f"<Report {model}{verdict(self)}>"

    def __str__(self) -> str:
        """The table that ``--format table`` prints."""
        title = [] if self.model is None else [visible(self.model)]
        table = [*tables.lines(self.layers), ""] if self.layers else []
        return "\n".join([*title, verdict(self), "", *table, *notes(self)]).rstrip("\n") + "\n"

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        below = "<br>".join(escape(line) for line in notes(self))
        from specnorm_networks.tools import html_table  # with networks, which few reports need

        return f"<p>{escape(verdict(self))}</p>{html_table(tables.texts(self.layers))}<p>{below}</p>"

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`, with the columns of ``--format csv``."""
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise ImportError("Report.to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame([row.to_dict() for row in self.layers])


def environment(used: Iterable[backends.Backend] = ()) -> dict[str, str]:
    """Return date, versions and platform of this run; ``used`` are the backends that measured, besides NumPy's."""
    versions = {backend.name: str(backend.version()) for backend in (backends.load("numpy"), *used)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "Python": platform.python_version(),
        **dict(sorted(versions.items())),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def verdict(report: Report) -> str:
    """Say what a report proves, in one sentence: of how many layers, the largest norm, the network's constant."""
    rows = report.layers
    if report.error is not None:
        return f"Error: {visible(report.error)}"
    if not rows:
        return "No layer was measured."
    measured = [row for row in rows if row.status == "ok"]
    left_out = f" ({report.left_out} more left out)" if report.left_out else ""
    if not measured:
        none = f"None of {counted(len(rows), 'layer')} was measured{left_out}"
        return f"{none}." if report.network is None else f"{none}; {_constant_in_words(report.network)}."
    proven = f"{len(measured)} of {counted(len(rows), 'layer')} proven{left_out}"
    of = "" if len(measured) == len(rows) else " of these"
    largest = f"the largest norm{of} is at most {number(report.summary['max_upper'], 'upper')}"
    network = "" if report.network is None else f", {_constant_in_words(report.network)}"
    return f"{proven}: {largest}{network}."


def _constant_in_words(network: NetworkBound) -> str:
    """Say what is proven of a network."""
    if network.upper is None:
        return "no constant of the network"
    if math.isinf(network.upper):
        return network.infinite  # a sentence
    return f"the network's constant is at most {number(network.upper, 'upper')}"


def notes(report: Report) -> list[str]:
    """Return the lines beneath a table: gates, summary, promises, assumptions, errors. The caller escapes markup."""
    if report.error is not None:
        return []
    lines = [f"{gate.option}: {visible(' '.join((gate.sentence, *gate.places)))}" for gate in report.gates]
    lines += _counted(report)
    if report.summary["max_upper_layer"] is not None:
        lines.append(_largest(report.summary))
        promises = tables.promises(report.layers).items()
        columns = "; ".join(f"{name}: {tables.PROMISES_IN_WORDS[kind]}" for name, kind in promises)
        proven = f"lower and upper are proven, {tables.sizes_in_words(report.layers)}."
        lines.append(f"{proven} {columns}.".removesuffix(" ."))
    if report.live:
        lines.append("Weights are those that the model uses at inference (in eval()), whatever mode it is in.")
    lines += tables.assumptions(report.layers)
    if report.network is not None:
        lines += report.network.lines()
    lines += _attention(report)
    refused = _shared((row.name, row.reason) for row in report.layers if row.reason is not None)
    lines += [f"{tables.some(names)}: error: {visible(reason)}" for names, reason in refused]
    for patterns, use in (
        (report.assume_stored, "Used as they are stored, as the user states, whatever is beside them"),
        (report.ignore, "Used by no layer, as the user states"),
    ):
        if patterns:
            lines.append(f"{use}: {', '.join(map(visible, patterns))}")
    remarks = [(row.name, note) for row in report.layers for note in (row.note, row.unsettled) if note is not None]
    for names, note in _shared(remarks):
        lines.append(f"{tables.some(names)}: {visible(note).rstrip('.')}.")
    return lines


def _attention(report: Report) -> list[str]:
    """Say how large the logits of each attention layer can be."""
    if not report.attention:
        return []
    lines = ["Attention: logits are proven to be at most, over all tokens that the norm before a layer can give:"]
    for row in report.attention:
        if row.status == "error":
            lines.append(f"  {visible(row.name)}: error: {visible(str(row.reason or 'the bound is infinite'))}")
            continue
        largest, head = row.largest
        of = f"head {head} of {row.heads}" if len(row.upper) > 1 or row.heads == 1 else "each head"
        where = f", {row.offsets}" if row.offsets else ""
        lines.append(f"  {visible(row.name)}: {number(largest, 'upper')} ({of}{where})")
    return lines


def _shared(reasons: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Return names of layers with the reason that they share, in which what stands beside them has its last words."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, reason in reasons:
        scope = name[: max(name.rfind("."), name.rfind("/")) + 1]
        groups.setdefault(reason.removeprefix(scope), []).append((name, reason))
    return [
        ([name for name, _ in group], shared if len(group) > 1 else group[0][1]) for shared, group in groups.items()
    ]


def _counted(report: Report) -> list[str]:
    """Say how many layers were measured, and which arrays were not."""
    summary = report.summary
    layers = f"{counted(summary['layers'], 'layer')} ({summary['conv']} conv, {summary['linear']} linear)"
    errors = counted(summary["errors"], "error")
    skipped = f"{counted(len(report.skipped), 'other array')} skipped"
    if report.skipped:
        skipped += f": {tables.some(report.skipped)}"
    lines = [f"{layers}, {errors}; {skipped}."]
    if report.inert:
        names = tables.some(report.inert)
        lines.append(f"The file's pickle names {names}, of which nothing was constructed.")
    for reason in dict.fromkeys(row.reason for row in report.unmeasured):
        names = ", ".join(visible(row.name) for row in report.unmeasured if row.reason == reason)
        lines.append(f"Not measured: {names}: {visible(str(reason))}")
    return lines


def _largest(summary: Mapping[str, Any]) -> str:
    """Say between which numbers the largest norm is."""
    upper = number(summary["max_upper"], "upper")
    lower = number(summary["max_lower"], "lower")
    of = " of the measured layers" if summary["errors"] else ""
    return f"Largest norm{of}: at most {upper} ({visible(summary['max_upper_layer'])}), at least {lower}."


# -- gates: whether the layers, or the network, are proven to stay within a bound --------------------------------------
def gate_layers(report: Report, bound: float) -> Gate:
    """Judge whether all norms are proven to be at most ``bound``.

    The gate is undecided if all measured norms are, but nothing is known of other layers, or of arrays that could be
    layers.
    """
    return _gate(report, "--fail-above", bound, "a norm of at most", _against, None)


_OF_COLUMNS: dict[str, tuple[str, str, Callable[[float, float], bool], str]] = {
    "smallest": ("--fail-below", "a smallest singular value of at least", operator.ge, "<"),
    "isometry": ("--fail-isometry", "an isometry defect of at most", operator.le, ">"),
}
"""Gates on a column: option, what is wanted, whether a number keeps a bound, and the sign where it does not."""


def gate_column(report: Report, bound: float, column: str) -> Gate:
    """Judge whether all numbers of a column of `_OF_COLUMNS` are proven to keep a bound; undecided as `gate_layers`."""
    option, wanted, keeps, sign = _OF_COLUMNS[column]

    def against(row: Row, bound: float) -> str | None:
        value = row.values.get(column)
        if row.status != "ok" or not isinstance(value, float) or keeps(value, bound):
            return None
        return f"{row.name}: {column} = {value!r} {sign} {bound!r}: not proven"

    return _gate(report, option, bound, wanted, against, column)


def _gate(
    report: Report,
    option: str,
    bound: float,
    wanted: str,
    against: Callable[[Row, float], str | None],
    value: str | None,
) -> Gate:
    """Judge whether every layer is proven to have what is wanted.

    Parameters
    ----------
    against : callable
        ``against(row, bound)`` returns a line that says how a row contradicts the bound, or None.
    value : str, optional
        Column that has to be known; None: both ends of the norm.
    """
    option, wanted = f"{option} {bound!r}", f"{wanted} {bound!r}"
    if report.error is not None:
        return Gate(option, bound, "undecided", "no layer was measured.")
    places = [*filter(None, (against(row, bound) for row in report.layers))]
    unknown = _unknown(report, value)
    if places:
        verb = "is" if len(places) == 1 else "are"
        reason = f"{len(places)} of {counted(len(report.layers), 'layer')} {verb} not proven to have {wanted}:"
        return Gate(option, bound, "failed", reason, (*places, *unknown))
    if unknown:
        verb = "leaves" if len(unknown) == 1 else "leave"
        advice = (
            "name the layers by --layers, what is used as stored by --assume-stored, what no layer uses by --ignore"
        )
        reason = f"{counted(len(unknown), 'array')} {verb} it open; {advice}:"
        return Gate(option, bound, "undecided", reason, unknown)
    chosen = f", {report.left_out} more left out," if report.left_out else ""
    layers = "the layer" if len(report.layers) == 1 else f"each of {counted(len(report.layers), 'layer')}"
    reason = f"{layers}{chosen} is proven to have {wanted}, as assumed."
    return Gate(option, bound, "passed", reason)


def _unknown(report: Report, value: str | None) -> tuple[str, ...]:
    """Return a line for each array that is, or could be, a layer and of which the value of a gate is not known."""
    lines = [
        f"{', '.join(names)}: error: {reason}"
        for names, reason in _shared((row.name, row.reason or "its bounds are no numbers") for row in report.layers
                                     if row.status != "ok")
    ]  # fmt: skip
    for row in report.layers:
        if row.status == "ok" and value is not None and not isinstance(row.values.get(value), float):
            lines.append(f"{row.name}: {row.note or f'no {value} is known'}")
    others = [(row.name, row.unsettled) for row in report.layers if row.status == "ok" and row.unsettled]
    others += [(row.name, str(row.reason)) for row in report.unmeasured]
    lines += [f"{', '.join(names)}: {reason}" for names, reason in _shared(others)]
    return tuple(lines)


def _against(row: Row, bound: float) -> str | None:
    """Return why a row's norm is not proven to be at most a bound, or None."""
    if row.lower is not None and bound < row.lower < math.inf:
        as_assumed = ", as assumed" if row.assumed else ""
        return f"{row.name}: lower = {row.lower!r} > {bound!r}: the norm is above it{as_assumed}"
    if row.status == "ok" and row.upper is not None and row.upper > bound:
        interval = f"upper = {row.upper!r} > {bound!r}, lower = {row.lower!r}"
        advice = f"give a longer --budget, or a bound of at least {row.upper!r}"
        return f"{row.name}: {interval}: not proven; {row.note or advice}"
    return None


def gate_network(report: Report, bound: float) -> Gate:
    """Judge whether the network's constant is proven to be at most ``bound``.

    The gate is undecided if the network has no bound, or if its graph could not be compared with the values that the
    file computes.
    """
    option = f"--fail-above-network {bound!r}"
    network = report.network
    if report.error is not None:
        return Gate(option, bound, "undecided", "the network was not measured.")
    wanted = f"proven to have a constant of at most {bound!r}"
    claim = f"the network is not {wanted}"
    if network is None or network.upper is None or math.isinf(network.upper):
        if network is None:
            why = "--layers chose a part of it" if report.left_out else "the file holds no graph, so give an ONNX file"
        else:
            why = network.unknown[0].reason if network.upper is None else network.infinite
        return Gate(option, bound, "undecided", f"{claim}: {why}.")
    constant = f"its constant is at most {number(network.upper, 'upper')}"
    if network.upper > bound:
        advice = "by a short search; specnorm_networks.network_bound searches longer"
        return Gate(option, bound, "failed", f"{claim}: {constant}, {advice}.")
    if not network.checked.complete:
        reason = f"the network's gate is not decided: {constant} as it was read. {network.checked}"
        return Gate(option, bound, "undecided", reason)
    return Gate(option, bound, "passed", f"the network is {wanted}: {constant}.")


GATES: dict[str, Callable[[Report, float], Gate]] = {
    "fail_above": gate_layers,
    "fail_above_network": gate_network,
    "fail_below": partial(gate_column, column="smallest"),
    "fail_isometry": partial(gate_column, column="isometry"),
}
"""Functions that judge a report, by the options of the command, as Python spells these."""


def gates_of(report: Report, bounds: Mapping[str, float | None]) -> tuple[Gate, ...]:
    """Judge the gates of `GATES` that have a bound; None: the gate is not asked for."""
    asked = {option: bound for option, bound in bounds.items() if bound is not None}
    return tuple(judge(report, asked[option]) for option, judge in GATES.items() if option in asked)
