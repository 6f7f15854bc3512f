"""The norm at every frequency from the norms on a grid: the largest of them, times a factor of each axis."""

from __future__ import annotations

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.bound import ALL_FREQUENCIES, HypothesisError, Upper, _upper
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import GramIterates
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.gram_polynomial import GramPolynomial
from specnorm.problem.frequencies import half_grid

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.symbol.symbols import Symbol
    from specnorm.problem.frequencies import Frequencies
    from specnorm.types import ArrayOps


def symbol_norms_up(symbol: Symbol, *, ops: ArrayOps) -> Array:
    """Proven bounds of the norms of symbols, shape (b, f)."""
    error = symbols.symbol_error(symbol.blocks, xp=ops.xp)[:, None]
    return norms.matrix_norm_up(symbol.matrices(), error, ops=ops)


def grid_factor(sizes: tuple[int, ...], kernel_shape: tuple[int, ...]) -> float:
    """The supremum divided by the largest norm on a grid is at most this factor, which is not rounded up."""
    return math.prod([axis_factor(n, k) for n, k in zip(sizes, kernel_shape, strict=True)])


def everywhere_up(
    largest: Array,
    sizes: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """Bounds of the supremum from the largest of `symbol_norms_up` on a grid, rounded up."""
    return rounding.up(largest * grid_factor(sizes, kernel_shape), 4, xp=xp)


def quotient_at_down(g: Array, v: Array, blocks: Array, *, xp: Namespace) -> Array:
    """Lower bounds of the norm of each block's symbol at a frequency, from its matrix as computed and a vector."""
    lower = norms.quotient_down(g, v, xp=xp) - symbols.symbol_error(blocks, xp=xp) * rounding.SLACK
    return xp.where(lower > 0, lower, xp.zeros_like(lower))


def norm_by_grid(largest: list[LargestBound], sizes: tuple[int, ...], *, ops: ArrayOps) -> Upper:
    """The supremum of some blocks, from their largest norms on a grid.

    Raises
    ------
    HypothesisError
        If another bound, or other frequencies, were visited.
    """
    points = half_grid(sizes)
    kernel_shape = tuple(largest[0].block.shape[3:])
    supremum = 0.0
    for of_block in largest:
        has_same_taps = tuple(of_block.block.shape[3:]) == kernel_shape
        if of_block.bound is not symbol_norms_up or not of_block.frequencies.same_as(points) or not has_same_taps:
            raise HypothesisError("not the norms at the points of this grid")
        on_grid, _ = of_block.result()
        value = everywhere_up(on_grid, sizes, kernel_shape, xp=ops.xp)
        supremum = max(supremum, float(value[0]))
    words = f"norms on a grid of {' x '.join(map(str, sizes))} points, times {grid_factor(sizes, kernel_shape):.4g}"
    return _upper(supremum, ALL_FREQUENCIES, words)


def axis_factor(samples: int, size: int) -> float:
    """Factor of the frequency-grid bound along one axis, rounded up.

    ``min(1/cos(pi (k-1) / 2N), (1 - (k-1)/N)**-0.5)``: Ehlich and Zeller 1964, and Pfister and Bresler 2018, for a
    trigonometric polynomial with k consecutive terms on N equispaced samples, N > k - 1. For the best fixed pair of
    unit vectors ``u* G(theta) v`` is one on each axis. The grid is given up along one axis after the other, so the
    factors multiply.
    """
    degree = size - 1
    if degree == 0:
        return 1.0
    if samples <= degree:
        raise ValueError(f"{samples} samples do not determine {size} taps")
    interpolation = host.sqrt_up(host.div_up(samples, samples - degree))
    # Three roundings make the angle: of pi, and of the product and the quotient.
    angle = host.inflate(math.pi * degree / (2 * samples), 3)
    if angle >= math.pi / 2:
        return interpolation
    cosine = float(host.cos_down(angle))
    return min(interpolation, host.div_up(1.0, cosine)) if cosine > 0 else interpolation


class Bound(Protocol):
    """A proven bound of the symbol's norm at some frequencies."""

    def __call__(self, symbol: symbols.Symbol, *, ops: ArrayOps) -> Array:
        """Shape (b, f)."""


class LargestBound:
    """The largest bound of one block, returned once every frequency is visited or left out by proof.

    A frequency whose norm is proven to be at most the largest bound so far cannot matter. So the value that is returned
    bounds the norm at every frequency. It is the largest of the bounds at all frequencies, unless that of a frequency
    that was left out, which is not computed, would have exceeded it.

    ``bound`` takes a `symbols.Symbol` of one block and f frequencies, and ``ops``, and returns proven bounds (1, f).
    The block is (1, m, p, *kernel_shape) in the wide dtype, scaled to about 1; p <= m if anything is left out.
    """

    def __init__(
        self,
        bound: Bound,
        block: Array,
        frequencies: Frequencies,
        *,
        ops: ArrayOps,
    ) -> None:
        self.bound = bound
        self.block = block
        self.frequencies = frequencies
        self._ops = ops
        self._open = np.ones(len(frequencies), dtype=bool)
        self._value = -math.inf
        self._result: tuple[Array, Array] | None = None

    @cached_property
    def _polynomial(self) -> GramPolynomial:
        # In single precision a frequency costs half as much, and few come so close to the largest bound that the
        # allowance for float32 would matter.
        return GramPolynomial(self.block, ops=self._ops).float32_copy()

    def result(self) -> tuple[Array, Array]:
        """Value (1,) and the phase (1, taps) where it was met."""
        if self._result is None or self._open.any():
            raise HypothesisError("frequencies that are neither visited nor left out may hold a larger bound")
        return self._result

    def visit(self, index: np.ndarray) -> None:
        """Compute the bound at some frequencies, by their numbers."""
        if not len(index):
            return
        bound = partial(self.bound, ops=self._ops)
        result = symbols.max_over_frequencies(bound, self.block, self.frequencies[index], ops=self._ops)
        value = float(result[0][0])
        # A NaN stays: it bounds nothing, and nothing is left out for it.
        if self._result is None or math.isnan(value) or value > self._value:
            self._value = value
            self._result = result
        self._open[index] = False

    def _leave_out(self, index: np.ndarray) -> None:
        """Note that a proof leaves some frequencies out. For `GramIteration`."""
        self._open[index] = False

    @property
    def value(self) -> float:
        """The largest bound met so far; a NaN stays."""
        return self._value

    def iteration(self, index: np.ndarray) -> GramIteration:
        """Gram iteration at some frequencies, by their numbers."""
        return GramIteration(self, index)


class GramIteration:
    """Gram iteration at some frequencies, which leaves out those whose norms it proves to be no larger.

    Attributes
    ----------
    index : integer array
        Numbers of those that are left.
    """

    def __init__(self, largest: LargestBound, index: np.ndarray) -> None:
        self.index = index
        self._largest = largest
        self._ops = largest._ops
        self._polynomial = largest._polynomial
        only_block = np.zeros(len(index), dtype=np.int64)
        columns = self._polynomial.columns_at(largest.frequencies[index], only_block)
        self._iterates = GramIterates(columns, xp=self._ops.xp)
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
        """Square the matrices once more."""
        self._iterates.square()
        self._norms = self._norms_up()

    def leave_out(self) -> None:
        """Leave out the frequencies whose bounds are no larger than the largest bound met so far."""
        no_larger = self._norms <= self._largest.value
        if not no_larger.any():
            return
        self._largest._leave_out(self.index[no_larger])
        left = np.flatnonzero(~no_larger)
        self.index = self.index[left]
        self._norms = self._norms[left]
        self._iterates.take(left, ops=self._ops)
