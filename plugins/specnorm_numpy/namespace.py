"""NumPy's functions under the standard's names: NumPy 2 has them all, but for the order of a sort.

array-api-compat's namespace has them too. It begins with all names of NumPy, which imports f2py, `testing` and masked
arrays, in longer than NumPy itself takes, and it puts a Python function around each call.

Many of NumPy's own functions are Python, too: they look at what they are given and call a method or a ufunc. A search
of a small kernel makes a thousand such calls, so what it calls stands here as what it comes to, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_add: Any = np.add.reduce
_maximum: Any = np.maximum.reduce
_minimum: Any = np.minimum.reduce


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

    @staticmethod
    def diagonal(x: Any, /) -> Any:
        """Of the last two axes."""
        return x.diagonal(0, -2, -1)

    @staticmethod
    def trace(x: Any, /, *, offset: int = 0) -> Any:
        """Of the last two axes."""
        return x.trace(offset, -2, -1)


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
    def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
        """Sort; the order of equal numbers cannot be seen."""
        del stable
        found = np.sort(x, axis=axis)
        return np.flip(found, axis=axis) if descending else found

    @staticmethod
    def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
        """Order, stable in both directions."""
        del stable
        if not descending:
            return np.argsort(x, axis=axis, kind="stable")
        backwards = np.argsort(np.flip(x, axis=axis), axis=axis, kind="stable")
        return x.shape[axis] - 1 - np.flip(backwards, axis=axis)

    # -- what NumPy's functions of these names come to ---------------------------------------------------------------
    @staticmethod
    def reshape(x: Any, /, shape: tuple[int, ...]) -> Any:
        """A view where there can be one."""
        return x.reshape(shape)

    @staticmethod
    def permute_dims(x: Any, /, axes: tuple[int, ...]) -> Any:
        """A view."""
        return x.transpose(axes)

    @staticmethod
    def matrix_transpose(x: Any, /) -> Any:
        """A view."""
        return x.mT

    @staticmethod
    def take(x: Any, indices: Any, /, *, axis: int) -> Any:
        """Some entries of an axis."""
        return x.take(indices, axis)

    @staticmethod
    def real(x: Any, /) -> Any:
        """A view."""
        return x.real

    @staticmethod
    def imag(x: Any, /) -> Any:
        """A view."""
        return x.imag

    @staticmethod
    def zeros_like(x: Any, /) -> Any:
        """Zeros."""
        return np.zeros(x.shape, x.dtype)

    @staticmethod
    def ones_like(x: Any, /) -> Any:
        """Ones."""
        found = np.empty(x.shape, x.dtype)
        found.fill(1)
        return found

    @staticmethod
    def stack(each: Any, /, *, axis: int = 0) -> Any:
        """One after the other along a new axis."""
        axis += (axis < 0) * (each[0].ndim + 1)
        place = (slice(None),) * axis + (None,)
        return np.concatenate([x[place] for x in each], axis)

    @staticmethod
    def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
        """Entries of an axis; NumPy's own but for one row of matrices' entries."""
        if x.ndim == 2 and axis == 1 and len(x) == len(indices) == 1:
            return x[0].take(indices)
        return np.take_along_axis(x, indices, axis=axis)

    @staticmethod
    def any(x: Any, /, *, axis: Any = None) -> Any:
        """Whether any entry is true."""
        return np.logical_or.reduce(x, axis=axis)

    @staticmethod
    def all(x: Any, /, *, axis: Any = None) -> Any:
        """Whether all entries are true."""
        return np.logical_and.reduce(x, axis=axis)

    @staticmethod
    def sum(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Sum over some axes."""
        return _add(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def max(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Maximum over some axes."""
        return _maximum(x, axis=axis, keepdims=keepdims)

    @staticmethod
    def min(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Minimum over some axes."""
        return _minimum(x, axis=axis, keepdims=keepdims)


NAMESPACE = Namespace()
