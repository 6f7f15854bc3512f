"""Read a graph as values and links: which values are a function of a sum of linear maps of earlier values.

The reader follows the nodes in order. For a node that is linear in earlier values it keeps the sum
(`LinearCombination`). For a function of each entry it makes a new value, whose link is the sum and the function. A node
that no link describes (a product of two values, an operator without a rule) is a value without a link, which the links
of later values may read. `runs` gathers the links.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from specnorm import SpecnormError
from specnorm.proof import enclosing
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.combinations import (
    LinearCombination,
    NoSumError,
    multiply,
    product_of_factors,
    shift_rows,
    slice_of,
)
from specnorm_networks.certified.graph import Graph, Layer, Node
from specnorm_networks.certified.kernels import PlacedLayer
from specnorm_networks.certified.links import Link, Term
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns.curves.composite import SideBySide
from specnorm_networks.certified.rules import Scope, identity, of_operator, of_slopes

MOST_AVERAGED = 2**10
"""Largest number of averaged pixels for which the matrix of the averages is kept."""
MOST_TERMS = 128
"""Largest number of terms of a sum. A value that is added to itself again and again has more than any memory holds."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value that terms read."""

    node: str
    """Name of the node that made the value; later nodes may have been merged into its link (`Link.end`)."""
    width: int
    """Number of channels."""
    link: Link | None
    """The link that computes the value, if there is one; its terms read values by their numbers in `Reader.values`."""


class Reader:
    """Reads a graph; results are the attributes `values` and `escaping`.

    A node is a sum of terms (`_sums`), or becomes a value without a link when a link first reads it
    (`_values_without_link`).
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scope = Scope(graph)
        self.nodes = graph.by_name
        self.values: list[Value] = []
        """All values, each after those that it reads."""
        self.escaping: set[int] = set()
        """Numbers of the values that something other than a link reads."""
        self._sums: dict[str, LinearCombination] = {}
        """Nodes as sums of terms."""
        self._values_without_link: dict[tuple[str, int], LinearCombination] = {}
        """Nodes that became values without a link, by the node and the axis of its channels."""
        self._axes = _axes_of_channels(graph)
        self._extendable: set[str] = set()
        """Nodes that are the value of a link and that only one node reads: that node may become a part of the link."""
        for node in graph.nodes:
            self._read(node)
        for name in graph.outputs:
            self._note_other_reader(name)

    def _read(self, node: Node) -> None:
        """Keep a node as a sum of terms; if it is none, note that something other than a link reads its inputs."""
        with suppress(ops.NoBoundError):
            combination = self._sum_of_node(node)
            if len(combination.terms) <= MOST_TERMS:
                self._sums[node.name] = combination
                return
        if isinstance(node.operator, ops.Pad) and self._belongs_to_layers(node):
            return
        for name in node.inputs:
            self._note_other_reader(name)

    def _sum_of_node(self, node: Node) -> LinearCombination:
        """Return a node as a sum of terms; `NoBoundError`, as of all functions here, if it is none."""
        if not node.inputs:
            raise NoSumError
        match node.operator:
            case ops.Convolution() as layer:
                return self._layer(node, layer, 1.0)
            case ops.Matrix(side="right") as layer:
                return self._layer(node, layer, layer.alpha)
            case ops.Scale() as scale:
                return self._scale(node, scale)
            case ops.Function() as function:
                return self._pointwise(node, function)
            case ops.Add():
                return self._add(node)
            case ops.Concat(new=False) as concat:  # along an axis that the values have
                return self._concatenate(node, concat.axis)
            case ops.Slice() as cut:
                return self._slice(node, cut)
            case ops.Identity() | ops.SameOrder():
                return self._reshape(node)
            case ops.Sort(first=None) | ops.GroupSort() | ops.Reflection() as sort:
                return self._sort(node, sort)
            case SideBySide() as functions:
                return self._side_by_side(node, functions)
            case ops.Pad() as pad:
                return self._pad(node, pad)
            case ops.Resize() as resize if self._joins(node):
                return self._repeated(node, resize)
            case _:
                return self._follow_channelwise(node)

    def _belongs_to_layers(self, pad_node: Node) -> bool:
        """Whether a padding is read only by layers that are bounded together with it (`_layer`)."""
        source = self.nodes[pad_node.inputs[0]]
        return pad_node.name not in self.graph.outputs and all(
            node.affine is not None and node.affine.with_padding(pad_node.operator, source.shape) is not None
            for node in self.graph.readers[pad_node.name]
        )

    # -- values ------------------------------------------------------------------------------------------------------
    def _sum_of(self, name: str, axis: int) -> LinearCombination:
        """Return a node as a sum with its channels on an axis.

        If the node was not read as a sum, a value without a link is added for it, and the sum is that value alone.
        """
        if name in self._sums:
            if self._sums[name].axis != axis:
                raise NoSumError
            return self._sums[name]
        shape = self.nodes[name].shape
        if shape is None or not 0 <= axis < len(shape) or not isinstance(shape[axis], int):
            raise NoSumError
        width = int(shape[axis])
        if self.nodes[name].is_constant:
            return LinearCombination((), width, axis)
        if (name, axis) not in self._values_without_link:
            self._values_without_link[name, axis] = self._append_value(name, width, axis, None)
        return self._values_without_link[name, axis]

    def _append_value(
        self,
        name: str,
        width: int,
        axis: int,
        link: Link | None,
    ) -> LinearCombination:
        """Add a value; return the sum that is that value alone."""
        self.values.append(Value(name, width, link))
        every_channel = range(width)
        return LinearCombination((Term(len(self.values) - 1, every_channel, every_channel),), width, axis)

    def _append_link(
        self,
        node: Node,
        combination: LinearCombination,
        link: Link,
    ) -> LinearCombination:
        """Add the value of a node that a link computes from a sum; return the sum that is that value alone."""
        self._mark_extendable(node)
        return self._append_value(node.name, link.width, combination.axis, link)

    def _mark_extendable(self, node: Node) -> None:
        """Note that a node is the value of a link. If only one node reads it, that node may extend the link."""
        if self.graph.only_reader(node.name) is not None:
            self._extendable.add(node.name)

    def _as_single_value(self, name: str, axis: int) -> LinearCombination:
        """Return a node as a sum that is a single value. Any other sum is made a value, by a link with the identity."""
        combination = self._sum_of(name, axis)
        if combination.single_value is not None:
            return combination
        ones = np.ones(combination.width)  # the slopes of the identity
        link = Link(combination.terms, combination.width, (ones, ones), name)
        self._sums[name] = self._append_link(self.nodes[name], combination, link)
        return self._sums[name]

    def _note_other_reader(self, name: str) -> None:
        """Note that something other than a link reads a node."""
        # Only sums need the note. A link reads any other node by a value without a link. Such a value can be the start
        # of a run, and a run's start may be read from outside.
        if name not in self._sums:
            return
        combination = self._as_single_value(name, self._sums[name].axis)
        self.escaping.update(term.source for term in combination.terms)

    def _extend_link(
        self,
        node: Node,
        combination: LinearCombination,
        name: str,
        change: Callable[[Link], Link],
    ) -> LinearCombination:
        """Make a node a part of the link whose value it reads; return the sum that is that value alone.

        That is not possible if something else reads that value, too, or if no link computes it.

        ``name``, ``combination``: the node that is read, and the same as a sum. ``change``: returns the link with the
        node in it.
        """
        number = combination.single_value
        link = None if number is None else self.values[number].link
        if number is None or link is None or name not in self._extendable:
            raise NoSumError
        self.values[number] = replace(self.values[number], link=replace(change(link), end=node.name))
        self._mark_extendable(node)
        return combination

    def _repeat(self, combination: LinearCombination) -> int:
        """Return how many features each channel has become; 1 unless the value was flattened."""
        link = self._link_of(combination)
        return 1 if link is None else link.repeat

    def _link_of(self, combination: LinearCombination) -> Link | None:
        """Return the link of the single value that a sum is; None if it is more than that, or has no link."""
        number = combination.single_value
        return None if number is None else self.values[number].link

    def _known_sum(self, name: str, *, may_be_alone: bool = False) -> LinearCombination:
        """Return a node as a sum: if it was read as one, or later layers say which axis is that of its channels.

        ``may_be_alone``: whether a node that was not read as a sum may have one reader alone. A run that begins with a
        function, or with a scale, of its first value has a smaller constant only if other links read that value, too.
        """
        axes = {self._sums[name].axis} if name in self._sums else self._axes[name]
        is_alone = name not in self._sums and self.graph.only_reader(name) is not None
        if len(axes) != 1 or (is_alone and not may_be_alone):
            raise NoSumError
        return self._sum_of(name, *axes)

    def _require_axis_of_channels(self, *combinations: LinearCombination) -> None:
        """Refuse values that were flattened, so that their channels have no axis."""
        if any(self._repeat(combination) > 1 for combination in combinations):
            raise NoSumError

    def _unflattened(self, name: str) -> LinearCombination:
        """Return a node that was read as a sum, and was not flattened."""
        combination = self._known_sum(name)
        self._require_axis_of_channels(combination)
        return combination

    def _keeps_shape(self, node: Node, name: str) -> bool:
        """Whether a node's value is known to have the shape of another one."""
        return node.shape is not None and node.shape == self.nodes[name].shape

    # -- layers ------------------------------------------------------------------------------------------------------
    def _layer(
        self,
        node: Node,
        operator: ops.Convolution | ops.Matrix,
        alpha: float,
    ) -> LinearCombination:
        """Return a layer, with the padding before it and a factor ``alpha``, as terms of the values that it reads."""
        layer = operator.layer
        return self._placed(node, *self.graph.placed_layer(node, layer), alpha)

    def _placed(self, node: Node, source: Node, placed_layer: PlacedLayer, alpha: float) -> LinearCombination:
        """Return a layer that reads a node, ``source``, as terms."""
        layer = placed_layer.layer
        if node.shape is None or source.shape is None or (layer.spatial and len(node.shape) != layer.spatial + 2):
            raise NoSumError
        try:
            spec = placed_layer.spec
        except (SpecnormError, OSError) as error:
            raise NoSumError from error
        axis = len(source.shape) - 1 - layer.spatial
        combination = self._sum_of(source.name, axis)

        # A layer that reads a sum of multiples of values becomes one term for each of them. Any other sum is first made
        # a value.
        are_multiples = all(term.is_multiple_of_identity for term in combination.terms)
        if not (combination.terms and are_multiples):
            combination = self._as_single_value(source.name, axis)
        if combination.width * self._repeat(combination) != spec.cin:
            raise NoSumError

        # Each term of the sum reads the channels ``reads`` of its value and adds them to the channels ``rows`` of the
        # sum. These are the layer's input channels, so that they become ``columns`` of the layer's term.
        identities = combination.terms
        if self._repeat(combination) > 1:  # the sum is one flattened value, of which the layer reads all features
            every_feature = range(spec.cin)
            identities = (replace(combination.terms[0], reads=every_feature, rows=every_feature),)
        terms = []
        for summand in identities:
            term = replace(
                summand,
                rows=range(spec.cout),
                stride=tuple(spec.stride),
                placed_layer=placed_layer,
                columns=summand.rows,
                alpha=product_of_factors(summand.alpha, alpha),
            )
            terms.append(term)
        return LinearCombination(tuple(terms), spec.cout, len(node.shape) - 1 - layer.spatial)

    def _joins(self, node: Node) -> bool:
        """Whether a node alone is read by a sum, or by a concatenation."""
        reader = self.graph.only_reader(node.name)
        return reader is not None and isinstance(reader.operator, (ops.Add, ops.Concat)) and len(reader.inputs) > 1

    def _repeated(self, node: Node, resize: ops.Resize) -> LinearCombination:
        """Return a value whose pixels are repeated, as a transposed convolution does it with a kernel of ones."""
        source = self.nodes[node.inputs[0]]
        before, after = source.shape or (), node.shape or ()
        repeats = resize.repeats(before, after)
        if repeats is None:
            return self._follow_channelwise(node)
        ones = np.ones((before[1], 1, *repeats))
        geometry = {"stride": repeats, "transposed": True, "groups": before[1], "padding_mode": "zeros"}
        layer = Layer("resize", lambda: ones, geometry, len(repeats))
        return self._placed(node, source, PlacedLayer(layer, geometry, (before[2:], after[2:])), 1.0)

    # -- numbers and functions ---------------------------------------------------------------------------------------
    def _scale(self, node: Node, scale: ops.Scale) -> LinearCombination:
        """Return a sum whose channels are multiplied by numbers.

        The numbers become factors of the slopes of the last link, or the `Term.scale` of all terms.
        """
        name = node.inputs[0]
        if not self._keeps_shape(node, name) or not scale.is_accurate:
            raise NoSumError
        if scale.values.size == 1:
            return self._multiply(name, float(scale.values.item()))
        combination = self._unflattened(name)
        numbers = scale.factors_along(combination.axis - len(node.shape or ()))
        if numbers is None or numbers.shape != (combination.width,):
            raise NoSumError
        # A link's slopes are rounded outward, which covers the rounding of a product, but not an error of the factor.
        if scale.exact:
            with suppress(NoSumError):
                return self._with_scaled_functions(node, combination, numbers)
        if any(term.scale is not None for term in combination.terms):
            raise NoSumError
        terms = tuple(replace(term, scale=numbers[term.rows.start : term.rows.stop]) for term in combination.terms)
        return replace(combination, terms=terms)

    def _multiply(self, name: str, number: float) -> LinearCombination:
        combination = self._known_sum(name, may_be_alone=True)
        self._require_axis_of_channels(combination)
        return multiply(combination, number)

    def _pointwise(self, node: Node, function: ops.Function) -> LinearCombination:
        """Return a function of each entry: a new value, or the value that it reads with one more function."""
        name = node.inputs[0]
        combination = self._known_sum(name)
        low, high = function.by_channel(combination.axis, combination.width)
        if not low.size or len(node.inputs) != 1:
            raise NoSumError
        # A value that something else reads, too, is read by a link of the function's own.
        is_shared = self.graph.only_reader(name) is None and self._repeat(combination) == 1
        if combination.single_value is None or is_shared:
            link = Link(combination.terms, combination.width, (low, high), node.name)
            return self._append_link(node, combination, link)
        slopes = enclosing((low.min(), high.max()))

        def compose(link: Link) -> Link:
            if not link.ends_with_function:
                # The function follows pooling or flattening: its constant is a further factor.
                constant = of_slopes(self.scope, node, combination.axis, combination.width)
                return replace(link, factors=(*link.factors, constant), average=None)
            return replace(link, slopes=(enclosing(link.slopes) * slopes).ends)

        return self._extend_link(node, combination, name, compose)

    def _with_scaled_functions(
        self, node: Node, combination: LinearCombination, numbers: FloatArray
    ) -> LinearCombination:
        """Return the value that a node multiplies by numbers (channels,), with these as factors of its last functions.

        So the product needs no value of its own. The joint rule of residual layers x - 2 W T relu(W' x) needs T there.
        """
        link = self._link_of(combination)
        if link is None or not link.ends_with_function or link.groups is not None:
            raise NoSumError
        slopes = (enclosing(link.slopes) * enclosing((numbers, numbers))).ends
        return self._extend_link(node, combination, node.inputs[0], lambda last: replace(last, slopes=slopes))

    def _sort(
        self,
        node: Node,
        sort: ops.Sort | ops.GroupSort | ops.Reflection,
    ) -> LinearCombination:
        """Return a value that is sorted, or reflected, along an axis.

        Suppose that all channels of a group have one weight. Sorting moves no two vectors further apart; a reflection
        moves them apart by at most its norm. So they count as functions with slopes in [-1, 1], or [-norm, norm].
        """
        name = node.inputs[0]
        combination = self._unflattened(name)
        norm = sort.norm if isinstance(sort, ops.Reflection) else 1.0
        if norm is None or not self._keeps_shape(node, name):
            raise NoSumError
        slopes = np.full(combination.width, norm)
        # Along another axis, each channel is a group of its own.
        width = combination.width
        groups = sort.groups(width) if sort.axis == combination.axis else np.arange(width)
        link = Link(combination.terms, combination.width, (-slopes, slopes), node.name, groups=groups)
        return self._append_link(node, combination, link)

    def _side_by_side(self, node: Node, functions: SideBySide) -> LinearCombination:
        """Return several functions of each channel, joined along the axis of the channels.

        Function i of channel c is channel ``i * width + c``.
        """
        combination = self._unflattened(node.inputs[0])
        proofs = [function.proof for function in functions.functions]
        # A text is the reason why nothing is proven.
        slopes = [(proof.low.min(), proof.high.max()) for proof in proofs if not isinstance(proof, str)]
        count = len(proofs)
        if len(slopes) < count or functions.join.new or functions.join.axis != combination.axis:
            raise NoSumError
        terms = []
        for number in range(count):
            terms += [shift_rows(term, number * combination.width) for term in combination.terms]
        # A function may differ from entry to entry. The link's slopes contain the slopes at all entries.
        low, high = np.repeat(slopes, combination.width, axis=0).T
        link = Link(tuple(terms), count * combination.width, (low, high), node.name)
        return self._append_link(node, combination, link)

    # -- sums and shapes ---------------------------------------------------------------------------------------------
    def _add(self, node: Node) -> LinearCombination:
        summands = [(summand.name, weight) for summand, weight in self.graph.summands_that_change(node)]
        if not all(self._keeps_shape(node, name) and np.isfinite(weight) for name, weight in summands):
            raise NoSumError
        if len(summands) == 1:
            ((name, weight),) = summands
            return self._same_sum(node, name) if weight == 1 else self._multiply(name, weight)
        axes = {self._sums[name].axis for name, _ in summands if name in self._sums}
        if len(axes) != 1:
            raise NoSumError
        (axis,) = axes
        combinations = [self._sum_of(name, axis) for name, _ in summands]
        self._require_axis_of_channels(*combinations)
        if len({combination.width for combination in combinations}) > 1:
            raise NoSumError
        terms: list[Term] = []
        for combination, (_, weight) in zip(combinations, summands, strict=True):
            terms += multiply(combination, weight).terms
        return replace(combinations[0], terms=tuple(terms))

    def _same_sum(self, node: Node, name: str) -> LinearCombination:
        """Return a node that differs from an earlier node by constants alone: it is the same sum as that node.

        If the sum is the value of a link that can be extended, the link ends with the later node. So the run ends after
        the constants that are added, too.

        ``name``: the earlier node.
        """
        combination = self._known_sum(name)
        if name not in self._extendable or self.graph.only_reader(node.name) is None:
            return combination
        return self._extend_link(node, combination, name, lambda link: link)

    def _concatenate(self, node: Node, axis: int) -> LinearCombination:
        if node.shape is None or not any(name in self._sums for name in node.inputs):
            raise NoSumError
        combinations = [self._sum_of(name, axis) for name in node.inputs]
        self._require_axis_of_channels(*combinations)
        expected = (*node.shape[:axis], *node.shape[axis + 1 :])
        for name in node.inputs:
            shape = self.nodes[name].shape
            if shape is None or (*shape[:axis], *shape[axis + 1 :]) != expected:
                raise NoSumError
        terms: list[Term] = []
        width = 0
        for combination in combinations:
            terms += [shift_rows(term, width) for term in combination.terms]
            width += combination.width
        if width != node.shape[axis]:
            raise NoSumError
        return LinearCombination(tuple(terms), width, axis)

    def _slice(self, node: Node, cut: ops.Slice) -> LinearCombination:
        name = node.inputs[0]
        before = self.nodes[name].shape
        # Slices of values without spatial axes make no bound smaller.
        if before is None or len(before) < 3 or any(step < 1 for *_, step in cut.parts):
            raise NoSumError
        combination = self._sums[name] if name in self._sums else self._sum_of(name, 1)
        for axis, start, stop, step in cut.parts:
            size = before[axis]
            combination = slice_of(combination, len(before), axis, size, range(size)[slice(start, stop, step)])
        return combination

    def _reshape(self, node: Node) -> LinearCombination:
        """Return the value of a reshape: the same value, or one whose pixels became features (flattening)."""
        name = node.inputs[0]
        if self._keeps_shape(node, name):
            return self._same_sum(node, name)
        combination = self._as_single_value(name, self._known_sum(name).axis)
        # Flattening takes the shape (samples, width, *pixels) to (samples, features): each channel becomes consecutive
        # features.
        before, after = self.nodes[name].shape or (), node.shape or ()
        pixels = math.prod(before[2:])
        is_flat = len(before) > 2 == len(after) and before[:2] == (after[0], combination.width)
        if not is_flat or not pixels or combination.axis != 1:
            raise NoSumError
        return self._extend_link(node, combination, name, lambda link: replace(link, pixels=pixels))

    def _pad(self, node: Node, pad: ops.Pad) -> LinearCombination:
        """Return a sum that is padded with channels of zeros before and after its own.

        Padding of pixels is a part of the layers that read it, or an operator that keeps channels.
        """
        name = node.inputs[0]
        before = self.nodes[name].shape
        if before is None or self._belongs_to_layers(node):
            raise NoSumError
        combination = self._known_sum(name)
        first_axis = len(before) - len(pad.pads)
        padded_axes = [axis for axis, pair in enumerate(pad.pads, first_axis) if any(pair)]
        if not padded_axes:
            return self._same_sum(node, name)
        if pad.mode != "zeros" or padded_axes != [combination.axis]:
            return self._follow_channelwise(node)
        zeros_before, zeros_after = pad.pads[combination.axis - first_axis]
        terms = tuple(shift_rows(term, zeros_before) for term in combination.terms)
        return LinearCombination(terms, zeros_before + combination.width + zeros_after, combination.axis)

    def _follow_channelwise(self, node: Node) -> LinearCombination:
        """Return the value that an operator reads, with the operator in its link, if it treats all channels alike."""
        name = node.inputs[0]
        before = self.nodes[name].shape
        axis = self._known_sum(name).axis
        if len(node.inputs) != 1 or before is None or node.shape is None or len(before) < 3:
            raise NoSumError
        if not node.operator.keeps_channels(before, node.shape):
            raise NoSumError
        # The constant of the operator alone: its input counts with the constant 1.
        factor = of_operator(self.scope, node, [identity(self.scope, name)], ops.Place((before,), node.shape))
        combination = self._as_single_value(name, axis)
        self._require_axis_of_channels(combination)
        if axis != 1 or not np.isfinite(factor.value):
            raise NoSumError
        average: FloatArray | None = None
        pixels = (before or ())[2:]
        count = math.prod(pixels)
        if isinstance(node.operator, ops.Mean | ops.AveragePool) and 0 < count <= MOST_AVERAGED:
            averages_of_each = node.operator.run(np.eye(count).reshape(count, 1, *pixels))
            average = averages_of_each.reshape(count, -1).T.reshape(-1, *pixels)

        def follow(link: Link) -> Link:
            # `heads` can use averages only if they directly follow the function.
            first_average = average if link.ends_with_function else None
            return replace(link, factors=(*link.factors, factor), average=first_average)

        return self._extend_link(node, combination, name, follow)


def _axes_of_channels(graph: Graph) -> dict[str, set[int]]:
    """Return for each value the axes that layers read as that of its channels, after operators that keep it in place.

    A value that does not change with the input has none.
    """
    axes: dict[str, set[int]] = {node.name: set() for node in graph.nodes}
    for node in reversed(graph.nodes):
        match node.operator:
            case ops.Convolution(layer=layer) | ops.Matrix(side="right", layer=layer):
                axes_read = {len(node.shape or ()) - 1 - layer.spatial}
            case (
                ops.Function() | ops.Scale() | ops.Add() | ops.Concat(new=False) | ops.Slice() | ops.Pad()
                | ops.Sort(first=None) | ops.GroupSort() | ops.Reflection() | ops.Identity()
            ):  # fmt: skip
                axes_read = axes[node.name]
            case _:
                continue
        for name in {*node.inputs} - graph.fixed_values:
            axes[name] |= axes_read
    return axes
