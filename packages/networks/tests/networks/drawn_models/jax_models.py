"""Functions of JAX, and modules of Flax and Equinox, as people write them, each drawn from one number.

Each piece is built from a number of its own: so the same function is built in float64 for the attack, with the weights
that it has in its own type. What is drawn is what JAX and its exporter have of their own: whole blocks are torch's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax, nn
from networks.drawn_models import pieces
from networks.drawn_models.attacks import Machine, Vectors
from networks.drawn_models.hunting import Outcome, outcome
from networks.drawn_models.pieces import ROOM, Pieces, Shape, relative

POOLS: Any = nnx
LINEN_POOLS: Any = linen
STRUCT: Any = jax.ShapeDtypeStruct
MOST = 300
"""Entries of a value at most."""
CHUNK = 32
"""Points at once: XLA compiles for each number of them."""
Function = Any
"""Of arrays."""


class Dice(pieces.Dice):
    def __init__(self, seed: int, dtype: Any) -> None:
        super().__init__(seed)
        self.numbers = np.random.default_rng(seed)
        self.dtype = dtype

    def array(self, *shape: int, scale: float = 1.0) -> Any:
        drawn = scale * self.numbers.standard_normal(shape).astype(np.float32)
        return jnp.asarray(drawn, jnp.float32).astype(self.dtype)

    def weight(self, cin: int, cout: int) -> Any:
        return self.array(cin, cout, scale=self.one_of(0.5, 1.0, 1.0, 3.0) / np.sqrt(cin))

    def filled(self, module: Any) -> Any:
        """A module of Flax NNX with numbers of its own, of the type."""
        state = nnx.state(module, (nnx.Param, nnx.BatchStat))

        def fill(path: Any, old: Any) -> Any:
            new = self.numbers.standard_normal(old.shape).astype(np.float32)
            last = str(path[-2] if len(path) > 1 else path[-1])
            if "var" in last:
                new = 0.3 + abs(new)
            elif old.ndim > 1:
                new /= np.sqrt(np.prod(old.shape[:-1]))
            return jnp.asarray(new).astype(self.dtype)

        nnx.update(module, jax.tree_util.tree_map_with_path(fill, state))
        module.eval()
        return module


PIECES = Pieces()
plain, odd = PIECES.plain, PIECES.odd
ANY = (1, 2, 3)
LAYOUTS: Any = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}


# -- layers ----------------------------------------------------------------------------------------------------------
def dense(d: Dice, s: Shape) -> Function:
    w, b = d.weight(s[-1], d.randint(1, 8)), d.array(1)
    return d.one_of(
        lambda x: x @ w + b, lambda x: jnp.dot(x, w), lambda x: jnp.einsum("...i,ij->...j", x, w),
        lambda x: jnp.tensordot(x, w, 1) - b, lambda x: lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ()))),
        lambda x: jax.vmap(lambda y: y @ w)(x), lambda x: jnp.matmul(x, w, precision="highest"),
        lambda x: x @ (w / jnp.linalg.norm(w, 2)), lambda x: x @ (w / jnp.sqrt(jnp.sum(w**2, 0, keepdims=True) + 1e-6)),
        lambda x: x @ (w * (jnp.arange(w.shape[0]) % 2)[:, None]), lambda x: x @ jnp.linalg.qr(w @ w.T)[0],
    )  # fmt: skip


def conv(d: Dice, s: Shape) -> Function:
    axes = len(s) - 1
    groups = d.divisor(s[-1]) if d.random() < 0.3 else 1
    size = tuple(d.one_of(1, 2, 3, 3) for _ in range(axes))
    cout = groups * d.randint(1, 3)
    w = d.array(*size, s[-1] // groups, cout, scale=1 / np.sqrt(s[-1] * np.prod(size)))
    padding = d.one_of("SAME", "VALID", "SAME", [(1, 0)] * axes, [(2, 1)] * axes)
    strides = tuple(d.one_of(1, 1, 2, 3) for _ in range(axes))
    more: Any = {"rhs_dilation": (2,) * axes} if d.random() < 0.2 else {}
    if d.random() < 0.15:
        more, padding = {"lhs_dilation": (2,) * axes}, [(1, 1)] * axes
    more |= {"dimension_numbers": LAYOUTS[axes], "feature_group_count": groups}
    return lambda x: lax.conv_general_dilated(x, w, strides, padding, **more)


def of_flax(d: Dice, s: Shape) -> Function:
    rngs = nnx.Rngs(0)
    c = s[-1]
    more: Any = {"rngs": rngs, "dtype": None, "param_dtype": d.dtype}
    eps = d.one_of(1e-5, 1e-2)
    makers: list[Callable[[], Any]] = [
        lambda: nnx.Linear(c, d.randint(1, 6), **more), lambda: nnx.LayerNorm(c, epsilon=eps, **more),
        lambda: nnx.RMSNorm(c, epsilon=eps, **more), lambda: nnx.BatchNorm(c, use_running_average=True, **more),
        lambda: nnx.Dropout(0.4, rngs=rngs), lambda: nnx.Einsum("...a,ab->...b", (c, 3), **more),
        lambda: nnx.LinearGeneral(c, (2, 2), **more),
    ]  # fmt: skip
    if len(s) > 1:
        padding = d.one_of("SAME", "VALID", "CIRCULAR", "REFLECT", 1)
        size = tuple(d.one_of(1, 2, 3) for _ in s[1:])
        stride = d.one_of(1, 1, 2)
        makers += [
            lambda: nnx.Conv(c, d.randint(1, 4), size, strides=stride, padding=padding, **more),
            lambda: nnx.Conv(c, 2 * c, size, feature_group_count=c, use_bias=False, **more),
            lambda: nnx.ConvTranspose(
                c, 2, size, (2,) * len(size), padding=d.one_of("SAME", "VALID", "CIRCULAR"), **more),
            lambda: nnx.GroupNorm(c, num_groups=d.divisor(c), epsilon=eps, **more),
            lambda: nnx.InstanceNorm(c, epsilon=eps, **more),
        ]  # fmt: skip
    module = d.filled(d.choice(makers)())
    return lambda x: module(x)


def of_equinox(d: Dice, s: Shape) -> Function:
    key = jax.random.key(d.randrange(99))
    c = s[0]
    size = d.one_of(1, 2, 3)
    makers: list[Callable[[], Any]] = [
        lambda: eqx.nn.LayerNorm(s, eps=1e-2), lambda: eqx.nn.RMSNorm(s, eps=1e-2), lambda: eqx.nn.PReLU(0.2),
        lambda: eqx.nn.Dropout(0.3, inference=True), lambda: eqx.nn.Identity(),
    ]  # fmt: skip
    if len(s) == 1:
        makers += [
            lambda: eqx.nn.Linear(c, d.randint(1, 5), key=key),
            lambda: eqx.nn.MLP(c, 3, 5, d.randint(1, 2), activation=d.one_of(nn.relu, nn.gelu, jnp.tanh), key=key),
            lambda: eqx.nn.WeightNorm(eqx.nn.Linear(c, 4, key=key)),
        ]
    elif len(s) == 3:
        makers += [
            lambda: eqx.nn.Conv2d(
                c, 3, size, d.one_of(1, 2), d.one_of(0, 1, "SAME"), d.one_of(1, 2), key=key,
                padding_mode=d.one_of("ZEROS", "CIRCULAR", "REFLECT", "REPLICATE")),
            lambda: eqx.nn.ConvTranspose2d(c, 2, size + 1, d.one_of(1, 2), d.one_of(0, 1), key=key),
            lambda: eqx.nn.AvgPool2d(2, d.one_of(1, 2), use_ceil=d.random() < 0.3),
            lambda: eqx.nn.MaxPool2d(d.one_of(2, 3), 2, padding=d.one_of(0, 1)),
            lambda: eqx.nn.AdaptiveAvgPool2d(2),
            lambda: eqx.nn.GroupNorm(d.divisor(c), c, eps=1e-2),
        ]  # fmt: skip
    else:
        makers += [lambda: eqx.nn.Conv1d(c, 3, size, d.one_of(1, 2), key=key), lambda: eqx.nn.MaxPool1d(2)]
    module = d.choice(makers)()

    def cast(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        size = np.sqrt(max(1, leaf[0].size if leaf.ndim else 1))
        drawn = d.numbers.standard_normal(leaf.shape).astype(np.float32) / size
        return jnp.asarray(drawn).astype(getattr(d, "wide", d.dtype))

    module = jax.tree.map(cast, module)
    return jax.vmap(lambda x: module(x))


plain("dense", ANY, dense)
plain("dense again", ANY, dense)
plain("convolution", (2, 3), conv)
plain("another convolution", (3,), conv)
plain("Flax", ANY, of_flax)
plain("Flax again", ANY, of_flax)
plain("Equinox", ANY, of_equinox)
plain("Equinox again", ANY, of_equinox)
plain("einsum over tokens", (2,), lambda d, s: lambda x, w=d.array(s[0], 4, scale=0.5): jnp.einsum("btc,ts->bsc", x, w))


# -- functions of an entry -------------------------------------------------------------------------------------------
NAMES = "relu relu6 sigmoid softplus silu elu selu celu leaky_relu gelu hard_tanh hard_sigmoid hard_silu soft_sign"
NAMES += " log_sigmoid mish squareplus sparse_plus sparse_sigmoid"
NAMED = (*(getattr(nn, name) for name in NAMES.split()), jnp.tanh, jnp.sin, jnp.abs, jnp.arctan)


@jax.custom_jvp
def declared(x: Any) -> Any:
    """A function whose derivative is declared to be another."""
    return 2 * jnp.tanh(x)


declared.defjvp(lambda primals, tangents: (declared(*primals), 0.1 * tangents[0]))

WRITTEN: tuple[Function, ...] = (
    lambda x: nn.gelu(x, approximate=False), lambda x: x * jax.scipy.special.expit(1.702 * x),
    lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
    lambda x: lax.clamp(jnp.asarray(-0.5, x.dtype), x, jnp.asarray(2, x.dtype)), lambda x: jnp.log1p(jnp.exp(x)),
    lambda x: jnp.logaddexp(x, 0), lambda x: jnp.select([x < -1, x < 1], [-1 - 0 * x, x], 1 + 0 * x),
    lambda x: jnp.interp(x, np.r_[-1.0, 0, 1], np.r_[0.0, 0.3, 0.8]), lambda x: lax.select(x > 0, x, jnp.zeros_like(x)),
    jnp.arcsinh, jax.scipy.special.erf, lambda x: jnp.heaviside(x, 0) * x, lambda x: lax.logistic(2 * x) * 2 - 1,
    lambda x: jnp.hypot(x, 1.0), jnp.sinc, declared, lambda x: lax.integer_pow(jnp.tanh(x), 3),
    lambda x: jnp.nan_to_num(x) / 2, lambda x: x + lax.stop_gradient(jnp.tanh(x)),
    lambda x: jnp.polyval(jnp.asarray([0.1, 0.5, 0.0]), jnp.tanh(x)),
)  # fmt: skip
JUMPING: tuple[Function, ...] = (
    jnp.sign, lambda x: x + lax.stop_gradient(jnp.round(x) - x), lambda x: jnp.mod(x, 1.0),
    lambda x: nn.one_hot(jnp.argmax(x, -1), x.shape[-1], dtype=x.dtype),
    lambda x: jnp.digitize(x, np.r_[-1.0, 0, 1]).astype(x.dtype),
    lambda x: jnp.piecewise(x, [x < 0], [0.0, lambda y: y + 1]),
)  # fmt: skip
STEEP: tuple[Function, ...] = (
    jnp.square, jnp.exp2, lambda x: jnp.power(jnp.abs(x) + 1e-3, 0.5), lambda x: lax.rsqrt(x * x + 0.1),
    lambda x: jnp.cumprod(jnp.tanh(x), -1), jnp.arctanh,
)  # fmt: skip


def activation(d: Dice, s: Shape) -> Function:
    return d.choice(NAMED if d.random() < 0.5 else WRITTEN)


def maxmin(d: Dice, s: Shape) -> Function:
    n = s[-1] // 2
    return d.one_of(
        lambda x: jnp.concatenate([jnp.maximum(x[..., ::2], x[..., 1::2]), jnp.minimum(x[..., ::2], x[..., 1::2])], -1),
        lambda x: jnp.sort(x.reshape(*x.shape[:-1], n, 2), -1).reshape(x.shape),
        lambda x: lax.sort(x, dimension=-1),
        lambda x: -jnp.sort(-x, axis=-1),
    )


for _name in ("activation", "second activation", "third activation"):
    plain(_name, ANY, activation)
plain("maxmin", ANY, maxmin)
plain("softmax", ANY, lambda d, s: d.one_of(nn.softmax, nn.log_softmax, lambda x: nn.softmax(x / 0.5, -1)))
odd("jumps", ANY, lambda d, s: d.choice(JUMPING))
odd("steep", ANY, lambda d, s: d.choice(STEEP))
odd("squashed, then steep", ANY, lambda d, s: lambda x, f=d.choice(STEEP): f(jnp.tanh(x) + 1.5))
odd("gated linear unit", ANY, lambda d, s: nn.glu)
odd("bounded gate", ANY, lambda d, s: lambda x: jnp.tanh(x) * nn.sigmoid(x[..., ::-1]))


# -- normalization ---------------------------------------------------------------------------------------------------
def norm(d: Dice, s: Shape) -> Function:
    eps = d.one_of(1e-5, 1e-2)
    a: Any = d.one_of(-1, 1, tuple(range(1, len(s) + 1)))
    return d.one_of(
        lambda x: (x - x.mean(a, keepdims=True)) / jnp.sqrt(x.var(a, keepdims=True) + eps),
        lambda x: x * lax.rsqrt(jnp.mean(jnp.square(x), a, keepdims=True) + eps),
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), eps),
        lambda x: nn.standardize(x, axis=-1, epsilon=eps),
        lambda x: (x - x.mean(a, keepdims=True)) / (x.std(a, keepdims=True) + eps),
    )


plain("norm, written out", ANY, norm)
odd("batch statistics", ANY, lambda d, s: lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-3))


# -- pooling, resizing, moves ----------------------------------------------------------------------------------------
def pool(d: Dice, s: Shape) -> Function:
    window = tuple(d.one_of(1, 2, 3) for _ in s[1:])
    strides = tuple(d.one_of(1, 2) for _ in s[1:])
    padding = d.one_of("SAME", "VALID")
    whole, steps = (1, *window, 1), (1, *strides, 1)
    return d.one_of(
        lambda x: POOLS.max_pool(x, window, strides, padding),
        lambda x: POOLS.avg_pool(x, window, strides, padding),
        lambda x: LINEN_POOLS.avg_pool(x, window, strides, padding, count_include_pad=False),
        lambda x: lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, whole, steps, padding),
        lambda x: lax.reduce_window(x, np.asarray(0, x.dtype), lax.add, whole, steps, padding) / np.prod(window).item(),
        lambda x: -POOLS.max_pool(-x, window, strides, padding),
    )


def reduced(d: Dice, s: Shape) -> Function:
    a: Any = d.one_of(-1, 1, tuple(range(1, len(s) + 1)))
    keep = d.random() < 0.6 or not isinstance(a, int) or len(s) == 1
    return d.one_of(
        lambda x: x.mean(a, keepdims=keep), lambda x: x.sum(a, keepdims=keep) / 3, lambda x: x.max(a, keepdims=keep),
        lambda x: jnp.min(x, a, keepdims=keep), lambda x: nn.logsumexp(x, a, keepdims=keep),
        lambda x: jnp.sqrt(jnp.sum(x**2, a, keepdims=keep)), lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True),
        lambda x: lax.top_k(x, min(2, s[-1]))[0], lambda x: jnp.cumsum(x, -1) / 2,
        lambda x: jnp.average(x, -1, keepdims=True), lambda x: jnp.abs(x).sum(a, keepdims=keep),
        lambda x: lax.cummax(x, x.ndim - 1), lambda x: jnp.ptp(x, axis=-1, keepdims=True),
    )  # fmt: skip


def moved(d: Dice, s: Shape) -> Function:
    a = d.randint(1, len(s))
    n = s[a - 1]
    order = d.numbers.permutation(n)
    some = d.numbers.integers(n, size=n + 1)
    mode = d.one_of("constant", "reflect", "edge", "wrap", "symmetric")
    widths = [(0, 0)] + [d.one_of((0, 0), (1, 0), (1, 1)) for _ in s]
    by = d.one_of(0, 1, -2)
    return d.one_of(
        lambda x: jnp.roll(x, by, a), lambda x: jnp.flip(x, a), lambda x: jnp.take(x, order, a),
        lambda x: jnp.pad(x, widths, mode), lambda x: jnp.take(x, some, a), lambda x: x.swapaxes(1, -1),
        lambda x: x.reshape(x.shape[0], -1), lambda x: jnp.moveaxis(x, a, 1), lambda x: jnp.concatenate([x, -x], a),
        lambda x: jnp.repeat(x, 2, a), lambda x: jnp.tile(x, (1,) * (x.ndim - 1) + (2,)), lambda x: jnp.diff(x, axis=a),
        lambda x: x.at[:, 0].set(0.5), lambda x: x.at[:, 0].add(x[:, -1]), lambda x: x.at[..., 0].multiply(2),
        lambda x: lax.dynamic_slice_in_dim(x, n // 3, n - n // 3, a),
        lambda x: jnp.stack(jnp.split(x, n, a)[::-1], a).reshape(x.shape), lambda x: x[..., ::2], lambda x: x[:, None],
        lambda x: jnp.concatenate([x, jnp.ones_like(x)], a), lambda x: lax.rev(x, (a,)),
        lambda x: jax.ops.segment_sum(x.T, some[: x.shape[-1]] % 3, 3).T if x.ndim == 2 else x,
        lambda x: lax.slice_in_dim(x, 0, n, 2, a), lambda x: jnp.expand_dims(x, a).squeeze(a),
        lambda x: jnp.array_split(x, 2, a)[0], lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], 2, *s)),
    )  # fmt: skip


def constant(d: Dice, s: Shape) -> Function:
    c = d.array(*(1 if d.random() < 0.4 else n for n in s))
    return d.one_of(
        lambda x: (x - c) / (jnp.abs(c) + 0.5), lambda x: jnp.where(c > 0, x, c),
        lambda x: jnp.multiply(x, nn.softmax(c)), lambda x: lax.mul(x, jnp.broadcast_to(c, x.shape)),
    )  # fmt: skip


def resized(d: Dice, s: Shape) -> Function:
    mode, k = d.one_of("nearest", "linear", "bilinear"), d.one_of(2, 3, 8)
    # Where a pixel is halfway between two, jax2onnx takes the other one: such models are refused as misread.
    size = (8, 8) if mode == "nearest" else (k, k)
    return lambda x: jax.image.resize(x, (x.shape[0], *size, x.shape[3]), mode, antialias=False)


plain("pooling", (2, 3), pool)
plain("reduced", ANY, reduced)
plain("moved", ANY, moved)
plain("moved again", ANY, moved)
plain("constants", ANY, constant)
plain("resize", (3,), resized)
odd("resize, antialiased", (3,), lambda d, s: lambda x: jax.image.resize(x, (x.shape[0], 3, 3, x.shape[3]), "linear"))
odd("median", (1, 2), lambda d, s: lambda x: jnp.median(x, -1, keepdims=True))


# -- loops, transformations, state -----------------------------------------------------------------------------------
def recurrence(d: Dice, s: Shape) -> Function:
    u, w = d.weight(s[1], 3), d.weight(3, 3) / 2
    ys = d.random() < 0.5

    def step(h: Any, y: Any) -> Any:
        h = jnp.tanh(y @ u + h @ w)
        return h, h

    def by_scan(x: Any) -> Any:
        last, states = lax.scan(step, jnp.zeros((x.shape[0], 3), x.dtype), x.swapaxes(0, 1))
        return states.swapaxes(0, 1) if ys else last

    return by_scan


def looped(d: Dice, s: Shape) -> Function:
    w = d.weight(s[-1], s[-1]) / 2
    return d.one_of(
        lambda x: lax.fori_loop(0, 4, lambda i, y: y + 0.25 * jnp.tanh(y @ w), x),
        lambda x: lax.scan(lambda y, _: (0.5 * jnp.tanh(y @ w) + 0.5 * y, None), x, None, length=3)[0],
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1],
        lambda x: lax.while_loop(lambda c: jnp.abs(c).max() > 1, lambda c: c / 2, x),
        lambda x: lax.map(lambda y: jnp.tanh(y), x), lambda x: lax.cond(x.sum() > 0, lambda y: y, lambda y: 2 * y, x),
        lambda x: lax.switch(1, [jnp.sin, jnp.tanh], x), lambda x: lax.associative_scan(jnp.add, x, axis=1) / 3,
        lambda x: jax.jit(lambda y: nn.relu(y @ w))(x), lambda x: jax.checkpoint(lambda y: jnp.tanh(y @ w))(x),
        lambda x: jax.vmap(jax.vmap(jnp.tanh))(x), lambda x: jax.jvp(jnp.sin, (x,), (jnp.ones_like(x),))[1],
    )  # fmt: skip


odd("recurrence", (2,), recurrence)
odd("loops", ANY, looped)
odd("batch mean", ANY, lambda d, s: lambda x: x - x.mean(0, keepdims=True))
odd("batch summed up", ANY, lambda d, s: lambda x: jnp.cumsum(x, 0))
odd("attention", (2,), lambda d, s: lambda x: nn.softmax(x @ x.swapaxes(1, 2) / 2, -1) @ x)
odd("float16 inside", ANY, lambda d, s: lambda x: jnp.tanh(x.astype(jnp.float16)).astype(x.dtype))
odd("constant output", ANY, lambda d, s: jnp.zeros_like)


def residual(d: Dice, s: Shape) -> Function:
    (w, v), act = (d.weight(s[-1], s[-1]) for _ in range(2)), activation(d, s)
    return d.one_of(
        lambda x: x + act(x @ w) @ v, lambda x: jnp.concatenate([x, act(x @ w)], -1),
        lambda x: jnp.maximum(x @ w, act(x @ v)), lambda x: jnp.stack([x @ w, act(x @ v)]).mean(0),
    )  # fmt: skip


plain("residual", ANY, residual)


# -- a function ------------------------------------------------------------------------------------------------------
SHAPES: dict[int, Sequence[Shape]] = {
    1: ((4,), (6,), (8,)), 2: ((4, 6), (3, 8), (5, 3)), 3: ((6, 6, 2), (5, 7, 3), (4, 4, 4), (8, 8, 1)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Drawn:
    """The number of each piece, its name, the shape before it, and how the function has its inputs and outputs."""

    pieces: tuple[tuple[str, int, Shape], ...]
    ports: str
    dtype: str

    @property
    def shapes(self) -> tuple[Shape, ...]:
        first = self.pieces[0][2]
        return (first, first) if self.ports == "added" else (first,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (*(name for name, _, _ in self.pieces), self.ports, self.dtype)))

    def function(self, dtype: Any = None) -> Function:
        own = jnp.dtype(self.dtype)
        made = [_built(piece, own, dtype) for piece in self.pieces]

        def f(x: Any) -> Any:
            for piece in made:
                x = piece(x)
            return x

        return {
            "": f, "added": lambda x, y: f(x - 0.5 * y), "outputs": lambda x: (f(x), jnp.tanh(x)),
            "dictionary": lambda x: {"a": f(x), "b": x.mean(-1)},
        }[self.ports]  # fmt: skip


def _built(piece: tuple[str, int, Shape], own: Any, dtype: Any = None) -> Function:
    name, seed, shape = piece
    return PIECES.makers[name](_Widened(seed, own, dtype) if dtype is not None else Dice(seed, own), shape)


class _Widened(Dice):
    """Numbers of one type in another one."""

    def __init__(self, seed: int, own: Any, wide: Any) -> None:
        super().__init__(seed, own)
        self.own, self.wide = own, wide

    def array(self, *shape: int, scale: float = 1.0) -> Any:
        return super().array(*shape, scale=scale).astype(self.wide)

    def filled(self, module: Any) -> Any:
        module = super().filled(module)
        nnx.update(module, jax.tree.map(lambda x: x.astype(self.wide), nnx.state(module, (nnx.Param, nnx.BatchStat))))
        return module


def drawn(seed: int) -> Drawn:
    d = random.Random(seed)
    shape = d.choice(SHAPES[d.choices([1, 2, 3], [30, 25, 45])[0]])
    dtype = d.choices(["float32", "float64", "bfloat16"], [85, 10, 5])[0]
    found: list[tuple[str, int, Shape]] = []
    odd_ones = 0
    count = d.randint(1, 5)
    while len(found) < count:
        name, is_odd = PIECES.draw(d, shape, odd_ones)
        piece = (name, d.randrange(2**31), shape)
        given = STRUCT((1, *shape), jnp.dtype(dtype))
        try:
            (out,) = jax.tree.leaves(jax.eval_shape(_built(piece, given.dtype), given))
        except Exception:  # whatever JAX raises for a shape that does not fit
            continue
        if out.shape[:1] == (1,) and 2 <= len(out.shape) <= 4 and 0 < np.prod(out.shape) <= MOST:
            odd_ones += is_odd
            found.append(piece)
            shape = out.shape[1:]
    ports = d.choices(["", "added", "outputs", "dictionary"], [85, 5, 5, 5])[0]
    return Drawn(tuple(found), ports, dtype)


# -- the oracle's side -----------------------------------------------------------------------------------------------
def machine(f: Function, shapes: Sequence[Shape], share: float = 0.0) -> Machine:
    sizes = [int(np.prod(shape)) for shape in shapes]
    cuts = np.cumsum(sizes)[:-1]

    @jax.jit
    def flat(x: Any) -> Any:
        parts = [p.reshape(-1, *shape) for p, shape in zip(jnp.split(x, cuts, 1), shapes, strict=True)]
        outputs = [y.reshape(y.shape[0], -1) for y in jax.tree.leaves(f(*parts))]
        reals = [jnp.concatenate([y.real, y.imag], 1) if jnp.iscomplexobj(y) else y for y in outputs]
        return jnp.concatenate(reals, 1).astype(jnp.float64)

    @jax.jit
    def pulled(x: Any, u: Any) -> Any:
        return jax.vjp(flat, x)[1](u)[0]

    def in_chunks(g: Function, *arrays: Vectors) -> Vectors:
        n = len(arrays[0])
        if n <= 3:
            return np.asarray(g(*map(jnp.asarray, arrays)), np.float64)
        found = []
        for at in range(0, n, CHUNK):
            parts = [a[at : at + CHUNK] for a in arrays]
            parts = [np.concatenate([p, np.zeros((CHUNK - len(p), p.shape[1]))]) for p in parts]
            found.append(np.asarray(g(*map(jnp.asarray, parts)), np.float64)[: n - at])
        return np.concatenate(found)

    def pull(x: Vectors, u: Vectors) -> Vectors:
        try:
            return in_chunks(pulled, x, u)
        except (ValueError, TypeError):  # a loop of unknown length has no reverse derivative in JAX
            return np.zeros_like(x)

    return Machine(sum(sizes), partial(in_chunks, flat), pull, max(1e-12, share))


def asked(seed: int) -> Outcome:
    found = drawn(seed)
    given: Any = found.shapes[0]
    if len(found.shapes) > 1:
        given = tuple(np.zeros((1, *shape), jnp.dtype(found.dtype)) for shape in found.shapes)
    wide = partial(machine, found.function(jnp.float64), found.shapes, relative(found.names))
    return outcome(found.function(), given, wide, seed, room=ROOM[found.dtype])
