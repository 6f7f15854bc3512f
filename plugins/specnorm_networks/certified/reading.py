"""A graph read into links: each value as a sum of linear maps of earlier values, as far as these are known.

What no link can speak of (a product of two values, an operator without a rule) is a value of its own, from which other
links may begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from specnorm.certified import host
from specnorm.errors import SpecnormError
from specnorm.problem.spec import ConvSpec
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.affine_maps import AffineMap, Filter, Term
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.linear_combinations import (
    LinearCombination,
    Value,
    averages,
    flattened,
    is_padded_layer,
    keeps_channels,
    merged,
    moved,
    numbers_along,
    of_rows,
    outward,
    sliced,
    sorted_together,
    spatial,
    times,
)
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.rules import followed, of_operator, of_slopes, unmoved
from specnorm_networks.certified.scope import Scope

MOST_TERMS = 128
"""Of a value: what is added to itself again and again has more than any memory holds."""


class Reader:
    """Reads a graph; see `values` and `escaping`."""

    def __init__(self, graph: Graph) -> None:
        self.scope, self.nodes = Scope(graph), graph.by_name
        self.readers = graph.readers()
        self.values: list[Value] = []
        """In an order in which each comes after what it reads."""
        self.escaping: set[int] = set()
        """Numbers of the values that something else than a link reads."""
        self._forms: dict[str, LinearCombination] = {}
        self._fresh: dict[tuple[str, int], LinearCombination] = {}
        self._multiples: dict[str, tuple[str, float]] = {}
        """Nodes that are a number times another one, whose channels are not known yet."""
        self._sole: set[str] = set()
        """Nodes that are the last value still, which nothing else reads."""
        for node in graph.nodes:
            self._read(node)
        for name in graph.outputs:
            self._escape(name)

    def _read(self, node: Node) -> None:
        form = self._formed(node) if node.inputs else None
        if form is not None and len(form.terms) <= MOST_TERMS:
            self._forms[node.name] = form
        elif not (isinstance(node.operator, ops.Pad) and self._waits(node)):
            for name in node.inputs:
                self._escape(name)

    def _formed(self, node: Node) -> LinearCombination | None:
        match node.operator:
            case ops.Convolution(sized=True) as layer:
                return self._layer(node, layer, 1.0)
            case ops.Matrix(side="right") as layer:
                return self._layer(node, layer, layer.alpha)
            case ops.Scale() as scale:
                return self._scaled(node, scale)
            case ops.Pointwise() as function:
                return self._pointwise(node, function)
            case ops.Add(over=1) as add:
                return self._added(node, add)
            case ops.Concat(new=False) as concat:
                return self._stacked(node, concat.axis)
            case ops.Slice() as cut:
                return self._cut(node, cut)
            case ops.Identity() | ops.SameOrder():
                return self._reshaped(node)
            case ops.Sort(first=None) | ops.GroupSort() | ops.Reflection() as sort:
                return self._sorted(node, sort)
            case ops.SignParts() as parts:
                return self._both_signs(node, parts)
            case ops.Pad() as pad:
                return self._padded(node, pad)
            case _:
                return self._keeping(node)

    def _waits(self, pad: Node) -> bool:
        """Whether all that reads padding is layers that take it as theirs."""
        source = self.nodes[pad.inputs[0]]
        reading = [node for node in self.nodes.values() if pad.name in node.inputs]
        return len(reading) == self.readers[pad.name] and all(is_padded_layer(n, pad, source) for n in reading)

    # -- values ------------------------------------------------------------------------------------------------------
    def _form(self, name: str, axis: int) -> LinearCombination | None:
        """The form of a node with its channels on an axis; where none is known, a value of its own."""
        if name in self._forms:
            return self._forms[name] if self._forms[name].axis == axis else None
        if name in self._multiples:
            source, number = self._multiples[name]
            form = self._form(source, axis)
            return None if form is None else times(form, number)
        shape = self.nodes[name].shape
        if shape is None or not 0 <= axis < len(shape) or not isinstance(shape[axis], int):
            return None
        if isinstance(self.nodes[name].operator, ops.Constant):
            return LinearCombination((), int(shape[axis]), axis)
        if (name, axis) not in self._fresh:
            self._fresh[name, axis] = self._add(name, int(shape[axis]), axis, None)
        return self._fresh[name, axis]

    def _add(self, name: str, width: int, axis: int, link: AffineMap | None) -> LinearCombination:
        self.values.append(Value(name, width, link, axis))
        every = range(width)
        return LinearCombination((Term(len(self.values) - 1, every, every),), width, axis)

    def _made(self, node: Node, form: LinearCombination, link: AffineMap) -> LinearCombination:
        """A node as a new value."""
        if self.readers[node.name] == 1:
            self._sole.add(node.name)
        return self._add(node.name, link.width, form.axis, link)

    def _linear(self, name: str, axis: int) -> LinearCombination | None:
        """The form of a node, made a value if it is none."""
        form = self._form(name, axis)
        if form is None or form.value is not None:
            return form
        ones = np.ones(form.width)
        self._forms[name] = self._made(self.nodes[name], form, AffineMap(form.terms, form.width, (ones, ones), name))
        return self._forms[name]

    def _escape(self, name: str) -> None:
        if name not in self._forms:
            return
        form = self._linear(name, self._forms[name].axis)
        assert form is not None  # for the type checker: the axis is its own
        self.escaping.update(term.source for term in form.terms)

    # -- operators ---------------------------------------------------------------------------------------------------
    def _layer(self, node: Node, operator: ops.Convolution | ops.Matrix, alpha: float) -> LinearCombination | None:
        """A linear map of values as they are."""
        layer = operator.layer
        source, geometry = self.nodes[node.inputs[0]], dict(layer.geometry)
        if isinstance(source.operator, ops.Pad) and is_padded_layer(node, source, self.nodes[source.inputs[0]]):
            geometry |= {"padding_mode": source.operator.mode, "padding": source.operator.pads}
            source = self.nodes[source.inputs[0]]
        if node.shape is None or source.shape is None or (layer.spatial and len(node.shape) != layer.spatial + 2):
            return None
        try:
            shape = tuple(layer.load().shape)
            spec = ConvSpec.of(shape[::-1] if layer.transposed else shape, **geometry)
        except (SpecnormError, OSError):
            return None
        axis = len(source.shape) - 1 - layer.spatial
        form = self._form(source.name, axis)
        together = merged(form, layer, spec.cout) if form is not None and self.readers[source.name] == 1 else None
        if together is not None:
            return times(together, alpha)
        if form is not None and not (form.terms and all(term.plain for term in form.terms)):
            form = self._linear(source.name, axis)
        if form is None or form.width * self._repeat(form) != spec.cin:
            return None
        one = Filter(layer, geometry, spec, spatial(source.shape, node.shape, layer.spatial))
        stride = tuple(spec.stride)
        if self._repeat(form) > 1:
            every = range(spec.cin)
            terms = [Term(form.terms[0].source, every, range(spec.cout), stride, one, every, alpha=alpha)]
        else:
            terms = [Term(t.source, t.reads, range(spec.cout), stride, one, t.rows, alpha=alpha) for t in form.terms]
        return LinearCombination(tuple(terms), spec.cout, len(node.shape) - 1 - layer.spatial)

    def _repeat(self, form: LinearCombination) -> int:
        value = form.value
        link = None if value is None else self.values[value].link
        return 1 if link is None else link.repeat

    def _scaled(self, node: Node, scale: ops.Scale) -> LinearCombination | None:
        """A product with one number a channel, or one number."""
        if not self._keeps_shape(node, node.inputs[0]) or not bool(np.all(np.isfinite(scale.values))):
            return None
        if scale.values.size == 1:
            return self._times(node, node.inputs[0], float(scale.values.item()))
        form = self._forms.get(node.inputs[0])
        if form is None or self._repeat(form) > 1:
            return None
        numbers = numbers_along(scale.values, form.axis, len(node.shape or ()))
        if numbers is None or numbers.shape != (form.width,):
            return None
        if scale.exact and (steeper := self._steeper_by(node, form, numbers)) is not None:
            return steeper
        if any(term.scale is not None for term in form.terms):
            return None
        return replace(form, terms=tuple(replace(t, scale=of_rows(numbers, t.rows)) for t in form.terms))

    def _times(self, node: Node, name: str, number: float) -> LinearCombination | None:
        form = self._forms.get(name)
        if form is None:
            self._multiples[node.name] = (name, number)
        return None if form is None or self._repeat(form) > 1 else times(form, number)

    def _keeps_shape(self, node: Node, name: str) -> bool:
        return node.shape is not None and node.shape == self.nodes[name].shape

    def _pointwise(self, node: Node, function: ops.Pointwise) -> LinearCombination | None:
        """A function of each entry: a new value, or the last one with a steeper function."""
        form = self._forms.get(node.inputs[0])
        found = None if form is None else function.by_channel(form.axis, form.width)
        if form is None or found is None or not found[0].size or len(node.inputs) != 1:
            return None
        low, high = found
        if form.value is not None:
            return self._steeper(node, form, (float(low.min()), float(high.max())))
        return self._made(node, form, AffineMap(form.terms, form.width, (low, high), node.name))

    def _steeper(self, node: Node, form: LinearCombination, found: tuple[float, float]) -> LinearCombination | None:
        def change(link: AffineMap) -> AffineMap:
            if not link.open or link.repeat > 1:
                return replace(link, factor=followed(link.factor, of_slopes(self.scope, node, form.axis, form.width)))
            ends = [a * b for a in link.slopes for b in found]
            low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
            return replace(link, slopes=(outward(host.next_down, low), outward(host.next_up, high)))

        return self._changed(node, form, node.inputs[0], change)

    def _steeper_by(self, node: Node, form: LinearCombination, numbers: FloatArray) -> LinearCombination | None:
        """The last value, whose functions are as many times as steep: what is scaled needs no value of its own."""
        link = None if form.value is None else self.values[form.value].link
        if link is None or not link.open or link.groups is not None:
            return None
        ends = [end * numbers for end in link.slopes]
        low, high = outward(host.next_down, np.minimum(*ends)), outward(host.next_up, np.maximum(*ends))
        return self._changed(node, form, node.inputs[0], lambda link: replace(link, slopes=(low, high)))

    def _changed(
        self, node: Node, form: LinearCombination, name: str, change: Callable[[AffineMap], AffineMap]
    ) -> LinearCombination | None:
        """The last value after one more node, if nothing else reads it as it was."""
        value = form.value
        if value is None or name not in self._sole or self.readers[name] != 1:
            return None
        link = self.values[value].link
        if link is None:
            return None
        self.values[value] = replace(self.values[value], link=replace(change(link), end=node.name))
        if self.readers[node.name] == 1:
            self._sole.add(node.name)
        return form

    def _added(self, node: Node, add: ops.Add) -> LinearCombination | None:
        """A weighted sum of values, and constants."""
        terms = [
            (name, weight)
            for name, weight in zip(node.inputs, add.weights, strict=True)
            if not isinstance(self.nodes[name].operator, ops.Constant)
        ]
        if not all(self._keeps_shape(node, name) and np.isfinite(weight) for name, weight in terms):
            return None
        if len(terms) == 1:
            ((name, weight),) = terms
            return self._shifted(node, name) if weight == 1 else self._times(node, name, weight)
        axes = {self._forms[name].axis for name, _ in terms if name in self._forms}
        if len(axes) != 1:
            return None
        forms = [self._form(name, *axes) for name, _ in terms]
        known = [form for form in forms if form is not None and self._repeat(form) == 1]
        if len(known) < len(forms) or len({form.width for form in known}) > 1:
            return None
        weighted = [times(form, weight) for form, (_, weight) in zip(known, terms, strict=True)]
        return replace(known[0], terms=tuple(term for form in weighted for term in form.terms))

    def _shifted(self, node: Node, name: str) -> LinearCombination | None:
        """The same entries in the same places, and constants."""
        form = self._forms.get(name)
        if form is None or name not in self._sole or self.readers[node.name] != 1:
            return form
        self._sole.add(node.name)
        return self._changed(node, form, name, lambda link: link)

    def _stacked(self, node: Node, axis: int) -> LinearCombination | None:
        """Channels one after the other."""
        if node.shape is None or not any(name in self._forms for name in node.inputs):
            return None
        forms = [self._form(name, axis) for name in node.inputs]
        known = [form for form in forms if form is not None and self._repeat(form) == 1]
        shapes = (node.shape, *(self.nodes[name].shape for name in node.inputs))
        others = [None if s is None else (*s[:axis], *s[axis + 1 :]) for s in shapes]
        if len(known) < len(forms) or any(other is None or other != others[0] for other in others):
            return None
        terms: list[Term] = []
        at = 0
        for form in known:
            terms += [replace(t, rows=moved(t.rows, at)) for t in form.terms]
            at += form.width
        return LinearCombination(tuple(terms), at, axis) if at == node.shape[axis] else None

    def _cut(self, node: Node, cut: ops.Slice) -> LinearCombination | None:
        """Some channels, or every s-th pixel."""
        name = node.inputs[0]
        before = self.nodes[name].shape
        if before is None or len(before) < 3:
            return None  # samples without spatial axes have no slices that help
        form = self._forms.get(name) or self._form(name, 1)
        for axis, start, stop, step in cut.parts:
            size = before[axis]
            if form is None or not isinstance(size, int) or step < 1:
                return None
            form = sliced(form, len(before), axis, size, range(size)[slice(start, stop, step)])
        return form

    def _reshaped(self, node: Node) -> LinearCombination | None:
        """The same, or features of pixels."""
        name = node.inputs[0]
        if self._keeps_shape(node, name):
            return self._shifted(node, name)
        form = self._forms.get(name)
        whole = None if form is None else self._linear(name, form.axis)
        repeat = None if whole is None else flattened(node, self.nodes[name].shape, whole)
        if whole is None or repeat is None:
            return None
        return self._changed(node, whole, name, lambda link: replace(link, repeat=repeat, open=False))

    def _sorted(self, node: Node, sort: ops.Sort | ops.GroupSort | ops.Reflection) -> LinearCombination | None:
        """Sorting along an axis: slopes in [-1, 1] of the group, in weights that all its channels share."""
        form = self._forms.get(node.inputs[0])
        if form is None or self._repeat(form) > 1 or not self._keeps_shape(node, node.inputs[0]):
            return None
        groups = sorted_together(sort, form)
        steep = np.full(form.width, sort.norm if isinstance(sort, ops.Reflection) else 1.0)
        return self._made(node, form, AffineMap(form.terms, form.width, (-steep, steep), node.name, groups=groups))

    def _both_signs(self, node: Node, parts: ops.SignParts) -> LinearCombination | None:
        """Positive and negative part of each channel: two channels."""
        form = self._forms.get(node.inputs[0])
        if form is None or self._repeat(form) > 1 or parts.axis != form.axis:
            return None
        signs = (-1.0, 1.0) if parts.negative_first else (1.0, -1.0)
        two = [
            replace(t, rows=moved(t.rows, at * form.width)) for at, s in enumerate(signs) for t in times(form, s).terms
        ]
        low, high = np.zeros(2 * form.width), np.ones(2 * form.width)
        return self._made(node, form, AffineMap(tuple(two), 2 * form.width, (low, high), node.name))

    def _padded(self, node: Node, pad: ops.Pad) -> LinearCombination | None:
        """Channels of zeros; other padding is taken up as what keeps channels, or belongs to a layer."""
        before = self.nodes[node.inputs[0]].shape
        if self._waits(node) or before is None:
            return None
        form = self._forms.get(node.inputs[0])
        first = len(before) - len(pad.pads)
        padded = [first + j for j, pair in enumerate(pad.pads) if any(pair)]
        if not padded:
            return self._shifted(node, node.inputs[0])
        if form is None or pad.mode != "zeros" or padded != [form.axis]:
            return self._keeping(node)
        ahead, behind = pad.pads[form.axis - first]
        terms = tuple(replace(t, rows=moved(t.rows, ahead)) for t in form.terms)
        return LinearCombination(terms, ahead + form.width + behind, form.axis)

    def _keeping(self, node: Node) -> LinearCombination | None:
        """What treats each channel by itself and alike, behind the last value."""
        name = node.inputs[0]
        before = self.nodes[name].shape
        if name not in self._forms or len(node.inputs) != 1 or not keeps_channels(node.operator, before, node.shape):
            return None
        try:
            factor = of_operator(self.scope, node, [unmoved(self.scope, name)], ops.Place((before,), node.shape))
        except ops.NoBoundError:
            return None
        form = self._linear(name, self._forms[name].axis)
        if form is None or form.axis != 1 or self._repeat(form) > 1 or not np.isfinite(factor.value):
            return None
        average = averages(node.operator, before, factor)

        def change(link: AffineMap) -> AffineMap:
            first = average if link.open else None
            return replace(link, factor=followed(link.factor, factor), open=False, average=first)

        return self._changed(node, form, name, change)
