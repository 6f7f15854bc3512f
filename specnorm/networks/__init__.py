"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`graph` says what a network is, `operators` what its nodes compute and by how much each can stretch. `bounding` puts
them together with the norms of the layers from `measuring`; `runs` finds layers in a row, `descent` proposes weights
for them, and `segments` proves what they are worth. `methods` are the ways to do so.
`near` bounds a network on a ball around one input, where `ranges` says what each value can be and `local` which slopes
are left; `radii` and `accuracy` say in which ball a label stays, by `linear` bounds.
Front ends (the torch plugin, the ONNX reader) build graphs.
"""

from __future__ import annotations

from specnorm.certified.network import operators
from specnorm.certified.network.boxes import within
from specnorm.certified.network.graph import Graph, Layer, Node
from specnorm.certified.network.operators.registry import register_operator
from specnorm.certified.network.propagation import Step, UnknownNode
from specnorm.certified.network.statements import averaged, forward_step
from specnorm.networks.accuracy import certified_accuracy
from specnorm.networks.answer import NetworkBound, RunBound
from specnorm.networks.margins import CertifiedAccuracy, Margins, margins
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Multipliers, Product, Scaled
from specnorm.networks.near import bound
from specnorm.networks.radii import local_radii

__all__ = [
    "CertifiedAccuracy",
    "Graph",
    "Layer",
    "Margins",
    "Measure",
    "Method",
    "Multipliers",
    "NetworkBound",
    "Node",
    "Product",
    "RunBound",
    "Scaled",
    "Step",
    "UnknownNode",
    "averaged",
    "bound",
    "certified_accuracy",
    "forward_step",
    "local_radii",
    "margins",
    "operators",
    "register_operator",
    "within",
]
