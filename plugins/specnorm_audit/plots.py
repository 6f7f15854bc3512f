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

from specnorm.proof import install, visible
from specnorm_audit.report import Report
from specnorm_audit.rows import CIRCULAR, Row
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
"""Characters of a layer's name on the axis."""
_STYLE = {
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

    kept = ("backend", "interactive", "toolbar")
    settings: dict[Any, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(kept)}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # drawn as a box
        warnings.filterwarnings("ignore", category=matplotlib.MatplotlibDeprecationWarning)  # of their own defaults
        matplotlib.rcParams.update(settings | _STYLE)
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
    pitch = min(_PITCH, _TALLEST / max(sum(counts), 1))
    with style():
        figure = Figure(figsize=(_WIDTH, sum(_TOP + pitch * n for n in counts)), layout="constrained")
        ratios = [0.4 + pitch * n for n in counts]
        panels = figure.subplots(max(len(reports), 1), 1, squeeze=False, sharex=True, height_ratios=ratios or None)
        for position, (axes, report) in enumerate(zip(panels[:, 0], reports, strict=False)):
            _panel(axes, report, position, pitch, titled=len(reports) > 1)
        drawn = [x for report in reports for row in report.layers for x in _numbers(row) if is_drawn(x)]
        log_axis(list(panels[:, 0]), drawn)
        handles = {label: handle for axes in panels[:, 0] for handle, label in zip(
            *axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, report: Report, position: int, pitch: float, *, titled: bool) -> None:
    rows = report.layers
    labelled = range(0, len(rows), max(1, math.ceil(0.16 / pitch)))
    axes.set_yticks(list(labelled), [f"{shortened(rows[i].name, _NAME)}  #{i + 1}" for i in labelled], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("spectral norm, logarithmic")
    if titled:
        axes.set_title(shortened(report.model or "a mapping of arrays", 80), loc="left")
    bars = [
        (i, row.lower, row.upper)
        for i, row in enumerate(rows)
        if row.lower is not None and row.upper is not None and is_drawn(row.lower) and is_drawn(row.upper)
    ]
    lines = axes.hlines(
        [i for i, _, _ in bars], [low for _, low, _ in bars], [high for _, _, high in bars],
        color=COLOURS["proven"], linewidth=4.5, zorder=3, label=_PROVEN,
    )  # fmt: skip
    lines.set_gid(f"m{position}-interval")
    # Most intervals are narrower than a pixel: their ends are drawn, too.
    axes.plot(
        [x for _, *ends in bars for x in ends], [i for i, *_ in bars for _ in range(2)], linestyle="none", marker="|",
        markersize=9, markeredgewidth=1.4, color=COLOURS["proven"], zorder=4, gid=f"m{position}-ends",
    )  # fmt: skip
    kinds = promises(rows)
    for column in columns(rows):
        marks = [(x, i) for i, row in enumerate(rows) for x in _each(row.values.get(column)) if is_drawn(x)]
        axes.plot(
            [x for x, _ in marks], [i for _, i in marks], linestyle="none", marker=_MARKERS.get(column, "s"),
            markersize=5.2, markerfacecolor=COLOURS["paper"], markeredgewidth=1.2,
            color=COLOURS.get(column, COLOURS["other"]), zorder=2, gid=f"m{position}-{column}",
            label=f"{column} ({kinds.get(column, 'not measured')})",
        )  # fmt: skip
    for i, row in enumerate(rows):
        if word := _instead(row):
            axes.annotate(
                word, (0, i), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=8, color=COLOURS["reshaped"] if row.reason else COLOURS["muted"], zorder=5,
            )  # fmt: skip


def _instead(row: Row) -> str:
    """What stands for a bar that a logarithmic axis cannot show."""
    if row.reason is not None:
        return "error"
    if row.lower is None or row.upper is None or (is_drawn(row.lower) and is_drawn(row.upper)):
        return ""
    return "0" if row.upper == 0 else f"{row.lower:g} to {row.upper:g}"


def log_axis(panels: Sequence[Axes], values: Sequence[float]) -> None:
    """Limits and ticks for whatever there is to show: nothing, one value, 600 decades; labels are plain text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = (min(values), max(values)) if values else (0.1, 10.0)
    pad = max(0.04 * (math.log10(high) - math.log10(low)), 0.02)
    low, high = low / 10**pad, high * 10**pad
    decades = math.log10(high) - math.log10(low)
    subs = (1, 2, 3, 4, 5, 6, 8) if decades < 1.2 else (1, 2, 5) if decades < 2.5 else (1,)
    locator: Any = MaxNLocator(6) if decades < 0.6 else LogLocator(subs=subs, numticks=9 if decades >= 2.5 else None)
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def shortened(name: str, length: int) -> str:
    """A name for an axis, of ``length`` characters at most: what does not print as escapes, the middle left out."""
    shown = visible(name)
    if len(shown) <= length:
        return shown
    end = (length - 1) * 2 // 3  # names differ in their last parts
    return f"{shown[: length - 1 - end]}…{shown[-end:]}"


def is_drawn(x: float) -> bool:
    """Whether a logarithmic axis can show a number."""
    return _LEAST <= x <= 1 / _LEAST


def _each(value: Any) -> tuple[float, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _numbers(row: Row) -> list[float]:
    bounds = [x for x in (row.lower, row.upper) if x is not None]
    return [*bounds, *(x for value in row.values.values() for x in _each(value))]
