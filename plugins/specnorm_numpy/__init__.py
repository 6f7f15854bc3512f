"""NumPy for specnorm: the reference backend. No automatic differentiation; use `specnorm.value_and_grad`."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from specnorm.plugin import Backend
from specnorm_numpy import threads
from specnorm_numpy.namespace import NAMESPACE

_BATCH = 2**18
"""Bytes of the matrices that are factorised in one call."""
_LAPACK: Any = getattr(getattr(np.linalg, "_umath_linalg", None), "cholesky_up", None)
"""What ``np.linalg.cholesky`` calls; it alone takes an output, and puts NaN where there is no factor. Not public."""
_SMALL = 2**22
"""Entries of a kernel up to which BLAS takes one thread: 512 by 512 channels with 3x3 taps, and more. Searches share
their cells among threads of our own; BLAS's wait for each other in a loop, which takes 13 times the processor time on a
busy machine."""
_LARGE = 128
"""Size from which factorisations are worth a thread: a tenth of a millisecond each."""
_HEAP = 31 * 2**20
"""Bytes that `_keep_freed_memory` asks for."""


@functools.cache
def _keep_freed_memory() -> None:
    """Ask for a large array once a process, before the first proof, and free it untouched.

    glibc gives memory back with almost every large array that is freed, and has it cleared page by page for the next
    one: a third of a search's time. How much it keeps instead follows the largest array ever freed, up to 32 MiB.
    Elsewhere the call does nothing of use, and costs nothing.
    """
    np.empty(_HEAP, dtype=np.uint8)


def _upper_factors(a: Any, out: Any) -> Any:
    """Upper Cholesky factors of a stack; NaN, or an infinite diagonal, for a matrix without one."""
    if _LAPACK is not None:
        return _LAPACK(a, out=out)
    for j, matrix in enumerate(a):
        try:
            out[j] = np.linalg.cholesky(matrix, upper=True)
        except np.linalg.LinAlgError:
            out[j] = np.nan
    return out


def _factorised(flat: Any) -> Any:
    ok = np.zeros(len(flat), dtype=np.bool_)
    step = min(len(flat), max(1, _BATCH // (flat.itemsize * max(1, flat.shape[-1]) ** 2)))
    buffer = np.empty((step, *flat.shape[1:]), dtype=flat.dtype)
    with np.errstate(all="ignore"):
        for first in range(0, len(flat), max(1, step)):
            part = flat[first : first + step]
            factors = _upper_factors(part.swapaxes(-1, -2), buffer[: len(part)].swapaxes(-1, -2))
            ok[first : first + step] = np.isfinite(np.diagonal(factors, axis1=-2, axis2=-1)).all(axis=-1)
    return ok


class NumpyBackend(Backend):
    """NumPy arrays and scalars."""

    name: ClassVar[str] = "numpy"
    framework: ClassVar[str] = "numpy"
    has_factors: ClassVar[bool] = True
    api_version: ClassVar[int] = 2

    def is_array(self, x: object) -> bool:
        """Arrays and NumPy scalars (which count as 0-d arrays)."""
        return isinstance(x, (np.ndarray, np.generic))

    def refusal(self, x: Any) -> str | None:
        """np.matrix and masked arrays change what the operators mean, and so may what others derive: units, names."""
        if type(x).__module__.partition(".")[0] != "numpy" and isinstance(x, np.ndarray):
            kind = f"{type(x).__module__}.{type(x).__qualname__}"
            return f"{kind} is no plain NumPy array, and its operators may mean other things. Pass np.asarray(x)."
        # Only a subclass makes it worth to import masked arrays.
        if type(x) is not np.ndarray and isinstance(x, (np.matrix, np.ma.MaskedArray)):
            return f"{type(x).__name__} is not supported: its operators mean other things. Pass np.asarray(x)."
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
        """Arithmetic is precise as it comes; small kernels are computed with by one BLAS thread."""
        return threads.one_thread() if np.size(x) <= _SMALL else contextlib.nullcontext()

    def cholesky_ok(self, a: Any) -> Any:
        """Some at a time, in one buffer. NaN and infinities reach the diagonal; so does the NaN of what is refused.

        The upper factor of the transpose is the lower one, conjugated, and both lie in LAPACK's order: the copies that
        ``np.linalg.cholesky`` makes on the way there and back take longer than the factorisation.
        """
        _keep_freed_memory()
        flat = a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        shares = min(threads.workers(), len(flat)) if flat.shape[-1] >= _LARGE else 1
        ok = threads.in_order(_factorised, np.array_split(flat, shares)) if shares > 1 else [_factorised(flat)]
        return np.concatenate(list(ok)).reshape(a.shape[:-2])

    def cholesky_factors(self, a: Any) -> Any:
        """The factors, in LAPACK's order."""
        flat = a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        out = np.empty(flat.shape, dtype=a.dtype)
        with np.errstate(all="ignore"):
            _upper_factors(flat.swapaxes(-1, -2), out.swapaxes(-1, -2))
        return out.reshape(a.shape)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Over a pool of threads."""
        return threads.in_order(function, items)

    def complex(self, real: Any, imag: Any) -> Any:
        """Fill an empty array, without temporaries."""
        shape = real.shape if real.shape == imag.shape else np.broadcast_shapes(real.shape, imag.shape)
        out = np.empty(shape, dtype=np.complex128 if real.dtype == np.float64 else np.complex64)
        out.real, out.imag = real, imag
        return out

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        return np.array(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Any) -> Any:
        return x


BACKEND = NumpyBackend()
