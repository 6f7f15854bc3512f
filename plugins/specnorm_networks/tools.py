"""Names for packages that read, audit or certify models. The functions for users are in `specnorm_networks` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # The answer of a reader of files, and its parts.
    "Kind", "ModelArrays", "Sizes", "Stated", "Tensor", "in_float32",
    # The bound of a graph, for which norms of layers may have been measured before.
    "bound", "Measure", "Method", "moved_up", "registered_operators", "speaks_of",
    # Types of answers.
    "CertifiedAccuracy", "Margins", "NetworkBound", "Nonexpansive", "RunBound", "Step", "UnknownNode",
    # Certificates.
    "Certificate", "certificate_of", "certificate_of_network",
    # Text.
    "html_table",
]
# fmt: on

_PLACES = {
    "local.accuracy": "CertifiedAccuracy",
    "answer": "NetworkBound RunBound",
    "certificates": "certificate_of_network",
    "certified.kernels": "speaks_of",
    "certified.operators.registry": "registered_operators",
    "certified.propagation": "Step UnknownNode",
    "comparison.execution": "moved_up",
    "layer_certificates": "Certificate certificate_of",
    "local.margins": "Margins",
    "measuring": "Measure",
    "methods": "Method",
    "model_arrays": "Kind ModelArrays Sizes Stated Tensor in_float32",
    "near": "bound",
    "nonexpansiveness": "Nonexpansive",
    "tables": "html_table",
}
"""Public names by the module that has them. Each is imported at its first use: an audit of weights alone needs few."""

if TYPE_CHECKING:
    from specnorm_networks.answer import NetworkBound, RunBound
    from specnorm_networks.certificates import certificate_of_network
    from specnorm_networks.certified.kernels import speaks_of
    from specnorm_networks.certified.operators.registry import registered_operators
    from specnorm_networks.certified.propagation import Step, UnknownNode
    from specnorm_networks.comparison.execution import moved_up
    from specnorm_networks.layer_certificates import Certificate, certificate_of
    from specnorm_networks.local.accuracy import CertifiedAccuracy
    from specnorm_networks.local.margins import Margins
    from specnorm_networks.measuring import Measure
    from specnorm_networks.methods import Method
    from specnorm_networks.model_arrays import Kind, ModelArrays, Sizes, Stated, Tensor, in_float32
    from specnorm_networks.near import bound
    from specnorm_networks.nonexpansiveness import Nonexpansive
    from specnorm_networks.tables import html_table
else:  # hidden from type checkers, for which a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        from importlib import import_module

        for module, names in _PLACES.items():
            if name in names.split():
                return getattr(import_module(f"specnorm_networks.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
