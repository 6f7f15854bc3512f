"""Read a graph as values and links: which values are a sum of linear maps of earlier ones, behind a function.

The reader follows the nodes in order. For a node that is linear in earlier values it keeps the sum
(`LinearCombination`). For a function of each entry it makes a new value, whose link is the sum and the function. What
no link can describe (a product of two values, an operator without a rule) is a value of its own, with which other links
may begin. `runs` gathers the links.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec, SpecnormError
from specnorm.proof import Upper, host
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Layer, Node, Shape
from specnorm_networks.certified.kernels import ROUNDINGS, Sizes
from specnorm_networks.certified.links import ENTRY_ERROR_UNIT, AffineMap, Filter, Term
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.rules import Average, followed, of_operator, of_slopes, unmoved
from specnorm_networks.certified.scope import Scope

MOST_AVERAGED = 2**10
"""Largest number of averaged pixels for which the matrix of the averages is kept."""
MOST_TERMS = 128
"""Largest number of terms of a sum. A value that is added to itself again and again has more than any memory holds."""


@dataclass(frozen=True, eq=False)
class LinearCombination:
    """The value of a node as a sum of terms and constants."""

    terms: tuple[Term, ...]
    width: int
    """Channels."""
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


@dataclass(frozen=True, eq=False)
class Value:
    """A value that terms read."""

    node: str
    """Name of the node that first had this value."""
    width: int
    """Channels."""
    link: AffineMap | None
    """How the value is computed; its terms number the values of the whole graph. None: unknown."""
    axis: int
    """Axis of the channels."""


# -- questions about operators -----------------------------------------------------------------------------------------
def is_padded_layer(node: Node, pad: Node, source: Node) -> bool:
    """Whether a convolution and the padding before it are bounded as one layer.

    ``source``: the node that is padded.
    """
    if not isinstance(node.operator, ops.Convolution) or not isinstance(pad.operator, ops.Pad):
        return False
    layer = node.operator.layer
    pads = pad.operator.pads
    padding = layer.geometry.get("padding", ())
    if isinstance(padding, str) or any(sum(pair) for pair in padding) or layer.geometry.get("transposed"):
        return False
    if pad.operator.mode == "reflect":
        if source.shape is None:
            return False
        sizes = source.shape[len(source.shape) - layer.spatial :]
        if any(max(pair) >= size for pair, size in zip(pads, sizes, strict=False)):
            return False
    return len(pads) == layer.spatial


def keeps_channels(operator: ops.Operator, before: Shape | None, after: Shape | None) -> bool:
    """Whether an operator treats each channel (axis 1) of a value with spatial axes by itself, and all alike."""
    if before is None or after is None or len(before) < 3:
        return False
    if isinstance(operator, ops.Mean):
        return min(operator.axes, default=0) > 1
    match operator:
        case ops.MaxPool() | ops.AveragePool():
            leaves_channels = len(operator.windows.kernel) <= len(before) - 2
        case ops.Resize():
            leaves_channels = all(scale == 1 for scale in operator.scales[:2])
        case _:
            leaves_channels = operator.keeps_channels
    return leaves_channels and len(after) == len(before) and after[:2] == before[:2]


def average_of(operator: ops.Operator, before: Shape | None, factor: Upper) -> Average | None:
    """Return the averages that an operator takes of the pixels of each channel; None if it takes none, or of many."""
    if not isinstance(operator, (ops.Mean, ops.AveragePool)) or before is None:
        return None
    sizes = before[2:]
    return Average(factor, operator.run, sizes) if math.prod(sizes) <= MOST_AVERAGED else None


def numbers_along(values: FloatArray, axis: int, ndim: int) -> FloatArray | None:
    """Return an array as one number for each entry of one axis of a value; None if it varies along other axes.

    ``values``: broadcasts against the value, which has ``ndim`` axes.
    """
    aligned_axis = axis - ndim + values.ndim
    if aligned_axis < 0 or values.size != values.shape[aligned_axis]:
        return None
    return values.reshape(-1)


def spatial_sizes(before: Shape | None, after: Shape | None, axes: int) -> Sizes | None:
    """Return the spatial sizes before and after a layer; None if one is unknown."""
    if before is None or after is None:
        return None
    return before[len(before) - axes :], after[len(after) - axes :]


def features_of_channel(node: Node, before: Shape | None, form: LinearCombination) -> int | None:
    """Return how many features each channel becomes where a value is flattened; None if it is not flattened.

    The features of one channel are next to each other then.
    """
    after = node.shape
    if before is None or after is None or len(before) < 3 or form.axis != 1 or len(after) != 2:
        return None
    if before[0] != after[0] or before[1] != form.width:
        return None
    return math.prod(before[2:])


def group_of_channels(
    operator: ops.Sort | ops.GroupSort | ops.Reflection,
    form: LinearCombination,
) -> NDArray[np.intp]:
    """Return for each channel the number of the group that it is sorted, or reflected, with."""
    channels = np.arange(form.width)
    if operator.axis != form.axis:
        return channels
    match operator:
        case ops.Sort():
            return np.zeros_like(channels)
        case ops.GroupSort(layout="consecutive"):
            return channels // operator.size
        case ops.GroupSort():
            return channels % (form.width // operator.size)
        case ops.Reflection():
            return channels % (form.width // 2)


# -- operations on sums ------------------------------------------------------------------------------------------------
def shift_rows(term: Term, by: int) -> Term:
    """Return a term that is added to later channels."""
    return replace(term, rows=range(term.rows.start + by, term.rows.stop + by))


def multiply(form: LinearCombination, number: float) -> LinearCombination:
    """Return a number times a sum."""
    return replace(form, terms=tuple(replace(term, alpha=term.alpha * number) for term in form.terms))


def crop(term: Term, channels: range) -> Term | None:
    """Return what an identity adds to some channels of its link, numbered from 0; None if it adds nothing."""
    first = max(term.rows.start, channels.start)
    last = min(term.rows.stop, channels.stop)
    if first >= last:
        return None
    offset = term.reads.start - term.rows.start
    rows = range(first - channels.start, last - channels.start)
    return replace(term, rows=rows, reads=range(first + offset, last + offset))


def slice_of(
    form: LinearCombination,
    ndim: int,
    axis: int,
    size: int,
    entries: range,
) -> LinearCombination | None:
    """Return some entries along an axis of a value with ``ndim`` axes.

    Those are consecutive channels, or every s-th pixel; None for others.
    """
    if entries == range(size):
        return form
    if axis == form.axis and entries.step == 1:
        return _channels_of(form, entries)
    if axis > form.axis and entries == range(0, size, entries.step):
        return _every_pixel(form, ndim - form.axis - 1, axis - form.axis - 1, entries.step)
    return None


def _channels_of(form: LinearCombination, channels: range) -> LinearCombination | None:
    """Return some channels of a sum of identities; None if it has other terms."""
    if not all(term.plain for term in form.terms):
        return None
    cropped = [crop(term, channels) for term in form.terms]
    return LinearCombination(tuple(term for term in cropped if term is not None), len(channels), form.axis)


def _every_pixel(
    form: LinearCombination,
    axes: int,
    axis: int,
    step: int,
) -> LinearCombination | None:
    """Return every ``step``-th pixel along one of the spatial axes; None if a term is a layer or strided there."""
    ones = (1,) * axes
    terms = []
    for term in form.terms:
        stride = list(term.stride or ones)
        if term.filter is not None or stride[axis] > 1:
            return None
        stride[axis] *= step
        terms.append(replace(term, stride=tuple(stride)))
    return replace(form, terms=tuple(terms))


def product_of_matrices(
    form: LinearCombination,
    layer: Layer,
    cout: int,
) -> LinearCombination | None:
    """Return a matrix times a sum that is a single matrix, as one matrix; None if either is something else."""
    if len(form.terms) != 1:
        return None
    (first,) = form.terms
    if first.filter is None or first.filter.layer.spatial or layer.spatial:
        return None
    if len(first.rows) != form.width or len(first.columns) != first.filter.spec.cin:
        return None

    @cache
    def product_and_error() -> tuple[FloatArray, FloatArray]:
        return _product_and_error(first, layer, form.width)

    name = f"{first.filter.layer.name} and {layer.name}"
    product = Layer(name, lambda: product_and_error()[0], {}, 0, error=lambda: product_and_error()[1])
    spec = ConvSpec.of((cout, first.filter.spec.cin))
    term = Term(
        first.source,
        reads=first.reads,
        rows=range(cout),
        filter=Filter(product, {}, spec, None),
        columns=first.columns,
    )
    return LinearCombination((term,), cout, form.axis)


def _product_and_error(first: Term, layer: Layer, width: int) -> tuple[FloatArray, FloatArray]:
    """Return the product of two matrices, and a bound of the error of each entry.

    ``width``: length of the sums, the columns of the second matrix.
    """
    right: Any = first.dense(0, dilated=True)[0]
    left: Any = layer.kernel()
    product = left @ right
    # Errors of the sums, whose roundings and those of scaling the first matrix refer to the sums of absolute values.
    unit = (width + ROUNDINGS) * 2.0**-52
    error = unit * host.inflate(abs(left) @ abs(right), width)
    # Errors of the first matrix's entries, and of the second's.
    right_error = np.zeros(right.shape) + first.entry_error * ENTRY_ERROR_UNIT
    error = error + abs(left) @ right_error
    if layer.error is not None:
        error = error + np.asarray(layer.error(), np.float64) @ (abs(right) + first.entry_error * ENTRY_ERROR_UNIT)
    return product, host.inflate(error, 2 * width + 8) + 2.0**-1000


def round_but_zero(rounding: Callable[[float], float], numbers: FloatArray) -> FloatArray:
    """Return each number rounded outward; 0 is exact and stays."""
    return np.array([rounding(float(number)) if number else 0.0 for number in numbers])


# -- the reader --------------------------------------------------------------------------------------------------------
class Reader:
    """Reads a graph; the answers are `values` and `escaping`.

    Nodes are in one of four states: a sum of terms is known (`_forms`); a number times another node (`_multiples`); a
    value of its own (`_fresh`), made when a link first reads the node; or nothing of these.
    """

    def __init__(self, graph: Graph) -> None:
        self.scope = Scope(graph)
        self.nodes = graph.by_name
        self.readers = graph.readers()
        self.values: list[Value] = []
        """All values, each after those that it reads."""
        self.escaping: set[int] = set()
        """Numbers of the values that something other than a link reads."""
        self._forms: dict[str, LinearCombination] = {}
        self._fresh: dict[tuple[str, int], LinearCombination] = {}
        """Values of nodes about which nothing is known, by the node and the axis of its channels."""
        self._multiples: dict[str, tuple[str, float]] = {}
        """Nodes that are a number times another one, the axis of whose channels is not known yet."""
        self._extendable: set[str] = set()
        """Nodes whose form is a value that no link reads yet and that only one more node reads: that node may still be
        added to the value's link."""
        for node in graph.nodes:
            self._read(node)
        for name in graph.outputs:
            self._escape(name)

    def _read(self, node: Node) -> None:
        form = self._form_of_node(node) if node.inputs else None
        if form is not None and len(form.terms) <= MOST_TERMS:
            self._forms[node.name] = form
            return
        if isinstance(node.operator, ops.Pad) and self._belongs_to_layers(node):
            return
        for name in node.inputs:
            self._escape(name)

    def _form_of_node(self, node: Node) -> LinearCombination | None:
        match node.operator:
            case ops.Convolution() as layer:
                return self._layer(node, layer, 1.0)
            case ops.Matrix(side="right") as layer:
                return self._layer(node, layer, layer.alpha)
            case ops.Scale() as scale:
                return self._scale(node, scale)
            case ops.Pointwise() as function:
                return self._pointwise(node, function)
            case ops.Add(over=1) as add:
                return self._add(node, add)
            case ops.Concat(new=False) as concat:
                return self._concatenate(node, concat.axis)
            case ops.Slice() as cut:
                return self._slice(node, cut)
            case ops.Identity() | ops.SameOrder():
                return self._reshape(node)
            case ops.Sort(first=None) | ops.GroupSort() | ops.Reflection() as sort:
                return self._sort(node, sort)
            case ops.SignParts() as parts:
                return self._both_signs(node, parts)
            case ops.SideBySide() as functions:
                return self._side_by_side(node, functions)
            case ops.Pad() as pad:
                return self._pad(node, pad)
            case _:
                return self._follow_channelwise(node)

    def _belongs_to_layers(self, pad: Node) -> bool:
        """Whether everything that reads this padding is a layer that is bounded together with it."""
        source = self.nodes[pad.inputs[0]]
        reading = [node for node in self.nodes.values() if pad.name in node.inputs]
        return len(reading) == self.readers[pad.name] and all(is_padded_layer(node, pad, source) for node in reading)

    # -- values ------------------------------------------------------------------------------------------------------
    def _form(self, name: str, axis: int) -> LinearCombination | None:
        """Return a node as a sum with its channels on an axis; a node that is no sum becomes a value of its own."""
        if name in self._forms:
            form = self._forms[name]
            return form if form.axis == axis else None
        if name in self._multiples:
            source, number = self._multiples[name]
            multiplied = self._form(source, axis)
            return None if multiplied is None else multiply(multiplied, number)
        shape = self.nodes[name].shape
        if shape is None or not 0 <= axis < len(shape) or not isinstance(shape[axis], int):
            return None
        width = int(shape[axis])
        if isinstance(self.nodes[name].operator, ops.Constant):
            return LinearCombination((), width, axis)
        if (name, axis) not in self._fresh:
            self._fresh[name, axis] = self._append_value(name, width, axis, None)
        return self._fresh[name, axis]

    def _append_value(
        self,
        name: str,
        width: int,
        axis: int,
        link: AffineMap | None,
    ) -> LinearCombination:
        self.values.append(Value(name, width, link, axis))
        every_channel = range(width)
        return LinearCombination((Term(len(self.values) - 1, every_channel, every_channel),), width, axis)

    def _append_link(
        self,
        node: Node,
        form: LinearCombination,
        link: AffineMap,
    ) -> LinearCombination:
        """Make a node's value a new one that a link computes from a sum."""
        self._mark_extendable(node)
        return self._append_value(node.name, link.width, form.axis, link)

    def _mark_extendable(self, node: Node) -> None:
        if self.readers[node.name] == 1:
            self._extendable.add(node.name)

    def _form_as_value(self, name: str, axis: int) -> LinearCombination | None:
        """Return a node as a single value; a sum of several terms becomes one by a link without a function."""
        form = self._form(name, axis)
        if form is None or form.single_value is not None:
            return form
        ones = np.ones(form.width)
        link = AffineMap(form.terms, form.width, (ones, ones), name)
        self._forms[name] = self._append_link(self.nodes[name], form, link)
        return self._forms[name]

    def _escape(self, name: str) -> None:
        """Note that something other than a link reads a node."""
        if name not in self._forms:
            return
        form = self._form_as_value(name, self._forms[name].axis)
        assert form is not None  # for the type checker: the axis is its own
        self.escaping.update(term.source for term in form.terms)

    def _extend_link(
        self,
        node: Node,
        form: LinearCombination,
        name: str,
        change: Callable[[AffineMap], AffineMap],
    ) -> LinearCombination | None:
        """Make a node part of the link whose value it reads; None if something else reads that value, too.

        ``name``: the node that is read, whose form is ``form``.
        """
        number = form.single_value
        if number is None or name not in self._extendable or self.readers[name] != 1:
            return None
        link = self.values[number].link
        if link is None:
            return None
        self.values[number] = replace(self.values[number], link=replace(change(link), end=node.name))
        self._mark_extendable(node)
        return form

    def _link_of(self, form: LinearCombination) -> AffineMap | None:
        """Return the link that computes the single value that a sum is."""
        number = form.single_value
        return None if number is None else self.values[number].link

    def _repeat(self, form: LinearCombination) -> int:
        """Return how many features each channel is; 1 unless the value was flattened."""
        link = self._link_of(form)
        return 1 if link is None else link.repeat

    def _unflattened(self, name: str) -> LinearCombination | None:
        """Return the sum that a node is, if its channels are entries of an axis; None otherwise."""
        form = self._forms.get(name)
        return form if form is not None and self._repeat(form) == 1 else None

    def _keeps_shape(self, node: Node, name: str) -> bool:
        return node.shape is not None and node.shape == self.nodes[name].shape

    # -- layers ------------------------------------------------------------------------------------------------------
    def _layer(
        self,
        node: Node,
        operator: ops.Convolution | ops.Matrix,
        alpha: float,
    ) -> LinearCombination | None:
        """Return a layer, with the padding before it and a number behind it, as terms of the values that it reads."""
        layer = operator.layer
        source = self.nodes[node.inputs[0]]
        geometry = dict(layer.geometry)
        if isinstance(source.operator, ops.Pad) and is_padded_layer(node, source, self.nodes[source.inputs[0]]):
            geometry |= {"padding_mode": source.operator.mode, "padding": source.operator.pads}
            source = self.nodes[source.inputs[0]]
        if node.shape is None or source.shape is None:
            return None
        if layer.spatial and len(node.shape) != layer.spatial + 2:
            return None
        try:
            shape = tuple(layer.load().shape)
            spec = ConvSpec.of(shape[::-1] if layer.transposed else shape, **geometry)
        except (SpecnormError, OSError):
            return None
        axis = len(source.shape) - 1 - layer.spatial
        form = self._form(source.name, axis)

        if form is not None and self.readers[source.name] == 1:
            product = product_of_matrices(form, layer, spec.cout)
            if product is not None:
                return multiply(product, alpha)
        # A layer of a sum of layers is no term: the sum becomes a value.
        if form is not None and not (form.terms and all(replace(term, alpha=1.0).plain for term in form.terms)):
            form = self._form_as_value(source.name, axis)
        if form is None or form.width * self._repeat(form) != spec.cin:
            return None

        layer_filter = Filter(layer, geometry, spec, spatial_sizes(source.shape, node.shape, layer.spatial))
        terms = self._terms_of_filter(layer_filter, form, alpha)
        return LinearCombination(terms, spec.cout, len(node.shape) - 1 - layer.spatial)

    def _terms_of_filter(
        self,
        layer_filter: Filter,
        form: LinearCombination,
        alpha: float,
    ) -> tuple[Term, ...]:
        """Return one term for each value in a sum of multiples of identities, all with the same layer."""
        spec = layer_filter.spec
        identities = form.terms
        if self._repeat(form) > 1:  # the form is one flattened value, whose features are all read
            every_feature = range(spec.cin)
            identities = (replace(form.terms[0], reads=every_feature, rows=every_feature),)
        return tuple(
            Term(
                identity.source,
                reads=identity.reads,
                rows=range(spec.cout),
                stride=tuple(spec.stride),
                filter=layer_filter,
                columns=identity.rows,
                alpha=alpha * identity.alpha,
            )
            for identity in identities
        )

    # -- numbers and functions ---------------------------------------------------------------------------------------
    def _scale(self, node: Node, scale: ops.Scale) -> LinearCombination | None:
        """Return a sum whose channels are multiplied by numbers: by a steeper function, or by `Term.scale`."""
        name = node.inputs[0]
        if not self._keeps_shape(node, name) or not bool(np.all(np.isfinite(scale.values))):
            return None
        if scale.values.size == 1:
            return self._multiply(node, name, float(scale.values.item()))
        form = self._unflattened(name)
        if form is None:
            return None
        numbers = numbers_along(scale.values, form.axis, len(node.shape or ()))
        if numbers is None or numbers.shape != (form.width,):
            return None
        if scale.exact:
            steeper = self._multiply_slopes(node, form, numbers)
            if steeper is not None:
                return steeper
        if any(term.scale is not None for term in form.terms):
            return None
        terms = tuple(replace(term, scale=numbers[term.rows.start : term.rows.stop]) for term in form.terms)
        return replace(form, terms=terms)

    def _multiply(self, node: Node, name: str, number: float) -> LinearCombination | None:
        """Return a number times a node; remember it if the node is no sum yet."""
        if name not in self._forms:
            self._multiples[node.name] = (name, number)
            return None
        form = self._unflattened(name)
        return None if form is None else multiply(form, number)

    def _pointwise(self, node: Node, function: ops.Pointwise) -> LinearCombination | None:
        """Return a function of each entry: a new value, or the last value with a steeper function."""
        form = self._forms.get(node.inputs[0])
        if form is None or len(node.inputs) != 1:
            return None
        slopes = function.by_channel(form.axis, form.width)
        if slopes is None or not slopes[0].size:
            return None
        low, high = slopes
        if form.single_value is not None:
            return self._compose_slopes(node, form, (float(low.min()), float(high.max())))
        return self._append_link(node, form, AffineMap(form.terms, form.width, (low, high), node.name))

    def _compose_slopes(
        self,
        node: Node,
        form: LinearCombination,
        slopes: tuple[float, float],
    ) -> LinearCombination | None:
        """Return the last value, followed by one more function with slopes between two numbers."""

        def compose(link: AffineMap) -> AffineMap:
            if not link.direct or link.repeat > 1:
                return replace(link, factor=followed(link.factor, of_slopes(self.scope, node, form.axis, form.width)))
            products = [
                link.slopes[0] * slopes[0],
                link.slopes[0] * slopes[1],
                link.slopes[1] * slopes[0],
                link.slopes[1] * slopes[1],
            ]
            low = np.minimum.reduce(products)
            high = np.maximum.reduce(products)
            return replace(link, slopes=(round_but_zero(host.next_down, low), round_but_zero(host.next_up, high)))

        return self._extend_link(node, form, node.inputs[0], compose)

    def _multiply_slopes(
        self,
        node: Node,
        form: LinearCombination,
        numbers: FloatArray,
    ) -> LinearCombination | None:
        """Return the last value with functions that are as many times as steep, so that no new value is needed."""
        link = self._link_of(form)
        if link is None or not link.direct or link.groups is not None:
            return None
        ends = [end * numbers for end in link.slopes]
        low = round_but_zero(host.next_down, np.minimum(*ends))
        high = round_but_zero(host.next_up, np.maximum(*ends))
        return self._extend_link(node, form, node.inputs[0], lambda last: replace(last, slopes=(low, high)))

    def _sort(
        self,
        node: Node,
        sort: ops.Sort | ops.GroupSort | ops.Reflection,
    ) -> LinearCombination | None:
        """Return a value sorted along an axis: slopes in [-1, 1] of each group, in weights that its channels share."""
        name = node.inputs[0]
        form = self._unflattened(name)
        if form is None or not self._keeps_shape(node, name):
            return None
        norm = sort.norm if isinstance(sort, ops.Reflection) else 1.0
        if norm is None:
            return None
        steep = np.full(form.width, norm)
        groups = group_of_channels(sort, form)
        link = AffineMap(form.terms, form.width, (-steep, steep), node.name, groups=groups)
        return self._append_link(node, form, link)

    def _both_signs(self, node: Node, parts: ops.SignParts) -> LinearCombination | None:
        """Return positive and negative part of each channel: twice as many channels."""
        form = self._unflattened(node.inputs[0])
        if form is None or parts.axis != form.axis:
            return None
        signs = (-1.0, 1.0) if parts.negative_first else (1.0, -1.0)
        terms = []
        for half, sign in enumerate(signs):
            terms += [shift_rows(term, half * form.width) for term in multiply(form, sign).terms]
        width = 2 * form.width
        link = AffineMap(tuple(terms), width, (np.zeros(width), np.ones(width)), node.name)
        return self._append_link(node, form, link)

    def _side_by_side(self, node: Node, functions: ops.SideBySide) -> LinearCombination | None:
        """Return several functions of each channel: as many times as many channels."""
        form = self._unflattened(node.inputs[0])
        if form is None or functions.new or functions.axis != form.axis:
            return None
        proof = functions.proof
        if isinstance(proof, str):  # the reason why nothing is proven
            return None
        count = len(functions.outputs)
        terms = []
        for copy in range(count):
            terms += [shift_rows(term, copy * form.width) for term in form.terms]
        low = np.repeat(proof.low.min(axis=1), form.width)
        high = np.repeat(proof.high.max(axis=1), form.width)
        link = AffineMap(tuple(terms), count * form.width, (low, high), node.name)
        return self._append_link(node, form, link)

    # -- sums and shapes ---------------------------------------------------------------------------------------------
    def _add(self, node: Node, add: ops.Add) -> LinearCombination | None:
        summands = [
            (name, weight)
            for name, weight in zip(node.inputs, add.weights, strict=True)
            if not isinstance(self.nodes[name].operator, ops.Constant)
        ]
        if not all(self._keeps_shape(node, name) and np.isfinite(weight) for name, weight in summands):
            return None
        if len(summands) == 1:
            ((name, weight),) = summands
            return self._add_constants(node, name) if weight == 1 else self._multiply(node, name, weight)
        axes = {self._forms[name].axis for name, _ in summands if name in self._forms}
        if len(axes) != 1:
            return None
        (axis,) = axes
        forms = self._unflattened_forms([name for name, _ in summands], axis)
        if forms is None or len({form.width for form in forms}) > 1:
            return None
        terms: list[Term] = []
        for form, (_, weight) in zip(forms, summands, strict=True):
            terms += multiply(form, weight).terms
        return replace(forms[0], terms=tuple(terms))

    def _unflattened_forms(self, names: list[str], axis: int) -> list[LinearCombination] | None:
        """Return nodes as sums with their channels on an axis; None if one is no such sum.

        All of them are asked for first: a node that is no sum becomes a value all the same.
        """
        forms = [self._form(name, axis) for name in names]
        unflattened = [form for form in forms if form is not None and self._repeat(form) == 1]
        return unflattened if len(unflattened) == len(forms) else None

    def _add_constants(self, node: Node, name: str) -> LinearCombination | None:
        """Return the sum that a node is, to which constants are added: the same entries at the same places."""
        form = self._forms.get(name)
        if form is None or name not in self._extendable or self.readers[node.name] != 1:
            return form
        self._extendable.add(node.name)
        return self._extend_link(node, form, name, lambda link: link)

    def _concatenate(self, node: Node, axis: int) -> LinearCombination | None:
        if node.shape is None or not any(name in self._forms for name in node.inputs):
            return None
        forms = self._unflattened_forms(list(node.inputs), axis)
        if forms is None:
            return None
        expected = (*node.shape[:axis], *node.shape[axis + 1 :])
        for name in node.inputs:
            shape = self.nodes[name].shape
            if shape is None or (*shape[:axis], *shape[axis + 1 :]) != expected:
                return None
        terms: list[Term] = []
        width = 0
        for form in forms:
            terms += [shift_rows(term, width) for term in form.terms]
            width += form.width
        return LinearCombination(tuple(terms), width, axis) if width == node.shape[axis] else None

    def _slice(self, node: Node, cut: ops.Slice) -> LinearCombination | None:
        name = node.inputs[0]
        before = self.nodes[name].shape
        if before is None or len(before) < 3:
            return None  # samples without spatial axes have no slices that help
        form = self._forms[name] if name in self._forms else self._form(name, 1)
        for axis, start, stop, step in cut.parts:
            size = before[axis]
            if form is None or step < 1:
                return None
            form = slice_of(form, len(before), axis, size, range(size)[slice(start, stop, step)])
        return form

    def _reshape(self, node: Node) -> LinearCombination | None:
        """Return the same value, or one whose pixels are features."""
        name = node.inputs[0]
        if self._keeps_shape(node, name):
            return self._add_constants(node, name)
        if name not in self._forms:
            return None
        form = self._form_as_value(name, self._forms[name].axis)
        if form is None:
            return None
        repeat = features_of_channel(node, self.nodes[name].shape, form)
        if repeat is None:
            return None
        return self._extend_link(node, form, name, lambda link: replace(link, repeat=repeat, direct=False))

    def _pad(self, node: Node, pad: ops.Pad) -> LinearCombination | None:
        """Return a sum with channels of zeros before and behind.

        Padding of pixels belongs to the layers behind it, or follows the last value as what keeps channels does.
        """
        name = node.inputs[0]
        before = self.nodes[name].shape
        if before is None or self._belongs_to_layers(node):
            return None
        form = self._forms.get(name)
        first_axis = len(before) - len(pad.pads)
        padded_axes = [axis for axis, pair in enumerate(pad.pads, first_axis) if any(pair)]
        if not padded_axes:
            return self._add_constants(node, name)
        if form is None or pad.mode != "zeros" or padded_axes != [form.axis]:
            return self._follow_channelwise(node)
        zeros_before, zeros_behind = pad.pads[form.axis - first_axis]
        terms = tuple(shift_rows(term, zeros_before) for term in form.terms)
        return LinearCombination(terms, zeros_before + form.width + zeros_behind, form.axis)

    def _follow_channelwise(self, node: Node) -> LinearCombination | None:
        """Return the last value, followed by an operator that treats each channel by itself, and all alike."""
        name = node.inputs[0]
        before = self.nodes[name].shape
        if name not in self._forms or len(node.inputs) != 1 or not keeps_channels(node.operator, before, node.shape):
            return None
        try:
            factor = of_operator(self.scope, node, [unmoved(self.scope, name)], ops.Place((before,), node.shape))
        except ops.NoBoundError:
            return None
        form = self._form_as_value(name, self._forms[name].axis)
        if form is None or form.axis != 1 or self._repeat(form) > 1 or not np.isfinite(factor.value):
            return None
        average = average_of(node.operator, before, factor)

        def follow(link: AffineMap) -> AffineMap:
            # Averages are of use to a head only as the first thing behind the function.
            first_average = average if link.direct else None
            return replace(link, factor=followed(link.factor, factor), direct=False, average=first_average)

        return self._extend_link(node, form, name, follow)
