"""Pictures of docs/benchmarks, from the committed lines."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.facts import Row, read

Series = dict[str, dict[int, float]]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "specnorm",
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def write(folder: Path) -> None:
    """All pictures, beside the lines."""
    suite, price, curves = (read(folder / f"{name}.jsonl") for name in ("suite", "price-1", "sizes-curves"))
    draw(folder / "circular.svg", "n: inputs of n x n pixels", "seconds", circular(suite))
    draw(folder / "price.svg", "channels", "time over that of the estimate", proof(price))
    draw(folder / "sizes.svg", "input size n", "bound / norm - 1", excess(curves))


def circular(rows: list[Row]) -> dict[str, Series]:
    """Seconds against the size, a panel a width."""
    mine = [row for row in rows if row["section"] == "circular" and row["family"] == "trained-like"]
    panels = ("16 channels", "64 channels", "256 channels")
    names = ("rfft_svd", "conv_norm", "enclose 1e-3")
    return {
        panel: {
            name: medians(
                (row["n"], row.get("seconds")) for row in mine if (row["name"], row["contestant"]) == (panel, name)
            )
            for name in names
        }
        for panel in panels
    }


def proof(rows: list[Row]) -> dict[str, Series]:
    """What a proof takes over the textbook estimate, against the channels."""
    names = {"enclose": "enclose 1e-3", "tn_certified": "tn_bound, proven", "tn_estimate": "tn_bound, estimate"}
    return {
        family: {
            told: medians((row["shape"][0], row["ratio"].get(name)) for row in rows if row["family"] == family)
            for name, told in names.items()
        }
        for family in ("trained", "flat")
    }


def excess(rows: list[Row]) -> dict[str, Series]:
    """How far bounds of a layer with zero padding lie above its norm, against the size."""
    names = {"supremum": "supremum", "ring": "shortest circulant", "twisted": "best circulant", "upper": "enclose 1e-3"}
    return {
        model: {
            told: medians((row["n"], row[name] / row["true"] - 1) for row in rows if row["model"] == model)
            for name, told in names.items()
        }
        for model in dict.fromkeys(row["model"] for row in rows)
    }


def medians(points: Iterable[tuple[int, float | None]]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for x, y in points:
        if y is not None:
            found.setdefault(x, []).append(y)
    return {x: statistics.median(ys) for x, ys in sorted(found.items())}


def draw(path: Path, across: str, up: str, panels: dict[str, Series]) -> None:
    """Lines on logarithmic axes, a panel beside the other."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(panels) + 0.6, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (title, series) in zip(axes, panels.items(), strict=True):
            for (name, points), mark in zip(series.items(), "os^v", strict=False):
                ax.plot([*points], [*points.values()], marker=mark, markersize=4, linewidth=1.2, label=name)
            ax.set(xscale="log", yscale="log", xlabel=across, title=title)
            ticks = sorted({x for points in series.values() for x in points})
            ticks = ticks if len(ticks) < 8 else [x for x in ticks if x & (x - 1) == 0]
            ax.set_xticks(ticks, [str(x) for x in ticks], rotation=45)
            ax.minorticks_off()
            ax.yaxis.set_major_formatter(plain())
        axes[0].set_ylabel(up)
        axes[0].legend(fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def plain() -> Callable[[float, int], str]:
    """Numbers as they are said: no powers of ten in the fonts of formulas."""
    return lambda value, _: f"{value:g}"
