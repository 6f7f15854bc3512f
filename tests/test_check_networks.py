"""docs/check.py on networks: what it proves of an ONNX file no inputs contradict, and nothing false is proven."""

from __future__ import annotations

import importlib
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_check import CHECK

onnx: Any = pytest.importorskip("onnx", reason="ONNX files: pip install onnx")

DOCS = Path(__file__).parent.parent / "docs"
PUBLISHED = json.loads((DOCS / "reference-networks.json").read_text(encoding="utf-8"))


class Captured(Exception):
    """The kernel of a part, as the program makes it."""


def claim_of(path: Path, parts: list[dict[str, Any]], upper: float) -> tuple[dict[str, Any], Any, Any]:
    """A claim whose parts have no numbers yet, the model's arrays and the model."""
    arrays, model = CHECK.read_model(path)
    (start,) = (one for one in model.graph.input if one.name not in arrays)
    shape = [size.dim_value or f"n{at}" for at, size in enumerate(start.type.tensor_type.shape.dim)]
    tensors = {name: CHECK.digest(array) for name, array in arrays.items()}
    claim = {"claim": "network", "name": "network", "of": "f", "input_shape": shape, "tensors": tensors, "parts": parts}
    return {**claim, "upper": upper.hex()}, arrays, model


def finished(claim: dict[str, Any], arrays: Any, path: Path, monkeypatch: pytest.MonkeyPatch, slack: float) -> None:
    """Give each part a number just above its kernel's largest eigenvalue on a fine grid, and that grid."""
    network = CHECK.Network(CHECK.read_model(path)[1], arrays, claim, False)
    for part in claim["parts"]:
        sizes = [network.shapes[name][1:] for name in (part["start"], *part["values"])]
        count = [math.prod(shape) if part["units"] else shape[0] for shape in sizes]
        part.setdefault("weights", [[(1.0).hex()] * n for n in count])
        part.update(upper=(1.0).hex(), proof={"grid": []})

        def grab(whole: Any, *_: Any) -> None:
            raise Captured(whole[0])

        with monkeypatch.context() as patch:
            patch.setattr(CHECK, "bounded", grab)
            with pytest.raises(Captured) as caught:
                network.joint(part, [np.array([float.fromhex(x) for x in w]) for w in part["weights"]])
        kernel = caught.value.args[0]
        points = [1 if n == 1 else 24 for n in kernel.shape[2:]]
        where = np.array(list(np.ndindex(*kernel.shape[2:]))).reshape(-1, kernel.ndim - 2) if kernel.ndim > 2 else None
        if where is None:
            largest = float(np.linalg.eigvalsh(kernel)[-1])
        else:
            angles = 2 * np.pi * np.array(list(np.ndindex(*points))) / np.array(points)
            waves = np.exp(1j * angles @ (where - np.array(kernel.shape[2:]) // 2).T)
            symbols = np.einsum("ft,abt->fab", waves, kernel.reshape(*kernel.shape[:2], -1))
            largest = float(np.linalg.eigvalsh(symbols)[:, -1].max())
        part.update(upper=(largest * (1 + (slack if where is not None else 1e-9))).hex(), proof={"grid": points})


def least_proven(claim: dict[str, Any], arrays: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The lowest constant that the claim's parts prove, to a millionth: these are proven once, with that constant."""
    low, high = -20.0, 40.0
    with monkeypatch.context() as patch:
        patch.setattr(CHECK, "bounded", lambda *_: 0)
        while high - low > 1e-6:
            middle = (low + high) / 2
            try:
                CHECK.check({**claim, "upper": math.exp(middle).hex()}, arrays, CHECK.read_model(path)[1])
            except CHECK.Refuted:
                low = middle
            else:
                high = middle
    CHECK.check({**claim, "upper": math.exp(high).hex()}, arrays, CHECK.read_model(path)[1])
    return math.exp(high)


def parts_of(*each: tuple[str, list[str], bool]) -> list[dict[str, Any]]:
    return [{"start": start, "values": values, "units": units} for start, values, units in each]


PARTS = {
    "dense-relu": [[("x", ["s", "y"], False)], [("x", ["h"], False), ("s", ["y"], False)], [("x", ["s", "y"], True)]],
    "dense-abs": [[("x", ["s", "y"], False)], [("x", ["h"], False), ("s", ["y"], False)]],
    "convolutions": [[("x", ["s", "y"], False)], [("x", ["s", "y"], True)], [("x", ["h"], True), ("s", ["y"], True)]],
    "pooling": [[("x", ["s"], False), ("f", ["y"], False)], [("x", ["h"], True), ("f", ["y"], False)]],
    "residual": [[("x", ["s", "y"], False)], [("x", ["h"], False), ("s", ["r"], False)]],
}


@pytest.mark.parametrize("name", PARTS)
def test_reference_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No constant below what a published pair of inputs attains; and one that is not much more than the rules'."""
    path = DOCS / "reference-networks" / f"{name}.onnx"
    (published,) = (
        one for one in PUBLISHED["networks"] if one["name"] == name or one.get("file", "").endswith(path.name)
    )
    for parts in PARTS[name]:
        claim, arrays, model = claim_of(path, parts_of(*parts), 1.0)
        finished(claim, arrays, path, monkeypatch, 0.05)
        found = least_proven(claim, arrays, path, monkeypatch)
        assert published["lower"] <= found <= 20 * published["upper"]
        wrong = {key: array.copy() for key, array in arrays.items()}
        last = next(key for key, array in wrong.items() if array.ndim > 1)
        wrong[last].flat[0] = np.nextafter(wrong[last].flat[0], np.inf)
        with pytest.raises(CHECK.Refuted, match="other bits"):
            CHECK.check({**claim, "upper": found.hex()}, wrong, model)


@pytest.mark.parametrize("scale", [1e-2, 0.1, 10.0, 1e2])
@pytest.mark.parametrize("name", ["dense-relu", "dense-abs", "residual"])
def test_no_weights_prove_too_little(name: str, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the values in between are weighed: what couples them cannot be left out."""
    path = DOCS / "reference-networks" / f"{name}.onnx"
    (published,) = (one for one in PUBLISHED["networks"] if one["name"] == name)
    claim, arrays, _ = claim_of(path, parts_of(("x", ["s", "y"], False)), 1.0)
    network = CHECK.Network(CHECK.read_model(path)[1], arrays, claim, False)
    sizes = [network.shapes[one][1] for one in ("x", "s", "y")]
    claim["parts"][0]["weights"] = [[w.hex()] * n for w, n in zip((1.0, scale, 1.0), sizes, strict=True)]
    finished(claim, arrays, path, monkeypatch, 0.0)
    assert least_proven(claim, arrays, path, monkeypatch) >= published["lower"]


@pytest.mark.parametrize("seed", range(4))
def test_one_normalised_layer_is_its_matrix(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By units, against singular values of what ONNX's evaluator computes."""
    ReferenceEvaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator

    path, _, _ = drawn(seed, tmp_path)
    parts: Any = parts_of(("x", ["n0"], True))
    claim, arrays, model = claim_of(path, parts, 1.0)
    model.graph.output[0].name = "n0"
    onnx.save(model, path)
    finished(claim, arrays, path, monkeypatch, 0.0)
    found = least_proven(claim, arrays, path, monkeypatch)
    basis = np.eye(math.prod(claim["input_shape"])).reshape(-1, *claim["input_shape"])
    evaluator = ReferenceEvaluator(model)
    matrix = np.array([evaluator.run(None, {"x": x})[0].ravel() for x in basis])
    truth = float(np.linalg.norm(matrix, 2))
    assert truth * (1 - 1e-12) <= found <= truth * (1 + 1e-5)


def drawn(seed: int, folder: Path) -> tuple[Path, list[Any], Any]:
    """A small network of convolutions, its parts and a function that computes it in float64."""
    draw = np.random.RandomState(seed)
    stride, residual, axes = int(draw.choice([1, 2])), bool(draw.randint(2)), int(draw.choice([1, 2]))
    c, n = 2, 6 if axes == 1 else 4
    kernels = [draw.standard_normal((c, c, *[int(draw.choice([1, 3]))] * axes)) for _ in range(3)]
    scale, variance = draw.uniform(0.5, 2, c), draw.uniform(0.5, 2, c)
    names = ["a", "b", "d"]
    make = onnx.helper.make_node
    before = "x"
    nodes: list[Any] = []
    for at, (name, kernel) in enumerate(zip(names, kernels, strict=True)):
        pads = [(k - 1) // 2 for k in kernel.shape[2:]] * 2
        steps = [stride if at == 0 else 1] * axes
        nodes.append(make("Conv", [before, f"k{at}"], [f"v{at}"], pads=pads, strides=steps))
        if at == 0:
            nodes.append(make("BatchNormalization", ["v0", "scale", "zero", "zero", "variance"], ["n0"], epsilon=0.125))
        source = "n0" if at == 0 else f"v{at}"
        if at == 2 and residual:
            nodes.append(make("Add", ["a", "v2"], ["sum"]))
            source = "sum"
        nodes.append(make(["Relu", "Abs", "Tanh"][draw.randint(3)], [source], [name]))
        before = name
    double, tensor_of = onnx.TensorProto.DOUBLE, onnx.helper.make_tensor_value_info
    arrays = {f"k{at}": kernel for at, kernel in enumerate(kernels)}
    arrays |= {"scale": scale, "variance": variance, "zero": np.zeros(c)}
    graph = onnx.helper.make_graph(
        nodes, "g", [tensor_of("x", double, [1, c, *[n] * axes])], [tensor_of("d", double, [1, c, *[None] * axes])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{seed}.onnx"
    onnx.save(model, path)
    ReferenceEvaluator: Any = importlib.import_module("onnx.reference").ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(model)
    shape = (1, c, *[n] * axes)

    def steepest() -> float:
        """Largest quotient that some pairs reach, driven by what a pair's difference is mapped to."""
        best = 0.0
        for _ in range(6):
            x, step = draw.standard_normal(shape) * 3, draw.standard_normal(shape)
            for _ in range(15):
                step = step * (1e-4 / np.linalg.norm(step))
                change = evaluator.run(None, {"x": x + step})[0] - evaluator.run(None, {"x": x})[0]
                quotient = float(np.linalg.norm(change)) / 1e-4
                best = max(best, quotient * (1 - 1e-6))
                step = step + 3e-5 * draw.standard_normal(shape)
        return best

    units = bool(draw.randint(2))
    parts: list[Any] = parts_of(("x", names, units))
    sizes = [math.prod(shape[1:]) if units else c] + [
        c * (math.ceil(n / stride) ** axes if units else 1) for _ in names
    ]
    parts[0]["weights"] = [[float(x).hex() for x in draw.uniform(0.5, 2, m)] for m in sizes]
    return path, parts, steepest


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_never_steeper_than_proven(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains and residual ones, strided, normalised, with weights at random, by channels and by units."""
    path, parts, steepest = drawn(seed, tmp_path)
    claim, arrays, _ = claim_of(path, parts, 1.0)
    finished(claim, arrays, path, monkeypatch, 0.1)
    found = least_proven(claim, arrays, path, monkeypatch)
    assert found >= steepest()
    part: Any = claim["parts"][0]
    number = CHECK.number(part["upper"])
    for wrong in (number * Fraction(9, 10), number * Fraction(999, 1000) / Fraction(11, 10)):
        part["upper"] = float(wrong).hex()
        with pytest.raises((CHECK.Refuted, np.linalg.LinAlgError), match=r"positive definite|at a frequency|rounding"):
            CHECK.check({**claim, "upper": (1e300).hex()}, arrays, CHECK.read_model(path)[1])


def test_what_is_not_known_is_not_covered(tmp_path: Path) -> None:
    """Operators without a rule, and attributes that change what a known one computes."""
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    for nodes in (
        [make("Exp", ["x"], ["y"])],
        [make("Mul", ["x", "x"], ["y"])],
        [make("PRelu", ["x", "x"], ["y"])],
        [make("AveragePool", ["x"], ["y"], kernel_shape=[3], pads=[1, 1])],
        [make("MaxPool", ["x"], ["y"], kernel_shape=[3], strides=[2], ceil_mode=1)],
        [make("MaxPool", ["x"], ["y"], kernel_shape=[3], auto_pad="SAME_UPPER")],
    ):
        inputs = [value("x", onnx.TensorProto.FLOAT, [1, 1, 8])]
        graph = onnx.helper.make_graph(nodes, "g", inputs, [value("y", onnx.TensorProto.FLOAT, [None] * 3)])
        path = tmp_path / "model.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
        claim, arrays, model = claim_of(path, [], 1e300)
        with pytest.raises(CHECK.NotCovered):
            CHECK.check(claim, arrays, model)
