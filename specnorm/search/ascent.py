"""Local ascent to a maximum of ``||G(theta)||``: how high the incumbent is, never whether it is true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import symbols
from specnorm.numerics.power import contraction, extrapolated, geometric_tail, matrix_maps, power_step
from specnorm.problem.frequencies import Frequencies, phases, tap_points

if TYPE_CHECKING:
    from specnorm.clock import Clock
    from specnorm.search.tuning import Tuning
    from specnorm.types import Array, ArrayOps

_LATTICE = 2**40
"""Points a turn for frequencies found by ascent."""


class Ascent:
    """Local maximisation of the norm of one block, from several starts at once.

    Parameters
    ----------
    block : array, shape (1, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1; p <= m.
    trial_block : array, shape (1, m, p, *kernel_shape)
        The same, perhaps in float32: all but the Newton steps is done with it.
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
        self,
        block: Array,
        trial_block: Array,
        tuning: Tuning,
        *,
        free: bool,
        rtol: float,
        best: float,
        clock: Clock,
        ops: ArrayOps,
    ) -> None:
        self.clock = clock
        self.block, self.trial_block, self.tuning, self.ops, self.xp = block, trial_block, tuning, ops, ops.xp
        self.rtol, self.best = rtol, best
        self.free = free and block.ndim > 3
        self.taps = tap_points(tuple(block.shape[3:])).astype(float)
        self.pairs = (self.taps[:, :, None] * self.taps[:, None, :]).reshape(len(self.taps), -1)
        self._columns = ops.xp.matrix_transpose(ops.xp.reshape(trial_block, (math.prod(block.shape[1:3]), -1)))

    def run(self, starts: Frequencies, vectors: Array) -> tuple[Frequencies, Array]:
        """Ascend by alternating power steps at a frequency with steps of the frequency, then by Newton on both.

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
        point, right, value = self._alternate(starts, vectors)
        right = self.xp.astype(right, arrays.complex_dtype(self.block.dtype, xp=self.xp), copy=False)
        for _ in range(self.tuning.newton if self.rtol < self.tuning.tight else 0):
            if self.clock.expired:
                break
            trial, vector = self._newton(point, right)
            _, candidate, norms = self._power(self.ops.to_numpy(self._phase(trial)), vector, steps=1)
            now = float(norms[0])
            if now <= value:
                break
            done, value, point, right = now <= value * (1 + 1e-3 * self.rtol), now, trial, candidate
            if done:
                break
        return point, right

    def _alternate(self, starts: Frequencies, vectors: Array) -> tuple[Frequencies, Array, float]:
        """Power steps in turn with steps of the frequency: the highest point seen, its right vector and its norm."""
        theta, index = starts.angles, np.arange(len(starts))
        values = gains = np.zeros(len(starts))
        move = np.zeros_like(theta)
        right = self.xp.astype(vectors, arrays.complex_dtype(self.trial_block.dtype, xp=self.xp), copy=False)
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
                higher = newton_step(self._weights(left, right), self.taps, self.pairs, theta, self.tuning.regular)
                move, last = higher - theta, move[going]
                # Alternation converges geometrically: every other time on to where the last two moves point.
                ratio = contraction(move, last, largest=self.tuning.slowest) if round_ % 2 else np.zeros(len(move))
                theta = extrapolated(higher, theta, geometric_tail(ratio)[:, None])
        return point, top, value

    def _promising(
        self, now: np.ndarray, gain: np.ndarray, gains: np.ndarray, round_: int, highest: float
    ) -> np.ndarray:
        """Which starts may still get higher than the highest norm known, going by their last two gains."""
        # Gains shrink geometrically: some have converged, or will not get higher than another point has.
        ahead = self.tuning.promise * gain**2 / np.maximum(gains - gain, 1e-3 * np.abs(gain) + 1e-300)
        hope = now + ahead if round_ > 1 else now * (1 + self.tuning.first_hope / (1 + round_))
        least = highest * (1 + max(0.05 * self.rtol, 10 * self.tuning.progress))
        return ((gain > 0) & (hope > least)).nonzero()[0]

    def _power(self, phases: np.ndarray, right: Array, steps: int) -> tuple[Array, Array, np.ndarray]:
        """Power steps at some frequencies: left and right vectors, and the norms from below."""
        xp, (m, p) = self.xp, self.trial_block.shape[1:3]
        # A symbol, its two parts and its adjoint: six real matrices a start.
        size, count = 6 * m * p * (8 if self.trial_block.dtype == xp.float64 else 4), phases.shape[0]
        if count > 1 and count * size > self.ops.memory:
            step = max(1, self.ops.memory // size)
            starts = [slice(at, at + step) for at in range(0, count, step)]
            lefts, rights, norms = zip(*(self._power(phases[s], right[s, ...], steps) for s in starts), strict=True)
            return xp.concat(lefts), xp.concat(rights), np.concatenate(norms)
        weights = self.ops.from_numpy(
            phases.astype(np.complex128 if self.trial_block.dtype == xp.float64 else np.complex64), self.trial_block
        )
        real, imag = xp.matmul(xp.real(weights), self._columns), xp.matmul(xp.imag(weights), self._columns)
        g = xp.reshape(self.ops.complex(real, imag), (-1, m, p))
        apply, adjoint = matrix_maps(g, xp=xp)
        for _ in range(steps - 1):
            right = adjoint(apply(right))
        right, _ = arrays.unit(right, xp=xp)
        left, right, norm = power_step(apply, adjoint, right, xp=xp)
        return left, right, self.ops.to_numpy(norm).astype(float)

    def _newton(self, point: Frequencies, vector: Array) -> tuple[Frequencies, Array]:
        """One Newton step of lambda_max(H(theta)), by second-order perturbation of its eigenvector.

        With ``y_j = (lambda - H)^+ dH_j v``: gradient ``v* dH_j v``, Hessian ``v* d2H_ij v + 2 Re (dH_i v)* y_j``, and
        the vector moves along y. The start vector is first sharpened by inverse iteration.
        """
        xp, size = self.xp, self.block.shape[2]
        g = symbols.matrix_at(self.block, self._phase(point), xp=xp)[0, ...]
        gram = xp.matmul(arrays.adjoint(g, xp=xp), g)
        eye = xp.eye(size, dtype=gram.dtype, device=self.ops.device(gram))
        v = vector[0, ...]
        for _ in range(2):
            shift = float(xp.real(xp.sum(xp.conj(v) * xp.matmul(gram, v)))) * (1 + self.tuning.shift)
            if not shift > 1e-290:
                return point, v[None, ...]  # the symbol vanishes here: nothing to sharpen, and a singular system
            v, _ = arrays.normalise(xp.linalg.solve(shift * eye - gram, v[:, None])[:, 0], xp=xp)
        if not self.free:
            return point, v[None, ...]
        here = self.ops.to_numpy(v)
        value, slope, bend = self._derivatives(point, v)
        top = float(np.real(np.vdot(here, value)))
        rest = slope - (slope @ np.conj(here))[:, None] * here
        outer = self.ops.from_numpy(top * np.outer(here, np.conj(here)), self.block)
        solved = xp.linalg.solve(
            top * (1 + self.tuning.regular) * eye - gram + outer, self.ops.from_numpy(rest.T.copy(), self.block)
        )
        moved = self.ops.to_numpy(solved).T
        gradient = np.real(slope @ np.conj(here))
        hessian = np.real(bend @ np.conj(here)) + 2 * np.real(np.conj(rest) @ moved.T)
        step = uphill(gradient, hessian, self.tuning.regular)
        return nearby(point.angles + step), self.ops.from_numpy((here + step @ moved)[None], self.block)

    def _derivatives(self, point: Frequencies, v: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H = G* G, its gradient and its Hessian with respect to theta, applied to a vector at one frequency (host).

        Returns
        -------
        value, gradient, hessian : complex arrays, shapes (p,), (d, p), (d, d, p)
        """
        xp, (m, p), shape = self.xp, self.block.shape[1:3], self.block.shape[3:]
        flat = xp.permute_dims(xp.reshape(self.block[0, ...], (m, p, -1)), (2, 0, 1))
        cos, sin = (x[0] for x in phases(point, shape))
        points = tap_points(tuple(shape)).astype(float)
        # One weight a tap for G, its first and its second derivatives.
        first = 1j * points
        orders = [
            np.ones((1, len(points))),
            first.T,
            (first[:, :, None] * first[:, None, :]).reshape(len(points), -1).T,
        ]
        weights = [w * (cos + 1j * sin) for w in orders]

        def host(matrix: Array, x: np.ndarray) -> np.ndarray:
            like = self.ops.from_numpy(np.concatenate([x.real, x.imag], axis=-1), self.block)
            out = self.ops.to_numpy(xp.matmul(matrix, like))
            return np.asarray(out[..., : x.shape[-1]] + 1j * out[..., x.shape[-1] :])

        images = host(flat, self.ops.to_numpy(v)[:, None])[:, :, 0]
        g = [w @ images for w in weights]
        d = len(shape)
        columns = np.concatenate(g).T
        # back[k, :, c] = K_k^T column c
        back = host(xp.matrix_transpose(flat), columns)

        def adjoint(order: int, column: int) -> np.ndarray:
            return np.asarray(np.einsum("ok,kp->op", np.conj(weights[order]), back[:, :, column]))

        value = adjoint(0, 0)[0]
        gradient = np.stack([adjoint(1, 0)[j] + adjoint(0, 1 + j)[0] for j in range(d)])
        hessian = np.stack(
            [
                np.stack(
                    [
                        adjoint(2, 0)[i * d + j]
                        + adjoint(1, 1 + j)[i]
                        + adjoint(1, 1 + i)[j]
                        + adjoint(0, 1 + d + i * d + j)[0]
                        for j in range(d)
                    ]
                )
                for i in range(d)
            ]
        )
        return value, gradient, hessian

    def _weights(self, left: Array, right: Array) -> np.ndarray:
        """``u* K_k v`` for every tap, shape (s, taps): ``u* G(theta) v`` is a polynomial with these coefficients."""
        xp, (m, p) = self.xp, self.trial_block.shape[1:3]
        flat = xp.reshape(self.trial_block, (m, -1))
        rows = xp.reshape(xp.matmul(xp.real(left), flat) - 1j * xp.matmul(xp.imag(left), flat), (left.shape[0], p, -1))
        return np.asarray(self.ops.to_numpy(xp.matmul(right[:, None, :], rows)[:, 0, :]))

    def _phase(self, point: Frequencies) -> Array:
        return symbols.Symbol(self.block, point, ops=self.ops).phase


def uphill(gradient: np.ndarray, hessian: np.ndarray, regular: float) -> np.ndarray:
    """Newton steps towards a maximum: along directions of positive curvature uphill too; at most one radian."""
    values, basis = np.linalg.eigh(hessian)
    scale = np.abs(values)
    scale = np.maximum(scale, regular * scale.max(axis=-1, initial=0.0, keepdims=True) + 1e-300)
    along = (gradient[..., None, :] @ basis)[..., 0, :] / scale
    step = (basis @ along[..., None])[..., 0]
    return np.asarray(step / np.maximum(1.0, np.abs(step).max(axis=-1, initial=0.0, keepdims=True)))


def nearby(theta: np.ndarray) -> Frequencies:
    """Nearest lattice points to angles in radians, shape (f, d)."""
    points = np.round(theta / (2 * math.pi) * _LATTICE).astype(np.int64) % _LATTICE
    return Frequencies(points, (_LATTICE,) * theta.shape[1])


def newton_step(
    weights: np.ndarray, taps: np.ndarray, pairs: np.ndarray, theta: np.ndarray, regular: float
) -> np.ndarray:
    """A safeguarded Newton step on each of some ``|sum_k w_k e^{i k.theta}|**2`` (host, tiny).

    Parameters
    ----------
    weights : complex array, shape (s, n)
    taps : float array, shape (n, d)
        The k.
    pairs : float array, shape (n, d * d)
        Products of their coordinates.
    theta : float array, shape (s, d)

    Returns
    -------
    float array, shape (s, d)
        No lower than at the start.
    """
    terms = weights * np.exp(1j * (theta @ taps.T))
    total = terms.sum(axis=1, keepdims=True)
    here = np.abs(total[:, 0])
    first = 1j * (terms @ taps)
    gradient = 2 * np.real(np.conj(total) * first)
    bend = (np.conj(total) * (terms @ pairs)).reshape(*first.shape, first.shape[1])
    step = uphill(gradient, 2 * np.real(np.conj(first)[:, :, None] * first[:, None, :] - bend), regular)
    for _ in range(8):
        there = np.abs((weights * np.exp(1j * ((theta + step) @ taps.T))).sum(axis=1))
        lower = ~(there > here)
        if not lower.any():
            break
        step[lower] /= 4
    step[lower] = 0.0
    return np.asarray(theta + step)
