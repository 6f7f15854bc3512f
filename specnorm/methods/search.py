"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A cell is a box of frequencies around a centre c, with phi its reach (`cells.Boxes`). Cells are ruled out by proof, not
by sampling: a Cholesky factorisation shows ``||G(c)|| <= tau``, and a lemma carries that to the whole cell.

* Cell lemma (Bernstein, Szego): around a maximiser of the whole torus ``||G|| >= sigma* cos(phi)``. So if every cell of
  a cover has ``||G(c)|| <= mu cos(phi)``, then ``sigma* <= mu``.
* On a grid, where the best point is no maximum of the torus, with a proven ``S >= sigma*``: nothing in the cell exceeds
  mu if ``||G(c)|| <= mu cos(phi) - sqrt(S**2 - mu**2) sin(phi)`` and ``arccos(mu/S) + phi <= pi/2``.
* Variation: nothing in the cell exceeds mu if ``||G(c)||**2 <= mu**2 - V`` with V the most that G*G varies in it
  (`autocorrelation.Autocorrelation.variation`): nearly flat symbols, as of orthogonal layers, need few cells.

Cells that cannot be ruled out are halved; a centre above the lower bound raises it. The value of the search is its
proof: where the budget ends it, nothing is claimed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays, operators, rounding
from specnorm.autocorrelation import Autocorrelation
from specnorm.cells import Boxes
from specnorm.frequencies import Frequencies, product

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend

_DOUBTFUL = 4
"""How many cells a round gives an exact eigenpair: power steps stall where singular values nearly coincide."""
_LATTICE = 2**40
"""Points a turn for frequencies found by ascent."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a search proved about one block, in the block's scale.

    Parameters
    ----------
    lower : float
        Proven: the norm at ``frequency``, rounded down.
    upper : float
        Proven: nothing in the cover exceeds it; infinity where the budget ended first.
    frequency : Frequencies
        One point.
    cells, levels : int
        Factorisations plus splits, and rounds.
    """

    lower: float
    upper: float
    frequency: Frequencies
    cells: int
    levels: int


class Search:
    """Branch and bound for one block.

    Parameters
    ----------
    block : array, shape (1, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1, not zero.
    seed : int
        Of the start vectors.
    """

    def __init__(self, block: Array, *, seed: int = 0, xp: Any, backend: Backend) -> None:
        self.block, self.seed, self.xp, self.backend = block, seed, xp, backend
        self.gram = Autocorrelation(block[0, ...], xp=xp, backend=backend)
        self.swapped = block.shape[1] < block.shape[2]
        self.gram_error = float(rounding.autocorrelation_error(block, self.gram.terms, xp=xp)[0]) * (1 + 1e-12)
        self.symbol_error = float(rounding.symbol_error(block, xp=xp)[0]) * (1 + 1e-12)

    def run(
        self,
        boxes: Boxes,
        *,
        rtol: float = 0.0,
        bound: float | None = None,
        supremum: float | None = None,
        start: Found | None = None,
        max_cells: int,
        max_levels: int | None = None,
    ) -> Found:
        """Enclose the largest norm over the boxes.

        Parameters
        ----------
        boxes : Boxes
        rtol : float
            Prove ``upper = lower * (1 + rtol)``.
        bound : float, optional
            Prove this bound instead, or find a norm above it.
        supremum : float, optional
            Proven bound of the whole torus, for boxes of grid points.
        start : Found, optional
            An earlier search of this block, for its lower bound and frequency.
        max_cells, max_levels : int
            Budget.

        Returns
        -------
        Found
        """
        if boxes.closed and supremum is None:
            raise ValueError("grid points are ruled out by a proven supremum of the torus: none was given")
        self.free = not boxes.closed
        lower, where = (start.lower, start.frequency) if start is not None else (0.0, boxes.centres[:1])
        vectors = self._start_vectors(len(boxes))
        seen, level = 0, 0
        while len(boxes):
            if seen + len(boxes) > max_cells or level == max_levels:
                return Found(lower, math.inf, where, seen, level)
            seen, level, entry = seen + len(boxes), level + 1, lower
            failed: list[np.ndarray] = []
            next_vectors: list[Array] = []
            estimates: list[np.ndarray] = []
            for first in range(0, len(boxes), self.chunk):
                part = slice(first, min(first + self.chunk, len(boxes)))
                gram = self.gram.matrices(boxes[part].centres)
                norms, vectors_here = self._estimate(gram, vectors[part, ...], steps=6 if level == 1 else 2)
                best = int(np.argmax(norms))
                # Without a bound the search is as good as its lower end; with one, only a refutation matters.
                if norms[best] > (lower if bound is None else bound):
                    lower, where = self._raise(
                        boxes[part].centres[best : best + 1],
                        vectors_here[best : best + 1, :],
                        lower,
                        where,
                        free=self.free,
                        rtol=rtol,
                    )
                if bound is not None and lower > bound:
                    return Found(lower, math.inf, where, seen, level)
                target = lower * (1 + 0.999 * rtol) if bound is None else bound
                passed, doubtful = self._rule_out(gram, boxes[part], norms, target, supremum)
                if len(doubtful):
                    lower, where = self._settle(boxes[part][doubtful].centres, lower, where, rtol=rtol)
                failed.append(np.flatnonzero(~passed) + first)
                next_vectors.append(self._take(vectors_here, np.flatnonzero(~passed)))
                estimates.append(norms[~passed])
            boxes = boxes[np.concatenate(failed)]
            vectors = self.xp.concat(next_vectors, axis=0)
            points = np.flatnonzero(~boxes.divisible)
            if len(points):
                # A single frequency neither passes nor is seen above: its estimate has not converged. Settle it.
                lower, where = self._settle(boxes[points].centres, lower, where, rtol=rtol)
                if lower <= entry * (1 + 1e-14):
                    return Found(lower, math.inf, where, seen, level)
            boxes, parent = _shrink(boxes, np.concatenate(estimates), target)
            vectors = self._take(vectors, parent) if len(boxes) else vectors
        target = lower * (1 + 0.999 * rtol) if bound is None else bound
        return Found(lower, target, where, seen, level)

    @property
    def chunk(self) -> int:
        """Cells at once within the memory budget: about five complex matrices each, and twelve numbers a lag."""
        return int(max(1, 256 * 2**20 // (5 * 16 * self.gram.size**2 + 12 * 8 * len(self.gram.lags))))

    def _start_vectors(self, count: int) -> Array:
        start = arrays.random_vectors(self.seed, (1, self.gram.size))
        vectors = np.broadcast_to(start, (count, self.gram.size)).astype(np.complex128)
        return self.backend.from_numpy(vectors, self.block)

    def _take(self, x: Array, index: np.ndarray) -> Array:
        return self.xp.take(x, self.backend.from_numpy(index.astype(np.int64), self.block), axis=0)

    def _estimate(self, gram: Array, vectors: Array, steps: int) -> tuple[np.ndarray, Array]:
        """Norms from below by power steps, and the vectors for the next round."""
        xp = self.xp
        for _ in range(steps):
            vectors, norm = arrays.normalise(xp.matmul(gram, vectors[..., None])[..., 0], xp=xp)
        # ||H v|| for the unit v before last is at most lambda_max.
        return np.sqrt(self.backend.to_numpy(norm[:, 0])), vectors

    def _rule_out(
        self, gram: Array, boxes: Boxes, norms: np.ndarray, target: float, supremum: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which cells hold nothing above the target; and a few whose estimate said so and whose proof failed."""
        limit = self._limits(boxes, target, supremum)
        passed: np.ndarray = np.isinf(limit)  # nothing on the whole torus exceeds the target
        hopeful = np.flatnonzero((norms**2 < limit) & ~passed)
        if len(hopeful):
            limits = self.backend.from_numpy(limit[hopeful], self.block)
            proven = rounding.gram_below(self._take(gram, hopeful), limits, xp=self.xp, backend=self.backend)
            passed[hopeful] = self.backend.to_numpy(proven)
        failed = hopeful[~passed[hopeful]]
        return passed, failed[np.argsort(-norms[failed], kind="stable")[:_DOUBTFUL]]

    def _limits(self, boxes: Boxes, target: float, supremum: float | None) -> np.ndarray:
        """Largest computed ||G(c)||**2 that rules a cell out, rounded down; negative where nothing does."""
        reach = boxes.reach.sum(axis=1)
        with np.errstate(invalid="ignore"):
            if not boxes.closed:
                tau = np.where(reach < math.pi / 2, target * np.cos(reach), 0.0)
            elif supremum is None or supremum <= target:
                # Everything on the torus is below the target.
                return np.full(len(boxes), np.inf)
            else:
                apart = math.sqrt((supremum - target) * (supremum + target)) * (1 + 1e-15)
                angle = math.acos(target / supremum) + 1e-15
                tau = np.where(reach + angle < math.pi / 2, target * np.cos(reach) - apart * np.sin(reach), 0.0)
        by_cosine = np.maximum(tau * (1 - 1e-14) - 1e-16, 0.0) ** 2
        # The computed polynomial is off by gram_error at the centre (below) and at the point compared with it.
        by_variation = target**2 - self.gram.variation(boxes.distance) - 2 * self.gram_error
        return np.asarray(np.maximum(by_cosine, by_variation) * (1 - 1e-14) - self.gram_error)

    def _raise(
        self, start: Frequencies, vector: Array, lower: float, where: Frequencies, *, free: bool, rtol: float
    ) -> tuple[float, Frequencies]:
        """Climb from a frequency and vector; keep the result if its proven norm is higher."""
        point, right = self._ascend(start, vector, free=free, rtol=rtol)
        g = operators.matrix_at(self.block, self._phase(point), xp=self.xp)
        value = float(rounding.quotient_down(g, right, xp=self.xp)[0]) - self.symbol_error
        value = value * (1 - 1e-15)
        return (value, point) if value > lower else (lower, where)

    def _settle(
        self, points: Frequencies, lower: float, where: Frequencies, *, rtol: float
    ) -> tuple[float, Frequencies]:
        """Raise the lower bound by the exact norms of single frequencies."""
        for first in range(0, len(points), self.chunk):
            part = points[first : min(first + self.chunk, len(points))]
            values, vectors = arrays.top_eigenpair(self.gram.matrices(part), xp=self.xp)
            host = self.backend.to_numpy(values)
            best = int(np.argmax(host))
            if host[best] > lower**2:
                lower, where = self._raise(
                    part[best : best + 1], vectors[best : best + 1, ...], lower, where, free=self.free, rtol=rtol
                )
        return lower, where

    def _ascend(self, start: Frequencies, vector: Array, *, free: bool, rtol: float) -> tuple[Frequencies, Array]:
        """Climb by alternating power steps at a frequency with steps of the frequency, then by Newton on both.

        Returns
        -------
        frequency : Frequencies
        right : array, shape (1, p)
            Right vector of the kernel as stored.
        """
        point = start
        free = free and self.block.ndim > 3
        value, right = 0.0, self._right(point, vector)
        for _ in range(40):
            left, right, now = self._power(point, right, steps=3)
            if now <= value * (1 + max(0.01 * rtol, 1e-13)):
                break
            value = now
            if free:
                point = self._step_frequency(point, left, right)
        for _ in range(8 if rtol < 1e-4 else 0):
            trial, vector = self._newton(point, self._gram_vector(point, right), free=free)
            _, candidate, now = self._power(trial, self._right(trial, vector), steps=1)
            if now <= value:
                break
            done, value, point, right = now <= value * (1 + 1e-3 * rtol), now, trial, candidate
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

    def _right(self, point: Frequencies, vector: Array) -> Array:
        """Right vector of the kernel as stored, from one of the Gram polynomial (conj(G G*) if it was swapped)."""
        return self._across(point, self.xp.conj(vector), adjoint=True) if self.swapped else vector

    def _gram_vector(self, point: Frequencies, right: Array) -> Array:
        """Inverse of `_right`."""
        return self.xp.conj(self._across(point, right, adjoint=False)) if self.swapped else right

    def _across(self, point: Frequencies, vector: Array, *, adjoint: bool) -> Array:
        xp = self.xp
        g = operators.matrix_at(self.block, self._phase(point), xp=xp)
        g = arrays.adjoint(g, xp=xp) if adjoint else g
        return arrays.normalise(xp.matmul(g, vector[..., None])[..., 0], xp=xp)[0]

    def _newton(self, point: Frequencies, vector: Array, *, free: bool) -> tuple[Frequencies, Array]:
        """One Newton step of lambda_max(H(theta)), by second-order perturbation of its eigenvector.

        With ``y_j = (lambda - H)^+ dH_j v``: gradient ``v* dH_j v``, Hessian ``v* d2H_ij v + 2 Re (dH_i v)* y_j``, and
        the vector moves along y. The start vector is first sharpened by inverse iteration.
        """
        xp, size = self.xp, self.gram.size
        gram = self.gram.matrices(point)[0, ...]
        eye = xp.eye(size, dtype=gram.dtype, device=self.backend.device(gram))
        v = vector[0, ...]
        for _ in range(2):
            shift = float(xp.real(xp.sum(xp.conj(v) * xp.matmul(gram, v)))) * (1 + 1e-9)
            if not shift > 1e-290:
                return point, v[None, ...]  # the symbol vanishes here: nothing to sharpen, and a singular system
            v, _ = arrays.normalise(xp.linalg.solve(shift * eye - gram, v[:, None])[:, 0], xp=xp)
        if not free:
            return point, v[None, ...]
        here = self.backend.to_numpy(v)
        value, slope, bend = self.gram.action(point, v)
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

    def _step_frequency(self, point: Frequencies, left: Array, right: Array) -> Frequencies:
        """Maximise ``|u* G(theta) v|**2``, a trigonometric polynomial with one coefficient a tap, from a point."""
        xp, shape = self.xp, self.block.shape
        flat = xp.reshape(self.block[0, ...], (shape[1], -1))
        rows = xp.reshape(
            operators.real_times(xp.matrix_transpose(flat), xp.conj(left[0, :, None]), xp=xp), (shape[2], -1)
        )
        weights = self.backend.to_numpy(xp.sum(rows * right[0, :, None], axis=0))
        theta = climb(weights, shape[3:], point.angles[0])
        return _nearby(theta)

    def _phase(self, point: Frequencies) -> Array:
        return operators.Symbol(self.block, point, xp=self.xp, backend=self.backend).phase


def _shrink(boxes: Boxes, norms: np.ndarray, target: float) -> tuple[Boxes, np.ndarray]:
    """Split cells that failed; twice at once where the norm at the centre says that once would not do."""
    reach = boxes.reach.sum(axis=1)
    needed = np.arccos(np.clip(norms / max(target, 1e-300), 0, 1 - 1e-12))
    again = reach > 1.6 * needed
    boxes, parent = boxes.split()
    twice = np.flatnonzero(again[parent])
    once = np.flatnonzero(~again[parent])
    children, of = boxes[twice].split()
    return boxes[once].joined(children), parent[np.concatenate([once, twice[of]])]


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

    def value(t: np.ndarray) -> float:
        return float(abs(np.sum(weights * np.exp(1j * taps @ t))) ** 2)

    best = value(theta)
    for _ in range(4):
        terms = weights * np.exp(1j * taps @ theta)
        total, first = terms.sum(), 1j * taps.T @ terms
        second = -(taps.T * terms) @ taps
        gradient = 2 * np.real(np.conj(total) * first)
        hessian = 2 * np.real(np.conj(total) * second + np.outer(np.conj(first), first))
        step = uphill(gradient, hessian)
        for _ in range(8):
            trial = value(theta + step)
            if trial > best:
                break
            step = step / 4
        if trial <= best * (1 + 1e-15):
            break
        theta, best = theta + step, trial
    return theta
