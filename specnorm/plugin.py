"""The names that plugins for array libraries may import.

A plugin registers one object derived from `Backend`. Besides this module, plugins may use ``specnorm.__all__``,
`specnorm.errors`, `specnorm.methods` and `specnorm.testing`.
"""

from __future__ import annotations

from specnorm.api import Comparison
from specnorm.ball import lmo_stack, shrinkage_of_step
from specnorm.folding import fold_stack
from specnorm.layers import is_keras_layer, layer_kernel
from specnorm.methods.base import check_count
from specnorm.monitoring import ModelMonitor, Monitor, Reading, keras_callback, keras_reading
from specnorm.probable import LinearOperator, Vector
from specnorm.problem.padding import same_upper
from specnorm.problem.spec import at_every_size, per_axis
from specnorm.projections import check_bound
from specnorm.registry import function
from specnorm.runtime.program import Program, Ran, check_values, keep, program
from specnorm.runtime.stepping import SteppedProgram, stepped_program
from specnorm.text import counted
from specnorm.training import init_stack, step_stack
from specnorm.types import AnyArray, Backend, LayerKernel

__all__ = [
    "AnyArray", "Backend", "Comparison", "LayerKernel", "LinearOperator", "ModelMonitor", "Monitor", "Program", "Ran",
    "Reading", "SteppedProgram", "Vector", "at_every_size", "check_bound", "check_count", "check_values", "counted",
    "fold_stack", "function", "init_stack", "is_keras_layer", "keep", "keras_callback", "keras_reading", "layer_kernel",
    "lmo_stack", "per_axis", "program", "same_upper", "shrinkage_of_step", "step_stack", "stepped_program",
]  # fmt: skip
