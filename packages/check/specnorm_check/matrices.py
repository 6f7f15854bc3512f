"""Read the operators between two values, the start and the end, as matrices, by Lemma 6.

The steps A and B are those of the README of this folder, section Lemma 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.layers import Layer, matrix_at_size
from specnorm_check.moves import MOVES, moved
from specnorm_check.parts import LAYER_OPERATORS, Slopes, read_kernel
from specnorm_check.resizing import matrix_of_resize
from specnorm_check.rules import (
    LEAST_PRODUCT,
    REDUCTIONS,
    SUMS,
    axes_of_windows,
    normalising_factors,
    slopes_of,
)

MOST_VALUES = 512  # between
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
        by_rows = partial(multiplied, after)
        return Step(sources, matrix.T[np.newaxis], len(matrix) + 1, by_rows)
    if node.op == "Resize":
        matrix = matrix_of_resize(graph, node, before, after)[np.newaxis]
    else:
        is_known = node.op in LAYER_OPERATORS or node.op == "AveragePool"
        require(is_known, message)
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
    """Return the kernel and the geometry of a layer, or of averages of each channel.

    ``before``: shape (n, c, *sizes) of the input. The kernel: (out, in / groups, *taps).
    """
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
    """Return a matrix, for each group, times the last axes of its input that it reads."""
    groups, _, inputs = weights.shape
    columns = arrays[0].shape[-1]
    by_group = arrays[0].reshape(-1, groups, inputs, columns)
    return np.asarray(np.matmul(weights, by_group).reshape(*after, columns))


# -- step B: roundings -----------------------------------------------------------------
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
