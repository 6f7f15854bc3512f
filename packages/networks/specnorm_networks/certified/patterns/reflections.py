"""Choices between two linear maps by the sign of a linear form: Householder activations, written out.

f(z) is A z where s.z <= 0, and B z elsewhere. If both agree where s.z = 0, f is continuous, and linear on either side.
A segment crosses the border once, so that |f(z) - f(z')| <= max(||A||, ||B||) |z - z'|.

The angle of a Householder activation is a parameter. Its sine and cosine are computed, so that A and B agree only up to
rounding. That jump is not counted, as the answer's note says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns.structure import NoPattern, PartOfValue, Structure, are_halves, is_sum_of_two

DEEPEST = 8
"""Largest number of nodes between a value and a multiple of it."""

Combination: TypeAlias = Mapping[PartOfValue, FloatArray]
"""A sum of multiples of parts: the factor of each."""


def _choice(node: Node, structure: Structure) -> tuple[str, str, str]:
    """Return as three names the choice ``where(condition, true, false)``, or one that is written by gates.

    The first value is compared with 0; the second is chosen where that is not above 0, the third where it is.
    """
    if is_sum_of_two(node.operator):
        return _choice_by_gates(node, structure)
    if not isinstance(node.operator, ops.Choose):
        raise NoPattern
    condition, true, false = node.inputs
    compared, kind = _comparison_with_0(condition, structure)
    if kind in ("le", "lt"):
        return compared, true, false
    return compared, false, true


def _choice_by_gates(node: Node, structure: Structure) -> tuple[str, str, str]:
    """Return the choice ``(s <= 0) * below + (s > 0) * above``, or the same with < and >=."""
    gated: dict[str, tuple[str, str]] = {}
    for name in node.inputs:
        product = structure.origin(name)
        if not isinstance(product.operator, ops.Product):
            raise NoPattern
        for value, gate in (product.inputs, product.inputs[::-1]):
            with suppress(NoPattern):
                compared, kind = _comparison_with_0(gate, structure)
                gated[kind] = (compared, value)
    for kind_below, kind_above in (("le", "gt"), ("lt", "ge")):
        if gated.keys() == {kind_below, kind_above}:
            compared, below = gated[kind_below]
            compared_again, above = gated[kind_above]
            if compared == compared_again:
                return compared, below, above
    raise NoPattern


def _comparison_with_0(name: str, structure: Structure) -> tuple[str, str]:
    """Return the name of the value that is compared with 0, and the kind of comparison."""
    node = structure.origin(name)
    if not isinstance(node.operator, ops.Compare) or node.operator.threshold != 0:
        raise NoPattern
    return structure.input_of(node).name, node.operator.kind


def as_reflection(node: Node, structure: Structure) -> list[Node]:
    """Return a reflection in place of two choices by the same sign, between linear maps of both halves of a value.

    The choices have to be joined along the axis of the halves.
    """
    concat = node.operator
    if not isinstance(concat, ops.Concat) or concat.new or len(node.inputs) != 2:
        raise NoPattern
    first, second = (_choice(structure.origin(name), structure) for name in node.inputs)
    if first[0] != second[0]:
        raise NoPattern
    combinations = [_combination(name, structure) for name in (*first, *second[1:])]
    parts = sorted(set().union(*combinations), key=lambda part: part.start)
    if len(parts) != 2 or not are_halves(*parts) or parts[0].axis != concat.axis:
        raise NoPattern
    half = parts[0].stop
    source = structure[parts[0].source]
    axes_from_axis = len(source.shape or ()) - concat.axis
    rows = [_by_channel(combination, parts, axes_from_axis, half) for combination in combinations]
    sign, first_below, first_above, second_below, second_above = rows
    below = np.array([first_below, second_below])
    above = np.array([first_above, second_above])
    reflection = ops.Reflection(concat.axis, sign, below, above)
    if reflection.norm is None:
        raise NoPattern
    return [replace(node, operator=reflection, inputs=(source.name,))]


def _combination(name: str, structure: Structure, depth: int = 0) -> Combination:
    """Return a value as a sum of multiples of parts, up to added constants, of at most `DEEPEST` levels."""
    if depth > DEEPEST:
        raise NoPattern
    part = structure.part_of_value(name)
    itself = {part: np.ones(())}
    if not part.is_whole:
        return itself
    node = structure.origin(name)
    factor = _factor(node, structure)
    if factor is not None:
        inner = _combination(node.inputs[0], structure, depth + 1)
        return {each: values * factor for each, values in inner.items()}
    if isinstance(node.operator, ops.Add):
        return _sum_of_combinations(node, node.operator, structure, depth)
    return itself


def _factor(node: Node, structure: Structure) -> FloatArray | None:
    """Return the exact numbers by which a node multiplies its input, entry by entry; None if it does something else.

    The numbers broadcast against the input without making it larger. None is 0.
    """
    scale = node.operator
    if isinstance(scale, ops.Negative):
        return np.array(-1.0)
    if not isinstance(scale, ops.Scale) or scale.offset is not None or scale.values.dtype.kind != "f":
        return None
    keeps_shape = node.shape is not None and node.shape == structure[node.inputs[0]].shape
    if scale.values.ndim > 0 and not keeps_shape:
        return None
    return scale.values if scale.exact and scale.is_accurate and np.all(scale.values) else None


def _sum_of_combinations(node: Node, add: ops.Add, structure: Structure, depth: int) -> Combination:
    combination: dict[PartOfValue, FloatArray] = {}
    for name, weight in zip(node.inputs, add.weights, strict=True):
        summand = _combination(name, structure, depth + 1)
        if node.shape is None or structure[name].shape != node.shape:
            raise NoPattern
        # The difference of two multiples of one part may lose digits.
        if combination.keys() & summand.keys():
            raise NoPattern
        for part, values in summand.items():
            combination[part] = values * weight
    return combination


def _by_channel(
    combination: Combination,
    parts: Sequence[PartOfValue],
    axes_from_axis: int,
    half: int,
) -> FloatArray:
    """Return the factors of two parts as one number for each entry along their axis, shape (2, half).

    ``axes_from_axis``: number of the value's axes from that axis to the last.
    ``half``: number of entries of a part along the axis.
    """
    rows = np.zeros((2, half))
    for number, part in enumerate(parts):
        values = combination.get(part, np.zeros(()))
        along_axis = values.shape[-axes_from_axis] if values.ndim >= axes_from_axis else 1
        if values.size != along_axis or along_axis not in (1, half):
            raise NoPattern
        rows[number] = values.reshape(-1)
    return rows
