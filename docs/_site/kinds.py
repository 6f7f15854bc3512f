"""The kind of every function's number: the table of docs/guarantees.md, made of what the methods say.

``python docs/_site/kinds.py FILE`` writes the table to a file, which the site's hook puts into the page.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import specnorm
from specnorm.enclosure.norm_at_size import NormAtSize
from specnorm.ends.isometry import IsometryEnds
from specnorm.errors import GeometryError, MethodError
from specnorm.geometry.spec import ConvSpec
from specnorm.methods import METHODS, Enclose, PowerTopK, Smallest, TensorNorm
from specnorm.running.base import Plan
from specnorm.running.measuring import run_plan
from specnorm.running.result import Result
from specnorm.spectrum.determinant import LogDeterminant
from specnorm.spectrum.singular_values import SingularValues
from specnorm.unfoldings.matrices import MatrixNorm

FUNCTIONS: dict[str, tuple[str, Plan]] = {
    "grid_bound": ("grid", METHODS["grid"]()),
    "f4_bound": ("f4", METHODS["f4"]()),
    "unfolding_bounds": ("unfoldings", METHODS["unfoldings"]()),
    "gram_bound": ("gram", METHODS["gram"]()),
    "completion_bound": ("completion", METHODS["completion"]()),
    "tn_bound": ("tn", METHODS["tn"]()),
    "tn_bound(proven=False)": ("tn", TensorNorm(proven=False)),
    "enclose": ("enclose", METHODS["enclose"]()),
    "conv_norm": ("fft", METHODS["fft"]()),
    "singular_values": ("", SingularValues()),
    "singular_values(k=...)": ("", SingularValues(k=3)),
    "power_norm": ("power", METHODS["power"]()),
    "measure(kernel, PowerTopK())": ("", PowerTopK()),
    "reshaped_norm": ("reshaped", METHODS["reshaped"]()),
    "symbol_norm": ("symbol", METHODS["symbol"]()),
    "enclose_smallest": ("smallest", METHODS["smallest"]()),
    "isometry_bound": ("isometry", METHODS["isometry"]()),
    "enclose_isometry": ("", IsometryEnds()),
    "slogdet": ("", LogDeterminant()),
    "matrix_norm": ("", MatrixNorm()),
}
"""Function -> name in `METHODS`, if any, and the plan that it runs."""
AT_SIZE: dict[str, Plan] = {
    "conv_norm": NormAtSize(),
    "singular_values(k=...)": PowerTopK(k=3, n_iter=1000, least_gain=1e-9),
}
"""What those run at a size instead, for other padding than circular."""

SIZES: dict[str, dict[str, Any]] = {
    "every size": {},
    "circular, at `input_shape`": {"input_shape": 7},
    "zeros, at `input_shape`": {"input_shape": 7, "padding_mode": "zeros"},
}


def kernel_of(function: str) -> np.ndarray:
    """A matrix, or a kernel whose norm at the size below is not the supremum."""
    values: np.ndarray = np.random.RandomState(0).standard_normal(36)
    return values.reshape(6, 6) if function == "matrix_norm" else values.reshape(2, 2, 3, 3)


def spec_of(function: str, geometry: dict[str, Any]) -> ConvSpec:
    """The kernel's geometry; a matrix has none of its own."""
    return ConvSpec.of(kernel_of(function).shape, **({} if function == "matrix_norm" else geometry))


def plan_of(function: str, geometry: dict[str, Any]) -> Plan:
    own = geometry.get("padding_mode", "circular") != "circular" and function in AT_SIZE
    return AT_SIZE[function] if own else FUNCTIONS[function][1]


def measured(function: str, geometry: dict[str, Any]) -> Result | None:
    """What the plan made; None where it refuses the geometry."""
    try:
        spatial = {} if function == "matrix_norm" else geometry
        return run_plan(kernel_of(function), plan_of(function, geometry), **spatial)
    except (GeometryError, MethodError):
        return None


def kind_of(plan: Plan, spec: ConvSpec, run: Result | None = None) -> str:
    """The kind that a method names, after a run; else the direction in which the plan's value is rounded."""
    if isinstance(plan, SingularValues):
        return "exact"
    return plan.kind(spec) if run is None else run.kind


def kind(function: str, geometry: dict[str, Any]) -> str:
    """One cell: the kind; a value that no size changes speaks about the supremum."""
    found, unsized = measured(function, geometry), measured(function, {})
    if found is None:
        return "refused"
    both = isinstance(found.method, (Enclose, Smallest, IsometryEnds))  # `value` is one of them
    word = "lower and upper" if both else kind_of(found.method, found.spec, found)
    if isinstance(found.method, NormAtSize):  # its value is the lower bound of an enclosure
        word = "exact, and lower"
    if geometry and unsized is not None and np.array_equal(found.value, unsized.value):
        of = "σ\\*" if getattr(found.method, "quantity", "norm") == "norm" else "every size"  # noqa: RUF001 - the symbol of the page
        return f"{word}, of {of}"
    return word


def traced(function: str, geometry: dict[str, Any]) -> str:
    """The kind where values are not known; a search then refuses, or does without its proof."""
    plan, spec = plan_of(function, geometry), spec_of(function, geometry)
    if measured(function, geometry) is None:
        return ""
    if plan.needs(spec).searches:
        try:
            plan.refuse_tracer(spec)
        except MethodError:
            return "refused"
    return kind_of(plan, spec)


def computed_in(function: str, geometry: dict[str, Any]) -> str:
    """Precision of the value, and of the search that proves it."""
    if measured(function, geometry) is None:
        return ""
    needs = plan_of(function, geometry).needs(spec_of(function, geometry))
    own = needs.precision == "own"
    return ("own, proof in float64" if own else "float64") if needs.searches else "own" if own else "wide"


def either(function: str, cell: Any) -> str:
    """What holds without and with a size; both, where they differ."""
    without, sized = (cell(function, SIZES[size]) for size in list(SIZES)[:2])
    return without or sized if not (without and sized) or without == sized else f"{without}; at a size {sized}"


def table() -> str:
    """Markdown: one row a function."""
    heads = ["function", "method", *SIZES, "under a tracer", "computed in"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for function, (name, _) in FUNCTIONS.items():
        matrix = function == "matrix_norm"
        kinds = (
            [f"{kind(function, {})}, each matrix", "", ""] if matrix else [kind(function, g) for g in SIZES.values()]
        )
        cells = [f"`{function}`", f"`{name}`" if name else "", *kinds]
        rows.append(f"| {' | '.join([*cells, either(function, traced), either(function, computed_in)])} |")
    return "\n".join([*rows, "", figures()]) + "\n"


def figures() -> str:
    """Further proven bounds in ``Result.stats`` of the methods that a user can name, by their direction."""
    places: dict[str, list[str]] = {"down": [], "up": []}
    for _, plan in FUNCTIONS.values():
        if type(plan).__name__ in specnorm.methods.__all__:
            for name, rounds in plan.stats.items():
                if rounds in places:
                    places[rounds].append(f'`stats["{name}"]` of `{type(plan).__name__}`')
    lower, upper = (" and ".join(places[rounds]) for rounds in ("down", "up"))
    return (
        f"The results of `measure` have further proven bounds. Lower bounds are {lower}. Upper bounds are {upper}; "
        "the residuals bound distances from singular values."
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
