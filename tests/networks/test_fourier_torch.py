"""Linear layers that compute by Fourier transforms are read as circular convolutions, whose norm is the layer's own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from checks import present  # noqa: E402
from networks.torch_modules import Function, jacobian_norm  # noqa: E402
from networks.zoo import fourier  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from specnorm_networks.sources import torch_fourier  # noqa: E402
from torch import nn  # noqa: E402

from specnorm.errors import MethodError, TranslationError  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "Cayley": (lambda: fourier.Cayley(3, 4, 3), (3, 6, 6)),
    "Cayley, fewer": (lambda: fourier.Cayley(4, 2, 3, bias=False), (4, 5, 5)),
    "LOT": (lambda: fourier.Lot(3, 3, 3), (3, 6, 6)),
    "ECO": (lambda: fourier.Eco(3, 3, 3), (3, 6, 6)),
    "a real part": (lambda: fourier.Real(3, 3, 3), (3, 4, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.sampled("Cayley, fewer")
def test_an_orthogonal_layer_has_norm_1(name: str) -> None:
    """They had no bound: "computes complex values"."""
    make, shape = LAYERS[name]
    layer = make().eval()
    found = network_bound(nn.Sequential(layer, nn.ReLU()), shape)
    assert found.checked.complete
    assert found.checked.samples == (2, 3, 16)
    reached = jacobian_norm(layer, torch.randn(*shape))
    assert reached * (1 - 1e-5) <= present(found.upper) <= 1.001


def test_a_sandwich_is_two_layers() -> None:
    """Its constant is 1; the product of both is known here."""
    layer = fourier.Sandwich(3, 4, 3).eval()
    shape = (3, 6, 6)
    found = network_bound(layer, shape)
    assert found.checked.complete
    assert max(jacobian_norm(layer, torch.randn(*shape)) for _ in range(5)) <= present(found.upper) <= 2.001
    assert [step.operator for step in found.nodes].count("Conv") == 2


@pytest.mark.parametrize("size", [(1, 4, 4), (1, 3, 5)])
def test_what_is_no_convolution_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(MethodError, match="not seen to be a circular convolution"):
        network_bound(fourier.Shifting(), size)


def test_frequencies_as_outputs_are_refused_by_name() -> None:
    """As the search for a convolution failed there, torch was said not to export the model."""
    with pytest.raises(MethodError, match="computes complex values"):
        network_bound(Function(lambda x: torch.view_as_real(torch.fft.rfft(x))), (1, 8))


def test_another_kernel_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the convolution is not compared with what it stands for, the model's output still is."""
    monkeypatch.setattr(torch_fourier, "equal_but_for_rounding", lambda *_: True)
    with pytest.raises(TranslationError, match="exported otherwise"):
        network_bound(fourier.Shifting(), (1, 4, 4))
