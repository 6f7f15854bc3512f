"""The row of one layer in an audit: its bounds, columns, and how they were obtained. No measuring, no printing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from specnorm_networks.tools import Kind

from specnorm import ConvSpec
from specnorm.methods import METHODS
from specnorm.methods import Kind as Promise

if TYPE_CHECKING:
    from specnorm.proof import Upper

Value = float | tuple[float, ...] | None
"""A method's number, or numbers, of a layer; None if it did not run."""

CIRCULAR = "circular"
"""The exact norm with circular padding, at a size."""
CONDITION = "condition"
"""An upper bound of the condition number: ``upper`` over the lower bound of the smallest singular value."""
COLUMNS = (*METHODS, CIRCULAR, CONDITION)
"""What may be measured besides the interval."""
OTHER_END = ("smallest", CONDITION)
"""What ``--smallest`` measures."""
GEOMETRY = ("stride", "dilation", "groups", "transposed", "padding_mode", "padding", "input_shape")
"""What a row says of a layer's geometry."""
STANDARD = ("tn", "f4", "reshaped")
"""What ``--all`` measures, besides "circular" where there is a size."""


@dataclass(frozen=True)
class Row:
    """One layer of a model.

    Parameters
    ----------
    name : str
        The array's key in the model.
    kind : {"conv", "linear", "unknown", "none"}
        "none": not measured, since it is probably no layer.
    shape : tuple of int
        As stored.
    spec : ConvSpec or None
        The geometry it was measured with; None if the shape admits none.
    assumed : tuple of str
        What of the geometry was taken for granted, as ``name=value``.
    lower, upper : float or None
        Proven bounds of the layer's norm: at ``spec.input_shape``, or for None the supremum over all input sizes
        (`ConvSpec.sizes`). ``upper`` is the least of all that was proven.
    values : mapping of str to Value
        Of the columns that were asked for, out of `COLUMNS`.
    promises : mapping of str to str
        Per method, what its value promises (`specnorm.methods.Kind`).
    reason : str or None
        Why the layer could not be measured; None: it was.
    note : str or None
        What has to be said of how it was measured, such as that a budget ended it; None: nothing.
    other : ConvSpec or None
        The geometry by which the axes may have to be read instead: numbers are of both readings, `either`.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    spec: ConvSpec | None
    assumed: tuple[str, ...] = ()
    lower: float | None = None
    upper: float | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    promises: Mapping[str, Promise] = field(default_factory=dict)
    reason: str | None = None
    note: str | None = None
    other: ConvSpec | None = None
    claim: Upper | None = field(default=None, repr=False, compare=False)
    """The least bound of the layer that knows its proof: what the bound of a network is made of."""
    digest: str | None = field(default=None, repr=False, compare=False)
    """Of the kernel's bits, where it was measured elsewhere."""

    @property
    def status(self) -> Literal["ok", "error", "skipped"]:
        """Whether the layer was measured: there is no reason against it, and both bounds are numbers."""
        if self.kind == "none":
            return "skipped"
        are_numbers = all(x is not None and math.isfinite(x) for x in (self.lower, self.upper))
        return "ok" if self.reason is None and are_numbers else "error"

    @property
    def ratio(self) -> float | None:
        """``tn / lower``: how far the tensor-norm value is from the truth, at most."""
        tn = self.values.get("tn")
        if not isinstance(tn, float) or not self.lower:
            return None
        return tn / self.lower

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the order of the documentation; numbers that are not finite become None."""
        geometry = {name: _listed(getattr(self.spec, name, None)) for name in GEOMETRY}
        if not geometry["padding"]:
            geometry["padding_mode"] = None  # of a matrix
        row: dict[str, Any] = {"name": self.name, "kind": self.kind, "shape": list(self.shape)}
        row |= geometry
        row |= {"assumed": list(self.assumed), "lower": finite(self.lower), "upper": finite(self.upper)}
        row |= {name: finite(value) for name, value in self.values.items()}
        if "tn" in self.values:
            row["ratio"] = finite(self.ratio)
        return row | {"status": self.status, "reason": self.reason, "note": self.note}


def is_of_the_norm(column: str) -> bool:
    """Return whether a column's numbers are norms, and not smallest singular values or the like."""
    return column == CIRCULAR or (column != CONDITION and METHODS[column].quantity == "norm")


def least_upper(row: Row) -> Row:
    """Return a row whose ``upper`` is the least that any of its columns has proven of the layer.

    A bound of every size holds at one; that with circular padding holds for no other. A row that was not measured stays
    as it is.
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
    """Return a row that is true whichever of two readings is the layer's: its interval holds both."""
    reason = a.reason or b.reason
    if reason is not None or a.lower is None or b.lower is None or a.upper is None or b.upper is None:
        return replace(a, lower=None, upper=None, reason=reason, claim=None)
    values: dict[str, Value] = {}
    for name, value in a.values.items():
        values[name] = _either_value(value, b.values.get(name), is_lower=a.promises.get(name) == "lower")
    promises: dict[str, Promise] = {}
    for name, promise in a.promises.items():
        promises[name] = _either_promise(promise, b.promises.get(name))
    return replace(
        a,
        lower=min(a.lower, b.lower),
        upper=max(a.upper, b.upper),
        values=values,
        promises=promises,
        note=a.note or b.note,
        claim=None,
    )


def _either_value(one: Value, other: Value, is_lower: bool) -> Value:
    """Return the number that bounds both readings; None if one of them has no number, or several."""
    if not isinstance(one, float) or not isinstance(other, float):
        return None
    return min(one, other) if is_lower else max(one, other)


def _either_promise(one: Promise, other: Promise | None) -> Promise:
    """Return what the larger of two numbers promises, or the lesser of two lower bounds."""
    if one in ("exact", "upper") and other in ("exact", "upper"):
        return "upper"
    return one if one == other else "estimate"


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, tuple) else value


def finite(value: Value) -> Any:
    """Return a value as JSON has it: numbers that are not finite become None."""
    if isinstance(value, tuple):
        return [finite(v) for v in value]
    return value if value is not None and math.isfinite(value) else None
