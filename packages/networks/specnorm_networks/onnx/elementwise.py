"""ONNX operators that are functions of each entry, or join several values entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Literal

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError, Operator
from specnorm_networks.certified.operators.base import FloatArray, Shape
from specnorm_networks.certified.operators.broadcasting import broadcast_shapes
from specnorm_networks.onnx.nodes import (
    FLOATING,
    MAX_KNOWN,
    Builder,
    Call,
    Data,
    Output,
    Value,
    entrywise,
    numbers_of,
    on_axis,
    scalar,
    shape_of,
)
from specnorm_networks.onnx.tensors import Constant

LARGEST_EXPONENT = 16
"""Largest whole exponent of a power."""
SMALLEST_FACTOR = 1e-100
"""Factors below it, or above its inverse, are not read."""


def function(make: Callable[..., Operator], *names: str) -> Builder:
    """Return the builder of a function of each entry, whose arguments are the attributes of these names."""

    def build(x: Data, /, **numbers: float) -> Output:
        return entrywise(make(*(numbers[name] for name in names)), x)

    parameters = [Parameter("x", Parameter.POSITIONAL_ONLY, annotation=Data)]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, annotation=float) for name in names]
    build.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # `binding` reads it
    return build


def gelu(x: Data, /, *, approximate: str) -> Output:
    """Return ``x Phi(x)``, Phi the distribution of a normal number, by the error function or nearly so by tanh.

    They are ``x (1 + erf(x / sqrt(2))) / 2`` and, with ``y = sqrt(2 / pi) (x + 0.044715 x^3)``,
    ``x (1 + tanh(y)) / 2 = x sigmoid(2 y)``.
    """
    if approximate == "none":
        erf = entrywise(ops.Erf(), scaled(x, 1 / math.sqrt(2), exact=False))
        phi = scaled(erf, 0.5, shift=0.5)
    elif approximate == "tanh":
        cube = scaled(entrywise(ops.Power(3), x), 0.044715, exact=False)
        y = _joined(ops.Add((1.0, 1.0)), x, cube)
        phi = entrywise(ops.Sigmoid(), scaled(y, 2 * math.sqrt(2 / math.pi), exact=False))
    else:
        raise NoBoundError(f"approximate={approximate[:20]!r} of Gelu is not supported")
    return _joined(ops.Product(), x, phi)


def mish(x: Data, /) -> Output:
    """Return ``x tanh(softplus(x))``."""
    return _joined(ops.Product(), x, entrywise(ops.Tanh(), entrywise(ops.Softplus(), x)))


def swish(x: Data, /, *, alpha: float) -> Output:
    """Return ``x sigmoid(alpha x)``."""
    return _joined(ops.Product(), x, entrywise(ops.Sigmoid(), scaled(x, alpha)))


def hard_swish(x: Data, /) -> Output:
    """Return ``x (min(max(x + 3, 0), 6) / 6)``."""
    clipped = entrywise(ops.HardTanh(0.0, 6.0), scaled(x, 1.0, shift=3.0))
    return _joined(ops.Product(), x, scaled(clipped, 1 / 6, exact=False))


def hard_sigmoid(x: Data, /, *, alpha: float, beta: float) -> Output:
    """Return ``alpha x + beta``, clipped to [0, 1]."""
    if not (math.isfinite(alpha) and math.isfinite(beta)):
        raise NoBoundError(f"slope {alpha} and offset {beta} are not supported")
    return entrywise(ops.HardTanh(0.0, 1.0), scaled(x, alpha, shift=beta))


def shrink(x: Data, /, *, bias: float, lambd: float) -> Output:
    """Return ``x - min(max(x, -lambd), lambd)``, if bias is lambd: another one is a jump."""
    if not (bias == lambd and 0 <= lambd < math.inf):
        raise NoBoundError(f"it jumps where an entry is lambd={lambd:.6g}, since bias={bias:.6g} is another number")
    return _joined(ops.Add((1.0, -1.0)), x, entrywise(ops.HardTanh(-lambd, lambd), x))


def celu(x: Data, /, *, alpha: float) -> Output:
    """Return ``alpha elu(x / alpha)``."""
    if not alpha > 0:
        raise NoBoundError(f"alpha={alpha!r} is negative")
    stretched = scaled(x, 1 / alpha, exact=alpha == 1)
    return scaled(entrywise(ops.ELU(), stretched), alpha)


def selu(x: Data, /, *, alpha: float, gamma: float) -> Output:
    """Return ``gamma elu(x)``, where ELU has the slope alpha below 0."""
    return scaled(entrywise(ops.ELU(alpha), x), gamma)


def scaled(x: Data | Output, factor: float, *, shift: float = 0.0, exact: bool = True) -> Output:
    """Return a number times a value, plus another number; ``exact``: whether the factor is not rounded."""
    if not SMALLEST_FACTOR < abs(factor) < 1 / SMALLEST_FACTOR:
        raise NoBoundError(f"the factor {factor!r} is not supported")
    offset = (np.array(shift), np.zeros(()))
    return entrywise(ops.Scale(np.array(factor), (lambda: offset) if shift else None, exact=exact), x)


def clip(x: Data, /, *, min: Constant | float | None, max: Constant | float | None) -> Output:
    """Return values clipped to an interval, whose ends may be missing."""
    low = _limit(min, -math.inf)
    high = _limit(max, math.inf)
    if low is None or high is None or not low <= high:
        raise NoBoundError(f"the limits {low} and {high} are not supported")
    constants = [end for end in (min, max) if isinstance(end, Constant)]
    return Output(ops.HardTanh(low, high), (x,), _shape_with(x, *constants))


def _limit(end: Constant | float | None, default: float) -> float | None:
    """Return an end of an interval as a number; None if it is an array."""
    if end is None:
        return default
    return end if isinstance(end, float) else scalar(end)


def prelu(x: Data, /, *, slope: Constant) -> Output:
    """Return leaky ReLU with constant slopes below 0."""
    if x.shape is not None and broadcast_shapes([x.shape, slope.shape]) != x.shape:
        raise NoBoundError(f"slopes of shape {slope.shape} do not fit an input of shape {x.shape}")
    return entrywise(ops.LeakyReLU(numbers_of(slope)), x)


def _joined(operator: Operator, *values: Value | Output) -> Output:
    return Output(operator, values, broadcast_shapes([value.shape for value in values]))


def total(call: Call, *values: Value) -> Output:
    """Return the sum, difference or mean of values."""
    other_sign = -1.0 if call.operator == "Sub" else 1.0
    signs = (1.0, *[other_sign] * (len(values) - 1))
    summed = _joined(ops.Add(signs), *values)
    if call.operator != "Mean":
        return summed
    return _over(summed, np.array(float(len(values))), summed.shape)


def extreme(call: Call, *values: Value) -> Output:
    """Return the entrywise maximum or minimum of values; with a number it is a function of one value."""
    if len(values) == 2:
        first, second = values
        for x, other in ((first, second), (second, first)):
            clipped = _clipped_at(call, x, other)
            if clipped is not None:
                return clipped
    operator: Operator = ops.Maximum() if call.operator == "Max" else ops.Minimum()
    return _joined(operator if len(values) > 1 else ops.Identity(), *values)


def _clipped_at(call: Call, x: Value, other: Value) -> Output | None:
    """Return the extreme of a moving value and a number; None for other values."""
    number = scalar(other)
    if number is None or not math.isfinite(number) or not isinstance(x, Data) or not _spreads_to(x, other):
        return None
    if call.operator == "Max":
        operator: Operator = ops.ReLU() if number == 0 else ops.HardTanh(number, math.inf)
    else:
        operator = ops.HardTanh(-math.inf, number)
    return entrywise(operator, x)


def multiply(a: Value, b: Value, /) -> Output:
    """Return the product of two values, or of a value and constants."""
    if isinstance(a, Data) and isinstance(b, Data):
        return _joined(ops.Product(), a, b)
    x, constant = (a, b) if isinstance(b, Constant) else (b, a)
    assert isinstance(constant, Constant)  # for the type checker: one of them is
    shape = broadcast_shapes([x.shape, constant.shape])
    return Output(ops.Scale(numbers_of(constant), exact=True), (x,), shape)


def divide(a: Value, b: Value, /) -> Output:
    """Return the quotient of a value by constants, or of a number or a value by a value that moves."""
    if any(isinstance(x, Constant) and not x.dtype.startswith(FLOATING) for x in (a, b)):
        raise NoBoundError("integer division is discontinuous")
    if isinstance(b, Data):
        number = scalar(a)
        if number is None:
            return _joined(ops.Quotient(), a, b)
        return Output(ops.Reciprocal(scale=number), (b,), _shape_with(b, a))
    return _over(a, numbers_of(b), broadcast_shapes([a.shape, b.shape]))


def _over(x: Value | Output, divisors: FloatArray, shape: Shape | None) -> Output:
    """Return the quotient of a value by numbers."""
    with np.errstate(all="ignore"):
        values = 1 / divisors
    # The inverse of a power of 2 is one.
    is_exact = bool(np.all(abs(np.frexp(divisors)[0]) == 0.5))
    return Output(ops.Scale(values, exact=is_exact, divisors=divisors), (x,), shape)


def _spreads_to(x: Data, number: Value) -> bool:
    return x.shape is not None and broadcast_shapes([number.shape, x.shape]) == x.shape


def _shape_with(x: Data, *numbers: Value) -> Shape | None:
    """Return the shape of a value that is joined with numbers; these must not add axes."""
    shape = broadcast_shapes([x.shape, *(number.shape for number in numbers)])
    if shape != x.shape:
        raise NoBoundError("a constant has more axes than the other operand")
    return shape


def power(x: Data, exponent: Constant, /) -> Output:
    """Return a power with a whole exponent, a root or an inverse."""
    number = scalar(exponent)
    if number is None:
        raise NoBoundError("its exponent is not a constant scalar")
    shape = _shape_with(x, exponent)
    if 1 <= number <= LARGEST_EXPONENT and number == int(number):
        return Output(ops.Power(int(number)), (x,), shape)
    if number not in (0.5, -0.5, -1.0):
        raise NoBoundError(f"the exponent {number:.6g} is not supported")
    if number == -1:
        return Output(ops.Reciprocal(), (x,), shape)
    root = Output(ops.Sqrt(), (x,), shape)
    return root if number > 0 else Output(ops.Reciprocal(), (root,), shape)


def where(condition: Value, a: Value, b: Value, /) -> Output:
    """Return entries of a or of b by a condition. If it is not constant, this is a step, except in known patterns."""
    shape = broadcast_shapes([condition.shape, a.shape, b.shape])
    if isinstance(condition, Data):
        return Output(ops.Choose(), (condition, a, b), shape)
    if condition.refusal is not None:
        raise NoBoundError("its condition cannot be read")
    for chosen, truth in ((a, True), (b, False)):
        is_whole = isinstance(chosen, Data) and chosen.shape == shape and shape is not None
        if is_whole and np.all(condition.load().astype(bool) == truth):
            return Output(ops.Identity(), (chosen,), shape)
    return Output(ops.Where(condition.load), (a, b), shape)


def equal(call: Call, a: Value, b: Value, /) -> Constant:
    """Return whether entries are equal, where that is no step: a value and itself, or a number and infinity or NaN.

    JAX asks by ``x == x`` whether an entry is a number. All entries of a network on real numbers are.
    """
    if isinstance(a, Data) and isinstance(b, Data) and a.name == b.name:
        return _truth(call, a, True)
    for x, constant in ((a, b), (b, a)):
        if isinstance(x, Data) and isinstance(constant, Constant) and not np.isfinite(numbers_of(constant)).any():
            return _truth(call, x, False, constant)
    raise NoBoundError("it is discontinuous where two entries are equal")


def never(call: Call, x: Data, /) -> Constant:
    """Return that no entry is NaN (IsNaN), or infinite (IsInf): all are real numbers."""
    return _truth(call, x, False)


def negation(call: Call, x: Value, /) -> Constant:
    """Return the negation of truth values that are constant."""
    if isinstance(x, Data) or x.size > MAX_KNOWN or x.refusal is not None:
        raise NoBoundError("it is discontinuous where its condition changes")
    return call.fold(np.logical_not(x.load()))


def _truth(call: Call, x: Data, truth: bool, *others: Constant) -> Constant:
    """Return one truth value at each entry of a value that is broadcast with others."""
    shape = broadcast_shapes([shape_of(x), *(other.shape for other in others)])
    if shape is None or math.prod(shape) > MAX_KNOWN:
        raise NoBoundError("it compares too many entries")
    return call.fold(np.broadcast_to(np.array(truth), shape))


def compare(kind: Literal["gt", "ge", "lt", "le"]) -> Builder:
    """Return the builder of a comparison, a step from 0 to 1."""

    def build(a: Value, b: Value, /) -> Output:
        number = scalar(b)
        if number is not None and isinstance(a, Data) and _spreads_to(a, b):
            return entrywise(ops.Compare(kind, number), a)
        # The difference of two different floats never underflows to 0, so its sign is that of the comparison.
        return entrywise(ops.Compare(kind), _joined(ops.Add((1.0, -1.0)), a, b))

    return build


def softmax(call: Call, x: Data, /, *, axis: int) -> Output:
    """Return softmax or its logarithm over one axis; before operator set 13 it is over that axis and all behind it."""
    shape = shape_of(x)
    first = on_axis(axis, shape)
    axes: Shape = (first,)
    if call.opset < 13:
        # An axis of size 1 changes nothing: without it, patterns of one axis know the node.
        axes = tuple(number for number in range(first, len(shape)) if shape[number] != 1) or axes
    make = ops.Softmax if call.operator == "Softmax" else ops.LogSoftmax
    return entrywise(make(axes), x)
