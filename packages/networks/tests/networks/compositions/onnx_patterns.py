"""What networks write out by several ONNX operators, rightly and nearly rightly; and whole programs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from networks.compositions.onnx_draft import Draft, SkippedError
from networks.compositions.onnx_draws import DRAWS, FUNCTIONS, ON_RANGES
from networks.compositions.onnx_programs import OnnxProgram
from onnx import defs

SHAPES = [(1, 4), (1, 4), (1, 6), (1, 2, 4), (1, 4, 2), (1, 3, 5), (1, 4, 1, 2), (1, 2, 2, 2), (1, 1, 4, 3)]
SHAPES += [(4,), (2, 3), (1, 1), (1, 2), (1, 8), (1, 1, 7), (2, 2, 3), (1, 3, 2, 2), (1, 1, 2, 2, 2)]


def through(d: Draft, x: str) -> str:
    """Something that leaves the entries where they are, or nearly so; or nothing."""
    if d.dice.random() < 0.7:
        return x
    shape = d.shape_of(x)
    ndim = len(shape)
    axes = list(range(ndim))
    d.dice.shuffle(axes)
    some: list[Callable[[], str]] = [
        lambda: d.add("Identity", [x]), lambda: d.add("Transpose", [x], perm=axes),
        lambda: d.add("Reshape", [x, d.whole(*shape)]), lambda: d.add("Reshape", [x, d.whole(*shape[::-1])]),
        lambda: d.add("Mul", [x, d.const(np.asarray(-1.0))]), lambda: d.sliced(x, [(0, -1, -(2**31), -1)]),
    ]  # fmt: skip
    return d.dice.choice(some)()


def max_min(d: Draft) -> None:
    x = through(d, d.value((1, 2, 3, 4), least=2))
    shape = d.shape_of(x)
    axis = d.dice.choice([at for at, n in enumerate(shape) if n > 1])
    n = shape[axis]
    half = n // 2 if d.dice.random() < 0.7 else d.dice.randint(1, n - 1)
    if d.dice.random() < 0.6:
        if 2 * half != n and d.dice.random() < 0.8:
            raise SkippedError
        pieces = [d.split(x, [half, n - half], axis), d.split(x, [half, n - half], axis)]
        one = pieces[0]
        two = pieces[d.dice.choice([0, 0, 1])]
    else:
        starts = [0, half] if d.dice.random() < 0.7 else [d.dice.randint(0, n - half) for _ in range(2)]
        one = [d.sliced(x, [(axis, s, s + half, 1)]) for s in starts]
        two = one if d.dice.random() < 0.7 else [d.sliced(x, [(axis, s, s + half, 1)]) for s in starts]
    one = [through(d, each) if d.dice.random() < 0.1 else each for each in one]
    two = list(reversed(two)) if d.dice.random() < 0.4 else two
    more = [d.const(d.numbers(d.part(d.shape_of(one[0]))))] if d.dice.random() < 0.15 else []
    names = d.dice.choice([["Max", "Min"], ["Max", "Min"], ["Min", "Max"], ["Max", "Max"]])
    ends = [d.add(names[0], [*one, *more]), d.add(names[1], two)]
    d.add("Concat", ends, axis=axis if d.dice.random() < 0.7 else d.dice.randrange(len(shape)))


def sorted_between(d: Draft) -> None:
    """MaxMin between two layers whose channels differ in size, along the right axes and along others."""
    square = [name for name, value in d.values.items() if value.ndim == 3 and value.shape[2] == 4]
    x = d.dice.choice(square) if square else d.value(3)
    size = np.array([1.0, 1.0, 10.0, 10.0])
    u = d.add("Conv", [x, d.const(d.rng.standard_normal((4, d.shape_of(x)[1], 1)) * size[:, None, None])])
    if d.dice.random() < 0.6:
        u = d.add("Transpose", [u], perm=[0, 2, 1])
    axis = d.dice.choice([at for at in (1, 2) if d.shape_of(u)[at] % 2 == 0])
    halves = d.split(u, [d.shape_of(u)[axis] // 2] * 2, axis)
    z = d.add("Concat", [d.add("Max", halves), d.add("Min", halves)], axis=d.dice.choice([1, 2]))
    kernel = d.rng.standard_normal((3, d.shape_of(z)[1], 1))
    d.add("Conv", [z, d.const(kernel * np.resize([1.0, 0.1], d.shape_of(z)[1])[:, None])])


def largest_smallest(d: Draft) -> None:
    x = d.value((2, 3, 4))
    axis = d.dice.randrange(len(d.shape_of(x)))
    kept = d.dice.choice([1, 1, 0])
    ends = [d.with_axes(name, x, [axis], 18, keepdims=kept) for name in ("ReduceMax", "ReduceMin")]
    d.add("Concat", ends, axis=d.dice.choice([axis, axis, d.dice.randrange(len(d.shape_of(ends[0])))]))


def both_signs(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    some: list[Callable[[], str]] = [
        lambda: d.add("Neg", [x]), lambda: d.add("Mul", [x, d.const(np.asarray(-1.0))]),
        lambda: d.add("Mul", [x, d.const(d.numbers(d.part(d.shape_of(x))))]),
        lambda: d.add("Mul", [x, d.const(np.asarray(-2.0))]), lambda: d.add("Neg", [through(d, x)]),
    ]  # fmt: skip
    minus = d.dice.choice(some)()
    ends = [d.add("Relu", [x]), d.add("Relu", [minus])]
    d.add(*d.dice.choice([("Concat", ends), ("Concat", ends[::-1])]), axis=d.dice.randrange(len(d.shape_of(x))))


def chosen(d: Draft) -> None:
    """``where(x > 0, x, c x)`` and its like."""
    x = d.value()
    shape = d.shape_of(x)
    c = d.const(d.numbers(d.dice.choice([(), (1,), d.part(shape), shape])))
    other = d.add("Mul", [x, c]) if d.dice.random() < 0.7 else d.add("Neg", [x])
    asked = d.dice.choice([x, x, x, other, through(d, x)])
    name = d.dice.choice(["Greater", "Less"] + ["GreaterOrEqual", "LessOrEqual"] * (d.opset >= 12))
    number = d.dice.choice([0.0, 0.0, 0.0, 0.0, 0.5])
    given = [asked, d.const(np.asarray(number), folded=False)]
    condition = d.add(name, given if d.dice.random() < 0.7 else given[::-1])
    pair = [x, other] if d.dice.random() < 0.6 else [other, x]
    d.add("Where", [condition, *pair])


def gated(d: Draft) -> None:
    x = d.value()
    inner = x
    if d.dice.random() < 0.5:
        c = d.numbers(d.dice.choice([(), (1,), d.part(d.shape_of(x))]))
        inner = d.add("Mul", [x, d.const(np.where(c == 0, 1.0, c))])
    kind = d.dice.choice(["Sigmoid", "Tanh", "HardSigmoid", "Erf", "through"])
    if kind == "Tanh":
        gate = d.add("Tanh", [d.add("Softplus", [inner])])
    elif kind == "HardSigmoid":
        gate = d.add("HardSigmoid", [inner], alpha=d.dice.choice([1 / 6, 1 / 6, 0.2]))
    elif kind == "Erf":
        one = d.const(np.full(d.dice.choice([(), (1,)]), d.dice.choice([1.0, 1.0, 1.0, 2.0])))
        gate = d.add("Add", d.dice.sample([d.add("Erf", [inner]), one], 2))
    else:
        gate = d.add("Sigmoid", [through(d, inner) if kind == "through" else inner])
    if d.dice.random() < 0.3:
        gate = d.add("Mul", [gate, d.const(np.asarray(d.dice.choice([0.5, -2.0])))])
    d.add("Mul", d.dice.sample([x, gate], 2))


def cancelling(d: Draft) -> None:
    """Two ways that meet again: what is said of one must not be said of both."""
    x = d.value((2,))
    k = d.shape_of(x)[1]
    w = d.numbers((6, k), 0.7)
    one = d.add("Gemm", [x, d.const(w), d.const(d.numbers((6,)))], transB=1)
    other = d.add("Gemm", [x, d.const(w + 1e-6 * d.numbers((6, k))), d.const(d.numbers((6,)))], transB=1)
    more = [d.const(d.numbers(d.part((1, 6)), 4.0))] if d.dice.random() < 0.5 else []
    some = [one, other, *more]
    d.dice.shuffle(some)
    d.add("Sub", [d.add(d.dice.choice(["Max", "Min", "Sum", "Mean"]), some), d.dice.choice([one, other])])


def null_space(d: Draft) -> None:
    """A function between two matrices whose product is 0: what is read as linear seems constant."""
    x = d.value((2,))
    k = d.shape_of(x)[1]
    down = d.rng.standard_normal((k + 2, k))
    null = np.linalg.svd(down.T)[2][k:]
    u = d.add("Gemm", [x, d.const(down)], transB=1)
    before = len(d.nodes)
    d.dice.choice(FUNCTIONS)(d)
    v = d.nodes[-1].output[0] if len(d.nodes) > before else u
    if d.shape_of(v) == d.shape_of(u):
        d.add("Gemm", [v, d.const(null)], transB=1)


def residual(d: Draft) -> None:
    x = d.value()
    f = d.add(d.dice.choice(["Relu", "Tanh", "Sigmoid", "Abs", "Identity"]), [x])
    d.add(d.dice.choice(["Sub", "Add"]), d.dice.sample([x, f], 2))


PATTERNS: dict[Callable[[Draft], Any], float] = {
    max_min: 6, sorted_between: 1.5, largest_smallest: 1, both_signs: 2.5, chosen: 3, gated: 3.5, cancelling: 1.5,
    null_space: 2, residual: 2,
}  # fmt: skip


def program(dice: random.Random, kind: str) -> OnnxProgram:
    newest = min(defs.onnx_opset_version(), 24)
    opset = dice.choice([dice.randint(7, 22), dice.randint(13, 22), 22, newest])
    dtype = dice.choice(["float64"] * 17 + ["float32"] * 2 + [dice.choice(["float16", "bfloat16"])])
    d = Draft(dice, dice.choice(SHAPES), opset, dtype)
    ranges = 0.15 if kind == "everywhere" else 1.0
    draws = DRAWS | PATTERNS | {draw: weight * ranges for draw, weight in ON_RANGES.items()}
    wanted = dice.randint(2, 12)
    tries = 0
    while len(d.nodes) < wanted and tries < 60:
        tries += 1
        (draw,) = dice.choices(list(draws), list(draws.values()))
        before = (len(d.nodes), dict(d.values), dict(d.known))
        try:
            draw(d)
        except (SkippedError, IndexError, ValueError, ZeroDivisionError):
            del d.nodes[before[0] :]
            d.values = before[1]
            d.known = before[2]
    if not d.nodes:
        d.add("Relu", ["x"])
    names = [name for name in d.values if name != "x"]
    outputs = [names[-1]]
    if len(names) > 1 and dice.random() < 0.1:
        outputs.append(dice.choice(names[:-1]))
    return d.program(outputs).pruned()
