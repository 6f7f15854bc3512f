"""Torch modules through ONNX: the same bounds as their traces, and nothing that the exporter changes unseen."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from specnorm_networks import bound  # noqa: E402
from specnorm_networks.sources import torch_translations  # noqa: E402
from specnorm_networks.sources.reading import graph_of  # noqa: E402
from specnorm_networks.sources.torch_module import export  # noqa: E402
from specnorm_torch import network_bound  # noqa: E402
from torch import nn  # noqa: E402

from specnorm.errors import MethodError, TranslationError  # noqa: E402


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.inner = function, nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.function(self.inner, x)


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        ),
        (3, 8, 8),
    ),
    "a divisor": (lambda: nn.AvgPool2d(3, 2, 1, divisor_override=2), (2, 7, 7)),
    "an orthogonal weight": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), (8,)),
    "functions": (lambda: nn.Sequential(nn.Softplus(2.0, 30.0), nn.LogSigmoid(), nn.Threshold(0.0, 0.0)), (4,)),
    "in place": (lambda: nn.Sequential(nn.ReLU(True), nn.Linear(4, 4)), (4,)),
    "one sample alone": (lambda: Applied(lambda inner, x: inner(x.view(1, 4))), (4,)),
    "a constant named as a method": (
        lambda: Applied(lambda inner, x: inner(x) @ (2 * torch.ones(4, 4)).double().float()),
        (4,),
    ),
    "sizes": (lambda: Applied(lambda inner, x: inner(x.view(x.shape[0], 2, 2).flatten(1))), (4,)),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_bound_is_that_of_the_trace(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    found = bound(graph_of(export(model, shape)))
    assert found.checked.complete
    assert found.upper == pytest.approx(network_bound(model, shape).upper, rel=1e-6)


def test_what_the_exporter_drops_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes an average over its window, whatever the divisor."""
    without = {key: write for key, write in torch_translations.table().items() if "avg_pool2d" not in str(key)}
    monkeypatch.setattr(torch_translations, "table", lambda: without)
    with pytest.raises(TranslationError, match="avg_pool2d"):
        bound(graph_of(export(nn.AvgPool2d(2, divisor_override=3), (1, 4, 4))))


def test_samples_that_are_mixed_are_refused() -> None:
    with pytest.raises(TranslationError, match="samples together"):
        bound(graph_of(export(Applied(lambda inner, x: inner(x - x.mean(0))), (4,))))


def test_random_numbers_are_refused_by_name() -> None:
    with pytest.raises(MethodError, match="random"):
        export(Applied(lambda inner, x: inner(x) + torch.rand_like(x)), (4,))


def test_memory_written_behind_the_trace_is_refused() -> None:
    def write(inner: Any, x: Any) -> Any:
        out = inner(x)
        out.data[..., 0] = 0
        return out

    with pytest.raises(MethodError, match="cannot export"):
        export(Applied(write), (4,))
