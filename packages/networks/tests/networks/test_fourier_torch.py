"""Linear layers that compute by Fourier transforms are read as circular convolutions or matrices: their own norms."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
from helpers.checks import present  # noqa: E402
from networks.torch_modules import Function, jacobian_norm  # noqa: E402
from networks.zoo import fourier  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from specnorm_networks.sources import torch_fourier  # noqa: E402
from torch import fft, nn  # noqa: E402

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


def _wave(x: Any) -> Any:
    """The first wave alone: a constant input is answered with exact zeros."""
    return fft.irfft(fft.rfft(x) * torch.tensor([0.0, 1.0, 0.0, 0.0]), 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_filter_without_mean_is_compared_with_a_constant_input(dtype: Any) -> None:
    """It was refused as "exported otherwise": the convolution has rounding errors where the transform gives zeros."""
    model = Function(_wave)
    assert not model(torch.full((1, 1, 6), 0.75, dtype=dtype)).any()
    found = network_bound(model, (torch.zeros(1, 1, 6, dtype=dtype),))
    assert found.checked.complete
    assert found.upper == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    "function",
    [lambda x: torch.view_as_real(fft.rfft(x)), lambda x: fft.irfft(x, n=5), lambda x: fft.rfft(x).abs()],
    ids=["frequencies", "another length", "sizes"],
)
def test_transforms_that_are_no_convolution_are_refused_by_name(function: Any) -> None:
    with pytest.raises(MethodError, match="not seen to be a circular convolution"):
        network_bound(Function(function), (4,))


def test_what_is_not_linear_is_refused() -> None:
    def gated(x: Any) -> Any:
        z = fft.rfft(x)
        return fft.irfft(z * z.abs())

    with pytest.raises(MethodError, match="not seen to be a circular convolution"):
        network_bound(Function(gated), (1, 8))


def test_frequencies_as_complex_outputs_are_refused_by_name() -> None:
    """As the search for a convolution failed there, torch was said not to export the model."""
    with pytest.raises(MethodError, match="computes complex values"):
        network_bound(Function(fft.rfft), (1, 8))


def test_a_wrong_layer_in_place_of_transforms_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layer is not compared with what it stands for, the model's output still is."""
    right: Any = torch_fourier._convolution

    def wrong(*given: Any) -> Any:
        layer = right(*given)
        for weight in layer.parameters():
            weight.mul_(1.01)
        return layer

    monkeypatch.setattr(torch_fourier, "_convolution", wrong)
    monkeypatch.setattr(torch_fourier, "equal_but_for_rounding", lambda *_: True)
    with pytest.raises(TranslationError, match="exported otherwise"):
        network_bound(fourier.Cayley(2, 2, 3).eval(), (2, 4, 4))
