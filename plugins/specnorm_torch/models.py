"""The door for packages that read whole models: what a module is at inference, what its layers say."""

from __future__ import annotations

from specnorm_torch.baking import baked, computed
from specnorm_torch.modules import (
    Select,
    at_inference,
    check_module,
    check_values,
    computes_as_torch,
    computes_with,
    geometry_of,
    is_layer,
    is_lazy,
    is_quantised,
    layers_of,
    name_of,
    version_of,
    weight_of,
)

__all__ = [
    "Select",
    "at_inference",
    "baked",
    "check_module",
    "check_values",
    "computed",
    "computes_as_torch",
    "computes_with",
    "geometry_of",
    "is_layer",
    "is_lazy",
    "is_quantised",
    "layers_of",
    "name_of",
    "version_of",
    "weight_of",
]
