"""Training with torch: constraints, penalties, certificates; through checkpoints, compilers and processes."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from torch_training import LAYERS, constrained, network, same_state, train  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_torch")


# -- the constraint ----------------------------------------------------------------------------------------------
def test_certified_where_torchs_own_is_refuted() -> None:
    """The same run under both: torch's leaves convolutions far above 1, this one's are proven below."""
    ours, theirs = constrained(), network()
    for j in LAYERS:
        torch.nn.utils.parametrizations.spectral_norm(theirs[j])
    for model in (ours, theirs):
        train(model, 60)
    assert specnorm_torch.rescale_(ours) == [str(j) for j in LAYERS]
    for j in LAYERS:
        layer = ours[j]
        assert not torch.nn.utils.parametrize.is_parametrized(layer)
        assert specnorm.certify(layer.weight, 1.0, **specnorm_torch.geometry_of(layer))
        assert specnorm.enclose(layer.weight, **specnorm_torch.geometry_of(layer)).lower > 0.5
    refuted = []
    for j in LAYERS:
        layer = theirs[j].eval()
        torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
        refuted += [j] * (not specnorm.certify(layer.weight, 1.01, **specnorm_torch.geometry_of(layer)))
    assert set(refuted) >= {0, 7, 8}


def test_geometry_is_the_modules_own() -> None:
    """Against the layer's own Jacobian, at a small size."""
    nn = torch.nn
    cases: list[tuple[Any, tuple[int, ...]]] = [
        (nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), (9,)),
        (nn.Conv2d(2, 4, (3, 2), padding="same", padding_mode="circular"), (5, 4)),
        (nn.Conv2d(2, 2, 3, padding="valid", groups=2), (5, 5)),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), (5, 4)),
        (nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), (4,)),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (3, 3)),
        (nn.Conv3d(1, 2, 2), (3, 3, 3)),
        (nn.Linear(4, 3), ()),
    ]
    for layer, size in cases:
        layer = layer.double()
        cin = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        jacobian = torch.autograd.functional.jacobian(
            lambda x, f=layer: f(x).reshape(-1), torch.zeros(1, cin, *size).double()
        )
        norm = float(torch.linalg.matrix_norm(jacobian.reshape(jacobian.shape[0], -1), 2))
        found = specnorm.enclose(layer.weight.detach(), **specnorm_torch.geometry_of(layer, size))
        assert float(found.lower) <= norm * (1 + 1e-12)
        assert norm <= float(found.upper)
        assert norm >= 0.99 * float(found.upper)


# -- layers of every rank ----------------------------------------------------------------------------------------
RANKS: dict[str, Any] = {
    "1-D": lambda nn: (nn.Conv1d(3, 4, 5, padding=2), (12,)),
    "1-D, stride, dilation": lambda nn: (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (12,)),
    "1-D, groups, circular": lambda nn: (nn.Conv1d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (12,)),
    "1-D, transposed": lambda nn: (nn.ConvTranspose1d(3, 4, 4), (10,)),
    "1-D, transposed, stride, groups": lambda nn: (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, padding=1), (9,)),
    "3-D": lambda nn: (nn.Conv3d(2, 3, 3, padding=1), (6, 6, 6)),
    "3-D, stride, groups": lambda nn: (nn.Conv3d(4, 2, (3, 2, 1), stride=(2, 1, 1), groups=2), (5, 4, 2)),
    "3-D, transposed": lambda nn: (nn.ConvTranspose3d(2, 3, 2), (4, 4, 3)),
    "3-D, transposed, stride, groups": lambda nn: (nn.ConvTranspose3d(2, 4, (3, 2, 2), stride=2, groups=2), (3, 3, 2)),
}


@pytest.mark.parametrize("case", RANKS)
def test_constraint_at_every_rank(case: str) -> None:
    """Of the layer in use: TN is at the bound, so the layer's own matrix is below it, and not far; then removal."""
    layer, size = RANKS[case](torch.nn)
    layer = layer.double()
    kernel, bound = layer.weight.detach().clone(), 1.5
    specnorm_torch.spectral_norm(layer, n_power_iterations=3, bound=bound)
    geometry = specnorm_torch.geometry_of(layer)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn_like(kernel), alpha=0.1)
        for _ in range(40):
            weight = layer.weight
    assert float(specnorm.tn_bound(weight, certified=False, **geometry)) == pytest.approx(bound, rel=1e-3)
    # As torch's: one number scales the kernel.
    ratio = weight / layer.parametrizations.weight.original.detach()
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    held = specnorm.enclose(weight, **geometry)
    assert float(held.lower) <= bound * (1 + 1e-3)
    layer.eval()
    x = torch.zeros(1, layer.in_channels, *size, dtype=torch.float64)
    bias, layer.bias = layer.bias, None
    jacobian = torch.autograd.functional.jacobian(layer, x)
    layer.bias = bias
    norm = float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))
    assert norm <= min(bound * (1 + 1e-3), float(held.upper))
    assert norm >= 0.6 * bound
    constrained = layer.weight.detach().clone()
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert not torch.nn.utils.parametrize.is_parametrized(layer)
    assert torch.equal(layer.weight.detach(), constrained)
    assert set(layer.state_dict()) == {"weight", "bias"}


# -- gradients ---------------------------------------------------------------------------------------------------


# -- following ---------------------------------------------------------------------------------------------------
@pytest.mark.nightly
def test_the_state_follows_a_training_run() -> None:
    """Within 15 % of a TN that is computed anew, every tenth of 300 steps of SGD with momentum under a heavy penalty.

    A penalty lowers the highest of TN's maxima until another one is higher: vectors that only went on from where they
    were would end 30 % below.
    """
    model = network()
    penalty = specnorm_torch.SpectralPenalty(model, batch_norms=None)
    start = {name: model.get_submodule(name).weight.detach().clone() for name in penalty.names}
    worst = dict.fromkeys(penalty.names, 0.0)

    def look(step: int) -> None:
        if step % 10 == 9:
            following = copy.deepcopy(penalty)
            following()
            for name, value in following.norms().items():
                layer = model.get_submodule(name)
                geometry = specnorm_torch.geometry_of(layer)
                true = float(specnorm.tn_bound(layer.weight.detach(), certified=False, **geometry))
                worst[name] = max(worst[name], abs(value / true - 1))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train(model, 300, lambda: 0.1 * penalty(), optimizer=optimizer, each=look)
    moved = [float((model.get_submodule(n).weight - x).norm() / x.norm()) for n, x in start.items()]
    assert min(moved) > 0.05, "a network that hardly moves is easy to follow"
    assert max(worst.values()) < 0.15, worst


# -- buffers -----------------------------------------------------------------------------------------------------
def test_checkpoint_and_resume_are_bit_equal() -> None:
    model = constrained()
    model.penalty = specnorm_torch.SpectralPenalty(model)
    optimizer = train_on(model, 4, 1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train_on(model, 4, 2, optimizer)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    torch.manual_seed(5)
    other = constrained()
    other.penalty = specnorm_torch.SpectralPenalty(other)
    other.load_state_dict(saved["model"])
    resumed = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    resumed.load_state_dict(saved["optimizer"])
    train_on(other, 4, 2, resumed)
    assert same_state(model, other)


def train_on(model: Any, steps: int, seed: int, optimizer: Any = None) -> Any:
    """`train` for a model that holds its penalty: the penalty is no layer of the forward pass."""

    class Forward(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            for name, layer in model.named_children():
                x = x if name == "penalty" else layer(x)
            return x

    forward = Forward()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return train(forward, steps, model.penalty, seed, optimizer)


@pytest.mark.nightly
def test_two_processes_keep_one_state(tmp_path: Path) -> None:
    """Data parallel on two processes: buffers of the constraint and of the penalty are broadcast like any other."""
    worker = Path(__file__).with_name("ddp_worker.py")
    command = [sys.executable, str(worker)]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    digests = [run.communicate(timeout=240)[0].strip() for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert len(digests[0]) == 64
    assert digests[0] == digests[1]


def test_a_step_at_once_is_that_of_the_program() -> None:
    """The weight's own way on the host, and the way of all backends: same value, gradient and state."""
    layer = specnorm_torch.spectral_norm(torch.nn.Conv2d(3, 4, (3, 2), bias=False).double(), bound=2.0)
    constraint, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    assert constraint.at_once
    weight.data += 0.3 * torch.randn_like(weight)
    state = {name: x.clone() for name, x in constraint.state.items()}
    value, after = specnorm.track(weight, constraint.method, state, **constraint.geometry)
    cotangent = torch.randn_like(weight)
    (expected,) = torch.autograd.grad((weight * (2.0 / value)), weight, cotangent)
    (found,) = torch.autograd.grad(layer.weight, weight, cotangent)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(constraint.vectors, after["vectors"])


def test_a_weight_is_renewed_from_a_fresh_start() -> None:
    """Vectors at a lower maximum stay there; at the 16th step a fresh start finds the higher one."""
    kernel = torch.zeros(2, 2, 1, 1)
    kernel[0, 0], kernel[1, 1] = 1.0, 3.0
    layer = specnorm_torch.spectral_norm(torch.nn.Conv2d(2, 2, 1, bias=False))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(kernel)
        layer.parametrizations.weight[0].vectors.copy_(torch.tensor([[[1.0, 0], [0, 0], [1, 0], [1, 0]]]))
    layer.parametrizations.weight[0].steps = 0  # registering it took one
    norms = [float(torch.linalg.matrix_norm(layer.weight.detach()[..., 0, 0], 2)) for _ in range(16)]
    assert norms[:15] == pytest.approx([3.0] * 15)
    assert norms[15] == pytest.approx(1.0)
    twin = specnorm_torch.spectral_norm(torch.nn.Conv2d(2, 2, 1, bias=False))
    twin.load_state_dict(layer.state_dict())
    assert twin.parametrizations.weight[0].steps == 16


def test_torchs_own_state_loads() -> None:
    """Weights are taken, vectors begin anew, and it says so."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(3, 4, 3)))
    ours = torch.nn.Sequential(specnorm_torch.spectral_norm(torch.nn.Conv2d(3, 4, 3)))
    with pytest.warns(UserWarning, match="begin anew"):
        ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours[0].parametrizations.weight.original, theirs[0].parametrizations.weight.original)
    ours.train()
    weight = ours[0].weight.detach()
    assert float(specnorm.tn_bound(weight, certified=False)) == pytest.approx(1.0, rel=1e-3)
    again = torch.nn.Sequential(specnorm_torch.spectral_norm(torch.nn.Conv2d(3, 4, 3)))
    again.load_state_dict(ours.state_dict())
    assert torch.equal(again[0].parametrizations.weight[0].vectors, ours[0].parametrizations.weight[0].vectors)
