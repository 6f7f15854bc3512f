"""ONNX graphs and torch modules get one bound; ascent from a photograph through a published model stays below it."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
onnx = pytest.importorskip("onnx", exc_type=ImportError)
import numpy as np  # noqa: E402
from audit.onnx_models import graph_of  # noqa: E402
from onnx_in_torch import run_onnx  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Product,
    bound,
)

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
