"""ONNX graphs and torch modules get one bound; ascent from a photograph through a published model stays below it."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx_in_torch import run_onnx  # noqa: E402
from specnorm_torch import network_bound  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import specnorm  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
MODEL = DATA / "rfb320" / "version-RFB-320_simplified.onnx"


def test_ascent_through_the_published_model() -> None:
    found = specnorm.audit(MODEL, methods=["reshaped"]).network
    assert found is not None
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
