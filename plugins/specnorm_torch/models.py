"""The door for packages that read whole models: what a module is at inference, what its layers say, what it calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from specnorm_torch.baking import baked, computed
from specnorm_torch.modules import (
    Select,
    at_inference,
    check_module,
    check_values,
    computes_as_torch,
    computes_with,
    geometry_of,
    is_layer,
    is_lazy,
    is_quantised,
    layers_of,
    name_of,
    version_of,
    weight_of,
)

__all__ = [
    "ASKED",
    "Select",
    "at_inference",
    "baked",
    "called",
    "check_module",
    "check_values",
    "computed",
    "computes_as_torch",
    "computes_with",
    "geometry_of",
    "is_layer",
    "is_lazy",
    "is_quantised",
    "layers_of",
    "name_of",
    "replaced",
    "tensors",
    "version_of",
    "weight_of",
]

ASKED = (
    "dim", "size", "ndim", "shape", "dtype", "device", "layout", "stride", "numel", "nelement", "__len__", "is_cuda",
    "is_cpu", "is_floating_point", "is_complex", "is_contiguous", "requires_grad", "is_leaf", "grad_fn", "is_nested",
    "is_quantized", "is_sparse", "is_meta", "is_mps", "is_xpu", "_backward_hooks", "names", "get_device",
    "element_size", "__repr__", "__hash__", "data_ptr", "_version",
)  # fmt: skip
"""What may be asked of a tensor without seeing its entries."""


def called(func: Any) -> str:
    """Name of a function of torch's, as a mode is told it."""
    name = str(getattr(func, "__name__", func))
    if isinstance(func, torch._ops.OpOverloadPacket):
        # A custom operator may have the name of one of torch's.
        return str(func._qualified_op_name)
    # Reading an attribute of a tensor.
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name in ("__get__", "__set__") else name


def tensors(x: Any) -> Iterator[Tensor]:
    """Tensors in nested arguments."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, Mapping):
        yield from tensors(list(x.values()))
    elif isinstance(x, list | tuple):
        for item in x:
            yield from tensors(item)


def replaced(x: Any, generator: torch.Generator) -> Any:
    """Arguments with random numbers for floating tensors."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return torch.randn(x.shape, generator=generator, device="cpu").to(x)
    if isinstance(x, Mapping):
        return {key: replaced(value, generator) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(replaced(item, generator) for item in x) if type(x) in (list, tuple) else x
    return x
