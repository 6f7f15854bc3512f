"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`graph` says what a network is, `operators` what its nodes compute and by how much each can stretch. `bounding` puts
them together with the norms of the layers from `measuring`; `runs` finds layers in a row, `descent` proposes weights
for them, and `segments` proves what they are worth. `methods` are the ways to do so.
`near` bounds a network on a ball around one input, where `ranges` says what each value can be and `local` which slopes
are left; `radii` and `accuracy` say in which ball a label stays, by `linear` bounds.
`live` and `nonexpansiveness` take any source: a torch module, a JAX function, a Flax NNX or Equinox module, a Keras 3
model on JAX or torch, an ONNX file or `onnx.ModelProto`, or a graph. Live models enter as ONNX (`sources`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specnorm_networks.accuracy import CertifiedAccuracy
    from specnorm_networks.answer import NetworkBound, RunBound
    from specnorm_networks.certificates import certificate_of_network
    from specnorm_networks.certified import operators
    from specnorm_networks.certified.graph import Graph, Layer, Node
    from specnorm_networks.certified.kernels import speaks_of
    from specnorm_networks.certified.operators.registry import register_operator, registered_operators
    from specnorm_networks.certified.propagation import Step, UnknownNode
    from specnorm_networks.certified.ranges import within
    from specnorm_networks.certified.statements import forward_step
    from specnorm_networks.execution import moved_up
    from specnorm_networks.layer_certificates import Certificate, certificate_of
    from specnorm_networks.live import certified_accuracy, network_bound, network_graph
    from specnorm_networks.logit_margins import Margins, margins
    from specnorm_networks.measuring import Measure
    from specnorm_networks.methods import Method, Multipliers, Product, Scaled
    from specnorm_networks.model_arrays import Kind, ModelArrays, Sizes, Stated, Tensor, in_float32
    from specnorm_networks.near import bound
    from specnorm_networks.nonexpansiveness import Nonexpansive, nonexpansive

__all__ = [
    "Certificate",
    "CertifiedAccuracy",
    "Graph",
    "Kind",
    "Layer",
    "Margins",
    "Measure",
    "Method",
    "ModelArrays",
    "Multipliers",
    "NetworkBound",
    "Node",
    "Nonexpansive",
    "Product",
    "RunBound",
    "Scaled",
    "Sizes",
    "Stated",
    "Step",
    "Tensor",
    "UnknownNode",
    "bound",
    "certificate_of",
    "certificate_of_network",
    "certified_accuracy",
    "forward_step",
    "in_float32",
    "margins",
    "moved_up",
    "network_bound",
    "network_graph",
    "nonexpansive",
    "onnx",
    "operators",
    "register_operator",
    "registered_operators",
    "speaks_of",
    "within",
]

_WHERE = {
    "accuracy": "CertifiedAccuracy",
    "answer": "NetworkBound RunBound",
    "certificates": "certificate_of_network",
    "layer_certificates": "Certificate certificate_of",
    "certified.ranges": "within",
    "certified.graph": "Graph Layer Node",
    "certified.operators.registry": "register_operator registered_operators",
    "certified.propagation": "Step UnknownNode",
    "certified.statements": "forward_step",
    "logit_margins": "Margins margins",
    "measuring": "Measure",
    "methods": "Method Multipliers Product Scaled",
    "live": "certified_accuracy network_bound network_graph",
    "near": "bound",
    "nonexpansiveness": "Nonexpansive nonexpansive",
    "certified.kernels": "speaks_of",
    "execution": "moved_up",
    "model_arrays": "Kind ModelArrays Sizes Stated Tensor in_float32",
}
"""Modules and the names that are loaded from them when they are asked for: a file of weights needs none."""
_MODULES = {"onnx": "onnx", "operators": "certified.operators"}


def __getattr__(name: str) -> Any:
    """Load a public name."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    for module, names in _WHERE.items():
        if name in names.split():
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
