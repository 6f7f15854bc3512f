"""A network's numbers, one above the other on a logarithmic axis: what is proven, and what only claims to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.auditing.plots import COLOURS, is_drawn, log_axis, style
from specnorm.networks import NetworkBound
from specnorm.text import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP = "rungs"
"""Id of the marks in SVG."""


def rungs(bound: NetworkBound) -> list[tuple[str, float, bool]]:
    """Name of each number, itself, and whether it is proven; the largest first.

    Returns
    -------
    list of (str, float, bool)
        Those that a logarithmic axis can show. Layers together only where that is less than their product.
    """
    together = bound.upper if bound.runs else None
    named = [
        ("product of layers", bound.product if bound.product is not None else bound.upper, True),
        ("layers together", together, True),
        ("Miyato's heuristic", bound.heuristic, False),
    ]
    known = [(name, value, proven) for name, value, proven in named if value is not None and is_drawn(value)]
    return sorted(known, key=lambda rung: -rung[1])


def ladder(bound: NetworkBound) -> Figure:
    """Draw them; full marks are proven.

    Returns
    -------
    Figure
        In SVG the marks are a group each, ``rungs-0`` and so on, in the order of `rungs`.
    """
    from matplotlib.figure import Figure

    steps = rungs(bound)
    with style():
        figure = Figure(figsize=(7.6, 0.7 + 0.3 * len(steps)), layout="constrained")
        axes = figure.subplots()
        log_axis([axes], [value for _, value, _ in steps], margin=0.12)
        axes.set_yticks(range(len(steps)), [name for name, _, _ in steps])
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("Lipschitz constant of the network, logarithmic")
        for at, (_, value, proven) in enumerate(steps):
            colour = COLOURS["proven" if proven else "reshaped"]
            (mark,) = axes.plot(
                [value], [at], linestyle="none", marker="o", markersize=7, color=colour,
                markerfacecolor=colour if proven else COLOURS["paper"],
            )  # fmt: skip
            mark.set_gid(f"{GROUP}-{at}")
            axes.annotate(
                number(value, "upper" if proven else "estimate"), (value, at), xytext=(7, 0),
                textcoords="offset points", va="center", fontsize=8,
            )  # fmt: skip
    return figure
