"""Functions of each entry, and what joins several values entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Literal

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError, Operator
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.onnx.nodes import (
    FLOATING,
    Builder,
    Call,
    Data,
    Made,
    Value,
    numbers_of,
    on_axis,
    scalar,
    shape_of,
)
from specnorm_networks.onnx.tensors import Constant

MOST = 16
"""Largest whole exponent of a power."""
SMALLEST = 1e-100
"""Factors beyond it or its inverse are not read."""


def function(make: Callable[..., Operator], *names: str) -> Builder:
    """A function of each entry, with numbers that attributes of these names state."""

    def build(x: Data, /, **numbers: float) -> Made:
        return Made(make(*(numbers[name] for name in names)), (x,), x.shape)

    known = [Parameter("x", Parameter.POSITIONAL_ONLY, annotation=Data)]
    known += [Parameter(name, Parameter.KEYWORD_ONLY, annotation=float) for name in names]
    build.__signature__ = Signature(known)  # type: ignore[attr-defined]  # which `binding` reads
    return build


def shrink(x: Data, /, *, bias: float, lambd: float) -> Made:
    """What is near 0 is 0; the rest jumps unless it comes nearer by as much."""
    if not 0 <= bias == lambd:
        raise NoBoundError(f"it jumps where the value is {lambd:.6g}")
    return Made(ops.SoftShrink(bias), (x,), x.shape)


def gelu(x: Data, /, *, approximate: str) -> Made:
    """Exact, or by tanh."""
    forms: dict[str, Operator] = {"none": ops.GELU(), "tanh": ops.TanhGELU()}
    if approximate not in forms:
        raise NoBoundError(f"approximate={approximate[:20]!r} of Gelu is not known here")
    return Made(forms[approximate], (x,), x.shape)


def hard_sigmoid(x: Data, /, *, alpha: float, beta: float) -> Made:
    """``alpha x + beta`` between 0 and 1."""
    if not (math.isfinite(alpha) and math.isfinite(beta)):
        raise NoBoundError(f"its slope and what it adds are {alpha} and {beta}")
    line = ops.Scale(np.array(alpha), lambda: (np.array(beta), np.zeros(())), exact=True)
    return Made(ops.HardTanh(0.0, 1.0), (Made(line, (x,), x.shape),), x.shape)


def swish(x: Data, /, *, alpha: float) -> Made:
    """``x sigmoid(alpha x) = silu(alpha x) / alpha``."""
    if alpha == 0:
        return Made(ops.Scale(np.array(0.5), exact=True), (x,), x.shape)
    return Made(_stretched(ops.SiLU(), 1 / alpha), (x,), x.shape)


def celu(x: Data, /, *, alpha: float) -> Made:
    """``alpha elu(x / alpha)``."""
    if not alpha > 0:
        raise NoBoundError(f"alpha={alpha!r}: below 0 the exponential grows")
    return Made(_stretched(ops.ELU(), alpha), (x,), x.shape)


def _stretched(f: ops.Pointwise, by: float) -> Operator:
    """``by f(x / by)``."""
    if not SMALLEST < abs(by) < 1 / SMALLEST:
        raise NoBoundError(f"alpha={by!r} or its inverse is not known here")
    return f if by == 1 else ops.Multiple(f, by, 1 / by, 1)


def clip(x: Data, /, *, min: Constant | float | None, max: Constant | float | None) -> Made:
    """Between two numbers."""
    ends = [default if end is None else end if isinstance(end, float) else scalar(end)
            for end, default in ((min, -math.inf), (max, math.inf))]  # fmt: skip
    low, high = ends
    if low is None or high is None or not low <= high:
        raise NoBoundError(f"its limits are {low} and {high}")
    return Made(ops.HardTanh(low, high), (x,), _wide(x, *(end for end in (min, max) if isinstance(end, Constant))))


def prelu(x: Data, /, *, slope: Constant) -> Made:
    """Constant slopes below 0."""
    if x.shape is not None and broadcast_shapes([x.shape, slope.shape]) != x.shape:
        raise NoBoundError(f"its slopes of shape {slope.shape} do not fit {x.shape}")
    return Made(ops.LeakyReLU(numbers_of(slope)), (x,), x.shape)


def _joined(operator: Operator, *values: Value | Made) -> Made:
    return Made(operator, values, broadcast_shapes([value.shape for value in values]))


def total(call: Call, *values: Value) -> Made:
    """Sum, difference or mean of values."""
    signs = (1.0, *(-1.0 if call.operator == "Sub" else 1.0 for _ in values[1:]))
    return _joined(ops.Add(signs, len(values) if call.operator == "Mean" else 1), *values)


def extreme(call: Call, *values: Value) -> Made:
    """Largest or smallest of values; with one number a function of each entry."""
    for x, other in (values, values[::-1]) if len(values) == 2 else ():
        number = scalar(other)
        if number is not None and math.isfinite(number) and isinstance(x, Data) and _spreads_to(x, other):
            low, high = (number, math.inf) if call.operator == "Max" else (-math.inf, number)
            return Made(ops.ReLU() if low == 0 else ops.HardTanh(low, high), (x,), x.shape)
    operator: Operator = ops.Maximum() if call.operator == "Max" else ops.Minimum()
    return _joined(operator if len(values) > 1 else ops.Identity(), *values)


def multiply(a: Value, b: Value, /) -> Made:
    """Product of two values, or with constants."""
    if isinstance(a, Data) and isinstance(b, Data):
        return _joined(ops.Product(), a, b)
    x, c = (a, b) if isinstance(b, Constant) else (b, a)
    assert isinstance(c, Constant)  # for the type checker: one moves
    return Made(ops.Scale(numbers_of(c), exact=True), (x,), broadcast_shapes([x.shape, c.shape]))


def divide(a: Value, b: Value, /) -> Made:
    """Division by constants; by values that depend on the input, of one number or of values."""
    if any(isinstance(x, Constant) and not x.dtype.startswith(FLOATING) for x in (a, b)):
        raise NoBoundError("it divides whole numbers: steps")
    if isinstance(b, Data):
        number = scalar(a)
        if number is None:
            return _joined(ops.Quotient(), a, b)
        return Made(ops.Reciprocal(scale=number), (b,), _wide(b, a))
    with np.errstate(all="ignore"):
        values = 1 / numbers_of(b)
    return Made(ops.Scale(values), (a,), broadcast_shapes([a.shape, b.shape]))


def _spreads_to(x: Data, number: Value) -> bool:
    return x.shape is not None and broadcast_shapes([number.shape, x.shape]) == x.shape


def _wide(x: Data, *numbers: Value) -> Shape | None:
    """The shape of a value that numbers are joined with."""
    shape = broadcast_shapes([x.shape, *(number.shape for number in numbers)])
    if shape != x.shape:
        raise NoBoundError("a number of more axes than the value that it is joined with")
    return shape


def power(x: Data, exponent: Constant, /) -> Made:
    """Whole exponents, roots and inverses."""
    number = scalar(exponent)
    if number is None:
        raise NoBoundError("its exponent is not one number that is known")
    roots: dict[float, Operator] = {0.5: ops.Sqrt(), -0.5: ops.Rsqrt(), -1.0: ops.Reciprocal()}
    whole = 1 <= number <= MOST and number == int(number)
    operator = ops.Power(int(number)) if whole else roots.get(number)
    if operator is None:
        raise NoBoundError(f"a power of {number:.6g} has no rule")
    return Made(operator, (x,), _wide(x, exponent))


def where(condition: Value, a: Value, b: Value, /) -> Made:
    """Choice by a constant condition; by one that moves it is a step, unless it is part of something known."""
    shape = broadcast_shapes([condition.shape, a.shape, b.shape])
    if isinstance(condition, Data):
        return Made(ops.Choose(), (condition, a, b), shape)
    if condition.refusal is not None:
        raise NoBoundError("its condition cannot be read")
    return Made(ops.Where(condition.load), (a, b), shape)


def compare(kind: Literal["gt", "ge", "lt", "le"]) -> Builder:
    """A step: 1 or 0."""
    turned: dict[str, Literal["gt", "ge", "lt", "le"]] = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}

    def build(a: Value, b: Value, /) -> Made:
        shape = broadcast_shapes([a.shape, b.shape])
        for x, c, how in ((a, b, kind), (b, a, turned[kind])):
            number = scalar(c)
            if number is not None and isinstance(x, Data) and shape == x.shape:
                return Made(ops.Compare(how, number), (x,), shape)
        # The difference has the sign of a > b: it underflows to no zero that it is not.
        return Made(ops.Compare(kind), (_joined(ops.Add((1.0, -1.0)), a, b),), shape)

    return build


def softmax(call: Call, x: Data, /, *, axis: int) -> Made:
    """Over one axis, or (before operator set 13) all from it on; its logarithm."""
    shape = shape_of(x)
    first = on_axis(axis, shape)
    axes = (first,) if call.opset >= 13 else tuple(range(first, len(shape)))
    return Made((ops.Softmax if call.operator == "Softmax" else ops.LogSoftmax)(axes), (x,), x.shape)
