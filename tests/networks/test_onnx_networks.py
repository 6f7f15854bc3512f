"""ONNX graphs and torch modules get one bound; ascent from a photograph through a published model stays below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from auditing.onnx_models import graph_of  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx_in_torch import run_onnx  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Product,
    bound,
    network_bound,
)
from torch import Tensor, nn  # noqa: E402

import specnorm  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
MODEL = DATA / "rfb320" / "version-RFB-320_simplified.onnx"


@pytest.mark.nightly
def test_ascent_through_the_published_model() -> None:
    """By the rules alone: the search for what layers have together takes half a minute, and pairs of images test it."""
    found = bound(graph_of(MODEL), method=Product())
    assert found.upper is not None
    proto = onnx.load(str(MODEL))
    torch.manual_seed(0)
    with np.load(DATA / "photograph" / "photograph.npz") as file:
        pixels = torch.tensor(file["rgb"], dtype=torch.float32)
    x = ((pixels - 127) / 128).permute(2, 0, 1)[None]  # as the model's authors feed it
    scores = run_onnx(proto, x)[: 2 * 4420].reshape(-1, 2)
    assert scores[:, 1].max() > 0.99  # there is a face, and the model finds it
    x = x.requires_grad_()
    d = (0.1 * torch.randn_like(x)).requires_grad_()
    ascent, ratios = torch.optim.Adam([x, d], lr=0.02), []
    for _ in range(40):
        ratio = (run_onnx(proto, x + d) - run_onnx(proto, x)).norm() / d.norm()
        ratios.append(float(ratio.detach()))
        ascent.zero_grad()
        (-ratio).backward()
        ascent.step()
    assert ratios[0] < max(ratios) <= found.upper


def test_onnx_and_torch_agree(tmp_path: Path) -> None:
    """One network, written in both: residual, batch norm, overlapping pooling, concatenation, transposed."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n = nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4)
            self.b, self.c = nn.Conv2d(4, 4, 3, 1, 1, groups=2), nn.ConvTranspose2d(8, 2, 3, 2, 1, 1)
            self.d = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.leaky_relu(self.n(self.a(x)), 0.1)
            x = torch.cat([x + self.b(x), F.max_pool2d(x, 3, 1, 1)], 1)
            y: Tensor = self.d(torch.sigmoid(self.c(x)).mean((2, 3)))
            return y

    torch.manual_seed(0)
    model = Network().eval()
    model.n.get_buffer("running_var").uniform_(0.1, 2)
    model.n.weight.data.uniform_(-2, 2)
    arrays = {name: x.numpy() for name, x in model.state_dict().items()}
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "a.weight", "a.bias"], ["1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["1", "n.weight", "n.bias", "n.running_mean", "n.running_var"], ["2"]),
        make("LeakyRelu", ["2"], ["3"], alpha=0.1),
        make("Conv", ["3", "b.weight", "b.bias"], ["4"], group=2, pads=[1, 1, 1, 1]),
        make("Add", ["3", "4"], ["5"]),
        make("MaxPool", ["3"], ["6"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make("Concat", ["5", "6"], ["7"], axis=1),
        make(
            "ConvTranspose",
            ["7", "c.weight", "c.bias"],
            ["8"],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 1],
        ),
        make("Sigmoid", ["8"], ["9"]),
        make("ReduceMean", ["9"], ["10"], axes=[2, 3], keepdims=0),
        make("Gemm", ["10", "d.weight", "d.bias"], ["y"], transB=1),
    ]
    given, made = helper.make_tensor_value_info("x", 1, [1, 2, 12, 12]), helper.make_tensor_value_info("y", 1, [1, 3])
    constants = [numpy_helper.from_array(x, name) for name, x in arrays.items() if x.ndim]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [given], [made], constants), opset_imports=[helper.make_opsetid("", 17)]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    there, here = specnorm.audit(path).network, network_bound(model, (2, 12, 12))
    assert there is not None
    assert here.upper is not None
    assert there.upper == pytest.approx(here.upper, rel=4e-3)
    assert there.heuristic == pytest.approx(here.heuristic, rel=1e-5)
    folded = [step.rule for step in there.nodes if step.layer == "a.weight"]
    assert folded == ["layer", "layer, scaled"] == [step.rule for step in here.nodes if step.layer == "a.weight"]


def exported(nodes: list[Any], constants: dict[str, Any], shape: list[Any], folder: Path, *, opset: int = 17) -> Path:
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    given, made = helper.make_tensor_value_info("x", 1, shape), helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "g", [given], [made], arrays)
    path = folder / "sizes.onnx"
    # A version of the format that older runtimes read.
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def test_arithmetic_on_sizes_gives_constants(tmp_path: Path) -> None:
    """The head of a detector as exporters write it: sizes are read off, and a grid is made of them."""
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w"], ["z"], strides=[2, 2], pads=[1, 1, 1, 1]),
        make("Shape", ["z"], ["s"]), make("Gather", ["s", "2"], ["h"]), make("Gather", ["s", "3"], ["v"]),
        # (1, 2, 3, h, v)
        make("Unsqueeze", ["h", "0"], ["h1"]), make("Unsqueeze", ["v", "0"], ["v1"]),
        make("Concat", ["123", "h1", "v1"], ["split"], axis=0), make("Reshape", ["z", "split"], ["boxes"]),
        # The grid: column numbers, as many rows as there are; -1 in a shape is 1.
        make("Range", ["0s", "v", "1s"], ["columns"]), make("Cast", ["columns"], ["floats"], to=1),
        make("Concat", ["h1", "minus"], ["wanted"], axis=0), make("Equal", ["wanted", "minus"], ["left"]),
        make("Where", ["left", "1v", "wanted"], ["size"]), make("Expand", ["floats", "size"], ["grid"]),
        make("Add", ["boxes", "grid"], ["places"]),
        # A stride from the sizes, through floats.
        make("Slice", ["s", "2v", "4v"], ["hv"]), make("Cast", ["hv"], ["f"], to=1), make("Div", ["32f", "f"], ["q"]),
        make("Ceil", ["q"], ["strides"]), make("ReduceProd", ["hv"], ["pixels"], keepdims=0),
        make("Gather", ["strides", "0s"], ["stride"]), make("Mul", ["places", "stride"], ["scaled"]),
        make("Unsqueeze", ["pixels", "0"], ["p1"]), make("Concat", ["16", "p1"], ["flat"], axis=0),
        make("Reshape", ["scaled", "flat"], ["y"]),
    ]  # fmt: skip
    integers = {"2": 2, "3": 3, "0": [0], "0s": 0, "1s": 1, "123": [1, 2, 3], "minus": [-1], "1v": [1], "2v": [2]}
    constants: dict[str, Any] = {name: np.asarray(value, np.int64) for name, value in integers.items()}
    constants |= {"4v": np.asarray([4]), "16": np.asarray([1, 6]), "32f": np.asarray([30.0], np.float32)}
    kernel = np.sin(np.arange(54.0) ** 2).reshape(6, 1, 3, 3).astype(np.float32)
    path = exported(nodes, constants | {"w": kernel}, [1, 1, "h", "v"], tmp_path)
    found = specnorm.audit(path, input_shape=(16, 24)).network
    assert found is not None
    assert found.upper is not None
    norm = specnorm.enclose(kernel, stride=2, padding=1, input_shape=(16, 24), rtol=1e-3).upper
    assert found.upper == pytest.approx(4 * float(norm), rel=2e-3)  # 30 / 8, rounded up
    assert found.nodes[-1].upper == found.upper
    dice = np.random.default_rng(0)
    one, other = dice.normal(size=(2, 1, 1, 16, 24)).astype(np.float32)
    run: Any = ReferenceEvaluator(str(path)).run
    a, b = (run(None, {"x": x})[0] for x in (one, other))
    assert a.shape == (1, 6, 96)
    assert 0.3 * found.upper < np.linalg.norm(a - b) / np.linalg.norm(one - other) <= found.upper
    unsized = specnorm.audit(path).network
    assert unsized is not None
    assert "give the input shape" in unsized.unknown[0].reason


@pytest.mark.parametrize(("told", "shape", "norm"), [
    ({"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 1, 8, 8), 1.0),
    ({"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "p": 2}, (1, 1, 9, 7), 2.0),
    ({"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, (1, 1, 7, 7), 3.0),
    ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, (1, 1, 8, 8), 1.0),
    ({"kernel_shape": [2, 2], "dilations": [2, 2]}, (1, 1, 8, 8), 2.0),
    ({"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 1, "h", "w"), 1.0),
    ({"kernel_shape": [3, 3], "p": 1}, (1, 1, 8, 8), "p=1"),
    ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, (1, 1, 8, 7), "ceil_mode"),
    ({"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, (1, 1, "h", "w"), "ceil_mode"),
])  # fmt: skip
def test_euclidean_pooling(told: dict[str, Any], shape: tuple[Any, ...], norm: float | str, tmp_path: Path) -> None:
    """Of order 2 and of whole windows; onnxruntime's outputs move by no more, and for constants by that much."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("LpPool", ["z"], ["y"], **told)]
    path = exported(nodes, {"w": np.ones((1, 1, 1, 1), np.float32)}, list(shape), tmp_path, opset=18)
    found = specnorm.audit(path).network
    assert found is not None
    if isinstance(norm, str):
        assert found.upper is None
        assert [u.operator for u in found.unknown] == ["LpPool"]
        assert norm in found.unknown[0].reason
        return
    assert found.upper is not None
    assert found.upper == pytest.approx(norm, rel=2e-3)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sides = [8 if isinstance(n, str) else n for n in shape]
    base = np.ones(sides, np.float32)
    reached = []
    for moved in (1.25 * base, base + 0.1 * np.random.default_rng(0).normal(size=sides).astype(np.float32)):
        a, b = (session.run(None, {"x": x})[0] for x in (base, moved))
        reached.append(float(np.linalg.norm(b - a) / np.linalg.norm(moved - base)))
    assert 0.7 * found.upper < max(reached) <= found.upper * (1 + 1e-5)


def test_the_norm_of_an_image(tmp_path: Path) -> None:
    """Of order 2 alone, at every size; attained by a multiple of itself."""
    given: list[tuple[dict[str, Any], float | None]] = [({}, 3.0), ({"p": 2}, 3.0), ({"p": 1}, None)]
    for told, upper in given:
        nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("GlobalLpPool", ["z"], ["y"], **told)]
        path = exported(nodes, {"w": np.full((1, 1, 1, 1), -3, np.float32)}, [1, 1, "h", "w"], tmp_path)
        found = specnorm.audit(path).network
        assert found is not None
        assert found.upper == (None if upper is None else pytest.approx(upper, rel=2e-3))
        assert upper is not None or "p=1" in found.unknown[0].reason
