"""What a kernel's norms truly are: proven bounds, as sharp as ball arithmetic makes them. Imports nothing of specnorm.

The lower bound is ``||G(theta)||`` at the best frequencies known, rigorous; the library's witnesses join them, so that
a lower value is either proven true here or shown. The upper bound is a closed form, or on a small grid every frequency.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from flint import arb, ctx

from soundness.balls import BITS, Exact, largest, power_of_two
from soundness.draws import Case
from soundness.peaks import Peaks

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
        """The kernel in ball arithmetic."""
        return Exact(self.kernel)

    @functools.cached_property
    def peaks(self) -> Peaks:
        """The search in floats."""
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
    """The midpoint, for choosing between true bounds."""
    return float(x.mid())
