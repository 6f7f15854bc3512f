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
from torch_training import constrained, network  # noqa: E402

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
