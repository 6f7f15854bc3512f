"""A layer's own Gram matrix at one size, from its taps: a band of blocks between the lines of one axis.

Along one axis tap t of output line m reads input line v as a table says (`layer_map.tables_of_axes`), and what it does
between two lines is a matrix ``B_t`` that depends on neither: the layer of one axis less. So the blocks of ``A*A`` are
sums of few of the products ``B_t* B_u``, and those of lines farther apart than the kernel reaches are zero.
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
        Whose lines the blocks are made of.
    wide : bool
        Whether it is ``AA*``, of the outputs (of a transposed layer: of its inputs).
    lines : int
        Lines of the axis.
    together : int
        Lines a block, so that only neighbours are coupled.
    entries : int
        Entries a line.
    taps : int
        Entries of what the taps do between two lines.
    pairs : int
        Pairs of taps that may couple two lines, at most.
    """

    axis: int
    wide: bool
    lines: int
    together: int
    entries: int
    taps: int
    pairs: int

    @property
    def blocks(self) -> int:
        """Blocks on the diagonal."""
        return -(-self.lines // self.together)

    @property
    def size(self) -> int:
        """Of a block; the last one is filled up with zeros."""
        return self.together * self.entries

    @property
    def work(self) -> float:
        """Multiplications that a proof takes, about; a pair of taps as much as ten thousand."""
        return float(self.blocks * self.size**3) * (6 if self.blocks > 1 else 1 / 3) + 1e4 * self.pairs

    @property
    def memory(self) -> int:
        """Bytes of the matrix and of what it is made and factorised with."""
        counts = 2 * self.blocks * self.together**2 * self.pairs
        met = 3 * self.lines * self.pairs
        return 8 * (6 * self.blocks * self.size**2 + 2 * self.entries**2 + 3 * self.taps + counts + met)


def plans(spec: ConvSpec) -> list[BlockPlan]:
    """Every way to cut the Gram matrix of a layer of one group, the least work first."""
    large, small = sizes_of(spec)
    first, second = spec.stored_channels
    found = []
    for axis, table in enumerate(tables_of_axes(large, small, spec)):
        k, stride = table.shape[0], spec.stride[axis]
        # Two outputs read a pixel by taps that are a multiple of the stride apart, unless padding repeats pixels.
        apart = 2 * ((k - 1) // stride) + 1 if spec.padding_mode == "zeros" and spec.dilation[axis] == 1 else k
        between = [n * m for j, (n, m) in enumerate(zip(large, small, strict=True)) if j != axis]
        taps = k * first * second * math.prod(between)
        for wide, (sizes, channels) in enumerate(((large, second), (small, first))):
            lines, entries = sizes[axis], channels * math.prod(n for j, n in enumerate(sizes) if j != axis)
            pairs = k * min(k, apart if wide else k)
            for bandwidth in {_bandwidth(table, large[axis], bool(wide)), lines}:
                together = max(1, min(bandwidth, lines))
                found.append(BlockPlan(axis, bool(wide), lines, together, entries, taps, pairs))
    return sorted(found, key=lambda plan: plan.work)


def gram_blocks(kernels: Array, spec: ConvSpec, plan: BlockPlan, *, ops: ArrayOps) -> tuple[BlockTridiagonal, int]:
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
        n: the entries are off by at most ``gamma(n) |A|* |A|``.
    """
    xp = ops.xp
    large, small = sizes_of(spec)
    tables = tables_of_axes(large, small, spec)
    b = kernels.shape[0]
    taps = _between_lines(kernels, tables, plan.axis, large, ops=ops)
    if plan.wide:
        taps = xp.matrix_transpose(taps)
    inner, q, e = taps.shape[2], plan.together, plan.entries
    pairs, counts = _counts(tables[plan.axis], large[plan.axis], plan)
    # Pairs that stand in the same blocks, equally often, are one product.
    every, alike = np.unique(
        np.concatenate([x.reshape(math.prod(x.shape[:3]), len(pairs)) for x in counts]), axis=1, return_inverse=True
    )
    members = [np.flatnonzero(alike.reshape(-1) == i) for i in range(every.shape[1])]
    total = xp.zeros((b, len(every), e * e), dtype=kernels.dtype, device=ops.device(kernels))
    step = max(1, ops.memory // (4 * 8 * b * e * e))
    for start in range(0, len(members), step):
        products = [_met_by(taps, pairs[few], ops=ops) for few in members[start : start + step]]
        weights = ops.from_numpy(np.ascontiguousarray(every[:, start : start + step]), kernels)
        total = total + xp.matmul(weights, xp.stack(products, axis=1))
    parts, first = [], 0
    for table in counts:
        n = table.shape[0]
        block = xp.reshape(total[:, first : first + n * q * q, :], (b, n, q, q, e, e))
        parts.append(xp.reshape(xp.permute_dims(block, (0, 1, 2, 4, 3, 5)), (b, n, q * e, q * e)))
        first += n * q * q
    # Where padding repeats pixels, each entry of both factors is a sum over the taps of the other axes.
    longest = inner * max(map(len, members), default=1)
    return BlockTridiagonal(*parts), longest + 2 * len(members) + 2 * sum(spec.kernel_shape) + 4


def _met_by(taps: Array, pairs: np.ndarray, *, ops: ArrayOps) -> Array:
    """Sum of ``B_t* B_u`` over pairs (t, u), shape (b, e * e)."""
    xp, (b, _, _, e) = ops.xp, taps.shape
    left, right = (
        xp.reshape(xp.take(taps, ops.from_numpy(pairs[:, side], taps), axis=1), (b, -1, e)) for side in (0, 1)
    )
    return xp.reshape(xp.matmul(xp.matrix_transpose(left), right), (b, e * e))


def to_layer(vectors: Array, spec: ConvSpec, plan: BlockPlan, *, xp: Namespace) -> Array:
    """Vectors (b, r, lines * entries) of the blocks, in the order of the layer's own: channels before lines."""
    large, small = sizes_of(spec)
    sizes, channels = (small, spec.stored_channels[0]) if plan.wide else (large, spec.stored_channels[1])
    others = [n for j, n in enumerate(sizes) if j != plan.axis]
    b, r = vectors.shape[:2]
    split = xp.reshape(vectors[..., : plan.lines * plan.entries], (b, r, plan.lines, channels, *others))
    order = [0, 1, 3, *(2 if j == plan.axis else 4 + j - (j > plan.axis) for j in range(len(sizes)))]
    return xp.reshape(xp.permute_dims(split, tuple(order)), (b, r, -1))


def _bandwidth(table: np.ndarray, n: int, wide: bool) -> int:
    """Largest distance of two lines that are coupled: outputs that read a pixel, or pixels that an output reads."""
    lines, _ = _met(table, n, wide)
    met = lines >= 0
    highest = np.where(met, lines, -1).max(axis=1, initial=-1)
    lowest = np.where(met, lines, max(lines.max(initial=0), 0)).min(axis=1, initial=n + table.shape[1])
    return int(np.max(highest - lowest, initial=0))


def _met(table: np.ndarray, n: int, wide: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lines that meet in each output (wide: in each pixel), and by which taps, shape (outputs, most); -1 for none."""
    k, outputs = table.shape
    if not wide:
        return np.where(table < n, table, -1).T, np.broadcast_to(np.arange(k), (outputs, k))
    readers = readers_of(table.reshape(-1), n).T
    met = readers < table.size
    return np.where(met, readers % outputs, -1), np.where(met, readers // outputs, -1)


def _counts(table: np.ndarray, n: int, plan: BlockPlan) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Pairs of taps that couple lines, shape (c, 2), and how often they do in each block.

    Shapes (blocks, q, q, c) of the diagonal blocks, and (blocks - 1, q, q, c) of those below.
    """
    q, k = plan.together, table.shape[0]
    lines, taps = _met(table, n, plan.wide)
    found = []
    for i, j in itertools.product(range(lines.shape[1]), repeat=2):
        both = (lines[:, i] >= 0) & (lines[:, j] >= 0) & (lines[:, i] // q - lines[:, j] // q <= 1)
        both &= lines[:, i] // q >= lines[:, j] // q
        found.append(np.stack([lines[both, i], lines[both, j], k * taps[both, i] + taps[both, j]]))
    x, y, pair = np.concatenate(found, axis=1)
    every, index = np.unique(pair, return_inverse=True)
    diagonal = np.zeros((plan.blocks, q, q, len(every)))
    below = np.zeros((max(plan.blocks - 1, 0), q, q, len(every)))
    for apart, counts in ((0, diagonal), (1, below)):
        here = x // q - y // q == apart
        np.add.at(counts, (y[here] // q, x[here] % q, y[here] % q, index.reshape(-1)[here]), 1.0)
    return np.stack(np.divmod(every, k), axis=1), (diagonal, below)


def _between_lines(
    kernels: Array, tables: list[np.ndarray], axis: int, large: tuple[int, ...], *, ops: ArrayOps
) -> Array:
    """B_t for each tap of an axis, shape (b, k, first * other outputs, second * other inputs)."""
    xp = ops.xp
    d = len(tables)
    others = [j for j in range(d) if j != axis]
    x = xp.permute_dims(kernels, (0, 3 + axis, 1, 2, *(3 + j for j in others)))
    # The first of the taps that are left goes, and its outputs and inputs come last.
    for j in others:
        k, m = tables[j].shape
        # Whether tap t of output m reads position v, shape (k, m * n).
        hits = tables[j][:, :, None] == np.arange(large[j])
        reads = ops.from_numpy(hits.astype(np.float64).reshape(k, -1), kernels)
        x = xp.permute_dims(x, (*range(4), *range(5, x.ndim), 4))
        x = xp.reshape(xp.matmul(x, reads), (*x.shape[:-1], m, large[j]))
    outputs, inputs = range(4, x.ndim, 2), range(5, x.ndim, 2)
    x = xp.permute_dims(x, (0, 1, 2, *outputs, 3, *inputs))
    count = math.prod([x.shape[2], *(tables[j].shape[1] for j in others)])
    return xp.reshape(x, (x.shape[0], x.shape[1], count, -1))


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
    ok = limit > 0
    on_diagonal = beside = xp.zeros_like(limit)
    carried = before = xp.zeros_like(shift)
    for i in range(count):
        matrix = shift - band.diagonal[:, i, :, :]
        left = matrix - carried
        complete = ops.cholesky_ok(left)
        ok = ok & complete
        factor = xp.linalg.cholesky(xp.where(complete[:, None, None], left, eye))
        square = xp.matmul(factor, xp.matrix_transpose(factor))
        rest = matrix - square - carried
        # Products of at most `size` terms, two differences, and the shift of the diagonal.
        mass = frobenius_up(matrix, xp=xp) + _squared(factor, xp=xp) + _squared(before, xp=xp)
        mass = rounding.up(mass, 4, xp=xp)
        on_diagonal = xp.maximum(on_diagonal, _off(rest, mass, size, u, xp=xp))
        if i + 1 < count:
            below = -band.below[:, i, :, :]
            before = xp.matrix_transpose(xp.linalg.solve(factor, xp.matrix_transpose(below)))
            rest = below - xp.matmul(before, xp.matrix_transpose(factor))
            mass = rounding.up(frobenius_up(before, xp=xp) * frobenius_up(factor, xp=xp), 2, xp=xp)
            mass = rounding.up(mass + frobenius_up(below, xp=xp), 2, xp=xp)
            beside = xp.maximum(beside, _off(rest, mass, size, u, xp=xp))
            carried = xp.matmul(before, xp.matrix_transpose(before))
    proven = rounding.up(limit + on_diagonal + 2 * beside, 4, xp=xp)
    return xp.where(ok & (proven == proven), proven, xp.full_like(proven, float(xp.finfo(proven.dtype).max)))


def _squared(a: Array, *, xp: Namespace) -> Array:
    return rounding.up(frobenius_up(a, xp=xp) ** 2, 2, xp=xp)


def _off(rest: Array, mass: Array, size: int, u: float, *, xp: Namespace) -> Array:
    """Bound of a residual block's norm: as computed, and what its rounding may be. Overflow makes it no number."""
    return rounding.up(frobenius_up(rest, xp=xp) + rounding.SLACK * rounding.gamma(size + 4, u) * mass, 4, xp=xp)
