"""The table "Does the constraint hold?" is of the weights that were used, and a weight that is too large is seen."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the loops are written in torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

import specnorm  # noqa: E402
from benchmarks import loops  # noqa: E402
from benchmarks.recorder import Recorder, Run, figures, norms, step_norms  # noqa: E402


class Composed(nn.Module):
    """A weight that another convolution makes, and that is another one at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, weight: Tensor) -> Tensor:
        self.calls += 1
        once = torch.eye(weight.shape[1])[..., None, None]
        composed: Tensor = torch.nn.functional.conv2d(self.calls * weight, once)
        return composed


def test_the_recorder_tells_the_weight_in_use_and_not_the_next_one() -> None:
    layer = nn.Conv2d(3, 4, 3, stride=2, bias=False)
    parametrize.register_parametrization(layer, "weight", Composed())
    x = torch.randn(2, 3, 8, 8)
    recorder = Recorder()
    recorder.watch("it", layer)
    with recorder:
        first, second = layer(x), layer(x)
    used = recorder.take_step()["it"]
    for weight, output in zip(used, (first, second), strict=True):
        torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, stride=2), output)
    assert recorder.take_step()["it"] == []


def test_under_autocast_the_weight_in_use_is_rounded() -> None:
    layer = nn.Linear(3, 4)
    recorder = Recorder()
    recorder.watch("it", layer)
    with recorder, torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 3))
    (weight,) = recorder.take_step()["it"]
    assert weight.dtype == torch.bfloat16


def test_a_multiple_of_a_weight_has_the_multiple_of_its_norm() -> None:
    """Also where the rest of the weights of a step is no multiple; the norms of 1x1 kernels are those of matrices."""
    kernel, other = torch.randn(2, 5, 4, 1, 1)
    values = step_norms([kernel, 1.5 * kernel, other, -kernel], {})
    expected = [float(torch.linalg.matrix_norm(x[..., 0, 0], 2)) for x in (kernel, 1.5 * kernel, other, kernel)]
    assert [norm.lower for norm in values] == pytest.approx(expected, rel=2e-3)
    for norm, value in zip(values, expected, strict=True):
        assert (1 - 1e-5) * norm.lower <= value <= (1 + 1e-5) * norm.upper


def test_a_step_with_a_weight_above_one_is_seen() -> None:
    unit = torch.ones(1, 1, 1, 1)
    run = Run({"a": {}, "b": {}}, [{"a": [unit], "b": [0.5 * unit]} for _ in range(4)])
    run.steps[2]["b"] = [1.03 * unit]
    told = figures(run)
    assert (told["worst_layer"], told["worst_step"]) == ("b", 2)
    assert (told["above_1.01"], told["above_1.05"]) == (0.25, 0)
    assert told["worst"] <= 1.03 * (1 + 1e-6)
    assert told["worst_upper"] >= 1.03 * (1 - 1e-6)
    assert told["worst"] == pytest.approx(told["worst_upper"], rel=2e-3)
    assert (told["least"], told["mean"]) == pytest.approx((0.5, (4 + 3 * 0.5 + 1.03) / 8), rel=2e-3)


def test_figures_of_upper_bounds_count_a_norm_that_a_lower_bound_leaves_out() -> None:
    """A norm of 1.01 itself: its lower bound is at most the limit, its upper bound is above it."""
    kernel = torch.randn(4, 4, 3, 3)
    lower, upper = specnorm.enclose(kernel, rtol=1e-3)
    run = Run({"a": {}}, [{"a": [kernel * (1.01 / (float(lower) * float(upper)) ** 0.5)]}])
    told = figures(run)
    assert told["worst"] < 1.01 < told["worst_upper"]
    assert (told["above_1.01"], told["above_1.01_upper"]) == (0, 1)


def test_a_layer_that_is_not_constrained_is_told_from_one_that_is() -> None:
    def doubled(layer: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(2)
        return layer

    (plain,), (twice,) = (norms(loops.run("critic, SGD", way, 0, steps=1)) for way in (lambda layer: layer, doubled))
    assert twice["0"][0].lower == pytest.approx(2 * plain["0"][0].lower, rel=2e-3)
