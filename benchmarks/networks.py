"""Bounds of published networks by each method, and what they cost: ``python -m benchmarks networks --out FILE``.

Lines that are in the file stay but for those that are measured anew. Those of networks that are trained on digits, with
bounds by other tools, were measured by the programs of commit 262d541a.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path

import torch
from helpers.real_weights import real_file
from networks.published import NETWORKS as PUBLISHED
from networks.published import Denoiser
from specnorm_networks import Graph, Multipliers, Product, Scaled, network_graph
from specnorm_networks.tools import bound
from torch import nn

from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.page import span, table

COMMITTED = FOLDER / "networks.jsonl"
METHODS = ("product", "scaled", "multipliers")
DIGITS = "digits: "
BESIDE = ("product", "multipliers", "ECLipsE-Fast", "below", "near", "near, auto_LiRPA", "near, below")
"""What is measured of networks trained on digits; "near" is on a ball around an image."""
NONE = "-"
"""What the page shows where a method does not bound a network."""


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
TRAINED = {
    "MLP of 4": "64-64-64-64-10",
    "MLP": "64-128-128-10",
    "MLP critic": "64-128-128-128-1, tells digits from permuted ones",
    "CNN": "2 convolutions of 8 and 16 channels, a dense layer",
    "CNN of 6": "6 convolutions of 8 channels, a dense layer",
    "ResNet": "6 convolutions of 8 channels with batch norm, 2 shortcuts, a dense layer",
    "DnCNN": "x minus 4 convolutions of 8 channels, a denoiser",
    "U-Net": "6 convolutions of 8 and 16 channels, one transposed, a denoiser",
}
"""Small networks that were trained on digits, and what the page says of them."""
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
    """Measure published networks by methods, and write each line as soon as it is there."""
    torch.set_num_threads(1)
    for name, method in itertools.product(names or GRAPHS, methods or METHODS):
        best = CUT_SHORT.get(name, Multipliers())
        way = {"product": Product(), "scaled": Scaled()}.get(method, best)
        graph = GRAPHS[name]()
        begun = time.process_time()
        value = bound(graph, method=way, budget=None, check=False).upper
        # Both have a "processor": the measurement its seconds, which count here.
        row = {"network": name} | facts.about("numpy", "torch") | {"method": method, "value": value, "by": repr(way)}
        row["processor"] = time.process_time() - begun
        others = [old for old in facts.read(out) if (old["network"], old["method"]) != (name, method)]
        facts.write(out, [*others, row])
        print(name, method, value, f"{row['processor']:.1f} s", flush=True)


# -- the page ----------------------------------------------------------------------------------------------------------
def tables() -> dict[str, str]:
    """Return the tables of the lines."""
    rows = {(row["network"], row["method"]): row for row in facts.read(COMMITTED)}
    return {"bounds": bounds(rows), "others": others(rows)}


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


def others(rows: Rows) -> str:
    """Return the table of networks trained on digits, by each program; proven values are rounded up."""
    lines = []
    for name, title in TRAINED.items():
        cells = []
        for method in BESIDE:
            row = rows.get((DIGITS + name, method), {})
            rounding = ROUND_FLOOR if method.endswith("below") else ROUND_CEILING
            is_alone = method == "product" or method.endswith("below")
            cell = NONE if row.get("value") is None else told(row["value"], rounding)
            cells.append(cell if cell == NONE or is_alone else f"{cell}, {seconds(row['processor'])}")
        lines.append([f"{name}: {title}", *cells])
    near = "r = 0.1: "
    head = ["Product", "Multipliers", "ECLipsE-Fast", "reached"]
    return table(["network", *head, f"{near}Multipliers", f"{near}auto_LiRPA", f"{near}reached"], lines)


def seconds(processor: float) -> str:
    return "< 10 ms" if processor < 0.01 else span(processor)


def bound_up(value: float) -> str:
    return told(value, ROUND_CEILING)


def told(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return three digits of a number, large ones with an exponent."""
    exact = Decimal(value)
    number = float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding=rounding))
    if number >= 1e5:
        return f"{number:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{number:,.0f}" if number >= 1000 else f"{number:g}"
