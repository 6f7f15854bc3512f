"""Strips around lines in which functions of each entry lie, on intervals.

A strip has three arrays: its slope, the intercept of its middle line, and half of its height:
``|f(v) - slope v - middle| <= half``.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from specnorm.proof import anything, enclosing, host, point
from specnorm_networks.tools import UNDERFLOW, FloatArray, Function

Strip: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
"""Slope, middle and half."""


def breaks(function: Function, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the ends of parts of intervals, ascending, shape (parts + 1, *shape of the intervals).

    On each part the function is near a line (`strip_on`): a piecewise linear function has its kinks as ends, another
    one eight parts of equal length.
    """
    pieces = function.pieces(low, high)
    if pieces:
        kinks: set[float] = set()
        for piece in pieces:
            kinks |= {end for end in (piece.start, piece.end) if math.isfinite(end)}
        clipped_kinks = [np.clip(kink, low, high) for kink in sorted(kinks)]
        return np.stack([low, *clipped_kinks, high])
    shares = np.linspace(0.0, 1.0, 9).reshape(-1, *(1,) * low.ndim)
    ends = np.clip(low + shares * (high - low), low, high)
    ends[-1] = high
    return np.asarray(ends)


def strip_on(function: Function, low: FloatArray, high: FloatArray) -> Strip:
    """Return slope, middle and half with ``|f(v) - slope v - middle| <= half`` on intervals, rounded outward.

    The slope is that of the chord, or 0 if that makes the strip narrower. If nothing is known, slope and middle are 0,
    and half is infinite. A strip is a line without a height if the interval meets one piece of a function alone.
    """
    slope, middle, half = _narrower_strip(function, low, high)
    is_finite = np.isfinite(low) & np.isfinite(high)
    pieces = function.pieces(low, high)
    has_slope_of_pieces = [piece.has_slope_on(low, high) for piece in pieces]
    number_of_pieces = np.sum(has_slope_of_pieces, axis=0)
    for piece, has_slope in zip(pieces, has_slope_of_pieces, strict=True):
        is_exact = is_finite & has_slope & (number_of_pieces == 1)
        slope = np.where(is_exact, piece.slope, slope)
        half = np.where(is_exact, 0.0, half)
        middle = np.where(is_exact, piece.shift, middle)
    return slope, middle, half


def _narrower_strip(function: Function, low: FloatArray, high: FloatArray) -> Strip:
    """Return the narrower one of a strip along the chord and a strip of slope 0."""
    is_finite = np.isfinite(low) & np.isfinite(high)
    low = np.where(is_finite, low, 0.0)
    high = np.where(is_finite, high, 0.0)
    slope, middle, half = _strip_along_chord(function, low, high)
    with np.errstate(all="ignore"):
        values = enclosing(function.between(low, high))
    flat_middle, flat_half = values.middle()
    is_narrower = is_finite & np.isfinite(middle) & (half < flat_half)
    flat_middle = np.where(is_finite, flat_middle, 0.0)
    flat_half = np.where(is_finite, flat_half, math.inf)
    return (
        np.where(is_narrower, slope, 0.0),
        np.where(is_narrower, middle, flat_middle),
        np.where(is_narrower, half, flat_half),
    )


def _strip_along_chord(function: Function, low: FloatArray, high: FloatArray) -> Strip:
    """Return the strip of `strip_on` whose slope is that of the chord, on finite intervals.

    If f has slopes between m and M, and ``m <= s <= M``, then ``g(v) = f(v) - s v`` has slopes between ``m - s``
    and ``M - s``. On an interval of length w, g can rise from its value at one end with slopes up to ``M - s``, and
    has to fall to its value at the other end with slopes down to ``m - s``. So g exceeds the larger one of both
    values by at most ``(M - s) (s - m) w / (M - m)``. In the same way it is below the smaller one by at most that.
    """
    smallest_slope, largest_slope = enclosing(function.slopes(low, high) or anything(low.shape)).ends
    with np.errstate(all="ignore"):
        value_at_low = enclosing(function.between(low, low))
        value_at_high = enclosing(function.between(high, high))
        middle_at_low, _ = value_at_low.middle()
        middle_at_high, _ = value_at_high.middle()
        chord = (middle_at_high - middle_at_low) / (high - low)
        s = np.clip(np.nan_to_num(chord), smallest_slope, largest_slope)
        steepest_fall = host.next_up(s - smallest_slope)
        steepest_rise = host.next_up(largest_slope - s)
        share = steepest_rise / (steepest_fall + steepest_rise)
        excess = host.inflate(steepest_fall * share * (high - low), 8) + UNDERFLOW
        g_at_low = value_at_low - point(low) * point(s)
        g_at_high = value_at_high - point(high) * point(s)
        g_at_ends = g_at_low | g_at_high
        down = g_at_ends.low - excess
        up = g_at_ends.high + excess
        middle = down / 2 + up / 2
        rounding = (abs(down) + abs(up)) * 2.0**-50
        half = host.inflate(up / 2 - down / 2 + rounding, 8)
    return s, middle, half
