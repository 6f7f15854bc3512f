"""`SpectralBall` and `MuonConv`: every weight of every step is proven to be within its bound, in every training."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", exc_type=ImportError)

from helpers.oracle import dense_norm  # noqa: E402 - after torch is known to be there
from specnorm_torch import MuonConv, SpectralBall, geometry_of, spectral_norm  # noqa: E402
from torch import nn  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError  # noqa: E402


def mixed(seed: int = 0) -> Any:
    """Strided, grouped, transposed and padded layers, an embedding, norms and biases, for 2x6x6."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(144, 3),
    )  # fmt: skip


def layers(model: Any) -> Iterator[Any]:
    return (x for x in model.modules() if isinstance(x, nn.Conv2d | nn.ConvTranspose2d | nn.Linear))


def assert_inside(model: Any, bound: float = 1.0) -> None:
    for layer in layers(model):
        assert specnorm.certify(layer.weight, bound, **geometry_of(layer)), layer


def train(model: Any, optimiser: Any, steps: int, seed: int = 1, after: Callable[[], None] = lambda: None) -> float:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images, labels = torch.randn(8, 2, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator)
        loss = nn.functional.cross_entropy(8 * model(images + labels[:, None, None, None]), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        after()
    return float(loss.detach())


def test_every_weight_of_every_step_is_inside() -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.2)
    assert_inside(model)
    before = [x.weight.clone() for x in layers(model)]
    first = train(model, optimiser, 1)
    last = train(model, optimiser, 30, after=lambda: assert_inside(model))
    assert last < first
    assert [(x, y) for x, y in zip(before, layers(model), strict=True) if torch.equal(x, y.weight)] == []


@pytest.mark.parametrize("rate", [1.0, 0.3, 1e-7])
@pytest.mark.parametrize("steps", [200, pytest.param(10_000, marks=pytest.mark.nightly)])
@pytest.mark.sampled("1.0", "1e-07")
def test_rounding_does_not_leave_the_ball(rate: float, steps: int) -> None:
    """By rounding alone, at the boundary: each step points to where the weight is, or nearly."""
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    optimiser = SpectralBall(layer, rate, momentum=0.0)
    direction = torch.randn(6, 6, 1, 1).expand(6, 6, 3, 3) + 0.01 * torch.randn(6, 6, 3, 3)
    with torch.no_grad():
        layer.weight.copy_(-specnorm.lmo(direction))
    for step in range(steps):
        layer.weight.grad = direction + 1e-4 * math.sin(step) * direction.flip(3)
        optimiser.step()
    assert specnorm.certify(layer.weight, 1.0)
    assert dense_norm(layer.weight.detach().numpy(), 5).lo <= 1
    assert specnorm.enclose(layer.weight).lower > 0.94


def test_bounds_by_pattern_and_by_group() -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.5, bound={"11": 4.0, "7": 0.5, "*": 1.0})
    train(model, optimiser, 20)
    for name, bound in (("0", 1.0), ("7", 0.5), ("9", 1.0), ("11", 4.0)):
        layer = model.get_submodule(name)
        assert specnorm.certify(layer.weight, bound, **geometry_of(layer))
    assert not specnorm.certify(model[11].weight, 1.0)
    # Parameters: kernels of stride 1, whose norm is no smaller; keywords of a geometry; the others go to the rest.
    model = mixed()
    strided = {"params": [model[0].weight], "stride": 2, "bound": 0.5}
    optimiser = SpectralBall([strided, {"params": [*model[7].parameters(), model[11].weight], "lr": 0.01}], 0.5)
    assert [group["lr"] for group in optimiser.param_groups] == [0.5, 0.01, 1e-3]
    train(model, optimiser, 10)
    assert specnorm.certify(model[0].weight, 0.5, stride=2)
    assert specnorm.certify(model[7].weight, 1.0)
    # The options of groups without kernels, and parameters beside groups, were dropped.
    decay = {"params": model[0].bias, "lr": 0.02, "weight_decay": 0.0}
    optimiser = SpectralBall([model[7].weight, strided, decay, model[7].bias], 0.5)
    assert [(len(group["params"]), group["lr"]) for group in optimiser.param_groups] == [
        (1, 0.5), (1, 0.5), (1, 0.02), (1, 1e-3),
    ]  # fmt: skip
    assert optimiser.param_groups[2]["weight_decay"] == 0


def test_rest_shares_schedule_and_state() -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.2, rest=lambda params: torch.optim.SGD(params, 0.4, momentum=0.9))
    assert {id(x) for group in optimiser.param_groups for x in group["params"]} == {id(x) for x in model.parameters()}
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.5)
    train(model, optimiser, 3)
    scheduler.step()
    assert [group["lr"] for group in optimiser.param_groups] == [0.1, 0.2]
    assert [x for x in model.parameters() if "momentum_buffer" not in optimiser.state[x]] == []


@pytest.mark.parametrize("make", [SpectralBall, MuonConv])
def test_a_resumed_run_is_the_same_run(make: Any) -> None:
    model = mixed()
    optimiser = make(model, 0.1)
    train(model, optimiser, 5)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimiser.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other = mixed(seed=3)
    resumed = make(other, 0.3)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    twin, twin_optimiser = copy.deepcopy((model, optimiser))
    losses = {train(*pair, 5, seed=2) for pair in ((model, optimiser), (other, resumed), (twin, twin_optimiser))}
    assert len(losses) == 1
    assert [(x, y) for x, y in zip(model.parameters(), other.parameters(), strict=True) if not torch.equal(x, y)] == []


def _by_data(model: Any, _optimiser: Any) -> None:
    model[7].weight.data.mul_(10)


def _by_data_with_the_same_entries(model: Any, _optimiser: Any) -> None:
    """Other places for the same entries: length, sum and largest entry stay."""
    weight = model[7].weight.data
    weight.copy_(weight.flatten().sort().values.reshape(weight.shape))


def _in_place(model: Any, _optimiser: Any) -> None:
    with torch.no_grad():
        model[7].weight.mul_(10)


def _lowers_the_bound(_model: Any, optimiser: Any) -> None:
    optimiser.param_groups[0]["bound"] = 0.25


@pytest.mark.parametrize("has_gradient", [True, False])
@pytest.mark.parametrize("change", [_by_data, _by_data_with_the_same_entries, _in_place, _lowers_the_bound])
def test_weights_that_somebody_else_changed_are_put_inside(
    change: Callable[[Any, Any], None], has_gradient: bool
) -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.1)
    train(model, optimiser, 2)
    change(model, optimiser)
    model[7].weight.grad = torch.ones_like(model[7].weight) if has_gradient else None
    optimiser.step()
    assert_inside(model, optimiser.param_groups[0]["bound"])


def test_a_copy_notices_changes_whatever_their_number() -> None:
    """A copied tensor counts its changes from 0, so that the count of the one it was copied from says nothing."""
    original = mixed()
    optimiser = SpectralBall(original, 0.1)
    train(original, optimiser, 2)
    for changes in range(1, 6):
        model, copied = copy.deepcopy((original, optimiser))
        with torch.no_grad():
            for _ in range(changes):
                model[7].weight.mul_(3)
        copied.step()
        assert_inside(model)


def test_gradients_near_the_largest_number_stay_finite() -> None:
    model: Any = nn.Linear(3, 2)
    optimiser = SpectralBall(model, 0.1)
    for step in range(3):
        model.weight.grad = torch.full((2, 3), 3.3e38 * (-1) ** step)
        optimiser.step()
        assert bool(model.weight.isfinite().all())


def test_frozen_layers_and_layers_without_gradients_stay() -> None:
    model = mixed()
    model[0].weight.requires_grad_(False)
    with torch.no_grad():
        model[0].weight.mul_(10)
    before = model[0].weight.clone()
    optimiser = SpectralBall(model, 0.3, layers=lambda name, _: name != "11")
    train(model, optimiser, 3)
    assert torch.equal(model[0].weight, before)
    model[0].weight.requires_grad_(True)
    train(model, optimiser, 1)
    assert specnorm.certify(model[0].weight, 1.0, stride=2)
    still = model[7].weight.clone()
    for x in model.parameters():
        x.grad = torch.zeros_like(x)
    fresh = SpectralBall(model[7:8], 0.3)
    fresh.step()
    torch.testing.assert_close(model[7].weight, still, rtol=1e-4, atol=0)


def test_scaler_closure_clipping_and_autocast() -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=10**6)
    for _ in range(25):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randn(4, 2, 6, 6)).float().square().sum() * 100
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)  # skips the first ones, whose gradients overflow
        scaler.update()
    assert scaler.get_scale() < 2.0**126
    assert_inside(model)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = (model(torch.ones(4, 2, 6, 6)) - 1).square().mean()
        loss.backward()
        return loss

    first = float(optimiser.step(closure))
    for _ in range(5):
        last = float(optimiser.step(closure))
    assert last < first


def test_gradients_that_are_not_finite_are_named_and_change_nothing() -> None:
    model = mixed()
    optimiser = SpectralBall(model, 0.2)
    train(model, optimiser, 1)
    before = copy.deepcopy(model.state_dict())
    model[7].weight.grad[0, 0, 0, 0] = math.nan
    with pytest.raises(MethodError, match=r"the gradient of 7\.weight contains NaN or infinity; no weight was changed"):
        optimiser.step()
    # Sums that overflow are finite gradients.
    assert [(name, x) for name, x in model.state_dict().items() if not torch.equal(x, before[name])] == []
    model[7].weight.grad = torch.full_like(model[7].weight, 3e38)
    optimiser.step()
    assert_inside(model)


def test_what_cannot_be_kept_inside_is_refused() -> None:
    optimiser = SpectralBall(mixed(), 0.1)
    for rate in (-0.1, 2.0, math.nan):
        optimiser.param_groups[0]["lr"] = rate
        with pytest.raises(MethodError, match=rf"lr={rate} is not from 0 to 1"):
            optimiser.step()


def test_muon_steps_what_a_constraint_divides() -> None:
    """By its length as a convolution: the kernel in use is that over its norm."""
    torch.manual_seed(0)
    model: Any = spectral_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2)))
    optimiser = MuonConv(model, 0.1)
    originals = [model[j].parametrizations.weight.original for j in (0, 2)]
    assert [x for group in optimiser.param_groups if not group.get("rest") for x in group["params"]] == originals
    before = originals[1].detach().clone()
    model(torch.randn(2, 3, 9, 9)).square().mean().backward()
    optimiser.step()
    step = specnorm.enclose(originals[1].detach() - before, stride=2)
    assert 0.05 <= float(step.lower) <= 0.1


def test_a_step_of_muon_has_its_length() -> None:
    """A flattened step of Muon would be three times as long."""
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    optimiser = MuonConv(layer, 0.1, weight_decay=0.5)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(8, 8, 1, 1).expand(8, 8, 3, 3) + 0.01 * torch.randn(8, 8, 3, 3)
    optimiser.step()
    moved = specnorm.enclose(layer.weight.detach() - 0.95 * before)
    assert moved.lower >= 0.094
    assert moved.upper <= 0.1001
