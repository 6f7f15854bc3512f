"""Draw reports as matplotlib figures, and write figures as bytes, without pyplot and without the user's style."""

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
"""Colors by their use."""

_MARKERS = {"tn": "o", "f4": "D", "reshaped": "<", CIRCULAR: "x"}
_PROVEN = "lower to upper (proven)"
_WIDTH = 7.6
"""Width of a figure in inches."""
_HEIGHT_WITHOUT_ROWS = 1.0
"""Height in inches of a panel without its rows."""
_PITCH = 0.2
"""Largest height in inches of a row."""
_LABEL_PITCH = 0.16
"""Smallest distance in inches of two labels of rows; if rows are closer, only some have a label."""
_TALLEST = 90.0
"""Largest height in inches of all rows together."""
_LEAST = 1e-200
"""Smallest number that is drawn; its inverse is the largest one. Matplotlib's ticks overflow with others."""
_NAME = 40
"""Largest number of characters of a layer's name on the axis. The end is kept, in which names differ."""
_STYLE: Any = {
    "font.family": ["DejaVu Sans"], "font.size": 9, "axes.titlesize": 9, "axes.titleweight": "bold",
    "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"], "axes.edgecolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"], "ytick.color": COLOURS["muted"], "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"], "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.8, "grid.color": COLOURS["line"], "grid.linewidth": 0.6, "text.parse_math": False,
    "axes.unicode_minus": True, "svg.fonttype": "none", "svg.hashsalt": "specnorm", "savefig.dpi": 150,
}  # fmt: skip


def check_plot(path: Path) -> None:
    """Refuse a plot that could not be drawn, before hours of measuring.

    Raises
    ------
    ValueError
        If the suffix is unknown.
    ImportError
        If matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path.name} ends in neither {' nor '.join(SUFFIXES)}, which says what to draw")
    if not installed():
        raise ImportError(NEEDS)


def installed() -> bool:
    """Whether there is a matplotlib to draw with."""
    return find_spec("matplotlib") is not None


def draw(reports: Sequence[Report], kind: str) -> bytes:
    """Return the plot of `intervals` as the bytes of a "png" or "svg".

    The bytes are the same for the same reports and the same version of matplotlib.
    """
    check_plot(Path(f"plot.{kind}"))
    return to_bytes(intervals(reports), kind)


def to_bytes(figure: Figure, kind: str) -> bytes:
    """Return a figure as the bytes of a "png" or "svg", without a date."""
    file = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    with style():
        figure.savefig(file, format=kind, metadata=metadata)
    return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Use matplotlib's defaults with `_STYLE`, in place of the user's matplotlibrc, which could send names to LaTeX."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # drawn as a box
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def intervals(reports: Sequence[Report]) -> Figure:
    """Draw the proven interval of every layer and the methods' numbers on a logarithmic axis; one panel a model.

    Returns
    -------
    Figure
        In SVG the groups have the ids ``m0-interval``, ``m0-tn`` and so on; a group has one element for each mark, in
        the order of the rows.
    """
    from matplotlib.figure import Figure

    counts = [max(len(report.layers), 1) for report in reports]
    pitch = min(_PITCH, _TALLEST / sum(counts))
    heights = [_HEIGHT_WITHOUT_ROWS + pitch * n for n in counts]
    with style():
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        panels = figure.subplots(len(reports), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for position, (axes, report) in enumerate(zip(panels, reports, strict=True)):
            _panel(axes, report, f"m{position}", pitch)
            if len(reports) > 1:
                axes.set_title(visible(report.model or "a mapping of arrays")[-2 * _NAME :], loc="left")
        low, high = panels[0].get_xlim()
        # The panels share this axis. Without a margin, it would have no width for a norm that is known exactly.
        panels[0].set_xlim(low / 1.02, high * 1.02)
        marks: dict[str, Any] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            marks |= dict(zip(labels, handles, strict=True))
        figure.legend(list(marks.values()), list(marks), loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, report: Report, id_prefix: str, pitch: float) -> None:
    """Draw one report; ``id_prefix`` begins the ids of its groups, ``pitch`` is the height of a row in inches."""
    from matplotlib.ticker import LogLocator

    rows = report.layers
    labelled = range(0, len(rows), max(1, math.ceil(_LABEL_PITCH / pitch)))
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
    positions, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    lines = axes.hlines(positions, low, high, color=COLOURS["proven"], linewidth=4.5, zorder=3, label=_PROVEN)
    lines.set_gid(f"{id_prefix}-interval")
    # Most intervals are narrower than a pixel: their ends are drawn, too.
    axes.plot(
        [*low, *high], [*positions, *positions], linestyle="none", marker="|", markersize=9, markeredgewidth=1.4,
        color=COLOURS["proven"], zorder=4, gid=f"{id_prefix}-ends",
    )  # fmt: skip
    kinds = promises(rows)
    for column in columns(rows):
        numbers: list[float] = []
        rows_of_numbers: list[int] = []
        for position, row in enumerate(rows):
            value: Any = row.values.get(column)
            for x in np.ravel(value):
                if _is_drawn(x):
                    numbers.append(x)
                    rows_of_numbers.append(position)
        axes.plot(
            numbers, rows_of_numbers, linestyle="none", marker=_MARKERS.get(column, "s"),
            markersize=5.2, markerfacecolor=COLOURS["paper"], markeredgewidth=1.2,
            color=COLOURS.get(column, COLOURS["other"]), zorder=2, gid=f"{id_prefix}-{column}",
            label=f"{column} ({kinds.get(column, 'not measured')})",
        )  # fmt: skip


def _is_drawn(x: float | None) -> bool:
    """Whether a logarithmic axis can show a number."""
    return x is not None and _LEAST <= x <= 1 / _LEAST
