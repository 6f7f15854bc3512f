"""ONNX graphs and torch modules get one bound; ascent from a photograph through a published model stays below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
from auditing.onnx_models import graph_of  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx_in_torch import run_onnx  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Product,
    bound,
)

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


def exported(nodes: list[Any], constants: dict[str, Any], shape: list[Any], folder: Path, *, opset: int = 17) -> Path:
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    given, made = helper.make_tensor_value_info("x", 1, shape), helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "g", [given], [made], arrays)
    path = folder / "sizes.onnx"
    # A version of the format that older runtimes read.
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


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
