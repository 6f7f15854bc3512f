from specnorm.api.bounds import Comparison
from specnorm.backends.text import counted
from specnorm.ball.rescaling import check_bound
from specnorm.ball.steps import check_momentum, lmo_many, updates_in_ball
from specnorm.doors import door
from specnorm.enclosure.proving import status_of
from specnorm.geometry.spec import at_every_size
from specnorm.geometry.words import check_words
from specnorm.power.probable import LinearOperator, Vector
from specnorm.running.base import check_word
from specnorm.running.checks import count as check_count
from specnorm.running.checks import flag as check_flag
from specnorm.running.checks import function as check_function
from specnorm.running.checks import number as check_number
from specnorm.running.checks import pattern as check_pattern
from specnorm.running.checks import values as check_values
from specnorm.running.program import keep, program
from specnorm.running.stacks import Stack, joint_stacks, stacks
from specnorm.running.stepping import follow_all, stepped_program

# fmt: off
__all__ = [
    "Comparison", "LinearOperator", "Stack", "Vector", "at_every_size", "check_bound", "check_count", "check_flag",
    "check_function", "check_momentum", "check_number", "check_pattern", "check_values", "check_word", "check_words",
    "counted", "door", "follow_all", "joint_stacks", "keep", "lmo_many", "program", "stacks", "status_of",
    "stepped_program", "updates_in_ball",
]
# fmt: on
