"""Weights that layers really used: recorded in the forward pass, and enclosed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from specnorm_torch import geometry_of
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import specnorm
from benchmarks.facts import Row

RTOL = 1e-3
"""Width to which a weight is enclosed."""
LIMITS = 1.01, 1.05
"""Norms above which steps are counted."""
PRODUCTS = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear,
    F.embedding,
)  # fmt: skip


class Used(NamedTuple):
    """A weight that a layer used, with the keywords of `specnorm.enclose` for the layer."""

    layer: str
    weight: Any
    geometry: dict[str, Any]


class Recorder(TorchFunctionMode):
    """Records the weight that each watched layer gives to its convolution or product, also in compiled code.

    The last product in a layer's forward pass is the layer's own: libraries that build a kernel from others call
    convolutions before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.used: list[Used] = []
        self.last: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            # Autocast converts the weight inside of the call.
            dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
            self.last = weight.detach().to(dtype, copy=True)
        return func(*args, **(kwargs or {}))

    def watch(self, layer: nn.Module) -> None:
        """Record the weights of this layer from now on."""
        name = str(self.count)
        self.count += 1
        geometry = {} if isinstance(layer, nn.Embedding) else geometry_of(layer)

        def record(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
            before = [used.weight for used in self.used if used.layer == name]
            if self.last is not None and not any(torch.equal(self.last, weight) for weight in before):
                self.used.append(Used(name, self.last, geometry))

        layer.register_forward_hook(record)

    def take_step(self) -> list[Used]:
        """Return the weights used since the last call, each once."""
        used, self.used = self.used, []
        return used


def figures(steps: Iterable[list[Used]], *, each_step: bool = False) -> Row:
    """Return bounds on the largest norm, the mean of the lower bounds, and shares of steps whose upper bound is large.

    With ``each_step``, ``largest_upper`` lists the upper bound on the largest norm of each step.
    """
    lowers: list[float] = []
    uppers: list[float] = []
    for step in steps:
        bounds = [specnorm.enclose(torch.as_tensor(used.weight).float(), rtol=RTOL, **used.geometry) for used in step]
        lowers += [float(bound.lower) for bound in bounds]
        uppers.append(max(float(bound.upper) for bound in bounds))
    row: Row = {"steps": len(uppers), "worst": max(lowers), "worst_upper": max(uppers)}
    row["mean"] = statistics.fmean(lowers)
    row |= {f"above_{limit}_upper": sum(norm > limit for norm in uppers) / len(uppers) for limit in LIMITS}
    return row | ({"largest_upper": uppers} if each_step else {})
