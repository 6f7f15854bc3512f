"""Bound a value by an earlier one, between which little is nonlinear, by Lemma 6.

The steps A to D are those of the README of this folder, section Lemma 6. Both values are
called the start and the end. Between them are linear operators, and functions of each
entry. The end's difference is a matrix times that of the start. The matrix depends on the
slopes of the functions; its norm is largest where each slope is an end of its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.layers import LARGEST_MATRIX, Layer, matrix_at_size
from specnorm_check.moves import MOVES, moved
from specnorm_check.parts import LAYER_OPERATORS, Joint, Part, Slopes, read_kernel
from specnorm_check.resizing import matrix_of_resize
from specnorm_check.rules import (
    LEAST_PRODUCT,
    ONE,
    REDUCTIONS,
    SUMS,
    axes_of_windows,
    normalising_factors,
    slopes_of,
)

MOST_VALUES = 512  # between
MOST_NUMBERS = 2**25  # of the matrices of all values between together
MOST_FUNCTIONS = 6  # of entries, in one block
ROUNDING = 2.0**-52  # of a number and of its error: twice 2^-53

Size = Callable[[Array], Array]


class Step(NamedTuple):
    """How the difference of a value follows from those of its ``sources``.

    ``apply`` takes the numbers by which the operator multiplies, called ``weights``, and
    one matrix for each source. Its result has at most so many ``roundings`` an entry. A
    function of each entry has ``slopes``, which are weights that are not known.
    """

    sources: list[str]
    weights: Array
    roundings: int
    apply: Callable[[Array, Sequence[Array]], Array]
    slopes: Slopes | None = None


def joint_of_matrices(graph: Graph, part: Part) -> Joint:
    """Return the matrices whose largest norm bounds a part, as groups of one kernel."""
    start, end = part.values
    between = values_between(graph, start, end)
    columns = math.prod(graph.shape_of(start))
    entries = sum(math.prod(graph.shape_of(name)) for name in (start, *between))
    require(entries * columns < MOST_NUMBERS, "a part has too large a matrix")
    steps: dict[str, Step] = {}
    for name in between:
        steps[name] = step_of(graph, name)
        weights_of_all = sum(step.weights.size for step in steps.values())
        require(weights_of_all < LARGEST_MATRIX, "a part has too large layers")
    identity = np.eye(columns).reshape(*graph.shape_of(start), columns)

    def run(slopes: Mapping[str, Array], size: Size) -> dict[str, Array]:
        """Return the matrix of each value; ``size`` is applied to all weights."""
        matrices = {start: identity}
        for name, step in steps.items():
            weights = size(slopes.get(name, step.weights))
            sources = [matrices[source] for source in step.sources]
            matrices[name] = step.apply(weights, sources)
        return matrices

    magnitudes = run({}, np.abs)
    blocks = Blocks(magnitudes[end].reshape(-1, columns) > 0)
    functions: dict[str, Array] = {}
    for name, step in steps.items():
        if step.slopes is not None:
            argument = magnitudes[step.sources[0]].reshape(-1, columns)
            functions[name] = blocks.numbers_of_functions(argument > 0)
    most = max(blocks.functions, default=0)
    require(most <= MOST_FUNCTIONS, "a part has too many functions of each entry")

    kernel = blocks.zeros()
    errors = blocks.zeros()
    e = error_of_roundings(steps, start, end) * magnitudes[end].reshape(-1, columns)
    for vertex in range(2**most):
        slopes = {}
        for name, numbers in functions.items():
            slopes[name] = slopes_at(vertex, numbers, steps[name], graph.shape_of(name))
        matrix = run(slopes, np.asarray)[end].reshape(-1, columns)
        blocks.put(vertex, matrix, kernel)
        blocks.put(vertex, e, errors)
    groups, rows, inputs = kernel.shape
    layer = Layer(axes=(), groups=groups, padding_mode="zeros", sizes=None)
    return Joint(
        kernel.reshape(groups * rows, inputs),
        layer,
        adds_half_identity=False,
        depth=1,
        factor=ONE,
        errors=errors.reshape(groups * rows, inputs),
    )


# -- step A: the operators between -----------------------------------------------------
def values_between(graph: Graph, start: str, end: str) -> list[str]:
    """Return the values between the start and the end, the end last."""
    require(start in graph.nodes, "a part begins at no computed value")
    between: set[str] = set()
    waiting = [end]
    while waiting:
        name = waiting.pop()
        if name != start and name not in between:
            require(name in graph.nodes, "a part ends at no computed value")
            between.add(name)
            require(len(between) <= MOST_VALUES, "a part has too many values")
            waiting += graph.changing_inputs(name)
    require(between, "a part has no operator")
    return [name for name in graph.nodes if name in between]


def step_of(graph: Graph, name: str) -> Step:
    """Return how the difference of a value follows from those before it."""
    node = graph.nodes[name]
    sources = graph.changing_inputs(name)
    message = f"{node.op} stands in a matrix"
    require(sources, message)
    one = np.ones(1)
    if node.op in SUMS:
        require(graph.have_shape(sources, name), f"{node.op} broadcasts in a matrix")
        signs = [1.0, -1.0] if node.op == "Sub" else [1.0] * len(node.inputs)
        is_source = np.isin(node.inputs, sources)
        return Step(sources, np.array(signs)[is_source], len(sources), added)
    if node.op == "Concat":
        return Step(sources, one, 0, partial(moved_matrices, graph, name, sources))
    require(sources == node.inputs[:1] and graph.has_fixed_inputs(node), message)
    if node.op in MOVES:
        return Step(sources, one, 0, partial(moved_matrices, graph, name, sources))
    slopes = slopes_of(node)
    if slopes is not None:
        largest = np.full(graph.shape_of(name), max(-slopes[0], slopes[1]))
        return Step(sources, largest, 1, scaled, slopes)
    before = graph.shape_of(sources[0])
    after = graph.shape_of(name)
    if node.op == "BatchNormalization":
        factors = normalising_factors(graph, node)
        ones = [1] * (len(before) - 2)
        return Step(sources, factors.reshape(-1, *ones), 6, scaled)
    if node.op in ("Mul", "Div"):
        require(before == after, f"{node.op} broadcasts in a matrix")
        numbers = graph.arrays[node.inputs[1]].astype(np.float64)
        if node.op == "Mul":
            return Step(sources, numbers, 1, scaled)
        is_finite = np.isfinite(numbers) & (numbers != 0)
        require(is_finite.all(), "a Div by 0 or by no finite number")
        return Step(sources, 1 / numbers, 2, scaled)
    if node.op in REDUCTIONS:
        return step_of_reduction(graph, node, before, after)
    if node.op == "MatMul":
        matrix = graph.arrays[node.inputs[1]].astype(np.float64)
        require(matrix.ndim == 2, "a MatMul by no matrix stands in a matrix")
        return Step(sources, matrix.T, len(matrix) + 1, multiplied_last)
    if node.op == "Resize":
        weights = matrix_of_resize(graph, node, before, after)
        pixels = weights.shape[1]
        return Step(sources, weights, pixels + 8, partial(multiplied_pixels, after))
    require(node.op in LAYER_OPERATORS or node.op == "AveragePool", message)
    kernel, layer = kernel_of(graph, node, before)
    matrix = matrix_at_size(kernel, layer, layer.sizes or ())
    return Step(sources, matrix, matrix.shape[2] + 8, partial(multiplied, after))


def step_of_reduction(
    graph: Graph,
    node: Node,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> Step:
    """Return the step of a sum or a mean over some axes."""
    axes = node.attributes.get("axes", [])
    if len(node.inputs) > 1:
        axes = graph.arrays[node.inputs[1]].tolist()
    require(len(axes) > 0, f"{node.op} without axes stands in a matrix")
    positive = tuple(axis % len(before) for axis in axes)
    count = math.prod(before[axis] for axis in positive)
    weight = 1 / count if node.op == "ReduceMean" else 1.0

    def apply(weights: Array, arrays: Sequence[Array]) -> Array:
        sums = arrays[0].sum(axis=positive)
        columns = sums.shape[-1]
        return np.asarray(weights * sums.reshape(*after, columns))

    return Step(node.inputs[:1], np.array([weight]), count + 2, apply)


def kernel_of(
    graph: Graph,
    node: Node,
    before: tuple[int, ...],
) -> tuple[Array, Layer]:
    """Return the kernel and the geometry of a layer, or of averages of each channel."""
    if node.op in LAYER_OPERATORS:
        stored = graph.arrays[node.inputs[1]].astype(np.float64)
        return read_kernel(node, stored, before)
    taps = node.attributes["kernel_shape"]
    axes = axes_of_windows(node, taps)
    is_padded = any(axis.padding_before or axis.padding_after for axis in axes)
    counts_all = not is_padded or bool(node.attributes.get("count_include_pad"))
    require(counts_all, "averages of fewer pixels stand in a matrix")
    channels = before[1]
    kernel = np.full((channels, 1, *taps), 1 / math.prod(taps))
    return kernel, Layer(axes, channels, "zeros", before[2:])


def added(weights: Array, arrays: Sequence[Array]) -> Array:
    """Return a sum of matrices."""
    total = weights[0] * arrays[0]
    for weight, array in zip(weights[1:], arrays[1:], strict=True):
        total = total + weight * array
    return np.asarray(total)


def moved_matrices(
    graph: Graph,
    name: str,
    sources: Sequence[str],
    weights: Array,
    arrays: Sequence[Array],
) -> Array:
    """Return the rows of matrices that an operator moves; its ``weights`` are one."""
    by_name = dict(zip(sources, arrays, strict=True))
    return np.asarray(weights * moved(graph, name, by_name, further=1))


def scaled(weights: Array, arrays: Sequence[Array]) -> Array:
    """Return the rows of a matrix, each times a number."""
    return np.asarray(weights[..., np.newaxis] * arrays[0])


def multiplied(
    after: tuple[int, ...],
    weights: Array,
    arrays: Sequence[Array],
) -> Array:
    """Return a layer's matrix, for each group, times that of its input."""
    groups, _, inputs = weights.shape
    *before, columns = arrays[0].shape
    by_group = arrays[0].reshape(before[0], groups, inputs, columns)
    return np.asarray(np.matmul(weights, by_group).reshape(*after, columns))


def multiplied_last(weights: Array, arrays: Sequence[Array]) -> Array:
    """Return a matrix times each row of the last axis of its input."""
    return np.asarray(np.matmul(weights, arrays[0]))


def multiplied_pixels(
    after: tuple[int, ...], weights: Array, arrays: Sequence[Array]
) -> Array:
    """Return a matrix times the pixels of each channel."""
    *before, columns = arrays[0].shape
    by_channel = arrays[0].reshape(*before[:2], -1, columns)
    return np.asarray(np.matmul(weights, by_channel).reshape(*after, columns))


# -- step B: blocks --------------------------------------------------------------------
class Blocks:
    """Disjoint sets of rows and columns of a matrix, outside of which it is zero."""

    def __init__(self, is_read: Array) -> None:
        self.columns = np.arange(is_read.shape[1])
        while True:
            self.rows = self._least(is_read)
            least = np.where(is_read, self.rows[:, np.newaxis], is_read.shape[1])
            columns = least.min(axis=0, initial=is_read.shape[1])
            columns = np.minimum(columns, self.columns)
            columns = columns[columns]  # a set's number is that of one of its columns
            if (columns == self.columns).all():
                break
            self.columns = columns
        self.numbers = np.unique(self.columns)
        self.functions = [0] * len(self.numbers)

    def _least(self, is_read: Array) -> Array:
        """Return the least number of a set that each row reads."""
        least = np.where(is_read, self.columns, is_read.shape[1])
        return np.asarray(least.min(axis=1))

    def numbers_of_functions(self, is_read: Array) -> Array:
        """Return for each entry of a function its number among those of its block.

        ``is_read`` says which columns the entry's argument reads. The number of entries
        that read none is 0.
        """
        numbers = np.zeros(len(is_read), np.int64)
        for entry in np.flatnonzero(is_read.any(axis=1)).tolist():
            column = int(is_read[entry].argmax())
            block = int(np.searchsorted(self.numbers, self.columns[column]))
            numbers[entry] = self.functions[block]
            self.functions[block] += 1
        return numbers

    def zeros(self) -> Array:
        """Return room for each block at each vertex of its slopes."""
        _, rows = np.unique(self.rows[self.rows < len(self.columns)], return_counts=True)
        _, columns = np.unique(self.columns, return_counts=True)
        groups = sum(2**count for count in self.functions)
        shape = (groups, rows.max(initial=1), columns.max(initial=1))
        require(math.prod(shape) < LARGEST_MATRIX, "a part has too large blocks")
        return np.zeros(shape)

    def put(self, vertex: int, matrix: Array, room: Array) -> None:
        """Put a matrix's blocks into those groups of ``room`` that have this vertex."""
        group = 0
        for number, functions in zip(self.numbers.tolist(), self.functions, strict=True):
            if vertex < 2**functions:
                rows = np.flatnonzero(self.rows == number)
                columns = np.flatnonzero(self.columns == number)
                block = matrix[np.ix_(rows, columns)]
                room[group + vertex, : len(rows), : len(columns)] = block
            group += 2**functions


# -- step C: vertices ------------------------------------------------------------------
def slopes_at(
    vertex: int,
    numbers: Array,
    step: Step,
    shape: tuple[int, ...],
) -> Array:
    """Return the slopes of a function at a vertex: bit n is 1 if entry n has the high."""
    low, high = step.slopes or (0.0, 0.0)
    has_high = (vertex >> numbers) & 1 == 1
    return np.where(has_high, high, low).reshape(shape)


# -- step D: roundings -----------------------------------------------------------------
def error_of_roundings(steps: Mapping[str, Step], start: str, end: str) -> float:
    """Return the error of an entry of the end's matrix, relative to its magnitude.

    Refuses numbers so small that a product of them may not be a normal number.
    """
    roundings = {start: 0}
    least = {start: 1.0}
    for name, step in steps.items():
        require(np.isfinite(step.weights).all(), "a matrix has NaN or infinity")
        sizes = np.abs(step.weights)
        if step.slopes is not None:
            sizes = np.abs(np.array(step.slopes))
        smallest = float(sizes[sizes > 0].min(initial=1.0))
        before = [least[source] for source in step.sources]
        least[name] = min(before) * smallest
        require(least[name] > LEAST_PRODUCT, "numbers so small that products are inexact")
        roundings[name] = max(roundings[x] for x in step.sources) + step.roundings + 1
    require(roundings[end] < 2**32, "a matrix has too many roundings")
    return roundings[end] * ROUNDING
