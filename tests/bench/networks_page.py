"""docs/benchmarks/networks.md and its picture, from the committed lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.networks import LINES, NAMES, RADII, read
from bench.page import save, span, table

Row = dict[str, Any]
NOTES = Path(__file__).with_name("networks_notes.md")
"""What limits the figures: written by hand, and put at the end."""
PICTURE = "networks.svg"
TITLES = {
    "three": "three 3x3 convolutions of 8 channels, of [Whole networks](../networks.md)",
    "constrained": "eight 3x3 convolutions of 16 channels, trained to denoise a photograph with each kept at norm 1",
    "resnet20": "ResNet-20 for CIFAR-10: 19 convolutions, batch norm, shortcuts of option A, head",
    "dncnn25": "DnCNN: 17 convolutions, the noise in an image",
    "x - dncnn25": "x - DnCNN(x), the image without it",
    "rfb320": "face detector RFB-320: 52 convolutions, branches, softmax",
}
LADDER = (("below", "reached from below", "k", "o"), ("multipliers", "Multipliers", "C2", "s"),
          ("scaled", "Scaled", "C0", "^"), ("product", "Product", "C3", "v"))  # fmt: skip


def write(folder: Path) -> None:
    rows = read(folder / LINES)
    picture(rows, folder)
    parts = [head(rows), ladder(rows), f"![Each network's ladder]({PICTURE})", dense(rows)]
    if NOTES.exists():
        parts.append(NOTES.read_text(encoding="utf-8"))
    parts.append(measured(rows))
    (folder / "networks.md").write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


# -- figures ---------------------------------------------------------------------------------------------------------
def one(rows: list[Row], network: str, method: str) -> Row | None:
    """A line that ended."""
    found = [row for row in rows if (row["network"], row["method"]) == (network, method) and "ended" not in row]
    return found[0] if found else None


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1e3 else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def cost(row: Row | None) -> str:
    """Processor time, and memory beyond what is there before the call."""
    if row is None:
        return "-"
    return f"{quick(row['processor'])}, {max(0, row['peak'] - row['before']) / 2**20:.0f} MiB"


def quick(seconds: float) -> str:
    """As `span`; the clock of processor time ticks in milliseconds."""
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return span(seconds) if seconds >= 0.01 else "< 10 ms"


def shown(row: Row | None, product: Row | None) -> str:
    if row is None:
        return "-"
    if product is None or row is product:
        return number(row["value"])
    return f"{number(row['value'])} (1/{float(format(product['value'] / row['value'], '.3g')):,g})"


# -- parts -----------------------------------------------------------------------------------------------------------
def head(rows: list[Row]) -> str:
    said = {row["by"] for row in rows if row["method"] == "multipliers" and "by" in row}
    other = sorted(said - {"Multipliers(steps=100, seconds=60.0, widest=768)"})
    only = f" The face detector's search is cut short: `{other[0]}`." if other else ""
    return f"""# Whole networks

Proven Lipschitz constants of whole networks by the three methods of [`specnorm.networks`](../networks.md), and what
inputs reach: the largest |f(x + d) - f(x)| / |d| by gradient ascent from a photograph and from noise, and the norm of
the Jacobian there by power iterations, in float64. In parentheses: the part of the product.{only}"""


def ladder(rows: list[Row]) -> str:
    values, costs = [], []
    for name in NAMES:
        found = {method: one(rows, name, method) for method, *_ in LADDER}
        if found["product"] is None:
            continue
        proven = [shown(found[key], found["product"]) for key in ("product", "scaled", "multipliers")]
        values.append([TITLES[name], *proven, number(found["below"]["value"]) if found["below"] else "-"])
        costs.append([name, *(cost(found[key]) for key in ("product", "scaled", "multipliers"))])
    text = (
        "*-*: not measured, or not ended in time. Below, processor time of one thread, and how much the process grows "
        "by at most beyond what it held before (the interpreter, torch and the network, some 370 MiB). Each method "
        "computes the product too."
    )
    return (
        table(["network", "product", "scaled", "multipliers", "reached from below"], values)
        + f"\n{text}\n\n"
        + table(["", "product", "scaled", "multipliers"], costs)
    )


def dense(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if row["method"] != "dense" or "ended" in row:
            continue
        own, optimum = row["specnorm"], row.get("LipSDP")
        given, mended = row["ECLipsE"], row.get("ECLipsE, Clarabel")
        lines.append([
            row["network"], number(row["product"]["value"]), number(own["value"]), span(own["processor"]),
            number(row["ECLipsE_Fast"]["value"]), quick(row["ECLipsE_Fast"]["processor"]),
            "gave up" if given["fell_back"] else number(given["value"]), span(given["processor"]),
            *(["-", "-"] if mended is None or mended["fell_back"] else
              [number(mended["value"]), span(mended["processor"])]),
            f"{number(optimum['value'])} (+{own['value'] / optimum['value'] - 1:.1%})" if optimum else "-",
            *(number(each["value"]) for each in row.get("near", [])),
        ])  # fmt: skip
    text = (
        "Random fully connected ReLU networks, their widths from input to output, in float64; variance 1/width. "
        "`Multipliers()` beside PyPI's `eclipse-nn` on the same weights, each with its processor time, and LipSDP's "
        "optimum with a multiplier for each neuron, by Clarabel (in parentheses: how far specnorm is above it). "
        "specnorm's and the product are proven, rounding included; the others' are as floating point has them. *Gave "
        "up*: eclipse-nn's check of its solver (SCS) refused a layer, and it told ECLipsE-Fast's value instead; the "
        "column after it is the same program with Clarabel in place of SCS. *Local*: on the ball of radius r around "
        "one input of Gaussian noise, proven, in one to ten seconds; before it the norm of the Jacobian at that "
        "input."
    )
    header = [
        "widths",
        "product",
        "specnorm",
        "time",
        "ECLipsE-Fast",
        "time",
        "ECLipsE",
        "time",
        "with Clarabel",
        "time",
        "LipSDP",
        "Jacobian",
        *(f"local, r = {radius:g}" for radius in RADII),
    ]
    return f"## Dense networks\n\n{text}\n\n" + table(header, lines)


def measured(rows: list[Row]) -> str:
    def every(key: str) -> str:
        return ", ".join(sorted({str(row[key]) for row in rows}))

    latest = {key: version for row in rows for key, version in row["versions"].items()}
    versions = ", ".join(f"{key} {value}" for key, value in latest.items())
    return (
        f"Measured {every('date')}, commit {every('commit')}, {every('machine')}, one thread, other programs running; "
        f"{versions}. Lines in [{LINES}]({LINES}). `python -m bench.networks run` and `dense` in `tests` measure them "
        "again, `python -m bench.networks page` makes this page."
    )


def picture(rows: list[Row], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"
    import matplotlib.pyplot as plt

    names = [name for name in NAMES if one(rows, name, "product")]
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(names) + 1.4))
    for at, name in enumerate(reversed(names)):
        found = [(one(rows, name, method), colour, mark) for method, _, colour, mark in LADDER]
        values = [row["value"] for row, _, _ in found if row]
        axes.plot([min(values), max(values)], [at, at], "-", color="0.8", zorder=1)
        for row, colour, mark in found:
            if row:
                axes.plot([row["value"]], [at], mark, color=colour, markersize=7, zorder=2)
    for _, label, colour, mark in LADDER:
        axes.plot([], [], mark, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("Lipschitz constant")
    axes.grid(axis="x", color="0.92")
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save(figure, folder / PICTURE)
    plt.close("all")
