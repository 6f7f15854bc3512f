"""When the grid is swept: by the way that the kernel has gone since the last sweep, and by what that sweep found.

A maximum that is not in the bundle overtakes to first order in the change of the kernel. So the error is taken to be
proportional to the distance gone: ``slope`` is the last error over the last distance. A first pass, a weight that was
loaded or drawn again, and a fast optimizer are long ways; a layer that does not move is never swept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specnorm.backends import arrays

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace

NUMBERS = 2
"""Numbers of a block's course: the slope, and the sweeps that it still owes."""
TOLERANCE = 0.001
"""Error that is expected at most, as a part of the norm."""
_FADES = 0.8
"""A sweep that finds less than the last one lowers the slope by this factor at most."""
_LEAST_SLOPE = 0.35
"""The grid is swept at the latest after a way of `TOLERANCE` over this. An unseen maximum has slopes up to 5: with
0.25, the norm of a layer of 16 channels rose by 1.2 % in ten passes."""
_MOST_SLOPE = 1e3
"""Larger slopes are quotients of roundings."""
_WAY_OF_A_SWEEP = 0.01
"""A kernel that has gone so far needs a second sweep, and twice as many for twice the way. With a quarter of it, a step
of a critic under Adam 2e-4 took 2.1 times a plain step in place of 1.9, and its norms were at most 1.002 in place of
1.008."""
_DOUBLINGS = 4
"""So often is the number of sweeps doubled at most."""
_FAR = 4.0
"""A sweep that finds an error of so many tolerances is followed by another one in the next pass."""


def room(course: Array, distance: Array, *, xp: Namespace) -> Array:
    """The way (b,) to the next sweep, as a multiple of the distance from the last; below 0 where one is due."""
    # A sweep that is owed counts as a large error.
    error = xp.clip(course[:, 0, 0], _LEAST_SLOPE, _MOST_SLOPE) * distance + course[:, 0, 1]
    return (TOLERANCE - error) / error


def sweeps_needed(course: Array, distance: Array, *, xp: Namespace) -> Array:
    """Number of sweeps (b,) that blocks need which are swept after these distances: 1, 2, 4, 8 or 16, or those owed.

    Few numbers, since layers that need as many are swept together.
    """
    count = xp.ones_like(distance)
    for doubling in range(_DOUBLINGS):
        # What is not a number counts as far.
        count = xp.where(distance <= 2**doubling * _WAY_OF_A_SWEEP, count, count + count)
    owed = course[:, 0, 1]
    return xp.where((owed > count) & (owed <= 2**_DOUBLINGS), owed, count)


def after_sweep(course: Array, distance: Array, error: Array, sweeps: Any, *, xp: Namespace) -> Array:
    """Course (b, 1, 2) after a number of sweeps, or as many as an array (b,) says.

    Parameters
    ----------
    distance : array, shape (b,)
        Since the sweep before.
    error : array, shape (b,)
        By which part the value rose.
    """
    zeros = xp.zeros_like(distance)
    last_slope = xp.where(course[:, 0, 0] >= 0, course[:, 0, 0], zeros)
    least = xp.maximum(_FADES * last_slope, zeros + _LEAST_SLOPE)
    slope = error / (distance + arrays.TINY)
    slope = xp.where((slope > least) & (slope < _MOST_SLOPE), slope, least)
    again = xp.astype(error > _FAR * TOLERANCE, distance.dtype)
    owed = xp.maximum(sweeps_needed(course, distance, xp=xp) - sweeps, again)
    return xp.stack([slope, owed], axis=1)[:, None, :]
