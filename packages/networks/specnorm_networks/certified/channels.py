"""What operators do to the channels of a value, and to its sizes, as the readers of a network need to know it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from specnorm_networks.certified.graph import Layer, Node, Shape
from specnorm_networks.certified.kernels import PlacedLayer
from specnorm_networks.certified.operators.base import Operator


def in_network(node: Node, layer: Layer, nodes: Mapping[str, Node]) -> tuple[Node, PlacedLayer]:
    """Return the node that the layer of a node reads, and the layer in its place.

    Padding that is bounded with the layer is a part of it. ``nodes``: all, by name.
    """
    source = nodes[node.inputs[0]]
    geometry = dict(layer.geometry)
    before_source = nodes[source.inputs[0]] if source.inputs else source
    padding = None if node.affine is None else node.affine.with_padding(source.operator, before_source.shape)
    if padding is not None:
        geometry |= padding
        source = before_source
    if source.shape is None or node.shape is None:
        return source, PlacedLayer(layer, geometry)
    before, after = (shape[len(shape) - layer.spatial :] for shape in (source.shape, node.shape))
    return source, PlacedLayer(layer, geometry, (before, after))


def summands_that_change(node: Node, nodes: Mapping[str, Node]) -> list[tuple[Node, float]]:
    """Return the inputs of a sum (`Node.weights`) that are no constants, each with its weight; none for other nodes."""
    if node.weights is None:
        return []
    summands = zip([nodes[name] for name in node.inputs], node.weights, strict=True)
    return [(summand, weight) for summand, weight in summands if not summand.is_constant]


def keeps_channels(operator: Operator, before: Shape | None, after: Shape | None) -> bool:
    """Whether an operator treats each channel (axis 1) of a value with spatial axes by itself, and all alike."""
    if before is None or after is None or len(before) < 3:
        return False
    return operator.keeps_channels(before, after)


def flattened_pixels(before: Shape | None, after: Shape | None, width: int) -> int:
    """Return the number of pixels of each channel that a reshape flattens; 0 for other reshapes.

    Flattening takes the shape (samples, width, *pixels) to (samples, features). Each channel becomes consecutive
    features.
    """
    if before is None or after is None or len(before) < 3 or len(after) != 2 or before[:2] != (after[0], width):
        return 0
    return math.prod(before[2:])
