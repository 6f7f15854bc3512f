"""The door for packages that read whole models: what a module is at inference, what its layers say, what it calls."""

from specnorm_torch.baking import baked, computed
from specnorm_torch.modules import (
    Select,
    at_inference,
    check_module,
    check_values,
    computes_as_torch,
    geometry_of,
    is_layer,
    is_lazy,
    is_quantised,
    layers_of,
    weight_of,
)
from specnorm_torch.tracing import ASKED, Map, called, map_of, name_of, replaced, tensors, version_of

__all__ = [
    "ASKED",
    "Map",
    "Select",
    "at_inference",
    "baked",
    "called",
    "check_module",
    "check_values",
    "computed",
    "computes_as_torch",
    "geometry_of",
    "is_layer",
    "is_lazy",
    "is_quantised",
    "layers_of",
    "map_of",
    "name_of",
    "replaced",
    "tensors",
    "version_of",
    "weight_of",
]
