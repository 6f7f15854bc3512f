"""The Gram matrix A*A or AA* of a layer A at one size, as a block tridiagonal matrix, and proofs by its factorization.

Choose one axis. A *line* is a position along that axis, with all channels and all positions of the other axes. Tap t of
output line m reads one input line v, which a table says (`Axis.table`). The matrix ``B_t`` that takes line v
to line m is the same for all lines: it is a layer with one axis less. So each block of ``A*A``, for a pair of input
lines, is a sum of products ``B_t* B_u``; it is zero if the lines are farther apart than the kernel is long. A tap
*connects* an output line with the input line that it reads. Two lines of one side are *coupled* by the taps t and u if
t connects the first, and u the second, with one line of the other side. Several neighboring lines make one block of a
block tridiagonal matrix.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.taps import readers_of
from specnorm.proofs import norms, rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.geometry.taps import Axis

_SOLVED_AT_ONCE = 64
"""Rows of a triangular matrix up to which the library's `solve` is as fast as that of its halves."""


@dataclass(frozen=True, eq=False)
class BlockTridiagonal:
    """Stack of b symmetric block tridiagonal matrices with n x n blocks of d rows.

    Parameters
    ----------
    diagonal : array, shape (b, n, d, d)
        Blocks (i, i).
    below : array, shape (b, n - 1, d, d)
        Blocks (i + 1, i).
    """

    diagonal: Array
    below: Array


@dataclass(frozen=True)
class BlockPlan:
    """How the Gram matrix of a layer of one group is cut into blocks.

    Parameters
    ----------
    axis : int
        The axis whose positions are the lines.
    rows_are_outputs : bool
        Whether the matrix is ``AA*``, with a row for each output of the convolution (input, if transposed); else it is
        ``A*A``, with a row for each input.
    lines : int
        Number of lines.
    lines_of_block : int
        Number of lines in a block, large enough that only neighboring blocks are coupled.
    entries : int
        Rows of the matrix for one line.
    tap_entries : int
        Number of entries of all ``B_t`` together.
    pairs : int
        Upper bound of the number of pairs (t, u) of taps that couple two lines.
    """

    axis: int
    rows_are_outputs: bool
    lines: int
    lines_of_block: int
    entries: int
    tap_entries: int
    pairs: int

    @property
    def blocks(self) -> int:
        """Number of blocks on the diagonal."""
        return arrays.ceil_div(self.lines, self.lines_of_block)

    @property
    def size(self) -> int:
        """Number of rows of a block; the last block is filled up with zeros."""
        return self.lines_of_block * self.entries

    @property
    def work(self) -> float:
        """Approximate number of multiplications of a proof; the array calls for a pair of taps count as ten thousand.

        One block of d rows is factorized once, in d**3 / 3 multiplications. Of several blocks, each takes two
        factorizations, a solve and three products (`largest_eigenvalue_up`): together about 6 d**3, and array calls
        that count as four hundred thousand.
        """
        if self.blocks == 1:
            return self.size**3 / 3 + 1e4 * self.pairs
        return self.blocks * (6.0 * self.size**3 + 4e5) + 1e4 * self.pairs

    @property
    def memory(self) -> int:
        """Approximate number of bytes for the matrix and for the arrays that form and factorise it."""
        # A block on the diagonal and one below it for each row of blocks; a sum of such arrays, its terms and itself.
        band = 3 * 2 * self.blocks * self.size**2
        # The product for one pair of lines and its copy in a stack; the matrices B_t, and two selections of them.
        products = 2 * self.entries**2 + 3 * self.tap_entries
        # The arrays of `_counts`: on and below the diagonal, a count of each pair, joined, and its bytes; three
        # integers for each coupling, joined, and sorted with their order.
        counts = 2 * self.blocks * self.lines_of_block**2 * self.pairs
        couplings = 3 * self.lines * self.pairs
        return 8 * (band + products + 4 * counts + 3 * couplings)


@functools.lru_cache(maxsize=64)
def plans(spec: ConvSpec) -> tuple[BlockPlan, ...]:
    """All ways to cut the Gram matrix of a layer of one group, sorted by their work."""
    large, small = spec.sides
    plans = []
    for number, axis in enumerate(spec.axes):
        plans += _plans_of_axis(spec, number, axis, large, small)
    return tuple(sorted(plans, key=lambda plan: plan.work))


def _plans_of_axis(
    spec: ConvSpec,
    number: int,
    axis: Axis,
    large: tuple[int, ...],
    small: tuple[int, ...],
) -> list[BlockPlan]:
    """Plans with lines along one axis: A*A and AA*, in blocks as small as possible, and as a single block."""
    output_channels, input_channels = spec.group_channels
    tap_count = axis.taps
    stride = spec.stride[number]
    large_of_other_axes = math.prod(large) // large[number]
    small_of_other_axes = math.prod(small) // small[number]
    output_entries = output_channels * small_of_other_axes
    input_entries = input_channels * large_of_other_axes
    tap_entries = tap_count * output_entries * input_entries
    # Two outputs that share a pixel read it by taps whose distance is a multiple of the stride, unless padding repeats
    # pixels. (With a dilation r, it is a multiple of s / gcd(s, r) only; then all distances are counted.)
    if spec.padding_mode == "zeros" and spec.dilation[number] == 1:
        distance_count = min(tap_count, 2 * ((tap_count - 1) // stride) + 1)
    else:
        distance_count = tap_count
    plans = []
    for rows_are_outputs in (False, True):
        if rows_are_outputs:
            lines, entries = small[number], output_entries
            pairs = tap_count * distance_count
        else:
            lines, entries = large[number], input_entries
            pairs = tap_count**2
        for bandwidth in {_bandwidth(axis, rows_are_outputs), lines}:
            lines_of_block = max(1, min(bandwidth, lines))
            plans.append(BlockPlan(number, rows_are_outputs, lines, lines_of_block, entries, tap_entries, pairs))
    return plans


def gram_blocks(
    kernels: Array,
    spec: ConvSpec,
    plan: BlockPlan,
    *,
    ops: ArrayOps,
) -> tuple[BlockTridiagonal, int]:
    """Form ``A*A`` or ``AA*`` of layers A of one group.

    ``kernels`` (b, first, second, *kernel_shape): in torch's order. ``spec``: the geometry of one group, with
    ``input_shape``. Returns ``band``; ``roundings``: n: each entry has an error of at most that entry of ``gamma(n)
    |A|* |A|`` (or ``gamma(n) |A| |A|*``).
    """
    xp = ops.xp
    large, _ = spec.sides
    tables = [axis.table for axis in spec.axes]
    b = kernels.shape[0]
    tap_matrices = _line_matrices(kernels, tables, plan.axis, large, ops=ops)
    if plan.rows_are_outputs:
        tap_matrices = xp.matrix_transpose(tap_matrices)
    inner = tap_matrices.shape[2]
    q = plan.lines_of_block
    e = plan.entries
    pairs, diagonal_counts, below_counts = _counts(tables[plan.axis], large[plan.axis], plan)
    # Pairs of taps with equal counts for every pair of lines make a class, which is summed in one matrix product.
    every_count = np.concatenate(
        [counts.reshape(math.prod(counts.shape[:-1]), len(pairs)) for counts in (diagonal_counts, below_counts)]
    )
    # `np.unique` along an axis makes a field of each row.
    columns = [column.astype(">u4").tobytes() for column in every_count.T]
    distinct = sorted(set(columns))
    pair_classes = [pairs[[column == one for column in columns]] for one in distinct]
    distinct_counts = every_count[:, [columns.index(one) for one in distinct]]
    total = xp.zeros((b, len(distinct_counts), e * e), dtype=kernels.dtype, device=ops.device(kernels))
    # A product has 8 b e**2 bytes. With its copy in the stack and temporary arrays, four times as many are allowed.
    at_once = max(1, ops.memory // (4 * 8 * b * e * e))
    for start in range(0, len(pair_classes), at_once):
        part = slice(start, start + at_once)
        products = [_sum_of_products(tap_matrices, pair_class, ops=ops) for pair_class in pair_classes[part]]
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
    product_roundings = inner * max(map(len, pair_classes), default=1)
    # A sum of products, each times its count.
    sum_roundings = 2 * len(pair_classes)
    # If padding repeats pixels, each entry of B_t and of B_u is itself a sum over taps of the other axes.
    factor_roundings = 2 * sum(spec.kernel_shape)
    # 4 are to spare.
    return band, product_roundings + sum_roundings + factor_roundings + 4


def _sum_of_products(tap_matrices: Array, pairs: np.ndarray, *, ops: ArrayOps) -> Array:
    """Sum of ``B_t* B_u`` over pairs (t, u), shape (b, e * e), for matrices B of shape (b, taps, rows, e)."""
    xp = ops.xp
    b, _, _, e = tap_matrices.shape
    left = xp.reshape(xp.take(tap_matrices, ops.from_numpy(pairs[:, 0], tap_matrices), axis=1), (b, -1, e))
    right = xp.reshape(xp.take(tap_matrices, ops.from_numpy(pairs[:, 1], tap_matrices), axis=1), (b, -1, e))
    return xp.reshape(xp.matmul(xp.matrix_transpose(left), right), (b, e * e))


def to_layer(vectors: Array, spec: ConvSpec, plan: BlockPlan, *, xp: Namespace) -> Array:
    """Reorder vectors (b, r, rows) of the block matrix into the order of the layer's vectors: channels come first.

    The block matrix orders its rows by line, channel and position along the other axes.
    """
    large, small = spec.sides
    output_channels, input_channels = spec.group_channels
    if plan.rows_are_outputs:
        sizes, channels = small, output_channels
    else:
        sizes, channels = large, input_channels
    other_axes = [j for j in range(len(sizes)) if j != plan.axis]
    b, r = vectors.shape[:2]
    without_filling = vectors[..., : plan.lines * plan.entries]
    split = xp.reshape(without_filling, (b, r, plan.lines, channels, *(sizes[j] for j in other_axes)))
    # The axis of `split` for each spatial axis of the layer.
    split_axis = {plan.axis: 2} | {j: 4 + i for i, j in enumerate(other_axes)}
    order = (0, 1, 3, *(split_axis[j] for j in range(len(sizes))))
    return xp.reshape(xp.permute_dims(split, order), (b, r, -1))


def _bandwidth(axis: Axis, rows_are_outputs: bool) -> int:
    """Largest distance of two coupled lines along an axis: pixels of one output, or outputs that read one pixel."""
    n, outputs = axis.pixels, axis.outputs
    if not rows_are_outputs:
        distances = [0]
        for _, table in axis.parts_of_table():
            is_pixel = table < n
            distances.append(int((np.where(is_pixel, table, -1).max(0) - np.where(is_pixel, table, n).min(0)).max()))
        return max(distances)
    whole: Any = np.int32 if outputs < 2**31 else np.int64
    first: Any = np.full(n + 1, outputs, dtype=whole)
    last: Any = np.full(n + 1, -1, dtype=whole)
    for start, table in axis.parts_of_table():
        readers = (start + np.arange(table.shape[1])).astype(whole)
        for pixels in table:
            np.minimum.at(first, pixels, readers)
            np.maximum.at(last, pixels, readers)
    return max(0, int((last - first)[:n].max(initial=0)))


def _connected_lines(table: np.ndarray, n: int, rows_are_outputs: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each line of the other side, the lines that it is connected with, and the taps that connect them.

    For A*A these are the pixels that each output reads; for AA* (``rows_are_outputs``) the outputs that read each
    pixel.

    ``table`` (taps, outputs): the pixel that each tap of each output reads, or n for padding. ``n``: number of pixels.
    Returns ``lines``, ``taps`` (lines of the other side, most connections of one): filled up with lines -1.
    """
    k, outputs = table.shape
    if not rows_are_outputs:
        return np.where(table < n, table, -1).T, np.broadcast_to(np.arange(k), (outputs, k))
    readers = readers_of(table.reshape(-1), n).T
    is_reader = readers < table.size
    return np.where(is_reader, readers % outputs, -1), np.where(is_reader, readers // outputs, -1)


def _counts(table: np.ndarray, n: int, plan: BlockPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The c pairs of taps that couple lines, and how often each of them couples each pair of lines.

    ``table``, ``n``: as in `_connected_lines`, for the plan's axis. Returns ``pairs`` (c, 2); ``diagonal``, ``below``
    (blocks, q, q, c) and (blocks - 1, q, q, c): counts for the q x q pairs of lines in each diagonal block, and in each
    block below the diagonal.
    """
    q, k = plan.lines_of_block, table.shape[0]
    lines, tap_index = _connected_lines(table, n, plan.rows_are_outputs)
    couplings = []
    for i, j in itertools.product(range(lines.shape[1]), repeat=2):
        blocks_apart = lines[:, i] // q - lines[:, j] // q
        in_band = (lines[:, i] >= 0) & (lines[:, j] >= 0) & (blocks_apart >= 0) & (blocks_apart <= 1)
        pair = k * tap_index[in_band, i] + tap_index[in_band, j]
        couplings.append(np.stack([lines[in_band, i], lines[in_band, j], pair]))
    row_line, column_line, pair = np.concatenate(couplings, axis=1)
    distinct_pairs, pair_index = np.unique(pair, return_inverse=True)
    pair_index = pair_index.reshape(-1)

    def counts(blocks: int, blocks_apart: int) -> np.ndarray:
        of_blocks = np.zeros((blocks, q, q, len(distinct_pairs)))
        chosen = row_line // q - column_line // q == blocks_apart
        index = (column_line[chosen] // q, row_line[chosen] % q, column_line[chosen] % q, pair_index[chosen])
        np.add.at(of_blocks, index, 1.0)
        return of_blocks

    pairs = np.stack(np.divmod(distinct_pairs, k), axis=1)
    return pairs, counts(plan.blocks, 0), counts(max(plan.blocks - 1, 0), 1)


def _line_matrices(
    kernels: Array,
    tables: list[np.ndarray],
    axis: int,
    large: tuple[int, ...],
    *,
    ops: ArrayOps,
) -> Array:
    """The matrices B_t for the k taps of an axis, shape (b, k, first * other outputs, second * other inputs).

    "Other" are the positions along all other axes.
    """
    xp = ops.xp
    other_axes = [j for j in range(len(tables)) if j != axis]
    x = xp.permute_dims(kernels, (0, 3 + axis, 1, 2, *(3 + j for j in other_axes)))
    for j in other_axes:
        taps, outputs = tables[j].shape
        # Whether tap t of output m reads position v, shape (taps, outputs * positions).
        reads = (tables[j][:, :, None] == np.arange(large[j])).astype(np.float64).reshape(taps, -1)
        # Replace the first remaining axis of taps by two axes at the end: outputs and inputs.
        x = xp.permute_dims(x, (*range(4), *range(5, x.ndim), 4))
        x = xp.reshape(xp.matmul(x, ops.from_numpy(reads, kernels)), (*x.shape[:-1], outputs, large[j]))
    output_axes = range(4, x.ndim, 2)
    input_axes = range(5, x.ndim, 2)
    x = xp.permute_dims(x, (0, 1, 2, *output_axes, 3, *input_axes))
    rows = math.prod([x.shape[2], *(tables[j].shape[1] for j in other_axes)])
    return xp.reshape(x, (x.shape[0], x.shape[1], rows, -1))


def largest_eigenvalue_up(band: BlockTridiagonal, limit: Array, *, ops: ArrayOps) -> Array:
    """Proven upper bounds (b,) of ``lambda_max(H)``: the limit, raised by a little.

    If the proof fails, the bound is the dtype's largest number.

    For any L, let ``R = x I - H - L L*``. Then ``x I - H`` has no eigenvalue below ``-||R||``, so
    ``lambda_max(H) <= x + ||R||``. L is the lower block bidiagonal factor of a block Cholesky factorization of
    ``x I - H``; it need not be accurate, since R is computed. The norm of R, which is block tridiagonal, is at most the
    largest norm of a diagonal block plus twice the largest norm of a block below the diagonal.

    ``band``: H. ``limit`` (b,): x. Any numbers are valid; with poor ones the factorization fails.
    """
    xp = ops.xp
    count, size = band.diagonal.shape[1], band.diagonal.shape[-1]
    u = rounding.unit(band.diagonal, xp=xp)
    eye = xp.eye(size, dtype=band.diagonal.dtype, device=ops.device(band.diagonal))
    shift = limit[:, None, None] * eye
    is_complete = limit > 0
    # The largest norms of R's blocks so far, on the diagonal and below it.
    rest_on_diagonal = xp.zeros_like(limit)
    rest_below = xp.zeros_like(limit)
    # L's block left of the diagonal in the current row, and its product with its transpose.
    left_factor = xp.zeros_like(shift)
    left_square = xp.zeros_like(shift)
    for i in range(count):
        block = shift - band.diagonal[:, i, :, :]
        complement = block - left_square
        has_factor, factor = _factors(complement, ops=ops)
        is_complete = is_complete & has_factor
        rest = block - xp.matmul(factor, xp.matrix_transpose(factor)) - left_square
        # The roundings of an entry of R are those of products of at most `size` terms, of two differences, and of the
        # shift of the diagonal.
        magnitude = norms.frobenius_up(block, xp=xp) + _norm_sq_up(factor, xp=xp) + _norm_sq_up(left_factor, xp=xp)
        magnitude = rounding.up(magnitude, 4, xp=xp)
        rest_on_diagonal = xp.maximum(rest_on_diagonal, _rest_norm_up(rest, magnitude, size, u, xp=xp))
        if i + 1 < count:
            below = -band.below[:, i, :, :]
            left_factor = _times_inverse(below, factor, xp=xp)
            rest = below - xp.matmul(left_factor, xp.matrix_transpose(factor))
            product = norms.frobenius_up(left_factor, xp=xp) * norms.frobenius_up(factor, xp=xp)
            magnitude = rounding.up(rounding.up(product, 2, xp=xp) + norms.frobenius_up(below, xp=xp), 2, xp=xp)
            rest_below = xp.maximum(rest_below, _rest_norm_up(rest, magnitude, size, u, xp=xp))
            left_square = xp.matmul(left_factor, xp.matrix_transpose(left_factor))
    # The roundings: two sums; doubling is exact.
    proven = rounding.up(limit + rest_on_diagonal + 2 * rest_below, 4, xp=xp)
    is_not_nan = proven == proven
    return xp.where(is_complete & is_not_nan, proven, xp.full_like(proven, float(xp.finfo(proven.dtype).max)))


def _factors(matrices: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Whether matrices (b, n, n) have Cholesky factors, and these factors; the identity in place of those that lack."""
    xp = ops.xp
    eye = xp.eye(matrices.shape[-1], dtype=matrices.dtype, device=ops.device(matrices))
    if ops.has_factors:
        factors = ops.cholesky_factors(matrices)
        has_factor = xp.all(xp.isfinite(factors), axis=(-2, -1))
        return has_factor, xp.where(has_factor[:, None, None], factors, eye)
    has_factor = ops.cholesky_ok(matrices)
    return has_factor, xp.linalg.cholesky(xp.where(has_factor[:, None, None], matrices, eye))


def _times_inverse(a: Array, factor: Array, *, xp: Namespace) -> Array:
    """``A L^-T`` for lower triangular L, by halves; the standard has no triangular solver, and `solve` factorizes L."""
    size = factor.shape[-1]
    if size <= _SOLVED_AT_ONCE:
        return xp.matrix_transpose(xp.linalg.solve(factor, xp.matrix_transpose(a)))
    half = size // 2
    first = _times_inverse(a[..., :half], factor[..., :half, :half], xp=xp)
    rest = a[..., half:] - xp.matmul(first, xp.matrix_transpose(factor[..., half:, :half]))
    return xp.concat([first, _times_inverse(rest, factor[..., half:, half:], xp=xp)], axis=-1)


def _norm_sq_up(a: Array, *, xp: Namespace) -> Array:
    return rounding.up(norms.frobenius_up(a, xp=xp) ** 2, 2, xp=xp)


def _rest_norm_up(rest: Array, magnitude: Array, size: int, u: float, *, xp: Namespace) -> Array:
    """Upper bound of the norm of a block of R; NaN on overflow.

    ``rest`` (b, d, d): the block as computed. ``magnitude`` (b,): sum of the norms of the terms from which it was
    computed.
    """
    rest_error = rounding.SLACK * rounding.gamma(size + 4, u) * magnitude
    return rounding.up(norms.frobenius_up(rest, xp=xp) + rest_error, 4, xp=xp)
