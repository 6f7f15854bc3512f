"""Torch's tensors for the algorithms: what they are, where they lie, in which precision they compute.

Nothing here differentiates or compiles: the operators run programs with `ARRAYS`, and `backend` adds the gradients.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import array_api_compat.torch
import numpy as np
import torch
from torch import Tensor

from specnorm.plugin import AnyArray as Array
from specnorm.plugin import Backend


class TorchArrays(Backend):
    """torch.Tensor and its subclasses, without differentiation."""

    name: ClassVar[str] = "torch"
    framework: ClassVar[str] = "torch"
    has_factors: ClassVar[bool] = True
    api_version: ClassVar[int] = 2

    def is_array(self, x: object) -> bool:
        return isinstance(x, Tensor)

    def refusal(self, x: Array) -> str | None:
        """Lazy, nested, sparse, quantised and distributed tensors."""
        if isinstance(x, torch.nn.UninitializedParameter | torch.nn.UninitializedBuffer):
            return "tensor has no shape yet: run its module once on an input, so that its lazy layers are initialised."
        if x.is_nested:
            return "tensor is nested; take its parts one by one: .unbind()."
        if x.layout != torch.strided:
            return f"tensor has layout {x.layout}; expected a dense one: call .to_dense() first."
        if x.is_quantized:
            return "tensor is quantised; call .dequantize() first."
        if hasattr(x, "device_mesh"):
            return "tensor is a DTensor; gather it first (full_tensor())."
        return None

    def namespace(self, x: Array) -> Any:
        return array_api_compat.torch

    def devices(self) -> Sequence[str]:
        return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))

    def version(self) -> str:
        return str(torch.__version__)

    def is_traced(self, x: Array) -> bool:
        """Under compile, vmap or fake tensors; torch.func.grad alone leaves values known."""
        if torch.compiler.is_compiling() or x.is_meta:
            return True
        # A fake tensor's storage is on the device "meta", whatever device it says.
        return not _has_values(x) if transformed(x) else bool(x.untyped_storage().device.type == "meta")

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """float64, but on Apple's devices, which have none."""
        return "float32" if x.device.type == "mps" else "float64"

    def working_dtype(
        self,
        x: Array,
        dtype: Literal["float32", "float64"],
    ) -> Literal["float32", "float64"]:
        """float64 where TF32 or bf16 products are on for float32: refusing to be imprecise, without touching a flag."""
        return self.wide_dtype(x) if dtype == "float32" and _lowered(x.device.type) else dtype

    def precise(self, x: Array) -> contextlib.AbstractContextManager[object]:
        """Autocast off."""
        if x.device.type == "meta":
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, enabled=False)

    def cholesky_ok(self, a: Array) -> Array:
        """By LAPACK's info; infinities pass it, so entries are checked as well."""
        factor, info = torch.linalg.cholesky_ex(a)
        # A sum is finite only if every entry is; one reduction is several times faster than a mask of complex entries.
        sums = a.flatten(-2).sum(-1) + factor.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (info == 0) & torch.isfinite(sums)

    def cholesky_factors(self, a: Array) -> Array:
        factor, info = torch.linalg.cholesky_ex(a)
        return factor.masked_fill((info != 0)[..., None, None], math.nan)

    def complex(self, real: Array, imag: Array) -> Array:
        return torch.complex(real, imag)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy to a device; first on the host, since torch reads no negative strides."""
        return torch.tensor(np.array(x), device=device)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Detach and copy to the host; bfloat16, which NumPy lacks, becomes float32 (exact)."""
        x = x.detach().cpu().resolve_neg()
        return np.asarray(x.float() if x.dtype == torch.bfloat16 else x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy to the device of ``like``."""
        return torch.tensor(np.asarray(x, order="C"), device=like.device)  # torch refuses negative strides

    def asynchronous(self, x: Array) -> bool:
        return bool(x.device.type != "cpu")

    def share_numpy(self, x: np.ndarray, like: Array) -> Array:
        x = np.asarray(x)
        return torch.from_numpy(x) if self.numpy_view(like) and x.flags.carray else self.from_numpy(x, like)

    def numpy_view(self, x: Array) -> bool:
        """On the CPU. NumPy takes half of torch's time for a search: many small complex matrices."""
        return bool(x.device.type == "cpu")

    def detach(self, x: Array) -> Array:
        return x.detach()

    def as_proven(self, x: Array) -> Array:
        """Without a gradient: torch warns of ``float(x)`` otherwise."""
        return x.detach()


class _ShapesOnly(TorchArrays):
    """Stands in while shapes are inferred: values are unknown, loops run once."""

    def is_traced(self, x: Array) -> bool:
        return True

    def check_cholesky(self, like: Array) -> None:
        pass

    def loop(
        self,
        cond: Callable[[Any], Array],
        body: Callable[[Any], Any],
        state: tuple[Array, ...],
    ) -> tuple[Array, ...]:
        return tuple(body(state))


ARRAYS = TorchArrays()
"""For running a program inside an operator."""

SHAPES: TorchArrays = _ShapesOnly()
"""For inferring the shapes of what a program returns."""


def transformed(x: Tensor) -> bool:
    """Whether a torch.func transformation wraps the tensor: its requires_grad then tells nothing (grad of vmap)."""
    try:
        storage = x.untyped_storage()
        if storage.device.type != "meta":  # torch warns where a fake tensor's address is asked for
            storage.data_ptr()
    except (NotImplementedError, RuntimeError):  # what wraps a tensor has no storage, or one without an address
        return True
    return False


def _has_values(x: Tensor) -> bool:
    """Whether numbers can be read off a tensor that is wrapped: vmap, within or around grad, refuses that."""
    try:
        return isinstance(x.detach().abs().sum().item(), float)
    except RuntimeError:
        return False


def _lowered(device: str) -> bool:
    """Whether float32 products run at reduced precision. Read only: no flag is changed."""
    try:
        precision = (
            torch.backends.cuda.matmul.fp32_precision if device == "cuda" else torch.get_float32_matmul_precision()
        )
    except (AttributeError, RuntimeError):
        # Before torch 2.9 there is no fp32_precision; after setting one, the older name refuses to be read.
        try:
            precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        except RuntimeError:
            precision = "unknown"
    return precision not in ("ieee", "highest", "none")
