"""Functions of one value as torch users write them: splines with look-ups, and functions side by side.

Activations by hand are in `networks.stored`, whose bounds are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("onnxscript", exc_type=ImportError)
from networks.torch_modules import Function  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from torch import nn  # noqa: E402


def test_sine_and_cosine_between_layers() -> None:
    """The values are those of another shape than the network's input."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), Function(lambda x: torch.cat([torch.sin(x), torch.cos(x)], 1)), nn.Conv2d(8, 2, 3)
    )
    found = network_bound(model, (2, 8, 8))
    assert found.upper is not None
    x = torch.zeros(1, 2, 8, 8)
    matrix = torch.autograd.functional.jacobian(model, x).reshape(2 * 4 * 4, -1)
    assert float(torch.linalg.matrix_norm(matrix, 2)) <= found.upper <= 0.8375


# -- splines -----------------------------------------------------------------------------------------------------------
VALUES = torch.tensor([0.0, 0.5, -1.0, -1.25, 2.0])
"""At knots from -2 to 2: the slopes of the lines are 0.5, -1.5, -0.25 and 3.25."""
Made = Callable[..., Any]


def same(x: Any, *_: Any) -> Any:
    return x


def clip(low: float, high: float) -> Made:
    return lambda x, step=1.0: x.clamp(low * step, high * step)


def between(first: Any, second: Any, share: Any) -> Any:
    return first * (1 - share) + second * share


def spline(
    clamp: Made = same, limit: Made = same, *, entry: Made = same, joined: Made = between,
    share: Made = lambda _, y, low: y - low,
) -> Made:  # fmt: skip
    """A linear spline by two look-ups, as deep splines have it.

    ``clamp`` limits the argument, ``limit`` its whole part, ``entry`` the number of the line; ``share`` is made of the
    argument, of what is clamped, and of the whole part.
    """

    def f(x: Any, step: float = 1.0) -> Any:
        y = clamp(x, step) / step
        low = limit(torch.floor(y))
        at = (entry(low) + 2).long()
        values = VALUES.to(x.dtype)
        return joined(values[at], values[at + 1], share(x / step, y, low))

    return f


AT_KNOTS, ALL = clip(-2, 1), clip(-2, 2)
SPLINES: dict[str, tuple[Made, float]] = {
    # name: the spline, and its largest slope: the steepest line is behind the last knot of the clamp
    "clamped inside": (spline(clip(1e-5 - 2, 2 - 1e-5)), 3.25),
    "by lerp": (spline(clip(1e-5 - 2, 2 - 1e-5), joined=torch.lerp), 3.25),
    "clamped at knots": (spline(AT_KNOTS), 1.5),
    "its first and last line go on": (spline(AT_KNOTS, share=lambda x, _, low: x - low), 3.25),
    "the number of the line is clamped": (spline(limit=AT_KNOTS), 3.25),
    "both are clamped": (spline(ALL, AT_KNOTS), 3.25),
}


@pytest.mark.parametrize("step", [0.1, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("name", SPLINES)
@pytest.mark.sampled("lerp-0.1", "knots-0.3", "clamped-0.3", "go on-0.1")
def test_a_spline_has_the_slopes_it_reaches(name: str, step: float) -> None:
    made, slope = SPLINES[name]
    step = float(np.float32(step))
    found = network_bound(Function(lambda x: made(x, step)), (5,))
    assert found.upper is not None
    assert found.checked.complete
    x = torch.linspace(-8 * step, 8 * step, 4001, dtype=torch.float64)
    reached = float((made(x, step).diff() / x.diff()).abs().max())
    assert slope / step * (1 - 1e-6) <= reached * (1 + 1e-9) <= found.upper * (1 + 1e-8)
    assert found.upper <= slope / step * (1 + 1e-9)


def by_channel(x: Any) -> Any:
    """The tables of all channels one after the other, as convex ridge regularisers have them."""
    table = torch.tensor([0.0, 0.5, -1.0, -1.25, 2.0, 0.0, 1.0, 2.0, 3.0, 4.5])
    clamped = x.clamp(-0.49, 0.25)
    low = torch.floor(clamped / 0.25)
    at = (torch.tensor([2, 7]).view(1, -1, 1) + low).long()
    return between(table[at], table[at + 1], clamped / 0.25 - low)


def test_splines_of_channels_have_the_slopes_between_their_clamps() -> None:
    """The last line of each channel, of slope 3.25, is beyond the clamp, which is at a knot."""
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64).expand(1, 2, -1)
    assert float((by_channel(x).diff() / x.diff()).abs().max()) == pytest.approx(1.5 / 0.25, rel=1e-6)
    assert network_bound(Function(by_channel), (2, 3)).upper == pytest.approx(1.5 / 0.25, rel=1e-6)
    # Added to its argument, it was an error of NumPy's. Its slopes are from -6 to 4.
    assert network_bound(Function(lambda x: x + by_channel(x)), (2, 3)).upper == pytest.approx(5.0, rel=1e-6)


NO_SPLINES: dict[str, Made] = {
    "steps": spline(clip(1e-5 - 2, 2 - 1e-5), joined=lambda first, *_: first),
    "an entry of any number": spline(),
    "lines that do not meet": lambda x: (
        lambda y: VALUES[(torch.floor(y) * 0.5).long()] + (y - torch.floor(y))
    )(x.clamp(0.0, 3.9)),
    "going on by other units": spline(AT_KNOTS, share=lambda x, _, low: x * 1.5 - low),
    "clamped, and not": spline(AT_KNOTS, share=lambda x, y, low: 2 * (y - low) - (x - low)),
    "a saw tooth beyond the table": spline(entry=AT_KNOTS),
    "a saw tooth on one side": spline(limit=lambda low: low.clamp(min=-2), entry=lambda low, *_: low.clamp(max=1)),
    "two limits": spline(entry=AT_KNOTS, share=lambda x, _, low: x - ALL(low)),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_SPLINES)
@pytest.mark.sampled(3)
def test_what_is_no_continuous_spline_within_its_table_has_no_bound(name: str) -> None:
    assert network_bound(Function(NO_SPLINES[name]), (4,)).upper is None
