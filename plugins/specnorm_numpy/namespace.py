"""NumPy's functions under the standard's names: NumPy 2 has them all, but for the order of a sort.

array-api-compat's namespace has them too. It begins with all names of NumPy, which imports f2py, `testing` and masked
arrays, in longer than NumPy itself takes, and it puts a Python function around each call.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Namespace:
    """Functions of `specnorm.types.Namespace`, and what else NumPy has, each looked up once."""

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


NAMESPACE = Namespace()
