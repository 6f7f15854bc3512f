"""Quotients of a value by a function of its 2-norm |x| ("length"): layer norm, RMS norm and division by the norm.

These are x / max(|x|, eps), x / (|x| + eps), x / |x|, and x / sqrt(mean(x^2) + eps). They may also be written as
products with an inverse. In (x - mean(x)) / sqrt(variance + eps), the variance may be written max(mean(x^2) -
mean(x)^2, 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.normalisation import Form
from specnorm_networks.certified.patterns.structure import Structure, is_difference


@dataclass(frozen=True)
class Divisor:
    """A function of the length (the 2-norm) of a value along some axes, which are kept with size 1."""

    source: str
    """Name of the value."""
    axes: tuple[int, ...]
    eps: float
    form: Form | Literal["variance"]
    """Function of the length and eps, as in `Normalise`. "variance" means "mean square" for the value less its mean."""


def as_normalisation(node: Node, structure: Structure, fresh: Callable[[str], str]) -> list[Node] | None:
    """Return two nodes in place of a quotient: the length of a value, and the value normalised by it.

    None if the node is no such quotient. ``fresh``: returns a name that no node has, similar to a given one.
    """
    quotient = _quotient(node, structure)
    if quotient is None:
        return None
    dividend, divisor = quotient
    if divisor.form == "variance":
        # With y = x - mean(x), (x - mean(x)) / sqrt(variance(x) + eps) is y / sqrt(mean(y^2) + eps).
        centred = _difference(structure.origin(dividend), structure)
        if centred is None:
            return None
        value, mean = centred
        if value.name != structure.origin(divisor.source).name or not _is_mean(mean, divisor, structure):
            return None
        source = dividend
        form: Form = "mean square"
    else:
        source = divisor.source
        form = divisor.form
    shape = structure[source].shape
    if shape is None or node.shape != shape or structure.origin(dividend).name != structure.origin(source).name:
        return None
    kept_shape = tuple(1 if axis in divisor.axes else n for axis, n in enumerate(shape))
    length = Node(
        fresh(f"{node.name}.length"),
        ops.Norm(divisor.axes, keep=True),
        (source,),
        kept_shape,
        node.label,
        derived=True,
    )
    normalise = ops.Normalise(divisor.axes, divisor.eps, form)
    return [length, replace(node, operator=normalise, inputs=(source, length.name))]


def _quotient(node: Node, structure: Structure) -> tuple[str, Divisor] | None:
    """Return the name of the dividend, and the divisor, of a quotient or a product with an inverse."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if isinstance(node.operator, ops.Quotient):
        divisor = _length_or_root(_before_broadcast(second, structure), structure)
        return None if divisor is None else (first, divisor)
    if isinstance(node.operator, ops.Product):
        for dividend, inverse in ((first, second), (second, first)):
            divisor = _divisor_of_inverse(_before_broadcast(inverse, structure), structure)
            if divisor is not None:
                return dividend, divisor
    return None


def _divisor_of_inverse(node: Node, structure: Structure) -> Divisor | None:
    """Return the divisor if a node computes the inverse of one."""
    if isinstance(node.operator, ops.Rsqrt):
        return _mean_square(node.inputs[0], structure)
    if isinstance(node.operator, ops.Reciprocal) and node.operator.scale == 1:
        return _length_or_root(structure.input_of(node), structure)
    return None


def _before_broadcast(name: str, structure: Structure) -> Node:
    """Follow a value back through broadcasts that add no axes; return the node where they began."""
    node = structure.origin(name)
    while isinstance(node.operator, ops.Broadcast):
        before = structure[node.inputs[0]]
        if before.shape is None or node.shape is None or len(before.shape) != len(node.shape):
            break
        node = structure.origin(before.name)
    return node


def _length_or_root(node: Node, structure: Structure) -> Divisor | None:
    length = _length(node, structure)
    if length is not None:
        return length
    if isinstance(node.operator, ops.Sqrt):
        return _mean_square(node.inputs[0], structure)
    return None


def _length(node: Node, structure: Structure) -> Divisor | None:
    """Return a node as a divisor if it computes max(|x|, eps), |x| + eps or |x|."""
    # Unless eps is read below, the divisor is |x| = max(|x|, 0).
    eps = 0.0
    norm = node
    form: Form = "largest"
    sum_with_number = structure.sum_with_number(node)
    if sum_with_number is not None:
        eps, summand = sum_with_number
        norm = structure.origin(summand)
        form = "sum"
    elif isinstance(node.operator, ops.HardTanh) and node.operator.high == math.inf:  # max(|x|, eps), as a clamp
        eps = node.operator.low
        norm = structure.input_of(node)
    if not isinstance(norm.operator, ops.Norm) or not norm.operator.keep or not 0 <= eps < math.inf:
        return None
    return Divisor(norm.inputs[0], tuple(sorted(norm.operator.axes)), eps, form)


def _mean_square(name: str, structure: Structure) -> Divisor | None:
    """Return a mean of squares, or a variance, as a divisor; both may have eps added.

    ``name``: the value under the root.
    """
    node = structure.origin(name)
    eps = 0.0
    sum_with_number = structure.sum_with_number(node)
    if sum_with_number is not None:
        eps, summand = sum_with_number
        node = structure.origin(summand)
    if isinstance(node.operator, ops.ReLU):  # a computed variance may be below 0
        node = structure.input_of(node)
    if not 0 <= eps < math.inf:
        return None
    difference = _difference(node, structure)
    if difference is None:
        return _mean_of_squares(node, eps, structure)
    minuend, squared_mean = difference
    divisor = _mean_of_squares(minuend, eps, structure)
    mean = _squared(squared_mean, structure)
    if divisor is None or mean is None or not _is_mean(structure.origin(mean), divisor, structure):
        return None
    return replace(divisor, form="variance")


def _mean_of_squares(node: Node, eps: float, structure: Structure) -> Divisor | None:
    mean = _mean(node, structure)
    if mean is None:
        return None
    squares, axes = mean
    source = _squared(squares, structure)
    return None if source is None else Divisor(source, axes, eps, "mean square")


def _difference(node: Node, structure: Structure) -> tuple[Node, Node] | None:
    """Return minuend and subtrahend."""
    if not is_difference(node.operator):
        return None
    return structure.origin(node.inputs[0]), structure.origin(node.inputs[1])


def _mean(node: Node, structure: Structure) -> tuple[Node, tuple[int, ...]] | None:
    """Return the value whose mean a node is, and the axes, which have to be kept."""
    if not isinstance(node.operator, ops.Mean) or not node.operator.keep:
        return None
    return structure.input_of(node), tuple(sorted(node.operator.axes))


def _is_mean(node: Node, divisor: Divisor, structure: Structure) -> bool:
    """Whether a node is the mean of the divisor's value along the same axes."""
    return _mean(node, structure) == (structure.origin(divisor.source), divisor.axes)


def _squared(node: Node, structure: Structure) -> str | None:
    """Return the name of the value whose square a node is."""
    match node.operator:
        case ops.Product():
            is_square = len({structure.origin(name).name for name in node.inputs}) == 1
        case ops.Power(exponent=2):
            is_square = True
        case _:
            is_square = False
    return node.inputs[0] if is_square else None
