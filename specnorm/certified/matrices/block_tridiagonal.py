"""A layer's own Gram matrix at one size, from its taps: a band of blocks between the lines of one axis.

Along one axis, tap t of output line m reads input line v as a table says (`layer_map.tables_of_axes`). The matrix
``B_t`` that takes line v to line m depends on neither line: it is the layer of one axis less. So the blocks of ``A*A``
are sums of few of the products ``B_t* B_u``, and those of lines farther apart than the kernel reaches are zero. Two
lines are *coupled* by t and u if a line of the other side meets both: one by tap t, the other by tap u.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import rounding
from specnorm.certified.matrices.norms import frobenius_up
from specnorm.problem.taps import readers_of, sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class BlockTridiagonal:
    """Symmetric block tridiagonal matrices.

    Parameters
    ----------
    diagonal : array, shape (b, n, d, d)
    below : array, shape (b, n - 1, d, d)
        Block (i + 1, i).
    """

    diagonal: Array
    below: Array


@dataclass(frozen=True)
class BlockPlan:
    """How the Gram matrix of a layer of one group is cut into blocks.

    Parameters
    ----------
    axis : int
        The blocks are made of lines along this axis.
    wide : bool
        Whether it is ``AA*``, of the outputs (of a transposed layer: of its inputs).
    lines : int
        Lines of the axis.
    lines_of_block : int
        Lines a block, so many that only neighbouring blocks are coupled.
    entries : int
        Entries a line.
    tap_entries : int
        Entries of all ``B_t``.
    pairs : int
        Most pairs of taps that couple two lines.
    """

    axis: int
    wide: bool
    lines: int
    lines_of_block: int
    entries: int
    tap_entries: int
    pairs: int

    @property
    def blocks(self) -> int:
        """Blocks on the diagonal."""
        return -(-self.lines // self.lines_of_block)

    @property
    def size(self) -> int:
        """Rows of a block; the last one is filled up with zeros."""
        return self.lines_of_block * self.entries

    @property
    def work(self) -> float:
        """Multiplications that a proof takes, about; a pair of taps as much as ten thousand."""
        cubes_of_a_block = 6 if self.blocks > 1 else 1 / 3
        return float(self.blocks * self.size**3) * cubes_of_a_block + 1e4 * self.pairs

    @property
    def memory(self) -> int:
        """Bytes of the matrix and of what it is made and factorised with."""
        matrices = 6 * self.blocks * self.size**2 + 2 * self.entries**2 + 3 * self.tap_entries
        counts = 2 * self.blocks * self.lines_of_block**2 * self.pairs
        couplings = 3 * self.lines * self.pairs
        return 8 * (matrices + counts + couplings)


def plans(spec: ConvSpec) -> list[BlockPlan]:
    """Every way to cut the Gram matrix of a layer of one group, the least work first."""
    large, small = sizes_of(spec)
    tables = tables_of_axes(large, small, spec)
    plans = []
    for axis in range(len(tables)):
        plans += _plans_of_axis(spec, axis, tables[axis], large, small)
    return sorted(plans, key=lambda plan: plan.work)


def _plans_of_axis(
    spec: ConvSpec,
    axis: int,
    table: np.ndarray,
    large: tuple[int, ...],
    small: tuple[int, ...],
) -> list[BlockPlan]:
    first, second = spec.stored_channels
    taps, stride = table.shape[0], spec.stride[axis]
    large_of_other_axes = math.prod(large) // large[axis]
    small_of_other_axes = math.prod(small) // small[axis]
    tap_entries = taps * first * second * large_of_other_axes * small_of_other_axes
    # Two outputs read a pixel by taps that are a multiple of the stride apart, unless padding repeats pixels.
    reads_each_pixel_once = spec.padding_mode == "zeros" and spec.dilation[axis] == 1
    distances = min(taps, 2 * ((taps - 1) // stride) + 1) if reads_each_pixel_once else taps
    plans = []
    for wide in (False, True):
        if wide:
            lines, entries, pairs = small[axis], first * small_of_other_axes, taps * distances
        else:
            lines, entries, pairs = large[axis], second * large_of_other_axes, taps * taps
        for bandwidth in {_bandwidth(table, large[axis], wide), lines}:
            lines_of_block = max(1, min(bandwidth, lines))
            plans.append(BlockPlan(axis, wide, lines, lines_of_block, entries, tap_entries, pairs))
    return plans


def gram_blocks(
    kernels: Array,
    spec: ConvSpec,
    plan: BlockPlan,
    *,
    ops: ArrayOps,
) -> tuple[BlockTridiagonal, int]:
    """``A*A`` or ``AA*`` of layers of one group.

    Parameters
    ----------
    kernels : array, shape (b, first, second, *kernel_shape)
        In torch's order.
    spec : ConvSpec
        Of one group, with ``input_shape``.

    Returns
    -------
    band : BlockTridiagonal
    roundings : int
        n: the error of the entries is at most ``gamma(n) |A|* |A|``.
    """
    xp = ops.xp
    large, small = sizes_of(spec)
    tables = tables_of_axes(large, small, spec)
    b = kernels.shape[0]
    taps = _between_lines(kernels, tables, plan.axis, large, ops=ops)
    if plan.wide:
        taps = xp.matrix_transpose(taps)
    inner, q, e = taps.shape[2], plan.lines_of_block, plan.entries
    pairs, diagonal_counts, below_counts = _counts(tables[plan.axis], large[plan.axis], plan)
    # Pairs that stand in the same blocks, equally often, are one product.
    every_count = np.concatenate([counts.reshape(-1, len(pairs)) for counts in (diagonal_counts, below_counts)])
    distinct_counts, kind = np.unique(every_count, axis=1, return_inverse=True)
    pairs_of_kind = [pairs[kind.reshape(-1) == i] for i in range(distinct_counts.shape[1])]
    total = xp.zeros((b, len(distinct_counts), e * e), dtype=kernels.dtype, device=ops.device(kernels))
    at_once = max(1, ops.memory // (4 * 8 * b * e * e))
    for start in range(0, len(pairs_of_kind), at_once):
        part = slice(start, start + at_once)
        products = [_sum_of_products(taps, some_pairs, ops=ops) for some_pairs in pairs_of_kind[part]]
        weights = ops.from_numpy(np.ascontiguousarray(distinct_counts[:, part]), kernels)
        total = total + xp.matmul(weights, xp.stack(products, axis=1))

    def in_blocks(lines: Array, blocks: int) -> Array:
        by_line = xp.reshape(lines, (b, blocks, q, q, e, e))
        return xp.reshape(xp.permute_dims(by_line, (0, 1, 2, 4, 3, 5)), (b, blocks, q * e, q * e))

    on_diagonal = len(diagonal_counts) * q * q
    band = BlockTridiagonal(
        diagonal=in_blocks(total[:, :on_diagonal, :], len(diagonal_counts)),
        below=in_blocks(total[:, on_diagonal:, :], len(below_counts)),
    )
    # Where padding repeats pixels, each entry of both factors is a sum over the taps of the other axes.
    longest_product = inner * max(map(len, pairs_of_kind), default=1)
    return band, longest_product + 2 * len(pairs_of_kind) + 2 * sum(spec.kernel_shape) + 4


def _sum_of_products(taps: Array, pairs: np.ndarray, *, ops: ArrayOps) -> Array:
    """Sum of ``B_t* B_u`` over pairs (t, u), shape (b, e * e)."""
    xp = ops.xp
    b, _, _, e = taps.shape
    left = xp.reshape(xp.take(taps, ops.from_numpy(pairs[:, 0], taps), axis=1), (b, -1, e))
    right = xp.reshape(xp.take(taps, ops.from_numpy(pairs[:, 1], taps), axis=1), (b, -1, e))
    return xp.reshape(xp.matmul(xp.matrix_transpose(left), right), (b, e * e))


def to_layer(vectors: Array, spec: ConvSpec, plan: BlockPlan, *, xp: Namespace) -> Array:
    """Vectors (b, r, lines * entries) of the blocks, in the order of the layer's own: channels before lines."""
    large, small = sizes_of(spec)
    first, second = spec.stored_channels
    sizes, channels = (small, first) if plan.wide else (large, second)
    other_axes = [j for j in range(len(sizes)) if j != plan.axis]
    b, r = vectors.shape[:2]
    without_filling = vectors[..., : plan.lines * plan.entries]
    split = xp.reshape(without_filling, (b, r, plan.lines, channels, *(sizes[j] for j in other_axes)))
    # Where each axis of the layer stands in `split`.
    place = {plan.axis: 2} | {j: 4 + i for i, j in enumerate(other_axes)}
    order = (0, 1, 3, *(place[j] for j in range(len(sizes))))
    return xp.reshape(xp.permute_dims(split, order), (b, r, -1))


def _bandwidth(table: np.ndarray, n: int, wide: bool) -> int:
    """Largest distance of two lines that are coupled: outputs that read a pixel, or pixels that an output reads."""
    lines, _ = _meeting_lines(table, n, wide)
    is_line = lines >= 0
    above_all = max(lines.max(initial=0), 0)
    highest = np.where(is_line, lines, -1).max(axis=1, initial=-1)
    lowest = np.where(is_line, lines, above_all).min(axis=1, initial=n + table.shape[1])
    return int(np.max(highest - lowest, initial=0))


def _meeting_lines(table: np.ndarray, n: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lines that meet in each output (wide: in each pixel), and by which taps, shape (outputs, most); -1 for none."""
    k, outputs = table.shape
    if not wide:
        return np.where(table < n, table, -1).T, np.broadcast_to(np.arange(k), (outputs, k))
    readers = readers_of(table.reshape(-1), n).T
    is_reader = readers < table.size
    return np.where(is_reader, readers % outputs, -1), np.where(is_reader, readers // outputs, -1)


def _counts(table: np.ndarray, n: int, plan: BlockPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of taps that couple lines, and how often they do in each block.

    Returns
    -------
    pairs : integer array, shape (c, 2)
    diagonal, below : float arrays, shapes (blocks, q, q, c) and (blocks - 1, q, q, c)
        Of the diagonal blocks, and of those below.
    """
    q, k = plan.lines_of_block, table.shape[0]
    lines, taps = _meeting_lines(table, n, plan.wide)
    couplings = []
    for i, j in itertools.product(range(lines.shape[1]), repeat=2):
        blocks_apart = lines[:, i] // q - lines[:, j] // q
        in_band = (lines[:, i] >= 0) & (lines[:, j] >= 0) & (blocks_apart >= 0) & (blocks_apart <= 1)
        pair = k * taps[in_band, i] + taps[in_band, j]
        couplings.append(np.stack([lines[in_band, i], lines[in_band, j], pair]))
    row_line, column_line, pair = np.concatenate(couplings, axis=1)
    distinct_pairs, pair_index = np.unique(pair, return_inverse=True)
    pair_index = pair_index.reshape(-1)

    def counts(blocks: int, blocks_apart: int) -> np.ndarray:
        of_blocks = np.zeros((blocks, q, q, len(distinct_pairs)))
        chosen = row_line // q - column_line // q == blocks_apart
        place = (column_line[chosen] // q, row_line[chosen] % q, column_line[chosen] % q, pair_index[chosen])
        np.add.at(of_blocks, place, 1.0)
        return of_blocks

    pairs = np.stack(np.divmod(distinct_pairs, k), axis=1)
    return pairs, counts(plan.blocks, 0), counts(max(plan.blocks - 1, 0), 1)


def _between_lines(
    kernels: Array,
    tables: list[np.ndarray],
    axis: int,
    large: tuple[int, ...],
    *,
    ops: ArrayOps,
) -> Array:
    """B_t for each tap of an axis, shape (b, k, first * other outputs, second * other inputs)."""
    xp = ops.xp
    other_axes = [j for j in range(len(tables)) if j != axis]
    x = xp.permute_dims(kernels, (0, 3 + axis, 1, 2, *(3 + j for j in other_axes)))
    for j in other_axes:
        taps, outputs = tables[j].shape
        # Whether tap t of output m reads position v, shape (taps, m * n).
        reads = (tables[j][:, :, None] == np.arange(large[j])).astype(np.float64).reshape(taps, -1)
        # The first of the axes of taps that are left goes, and its outputs and inputs come last.
        x = xp.permute_dims(x, (*range(4), *range(5, x.ndim), 4))
        x = xp.reshape(xp.matmul(x, ops.from_numpy(reads, kernels)), (*x.shape[:-1], outputs, large[j]))
    output_axes = range(4, x.ndim, 2)
    input_axes = range(5, x.ndim, 2)
    x = xp.permute_dims(x, (0, 1, 2, *output_axes, 3, *input_axes))
    rows = math.prod([x.shape[2], *(tables[j].shape[1] for j in other_axes)])
    return xp.reshape(x, (x.shape[0], x.shape[1], rows, -1))


@lru_cache(maxsize=64)
def of_one_group(spec: ConvSpec) -> ConvSpec:
    """The geometry of a single group."""
    return replace(spec, cout=spec.cout // spec.groups, cin=spec.cin // spec.groups, groups=1)


def largest_eigenvalue_up(band: BlockTridiagonal, limit: Array, *, ops: ArrayOps) -> Array:
    """The limit raised by a little where it is proven to bound ``lambda_max(H)``; else the largest number, shape (b,).

    With any L, ``x I - H = L L* + R`` has no eigenvalue below ``-||R||``, so ``lambda_max(H) <= x + ||R||``. L is lower
    block bidiagonal, from a block Cholesky factorisation, which need not be accurate: R is computed from it. A block
    tridiagonal R has at most the norm of its largest diagonal block and twice that of its largest other one.

    Parameters
    ----------
    band : BlockTridiagonal
        Only the blocks on and below the diagonal are read.
    limit : array, shape (b,)
        x.
    """
    xp = ops.xp
    count, size = band.diagonal.shape[1], band.diagonal.shape[-1]
    u = rounding.unit(band.diagonal, xp=xp)
    eye = xp.eye(size, dtype=band.diagonal.dtype, device=ops.device(band.diagonal))
    shift = limit[:, None, None] * eye
    is_complete = limit > 0
    # The largest norms so far of R's blocks on the diagonal and below.
    rest_on_diagonal = xp.zeros_like(limit)
    rest_below = xp.zeros_like(limit)
    # The block of L left of the diagonal in this row, and its product with its transpose.
    left_factor = xp.zeros_like(shift)
    left_square = xp.zeros_like(shift)
    for i in range(count):
        block = shift - band.diagonal[:, i, :, :]
        complement = block - left_square
        has_factor = ops.cholesky_ok(complement)
        is_complete = is_complete & has_factor
        factor = xp.linalg.cholesky(xp.where(has_factor[:, None, None], complement, eye))
        rest = block - xp.matmul(factor, xp.matrix_transpose(factor)) - left_square
        # Products of at most `size` terms, two differences, and the shift of the diagonal.
        terms = frobenius_up(block, xp=xp) + _norm_sq_up(factor, xp=xp) + _norm_sq_up(left_factor, xp=xp)
        terms = rounding.up(terms, 4, xp=xp)
        rest_on_diagonal = xp.maximum(rest_on_diagonal, _rest_norm_up(rest, terms, size, u, xp=xp))
        if i + 1 < count:
            below = -band.below[:, i, :, :]
            left_factor = xp.matrix_transpose(xp.linalg.solve(factor, xp.matrix_transpose(below)))
            rest = below - xp.matmul(left_factor, xp.matrix_transpose(factor))
            product = frobenius_up(left_factor, xp=xp) * frobenius_up(factor, xp=xp)
            terms = rounding.up(rounding.up(product, 2, xp=xp) + frobenius_up(below, xp=xp), 2, xp=xp)
            rest_below = xp.maximum(rest_below, _rest_norm_up(rest, terms, size, u, xp=xp))
            left_square = xp.matmul(left_factor, xp.matrix_transpose(left_factor))
    proven = rounding.up(limit + rest_on_diagonal + 2 * rest_below, 4, xp=xp)
    is_number = proven == proven
    return xp.where(is_complete & is_number, proven, xp.full_like(proven, float(xp.finfo(proven.dtype).max)))


def _norm_sq_up(a: Array, *, xp: Namespace) -> Array:
    return rounding.up(frobenius_up(a, xp=xp) ** 2, 2, xp=xp)


def _rest_norm_up(rest: Array, terms: Array, size: int, u: float, *, xp: Namespace) -> Array:
    """Bound of the norm of a block of R, from the block as computed and the norms of its terms; NaN on overflow."""
    rest_error = rounding.SLACK * rounding.gamma(size + 4, u) * terms
    return rounding.up(frobenius_up(rest, xp=xp) + rest_error, 4, xp=xp)
