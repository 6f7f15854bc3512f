"""Bounds of published networks by each method, and what they cost: ``python -m bench networks --out FILE``.

Each is measured in a process of its own. Lines that are in the file stay but for those that are measured anew;
``python -m bench networks-page`` makes the tables of docs/benchmarks/index.md from its committed lines.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path

import torch
from helpers.marks import put
from helpers.real_weights import real_file
from networks.published import NETWORKS as PUBLISHED
from networks.published import Denoiser
from specnorm_networks import Graph, Multipliers, Product, Scaled, network_graph
from specnorm_networks.tools import bound
from torch import nn

from bench import facts
from bench.facts import FOLDER, Row
from bench.page import span, table

COMMITTED = FOLDER / "networks.jsonl"
PAGE = FOLDER / "index.md"
METHODS = ("product", "scaled", "multipliers")


def three_convolutions() -> nn.Sequential:
    """The chain of docs/networks.md: weights sin(j^2 + layer), no biases."""
    widths = (1, 8, 8, 1)
    layers: list[nn.Module] = []
    for number in range(3):
        layer = nn.Conv2d(widths[number], widths[number + 1], 3, padding=1, bias=False)
        weight = layer.weight
        weight.data.copy_(torch.sin(torch.arange(weight.numel()) ** 2 + number).reshape(weight.shape))
        layers += [layer, nn.ReLU()]
    chain = nn.Sequential(*layers[:-1])
    chain.eval()
    return chain


def published(name: str) -> Graph:
    build, shape = PUBLISHED[name]
    return network_graph(build(), shape)


GRAPHS: dict[str, Callable[[], Graph]] = {
    "three": lambda: network_graph(three_convolutions(), (1, 16, 16)),
    "resnet20": lambda: published("resnet20"),
    "dncnn25": lambda: network_graph(Denoiser().noise.eval(), (1, 40, 40)),
    "x - dncnn25": lambda: published("x - dncnn25"),
    "rfb320": lambda: network_graph(real_file("rfb320")),
}
TITLES = {
    "three": "three 3x3 convolutions, 1 → 8 → 8 → 1 channels, weights sin(j²), ReLU between",
    "constrained": "eight 3x3 convolutions of 16 channels, trained to denoise a photograph with each kept at norm 1",
    "resnet20": "ResNet-20 for CIFAR-10: 19 convolutions, batch norm, shortcuts without weights, head",
    "dncnn25": "DnCNN: 17 convolutions, the noise in an image",
    "x - dncnn25": "x - DnCNN(x), the image without it",
    "rfb320": "face detector RFB-320: 52 convolutions, branches, softmax; multipliers cut short",
}
"""What the page calls each; of "constrained" the lines are kept as they were measured."""
CUT_SHORT = {"rfb320": Multipliers(steps=40, seconds=5, widest=64)}


# -- measurements ------------------------------------------------------------------------------------------------------
def write(names: Sequence[str], methods: Sequence[str], out: Path) -> None:
    """Measure networks by methods, and write each line as soon as it is there."""
    for name in names or GRAPHS:
        for method in methods or METHODS:
            # Both have a "processor": the measurement its seconds, which count here.
            line = {"network": name, "method": method} | facts.about("numpy", "torch") | apart(name, method)
            others = [row for row in facts.read(out) if (row["network"], row["method"]) != (name, method)]
            facts.write(out, [*others, line])
            print(name, method, line["value"], f"{line['processor']:.1f} s", flush=True)


def apart(name: str, method: str) -> Row:
    """Measure one bound in a process of its own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.networks", name, method]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=facts.TESTS)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measured(name: str, method: str) -> Row:
    """Return a bound, its processor seconds, and the memory before and at most; the graph is made before."""
    graph = GRAPHS[name]()
    ways = {"product": Product(), "scaled": Scaled(), "multipliers": CUT_SHORT.get(name, Multipliers())}
    way = ways[method]
    memory = peak()
    begun = time.process_time()
    value = bound(graph, method=way, budget=None, check=False).upper
    seconds = time.process_time() - begun
    return {"value": value, "by": repr(way), "processor": seconds, "before": memory, "peak": peak()}


def peak() -> int:
    """Return the largest memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- the page ----------------------------------------------------------------------------------------------------------
def write_page(source: Path = COMMITTED, page: Path = PAGE) -> None:
    """Put the tables of the lines into the page."""
    rows = {(row["network"], row["method"]): row for row in facts.read(source)}
    text = page.read_text(encoding="utf-8")
    parts = {"bounds": bounds(rows), "dense": dense(list(rows.values()))}
    for name, lines in parts.items():
        text = put(text, f"<!-- {name} -->\n", f"\n<!-- end of {name} -->", lines)
    page.write_text(text, encoding="utf-8")


Rows = dict[tuple[str, str], Row]


def bounds(rows: Rows) -> str:
    """Return the table of bounds, each beside its ratio to the product."""
    lines = []
    for name, title in TITLES.items():
        product, scaled, multipliers = (rows[name, method]["value"] for method in METHODS)
        others = [f"{bound_up(value)} (1/{told(product / value)})" for value in (scaled, multipliers)]
        below = told(rows[name, "below"]["value"], ROUND_FLOOR)
        seconds = span(rows[name, "multipliers"]["processor"])
        lines.append([f"{name}: {title}", bound_up(product), *others, seconds, below])
    return table(["network", "Product", "Scaled", "Multipliers", "time", "reached from below"], lines)


OTHERS = {"ECLipsE_Fast": "ECLipsE-Fast", "ECLipsE": "ECLipsE", "ECLipsE, Clarabel": "with Clarabel"}
"""Programs of others that bound dense networks, and what the page calls them."""


def dense(rows: list[Row]) -> str:
    """Return the table of dense networks; the values that are proven are rounded up."""
    lines = []
    dense_rows = [row for row in rows if row["method"] == "dense"]
    for row in dense_rows:
        mine = row["specnorm"]
        optimum = row["LipSDP"]["value"] if "LipSDP" in row else None
        lipsdp = "-" if optimum is None else f"{told(optimum)} (+{mine['value'] / optimum - 1:.3%})"
        jacobian, *local = (at["value"] for at in row["near"])
        lines.append([
            row["network"], bound_up(row["product"]["value"]), f"{bound_up(mine['value'])}, {span(mine['processor'])}",
            *(of_others(row.get(key)) for key in OTHERS), lipsdp, told(jacobian), *map(bound_up, local),
        ])  # fmt: skip
    radii = [f"local, r = {at['radius']:g}" for at in dense_rows[-1]["near"][1:]]
    return table(["widths", "product", "specnorm", *OTHERS.values(), "LipSDP", "Jacobian", *radii], lines)


def of_others(row: Row | None) -> str:
    if row is None:
        return "-"
    seconds = "< 10 ms" if row["processor"] < 0.01 else span(row["processor"])
    return f"{'gave up' if row['fell_back'] else told(row['value'])}, {seconds}"


def bound_up(value: float) -> str:
    return told(value, ROUND_CEILING)


def told(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return three digits of a number, large ones with an exponent."""
    exact = Decimal(value)
    number = float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding=rounding))
    if number >= 1e5:
        return f"{number:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{number:,.0f}" if number >= 1000 else f"{number:g}"


if __name__ == "__main__":
    print(json.dumps(measured(*sys.argv[1:])))
