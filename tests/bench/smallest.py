"""The smallest singular value beside what others give: ``python -m bench.smallest`` in ``tests`` makes the page anew.

``python -m bench.smallest page`` makes it of the stored figures, without a measurement. Seconds are of the process,
one thread. What others give takes most of the time, and is kept where the figures have it; ``python -m bench.smallest
all`` measures it again. The published orthogonal layers come from orthogonium, and are left out where it is not
installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from helpers.real_weights import real_layers

import specnorm
from bench.facts import FOLDER, about
from specnorm.methods import Isometry

PAGE, FIGURES = FOLDER / "smallest.md", FOLDER / "smallest.jsonl"
SIZES = (32, 64)
WIDEST = 5
"""Taps an axis up to which orthogonium's own function is tried: it squares the kernel four times, taps by taps."""
BUDGET = 120.0
"""Seconds that `enclose_smallest` has: of the clock, on a machine that other work may share."""
PAIRS = 128 * 128
"""Pairs of channels up to which the yardsticks that would take minutes are tried: a grid of 64, and orthogonium's."""
Case = tuple[str, str, Any, dict[str, Any]]
"""Section, name, kernel, geometry."""


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a function, and its seconds: the smaller of two times."""
    seconds = []
    for _ in range(2):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
        if seconds[0] > 2:
            break
    return result, min(seconds)


# -- layers ----------------------------------------------------------------------------------------------------------
ORTHOGONAL: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any]]] = {
    "AOC 16": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (16, 16, 3), {}),
    "AOC 16 to 32": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (16, 32, 3), {}),
    "AOC 32 to 16": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (32, 16, 3), {}),
    "AOC 16 to 32, stride 2": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (16, 32, 4), {"stride": 2}),
    "AOC 32, 4 groups": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (32, 32, 3), {"groups": 4}),
    "BCOP 16": ("layers.conv.AOC", "FastBlockConv2d", (16, 16, 3), {}),
    "BCOP 16, 5x5": ("layers.conv.AOC", "FastBlockConv2d", (16, 16, 5), {}),
    "BCOP x RKO 16 to 32, stride 2": ("layers.conv.AOC", "BcopRkoConv2d", (16, 32, 4), {"stride": 2}),
    "RKO 8 to 32, stride 2": ("layers.conv.AOC", "RKOConv2d", (8, 32, 2), {"stride": 2}),
    "SOC 16": ("layers.conv.adaptiveSOC", "AdaptiveSOCConv2d", (16, 16, 3), {}),
    "SOC 16 to 32, stride 2": ("layers.conv.adaptiveSOC", "AdaptiveSOCConv2d", (16, 32, 4), {"stride": 2}),
}


def orthogonal() -> Iterator[Case]:
    """Layers that are published as orthogonal, as they come from their initialisation."""
    for name, (module, kind, words, options) in ORTHOGONAL.items():
        torch.manual_seed(0)
        layer = getattr(importlib.import_module(f"orthogonium.{module}"), kind)(*words, **options, padding=1)
        for _ in range(3):
            layer.train()(torch.randn(2, words[0], 8, 8))
        geometry = {"stride": tuple(layer.stride), "groups": layer.groups}
        yield "orthogonal", name, layer.eval().weight.detach().numpy(), geometry
    yield "orthogonal", "Cayley 8, as it is at 8x8", *cayley()


def cayley(channels: int = 8, size: int = 8) -> tuple[Any, dict[str, Any]]:
    """A Cayley layer has no kernel but at a size: there one of as many taps, its answers to impulses."""
    torch.manual_seed(0)
    layer = importlib.import_module("orthogonium.legacy.cayley_ortho_conv").Cayley(channels, channels, 3, bias=False)
    impulses = torch.zeros(channels, channels, size, size)
    impulses[range(channels), range(channels), 0, 0] = 1
    with torch.no_grad():
        answers = layer.eval()(impulses).numpy()
    return np.ascontiguousarray(answers.transpose(1, 0, 2, 3)), {"input_shape": size}


def trained() -> Iterator[Case]:
    for name, kernel, geometry in real_layers("resnet20"):
        yield "ResNet-20", name.removeprefix("module."), kernel, {"stride": geometry["stride"]}


def random() -> Iterator[Case]:
    for wide, narrow in ((32, 16), (64, 32), (128, 64), (256, 128), (64, 64), (128, 128), (256, 256)):
        values = np.random.RandomState(0).standard_normal((wide, narrow, 3, 3)) / math.sqrt(9 * wide)
        yield "random", f"{narrow} to {wide}", values.astype(np.float32), {}


# -- what is measured ------------------------------------------------------------------------------------------------
def on_a_grid(kernel: Any, size: int, stride: tuple[int, int]) -> float:
    """The smallest singular value by FFT and SVD, as Sedghi et al. and Senderovich et al. compute it."""
    s = stride[0]
    symbol = np.fft.fft2(polyphase(kernel, s), (size // s, size // s))
    return float(np.linalg.svd(symbol.transpose(2, 3, 0, 1), compute_uv=False)[..., -1].min())


def polyphase(kernel: Any, s: int) -> Any:
    """A strided kernel as a plain one of ``s * s`` times as many inputs."""
    o, i, h, w = kernel.shape
    padded = np.pad(kernel, ((0, 0), (0, 0), (0, -h % s), (0, -w % s)))
    split = padded.reshape(o, i, padded.shape[2] // s, s, padded.shape[3] // s, s)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(o, i * s * s, padded.shape[2] // s, padded.shape[3] // s)


def theirs(kernel: Any, geometry: dict[str, Any]) -> tuple[Any, float]:
    """Orthogonium's `get_conv_sv`: a bound of the largest value, and the stable rank."""
    get_conv_sv = importlib.import_module("orthogonium.layers.conv.singular_values").get_conv_sv
    stride, groups = geometry.get("stride", (1, 1)), geometry.get("groups", 1)
    layer = SimpleNamespace(
        weight=torch.from_numpy(np.array(kernel)), stride=stride, groups=groups, padding_mode="zeros"
    )
    return timed(lambda: [float(x) for x in get_conv_sv(layer, n_iter=4)])


def achour(kernel: Any, geometry: dict[str, Any]) -> float:
    """eps by L_orth with the theorem's factor: lags times channels."""
    squares = float(specnorm.measure(kernel, Isometry(form="lags"), **geometry).value)
    s = geometry.get("stride", (1, 1))[0]
    rows, columns = kernel.shape[0], kernel.shape[1] * s * s * geometry.get("groups", 1)
    lags = (2 * ((kernel.shape[2] - 1) // s) + 1) ** 2 if rows <= columns else (2 * kernel.shape[2] - 1) ** 2
    return math.sqrt(lags * min(rows, columns) * squares)


def ours(case: Case) -> dict[str, Any]:
    """Return the fields of a row by specnorm."""
    section, name, kernel, geometry = case
    enclosure, seconds = timed(lambda: specnorm.enclose_smallest(kernel, budget=BUDGET, **geometry))
    row: dict[str, Any] = {
        "section": section, "name": name, "shape": kernel.shape, "lower": float(enclosure.lower),
        "upper": float(enclosure.upper), "status": enclosure.status.partition(":")[0], "cells": enclosure.cells,
        "seconds": seconds,
    }  # fmt: skip
    row["eps"], row["eps seconds"] = timed(lambda: float(specnorm.isometry_bound(kernel, **geometry)))
    ends, row["eps proven seconds"] = timed(lambda: specnorm.enclose_isometry(kernel, budget=BUDGET, **geometry))
    row["eps proven"] = float(ends.upper)
    by_defect = math.nextafter(math.sqrt(1 + row["eps proven"]), math.inf)
    row["norm"] = min(float(specnorm.enclose(kernel, budget=BUDGET, **geometry).upper), by_defect)
    row["eps Achour"] = achour(kernel, geometry)
    return row


def others(case: Case) -> dict[str, Any]:
    """Return the fields of a row by other methods: a grid, and orthogonium if it supports the layer."""
    _, _, kernel, geometry = case
    row: dict[str, Any] = {}
    if "input_shape" in geometry:
        return row
    pairs = kernel.shape[0] * kernel.shape[1]
    sizes = SIZES if pairs <= PAIRS else SIZES[:1]
    for size in sizes if geometry.get("groups", 1) == 1 else ():
        row[f"grid {size}"], row[f"grid {size} seconds"] = timed(
            lambda size=size: on_a_grid(kernel, size, geometry.get("stride", (1, 1)))  # type: ignore[misc]
        )
    if max(kernel.shape[2:]) <= WIDEST and pairs <= PAIRS:
        (row["theirs"], row["stable rank"]), row["theirs seconds"] = theirs(kernel, geometry)
    return row


def penalties() -> list[dict[str, Any]]:
    """Forward and backward of L_orth: the convolution of a kernel with itself, as published, and ours."""
    from specnorm_torch import OrthogonalityPenalty

    rows = []
    for channels in (16, 64, 128, 256):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(channels, channels, 3)

        def published(layer: Any = layer) -> None:
            layer.weight.grad = None
            lags = torch.nn.functional.conv2d(layer.weight, layer.weight, padding=2)
            target = torch.zeros_like(lags)
            target[:, :, 2, 2] = torch.eye(len(lags))
            penalty: Any = ((lags - target) ** 2).sum()
            penalty.backward()

        row: dict[str, Any] = {"section": "penalty", "channels": channels}
        _, row["published"] = timed(published)
        forms: tuple[Any, ...] = ("lags", "bound")
        for form in forms:
            penalty = OrthogonalityPenalty(layer, form=form)

            def ours(penalty: Any = penalty, layer: Any = layer) -> None:
                layer.weight.grad = None
                penalty().backward()

            ours()
            _, row[form] = timed(ours)
        rows.append(row)
    return rows


# -- the page --------------------------------------------------------------------------------------------------------
def down(x: float, digits: int) -> str:
    return f"{math.floor(x * 10**digits) / 10**digits:.{digits}f}"


def up(x: float, digits: int) -> str:
    return f"{math.ceil(x * 10**digits) / 10**digits:.{digits}f}"


def up_figure(x: float, digits: int) -> str:
    """An upper bound with so many digits, rounded up."""
    shown = Decimal(f"{x:.{digits}g}")
    if shown < Decimal(x):
        shown += Decimal(1).scaleb(shown.adjusted() - digits + 1)
    return f"{float(shown):.{digits}g}"


def figure(x: float | None, digits: int = 4) -> str:
    return "" if x is None else f"{x:.{digits}g}"


def table(rows: list[dict[str, Any]], section: str) -> list[str]:
    heads = [
        "layer",
        "proven, every size",
        "s",
        "norm at most",
        "n = 32",
        "s",
        "n = 64",
        "s",
        "`get_conv_sv`: norm, rank",
        "s",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row["section"] != section:
            continue
        ends = (
            f"{down(row['lower'], 6)} .. {up(row['upper'], 6)}"
            if row["upper"] > 1e-4
            else f"0 .. {up_figure(row['upper'], 2)}"
        )
        ends += "" if row["status"] in ("converged", "zero") else " (budget)"
        grids = [figure(row.get(key)) for n in SIZES for key in (f"grid {n}", f"grid {n} seconds")]
        grids[1::2] = [x and f"{float(x):.3f}" for x in grids[1::2]]
        other = f"{row['theirs']:.4f}, {row['stable rank']:.3f}" if "theirs" in row else ""
        last = f"{row['theirs seconds']:.3f}" if "theirs" in row else ""
        seconds, norm = f"{row['seconds']:.3f}", up(row["norm"], 6)
        lines.append(f"| {' | '.join([row['name'], ends, seconds, norm, *grids, other, last])} |")
    return lines


def defects(rows: list[dict[str, Any]]) -> list[str]:
    heads = ["layer", "proven", "s", "`isometry_bound`", "s", "times as large", "by L_orth, Achour et al."]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row["section"] in ("orthogonal", "random"):
            cells = [
                row["name"],
                up_figure(row["eps proven"], 3),
                f"{row['eps proven seconds']:.3f}",
                up_figure(row["eps"], 3),
            ]
            cells += [
                f"{row['eps seconds']:.4f}",
                f"{row['eps'] / row['eps proven']:.1f}",
                figure(row["eps Achour"], 3),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    costs = ['| channels, 3x3 | published, ms | `form="lags"` | `form="bound"` |', "|---|---|---|---|"]
    for row in rows:
        if row["section"] == "penalty":
            costs.append("| " + " | ".join([
                str(row["channels"]), *(f"{1e3 * row[name]:.2f}" for name in ("published", "lags", "bound"))
            ]) + " |")  # fmt: skip
    square = max(row["upper"] for row in rows if row["section"] == "random" and row["shape"][0] == row["shape"][1])
    return "\n".join([
        "# The smallest singular value, measured",
        "",
        f"The figures were measured on {facts['date']}, at commit {facts['commit']}, on {facts['machine']}.",
        "The seconds are process times of one thread, on a machine that other work shared. The figures are in",
        "[smallest.jsonl](smallest.jsonl); a row with its own commit was measured at that commit. These commands, in",
        "the root folder of a checkout, measure all figures again and make this page:",
        "",
        "```sh",
        "pip install -e '.[torch]' --group dev orthogonium==0.0.4",
        "cd tests",
        "python -m bench.smallest all",
        "```",
        "",
        "The tables have these columns. Upper bounds are rounded up, and lower bounds down:",
        "",
        "* **Proven, every size**: both bounds of [`enclose_smallest`](../methods/smallest.md), rounding",
        "  included. They are within 0.1 %, unless the lower one is 0: then no proof tells the value from 0.",
        "* **Norm at most**: the upper bound of the norm by `enclose` with `rtol=1e-3`, or the bound that follows from",
        "  the isometry defect below, if that is smaller. Other versions and tolerances prove slightly other bounds.",
        "* **n = 32, n = 64**: the smallest singular value of the circular layer at that size, by FFT and SVD in",
        "  NumPy. It is at least the infimum over every size, and is not proven. Cells are empty for grouped layers,",
        "  for the Cayley layer, and where the computation takes minutes.",
        "* **`get_conv_sv`** of orthogonium: an upper bound of the *largest* singular value (Delattre et al. 2024,",
        "  zero padding, without the stride), and the stable rank. Cells are empty for the Cayley layer, for the SOC",
        "  layers, whose kernels have more than 5 taps per axis, and where the computation takes minutes.",
        "",
        "## Layers published as orthogonal",
        "",
        *table(rows, "orthogonal"),
        "",
        "The layers are as initialised, in float32. Their authors state singular values of 1 without a tolerance;",
        "orthogonium 0.0.4 calls all of its layers orthogonal, SOC too. `get_conv_sv` returns the norm 1 and the",
        "rank 1 for layers whose outputs have as many entries as their inputs. For other layers its bound of the norm",
        "is larger than 1, and its rank smaller, although the layers are orthogonal. The Cayley layer is measured at",
        "its own size, at which the kernel has as many taps as the input has pixels. The names of the layers:",
        "",
        "* **AOC**: adaptive orthogonal convolution (Boissin et al., ICML 2025);",
        "* **BCOP**: block convolution orthogonal parameterisation, and **RKO**: reshaped kernel orthogonalisation",
        "  (both Li et al., NeurIPS 2019);",
        "* **SOC**: skew orthogonal convolution (Singla, Feizi, ICML 2021);",
        "* **Cayley**: Cayley transform of the symbols (Trockman, Kolter, ICLR 2021).",
        "",
        "## ResNet-20",
        "",
        *table(rows, "ResNet-20"),
        "",
        "## Random",
        "",
        "The entries of these kernels with 3 x 3 taps are Gaussian, with variance 1/(9·cout).",
        "",
        *table(rows, "random"),
        "",
        f"At some frequency, the smallest singular value of each square kernel is at most {up_figure(square, 2)}. The",
        "values on a grid of frequencies do not show this.",
        "",
        "## How far from isometries",
        "",
        "The table has bounds of the [isometry defect](../methods/smallest.md#how-far-from-an-isometry) of each layer.",
        "\"Proven\" is the upper bound of `enclose_isometry`, to 0.1 %. The bound of Achour et al. is the root of lags",
        "times channels times L_orth; it does not include rounding, and does not apply to a kernel that wraps around.",
        "",
        *defects(rows),
        "",
        "## What a penalty costs",
        "",
        "The times are those of a forward and a backward pass in torch, in float32. \"Published\" is the code of",
        "OCNN (orthogonal convolutional neural networks, Wang et al., CVPR 2020), which convolves the kernel with",
        "itself.",
        "",
        *costs,
        "",
    ])  # fmt: skip


def known_of_others() -> dict[str, dict[str, Any]]:
    """Return the stored fields of other methods, by the layer's name."""
    if not FIGURES.exists():
        return {}
    rows = [json.loads(line) for line in FIGURES.read_text(encoding="utf-8").splitlines()[1:]]
    starts = ("grid", "theirs", "stable rank")
    return {row["name"]: {k: v for k, v in row.items() if k.startswith(starts)} for row in rows if "name" in row}


def main() -> None:
    if sys.argv[1:] == ["page"]:
        facts, *rows = [json.loads(line) for line in FIGURES.read_text(encoding="utf-8").splitlines()]
        Path(PAGE).write_text(page(rows, facts), encoding="utf-8")
        return
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    cases = [*trained(), *random()]
    if importlib.util.find_spec("orthogonium") is not None:
        cases = [*orthogonal(), *cases]
    stored = {} if sys.argv[1:] == ["all"] else known_of_others()
    rows = []
    for case in cases:
        rows.append({**ours(case), **(stored[case[1]] if case[1] in stored else others(case))})
        print(*(f"{key}={value}" for key, value in rows[-1].items()), sep=" ", flush=True)
    rows += penalties()
    facts = about("numpy", "torch", "orthogonium")
    lines = [facts, *rows]
    Path(FIGURES).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    Path(PAGE).write_text(page(rows, facts), encoding="utf-8")


if __name__ == "__main__":
    main()
