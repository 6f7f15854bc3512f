"""Read the operators between two values, the start and the end, as matrices, by Lemma 6.

The steps A and B are those of the README of this folder, section Lemma 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from string import ascii_letters
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, entries_at, require
from specnorm_check.graphs import Graph
from specnorm_check.layers import matrix_at_size
from specnorm_check.moves import MOVES, moved
from specnorm_check.parts import LAYER_OPERATORS, Slopes, read_kernel
from specnorm_check.resizing import matrix_of_resize
from specnorm_check.rules import (
    LEAST_PRODUCT,
    REDUCTIONS,
    SUMS,
    normalising_factors,
    slopes_of,
)

MOST_VALUES = 2**12  # between
SCATTERS = {"ScatterElements", "ScatterND"}
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
            waiting += graph.sources(name)
    require(between, "a part has no operator")
    return [name for name in graph.nodes if name in between]


def step_of(graph: Graph, name: str) -> Step:
    """Return how the difference of a value follows from those before it."""
    node = graph.nodes[name]
    sources = graph.sources(name)
    message = f"{node.op} stands in a matrix"
    require(sources, message)
    one = np.ones(1)
    if name in graph.written_out:
        return Step(sources, one, 0, scaled)
    if node.op in SUMS:
        signs = [1.0, -1.0] if node.op == "Sub" else [1.0] * len(node.inputs)
        is_source = np.isin(node.inputs, sources)
        add = partial(added, graph.shape_of(name))
        return Step(sources, np.array(signs)[is_source], len(sources), add)
    if node.op in MOVES:
        return Step(sources, one, 0, partial(moved_matrices, graph, name, sources))
    if node.op in SCATTERS:
        return step_of_scatter(graph, name, sources)
    if node.op in ("Einsum", "MatMul"):
        return step_of_product(graph, name, sources)
    require(graph.has_fixed_inputs(node), message)  # the first alone changes
    slopes = slopes_of(node)
    if slopes is not None:
        largest = np.full(graph.shape_of(name), max(-slopes[0], slopes[1]))
        return Step(sources, largest, 1, scaled, slopes)
    before = graph.shape_of(sources[0])
    after = graph.shape_of(name)
    if node.op == "Neg":
        return Step(sources, -one, 1, scaled)
    if node.op == "BatchNormalization":
        factors = normalising_factors(graph, node)
        ones = [1] * (len(before) - 2)
        return Step(sources, factors.reshape(-1, *ones), 6, scaled)
    if node.op in ("Mul", "Div"):
        numbers = graph.arrays[node.inputs[1]].astype(np.float64)
        is_known = np.isfinite(numbers) & ((numbers != 0) | (node.op == "Mul"))
        require(is_known.all(), f"a {node.op} by 0 or by no finite number")
        return Step(sources, numbers if node.op == "Mul" else 1 / numbers, 2, scaled)
    axes = ascii_letters[: len(before)]
    if node.op in REDUCTIONS:
        summed = {axis % len(before) for axis in graph.axes_of(node)}
        require(summed, f"{node.op} without axes stands in a matrix")
        count = math.prod(before[axis] for axis in summed)
        weight = np.array(1 / count if node.op == "ReduceMean" else 1.0)
        kept = "".join(x for axis, x in enumerate(axes) if axis not in summed)
        apply = partial(product, f"{axes}Z,->{kept}Z", 0, after)
        return Step(sources, weight, count + 2, apply)
    if node.op == "CumSum":
        axis = int(graph.arrays[node.inputs[1]].item()) % len(before)
        sums = np.tri(before[axis], k=-bool(node.attributes.get("exclusive")))
        sums = sums.T if node.attributes.get("reverse") else sums
        equation = f"{axes}Z,Y{axes[axis]}->{axes.replace(axes[axis], 'Y')}Z"
        return Step(sources, sums, len(sums) + 1, partial(product, equation, 0, after))
    if node.op == "Resize":
        matrix = matrix_of_resize(graph, node, before, after)[np.newaxis]
    else:
        require(node.op in LAYER_OPERATORS or node.op == "AveragePool", message)
        kernel, layer = read_kernel(graph, node, before, after)
        matrix = matrix_at_size(kernel, layer, layer.sizes or ())
        if node.op == "ConvTranspose":
            matrix = matrix.swapaxes(1, 2)
    return Step(sources, matrix, matrix.shape[2] + 8, partial(multiplied, after))


def step_of_product(graph: Graph, name: str, sources: list[str]) -> Step:
    """Return the step of a MatMul or Einsum of a value and an array, in either order."""
    node = graph.nodes[name]
    message = f"such a {node.op} stands in a matrix"
    require(len(node.inputs) == 2, message)
    index = node.inputs.index(sources[0])
    other = node.inputs[1 - index]
    require(other in graph.arrays, message)
    numbers = graph.arrays[other].astype(np.float64)
    equation = node.attributes.get("equation", b"...ij,...jk->...ik").decode()
    terms, arrow, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    is_plain = node.op == "MatMul" or all(
        x.isalpha() or not x for x in (*letters, result)
    )
    require(bool(arrow) and len(letters) == 2 and is_plain, message)
    sizes: dict[str, int] = {}
    for source, each in zip(node.inputs, letters, strict=True):
        named = each.removeprefix("...")
        shape = graph.shape_of(source)
        require(len(shape) >= len(named), message)
        sizes.update(zip(named, shape[len(shape) - len(named) :], strict=True))
    count = math.prod(size for each, size in sizes.items() if each not in result)
    column = next(each for each in ascii_letters if each not in equation)
    letters[index] += column
    whole = f"{letters[0]},{letters[1]}->{result}{column}"
    apply = partial(product, whole, index, graph.shape_of(name))
    return Step(sources, numbers, count + 1, apply)


def step_of_scatter(graph: Graph, name: str, sources: list[str]) -> Step:
    """Return the step of an operator that puts entries into a value, or adds them."""
    node = graph.nodes[name]
    data, indices, updates = node.inputs
    shape = graph.shape_of(name)
    message = f"such a {node.op} stands in a matrix"
    require(indices in graph.arrays, message)
    array = graph.arrays[indices]
    places = list(np.moveaxis(array, -1, 0))
    if node.op == "ScatterElements":
        places = list(np.indices(array.shape))
        places[node.attributes.get("axis", 0) % len(shape)] = array
    reduction = node.attributes.get("reduction", b"none")
    every = np.arange(math.prod(shape)).reshape(shape)
    written = entries_at(every, *places).reshape(-1)
    is_once = len(np.unique(written)) == len(written)
    require(reduction == b"add" or (is_once and reduction == b"none"), message)

    def apply(weights: Array, arrays: Sequence[Array]) -> Array:
        columns = arrays[0].shape[-1]
        by_name = dict(zip(sources, arrays, strict=True))
        after = np.zeros((math.prod(shape), columns))
        if data in by_name:
            after += by_name[data].reshape(-1, columns)
        if reduction == b"none":
            after[written] = 0
        if updates in by_name:
            np.add.at(after, written, by_name[updates].reshape(-1, columns))
        return np.asarray(weights * after.reshape(*shape, columns))

    return Step(sources, np.ones(1), len(written) + 1, apply)


def added(shape: tuple[int, ...], weights: Array, arrays: Sequence[Array]) -> Array:
    """Return a sum of matrices, whose rows are repeated where the operator does so."""
    total = np.zeros((*shape, arrays[0].shape[-1]))
    for weight, array in zip(weights, arrays, strict=True):
        total = total + weight * array
    return total


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


def multiplied(after: tuple[int, ...], weights: Array, arrays: Sequence[Array]) -> Array:
    """Return a matrix, for each group, times the last axes of its input that it reads."""
    groups, _, inputs = weights.shape
    columns = arrays[0].shape[-1]
    by_group = arrays[0].reshape(-1, groups, inputs, columns)
    return np.asarray(np.matmul(weights, by_group).reshape(*after, columns))


def product(
    equation: str,
    index: int,
    after: tuple[int, ...],
    weights: Array,
    arrays: Sequence[Array],
) -> Array:
    """Return the product of an Einsum of which the factor at ``index`` changes."""
    factors = [arrays[0], weights] if index == 0 else [weights, arrays[0]]
    found = np.einsum(equation, *factors, optimize=True)
    return np.asarray(found.reshape(*after, arrays[0].shape[-1]))


# -- step B: roundings -----------------------------------------------------------------
def error_of_roundings(steps: Mapping[str, Step], start: str, end: str) -> float:
    """Return the error of an entry of the end's matrix, relative to its magnitude.

    Refuses numbers so small that a product of them may not be a normal number.
    """
    roundings = {start: 0}
    least = {start: 1.0}
    for name, step in steps.items():
        require(np.isfinite(step.weights).all(), "a matrix has NaN or infinity")
        sizes = np.abs(step.weights if step.slopes is None else np.array(step.slopes))
        smallest = float(sizes[sizes > 0].min(initial=1.0))
        least[name] = min(least[x] for x in step.sources) * smallest
        require(least[name] > LEAST_PRODUCT, "numbers so small that products are inexact")
        roundings[name] = max(roundings[x] for x in step.sources) + step.roundings + 1
    require(roundings[end] < 2**32, "a matrix has too many roundings")
    return roundings[end] * ROUNDING
