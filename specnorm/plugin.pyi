from specnorm.api.bounds import Comparison
from specnorm.backends import backend_for
from specnorm.backends.doors import door
from specnorm.backends.text import counted
from specnorm.backends.types import AnyArray, Backend, LayerKernel, LayerReader
from specnorm.ball.folding import fold_stack
from specnorm.ball.rescaling import check_bound
from specnorm.ball.steps import lmo_many, updates_in_ball
from specnorm.geometry.layers import array_in, layer_kernel, reader_of
from specnorm.geometry.padding import same_lower, same_upper
from specnorm.geometry.spec import at_every_size, per_axis
from specnorm.geometry.words import check_words
from specnorm.power.probable import LinearOperator, Vector
from specnorm.running.base import Evaluation
from specnorm.running.checks import count as check_count
from specnorm.running.checks import values as check_values
from specnorm.running.parts import Parts, padded
from specnorm.running.program import Program, keep, program
from specnorm.running.stacks import Stack, joint_stacks, stacks
from specnorm.running.stepping import SteppedProgram, follow_all, stepped_program

# fmt: off
__all__ = [
    "AnyArray", "Backend", "Comparison", "Evaluation", "LayerKernel", "LayerReader", "LinearOperator", "Parts",
    "Program", "Stack", "SteppedProgram", "Vector", "array_in", "at_every_size", "backend_for", "check_bound",
    "check_count", "check_values", "check_words", "counted", "door", "fold_stack", "follow_all", "joint_stacks", "keep",
    "layer_kernel", "lmo_many", "padded", "per_axis", "program", "reader_of", "same_lower", "same_upper", "stacks",
    "stepped_program", "updates_in_ball",
]
# fmt: on
