"""Functions of one value as torch users write them: of unrolled networks, of activations by hand, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("onnxscript", exc_type=ImportError)
from specnorm_networks import network_bound  # noqa: E402
from torch import nn  # noqa: E402

F: Any = nn.functional
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "soft threshold": (lambda x: torch.sign(x) * F.relu(x.abs() - 0.3), 1.0),
    "ELU by a choice": (lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1), 1.0),
    "GELU by tanh": (lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))), 1.12899307),
    "a square": (lambda x: torch.tanh(x) ** 2, 0.76980036),
    "snake": (lambda x: x + torch.sin(x) ** 2, 2.0),
    "squareplus": (lambda x: 0.5 * (x + torch.sqrt(x * x + 4)), 1.0),
    "rational": (lambda x: x / (1 + x * x), 1.0),
    "sigmoid by exp": (lambda x: 1 / (1 + torch.exp(-x)), 0.25),
    "sigmoid by a quotient": (lambda x: torch.exp(x) / (1 + torch.exp(x)), 0.25),
    "Mish by log and exp": (lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), 1.08849816),
    "sine and cosine": (lambda x: torch.cat([torch.sin(x), torch.cos(x)], 1), 1.0),
    "PReLU by channel, SiLU": (lambda x: F.silu(F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4, 1.0]))), 1.09983935),
    "both parts": (lambda x: torch.cat([torch.relu(x), x - torch.relu(x)], 1), 1.0),
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.sampled("soft", "snake", "PReLU")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_slope_of_the_whole(name: str) -> None:
    function, slope = FUNCTIONS[name]
    found = network_bound(Function(function), (5,))
    assert found.upper is not None
    assert slope * (1 - 1e-7) <= found.upper <= slope * (1 + 1e-4)
    assert found.checked is not None
    assert found.checked.complete


def test_sine_and_cosine_between_layers() -> None:
    """The values are those of another shape than the network's input."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), Function(FUNCTIONS["sine and cosine"][0]), nn.Conv2d(8, 2, 3))
    found = network_bound(model, (2, 8, 8))
    assert found.upper is not None
    x = torch.zeros(1, 2, 8, 8)
    matrix = torch.autograd.functional.jacobian(model, x).reshape(2 * 4 * 4, -1)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= found.upper <= 0.8375


class Spline(nn.Module):
    """A linear spline with values at its knots, as deep splines have it: clamp, floor, two look-ups."""

    def __init__(self, values: Any, step: float) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.step = step

    def forward(self, x: Any) -> Any:
        half = len(self.values) // 2
        y = torch.clamp(x, (1e-5 - half) * self.step, (half - 1e-5) * self.step) / self.step
        low = torch.floor(y)
        at = (low + half).long()
        return self.between(self.values[at], self.values[at + 1], y - low)

    def between(self, first: Any, second: Any, share: Any) -> Any:
        return first * (1 - share) + second * share


class LerpSpline(Spline):
    def between(self, first: Any, second: Any, share: Any) -> Any:
        return torch.lerp(first, second, share)


class ClampedAtKnots(Spline):
    """Clamped at the first knot and at the last but one, divided by the step."""

    extrapolates = False

    def forward(self, x: Any) -> Any:
        half = len(self.values) // 2
        clamped = x.clamp(-half * self.step, (half - 1) * self.step)
        low = torch.floor(clamped / self.step)
        at = (low + half).long()
        share = (x if self.extrapolates else clamped) / self.step - low
        return self.between(self.values[at], self.values[at + 1], share)


class Extrapolating(ClampedAtKnots):
    """Its first and last line go on, as in deep splines with a regularised slope."""

    extrapolates = True


class FloorClamped(Spline):
    """The number of the line is clamped, so that the first and the last go on."""

    def forward(self, x: Any) -> Any:
        half = len(self.values) // 2
        y = x / self.step
        low = torch.floor(y).clamp(-half, half - 1)
        at = (low + half).long()
        return self.between(self.values[at], self.values[at + 1], y - low)


class FloorClampedOfClamped(Spline):
    """Both are clamped, as a function that is constant beyond its knots."""

    def forward(self, x: Any) -> Any:
        half = len(self.values) // 2
        y = x.clamp(-half * self.step, half * self.step) / self.step
        low = torch.floor(y).clamp(-half, half - 1)
        at = (low + half).long()
        return self.between(self.values[at], self.values[at + 1], y - low)


class SplineByChannel(nn.Module):
    """The tables of all channels one after the other, as convex ridge regularisers have them."""

    def forward(self, x: Any) -> Any:
        table = torch.tensor([0.0, 0.5, -1.0, -1.25, 2.0, 0.0, 1.0, 2.0, 3.0, 4.5])
        clamped = x.clamp(-0.49, 0.25)
        low = torch.floor(clamped / 0.25)
        share = clamped / 0.25 - low
        at = (torch.tensor([2, 7]).view(1, -1, 1) + low).long()
        return table[at + 1] * share + table[at] * (1 - share)


@pytest.mark.parametrize("step", [0.1, 1.0])
@pytest.mark.parametrize("kind", [Spline, LerpSpline])
@pytest.mark.sampled("LerpSpline-0.1")
def test_a_linear_spline_has_its_largest_slope(kind: type[Spline], step: float) -> None:
    values = torch.tensor([0.0, 0.5, -1.0, -1.25, 2.0])
    found = network_bound(kind(values, step), (5,))
    assert found.upper is not None
    assert 3.25 / step * (1 - 1e-6) <= found.upper <= 3.25 / step * (1 + 1e-4)
    assert found.checked is not None
    assert found.checked.complete


def test_splines_of_channels_have_the_slopes_between_their_clamps() -> None:
    """The last line of each channel, of slope 3.25, is beyond the clamp, which is at a knot."""
    spline = SplineByChannel()
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64).expand(1, 2, -1)
    reached = float((spline(x).diff() / x.diff()).abs().max().detach())
    assert reached == pytest.approx(1.5 / 0.25, rel=1e-6)
    assert network_bound(spline, (2, 3)).upper == pytest.approx(1.5 / 0.25, rel=1e-6)
    # Added to its argument, it was an error of NumPy's. Its slopes are from -6 to 4.
    assert network_bound(Function(lambda x: x + spline(x)), (2, 3)).upper == pytest.approx(5.0, rel=1e-6)


@pytest.mark.parametrize("step", [0.1, 0.25, 0.3, 1.0])
@pytest.mark.parametrize(
    ("kind", "slope"),
    [(ClampedAtKnots, 1.5), (Extrapolating, 3.25), (FloorClamped, 3.25), (FloorClampedOfClamped, 3.25)],
)
@pytest.mark.sampled("0.3-", "Extrapolating-3.25-0.1")
def test_a_spline_clamped_at_knots_has_the_slopes_it_reaches(kind: type[Spline], step: float, slope: float) -> None:
    """The steepest line is behind the last knot of the clamp: only what extrapolates reaches it."""
    step = float(np.float32(step))
    spline = kind(torch.tensor([0.0, 0.5, -1.0, -1.25, 2.0]), step)
    found = network_bound(spline, (5,))
    assert found.upper is not None
    assert found.checked is not None
    assert found.checked.complete
    x = torch.linspace(-8 * step, 8 * step, 4001, dtype=torch.float64)
    reached = float((spline(x).diff() / x.diff()).abs().max().detach())
    assert slope / step * (1 - 1e-6) <= reached * (1 + 1e-9) <= found.upper * (1 + 1e-8)
    assert found.upper <= slope / step * (1 + 1e-9)


class Steps(Spline):
    """A table without lines between its entries."""

    def between(self, first: Any, second: Any, share: Any) -> Any:
        return first


class Unclamped(Spline):
    def forward(self, x: Any) -> Any:
        low = torch.floor(x)
        at = low.long() + 2
        return self.between(self.values[at], self.values[at + 1], x - low)


class HalfSteps(Spline):
    """Lines that do not meet: the whole part of y/2 in place of that of y."""

    def forward(self, x: Any) -> Any:
        y = x.clamp(0.0, 3.9)
        low = torch.floor(y)
        return self.values[(low * 0.5).long()] + (y - low)


class OtherStep(ClampedAtKnots):
    """It goes on by other units than those of its knots."""

    def forward(self, x: Any) -> Any:
        low = torch.floor(x.clamp(-2.0, 1.0))
        at = low.long() + 2
        return self.between(self.values[at], self.values[at + 1], x * 1.5 - low)


class BothClampedAndNot(Spline):
    """The share of the clamped value, added to what is not clamped: no function of one of both alone."""

    def forward(self, x: Any) -> Any:
        y = x.clamp(-2.0, 1.0)
        low = torch.floor(y)
        at = low.long() + 2
        return self.between(self.values[at], self.values[at + 1], 2 * (y - low) - (x - low))


class SawToothBeyond(Spline):
    """Only the numbers of table entries are clamped: beyond them the share jumps."""

    def forward(self, x: Any) -> Any:
        low = torch.floor(x)
        at = (low.clamp(-2, 1) + 2).long()
        return self.between(self.values[at], self.values[at + 1], x - low)


class SawToothOnOneSide(Spline):
    """The share is of the number that is clamped from below alone."""

    def forward(self, x: Any) -> Any:
        low = torch.floor(x).clamp(min=-2)
        at = (low.clamp(max=1) + 2).long()
        return self.between(self.values[at], self.values[at + 1], x - low)


class TwoClamps(Spline):
    """The share is of a number with other limits than the table's."""

    def forward(self, x: Any) -> Any:
        low = torch.floor(x)
        at = (low.clamp(-2, 1) + 2).long()
        return self.between(self.values[at], self.values[at + 1], x - low.clamp(-2, 2))


@pytest.mark.parametrize(
    "kind",
    [
        Steps, Unclamped, HalfSteps, OtherStep, BothClampedAndNot, SawToothBeyond, SawToothOnOneSide, TwoClamps,
    ],
)  # fmt: skip
@pytest.mark.sampled(3)
def test_what_is_no_continuous_spline_within_its_table_has_no_bound(kind: type[Spline]) -> None:
    values = torch.tensor([0.0, 1.0, 3.0, 4.0, 5.0])
    assert network_bound(kind(values, 1.0), (4,)).upper is None
