"""Local ascent to a maximum of ``||G(theta)||``: how high the incumbent is, never whether it is true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.numerics.angles import newton_step
from specnorm.numerics.power import contraction, matrix_maps
from specnorm.problem.frequencies import Frequencies, tap_points

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.clock import Clock
    from specnorm.search.tuning import Tuning
    from specnorm.types import ArrayOps

_LATTICE = 2**40
"""Points a turn for frequencies found by ascent."""


class Ascent:
    """Local maximisation of the norm of one block, from several starts at once.

    Parameters
    ----------
    block : array, shape (1, m, p, *kernel_shape)
        Scaled to about 1; p <= m. What is computed with, in float32 perhaps.
    free : bool
        Whether the frequency may move (on a grid it may not).
    rtol : float
        How close to the maximum to come.
    best : float
        A norm found elsewhere: what will not get as high is given up.
    clock : Clock
        Ends the ascent where it is.
    """

    def __init__(
        self, block: Array, tuning: Tuning, *, free: bool, rtol: float, best: float, clock: Clock, ops: ArrayOps
    ) -> None:
        self.clock = clock
        self.block, self.tuning, self.ops, self.xp = block, tuning, ops, ops.xp
        self.rtol, self.best = rtol, best
        self.free = free and block.ndim > 3
        self.taps = tap_points(tuple(block.shape[3:])).astype(float)
        self._host = ops.backend.host().namespace(self.taps)
        self._columns = ops.xp.matrix_transpose(ops.xp.reshape(block, (math.prod(block.shape[1:3]), -1)))

    def run(self, starts: Frequencies, vectors: Array) -> tuple[Frequencies, Array]:
        """Ascend by alternating power steps at a frequency with steps of the frequency.

        Parameters
        ----------
        starts : Frequencies
            s points.
        vectors : array, shape (s, p)
            Right vectors there.

        Returns
        -------
        frequency : Frequencies
            One point: the highest that was seen.
        right : array, shape (1, p)
        """
        theta, index = starts.angles, np.arange(len(starts))
        values = gains = np.zeros(len(starts))
        move = np.zeros_like(theta)
        right = self.xp.astype(vectors, arrays.complex_dtype(self.block.dtype, xp=self.xp), copy=False)
        point, top, value = starts[:1], right[:1, :], -1.0
        for round_ in range(self.tuning.rounds):
            left, right, now = self._power(np.exp(1j * (theta @ self.taps.T)), right, steps=3)
            highest = int(np.argmax(now))
            if now[highest] > value:
                value, top = float(now[highest]), right[highest : highest + 1, :]
                moved = round_ and self.free
                point = nearby(theta[highest : highest + 1]) if moved else starts[index[highest : highest + 1]]
            gain = now - values
            going = self._promising(now, gain, gains, round_, max(self.best, value))
            if not len(going) or self.clock.expired:
                break
            if len(going) < len(index):
                left, right = (arrays.rows(x, going, ops=self.ops) for x in (left, right))
                theta, index, now, gain = theta[going], index[going], now[going], gain[going]
            values, gains = now, gain
            if self.free:
                higher = theta + self._newton_step(self._weights(left, right), theta)
                move, last = higher - theta, move[going]
                # Alternation converges geometrically: every other time on to where the last two moves point.
                ratio = contraction(move, last, largest=self.tuning.slowest) if round_ % 2 else np.zeros(len(move))
                theta = higher + (ratio / (1 - ratio))[:, None] * move
        return point, top

    def _promising(
        self, now: np.ndarray, gain: np.ndarray, gains: np.ndarray, round_: int, highest: float
    ) -> np.ndarray:
        """Which starts may still get higher than the highest norm known, going by their last two gains."""
        # Gains shrink geometrically: some have converged, or will not get higher than another point has.
        ahead = self.tuning.promise * gain**2 / np.maximum(gains - gain, 1e-3 * np.abs(gain) + 1e-300)
        hope = now + ahead if round_ > 1 else now * (1 + self.tuning.first_hope / (1 + round_))
        # A norm is off by the square of what its frequency is, its gradient by that: exact ones go on to the end.
        loose = 0.05 * self.rtol if self.rtol >= self.tuning.tight else 0.0
        least = highest * (1 + max(loose, 10 * self.tuning.progress))
        return ((gain > 0) & (hope > least)).nonzero()[0]

    def _power(self, phases: np.ndarray, right: Array, steps: int) -> tuple[Array, Array, np.ndarray]:
        xp, (m, p) = self.xp, self.block.shape[1:3]
        # A symbol, its two parts and its adjoint: six real matrices a start.
        size, count = 6 * m * p * (8 if self.block.dtype == xp.float64 else 4), phases.shape[0]
        if count > 1 and count * size > self.ops.memory:
            step = max(1, self.ops.memory // size)
            starts = [slice(at, at + step) for at in range(0, count, step)]
            lefts, rights, norms = zip(*(self._power(phases[s], right[s, ...], steps) for s in starts), strict=True)
            return xp.concat(lefts), xp.concat(rights), np.concatenate(norms)
        weights = self.ops.from_numpy(
            phases.astype(np.complex128 if self.block.dtype == xp.float64 else np.complex64), self.block
        )
        real, imag = xp.matmul(xp.real(weights), self._columns), xp.matmul(xp.imag(weights), self._columns)
        g = xp.reshape(self.ops.complex(real, imag), (-1, m, p))
        apply, adjoint = matrix_maps(g, xp=xp)
        for _ in range(steps - 1):
            right = adjoint(apply(right))
        left, _ = arrays.unit(apply(arrays.unit(right, xp=xp)[0]), xp=xp)
        right, norm = arrays.unit(adjoint(left), xp=xp)
        return left, right, self.ops.to_numpy(norm).astype(float)

    def _newton_step(self, weights: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """What to add to the angles (s, d), on the host."""
        terms: Any = weights * np.exp(1j * (theta @ self.taps.T))
        taps: Any = self.taps
        return np.asarray(newton_step(terms, taps, regular=self.tuning.regular, xp=self._host))

    def _weights(self, left: Array, right: Array) -> np.ndarray:
        """``u* K_k v`` for every tap, shape (s, taps): ``u* G(theta) v`` is a polynomial with these coefficients."""
        xp, (m, p) = self.xp, self.block.shape[1:3]
        flat = xp.reshape(self.block, (m, -1))
        rows = xp.reshape(xp.matmul(xp.real(left), flat) - 1j * xp.matmul(xp.imag(left), flat), (left.shape[0], p, -1))
        return np.asarray(self.ops.to_numpy(xp.matmul(right[:, None, :], rows)[:, 0, :]))


def nearby(theta: np.ndarray) -> Frequencies:
    """Nearest lattice points to angles in radians, shape (f, d)."""
    points = np.round(theta / (2 * math.pi) * _LATTICE).astype(np.int64) % _LATTICE
    return Frequencies(points, (_LATTICE,) * theta.shape[1])
