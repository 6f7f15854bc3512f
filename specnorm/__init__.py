"""Spectral norms of convolution layers, bounded, computed and proved, on any array library.

Methods as values, such as ``Gram(n_iter=8)``, are in `specnorm.methods`, and errors in `specnorm.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specnorm.api.bounds import compare, f4_bound, gram_bound, grid_bound, tn_bound, unfolding_bounds, value_and_grad
from specnorm.api.norms import certify, conv_norm, power_norm, reshaped_norm, singular_values, slogdet, symbol_norm
from specnorm.ball.folding import fold_batch_norm
from specnorm.ball.rescaling import clip, gram_rescaling, rescale
from specnorm.enclosure.proving import enclose
from specnorm.ends.functions import condition_number, enclose_isometry, enclose_smallest, is_isometry, isometry_bound
from specnorm.errors import EstimateWarning, SpecnormError, Undecided
from specnorm.geometry.spec import ConvSpec, Geometry
from specnorm.running.measuring import measure
from specnorm.running.result import Enclosure, Result
from specnorm.training.tracking import init_tracking, track, track_many
from specnorm.unfoldings.matrices import gram_iteration, matrix_norm, power_iteration

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # Norms of one layer, and their bounds.
    "enclose", "tn_bound", "certify", "conv_norm", "symbol_norm", "power_norm", "reshaped_norm", "singular_values",
    "grid_bound", "gram_bound", "f4_bound", "unfolding_bounds", "completion_bound", "complete", "Completed",
    # The other end of the spectrum.
    "enclose_smallest", "condition_number", "isometry_bound", "enclose_isometry", "is_isometry", "slogdet",
    # Any method, as a value.
    "measure", "compare", "value_and_grad",
    # Kernels with smaller norms, and training.
    "rescale", "clip", "gram_rescaling", "lmo", "fold_batch_norm", "init_tracking", "track", "track_many",
    # Whole models, matrices and black boxes.
    "audit", "matrix_norm", "power_iteration", "gram_iteration", "operator_norm",
    # What answers and errors are.
    "ConvSpec", "Enclosure", "EstimateWarning", "Geometry", "Report", "Result", "SpecnormError", "Undecided",
    "__version__",
]
# fmt: on

__version__: str

_LOADED_WHEN_ASKED_FOR = {
    "Completed": "completion.completing",
    "complete": "completion.completing",
    "completion_bound": "completion.completing",
    "lmo": "ball.oracle",
    "operator_norm": "power.probable",
}
"""Public names, and the modules that are imported when one of them is asked for."""

_OF_OTHER_PACKAGES = ("audit", "Report")
"""Public names that are found by entry point."""
_SUBMODULES = ("methods", "errors", "plugin", "proof", "robustness", "testing")
"""Public modules."""

if TYPE_CHECKING:
    from specnorm import errors as errors
    from specnorm import methods as methods
    from specnorm import plugin as plugin
    from specnorm import proof as proof
    from specnorm import robustness as robustness
    from specnorm import testing as testing
    from specnorm.above import Report, audit  # a stub
    from specnorm.ball.oracle import lmo
    from specnorm.completion.completing import Completed, complete, completion_bound
    from specnorm.power.probable import operator_norm
else:  # else type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Load what is not needed at import."""
        if name == "__version__":
            from importlib.metadata import version

            return version("specnorm-bounds")
        from importlib import import_module

        from specnorm.backends.registry import modules_with, public_name

        if name in _OF_OTHER_PACKAGES:
            return public_name(f"specnorm.{name}")
        if name in _LOADED_WHEN_ASKED_FOR:
            return getattr(import_module(f"specnorm.{_LOADED_WHEN_ASKED_FOR[name]}"), name)
        if name in _SUBMODULES:
            return import_module(f"specnorm.{name}")
        elsewhere = f": it is in {' and '.join(modules)}" if (modules := modules_with(name)) else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{elsewhere}")


def __dir__() -> list[str]:
    """The public names, and the modules with other ones."""
    return [*__all__, *_SUBMODULES]
