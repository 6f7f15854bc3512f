"""The backend of NumPy: BLAS threads, factorizations, and products of complex numbers without temporary arrays."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from specnorm.plugin import Backend
from specnorm_numpy import threads
from specnorm_numpy.arrays import NAMESPACE

_BATCH_BYTES = 2**18
"""Bytes of the matrices that are factorized in one call."""
_LAPACK_CHOLESKY: Any = getattr(getattr(np.linalg, "_umath_linalg", None), "cholesky_lo", None)
"""The function that ``np.linalg.cholesky`` calls. Unlike that, it takes an output array, and returns NaN for a matrix
without a factor instead of raising. It is not public, so it may be missing (None)."""
_SMALL_KERNEL = 2**22
"""Number of entries of a kernel up to which BLAS takes one thread; 512 x 512 channels with 3x3 taps are 2.4 million.
A search shares its cells among threads of its own. Several BLAS threads wait for each other in a loop, which takes 13
times the processor time on a busy machine."""
_LARGE_MATRIX = 128
"""Number of rows from which a factorization, of a tenth of a millisecond, is worth a thread."""
_HEAP_BYTES = 31 * 2**20
"""Bytes that `_keep_freed_memory` allocates."""


@functools.cache
def _keep_freed_memory() -> None:
    """Allocate a large array once in each process, before the first computation, and free it.

    By default glibc returns the memory of almost every large array to the system, which clears the pages for the next
    array; that takes a third of a search's time. glibc keeps freed arrays for reuse if they are no larger than the
    largest one that was freed before, up to 32 MiB. With other C libraries this call has no effect.
    """
    np.empty(_HEAP_BYTES, dtype=np.uint8)


def _lower_factors(a: Any, out: Any) -> Any:
    """Lower Cholesky factors of matrices (b, n, n), written to ``out``; NaN or infinities where there is none."""
    if _LAPACK_CHOLESKY is not None:
        return _LAPACK_CHOLESKY(a, out=out)
    for j, matrix in enumerate(a):
        try:
            out[j] = np.linalg.cholesky(matrix)
        except np.linalg.LinAlgError:
            out[j] = np.nan
    return out


def _has_factor(matrices: Any) -> Any:
    """Whether the Cholesky factorization of each Hermitian matrix (b, n, n) completes, shape (b,).

    What is factorized is the transposed matrix. It is in LAPACK's memory order, so its columns are copied as they are.
    OpenBLAS takes two thirds of the time for lower factors that it takes for upper ones. NaN and infinities in the
    matrix reach the factor's diagonal.
    """
    has_factor = np.zeros(len(matrices), dtype=np.bool_)
    matrices_at_once = max(1, _BATCH_BYTES // (matrices.itemsize * max(1, matrices.shape[-1]) ** 2))
    step = min(len(matrices), matrices_at_once)
    buffer = np.empty((step, *matrices.shape[1:]), dtype=matrices.dtype)
    with np.errstate(all="ignore"):
        for first in range(0, len(matrices), max(1, step)):
            part = matrices[first : first + step]
            factors = _lower_factors(part.swapaxes(-1, -2), buffer[: len(part)].swapaxes(-1, -2))
            has_factor[first : first + step] = np.isfinite(np.diagonal(factors, axis1=-2, axis2=-1)).all(axis=-1)
    return has_factor


class NumpyBackend(Backend):
    """The backend of NumPy's arrays and scalars."""

    name: ClassVar[str] = "numpy"
    framework: ClassVar[str] = "numpy"
    has_factors: ClassVar[bool] = True
    api_version: ClassVar[int] = 2

    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array or a NumPy scalar, which counts as a 0-d array."""
        return isinstance(x, (np.ndarray, np.generic))

    def refusal(self, x: Any) -> str | None:
        """The reason to refuse subclasses of arrays, whose operators may mean other things, and foreign byte order."""
        if type(x).__module__.partition(".")[0] != "numpy" and isinstance(x, np.ndarray):
            kind = f"{type(x).__module__}.{type(x).__qualname__}"
            return f"{kind} is not a plain NumPy array, and its operators may have another meaning. Pass np.asarray(x)."
        # Plain arrays are tested first, since `np.ma` takes a while to import.
        if type(x) is not np.ndarray and isinstance(x, (np.matrix, np.ma.MaskedArray)):
            return f"{type(x).__name__} is not supported: its operators have another meaning. Pass np.asarray(x)."
        if not x.dtype.isnative:
            return f"array has foreign byte order ({x.dtype.str}). Pass x.astype(x.dtype.newbyteorder('='))."
        return None

    def namespace(self, x: Any) -> Any:
        return NAMESPACE

    def device(self, x: Any) -> Any:
        return "cpu"

    def version(self) -> str:
        return np.__version__

    def precise(self, x: Any) -> contextlib.AbstractContextManager[object]:
        """A context with one BLAS thread for small kernels. NumPy's products always have full precision."""
        _keep_freed_memory()
        return threads.one_thread() if x.size <= _SMALL_KERNEL else contextlib.nullcontext()

    def cholesky_ok(self, a: Any) -> Any:
        """Whether each matrix has a Cholesky factor; large matrices are distributed to threads."""
        _keep_freed_memory()
        matrices = a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        shares = min(threads.workers(), len(matrices)) if matrices.shape[-1] >= _LARGE_MATRIX else 1
        if shares > 1:
            parts = list(threads.in_order(_has_factor, np.array_split(matrices, shares)))
        else:
            parts = [_has_factor(matrices)]
        return np.concatenate(parts).reshape(a.shape[:-2])

    def cholesky_factors(self, a: Any) -> Any:
        """The lower Cholesky factors: the conjugates of those of the transposed matrices, as in `_has_factor`."""
        matrices = a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        factors = np.empty(matrices.shape, dtype=a.dtype)
        with np.errstate(all="ignore"):
            _lower_factors(matrices.swapaxes(-1, -2), factors.swapaxes(-1, -2))
        if np.iscomplexobj(factors):
            np.conjugate(factors, out=factors)
        return factors.reshape(a.shape).swapaxes(-1, -2)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """`map` over a pool of threads."""
        return threads.in_order(function, items)

    def complex(self, real: Any, imag: Any) -> Any:
        """A complex array, made without temporary arrays."""
        shape = real.shape if real.shape == imag.shape else np.broadcast_shapes(real.shape, imag.shape)
        result = np.empty(shape, dtype=np.complex128 if real.dtype == np.float64 else np.complex64)
        result.real = real
        result.imag = imag
        return result

    def real_columns(self, z: Any) -> Any:
        """Real and imaginary parts in turn, as they are in memory."""
        return np.ascontiguousarray(z).view(z.real.dtype)

    def complex_columns(self, x: Any) -> Any:
        return np.ascontiguousarray(x).view(np.complex128 if x.dtype == np.float64 else np.complex64)

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        return np.array(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Any) -> Any:
        return x


BACKEND = NumpyBackend()
