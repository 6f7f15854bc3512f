"""Train two small networks against attacks in the 2-norm, on images made here, and tabulate what is certified of them.

    python docs/examples/train_certified.py train    # networks and test images, into docs/examples/certified
    python docs/examples/train_certified.py table    # from the JSON of `specnorm accuracy`; constants are measured anew

docs/examples/certified/README.md explains both. The first needs torch and onnx; one thread, minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "certified"
SEEDS = {"patterns": 30, "training": 31, "test": 32, "weights": 33}
COUNTS = {"images-200.npz": 200}
SIDE, CLASSES = 28, 10
Array = Any


# -- images ------------------------------------------------------------------------------------------------------------
def smooth(noise: Array, width: float) -> Array:
    """Low frequencies of fields (..., SIDE, SIDE), as if on a torus, with variance 1."""
    frequencies = np.fft.fftfreq(SIDE)
    weight = np.exp(-2 * (np.pi * width) ** 2 * (frequencies[:, None] ** 2 + frequencies[None] ** 2))
    fields = np.fft.ifft2(np.fft.fft2(noise) * weight).real
    return (fields - fields.mean((-2, -1), keepdims=True)) / fields.std((-2, -1), keepdims=True)


def images(count: int, seed: int) -> tuple[Array, Array]:
    """Images (count, 1, SIDE, SIDE), whole multiples of 1/256 in [0, 1], and labels.

    One of ten smooth patterns, moved by up to two pixels, with a weaker one of another class over it, and noise.
    """
    patterns = np.tanh(2 * smooth(np.random.default_rng(SEEDS["patterns"]).standard_normal((CLASSES, SIDE, SIDE)), 2.0))
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    others = (labels + draw.integers(1, CLASSES, count)) % CLASSES
    weights = draw.uniform(0, 0.9, count)
    x = np.empty((count, 1, SIDE, SIDE))
    for at in range(count):
        both = (np.roll(patterns[kind], draw.integers(-2, 3, 2), (0, 1)) for kind in (labels[at], others[at]))
        x[at, 0] = next(both) + weights[at] * next(both)
    x = 0.5 + 0.2 * x + 0.1 * draw.standard_normal(x.shape)
    return np.round(256 * x.clip(0, 1)) / 256, labels


# -- networks ----------------------------------------------------------------------------------------------------------
def network(name: str) -> Any:
    """Of the published shapes: 784-100-100-10, or ConvSmall."""
    from torch import nn

    if name == "dense":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
        )
    first, second = nn.Conv2d(1, 16, 4, stride=2), nn.Conv2d(16, 32, 4, stride=2)
    head = (nn.Flatten(), nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head)


def attacked(model: Any, x: Any, y: Any, radius: float, steps: int) -> Any:
    """Inputs of the ball and of [0, 1], by gradient ascent of the cross-entropy."""
    import torch

    moved = torch.zeros_like(x)
    for _ in range(steps):
        moved.requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(x + moved), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        step = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        moved = moved.detach() + 2 * radius / steps * step
        moved = moved * (radius / moved.flatten(1).norm(dim=1).clamp_min(radius))[:, None, None, None]
        moved = (x + moved).clamp(0, 1) - x
    return x + moved.detach()


def trained(name: str, radius: float, steps: int, count: int, decay: float) -> Any:
    """Every step is taken on images that are attacked in three steps; the radius grows over the first third."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEEDS["weights"])
    model = network(name)
    x, y = (torch.from_numpy(each) for each in images(count, SEEDS["training"]))
    x = x.float()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(count, (100,))
        inputs = attacked(model, x[rows], y[rows], radius * min(1.0, 3 * (step + 1) / steps), 3)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def save(model: Any, path: Path) -> None:
    """As ONNX, with an open batch axis."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from torch import nn

    kinds: dict[Any, tuple[str, dict[str, Any]]] = {
        nn.Conv2d: ("Conv", {"strides": [2, 2]}),
        nn.Linear: ("Gemm", {"transB": 1}),
        nn.ReLU: ("Relu", {}),
        nn.Flatten: ("Flatten", {}),
    }
    nodes, weights, last = list[Any](), list[Any](), "x"
    for at, layer in enumerate(model):
        names = [last]
        for part, value in layer.named_parameters():
            names.append(f"{at}.{part}")
            weights.append(numpy_helper.from_array(value.detach().numpy(), names[-1]))
        last, (kind, given) = f"value{at}", kinds[type(layer)]
        nodes.append(helper.make_node(kind, names, [last], **given))
    values = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, ["N", *shape])
        for key, shape in (("x", [1, SIDE, SIDE]), (last, [CLASSES]))
    ]
    graph = helper.make_graph(nodes, path.stem, values[:1], values[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


# -- the table ---------------------------------------------------------------------------------------------------------
def measured(name: str, told: Any) -> tuple[Array, list[float]]:
    """Samples that constants alone certify, by radius; seconds.

    A sample of each step at the last radius: constants with their search, over all samples; then logits, attack, linear
    bounds, for ten that need the last.
    """
    from specnorm_networks import certified_accuracy, network_graph, within
    from specnorm_networks.local.radii import Radii
    from specnorm_networks.tools import Measure

    data, radii = np.load(FOLDER / told["data"]), [each["radius"] for each in told["radii"]]
    status = np.array([row["status"] for row in told["samples"]]).T
    x, y = data["x"].astype(float), data["y"].astype(int)
    graph = within(network_graph(FOLDER / f"{name}.onnx", {"x": (1, 1, SIDE, SIDE)}), 0, 1)
    start = time.process_time()
    real = certified_accuracy(graph, x, y, radii)
    seconds = [(time.process_time() - start) / len(x)]
    of, left = Radii(graph, real.margins, Measure()), (real.radius <= radii[-1]) & (status[-1] != "unsafe")
    steps = (
        lambda x, _: graph.run({"x": x}),
        lambda x, y: of.attacked(x, y, radii[-1]),
        lambda x, y: of.proven(x, y, radii[-1]),
    )
    for step in steps:
        start = time.process_time()
        for at in np.flatnonzero(left)[:10]:
            step(x[at : at + 1], y[at])
        seconds.append((time.process_time() - start) / 10)
    return np.round(real.accuracy * len(x)).astype(int), seconds


def table(names: Sequence[str]) -> list[str]:
    """Lines of the page's tables, from the stored JSON."""
    lines = list[str]()
    for name in names:
        told = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        rows = told["samples"]
        clean = sum(row["label"] == row["predicted"] for row in rows)
        alone, seconds = measured(name, told)
        for each, before in zip(told["radii"], alone, strict=True):
            left, safe = len(rows) - each["unsafe"], each["safe"]
            shares = " | ".join(f"{100 * n / len(rows):g} %" for n in (clean, left, before, safe))
            gap = f"{100 * (safe - before) / (left - before):.0f} %"
            lines.append(f"| {name} | {each['radius']:g} | {shares} | {gap} |")
        lines.append(f"| {name} | " + " | ".join(f"{each:.2g} s" for each in seconds) + " |")
    return lines


def main(given: Sequence[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("name", nargs="*", default=["dense", "conv"])
    asked = parser.parse_args(given)
    if asked.what == "table":
        print("\n".join(table(asked.name)))
        return
    for file, count in COUNTS.items():
        x, y = images(count, SEEDS["test"])
        np.savez_compressed(FOLDER / file, x=x.astype(np.float16), y=y.astype(np.uint8))
    for name in asked.name:
        save(trained(name, 1.0, {"dense": 1200, "conv": 500}[name], 10_000, 1e-3), FOLDER / f"{name}.onnx")


if __name__ == "__main__":
    main()
