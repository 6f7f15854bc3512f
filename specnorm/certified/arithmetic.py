"""What proofs take for granted of the processor: looked at before one starts, and no flag of the user's in its way.

The rounding direction and the flushing of subnormal numbers to zero belong to the thread, not to a library: whoever
sets them sets them for NumPy too (``fesetround``; ``torch.set_flush_denormal``; libraries built with ``-ffast-math``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.errors import BackendError

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.types import Backend

_SMALLEST = [5e-324, 2.0**-1022, 0.5]
"""In a list, so that nothing is computed with them before this program runs."""
_HALVES = [1.0, 2.0**-53, 2.0**-54]
_NOTHING = contextlib.nullcontext()


def exact(x: Array, *, backend: Backend) -> contextlib.AbstractContextManager[object]:
    """Arithmetic as proofs need it, for arrays like x: rounding to nearest, full precision, no error from a flag.

    Floating-point flags are no results: OpenBLAS's kernels for AVX-512 compute lanes that they discard, from memory
    that nobody has written, and raise "invalid" for it. So NumPy's error state is set aside, and results are looked at.

    Raises
    ------
    BackendError
        If the processor does not round to nearest.
    """
    # Under a tracer nothing is computed yet, and a compiler may be reading this.
    return backend.precise(x) if backend.is_traced(x) else on_host(backend.precise(x))


@contextlib.contextmanager
def on_host(also: contextlib.AbstractContextManager[object] = _NOTHING) -> Iterator[None]:
    """As `exact`, for NumPy's arrays, whose arithmetic is precise as it comes; rules of networks enter it."""
    if not rounds_to_nearest():
        raise BackendError(
            "the processor does not round to nearest in this thread: something has set another direction (fesetround), "
            "and no bound would hold. Set it back before calling specnorm."
        )
    with np.errstate(all="ignore"), also:
        yield


def rounds_to_nearest() -> bool:
    """Whether sums in this thread are rounded to nearest: halfway cases go to the even neighbour on both sides of 1."""
    one, above, below = _HALVES
    return one + above == one and one - below == one


def flushes() -> bool:
    """Whether subnormal numbers are taken for zero in this thread, as operands or as results."""
    smallest, least, half = _SMALLEST
    return smallest == 0 or least * half == 0


def too_small(kernels: np.ndarray) -> bool:
    """Whether flushing could change the norm of one of some kernels (b, size) by as much as a rounding counts.

    Read from the bits, since comparisons flush too. Entries lost are below the smallest normal number t each, together
    below ``size t``; where the largest entry is ``2**60 size t``, neither that nor any end of an interval is near t.
    """
    if kernels.dtype not in (np.float32, np.float64):
        kernels = kernels.astype(np.float32)  # exact; half precision has no numbers that float32 calls subnormal
    wide = kernels.dtype == np.float64
    bits: Any = np.ascontiguousarray(kernels).view(np.uint64 if wide else np.uint32)
    mantissa, sign = (52, 63) if wide else (23, 31)
    largest = (bits & bits.dtype.type(2**sign - 1)).max(axis=-1, initial=0)
    least = (1 + 60 + kernels.shape[-1].bit_length()) << mantissa
    return bool(((largest > 0) & (largest < bits.dtype.type(least))).any())
