"""A graph read into links: each value as a sum of linear maps of earlier values, as far as these are known.

What no link can speak of (max-pooling, an unknown operator, a product of two values) is a value of its own, from which
other links may begin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from specnorm.errors import SpecnormError
from specnorm.networks import pointwise
from specnorm.networks.forms import (
    Form,
    Value,
    cropped,
    flattened,
    is_padded_layer,
    moved,
    of_rows,
    outward,
    spatial,
    times,
)
from specnorm.networks.graph import Graph, Node, Shape
from specnorm.networks.links import Filter, Link, Term, Weights
from specnorm.networks.rules import FACTORS, UnknownRuleError
from specnorm.proof import host
from specnorm.spec import ConvSpec


class Reader:
    """Reads a graph; see `values` and `escaping`.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.name: node for node in graph.nodes}
        self.readers = Counter(name for node in graph.nodes for name in node.inputs)
        self.readers.update(graph.outputs)
        self.values: list[Value] = []
        """In an order in which each comes after what it reads."""
        self.escaping: set[int] = set()
        """Numbers of the values that something else than a link reads."""
        self._forms: dict[str, Form] = {}
        self._fresh: dict[tuple[str, int], Form] = {}
        self._multiples: dict[str, tuple[str, float]] = {}
        """Nodes that are a number times another one, whose channels are not known yet."""
        self._sole: set[str] = set()
        """Nodes that are the last value still, which nothing else reads."""
        for node in graph.nodes:
            self._read(node)
        for name in graph.outputs:
            self._escape(name)

    def _read(self, node: Node) -> None:
        rule = _RULES.get(node.rule)
        form = rule(self, node) if rule is not None and node.inputs else None
        if form is not None:
            self._forms[node.name] = form
        elif not (node.rule == "pad" and self._waits(node)):
            for name in node.inputs:
                self._escape(name)

    def _waits(self, pad: Node) -> bool:
        """Whether all that reads padding is layers that take it as theirs."""
        source = self.nodes[pad.inputs[0]]
        reading = [node for node in self.nodes.values() if pad.name in node.inputs]
        return len(reading) == self.readers[pad.name] and all(is_padded_layer(n, pad, source) for n in reading)

    # -- values ------------------------------------------------------------------------------------------------------
    def _form(self, name: str, axis: int) -> Form | None:
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
        if (name, axis) not in self._fresh:
            self._fresh[name, axis] = self._add(name, int(shape[axis]), axis, None)
        return self._fresh[name, axis]

    def _add(self, name: str, width: int, axis: int, link: Link | None) -> Form:
        self.values.append(Value(name, width, link))
        every = range(width)
        return Form((Term(len(self.values) - 1, every, every),), width, axis)

    def _linear(self, name: str, axis: int) -> Form | None:
        """The form of a node, made a value if it is none."""
        form = self._form(name, axis)
        if form is None or form.value is not None:
            return form
        ones = np.ones(form.width)
        self._forms[name] = self._add(name, form.width, axis, Link(form.terms, form.width, (ones, ones), name))
        if self.readers[name] == 1:
            self._sole.add(name)
        return self._forms[name]

    def _escape(self, name: str) -> None:
        if name not in self._forms:
            return
        form = self._linear(name, self._forms[name].axis)
        assert form is not None  # for the type checker: the axis is its own
        self.escaping.update(term.source for term in form.terms)

    # -- rules -------------------------------------------------------------------------------------------------------
    def layer(self, node: Node) -> Form | None:
        """A linear map of values as they are."""
        layer = node.layer
        if layer is None or not node.params.get("foldable", True) or node.shape is None:
            return None
        source, geometry = self.nodes[node.inputs[0]], dict(layer.geometry)
        if source.rule == "pad" and is_padded_layer(node, source, self.nodes[source.inputs[0]]):
            geometry |= {"padding_mode": source.params["mode"], "padding": source.params["pads"]}
            source = self.nodes[source.inputs[0]]
        if source.shape is None or (layer.spatial and len(node.shape) != layer.spatial + 2):
            return None
        try:
            shape = tuple(layer.load().shape)
            spec = ConvSpec.of(shape[::-1] if layer.turned else shape, **geometry)
        except (SpecnormError, OSError):
            return None
        axis = len(source.shape) - 1 - layer.spatial
        form = self._form(source.name, axis)
        if form is not None and not (form.terms and all(term.plain for term in form.terms)):
            form = self._linear(source.name, axis)
        if form is None or form.width * self._repeat(form) != spec.cin:
            return None
        one = Filter(layer, geometry, spec, spatial(source.shape, node.shape, layer.spatial))
        alpha, stride = float(node.params.get("alpha", 1.0)), tuple(spec.stride)
        if self._repeat(form) > 1:
            every = range(spec.cin)
            terms = [Term(form.terms[0].source, every, range(spec.cout), stride, one, every, alpha=alpha)]
        else:
            terms = [Term(t.source, t.reads, range(spec.cout), stride, one, t.rows, alpha=alpha) for t in form.terms]
        return Form(tuple(terms), spec.cout, len(node.shape) - 1 - layer.spatial)

    def _repeat(self, form: Form) -> int:
        value = form.value
        link = None if value is None else self.values[value].link
        return 1 if link is None else link.repeat

    def scale(self, node: Node) -> Form | None:
        """A product with one number a channel, or one number."""
        form = self._forms.get(node.inputs[0])
        numbers = np.asarray(node.params["values"], dtype=np.float64)
        if node.shape != self.nodes[node.inputs[0]].shape or not bool(np.all(np.isfinite(numbers))):
            return None
        if form is None and numbers.size == 1:
            self._multiples[node.name] = (node.inputs[0], float(numbers.reshape(-1)[0]))
        if form is None or self._repeat(form) > 1:
            return None
        if numbers.size == 1:
            return times(form, float(numbers.reshape(-1)[0]))
        if node.params.get("channel") != form.axis or numbers.shape != (form.width,):
            return None
        if node.params.get("exact") and (steeper := self._steeper_by(node, form, numbers)) is not None:
            return steeper
        if any(term.scale is not None for term in form.terms):
            return None
        return replace(form, terms=tuple(replace(t, scale=of_rows(numbers, t.rows)) for t in form.terms))

    def pointwise(self, node: Node) -> Form | None:
        """A function of each entry: a new value, or the last one with a steeper function."""
        name = node.inputs[0]
        form = self._forms.get(name)
        found = None if form is None else pointwise.by_channel(node.params, form.axis, form.width)
        if form is None or found is None:
            return None
        low, high = found
        if form.value is not None:
            return self._steeper(node, form, (float(low.min()), float(high.max())))
        made = self._add(node.name, form.width, form.axis, Link(form.terms, form.width, (low, high), node.name))
        if self.readers[node.name] == 1:
            self._sole.add(node.name)
        return made

    def _steeper(self, node: Node, form: Form, found: tuple[float, float]) -> Form | None:
        def change(link: Link) -> Link:
            if not link.open or link.repeat > 1:
                return replace(link, factor=host.mul_up(link.factor, max(map(abs, found))))
            ends = [a * b for a in link.slopes for b in found]
            low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
            return replace(link, slopes=(outward(host.below, low), outward(host.above, high)))

        return self._changed(node, form, change)

    def _steeper_by(self, node: Node, form: Form, numbers: Weights) -> Form | None:
        """The last value, whose functions are as many times as steep: what is scaled needs no value of its own."""
        link = None if form.value is None else self.values[form.value].link
        if link is None or not link.open or link.groups is not None:
            return None
        ends = [end * numbers for end in link.slopes]
        low, high = outward(host.below, np.minimum(*ends)), outward(host.above, np.maximum(*ends))
        return self._changed(node, form, lambda link: replace(link, slopes=(low, high)))

    def _changed(self, node: Node, form: Form, change: Callable[[Link], Link]) -> Form | None:
        """The last value after one more node, if nothing else reads it as it was."""
        value, name = form.value, node.inputs[0]
        if value is None or name not in self._sole or self.readers[name] != 1:
            return None
        link = self.values[value].link
        if link is None:
            return None
        self.values[value] = replace(self.values[value], link=replace(change(link), end=node.name))
        if self.readers[node.name] == 1:
            self._sole.add(node.name)
        return form

    def add(self, node: Node) -> Form | None:
        """A sum of values, with signs."""
        if len(node.inputs) == 1:
            return self.select(node) if node.params.get("shift") else None
        signs = node.params.get("signs")
        if signs is None or len(signs) != len(node.inputs) or any(s != node.shape for s in self._shapes(node)):
            return None
        axes = {self._forms[name].axis for name in node.inputs if name in self._forms}
        if len(axes) != 1:
            return None
        forms = [self._form(name, *axes) for name in node.inputs]
        known = [form for form in forms if form is not None and self._repeat(form) == 1]
        if len(known) < len(forms) or len({form.width for form in known}) > 1:
            return None
        terms = [replace(t, alpha=sign * t.alpha) for form, sign in zip(known, signs, strict=True) for t in form.terms]
        return replace(known[0], terms=tuple(terms))

    def stack(self, node: Node) -> Form | None:
        """Channels one after the other."""
        axis = node.params.get("axis")
        if axis is None or node.shape is None or not any(name in self._forms for name in node.inputs):
            return None
        forms = [self._form(name, int(axis)) for name in node.inputs]
        known = [form for form in forms if form is not None and self._repeat(form) == 1]
        others = [None if s is None else (*s[:axis], *s[axis + 1 :]) for s in (node.shape, *self._shapes(node))]
        if len(known) < len(forms) or any(other is None or other != others[0] for other in others):
            return None
        terms: list[Term] = []
        at = 0
        for form in known:
            terms += [replace(t, rows=moved(t.rows, at)) for t in form.terms]
            at += form.width
        return Form(tuple(terms), at, int(axis)) if at == node.shape[int(axis)] else None

    def select(self, node: Node) -> Form | None:
        """The same, some channels, every s-th pixel, or features of pixels."""
        name = node.inputs[0]
        form, before = self._forms.get(name), self.nodes[name].shape
        if node.params.get("slice") is not None and before is not None:
            known = form or self._form(name, 1)  # of samples with spatial axes; others have no slices that help
            for piece in node.params["slice"] if len(before) > 2 else ():
                known = None if known is None else self._sliced(node, known, *piece)
            return known if len(before) > 2 else None
        if form is None or node.shape is None:
            return None
        if node.params.get("sorted") is not None and self._repeat(form) == 1:
            return self._sorted(node, form)
        if node.params.get("shift") and node.shape == before:
            if name in self._sole and self.readers[node.name] == 1:
                self._sole.add(node.name)
                return self._changed(node, form, lambda link: link)
            return form
        if node.params.get("reshaped"):
            whole = self._linear(name, form.axis)
            repeat = None if whole is None else flattened(node, before, whole)
            if whole is None or repeat is None:
                return None
            return self._changed(node, whole, lambda link: replace(link, repeat=repeat, open=False))
        return None

    def reflect(self, node: Node) -> Form | None:
        """A choice between two linear maps of pairs."""
        form = self._forms.get(node.inputs[0])
        return None if form is None or self._repeat(form) > 1 else self._sorted(node, form)

    def _sorted(self, node: Node, form: Form) -> Form:
        """Sorting along an axis: slopes in [-1, 1] of the group, in weights that all its channels share."""
        steep, at = np.full(form.width, float(node.params.get("norm", 1.0))), np.arange(form.width)
        count = node.params.get("consecutive")
        groups = at
        if node.params["sorted"] == form.axis:
            groups = at % (form.width // 2) if count is None else at // count
        link = Link(form.terms, form.width, (-steep, steep), node.name, groups=groups)
        if self.readers[node.name] == 1:
            self._sole.add(node.name)
        return self._add(node.name, form.width, form.axis, link)

    def _sliced(self, node: Node, form: Form, axis: int, start: int, step: int) -> Form | None:
        before = self.nodes[node.inputs[0]].shape
        if before is None or node.shape is None or not all(term.plain or axis != form.axis for term in form.terms):
            return None
        if axis == form.axis and step == 1:
            count = int(node.shape[axis])
            kept = [cropped(term, range(start, start + count)) for term in form.terms]
            return Form(tuple(term for term in kept if term is not None), count, axis)
        size, after, spatial = before[axis], node.shape[axis], axis - form.axis - 1
        whole = isinstance(size, int) and after == -(-size // step)
        if start or not whole or spatial < 0 or any(t.filter is not None for t in form.terms):
            return None
        wide = [1] * (len(before) - form.axis - 1)
        wide[spatial] = step
        old = [term.stride or (1,) * len(wide) for term in form.terms]
        if any(stride[spatial] > 1 for stride in old):
            return None
        new = [tuple(a * b for a, b in zip(stride, wide, strict=True)) for stride in old]
        return replace(form, terms=tuple(replace(t, stride=s) for t, s in zip(form.terms, new, strict=True)))

    def pad(self, node: Node) -> Form | None:
        """Channels of zeros; other padding is taken up as what keeps channels, or belongs to a layer."""
        before, pads = self.nodes[node.inputs[0]].shape, node.params["pads"]
        if self._waits(node) or before is None:
            return None
        form = self._forms.get(node.inputs[0])
        first = len(before) - len(pads)
        padded = [first + j for j, pair in enumerate(pads) if any(pair)]
        if form is None or node.params["mode"] != "zeros" or padded != [form.axis]:
            return self.keeping(node)
        ahead, behind = pads[form.axis - first]
        terms = tuple(replace(t, rows=moved(t.rows, ahead)) for t in form.terms)
        return Form(terms, ahead + form.width + behind, form.axis)

    def keeping(self, node: Node) -> Form | None:
        """What treats each channel by itself and alike, behind the last value."""
        name = node.inputs[0]
        source = self.nodes[name]
        form = None if name not in self._forms else self._linear(name, self._forms[name].axis)
        if form is None or form.axis != 1 or source.shape is None or node.shape is None or self._repeat(form) > 1:
            return None
        if node.rule == "mean":
            # Only over the axes behind the channels; the rest keep their places.
            kept = min((axis % len(source.shape) for axis in node.params["axes"]), default=0) > 1
        else:
            kept = len(node.shape) == len(source.shape) > 2 and node.shape[:2] == source.shape[:2]
        try:
            factor = FACTORS[node.rule](node, source) if kept else math.inf
        except UnknownRuleError:
            return None
        if not math.isfinite(factor):
            return None
        return self._changed(
            node, form, lambda link: replace(link, factor=host.mul_up(link.factor, factor), open=False)
        )

    def _shapes(self, node: Node) -> list[Shape | None]:
        return [self.nodes[name].shape for name in node.inputs]


_RULES: dict[str, Callable[[Reader, Node], Form | None]] = {
    "layer": Reader.layer,
    "scale": Reader.scale,
    "pointwise": Reader.pointwise,
    "add": Reader.add,
    "stack": Reader.stack,
    "select": Reader.select,
    "reflect": Reader.reflect,
    "pad": Reader.pad,
    "max_pool": Reader.keeping,
    "average_pool": Reader.keeping,
    "l2_pool": Reader.keeping,
    "resize": Reader.keeping,
    "mean": Reader.keeping,
}
