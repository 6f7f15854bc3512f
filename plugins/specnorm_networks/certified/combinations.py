"""Sums of linear maps of earlier values, in which form the reader of a network keeps a node; operations on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import host
from specnorm_networks.certified.graph import Layer
from specnorm_networks.certified.kernels import ROUNDINGS
from specnorm_networks.certified.links import ENTRY_ERROR_UNIT, Filter, Term
from specnorm_networks.certified.operators.base import FloatArray


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
        """Number of the value that the sum is equal to; None if it is more than that value alone."""
        if len(self.terms) != 1:
            return None
        (term,) = self.terms
        every_channel = range(self.width)
        is_whole = term.plain and term.rows == every_channel and term.reads == every_channel
        return term.source if is_whole else None


def shift_rows(term: Term, by: int) -> Term:
    """Return a term that is added to channels with larger numbers. ``by``: by how much larger."""
    return replace(term, rows=range(term.rows.start + by, term.rows.stop + by))


def multiply(combination: LinearCombination, number: float) -> LinearCombination:
    """Return a number times a sum of terms."""
    return replace(combination, terms=tuple(replace(term, alpha=term.alpha * number) for term in combination.terms))


def crop(term: Term, channels: range) -> Term | None:
    """Return the part of an identity that is added to some channels of its link; None if there is none.

    In the returned term, the first of these channels has the number 0.
    """
    first = max(term.rows.start, channels.start)
    last = min(term.rows.stop, channels.stop)
    if first >= last:
        return None
    offset = term.reads.start - term.rows.start
    rows = range(first - channels.start, last - channels.start)
    return replace(term, rows=rows, reads=range(first + offset, last + offset))


def slice_of(
    combination: LinearCombination,
    ndim: int,
    axis: int,
    size: int,
    entries: range,
) -> LinearCombination | None:
    """Return the sum that some entries along an axis of a value are; None if it is no sum of terms.

    Consecutive channels have one, and every s-th pixel from the first one on.

    ``ndim``: number of the value's axes. ``size``: its size along ``axis``. ``entries``: numbers of the entries.
    """
    if entries == range(size):
        return combination
    if axis == combination.axis and entries.step == 1:
        return _some_channels(combination, entries)
    if axis > combination.axis and entries == range(0, size, entries.step):
        return _every_nth_pixel(combination, ndim - combination.axis - 1, axis - combination.axis - 1, entries.step)
    return None


def _some_channels(combination: LinearCombination, channels: range) -> LinearCombination | None:
    """Return some channels of a sum of identities; None if it has other terms."""
    if not all(term.plain for term in combination.terms):
        return None
    cropped = [crop(term, channels) for term in combination.terms]
    return LinearCombination(tuple(term for term in cropped if term is not None), len(channels), combination.axis)


def _every_nth_pixel(
    combination: LinearCombination,
    axes: int,
    axis: int,
    step: int,
) -> LinearCombination | None:
    """Return every ``step``-th pixel along one of the spatial axes; None if a term is a layer or strided there."""
    ones = (1,) * axes
    terms = []
    for term in combination.terms:
        stride = list(term.stride or ones)
        if term.filter is not None or stride[axis] > 1:
            return None
        stride[axis] *= step
        terms.append(replace(term, stride=tuple(stride)))
    return replace(combination, terms=tuple(terms))


def product_of_matrices(
    combination: LinearCombination,
    layer: Layer,
    cout: int,
) -> LinearCombination | None:
    """Return a matrix times a sum that is itself a single matrix, as one matrix; None if either is no matrix.

    ``cout``: number of the product's outputs.
    """
    if len(combination.terms) != 1:
        return None
    (first,) = combination.terms
    if first.filter is None or first.filter.layer.spatial or layer.spatial:
        return None
    if len(first.rows) != combination.width or len(first.columns) != first.filter.spec.cin:
        return None

    @cache
    def product_and_error() -> tuple[FloatArray, FloatArray]:
        return _product_and_error(first, layer, combination.width)

    def load_product() -> FloatArray:
        product, _ = product_and_error()
        return product

    def load_error() -> FloatArray:
        _, error = product_and_error()
        return error

    product_layer = Layer(f"{first.filter.layer.name} and {layer.name}", load_product, {}, 0, error=load_error)
    spec = ConvSpec.of((cout, first.filter.spec.cin))
    term = Term(
        first.source,
        reads=first.reads,
        rows=range(cout),
        filter=Filter(product_layer, {}, spec, None),
        columns=first.columns,
    )
    return LinearCombination((term,), cout, combination.axis)


def _product_and_error(first: Term, layer: Layer, width: int) -> tuple[FloatArray, FloatArray]:
    """Return the product ``left right`` of two matrices, and a bound of the error of each entry.

    ``first``: the term with the matrix ``right``, which is applied first. ``layer``: the matrix ``left``. ``width``:
    number of columns of ``left``, the length of the sums.
    """
    right: Any = first.dense(0, dilated=True).kernel
    left: Any = layer.kernel()
    product = left @ right
    # Roundings of the sums, and of scaling the right matrix: relative to the sums of absolute values.
    rounding = (width + ROUNDINGS) * 2.0**-52 * host.inflate(abs(left) @ abs(right), width)
    right_error = np.zeros(right.shape) + first.entry_error * ENTRY_ERROR_UNIT
    error = rounding + abs(left) @ right_error
    if layer.error is not None:
        left_error = np.asarray(layer.error(), np.float64)
        error = error + left_error @ (abs(right) + right_error)
    return product, host.inflate(error, 2 * width + 8) + 2.0**-1000


def round_but_zero(rounding: Callable[[float], float], numbers: FloatArray) -> FloatArray:
    """Return each number rounded by a function; 0 is exact and stays."""
    return np.array([rounding(float(number)) if number else 0.0 for number in numbers])
