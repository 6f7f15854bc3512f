"""Broadcasting by NumPy's rules: shapes of values, and what it makes of weights and of constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified.operators.base import MOST_ENTRIES_AT_ONCE, FloatArray, NoBoundError, Place, Shape


def apply_in_parts(
    apply: Callable[[FloatArray], FloatArray],
    x: FloatArray,
    entries_of_value: int,
) -> FloatArray:
    """Apply a function of batches (batch, ...) to a few values of a batch at a time.

    ``entries_of_value``: entries that the function needs for one value; `MOST_ENTRIES_AT_ONCE` are allowed.
    """
    step = max(1, MOST_ENTRIES_AT_ONCE // max(entries_of_value, 1))
    parts = [apply(x[first : first + step]) for first in range(0, len(x), step)]
    if not parts:
        return apply(np.zeros((1, *x.shape[1:]), x.dtype))[:0]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def broadcast_shapes(shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the shape that values are broadcast to; None if one of theirs is unknown; `ValueError` if none fits."""
    known_shapes = [shape for shape in shapes if shape is not None]
    if not known_shapes or len(known_shapes) < len(shapes):
        return None
    return np.broadcast_shapes(*known_shapes)


def broadcast_shapes_or_none(*shapes: Shape | None) -> Shape | None:
    """Return the shape that values are broadcast to; None if it is unknown, or if none fits."""
    try:
        return broadcast_shapes(shapes)
    except ValueError:
        return None


def copies_of_entry(before: Shape | None, after: Shape | None) -> int:
    """Return how many copies of each entry broadcasting makes; `NoBoundError` if the shapes do not tell."""
    if before is None or after is None or len(before) > len(after):
        raise NoBoundError("the shapes that are broadcast are not known: give the input shape")
    # Axes of size 1 in front, so that both have as many axes.
    aligned = (1,) * (len(after) - len(before)) + before
    copies = 1
    for n, m in zip(aligned, after, strict=True):
        if n == m:
            continue
        if n != 1:
            raise NoBoundError(f"shape {before} cannot be compared with {after}")
        copies *= m
    return copies


def constants_after_broadcast(bounds: Sequence[float], place: Place) -> list[float]:
    """Return each input's constant times the root of the number of copies of its entries; 0 stays 0."""
    constants = []
    for bound, before in zip(bounds, place.before, strict=True):
        if bound == 0:
            constants.append(0.0)  # the shape of a constant need not be known
        else:
            constants.append(host.mul_up(bound, host.root_up(copies_of_entry(before, place.after))))
    return constants
