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
from specnorm.unfoldings.matrices import matrix_norm
from specnorm.version import __version__

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
    "rescale", "clip", "gram_rescaling", "lmo", "init_tracking", "track", "track_many",
    # Whole models, matrices and black boxes.
    "audit", "logit_bound", "matrix_norm", "operator_norm",
    # What answers and errors are.
    "ConvSpec", "Enclosure", "EstimateWarning", "Geometry", "Report", "Result", "SpecnormError", "Undecided",
    "__version__",
]
# fmt: on
