"""Climbing to a maximum of ``||G(theta)||``: how high a search's lower bound is, never whether it is true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays, operators
from specnorm.frequencies import Frequencies, phases, product

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend

_LATTICE = 2**40
"""Points a turn for frequencies found by ascent."""


class Ascent:
    """Local maximisation of the norm of one block.

    Parameters
    ----------
    block : array, shape (1, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1; p <= m.
    free : bool
        Whether the frequency may move (on a grid it may not).
    rtol : float
        How close to the maximum to come.
    best : float
        A norm found elsewhere: what will not get as high is given up.
    """

    def __init__(self, block: Array, *, free: bool, rtol: float, best: float, xp: Any, backend: Backend) -> None:
        self.block, self.rtol, self.best, self.xp, self.backend = block, rtol, best, xp, backend
        self.free = free and block.ndim > 3

    def run(self, start: Frequencies, vector: Array) -> tuple[Frequencies, Array]:
        """Climb by alternating power steps at a frequency with steps of the frequency, then by Newton on both.

        Parameters
        ----------
        start : Frequencies
            One point.
        vector : array, shape (1, p)
            Right vector there.

        Returns
        -------
        frequency : Frequencies
        right : array, shape (1, p)
        """
        point = start
        value, right = 0.0, vector
        for round_ in range(40):
            left, right, now = self._power(point, right, steps=3)
            if now <= value * (1 + max(0.05 * self.rtol, 1e-13)) or now < self.best * (1 - 0.05 / (1 + round_)):
                break  # it has converged, or will not get as high as another point has
            value = now
            if self.free:
                point = self._step_frequency(point, left, right)
        for _ in range(8 if self.rtol < 1e-4 else 0):
            trial, vector = self._newton(point, right)
            _, candidate, now = self._power(trial, vector, steps=1)
            if now <= value:
                break
            done, value, point, right = now <= value * (1 + 1e-3 * self.rtol), now, trial, candidate
            if done:
                break
        return point, right

    def _power(self, point: Frequencies, right: Array, steps: int) -> tuple[Array, Array, float]:
        """Power steps at one frequency: left and right vectors, and the norm from below."""
        xp = self.xp
        g = operators.matrix_at(self.block, self._phase(point), xp=xp)
        h = arrays.adjoint(g, xp=xp)
        for _ in range(steps):
            left, _ = arrays.normalise(xp.matmul(g, right[..., None])[..., 0], xp=xp)
            right, norm = arrays.normalise(xp.matmul(h, left[..., None])[..., 0], xp=xp)
        return left, right, float(norm[0, 0])

    def _newton(self, point: Frequencies, vector: Array) -> tuple[Frequencies, Array]:
        """One Newton step of lambda_max(H(theta)), by second-order perturbation of its eigenvector.

        With ``y_j = (lambda - H)^+ dH_j v``: gradient ``v* dH_j v``, Hessian ``v* d2H_ij v + 2 Re (dH_i v)* y_j``, and
        the vector moves along y. The start vector is first sharpened by inverse iteration.
        """
        xp, size = self.xp, self.block.shape[2]
        g = operators.matrix_at(self.block, self._phase(point), xp=xp)[0, ...]
        gram = xp.matmul(arrays.adjoint(g, xp=xp), g)
        eye = xp.eye(size, dtype=gram.dtype, device=self.backend.device(gram))
        v = vector[0, ...]
        for _ in range(2):
            shift = float(xp.real(xp.sum(xp.conj(v) * xp.matmul(gram, v)))) * (1 + 1e-9)
            if not shift > 1e-290:
                return point, v[None, ...]  # the symbol vanishes here: nothing to sharpen, and a singular system
            v, _ = arrays.normalise(xp.linalg.solve(shift * eye - gram, v[:, None])[:, 0], xp=xp)
        if not self.free:
            return point, v[None, ...]
        here = self.backend.to_numpy(v)
        value, slope, bend = self._derivatives(point, v)
        top = float(np.real(np.vdot(here, value)))
        rest = slope - (slope @ np.conj(here))[:, None] * here
        outer = self.backend.from_numpy(top * np.outer(here, np.conj(here)), self.block)
        moved = xp.linalg.solve(
            top * (1 + 1e-12) * eye - gram + outer, self.backend.from_numpy(rest.T.copy(), self.block)
        )
        moved = self.backend.to_numpy(moved).T
        gradient = np.real(slope @ np.conj(here))
        hessian = np.real(bend @ np.conj(here)) + 2 * np.real(np.conj(rest) @ moved.T)
        step = uphill(gradient, hessian)
        return _nearby(point.angles[0] + step), self.backend.from_numpy((here + step @ moved)[None], self.block)

    def _derivatives(self, point: Frequencies, v: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H = G* G, its gradient and its Hessian with respect to theta, applied to a vector at one frequency (host).

        Returns
        -------
        value, gradient, hessian : complex arrays, shapes (p,), (d, p), (d, d, p)
        """
        xp, (m, p), shape = self.xp, self.block.shape[1:3], self.block.shape[3:]
        flat = xp.permute_dims(xp.reshape(self.block[0, ...], (m, p, -1)), (2, 0, 1))
        cos, sin = (x[0] for x in phases(point, shape))
        points = product([np.arange(k) for k in shape]).astype(float)
        # One weight a tap for G, its first and its second derivatives.
        first = 1j * points
        orders = [
            np.ones((1, len(points))),
            first.T,
            (first[:, :, None] * first[:, None, :]).reshape(len(points), -1).T,
        ]
        weights = [w * (cos + 1j * sin) for w in orders]

        def host(matrix: Array, x: np.ndarray) -> np.ndarray:
            like = self.backend.from_numpy(np.concatenate([x.real, x.imag], axis=-1), self.block)
            out = self.backend.to_numpy(xp.matmul(matrix, like))
            return np.asarray(out[..., : x.shape[-1]] + 1j * out[..., x.shape[-1] :])

        images = host(flat, self.backend.to_numpy(v)[:, None])[:, :, 0]
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

    def _step_frequency(self, point: Frequencies, left: Array, right: Array) -> Frequencies:
        """Maximise ``|u* G(theta) v|**2``, a trigonometric polynomial with one coefficient a tap, from a point."""
        xp, shape = self.xp, self.block.shape
        flat = xp.reshape(self.block[0, ...], (shape[1], -1))
        rows = xp.reshape(
            operators.real_times(xp.matrix_transpose(flat), xp.conj(left[0, :, None]), xp=xp), (shape[2], -1)
        )
        weights = self.backend.to_numpy(xp.sum(rows * right[0, :, None], axis=0))
        return _nearby(climb(weights, tuple(shape[3:]), point.angles[0]))

    def _phase(self, point: Frequencies) -> Array:
        return operators.Symbol(self.block, point, xp=self.xp, backend=self.backend).phase


def uphill(gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Newton step towards a maximum: along directions of positive curvature uphill too; at most one radian."""
    values, basis = np.linalg.eigh(hessian)
    scale = np.maximum(np.abs(values), 1e-12 * float(np.abs(values).max(initial=0.0)) + 1e-300)
    step: np.ndarray = basis @ ((basis.T @ gradient) / scale)
    return step / max(1.0, float(np.abs(step).max(initial=0.0)))


def _nearby(theta: np.ndarray) -> Frequencies:
    """Nearest lattice point to angles in radians."""
    points = np.round(theta / (2 * math.pi) * _LATTICE).astype(np.int64) % _LATTICE
    return Frequencies(points[None], (_LATTICE,) * len(theta))


def climb(weights: np.ndarray, shape: tuple[int, ...], theta: np.ndarray) -> np.ndarray:
    """A few safeguarded Newton steps on ``|sum_k w_k e^{i k.theta}|**2`` (host, tiny).

    Parameters
    ----------
    weights : complex array, shape (taps,)
    shape : tuple of int
        Taps per axis.
    theta : float array, shape (d,)

    Returns
    -------
    float array, shape (d,)
        No lower than at the start.
    """
    taps = product([np.arange(k) for k in shape]).astype(float)
    terms = weights * np.exp(1j * (taps @ theta))
    total = terms.sum()
    for _ in range(3):
        best = abs(total) ** 2
        slopes = taps.T * terms
        first = 1j * slopes.sum(axis=1)
        gradient = 2 * np.real(np.conj(total) * first)
        hessian = 2 * np.real(np.outer(np.conj(first), first) - np.conj(total) * (slopes @ taps))
        step = uphill(gradient, hessian)
        for _ in range(8):
            there = weights * np.exp(1j * (taps @ (theta + step)))
            trial = there.sum()
            if abs(trial) ** 2 > best:
                break
            step = step / 4
        else:
            break
        theta, terms, total = theta + step, there, trial
        if abs(total) ** 2 <= best * (1 + 1e-6):
            break
    return theta
