"""docs/benchmarks/networks.md and its picture, from the committed lines."""

from __future__ import annotations

from pathlib import Path

from bench.facts import FOLDER, Row, read
from bench.markdown import filled, measured, number, span, table

LINES, PAGE = "networks.jsonl", FOLDER / "networks.md"
TITLES = {
    "three": "three 3x3 convolutions of 8 channels, of [Whole networks](../networks.md)",
    "constrained": "eight 3x3 convolutions of 16 channels, trained to denoise a photograph with each kept at norm 1",
    "resnet20": "ResNet-20 for CIFAR-10: 19 convolutions, batch norm, shortcuts of option A, head",
    "dncnn25": "DnCNN: 17 convolutions, the noise in an image",
    "x - dncnn25": "x - DnCNN(x), the image without it",
    "rfb320": "face detector RFB-320: 52 convolutions, branches, softmax; multipliers cut short",
}
LADDER = (("product", "Product"), ("scaled", "Scaled"), ("multipliers", "Multipliers"), ("below", "reached from below"))


def write(folder: Path) -> None:
    rows = read(folder / LINES)
    values = [
        [told, *(shown(one(rows, name, method), one(rows, name, "product")) for method, _ in LADDER)]
        for name, told in TITLES.items()
    ]
    costs = [[name, *(cost(one(rows, name, method)) for method, _ in LADDER[:3])] for name in TITLES]
    made = {
        "values": table(["network", *(word for _, word in LADDER)], values), "dense": dense(rows),
        "costs": table(["", *(word for _, word in LADDER[:3])], costs), "measured": f"Measured {measured(rows)}.",
    }  # fmt: skip
    (folder / PAGE.name).write_text(filled(PAGE, made), encoding="utf-8")


def one(rows: list[Row], network: str, method: str) -> Row | None:
    """A line that ended."""
    found = (row for row in rows if (row["network"], row["method"]) == (network, method) and "ended" not in row)
    return next(found, None)


def cost(row: Row | None) -> str:
    """Processor time, and memory beyond what is there before the call."""
    return f"{quick(row['processor'])}, {max(0, row['peak'] - row['before']) / 2**20:.0f} MiB" if row else "-"


def quick(seconds: float) -> str:
    """As `span`; the clock of processor time ticks in milliseconds."""
    return span(seconds) if seconds >= 0.01 else "< 10 ms"


def shown(row: Row | None, product: Row | None) -> str:
    if row is None or product is None or row is product or row["method"] == "below":
        return number(row["value"] if row else None)
    return f"{number(row['value'])} (1/{float(format(product['value'] / row['value'], '.3g')):,g})"


def dense(rows: list[Row]) -> str:
    """A line a fully connected network, with times and what holds near an input."""
    mine = [row for row in rows if row["method"] == "dense" and "ended" not in row]
    names = ("specnorm", "ECLipsE_Fast", "ECLipsE", "ECLipsE, Clarabel")
    lines = []
    for row in mine:
        own, optimum = row["specnorm"]["value"], row.get("LipSDP")
        cells = [row["network"], number(row["product"]["value"])]
        for found in map(row.get, names):
            if found is None:
                cells.append("-")
            else:
                told = "gave up" if found.get("fell_back") else number(found["value"])
                cells.append(f"{told}, {quick(found['processor'])}")
        cells.append(f"{number(optimum['value'])} (+{own / optimum['value'] - 1:.1%})" if optimum else "-")
        lines.append(cells + [number(each["value"]) for each in row.get("near", [])])
    balls: list[Row] = next((row["near"][1:] for row in mine if "near" in row), [])
    header = ["widths", "product", "specnorm", "ECLipsE-Fast", "ECLipsE", "with Clarabel", "LipSDP"]
    return table([*header, "Jacobian", *(f"local, r = {it['radius']:g}" for it in balls)], lines)
