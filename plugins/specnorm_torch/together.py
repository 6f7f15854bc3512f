"""Spectral-norm parametrisations of one model, stepped in one call for each shape."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from specnorm_torch.backend import BACKEND
from specnorm_torch.constraint import SpectralNorm


@contextlib.contextmanager
def step_together(module: nn.Module) -> Iterator[None]:
    """Compute the weights that `spectral_norm` keeps, of all layers of a module, in one call for each kernel shape.

    Within it each weight is computed once, as by `torch.nn.utils.parametrize.cached`, for one forward pass and its
    backward: many small layers cost what one does. Layers of one shape, geometry and method, with equal arguments of
    `spectral_norm`, make a batch; under compilers and transformations each layer is stepped by itself.

    Parameters
    ----------
    module : Module
        Its parameters are not to be changed inside: a weight that is keeps its own way.
    """
    found = [
        (each.original, each[0])
        for owner in module.modules()
        if parametrize.is_parametrized(owner)
        for each in owner.parametrizations.values()  # type: ignore[operator]
        if len(each) == 1 and isinstance(each[0], SpectralNorm)
    ]
    groups: dict[object, list[tuple[Tensor, SpectralNorm]]] = {}
    for weight, constraint in found:
        if constraint.state_names and not BACKEND.changes(weight):
            groups.setdefault((constraint.alike, weight.shape, weight.dtype, weight.device), []).append(
                (weight, constraint)
            )
    try:
        for members in groups.values():
            _step(members)
        with parametrize.cached():
            yield
    finally:
        for _, constraint in found:
            constraint.known = None


@torch.no_grad()
def _step(members: list[tuple[Tensor, SpectralNorm]]) -> None:
    """Move the states of some constraints that are alike, and leave them what their weights are made of."""
    weights, constraints = zip(*members, strict=True)
    first: SpectralNorm = constraints[0]
    for weight, constraint in members:
        constraint.renew(weight)
    kernels = torch.stack([first.kernel(weight) for weight in weights])
    before = [list(each.state.values()) for each in constraints]
    factor, slope, gradient, after = first.stepped(
        kernels, tuple(map(torch.stack, zip(*before, strict=True))), stacked=True
    )
    if first.training:
        old = [x for state in before for x in state]
        torch._foreach_copy_(old, [x[j] for j in range(len(before)) for x in after])
    for j, (weight, constraint) in enumerate(members):
        constraint.known = (weight, weight._version, factor[j], slope[j], gradient[j])
