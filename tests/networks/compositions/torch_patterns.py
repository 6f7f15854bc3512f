"""What networks write out by several torch operators, rightly and nearly rightly; and whole programs."""

from __future__ import annotations

import math
import random

import torch
from networks.compositions.torch_draws import DRAWS, ON_RANGES, PLAIN, Draw, axis
from networks.compositions.torch_programs import Draft, SkippedError, TorchProgram


def max_min(d: Draft) -> None:
    x = d.value((1, 2, 3, 4), least=2)
    shape = d.shape_of(x)
    at = d.dice.choice([n for n, size in enumerate(shape) if size > 1])
    n = shape[at]
    half, start = n // 2, d.dice.choice([n - n // 2, n - n // 2, 0, d.dice.randint(0, n - n // 2)])
    cut = d.dice.choice(["{}.narrow({}, {}, {})", "{0}.split({3}, {1})[{2} // {3}]"])
    one, two = (d.add(cut.format(x, at, first, half)) for first in (0, start))
    if d.dice.random() < 0.15:
        two = d.add(f"{two}.flip({at})")
    names = d.dice.choice([["maximum", "minimum"]] * 3 + [["minimum", "maximum"], ["maximum", "maximum"]])
    again = d.dice.sample([one, two], 2)
    ends = [f"torch.{names[0]}({one}, {two})", f"torch.{names[1]}({again[0]}, {again[1]})"]
    to = at if d.dice.random() < 0.7 else d.dice.randrange(len(shape))
    d.add(f"torch.{d.dice.choice(['cat', 'cat', 'stack'])}([{', '.join(ends)}], {to})")


def group_sort(d: Draft) -> None:
    x = d.value((2, 3), least=2)
    shape = d.shape_of(x)
    if shape[1] % 2:
        raise SkippedError
    count = d.dice.choice([2, shape[1]])
    split = [shape[0], shape[1] // count, count, *shape[2:]]
    d.add(f"{x}.reshape({split}).sort({d.dice.choice([2, 2, 1])})[0].reshape({list(shape)})")


def both_signs(d: Draft) -> None:
    x = d.value((1, 2, 3, 4))
    other = d.dice.choice([f"-{x}", f"-{x}", f"-2.0 * {x}", f"{d.const(d.part(d.shape_of(x)))} * {x}", f"-{x}.flip(0)"])
    ends = d.dice.sample([f"torch.relu({x})", f"torch.relu({other})"], 2)
    d.add(f"torch.cat([{', '.join(ends)}], {axis(d, x)})")


def chosen(d: Draft) -> None:
    x = d.value()
    c = d.dice.choice([d.const(d.part(d.shape_of(x))), repr(d.number())])
    sign, number = d.dice.choice([">", "<", ">=", "<="]), d.dice.choice([0, 0, 0, 0.0, 0.5])
    condition = d.hidden(f"{d.dice.choice([x, x, f'({c} * {x})'])} {sign} {number}")
    pair = d.dice.sample([x, f"{c} * {x}"], 2)
    d.add(f"torch.where({condition}, {pair[0]}, {pair[1]})")


def gated(d: Draft) -> None:
    x, c = d.value(), d.dice.choice([1.0, 1.702, 0.5, -1.0, 2.0])
    inner = f"({c} * {x})" if d.dice.random() < 0.6 else x
    if d.dice.random() < 0.2:
        inner = f"({d.const(d.part(d.shape_of(x)))} * {x})"
    gate = d.dice.choice([
        f"torch.sigmoid({inner})", f"torch.tanh(F.softplus({inner}))", f"F.hardsigmoid({inner})",
        f"(1 + torch.erf({inner}))", f"0.5 * (torch.erf({inner}) + 1)", f"F.relu6({inner} + 3) / 6",
    ])  # fmt: skip
    d.add(f"{x} * {gate}" if d.dice.random() < 0.5 else f"{gate} * {x}")


def residual(d: Draft) -> None:
    x = d.value()
    f = d.dice.choice(PLAIN).format(x)
    d.add(d.dice.choice([f"{x} - {f}", f"{x} + {f}", f"2 * {f} - {x}"]))


def householder(d: Draft) -> None:
    """Reflections on the other side of a plane, as the activation has it."""
    x = d.value((2, 3), least=2)
    if d.shape_of(x)[1] % 2:
        raise SkippedError
    a, b = (d.add(f"{x}.chunk(2, 1)[{n}]") for n in (0, 1))
    t = d.dice.choice([0.3, 1.1, 2.0])
    s, c, right = math.sin(t), math.cos(t), d.dice.random() < 0.7
    side = d.hidden(f"{a} * {math.sin(t / 2)} - {b} * {math.cos(t / 2)} > {0 if right else 0.2}")
    one = f"torch.where({side}, {a}, {a} * {c} + {b} * {s})"
    two = f"torch.where({side}, {b}, {a} * {s} - {b} * {c})"
    d.add(f"torch.cat([{one}, {two}], 1)")


PATTERNS: dict[Draw, float] = {
    max_min: 4, group_sort: 1.5, both_signs: 2, chosen: 3, gated: 3, residual: 2, householder: 1,
}  # fmt: skip
SHAPES = [(1, 4), (1, 6), (1, 2, 4), (1, 4, 2), (1, 3, 5), (1, 4, 1, 2), (1, 2, 2, 2), (1, 1, 4, 3), (2, 3), (3, 4)]
SHAPES += [(1, 1), (2, 2, 3), (1, 3, 2, 2), (1, 1, 2, 2, 2), (2, 4)]


def program(dice: random.Random, kind: str) -> TorchProgram:
    """One for a region of a kind."""
    dtype = dice.choice([torch.float64] * 17 + [torch.float32] * 2 + [torch.float16, torch.bfloat16])
    shape = dice.choice(SHAPES)
    d = Draft(dice, shape, dtype)
    ranges = 0.15 if kind == "everywhere" else 1.0
    draws = DRAWS | PATTERNS | {draw: weight * ranges for draw, weight in ON_RANGES.items()}
    wanted, tries = dice.randint(2, 12), 0
    while len(d.lines) < wanted and tries < 60:
        tries += 1
        (draw,) = dice.choices(list(draws), list(draws.values()))
        before = len(d.lines), dict(d.values)
        try:
            draw(d)
        except (SkippedError, IndexError, ValueError, ZeroDivisionError):
            del d.lines[before[0] :]
            d.values = before[1]
    if not d.lines:
        d.add("torch.relu(x)")
    names = [name for name in d.values if name != "x" and d.values[name].is_floating_point()] or ["x"]
    outputs = [names[-1]]
    if len(names) > 1 and dice.random() < 0.1:
        outputs.append(dice.choice(names[:-1]))
    free = shape[0] == 1 and dice.random() < 0.3
    return TorchProgram(shape, tuple(d.lines), dict(d.constants), tuple(outputs), dtype, free).pruned()
