"""Reports -> matplotlib figures, and figures -> bytes. Neither pyplot nor the user's style has a part in it."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.proof import install, visible
from specnorm_audit.report import Report
from specnorm_audit.rows import CIRCULAR
from specnorm_audit.tables import columns, promises

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
NEEDS = f"plots need matplotlib: {install('plot')}"

COLOURS = {
    "ink": "#1b1f24", "muted": "#667085", "line": "#d5d9e0", "paper": "#fefefe", "proven": "#0a58a8",
    "tn": "#c2500a", "f4": "#8a6d00", "reshaped": "#a0307a", "other": "#2f7d4f",
}  # fmt: skip
"""By role."""

_MARKERS = {"tn": "o", "f4": "D", "reshaped": "<", CIRCULAR: "x"}
_PROVEN = "lower to upper (proven)"
_WIDTH = 7.6
_TOP, _PITCH, _TALLEST = 1.0, 0.2, 90.0
"""Inches: what a panel needs besides its rows, for a row, and for all of them at most."""
_LEAST = 1e-200
"""Numbers from here to its inverse are drawn: with more, matplotlib's ticks overflow."""
_NAME = 40
"""Characters of a layer's name on the axis: its end, in which names differ."""
_STYLE: Any = {
    "font.family": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold",
    "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"], "axes.edgecolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"], "ytick.color": COLOURS["muted"], "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"], "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.8, "grid.color": COLOURS["line"], "grid.linewidth": 0.6, "text.parse_math": False,
    "axes.unicode_minus": True, "svg.fonttype": "none", "svg.hashsalt": "specnorm", "savefig.dpi": 150,
}  # fmt: skip


def check_plot(path: Path) -> None:
    """Refuse what could not be drawn, before hours of measuring: by ValueError, or ImportError of matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path.name} ends in neither {' nor '.join(SUFFIXES)}, which says what to draw")
    if not installed():
        raise ImportError(NEEDS)


def installed() -> bool:
    """Whether there is a matplotlib to draw with."""
    return find_spec("matplotlib") is not None


def draw(reports: Sequence[Report], kind: str) -> bytes:
    """The plot of `intervals` as a file, "png" or "svg": the same for the same reports and the same matplotlib."""
    check_plot(Path(f"plot.{kind}"))
    return to_bytes(intervals(reports), kind)


def to_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as a file, "png" or "svg", without a date in it."""
    file = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with style():
        figure.savefig(file, format=kind, metadata=metadata)
    return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and ours on them, whatever matplotlibrc says (it could send names to LaTeX)."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # drawn as a box
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def intervals(reports: Sequence[Report]) -> Figure:
    """Proven interval of every layer and what the methods say, on a logarithmic axis; one panel a model.

    Returns
    -------
    Figure
        Groups in SVG carry ids: ``m0-interval``, ``m0-tn`` and so on, with one element a mark in the rows' order.
    """
    from matplotlib.figure import Figure

    counts = [max(len(report.layers), 1) for report in reports]
    pitch = min(_PITCH, _TALLEST / sum(counts))
    heights = [_TOP + pitch * n for n in counts]
    with style():
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        panels = figure.subplots(len(reports), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for position, (axes, report) in enumerate(zip(panels, reports, strict=True)):
            _panel(axes, report, f"m{position}", pitch)
            if len(reports) > 1:
                axes.set_title(visible(report.model or "a mapping of arrays")[-2 * _NAME :], loc="left")
        low, high = panels[0].get_xlim()
        panels[0].set_xlim(low / 1.02, high * 1.02)  # of all panels: a norm that is known to all digits has a width
        marks = {label: mark for axes in panels for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(marks.values(), marks.keys(), loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, report: Report, name: str, pitch: float) -> None:
    from matplotlib.ticker import LogLocator

    rows = report.layers
    labelled = range(0, len(rows), max(1, math.ceil(0.16 / pitch)))
    axes.set_yticks(list(labelled), [f"{visible(rows[i].name)[-_NAME:]}  #{i + 1}" for i in labelled], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", which="both", labelbottom=True)
    axes.grid(axis="x", which="both")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=9))
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5), numticks=3))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("spectral norm, logarithmic")
    bars = [(i, row.lower, row.upper) for i, row in enumerate(rows) if _is_drawn(row.lower) and _is_drawn(row.upper)]
    at, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    lines = axes.hlines(at, low, high, color=COLOURS["proven"], linewidth=4.5, zorder=3, label=_PROVEN)
    lines.set_gid(f"{name}-interval")
    # Most intervals are narrower than a pixel: their ends are drawn, too.
    axes.plot(
        [*low, *high], [*at, *at], linestyle="none", marker="|", markersize=9, markeredgewidth=1.4,
        color=COLOURS["proven"], zorder=4, gid=f"{name}-ends",
    )  # fmt: skip
    kinds = promises(rows)
    for column in columns(rows):
        said: list[Any] = [row.values.get(column) for row in rows]
        marks = [(x, i) for i, value in enumerate(said) for x in np.ravel(value) if _is_drawn(x)]
        axes.plot(
            [x for x, _ in marks], [i for _, i in marks], linestyle="none", marker=_MARKERS.get(column, "s"),
            markersize=5.2, markerfacecolor=COLOURS["paper"], markeredgewidth=1.2,
            color=COLOURS.get(column, COLOURS["other"]), zorder=2, gid=f"{name}-{column}",
            label=f"{column} ({kinds.get(column, 'not measured')})",
        )  # fmt: skip


def _is_drawn(x: float | None) -> bool:
    """Whether a logarithmic axis can show a number."""
    return x is not None and _LEAST <= x <= 1 / _LEAST
