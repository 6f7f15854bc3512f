"""The norm at every frequency from the norms on a grid: the largest of them, times a factor of each axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Uppers
from specnorm.proofs.cells import Grid
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.frequencies import Frequencies
    from specnorm.symbols.proofs.polynomial import GramPolynomial

    Bound: TypeAlias = Callable[..., Array]
    """Bounds of symbols' norms (b, f): takes a polynomial, both parts of its symbols, and ``ops``."""
    Largest: TypeAlias = tuple[Array, Array, Uppers | None]
    """The largest bounds of some blocks (b,) on a grid, the phases (b, taps) where they are met, and the proven
    bounds, if they are such (`symbol_norms_up`)."""
    LargestWithFrequency: TypeAlias = tuple[Array, Frequencies, Uppers | None]
    """The same with the frequencies (b points) in place of their phases."""


_LARGE_SHARE = 0.5
"""Share of a matrix that may be rounding, from which on the squares of its entries are summed once more."""


def symbol_norms_up(
    polynomial: Polynomial, real: Array, imag: Array, gram_products: int | None = None, *, ops: ArrayOps
) -> Array:
    """Proven bounds of the norms of symbols, shape (b, f), from both their parts, (b, f, m, p) each.

    ``gram_products``: bounds by so many Gram products. None: bounds that exceed the norms by roundings alone.
    """
    error = polynomial.error[:, None]
    if gram_products is None:
        return norms.matrix_norm_up(ops.complex(real, imag), error, ops=ops)
    xp = ops.xp
    # Squares of numbers below the root of the smallest normal number may be flushed to 0. So at most ``4 p`` times
    # that root is missing in a bound's square.
    p = min(real.shape[2:])
    underflow = 2 * math.sqrt(p) * float(xp.finfo(error.dtype).smallest_normal) ** 0.25
    error = xp.where(error > 0, error + underflow, error)
    return gram_iteration_of_parts_up(real, imag, gram_products, error, xp=xp)


def largest_of_all(bound: Bound, blocks: Array, sizes: tuple[int, ...], *, ops: ArrayOps) -> Largest:
    """The largest of the bounds at all frequencies of a grid, which are all visited, as many at once as fit."""
    xp = ops.xp
    polynomial = Polynomial(blocks, xp=xp)
    frequencies = Frequencies.half_grid(sizes)
    step = polynomial.frequencies_at_once(ops=ops)
    for start in range(0, len(frequencies), step):
        symbol = polynomial.at(frequencies[start : start + step], ops=ops)
        real, imag = polynomial.planes_at(symbol.cos, symbol.sin)
        bounds = bound(polynomial, real, imag, ops=ops)
        largest = xp.max(bounds, axis=1)
        phase_of_largest = xp.take(symbol.phase, xp.argmax(bounds, axis=1), axis=0)
        if start == 0:
            value, phase = largest, phase_of_largest
        else:
            phase = xp.where((largest > value)[:, None], phase_of_largest, phase)
            value = xp.maximum(value, largest)  # a NaN stays
    return value, phase, _on_grid(bound, value, blocks, sizes)


def _on_grid(bound: Bound, values: Array, blocks: Array, sizes: tuple[int, ...]) -> Uppers | None:
    """The largest bounds (b,) on a grid, of which the caller left out no frequency; None if they are not proven."""
    if bound is symbol_norms_up:
        products = ""
    elif type(bound) is partial and bound.func is symbol_norms_up and not bound.args:
        products = f" by {bound.keywords['gram_products']} Gram products"
    else:
        return None
    rule = f"norms at {math.prod(sizes)} frequencies{products}"
    return Uppers._by_rule(values, Grid.of_sizes(sizes, blocks.shape[3:]), rule)


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


def quotient_at_down(g: Array, v: Array, polynomial: Polynomial, *, xp: Namespace) -> Array:
    """Lower bounds of the norm of each block's symbol at a frequency, from its matrix as computed and a vector."""
    lower = norms.quotient_down(g, v, xp=xp) - polynomial.error * rounding.SLACK
    return xp.where(lower > 0, lower, xp.zeros_like(lower))


def norms_by_grid(on_grid: Uppers, *, xp: Namespace) -> Uppers:
    """Bound the supremum over all frequencies by the largest norm on a grid, whose frequencies the bounds are about."""
    grid = on_grid.what
    if not isinstance(grid, Grid):
        raise HypothesisError(f"{grid} is no grid of frequencies")
    values = everywhere_up(on_grid.values, grid.points, grid.kernel_shape, xp=xp)
    factor = grid_factor(grid.points, grid.kernel_shape)
    return Uppers._by_rule(
        values, ALL_FREQUENCIES, f"times {factor:.4g} for the frequencies between those of the grid", on_grid
    )


@functools.lru_cache(maxsize=64)
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
        raise HypothesisError(f"{samples} samples do not determine {size} taps")
    interpolation = host.sqrt_up(host.div_up(samples, samples - degree))
    # Three roundings make the angle: of pi, and of the product and the quotient.
    angle = host.inflate(math.pi * degree / (2 * samples), 3)
    if angle >= math.pi / 2:
        return interpolation
    cosine = float(host.cos_down(angle))
    return min(interpolation, host.div_up(1.0, cosine)) if cosine > 0 else interpolation


class LargestBound:
    """The largest bound of each block, returned once every frequency of each is visited or left out by proof.

    A frequency whose norm is proven to be at most the block's largest bound so far cannot matter. So the value that is
    returned bounds the block's norm at every frequency. It is the largest of the bounds at all frequencies, unless that
    of a frequency that was left out, which is not computed, would have exceeded it.

    A *pair* is a block and a frequency. Its number is that of the block times the number of all frequencies, plus that
    of the frequency. Lists of pairs are increasing.

    Claims need the bounds of `symbol_norms_up`. The blocks are (b, m, p, *kernel_shape) in the wide dtype, scaled to
    about 1; p <= m if anything is left out. The frequencies are those of a grid, up to mirror images.
    """

    def __init__(
        self,
        bound: Bound,
        blocks: Array,
        sizes: tuple[int, ...],
        *,
        ops: ArrayOps,
    ) -> None:
        self.bound = bound
        self.blocks = blocks
        self.sizes = sizes
        self.frequencies = Frequencies.half_grid(sizes)
        self._ops = ops
        count = blocks.shape[0]
        self._open = np.ones(count * len(self.frequencies), dtype=bool)
        self._values = np.full(count, -math.inf)
        self._places = np.zeros(count, dtype=np.int64)

    @cached_property
    def _polynomial(self) -> GramPolynomial:
        # In single precision a frequency costs half as much, and few come so close to the largest bound that the
        # allowance for float32 would matter.
        return Polynomial(self.blocks, xp=self._ops.xp).gram(ops=self._ops).float32_copy()

    def block_of(self, pairs: np.ndarray) -> np.ndarray:
        """Numbers of the blocks of some pairs."""
        return pairs // len(self.frequencies)

    def pairs(self, blocks: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Pairs of each of some blocks with each of some frequencies, by their numbers."""
        return np.asarray((blocks[:, None] * len(self.frequencies) + index).reshape(-1))

    def result(self) -> LargestWithFrequency:
        """The largest bounds on the grid."""
        if self._open.any():
            raise HypothesisError("frequencies that are neither visited nor left out may hold a larger bound")
        ops = self._ops
        # The values are numbers of the blocks' dtype, so their conversion is exact.
        values = arrays.device_table(self._values, self.blocks, ops=ops)
        return values, self.frequencies[self._places], _on_grid(self.bound, values, self.blocks, self.sizes)

    def visit(self, pairs: np.ndarray) -> None:
        """Compute the bounds of some pairs."""
        if not len(pairs):
            return
        for blocks, index in _rectangles(pairs, len(self.frequencies)):
            self._visit(blocks, index)
        self._open[pairs] = False

    def _visit(self, blocks: np.ndarray, index: np.ndarray) -> None:
        """Compute bounds of some blocks: at the same frequencies (f,), or at those of each block (b, f)."""
        ops = self._ops
        is_every_block = len(blocks) == self.blocks.shape[0]
        stack = self.blocks if is_every_block else arrays.rows(self.blocks, blocks, ops=ops)
        by_block = index.ndim == 2
        polynomial = Polynomial(stack, xp=ops.xp)
        step = polynomial.frequencies_at_once(ops=ops)
        for start in range(0, index.shape[-1], step):
            part = index[..., start : start + step]
            # The tables of all frequencies are kept with them (`Frequencies`).
            is_every = not by_block and len(part) == len(self.frequencies)
            frequencies = self.frequencies if is_every else self.frequencies[part.reshape(-1)]
            symbol = polynomial.at(frequencies, by_block=by_block, ops=ops)
            real, imag = polynomial.planes_at(symbol.cos, symbol.sin)
            bounds = self.bound(polynomial, real, imag, ops=ops)
            values = np.asarray(ops.to_numpy(bounds), dtype=np.float64)
            # argmax returns the place of a NaN, if there is one.
            place = values.argmax(axis=1)
            largest = values[np.arange(len(blocks)), place]
            # A NaN stays: it bounds nothing, and nothing is left out for it.
            is_larger = ~(largest <= self._values[blocks]) & ~np.isnan(self._values[blocks])
            self._values[blocks[is_larger]] = largest[is_larger]
            places = part[np.arange(len(blocks)), place] if by_block else part[place]
            self._places[blocks[is_larger]] = places[is_larger]

    def _leave_out(self, pairs: np.ndarray) -> None:
        """Note that a proof leaves some pairs out. For `GramIteration`."""
        self._open[pairs] = False

    @property
    def values(self) -> np.ndarray:
        """The largest bound of each block met so far, shape (b,), to be read only; a NaN stays."""
        values = self._values.view()
        values.flags.writeable = False
        return values

    def iteration(self, pairs: np.ndarray) -> GramIteration:
        """Gram iteration at some pairs."""
        return GramIteration(self, pairs)


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First places and lengths of the runs of equal numbers in an increasing list, which is not empty."""
    if numbers[0] == numbers[-1]:
        # Layers without groups, for which the search below would take a tenth of the time of small kernels.
        return np.zeros(1, dtype=np.int64), np.asarray([len(numbers)])
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    return first, np.diff(first, append=len(numbers))


def _rectangles(pairs: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some pairs (at least one) as blocks (b,) with the same frequencies (f,), or with those of each block (b, f).

    Blocks with about equally many frequencies, up to a factor of 2, are taken together. Where a block has fewer than
    others, its last one is repeated.
    """
    block, index = np.divmod(pairs, count)
    first, lengths = _runs(block)
    blocks = block[first]
    by_block = index.reshape(len(blocks), -1) if lengths.min() == lengths.max() else None
    if by_block is not None and (len(blocks) == 1 or np.all(by_block == by_block[0])):
        yield blocks, by_block[0]
        return
    magnitudes = np.frexp(lengths - 0.5)[1]
    for magnitude in np.unique(magnitudes):
        chosen = magnitudes == magnitude
        columns = np.minimum(np.arange(lengths[chosen].max()), lengths[chosen, None] - 1)
        yield blocks[chosen], index[first[chosen, None] + columns]


class GramIteration:
    """Gram iteration at some pairs of blocks and frequencies, which leaves out those with norms proven no larger.

    Attributes
    ----------
    pairs : integer array
        Those that are left.
    """

    def __init__(self, largest: LargestBound, pairs: np.ndarray) -> None:
        self.pairs = pairs
        self._largest = largest
        self._ops = largest._ops
        self._polynomial = largest._polynomial
        in_cache = self._ops.concrete and self._ops.on_host
        self._iterates = norms.GramIterates(self._matrices(), of_hermitian=True, in_cache=in_cache, xp=self._ops.xp)
        self._norms = self._polynomial.norm_up_by(self._iterates.norms_up())

    def _matrices(self) -> Array:
        """H of each pair, as real matrices."""
        frequencies = self._largest.frequencies
        rectangles = list(_rectangles(self.pairs, len(frequencies)))
        if len(rectangles) == 1 and rectangles[0][1].ndim == 1:
            blocks, index = rectangles[0]
            return self._polynomial.real_matrices_of(blocks, frequencies[index])
        block, index = np.divmod(self.pairs, len(frequencies))
        real, imag = self._polynomial.planes_at(frequencies[index], block)
        return real + imag

    def highest(self) -> tuple[np.ndarray, np.ndarray]:
        """For each block that has a pair: the one with the largest bound, and that bound."""
        blocks = self._largest.block_of(self.pairs)
        first, lengths = _runs(blocks)
        tops = np.repeat(np.maximum.reduceat(self._norms, first), lengths)
        # Of a block with a NaN, the first pair.
        numbers = np.flatnonzero(~(self._norms < tops))
        first_top, _ = _runs(blocks[numbers])
        chosen = numbers[first_top]
        return self.pairs[chosen], self._norms[chosen]

    def square(self) -> None:
        """Square the matrices once more."""
        self._iterates.square()
        self._norms = self._polynomial.norm_up_by(self._iterates.norms_up())

    def bound_by_trace(self) -> None:
        """Bound the norms by the traces of the last products, too."""
        self._norms = self._polynomial.norm_up_by(self._iterates.norms_by_trace_up())

    def leave_out(self) -> None:
        """Leave out the pairs whose bounds are no larger than the largest bound of their block met so far."""
        no_larger = self._norms <= self._largest.values[self._largest.block_of(self.pairs)]
        self._largest._leave_out(self.pairs[no_larger])
        self._keep(~no_larger)

    def set_aside(self, few: int) -> np.ndarray:
        """Take the pairs of blocks with no more than a few out of the iteration, and return them: they stay open."""
        blocks = self._largest.block_of(self.pairs)
        has_few = np.bincount(blocks)[blocks] <= few
        pairs = self.pairs[has_few]
        self._keep(~has_few)
        return np.asarray(pairs)

    def _keep(self, is_left: np.ndarray) -> None:
        """Go on with some of the pairs."""
        if is_left.all():
            return
        left = np.flatnonzero(is_left)
        self.pairs = self.pairs[left]
        self._norms = self._norms[left]
        if len(left):
            self._iterates.take(left, ops=self._ops)


def gram_iteration_of_parts_up(real: Array, imag: Array, n_iter: int, error: Array | float, *, xp: Namespace) -> Array:
    """`gram_iteration_up` of complex matrices G = C + i S (..., m, n) from both parts, with at least one product.

    The first product as a real matrix (`square_of_hermitian`) is ``X = C^T (C + S) + S^T (S - C)``. An entry has a
    rounding of the sum or difference, those of two products, and that of their sum. So the norm of its errors is at
    most ``e ||G||_F**2`` with ``e = sqrt(2) gamma(m + 2)``. And ``||G||_F**2 = tr(G* G) <= sqrt(n) ||G* G||_F``, so
    that it is at most ``sqrt(n) ||X||_F / (1 - sqrt(n) e)``, if ``sqrt(n) e < 1``.
    """
    if real.shape[-1] > real.shape[-2]:
        real, imag = xp.matrix_transpose(real), xp.matrix_transpose(imag)
    product_error = math.sqrt(2) * rounding.gamma(real.shape[-2] + 2, rounding.unit(real, xp=xp))
    gram = xp.matmul(xp.matrix_transpose(real), real + imag)
    gram += xp.matmul(xp.matrix_transpose(imag), imag - real)
    iterates = norms.GramIterates(gram, of_hermitian=True, xp=xp)
    frobenius = iterates.norms_up()
    for _ in range(n_iter - 1):
        iterates.square()
    share = math.sqrt(real.shape[-1]) * product_error
    if share < _LARGE_SHARE:
        errors = frobenius * (share / (1 - share))
    else:
        errors = (norms.frobenius_up(real, xp=xp) ** 2 + norms.frobenius_up(imag, xp=xp) ** 2) * product_error
    norms_sq = iterates.norms_by_trace_up() + errors * rounding.SLACK
    return rounding.up(xp.sqrt(norms_sq) + error, 6, xp=xp)
