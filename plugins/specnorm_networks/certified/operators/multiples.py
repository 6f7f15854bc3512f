"""Multiples of functions of each entry: a number times a function of a number times x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from specnorm.proof import enclosing
from specnorm_networks.certified.operators.base import FloatArray, LowHigh, Pointwise
from specnorm_networks.certified.operators.curved import Extent


class Multiple(Pointwise):
    """``outer * function(inner * x)``, with factors that are not 0."""

    function: Pointwise
    outer: float = 1.0
    inner: float = 1.0
    roundings: int = 0
    """Number of roundings in the computation of each factor."""

    def value(self, x: FloatArray) -> FloatArray:
        return self.outer * self.function.value(self.inner * x)

    def extent(self) -> Extent | None:
        extent = self.function.extent()
        if extent is None or not (math.isfinite(self.outer) and math.isfinite(self.inner)):
            return None
        low, high = self._slopes_by_chain_rule((np.array(extent[0]), np.array(extent[1])))
        return (float(low), float(high)) if np.isfinite([low, high]).all() else None

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        if not np.isfinite([self.outer, self.inner]).all():
            return None
        slopes = self.function.slopes(*self._times_inner((low, high)))
        return None if slopes is None else self._slopes_by_chain_rule(slopes)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        return self._times_outer(self.function.between(*self._times_inner((low, high))))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The other library rounds the inner product, the function, and the outer product.
        argument = self.inner * values[0]
        relative = 4 * unit + self._relative_error()
        value = self.function.run(argument)
        low, high = self.function.between(argument - relative * abs(argument), argument + relative * abs(argument))
        error_from_argument = np.maximum(high - value, value - low)
        error_of_function = np.asarray(self.function.rounding([argument], value, unit))
        error_inside = abs(self.outer) * (error_of_function + error_from_argument) * (1 + relative)
        return np.asarray(error_inside + relative * abs(result))

    def _relative_error(self) -> float:
        """Return the relative error of each factor."""
        return (self.roundings + 2) * 2.0**-52 if self.roundings else 0.0

    def _slopes_by_chain_rule(self, slopes: LowHigh) -> LowHigh:
        """Return ``outer inner f'`` for intervals of f'."""
        return self._times_outer(self._times_inner(slopes))

    def _times_inner(self, ends: LowHigh) -> LowHigh:
        return enclosing(ends).scaled(self.inner, self._relative_error()).ends

    def _times_outer(self, ends: LowHigh) -> LowHigh:
        return enclosing(ends).scaled(self.outer, self._relative_error()).ends
