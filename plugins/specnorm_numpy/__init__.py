"""NumPy for specnorm: the reference backend. No automatic differentiation; use `specnorm.value_and_grad`."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import array_api_compat.numpy
import numpy as np

from specnorm.backends import Backend

_BATCH = 2**18
"""Bytes of the matrices that are factorised in one call."""


class NumpyBackend(Backend):
    """NumPy arrays and scalars."""

    name: ClassVar[str] = "numpy"
    framework: ClassVar[str] = "numpy"
    api_version: ClassVar[int] = 1

    def is_array(self, x: object) -> bool:
        """Arrays and NumPy scalars (which count as 0-d arrays)."""
        return isinstance(x, (np.ndarray, np.generic))

    def refusal(self, x: Any) -> str | None:
        """np.matrix and masked arrays change what the operators mean."""
        if isinstance(x, (np.matrix, np.ma.MaskedArray)):
            return f"{type(x).__name__} is not supported: its operators mean other things. Pass np.asarray(x)."
        if not x.dtype.isnative:
            return f"array has foreign byte order ({x.dtype.str}). Pass x.astype(x.dtype.newbyteorder('='))."
        return None

    def namespace(self, x: Any) -> Any:
        """array-api-compat's NumPy."""
        del x
        return array_api_compat.numpy

    def device(self, x: Any) -> Any:
        """Return "cpu"."""
        del x
        return "cpu"

    def version(self) -> str:
        """NumPy's version."""
        return np.__version__

    def cholesky_ok(self, a: Any) -> Any:
        """Some at a time: NumPy raises for a whole batch. It passes NaN and infinities, which reach the diagonal."""
        flat = a.reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
        ok = np.zeros(len(flat), dtype=np.bool_)
        step = max(1, _BATCH // (flat.itemsize * max(1, flat.shape[-1]) ** 2))
        waiting = [(first, min(first + step, len(flat))) for first in range(0, len(flat), step)]
        while waiting:
            first, last = waiting.pop()
            try:
                factors = np.linalg.cholesky(flat[first:last])
            except np.linalg.LinAlgError:
                if last > first + 1:
                    middle = (first + last) // 2
                    waiting += [(first, middle), (middle, last)]
            else:
                ok[first:last] = np.isfinite(np.diagonal(factors, axis1=-2, axis2=-1)).all(axis=-1)
        return ok.reshape(a.shape[:-2])

    def complex(self, real: Any, imag: Any) -> Any:
        """Fill an empty array, without temporaries."""
        out = np.empty(np.broadcast_shapes(real.shape, imag.shape), dtype=np.result_type(real, np.complex64))
        out.real, out.imag = real, imag
        return out

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        """Return a copy."""
        del device
        return np.array(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return it as an array."""
        return np.asarray(x)

    def from_numpy(self, x: np.ndarray, like: Any) -> Any:
        """Return it."""
        del like
        return x


BACKEND = NumpyBackend()
