"""Modules that ask their own tensors what to do, or move them, are traced; those that ask their input are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
from networks.torch_modules import jacobian_norm  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")


class LipNorm(nn.Module):
    """Batch normalisation with one scale for all channels, as deel-torchlip 1.0.5 writes it: sums of an epoch's batches
    that the first call in ``eval()`` averages, and zeros and ones before the first batch."""

    running_sum: Tensor
    running_squares: Tensor
    batches: Tensor
    samples: Tensor

    def __init__(self, features: int, *, normalize: bool = True) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("running_sum", torch.zeros(features))
        self.register_buffer("running_squares", torch.zeros(features))
        self.register_buffer("batches", torch.zeros((1,), dtype=torch.long))
        self.register_buffer("samples", torch.zeros((1,)))
        self.bias = nn.Parameter(0.1 * torch.randn(features))

    def average(self) -> None:
        if self.batches > 1:
            self.running_sum /= self.batches
            self.running_squares /= self.batches
            self.samples = self.samples / self.batches
            self.batches.zero_()
            self.batches += 1

    def forward(self, x: Tensor) -> Tensor:
        shape, count = (1, -1) + (1,) * (x.ndim - 2), self.samples
        if self.training:
            axes = (0, *range(2, x.ndim))
            mean, squares, count = x.mean(axes), (x * x).mean(axes), torch.tensor(x.numel() // x.shape[1])
            with torch.no_grad():
                self.running_sum += mean
                self.running_squares += squares
                self.batches += 1
                self.samples += count
        else:
            self.average()
            if self.batches.item() == 0:
                return x + self.bias.view(shape)
            mean, squares = self.running_sum / self.batches, self.running_squares / self.batches
            count = self.samples
        var = (squares - mean * mean) * (count / (count - 1))
        scale = 1 / torch.where(var < 1e-5, torch.ones_like(var), var).max().sqrt() if self.normalize else 1.0
        return (x - mean.view(shape)) * scale + self.bias.view(shape)


class CentredNorm(nn.Module):
    """Batch normalisation folded in centring form: its buffers are read once, and a flag says so."""

    folded: Tensor
    scale: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm: Any = norm
        self.register_buffer("folded", torch.tensor(False))
        self.register_buffer("scale", torch.ones(norm.num_features))

    def forward(self, x: Tensor) -> Tensor:
        if not self.folded:
            self.scale.copy_(self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps))
            self.folded.fill_(True)
        shape = (1, -1, 1, 1)
        y: Tensor = (x - self.norm.running_mean.view(shape)) * self.scale.view(shape) + self.norm.bias.view(shape)
        return y


def lip_network(normalize: bool, batches: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), LipNorm(3, normalize=normalize), nn.Flatten()).double().train()
    for _ in range(batches):
        model(torch.randn(4, 2, 5, 5, dtype=torch.float64))
    return model


def folded_network() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.get_buffer("running_var").uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(2, 3, 3), CentredNorm(norm), nn.Flatten()).double()


DECIDING = {
    "not yet trained": lambda: lip_network(True, 0),
    "one batch": lambda: lip_network(True, 1),
    "three batches": lambda: lip_network(True, 3),
    "centring": lambda: lip_network(False, 3),
    "folded": folded_network,
}


@pytest.mark.parametrize("case", DECIDING)
@pytest.mark.sampled("three", "not yet")
def test_what_decides_on_a_buffer_is_traced(case: str) -> None:
    """An affine network: its Jacobian's norm is its constant, whichever way it goes."""
    model = DECIDING[case]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = network_bound(model, (2, 5, 5), rtol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    norm = jacobian_norm(model.eval(), torch.zeros(2, 5, 5, dtype=torch.float64))
    assert found.upper is not None
    assert norm * (1 - 1e-9) <= found.upper <= norm * (1 + 1e-4)
    assert found.checked.complete
    assert not found.note


class Deciding(nn.Module):
    """Doubles what it is given where a code of its own says so."""

    def __init__(self, asks: Any) -> None:
        super().__init__()
        self.asks = asks
        self.register_buffer("state", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x if self.asks(self, x) else x


def _kept(module: Any, x: Tensor) -> bool:
    module.state.copy_(x[0])
    return bool(module.state.abs().max() > 100)


def _viewed(module: Any, x: Tensor) -> bool:
    module.state[1:].add_(x[0, 1:])
    return bool(module.state.norm() > 100)


ON_THE_INPUT = {
    "itself": lambda _, x: x.abs().max() > 100,
    "a number of it": lambda _, x: bool(torch.tensor(float(x.abs().max())) > 100),
    "through NumPy": lambda _, x: bool(torch.as_tensor(np.abs(x.detach().numpy()).max()) > 100),
    "a list of it": lambda _, x: bool(torch.tensor(x.tolist()).max() > 100),
    "kept in a buffer": _kept,
    "through a view of a buffer": _viewed,
    "compared with a buffer": lambda m, x: torch.equal(x[0], m.state + 100),
    "chance": lambda m, _: bool(torch.rand(()) > 0.999999) or bool(m.state.sum() > 1),
}


@pytest.mark.parametrize("case", ON_THE_INPUT)
def test_what_decides_on_its_input_is_refused(case: str) -> None:
    """No probe of moderate size sees the other way."""
    with pytest.raises(MethodError, match="cannot export Deciding"):
        network_bound(Deciding(ON_THE_INPUT[case]), (4,))
