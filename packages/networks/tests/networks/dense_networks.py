"""Small networks at random, written down twice: as a graph, and by dense matrices.

Of a network each value is a function of a sum of matrices times earlier values, so that it can be run, differentiated
and put into the quadratic form. Nothing here is imported from `specnorm_networks` but the types that a network is
given in.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from helpers.oracle import dense_matrix
from networks import activations
from numpy.typing import NDArray
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators
from specnorm_networks.certified.operators import Operator

Matrix = NDArray[np.float64]
Sum = dict[int, Matrix]
"""Number of a value -> matrix from it; of -1, which is 1: what is added."""
FUNCTIONS: dict[str, tuple[operators.Function, float, float]] = {
    "relu": (operators.ReLU(), 0.0, 1.0), "sigmoid": (operators.Sigmoid(), 0.0, 0.25),
    "tanh": (operators.Tanh(), 0.0, 1.0), "gelu": (activations.GELU, -0.1289, 1.1289),
    "silu": (activations.SILU, -0.0998, 1.0998), "abs": (operators.Abs(), -1.0, 1.0),
    "negative": (operators.Negative(), -1.0, -1.0), "leaky": (operators.LeakyReLU(0.2), 0.2, 1.0),
    "prelu": (operators.LeakyReLU(np.array(-0.5)), -0.5, 1.0),
}  # fmt: skip
"""The function, and slopes that are reached."""

VALUES: dict[str, Callable[[Matrix], Matrix]] = {
    "relu": lambda v: np.maximum(v, 0), "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "tanh": np.tanh,
    "silu": lambda v: v / (1 + np.exp(-v)), "abs": np.abs, "negative": np.negative,
    "leaky": lambda v: np.where(v > 0, v, 0.2 * v),
}  # fmt: skip
DERIVATIVES: dict[str, Callable[[Matrix], Matrix]] = {
    "relu": lambda v: (v > 0).astype(float), "sigmoid": lambda v: 1 / (2 + np.exp(-v) + np.exp(v)),
    "tanh": lambda v: 1 - np.tanh(v) ** 2, "silu": lambda v: (1 + np.exp(-v) + v * np.exp(-v)) / (1 + np.exp(-v)) ** 2,
    "abs": np.sign, "negative": lambda v: -np.ones_like(v), "leaky": lambda v: np.where(v > 0, 1.0, 0.2),
}  # fmt: skip


def sorted_pairs(v: Matrix) -> Matrix:
    half = len(v) // 2
    return np.concatenate([np.maximum(v[:half], v[half:]), np.minimum(v[:half], v[half:])])


WIDER: dict[str, Callable[[Matrix], Matrix]] = {
    "maxmin": sorted_pairs,
    "pooled": lambda v: np.maximum(v[:-1], v[1:]),
    "joined": lambda v: np.concatenate([np.maximum(v, 0), v]),
}
"""What takes several entries, or gives several."""


def moved(function: str | None, v: Matrix, whole: Matrix) -> Matrix:
    if function is None:
        return whole
    if function == "maxmin":
        half = len(v) // 2
        swap = v[:half] < v[half:]
        order = np.concatenate([np.arange(half) + half * swap, np.arange(half) + half * ~swap])
        return np.asarray(whole[order])
    if function == "pooled":
        return np.asarray(np.where((v[:-1] > v[1:])[:, None], whole[:-1], whole[1:]))
    if function == "joined":
        return np.concatenate([(v > 0)[:, None] * whole, whole])
    return np.asarray(DERIVATIVES[function](v)[:, None] * whole)


# -- convolutions ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution as torch stores it, and the function after it (None: none)."""

    kernel: Matrix
    stride: int
    dilation: int
    groups: int
    transposed: bool
    mode: str
    pads: tuple[tuple[int, int], ...]
    scale: Matrix | None
    function: str | None

    @property
    def axes(self) -> int:
        return self.kernel.ndim - 2

    @property
    def cin(self) -> int:
        return int(self.kernel.shape[0] if self.transposed else self.kernel.shape[1] * self.groups)

    @property
    def cout(self) -> int:
        return int(self.kernel.shape[1] * self.groups if self.transposed else self.kernel.shape[0])

    @property
    def slopes(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.function is None else FUNCTIONS[self.function][1:]

    def outputs(self, n: Sequence[int]) -> tuple[int, ...]:
        sizes = zip(n, self.pads, self.kernel.shape[2:], strict=True)
        if self.transposed:
            return tuple((a - 1) * self.stride - sum(p) + self.dilation * (k - 1) + 1 for a, p, k in sizes)
        return tuple((a + sum(p) - self.dilation * (k - 1) - 1) // self.stride + 1 for a, p, k in sizes)

    def matrix(self, n: Sequence[int]) -> Matrix:
        """Dense, outputs times inputs, channels first."""
        found: Matrix = dense_matrix(self.kernel, n, **self.geometry)
        return found if self.scale is None else np.repeat(self.scale, len(found) // self.cout)[:, None] * found

    @property
    def geometry(self) -> dict[str, Any]:
        return {
            "stride": self.stride, "dilation": self.dilation, "groups": self.groups, "transposed": self.transposed,
            "padding_mode": self.mode, "padding": self.pads,
        }  # fmt: skip


def draw(
    seed: int, *, axes: int = 1, mode: str = "zeros", layers: int = 3, functions: Sequence[str] = ("relu",),
    plain: bool = False, first: int = 1,
) -> list[Conv]:  # fmt: skip
    """A chain of convolutions of different sizes; ``plain``: stride 1 but for the first, and nothing else than pads."""
    dice = random.Random(seed)
    numbers = np.random.default_rng(seed)
    widths = [dice.choice([1, 2, 3]) * 2 for _ in range(layers + 1)]
    found = []
    for at, (cin, cout) in enumerate(itertools.pairwise(widths)):
        k = tuple(dice.choice([1, 2, 3]) for _ in range(axes))
        wrapped = mode == "circular"
        stride = first if plain and not at else 1 if plain or wrapped else dice.choice([1, 1, 2])
        dilation = 1 if plain or wrapped else dice.choice([1, 1, 2])
        groups = 1 if plain else dice.choice([1, 2])
        transposed = not plain and not wrapped and dice.random() < 0.25
        reach = [dilation * (size - 1) for size in k]
        start = [dice.randint(0, r) for r in reach]
        pads = tuple((f, r - f) for f, r in zip(start, reach, strict=True))
        if not wrapped and not transposed:
            pads = tuple((dice.randint(0, r), dice.randint(0, r)) for r in reach)
        shape = (cin, cout // groups, *k) if transposed else (cout, cin // groups, *k)
        kernel = numbers.normal(size=shape) * numbers.uniform(0.2, 2, size=(shape[0], 1, *(1,) * axes))
        scale = numbers.uniform(-2, 2, size=cout) if dice.random() < 0.5 else None
        function = None if at == layers - 1 else dice.choice(list(functions))
        found.append(Conv(kernel, stride, dilation, groups, transposed, mode, pads, scale, function))
    return found


def sizes_of(chain: Sequence[Conv], n: Sequence[int]) -> list[tuple[int, ...]]:
    """Spatial sizes of the input and of each value; raises ValueError where one is empty."""
    found = [tuple(n)]
    for conv in chain:
        found.append(conv.outputs(found[-1]))
        if min(found[-1]) < 1:
            raise ValueError("too small")
    return found


# -- networks ----------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Dense:
    """Values, each a function of a sum of matrices times earlier ones; the first is the input."""

    names: list[str] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    slopes: list[tuple[float, float]] = field(default_factory=list)
    """Of the functions: what is reached."""

    def count(self, number: int) -> int:
        return int(next(iter(self.sums[number].values())).shape[0] if number else self.sums[1][0].shape[1])


class Network(Dense):
    """Built step by step; each method takes and gives names of nodes."""

    def __init__(self, seed: int, shape: tuple[int, ...], mode: str = "zeros") -> None:
        super().__init__()
        self.mode = mode
        self.numbers = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.of: dict[str, Sum] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.functions: list[str | None] = []
        self.layers = itertools.count()
        self.before: list[str] = []
        """Names of what stands before each function, and of the output."""
        self._node("x", operators.Input(), (), shape)
        self.of["x"] = self._value("x", {}, (1.0, 1.0), math.prod(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.shapes["x"])

    def _node(self, name: str, operator: Operator, inputs: tuple[str, ...], shape: tuple[int, ...]) -> str:
        self.shapes[name] = shape
        self.nodes.append(Node(name, operator, inputs, (1, *shape)))
        return name

    def _value(self, name: str, of: Sum, slopes: tuple[float, float], count: int, function: str | None = None) -> Sum:
        self.sums.append(of)
        self.slopes.append(slopes)
        self.names.append(name)
        self.functions.append(function)
        return {len(self.sums) - 1: np.eye(count)}

    def _as_read(self, name: str) -> Sum:
        """As a value of its own, if it is a sum."""
        of = self.of[name]
        ((source, matrix), *others) = of.items()
        if not others and matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
            return of
        if all(set(np.unique(m)) <= {0.0, 1.0} and (m.sum(axis=1) <= 1).all() for m in of.values()):
            return of  # channels of values as they are
        del source
        self.of[name] = self._value(name, of, (1.0, 1.0), len(matrix))
        return self.of[name]

    def linear(self, name: str, matrix: Matrix, layer: Layer, shape: tuple[int, ...], bias: Matrix | None) -> str:
        made: Any = operators.Convolution if layer.spatial else operators.Matrix
        offset = None if bias is None else partial(_exact, bias.reshape(-1, *(1,) * layer.spatial))
        here = f"v{len(self.nodes)}"
        known = self._as_read(name)
        self.of[here] = {source: matrix @ m for source, m in known.items()}
        if bias is not None:
            added = np.repeat(bias, math.prod(shape[1:]))[:, None]
            self.of[here][-1] = self.of[here].get(-1, 0) + added
        return self._node(here, made(layer, offset), (name,), shape)

    def matrix(self, name: str, matrix: Matrix, bias: Matrix | None = None) -> str:
        layer = Layer(f"w{next(self.layers)}", partial(np.array, matrix), {}, 0)
        return self.linear(name, matrix, layer, (len(matrix),), bias)

    def layer(self, name: str, conv: Conv, bias: Matrix | None = None) -> str:
        size = self.shapes[name][1:]
        layer = Layer(f"w{next(self.layers)}", lambda: conv.kernel, conv.geometry, conv.axes)
        matrix: Matrix = dense_matrix(conv.kernel, size, **conv.geometry)
        return self.linear(name, matrix, layer, (conv.cout, *conv.outputs(size)), bias)

    def conv(self, name: str, cout: int, k: int, stride: int = 1, scale: float = 1.0) -> str:
        """A convolution that keeps the size, or divides it by the stride, rounded up."""
        cin, *size = self.shapes[name]
        kernel = scale * self.numbers.normal(size=(cout, cin, *(k,) * len(size)))
        start = [int(self.numbers.integers(0, k)) if stride == 1 else k // 2 for _ in size]
        pads = tuple((a, k - 1 - a) for a in start)
        return self.layer(name, Conv(kernel, stride, 1, 1, False, self.mode, pads, None, None))

    def norm(self, name: str, values: Matrix | None = None) -> str:
        if values is None:
            values = self.numbers.uniform(-1.5, 1.5, size=self.shapes[name][0])
        wide = np.repeat(values, math.prod(self.shapes[name][1:]))[:, None]
        here = f"norm{len(self.nodes)}"
        self.of[here] = {source: wide * m for source, m in self.of[name].items()}
        along = values.reshape(-1, *(1,) * (len(self.shapes[name]) - 1))
        return self._node(here, operators.Scale(along), (name,), self.shapes[name])

    def function(self, name: str, function: str) -> str:
        """Of each entry, or one of `WIDER`."""
        self.before.append(name)
        slopes = (math.nan, math.nan) if function in WIDER else FUNCTIONS[function][1:]
        if function in WIDER:
            here = self._wider(name, function)
        else:
            here = self._node(f"z{len(self.nodes)}", FUNCTIONS[function][0], (name,), self.shapes[name])
        self.of[here] = self._value(here, self.of[name], slopes, math.prod(self.shapes[here]), function)
        return here

    def _wider(self, v: str, kind: str) -> str:
        (n,) = self.shapes[v]
        here = f"z{len(self.nodes)}"
        if kind == "pooled":
            return self._node(here, operators.MaxPool(operators.Windows((2,), (1,), (1,), ((0, 0),))), (v,), (n - 1,))
        if kind == "joined":
            positive = self._node(f"{v}+", operators.ReLU(), (v,), (n,))
            return self._node(here, operators.Concat(1), (positive, v), (2 * n,))
        half = n // 2
        ends = [operators.Slice(((1, start, start + half, 1),)) for start in (0, half)]
        pair = tuple(self._node(f"{v}.{at}", end, (v,), (half,)) for at, end in enumerate(ends))
        largest = self._node(f"{v}+", operators.Maximum(), pair, (half,))
        smallest = self._node(f"{v}-", operators.Minimum(), pair, (half,))
        return self._node(here, operators.Concat(1), (largest, smallest), (n,))

    def both_signs(self, name: str) -> str:
        here = f"signs{len(self.nodes)}"
        shape = self.shapes[name]
        negative = self._node(f"{here}.negative", operators.Negative(), (name,), shape)
        count = math.prod(shape)
        self.of[here] = {}
        parts = []
        halves = np.split(np.eye(2 * count), 2, axis=1)
        for value, sign, half in zip((name, negative), (1, -1), halves, strict=True):
            parts.append(self._node(f"{here}.{sign}", operators.ReLU(), (value,), shape))
            of = {source: sign * matrix for source, matrix in self.of[name].items()}
            ((number, _),) = self._value(parts[-1], of, (0.0, 1.0), count, "relu").items()
            self.of[here][number] = half
        channels, *size = shape
        return self._node(here, operators.Concat(1), tuple(parts), (2 * channels, *size))

    def add(self, *names: str, signs: Sequence[int] = (1, 1)) -> str:
        here = f"add{len(self.nodes)}"
        of: Sum = {}
        for name, sign in zip(names, signs, strict=True):
            for source, matrix in self.of[name].items():
                of[source] = of.get(source, 0) + sign * matrix
        self.of[here] = of
        return self._node(here, operators.Add(tuple(map(float, signs))), names, self.shapes[names[0]])

    def stack(self, *names: str) -> str:
        here = f"stack{len(self.nodes)}"
        rows = [math.prod(self.shapes[name]) for name in names]
        at = np.cumsum([0, *rows])
        of: Sum = {}
        for i, name in enumerate(names):
            for source, matrix in self.of[name].items():
                of.setdefault(source, np.zeros((at[-1], matrix.shape[1])))[at[i] : at[i + 1]] += matrix
        self.of[here] = of
        shape = (sum(self.shapes[name][0] for name in names), *self.shapes[names[0]][1:])
        return self._node(here, operators.Concat(1), names, shape)

    def shortcut(self, name: str, before: int, after: int) -> str:
        """Every other pixel, with channels of zeros around (option A of He et al.)."""
        channels, *size = self.shapes[name]
        there = [-(-n // 2) for n in size]
        picks = np.zeros((before + channels + after, *there, channels, *size))
        for at in np.ndindex(channels, *there):
            picks[(at[0] + before, *at[1:], at[0], *(2 * a for a in at[1:]))] = 1
        here = name
        for axis in range(len(size)):
            shape = (channels, *there[: axis + 1], *size[axis + 1 :])
            here = self._node(f"slice{len(self.nodes)}", operators.Slice(((axis + 2, 0, None, 2),)), (here,), shape)
        shape = (before + channels + after, *there)
        pads = ((before, after), *((0, 0),) * len(size))
        end = self._node(f"pad{len(self.nodes)}", operators.Pad("zeros", pads), (here,), shape)
        matrix = picks.reshape(math.prod(shape), -1)
        self.of[end] = {source: matrix @ m for source, m in self.of[name].items()}
        return end

    def repeat(self, name: str) -> str:
        """Each pixel twice, along the one axis."""
        channels, n = self.shapes[name]
        resize = operators.Resize("nearest", None, (Fraction(1), Fraction(1), Fraction(2)), "asymmetric")
        here = self._node(f"twice{len(self.nodes)}", resize, (name,), (channels, 2 * n))
        matrix = np.kron(np.eye(channels * n), np.ones((2, 1)))
        self.of[here] = {source: matrix @ m for source, m in self._as_read(name).items()}
        return here

    def ending(self, end: str) -> Network:
        """With one output, which is a value."""
        if self.names[-1] != end:
            self.before.append(end)
            self._value(end, self.of[end], (1.0, 1.0), math.prod(self.shapes[end]))
        self.graph = Graph(tuple(self.nodes), (end,))
        return self

    # -- what it computes ----------------------------------------------------------------------------------------------
    def values(self, x: Matrix) -> list[Matrix]:
        """What stands before each function, and the output last."""
        return self._run(x)[0]

    def jacobian(self, x: Matrix) -> Matrix:
        return self._run(x)[1]

    def _run(self, x: Matrix) -> tuple[list[Matrix], Matrix]:
        known = {-1: np.ones(1), 0: x.reshape(-1)}
        moves = {-1: np.zeros((1, x.size)), 0: np.eye(x.size)}
        found = []
        for number, (of, function) in enumerate(zip(self.sums[1:], self.functions[1:], strict=True), 1):
            v, whole = (np.asarray(sum(m @ each[source] for source, m in of.items())) for each in (known, moves))
            known[number] = v if function is None else (VALUES | WIDER)[function](v)
            moves[number] = moved(function, v, whole)
            found.append(v)
        return [*found, known[number]], moves[number]

    def stretch(self, centre: Matrix, radius: float, seed: int, steps: int = 30) -> float:
        """Largest quotient and Jacobian found in a ball: pairs at random, steps along the top directions."""
        numbers = np.random.default_rng(seed)
        best = 0.0
        x = centre.reshape(-1)
        for _ in range(steps):
            a, b = (_in_ball(x, radius, numbers) for _ in range(2))
            best = max(best, float(np.linalg.norm(self.values(a)[-1] - self.values(b)[-1]) / np.linalg.norm(a - b)))
            for _ in range(4):
                _, s, right = np.linalg.svd(self.jacobian(a))
                best = max(best, float(s[0]))
                a = a + right[0] * radius / 2 * numbers.choice([-1, 1])
                a = x + (a - x) * min(1.0, radius / max(float(np.linalg.norm(a - x)), 1e-300))
        return best


def _in_ball(x: Matrix, radius: float, numbers: Any) -> Matrix:
    d = numbers.normal(size=x.shape)
    return np.asarray(x + d / np.linalg.norm(d) * radius * numbers.uniform() ** (1 / len(x)))


def _exact(numbers: Matrix) -> tuple[Matrix, Matrix]:
    return numbers, 0 * numbers


def chained(matrices: Sequence[Matrix], slopes: Sequence[tuple[float, float]], names: Sequence[str] = ()) -> Dense:
    return Dense(["x", *names], [{}, *({at: matrix} for at, matrix in enumerate(matrices))], [(1.0, 1.0), *slopes])


def residual(seed: int, function: str = "relu", mode: str = "zeros", axes: int = 1) -> Network:
    net = Network(seed, (2, *(5,) * axes), mode)
    u = net.function(net.norm(net.conv("x", 3, 3)), function)
    for _ in range(2):
        z = net.function(net.conv(u, 3, 3, scale=0.5), function)
        u = net.function(net.add(net.norm(net.conv(z, 3, 3, scale=0.5)), u), function)
    return net.ending(net.conv(u, 2, 1))


def preactivated(seed: int, *, has_stem: bool = True) -> Network:
    """Batch normalisation and the function before each convolution, nothing after the sum."""
    net = Network(seed, (3, 5))
    u = net.conv("x", 3, 3) if has_stem else "x"
    for _ in range(2):
        z = net.function(net.norm(u) if has_stem else u, "relu")
        z = net.function(net.norm(net.conv(z, 3, 3, scale=0.5)), "gelu")
        u = net.add(u, net.conv(z, 3, 3, scale=0.5))
    return net.ending(net.function(u, "relu"))


def downsampled(seed: int) -> Network:
    """Stride 2 in the branch, every other pixel or a strided convolution in the shortcut."""
    net = Network(seed, (2, 5 + seed % 3))
    z = net.function(net.conv("x", 4, 3, stride=2), "relu")
    short = net.shortcut("x", 1, 1) if seed % 2 else net.norm(net.conv("x", 4, 1, stride=2))
    u = net.function(net.add(net.norm(net.conv(z, 4, 3, scale=0.5)), short), "relu")
    return net.ending(net.conv(u, 2, 3))


def concatenated(seed: int) -> Network:
    net = Network(seed, (2, 5))
    first = net.function(net.conv("x", 3, 3), "relu")
    second = net.function(net.conv(net.stack("x", first), 2, 3), "tanh")
    return net.ending(net.conv(net.stack(first, second, "x"), 2, 3))


def denoiser(seed: int) -> Network:
    net = Network(seed, (2, 5))
    z = net.function(net.conv("x", 4, 3, scale=0.3), "relu")
    z = net.function(net.conv(z, 4, 3, scale=0.3), "leaky")
    return net.ending(net.add("x", net.conv(z, 2, 3, scale=0.3), signs=(1, -1)))


def linear(seed: int) -> Network:
    net = Network(seed, (2, 8))
    return net.ending(net.add("x", net.conv("x", 2, 3), signs=(1, -1)))


def pyramid(seed: int) -> Network:
    """Coarser values that are read on finer grids: pixels that are repeated, and a transposed convolution."""
    net = Network(seed, (2, 8))
    fine = net.function(net.conv("x", 2, 3), "relu")
    half = net.function(net.conv(fine, 3, 3, stride=2, scale=0.5), "gelu")
    quarter = net.function(net.conv(half, 2, 3, stride=2, scale=0.5), "relu")
    half = net.function(net.add(net.repeat(net.conv(quarter, 2, 1)), net.conv(half, 2, 1)), "relu")
    kernel = net.numbers.normal(size=(2, 2, 3))
    pads = ((seed % 2, 1 - seed % 2),)
    upper = net.layer(half, Conv(kernel, 2, 1, 1, True, "zeros", pads, None, None))
    return net.ending(net.function(net.add(upper, net.conv(fine, 2, 1)), "relu"))


def bottleneck(seed: int) -> Network:
    """A sum that a convolution reads as it is; two branches beside each other."""
    net = Network(seed, (3, 5))
    one = net.function(net.conv("x", 3, 3), "relu")
    other = net.function(net.conv("x", 3, 1), "relu")
    h = net.add(net.conv(one, 3, 3, scale=0.5), other)
    z = net.function(net.conv(h, 3, 3, scale=0.5), "relu")
    return net.ending(net.add(net.conv(z, 3, 1, scale=0.5), h, signs=(-1, 1)))


def signed(seed: int) -> Network:
    net = Network(seed, (2, 5))
    u = net.function(net.conv("x", 3, 3), "relu")
    u = net.both_signs(net.add(u, net.conv(u, 3, 3, scale=0.5)))
    z = net.function(net.conv(u, 4, 3), "relu")
    return net.ending(net.conv(z, 2, 3))


NETWORKS = {
    "residual": residual, "residual, curved": lambda seed: residual(seed, "gelu"),
    "residual, circular": lambda seed: residual(seed, "prelu", "circular"),
    "residual, two axes": lambda seed: residual(seed, axes=2), "preactivated": preactivated,
    "preactivated, no stem": lambda seed: preactivated(seed, has_stem=False), "downsampled": downsampled,
    "concatenated": concatenated, "denoiser": denoiser, "linear": linear, "bottleneck": bottleneck, "pyramid": pyramid,
    "both signs": signed,
}  # fmt: skip


def smallest_eigenvalue(net: Dense, order: Sequence[int], weights: Sequence[Matrix], constant: float) -> float:
    """Of LipSDP's form for some values, scaled by its diagonal: not negative means |q_l y| <= constant |q_0 x|.

    Parameters
    ----------
    net : Dense
    order : sequence of int
        Numbers of the values: the first is the input, the last the output.
    weights : sequence of array
        One number an entry of each.
    constant : float
    """
    ends = np.cumsum([0, *(len(w) for w in weights[:-1])])
    at = {number: slice(a, b) for number, a, b in zip(order, ends, ends[1:], strict=False)}
    form = np.zeros((ends[-1], ends[-1]))
    form[at[order[0]], at[order[0]]] += np.diag(weights[0] ** 2)
    for number, weight in zip(order[1:], weights[1:], strict=True):
        low, high = net.slopes[number]
        wide = np.zeros((len(weight), ends[-1]))
        for source, matrix in net.sums[number].items():
            wide[:, at[source]] += matrix
        if number == order[-1]:
            last = max(abs(low), abs(high)) * (weight / constant)[:, None] * wide
            form -= last.T @ last
            continue
        q = np.diag(weight**2)
        low = min(low, 0.0)
        high = max(high, 0.0)
        own = np.zeros_like(wide)
        own[:, at[number]] = np.eye(len(weight))
        cross = own.T @ q @ wide
        form += own.T @ q @ own - (low + high) / 2 * (cross + cross.T) + low * high * wide.T @ q @ wide
    root = 1 / np.concatenate(list(weights[:-1]))
    return float(np.linalg.eigvalsh(root[:, None] * form * root)[0])


def from_below(net: Dense, seed: int) -> float:
    """Largest norm of the network's Jacobian with slopes at random, flipped one by one where that lifts it."""
    numbers = np.random.default_rng(seed)
    best = 0.0
    ends = net.slopes[1:]
    for _ in range(6):
        masks = [numbers.choice(np.array(pair), size=net.count(at)) for at, pair in enumerate(ends, 1)]
        value = _norm(net, masks)
        for mask, (low, high) in zip(masks, ends, strict=True):
            for entry in numbers.permutation(len(mask))[:10] if low != high else ():
                old = mask[entry]
                mask[entry] = low + high - old
                tried = _norm(net, masks)
                value, mask[entry] = (tried, mask[entry]) if tried > value else (value, old)
        best = max(best, value)
    return best


def _norm(net: Dense, masks: Sequence[Matrix]) -> float:
    values: list[Matrix] = [np.eye(net.count(0))]
    for mask, of in zip(masks, net.sums[1:], strict=True):
        total = sum(matrix @ values[source] for source, matrix in of.items())
        values.append(mask[:, None] * np.asarray(total))
    return float(np.linalg.norm(values[-1], 2))


# -- chains ------------------------------------------------------------------------------------------------------------
def dense(seed: int, widths: Sequence[int], function: str = "relu", *, skips: bool = False) -> Network:
    """Matrices at random with biases, and a function between; ``skips``: what is before a matrix is added behind it."""
    numbers = np.random.default_rng(seed)
    takes = [widths[0], *(len(WIDER.get(function, np.array)(np.zeros(n))) for n in widths[1:-1])]
    matrices = [numbers.normal(size=(m, n)) / np.sqrt(n) for n, m in zip(takes, widths[1:], strict=True)]
    *inner, last = [(matrix, 0.5 * numbers.normal(size=len(matrix))) for matrix in matrices]
    net = Network(seed, (widths[0],))
    at = "x"
    for matrix, bias in inner:
        z = net.function(net.matrix(at, matrix, bias), function)
        at = net.add(z, at) if skips and net.shapes[z] == net.shapes[at] else z
    return net.ending(net.matrix(at, *last))


def network_of(chain: Sequence[Conv], n: Sequence[int], biases: Sequence[Matrix | None] = ()) -> Network:
    """Convolutions one after the other; raises ValueError where nothing is left of an axis."""
    sizes_of(chain, n)
    net = Network(0, (chain[0].cin, *n))
    at = "x"
    for conv, bias in itertools.zip_longest(chain, biases):
        at = net.layer(at, conv, bias)
        at = at if conv.scale is None else net.norm(at, conv.scale)
        at = at if conv.function is None else net.function(at, conv.function)
    return net.ending(at)


def convolutional(seed: int, n: int = 5, **kind: Any) -> Network | None:
    """Convolutions at random, with biases; None where nothing is left of an axis."""
    chain = draw(seed, functions=("relu", "leaky", "tanh", "sigmoid", "silu", "abs"), **kind)
    numbers = np.random.default_rng(seed)
    try:
        return network_of(chain, (n,) * chain[0].axes, [0.5 * numbers.normal(size=conv.cout) for conv in chain])
    except ValueError:
        return None


def drawn(**kind: Any) -> Network:
    """The first one of which something is left."""
    return next(net for seed in range(20) if (net := convolutional(seed, n=4, **kind)) is not None)


CHAINS = {
    kind: dense(seed, (4, 8, 8, 3), kind)
    for seed, kind in enumerate(("relu", "leaky", "abs", "tanh", "sigmoid", "silu", "maxmin", "negative"))
}
CHAINS |= {
    "residual": dense(9, (5, 5, 5, 5, 3), skips=True), "zeros": drawn(plain=True), "geometry": drawn(),
    "circular": drawn(mode="circular"),
}  # fmt: skip
