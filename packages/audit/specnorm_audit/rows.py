"""The row of one layer in an audit: its bounds, columns, and how they were obtained. No measuring, no printing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from specnorm_networks.model_arrays import Kind

from specnorm import ConvSpec
from specnorm.methods import METHODS
from specnorm.methods import Kind as Promise

if TYPE_CHECKING:
    from specnorm.proof import Upper

Value = float | tuple[float, ...] | None
"""Number, or numbers, of a method for a layer; None if it did not run."""

CIRCULAR = "circular"
"""Column of the exact norm with circular padding at the input size."""
CONDITION = "condition"
"""Column of an upper bound of the condition number: ``upper`` divided by the column "smallest"."""
COLUMNS = (*METHODS, CIRCULAR, CONDITION)
"""All columns that can be measured besides the interval."""
SMALLEST_COLUMNS = ("smallest", CONDITION)
"""Columns about the smallest singular value: those of ``--smallest``."""
GEOMETRY = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding", "input_shape")
"""Facts of a layer's geometry in a row."""
USUAL_COLUMNS = ("tn", "f4", "reshaped")
"""Columns of ``--all``, besides "circular" if there is an input size."""


@dataclass(frozen=True)
class Row:
    """One layer of a model.

    Parameters
    ----------
    name : str
        The array's key in the model.
    kind : {"conv", "linear", "unknown", "none"}
        "none": the array is not measured, since it is probably no layer.
    shape : tuple of int
        Shape of the array as it is stored.
    spec : ConvSpec or None
        Geometry with which the layer was measured; None if no geometry fits the shape.
    assumed : tuple of str
        Assumptions about the geometry, as ``name=value``.
    lower, upper : float or None
        Proven bounds on the layer's norm at ``spec.input_shape``; if that is None, on the supremum over all input sizes
        (`ConvSpec.sizes_in_words`). ``upper`` is the smallest proven bound of all columns.
    values : mapping of str to Value
        Values of the requested columns, out of `COLUMNS`.
    promises : mapping of str to str
        Kind of each column's value (`specnorm.methods.Kind`).
    reason : str or None
        Reason why the layer could not be measured; None: it was measured.
    note : str or None
        Remark about the measurement, such as that a budget ended it; None: there is none.
    others : tuple of ConvSpec
        Geometries of other possible readings of the kernel; the numbers then hold for each (`either`).
    unsettled : str or None
        Reason why no gate passes on the numbers; they are those of the weight in ``assumed``.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    # With Any for None, as in the standard library's stubs, callers who know that a layer was measured need not ask.
    spec: ConvSpec | Any
    assumed: tuple[str, ...] = ()
    lower: float | Any = None
    upper: float | Any = None
    values: Mapping[str, Value] = field(default_factory=dict)
    promises: Mapping[str, Promise] = field(default_factory=dict)
    reason: str | None = None
    note: str | None = None
    others: tuple[ConvSpec, ...] = ()
    unsettled: str | None = None
    claim: Upper | None = field(default=None, repr=False, compare=False)
    """The smallest bound of the layer with its proof, which the bound of a network uses."""
    digest: str | None = field(default=None, repr=False, compare=False)
    """Digest of the kernel's bits, if an executor measured it."""

    @property
    def status(self) -> Literal["ok", "error", "skipped"]:
        """State: "ok" if both bounds are known and finite, "skipped" if the kind is "none", else "error"."""
        if self.kind == "none":
            return "skipped"
        are_numbers = all(x is not None and math.isfinite(x) for x in (self.lower, self.upper))
        return "ok" if self.reason is None and are_numbers else "error"

    @property
    def note_of_all(self) -> str | None:
        """Remark about the measurement, and about what gates need."""
        return joined(self.note, self.unsettled)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, in the order of the documentation; numbers that are not finite become None."""
        geometry = {name: in_lists(getattr(self.spec, name, None)) for name in GEOMETRY}
        if not geometry["padding"]:
            geometry["padding_mode"] = None  # of a matrix
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "shape": list(self.shape)}
        row |= geometry
        row |= {"assumed": list(self.assumed), "lower": finite(self.lower), "upper": finite(self.upper)}
        row |= {name: finite(value) for name, value in self.values.items()}
        return row | {"status": self.status, "reason": self.reason, "note": self.note_of_all}


def joined(*notes: str | None) -> str | None:
    """Return some notes as one; None if there is none."""
    return "; ".join(note for note in notes if note) or None


def is_of_the_norm(column: str) -> bool:
    """Return whether a column's numbers are norms, and not smallest singular values or the like."""
    return column == CIRCULAR or (column != CONDITION and METHODS[column].quantity == "norm")


def least_upper(row: Row) -> Row:
    """Return a row whose ``upper`` is the least that any of its columns has proven of the layer.

    A bound for every size also holds at one size. The column "circular" does not count, since the layer may have other
    padding. A row that was not measured is returned as it is.
    """
    if row.upper is None:
        return row
    least = row.upper
    for column, value in row.values.items():
        is_proven = row.promises.get(column) == "upper" and is_of_the_norm(column)
        if not is_proven or column == CIRCULAR or value is None:
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        least = min([least, *numbers])
    return replace(row, upper=least)


def either(a: Row, b: Row) -> Row:
    """Return a row that holds for both readings of a layer: its interval contains both intervals."""
    reason = a.reason or b.reason
    if reason is not None:
        return replace(a, lower=None, upper=None, reason=reason, claim=None)
    return replace(
        a,
        lower=min(a.lower, b.lower),
        upper=max(a.upper, b.upper),
        values={
            name: _either_value(value, b.values.get(name), is_lower=a.promises.get(name) == "lower")
            for name, value in a.values.items()
        },
        promises={name: _either_promise(promise, b.promises.get(name)) for name, promise in a.promises.items()},
        note=a.note or b.note,
        claim=None,
    )


def _either_value(one: Value, other: Value, is_lower: bool) -> Value:
    """Return the number that bounds both readings; None if one of them has no number, or several."""
    if not isinstance(one, float) or not isinstance(other, float):
        return None
    return min(one, other) if is_lower else max(one, other)


def _either_promise(one: Promise, other: Promise | None) -> Promise:
    """Return the promise of the larger one of two numbers, or of the smaller one of two lower bounds."""
    if one in ("exact", "upper") and other in ("exact", "upper"):
        return "upper"
    return one if one == other else "estimate"


def in_lists(value: Any) -> Any:
    """Return tuples, at every depth, as lists, as JSON has them."""
    return list(map(in_lists, value)) if isinstance(value, tuple) else value


def finite(value: Value) -> Any:
    """Return a value as JSON has it: numbers that are not finite become None."""
    if isinstance(value, tuple):
        return [finite(v) for v in value]
    return value if value is not None and math.isfinite(value) else None
