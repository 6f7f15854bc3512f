"""Functions of each entry, and what joins several values entry by entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx.calls import (
    PRODUCT,
    Call,
    Data,
    Operator,
    Translated,
    UnreadError,
    Value,
    names,
    offset_of,
    one,
    scalar,
)
from specnorm.auditing.readers.onnx.shapes import (
    broadcast_shapes,
)
from specnorm.auditing.readers.onnx.tensors import Constant
from specnorm.networks.graph import Offset, Shape, concrete
from specnorm.networks.pointwise import SLOPES
from specnorm.networks.steep import power_params
from specnorm.proof import host

QUOTIENT = "it divides by a value that depends on the input, which has no constant"


def function(function: str, alpha: float | None = None) -> Operator:
    """A function of each entry, with the attribute ``alpha`` if it has a default."""

    def translate(call: Call) -> Translated:
        # Attributes are float32, defaults too.
        given: dict[str, Any] = {} if alpha is None else {"alpha": float(call.attribute("alpha", np.float32(alpha)))}
        return one(call, "pointwise", call.data().shape, function=function, **given)

    return translate


def clip(call: Call) -> Translated:
    """Between constants, which may be larger than the input."""
    ends = [value for value in call.inputs[1:] if value is not None]
    shape = call.data().shape
    wide = broadcast_shapes([shape, *(value.shape for value in ends)])
    if wide == shape and all(math.prod(concrete(value.shape) or (2,)) == 1 for value in ends):
        return one(call, "pointwise", shape, function="clip")
    return Translated("extreme", names(call)[:1], (wide,))


def selu(call: Call) -> Translated:
    """SELU with its constants."""
    alpha, gamma = (
        call.attribute("alpha", 1.67326319217681884765625),
        call.attribute("gamma", 1.05070102214813232421875),
    )
    steep = host.mul_up(abs(gamma), max(1.0, abs(alpha)))
    return one(call, "pointwise", call.data().shape, function="linear", alpha=steep)


def swish(call: Call) -> Translated:
    """``x * sigmoid(alpha x)``: SiLU where alpha is 1."""
    alpha, shape = float(call.attribute("alpha", 1.0)), call.data().shape
    if alpha == 1:
        return one(call, "pointwise", shape, function="silu")
    return one(call, "pointwise", shape, function="swish", alpha=alpha)


def gelu(call: Call) -> Translated:
    """GELU, exact or by tanh."""
    given = call.attribute("approximate", "none")
    kind = {"none": "gelu", "tanh": "gelu_tanh"}.get(given)
    if kind is None:
        raise UnreadError(f"approximate={given[:20]!r} of Gelu is not known here")
    return one(call, "pointwise", call.data().shape, function=kind)


def prelu(call: Call) -> Translated:
    """PReLU with constant slopes."""
    slopes, shape = call.constant(1, 2**20), call.data().shape
    if slopes is not None and shape is not None and broadcast_shapes([shape, slopes.shape]) != shape:
        raise UnreadError(f"its slopes of shape {slopes.shape} do not fit {shape}")
    known = np.zeros(1) if slopes is None or not slopes.size else slopes.load()
    low, high = (math.nan, math.nan) if slopes is None else (float(np.min(known)), float(np.max(known)))
    return one(call, "pointwise", call.data().shape, function="prelu", low=low, high=high)


def add(call: Call) -> Constant | Translated:
    """Sum, difference or mean of several values."""
    values = [value for value in call.inputs if isinstance(value, Data)]
    if call.operator == "Mean" and len(values) < len(call.inputs):
        raise UnreadError("Mean with constants")
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    rule = "average" if call.operator == "Mean" else "add"
    signs = (1, *(-1 if call.operator == "Sub" else 1 for _ in values[1:]))
    if len(values) == 1 and rule == "add":
        return _shifted(call, values[0], shape)
    constants = [value for value in call.inputs if isinstance(value, Constant)]
    offset = _sum_of(constants) if constants else None
    return Translated(rule, names(call), (shape,), {"signs": signs} if rule == "add" else {}, offset=offset)


def _sum_of(constants: Sequence[Constant]) -> Offset:
    """Several constants, added: what a sum of values and constants adds to the values."""

    def load() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        numbers, lost = np.zeros(1), np.zeros(1)
        for constant in constants:
            part = offset_of(constant)
            assert part is not None  # for the type checker: there is a constant
            more, off = part()
            numbers = numbers + more
            # One rounding a sum, of what is there so far.
            lost = lost + off + abs(numbers) * 2.0**-52
        return numbers, lost * (1 + 2.0**-40)

    return load


def _shifted(call: Call, x: Data, shape: Shape | None) -> Translated:
    """A value and constants; taken from constants it is multiplied by -1."""
    constants = [(at, value) for at, value in enumerate(call.inputs) if value is not None and value is not x]
    offset = None
    if len(constants) == 1:
        at, constant = constants[0]
        offset = offset_of(constant, -1.0 if at and call.operator == "Sub" else 1.0)
    if call.operator != "Sub" or call.input(0) is x:
        return Translated("add", names(call), (shape,), {"shift": True}, offset=offset)
    if shape is None or shape != x.shape:
        return Translated("add", names(call), (shape,), {})
    return Translated("scale", names(call), (shape,), {"values": np.array(-1.0), "exact": True}, offset=offset)


def _multiple(value: Value | None) -> tuple[Value | None, float]:
    """A value as a number times another one."""
    call = value.call if isinstance(value, Data) else None
    if call is not None and call.operator in ("Mul", "Div"):
        for x, c in ((call.input(0), call.input(1)), (call.input(1), call.input(0)))[
            : 2 if call.operator == "Mul" else 1
        ]:
            number = scalar(c)
            if isinstance(x, Data) and number:
                return x, number if call.operator == "Mul" else 1 / number
    return value, 1.0


def _gated(x: Value | None, gate: Value | None) -> tuple[str, float] | None:
    """``x * sigmoid(x)``, ``x * hard_sigmoid(x)``, ``x * tanh(softplus(x))``, ``c x * (1 + erf(c' x))`` written out."""
    base, number = _multiple(x)
    call = gate.call if isinstance(gate, Data) else None
    if call is None or not isinstance(base, Data):
        return None
    inner = call.input(0)
    if call.operator == "Sigmoid" and _same(_multiple(inner)[0], base):
        return "silu", number  # (1/c) silu(c x) has the slopes of silu
    if call.operator == "HardSigmoid" and _same(inner, base):
        sixth = abs(call.attribute("alpha", 0.2) - 1 / 6) < 1e-7 and call.attribute("beta", 0.5) == 0.5
        # The slopes of x * (a x + 1/2) between its kinks are from -1/2 to 3/2, whatever a is.
        return ("hard_swish", number) if sixth else None
    if call.operator == "Tanh" and isinstance(inner, Data) and inner.call is not None:
        return ("mish", number) if inner.call.operator == "Softplus" and _same(inner.call.input(0), base) else None
    if call.operator == "Add":
        for erf, one in ((call.input(0), call.input(1)), (call.input(1), call.input(0))):
            made = erf.call if isinstance(erf, Data) else None
            if (
                made is not None
                and made.operator == "Erf"
                and scalar(one) == 1
                and _same(_multiple(made.input(0))[0], base)
            ):
                return "gelu", 2 * number
    return None


def _same(a: Value | None, b: Value | None) -> bool:
    return isinstance(a, Data) and isinstance(b, Data) and a.name == b.name


def multiply(call: Call) -> Translated:
    """Product with constants, or an activation that is written out."""
    a, b = call.input(0), call.input(1)
    shape = broadcast_shapes([None if value is None else value.shape for value in (a, b)])
    if isinstance(a, Data) and isinstance(b, Data) and not (a.held and b.held):
        found = _gated(a, b) or _gated(b, a)
        if found is None:
            return Translated("product", names(call), (shape,), {"reason": PRODUCT})
        function, number = found
        base = _multiple(a)[0] if _gated(a, b) else _multiple(b)[0]
        assert isinstance(base, Data)  # for the type checker: `_gated` looked
        if base.shape != shape:  # a number of the pattern has axes of its own
            return Translated("product", names(call), (shape,), {"reason": PRODUCT})
        steep = host.mul_up(SLOPES[function], host.raised(abs(number), 2))
        return Translated("pointwise", (base.name,), (base.shape,), {"function": "linear", "alpha": steep})
    at = 0 if isinstance(a, Data) else 1
    constant = call.constant(1 - at, 2**24)
    if constant is None:
        raise UnreadError("an input is missing")
    return _scaled(call, at, constant.load().astype(np.float64), shape, exact=True)


def power(call: Call) -> Translated:
    """Whole exponents, roots and inverses."""
    exponent, shape = scalar(call.input(1)), _one_shape(call, 0)
    if exponent is None:
        raise UnreadError("its exponent is not one number that is known")
    params = power_params(exponent)
    if params is None:
        raise UnreadError(f"a power of {exponent:.6g} has no rule")
    return one(call, "pointwise", shape, **params)


def _one_shape(call: Call, at: int) -> Shape | None:
    """Shape of an input, which the other one may not make wider: a number may come with axes of its own."""
    shape = call.data(at).shape
    if broadcast_shapes([None if value is None else value.shape for value in call.inputs]) != shape:
        raise UnreadError(f"a constant of {call.operator} has more axes than its input")
    return shape


def steep(function: str) -> Operator:
    """A function whose slope is bounded on intervals alone."""
    return lambda call: one(call, "pointwise", call.data().shape, function=function)


def divide(call: Call) -> Translated:
    """Division by constants; by values that depend on the input, of one number or of such."""
    below = call.input(1)
    if isinstance(below, Data) and not below.held:
        number = scalar(call.input(0))
        if number is not None:
            shape = _one_shape(call, 1)
            params = {"function": "reciprocal", "scale": number}
            return Translated("pointwise", (below.name,), (shape,), params)
        ends = [None if value is None else value.shape for value in (call.input(0), below)]
        if not isinstance(call.input(0), Data):
            raise UnreadError(QUOTIENT)
        return Translated("quotient", names(call), (broadcast_shapes(ends),), {"reason": QUOTIENT})
    constant = call.constant(1, 2**24)
    if constant is None:
        raise UnreadError("an input is missing")
    with np.errstate(all="ignore"):
        values = 1 / constant.load().astype(np.float64)
    return _scaled(call, 0, values, broadcast_shapes([call.data().shape, constant.shape]), exact=False)


def _scaled(call: Call, at: int, values: NDArray[np.float64], shape: Shape | None, *, exact: bool) -> Translated:
    x = call.data(at)
    wide = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    by_channel = len(wide) == 1 and shape is not None and shape == x.shape
    channel = len(shape) - values.ndim + wide[0] if by_channel and shape is not None else None
    params = {"values": values.reshape(-1) if by_channel else values, "channel": channel, "exact": exact}
    return Translated("scale", (x.name,), (shape,), params)


def extreme(call: Call) -> Translated:
    """Largest or smallest of several values, entry by entry."""
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    # Which end is chosen of values alone: what reads it takes the values for all there are.
    alone = all(isinstance(value, Data) for value in call.inputs)
    return Translated("extreme", names(call), (shape,), {"choice": call.operator.lower()} if alone else {})


def where(call: Call) -> Translated:
    """Choice by a constant condition."""
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    names = tuple(value.name for value in call.inputs[1:] if isinstance(value, Data))
    return Translated("extreme", names, (shape,))


def log_softmax(call: Call) -> Translated:
    """Logarithm of softmax, over one axis or (before operator set 13) all from it on."""
    x = call.data()
    if x.shape is None:
        raise UnreadError("the number of classes is not known: give the input shape")
    axis = int(call.attribute("axis", -1 if call.opset >= 13 else 1)) % len(x.shape)
    counted = concrete(x.shape[axis : axis + 1] if call.opset >= 13 else x.shape[axis:])
    if counted is None:
        raise UnreadError("the number of classes is not known: give the input shape")
    return Translated("log_softmax", (x.name,), (x.shape,), {"classes": math.prod(counted)})
