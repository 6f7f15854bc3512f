from specnorm.backends import backend_for
from specnorm.backends.types import AnyArray, Backend, LayerKernel, LayerReader
from specnorm.geometry.layers import array_in, layer_kernel, reader_of
from specnorm.geometry.padding import same_lower, same_upper
from specnorm.geometry.spec import per_axis
from specnorm.running.base import Evaluation
from specnorm.running.program import Program
from specnorm.running.stepping import SteppedProgram

# fmt: off
__all__ = [
    "AnyArray", "Backend", "Evaluation", "LayerKernel", "LayerReader", "Program", "SteppedProgram", "array_in",
    "backend_for", "layer_kernel", "per_axis", "reader_of", "same_lower", "same_upper",
]
# fmt: on
