"""Small networks with sums and concatenation, and what is true of them: dense matrices, the quadratic form, masks.

A network is written down twice: as a graph, and as values that each are a function of sums of dense matrices times
earlier values. Convolutions are those of `dense_networks`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from networks.dense_networks import FUNCTIONS, Conv, Matrix
from specnorm_networks import Graph, Layer, Node
from specnorm_networks.certified import operators
from specnorm_networks.certified.operators import Operator

Sum = dict[int, Matrix]
"""Number of a value -> matrix from it."""


@dataclass(eq=False)
class Dense:
    """Values, each a function of a sum of matrices times earlier ones; the first is the input."""

    names: list[str] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    slopes: list[tuple[float, float]] = field(default_factory=list)
    """Of the functions: what is reached."""

    def count(self, number: int) -> int:
        """Entries of a value."""
        return int(next(iter(self.sums[number].values())).shape[0] if number else self.sums[1][0].shape[1])


def chained(matrices: Sequence[Matrix], slopes: Sequence[tuple[float, float]], names: Sequence[str] = ()) -> Dense:
    """One after the other."""
    return Dense(["x", *names], [{}, *({at: matrix} for at, matrix in enumerate(matrices))], [(1.0, 1.0), *slopes])


class Network(Dense):
    """Built step by step; each method takes and gives names of nodes."""

    def __init__(self, seed: int, channels: int, size: tuple[int, ...], mode: str = "zeros") -> None:
        super().__init__()
        self.mode, self.numbers = mode, np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.of: dict[str, Sum] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._node("x", operators.Input(), (), (channels, *size))
        self.of["x"] = self._value("x", {}, (1.0, 1.0), channels * math.prod(size))

    def _node(self, name: str, operator: Operator, inputs: tuple[str, ...], shape: tuple[int, ...]) -> str:
        self.shapes[name] = shape
        self.nodes.append(Node(name, operator, inputs, (1, *shape)))
        return name

    def _value(self, name: str, of: Sum, slopes: tuple[float, float], count: int) -> Sum:
        self.sums.append(of)
        self.slopes.append(slopes)
        self.names.append(name)
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

    def conv(self, name: str, cout: int, k: int, stride: int = 1, scale: float = 1.0) -> str:
        """A convolution that keeps the size, or divides it by the stride, rounded up."""
        cin, *size = self.shapes[name]
        kernel = scale * self.numbers.normal(size=(cout, cin, *(k,) * len(size)))
        start = [int(self.numbers.integers(0, k)) if stride == 1 else k // 2 for _ in size]
        pads = tuple((a, k - 1 - a) for a in start)
        layer = Conv(kernel, stride, 1, 1, False, self.mode, pads, None, None)
        known = self._as_read(name)
        matrix = layer.matrix(size)
        here = f"conv{len(self.nodes)}"
        geometry = {"stride": stride, "padding_mode": self.mode, "padding": pads}
        self.of[here] = {source: matrix @ m for source, m in known.items()}
        weight = Layer(f"w{len(self.nodes)}", lambda: kernel, geometry, len(size))
        return self._node(here, operators.Convolution(weight), (name,), (cout, *layer.outputs(size)))

    def norm(self, name: str) -> str:
        """Batch normalisation."""
        values = self.numbers.uniform(-1.5, 1.5, size=self.shapes[name][0])
        wide = np.repeat(values, math.prod(self.shapes[name][1:]))[:, None]
        here = f"norm{len(self.nodes)}"
        self.of[here] = {source: wide * m for source, m in self.of[name].items()}
        along = values.reshape(-1, *(1,) * (len(self.shapes[name]) - 1))
        return self._node(here, operators.Scale(along), (name,), self.shapes[name])

    def function(self, name: str, function: str) -> str:
        """Of each entry."""
        here = f"{function}{len(self.nodes)}"
        operator, low, high = FUNCTIONS[function]
        count = math.prod(self.shapes[name])
        self.of[here] = self._value(here, self.of[name], (low, high), count)
        return self._node(here, operator, (name,), self.shapes[name])

    def both_signs(self, name: str) -> str:
        """Positive and negative parts of all channels, one after the other."""
        here = f"signs{len(self.nodes)}"
        of = {source: np.concatenate([matrix, -matrix]) for source, matrix in self.of[name].items()}
        channels, *size = self.shapes[name]
        self.of[here] = self._value(here, of, (0.0, 1.0), 2 * channels * math.prod(size))
        return self._node(here, operators.SignParts(1), (name,), (2 * channels, *size))

    def add(self, *names: str, signs: Sequence[int] = (1, 1)) -> str:
        """A sum."""
        here = f"add{len(self.nodes)}"
        of: Sum = {}
        for name, sign in zip(names, signs, strict=True):
            for source, matrix in self.of[name].items():
                of[source] = of.get(source, 0) + sign * matrix
        self.of[here] = of
        return self._node(here, operators.Add(tuple(map(float, signs))), names, self.shapes[names[0]])

    def stack(self, *names: str) -> str:
        """Channels one after the other."""
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

    def graph(self, end: str) -> Graph:
        """With one output, which is a value."""
        if self.names[-1] != end:
            self._value(end, self.of[end], (1.0, 1.0), math.prod(self.shapes[end]))
        return Graph(tuple(self.nodes), (end,))


def residual(seed: int, function: str = "relu", mode: str = "zeros", axes: int = 1) -> tuple[Network, Graph]:
    """Two blocks of two convolutions, the function after the sum."""
    net = Network(seed, 2, (5,) * axes, mode)
    u = net.function(net.norm(net.conv("x", 3, 3)), function)
    for _ in range(2):
        z = net.function(net.conv(u, 3, 3, scale=0.5), function)
        u = net.function(net.add(net.norm(net.conv(z, 3, 3, scale=0.5)), u), function)
    return net, net.graph(net.conv(u, 2, 1))


def preactivated(seed: int) -> tuple[Network, Graph]:
    """Batch normalisation and the function before each convolution, nothing after the sum."""
    net = Network(seed, 2, (5,))
    u = net.conv("x", 3, 3)
    for _ in range(2):
        z = net.function(net.norm(u), "relu")
        z = net.function(net.norm(net.conv(z, 3, 3, scale=0.5)), "gelu")
        u = net.add(u, net.conv(z, 3, 3, scale=0.5))
    return net, net.graph(net.function(u, "relu"))


def downsampled(seed: int) -> tuple[Network, Graph]:
    """Stride 2 in the branch, every other pixel or a strided convolution in the shortcut."""
    net = Network(seed, 2, (5 + seed % 3,))
    z = net.function(net.conv("x", 4, 3, stride=2), "relu")
    short = net.shortcut("x", 1, 1) if seed % 2 else net.norm(net.conv("x", 4, 1, stride=2))
    u = net.function(net.add(net.norm(net.conv(z, 4, 3, scale=0.5)), short), "relu")
    return net, net.graph(net.conv(u, 2, 3))


def concatenated(seed: int) -> tuple[Network, Graph]:
    """Dense connections: each convolution reads all values before."""
    net = Network(seed, 2, (5,))
    first = net.function(net.conv("x", 3, 3), "relu")
    second = net.function(net.conv(net.stack("x", first), 2, 3), "tanh")
    return net, net.graph(net.conv(net.stack(first, second, "x"), 2, 3))


def denoiser(seed: int) -> tuple[Network, Graph]:
    """``x - f(x)``."""
    net = Network(seed, 2, (5,))
    z = net.function(net.conv("x", 4, 3, scale=0.3), "relu")
    z = net.function(net.conv(z, 4, 3, scale=0.3), "leaky")
    return net, net.graph(net.add("x", net.conv(z, 2, 3, scale=0.3), signs=(1, -1)))


def linear(seed: int) -> tuple[Network, Graph]:
    """``x - Wx``."""
    net = Network(seed, 2, (8,))
    return net, net.graph(net.add("x", net.conv("x", 2, 3), signs=(1, -1)))


def bottleneck(seed: int) -> tuple[Network, Graph]:
    """A sum that a convolution reads as it is; two branches beside each other."""
    net = Network(seed, 3, (5,))
    one = net.function(net.conv("x", 3, 3), "relu")
    other = net.function(net.conv("x", 3, 1), "relu")
    h = net.add(net.conv(one, 3, 3, scale=0.5), other)
    z = net.function(net.conv(h, 3, 3, scale=0.5), "relu")
    return net, net.graph(net.add(net.conv(z, 3, 1, scale=0.5), h, signs=(-1, 1)))


def signed(seed: int) -> tuple[Network, Graph]:
    """Positive and negative parts of a sum."""
    net = Network(seed, 2, (5,))
    u = net.function(net.conv("x", 3, 3), "relu")
    u = net.both_signs(net.add(u, net.conv(u, 3, 3, scale=0.5)))
    z = net.function(net.conv(u, 4, 3), "relu")
    return net, net.graph(net.conv(z, 2, 3))


NETWORKS = {
    "residual": residual,
    "residual, curved": lambda seed: residual(seed, "gelu"),
    "residual, circular": lambda seed: residual(seed, "prelu", "circular"),
    "residual, two axes": lambda seed: residual(seed, axes=2),
    "preactivated": preactivated,
    "downsampled": downsampled,
    "concatenated": concatenated,
    "denoiser": denoiser,
    "linear": linear,
    "bottleneck": bottleneck,
    "both signs": signed,
}


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
        low, high = min(low, 0.0), max(high, 0.0)
        own = np.zeros_like(wide)
        own[:, at[number]] = np.eye(len(weight))
        cross = own.T @ q @ wide
        form += own.T @ q @ own - (low + high) / 2 * (cross + cross.T) + low * high * wide.T @ q @ wide
    root = 1 / np.concatenate(list(weights[:-1]))
    return float(np.linalg.eigvalsh(root[:, None] * form * root)[0])


def from_below(net: Dense, seed: int) -> float:
    """Largest norm of the network's Jacobian with slopes at random, flipped one by one where that lifts it."""
    numbers, best = np.random.default_rng(seed), 0.0
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
