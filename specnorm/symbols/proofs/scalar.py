"""Symbols of one column: a depthwise layer's, whose norm at a frequency is a sum of squares instead of an eigenvalue.

Such a symbol is evaluated axis by axis. At one frequency that takes the phases along each axis and one pass over the
taps; on all points of a grid, and for many blocks, one product of matrices an axis. No Gram polynomial is formed: it
would have half as many coefficients as there are pairs of taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import host, rounding
from specnorm.proofs.bound import Sealed, Upper
from specnorm.proofs.cells import Grid
from specnorm.proofs.frequencies import Frequencies, tap_points
from specnorm.symbols.proofs import symbols
from specnorm.symbols.proofs.gram_polynomial import GramPolynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.cells import Boxes

_HOST_BYTES = 4 * 2**20
"""Bytes of a grid's values that are computed at once, where the host computes: they stay in the cache."""


def column_error(kernel_shape: Sequence[int], u: float) -> float:
    """Bound on ``||computed G(theta) - G(theta)|| / q`` of a symbol with one column, with ``q >= || sum_k |K_k| ||``.

    An axis of k taps multiplies complex numbers by phases, which are off by ``sqrt(2) eps_c``, and adds them: a real
    and an imaginary part are sums of 2 k products. The result is off by at most ``sqrt(2) (gamma(2 k + 2) + eps_c)`` of
    the sum of the moduli. The bound is the sum over the axes.

    ``u``: unit roundoff of the precision that is computed in.
    """
    axis_errors = [rounding.gamma(2 * k + 2, u) + symbols.phase_error(u) for k in kernel_shape]
    return rounding.SLACK * math.sqrt(2) * sum(axis_errors)


def scalar_error(m: int, kernel_shape: Sequence[int], u: float) -> float:
    """Bound on ``|computed H(theta) - H(theta)| / q**2`` of `ScalarGram`, with ``q >= || sum_k |K_k| ||``.

    G is off by ``delta q``, with delta of `column_error`, and H, a sum of 2 m squares, by
    ``(gamma(2 m + 2) + 2 delta + delta**2) q**2``.

    ``m``: rows of the column. ``kernel_shape``, ``u``: as of `column_error`.
    """
    delta = column_error(kernel_shape, u)
    return rounding.SLACK * (rounding.gamma(2 * m + 2, u) + 2 * delta + delta**2)


def has_one_column(blocks: Array) -> bool:
    """Whether symbols have one row or one column, as those of depthwise layers, and change with the frequency."""
    return min(blocks.shape[1:3]) == 1 and blocks.ndim > 3


def largest_on_grid(
    blocks: Array, sizes: tuple[int, ...], *, together: int = 1, ops: ArrayOps
) -> tuple[Array, Frequencies, Callable[[], list[Upper]]]:
    """Bounds of the largest norm of each block's symbol, of one row or column, on a DFT grid, which is visited whole.

    ``blocks`` (b, m, p, *kernel_shape): in the widest dtype of the library, scaled to about 1. ``together``: number of
    blocks of which one claim is made. Returns ``value`` (b,); ``frequencies``: that of each block where its norm is
    largest; ``claims``: returns the values as claims about the circulant of the grid.
    """
    xp = ops.xp
    columns = arrays.tall(blocks, xp=xp)
    count, m, _, *kernel_shape = columns.shape
    tables = half_grid_tables(sizes, kernel_shape, blocks, ops=ops)
    frequencies = Frequencies.half_grid(sizes)
    at_once = blocks_at_once(m, len(frequencies), kernel_shape, ops=ops)
    squares, places = [], []
    for start in range(0, count, at_once):
        on_grid = squares_on_grid(columns[start : min(start + at_once, count), ...], tables, xp=xp)
        squares.append(xp.max(on_grid, axis=1))
        places.append(ops.to_numpy(xp.argmax(on_grid, axis=1)))
    value = norms_up(xp.concat(squares, axis=0), columns, xp=xp)
    rule = f"norms at {math.prod(sizes)} frequencies"
    claims = Upper._of_stack(xp.reshape(value, (-1, together)), Grid.of_sizes(sizes, kernel_shape), rule, ops=ops)
    return value, frequencies[np.concatenate(places)], claims


def norms_up(squares: Array, columns: Array, *, xp: Namespace) -> Array:
    """Bounds of norms of blocks (b, m, 1, *kernel_shape) at some frequencies, from their `squares_on_grid` (b,)."""
    m, _, *kernel_shape = columns.shape[1:]
    delta = column_error(kernel_shape, rounding.unit(columns, xp=xp))
    error = symbols.absolute_norm_up(columns, xp=xp) * delta
    modulus = rounding.up(xp.sqrt(squares), 2 * m + 2, xp=xp)
    # Squares below the smallest normal number may be flushed to 0.
    underflow = 2 * m * float(xp.finfo(columns.dtype).smallest_normal) ** 0.5
    return rounding.up(modulus + error, 4, xp=xp) + xp.where(error > 0, underflow + 0 * error, 0 * error)


def half_grid_tables(
    sizes: Sequence[int],
    kernel_shape: Sequence[int],
    like: Array,
    *,
    ops: ArrayOps,
) -> list[tuple[Array, Array]]:
    """Cosines and sines of a half grid, for each axis of its taps at its points, as `squares_on_grid` takes them."""
    tables = []
    for n, points, k in zip(sizes, Frequencies.half_grid_shape(sizes), kernel_shape, strict=True):
        along_axis = Frequencies.along_axis(points, n)
        tables.append(symbols.cosines_and_sines(along_axis, tap_points((k,)), like, ops=ops))
    return tables


def blocks_at_once(m: int, point_count: int, kernel_shape: Sequence[int], *, ops: ArrayOps) -> int:
    """Number of blocks whose values on a grid are computed at once, by the cache or the memory.

    Eight arrays of a block's values are alive at a time.
    """
    bytes_of_a_block = 8 * 8 * m * max(point_count, math.prod(kernel_shape))
    # A compiler compiles each part by itself, so its parts are as large as the memory allows.
    most_bytes = min(_HOST_BYTES, ops.memory) if ops.concrete and ops.on_host else ops.memory
    return max(1, most_bytes // bytes_of_a_block)


def squares_on_grid(blocks: Array, tables: Sequence[tuple[Array, Array]], *, xp: Namespace) -> Array:
    """``||G(theta)||**2`` of blocks (g, m, 1, *kernel_shape) on a product of frequencies, shape (g, points).

    The error is that of `scalar_error`.

    ``tables``: for each axis, of its taps at its frequencies, shape (n, k).
    """
    g, m, _, *kernel_shape = blocks.shape
    parts = arrays.fourier_sums(xp.reshape(blocks, (g * m, 1, *kernel_shape)), tables, xp=xp)
    return xp.sum(xp.reshape(parts, (g, 2 * m, -1)) ** 2, axis=1)


class ScalarGram(GramPolynomial):
    """``H(theta) = ||G(theta)||**2`` of a stack of blocks with one column, evaluated without coefficients.

    Parameters
    ----------
    blocks : array, shape (g, m, 1, *kernel_shape)
        Of a wide real dtype, scaled to about 1.

    Attributes
    ----------
    error : float
        Bound of ``|computed H(theta) - H(theta)|``.
    """

    size = rank = 1

    def __init__(
        self,
        blocks: Array,
        *,
        tick: Callable[[], None] | None = None,
        ops: ArrayOps,
    ) -> None:
        self.xp = xp = ops.xp
        self.ops = ops
        self.blocks = blocks
        self.tick = tick
        q = float(xp.max(symbols.absolute_norm_up(blocks, xp=xp)))
        self.error = host.mul_up(q, q, scalar_error(blocks.shape[1], blocks.shape[3:], rounding.unit(blocks, xp=xp)))

    @property
    def dtype(self) -> Any:
        """Precision in which H is computed."""
        return self.blocks.dtype

    def float32_copy(self) -> GramPolynomial:
        """Itself: nothing is to be saved."""
        return self

    def columns_at(self, frequencies: Frequencies, block: np.ndarray) -> Array:
        """H at some frequencies, each of a block, as the complex 1 x 1 matrix it is."""
        return self.ops.complex(*self.planes_at(frequencies, block))

    def planes_at(self, frequencies: Frequencies, block: np.ndarray) -> tuple[Array, Array]:
        """H at some frequencies, each of a block, as the 1 x 1 matrix it is; and its imaginary part, 0."""
        xp = self.xp
        _, m, _, *kernel_shape = self.blocks.shape
        count = len(frequencies)
        index = self.ops.from_numpy(block.astype(np.int64), self.blocks)
        chosen = xp.take(self.blocks, index, axis=0)
        rows = m * math.prod(kernel_shape[:-1])
        real = xp.reshape(chosen, (count, rows, -1))
        imag: Array | None = None
        # The last axis is summed first; what is left of the others stands among the rows.
        for axis in reversed(range(len(kernel_shape))):
            cos, sin = (xp.reshape(table, (count, -1, 1)) for table in self._tables(frequencies, axis))
            if imag is None:
                real, imag = xp.matmul(real, cos), xp.matmul(real, sin)
            else:
                real, imag = (
                    xp.matmul(real, cos) - xp.matmul(imag, sin),
                    xp.matmul(real, sin) + xp.matmul(imag, cos),
                )
            # Now the axis that is summed next stands last.
            rows = m * math.prod(kernel_shape[: axis - 1]) if axis > 0 else m
            real = xp.reshape(real, (count, rows, -1))
            imag = xp.reshape(imag, (count, rows, -1))
        assert imag is not None
        values = xp.sum(xp.reshape(real, (count, -1)) ** 2 + xp.reshape(imag, (count, -1)) ** 2, axis=1)
        values = xp.reshape(values, (count, 1, 1))
        return values, xp.zeros_like(values)

    def _tables(self, frequencies: Frequencies, axis: int) -> tuple[Array, Array]:
        """Cosines and sines of an axis' taps at some frequencies, shape (f, k)."""
        along_axis = Frequencies(frequencies.numerators[:, [axis]], frequencies.denominators[axis : axis + 1])
        return self._axis_tables(along_axis, axis)

    def _axis_tables(self, along_axis: Frequencies, axis: int) -> tuple[Array, Array]:
        """Cosines and sines (f, k) of an axis' taps, from frequencies along that axis alone."""
        taps = np.arange(self.blocks.shape[3 + axis])[:, None]
        return symbols.cosines_and_sines(along_axis, taps, self.blocks, ops=self.ops)

    def at_centres(self, boxes: Boxes) -> CentreValues:
        """H of every block at the centres of all boxes of a cover, which lie on a grid."""
        g, m, _, *kernel_shape = self.blocks.shape
        centres = boxes.centres
        tables = []
        # Number of each centre among the points of the grid, last axis fastest.
        point = np.zeros(len(centres), dtype=np.int64)
        point_count = 1
        for axis, denominator in enumerate(centres.denominators):
            numerators = centres.numerators[:, axis] % denominator
            distinct, place = np.unique(numerators, return_inverse=True)
            tables.append(self._axis_tables(Frequencies(distinct[:, None], (denominator,)), axis))
            point = point * len(distinct) + place
            point_count *= len(distinct)
        # Boxes of single points are often the whole grid, in its order.
        is_grid = point_count == len(centres) and bool(np.all(point == np.arange(point_count)))
        at_once = blocks_at_once(m, point_count, kernel_shape, ops=self.ops)
        values = np.empty((g, len(centres)))
        for first in range(0, g, at_once):
            if first > 0 and self.tick is not None:
                self.tick()
            part = slice(first, min(first + at_once, g))
            on_grid = self.ops.to_numpy(squares_on_grid(self.blocks[part, ...], tables, xp=self.xp))
            values[part] = on_grid if is_grid else on_grid[:, point]
        return CentreValues._made(self, boxes, values)

    def limits_by_variation(self, boxes: Boxes, threshold: float, block: np.ndarray) -> np.ndarray:
        """`GramPolynomial.limits_by_variation`, from the variation of G instead of that of H."""
        blocks, row = np.unique(block, return_inverse=True)
        limits, kind = self.limits_of_kinds(boxes, threshold, blocks)
        return np.asarray(limits[row, kind])

    def limits_of_kinds(
        self, boxes: Boxes, threshold: float, blocks: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Limits by `variation`, for each block and kind of box, (g, s), and the kind of each box, (c,)."""
        variation, kind = self.variation(boxes, blocks)
        norms_at_centres = np.maximum(host.sub_down(np.full_like(variation, threshold), variation), 0.0)
        return self.eigenvalue_limit_of_norm(norms_at_centres), kind

    def variation(self, boxes: Boxes, blocks: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Bound on how far ``||G||`` moves from its value at a box's centre, rounded up: of each block and kind of box.

        With the phase of the tap k0 taken out, ``||e^{-i k0.delta} G(c + delta) - G(c)||`` is at most
        ``sum_k ||K_k|| min(2, |(k - k0).delta|)``, whatever k0: here the largest tap of each block.

        ``blocks`` (g,): numbers of the blocks. None: all of them. Returns ``bounds`` (g, s): boxes that reach equally
        far along every lattice axis are of one kind; ``kind`` (c,).
        """
        chosen = self.blocks if blocks is None else arrays.rows(self.blocks, blocks, ops=self.ops)
        g, m, _, *kernel_shape = chosen.shape
        width = boxes.high - boxes.low
        if not width.any():
            # Boxes of one point each.
            return np.zeros((g, 1)), np.zeros(len(boxes), dtype=np.int64)
        magnitudes = np.abs(self.ops.to_numpy(chosen)).astype(np.float64).reshape(g, m, -1)
        tap_norms = host.inflate(np.sqrt((magnitudes**2).sum(axis=1)), m + 2)
        _, first_of_kind, kind = np.unique(width, axis=0, return_index=True, return_inverse=True)
        # All differences d of two taps, counted from the most negative one, and the largest |d.delta| in a box of each
        # kind: by so much e^{i d.theta} changes, but by no more than 2.
        most_difference = np.asarray(kernel_shape) - 1
        difference_shape = tuple(2 * k - 1 for k in kernel_shape)
        differences = tap_points(difference_shape) - most_difference
        changes = np.minimum(2.0, boxes[first_of_kind].largest_angle(differences.astype(np.float64)))
        # For each block, the number of the difference between each tap and the largest tap.
        taps = tap_points(tuple(kernel_shape))
        largest_tap = taps[tap_norms.argmax(axis=1)]
        from_largest = taps[None, :, :] - largest_tap[:, None, :] + most_difference
        difference_number = np.ravel_multi_index(tuple(np.moveaxis(from_largest, -1, 0)), difference_shape)
        sums = [(tap_norms * changes_of_kind[difference_number]).sum(axis=1) for changes_of_kind in changes]
        return host.inflate(np.stack(sums, axis=1), math.prod(kernel_shape) + 2), kind.reshape(-1)


@dataclass(frozen=True, eq=False)
class CentreValues(Sealed):
    """Squared norms of every block at the centres of a cover's boxes, made by `ScalarGram.at_centres` alone.

    Parameters
    ----------
    values : float array, shape (g, c)
    """

    polynomial: ScalarGram
    boxes: Boxes
    values: np.ndarray

    def __post_init__(self) -> None:
        self.values.flags.writeable = False
