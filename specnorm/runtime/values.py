"""Which values of a kernel are measured: finite ones, that the processor does not take for zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import arithmetic
from specnorm.errors import BackendError, KernelError

if TYPE_CHECKING:
    from specnorm.types import Array, Library


def check_values(kernels: Array, shape: tuple[int, ...], *, backend: Library) -> None:
    """Refuse non-finite values, and what the processor would take for zero; for concrete arrays only.

    Raises
    ------
    KernelError, BackendError
    """
    with np.errstate(all="ignore"):
        _check_finite(kernels, shape, backend=backend)
    if not arithmetic.flushes() or not (backend.numpy_view(kernels) or backend.host() is backend):
        return
    if arithmetic.too_small(backend.to_numpy(kernels).reshape(-1, math.prod(shape))):
        raise BackendError(
            f"kernel of shape {shape} is so small that subnormal numbers matter, and the processor takes them "
            "for zero in this thread (torch.set_flush_denormal(True), or a library compiled with -ffast-math). "
            "Switch that off before the call, or measure the kernel in a process without it."
        )


def _check_finite(kernels: Array, shape: tuple[int, ...], *, backend: Library) -> None:
    xp = backend.namespace(kernels)
    finite = xp.isfinite(kernels)
    if not bool(xp.all(finite)):
        count = int(xp.sum(xp.astype(~finite, xp.int32)))
        raise KernelError(
            f"kernel of shape {shape} holds {count} non-finite value{'s' * (count > 1)} (NaN or infinity). "
            "Expected finite numbers: look where the training diverged, or at how the file was read."
        )
