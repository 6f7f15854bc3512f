"""Kernels of several shapes as one stack, for compilers: products leave out the zeros that it is padded with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from specnorm.backends import arrays

if TYPE_CHECKING:
    from specnorm.backends.types import AnyArray, Backend


class Parts:
    """Stacks of kernels as one stack, also as a stack of matrices that ``@`` multiplies with.

    Parameters
    ----------
    stacks : sequence of arrays, shape (c, m_i, p_i, *taps_i)
    shape : tuple of int
        (m, p, *taps): no smaller than any stack's.

    Attributes
    ----------
    shape : tuple of int
        (b, m, n), as of matrices.
    """

    def __init__(self, stacks: Sequence[AnyArray], shape: tuple[int, ...], *, backend: Backend) -> None:
        self.stacks, self.of_kernel, self.backend = list(stacks), shape, backend
        self.shape = sum(x.shape[0] for x in stacks), shape[0], math.prod(shape[1:])
        self.dtype = stacks[0].dtype
        self._xp = backend.namespace(stacks[0])

    def map(self, function: Callable[[AnyArray], AnyArray]) -> Parts:
        """A function of each stack."""
        return Parts([function(x) for x in self.stacks], self.of_kernel, backend=self.backend)

    def __matmul__(self, columns: AnyArray) -> AnyArray:
        """Products (b, m, r) with columns (b, n, r)."""
        xp, r = self._xp, columns.shape[2]
        products = []
        for stack, part in zip(self.stacks, self.cut(xp.matrix_transpose(columns)), strict=True):
            c, m, *_ = stack.shape
            product = xp.matmul(xp.reshape(stack, (c, m, -1)), xp.matrix_transpose(part))
            products.append(arrays.extended(product, (self.shape[1], r), backend=self.backend))
        return xp.concat(products)

    def __rmatmul__(self, rows: AnyArray) -> AnyArray:
        """Products (b, r, n) of rows (b, r, m)."""
        xp, r = self._xp, rows.shape[1]
        products = []
        for stack, part in zip(self.stacks, self.apart(rows), strict=True):
            c, m, *sizes = stack.shape
            product = xp.matmul(part[:, :, :m], xp.reshape(stack, (c, m, -1)))
            product = xp.reshape(product, (c, r, *sizes))
            products.append(self._padded(product, r))
        return xp.concat([xp.reshape(x, (*x.shape[:2], -1)) for x in products])

    def apart(self, x: AnyArray) -> list[AnyArray]:
        """An array (b, ...), for each stack."""
        found, end = [], 0
        for stack in self.stacks:
            first, end = end, end + stack.shape[0]
            found.append(x[first:end, ...])
        return found

    def cut(self, rows: AnyArray) -> list[AnyArray]:
        """The entries (c, r, n_i) of rows (b, r, n) that a stack's kernels have, for each stack."""
        xp, r = self._xp, rows.shape[1]
        rows = xp.reshape(rows, (-1, r, *self.of_kernel[1:]))
        found = []
        for stack, part in zip(self.stacks, self.apart(rows), strict=True):
            sizes = stack.shape[2:]
            part = part[(slice(None), slice(None), *(slice(0, n) for n in sizes))]
            found.append(xp.reshape(part, (stack.shape[0], r, -1)))
        return found

    def take(self, place: AnyArray) -> AnyArray:
        """The kernel with a number (1,), in a stack of one."""
        xp, first = self._xp, 0
        chosen: Any = None
        for stack in self.stacks:
            kernel = self._padded(xp.take(stack, place - first, axis=0), self.shape[1])
            chosen = kernel if chosen is None else xp.where(place < first, chosen, kernel)
            first += stack.shape[0]
        return chosen

    def padded(self) -> AnyArray:
        """The kernels (b, m, p, *taps)."""
        return self._xp.concat([self._padded(x, self.shape[1]) for x in self.stacks])

    def apart_with_factors(
        self, value: AnyArray, left: AnyArray, right: AnyArray
    ) -> tuple[list[AnyArray], list[AnyArray], list[AnyArray]]:
        """Norms (b,) and the factors (b, m, r) and (b, r, n) of their gradients, for each stack."""
        lefts = [x[:, : stack.shape[1], :] for x, stack in zip(self.apart(left), self.stacks, strict=True)]
        return self.apart(value), lefts, self.cut(right)

    def _padded(self, x: AnyArray, m: int) -> AnyArray:
        return arrays.extended(x, (m, *self.of_kernel[1:]), backend=self.backend)


def padded(kernels: AnyArray | Parts) -> AnyArray:
    """Kernels as one array."""
    return kernels.padded() if isinstance(kernels, Parts) else kernels
