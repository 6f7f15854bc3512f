"""docs/benchmarks/sizes.md and its picture, from the committed lines: before, after, and the norm against n."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from real_weights import MODELS

from bench.page import save, table
from bench.sizes import RTOL, read

Row = dict[str, Any]
NOTES = Path(__file__).with_name("sizes_notes.md")
"""What was tried where an aim is missed: written by hand, and put at the end."""


def write(folder: Path) -> None:
    before, after = (read(folder / f"sizes-{when}.jsonl") for when in ("before", "after"))
    curves = read(folder / "sizes-curves.jsonl")
    picture(curves, folder)
    parts = [head(after), whole(before, after), models(before, after), wide(after), two(before, after), against(curves)]
    if NOTES.exists():
        parts.append(NOTES.read_text(encoding="utf-8"))
    parts.append(measured(before, after, curves))
    (folder / "sizes.md").write_text("\n\n".join(part.rstrip() for part in parts) + "\n", encoding="utf-8")


# -- figures ---------------------------------------------------------------------------------------------------------
def layers(rows: list[Row], model: str | None = None) -> list[Row]:
    return [row for row in rows if row["model"] != "aims" and model in (None, row["model"])]


def gaps(rows: list[Row]) -> list[float]:
    """Of upper and lower bound; where nothing was proven in time, infinite."""
    return [row["at_size"].get("gap", float("inf")) for row in rows]


def within(rows: list[Row], gap: float) -> int:
    return sum(x <= gap * (1 + 1e-9) for x in gaps(rows))


def seconds(rows: list[Row], key: str) -> float:
    """Processor time; a layer that ran out of it counts with its limit, one that ran out of memory not at all."""
    late = (row["limit"] if "not within" in row[key].get("ended", "") else 0.0 for row in rows)
    return float(sum(row[key].get("processor", limit) for row, limit in zip(rows, late, strict=True)))


def not_ended(rows: list[Row]) -> int:
    return sum("ended" in row["at_size"] for row in rows)


def beyond(rows: list[Row]) -> float:
    """Largest memory beyond the kernel, MiB."""
    return max((((row["at_size"].get("peak_bytes") or 0) - row["kernel_bytes"]) / 2**20 for row in rows), default=0.0)


def said(gap: float) -> str:
    return f"{gap:.1e}" if gap < float("inf") else "not proven"


# -- parts -----------------------------------------------------------------------------------------------------------
def head(after: list[Row]) -> str:
    return (
        "# Layers at their own size\n\n"
        f"`enclose` to {RTOL:g} of every convolution of the seven published models in `tests/data`, "
        f"{len(layers(after))} layers, with the stride, dilation, groups and zero padding that its network gives it, "
        "at the size that it has there, or 32 pixels an axis where that is not known. *Gap* is upper/lower - 1, both "
        "proven. *Before* is the "
        "library without rings, whose upper bound was the supremum over all sizes, or the layer's matrix, written out; "
        "[the method](../methods/enclosure.md) says what takes their place."
    )


def whole(before: list[Row], after: list[Row]) -> str:
    lines = []
    for word, rows in (("before", layers(before)), ("after", layers(after))):
        ended = not_ended(rows)
        lines.append([
            word, *(f"{within(rows, gap)} ({within(rows, gap) / len(rows):.0%})" for gap in (1e-3, 1e-2)),
            f"{len(rows) - ended - within(rows, 1e-2)}", str(ended), said(statistics.median(gaps(rows))),
            f"{seconds(rows, 'at_size'):.1f}", f"{seconds(rows, 'every_size'):.1f}", f"{beyond(rows):.0f}",
        ])  # fmt: skip
    header = [
        "", "gap at most 1e-3", "1e-2", "wider", "did not end", "median gap", "seconds at the size", "without",
        "most memory, MiB",
    ]  # fmt: skip
    return table(header, lines)


def models(before: list[Row], after: list[Row]) -> str:
    lines = []
    for model in MODELS:
        old, new = layers(before, model), layers(after, model)
        if new:
            price = seconds(new, "at_size") / max(seconds(new, "every_size"), 1e-9)
            lines.append([
                model, str(len(new)), *(f"{within(old, gap)}, {within(new, gap)}" for gap in (1e-3, 1e-2)),
                f"{said(statistics.median(gaps(old)))}, {said(statistics.median(gaps(new)))}",
                f"{seconds(old, 'at_size'):.1f}, {seconds(new, 'at_size'):.1f}",
                f"{seconds(new, 'every_size'):.1f}", f"{price:.1f}", f"{beyond(old):.0f}, {beyond(new):.0f}",
            ])  # fmt: skip
    header = [
        "model", "layers", "gap at most 1e-3", "1e-2", "median gap", "seconds at the size", "without", "times",
        "most memory, MiB",
    ]  # fmt: skip
    text = (
        "Before, after. Processor time of one thread, memory beyond the kernel. A layer that ran out of time counts "
        f"with its limit of {after[0]['limit']} s, one that ran out of memory not at all."
    )
    return f"## Model by model\n\n{text}\n\n" + table(header, lines)


def wide(after: list[Row]) -> str:
    lines: list[list[str]] = []
    ended: Counter[tuple[str, str]] = Counter()
    for row in layers(after):
        found = row["at_size"]
        if "ended" in found:
            ended[row["model"], found["ended"]] += 1
        elif found["gap"] > 1e-3 * (1 + 1e-9):
            shape, sizes = ("x".join(map(str, row[key])) for key in ("shape", "input_shape"))
            lines.append([
                row["model"], f"`{row['name'].removesuffix('.weight')}`", shape, sizes, str(max(row["dilation"])),
                str(max(row["stride"])), str(row["groups"]), said(found["gap"]), way(found["status"]),
            ])  # fmt: skip
    header = ["model", "layer", "kernel", "at", "dilation", "stride", "groups", "gap", "upper bound by"]
    parts = ["## Wider than asked", table(header, lines) if lines else "None."]
    if ended:
        told = (f"{count} of {model} ({why})" for (model, why), count in ended.items())
        parts.append("Layers that did not end: " + "; ".join(told) + ".")
    return "\n\n".join(parts)


def way(status: str) -> str:
    """Which way the upper bound was proven, from a status."""
    return next((part.removeprefix("by ") for part in status.split(", ") if part.startswith("by ")), "-")


def two(before: list[Row], after: list[Row]) -> str:
    lines = []
    for new in (row for row in after if row["model"] == "aims"):
        old = next(row for row in before if row["model"] == "aims" and row["name"] == new["name"])
        for word, row in (("before", old), ("after", new)):
            here, every = row["at_size"], row["every_size"]
            lines.append([
                new["name"], word, said(here.get("gap", float("inf"))),
                f"{here['processor']:.3f}" if "processor" in here else here["ended"], f"{every['processor']:.3f}",
                f"{here['processor'] / every['processor']:.1f}" if "processor" in here else "-",
                f"{(here.get('peak_bytes') or 0) / 2**20:.0f}",
            ])  # fmt: skip
    header = ["zero-padded layer", "", "gap", "seconds at the size", "without", "times", "memory, MiB"]
    return "## Two layers\n\n" + table(header, lines)


def against(curves: list[Row]) -> str:
    picked = (4, 8, 16, 32, 40)
    lines = [
        [
            row["model"], f"`{row['name']}`", str(row["n"]), f"{row['true']:.8f}",
            *(f"{row[key] / row['true'] - 1:.1e}" for key in ("supremum", "ring", "twisted", "upper")),
            f"{1 - row['lower'] / row['true']:.1e}",
        ]
        for row in curves if row["n"] in picked
    ]  # fmt: skip
    header = ["model", "layer", "n", "norm", "supremum", "ring", "twisted", "`enclose`: upper", "lower, below"]
    return (
        "## Against the size\n\nThe norm of three layers by Lanczos, to 1e-10, and how far above it lie: the supremum "
        "over all sizes; the shortest ring; the best of the four that multiply by 1 or -1 an axis; and what `enclose` "
        f"proves to {RTOL:g}, which also tries longer rings, takes the highest waves out of one, and stops where that "
        "is reached. None is ever below.\n\n"
        "![norm against n, and what bounds it](sizes.svg)\n\n" + table(header, lines)
    )


def measured(before: list[Row], after: list[Row], curves: list[Row]) -> str:
    old, new, curve = before[0], after[0], curves[0]
    return (
        "## How it was measured\n\nOne thread, every layer in a process of its own with limits on time and memory "
        f"(6 GiB); the fastest of three calls below a second. {new['machine']}, NumPy {new['versions']['numpy']}. "
        f"Before: {old['date']} at commit {old['commit']}; after: {new['date']} at commit {new['commit']}; the norm "
        f"against n: commit {curve['commit']}. Before, other programs ran. Processor time, not the clock's. Lines in "
        "[sizes-before.jsonl](sizes-before.jsonl), [sizes-after.jsonl](sizes-after.jsonl) and "
        "[sizes-curves.jsonl](sizes-curves.jsonl). In `tests`, `python -m bench.sizes run --out FILE` and `python -m "
        "bench.sizes curves --out FILE` measure them again, `python -m bench.sizes page` makes this page."
    )


# -- picture ---------------------------------------------------------------------------------------------------------
def picture(curves: list[Row], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"  # the same figures give the same file
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys((row["model"], row["name"]) for row in curves))
    styles = {
        "supremum": ("supremum of all sizes", "C3", "--"), "ring": ("ring", "C1", ":"),
        "twisted": ("twisted ring", "C0", "-"), "upper": ("enclose, upper bound", "C2", "-."),
    }  # fmt: skip
    figure, axes = plt.subplots(2, len(names), figsize=(4 * len(names), 6), sharex=True)
    for column, (model, name) in enumerate(names):
        rows = [row for row in curves if (row["model"], row["name"]) == (model, name)]
        n, true = [row["n"] for row in rows], [row["true"] for row in rows]
        top, bottom = axes[0][column], axes[1][column]
        top.plot(n, true, "k.", markersize=5, label="norm")
        for key, (label, colour, style) in styles.items():
            values = [row[key] for row in rows]
            top.plot(n, values, style, color=colour, label=label)
            above = [value / norm - 1 for value, norm in zip(values, true, strict=True)]
            bottom.semilogy(n, above, style, color=colour, label=label)
        shape = "x".join(map(str, rows[0]["shape"]))
        more = f", dilation {rows[0]['dilation']}" if rows[0]["dilation"] > 1 else ""
        top.set_title(f"{model}, {shape}{more}", fontsize=10)
        top.set_ylim(bottom=min(true) * 0.9, top=rows[0]["supremum"] * 1.04)
        bottom.set_xlabel("input size n")
    axes[0][0].set_ylabel("norm")
    axes[1][0].set_ylabel("bound / norm - 1")
    axes[0][-1].legend(fontsize=8, loc="lower right")
    save(figure, folder / "sizes.svg")
    plt.close("all")
