"""Sums of linear maps of earlier values, and operations on such sums. The reader of a network keeps nodes as sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from specnorm_networks.certified.links import Term
from specnorm_networks.certified.operators.base import NoBoundError


class NoSumError(NoBoundError):
    """A node is no sum of terms, so that it has no bound as a part of a link."""


SMALLEST_NORMAL = Fraction(float(np.finfo(np.float64).smallest_normal))
LARGEST = Fraction(float(np.finfo(np.float64).max))


@dataclass(frozen=True, eq=False)
class LinearCombination:
    """The value of a node as a sum of terms, up to constants."""

    terms: tuple[Term, ...]
    width: int
    """Number of channels."""
    axis: int
    """Axis of the channels."""

    @property
    def single_value(self) -> int | None:
        """Number of a value if the sum is equal to that value; None if it is not a single value."""
        if len(self.terms) != 1:
            return None
        (term,) = self.terms
        every_channel = range(self.width)
        is_whole = term.is_identity and term.rows == every_channel and term.reads == every_channel
        return term.source if is_whole else None


def shift_rows(term: Term, by: int) -> Term:
    """Return a term with ``by`` added to the numbers of the channels that it is added to."""
    return replace(term, rows=range(term.rows.start + by, term.rows.stop + by))


def multiply(combination: LinearCombination, number: float) -> LinearCombination:
    """Return a number times a sum of terms."""
    terms = [replace(term, alpha=product_of_factors(term.alpha, number)) for term in combination.terms]
    return replace(combination, terms=tuple(terms))


def product_of_factors(first: Fraction, second: float) -> Fraction:
    """Return the exact product of two factors; `NoSumError` unless it is 0 or as large as a normal number.

    Bounds allow for the relative rounding of normal numbers, and outside of their range it is larger.
    """
    product = first * Fraction(second) if math.isfinite(second) else LARGEST + 1
    if product and not SMALLEST_NORMAL <= abs(product) <= LARGEST:
        raise NoSumError
    return product


def slice_of(
    combination: LinearCombination,
    ndim: int,
    axis: int,
    size: int,
    entries: range,
) -> LinearCombination:
    """Return a slice of a value, again as a sum of terms; `NoSumError` if that is not possible.

    It may be possible for consecutive channels, and for every s-th pixel beginning with the first.

    ``ndim``: number of the value's axes. ``axis``: the axis along which it is sliced. ``size``: the value's size along
    that axis. ``entries``: numbers of the entries along it that the slice contains.
    """
    if entries == range(size):
        return combination
    if axis == combination.axis and entries.step == 1:
        return _some_channels(combination, entries)
    if axis > combination.axis and entries == range(0, size, entries.step):
        return _every_nth_pixel(combination, ndim - combination.axis - 1, axis - combination.axis - 1, entries.step)
    raise NoSumError


def _some_channels(combination: LinearCombination, channels: range) -> LinearCombination:
    """Return some channels of a sum of identities; `NoSumError` if it has other terms."""
    terms: list[Term] = []
    for term in combination.terms:
        if not term.is_identity:
            raise NoSumError
        first, last = max(term.rows.start, channels.start), min(term.rows.stop, channels.stop)
        if first < last:
            offset = term.reads.start - term.rows.start
            rows = range(first - channels.start, last - channels.start)
            terms.append(replace(term, rows=rows, reads=range(first + offset, last + offset)))
    return LinearCombination(tuple(terms), len(channels), combination.axis)


def _every_nth_pixel(
    combination: LinearCombination,
    spatial_axes: int,
    spatial_axis: int,
    step: int,
) -> LinearCombination:
    """Return every ``step``-th pixel along an axis; `NoSumError` if a term is a layer, or strided along that axis.

    ``spatial_axes``: number of the spatial axes. ``spatial_axis``: number of the axis, counted from the first of these.
    """
    ones = (1,) * spatial_axes
    terms = []
    for term in combination.terms:
        stride = list(term.stride or ones)
        if term.placed_layer is not None or stride[spatial_axis] > 1:
            raise NoSumError
        stride[spatial_axis] *= step
        terms.append(replace(term, stride=tuple(stride)))
    return replace(combination, terms=tuple(terms))
