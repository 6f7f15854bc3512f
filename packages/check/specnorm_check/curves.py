"""Bound the slopes of functions of one entry that several operators compute, by Lemma 9.

The steps A to D are those of the README of this folder, section Lemma 9. Numbers are
decimals that Python rounds down or up; a function is evaluated on intervals of its
argument x, and for all x beyond a number at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)
from fractions import Fraction
from functools import lru_cache, reduce
from itertools import pairwise
from typing import NamedTuple

from specnorm_check.arithmetic import Refused, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.rules import SEVERAL, slopes_of
from specnorm_check.statements import float_up

TRAPS = [DivisionByZero, InvalidOperation, Overflow]  # these are raised
DOWN, UP = (
    Context(30, rounding, Emin=-999999, Emax=999999, traps=TRAPS)
    for rounding in (ROUND_FLOOR, ROUND_CEILING)
)
CLOSE = Decimal("5e-5")  # relative distance of a bound from a slope that is attained
NARROW = Decimal("1e-9")  # such an interval is not divided
MOST_INTERVALS = 2**12
MOST_STEPS = 2**6
MOST_BASES = 2**3
LARGEST = 2**99  # slope
FURTHEST = 10**40  # argument beyond which all others are taken together
INFINITE = Decimal("inf")
WITHOUT_SLOPES = {"Div", "Exp", "Log", "Mul", "Pow", "Reciprocal", "Sign", "Sqrt"}

Step = tuple[str, tuple[int | Fraction | None, ...]]
Program = tuple[Step, ...]
"""Operators, each with what it reads: 0 is the argument, i the value of operator i - 1; a
fraction is a number of the file."""


# -- step A: ranges --------------------------------------------------------------------
class Range(NamedTuple):
    """The numbers r y^power exp(rate y), with r from ``low`` to ``high``."""

    low: Decimal
    high: Decimal
    power: int = 0
    rate: Fraction = Fraction(0)


ANYTHING = Range(-INFINITE, INFINITE)


def exactly(x: Fraction | int) -> Range:
    """Return the range of one number."""
    numbers = [Decimal(n) for n in Fraction(x).as_integer_ratio()]
    return Range(DOWN.divide(*numbers), UP.divide(*numbers))


def times(u: Range, v: Range) -> Range:
    """Return the products of numbers of two ranges; 0 times anything is 0."""
    ends = [(x, y) for x in u[:2] for y in v[:2] if x and y]
    has_zero = [Decimal(0)] * (len(ends) < 4)
    low = min([*has_zero, *(DOWN.multiply(*pair) for pair in ends)])
    high = max([*has_zero, *(UP.multiply(*pair) for pair in ends)])
    return Range(low, high, u.power + v.power, u.rate + v.rate)


def inverse(u: Range) -> Range:
    """Return 1 over the numbers of a range."""
    require(u.low > 0 or u.high < 0, "it divides by 0")
    one = Decimal(1)
    return Range(DOWN.divide(one, u.high), UP.divide(one, u.low), -u.power, -u.rate)


def raised(u: Range, power: int, rate: Fraction) -> Range:
    """Return a range with another power and rate, which grow at least as fast."""
    if (u.power, u.rate) == (power, rate) or not any(u[:2]):
        return u._replace(power=power, rate=rate)
    # y^-a exp(-b y) falls for y >= 1 if a + b >= 0 and b >= 0.
    a, b = power - u.power, rate - u.rate
    require(b >= 0 and a + b >= 0, "it grows too slowly")
    most = exponential(exactly(-b))
    falls = times(u, most._replace(low=Decimal(0)))
    return falls._replace(power=power, rate=rate)


def alike(u: Range, v: Range) -> tuple[Range, Range]:
    """Return two ranges with the power and the rate of the one that grows faster."""
    fastest = max(u, v, key=lambda x: (x.rate, x.power))[2:]
    return raised(u, *fastest), raised(v, *fastest)


def plus(u: Range, v: Range) -> Range:
    """Return the sums of numbers of two ranges."""
    for zero, other in ((u, v), (v, u)):
        if not any(zero[:2]):
            return other
    u, v = alike(u, v)
    return Range(DOWN.add(u.low, v.low), UP.add(u.high, v.high), *u[2:])


def hull(u: Range, v: Range) -> Range:
    """Return the least range that contains two."""
    u, v = alike(u, v)
    return Range(min(u.low, v.low), max(u.high, v.high), *u[2:])


def exponential(u: Range) -> Range:
    """Return exp of the numbers of a range that has no power and no rate."""
    # Python's exp, ln and sqrt are rounded to the nearest decimal.
    low, high = DOWN.next_minus(DOWN.exp(u.low)), UP.next_plus(UP.exp(u.high))
    return Range(max(low, Decimal(0)), high)


# -- step B: values with slopes --------------------------------------------------------
class Value(NamedTuple):
    """A function of x: the ranges of its values and of its derivatives.

    If ``line`` is (a, b) it is a y + b.
    """

    range: Range
    slope: Range
    line: tuple[Fraction, Fraction] | None = None


def constant(x: Fraction | int) -> Value:
    """Return a number."""
    return Value(exactly(x), exactly(0), (Fraction(0), Fraction(x)))


ONE, MINUS_ONE, TWO = constant(1), constant(-1), constant(2)


def add(u: Value, v: Value) -> Value:
    """Return u + v."""
    line = u.line and v.line and (u.line[0] + v.line[0], u.line[1] + v.line[1])
    return Value(plus(u.range, v.range), plus(u.slope, v.slope), line)


def multiply(u: Value, v: Value) -> Value:
    """Return u v."""
    slope = plus(times(u.slope, v.range), times(u.range, v.slope))
    line = None
    for x, y in ((u, v), (v, u)):
        if x.line and y.line and x.line[0] == 0:
            line = x.line[1] * y.line[0], x.line[1] * y.line[1]
    return Value(times(u.range, v.range), slope, line)


def negative(u: Value) -> Value:
    """Return -u."""
    return multiply(MINUS_ONE, u)


def divide(u: Value, v: Value) -> Value:
    """Return q = u / v; its derivative is (u' - q v') / v."""
    by_v = inverse(v.range)
    q = times(u.range, by_v)
    of_q = times(MINUS_ONE.range, times(q, v.slope))
    line = None
    if u.line and v.line and v.line[0] == 0:
        line = u.line[0] / v.line[1], u.line[1] / v.line[1]
    return Value(q, times(plus(u.slope, of_q), by_v), line)


def exp(u: Value) -> Value:
    """Return exp(u)."""
    at_u = u.range
    if not at_u.power and not at_u.rate:
        found = exponential(at_u)
    elif u.line:
        slope, shift = u.line
        found = exponential(exactly(shift))._replace(rate=slope)
    else:  # u <= high y
        falls = at_u.high <= 0 and at_u.power > 0 and at_u.rate >= 0
        require(falls, "the exponential of a large number")
        found = Range(Decimal(0), Decimal(1), 0, Fraction(at_u.high))
    return Value(found, times(u.slope, found))


def log(u: Value) -> Value:
    """Return log(u)."""
    low, high, power, rate = u.range
    require(not power, "the logarithm of such a number")
    logs = Range(DOWN.next_minus(DOWN.ln(low)), UP.next_plus(UP.ln(high)))
    found = plus(logs, exactly(rate)._replace(power=1))
    return Value(found, times(u.slope, inverse(u.range)))


def root(u: Value) -> Value:
    """Return the root of u."""
    low, high, power, rate = u.range
    require(power % 2 == 0, "the root of such a number")
    roots = DOWN.next_minus(DOWN.sqrt(low)), UP.next_plus(UP.sqrt(high))
    found = Range(*roots, power // 2, rate / 2)
    return Value(found, times(u.slope, inverse(times(TWO.range, found))))


def maximum(u: Value, v: Value) -> Value:
    """Return max(u, v)."""
    rise = add(u, negative(v)).range
    if rise.low >= 0 or rise.high <= 0:
        return u if rise.low >= 0 else v
    return Value(hull(u.range, v.range), hull(u.slope, v.slope))


def minimum(u: Value, v: Value) -> Value:
    """Return min(u, v)."""
    return negative(maximum(negative(u), negative(v)))


def sign_of(u: Value) -> Value:
    """Return 1 or -1; where that is not known it may jump."""
    if u.range.low > 0 or u.range.high < 0:
        return ONE if u.range.low > 0 else MINUS_ONE
    return Value(Range(Decimal(-1), Decimal(1)), ANYTHING)


def sigmoid(u: Value) -> Value:
    """Return 1 / (1 + exp(-u)); for u < 0 it is exp(u) / (1 + exp(u))."""
    is_negative = u.range.high < 0
    e = exp(u if is_negative else negative(u))
    return divide(e if is_negative else ONE, add(ONE, e))


def softplus(u: Value) -> Value:
    """Return log(1 + exp(u)); for u > 0 it is u + log(1 + exp(-u))."""
    is_positive = u.range.low > 0
    of_e = log(add(ONE, exp(negative(u) if is_positive else u)))
    return add(u, of_e) if is_positive else of_e


def power(u: Value, v: Value) -> Value:
    """Return u to the power v, which is a whole number."""
    slope, exponent = v.line or (1, Fraction(0))
    require(slope == 0 and exponent in (1, 2, 3, 4), "such a power")
    return reduce(multiply, [u] * int(exponent))


def clip(u: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Return min(max(u, low), high), of which one or both may be left out."""
    u = u if low is None else maximum(u, low)
    return u if high is None else minimum(u, high)


def with_slopes(u: Value, low: Value, high: Value) -> Value:
    """Return a function of u of which only the least and the largest slope are known."""
    return Value(ANYTHING, times(u.slope, hull(low.range, high.range)))


STEPS: dict[str, Callable[..., Value]] = {
    "Abs": lambda u: maximum(u, negative(u)),
    "Add": add,
    "Clip": clip,
    "Div": divide,
    "Exp": exp,
    "Log": log,
    "Max": lambda *values: reduce(maximum, values),
    "Min": lambda *values: reduce(minimum, values),
    "Mul": multiply,
    "Neg": negative,
    "Pow": power,
    "Reciprocal": lambda u: divide(ONE, u),
    "Relu": lambda u: maximum(u, constant(0)),
    "Sigmoid": sigmoid,
    "Sign": sign_of,
    "Softplus": softplus,
    "Sqrt": root,
    "Sub": lambda u, v: add(u, negative(v)),
    "Sum": lambda *values: reduce(add, values),
    "Tanh": lambda u: add(multiply(TWO, sigmoid(multiply(TWO, u))), MINUS_ONE),
}
OTHER = "a function with slopes between two numbers"


# -- step C: the whole line ------------------------------------------------------------
def slope_on(program: Program, first: Decimal, last: Decimal) -> Range:
    """Return a range, without power and rate, of the slopes between two arguments."""
    x, line = Range(first, last), None
    if INFINITE in (-first, last):  # it is the finite end times y
        end = first if last == INFINITE else last
        x, line = Range(end, end, 1), (Fraction(end), Fraction(0))
    values = [Value(x, exactly(1), line)]
    try:
        for op, reads in program:
            given = [constant(x) if isinstance(x, Fraction) else x for x in reads]
            step = STEPS.get(op, with_slopes)
            values.append(step(*(values[x] if isinstance(x, int) else x for x in given)))
        return raised(values[-1].slope, 0, Fraction(0))
    except (Refused, ArithmeticError):
        return ANYTHING


@lru_cache
def slopes_of_program(program: Program) -> tuple[float, float] | None:
    """Return the least and the largest slope of a program on the whole line, or None."""
    numbers = {abs(x) for _, reads in program for x in reads if isinstance(x, Fraction)}
    known: list[Range] = []
    with localcontext(DOWN):
        sizes = {Decimal(x.numerator) / x.denominator for x in numbers}
        sizes |= {Decimal(0), INFINITE, *(Decimal(2) ** k for k in range(-4, 5))}
        waiting = [*pairwise(sorted({y for x in sizes for y in (x, -x)}))]
        left = MOST_INTERVALS
        while waiting and max(map(size, known), default=0) < LARGEST:
            left -= len(waiting)
            found = [(ends, slope_on(program, *ends)) for ends in waiting]
            # Slopes of at least ``high``, and of ``low`` at most, are attained.
            every = [*known, *(slope for _, slope in found)]
            high, low = max(x.low for x in every), min(x.high for x in every)
            largest = max(high, -high, low, -low)
            margin = CLOSE * largest if largest.is_finite() else 0
            waiting = []
            for (first, last), slope in found:
                is_close = slope.high <= high + margin and slope.low >= low - margin
                parts = [] if is_close or left < 0 else halves(first, last)
                waiting += parts
                if not parts:
                    known.append(slope)
    if max(map(size, known)) > LARGEST:
        return None
    least, largest = min(x.low for x in known), max(x.high for x in known)
    return -float_up(-Fraction(least)), float_up(Fraction(largest))


def size(u: Range) -> Decimal:
    """Return the largest absolute value of a number of a range."""
    return max(-u.low, u.high)


def halves(first: Decimal, last: Decimal) -> list[tuple[Decimal, Decimal]]:
    """Return two intervals that are one together; none if it is not to be divided."""
    least, largest = sorted((abs(first), abs(last)))
    if largest == INFINITE:
        middle = 2 * (first if last == INFINITE else last)
        smallest = INFINITE if least > FURTHEST else -INFINITE
    else:
        middle = (first + last) / 2
        smallest = NARROW * max(least, Decimal(1))
    if last - first <= smallest:
        return []
    return [(first, middle), (middle, last)]


# -- step D: operators of a graph ------------------------------------------------------
class Curves:
    """The functions of one entry in a graph.

    ``bases`` has for each value the value itself, and those of whose entries its entries
    are functions, the nearest first.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.stated = dict(graph.nodes)
        self.bases: dict[str, list[str]] = {}
        for name, node in self.stated.items():
            sources = graph.changing_inputs(name)
            is_of_entries = node.op in STEPS or slopes_of(node) is not None
            common: list[str] = []
            if sources and is_of_entries and graph.have_shape(sources, name):
                of_sources = [self.bases[source] for source in sources]
                common = [x for x in of_sources[0] if all(x in y for y in of_sources)]
            self.bases[name] = [name, *common[:MOST_BASES]]
            has_rule = node.op in ("Mul", "Div") and sources == node.inputs[:1]
            if node.op in WITHOUT_SLOPES and not has_rule:
                base, slopes = self.nearest(name)
                if base:
                    how = {"slopes": slopes, "last": name}
                    graph.nodes[name] = Node(SEVERAL, [base], how)

    def nearest(self, name: str) -> tuple[str, tuple[float, float]]:
        """Return the nearest base from which the slopes of a value are known, and these.

        The base is "" if there is none.
        """
        for base in self.bases[name][1:]:
            with suppress(Refused, ValueError, ArithmeticError):
                slopes = slopes_of_program(self.program(name, base))
                if slopes is not None:
                    return base, slopes
        return "", (0.0, 0.0)

    def program(self, end: str, base: str) -> Program:
        """Return the operators between a base and a value."""
        numbers = {base: 0}
        steps: list[Step] = []

        def read(name: str) -> int | Fraction | None:
            if not name:
                return None
            if name in self.graph.arrays:
                return Fraction(self.graph.arrays[name].item())  # a single number
            if name not in numbers:
                require(name not in self.graph.fixed, "a number that is computed")
                node = self.stated[name]
                reads = tuple(map(read, node.inputs))
                steps.append((node.op, reads))
                if node.op not in STEPS:
                    slopes = slopes_of(node)
                    require(slopes is not None, "no function of one entry")
                    steps[-1] = OTHER, (*reads[:1], *map(Fraction, slopes or ()))
                require(len(steps) < MOST_STEPS, "a function of many operators")
                numbers[name] = len(steps)
            return numbers[name]

        read(end)
        return tuple(steps)
