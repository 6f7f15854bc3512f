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

    Rows of the matrices are in the order of `polyphase.has_taps_first`.

    Parameters
    ----------
    stacks : sequence of arrays, shape (c, *taps_i, p_i, m_i)
    shape : tuple of int
        (*taps, p, m): no smaller than any stack's.

    Attributes
    ----------
    shape : tuple of int
        (b, m, n), as of matrices.
    """

    def __init__(self, stacks: Sequence[AnyArray], shape: tuple[int, ...], *, backend: Backend) -> None:
        self.stacks, self.of_kernel, self.backend = list(stacks), shape, backend
        self.shape = sum(x.shape[0] for x in stacks), shape[-1], math.prod(shape[:-1])
        self.dtype = stacks[0].dtype
        self._xp = backend.namespace(stacks[0])

    def map(self, function: Callable[[AnyArray], AnyArray]) -> Parts:
        """A function of each stack."""
        return Parts([function(x) for x in self.stacks], self.of_kernel, backend=self.backend)

    def _matrices(self) -> list[AnyArray]:
        """The transposed matrices (c, n_i, m_i) of each stack, in its order of entries."""
        return [self._xp.reshape(x, (x.shape[0], -1, x.shape[-1])) for x in self.stacks]

    def __matmul__(self, columns: AnyArray) -> AnyArray:
        """Products (b, m, r) with columns (b, n, r)."""
        xp, r = self._xp, columns.shape[2]
        products = []
        for matrices, part in zip(self._matrices(), self.cut(xp.matrix_transpose(columns)), strict=True):
            # Its transpose takes twice as long in this order.
            product = xp.matmul(part, matrices)
            products.append(arrays.extended(product, (r, self.shape[1]), backend=self.backend))
        return xp.matrix_transpose(xp.concat(products))

    def __rmatmul__(self, rows: AnyArray) -> AnyArray:
        """Products (b, r, n) of rows (b, r, m)."""
        xp, r = self._xp, rows.shape[1]
        products = []
        for stack, matrices, part in zip(self.stacks, self._matrices(), self.apart(rows), strict=True):
            c, *sizes, m = stack.shape
            product = xp.reshape(xp.matmul(part[:, :, :m], xp.matrix_transpose(matrices)), (c, r, *sizes))
            product = arrays.extended(product, (r, *self.of_kernel[:-1]), backend=self.backend)
            products.append(xp.reshape(product, (c, r, -1)))
        return xp.concat(products)

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
        rows = xp.reshape(rows, (-1, r, *self.of_kernel[:-1]))
        found = []
        for stack, part in zip(self.stacks, self.apart(rows), strict=True):
            sizes = stack.shape[1:-1]
            part = part[(slice(None), slice(None), *(slice(0, n) for n in sizes))]
            found.append(xp.reshape(part, (stack.shape[0], r, -1)))
        return found

    def take(self, place: AnyArray) -> AnyArray:
        """The kernel with a number (1,), in a stack of one."""
        xp, first = self._xp, 0
        chosen: Any = None
        for stack in self.stacks:
            kernel = self._padded(xp.take(stack, place - first, axis=0))
            chosen = kernel if chosen is None else xp.where(place < first, chosen, kernel)
            first += stack.shape[0]
        return chosen

    def padded(self) -> AnyArray:
        """The kernels (b, *taps, p, m)."""
        return self._xp.concat([self._padded(x) for x in self.stacks])

    def apart_with_factors(
        self, value: AnyArray, left: AnyArray, right: AnyArray
    ) -> list[tuple[AnyArray, AnyArray, AnyArray]]:
        """Norms (b,) and the factors (b, m, r) and (b, r, n) of their gradients, for each stack."""
        lefts = [x[:, : stack.shape[-1], :] for x, stack in zip(self.apart(left), self.stacks, strict=True)]
        return list(zip(self.apart(value), lefts, self.cut(right), strict=True))

    def _padded(self, x: AnyArray) -> AnyArray:
        return arrays.extended(x, self.of_kernel, backend=self.backend)


def padded(kernels: AnyArray | Parts) -> AnyArray:
    """Kernels as one array."""
    return kernels.padded() if isinstance(kernels, Parts) else kernels
