"""What is known of a node's value while a graph is read: a sum of terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.bound import Upper
from specnorm.problem.spec import ConvSpec
from specnorm.types import AnyArray
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.affine_maps import AffineMap, Filter, Term
from specnorm_networks.certified.graph import Layer, Node, Shape, concrete
from specnorm_networks.certified.kernels import ROUNDINGS, Sizes
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.rules import Average

OFF = ROUNDINGS * 2.0**-53
"""By how much an entry is off, of what `Term.lost` says."""
PIXELS = 2**10
"""Most that are averaged, for a matrix of them."""


@dataclass(frozen=True, eq=False)
class LinearCombination:
    """A node's value: a sum of terms, and constants.

    Parameters
    ----------
    width : int
        Channels.
    axis : int
        Where they are.
    """

    terms: tuple[Term, ...]
    width: int
    axis: int

    @property
    def value(self) -> int | None:
        """The value that it is, and nothing else."""
        (first, *others) = self.terms or (None,)
        whole = first is not None and first.plain and first.rows == first.reads == range(self.width)
        return first.source if first is not None and whole and not others else None


@dataclass(frozen=True, eq=False)
class Value:
    """A value that terms read.

    Parameters
    ----------
    node : str
        Name of the node that it was first.
    link : AffineMap or None
        None: nothing is known of how it came to be. Its terms number the values of the whole graph.
    axis : int
        Of its channels.
    """

    node: str
    width: int
    link: AffineMap | None
    axis: int


def is_padded_layer(node: Node, pad: Node, source: Node) -> bool:
    """Whether padding and the convolution after it are one layer, as `bounding` has it."""
    if not isinstance(node.operator, ops.Convolution) or not isinstance(pad.operator, ops.Pad):
        return False
    layer, pads, mode = node.operator.layer, pad.operator.pads, pad.operator.mode
    if not node.operator.sized:
        return False
    padding = layer.geometry.get("padding", ())
    if isinstance(padding, str) or any(sum(pair) for pair in padding) or layer.geometry.get("transposed"):
        return False
    if mode == "reflect":
        sizes = concrete(None if source.shape is None else source.shape[len(source.shape) - layer.spatial :])
        if sizes is None or any(max(pair) >= n for pair, n in zip(pads, sizes, strict=False)):
            return False
    return len(pads) == layer.spatial


def merged(form: LinearCombination, layer: Layer, cout: int) -> LinearCombination | None:
    """A matrix after a single one, as their product; None where they are no such two."""
    first = form.terms[0] if len(form.terms) == 1 else None
    if first is None or first.filter is None or first.filter.layer.spatial or layer.spatial:
        return None
    if len(first.rows) != form.width or len(first.columns) != first.filter.spec.cin:
        return None
    whole, name = first, f"{first.filter.layer.name} and {layer.name}"

    @cache
    def product() -> tuple[FloatArray, FloatArray]:
        one, other = whole.dense(0, dilated=True)[0], layer.kernel()
        found, sizes = other @ one, abs(other) @ abs(one)
        # Roundings of the sum, and those of the first one's entries, which may be off, as the second one's.
        units = (form.width + ROUNDINGS) * 2.0**-52
        error = units * host.inflate(sizes, form.width) + abs(other) @ (np.zeros(one.shape) + whole.lost * OFF)
        if layer.error is not None:
            error = error + np.asarray(layer.error(), np.float64) @ (abs(one) + whole.lost * OFF)
        return found, host.inflate(error, 2 * form.width + 8) + 2.0**-1000

    def load() -> AnyArray:
        found: Any = product()[0]
        return found

    def error() -> AnyArray:
        found: Any = product()[1]
        return found

    spec = ConvSpec.of((cout, first.filter.spec.cin))
    both = Filter(Layer(name, load, {}, 0, error=error), {}, spec, None)
    term = Term(first.source, first.reads, range(cout), (), both, first.columns)
    return LinearCombination((term,), cout, form.axis)


def keeps_channels(operator: ops.Operator, before: Shape | None, after: Shape | None) -> bool:
    """Whether an operator treats every channel (axis 1) of a value with spatial axes by itself and alike."""
    if before is None or after is None or len(before) < 3:
        return False
    if isinstance(operator, ops.Mean):
        return min(operator.axes, default=0) > 1
    behind = len(before) - 2
    match operator:
        case ops.MaxPool() | ops.AveragePool() | ops.L2Pool():
            kept = len(operator.windows.kernel) <= behind
        case ops.AdaptiveMaxPool() | ops.AdaptiveAveragePool():
            kept = len(operator.outputs) <= behind
        case ops.Resize():
            kept = all(scale == 1 for scale in operator.scales[:2])
        case _:
            kept = operator.keeps_channels
    return kept and len(after) == len(before) and after[:2] == before[:2]


def averages(operator: ops.Operator, before: Shape | None, factor: Upper) -> Average | None:
    """What averages pixels, if they are few."""
    sizes = concrete(None if before is None else before[2:])
    if not isinstance(operator, (ops.Mean, ops.AveragePool, ops.AdaptiveAveragePool)) or sizes is None:
        return None
    return Average(factor, operator.run, sizes) if math.prod(sizes) <= PIXELS else None


def numbers_along(values: FloatArray, axis: int, ndim: int) -> FloatArray | None:
    """Numbers that a value of some axes is multiplied by, one for each entry of one axis; None if they are no such."""
    at = axis - ndim + values.ndim
    return values.reshape(-1) if at >= 0 and values.size == values.shape[at] else None


def spatial(before: Shape | None, after: Shape | None, count: int) -> Sizes | None:
    """Spatial sizes before and after a layer."""
    ends = [concrete(None if shape is None else shape[len(shape) - count :]) for shape in (before, after)]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def flattened(node: Node, before: Shape | None, form: LinearCombination) -> int | None:
    """Positions of each channel that become features, those of one channel next to each other."""
    old, new = concrete(before), concrete(node.shape)
    if old is None or new is None or len(old) < 3 or form.axis != 1 or len(new) != 2:
        return None
    return math.prod(old[2:]) if old[0] == new[0] and old[1] == form.width else None


def of_rows(numbers: FloatArray, rows: range) -> FloatArray:
    """Those of some rows."""
    return numbers[rows.start : rows.stop]


def moved(rows: range, by: int) -> range:
    """Rows further down."""
    return range(rows.start + by, rows.stop + by)


def cropped(term: Term, kept: range) -> Term | None:
    """An identity's part among some rows."""
    first, last = max(term.rows.start, kept.start), min(term.rows.stop, kept.stop)
    if first >= last:
        return None
    at = term.reads.start - term.rows.start
    return replace(term, rows=range(first - kept.start, last - kept.start), reads=range(first + at, last + at))


def sliced(form: LinearCombination, ndim: int, axis: int, size: int, kept: range) -> LinearCombination | None:
    """Some entries along an axis of a value of some axes: channels, or every s-th pixel."""
    if kept == range(size):
        return form
    if axis == form.axis and kept.step == 1:
        if not all(term.plain for term in form.terms):
            return None
        cuts = [cropped(term, kept) for term in form.terms]
        return LinearCombination(tuple(term for term in cuts if term is not None), len(kept), axis)
    behind = axis - form.axis - 1
    whole = kept == range(0, size, kept.step)
    if not whole or behind < 0 or any(t.filter is not None for t in form.terms):
        return None
    wide = [1] * (ndim - form.axis - 1)
    wide[behind] = kept.step
    old = [term.stride or (1,) * len(wide) for term in form.terms]
    if any(stride[behind] > 1 for stride in old):
        return None
    new = [tuple(a * b for a, b in zip(stride, wide, strict=True)) for stride in old]
    return replace(form, terms=tuple(replace(t, stride=s) for t, s in zip(form.terms, new, strict=True)))


def sorted_together(operator: ops.Sort | ops.GroupSort | ops.Reflection, form: LinearCombination) -> NDArray[np.intp]:
    """For each channel the number of the group that it is sorted, or reflected, with."""
    at = np.arange(form.width)
    if operator.axis != form.axis:
        return at
    match operator:
        case ops.Sort():
            return np.zeros_like(at)
        case ops.GroupSort(layout="consecutive"):
            return at // operator.size
        case ops.GroupSort():
            return at % (form.width // operator.size)
        case ops.Reflection():
            return at % (form.width // 2)


def outward(rounded: Callable[[float], float], numbers: FloatArray) -> FloatArray:
    """Each number rounded, but 0."""
    return np.array([rounded(float(number)) if number else 0.0 for number in numbers])


def times(form: LinearCombination, number: float) -> LinearCombination:
    """A number times a form."""
    return replace(form, terms=tuple(replace(term, alpha=term.alpha * number) for term in form.terms))
