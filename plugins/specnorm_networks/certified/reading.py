"""A graph cut into runs: values as sums of linear maps of earlier values, each with a function of each entry after it.

A *value* is what an entry-wise function makes of a sum of linear maps of earlier values; a *link* is that map and
function. Links in the order of computation, from one value to another that alone is read further, are a *run*. Along a
run each value may be measured in a norm of its own, with one weight a channel.

Maps (`Term`), sums with their function (`AffineMap`), several of these (`Subnetwork`, `Segment`), the reader, and where
a graph is cut. What no link can speak of (a product of two values, an operator without a rule) is a value of its own,
from which other links may begin.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec, SpecnormError
from specnorm.proof import Upper, host
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Graph, Layer, Node, Shape
from specnorm_networks.certified.kernels import ROUNDINGS, Sizes, by_output
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.rules import NOTHING, Average, followed, of_operator, of_slopes, unmoved
from specnorm_networks.certified.scope import About, Scope

Placed = tuple[FloatArray, tuple[int, ...]]
"""A kernel, and the place of its first tap."""


@dataclass(frozen=True, eq=False)
class Filter:
    """A layer as it stands in a network."""

    layer: Layer
    geometry: dict[str, Any]
    """Of the layer, with the padding before it."""
    spec: ConvSpec
    """The same with the kernel's shape."""
    sizes: Sizes | None
    """Spatial sizes before and after."""


@dataclass(frozen=True, eq=False)
class Term:
    """A linear map from some channels of one value to some channels of a link: a layer, or the identity."""

    source: int
    """Number of the value that it reads."""
    reads: range
    """Channels of that value."""
    rows: range
    """Channels of the link that it is added to."""
    stride: tuple[int, ...] = ()
    filter: Filter | None = None
    """None: the identity, on every ``stride``-th pixel."""
    columns: range = range(0)
    """Channels of the layer that those of ``reads`` are."""
    scale: FloatArray | None = None
    """Shape (len(rows),): batch normalisation behind it; correct to a few roundings."""
    alpha: float = 1.0
    """A number that it is multiplied by."""

    @property
    def plain(self) -> bool:
        """Whether it is the identity, and neither scaled nor strided."""
        return self.filter is None and self.scale is None and self.alpha == 1 and max(self.stride, default=1) == 1

    @property
    def lost(self) -> FloatArray | float:
        """What `ROUNDINGS` roundings of would be as much as the kernel's entries may be off, in its shape."""
        if self.filter is None or self.filter.layer.error is None:
            return 0.0
        error = np.asarray(self.filter.layer.error(), np.float64)[:, self.columns.start : self.columns.stop]
        if self.scale is not None:
            error = error * abs(self.scale)[:, None]
        return host.inflate(abs(error) * (abs(self.alpha) * 2.0**53 / ROUNDINGS), ROUNDINGS)

    @property
    def family(self) -> str:
        """Which borders a statement about the whole grid is about: "zeros", "circular", "any"; "alone": none."""
        if self.filter is None:
            return "any" if max(self.stride, default=1) == 1 else "zeros"
        spec = self.filter.spec
        if (
            max(spec.kernel_shape, default=1) == 1
            and not any(map(sum, spec.padding))
            and max(self.stride, default=1) == 1
        ):
            return "any"
        if spec.padding_mode == "zeros" and not (spec.transposed and max(spec.stride) > 1):
            return "zeros"
        periodic = spec.padding_mode == "circular" and not any(spec.extra_outputs) and max(spec.stride) == 1
        return "circular" if periodic and not spec.transposed else "alone"

    def dense(self, axes: int, *, dilated: bool) -> Placed:
        """Kernel as a plain correlation, ``y[m] = sum_t kernel[t] x[stride m + start + t]``: no groups, scaled.

        ``axes``: spatial axes; an identity has one tap on each. ``dilated``: whether zeros are put between the taps;
        if not, positions are in units of the dilation.
        """
        ones = (1,) * axes
        if self.filter is None:
            kernel = np.eye(len(self.rows)).reshape(len(self.rows), len(self.reads), *ones)
            scale = np.ones(len(self.rows)) if self.scale is None else self.scale
            return kernel * (self.alpha * scale).reshape(-1, 1, *ones), (0,) * axes
        spec, kernel = self.filter.spec, self.filter.layer.kernel()
        if self.scale is not None:
            kernel = kernel * by_output(self.scale, spec)
        whole = _ungrouped(kernel * self.alpha, spec, spec.dilation if dilated else (1,) * spec.ndim)
        # A transposed layer has y[m + k - before] += K[i, o, k] x[m]: a correlation with the taps in reverse.
        start = tuple(
            before - r * (k - 1) if spec.transposed else -before
            for k, r, (before, _) in zip(spec.kernel_shape, spec.dilation, spec.padding, strict=True)
        )
        if spec.transposed:
            whole = np.flip(whole.swapaxes(0, 1), axis=tuple(range(2, whole.ndim)))
        return whole[:, self.columns.start : self.columns.stop], start


def _ungrouped(kernel: FloatArray, spec: ConvSpec, dilation: Sequence[int]) -> FloatArray:
    g = spec.groups
    first, second = kernel.shape[0] // g, kernel.shape[1]
    extent = [r * (k - 1) + 1 for r, k in zip(dilation, spec.kernel_shape, strict=True)]
    whole = np.zeros((kernel.shape[0], second * g, *extent))
    taps = tuple(slice(None, None, r) for r in dilation)
    for at in range(g):
        rows, columns = slice(at * first, (at + 1) * first), slice(at * second, (at + 1) * second)
        whole[(rows, columns, *taps)] = kernel[rows]
    return whole


@dataclass(frozen=True, eq=False)
class AffineMap:
    """A sum of linear maps, the function of each entry after it, and what may follow."""

    terms: tuple[Term, ...]
    """Those of a run number its values: 0 is its input, i the value of its i-th link."""
    width: int
    """Channels."""
    slopes: tuple[FloatArray, FloatArray]
    """Shape (width,): smallest and largest slope of the function; 1 where there is none."""
    end: str
    """Name of the last node."""
    node: str = ""
    """Name of the function's own; "" where nothing asks for it."""
    factor: Upper = NOTHING
    """Of what follows the function: pooling, resizing. It keeps the channels."""
    repeat: int = 1
    """Features that each channel becomes before the next layer (flattening)."""
    open: bool = True
    """Whether nothing but the function lies between this sum and the next."""
    average: Average | None = None
    """What alone lies between, where ``factor`` is its own."""
    groups: NDArray[np.intp] | None = None
    """Number of the group of each channel, where the function sorts entries of channels of one group: it moves no two
    vectors apart in any norm whose weights are one number a group. None: each channel by itself."""

    def fits(self, weights: FloatArray) -> bool:
        """Whether weights are one number a group."""
        if self.groups is None:
            return True
        first = np.unique(self.groups, return_index=True)[1]
        return bool(np.all(weights == weights[first][self.groups]))

    @property
    def steepest(self) -> FloatArray:
        """Largest absolute slope of each channel."""
        return np.asarray(np.maximum(abs(self.slopes[0]), abs(self.slopes[1])))

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Values that it reads, in order."""
        return tuple(sorted({term.source for term in self.terms}))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the kernels."""
        return tuple(dict.fromkeys(term.filter.layer.name for term in self.terms if term.filter is not None))

    @property
    def alone(self) -> Term | None:
        """The only term, if that is a whole layer, as it is given: its norm at its own size is known."""
        (first, *others) = self.terms
        whole = (
            first.filter is not None
            and first.filter.layer.error is None
            and len(first.columns) == first.filter.spec.cin
            and len(first.rows) == self.width
        )
        return first if whole and not others else None


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """Links from one value to another."""

    start: str
    """Name of the node that is read first (before any padding)."""
    width: int
    """Its channels."""
    links: tuple[AffineMap, ...]
    blocks: tuple[int, ...]
    """Numbers of values, from 0 to ``len(links)``, past which no later link reads: where the run may be cut."""
    _about: About | None = field(default=None, init=False)

    @property
    def about(self) -> About | None:
        """Of whose values it is, where its links are said to be these by the rooms that read a graph."""
        return self._about

    def _of(self, about: About | None) -> Subnetwork:
        """The same, read off a graph. For the modules of the trusted room."""
        object.__setattr__(self, "_about", about)
        return self

    @property
    def end(self) -> str:
        """Name of the last node."""
        return self.links[-1].end

    def part(self, first: int, last: int) -> Segment:
        """Links ``first:last``."""
        before = self.links[first - 1] if first else None
        return Segment(self.links[first:last], first, self.width if before is None else before.width * before.repeat)


@dataclass(frozen=True, eq=False)
class Segment:
    """Links of a run that are bounded together."""

    links: tuple[AffineMap, ...]
    first: int
    """Number of the value that they begin with."""
    width: int
    """Channels of that value."""
    placed: bool = False
    """Whether taps stand at their places, although another shift or spacing says the same."""

    @property
    def filters(self) -> list[Filter]:
        """Layers of all terms."""
        return [term.filter for term in self._terms if term.filter is not None]

    @property
    def axes(self) -> int:
        """Spatial axes."""
        return max((each.layer.spatial for each in self.filters), default=0)

    @property
    def stride(self) -> tuple[int, ...]:
        """Of whatever reads the first value."""
        found = (term.stride for term in self._terms if max(term.stride, default=1) > 1)
        return next(found, (1,) * self.axes)

    @property
    def chain(self) -> bool:
        """Whether each link reads one value, the one before."""
        return all(link.sources == (at,) for at, link in enumerate(self.links, self.first))

    @property
    def depth(self) -> int:
        """Links on the longest way."""
        depth = {self.first: 0}
        for at, link in enumerate(self.links, self.first + 1):
            depth[at] = 1 + max(depth[source] for source in link.sources)
        return depth[self.first + len(self.links)]

    @property
    def widths(self) -> list[int]:
        """Channels of each value, those of the first for each phase of the stride."""
        return [self.width * math.prod(self.stride), *(link.width for link in self.links)]

    @property
    def _terms(self) -> list[Term]:
        return [term for link in self.links for term in link.terms]

    @property
    def computed(self) -> bool:
        """Whether entries of a kernel may be off."""
        return any(each.layer.error is not None for each in self.filters)

    @property
    def families(self) -> set[str]:
        """Of all terms, without "any"."""
        return {term.family for term in self._terms} - {"any"}

    @property
    def agrees(self) -> bool:
        """Whether all values but the first, which only strided terms may read, are on one grid."""
        grids = {each.layer.spatial for each in self.filters}
        if len(grids) > 1 or any(not link.open or link.repeat > 1 for link in self.links[:-1]):
            return False
        ones = (1,) * self.axes
        first = {term.stride or ones for term in self._terms if term.source == self.first}
        later = {term.stride or ones for term in self._terms if term.source != self.first}
        return len(first) == 1 and later <= {ones}

    @property
    def undilated(self) -> bool:
        """Whether dilation need not be looked at: a chain, dilated alike, has the plain one's symbols at r theta."""
        strided = max(self.stride, default=1) > 1
        if self.placed or strided or not self.chain or any(len(link.terms) > 1 for link in self.links):
            return False
        specs = [each.spec for each in self.filters]
        return all(len({s.dilation[j] for s in specs if s.kernel_shape[j] > 1}) <= 1 for j in range(self.axes))

    def kernels(self, *, absolute: bool = False) -> list[dict[int, Placed]]:
        """For each link: the number of a value it reads -> kernel on that value's channels, and the first tap's place.

        The first value's channels come with the phases of the stride, so that every kernel is a correlation of stride
        1. Where dilation is not looked at, places are 0.

        ``absolute``: sums of the terms' absolute values: what relative errors of the terms refer to.
        """
        return [self._joined(link, absolute) for link in self.links]

    def _joined(self, link: AffineMap, absolute: bool) -> dict[int, Placed]:
        widths = dict(enumerate([self.width, *(each.width for each in self.links)], self.first))
        found: dict[int, Placed] = {}
        for source in link.sources:
            terms = [term for term in link.terms if term.source == source]
            stride = self.stride if source == self.first else (1,) * self.axes
            placed = [self._placed(term, stride, absolute) for term in terms]
            low, size, taps = window_of(placed)
            whole = np.zeros((link.width, widths[source] * math.prod(stride), *size))
            for term, (kernel, _), at in zip(terms, placed, taps, strict=True):
                columns = slice(term.reads.start * math.prod(stride), term.reads.stop * math.prod(stride))
                whole[(slice(term.rows.start, term.rows.stop), columns, *at)] += kernel
            found[source] = (whole, low)
        return found

    def _placed(self, term: Term, stride: tuple[int, ...], absolute: bool) -> Placed:
        kernel, start = term.dense(self.axes, dilated=not self.undilated)
        kernel = abs(kernel) + term.lost if absolute else kernel
        return phased(kernel, (0,) * self.axes if self.undilated else start, stride)


def window_of(placed: Sequence[Placed], *least: int) -> tuple[tuple[int, ...], list[int], list[list[slice]]]:
    """First place and size, an axis, of a window with all taps of kernels in it, and where there those of each are.

    ``least``: places that it does not begin behind.
    """
    low = tuple(min([*axis, *least]) for axis in zip(*(start for _, start in placed), strict=True))
    taps = [
        [slice(s - a, s - a + n) for s, a, n in zip(start, low, kernel.shape[2:], strict=True)]
        for kernel, start in placed
    ]
    return low, [max(each.stop for each in axis) for axis in zip(*taps, strict=True)], taps


def phased(kernel: FloatArray, start: tuple[int, ...], stride: tuple[int, ...]) -> Placed:
    """A strided kernel on the phases of its input, which are channels then (polyphase).

    Position ``s m + start + t`` is phase ``(start + t) mod s`` of coarse pixel ``m + floor((start + t) / s)``.
    """
    if all(s == 1 for s in stride):
        return kernel, start
    before = [a % s for a, s in zip(start, stride, strict=True)]
    whole = [-(-(b + k) // s) for b, k, s in zip(before, kernel.shape[2:], stride, strict=True)]
    wide = np.zeros((*kernel.shape[:2], *(q * s for q, s in zip(whole, stride, strict=True))))
    taps = [slice(b, b + k) for b, k in zip(before, kernel.shape[2:], strict=True)]
    wide[(slice(None), slice(None), *taps)] = kernel
    split = wide.reshape(*kernel.shape[:2], *(n for pair in zip(whole, stride, strict=True) for n in pair))
    d = len(stride)
    order = (0, 1, *range(3, 2 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    places = tuple(a // s for a, s in zip(start, stride, strict=True))
    return split.transpose(order).reshape(kernel.shape[0], -1, *whole), places


OFF = ROUNDINGS * 2.0**-53
"""By how much an entry is off, of what `Term.lost` says."""
PIXELS = 2**10
"""Most that are averaged, for a matrix of them."""


@dataclass(frozen=True, eq=False)
class LinearCombination:
    """A node's value: a sum of terms, and constants."""

    terms: tuple[Term, ...]
    width: int
    """Channels."""
    axis: int
    """Where they are."""

    @property
    def value(self) -> int | None:
        """The value that it is, and nothing else."""
        (first, *others) = self.terms or (None,)
        whole = first is not None and first.plain and first.rows == first.reads == range(self.width)
        return first.source if first is not None and whole and not others else None


@dataclass(frozen=True, eq=False)
class Value:
    """A value that terms read."""

    node: str
    """Name of the node that it was first."""
    width: int
    link: AffineMap | None
    """None: nothing is known of how it came to be. Its terms number the values of the whole graph."""
    axis: int
    """Of its channels."""


def is_padded_layer(node: Node, pad: Node, source: Node) -> bool:
    """Whether padding and the convolution after it are one layer, as `bounding` has it."""
    if not isinstance(node.operator, ops.Convolution) or not isinstance(pad.operator, ops.Pad):
        return False
    layer, pads, mode = node.operator.layer, pad.operator.pads, pad.operator.mode
    padding = layer.geometry.get("padding", ())
    if isinstance(padding, str) or any(sum(pair) for pair in padding) or layer.geometry.get("transposed"):
        return False
    if mode == "reflect":
        sizes = None if source.shape is None else source.shape[len(source.shape) - layer.spatial :]
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
    def product() -> tuple[Any, Any]:
        one, other = whole.dense(0, dilated=True)[0], layer.kernel()
        found, sizes = other @ one, abs(other) @ abs(one)
        # Roundings of the sum, and those of the first one's entries, which may be off, as the second one's.
        units = (form.width + ROUNDINGS) * 2.0**-52
        error = units * host.inflate(sizes, form.width) + abs(other) @ (np.zeros(one.shape) + whole.lost * OFF)
        if layer.error is not None:
            error = error + np.asarray(layer.error(), np.float64) @ (abs(one) + whole.lost * OFF)
        return found, host.inflate(error, 2 * form.width + 8) + 2.0**-1000

    spec = ConvSpec.of((cout, first.filter.spec.cin))
    both = Filter(Layer(name, lambda: product()[0], {}, 0, error=lambda: product()[1]), {}, spec, None)
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
        case ops.MaxPool() | ops.AveragePool():
            kept = len(operator.windows.kernel) <= behind
        case ops.Resize():
            kept = all(scale == 1 for scale in operator.scales[:2])
        case _:
            kept = operator.keeps_channels
    return kept and len(after) == len(before) and after[:2] == before[:2]


def averages(operator: ops.Operator, before: Shape | None, factor: Upper) -> Average | None:
    """What averages pixels, if they are few."""
    sizes = None if before is None else before[2:]
    if not isinstance(operator, (ops.Mean, ops.AveragePool)) or sizes is None:
        return None
    return Average(factor, operator.run, sizes) if math.prod(sizes) <= PIXELS else None


def numbers_along(values: FloatArray, axis: int, ndim: int) -> FloatArray | None:
    """Numbers that a value of some axes is multiplied by, one for each entry of one axis; None if they are no such."""
    at = axis - ndim + values.ndim
    return values.reshape(-1) if at >= 0 and values.size == values.shape[at] else None


def spatial(before: Shape | None, after: Shape | None, count: int) -> Sizes | None:
    """Spatial sizes before and after a layer."""
    ends = [None if shape is None else shape[len(shape) - count :] for shape in (before, after)]
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def flattened(node: Node, before: Shape | None, form: LinearCombination) -> int | None:
    """Positions of each channel that become features, those of one channel next to each other."""
    old, new = before, node.shape
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
            case ops.Convolution() as layer:
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
            case ops.SideBySide() as functions:
                return self._side_by_side(node, functions)
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
        if form is not None and not (form.terms and all(replace(term, alpha=1.0).plain for term in form.terms)):
            form = self._linear(source.name, axis)
        if form is None or form.width * self._repeat(form) != spec.cin:
            return None
        one = Filter(layer, geometry, spec, spatial(source.shape, node.shape, layer.spatial))
        stride = tuple(spec.stride)
        if self._repeat(form) > 1:
            every = range(spec.cin)
            terms = [Term(form.terms[0].source, every, range(spec.cout), stride, one, every, alpha=alpha)]
        else:
            rows = range(spec.cout)
            terms = [Term(t.source, t.reads, rows, stride, one, t.rows, alpha=alpha * t.alpha) for t in form.terms]
        return LinearCombination(tuple(terms), spec.cout, len(node.shape) - 1 - layer.spatial)

    def _repeat(self, form: LinearCombination) -> int:
        value = form.value
        link = None if value is None else self.values[value].link
        return 1 if link is None else link.repeat

    def _scaled(self, node: Node, scale: ops.Scale) -> LinearCombination | None:
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
        name = node.inputs[0]
        before = self.nodes[name].shape
        if before is None or len(before) < 3:
            return None  # samples without spatial axes have no slices that help
        form = self._forms.get(name) or self._form(name, 1)
        for axis, start, stop, step in cut.parts:
            size = before[axis]
            if form is None or step < 1:
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
        norm = sort.norm if isinstance(sort, ops.Reflection) else 1.0
        if norm is None:
            return None
        groups, steep = sorted_together(sort, form), np.full(form.width, norm)
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

    def _side_by_side(self, node: Node, functions: ops.SideBySide) -> LinearCombination | None:
        """Several functions of each channel: as many channels."""
        form, proof = self._forms.get(node.inputs[0]), functions.proof
        if form is None or self._repeat(form) > 1 or functions.new or functions.axis != form.axis:
            return None
        if isinstance(proof, str):
            return None
        count = len(functions.outputs)
        terms = [replace(t, rows=moved(t.rows, at * form.width)) for at in range(count) for t in form.terms]
        low, high = (np.repeat(end, form.width) for end in (proof.low.min(axis=1), proof.high.max(axis=1)))
        return self._made(node, form, AffineMap(tuple(terms), count * form.width, (low, high), node.name))

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


ENTRIES = 2**25
"""Most entries of a part's kernel."""
MOST_PHASES = 16
"""Of a pixel of the coarsest grid, where grids differ."""


def runs(graph: Graph) -> list[Subnetwork]:
    """All runs that one norm or several may bound better than the rules do, in the order of the graph."""
    reader = Reader(graph)
    values, found = reader.values, []
    done: set[int] = set()
    readers: list[set[int]] = [set() for _ in values]
    for at, value in enumerate(values):
        for source in () if value.link is None else value.link.sources:
            readers[source].add(at)
    for start in range(len(values)):
        for numbers, run in _joinable_parts(values, _longest(start, values, readers, reader.escaping, done)):
            if len(run.links) > 1 or len(run.links[0].terms) > 1:
                found.append(run._of(reader.scope.about))
                done.update(numbers[1:])
    return found


def _longest(
    start: int, values: Sequence[Value], readers: Sequence[set[int]], escaping: set[int], done: set[int]
) -> list[int]:
    """Numbers of the values from ``start`` to the last one that alone is read by others, those needed for it."""
    reached = {start}
    for at in range(start + 1, len(values)):
        link = values[at].link
        if link is not None and link.terms and at not in done and reached.issuperset(link.sources):
            reached.add(at)
    for end in sorted(reached - {start}, reverse=True):
        needed, waiting = {start, end}, [end]
        while waiting:
            sources = set(_link(values[waiting.pop()]).sources) - needed
            if any(at in escaping or max(readers[at]) > end for at in sources):
                break
            needed |= sources
            waiting += sources
        else:
            if all(readers[at] <= needed for at in needed - {start, end}):
                return sorted(needed)
    return [start]


def _joinable_parts(values: Sequence[Value], numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Subnetwork]]:
    """The values in a row, cut where no statement can speak of what lies between two cuts; and as runs."""
    place = {number: at for at, number in enumerate(numbers)}
    blocks = blocks_of([[place[s] for s in _link(values[number]).sources] for number in numbers[1:]])
    begin = 0
    for first, last in [*itertools.pairwise(blocks), (blocks[-1], None)]:
        block = None if last is None else run_of(values, numbers[first : last + 1])
        if block is not None and joinable(block.part(0, len(block.links)), math.inf):
            continue
        if first > begin:
            yield numbers[begin : first + 1], run_of(values, numbers[begin : first + 1])
        phased = None if block is None else by_phases(block)
        if phased is not None and last is not None and joinable(phased.part(0, len(phased.links)), math.inf):
            yield numbers[first : last + 1], phased
        begin = first if last is None else last


def _link(value: Value) -> AffineMap:
    assert value.link is not None  # for the type checker: those after the first have one
    return value.link


def run_of(values: Sequence[Value], numbers: Sequence[int]) -> Subnetwork:
    """Some values with what each reads, numbered from 0."""
    place = {number: at for at, number in enumerate(numbers)}
    links = [_link(values[number]) for number in numbers[1:]]
    own = [
        replace(x, terms=tuple(replace(t, source=place[t.source]) for t in x.terms), node=values[number].node)
        for x, number in zip(links, numbers[1:], strict=True)
    ]
    first = values[numbers[0]]
    width = first.width * (1 if first.link is None else first.link.repeat)
    start = first.node if first.link is None else first.link.end
    return Subnetwork(start, width, tuple(own), tuple(blocks_of([link.sources for link in own])))


def by_phases(run: Subnetwork) -> Subnetwork | None:
    """The same on one grid, where strides differ: pixels of finer grids are channels, one for each phase (polyphase).

    Sequences that are 0 outside a window are so phase by phase. None where grids do not fit, or borders are no zeros.
    """
    links, whole = run.links, run.part(0, len(run.links))
    inner = all(link.open and link.repeat == 1 for link in links[:-1]) and all(link.groups is None for link in links)
    grids = grids_of(run)
    if not whole.axes or not inner or whole.families - {"zeros"} or whole.computed or grids is None:
        return None
    if math.prod(grids[0]) > MOST_PHASES:
        return None
    made = []
    for at, link in enumerate(links, 1):
        count = math.prod(grids[at])
        terms = tuple(_by_phases(term, grids[at], grids[term.source], whole.axes) for term in link.terms)
        slopes = (np.repeat(link.slopes[0], count), np.repeat(link.slopes[1], count))
        made.append(replace(link, terms=terms, width=link.width * count, slopes=slopes))
    return replace(run, links=tuple(made))


def grids_of(run: Subnetwork) -> dict[int, tuple[int, ...]] | None:
    """How many pixels of each value's grid are one of the last value's, an axis; None where grids do not fit."""
    ones = (1,) * run.part(0, len(run.links)).axes
    grids = {len(run.links): ones}
    for at in range(len(run.links), 0, -1):
        for term in run.links[at - 1].terms:
            finer = tuple(a * b for a, b in zip(term.stride or ones, grids[at], strict=True))
            if grids.setdefault(term.source, finer) != finer:
                return None
    return grids


def _by_phases(term: Term, after: tuple[int, ...], before: tuple[int, ...], axes: int) -> Term:
    """A term from all phases of what it reads (of the run's input: from its pixels) to all phases of its link."""
    kernel, start = term.dense(axes, dilated=True)
    placed: list[Placed] = []
    for q in itertools.product(*map(range, after)):
        # Output r n + q reads s (r n + q) + start + t.
        there = tuple(a + s * p for a, s, p in zip(start, term.stride or (1,) * axes, q, strict=True))
        placed.append(phased(kernel, there, before) if term.source else (kernel, there))
    low, size, taps = window_of(placed, 0)
    found = np.zeros((len(term.rows), len(placed), placed[0][0].shape[1], *size))
    for at, (each, _) in enumerate(placed):
        of_phase = found[:, at]
        of_phase[(slice(None), slice(None), *taps[at])] = each
    whole: Any = found.reshape(-1, *found.shape[2:])
    stride = (1,) * axes if term.source else before
    geometry = {"stride": stride, "padding_mode": "zeros", "padding": tuple((-a, 0) for a in low)}
    name = "identity" if term.filter is None else term.filter.layer.name
    layer = Layer(name, lambda: whole, geometry, axes)
    several, times = len(placed), math.prod(before) if term.source else 1
    rows, reads = term.rows, term.reads
    return Term(
        term.source,
        range(reads.start * times, reads.stop * times),
        range(rows.start * several, rows.stop * several),
        stride,
        Filter(layer, geometry, ConvSpec.of(whole.shape, **geometry), None),
        range(whole.shape[1]),
    )


def blocks_of(sources: Sequence[Sequence[int]]) -> list[int]:
    """Values past which no link reads: link i, from 1, makes value i of those with the numbers given."""
    count = len(sources)
    earliest = [min(each, default=at) for at, each in enumerate(sources)]
    return [at for at in range(count + 1) if all(first >= at for first in earliest[at:])]


def joinable(part: Segment, widest: float) -> bool:
    """Whether links can be bounded together.

    ``widest``: channels on the smaller side of the kernel that the statement is about; one whole layer may have any.
    """
    if len(part.links) == 1 and part.links[0].alone is not None:
        return True
    if "alone" in part.families or len(part.families) > 1 or not part.agrees:
        return False
    rows, columns, taps = size_of(part)
    return min(rows, columns) <= widest and rows * columns * taps <= ENTRIES


def size_of(part: Segment) -> tuple[int, int, int]:
    """Rows, columns and taps of the kernel of the statement, at most."""
    widths, taps = part.widths, taps_of(part)
    leaves = [link.width if bool((link.slopes[0] < 0).any()) else 0 for link in part.links[:-1]]
    if not part.chain:
        return sum(widths) + sum(leaves), sum(widths) + sum(leaves), taps
    leaves.append(0)
    return sum(widths[1::2]) + sum(leaves[::2]), sum(widths[::2]) + sum(leaves[1::2]), taps


def taps_of(part: Segment) -> int:
    """Taps of a kernel that holds those of all layers."""
    specs = [each.spec for each in part.filters]
    extents = [[r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)] for spec in specs]
    return math.prod(max(axis) for axis in zip(*extents, strict=True))
