"""Weights that layers really used: recorded in the forward pass, measured after the training."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import specnorm

RTOL = 3e-3
"""Relative width to which a norm is enclosed. The lines have the lower end, the page says how far the upper one is."""
LIMITS = 1.01, 1.05
"""Norms above which steps are counted."""
PRODUCTS = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear,
)  # fmt: skip

Step: TypeAlias = dict[str, list[Any]]
"""By name of a layer, the weights that it used in one step, without repetitions."""
Geometry: TypeAlias = dict[str, Any]


@dataclass
class Run:
    """What one training run used: weights step by step, and the geometry of each layer."""

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
    """Return what `specnorm.enclose` is told of a layer of torch's."""
    if isinstance(layer, nn.Linear):
        return {}
    names = ("stride", "dilation", "groups")
    return {name: getattr(layer, name) for name in names} | {"transposed": "Transpose" in type(layer).__name__}


# -- measuring -------------------------------------------------------------------------------------------------------
def figures(run: Run) -> dict[str, Any]:
    """Return the worst norm and where it was, the shares of steps above the limits, and the least and mean norm."""
    steps = norms(run)
    largest = [max((max(values), layer) for layer, values in step.items()) for step in steps]
    every = [value for step in steps for values in step.values() for value in values]
    worst, layer = max(largest)
    above = {f"above_{limit}": sum(value > limit for value, _ in largest) / len(steps) for limit in LIMITS}
    return {
        "steps": len(steps), "weights": len(every), "worst": worst, "worst_layer": layer,
        "worst_step": largest.index((worst, layer)), **above, "least": min(every), "mean": statistics.fmean(every),
    }  # fmt: skip


def norms(run: Run) -> list[dict[str, list[float]]]:
    """Return the norm of every weight of every step, by layer: proven lower ends."""
    return [{name: step_norms(weights, run.geometries[name]) for name, weights in step.items()} for step in run.steps]


def step_norms(weights: list[Any], geometry: Geometry) -> list[float]:
    """Return the norms of one layer's weights; of those that are multiples of each other, one is enclosed."""
    enclosed: list[tuple[Tensor, float]] = []
    values = []
    for weight in weights:
        kernel = torch.as_tensor(weight).float()
        known = next((factor * norm for other, norm in enclosed if (factor := factor_between(other, kernel))), None)
        if known is None:
            found = specnorm.enclose(kernel, rtol=RTOL, **geometry)
            if not found.status.startswith("converged"):
                raise RuntimeError(f"the page says that the bounds are {RTOL} apart, but {found}")
            known = float(found.lower)
            enclosed.append((kernel, known))
        values.append(known)
    return values


def factor_between(kernel: Tensor, multiple: Tensor) -> float:
    """Return the positive number that one kernel is multiplied by to give the other, up to rounding; else 0."""
    factor = float((kernel * multiple).sum() / kernel.square().sum().clamp_min(1e-30))
    distance = float((factor * kernel - multiple).norm())
    return factor if factor > 0 and distance <= 1e-6 * float(multiple.norm()) else 0.0
