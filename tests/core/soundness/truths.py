"""What a kernel's norms truly are: proven bounds, as sharp as ball arithmetic makes them. Imports nothing of specnorm.

The lower bound is ``||G(theta)||`` at the best frequencies known, rigorous; the library's witnesses join them, so that
a lower value is either proven true here or shown. The upper bound is a closed form, or on a small grid every frequency.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from core.soundness.balls import BITS, Exact, largest, power_of_two
from core.soundness.families import Case
from flint import arb, ctx
from numpy.typing import NDArray

Float = NDArray[np.float64]


class Peaks:
    """``||G(theta)||`` of one kernel in float64, and its highest peaks.

    Nothing here is trusted: a bad frequency gives a true but weaker bound.

    Parameters
    ----------
    kernel : floating array, shape (m, p, *kernel_shape)
    """

    def __init__(self, kernel: NDArray[Any]) -> None:
        values = np.asarray(kernel).astype(np.float64)
        values = np.ldexp(values, -int(np.frexp(np.max(np.abs(values), initial=0.0))[1]))
        m, p, *sizes = values.shape
        if m < p:
            values = np.swapaxes(values, 0, 1)  # the transposed symbol: same norms
        self.sizes = tuple(sizes)
        self.offsets = np.asarray(list(itertools.product(*map(range, sizes))), dtype=np.float64).reshape(
            math.prod(sizes), len(sizes)
        )
        self.shape = values.shape[:2]
        self.taps = np.ascontiguousarray(
            np.moveaxis(values.reshape(*self.shape, -1), 2, 0).reshape(len(self.offsets), -1)
        )

    def symbols(self, theta: Float) -> NDArray[np.complex128]:
        flat: NDArray[np.complex128] = np.exp(1j * (theta @ self.offsets.T)) @ self.taps
        return flat.reshape(-1, *self.shape)

    def norms(self, theta: Float) -> Float:
        chunk = max(1, 2_000_000 // (self.shape[0] * self.shape[1] + len(self.offsets)))
        return np.concatenate([self._norms(theta[i : i + chunk]) for i in range(0, len(theta), chunk)])

    def _norms(self, theta: Float) -> Float:
        g = self.symbols(theta)
        if self.shape[1] == 1:
            return np.asarray(np.linalg.norm(g[:, :, 0], axis=1))
        top = np.linalg.eigvalsh(np.conj(np.swapaxes(g, 1, 2)) @ g)[:, -1]
        return np.asarray(np.sqrt(np.maximum(top, 0.0)))

    def highest(self, count: int = 3, effort: int = 1) -> list[tuple[Fraction, ...]]:
        """Turns of the highest peaks over the torus; with more effort from a finer grid."""
        moving = [j for j, k in enumerate(self.sizes) if k > 1]
        if not moving:
            return [(Fraction(0),) * len(self.sizes)]
        dense = {1: 12, 2: 6}.get(len(moving), 5) * effort
        counts = [dense * (k - 1) if k > 1 else 1 for k in self.sizes]
        # A real kernel: half of one axis is enough; both 0 and half a turn are among the points.
        ranges = [np.arange(n // 2 + 1 if j == moving[0] else n) / n for j, n in enumerate(counts)]
        theta = 2 * math.pi * np.stack([g.ravel() for g in np.meshgrid(*ranges, indexing="ij")], axis=-1)
        values = self.norms(theta)
        found: list[tuple[Fraction, ...]] = []
        widths = np.asarray([1.5 * 2 * math.pi / n if n > 1 else 1.0 for n in counts])
        open_ = np.ones(len(theta), dtype=bool)
        while len(found) < count and open_.any():
            best = int(np.argmax(np.where(open_, values, -1.0)))
            found.append(self._turns(self._climb(theta[best])))
            apart = np.abs((theta - theta[best] + math.pi) % (2 * math.pi) - math.pi)
            open_ &= (apart > widths).any(axis=1)
            open_ &= values > 0.8 * values.max()
        return found

    def on_grid(self, sizes: Sequence[int], count: int = 3) -> list[tuple[Fraction, ...]]:
        points = np.asarray(list(itertools.product(*map(range, sizes))), dtype=np.int64).reshape(
            math.prod(sizes), len(sizes)
        )
        if len(sizes):
            points = points[points[:, 0] <= sizes[0] // 2]
        values = self.norms(2 * math.pi * points / np.asarray(sizes, dtype=float))
        best = np.argsort(values)[::-1][:count]
        return [tuple(Fraction(int(j), n) for j, n in zip(points[i], sizes, strict=True)) for i in best]

    @staticmethod
    def _turns(theta: Float) -> tuple[Fraction, ...]:
        return tuple(Fraction(float(t / (2 * math.pi))) for t in theta)

    def _climb(self, theta: Float) -> Float:
        """Newton's method on the norm: analytic gradients, their differences for the Hessian, never downhill."""
        moving = [j for j, k in enumerate(self.sizes) if k > 1]
        value, step = float(self.norms(theta[None])[0]), 1e-5
        for _ in range(8):
            shifts = np.zeros((2 * len(moving) + 1, len(self.sizes)))
            for i, j in enumerate(moving):
                shifts[2 * i + 1, j], shifts[2 * i + 2, j] = step, -step
            slopes = self._gradients(theta + shifts)[:, moving]
            hessian = (slopes[1::2] - slopes[2::2]) / (2 * step)
            values, basis = np.linalg.eigh((hessian + hessian.T) / 2)
            size = np.maximum(np.abs(values), 1e-9 * float(np.abs(values).max()) + 1e-300)
            move = basis @ ((basis.T @ slopes[0]) / size)
            move = move / max(1.0, float(np.abs(move).max()) / 0.3)
            trial = theta.copy()
            trial[moving] += move
            now = float(self.norms(trial[None])[0])
            if not now > value:
                break
            theta, value = trial, now
        return theta

    def _gradients(self, theta: Float) -> Float:
        """Derivative of the largest singular value: Re u* dG v."""
        phases = np.exp(1j * (theta @ self.offsets.T))
        g = (phases @ self.taps).reshape(-1, *self.shape)
        u, _, vh = np.linalg.svd(g, full_matrices=False)
        columns = []
        for j in range(len(self.sizes)):
            slope = ((1j * phases * self.offsets[:, j]) @ self.taps).reshape(-1, *self.shape)
            columns.append(np.real(np.einsum("fm,fmp,fp->f", np.conj(u[:, :, 0]), slope, np.conj(vh[:, 0, :]))))
        return np.stack(columns, axis=-1)


LATTICE = 2**40
"""Points a turn of the frequencies that the library returns, rounded to floats."""


class Truth:
    """Proven bounds of the norms of one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.kernel = case.kernel
        self.kernel_shape = case.kernel.shape[2:]
        self._lows: dict[tuple[int, ...] | None, arb] = {}

    @functools.cached_property
    def exact(self) -> Exact:
        return Exact(self.kernel)

    @functools.cached_property
    def peaks(self) -> Peaks:
        return Peaks(self.kernel)

    @functools.cached_property
    def high(self) -> arb | None:
        """Proven upper bound of the supremum, where there is a closed form."""
        return self.case.supremum()

    def low(self, sizes: tuple[int, ...] | None = None) -> arb:
        """Proven lower bound: of the supremum over all sizes, or of the circular layer at one size."""
        if sizes not in self._lows:
            if self.high is not None and (sizes is None or self.case.at_zero):
                self._lows[sizes] = self.high
            elif not np.any(self.kernel):
                self._lows[sizes] = arb(0)
            else:
                found = self.peaks.highest() if sizes is None else self.peaks.on_grid(self.grid(sizes))
                self._lows[sizes] = max((self.exact.norm_below(t) for t in found), key=float_of)
        return self._lows[sizes]

    def harder(self, sizes: tuple[int, ...] | None = None) -> arb:
        """Lower bound after a longer search for maxima of the supremum; for when a claim cannot be proven."""
        if sizes is None and self.high is None:
            found = self.peaks.highest(count=20, effort=4)
            self._lows[sizes] = max([self.low(), *(self.exact.norm_below(t) for t in found)], key=float_of)
        return self.low(sizes)

    def grid(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """DFT sizes that matter: an axis with one tap needs one frequency."""
        return tuple(1 if k == 1 else n for n, k in zip(sizes, self.kernel_shape, strict=True))

    def witnessed(self, angles: Sequence[float], sizes: tuple[int, ...] | None = None) -> arb:
        """Look at a frequency that the library names, in radians; it may raise the lower bound.

        Returns
        -------
        arb
            Proven upper bound of the norm there, and within rounding of the angles.
        """
        if self.kernel.size > 2000 and self.high is not None:
            return self.low(sizes)  # the closed form; balls would take long
        turns = [float(a) / (2 * math.pi) for a in angles]
        if sizes is None:
            points = [[Fraction(round(t * LATTICE), LATTICE) for t in turns], [Fraction(t) for t in turns]]
        else:
            points = [[Fraction(round(t * n), n) for t, n in zip(turns, sizes, strict=True)]]
        bounds = [self.exact.norm(point) for point in points]
        self._lows[sizes] = max([self.low(sizes), *(e.low for e in bounds)], key=float_of)
        size = float(np.sum(np.abs(np.ldexp(self.kernel.astype(float), -self.exact.exponent))))
        with ctx.workprec(BITS):
            allowance = arb(1e-14 * size) * power_of_two(self.exact.exponent)
            return largest([e.high for e in bounds]) + allowance

    def above_grid(self, sizes: tuple[int, ...]) -> arb | None:
        """Proven upper bound at a circular size, from every frequency; None for large grids."""
        if self.case.at_zero:
            return self.high
        grid = self.grid(sizes)
        if math.prod(grid) > 16:
            return None
        every = self.peaks.on_grid(grid, count=math.prod(grid)) if np.any(self.kernel) else []
        return functools.reduce(lambda a, b: a.max(b), (self.exact.norm(t).high for t in every), arb(0))


def float_of(x: arb) -> float:
    return float(x.mid())
