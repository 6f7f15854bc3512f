"""A network's bound as lines of text: numbers rounded up, the network's own words escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.text import number, visible

if TYPE_CHECKING:
    from specnorm.networks.answer import NetworkBound


def lines(bound: NetworkBound, *, nodes: bool = False) -> list[str]:
    """Text of a network's bound.

    Parameters
    ----------
    nodes : bool
        Whether every node is listed.
    """
    text: list[str] = []
    if nodes:
        rows = [("node", "operator", "rule", "factor", "upper", "heuristic", "layer")]
        rows += [
            (
                visible(s.name), visible(s.operator), visible(s.rule), number(s.factor, "upper"),
                number(s.upper, "upper"), number(s.heuristic), visible(s.layer or ""),
            )
            for s in bound.nodes
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        text += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows] + [""]
    box = {
        name: " in a given box" if ends is None else f" in [{_short(ends[0])}, {_short(ends[1])}]"
        for name, ends in bound.input_ranges.items()
    }
    shapes = ", ".join(
        f"{visible(name)}: "
        + ("any shape" if shape is None else "x".join(visible(str(n)) for n in shape))
        + box.get(name, "")
        for name, shape in bound.input_shapes.items()
    )
    for run in bound.runs:
        count = sum(map(len, run.layers))
        text.append(
            f"{count} layers from {visible(run.start)} to {visible(run.end)} together: at most "
            f"{number(run.upper, 'upper')}, proven; their product is {number(run.product, 'upper')}."
        )
    if bound.upper is not None:
        text.append(
            f"Network ({shapes}): Lipschitz constant at most {number(bound.upper, 'upper')}, proven"
            f"{'' if bound.radius is None else f' within {bound.radius!r} of the input given'}. "
            f"Miyato's heuristic would have claimed {number(bound.heuristic)}."
        )
        if bound.checked.reason or bound.checked.missed:
            text.append(str(bound.checked))
    else:
        text.append(f"Network ({shapes}): no bound, since it is unknown from {len(bound.unknown)} of its nodes on:")
        text += [
            f"  {visible(u.name)} ({visible(u.operator)}): {visible(u.reason)}; at most {number(u.before, 'upper')} up "
            "to there."
            for u in bound.unknown
        ]
        known = [(name, value) for name, value in bound.outputs.items() if value is not None]
        text += [f"  Output {visible(name)}: at most {number(value, 'upper')}, proven." for name, value in known]
    return text


def _short(end: float) -> str:
    """The very number."""
    return repr(float(end)).removesuffix(".0")
