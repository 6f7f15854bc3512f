"""Spectral norms of convolution layers, bounded, computed and proved, on any array library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specnorm.api import (
    compare,
    f4_bound,
    gram_bound,
    grid_bound,
    tn_bound,
    unfolding_bounds,
    value_and_grad,
)
from specnorm.errors import (
    BackendConflict,
    BackendError,
    BackendVersion,
    BrokenBackend,
    CertificateError,
    EstimateWarning,
    GeometryError,
    KernelError,
    MethodError,
    MixedBackends,
    ModelFileError,
    NoBackend,
    SecondDerivativeError,
    SpecnormError,
    Undecided,
)
from specnorm.folding import fold_batch_norm
from specnorm.matrices import gram_iteration, matrix_norm, power_iteration
from specnorm.measuring import measure
from specnorm.methods import (
    METHODS,
    Completion,
    Enclose,
    ExactFFT,
    FantasticFour,
    Gram,
    Grid,
    Method,
    Power,
    PowerTopK,
    Reshaped,
    TensorNorm,
    Unfoldings,
)
from specnorm.norms import certify, conv_norm, power_norm, reshaped_norm, singular_values
from specnorm.problem.spec import ConvSpec, Geometry
from specnorm.projections import clip, gram_rescaling, rescale
from specnorm.proving import enclose
from specnorm.result import Enclosure, Kind, Result
from specnorm.training import init_tracking, track, track_many

if TYPE_CHECKING:
    from specnorm_audit import Report, Row, audit

    from specnorm.completing import Completed, complete, completion_bound
    from specnorm.probable import operator_norm
    from specnorm.robustness import certified_radius, curvature_bound

__all__ = [
    "METHODS",
    "BackendConflict",
    "BackendError",
    "BackendVersion",
    "BrokenBackend",
    "CertificateError",
    "Completed",
    "Completion",
    "ConvSpec",
    "Enclose",
    "Enclosure",
    "EstimateWarning",
    "ExactFFT",
    "FantasticFour",
    "Geometry",
    "GeometryError",
    "Gram",
    "Grid",
    "KernelError",
    "Kind",
    "Method",
    "MethodError",
    "MixedBackends",
    "ModelFileError",
    "NoBackend",
    "Power",
    "PowerTopK",
    "Report",
    "Reshaped",
    "Result",
    "Row",
    "SecondDerivativeError",
    "SpecnormError",
    "TensorNorm",
    "Undecided",
    "Unfoldings",
    "__version__",
    "audit",
    "certified_radius",
    "certify",
    "clip",
    "compare",
    "complete",
    "completion_bound",
    "conv_norm",
    "curvature_bound",
    "enclose",
    "f4_bound",
    "fold_batch_norm",
    "gram_bound",
    "gram_iteration",
    "gram_rescaling",
    "grid_bound",
    "init_tracking",
    "matrix_norm",
    "measure",
    "operator_norm",
    "power_iteration",
    "power_norm",
    "rescale",
    "reshaped_norm",
    "singular_values",
    "tn_bound",
    "track",
    "track_many",
    "unfolding_bounds",
    "value_and_grad",
]

__version__: str


_LATER = {
    "operator_norm": "probable", "certified_radius": "robustness", "curvature_bound": "robustness",
    "Completed": "completing", "complete": "completing", "completion_bound": "completing",
}  # fmt: skip
"""Names and the modules that they are loaded from when they are needed."""


def __getattr__(name: str) -> Any:
    """Load what is not needed at import: the version, `_LATER`, and what a package above registers."""
    if name == "__version__":
        from importlib.metadata import version

        return version("specnorm-bounds")
    if name in ("audit", "Report", "Row"):
        from specnorm.registry import function

        return function(name)
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"specnorm.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
