"""Spectral norms of convolution layers, bounded, computed and proved, on any array library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specnorm.api import compare, f4_bound, gram_bound, grid_bound, tn_bound, unfolding_bounds, value_and_grad
from specnorm.ends import condition_number, enclose_isometry, enclose_smallest, is_isometry, isometry_bound
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
    Isometry,
    Method,
    Power,
    PowerTopK,
    Reshaped,
    Smallest,
    SymbolNorm,
    TensorNorm,
    Unfoldings,
)
from specnorm.norms import certify, conv_norm, power_norm, reshaped_norm, singular_values, slogdet, symbol_norm
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

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # Norms of one layer, and their bounds.
    "certify", "Completed", "complete", "completion_bound", "conv_norm", "ConvSpec", "enclose", "f4_bound", "Geometry",
    "gram_bound", "grid_bound", "power_norm", "reshaped_norm", "singular_values", "symbol_norm", "tn_bound",
    "unfolding_bounds",
    # The other end of the spectrum.
    "condition_number", "enclose_isometry", "enclose_smallest", "is_isometry", "isometry_bound", "slogdet",
    # Any method, as a value.
    "compare", "Completion", "Enclose", "ExactFFT", "FantasticFour", "Gram", "Grid", "Isometry", "measure", "Method",
    "METHODS", "Power", "PowerTopK", "Reshaped", "Smallest", "SymbolNorm", "TensorNorm", "Unfoldings",
    "value_and_grad",
    # Kernels with smaller norms; training; robustness; matrices and operators; whole models.
    "clip", "fold_batch_norm", "gram_rescaling", "rescale", "init_tracking", "track", "track_many",
    "certified_radius", "curvature_bound", "gram_iteration", "matrix_norm", "operator_norm", "power_iteration", "audit",
    # What answers and errors are.
    "Enclosure", "Kind", "Report", "Result", "Row", "BackendConflict", "BackendError", "BackendVersion",
    "BrokenBackend", "CertificateError", "EstimateWarning", "GeometryError", "KernelError", "MethodError",
    "MixedBackends", "ModelFileError", "NoBackend", "SecondDerivativeError", "SpecnormError", "Undecided",
    "__version__",
]
# fmt: on

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
