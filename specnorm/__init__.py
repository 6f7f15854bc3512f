"""Spectral norms of convolution layers, bounded, computed and proved, on any array library.

Methods as values, such as ``Gram(n_iter=8)``, are in `specnorm.methods`, and errors in `specnorm.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    "audit", "logit_bound", "matrix_norm", "power_iteration", "gram_iteration", "operator_norm",
    # What answers and errors are.
    "ConvSpec", "Enclosure", "EstimateWarning", "Geometry", "Report", "Result", "SpecnormError", "Undecided",
    "__version__",
]
# fmt: on

__version__: str

_MODULES = {
    "api.bounds": (
        "compare", "f4_bound", "gram_bound", "grid_bound", "tn_bound", "unfolding_bounds", "value_and_grad",
    ),
    "api.norms": (
        "certify", "conv_norm", "power_norm", "reshaped_norm", "singular_values", "slogdet", "symbol_norm",
    ),
    "ball.folding": ("fold_batch_norm",),
    "ball.oracle": ("lmo",),
    "ball.rescaling": ("clip", "gram_rescaling", "rescale"),
    "completion.completing": ("Completed", "complete", "completion_bound"),
    "enclosure.proving": ("enclose",),
    "ends.functions": (
        "condition_number", "enclose_isometry", "enclose_smallest", "is_isometry", "isometry_bound",
    ),
    "errors": ("EstimateWarning", "SpecnormError", "Undecided"),
    "geometry.spec": ("ConvSpec", "Geometry"),
    "logits.function": ("logit_bound",),
    "power.probable": ("operator_norm",),
    "running.measuring": ("measure",),
    "running.result": ("Enclosure", "Result"),
    "training.tracking": ("init_tracking", "track", "track_many"),
    "unfoldings.matrices": ("gram_iteration", "matrix_norm", "power_iteration"),
}  # fmt: skip
"""Modules of the public names: one is imported when a name of it is first asked for, as PEP 562 and SPEC 1 have it."""
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

_OF_OTHER_PACKAGES = ("audit", "Report")
"""Public names that packages above the core define (`specnorm.above`)."""
_SUBMODULES = ("methods", "errors", "plugin", "proof", "robustness", "testing")
"""Public modules."""

if TYPE_CHECKING:
    from specnorm import errors as errors
    from specnorm import methods as methods
    from specnorm import plugin as plugin
    from specnorm import proof as proof
    from specnorm import robustness as robustness
    from specnorm import testing as testing
    from specnorm.above import Report, audit
    from specnorm.api.bounds import (
        compare,
        f4_bound,
        gram_bound,
        grid_bound,
        tn_bound,
        unfolding_bounds,
        value_and_grad,
    )
    from specnorm.api.norms import (
        certify,
        conv_norm,
        power_norm,
        reshaped_norm,
        singular_values,
        slogdet,
        symbol_norm,
    )
    from specnorm.ball.folding import fold_batch_norm
    from specnorm.ball.oracle import lmo
    from specnorm.ball.rescaling import clip, gram_rescaling, rescale
    from specnorm.completion.completing import Completed, complete, completion_bound
    from specnorm.enclosure.proving import enclose
    from specnorm.ends.functions import (
        condition_number,
        enclose_isometry,
        enclose_smallest,
        is_isometry,
        isometry_bound,
    )
    from specnorm.errors import EstimateWarning, SpecnormError, Undecided
    from specnorm.geometry.spec import ConvSpec, Geometry
    from specnorm.logits.function import logit_bound
    from specnorm.power.probable import operator_norm
    from specnorm.running.measuring import measure
    from specnorm.running.result import Enclosure, Result
    from specnorm.training.tracking import init_tracking, track, track_many
    from specnorm.unfoldings.matrices import gram_iteration, matrix_norm, power_iteration
else:  # else type checkers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Load a public name when it is first asked for."""
        from importlib import import_module  # imported here: else it would be a public name

        if name in _SUBMODULES:
            return import_module(f"specnorm.{name}")
        if name in _MODULE_OF:
            value = getattr(import_module(f"specnorm.{_MODULE_OF[name]}"), name)
        elif name == "__version__":
            from importlib.metadata import version  # imported here: it takes as long as all of specnorm

            value = version("specnorm-bounds")
        else:
            above = import_module("specnorm.above")  # imported here: it loads NumPy

            if name not in _OF_OTHER_PACKAGES:
                from specnorm.backends.doors import modules_with, suggestion

                usual_name = above.OTHER_WORDS.get(name, name)
                modules = modules_with(usual_name, above.OTHER_MODULES)
                it = "it" if usual_name == name else usual_name
                advice = f": {it} is in {' and '.join(modules)}" if modules else suggestion(usual_name, __all__)
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")
            value = getattr(above, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """The public names, and the modules with other ones."""
    return [*__all__, *_SUBMODULES]
