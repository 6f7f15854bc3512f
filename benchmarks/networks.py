"""Bounds of networks by each method and by others, and what they cost: ``python -m benchmarks networks --out FILE``.

Networks are published ones, and small ones that are trained on digits; with auto_LiRPA if LIRPA_PYTHON names a Python
that has it. Lines that are in the file stay but for those that are measured anew;
``python -m benchmarks networks-page`` makes the tables of docs/benchmarks/index.md from its committed lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import torch
from helpers.real_weights import real_file
from networks.published import NETWORKS as PUBLISHED
from networks.published import Denoiser
from specnorm_networks import Graph, Multipliers, Product, Scaled, network_graph
from specnorm_networks.tools import bound
from torch import nn

from benchmarks import beside, digits, facts
from benchmarks.facts import FOLDER, Row
from benchmarks.marks import put_all
from benchmarks.page import span, table

COMMITTED = FOLDER / "networks.jsonl"
PAGE = FOLDER / "index.md"
METHODS = ("product", "scaled", "multipliers")
DIGITS = "digits: "
BESIDE = ("product", "multipliers", "ECLipsE-Fast", "below", "near", "near, auto_LiRPA", "near, below")
"""What is measured of networks trained on digits; "near" is on a ball around an image.
"ECLipsE-Fast" is measured of dncnn25 too, on images of 6x6."""
SOON = "in 0.1 s"
BUDGET = 0.1
SERVED_SOON = ("MLP of 4", "MLP", "MLP critic", "CNN", "CNN of 6", "ResNet", "DnCNN", "U-Net")
"""Networks of `digits` that are bounded with a budget of 0.1 s; each row has the product and ECLipsE-Fast too."""
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
    "MLP-Mixer": "16 tokens of 16 channels, layer norm, GELU",
    "ViT": "16 tokens of 16 channels, 2 encoder layers with 2 heads",
}
"""Networks of `digits`, and what the page says of them."""
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
    for name in names or [*GRAPHS, *(DIGITS + name for name in TRAINED)]:
        is_small = name.startswith(DIGITS)
        chosen = methods or ((*BESIDE, SOON) if is_small else METHODS)
        if beside.PYTHON not in os.environ:
            chosen = [method for method in chosen if not method.endswith("auto_LiRPA")]
        # The memory of each bound of the large ones is told, so that each has a process.
        for together in [chosen] if is_small else [[method] for method in chosen]:
            for row in apart(name, together):
                # Both have a "processor": the measurement its seconds, which count here.
                line = {"network": name} | facts.about("numpy", "torch") | row
                others = [old for old in facts.read(out) if (old["network"], old["method"]) != (name, row["method"])]
                facts.write(out, [*others, line])
                print(name, line["method"], line["value"], f"{line['processor']:.1f} s", flush=True)


def apart(name: str, methods: Sequence[str]) -> Iterator[Row]:
    """Measure bounds in a process of their own, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.networks", name, *methods]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=facts.ROOT) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)


def measured(name: str, method: str) -> Row:
    """Return a bound, its processor seconds, and the memory before and at most; what it needs is made before."""
    if name.startswith(DIGITS):
        return measured_beside(name.removeprefix(DIGITS), method)
    if method == "ECLipsE-Fast":
        return by_eclipse(digits.matrices(Denoiser().noise.eval(), (1, 6, 6))) | {"image": "6x6"}
    return bounded(GRAPHS[name](), method, CUT_SHORT.get(name, Multipliers()))


def bounded(graph: Graph, method: str, best: Multipliers, **ball: Any) -> Row:
    way = {"product": Product(), "scaled": Scaled()}.get(method, best)
    memory = peak()
    begun = time.process_time()
    value = bound(graph, method=way, budget=None, check=False, **ball).upper
    seconds = time.process_time() - begun
    return {"value": value, "by": repr(way), "processor": seconds, "before": memory, "peak": peak()}


def measured_beside(name: str, method: str) -> Row:
    """Measure a bound of a network trained on digits; its value is None if the method has none."""
    model, quality = digits.trained(name)
    if method == SOON:
        return in_a_tenth_of_a_second(model)
    if method in ("product", "multipliers", "near"):
        at = {"radius": beside.RADIUS, "centre": beside.centre().double().numpy()} if method == "near" else {}
        row = bounded(network_graph(model, (1, digits.SIDE, digits.SIDE)), method, Multipliers(), **at)
        return row | {"quality": quality}
    begun = time.process_time()
    value: float | None = None
    if method.endswith("below"):
        value = beside.reached(model, beside.RADIUS if method.startswith("near") else None)
    elif method == "ECLipsE-Fast":
        with contextlib.suppress(TypeError):  # it is no chain
            return by_eclipse(digits.matrices(model))
    else:
        return beside.lirpa(name, model)
    return {"value": value, "processor": time.process_time() - begun}


def in_a_tenth_of_a_second(model: nn.Module) -> Row:
    """Measure what a budget of 0.1 s gives, beside the product and ECLipsE-Fast: medians of seconds in turn."""
    graph = network_graph(model, (1, digits.SIDE, digits.SIDE))
    runs: dict[str, Callable[[], float | None]] = {
        SOON: lambda: bound(graph, budget=BUDGET, check=False).upper,
        "product": lambda: bound(graph, method=Product(), budget=None, check=False).upper,
    }
    with contextlib.suppress(TypeError):  # it is no chain
        weights = digits.matrices(model)
        runs["ECLipsE-Fast"] = lambda: beside.eclipse_fast(weights)
    for run in runs.values():
        run()  # a first call imports
    seconds = {key: statistics.median(times) for key, times in facts.interleaved(runs).items()}
    values = {key: run() for key, run in runs.items()}
    return {"value": values[SOON], "processor": seconds[SOON], "values": values, "seconds": seconds}


def by_eclipse(weights: Sequence[torch.Tensor]) -> Row:
    begun = time.process_time()
    return {"value": beside.eclipse_fast(weights), "processor": time.process_time() - begun}


def peak() -> int:
    """Return the largest memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# -- the page ----------------------------------------------------------------------------------------------------------
def write_page(source: Path = COMMITTED, page: Path = PAGE) -> None:
    """Put the tables of the lines into the page."""
    rows = {(row["network"], row["method"]): row for row in facts.read(source)}
    parts = {"bounds": bounds(rows), "others": others(rows), "soon": soon(rows)}
    page.write_text(put_all(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


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
    near = f"r = {beside.RADIUS:g}: "
    head = ["Product", "Multipliers", "ECLipsE-Fast", "reached"]
    return table(["network", *head, f"{near}Multipliers", f"{near}auto_LiRPA", f"{near}reached"], lines)


def soon(rows: Rows) -> str:
    """Return the table of bounds with a budget of 0.1 s; proven values are rounded up."""
    lines = []
    for name in SERVED_SOON:
        row = rows[DIGITS + name, SOON]
        cells = []
        for method in ("product", SOON, "ECLipsE-Fast"):
            value = row["values"].get(method)
            cells.append(NONE if value is None else f"{bound_up(value)}, {span(row['seconds'][method])}")
        before = rows[DIGITS + name, f"{SOON}, before"]
        cells.append(f"{bound_up(before['value'])}, {span(before['processor'])}")
        lines.append([f"{name}: {TRAINED[name]}", *cells])
    return table(["network", "Product", f"Multipliers {SOON}", "ECLipsE-Fast", f"{SOON}, before"], lines)


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


if __name__ == "__main__":
    for method in sys.argv[2:]:
        print(json.dumps({"method": method} | measured(sys.argv[1], method)), flush=True)
