"""Whole networks: a graph of layers, activations and joins -> a proven Lipschitz constant.

`graph` says what a network is, `operators` what its nodes compute and by how much each can stretch. `bounding` puts
them together with the norms of the layers from `measuring`; `runs` finds layers in a row, `descent` proposes weights
for them, and `segments` proves what they are worth. `methods` are the ways to do so.
`near` bounds a network on a ball around one input, where `ranges` says what each value can be and `local` which slopes
are left; `radii` and `accuracy` say in which ball a label stays, by `linear` bounds.
`live` and `nonexpansiveness` take any source: a torch module, a JAX function, a Flax NNX or Equinox module, a Keras 3
model on JAX or torch, an ONNX file or `onnx.ModelProto`, or a graph. Live models enter as ONNX (`sources`).

Packages that read, audit or certify models find in `specnorm_networks.tools` what they need besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # What is asked of a network, from any source.
    "network_bound", "nonexpansive", "certified_accuracy", "margins",
    # How.
    "Multipliers", "Product", "Scaled",
    # Graphs of one's own, and of a source.
    "Graph", "Layer", "Node", "forward_step", "network_graph", "operators", "register_operator", "within",
]
# fmt: on

_PLACES = {
    "certified.graph": "Graph Layer Node",
    "certified.operators.registry": "register_operator",
    "certified.ranges": "within",
    "certified.statements": "forward_step",
    "live": "certified_accuracy network_bound network_graph",
    "logit_margins": "margins",
    "methods": "Multipliers Product Scaled",
    "nonexpansiveness": "nonexpansive",
}
"""Modules, and the public names that are loaded from them when they are asked for: a file of weights needs none."""

_MOVED = (
    "Certificate CertifiedAccuracy Kind Margins Measure Method ModelArrays NetworkBound Nonexpansive RunBound Sizes "
    "Stated Step Tensor UnknownNode bound certificate_of certificate_of_network in_float32 moved_up "
    "registered_operators speaks_of"
)
"""Names that were in this package itself before 0.2, and are in `specnorm_networks.tools` now."""

if TYPE_CHECKING:
    from specnorm_networks.certified import operators
    from specnorm_networks.certified.graph import Graph, Layer, Node
    from specnorm_networks.certified.operators.registry import register_operator
    from specnorm_networks.certified.ranges import within
    from specnorm_networks.certified.statements import forward_step
    from specnorm_networks.live import certified_accuracy, network_bound, network_graph
    from specnorm_networks.logit_margins import margins
    from specnorm_networks.methods import Multipliers, Product, Scaled
    from specnorm_networks.nonexpansiveness import nonexpansive
else:  # else type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        from importlib import import_module

        if name == "operators":
            return import_module(f"{__name__}.certified.operators")
        for module, names in _PLACES.items():
            if name in names.split():
                return getattr(import_module(f"{__name__}.{module}"), name)
        if name in _MOVED.split():
            import warnings

            warnings.warn(
                f"{__name__}.{name} is {__name__}.tools.{name} now; the old name leaves with version 0.3.",
                DeprecationWarning,
                stacklevel=2,
            )
            return getattr(import_module(f"{__name__}.tools"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
