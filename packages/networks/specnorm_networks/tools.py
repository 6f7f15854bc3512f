"""Names for packages that audit or certify networks, and for extensions.

The functions for users are in `specnorm_networks` itself, and the types for readers of files in `model_arrays`.
"""

from __future__ import annotations

from specnorm_networks.answer import AnswerWithFile, NetworkBound, RunBound
from specnorm_networks.answering import Centre, bound, by_channels_and_units
from specnorm_networks.bounding import bounded
from specnorm_networks.certified.graph import check_graph
from specnorm_networks.certified.inequality import Inequality, Units
from specnorm_networks.certified.kernels import ROUNDINGS
from specnorm_networks.certified.links import Run
from specnorm_networks.certified.operators import Function, NoBoundError
from specnorm_networks.certified.operators.base import UNDERFLOW, FloatArray, LinearMap, Shape, flattened
from specnorm_networks.certified.operators.registry import registered_operators
from specnorm_networks.certified.parts import constants, statements_of
from specnorm_networks.certified.patterns import prepare, without_sorting
from specnorm_networks.certified.patterns.writing_out import written_out
from specnorm_networks.certified.propagation import Step, UnknownNode, before_added_constants
from specnorm_networks.certified.ranges import (
    Ranges,
    box_of,
    check_shapes,
    consistent,
    image_of,
    with_slopes_on,
)
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.runs import runs
from specnorm_networks.certified.subjects import Area, Inputs, Map, Region
from specnorm_networks.comparison.attack import gradient, length, moved
from specnorm_networks.comparison.execution import inside, moved_up, run_with_errors
from specnorm_networks.descent.adam import Adam
from specnorm_networks.descent.costs import RATE
from specnorm_networks.descent.inequality import Proposal, proposals
from specnorm_networks.live import Source, is_file, numbers
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.nonexpansiveness import Nonexpansive
from specnorm_networks.onnx import read as read_onnx
from specnorm_networks.progress import check_progress
from specnorm_networks.tables import aligned, html_table, shortened

# ruff: noqa: RUF022 - by what they are for
# fmt: off
__all__ = [
    # Files, and the bound of a graph, for which norms of layers may have been measured before.
    "read_onnx", "bound", "Measure", "Method", "moved_up", "registered_operators",
    # Arguments, and types of answers.
    "check_progress", "AnswerWithFile", "NetworkBound", "Nonexpansive", "RunBound", "Step", "UnknownNode",
    # Text.
    "aligned", "html_table", "shortened",
    # For extensions: graphs, and the parts of operators that rules use.
    "FloatArray", "Function", "Shape", "LinearMap", "Map", "NoBoundError",
    "Scope", "Source", "UNDERFLOW", "before_added_constants", "check_graph", "flattened", "is_file",
    "numbers", "prepare", "without_sorting", "written_out",
    # Regions of the inputs, and ranges of values in them.
    "Area", "Centre", "Inputs", "Ranges", "Region", "box_of", "check_shapes", "consistent", "image_of",
    "with_slopes_on",
    # Proofs and searches.
    "Adam", "ROUNDINGS", "Run", "bounded", "by_channels_and_units",
    "RATE", "Inequality", "Proposal", "Units", "proposals", "constants",
    "runs", "statements_of",
    # Execution.
    "gradient", "inside", "length", "moved", "run_with_errors",
]
# fmt: on
