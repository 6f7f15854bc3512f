"""Bounds at a fixed cost: the largest of proven bounds over many frequencies, most of them left out by proof.

To *visit* a frequency is to compute its bound. A frequency is *left out* if Gram iteration proves that its norm is no
larger than the largest bound so far.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.grid.proof import LargestBound, largest_of_all
from specnorm.proofs.bound import Uppers
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.grid.proof import Bound, Largest, LargestWithFrequency


_FEW_FREQUENCIES = 4
"""Number of frequencies up to which another Gram product takes longer than to visit them."""
_SMALLEST_SAMPLE = 24
"""Least number of frequencies that are tried first, to learn whether Gram products leave many of them out."""
_SAMPLE_STRIDE = 16
"""At least every 16th frequency is in the sample that is tried first."""
_PAIRS_A_FREQUENCY = 4
"""Most pairs of taps per frequency with which the Gram polynomial pays: it takes a product for each pair."""
_ENTRIES_A_LAG = 4000
"""Entries of all symbols, for each lag of the kernel, from which the Gram polynomial costs less than it saves."""
GRAM_PRODUCTS = 5
"""Most Gram products that leave frequencies out. Each of those left costs an eigenvalue and a factorization."""
POINTS_A_STEP = 10
"""Points of a grid along an axis, for each step from one tap to the next: ``10 (k - 1)``."""


def largest_bound(
    bound: Bound,
    blocks: Array,
    sizes: tuple[int, ...],
    products: int = GRAM_PRODUCTS,
    *,
    ops: ArrayOps,
) -> Largest:
    """The largest bound of each block's symbol on a grid of these sizes, where it is met, and its claims.

    Frequencies that cannot matter are left out; a traced array (``ops.concrete`` is False) has no values that could
    decide which. Of symbols with one row or column, every bound is the norm, which is computed for all blocks at once.

    ``bound``: `grid.proof.Bound`: the same for a block and its transpose. ``blocks`` (b, m, p, *kernel_shape): in the
    widest dtype of the library, scaled to about 1. ``products``: Gram products after which the frequencies that are not
    left out are visited; 0: every frequency is visited.
    """
    polynomial = Polynomial(blocks, xp=ops.xp)
    if not ops.concrete or not (polynomial.has_one_column or _leaves_out(blocks, sizes, products, ops=ops)):
        return largest_of_all(bound, blocks, sizes, ops=ops)
    values, frequencies, uppers = largest_with_frequency(bound, blocks, sizes, products, ops=ops)
    return values, polynomial.at(frequencies, ops=ops).phase, uppers


def largest_with_frequency(
    bound: Bound,
    blocks: Array,
    sizes: tuple[int, ...],
    products: int = GRAM_PRODUCTS,
    *,
    ops: ArrayOps,
) -> LargestWithFrequency:
    """`largest_bound` of arrays with known values, with the frequency where each block's bound is met."""
    polynomial = Polynomial(blocks, xp=ops.xp)
    if polynomial.has_one_column:
        return polynomial.largest_on_grid(sizes, ops=ops)
    count = len(Frequencies.half_grid(sizes))
    leaves_out = _leaves_out(blocks, sizes, products, ops=ops)
    blocks = arrays.tall(blocks, xp=ops.xp)
    # As many blocks at once as fit the memory.
    at_once = _blocks_at_once(blocks, count, ops=ops) if leaves_out else blocks.shape[0]
    results = []
    for start in range(0, blocks.shape[0], at_once):
        largest = LargestBound(bound, blocks[start : min(start + at_once, blocks.shape[0]), ...], sizes, ops=ops)
        if leaves_out:
            _visit(largest, products, ops=ops)
        else:
            largest.visit(np.arange(blocks.shape[0] * count))
        results.append(largest.result())
    if len(results) == 1:
        return results[0]
    values, frequencies, uppers = zip(*results, strict=True)
    numerators = np.concatenate([of_part.numerators for of_part in frequencies])
    proven = [x for x in uppers if x is not None]
    joined = Uppers.joined(proven, xp=ops.xp) if len(proven) == len(uppers) else None
    return ops.xp.concat(values, axis=0), Frequencies(numerators, sizes), joined


def _leaves_out(blocks: Array, sizes: tuple[int, ...], products: int, *, ops: ArrayOps) -> bool:
    """Whether products leave frequencies out, and take less time than that saves."""
    return products >= 1 and _pays(blocks, len(Frequencies.half_grid(sizes)), memory=ops.memory)


def _blocks_at_once(blocks: Array, count: int, *, ops: ArrayOps) -> int:
    """Number of blocks whose Gram polynomials fit the memory, and whose samples of the frequencies do."""
    of_one = Polynomial(blocks[:1, ...], xp=ops.xp).frequencies_at_once(ops=ops)
    of_polynomials = ops.memory // _polynomial_bytes(blocks)
    return max(1, min(of_polynomials, of_one // max(_SMALLEST_SAMPLE, count // _SAMPLE_STRIDE)))


def _polynomial_bytes(blocks: Array) -> int:
    """Bytes of a block's even and odd coefficients of each lag in float64, in parts and joined."""
    return 32 * _lag_count(blocks) * min(blocks.shape[1:3]) ** 2


def _lag_count(blocks: Array) -> int:
    """Number of lags of a Gram polynomial."""
    return math.prod(2 * k - 1 for k in blocks.shape[3:]) // 2 + 1


def _pays(blocks: Array, count: int, *, memory: int) -> bool:
    """Whether the Gram polynomial of a block, one product for each pair of taps, fits and costs less than it saves."""
    channels = blocks.shape[1:3]
    fits = _polynomial_bytes(blocks) <= memory
    has_many_frequencies = _PAIRS_A_FREQUENCY * count >= math.prod(blocks.shape[3:]) ** 2
    has_many_entries = count * math.prod(channels) >= _ENTRIES_A_LAG * _lag_count(blocks)
    return bool(fits and has_many_frequencies and has_many_entries)


def _visit(largest: LargestBound, products: int, *, ops: ArrayOps) -> None:
    """Visit a sample of each block's frequencies, then the rest.

    If much of a block's sample was left out by proof, so is the rest.
    """
    count = len(largest.frequencies)
    every_block = np.arange(largest.blocks.shape[0])
    at_once = Polynomial(largest.blocks, xp=ops.xp).frequencies_at_once(ops=ops)
    stride_of_sample = min(_SAMPLE_STRIDE, count // _SMALLEST_SAMPLE)
    chunks = arrays.ceil_div(count, at_once)
    # With a stride of at least the number of chunks, the sample fits one chunk.
    stride = max(stride_of_sample, chunks, 1)
    index = np.arange(count)
    sample = index[::stride]
    rest = index[index % stride > 0]
    sample_left = leave_out(largest, largest.pairs(every_block, sample), products)
    largest.visit(sample_left)
    left_counts = np.bincount(largest.block_of(sample_left), minlength=len(every_block))
    leaves_out = 2 * left_counts < len(sample)
    for start in range(0, len(rest), at_once):
        part = rest[start : start + at_once]
        if leaves_out.any():
            largest.visit(leave_out(largest, largest.pairs(every_block[leaves_out], part), products))
        if not leaves_out.all():
            largest.visit(largest.pairs(every_block[~leaves_out], part))


def leave_out(
    largest: LargestBound,
    pairs: np.ndarray,
    products: int,
) -> np.ndarray:
    """Leave out pairs of blocks and frequencies whose norms Gram iteration proves to be no larger. Return the others.

    ``products``: most products, that of the polynomial included. After the last of them, traces bound the norms too.
    After the first and the last, the frequency of each block with the highest bound so far is visited, so that the
    others are compared with a larger norm.
    """
    iteration = largest.iteration(pairs)
    left = []
    for product in range(products):
        if product > 0:
            iteration.square()
        if product == products - 1:
            iteration.bound_by_trace()
        if product in (0, products - 1):
            best, norms = iteration.highest()
            largest.visit(best[~(norms <= largest.values[largest.block_of(best)])])
        iteration.leave_out()
        left.append(iteration.set_aside(_FEW_FREQUENCIES))
        if not len(iteration.pairs):
            break
    return np.sort(np.concatenate([*left, iteration.pairs]))


def grid_points(kernel_shape: tuple[int, ...], n: int | None = None) -> tuple[int, ...]:
    """Points per axis of a grid of frequencies: ``10 (k_j - 1)`` unless given; one point if there is one tap."""
    return tuple(1 if k == 1 else n or POINTS_A_STEP * (k - 1) for k in kernel_shape)
