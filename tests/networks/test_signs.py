"""A value that is subtracted, or multiplied by a negative number in a product, keeps its sign in sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import specnorm  # noqa: E402

EYE = torch.eye(3)
SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "a constant less a value": lambda h: (1 - h) - torch.relu(h),
    "by rsub": lambda h: torch.rsub(h, 1.0, alpha=2) - torch.relu(h),
    "a negative factor of a sum": lambda h: torch.sub(torch.ones(3), h, alpha=2) - torch.relu(h),
    "a negative factor of a product": lambda h: torch.addmm(torch.zeros(3), torch.relu(h), EYE, alpha=-1) - h,
}


class Sum(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(3, 3, bias=False), function
        self.layer.weight.data = EYE.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


@pytest.mark.parametrize("name", SUMS)
def test_torch(name: str) -> None:
    """The slope of each entry above 0 is the constant, and reached."""
    model = Sum(SUMS[name])
    x = torch.ones(1, 3)
    with torch.no_grad():
        reached = (model(x + 0.5) - model(x)).norm() / (0.5 * torch.ones(1, 3)).norm()
    found = network_bound(model, (3,)).upper
    assert found is not None
    assert float(reached) * (1 - 1e-6) <= found <= 3.01


@pytest.mark.parametrize("operator", ["Sub", "Gemm"])
def test_onnx(tmp_path: Path, operator: str) -> None:
    """-h - relu(h) for h = x: the constant is 2."""
    eye = numpy_helper.from_array(np.eye(3, dtype=np.float32), "eye")
    one = numpy_helper.from_array(np.ones((1, 3), dtype=np.float32), "one")
    nodes = [helper.make_node("Gemm", ["x", "eye"], ["h"]), helper.make_node("Relu", ["h"], ["r"])]
    if operator == "Sub":
        nodes += [helper.make_node("Sub", ["one", "h"], ["n"]), helper.make_node("Sub", ["n", "r"], ["y"])]
    else:
        nodes += [helper.make_node("Gemm", ["r", "eye"], ["n"], alpha=-1.0), helper.make_node("Sub", ["n", "h"], ["y"])]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "signs", ends[:1], ends[1:], [eye, one])
    path = tmp_path / "signs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    found = specnorm.audit(path).network
    assert found is not None
    assert found.upper == pytest.approx(2, rel=1e-3)
