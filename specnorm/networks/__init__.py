"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`graph` says what a network is, `rules` by how much each node can stretch, `bounding` puts them together with the norms
of the layers from `measuring`. Front-ends (the torch plugin, the ONNX reader) build graphs.
"""

from __future__ import annotations

from specnorm.networks.bounding import NetworkBound, Step, UnknownNode, bound
from specnorm.networks.graph import Graph, Layer, Node
from specnorm.networks.measuring import Measure

__all__ = ["Graph", "Layer", "Measure", "NetworkBound", "Node", "Step", "UnknownNode", "bound"]
