"""Check, before a proof starts, that the processor rounds as proofs assume; set NumPy's error state aside meanwhile.

The rounding direction and the flushing of subnormal numbers to zero are states of the thread, not of a library:
``fesetround``, ``torch.set_flush_denormal`` and libraries built with ``-ffast-math`` change them for NumPy too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.errors import BackendError

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import Backend

_ROUNDING_TEST = [1.0, 2.0**-53, 2.0**-54]
"""1, and half the distance to its neighbours above and below: sums with 1 that are halfway cases. A list, so that
Python's compiler does not fold the tests on it into constants."""
_NO_CONTEXT = contextlib.nullcontext()


def exact(x: Array, *, backend: Backend) -> contextlib.AbstractContextManager[object]:
    """Context manager in which arrays of x's library and device compute as proofs assume.

    Products have full precision, the processor is checked to round to nearest, and NumPy's floating-point warnings are
    off. Warnings say nothing about results here: OpenBLAS's kernels for AVX-512 compute lanes from uninitialised
    memory, discard them, and still raise "invalid". Rules check their results instead.

    Raises `BackendError` if the processor does not round to nearest.
    """
    # Under a tracer nothing is computed yet, and a compiler may be tracing this very code.
    return backend.precise(x) if backend.is_traced(x) else on_host(backend.precise(x))


@contextlib.contextmanager
def on_host(inner: contextlib.AbstractContextManager[object] = _NO_CONTEXT) -> Iterator[None]:
    """Context manager like `exact` for NumPy arrays, whose products always have full precision.

    ``inner``: entered as well.
    """
    if not rounds_to_nearest():
        raise BackendError(
            "the processor does not round to nearest in this thread: another rounding direction was set (fesetround), "
            "so no bound would hold. Restore it before you call specnorm."
        )
    with np.errstate(all="ignore"), inner:
        yield


def rounds_to_nearest() -> bool:
    """Whether this thread rounds sums to nearest, ties to even: halfway cases on both sides of 1 must give 1."""
    one, half_step_above, half_step_below = _ROUNDING_TEST
    return one + half_step_above == one and one - half_step_below == one


def too_small(kernels: np.ndarray) -> bool:
    """Whether flushing subnormal numbers to zero could change the norm of a kernel noticeably.

    Let t be the smallest normal number. Flushed entries are below t each, so together they change the norm by less than
    ``size * t``. That is negligible if the largest entry is at least ``2**60 size t``, about. Magnitudes are compared
    as integers, through their bits, since comparisons of floats may flush too.

    ``kernels`` is (b, size). Returns True if some kernel is not zero and its largest entry is below that limit.
    """
    if kernels.dtype not in (np.float32, np.float64):
        kernels = kernels.astype(np.float32)  # exact; half precision has no numbers that float32 calls subnormal
    unsigned: type[np.uint32 | np.uint64]
    if kernels.dtype == np.float64:
        unsigned, mantissa_bits, sign_bit = np.uint64, 52, 63
    else:
        unsigned, mantissa_bits, sign_bit = np.uint32, 23, 31
    bits: Any = np.ascontiguousarray(kernels).view(unsigned)
    largest = (bits & unsigned(2**sign_bit - 1)).max(axis=-1, initial=0)
    # The bits of a power of two are its biased exponent, which is 1 for t, shifted past the mantissa.
    limit = (1 + 60 + kernels.shape[-1].bit_length()) << mantissa_bits
    return bool(((largest > 0) & (largest < unsigned(limit))).any())
