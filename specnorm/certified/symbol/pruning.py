"""The largest of proven bounds over many frequencies, where cheaper proven bounds leave out most of them.

A frequency whose norm is proven to be at most the largest bound met so far cannot matter: what is returned bounds the
norm at every frequency, and is the largest bound itself wherever the cheaper ones are no smaller than it.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from specnorm.certified.bound import HypothesisError
from specnorm.certified.matrices.norms import GramIterates
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.gram_polynomial import GramPolynomial

if TYPE_CHECKING:
    from specnorm.problem.frequencies import Frequencies
    from specnorm.types import Array, ArrayOps


class Bound(Protocol):
    """A proven bound of the symbol's norm at some frequencies."""

    def __call__(self, symbol: symbols.Symbol, *, ops: ArrayOps) -> Array:
        """Shape (b, f)."""


class LargestBound:
    """The largest bound of one block, told once every frequency is visited or left out by proof.

    ``bound`` takes a `symbols.Symbol` of one block and f frequencies, and ``ops``, and returns proven bounds (1, f).
    The block is (1, m, p, *kernel_shape) in the wide dtype, scaled to about 1; p <= m if anything is left out.
    """

    def __init__(self, bound: Bound, block: Array, frequencies: Frequencies, *, ops: ArrayOps) -> None:
        self.bound, self.block, self.frequencies, self._ops = bound, block, frequencies, ops
        self._open = np.ones(len(frequencies), dtype=bool)
        self._value = -math.inf
        self._found: tuple[Array, Array] | None = None

    @cached_property
    def _polynomial(self) -> GramPolynomial:
        # In single precision a frequency costs half as much, and few come so close to the largest bound.
        return GramPolynomial(self.block, ops=self._ops).float32_copy()

    def result(self) -> tuple[Array, Array]:
        """Value (1,) and the phase (1, taps) where it was met."""
        if self._found is None or self._open.any():
            raise HypothesisError("frequencies that are neither visited nor left out may hold a larger bound")
        return self._found

    def visit(self, index: np.ndarray) -> None:
        """Compute the bound at some frequencies, by their numbers."""
        if len(index):
            bound = partial(self.bound, ops=self._ops)
            found = symbols.largest(bound, self.block, self.frequencies[index], ops=self._ops)
            value = float(found[0][0])
            # What is no number stays: it bounds nothing, and nothing is left out for it.
            if self._found is None or math.isnan(value) or value > self._value:
                self._value, self._found = value, found
            self._open[index] = False

    def leave_out(self, index: np.ndarray, products: int, few: int) -> np.ndarray:
        """Leave out frequencies whose norms Gram iteration proves to be no larger. The numbers of the others.

        Of at most so many products, the polynomial's own included; a few frequencies left are not worth another one.
        The best frequency is visited after the first and the last.
        """
        polynomial, ops = self._polynomial, self._ops
        columns = polynomial.columns_at(self.frequencies[index], np.zeros(len(index), dtype=np.int64))
        iterates = GramIterates(columns, xp=ops.xp)
        for product in range(products):
            if product:
                iterates.square()
            norms = polynomial.norm_up(np.asarray(ops.to_numpy(iterates.norms_up()), dtype=np.float64))
            top = int(np.argmax(norms))
            if product in (0, products - 1) and not norms[top] <= self._value:
                self.visit(index[top : top + 1])
            kept = np.flatnonzero(~(norms <= self._value))
            if len(kept) < len(index):
                self._open[index[norms <= self._value]] = False
                index = index[kept]
                iterates.take(kept, ops=ops)
            if len(index) <= few:
                break
        return index
