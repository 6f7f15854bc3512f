"""What piecewise linear functions of each entry share: slopes, values and lines by their pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from specnorm.networks.operators.base import Ends, FloatArray
from specnorm.networks.operators.curvature import Curved, Interval, Line
from specnorm.proof import host

Numbers: TypeAlias = float | FloatArray


class Piece(NamedTuple):
    """Where a piece begins and ends, its smallest and largest slope, and what is added: ``slope x + shift``."""

    start: float
    end: float
    least: Numbers
    most: Numbers
    shift: float = 0.0

    def met(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Whether intervals reach into it: one that touches it in one point has no quotient of it, a point may have."""
        if not self.start < self.end:
            return np.zeros(low.shape, np.bool_)
        inner = (low < self.end) & (high > self.start)
        return np.asarray(inner | ((low == high) & (low >= self.start) & (high <= self.end)))


@dataclass(frozen=True, eq=False)
class Piecewise(Curved):
    """A continuous function, made of lines."""

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """Its lines, in order, as intervals see them; an empty tuple: it has jumps."""
        raise NotImplementedError

    def extent(self) -> Interval | None:
        """Of all pieces."""
        whole = np.array(-math.inf), np.array(math.inf)
        slopes = [slope for p in self.pieces(*whole) if p.start < p.end for slope in (p.least, p.most)]
        if not slopes or not all(np.isfinite(slope).all() for slope in slopes):
            return None
        known = [np.asarray(slope) for slope in slopes if np.size(slope)]
        return (float(min(map(np.min, known))), float(max(map(np.max, known)))) if known else (0.0, 0.0)

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Of the pieces that an interval meets."""
        if self.extent() is None:
            return None
        least, most = np.full(low.shape, math.inf), np.full(low.shape, -math.inf)
        for piece in self.pieces(low, high):
            met = piece.met(low, high)
            least = np.where(met, np.minimum(least, piece.least), least)
            most = np.where(met, np.maximum(most, piece.most), most)
        return least, most

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """Values at both ends of each piece, each product and sum rounded outward."""
        if self.extent() is None:
            return np.full(low.shape, -math.inf), np.full(high.shape, math.inf)
        down, up = np.full(low.shape, math.inf), np.full(low.shape, -math.inf)
        with np.errstate(all="ignore"):
            for piece in self.pieces(low, high):
                met = (low <= piece.end) & (high >= piece.start)
                for end in (np.maximum(low, piece.start), np.minimum(high, piece.end)):
                    for slope in (piece.least, piece.most):
                        down = np.where(met, np.minimum(down, _below(slope, end, piece.shift)), down)
                        up = np.where(met, np.maximum(up, -_below(np.negative(slope), end, -piece.shift)), up)
        return np.maximum(down, self.limits[0]), np.minimum(up, self.limits[1])

    def affine(self, low: FloatArray, high: FloatArray) -> Line | None:
        """Exact where an interval meets one piece alone."""
        if self.extent() is None:
            return None
        slope, middle, half = self.bent(low, high)
        finite = np.isfinite(low) & np.isfinite(high)
        pieces = self.pieces(low, high)
        met = [piece.met(low, high) for piece in pieces]
        count = np.sum(met, axis=0)
        for piece, here in zip(pieces, met, strict=True):
            exact = finite & here & (count == 1) & np.equal(piece.least, piece.most)
            slope, half = np.where(exact, piece.least, slope), np.where(exact, 0.0, half)
            middle = np.where(exact, piece.shift, middle)
        return slope, middle, half

    def bent(self, low: FloatArray, high: FloatArray) -> Line:
        """Line for intervals that meet several pieces."""
        found = super().affine(low, high)
        assert found is not None  # for the type checker: curved functions have one
        return found


def _below(slope: Numbers, x: FloatArray, shift: float) -> FloatArray:
    """``slope x + shift``, rounded down; where it is not known, -infinity."""
    product = np.where(np.equal(slope, 0), 0.0, slope * x)
    exact = np.equal(slope, 0) | np.equal(np.abs(slope), 1) | (x == 0)
    product = np.where(exact, product, host.below(product))
    total = np.where(product == 0, shift, product if shift == 0 else host.below(product + shift))
    return np.where(np.isnan(total), -math.inf, total)
