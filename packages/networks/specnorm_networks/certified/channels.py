"""What operators do to the channels of a value, and to its sizes, as the readers of a network need to know it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node, Shape
from specnorm_networks.certified.kernels import PlacedLayer
from specnorm_networks.certified.operators.base import FloatArray


def is_padded_layer(node: Node, pad: Node, source: Node) -> bool:
    """Whether a convolution and the padding before it are bounded as one layer.

    ``source``: the node that is padded.
    """
    if not isinstance(node.operator, ops.Convolution) or not isinstance(pad.operator, ops.Pad):
        return False
    layer = node.operator.layer
    pads = pad.operator.pads
    padding = layer.geometry.get("padding", ())
    if isinstance(padding, str) or any(sum(pair) for pair in padding) or layer.geometry.get("transposed"):
        return False
    if pad.operator.mode == "reflect":
        if source.shape is None:
            return False
        sizes = source.shape[len(source.shape) - layer.spatial :]
        if any(max(pair) >= size for pair, size in zip(pads, sizes, strict=False)):
            return False
    return len(pads) == layer.spatial


def in_network(
    node: Node,
    layer: ops.Layer,
    nodes: Mapping[str, Node],
) -> tuple[Node, PlacedLayer]:
    """Return the node that a layer reads, and the layer in its place.

    Padding that is bounded with the layer is a part of it. ``nodes``: all, by name.
    """
    source = nodes[node.inputs[0]]
    geometry = dict(layer.geometry)
    pad = source.operator
    if isinstance(pad, ops.Pad) and is_padded_layer(node, source, nodes[source.inputs[0]]):
        geometry |= {"padding_mode": pad.mode, "padding": pad.pads}
        source = nodes[source.inputs[0]]
    if source.shape is None or node.shape is None:
        return source, PlacedLayer(layer, geometry)
    before, after = (shape[len(shape) - layer.spatial :] for shape in (source.shape, node.shape))
    return source, PlacedLayer(layer, geometry, (before, after))


def summands_that_change(
    node: Node,
    weights: Sequence[float],
    nodes: Mapping[str, Node],
) -> list[tuple[Node, float]]:
    """Return the inputs of a sum that are no constants, each with its weight."""
    summands = zip([nodes[name] for name in node.inputs], weights, strict=True)
    return [(summand, weight) for summand, weight in summands if not isinstance(summand.operator, ops.Constant)]


def keeps_channels(operator: ops.Operator, before: Shape | None, after: Shape | None) -> bool:
    """Whether an operator treats each channel (axis 1) of a value with spatial axes by itself, and all alike."""
    if before is None or after is None or len(before) < 3:
        return False
    if isinstance(operator, ops.Mean):
        return min(operator.axes, default=0) > 1  # only pixels are averaged
    match operator:
        case ops.MaxPool() | ops.AveragePool():
            leaves_channels = len(operator.windows.kernel) <= len(before) - 2
        case ops.Resize():
            leaves_channels = all(scale == 1 for scale in operator.scales[:2])
        case _:
            leaves_channels = operator.keeps_channels
    return leaves_channels and len(after) == len(before) and after[:2] == before[:2]


def numbers_along(values: FloatArray, axis: int, ndim: int) -> FloatArray | None:
    """Return an array as one number for each entry of one axis of a value; None if it varies along other axes.

    ``values``: broadcasts against the value, which has ``ndim`` axes.
    """
    # Shapes are aligned at their last axes.
    aligned_axis = axis - ndim + values.ndim
    if aligned_axis < 0 or values.size != values.shape[aligned_axis]:
        return None
    return values.reshape(-1)


def flattened_pixels(before: Shape | None, after: Shape | None, width: int) -> int:
    """Return the number of pixels of each channel that a reshape flattens; 0 for other reshapes.

    Flattening takes the shape (samples, width, *pixels) to (samples, features). Each channel becomes consecutive
    features.
    """
    if before is None or after is None or len(before) < 3 or len(after) != 2 or before[:2] != (after[0], width):
        return 0
    return math.prod(before[2:])


def group_of_channels(
    operator: ops.Sort | ops.GroupSort | ops.Reflection,
    width: int,
    axis: int,
) -> NDArray[np.intp]:
    """Return for each channel the number of its group: channels of one group are sorted, or reflected, together.

    If the operator works along another axis, each channel is a group of its own.

    ``width``, ``axis``: number of the channels, and their axis.
    """
    channels = np.arange(width)
    if operator.axis != axis:
        return channels
    match operator:
        case ops.Sort():
            return np.zeros_like(channels)
        case ops.GroupSort(layout="consecutive"):
            return channels // operator.size
        case ops.GroupSort():
            return channels % (width // operator.size)
        case ops.Reflection():
            return channels % (width // 2)
