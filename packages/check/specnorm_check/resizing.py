"""Resize an image by nearest or linear interpolation, as one matrix for each channel.

The definition is that of ONNX's operator Resize, without antialiasing. The matrix is the
Kronecker product of one matrix for each axis, whose weights are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from specnorm_check.arithmetic import Array, require
from specnorm_check.graphs import Graph, Node

HALF = Fraction(1, 2)
NO_RULE = "no rule is for such a Resize"
ROUNDING = Fraction(1, 2**20)  # of a coordinate: eight roundings to float32


def repeats_of(graph: Graph, name: str) -> list[int]:
    """Return how often pixels are repeated on each axis; refused if they are changed."""
    node = graph.nodes[name]
    before, after = graph.shape_of(node.inputs[0]), graph.shape_of(name)
    repeats = []
    for matrix in matrices_of_axes(graph, node, before, after):
        repeats.append(len(matrix) // len(matrix.T))
        repeated = np.repeat(np.eye(len(matrix.T)), repeats[-1], axis=0)
        require(np.array_equal(matrix, repeated), NO_RULE)
    return repeats


def matrix_of_resize(
    graph: Graph, node: Node, before: tuple[int, ...], after: tuple[int, ...]
) -> Array:
    """Return the matrix, whose entries have six roundings at most for three axes."""
    matrix: Array = np.ones((1, 1))
    for of_axis in matrices_of_axes(graph, node, before, after):
        matrix = np.kron(matrix, of_axis)
    return matrix


def matrices_of_axes(
    graph: Graph, node: Node, before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[Array]:
    """Yield the matrix of each axis of pixels."""
    require(len(before) == len(after) > 2, NO_RULE)
    sizes = zip(before, after, strict=True)
    scales = [scale_of(graph, node, axis, *size) for axis, size in enumerate(sizes)]
    # Another scale mixes samples or channels, even if it does not change their number.
    require(scales[:2] == [1, 1], NO_RULE)
    for axis, scale in enumerate(scales[2:], start=2):
        matrix = np.zeros((after[axis], before[axis]))
        for output in range(after[axis]):
            x = coordinate(node, output, scale, before[axis], after[axis])
            for pixel, weight in weights_at(node, x):
                matrix[output, min(max(pixel, 0), before[axis] - 1)] += float(weight)
        yield matrix


def scale_of(graph: Graph, node: Node, axis: int, before: int, after: int) -> Fraction:
    """Return how many outputs there are for each pixel: as stated, or by the sizes."""
    scales, sizes = [*node.inputs, "", "", ""][2:4]
    if scales in graph.arrays and graph.arrays[scales].size > axis:
        scale = Fraction(float(graph.arrays[scales][axis]))
        require(scale > 0, NO_RULE)
        return scale
    require(sizes in graph.arrays, NO_RULE)
    return Fraction(after, before)


def coordinate(
    node: Node, output: int, scale: Fraction, before: int, after: int
) -> Fraction:
    """Return the coordinate of an output among the pixels."""
    kind = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
    if kind == b"asymmetric":
        return output / scale
    if kind == b"align_corners":
        require(scale * before == after, NO_RULE)  # definitions differ on other sizes
        return Fraction(output * (before - 1), after - 1) if after > 1 else Fraction(0)
    if kind == b"pytorch_half_pixel" and after == 1:
        return Fraction(0)
    require(kind in (b"half_pixel", b"pytorch_half_pixel"), NO_RULE)
    return (output + HALF) / scale - HALF


def weights_at(node: Node, x: Fraction) -> Iterator[tuple[int, Fraction]]:
    """Yield the pixels that are read at a coordinate, and their weights.

    A pixel beyond the border is the one at the border. Refused is a nearest pixel that
    may be another one if the coordinate is rounded; one right between pixels is exact.
    """
    mode = node.attributes.get("mode", b"nearest")
    if mode == b"linear":
        first = math.floor(x)
        share = x - first
        yield first, 1 - share
        yield first + 1, share
        return
    require(mode == b"nearest", NO_RULE)
    kind = node.attributes.get("nearest_mode", b"round_prefer_floor")
    nearest = {
        b"ceil": math.ceil(x),
        b"floor": math.floor(x),
        b"round_prefer_ceil": math.floor(x + HALF),
        b"round_prefer_floor": math.ceil(x - HALF),
    }
    require(kind in nearest, NO_RULE)
    between = x if kind in (b"ceil", b"floor") else x - HALF  # pixels, if it is whole
    distance = abs(between - round(between))
    is_known = distance == 0 or distance > ROUNDING * (1 + abs(x))
    require(is_known, f"{NO_RULE}: roundings decide which pixel is nearest")
    yield nearest[kind], Fraction(1)
