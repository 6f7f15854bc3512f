"""Functions of each entry that are written out with factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import enclosing
from specnorm_networks.certified.operators.base import Ends, FloatArray, Pointwise
from specnorm_networks.certified.operators.curvature import CLOSE, Extent, Line


class Multiple(Pointwise):
    """``outer * function(inner * x)``: functions that are written out with factors, of which none is 0."""

    function: Pointwise
    outer: float = 1.0
    inner: float = 1.0
    roundings: int = 0
    """Made in computing each of the factors."""

    def value(self, x: FloatArray) -> FloatArray:
        return self.outer * self.function.value(self.inner * x)

    def extent(self) -> Extent | None:
        found = self.function.extent()
        if found is None or not (math.isfinite(self.outer) and math.isfinite(self.inner)):
            return None
        low, high = self._outside(self._inside(np.array(found[0]), np.array(found[1])))
        return (float(low), float(high)) if np.isfinite([low, high]).all() else None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        found = self.function.slopes(*self._inside(low, high)) if np.isfinite([self.outer, self.inner]).all() else None
        return None if found is None else self._outside(self._inside(*found))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return self._outside(self.function.between(*self._inside(low, high)))

    def affine(self, low: FloatArray, high: FloatArray) -> Line | None:
        # The function's own line, its slope times both factors: each term is off by what the factors are.
        found = self.function.affine(*self._inside(low, high))
        if found is None:
            return None
        slope, middle, half = found
        finite = np.isfinite(half)
        size = np.where(finite, np.maximum(abs(low), abs(high)), 0.0)
        slope, middle = slope * self.outer * self.inner, middle * self.outer
        exact = abs(self.outer) == abs(self.inner) == 1 and not self.roundings
        lost = 0.0 if exact else (CLOSE + 4 * self._slack()) * (abs(slope) * size + abs(middle)) + 2.0**-900
        half = np.where(finite, abs(self.outer) * (1 + 2 * self._slack()) * np.where(finite, half, 0.0) + lost, 0.0)
        fits = finite & np.isfinite(slope) & np.isfinite(middle) & np.isfinite(half)
        half = np.where(half > 0, host.inflate(half, 8), 0.0)
        return np.where(fits, slope, 0.0), np.where(fits, middle, 0.0), np.where(fits, half, math.inf)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # The function's own at the product, times the factor; what rounding the product adds; and that of the last.
        inner, relative = self.inner * values[0], 4 * unit + self._slack()
        there = self.function.run(inner)
        low, high = self.function.between(inner - relative * abs(inner), inner + relative * abs(inner))
        moved = np.maximum(high - there, there - low)
        own = np.asarray(self.function.rounding([inner], there, unit))
        return np.asarray(abs(self.outer) * (own + moved) * (1 + relative) + relative * abs(result))

    def _slack(self) -> float:
        """By how much each factor may be off, relatively."""
        return (self.roundings + 2) * 2.0**-52 if self.roundings else 0.0

    def _inside(self, low: FloatArray, high: FloatArray) -> Ends:
        return enclosing((low, high)).scaled(self.inner, self._slack()).ends

    def _outside(self, ends: Ends) -> Ends:
        return enclosing(ends).scaled(self.outer, self._slack()).ends
