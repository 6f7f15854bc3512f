"""Bounds of published networks by each method, and what they cost: ``python -m benchmarks networks --out FILE``.

Lines that are in the file stay but for those that are measured anew. Those of networks that are trained on digits, with
bounds by other tools, were measured by the programs of commit 262d541a, which also made their table on the page.
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
from specnorm_networks import Graph, Multipliers, Product, network_graph
from specnorm_networks.tools import bound
from torch import nn

from benchmarks import facts
from benchmarks.facts import FOLDER, Row
from benchmarks.page import span, table

COMMITTED = FOLDER / "networks.jsonl"
METHODS = ("product", "multipliers")


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
def write(networks: Sequence[str], methods: Sequence[str], out: Path | None) -> None:
    """Measure published networks by methods."""
    torch.set_num_threads(1)
    pairs = itertools.product(networks or GRAPHS, methods or METHODS)
    facts.record(itertools.starmap(_measured, pairs), out, ("network", "method"))


def _measured(name: str, method: str) -> Row:
    way = Product() if method == "product" else CUT_SHORT.get(name, Multipliers())
    graph = GRAPHS[name]()
    begun = time.process_time()
    value = bound(graph, method=way, budget=None, check=False).upper
    row = {"network": name, **facts.about("numpy", "torch"), "method": method, "value": value, "by": repr(way)}
    return row | {"processor": time.process_time() - begun}


# -- the page ----------------------------------------------------------------------------------------------------------
def tables() -> dict[str, str]:
    """Return the table of bounds, each beside its ratio to the product."""
    rows = {(row["network"], row["method"]): row for row in facts.read(COMMITTED)}
    lines = []
    for name, title in TITLES.items():
        product, multipliers = (rows[name, method]["value"] for method in METHODS)
        joint = f"{bound_up(multipliers)} (1/{told(product / multipliers)})"
        below = told(rows[name, "below"]["value"], ROUND_FLOOR)
        seconds = span(rows[name, "multipliers"]["processor"])
        lines.append([f"{name}: {title}", bound_up(product), joint, seconds, below])
    header = ["network", "Product", "Multipliers", "time", "reached from below"]
    return {"bounds": table(header, lines)}


def bound_up(value: float) -> str:
    return told(value, ROUND_CEILING)


def told(value: float, rounding: str = ROUND_HALF_EVEN) -> str:
    """Return three digits of a number, large ones with an exponent."""
    exact = Decimal(value)
    number = float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding=rounding))
    if number >= 1e5:
        return f"{number:.2e}".replace("e+0", "e").replace("e+", "e")
    return f"{number:,.0f}" if number >= 1000 else f"{number:g}"
