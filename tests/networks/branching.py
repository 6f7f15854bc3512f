"""Graphs at random whose branches read parts of one value, and what each computes, written out again in NumPy.

Parts overlap by one entry, are read backwards, wrap around, and come to their ancestor by several ways.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator

Array = NDArray[np.float64]
Run = Callable[..., Array]
FUNCTIONS: list[tuple[Operator, Run]] = [
    (ops.Abs(), np.abs),
    (ops.ReLU(), lambda x: x * (x > 0)),
    (ops.LeakyReLU(0.25), lambda x: np.where(x > 0, x, 0.25 * x)),
    (ops.Negative(), lambda x: -x),
]
"""Piecewise linear: differences over a short way are derivatives."""


@dataclass(eq=False)
class Draft:
    """A graph, and beside it what its nodes compute."""

    dice: random.Random
    nodes: list[Node] = field(default_factory=list)
    runs: dict[str, tuple[Run, tuple[str, ...]]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    linear: bool = True

    def put(self, operator: Operator, run: Run, *inputs: str) -> str:
        """One more node; its shape is that of what is computed here."""
        name = f"v{len(self.nodes)}"
        shape = tuple(np.shape(run(*(np.ones(self.shapes[each]) for each in inputs))))
        self.nodes.append(Node(name, operator, inputs, shape))
        self.runs[name], self.shapes[name] = (run, inputs), shape
        return name

    def input(self, shape: tuple[int, ...]) -> str:
        name = f"x{len(self.nodes)}"
        self.nodes.append(Node(name, ops.Input(), (), shape))
        self.shapes[name] = shape
        return name

    def value(self, name: str, given: Mapping[str, Array]) -> Array:
        """What a node computes."""
        found = dict(given)
        for node in self.nodes:
            if node.name not in found:
                run, inputs = self.runs[node.name]
                found[node.name] = run(*(found[each] for each in inputs))
        return found[name]

    def graph(self, end: str) -> Graph:
        return Graph(tuple(self.nodes), (end,)).pruned()


def unary(draft: Draft, of: str) -> str:
    """One value of another."""
    d, shape = draft.dice, draft.shapes[of]
    axis = d.choice((1, 2))
    n = shape[axis]
    kinds = ["cut", "cut", "cut", "roll", "take", "pad", "scale", "number", "matrix", "mean", "turn", "merge", "flat"]
    kind = d.choice(kinds if draft.linear else [*kinds, "function", "function", "pool"])
    if kind == "cut":
        step = d.choice((1, 1, 1, 2, -1, -2))
        start = d.choice((None, d.randrange(-n, n)))
        stop = d.choice((None, d.randrange(-n, n)))
        where = tuple([slice(None)] * axis + [slice(start, stop, step)])
        if np.ones(shape)[where].size:
            return draft.put(ops.Slice(((axis, start, stop, step),)), lambda x: x[where], of)
        return of
    if kind in ("roll", "take", "pad", "turn", "flat"):
        return moved(draft, of, kind, axis)
    if kind == "scale":
        numbers = np.array([d.choice((0.0, 1.0, -1.0, 0.5, 2.0)) for _ in range(n)]).reshape((-1, 1)[: 3 - axis])
        return draft.put(ops.Scale(numbers, exact=d.random() < 0.5), lambda x: x * numbers, of)
    if kind == "number":
        number = d.choice((-1.0, 0.5, 3.0))
        return draft.put(ops.Scale(np.array(number), exact=True), lambda x: number * x, of)
    if kind == "matrix":
        kernel = np.random.default_rng(d.randrange(2**32)).normal(size=(d.randint(1, 4), shape[2]))
        matrix = ops.Matrix(Layer(f"w{len(draft.nodes)}", lambda: kernel, {}, 0))
        return draft.put(matrix, lambda x: np.einsum("oi,bci->bco", kernel, x), of)
    if kind == "mean":
        share, reduced = d.choice(((n, ops.Mean((axis,), keep=True)), (1, ops.Sum((axis,), keep=True))))
        return draft.put(reduced, lambda x: np.add.reduce(x, axis, keepdims=True) / share, of)
    if kind == "merge":
        at = np.array(sorted(d.sample(range(int(np.prod(shape))), d.randint(1, int(np.prod(shape))))))
        values = draft.put(ops.Constant(lambda: np.zeros(len(at))), lambda: np.zeros(len(at)))

        def merged(x: Array, y: Array) -> Array:
            whole = x.copy().reshape(-1)
            whole[at] = y
            return whole.reshape(x.shape)

        return draft.put(ops.Merge(at), merged, of, values)
    if kind == "pool":
        windows = ops.Windows((1,), (1,), (1,), ((0, 0),))
        return draft.put(ops.MaxPool(windows), lambda x: x, of)
    operator, run = d.choice(FUNCTIONS)
    return draft.put(operator, run, of)


def moved(draft: Draft, of: str, kind: str, axis: int) -> str:
    """Entries of a value at other places."""
    d, shape = draft.dice, draft.shapes[of]
    n = shape[axis]
    if kind == "roll":
        by, count = d.randrange(-n, n + 1), int(np.prod(shape))
        table = np.roll(np.arange(count).reshape(shape), by, axis)
        if d.random() < 0.3:
            table = np.where(np.arange(count).reshape(shape) % 3 == d.randrange(3), -1, table)
        flat = lambda x: np.where(table < 0, 0.0, x.reshape(-1)[table])  # noqa: E731
        return draft.put(ops.Entries(table, count), flat, of)
    if kind == "take":
        index = np.array([d.randrange(-n, n) for _ in range(d.randint(1, n + 1))])
        return draft.put(ops.Gather(axis, index), lambda x: x.take(index, axis), of)
    if kind == "pad":
        mode, pair = d.choice(("zeros", "circular", "replicate")), (d.randint(0, min(2, n)), d.randint(0, min(2, n)))
        pads = tuple(pair if each == axis else (0, 0) for each in (1, 2))
        numpy_mode: Any = {"zeros": "constant", "circular": "wrap", "replicate": "edge"}[mode]
        operator = ops.Pad(mode, pads)  # type: ignore[arg-type]
        return draft.put(operator, lambda x: np.pad(x, ((0, 0), *pads), mode=numpy_mode), of)
    if kind == "turn":
        return draft.put(ops.Permute((0, 2, 1)), lambda x: x.swapaxes(1, 2), of)
    return draft.put(ops.Reshape((1, -1, 1)), lambda x: x.reshape(1, -1, 1), of)


def binary(draft: Draft, one: str, other: str) -> str | None:
    """One value of two, where their shapes fit."""
    d, (a, b) = draft.dice, (draft.shapes[one], draft.shapes[other])
    fits = all(n == m or 1 in (n, m) for n, m in zip(a, b, strict=True))
    axes = [axis for axis in (1, 2) if a[3 - axis] == b[3 - axis]]
    if fits and d.random() < 0.6:
        if not draft.linear and d.random() < 0.3:
            if d.random() < 0.5:
                return draft.put(ops.Maximum(), np.maximum, one, other)
            mask = np.array([d.random() < 0.5 for _ in range(max(a[2], b[2]))])
            return draft.put(ops.Where(lambda: mask), lambda x, y: mask * x + ~mask * y, one, other)
        weights, over = (d.choice((1.0, -1.0, 0.5)), d.choice((1.0, -1.0, 2.0))), d.choice((1, 1, 2))
        add = lambda x, y: (weights[0] * x + weights[1] * y) / over  # noqa: E731
        return draft.put(ops.Add(weights, over), add, one, other)
    if not axes:
        return None
    axis = d.choice(axes)
    return draft.put(ops.Concat(axis), lambda *x: np.concatenate(x, axis), one, other)


def drawn(seed: int) -> tuple[Draft, str]:
    """A graph, and its last node, which depends on all inputs where it can."""
    dice = random.Random(seed)
    draft = Draft(dice, linear=dice.random() < 0.4)
    shape = (1, dice.randint(1, 5), dice.randint(2, 5))
    pool = [draft.input(shape) for _ in range(dice.choice((1, 1, 1, 2)))]
    for _ in range(dice.randint(3, 12)):
        # Often of what came last, so that there are joins of joins.
        one, other = (dice.choice(pool[-4:] if dice.random() < 0.5 else pool) for _ in range(2))
        new = binary(draft, one, other) if dice.random() < 0.5 else unary(draft, one)
        if new is not None and int(np.prod(draft.shapes[new])) <= 400:
            pool.append(new)
    ends = [name for name in pool if name not in {each for node in draft.nodes for each in node.inputs}]
    end = ends[-1]
    for name in ends[:-1]:
        end = binary(draft, end, name) or end
    return draft, end


def steepest(draft: Draft, end: str, seed: int, tries: int = 4) -> float:
    """The largest norm of a derivative at some points, each reached by steps along the one before; 0 of none."""
    numbers, most = np.random.default_rng(seed), 0.0
    names = [node.name for node in draft.nodes if isinstance(node.operator, ops.Input)]
    sizes = [int(np.prod(draft.shapes[name])) for name in names]
    point = numbers.normal(size=sum(sizes))

    def value(x: Array) -> Array:
        parts = np.split(x, np.cumsum(sizes)[:-1])
        given = {name: part.reshape(draft.shapes[name]) for name, part in zip(names, parts, strict=True)}
        return draft.value(end, given).reshape(-1)

    short = 2.0**-20
    for _ in range(tries):
        at = value(point)
        columns = [(value(point + short * e) - at) / short for e in np.eye(len(point))]
        _, s, v = np.linalg.svd(np.stack(columns, axis=1))
        # A kink between the two points makes their difference no derivative, and still a quotient that is allowed.
        if len(s):
            far = value(point + v[0]) - at
            ahead = value(point + short * v[0]) - at
            most = max(most, float(np.linalg.norm(far)), float(np.linalg.norm(ahead)) / short)
        point = point + numbers.choice((-2.0, 2.0)) * v[0] + 0.1 * numbers.normal(size=len(point))
    return most
