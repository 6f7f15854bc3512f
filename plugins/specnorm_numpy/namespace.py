"""NumPy's functions under the standard's names: NumPy 2 has them all, but for the order of a sort.

array-api-compat's namespace has them too. It begins with all names of NumPy, which imports f2py, `testing` and masked
arrays, in longer than NumPy itself takes, and it puts a Python function around each call.

Many of NumPy's own functions are Python, too: they look at what they are given and call a method or a ufunc. A search
of a small kernel makes a thousand such calls, so those it makes most stand here as what they come to, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_add: Any = np.add.reduce
_maximum: Any = np.maximum.reduce


class _Linalg:
    """Functions of `specnorm.types.Linalg`, each looked up once."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np.linalg, name)
        setattr(self, name, found)
        return found

    @staticmethod
    def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Root of the sum of squares; of integers and along several axes NumPy's own."""
        if not isinstance(axis, int) or x.dtype.kind not in "fc":
            return np.linalg.vector_norm(x, axis=axis, keepdims=keepdims)
        return np.sqrt(_add((x.conj() * x).real, axis=axis, keepdims=keepdims))


class Namespace:
    """Functions of `specnorm.types.Namespace`, and what else NumPy has, each looked up once."""

    linalg = _Linalg()

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        setattr(self, name, found)
        return found

    @staticmethod
    def astype(x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
        """Convert; NumPy 2.0 has the method alone."""
        return x.astype(dtype, copy=copy)

    @staticmethod
    def cumulative_sum(x: Any, /, *, axis: int | None = None) -> Any:
        """Sums up to each entry; in NumPy from 2.1 on."""
        return np.cumsum(x, axis=axis)

    @staticmethod
    def sort(x: Any, /, *, axis: int = -1, descending: bool = False) -> Any:
        """Sort; the order of equal numbers cannot be seen."""
        found = np.sort(x, axis=axis)
        return np.flip(found, axis=axis) if descending else found

    @staticmethod
    def argsort(x: Any, /, *, axis: int = -1, descending: bool = False) -> Any:
        """Order, stable in both directions."""
        if not descending:
            return np.argsort(x, axis=axis, kind="stable")
        backwards = np.argsort(np.flip(x, axis=axis), axis=axis, kind="stable")
        return x.shape[axis] - 1 - np.flip(backwards, axis=axis)

    # -- what NumPy's functions of these names come to ---------------------------------------------------------------
    @staticmethod
    def reshape(x: Any, /, shape: tuple[int, ...]) -> Any:
        return x.reshape(shape)

    @staticmethod
    def matrix_transpose(x: Any, /) -> Any:
        return x.mT

    @staticmethod
    def real(x: Any, /) -> Any:
        return x.real

    @staticmethod
    def imag(x: Any, /) -> Any:
        return x.imag

    @staticmethod
    def take(x: Any, indices: Any, /, *, axis: int) -> Any:
        return x.take(indices, axis)

    @staticmethod
    def sum(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        return _add(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def max(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        return _maximum(x, axis=axis, keepdims=keepdims)


NAMESPACE = Namespace()
