"""Linear maps that are stated once, as sums of products with a constant: their absolute values and adjoints follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

import numpy as np

from specnorm_networks.certified.operators.base import Apply, FloatArray, LinearMap, Shape

_SMALL = 2**16
"""Number of products up to which they are summed by a loop: NumPy's choice of a matrix product takes longer."""


@dataclass(frozen=True, eq=False)
class Contraction:
    """Sums of products of an input's entries with a constant, times a number.

    Axes are letters, as in `numpy.einsum`. An axis of size 1 that is broadcast, or is left of a sum, has no letter.
    """

    x: str
    """Axes of the input."""
    c: str
    """Axes of the constant."""
    y: str
    """Axes of the value."""
    constant: FloatArray
    before: Shape
    """Shape of the input."""
    after: Shape
    """Shape of the value."""
    factor: float = 1.0

    def apply(self, x: FloatArray) -> FloatArray:
        """Return the values of a batch (batch, *before)."""
        return self._contracted(x, self.x, self.y, self.after)

    def back(self, y: FloatArray) -> FloatArray:
        """Return the adjoint of the map at a batch (batch, *after)."""
        return self._contracted(y, self.y, self.x, self.before)

    def absolute(self) -> Contraction:
        """Return the map with the absolute values of its entries."""
        return replace(self, constant=abs(self.constant), factor=abs(self.factor))

    def _contracted(self, x: FloatArray, axes: str, axes_after: str, shape: Shape) -> FloatArray:
        """Contract the constant with a batch (batch, *before or *after), and return (batch, *shape).

        ``axes``, ``axes_after``: letters of the axes that `numpy.einsum` takes and returns, without the batch's.
        """
        sizes = dict(zip(self.c, self.constant.shape, strict=True))
        for letters, sides in ((self.x, self.before), (self.y, self.after)):
            if len(letters) == len(sides):
                sizes |= dict(zip(letters, sides, strict=True))
        entries = x.reshape(len(x), *(sizes[axis] for axis in axes))
        work = len(x) * math.prod(sizes.values())
        equation = f"Z{axes},{self.c}->Z{axes_after}"
        product = np.einsum(equation, entries, self.constant, optimize=work > _SMALL)
        product = product if self.factor == 1 else self.factor * product
        return np.asarray(product).reshape(len(x), *shape)


def product(constant: FloatArray, before: Shape) -> Contraction:
    """Return the entry-wise product of an input of a shape with a constant, both broadcast by NumPy's rules."""
    after = np.broadcast_shapes(before, constant.shape)
    letters = ascii_lowercase[: len(after)]

    def axes_of(shape: Shape) -> str:
        own = zip(letters[len(after) - len(shape) :], shape, after[len(after) - len(shape) :], strict=True)
        return "".join(letter for letter, n, m in own if n == m)

    axes = axes_of(constant.shape)
    sizes = dict(zip(letters, after, strict=True))
    reshaped = constant.reshape([sizes[axis] for axis in axes])
    return Contraction(axes_of(before), axes, letters, reshaped, before, after)


def copies(weight: float, before: Shape, after: Shape) -> Contraction:
    """Return an input times a weight, broadcast to a shape."""
    aligned = (1,) * (len(after) - len(before)) + before
    missing = tuple(1 if n == m else m for n, m in zip(aligned, after, strict=True))
    return product(np.broadcast_to(np.float64(weight), missing), before)


def sums(axes: Sequence[int], before: Shape, keep: bool, factor: float = 1.0) -> Contraction:
    """Return the sums over axes; ``keep``: the axes stay, with size 1."""
    letters = ascii_lowercase[: len(before)]
    summed = "".join(letters[axis] for axis in sorted(axes))
    others = "".join(letter for letter in letters if letter not in summed)
    ones = np.broadcast_to(1.0, [before[axis] for axis in sorted(axes)])
    kept = [1 if axis in axes else n for axis, n in enumerate(before)]
    after = tuple(kept) if keep else tuple(n for axis, n in enumerate(before) if axis not in axes)
    return Contraction(letters, summed, others, ones, before, after, factor)


def along(matrix: FloatArray, axis: int, before: Shape, factor: float = 1.0) -> Contraction:
    """Return the product of a matrix (out, in) with an input along an axis."""
    letters = ascii_lowercase[: len(before)]
    outputs = "z"
    after = (*before[:axis], len(matrix), *before[axis + 1 :])
    y = letters[:axis] + outputs + letters[axis + 1 :]
    return Contraction(letters, outputs + letters[axis], y, matrix, before, after, factor)


def contracted(terms: Sequence[Contraction], roundings: int, **fields: Any) -> LinearMap:
    """Return the linear map that adds up one contraction of each input.

    ``fields``: of the map, besides those that follow from the contractions.
    """

    def sum_of(contractions: Sequence[Contraction]) -> Apply:
        def apply(x: Sequence[FloatArray]) -> FloatArray:
            total, *others = (term.apply(value) for term, value in zip(contractions, x, strict=True))
            for other in others:
                total = total + other
            return total

        return apply

    return LinearMap(
        sum_of(terms),
        absolute=sum_of([term.absolute() for term in terms]),
        roundings=roundings,
        shape=terms[0].after,
        adjoint=lambda y: [term.back(y) for term in terms],
        **fields,
    )
