"""Prove several layers together: the kernel of a part, by Lemma 4.

The steps A to H are those of the README of this folder, section Lemma 4. The values
of a part are z_0, ..., z_n, linked by layers W_ij and functions f_i of each entry:

    z_i = f_i(sum over j < i of W_ij z_j + constant),    i = 1, ..., n.

The slopes of f_i lie in [a_i, b_i] with a_i <= 0 <= b_i, and q_i are multipliers of z_i.
Lemma 4: if no eigenvalue of the Hermitian kernel N is above 1, then |q_n d_n| <= |q_0
d_0| for the differences d_i of z_i. N has a vertex i for each value, and a vertex i' for
each i < n with a_i b_i < 0. With V_ij = q_i W_ij / q_j its blocks are

    from j to i:   V_ij (a_i + b_i) / 2        for i < n,
    from j to i':  V_ij root(-a_i b_i)         for i < n,
    from j to n:   V_nj max(-a_n, b_n),

and the adjoints of these. The first axis of a value is the batch, the second the
channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.layers import Axis, Layer
from specnorm_check.moves import MOST_MOVED, MOVES, moved, numbered
from specnorm_check.resizing import repeats_of
from specnorm_check.rules import (
    ONE,
    POOLS,
    SUMS,
    axes_of_windows,
    factor_of_operator,
    largest_slope,
    normalising_factors,
    product_rounded_once,
    slopes_of,
)
from specnorm_check.statements import Together, plain

LAYER_OPERATORS = {"Conv", "ConvTranspose", "Gemm"}
MOST_NORMALISATIONS = 4  # behind a layer
# An entry of N has 8 roundings, and 5 more for each normalization: 28 at most. Their
# relative error is below 32 times 2^-53.
ENTRY_ERROR = 2.0**-48
LARGEST_KERNEL = 2**31  # entries
HALF = Fraction(1, 2)
DO_NOT_FIT = "layers of a part do not fit together"

Slopes = tuple[float, float]


class Term(NamedTuple):
    """A layer W_ij that leads from z_j = ``start`` to z_i = ``end``."""

    start: int
    end: int
    kernel: Array
    layer: Layer

    def scaled(self, outputs: Array, inputs: Array) -> Term:
        """Return the layer with each output and each input times its factor."""
        factors = (inputs, outputs) if self.layer.is_adjoint else (outputs, inputs)
        return self._replace(
            kernel=scale_channels(self.kernel, self.layer.groups, *factors)
        )

    @property
    def channels(self) -> tuple[int, int]:
        """How many outputs and inputs the layer has."""
        rows, columns = len(self.kernel), self.kernel.shape[1] * self.layer.groups
        return (columns, rows) if self.layer.is_adjoint else (rows, columns)


class Reading(NamedTuple):
    """Channels of a value that are channels of z_j, the value number ``start``.

    The channels called ``rows`` are the ``channels`` of z_j, whose shape is ``shape`` or
    was flattened to it, at every ``steps``-th pixel of each axis from the first one on.
    """

    start: int
    rows: Array
    channels: Array
    shape: tuple[int, ...]
    steps: list[int]


class Joint(NamedTuple):
    """The kernel whose norm proves a part.

    It is N + I/2 if ``adds_half_identity`` (step E), else T of a chain (step F) or V of a
    layer by itself (step G). ``depth`` is the number of layers on the longest way to z_n.
    The part's constant is `growth` to the power of ``depth``, times ``factor``: the
    constant of the pooling and, in step G, the slope.
    """

    kernel: Array
    layer: Layer
    adds_half_identity: bool
    depth: int
    factor: Fraction

    @property
    def errors(self) -> Array:
        """Bounds of the absolute errors of the kernel's entries."""
        return ENTRY_ERROR * np.abs(self.kernel)


def joint_of_part(graph: Graph, part: Together) -> Joint:
    """Return the kernel whose norm proves a part."""
    is_listed_once = len({*part.values}) == len(part.values)
    require(is_listed_once, "a part lists a value twice")
    for value in part.values:
        axes = len(graph.shape_of(value))
        message = f"{plain(value)} of a part has {axes} axes, not samples and channels"
        require(axes > 1, message)
    reader = TermReader(graph, part)
    terms: list[Term] = []
    slopes: dict[int, Slopes] = {}
    name, pooling = before_pooling(graph, part.values[-1])
    for end, value in enumerate([*part.values[1:-1], name], start=1):
        argument, (low, high) = function_at(graph, value)
        slopes[end] = (min(low, 0.0), max(high, 0.0))  # Lemma 4: a <= 0 <= b
        terms += reader.terms(end, argument)
    require(terms, "a part has no layer")
    if len(terms) > 1:
        return joint_of_several(reader, terms, slopes, pooling)
    require(len(slopes) == 1, DO_NOT_FIT)  # step G: one layer, at every size or its own
    (term,) = map(reader.weighted, terms) if part.multipliers else terms
    layer = replace(term.layer, sizes=None) if part.sizes == "every" else term.layer
    return Joint(term.kernel, layer, False, 1, pooling * largest_slope(slopes[1]))


def growth(joint: Joint, norm: Fraction) -> Fraction:
    """Return the factor of each layer of a part, if ``norm`` bounds the joint kernel.

    Of a chain, or of one layer, it is the norm (steps F and G). Otherwise the norm of
    N + I/2, less 1/2, is a number tau that bounds the largest eigenvalue of N. A way of
    d layers has the constant (2 tau - 1)^d, and 1 if tau is below 1 (step E).
    """
    if not joint.adds_half_identity:
        return norm
    tau = norm - HALF
    return max(2 * tau - 1, ONE)


# -- step A: the layers of a part ------------------------------------------------------
def before_pooling(graph: Graph, name: str) -> tuple[str, Fraction]:
    """Return what is pooled to a part's last value, and the pooling's factor (step H)."""
    pooling = ONE
    while name in graph.nodes and graph.nodes[name].op in (*POOLS, "ReduceMean"):
        node = graph.nodes[name]
        factor = factor_of_operator(graph, name)
        if factor is None or not keeps_channels(graph, node):
            raise Refused(f"{node.op} stands in a part")
        pooling *= factor
        name = node.inputs[0]
    return name, pooling


def function_at(graph: Graph, name: str) -> tuple[str, Slopes]:
    """Return the argument of a value's function of each entry, and the slopes.

    Without a function these are the value itself, and the slopes of the identity.
    """
    require(name in graph.nodes, f"a part ends at {plain(name)}, no computed value")
    node = graph.nodes[name]
    slopes = slopes_of(node)
    if slopes is None:
        return name, (1.0, 1.0)
    graph.require_fixed_inputs(node)
    return node.inputs[0], slopes


def keeps_channels(graph: Graph, node: Node) -> bool:
    """Return whether pooling, or a mean, is over axes of pixels alone."""
    if node.op in POOLS:
        return True
    return min(graph.axes_of(node), default=0) > 1


@dataclass(frozen=True)
class TermReader:
    """Reads the layers of a part from a graph."""

    graph: Graph
    part: Together

    def terms(
        self, end: int, name: str, scale: Array | float = 1.0, normalisations: int = 0
    ) -> Iterator[Term]:
        """Yield the layers that lead from z_0, ..., z_{end-1} to the value ``name``.

        Their sum is ``scale`` times the value, up to a fixed value, which cancels in
        differences. ``scale`` is one number, or one for each channel: the product of
        signs and of the factors of batch normalizations. ``normalisations`` counts the
        latter.
        """
        graph = self.graph
        if name in graph.fixed:
            return
        node = graph.nodes[name]
        if name in self.part.values[:end] or node.op in MOVES:
            yield from self.skip_terms(end, name, scale)
        elif node.op == "BatchNormalization":
            graph.require_fixed_inputs(node)
            more = normalisations + 1
            message = f"more than {MOST_NORMALISATIONS} normalizations behind a layer"
            require(more <= MOST_NORMALISATIONS, message)
            factors = normalising_factors(graph, node)
            scales = product_rounded_once(np.asarray(scale), factors)
            yield from self.terms(end, node.inputs[0], scales, more)
        elif node.op in SUMS:
            for index, summand in enumerate(node.inputs):
                is_same = summand in graph.fixed or graph.have_shape([summand], name)
                require(is_same, f"{node.op} broadcasts a value of a part")
                sign = -1 if index == 1 and node.op == "Sub" else 1
                yield from self.terms(end, summand, sign * scale, normalisations)
        elif node.op == "Resize":
            graph.require_fixed_inputs(node)
            yield from self.skip_terms(
                end, node.inputs[0], scale, repeats_of(graph, name)
            )
        else:
            require(node.op in LAYER_OPERATORS, f"{node.op} stands in a part")
            yield from self.layer_terms(end, name, scale)

    def layer_terms(self, end: int, name: str, scale: Array | float) -> Iterator[Term]:
        """Yield the terms of a layer: one for each z_j of which it reads channels."""
        graph = self.graph
        node = graph.nodes[name]
        graph.require_fixed_inputs(node)
        shape = graph.shape_of(node.inputs[0])
        kernel, layer = read_kernel(graph, node, shape, graph.shape_of(name))
        for read in self.readings(end, node.inputs[0]):
            of_value = kernel
            in_order = [*range(read.shape[1])]
            is_whole = [*read.rows] == [*read.channels] == in_order
            if not is_whole or len(in_order) != shape[1]:
                require(layer.groups == 1 and not layer.is_adjoint, DO_NOT_FIT)
                is_once = len(np.unique(read.channels)) == len(read.channels)
                require(is_once, "a channel is read twice")
                of_value = np.zeros((len(kernel), read.shape[1], *kernel.shape[2:]))
                of_value[:, read.channels] = kernel[:, read.rows]
            require(read.shape[2:] == shape[2:], DO_NOT_FIT)
            yield scaled_outputs(Term(read.start, end, of_value, layer), scale)

    def skip_terms(
        self, end: int, name: str, scale: Array | float, repeats: Sequence[int] = ()
    ) -> Iterator[Term]:
        """Yield the terms of values z_j that are added without a layer.

        They may be sliced to some of their pixels, and joined with constant channels.
        All of this is a layer of one tap: the kernel is a matrix of zeros and ones. If
        pixels are repeated, it is the adjoint of sums over as many pixels.
        """
        outputs = self.graph.shape_of(name)[1]
        for read in self.readings(end, name):
            matrix = np.zeros((outputs, read.shape[1]))
            matrix[read.rows, read.channels] = 1
            if not repeats:
                axes = tuple(Axis(1, step, 1, 0, 0) for step in read.steps)
                layer = Layer(axes, 1, "zeros", read.shape[2:])
            else:
                require(max(read.steps) == 1, DO_NOT_FIT)
                axes = tuple(Axis(n, n, 1, 0, 0) for n in repeats)
                pairs = zip(read.shape[2:], repeats, strict=True)
                sizes = tuple(size * n for size, n in pairs)
                layer = Layer(axes, 1, "zeros", sizes, is_adjoint=True)
                matrix = matrix.T
            taps = np.ones([axis.taps for axis in axes])
            term = Term(read.start, end, np.multiply.outer(matrix, taps), layer)
            yield scaled_outputs(term, scale)

    def readings(self, end: int, name: str) -> Iterator[Reading]:
        """Yield which channels of a value are those of z_0, ..., z_{end-1}.

        The rest is constant. Without multipliers, the value is z_0 in any order.
        """
        shape = self.graph.shape_of(name)
        values = self.part.values[:end]
        channels = np.arange(shape[1])
        if name in values:
            start = values.index(name)
            yield Reading(start, channels, channels, shape, [1] * len(shape[2:]))
            return
        first = 1
        numbers: dict[str, Array] = {}
        for value in values:
            numbers[value] = numbered(self.graph.shape_of(value), first)
            first += numbers[value].size
            require(first < MOST_MOVED, "too many entries are moved")
        found = self.numbers_of(name, numbers)
        if not self.part.multipliers:
            read = found[found > 0]
            require(len(np.unique(read)) == len(read), "an entry is read twice")
            yield Reading(0, channels, channels, shape, [1] * len(shape[2:]))
            return
        for start, value in enumerate(values):
            whole = numbers[value]
            if whole.ndim != len(shape):
                whole = whole.reshape(len(whole), -1)
            is_own = (found >= whole.min()) & (found <= whole.max())
            rows = np.flatnonzero(np.moveaxis(is_own, 1, 0).reshape(shape[1], -1).any(1))
            if len(rows):
                yield reading_of(start, found[:, rows], rows, whole)

    def numbers_of(self, name: str, numbers: dict[str, Array]) -> Array:
        """Return which entries of the values that have ``numbers`` a value has."""
        if name not in numbers:
            op = self.graph.nodes[name].op
            require(op in MOVES, f"{op} stands before a layer of a part")
            for source in self.graph.changing_inputs(name):
                self.numbers_of(source, numbers)
            numbers[name] = moved(self.graph, name, numbers)
        return numbers[name]

    def weighted(self, term: Term) -> Term:
        """Return V_ij = q_i W_ij / q_j of a layer W_ij."""
        outputs, inputs = term.channels
        q_j = self.multipliers(term.start, inputs)
        return term.scaled(self.multipliers(term.end, outputs), 1 / q_j)

    def multipliers(self, number: int, count: int) -> Array:
        """Return q_i, one for each of the ``count`` channels of the vertex i.

        The phases of a channel, and its entries if it is flattened, are channels one
        behind the other. Other values than z_0 may have a multiplier for each of them.
        """
        q = self.part.multipliers[number]
        is_one_each = number > 0 and len(q) == count
        is_stated = is_one_each or self.has_one_a_channel(number)
        require(is_stated, "multipliers are not one a channel")
        require(count % len(q) == 0, DO_NOT_FIT)
        return np.repeat(q, count // len(q))

    def has_one_a_channel(self, number: int) -> bool:
        """Return whether a value has a multiplier for each channel."""
        channels = self.graph.shape_of(self.part.values[number])[1]
        return len(self.part.multipliers[number]) == channels


def scaled_outputs(term: Term, scale: Array | float) -> Term:
    """Return a layer times one number, or times one for each of its outputs."""
    outputs, inputs = term.channels
    return term.scaled(scale * np.ones(outputs), np.ones(inputs))


def reading_of(start: int, own: Array, rows: Array, whole: Array) -> Reading:
    """Return how the numbers of some channels of a value are those of z_j, the ``whole``.

    Refused if they are anything else than channels of z_j, at every ``step``-th pixel.
    The first numbers say which channels and steps these are; then all are compared.
    """
    sizes = whole.shape[2:]
    firsts = own[0].reshape(len(rows), -1)[:, 0] - whole.min()
    channels = firsts // math.prod(sizes) % whole.shape[1]
    steps = []
    for axis, size in enumerate(own.shape[2:]):
        second = [0] * len(sizes)
        second[axis] = min(1, size - 1)
        distance = int(own[0, 0, *second]) - int(own[0, 0].flat[0])
        steps.append(max(distance // math.prod(sizes[axis + 1 :]), 1))
    every = [slice(None, None, step) for step in steps]
    expected = whole[:, channels][:, :, *every]
    cut = expected[:, :, *(slice(size) for size in own.shape[2:])]
    require(np.array_equal(own, cut), DO_NOT_FIT)
    return Reading(start, rows, channels, whole.shape, steps)


def read_kernel(
    graph: Graph, node: Node, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> tuple[Array, Layer]:
    """Return the kernel and the geometry of a layer, or an average, at its input's shape.

    A ConvTranspose is the adjoint of the layer that is returned, whose input has the
    shape of the value (Lemma 3, step 5).
    """
    message = f"no rule is for such a {node.op}"
    groups = node.attributes.get("group", 1)
    if node.op == "AveragePool":
        taps = node.attributes["kernel_shape"]
        groups = input_shape[1]
        kernel = np.full((groups, 1, *taps), 1 / math.prod(taps))
    else:
        kernel = graph.arrays[node.inputs[1]].astype(np.float64)
        taps = [*kernel.shape[2:]]
        require(node.attributes.get("kernel_shape", taps) == taps, message)
        biases = [graph.shape_of(x) for x in node.inputs[2:] if x]
        is_one_a_channel = node.op == "Gemm" or biases in ([], [output_shape[1:2]])
        require(is_one_a_channel, f"{message}: its bias is not one number a channel")
    require(kernel.ndim == len(input_shape), message)
    if node.op == "Gemm":
        matrix = kernel if node.attributes.get("transB") else kernel.T
        kernel = times(matrix, node.attributes.get("alpha", 1.0))
    layer = Layer(axes_of_windows(node, taps), groups, "zeros", input_shape[2:])
    is_padded = any(axis.padding_before or axis.padding_after for axis in layer.axes)
    counts_all = not is_padded or bool(node.attributes.get("count_include_pad"))
    require(counts_all or node.op != "AveragePool", f"{message}: fewer pixels")
    if node.op == "ConvTranspose":
        layer = replace(layer, sizes=output_shape[2:], is_adjoint=True)
        sizes = zip(layer.axes, output_shape[2:], strict=True)
        is_adjoint = [axis.outputs(n) for axis, n in sizes] == [*input_shape[2:]]
        require(is_adjoint and len(kernel) == input_shape[1], message)
        input_shape = output_shape
    is_read = layer.groups * kernel.shape[1] == input_shape[1]
    require(is_read, f"{message}: it reads {input_shape[1]} channels")
    return kernel, layer


def scale_channels(
    kernel: Array, groups: int, output_factors: Array, input_factors: Array
) -> Array:
    """Return a kernel with each output and each input times its factor (step B)."""
    _, inputs, *taps = kernel.shape
    by_group = kernel.reshape(groups, -1, inputs, math.prod(taps))
    rows = output_factors.reshape(groups, -1, 1, 1)
    columns = input_factors.reshape(groups, 1, -1, 1)
    scaled = product_rounded_once(product_rounded_once(by_group, rows), columns)
    return scaled.reshape(kernel.shape)


# -- steps C to F: several layers ------------------------------------------------------
class Edge(NamedTuple):
    """A block of N, from one vertex to another: a kernel and where its first tap is.

    Vertex i is the value z_i, vertex -i the helper variable i' of Lemma 4. Tap a of the
    kernel reads, for the output at pixel y, the pixel y + first_tap + a.
    """

    start: int
    end: int
    kernel: Array
    first_tap: list[int]


def joint_of_several(
    reader: TermReader,
    terms: Sequence[Term],
    slopes: Mapping[int, Slopes],
    pooling: Fraction,
) -> Joint:
    """Return the kernel N + I/2 of several layers, or T if they are a chain."""
    pixels = pixels_of_values(terms)
    can_be_pooled = pooling == ONE or reader.has_one_a_channel(len(slopes))
    require(can_be_pooled, "phases that have multipliers of their own are pooled")
    phases = [by_phases(term, pixels[term.end], pixels[term.start]) for term in terms]
    is_chain = all(term.end == term.start + 1 for term in terms)
    edges = []
    for of_phases, first_tap in phases:
        edges += edges_of(reader.weighted(of_phases), first_tap, slopes, is_chain)
    channels = channels_of(edges)
    kernel = hermitian_kernel(edges, channels)
    if is_chain:
        kernel = odd_rows_even_columns(kernel, channels)
    else:
        add_half_of_identity(kernel)
    axes = tuple(Axis(taps, 1, 1, 0, 0) for taps in kernel.shape[2:])
    layer = Layer(axes, groups=1, padding_mode="zeros", sizes=None)
    depth = depth_of(terms, last=len(slopes))
    return Joint(kernel, layer, not is_chain, depth, pooling)


def pixels_of_values(terms: Sequence[Term]) -> dict[int, list[int]]:
    """Return how many pixels of each value are one of the coarsest (step D).

    Refuses terms that are not on such grids, or two of one pair i, j.
    """
    pairs = {(term.start, term.end) for term in terms}
    ranks = {len(term.layer.axes) for term in terms}
    require(len(pairs) == len(terms) and len(ranks) == 1, DO_NOT_FIT)
    spacings = {0: [ONE] * ranks.pop()}  # distances of pixels, in pixels of z_0
    for term in terms:
        require(term.start in spacings, DO_NOT_FIT)
        power = -1 if term.layer.is_adjoint else 1
        axes = zip(spacings[term.start], term.layer.axes, strict=True)
        spacing = [distance * Fraction(axis.stride) ** power for distance, axis in axes]
        require(spacings.setdefault(term.end, spacing) == spacing, DO_NOT_FIT)
    coarsest = []
    for axis in zip(*spacings.values(), strict=True):
        numerators = [distance.numerator for distance in axis]
        denominators = [distance.denominator for distance in axis]
        coarsest.append(Fraction(math.lcm(*numerators), math.gcd(*denominators)))
    return {
        value: [int(whole / x) for whole, x in zip(coarsest, spacing, strict=True)]
        for value, spacing in spacings.items()
    }


def depth_of(terms: Sequence[Term], last: int) -> int:
    """Return the number of layers on the longest way from z_0 to z_n (step E).

    The terms are sorted by ``end``, so the depth of a term's start is final.
    """
    depths = [0] * (last + 1)
    for term in terms:
        depths[term.end] = max(depths[term.end], depths[term.start] + 1)
    return depths[last]


def edges_of(
    term: Term, first_tap: list[int], slopes: Mapping[int, Slopes], is_chain: bool
) -> list[Edge]:
    """Return the blocks of N below its diagonal of V_ij (step C). i' is called -i."""
    i = term.end
    # Step F: in a chain, all taps of a layer may be moved by the same offset, which
    # multiplies the Fourier transform of a vertex by numbers of absolute value 1.
    if is_chain:
        first_tap = [-(taps // 2) for taps in term.kernel.shape[2:]]
    a, b = slopes[i]
    if i == len(slopes):
        factors = {i: max(-a, b)}  # the largest absolute slope
    else:
        factors = {i: (a + b) / 2}
        if a * b < 0:  # slopes have both signs: i needs the vertex i'
            factors[-i] = math.sqrt(-a * b)
    return [
        Edge(term.start, x, times(term.kernel, m), first_tap) for x, m in factors.items()
    ]


def times(kernel: Array, factor: float) -> Array:
    """Return a kernel times a number."""
    return product_rounded_once(kernel, np.array(factor))


def by_phases(
    term: Term, after: Sequence[int], before: Sequence[int]
) -> tuple[Term, list[int]]:
    """Return a layer between phases, with stride 1, and where its first tap is (step D).

    ``after``, ``before``: how many pixels of the outputs, and of the inputs, are one
    pixel of the coarsest grid: m and s m of step D, on each axis.
    """
    layer = term.layer
    if layer.is_adjoint:
        after, before = before, after
    kernel = without_groups(term.kernel, layer.groups)
    outputs, inputs, *_ = kernel.shape
    axes = zip(layer.axes, after, before, strict=True)
    places = [taps_of_phases(axis, to, of) for axis, to, of in axes]
    first_tap = [min(a for *_, a, _ in of_axis) for of_axis in places]
    last_tap = [max(a for *_, a, _ in of_axis) for of_axis in places]
    taps = [last + 1 - first for first, last in zip(first_tap, last_tap, strict=True)]
    shape = (outputs, *after, inputs, *before, *taps)
    is_small = math.prod(shape) < LARGEST_KERNEL
    require(is_small, "its kernel at stride 1 has 2^31 entries or more")

    of_phases: Array = np.zeros(shape)
    for place in itertools.product(*places):
        p, t, a, b = np.array(place, int).reshape(-1, 4).T  # for each axis
        of_phases[:, *p, :, *b, *(a - first_tap)] = kernel[:, :, *t]
    rows, columns = outputs * math.prod(after), inputs * math.prod(before)
    of_phases = of_phases.reshape(rows, columns, *taps)
    if layer.is_adjoint:  # channels are exchanged, and taps reversed
        of_phases = np.flip(of_phases.swapaxes(0, 1), tuple(range(2, of_phases.ndim)))
        pairs = zip(first_tap, taps, strict=True)
        first_tap = [1 - first - count for first, count in pairs]
    ones = tuple(Axis(count, 1, 1, 0, 0) for count in taps)
    stride_one = Layer(ones, 1, "zeros", None)
    return Term(term.start, term.end, of_phases, stride_one), first_tap


def taps_of_phases(axis: Axis, to: int, of: int) -> list[tuple[int, int, int, int]]:
    """Return p, t, a and b of step D, for each phase p of the outputs and each tap t.

    For phase p, tap t of the layer is the tap a, and reads phase b. ``to`` pixels of the
    outputs, and ``of`` of the inputs, are one pixel of the coarsest grid.
    """
    places = []
    for p, t in itertools.product(range(to), range(axis.taps)):
        pixel = axis.stride * p + axis.dilation * t - axis.padding_before
        places.append((p, t, pixel // of, pixel % of))
    return places


def without_groups(kernel: Array, groups: int) -> Array:
    """Return the kernel of one group, with zeros between the channels of two (step D)."""
    outputs, inputs, *taps = kernel.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *taps))
    for group, own in enumerate(np.split(kernel, groups)):
        whole[group][:, group] = own
    return whole.reshape(outputs, groups * inputs, *taps)


def channels_of(edges: Sequence[Edge]) -> dict[int, int]:
    """Return the number of channels of each vertex, in the order of N's channels."""
    channels: dict[int, int] = {}
    for edge in edges:
        outputs, inputs, *_ = edge.kernel.shape
        channels.setdefault(edge.start, inputs)
        channels.setdefault(edge.end, outputs)
        require(channels[edge.start] == inputs, DO_NOT_FIT)
        require(channels[edge.end] == outputs, DO_NOT_FIT)
    return channels


def hermitian_kernel(edges: Sequence[Edge], channels: Mapping[int, int]) -> Array:
    """Return N: the blocks and their adjoints (step C).

    Its middle tap reads, for the output at a pixel, that pixel.
    """
    ranks = {edge.kernel.ndim for edge in edges}
    require(len(ranks) == 1, DO_NOT_FIT)
    indices = {}
    total = 0
    for vertex, count in channels.items():
        indices[vertex] = slice(total, total + count)
        total += count

    axes = tuple(range(ranks.pop() - 2))
    radius = [0 for _ in axes]  # pixels from N's first tap to its middle tap
    for edge in edges:
        taps = edge.kernel.shape[2:]
        for axis, (first, count) in enumerate(zip(edge.first_tap, taps, strict=True)):
            radius[axis] = max(radius[axis], -first, first + count - 1)
    n = np.zeros((total, total, *(2 * pixels + 1 for pixels in radius)))
    for edge in edges:
        firsts = [r + first for r, first in zip(radius, edge.first_tap, strict=True)]
        counts = zip(firsts, edge.kernel.shape[2:], strict=True)
        taps_in_n = [slice(first, first + count) for first, count in counts]
        n[indices[edge.end], indices[edge.start], *taps_in_n] = edge.kernel
    # The adjoint exchanges the vertices and the channels, and reverses the taps.
    return n + np.flip(n.swapaxes(0, 1), tuple(2 + axis for axis in axes))


def odd_rows_even_columns(n: Array, channels: Mapping[int, int]) -> Array:
    """Return T: the blocks of N from even vertices to odd ones (step F).

    The vertex i', whose number is -i, is odd if i is.
    """
    odd = np.repeat([vertex % 2 == 1 for vertex in channels], [*channels.values()])
    return np.asarray(n[odd][:, ~odd])


def add_half_of_identity(n: Array) -> None:
    """Add I/2 to the middle tap of N, in place."""
    middle = [taps // 2 for taps in n.shape[2:]]
    diagonal = np.arange(len(n))
    n[diagonal, diagonal, *middle] += float(HALF)
