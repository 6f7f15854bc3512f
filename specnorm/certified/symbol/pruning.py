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
from specnorm.certified.matrices.stacks import GramIterates
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

    @property
    def value(self) -> float:
        """The largest bound met so far; what is no number stays."""
        return self._value

    def iteration(self, index: np.ndarray) -> Iteration:
        """Gram iteration at some frequencies, by their numbers."""
        return Iteration(self, index)

    def _leave_out(self, index: np.ndarray) -> None:
        self._open[index] = False


class Iteration:
    """Gram iteration at some frequencies, which leaves out those whose norms it proves to be no larger.

    Attributes
    ----------
    index : integer array
        Numbers of those that are left.
    """

    def __init__(self, largest: LargestBound, index: np.ndarray) -> None:
        polynomial, self._largest, self._ops, self.index = largest._polynomial, largest, largest._ops, index
        columns = polynomial.columns_at(largest.frequencies[index], np.zeros(len(index), dtype=np.int64))
        self._polynomial, self._iterates = polynomial, GramIterates(columns, xp=self._ops.xp)
        self._norms = self._norms_up()

    def _norms_up(self) -> np.ndarray:
        bounds = np.asarray(self._ops.to_numpy(self._iterates.norms_up()), dtype=np.float64)
        return self._polynomial.norm_up(bounds)

    @property
    def highest(self) -> tuple[np.ndarray, float]:
        """The frequency with the largest bound, shape (1,), and that bound."""
        top = int(np.argmax(self._norms))
        return self.index[top : top + 1], float(self._norms[top])

    def square(self) -> None:
        """One more product."""
        self._iterates.square()
        self._norms = self._norms_up()

    def leave_out(self) -> None:
        """Leave out the frequencies whose bounds are no larger than what was met."""
        out = self._norms <= self._largest.value
        if out.any():
            self._largest._leave_out(self.index[out])
            kept = np.flatnonzero(~out)
            self.index, self._norms = self.index[kept], self._norms[kept]
            self._iterates.take(kept, ops=self._ops)
