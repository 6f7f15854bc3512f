"""Whether a network, or what it leaves of its input, is nonexpansive: proven, refuted by a pair of inputs, or open."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from specnorm_networks import Measure, Method, NetworkBound, bound, forward_step
from torch import Tensor, nn

from specnorm.errors import MethodError
from specnorm.methods.base import check_count
from specnorm.text import number
from specnorm_torch.baking import baked
from specnorm_torch.modules import at_inference
from specnorm_torch.networks import module_of, network_graph
from specnorm_torch.rounding import shaken

_REFUTED = 1.001
"""A ratio that refutes, once rounding is taken off."""
_DISTANCE = 1e-2
"""Of the two inputs, as a part of the example's norm: far enough for the difference of outputs to keep its digits."""


@dataclass(frozen=True)
class Nonexpansive:
    """Answer to the question whether ``|f(x) - f(y)| <= |x - y|`` for all x and y.

    Parameters
    ----------
    proven : bool or None
        True: proven. False: refuted by `pair`. None: neither.
    statement : str
        Which function it is about.
    bound : NetworkBound
        What is proven; ``bound.upper`` is a constant of the function.
    reached : float
        Largest ratio ``|f(x) - f(y)| / |x - y|`` that was found in float64, less what rounding may have added to it
        (`specnorm_torch.rounding.shaken`, which estimates that).
    pair : tuple of Tensor
        The two inputs that reach it, in float64.
    """

    proven: bool | None
    statement: str
    bound: NetworkBound
    reached: float
    pair: tuple[Tensor, Tensor]

    def __str__(self) -> str:
        """One sentence."""
        upper = self.bound.upper
        known = (
            "its constant is not known"
            if upper is None
            else f"its constant is at most {number(upper, 'upper')}, proven"
        )
        verdict = {True: "is nonexpansive", False: "is not nonexpansive", None: "may be nonexpansive or not"}[
            self.proven
        ]
        said = f"{self.statement} {verdict}: {known}; a pair of inputs reaches {number(self.reached, 'lower')}."
        return f"{said} {self.bound.note}".rstrip()


def nonexpansive(
    model: nn.Module,
    input_shape: Sequence[int] | Tensor,
    *,
    residual: bool = False,
    steps: int = 30,
    rtol: float = 1e-3,
    bake: bool = False,
    method: Method | None = None,
) -> Nonexpansive:
    """Prove or refute that a network is nonexpansive.

    Plug-and-play iterations converge with a denoiser that is (Ryu et al., "Plug-and-Play Methods Provably Converge with
    Properly Trained Denoisers", ICML 2019: forward-backward with ``x - f(x)``, f the noise that it predicts).

    Parameters
    ----------
    model : Module
        With one input and one output; run in ``eval()``, its mode and device are as before.
    input_shape : sequence of int, or Tensor
        As for `network_bound`. A tensor is also where the search for a pair begins; else noise is.
    residual : bool, default False
        Ask about ``x - f(x)`` in place of ``f``.
    steps : int, default 30
        Steps of the search for a pair that refutes it: power iterations with the Jacobian at the first input, which
        moves along its strongest direction. At least 1.
    rtol, bake, method
        As for `network_bound`.

    Returns
    -------
    Nonexpansive
        A proof is about real arithmetic, inputs of this shape, and the model with its weights as they are; a
        refutation about a copy of it in float64, whose rounding is estimated, far too large, and taken off.

    Raises
    ------
    MethodError
        If the model cannot be traced, or has not one input and one output (with ``residual`` of one shape).
    """
    check_count("steps", steps, least=1)
    model = baked(model) if bake else model
    graph = network_graph(model, input_shape)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise MethodError(
            f"The network has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; expected one of each."
        )
    found = bound(forward_step(graph) if residual else graph, Measure(rtol), method=method)
    # The pair refutes what the bound is of: perhaps a copy with its kernels as they are now.
    double = copy.deepcopy(module_of(graph)).cpu().double()
    if isinstance(input_shape, Tensor):
        start = input_shape.detach().cpu().double()
    else:
        start = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        y: Tensor = double(x)
        return x - y if residual else y

    with at_inference(double):
        ratio, pair = _search(function, start, steps)
        ratio = _less_rounding(function, ratio, pair)
    # What the graph claims is claimed of the model where both were compared.
    holds = found.upper is not None and found.upper <= 1 and found.checked.complete
    proven = True if holds else False if ratio > _REFUTED else None
    return Nonexpansive(proven, "x - f(x)" if residual else "f", found, ratio, pair)


def _search(function: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[float, tuple[Tensor, Tensor]]:
    """The pair with the largest ratio seen.

    The two lie along the strongest direction of the Jacobian between them, and move together to where it is stronger.
    """
    distance = _DISTANCE * float(start.norm() or 1)
    x, best = start, (-1.0, (start, start))
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    for _ in range(steps):
        direction = direction * (distance / (float(direction.norm()) or 1.0))
        first, second = x.clone().requires_grad_(), (x + direction).requires_grad_()
        with torch.enable_grad():
            outputs = function(first) - function(second)
            ratio = outputs.norm() / distance
        found = float(ratio.detach())
        if found > best[0]:
            best = found, (first.detach(), second.detach())
        if not (found > 0 and math.isfinite(found)):
            break
        ahead, behind = torch.autograd.grad(ratio, (first, second))
        # J'J d of the chord: one step of the power iteration; what moves both ends together raises the ratio.
        direction, x = behind - ahead, x + distance * _unit(ahead + behind)
    return best


def _less_rounding(function: Callable[[Tensor], Tensor], ratio: float, pair: tuple[Tensor, Tensor]) -> float:
    """A ratio of a pair, less what rounding may have added; at least 0."""
    x, y = pair
    distance = float((x - y).norm())
    if not (ratio > 0 and distance > 0):
        return ratio
    lost = sum(shaken(function, each) for each in pair)
    least = ratio - lost / distance
    return max(least, 0.0) if math.isfinite(least) else 0.0


def _unit(x: Tensor) -> Tensor:
    y: Tensor = x / (x.norm() + torch.finfo(x.dtype).tiny)
    return y
