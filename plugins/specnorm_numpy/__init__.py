"""NumPy for specnorm: the reference backend. No automatic differentiation; use `specnorm.value_and_grad`."""

from __future__ import annotations

from typing import Any, ClassVar

import array_api_compat.numpy
import numpy as np

from specnorm.backends import Backend


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
        """Per matrix: NumPy raises for a whole batch, and passes NaN and infinities."""
        ok = np.asarray(np.isfinite(a).all(axis=(-2, -1)))  # one matrix would give a scalar, which cannot be set
        for index in np.ndindex(*a.shape[:-2]):
            if ok[index]:
                try:
                    np.linalg.cholesky(a[index])
                except np.linalg.LinAlgError:
                    ok[index] = False
        return ok

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
