"""Shapes of values that are broadcast, by NumPy's rules, and what it makes of bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified.operators.base import AT_ONCE, FloatArray, NoBoundError, Place, Sizes
from specnorm_networks.certified.shapes import Shape


def in_parts(apply: Callable[[FloatArray], FloatArray], x: FloatArray, entries: int) -> FloatArray:
    """A function of arrays (copies, ...), applied to some copies at a time; each needs so many entries."""
    step = max(1, AT_ONCE // max(entries, 1))
    parts = [apply(x[at : at + step]) for at in range(0, len(x), step)]
    if not parts:
        return apply(np.zeros((1, *x.shape[1:]), x.dtype))[:0]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def last_sizes(shape: Shape | None, count: int) -> list[int | None]:
    """Sizes of the last axes; None where they are not known."""
    if shape is None or len(shape) < count:
        return [None] * count
    return list(shape[len(shape) - count :])


def broadcast_shapes(shapes: Sequence[Shape | None]) -> Shape | None:
    """The shape that values are broadcast to, by NumPy's rules (`ValueError`); None where that is not known."""
    known = [shape for shape in shapes if shape is not None]
    return np.broadcast_shapes(*known) if known and len(known) == len(shapes) else None


def broadcasted(*shapes: Shape | None) -> Shape | None:
    """The same; None where they do not fit, too."""
    try:
        return broadcast_shapes(shapes)
    except ValueError:
        return None


def repeats(before: Shape | None, after: Shape | None) -> int:
    """How often broadcasting repeats each entry; `NoBoundError` if the shapes do not tell."""
    if before is None or after is None or len(before) > len(after):
        raise NoBoundError("the shapes that are broadcast are not known: give the input shape")
    aligned = (1,) * (len(after) - len(before)) + before
    found = 1
    for n, m in zip(aligned, after, strict=True):
        if n == m:
            continue
        if n != 1:
            raise NoBoundError(f"shape {before} cannot be compared with {after}")
        found *= m
    return found


def gathered(weights: FloatArray, before: Shape | None, after: Shape | None) -> FloatArray:
    """Weights of a value that is broadcast, from those of what it becomes: each copy's are added up.

    `NoBoundError` as `repeats`.
    """
    repeats(before, after)
    assert before is not None  # for the type checker: `repeats` asks
    assert after is not None
    for axis in range(len(after)):
        n = ((1,) * (len(after) - len(before)) + before)[axis]
        m = after[axis]
        if n != m:
            summed = weights.sum(axis=axis, keepdims=True) if weights.shape[axis] == m else weights * float(m)
            weights = host.inflate(summed, m)
    return weights.reshape(weights.shape[len(after) - len(before) :])


def summed_to(y: FloatArray, shape: Sizes) -> FloatArray:
    """Adjoint of broadcasting copies (copies, *shape): sums over what was repeated."""
    ahead = y.ndim - 1 - len(shape)
    wide = (1,) * ahead + shape
    repeated = tuple(at + 1 for at, n in enumerate(wide) if n == 1 and y.shape[at + 1] != 1)
    return np.asarray((y.sum(axis=repeated, keepdims=True) if repeated else y).reshape(len(y), *shape))


def spread(bounds: Sequence[float], place: Place) -> list[float]:
    """Each input's constant times the root of how often broadcasting repeats its entries; 0 stays 0."""
    return [
        host.mul_up(bound, host.root_up(repeats(before, place.after))) if bound else 0.0
        for bound, before in zip(bounds, place.before, strict=True)
    ]
