"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`certified.graph` says what a network is, `certified.operators` what its nodes compute and by how much each can stretch.
`bounding` combines them with the norms of the layers, which `measuring` proves. `certified.runs` finds layers in a row,
`descent` proposes weights for their channels, and `certified.parts` proves the constant of a run with such weights.
`methods` are the ways to bound a network; `answering` compares, searches, proves and attacks. `certified.ranges` says
which numbers each value can be in a region. `comparison` executes graph and model. Extensions are found by entry point
(`extensions`): `local` bounds a network on a ball around one input, and says in which ball a label stays.
`live` and `nonexpansiveness` take any source: a torch module, a JAX function, a Flax NNX or Equinox module, a Keras 3
model on JAX or torch, an ONNX file or `onnx.ModelProto`, or a graph. Live models are exported to ONNX (`sources`).

`specnorm_networks.tools` and `model_arrays` have further names for packages that read, audit or certify models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # Questions about a network from any source.
    "network_bound", "nonexpansive", "certified_accuracy", "margins",
    # Methods to answer them.
    "Multipliers", "Product", "Scaled",
    # Graphs: to build one, and to read one from a source.
    "Graph", "Layer", "Node", "forward_step", "network_graph", "operators", "register_operator", "within",
]
# fmt: on

_PLACES = {
    "certified.graph": "Graph Layer Node",
    "certified.operators.registry": "register_operator",
    "certified.ranges": "within",
    "certified.statements": "forward_step",
    "live": "network_bound network_graph",
    "methods": "Multipliers Product Scaled",
    "nonexpansiveness": "nonexpansive",
}
"""Public names by the module that has them. Each is imported at its first use: an audit of weights alone needs none."""

if TYPE_CHECKING:
    from specnorm_networks.certified import operators
    from specnorm_networks.certified.graph import Graph, Layer, Node
    from specnorm_networks.certified.operators.registry import register_operator
    from specnorm_networks.certified.ranges import within
    from specnorm_networks.certified.statements import forward_step
    from specnorm_networks.live import network_bound, network_graph
    from specnorm_networks.methods import Multipliers, Product, Scaled
    from specnorm_networks.nonexpansiveness import nonexpansive

    certified_accuracy: Any
    margins: Any
    """Extensions have their types: the rest of the package names none."""
else:  # hidden from type checkers, for which a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        from importlib import import_module

        if name == "operators":
            return import_module(f"{__name__}.certified.operators")
        if name in ("certified_accuracy", "margins"):
            from specnorm_networks.extensions import extension

            return extension(name)
        for module, names in _PLACES.items():
            if name in names.split():
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
