from specnorm import backends
from specnorm.backends.array_types import ArrayObject
from specnorm.backends.arrays import random_vectors
from specnorm.backends.text import counted, install, number, visible
from specnorm.backends.types import AnyArray, ArrayOps
from specnorm.ball.proofs.multiples import norm_of_neighbour
from specnorm.doors import door
from specnorm.geometry import layer_map
from specnorm.geometry import padding as padding_rules
from specnorm.geometry.spec import Layout, at_every_size
from specnorm.proofs import arithmetic, host, interval, rounding
from specnorm.proofs import frequencies as frequency_grids
from specnorm.proofs import norms as matrix_norms
from specnorm.proofs.bound import (
    HypothesisError,
    Lower,
    Upper,
    digest_of,
    finite,
    known,
    least,
    make_lower,
    make_upper,
)
from specnorm.proofs.interval import Interval, anything, around, enclosing, point, within
from specnorm.proofs.interval import _interval as make_interval
from specnorm.proofs.norms import matrix_norm_up
from specnorm.running.checks import budget as check_budget
from specnorm.running.checks import count as check_count
from specnorm.running.checks import flag as check_flag
from specnorm.running.checks import number as check_number
from specnorm.running.checks import values as check_values
from specnorm.running.explaining import lines
from specnorm.running.measuring import proven
from specnorm.running.result import NoNumber
from specnorm.running.search import Clock, OutOfTime
from specnorm.symbols import power
from specnorm.symbols.proofs.polynomial import Polynomial

# ruff: noqa: RUF022 - sorted by purpose
# fmt: off
__all__ = [
    # Claims: numbers that are proven, and the rules that combine them.
    "anything", "around", "digest_of", "enclosing", "finite", "HypothesisError", "Interval", "known",
    "least", "Lower", "make_interval", "make_lower", "make_upper", "norm_of_neighbour", "point", "Upper",
    "within",
    # Outward arithmetic: ``host`` of NumPy numbers, ``arithmetic`` of arrays, ``rounding`` for sums; norms of matrices.
    "arithmetic", "host", "interval", "matrix_norm_up", "matrix_norms", "Polynomial", "rounding",
    # The problem: a layer, its frequencies, its map.
    "at_every_size", "frequency_grids", "layer_map", "Layout", "padding_rules", "random_vectors",
    # Running a method, and what answers say.
    "AnyArray", "ArrayObject", "ArrayOps", "backends", "check_budget", "check_count", "check_flag", "check_number",
    "check_values", "Clock", "counted", "door", "install", "lines", "NoNumber", "number", "OutOfTime", "power",
    "proven", "visible",
]
# fmt: on
