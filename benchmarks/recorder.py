"""Weights that layers really used: recorded in the forward pass, measured after the training."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import specnorm

RTOL = 1e-3
"""Width to which a weight is enclosed."""
LIMITS = 1.01, 1.05
"""Norms above which steps are counted."""
PRODUCTS = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear,
    F.embedding,
)  # fmt: skip

Step: TypeAlias = dict[str, list[Any]]
"""By name of a layer, the weights that it used in one step, without repetitions."""
Geometry: TypeAlias = dict[str, Any]


@dataclass
class Run:
    """The weights that one training run used, step by step, and the geometry of each layer."""

    geometries: dict[str, Geometry] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


class Recorder(TorchFunctionMode):
    """Records the weight that each watched layer gives to its convolution or product, also in compiled code.

    The last product in a layer's forward pass is the layer's own: libraries that build a kernel from others call
    convolutions before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.geometries: dict[str, Geometry] = {}
        self.used: dict[str, list[Tensor]] = {}
        self.last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
            # Autocast converts the weight inside of the call.
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
            self.last = weight.detach().to(dtype, copy=True)
        return func(*args, **(kwargs or {}))

    def watch(self, name: str, layer: nn.Module) -> None:
        """Record the weights of this layer from now on."""
        self.geometries[name] = geometry_of(layer)
        self.used[name] = []

        def record(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
            if self.last is not None:
                self.used[name].append(self.last)

        layer.register_forward_hook(record)

    def take_step(self) -> Step:
        """Return the weights used since the last call."""
        step: Step = {}
        for name, weights in self.used.items():
            step[name] = [x for j, x in enumerate(weights) if not any(torch.equal(x, y) for y in weights[:j])]
            weights.clear()
        return step


def geometry_of(layer: nn.Module) -> Geometry:
    """Return the geometry of one of torch's layers, as keywords of `specnorm.enclose`."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        return {}
    names = ("stride", "dilation", "groups")
    return {name: getattr(layer, name) for name in names} | {"transposed": "Transpose" in type(layer).__name__}


# -- measuring -------------------------------------------------------------------------------------------------------
class Norm(NamedTuple):
    """Proven bounds of the norm of a weight in use."""

    lower: float
    upper: float


def figures(run: Run, *, each_step: bool = False) -> dict[str, Any]:
    """Return the worst norm and where it was, the shares of steps above the limits, and the least and mean norm.

    Figures with the ending ``_upper`` count the upper bounds of the norms, the others count the lower bounds. With
    ``each_step``, ``largest_upper`` lists the upper bound on the largest norm of each step.
    """
    steps = norms(run)
    largest = [max((norm.lower, layer) for layer, values in step.items() for norm in values) for step in steps]
    largest_upper = [max(norm.upper for values in step.values() for norm in values) for step in steps]
    every = [norm.lower for step in steps for values in step.values() for norm in values]
    worst, layer = max(largest)
    above = {f"above_{limit}": sum(value > limit for value, _ in largest) / len(steps) for limit in LIMITS}
    above |= {f"above_{limit}_upper": sum(value > limit for value in largest_upper) / len(steps) for limit in LIMITS}
    return {
        "steps": len(steps), "weights": len(every), "worst": worst, "worst_upper": max(largest_upper),
        "worst_layer": layer, "worst_step": largest.index((worst, layer)), **above, "least": min(every),
        "mean": statistics.fmean(every), **({"largest_upper": largest_upper} if each_step else {}),
    }  # fmt: skip


def norms(run: Run) -> list[dict[str, list[Norm]]]:
    """Return the norm of every weight of every step, by layer."""
    return [{name: step_norms(weights, run.geometries[name]) for name, weights in step.items()} for step in run.steps]


def step_norms(weights: list[Any], geometry: Geometry) -> list[Norm]:
    """Return the norms of one layer's weights; of those that are multiples of each other, one is enclosed."""
    enclosed: list[tuple[Tensor, Norm]] = []
    values = []
    for weight in weights:
        kernel = torch.as_tensor(weight).float()
        norm = next((multiple for x in enclosed if (multiple := _norm_of_multiple(*x, kernel))), None)
        if norm is None:
            lower, upper = specnorm.enclose(kernel, rtol=RTOL, **geometry)
            norm = Norm(float(lower), float(upper))
            enclosed.append((kernel, norm))
        values.append(norm)
    return values


def _norm_of_multiple(kernel: Tensor, norm: Norm, other: Tensor) -> Norm | None:
    """Return the norm of a positive multiple of a kernel; None if ``other`` is none, up to rounding."""
    factor = factor_between(kernel, other)
    return Norm(factor * norm.lower, factor * norm.upper) if factor else None


def factor_between(kernel: Tensor, multiple: Tensor) -> float:
    """Return the positive number that one kernel is multiplied by to give the other, up to rounding; else 0."""
    factor = float((kernel * multiple).sum() / kernel.square().sum().clamp_min(1e-30))
    distance = float((factor * kernel - multiple).norm())
    return factor if factor > 0 and distance <= 1e-6 * float(multiple.norm()) else 0.0
