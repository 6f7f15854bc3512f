"""Symbols of one column: a depthwise layer's, whose norm at a frequency is a sum of squares instead of an eigenvalue.

They are evaluated as they are, axis by axis: a frequency costs its phases along each axis and one pass over the taps,
and all points of a grid, of many blocks, are one product of matrices an axis. No Gram polynomial is formed, which has
half as many coefficients as there are pairs of taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified import host, rounding
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.gram_polynomial import GramPolynomial
from specnorm.problem.frequencies import Frequencies, phases_at, tap_points

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.symbol.cells import Boxes
    from specnorm.types import ArrayOps

_MAKER = object()
_TOGETHER = 32 * 2**20
"""Bytes of a grid's values that are computed at once, where the host computes: about a cache."""


def scalar_error(m: int, kernel_shape: Sequence[int], u: float) -> float:
    """Bound on ``|computed H(theta) - H(theta)| / q**2`` of `ScalarGram`, with ``q >= || sum_k |K_k| ||``.

    An axis of k taps multiplies complex numbers by phases, which are off by ``sqrt(2) eps_c``, and adds them: a real
    and an imaginary part are sums of 2 k products. The result is off by at most ``sqrt(2) (gamma(2 k + 2) + eps_c)`` of
    the sum of the moduli. So G is off by ``delta q``, delta the sum over the axes, and H, a sum of 2 m squares, by
    ``(gamma(2 m + 2) + 2 delta + delta**2) q**2``.

    Parameters
    ----------
    m : int
        Rows of the column.
    kernel_shape : sequence of int
    u : float
        Unit roundoff of the precision they happen in.
    """
    lost = [rounding.gamma(2 * k + 2, u) + symbols.phase_error(u) for k in kernel_shape]
    delta = rounding.SLACK * math.sqrt(2) * sum(lost)
    return rounding.SLACK * (rounding.gamma(2 * m + 2, u) + 2 * delta + delta**2)


class ScalarGram(GramPolynomial):
    """``H(theta) = ||G(theta)||**2`` of a stack of blocks with one column, evaluated without its coefficients.

    Parameters
    ----------
    blocks : array, shape (g, m, 1, *kernel_shape)
        Of a wide real dtype, scaled to about 1.

    Attributes
    ----------
    error : float
        Bound of ``|computed H(theta) - H(theta)|``.
    """

    def __init__(self, blocks: Array, *, tick: Callable[[], None] | None = None, ops: ArrayOps) -> None:
        self.xp, self.ops, self.blocks, self.rotation, self.tick = ops.xp, ops, blocks, None, tick
        self.size, self.rank, self.truncation, self._shrink, self._lost = 1, 1, 0.0, 1.0, 0.0
        self.is_float32, self._float32_copy = False, None
        # There are no coefficients; what asks for their number and precision is answered by the taps'.
        g, m, _, *shape = blocks.shape
        self.lags = np.asarray(tap_points(tuple(shape)))
        self.even = self.odd = ops.xp.reshape(blocks, (g, -1, 1))
        self.norms = np.full(len(self.lags) - 1, math.inf)
        q = float(ops.xp.max(symbols.absolute_norm_up(blocks, xp=ops.xp)))
        self.error = host.mul_up(q, q, scalar_error(m, shape, rounding.unit(blocks, xp=ops.xp)))

    def float32_copy(self) -> GramPolynomial:
        """Itself: nothing is to be saved."""
        return self

    def planes_at(self, frequencies: Frequencies, block: np.ndarray) -> tuple[Array, Array]:
        """H at some frequencies, each of a block, as the 1 x 1 matrix it is; and its imaginary part, 0."""
        xp, (_, m, _, *shape), count = self.xp, self.blocks.shape, len(frequencies)
        index = self.ops.from_numpy(block.astype(np.int64), self.blocks)
        real = xp.reshape(xp.take(self.blocks, index, axis=0), (count, m * math.prod(shape[:-1]), -1))
        imag: Array | None = None
        for axis in reversed(range(len(shape))):
            cos, sin = (xp.reshape(table, (count, -1, 1)) for table in self._tables(frequencies, axis))
            if imag is None:
                real, imag = xp.matmul(real, cos), xp.matmul(real, sin)
            else:
                real, imag = xp.matmul(real, cos) - xp.matmul(imag, sin), xp.matmul(real, sin) + xp.matmul(imag, cos)
            rows = m * math.prod(shape[: axis - 1]) if axis else m
            real, imag = (xp.reshape(x, (count, rows, -1)) for x in (real, imag))
        assert imag is not None
        found = xp.sum(xp.reshape(real, (count, -1)) ** 2 + xp.reshape(imag, (count, -1)) ** 2, axis=1)
        found = xp.reshape(found, (count, 1, 1))
        return found, xp.zeros_like(found)

    def _tables(self, frequencies: Frequencies, axis: int) -> tuple[Array, Array]:
        """Cosines and sines of an axis' taps at some frequencies, shape (f, k)."""
        k = self.blocks.shape[3 + axis]
        alone = Frequencies(frequencies.numerators[:, [axis]], frequencies.denominators[axis : axis + 1])
        cos, sin = phases_at(alone, np.arange(k)[:, None])
        real = np.float64 if self.blocks.dtype == self.xp.float64 else np.float32
        return self.ops.from_numpy(cos.astype(real), self.blocks), self.ops.from_numpy(sin.astype(real), self.blocks)

    def at_centres(self, boxes: Boxes) -> CentreValues:
        """H of every block at the centres of all boxes of a cover, which lie on a grid."""
        (g, m, _, *shape), centres = self.blocks.shape, boxes.centres
        lines, place, points = [], np.zeros(len(centres), dtype=np.int64), 1
        for axis, turn in enumerate(centres.denominators):
            distinct, inverse = np.unique(centres.numerators[:, axis] % turn, return_inverse=True)
            lines.append(Frequencies(distinct[:, None], (turn,)))
            place, points = place * len(distinct) + inverse, points * len(distinct)
        tables = [
            self._tables(Frequencies(np.repeat(line.numerators, len(shape), axis=1), line.denominators * len(shape)), j)
            for j, line in enumerate(lines)
        ]
        each = 6 * 8 * m * max(points, math.prod(shape))
        step = max(1, (min(_TOGETHER, self.ops.memory) if self.ops.on_host else self.ops.memory) // each)
        found = np.empty((g, len(centres)))
        for first in range(0, g, step):
            if first and self.tick is not None:
                self.tick()
            some = slice(first, min(first + step, g))
            found[some] = self.ops.to_numpy(self._on_grid(self.blocks[some, ...], tables))[:, place]
        return CentreValues(self, boxes, found, _MAKER)

    def _on_grid(self, blocks: Array, tables: list[tuple[Array, Array]]) -> Array:
        """H on the product of lines of frequencies, shape (g, points)."""
        xp, (g, m, _, *shape) = self.xp, blocks.shape
        real = xp.reshape(blocks, (g, m, *shape, 1))
        imag: Array | None = None
        for axis in reversed(range(len(shape))):
            cos, sin = tables[axis]
            if imag is None:
                real, imag = xp.matmul(cos, real), xp.matmul(sin, real)
            else:
                real, imag = xp.matmul(cos, real) - xp.matmul(sin, imag), xp.matmul(sin, real) + xp.matmul(cos, imag)
            real, imag = (xp.reshape(x, (g, m, *shape[:axis], -1)) for x in (real, imag))
        assert imag is not None
        return xp.sum(real**2 + imag**2, axis=1)

    def variation(self, boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
        """Bound on how far ``||G||`` moves from its value at a box's centre, rounded up: of each block and kind of box.

        With the phase of the tap k0 taken out, ``||e^{-i k0.delta} G(c + delta) - G(c)||`` is at most
        ``sum_k ||K_k|| min(2, |(k - k0).delta|)``, whatever k0: the largest tap of each block.

        Returns
        -------
        bounds : float array, shape (g, s)
            Boxes that reach equally far are of one kind.
        which : integer array, shape (c,)
        """
        g, m, _, *shape = self.blocks.shape
        taps = np.abs(self.ops.to_numpy(self.blocks)).astype(np.float64).reshape(g, m, -1)
        weights = host.inflate(np.sqrt((taps**2).sum(axis=1)), m + 2)
        # Boxes that reach equally far along every lattice axis are the same but for their place.
        width = boxes.high - boxes.low
        _, first, which = np.unique(width, axis=0, return_index=True, return_inverse=True)
        lags, sides = tap_points(tuple(2 * k - 1 for k in shape)) - (np.asarray(shape) - 1), [2 * k - 1 for k in shape]
        moved = np.minimum(2.0, boxes[first].largest_phase(lags.astype(np.float64)))
        points = tap_points(tuple(shape))
        apart = points[None, :, :] - points[weights.argmax(axis=1)][:, None, :] + (np.asarray(shape) - 1)
        place = np.ravel_multi_index(tuple(np.moveaxis(apart, -1, 0)), sides)
        sums = [(weights * one[place]).sum(axis=1) for one in moved]
        return host.inflate(np.stack(sums, axis=1), math.prod(shape) + 2), which.reshape(-1)


@dataclass(frozen=True, eq=False)
class CentreValues:
    """Squared norms of every block at the centres of a cover's boxes, made by `ScalarGram.at_centres` alone.

    Parameters
    ----------
    values : float array, shape (g, c)
    """

    polynomial: ScalarGram
    boxes: Boxes
    values: np.ndarray
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("CentreValues: values that prove something are computed of a polynomial's own blocks")
        self.values.flags.writeable = False
