"""The part of torch's backend without differentiation and compilers: recognition, devices, precision, operations.

The custom operators run programs with `ARRAYS`; `specnorm_torch.backend` adds gradients.
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
    """The backend of `torch.Tensor` and its subclasses, without differentiation."""

    name: ClassVar[str] = "torch"
    framework: ClassVar[str] = "torch"
    api_version: ClassVar[int] = 2
    has_factors: ClassVar[bool] = True  # `cholesky_factors` is defined

    def is_array(self, x: object) -> bool:
        return isinstance(x, Tensor)

    def refusal(self, x: Array) -> str | None:
        """The reason to refuse lazy, nested, sparse, quantized and distributed tensors; None for others."""
        if isinstance(x, torch.nn.UninitializedParameter | torch.nn.UninitializedBuffer):
            return "tensor has no shape yet: run its module once on an input, so that its lazy layers are initialized."
        if x.is_nested:
            return "tensor is nested; take its parts one by one: .unbind()."
        if x.layout != torch.strided:
            return f"tensor has layout {x.layout}; expected a dense one: call .to_dense() first."
        if x.is_quantized:
            return "tensor is quantized; call .dequantize() first."
        if hasattr(x, "device_mesh"):
            return (
                "tensor is a DTensor, as the weights of a model that FSDP2 (fully_shard) shards: each process holds a "
                "part. Gather it first, full_tensor(); or train with DistributedDataParallel, whose weights are whole."
            )
        return None

    def namespace(self, x: Array) -> Any:
        return array_api_compat.torch

    def devices(self) -> Sequence[str]:
        return ("cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())))

    def version(self) -> str:
        return str(torch.__version__)

    def is_traced(self, x: Array) -> bool:
        """Whether values are unknown: under compile and vmap, and for fake tensors; not under torch.func.grad alone."""
        if torch.compiler.is_compiling() or x.is_meta:
            return True
        if transformed(x):
            return not _has_values(x)
        # The storage of a fake tensor is on the device "meta", whatever its attribute `device` says.
        return bool(x.untyped_storage().device.type == "meta")

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """float64, or float32 on Apple's GPUs, which do not support float64."""
        return "float32" if x.device.type == "mps" else "float64"

    def working_dtype(
        self,
        x: Array,
        dtype: Literal["float32", "float64"],
    ) -> Literal["float32", "float64"]:
        """As `Backend.working_dtype`: wider than float32 if the user's settings lower the precision of its products."""
        return self.wide_dtype(x) if dtype == "float32" and _has_lowered_precision(x.device.type) else dtype

    def precise(self, x: Array) -> contextlib.AbstractContextManager[object]:
        """Context manager that switches autocast off."""
        if x.device.type == "meta":
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, enabled=False)

    def cholesky_ok(self, a: Array) -> Array:
        """Whether LAPACK reports a factor for each matrix, and all entries are finite: LAPACK accepts infinities."""
        factor, info = torch.linalg.cholesky_ex(a)
        # A sum is finite only if all entries are. One reduction is several times faster than a mask of complex entries.
        sums = a.flatten(-2).sum(-1) + factor.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (info == 0) & torch.isfinite(sums)

    def cholesky_factors(self, a: Array) -> Array:
        factor, info = torch.linalg.cholesky_ex(a)
        return factor.masked_fill((info != 0)[..., None, None], math.nan)

    def inverse_factors(self, a: Array) -> Array:
        """Without checks, for which the host would wait for a device."""
        factor, _ = torch.linalg.cholesky_ex(a)
        return torch.linalg.inv_ex(factor).inverse

    def complex(self, real: Array, imag: Array) -> Array:
        return torch.complex(real, imag)

    def real_columns(self, z: Array) -> Array:
        """Real and imaginary parts in turn, as they are in memory."""
        return torch.view_as_real(z.resolve_conj()).flatten(-2)

    def complex_columns(self, x: Array) -> Array:
        return torch.view_as_complex(x.unflatten(-1, (-1, 2)))

    def entries_at(self, x: Array, places: Array, axis: int) -> Array:
        """In one operation; `take` looks for negative integers in three more."""
        return torch.index_select(x, axis, places)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy a NumPy array to a device. `np.array` copies first, since torch does not support negative strides."""
        return torch.tensor(np.array(x), device=device)

    def to_numpy(self, x: Array) -> np.ndarray:
        """Detach, and copy to the host; bfloat16, which NumPy lacks, is converted to float32, exactly."""
        x = x.detach().cpu().resolve_neg()
        return np.asarray(x.float() if x.dtype == torch.bfloat16 else x)

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a NumPy array to the device of ``like``."""
        return torch.tensor(_without_negative_strides(np.asarray(x, order="C")), device=like.device)

    def asynchronous(self, x: Array) -> bool:
        return bool(x.device.type != "cpu")

    def share_numpy(self, x: np.ndarray, like: Array) -> Array:
        x = _without_negative_strides(np.asarray(x))
        return torch.from_numpy(x) if self.numpy_view(like) and x.flags.carray else self.from_numpy(x, like)

    def numpy_view(self, x: Array) -> bool:
        """True on the CPU: for searches, with their many small complex matrices, NumPy takes half of torch's time."""
        return bool(x.device.type == "cpu")

    def detach(self, x: Array) -> Array:
        """The tensor itself if nothing differentiates it."""
        is_constant = not (torch.compiler.is_compiling() or x.requires_grad or transformed(x))
        return x if is_constant else x.detach()

    def as_proven(self, x: Array) -> Array:
        """Detach a proven bound: torch warns about ``float(x)`` of tensors that require a gradient."""
        return x.detach()


def _without_negative_strides(x: np.ndarray) -> np.ndarray:
    """The array, or a copy: torch refuses negative strides, which NumPy allows in C order along axes of length 1."""
    return x.copy() if min(x.strides, default=0) < 0 else x


class _ShapesOnly(TorchArrays):
    """A backend for inferring shapes: values count as unknown, and loops run once."""

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
"""The backend with which the operators run programs."""

SHAPES: TorchArrays = _ShapesOnly()
"""The backend with which the operators infer the shapes of a program's results."""


def transformed(x: Tensor) -> bool:
    """Whether a ``torch.func`` transformation wraps the tensor. Then its ``requires_grad`` is meaningless."""
    try:
        storage = x.untyped_storage()
        # torch warns if the address of a fake tensor's storage is read.
        if storage.device.type != "meta":
            storage.data_ptr()
    except (NotImplementedError, RuntimeError):
        # A wrapped tensor has no storage, or one without an address.
        return True
    return False


def _has_values(x: Tensor) -> bool:
    """Whether values of a wrapped tensor can be read; `vmap`, inside or outside of `grad`, refuses that."""
    try:
        return isinstance(x.detach().abs().sum().item(), float)
    except RuntimeError:
        return False


def _has_lowered_precision(device: str) -> bool:
    """Whether the user's settings lower the precision of float32 products (TF32, bfloat16)."""
    try:
        if device == "cuda":
            precision = torch.backends.cuda.matmul.fp32_precision
        else:
            precision = torch.get_float32_matmul_precision()
    except (AttributeError, RuntimeError):
        # torch before 2.9 has no fp32_precision. Later versions refuse to return the older setting after the newer one
        # was set.
        try:
            precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        except RuntimeError:
            precision = "unknown"
    return precision not in ("ieee", "highest", "none")
