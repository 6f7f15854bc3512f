"""Functions of one number that are drawn at random from operators, and their values in forty digits.

The values share nothing with the operators: each name has a definition of its own here. What is sought is the largest
difference quotient: of two halves of an interval, one has a quotient that is at least the whole one's, so that halving
leads to the steepest place nearby, and to a jump, where quotients grow without end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
from hypothesis import strategies as st
from networks.written_networks import Written
from specnorm_networks import Graph
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Known, Operator

arb: Any = flint.arb
BITS = 140
"""Of which the tests have `flint.ctx.prec`."""
NUMBERS = (-1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 2.0)
"""Thresholds and what is added."""
FACTORS = (-1.0, 0.2, 0.5, 1.0, 3.0)


class Floor(Known):
    """The largest whole number that is not above: nothing is known of it."""

    def run(self, *values: Any) -> Any:
        return np.floor(values[0])


@dataclass(frozen=True)
class Call:
    """One operator, the numbers of the values that it reads, and a number."""

    name: str
    reads: tuple[int, ...]
    number: float = 0.0


UNARY: dict[str, tuple[Callable[[float], Operator], Callable[..., Any]]] = {
    "relu": (lambda _: ops.ReLU(), lambda x, _: x if x > 0 else arb(0)),
    "abs": (lambda _: ops.Abs(), lambda x, _: abs(x)),
    "tanh": (lambda _: ops.Tanh(), lambda x, _: x.tanh()),
    "arcsinh": (lambda _: ops.Arcsinh(), lambda x, _: x.asinh()),
    "sigmoid": (lambda _: ops.Sigmoid(), lambda x, _: 1 / (1 + (-x).exp())),
    "softplus": (lambda _: ops.Softplus(), lambda x, _: (1 + x.exp()).log()),
    "elu": (lambda _: ops.ELU(), lambda x, _: x if x > 0 else x.expm1()),
    "sin": (lambda _: ops.Sin(), lambda x, _: x.sin()),
    "exp": (lambda _: ops.Exp(), lambda x, _: x.exp()),
    "square": (lambda _: ops.Power(2), lambda x, _: x * x),
    "root": (lambda _: ops.Sqrt(), lambda x, _: x.sqrt()),
    "sign": (lambda _: ops.Sign(), lambda x, _: arb((x > 0) - (x < 0))),
    "floor": (lambda _: Floor(), lambda x, _: x.floor()),
    "leaky": (lambda _: ops.LeakyReLU(0.25), lambda x, _: x if x > 0 else x / 4),
    "clip": (lambda t: ops.HardTanh(t, t + 1), lambda x, t: arb(t) if x < t else arb(t + 1) if x > t + 1 else x),
    "times": (lambda t: ops.Scale(np.array(t), exact=True), lambda x, t: arb(t) * x),
    "shift": (
        lambda t: ops.Scale(np.array(1.0), lambda: (np.array(t), np.zeros(())), exact=True),
        lambda x, t: x + arb(t),
    ),
}
MEANT: dict[str, Callable[..., Any]] = {
    "add": lambda x, y, _: x + y, "less": lambda x, y, _: x - y, "product": lambda x, y, _: x * y,
    "quotient": lambda x, y, _: x / y, "max": lambda x, y, _: y if y > x else x,
    "min": lambda x, y, _: y if y < x else x, "logaddexp": lambda x, y, _: (x.exp() + y.exp()).log(),
}  # fmt: skip
BINARY: dict[str, Operator] = {
    "add": ops.Add((1.0, 1.0)), "less": ops.Add((1.0, -1.0)), "product": ops.Product(), "quotient": ops.Quotient(),
    "max": ops.Maximum(), "min": ops.Minimum(), "logaddexp": ops.LogAddExp(),
}  # fmt: skip
KINDS: dict[Any, Callable[[Any, Any], bool]] = {
    "gt": lambda x, t: x > t, "ge": lambda x, t: x >= t, "lt": lambda x, t: x < t, "le": lambda x, t: x <= t,
}  # fmt: skip


def written(calls: Sequence[Call], shape: tuple[int, ...] = (1, 3)) -> Graph:
    net = Written(shape)
    names = ["x"]
    with np.errstate(all="ignore"):
        for call in calls:
            read = [names[at] for at in call.reads]
            if call.name in UNARY:
                names.append(net(UNARY[call.name][0](call.number), *read))
            elif call.name in BINARY:
                names.append(net(BINARY[call.name], *read))
            else:
                condition = net(ops.Compare(call.name, call.number), read[0])  # type: ignore[arg-type]
                names.append(net(ops.Choose(), condition, *read[1:]))
    return net.graph(names[-1])


def value(calls: Sequence[Call], x: Any) -> Any:
    """The last value at a number; None where it is not defined."""
    found = [arb(x)]
    for call in calls:
        found.append(_value(call, [found[at] for at in call.reads]))
    return found[-1]


def _value(call: Call, read: list[Any]) -> Any:
    if call.name in KINDS:
        if read[0] is None:
            return None
        return read[1] if KINDS[call.name](read[0], arb(call.number)) else read[2]
    if None in read:
        return None
    definition = UNARY[call.name][1] if call.name in UNARY else MEANT[call.name]
    made = definition(*read, call.number)
    return made.mid() if made.is_finite() else None


def steepest(calls: Sequence[Call], points: Sequence[float], halvings: int = 40) -> Any:
    """A difference quotient that is reached, near to the largest; infinite where the function is not defined."""
    known = [(arb(x), value(calls, x)) for x in sorted({*points})]
    if any(y is None for _, y in known):
        return math.inf
    largest = arb(0)
    for first, last in itertools.pairwise(known):
        a = first
        b = last
        for _ in range(halvings):
            middle = ((a[0] + b[0]) / 2).mid()
            at_middle = value(calls, middle)
            if at_middle is None:
                return math.inf
            halves = [(a, (middle, at_middle)), ((middle, at_middle), b)]
            steep = [abs((q[1] - p[1]) / (q[0] - p[0])) for p, q in halves]
            largest = max([largest, *(each.mid() for each in steep)], key=float)
            a, b = halves[bool(steep[1] > steep[0])]
    return largest


@st.composite
def programs(draw: Any, most: int = 7) -> tuple[Call, ...]:
    """Operators one after the other, each of values before it, the last ones more often."""
    calls: list[Call] = []
    for at in range(draw(st.integers(2, most))):
        read = st.integers(0, at) | st.just(at)
        name = draw(st.sampled_from([*UNARY, *BINARY, *BINARY, *KINDS, "gt", "relu", "sign"]))
        if name in UNARY:
            numbers = FACTORS if name == "times" else NUMBERS
            calls.append(Call(name, (draw(read),), draw(st.sampled_from(numbers))))
        elif name in BINARY:
            calls.append(Call(name, (draw(read), draw(read))))
        else:
            calls.append(Call(name, (draw(read), draw(read), draw(read)), draw(st.sampled_from(NUMBERS))))
    return tuple(calls)
