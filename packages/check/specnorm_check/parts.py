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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.layers import Axis, Layer, split_axis
from specnorm_check.moves import SAME_ENTRIES, slices_of
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
SKIP_OPERATORS = {"Pad", "Slice"}
CUTS = {"Concat", "Slice", "Split"}  # by which a layer reads channels of several values
CONSTANT = -1  # in place of the number of a value
MOST_NORMALISATIONS = 4  # behind a layer
# An entry of N has 8 roundings, and 5 more for each normalization: 28 at most. Their
# relative error is below 32 times 2^-53.
ENTRY_ERROR = 2.0**-48
LARGEST_KERNEL = 2**31  # entries
HALF = Fraction(1, 2)
DO_NOT_FIT = "layers of a part do not fit together"

Slopes = tuple[float, float]


class Term(NamedTuple):
    """A layer that leads from z_j = ``start`` to z_i = ``end``; its kernel is V_ij."""

    start: int
    end: int
    kernel: Array
    layer: Layer


class ActivationAndPool(NamedTuple):
    """A value as a function, entry by entry, of another value; pooled afterwards.

    ``pooling_constant`` is 1 if there is no pooling.
    """

    argument: str
    slopes: Slopes
    is_pooled: bool
    pooling_constant: Fraction


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
    last = len(part.values) - 1
    reader = TermReader(graph, part)
    terms: list[Term] = []
    slopes: dict[int, Slopes] = {}
    pooling = ONE
    for end in range(1, last + 1):
        name = part.values[end]
        function = function_at(graph, name)
        if function.is_pooled:
            require(end == last, f"pooling at {plain(name)} stands in a part")
        # 1 at inner values, where pooling was refused above.
        pooling = function.pooling_constant
        low, high = function.slopes
        slopes[end] = (min(low, 0.0), max(high, 0.0))  # Lemma 4: a <= 0 <= b
        terms += reader.terms(end, function.argument)
    require(terms, "a part has no layer")
    if len(terms) == 1:
        require(last == 1, DO_NOT_FIT)
        return joint_of_one(part, terms[0], slopes[1], pooling)
    return joint_of_several(terms, slopes, pooling)


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
def function_at(graph: Graph, name: str) -> ActivationAndPool:
    """Return the function of each entry, and the pooling, that compute a part's value.

    Backwards from the value, pooling comes first (step H), then the function. Either may
    be absent; without a function the slopes are those of the identity.
    """
    is_computed = name in graph.nodes
    require(is_computed, f"a part ends at {plain(name)}, no computed value")
    node = graph.nodes[name]
    is_pooled = False
    pooling = ONE
    while node.op in POOLS or node.op == "ReduceMean":
        factor = factor_of_operator(graph, name)
        if factor is None or not keeps_channels(graph, node):
            raise Refused(f"{node.op} stands in a part")
        is_pooled = True
        pooling *= factor
        name = node.inputs[0]
        node = graph.nodes[name]
    slopes = slopes_of(node)
    if slopes is None:
        identity = (1.0, 1.0)
        return ActivationAndPool(name, identity, is_pooled, pooling)
    graph.require_fixed_inputs(node)
    return ActivationAndPool(node.inputs[0], slopes, is_pooled, pooling)


def keeps_channels(graph: Graph, node: Node) -> bool:
    """Return whether pooling, or a mean, is over axes of pixels alone."""
    if node.op in POOLS:
        return True
    axes = graph.axes_of(node)
    takes_all_axes = len(axes) == 0
    return not takes_all_axes and min(axes) > 1


@dataclass(frozen=True)
class TermReader:
    """Reads the layers of a part from a graph."""

    graph: Graph
    part: Together

    def terms(
        self,
        end: int,
        name: str,
        scale: Array | float = 1.0,
        normalisations: int = 0,
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
        is_value_of_part = name in self.part.values[:end]
        if is_value_of_part or node.op in SKIP_OPERATORS:
            yield self.skip_term(end, name, scale)
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
                is_fixed = summand in graph.fixed
                is_same = is_fixed or graph.have_shape([summand], name)
                require(is_same, f"{node.op} broadcasts a value of a part")
                is_subtracted = index == 1 and node.op == "Sub"
                sign = -1 if is_subtracted else 1
                yield from self.terms(end, summand, sign * scale, normalisations)
        else:
            require(node.op in LAYER_OPERATORS, f"{node.op} stands in a part")
            yield from self.layer_terms(end, name, scale)

    def layer_terms(
        self,
        end: int,
        name: str,
        scale: Array | float,
    ) -> Iterator[Term]:
        """Yield the terms of a layer.

        Its input is a value z_j, called ``source``, of the part, or z_j flattened, or
        consists of channels of several values of the part.
        """
        graph = self.graph
        node = graph.nodes[name]
        graph.require_fixed_inputs(node)
        input_name = node.inputs[0]
        source = input_name
        is_cut = source not in self.part.values[:end] and graph.nodes[source].op in CUTS
        while source not in self.part.values[:end] and not is_cut:
            before = graph.nodes[source]
            message = f"{before.op} stands before a layer of a part"
            require(before.op in SAME_ENTRIES, message)
            require(graph.keeps_entry_count(source), message)
            source = before.inputs[0]
        shape = graph.shape_of(input_name)
        stored = graph.arrays[node.inputs[1]].astype(np.float64)
        kernel, layer = read_kernel(node, stored, shape, graph.shape_of(name))
        if not is_cut:
            yield self.term(end, source, input_name, kernel, layer, scale)
            return
        require(layer.groups == 1 and not layer.is_adjoint, DO_NOT_FIT)
        values, channels = self.channels_of(input_name, end)
        for j in sorted({*values.tolist()} - {CONSTANT}):
            source = self.part.values[j]
            read = channels[values == j]
            require(len(np.unique(read)) == len(read), "a channel is read twice")
            columns = graph.shape_of(source)[1]
            of_source = np.zeros((len(kernel), columns, *kernel.shape[2:]))
            of_source[:, read] = kernel[:, values == j]
            yield self.term(end, source, source, of_source, layer, scale)

    def channels_of(self, name: str, end: int) -> tuple[Array, Array]:
        """Return for each channel of a value which z_j it is from, and its number there.

        For constants, the former is `CONSTANT`.
        """
        graph = self.graph
        count = graph.shape_of(name)[1]
        if name in graph.fixed:
            return np.full(count, CONSTANT), np.arange(count)
        if name in self.part.values[:end]:
            return np.full(count, self.part.values.index(name)), np.arange(count)
        node = graph.nodes[name]
        require(node.op in CUTS, f"{node.op} stands before a layer of a part")
        if node.op == "Concat":
            rank = len(graph.shape_of(name))
            require(node.attributes["axis"] % rank == 1, DO_NOT_FIT)
            pairs = [self.channels_of(operand, end) for operand in node.inputs]
            of_both = [np.concatenate(each) for each in zip(*pairs, strict=True)]
            return of_both[0], of_both[1]
        graph.require_fixed_inputs(node)
        cuts = [*slices_of(graph, node)]
        rank = len(graph.shape_of(name))
        require([axis % rank for axis, _ in cuts] == [1], DO_NOT_FIT)
        values, channels = self.channels_of(node.inputs[0], end)
        return values[cuts[0][1]], channels[cuts[0][1]]

    def skip_term(
        self,
        end: int,
        name: str,
        scale: Array | float,
    ) -> Term:
        """Return the term of a value z_j of the part that is added without a layer.

        It may be sliced to some of its pixels, and padded with constant channels. All of
        this is a layer of one tap: the kernel is a matrix of zeros and ones.
        """
        source = name
        changes = []
        while source not in self.part.values[:end]:
            node = self.graph.nodes[source]
            require(node.op in SKIP_OPERATORS, f"{node.op} stands in a part")
            self.graph.require_fixed_inputs(node)
            changes.append(source)
            source = node.inputs[0]
        shape = self.graph.shape_of(source)
        matrix = np.eye(shape[1])
        strides = [1] * len(shape[2:])
        for value in reversed(changes):  # from z_j on
            if self.graph.nodes[value].op == "Pad":
                more_rows = channels_padded(self.graph, value)
                matrix = np.pad(matrix, (more_rows, (0, 0)))
            else:
                for index, step in enumerate(steps_of_slice(self.graph, value)):
                    strides[index] *= step
        axes = []
        for stride in strides:
            axes.append(
                Axis(taps=1, stride=stride, dilation=1, padding_before=0, padding_after=0)
            )
        taps = [1] * len(axes)
        kernel = matrix.reshape(*matrix.shape, *taps)
        layer = Layer(tuple(axes), groups=1, padding_mode="zeros", sizes=shape[2:])
        return self.term(end, source, source, kernel, layer, scale)

    def term(
        self,
        end: int,
        source: str,
        input_name: str,
        kernel: Array,
        layer: Layer,
        scale: Array | float,
    ) -> Term:
        """Return V_ij = q_i W_ij / q_j, where W_ij is ``scale`` times a layer (step B).

        The layer reads the value ``input_name``: z_j = ``source``, or z_j flattened.
        """
        j = self.part.values.index(source)
        outputs, inputs, *_ = kernel.shape
        inputs *= layer.groups
        if layer.is_adjoint:
            outputs, inputs = inputs, outputs
        output_factors = scale * np.ones(outputs)
        input_factors = np.ones(inputs)
        if self.part.multipliers:
            q_i = self.part.multipliers[end]
            q_j = self.part.multipliers[j]
            message = "multipliers are not one a channel"
            require(self.keeps_entries_of(j, source, input_name), message)
            require(len(q_j) == self.graph.shape_of(source)[1], message)
            require(len(q_i) == outputs, message)
            output_factors = product_rounded_once(output_factors, q_i)
            # Flattened, the pixels of a channel stand one behind the other.
            input_factors = 1 / np.repeat(q_j, inputs // len(q_j))
        factors = output_factors, input_factors
        rows, columns = factors[::-1] if layer.is_adjoint else factors
        weighted = scale_channels(kernel, layer.groups, rows, columns)
        return Term(j, end, weighted, layer)

    def keeps_entries_of(self, j: int, source: str, input_name: str) -> bool:
        """Return whether a layer reads z_j as it is, or z_0 flattened by samples."""
        shape = self.graph.shape_of(source)
        input_shape = self.graph.shape_of(input_name)
        flattened = (shape[0], math.prod(shape[1:]))
        is_flattened_start = j == 0 and input_shape == flattened
        return input_shape == shape or is_flattened_start


def read_kernel(
    node: Node,
    stored: Array,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> tuple[Array, Layer]:
    """Return the kernel and the geometry of a layer at the shape of its input.

    A ConvTranspose is the adjoint of the layer that is returned, whose input has the
    shape of the value (Lemma 3, step 5).
    """
    message = f"no rule is for such a {node.op}"
    require(stored.ndim == len(input_shape), message)
    if node.op == "Gemm":
        matrix = stored if node.attributes.get("transB") else stored.T
        alpha = np.array(node.attributes.get("alpha", 1.0))
        kernel = product_rounded_once(matrix, alpha)
        layer = Layer(axes=(), groups=1, padding_mode="zeros", sizes=())
    else:
        kernel = stored
        taps = list(stored.shape[2:])
        stated_taps = node.attributes.get("kernel_shape", taps)
        require(stated_taps == taps, message)
        axes = axes_of_windows(node, taps)
        groups = node.attributes.get("group", 1)
        layer = Layer(axes, groups, "zeros", input_shape[2:])
    if node.op == "ConvTranspose":
        layer = replace(layer, sizes=output_shape[2:], is_adjoint=True)
        sizes = zip(axes, output_shape[2:], strict=True)
        require(len(kernel) == input_shape[1], message)
        is_adjoint = [axis.outputs(n) for axis, n in sizes] == [*input_shape[2:]]
        require(is_adjoint, message)
        input_shape = output_shape
    channels = layer.groups * kernel.shape[1]
    require(channels == input_shape[1], f"{message}: it reads {input_shape[1]} channels")
    return kernel, layer


def channels_padded(graph: Graph, name: str) -> tuple[int, int]:
    """Return the numbers of constant channels that a Pad adds before and behind."""
    node = graph.nodes[name]
    names_axes = len(node.inputs) > 3
    is_constant = node.attributes.get("mode", b"constant") == b"constant"
    require(is_constant and not names_axes, "such a Pad stands in a part")
    rank = len(graph.shape_of(name))
    pads = graph.arrays[node.inputs[1]].reshape(2, rank)
    channel_pads = pads[:, 1]
    other_pads = np.delete(pads, 1, axis=1)
    adds_channels_alone = channel_pads.min() >= 0 and not other_pads.any()
    require(adds_channels_alone, "padding of pixels stands in a part")
    before, behind = channel_pads.tolist()
    return before, behind


def steps_of_slice(graph: Graph, name: str) -> list[int]:
    """Return the step of a Slice on each axis of pixels.

    Raises `Refused` for a Slice that does not start at the first pixel, or that leaves
    out samples or channels.
    """
    message = "such a Slice stands in a part"
    node = graph.nodes[name]
    require(len(node.inputs) == 5, message)
    constants = [graph.arrays[operand].tolist() for operand in node.inputs[1:]]
    starts, _, axes, steps = constants
    require(len(set(axes)) == len(axes), message)
    before = graph.shape_of(node.inputs[0])
    after = graph.shape_of(name)
    steps_of_pixels = [1] * len(before[2:])
    for start, axis, step in zip(starts, axes, steps, strict=True):
        require(start == 0 and step > 0 and axis >= 0, message)
        if axis > 1:
            steps_of_pixels[axis - 2] = step
        else:
            require(before[axis] == after[axis], message)
    return steps_of_pixels


def scale_channels(
    kernel: Array,
    groups: int,
    output_factors: Array,
    input_factors: Array,
) -> Array:
    """Return a kernel with each output and each input times its factor (step B)."""
    _, inputs, *taps = kernel.shape
    by_group = kernel.reshape(groups, -1, inputs, math.prod(taps))
    rows = output_factors.reshape(groups, -1, 1, 1)
    columns = input_factors.reshape(groups, 1, -1, 1)
    scaled = product_rounded_once(product_rounded_once(by_group, rows), columns)
    return scaled.reshape(kernel.shape)


# -- step G: one layer -----------------------------------------------------------------
def joint_of_one(part: Together, term: Term, slopes: Slopes, pooling: Fraction) -> Joint:
    """Return the kernel of a layer by itself, at every size or at its own."""
    layer = term.layer
    if part.sizes == "every":
        layer = replace(layer, sizes=None)
    factor = pooling * largest_slope(slopes)
    return Joint(term.kernel, layer, False, depth=1, factor=factor)


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
    terms: Sequence[Term],
    slopes: Mapping[int, Slopes],
    pooling: Fraction,
) -> Joint:
    """Return the kernel N + I/2 of several layers, or T if they are a chain."""
    require_one_grid(terms)
    is_chain = all(term.end == term.start + 1 for term in terms)
    edges = edges_of(terms, slopes, is_chain)
    channels = channels_of(edges)
    kernel = hermitian_kernel(edges, channels)
    if is_chain:
        kernel = odd_rows_even_columns(kernel, channels)
    else:
        add_half_of_identity(kernel)
    axes = []
    for taps in kernel.shape[2:]:
        axes.append(Axis(taps, stride=1, dilation=1, padding_before=0, padding_after=0))
    layer = Layer(tuple(axes), groups=1, padding_mode="zeros", sizes=None)
    depth = depth_of(terms, last=len(slopes))
    adds_half_identity = not is_chain
    return Joint(kernel, layer, adds_half_identity, depth, pooling)


def require_one_grid(terms: Sequence[Term]) -> None:
    """Refuse terms that are not all on one grid (step D), or two of one pair i, j."""
    pairs = {(term.start, term.end) for term in terms}
    require(len(pairs) == len(terms), DO_NOT_FIT)
    strides_of_z_0 = set()
    for term in terms:
        require(not term.layer.is_adjoint, DO_NOT_FIT)
        strides = tuple(axis.stride for axis in term.layer.axes)
        if term.start == 0:
            strides_of_z_0.add(strides)
        else:
            require(max(strides, default=1) == 1, DO_NOT_FIT)
    require(len(strides_of_z_0) < 2, DO_NOT_FIT)


def depth_of(terms: Sequence[Term], last: int) -> int:
    """Return the number of layers on the longest way from z_0 to z_n (step E).

    The terms are sorted by ``end``, so the depth of a term's start is final.
    """
    depths = [0] * (last + 1)
    for term in terms:
        depth = depths[term.start] + 1
        depths[term.end] = max(depths[term.end], depth)
    return depths[last]


def edges_of(
    terms: Sequence[Term],
    slopes: Mapping[int, Slopes],
    is_chain: bool,
) -> list[Edge]:
    """Return the blocks of N below its diagonal (step C). The vertex i' is called -i."""
    last = len(slopes)
    edges = []
    for term in terms:
        j = term.start
        i = term.end
        v, first_tap = at_stride_one(term)
        # Step F: in a chain, all taps of a layer may be moved by the same offset, which
        # multiplies the Fourier transform of a vertex by numbers of absolute value 1.
        if is_chain:
            first_tap = [-(taps // 2) for taps in v.shape[2:]]
        a, b = slopes[i]
        if i == last:
            m = max(-a, b)  # the largest absolute slope
            edges.append(Edge(j, i, times(v, m), first_tap))
            continue
        mean = (a + b) / 2
        edges.append(Edge(j, i, times(v, mean), first_tap))
        if a * b < 0:  # slopes have both signs: i needs the vertex i'
            root = math.sqrt(-a * b)
            edges.append(Edge(j, -i, times(v, root), first_tap))
    return edges


def times(kernel: Array, factor: float) -> Array:
    """Return a kernel times a number."""
    return product_rounded_once(kernel, np.array(factor))


def at_stride_one(term: Term) -> tuple[Array, list[int]]:
    """Return a term's kernel on the grid of its outputs, and where its first tap is.

    Groups and dilations become zeros of the kernel; the phases of the input become its
    channels (step D).
    """
    groups = term.layer.groups
    axes = term.layer.axes
    outputs, inputs, *_ = term.kernel.shape
    lengths = []
    first_tap = []
    taps: list[slice] = []
    for axis in axes:
        # The first tap of output 0 is at pixel -before. With these zeros in front of it
        # the kernel begins at a multiple of the stride.
        zeros = (-axis.padding_before) % axis.stride
        lengths.append(zeros + axis.reach + 1)
        taps.append(slice(zeros, None, axis.dilation))
        shift = (axis.padding_before + zeros) // axis.stride
        first_tap.append(-shift)
    phases = math.prod(axis.stride for axis in axes)
    size = outputs * groups * inputs * math.prod(lengths) * phases
    require(size < LARGEST_KERNEL, "its kernel at stride 1 has 2^31 entries or more")

    dense = np.zeros((outputs, groups * inputs, *lengths))
    for group in range(groups):
        rows = block(group, outputs // groups)
        columns = block(group, inputs)
        dense[rows, columns, *taps] = term.kernel[rows]
    for index, axis in enumerate(axes):
        dense = split_axis(dense, 2 + index, axis.stride)
    return dense, first_tap


def block(index: int, length: int) -> slice:
    """Return the indices of block ``index`` where each block has ``length`` indices."""
    first = index * length
    return slice(first, first + length)


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

    adjoints = [adjoint_of(edge) for edge in edges]
    blocks = [*edges, *adjoints]
    radius = [0] * (ranks.pop() - 2)  # pixels from N's first tap to its middle tap
    # The first tap of an adjoint is minus the last tap of its block. Since adjoints are
    # included, the radius covers the last taps of the blocks, too.
    for edge in blocks:
        for index, first in enumerate(edge.first_tap):
            radius[index] = max(radius[index], -first)
    taps = [2 * pixels + 1 for pixels in radius]
    n = np.zeros((total, total, *taps))
    for edge in blocks:
        rows = indices[edge.end]
        columns = indices[edge.start]
        n[rows, columns, *taps_in_n(edge, radius)] = edge.kernel
    return n


def taps_in_n(edge: Edge, radius: Sequence[int]) -> list[slice]:
    """Return which taps of N a block has; ``radius`` is the number of N's middle tap."""
    slices = []
    for index, count in enumerate(edge.kernel.shape[2:]):
        first = radius[index] + edge.first_tap[index]
        slices.append(slice(first, first + count))
    return slices


def adjoint_of(edge: Edge) -> Edge:
    """Return the adjoint block: channels, vertices and the taps in reverse order."""
    exchanged = edge.kernel.swapaxes(0, 1)
    axes = tuple(range(2, edge.kernel.ndim))
    first_tap = []
    for first, count in zip(edge.first_tap, edge.kernel.shape[2:], strict=True):
        last = first + count - 1
        first_tap.append(-last)
    return Edge(edge.end, edge.start, np.flip(exchanged, axes), first_tap)


def odd_rows_even_columns(n: Array, channels: Mapping[int, int]) -> Array:
    """Return T: the blocks of N from even vertices to odd ones (step F).

    The vertex i', whose number is -i, is odd if i is.
    """
    is_odd = []
    for vertex, count in channels.items():
        is_odd += [vertex % 2 == 1] * count
    odd = np.array(is_odd)
    t: Array = n[odd][:, ~odd]
    return t


def add_half_of_identity(n: Array) -> None:
    """Add I/2 to the middle tap of N, in place."""
    middle = [taps // 2 for taps in n.shape[2:]]
    diagonal = np.arange(len(n))
    n[diagonal, diagonal, *middle] += float(HALF)
