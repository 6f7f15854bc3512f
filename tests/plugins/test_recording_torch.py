"""On a CUDA device a step of `spectral_norm` is recorded and replayed: it does what a plain step does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
specnorm_torch = pytest.importorskip("specnorm_torch")

import specnorm  # noqa: E402 - after what may be missing

nn = torch.nn
PASSES = 40
"""More than the first ones, which are never recorded."""
LAYERS: dict[str, Callable[[], Any]] = {
    "3x3": lambda: nn.Conv2d(8, 8, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 8, 4, stride=2),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, groups=8),
    "transposed": lambda: nn.ConvTranspose2d(8, 4, 4, stride=2),
    "wide": lambda: nn.Conv2d(96, 80, 3),
    "1-D, dilated": lambda: nn.Conv1d(6, 6, 5, dilation=2),
    "linear": lambda: nn.Linear(40, 30),
}

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: nothing is recorded")


def trained(layer: Any, passes: int = PASSES) -> list[float]:
    """Change the layer a little in each pass, and return the norms that its weights had in use."""
    norms = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(passes):
        used = layer.weight.detach().cpu()
        geometry = specnorm_torch.geometry_of(layer)
        norms.append(specnorm.enclose(used, rtol=1e-3, **geometry).lower)
        original = layer.parametrizations.weight.original
        with torch.no_grad():
            change = torch.randn(original.shape, generator=generator)
            original += 1e-3 * change.to(original.device)
    return norms


@needs_a_gpu
@pytest.mark.parametrize("kind", LAYERS)
def test_a_recorded_step_holds_the_norm(kind: str) -> None:
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(LAYERS[kind]().cuda())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what cannot be recorded warns
        norms = trained(layer)
    assert all(0.98 < norm < 1.01 for norm in norms)


@needs_a_gpu
def test_three_axes_are_not_recorded() -> None:
    """Their Newton step takes eigenvalues, for which the host waits."""
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(nn.Conv3d(4, 4, 3).cuda())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms = trained(layer)
    assert all(0.98 < norm < 1.01 for norm in norms)
    assert layer.parametrizations.weight[0]._recorded is None


@needs_a_gpu
def test_a_recorded_step_gives_value_and_gradient_of_a_plain_one() -> None:
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(nn.Conv2d(8, 8, 3).cuda())
    trained(layer)
    plain = copy.deepcopy(layer)  # copies begin without a recording, and without the first passes behind them
    plain.parametrizations.weight[0]._passes = 0
    direction = torch.randn_like(layer.weight.detach())
    gradients = []
    for each in (layer, plain):
        each.zero_grad()
        (each.weight * direction).sum().backward()
        gradients.append(each.parametrizations.weight.original.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


@needs_a_gpu
def test_a_gradient_survives_the_next_pass() -> None:
    """A layer that is used twice before the backward pass: the second replay writes over the first one's results."""
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(nn.Conv2d(4, 4, 3).cuda())
    trained(layer)
    direction = torch.randn_like(layer.weight.detach())
    first, _ = layer.weight, layer.weight
    original = layer.parametrizations.weight.original
    (gradient,) = torch.autograd.grad((first * direction).sum(), original, retain_graph=True)
    # Scaling does not change the product of the weight with its gradient: the constraint is of degree zero.
    assert abs(float((gradient * original.detach()).sum())) < 1e-3 * float(gradient.norm() * original.detach().norm())


@needs_a_gpu
def test_a_recording_of_the_caller_takes_the_step_in() -> None:
    torch.manual_seed(0)
    layer = specnorm_torch.spectral_norm(nn.Conv2d(4, 4, 3).cuda())
    trained(layer)
    aside = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(aside):
        _ = layer.weight
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=aside):
        weight = layer.weight
    graph.replay()
    torch.cuda.synchronize()
    assert 0.98 < specnorm.enclose(weight.cpu(), rtol=1e-3).lower < 1.01


@needs_a_gpu
def test_recordings_of_many_layers_are_replayed_in_any_order() -> None:
    """Ten layers, one skipped now and then, another used twice; a change of the weights that no version counts."""
    torch.manual_seed(0)
    layers = [specnorm_torch.spectral_norm(nn.Conv2d(4, 4, 3).cuda()) for _ in range(10)]
    for step in range(56):
        order = list(range(10)) if step % 3 else [9, 0, 0, *range(1, 8)]
        for place in order:
            found = specnorm.enclose(layers[place].weight.detach().cpu(), rtol=1e-3)
            assert 0.98 < found.lower < 1.01, (step, place)
        for layer in layers:
            layer.parametrizations.weight.original.data.mul_(1.0 + 0.5 * float(torch.rand(())))
