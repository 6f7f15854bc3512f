"""Quotients of a value by a function of its 2-norm |x| ("length"): layer norm, RMS norm and division by the norm.

These are x / max(|x| + eps, a), x / (|x| + eps), x / |x|, x / sqrt(mean(x^2) + eps) and x / sqrt(sum(x^2) + eps). They
may also be written as products with an inverse, x min(1, 1 / (|x| + eps)) among them, and value and length may be
multiplied by numbers. In (x - mean(x)) / sqrt(variance + eps), the variance may be written
max(mean(x^2) - mean(x)^2, 0).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.linear import SMALLEST_NORMAL
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.certified.patterns.structure import NoPattern, Structure, is_difference, kept_shape

LARGEST_FLOAT = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Divisor:
    """A function of the length (the 2-norm) of a value along some axes, which are kept with size 1."""

    source: str
    """Name of the value."""
    axes: tuple[int, ...]
    eps: float
    form: Form | Literal["variance"]
    """Function of the length and eps, as in `Normalise`. "variance" means "mean square" for the value less its mean."""
    terms: int | None = None
    """As in `Normalise`."""
    floor: float = 0.0
    """As in `Normalise`."""


def as_normalisation(node: Node, structure: Structure) -> list[Node]:
    """Return nodes in place of a quotient: a value's length, the value normalized by it, and a multiple of that."""
    factor, dividend, divisor = _quotient(node, structure)
    if divisor.form == "variance":
        # With y = x - mean(x), (x - mean(x)) / sqrt(variance(x) + eps) is y / sqrt(mean(y^2) + eps).
        value, mean = _difference(structure.origin(dividend), structure)
        _require_mean(mean, divisor, structure)
        if value.name != structure.origin(divisor.source).name:
            raise NoPattern
        source = dividend
        form: Form = "mean square"
    else:
        source = divisor.source
        form = divisor.form
    shape = structure[source].shape
    if shape is None or node.shape != shape:
        raise NoPattern
    if not _are_same(structure.origin(dividend), structure.origin(source), structure):
        raise NoPattern
    norm = ops.Norm(divisor.axes, keep=True)
    length = structure.added(node, "length", norm, (dividend,), kept_shape(shape, divisor.axes))
    normalise = ops.Normalise(divisor.axes, divisor.eps, form, divisor.terms, divisor.floor)
    inputs = (dividend, length.name)
    if factor == 1:
        return [length, replace(node, operator=normalise, inputs=inputs)]
    quotient = structure.added(node, "quotient", normalise, inputs, shape)
    return [length, quotient, replace(node, operator=_multiple(factor), inputs=(quotient.name,))]


def _multiple(factor: Fraction) -> ops.Scale:
    """Return the product with a number; `NoPattern` if a float is far from it."""
    if not SMALLEST_NORMAL <= abs(factor) <= LARGEST_FLOAT:
        raise NoPattern
    rounded = float(factor)
    return ops.Scale(np.array(rounded), exact=Fraction(rounded) == factor)


def as_inverse_of_maximum(node: Node, structure: Structure) -> list[Node]:
    """Return min(h, r / y) as r / max(y, r / h), for y >= 0 and r, h > 0: y is an absolute value or a length."""
    limit, unlimited = _limit(node, structure)
    r, y = _inverse(unlimited, structure)
    if limit is None or not isinstance(y.operator, (ops.Abs, ops.Norm)) or y.shape != node.shape or r <= 0:
        raise NoPattern
    clamp = ops.HardTanh(_exact(r / limit), math.inf)
    clamped = structure.added(node, "clamped", clamp, (y.name,), node.shape)
    return [clamped, replace(node, operator=ops.Reciprocal(_exact(r)), inputs=(clamped.name,))]


def _inverse(node: Node, structure: Structure) -> tuple[Fraction, Node]:
    """Return a number and the origin of a value by which it is divided."""
    factor, inverse = structure.multiple(node)
    if not isinstance(inverse.operator, ops.Reciprocal) or not math.isfinite(inverse.operator.scale):
        raise NoPattern
    return factor * Fraction(inverse.operator.scale), structure.input_of(inverse)


def _exact(number: Fraction) -> float:
    """Return a number as a float; `NoPattern` if it is none."""
    rounded = float(number) if abs(number) <= LARGEST_FLOAT else math.inf
    if not math.isfinite(rounded) or Fraction(rounded) != number:
        raise NoPattern
    return rounded


def _are_same(node: Node, other: Node, structure: Structure) -> bool:
    """Whether two nodes are one value, or both the same value less its mean along the same axes."""
    if node.name == other.name:
        return True
    with suppress(NoPattern):
        value, mean = _difference(node, structure)
        other_value, other_mean = _difference(other, structure)
        source, axes = _mean(mean, structure)
        are_centred = value.name == other_value.name == source.name
        return are_centred and _mean(other_mean, structure) == (source, axes)
    return False


def as_norm(node: Node, structure: Structure) -> list[Node]:
    """Return the root of a sum of squares as the 2-norm."""
    if not isinstance(node.operator, ops.Sqrt):
        raise NoPattern
    squares, axes, keep = structure.summed(node)
    return [replace(node, operator=ops.Norm(axes, keep), inputs=(_squared(squares, structure),))]


def _quotient(node: Node, structure: Structure) -> tuple[Fraction, str, Divisor]:
    """Return a number, the name of the dividend, and the divisor, of a quotient or a product with an inverse.

    The number is the one by which the quotient of both is multiplied.
    """
    if isinstance(node.operator, ops.Quotient):
        factor, dividend = _dividend(node.inputs[0], structure)
        shrunk, divisor = _length_or_root(structure.before_broadcast(node.inputs[1]), structure)
        return factor / shrunk, dividend, divisor
    if isinstance(node.operator, ops.Product):
        for name, inverse in (node.inputs, node.inputs[::-1]):
            with suppress(NoPattern):
                limit, unlimited = _limit(structure.before_broadcast(inverse), structure)
                number, inverted = _inverse(unlimited, structure)
                factor, dividend = _dividend(name, structure)
                shrunk, divisor = _length_or_root(inverted, structure)
                number /= shrunk
                if limit is not None:
                    divisor = _limited(divisor, number / limit)
                return factor * number, dividend, divisor
    raise NoPattern


def _limit(node: Node, structure: Structure) -> tuple[Fraction | None, Node]:
    """Return the number h of min(h, y), and y; None and the node itself if it is no minimum."""
    cap = node.operator
    if not isinstance(cap, ops.HardTanh) or cap.low != -math.inf or not 0 < cap.high < math.inf:
        return None, node
    return Fraction(cap.high), structure.input_of(node)


def _limited(divisor: Divisor, least: Fraction) -> Divisor:
    """Return max(|x| + eps, least) = max(|x|, least - eps) + eps as a divisor, the floor rounded down."""
    floor = least - Fraction(divisor.eps)
    if divisor.form != "length" or divisor.floor or least < 0:
        raise NoPattern
    if floor <= 0:
        return divisor
    rounded = float(min(floor, Fraction(LARGEST_FLOAT)))
    return replace(divisor, floor=rounded if Fraction(rounded) <= floor else float(host.next_down(rounded)))


def _dividend(name: str, structure: Structure) -> tuple[Fraction, str]:
    """Return a number by which a value is multiplied, and the name of the value."""
    origin = structure.origin(name)
    factor, node = structure.multiple(origin)
    return factor, name if node is origin else node.name


def _length_or_root(node: Node, structure: Structure) -> tuple[Fraction, Divisor]:
    """Return a number, and a divisor that is multiplied by it."""
    factor, node = structure.multiple(node)
    if isinstance(node.operator, ops.Sqrt):
        divisor = _mean_square(node.inputs[0], structure)
    else:
        of_length, divisor = _length(node, structure)
        factor *= of_length
    if factor <= 0:
        raise NoPattern
    return factor, divisor


def _length(node: Node, structure: Structure) -> tuple[Fraction, Divisor]:
    """Return |x|, |x| + eps or max(|x| + eps, a) as a divisor, and a number that it is multiplied by."""
    clamp = node.operator
    if isinstance(clamp, ops.HardTanh) and math.isfinite(clamp.low) and clamp.high == math.inf:
        factor, divisor = _length(structure.input_of(node), structure)
        return factor, _limited(divisor, Fraction(clamp.low) / factor)
    eps, norm = structure.sum_with_number(node)
    factor, norm = structure.multiple(norm)
    if not 0 <= eps < math.inf:
        raise NoPattern
    if isinstance(norm.operator, ops.Sqrt) and factor == 1:  # a standard deviation
        root = _mean_square(norm.inputs[0], structure)
        if root.eps or root.form == "variance":
            raise NoPattern
        count = _entries(structure[root.source], root.axes)
        return factor, replace(root, eps=eps, form="length", terms=root.terms or count)
    if not isinstance(norm.operator, ops.Norm) or not norm.operator.keep or factor <= 0:
        raise NoPattern
    return factor, Divisor(norm.inputs[0], tuple(sorted(norm.operator.axes)), _exact(Fraction(eps) / factor), "length")


def _mean_square(name: str, structure: Structure) -> Divisor:
    """Return a mean of squares, or a variance, as a divisor; both may have eps added.

    ``name``: the value under the root.
    """
    eps, node = structure.sum_with_number(structure.origin(name))
    if isinstance(node.operator, ops.ReLU):  # a computed variance may be below 0
        node = structure.input_of(node)
    if not 0 <= eps < math.inf:
        raise NoPattern
    if not is_difference(node.operator):
        return _mean_of_squares(node, eps, structure)
    minuend, squared_mean = _difference(node, structure)
    divisor = _mean_of_squares(minuend, eps, structure)
    if divisor.form != "mean square" or divisor.terms is not None:
        raise NoPattern
    _require_mean(structure.origin(_squared(squared_mean, structure)), divisor, structure)
    return replace(divisor, form="variance")


def _mean_of_squares(node: Node, eps: float, structure: Structure) -> Divisor:
    factor, squares, axes = _multiple_of_sum(node, structure)
    count = _entries(squares, axes)
    source = _squared(squares, structure)
    if factor == 1 and count > 1:
        return Divisor(source, axes, eps, "sum of squares")
    if factor <= 0 or factor.numerator != 1:
        raise NoPattern
    terms = factor.denominator
    return Divisor(source, axes, eps, "mean square", None if terms == count else terms)


def _entries(node: Node, axes: tuple[int, ...]) -> int:
    """Return the number of entries of a value along axes."""
    return math.prod((node.shape or ())[axis] for axis in axes)


def _difference(node: Node, structure: Structure) -> tuple[Node, Node]:
    """Return minuend and subtrahend."""
    if not is_difference(node.operator):
        raise NoPattern
    return structure.origin(node.inputs[0]), structure.origin(node.inputs[1])


def _mean(node: Node, structure: Structure) -> tuple[Node, tuple[int, ...]]:
    """Return the value whose mean a node is, and the axes: a mean, or a sum divided by the number of its terms."""
    factor, source, axes = _multiple_of_sum(node, structure)
    if factor * _entries(source, axes) != 1:
        raise NoPattern
    return source, axes


def _multiple_of_sum(node: Node, structure: Structure) -> tuple[Fraction, Node, tuple[int, ...]]:
    """Return a number by which a sum is multiplied, what is summed, and the axes, which are kept with size 1."""
    kept = reduced = structure.before_broadcast(node.name)
    total = Fraction(1)
    while True:
        factor, before = structure.multiple(reduced)
        if before is reduced and isinstance(reduced.operator, ops.SameOrder):
            before = structure.input_of(reduced)
        if before is reduced:
            break
        total *= factor
        reduced = structure.before_broadcast(before.name)
    if not isinstance(reduced.operator, ops.Sum | ops.Mean):
        raise NoPattern
    source = structure.input_of(reduced)
    axes = tuple(sorted(reduced.operator.axes))
    if not source.shape or kept.shape != kept_shape(source.shape, axes):
        raise NoPattern
    if isinstance(reduced.operator, ops.Mean):
        total /= max(_entries(source, axes), 1)
    return total, source, axes


def _require_mean(node: Node, divisor: Divisor, structure: Structure) -> None:
    """Refuse a node that is not the mean of the divisor's value along the same axes."""
    if _mean(node, structure) != (structure.origin(divisor.source), divisor.axes):
        raise NoPattern


def _squared(node: Node, structure: Structure) -> str:
    """Return the name of the value whose square a node is."""
    is_square = isinstance(node.operator, ops.Power) and node.operator.exponent == 2
    if isinstance(node.operator, ops.Product):
        factors = {*map(structure.origin, node.inputs)}
        is_square = len(factors) == 1
    if not is_square:
        raise NoPattern
    return node.inputs[0]
