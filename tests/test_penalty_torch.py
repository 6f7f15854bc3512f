"""Penalties with torch: their norms, gradients and batches; under compilers and torch.func."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from specnorm_torch.arrays import TorchArrays  # noqa: E402
from torch_training import LAYERS, constrained, network  # noqa: E402

COMPILERS = [
    "aot_eager",
    pytest.param(
        "inductor",
        marks=pytest.mark.skipif(
            shutil.which("g++") is None or sys.platform == "win32", reason="inductor needs a C++ compiler: none here"
        ),
    ),
]


pytestmark = pytest.mark.usefixtures("fresh_torch")


@pytest.mark.parametrize("form", ["sum", "log", "hinge"])
def test_gradients_of_the_penalty(form: Any) -> None:
    """Against finite differences, through the normalisation too; batches of equal shapes lose none."""
    model = network(torch.float64)
    model[1].running_var.uniform_(0.5, 2)
    penalty = specnorm_torch.SpectralPenalty(model, form=form, target=0.3).eval()
    penalty().backward()
    for parameter in [*(model[j].weight for j in LAYERS), model[1].weight]:
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-6)
                values.append(float(penalty()))
                parameter.sub_(direction, alpha=sign * 1e-6)
        slope = (values[0] - values[1]) / 2e-6
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_layers_of_about_one_size_are_one_batch() -> None:
    """Filled up with channels of zeros: norms and gradients are those of each layer by itself."""
    nn = torch.nn

    def convolution(cin: int, cout: int, **geometry: Any) -> Any:
        return nn.Sequential(nn.Conv2d(cin, cout, 3, **geometry), nn.BatchNorm2d(cout), nn.ReLU())

    model = nn.Sequential(
        *(convolution(*c) for c in ((3, 8), (8, 8), (8, 12), (12, 64))),
        *(convolution(64, 64, groups=g) for g in (1, 2)),
        nn.ConvTranspose2d(64, 8, 2, bias=False),
        nn.ConvTranspose2d(8, 12, 2, bias=False),
    ).double()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 2)
            norm.running_var.uniform_(0.5, 2)
    penalty = specnorm_torch.SpectralPenalty(model)
    batches = {batch.shape: len(batch.members) for batch in penalty._batches}
    # The four small ones are one; 52 times 64 channels of zeros are too many; groups stay as they are.
    assert batches == {(64, 12, 3, 3): 4, (64, 64, 3, 3): 1, (64, 32, 3, 3): 1, (64, 12, 2, 2): 2}
    penalty().backward()
    together = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    model.zero_grad()
    norms = penalty.norms()

    def only(wanted: str, name: str, _: Any) -> bool:
        return name == wanted

    for name in penalty.names:
        alone = specnorm_torch.SpectralPenalty(model, select=partial(only, name))
        alone().backward()
        assert norms[name] == pytest.approx(alone.norms()[name], rel=1e-6)
    for name, x in model.named_parameters():
        if x.grad is not None:
            torch.testing.assert_close(together[name], x.grad, rtol=1e-3, atol=1e-4)


def test_a_step_on_a_gpu_waits_for_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it runs there: in torch, and with the effort that every step makes where none can be told to need it."""
    monkeypatch.setattr(TorchArrays, "numpy_view", lambda *_: False)
    monkeypatch.setattr(TorchArrays, "asynchronous", lambda *_: True)
    model = network()
    penalty = specnorm_torch.SpectralPenalty(model)
    read: list[str] = []
    for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: read.append(name))
    penalty().backward()
    monkeypatch.undo()
    assert not read
    assert penalty.norms().keys() == set(penalty.names)


def test_second_derivatives_raise() -> None:
    penalty = specnorm_torch.SpectralPenalty(network())
    weight: Any = penalty._layers[0].weight
    (gradient,) = torch.autograd.grad(penalty() ** 2, weight, create_graph=True)
    with pytest.raises(specnorm.SecondDerivativeError):
        torch.autograd.grad(gradient.square().sum() + weight.pow(3).sum(), weight)


def two_layers() -> Any:
    """A convolution and a dense layer, constrained."""
    nn = torch.nn
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    for j in (0, 3):
        specnorm_torch.spectral_norm(model[j])
    return model


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.nightly
def test_compiled_training_step(compiler: str) -> None:
    """Without a graph break, the same gradients and the same state as without compilation.

    Every kind of layer where the graph is traced; two where code is generated, which takes most of the time.
    """

    def run(compile_it: bool) -> Any:
        torch.manual_seed(0)
        model = (constrained() if compiler == "aot_eager" else two_layers()).double()
        penalty = specnorm_torch.SpectralPenalty(model)

        def loss(x: Any) -> Any:
            return model(x).square().mean() + 0.1 * penalty()

        step = torch.compile(loss, fullgraph=True, backend=compiler) if compile_it else loss
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            step(torch.ones(2, 3, 8, 8, dtype=torch.float64)).backward()
            assert all(p.grad is not None for p in model.parameters())
            optimizer.step()
        return {**model.state_dict(), **{f"penalty.{k}": v for k, v in penalty.state_dict().items()}}

    eager, compiled = run(False), run(True)
    assert eager.keys() == compiled.keys()
    for k in eager:
        torch.testing.assert_close(compiled[k], eager[k], rtol=1e-6, atol=1e-8)


def test_func() -> None:
    """functional_call with grad, and an ensemble under vmap, with a state each."""
    layer = specnorm_torch.spectral_norm(torch.nn.Conv2d(2, 3, 3)).eval()
    parameters = dict(layer.named_parameters())
    x = torch.randn(1, 2, 5, 5)

    def loss(values: Any) -> Any:
        return torch.func.functional_call(layer, values, (x,)).square().sum()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for k, p in parameters.items():
        torch.testing.assert_close(found[k], p.grad)
    kernels = torch.randn(4, 3, 2, 3, 3, dtype=torch.float64)
    method = specnorm.TensorNorm(certified=False)
    states = [specnorm.init_tracking(k, method) for k in kernels]
    stacked = {k: torch.stack([s[k] for s in states]) for k in states[0]}
    # Little, so that none needs a search: kernels of a batch share it.
    moved = kernels + 1e-3 * torch.randn_like(kernels)
    values, after = torch.func.vmap(lambda k, s: specnorm.track(k, method, s))(moved, stacked)
    single = [specnorm.track(k, method, s) for k, s in zip(moved, states, strict=True)]
    torch.testing.assert_close(values, torch.stack([v for v, _ in single]))
    held = torch.func.vmap(lambda k, s: specnorm.track(k, method, s, sweeps=0)[0])(moved, after)
    torch.testing.assert_close(
        held, torch.stack([specnorm.track(k, method, s, sweeps=0)[0] for k, (_, s) in zip(moved, single, strict=True)])
    )
    gradient = torch.func.vmap(torch.func.grad(lambda k, s: specnorm.track(k, method, s)[0]))(moved, stacked)
    torch.testing.assert_close((gradient * moved).sum((1, 2, 3, 4)), values)
