"""Certified accuracy as text, and as a curve: shares and radii rounded down, distances of attacks up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import specnorm
from specnorm.proof import number, visible
from specnorm_audit import plots, tables
from specnorm_audit.accuracy import Accuracy, Sample
from specnorm_audit.renderers import code, to_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("table", "json", "csv", "markdown")
_FIELDS = ("sample", "label", "predicted", "margin", "radius", "attacked")


def render(found: Accuracy, output_format: str) -> str:
    """One row a sample, and what is certified at each radius, in one of `FORMATS`; CSV has the samples alone."""
    if output_format == "json":
        return json.dumps(to_dict(found), indent=2, allow_nan=False) + "\n"
    if output_format == "csv":
        return to_csv([
            {**dict(zip(_FIELDS, (at, *map(_finite, vars(each).values())), strict=False)),
             **{f"at {radius!r}": status for radius, status in zip(found.radii, each.status, strict=True)}}
            for at, each in enumerate(found.samples)
        ])  # fmt: skip
    markdown = output_format == "markdown"
    title = [f"## {code(found.model)}, {code(found.data)}", ""] if markdown else []
    at = [f"at {radius:g}" for radius in found.radii]
    rows = [[*_cells(number, sample), *sample.status] for number, sample in enumerate(found.samples)]
    parts = [[*_lines([[*_FIELDS, *at], *rows], markdown), ""], _lines([_SUMMARY, *_summary(found)], markdown)]
    return "\n".join([*title, *verdict(found), "", *parts[0], *parts[1], ""])


def verdict(found: Accuracy) -> list[str]:
    """What is said above the table: one line a radius."""
    box = found.input_range
    place = "" if box is None else f", of inputs between {box[0]:g} and {box[1]:g}"
    place += "" if found.execution is None else f", executed in {found.execution}"
    return [
        f"Within {radius!r} (2-norm{place}), {safe} of {len(found.samples)} labels are proven to stay; "
        f"{unsafe} are wrong or changed by an input that was found; {left} are open."
        for radius, safe, unsafe, left in _counted(found)
    ]


def to_dict(found: Accuracy) -> dict[str, Any]:
    """As ``--format json`` writes it; what is not finite is None."""
    names = ("radius", "safe", "unsafe", "open")
    return {
        "version": specnorm.__version__,
        "model": visible(found.model),
        "data": visible(found.data),
        "input_range": found.input_range,
        "budget": _finite(found.budget),
        "execution": found.execution,
        "radii": [
            {**dict(zip(names, row, strict=True)), "certified": row[1] / len(found.samples)} for row in _counted(found)
        ],
        "samples": [
            {"sample": at, **{k: _finite(v) for k, v in vars(each).items()}, "status": list(each.status)}
            for at, each in enumerate(found.samples)
        ],
    }


def below(found: Accuracy, share: float | None) -> list[str]:
    """What to say of the radii at which a smaller share of labels is certified."""
    of = len(found.samples)
    return [
        f"--fail-below {share:g}: {safe} of {of} labels are certified at {radius!r}; {left} are open."
        for radius, safe, _, left in _counted(found)
        if share is not None and not safe / of >= share
    ]


def draw(found: Accuracy, kind: str) -> bytes:
    """The plot of `curve` as a file, "png" or "svg"."""
    return plots.to_bytes(curve(found), kind)


def curve(found: Accuracy) -> Figure:
    """Share of samples whose label is proven to stay within a radius, and share that no attack has reached.

    Returns
    -------
    Figure
        In SVG the lines are groups with the ids ``proven`` and ``attacked``.
    """
    from matplotlib.figure import Figure

    proven = np.array([each.radius for each in found.samples])
    attacked = np.array([np.inf if each.attacked is None else each.attacked for each in found.samples])
    known = [*found.radii, *proven[np.isfinite(proven)]]
    most = float(np.clip(1.05 * max(known) or 1.0, 1e-200, 1e200))  # what can be drawn
    with plots.style():
        figure = Figure(figsize=(7.6, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, values, until, colour, label in (
            ("attacked", attacked, max(found.radii), "reshaped", "not attacked"),
            ("proven", proven, most, "proven", "proven"),
        ):
            places = np.unique(np.concatenate([[0.0], values[values < until], [min(until, most)]]))
            share = [float(np.mean(values > place)) for place in places]
            colour = plots.COLOURS[colour]
            axes.step(places, share, where="post", color=colour, linewidth=1.8, label=label, gid=name)
        safe = [each / len(found.samples) for each in found.count("safe")]
        axes.plot(found.radii, safe, linestyle="none", marker="o", color=plots.COLOURS["proven"], gid="radii")
        axes.set_xlim(0, most)
        axes.set_ylim(0, 1.02)
        axes.grid()
        axes.set_xlabel("radius, 2-norm")
        axes.set_ylabel("share of samples")
        axes.legend(frameon=False)
    return figure


# -- helpers -----------------------------------------------------------------------------------------------------------
_SUMMARY = ["radius", "safe", "unsafe", "open", "certified"]


def _counted(found: Accuracy) -> list[tuple[float, int, int, int]]:
    counts = (found.count(status) for status in ("safe", "unsafe", "open"))
    return list(zip(found.radii, *counts, strict=True))


def _summary(found: Accuracy) -> list[list[str]]:
    rows = []
    for radius, *counts in _counted(found):
        share = 10_000 * counts[0] // len(found.samples)
        rows.append([f"{radius:g}", *map(str, counts), f"{share // 100}.{share % 100:02d} %"])
    return rows


def _cells(position: int, sample: Sample) -> list[str]:
    predicted = "-" if sample.predicted is None else str(sample.predicted)
    proven = number(sample.radius, "lower"), number(sample.attacked, "upper")
    return [str(position), str(sample.label), predicted, number(sample.margin), *proven]


def _lines(texts: Sequence[Sequence[str]], markdown: bool) -> list[str]:
    head, rule, *body = tables.aligned(texts, range(len(texts[0])))
    return [head, f"|{' ---: |' * len(texts[0])}" if markdown else rule, *body]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
