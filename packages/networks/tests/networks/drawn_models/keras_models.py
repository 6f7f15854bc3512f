"""Keras models, sequential, functional and subclassed, each drawn from one number, on the backend that Keras has."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from networks.drawn_models.attacks import Machine
from networks.drawn_models.hunting import Outcome, outcome

SINGLE = 3e-5
"""What rounding to single precision may change of the outputs' size: some operations do so, whatever the type."""
MOST = 300
"""Entries of a value at most."""
Shape = tuple[int, ...]


class Dice(random.Random):
    def one_of(self, *items: Any) -> Any:
        return self.choice(items)

    def divisor(self, n: int) -> int:
        return self.choice([k for k in range(1, n + 1) if n % k == 0])


Maker = Callable[[Dice, Shape], Any]
PLAIN: dict[str, tuple[tuple[int, ...], Maker]] = {}
ODD: dict[str, tuple[tuple[int, ...], Maker]] = {}
ANY = (1, 2, 3)
NAMES = (
    "relu",
    "tanh",
    "sigmoid",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "softsign",
    "relu6",
    "hard_sigmoid",
    "hard_silu",
    "leaky_relu",
    "mish",
    "log_sigmoid",
    "hard_tanh",
    "celu",
    "tanh_shrink",
    "soft_shrink",
    "squareplus",
    "linear",
    "softmax",
    "log_softmax",
    "sparse_plus",
    "threshold",
    "glu",
    "hard_shrink",
    "exponential",
)


def plain(name: str, ranks: tuple[int, ...], make: Maker) -> None:
    assert name not in PLAIN
    PLAIN[name] = (ranks, make)


def odd(name: str, ranks: tuple[int, ...], make: Maker) -> None:
    assert name not in ODD
    ODD[name] = (ranks, make)


def named(d: Dice) -> Any:
    return d.choice(NAMES[: -2 if d.random() < 0.8 else None])


def conv(d: Dice, s: Shape) -> Any:
    kind: Any = {2: layers.Conv1D, 3: layers.Conv2D}[len(s)]
    padding = d.one_of("same", "valid")
    stride, dilation = d.one_of((1, 1), (1, 1), (2, 1), (3, 1), (1, 2))
    groups = d.divisor(s[-1]) if d.random() < 0.3 else 1
    return kind(
        groups * d.randint(1, 3),
        d.one_of(1, 2, 3),
        strides=stride,
        padding=padding,
        dilation_rate=dilation,
        groups=groups,
        activation=named(d) if d.random() < 0.4 else None,
    )


def norm(d: Dice, s: Shape) -> Any:
    eps = d.one_of(1e-3, 1e-5, 0.1)
    return d.one_of(
        lambda: layers.BatchNormalization(epsilon=eps, center=d.random() < 0.7, axis=d.one_of(-1, -1, 1)),
        lambda: layers.LayerNormalization(epsilon=eps),
        lambda: layers.GroupNormalization(d.divisor(s[-1]), epsilon=eps),
        lambda: layers.UnitNormalization(),
        lambda: layers.RMSNormalization(epsilon=eps),
        lambda: layers.Rescaling(1 / 127.5, -1),
        lambda: layers.Normalization(mean=[0.3] * s[-1], variance=[2.0] * s[-1]),
    )()


def activation(d: Dice, s: Shape) -> Any:
    return d.one_of(
        lambda: layers.Activation(named(d)),
        lambda: layers.Activation(named(d)),
        lambda: layers.ReLU(d.one_of(None, 2.0), d.one_of(0.0, 0.2), 0.0),
        lambda: layers.LeakyReLU(d.one_of(0.1, 0.3)),
        lambda: layers.PReLU(shared_axes=d.one_of(None, [1])),
        lambda: layers.ELU(d.one_of(1.0, 0.5)),
        lambda: layers.Softmax(),
        lambda: lambda x: ops.maximum(x, 0.1 * x),
        lambda: lambda x: x * ops.sigmoid(x),
        lambda: lambda x: ops.sign(x) * ops.relu(ops.abs(x) - 0.2),
        lambda: lambda x: ops.where(x > 0, x, 0.3 * x),
        lambda: lambda x: ops.clip(x, -1, 1) ** 2,
        lambda: layers.Lambda(lambda x: ops.sin(x)),
        lambda: (
            lambda x: ops.concatenate([ops.maximum(x[..., ::2], x[..., 1::2]), ops.minimum(x[..., ::2], x[..., 1::2])])
        ),
        lambda: lambda x: ops.sort(x, axis=-1),
        lambda: lambda x: x / (1 + ops.norm(x, axis=-1, keepdims=True)),
    )()


def pooled(d: Dice, s: Shape) -> Any:
    if len(s) == 2:
        return d.one_of(
            lambda: layers.MaxPooling1D(2),
            lambda: layers.AveragePooling1D(2, padding="same"),
            layers.GlobalAveragePooling1D,
            layers.GlobalMaxPooling1D,
            lambda: layers.UpSampling1D(2),
            lambda: layers.ZeroPadding1D(1),
            lambda: layers.Cropping1D((1, 0)),
        )()
    return d.one_of(
        lambda: layers.MaxPooling2D(d.one_of(2, 3), d.one_of(None, 1, 2), d.one_of("same", "valid")),
        lambda: layers.AveragePooling2D(d.one_of(2, 3), d.one_of(None, 1, 2), d.one_of("same", "valid")),
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
        layers.GlobalMaxPooling2D,
        lambda: layers.UpSampling2D(2, interpolation=d.one_of("nearest", "bilinear")),
        lambda: layers.ZeroPadding2D(((1, 0), (0, 2))),
        lambda: layers.Cropping2D(((1, 0), (0, 1))),
        lambda: layers.Resizing(4, 5),
        lambda: layers.AdaptiveAveragePooling2D(2),
    )()


def moved(d: Dice, s: Shape) -> Any:
    axes = [*range(1, len(s) + 1)]
    d.shuffle(axes)
    return d.one_of(
        layers.Flatten,
        lambda: layers.Reshape((-1,)),
        lambda: layers.Permute(tuple(axes)),
        lambda: lambda x: ops.flip(x, 1),
        lambda: lambda x: ops.roll(x, 1, 1),
        lambda: lambda x: x[:, 1:],
        lambda: lambda x: ops.repeat(x, 2, 1),
        lambda: lambda x: ops.concatenate([x, -x], -1),
        lambda: lambda x: ops.cumsum(x, 1) / 2,
        lambda: lambda x: x - ops.mean(x, 1, keepdims=True),
        lambda: lambda x: ops.expand_dims(x, 1),
        lambda: lambda x: ops.max(x, 1, keepdims=True),
        lambda: lambda x: ops.logsumexp(x, 1, keepdims=True),
    )()


def branch(d: Dice, s: Shape) -> Any:
    act = named(d)
    if len(s) == 3:
        one = layers.Conv2D(d.randint(1, 4), 3, padding="same", activation=None if act == "glu" else act)
        two = layers.Conv2D(s[-1], 1)
    else:
        one, two = layers.Dense(d.randint(1, 5), activation=None if act == "glu" else act), layers.Dense(s[-1])
    return lambda x: two(one(x))


def joined(d: Dice, s: Shape) -> Any:
    f, g = branch(d, s), branch(d, s)
    n = s[-1] // 2
    h = branch(d, (*s[:-1], n)) if n else f
    return d.one_of(
        lambda x: layers.Add()([x, f(x)]),
        lambda x: layers.Subtract()([x, f(x)]),
        lambda x: layers.Average()([f(x), g(x), x]),
        lambda x: layers.Maximum()([f(x), g(x)]),
        lambda x: layers.Minimum()([x, g(x)]),
        lambda x: layers.Concatenate()([x, f(x)]),
        lambda x: x + 0.1 * f(x),
        lambda x: ops.relu(x + f(x)),
        lambda x: f(f(x)),
        lambda x: ops.stack([f(x), g(x)], 1),
        lambda x: ops.concatenate([x[..., :n] + h(x[..., -n:]), x[..., n:]], -1),
    )


plain("dense", ANY, lambda d, s: layers.Dense(d.randint(1, 8), activation=named(d) if d.random() < 0.5 else None))
plain("dense again", ANY, lambda d, s: layers.Dense(d.randint(1, 8)))
plain("convolution", (2, 3), conv)
plain("another convolution", (3,), conv)
plain(
    "separable",
    (3,),
    lambda d, s: d.one_of(
        lambda: layers.SeparableConv2D(3, 3, padding="same"),
        lambda: layers.DepthwiseConv2D(d.one_of(2, 3), d.one_of(1, 2), d.one_of("same", "valid")),
    )(),
)
plain(
    "transposed",
    (3,),
    lambda d, s: layers.Conv2DTranspose(2, d.one_of(2, 3, 4), d.one_of(1, 2), d.one_of("same", "valid")),
)
plain("einsum", (2,), lambda d, s: layers.EinsumDense("abc,cd->abd", output_shape=(None, 4)))
plain(
    "spectral norm",
    (1, 3),
    lambda d, s: layers.SpectralNormalization(layers.Dense(3) if len(s) == 1 else layers.Conv2D(2, 3)),
)
plain("over time", (2,), lambda d, s: layers.TimeDistributed(layers.Dense(3)))
plain("normalisation", ANY, norm)
plain("normalisation again", ANY, norm)
plain("activation", ANY, activation)
plain("second activation", ANY, activation)
plain("pooling", (2, 3), pooled)
plain("moved", ANY, moved)
plain(
    "dropout",
    ANY,
    lambda d, s: d.one_of(layers.Dropout, layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout)(0.3),
)
plain("joined", ANY, joined)
plain("joined again", ANY, joined)
plain(
    "constants",
    ANY,
    lambda d, s: d.one_of(
        lambda x: x * 2 - 1,
        lambda x: x / 3,
        lambda x, c=np.linspace(-1, 2, s[-1]): x * ops.cast(c, x.dtype),
        lambda x: -x,
    ),
)
odd(
    "recurrent",
    (2,),
    lambda d, s: d.one_of(
        lambda: layers.SimpleRNN(3),
        lambda: layers.LSTM(3, return_sequences=True),
        lambda: layers.GRU(3),
        lambda: layers.SimpleRNN(2, unroll=True),
    )(),
)
odd("gate", ANY, lambda d, s: lambda x: layers.Multiply()([x, ops.sigmoid(x)]))
odd("gate of another", ANY, lambda d, s: lambda x, f=layers.Dense(s[-1], activation="sigmoid"): x * f(x))
odd("attention", (2,), lambda d, s: lambda x, f=layers.MultiHeadAttention(1, 3): f(x, x))
odd("products", (2,), lambda d, s: lambda x: layers.Dot((2, 2))([x, x]))
odd(
    "jumps",
    ANY,
    lambda d, s: d.one_of(
        lambda x: ops.round(x),
        lambda x: ops.sign(x),
        lambda x: ops.where(x > 0.5, x, 0.0),
        lambda x: ops.cast(x > 0, x.dtype),
    ),
)
odd(
    "steep",
    ANY,
    lambda d, s: d.one_of(
        ops.square,
        ops.exp,
        lambda x: ops.log(ops.abs(x) + 0.1),
        lambda x: 1 / (x**2 + 0.2),
        lambda x: ops.sqrt(ops.abs(x)),
    ),
)
odd("batch statistics", ANY, lambda d, s: lambda x: x - ops.mean(x, 0, keepdims=True))
odd("random", (3,), lambda d, s: layers.RandomFlip())
odd(
    "always noise",
    ANY,
    lambda d, s: lambda x: x + keras.random.normal(ops.shape(x)[1:], seed=keras.random.SeedGenerator(0)),
)
odd("cubic", (3,), lambda d, s: layers.UpSampling2D(2, interpolation="bicubic"))

SHAPES: dict[int, Sequence[Shape]] = {1: ((4,), (6,), (8,)), 2: ((4, 6), (5, 3)), 3: ((6, 6, 2), (5, 7, 3), (4, 4, 4))}


@dataclass(frozen=True, eq=False)
class Drawn:
    """The number of each piece, its name, the shape before it, and the kind of the model."""

    seed: int
    pieces: tuple[tuple[str, int, Shape], ...]
    kind: str

    @property
    def shape(self) -> Shape:
        return self.pieces[0][2]

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _, _ in self.pieces), self.kind)

    def model(self, dtype: str = "float32") -> Any:
        """Build it, with numbers of its own: weights of about norm one, and statistics that a training would leave."""
        before = keras.config.floatx()
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            made = [_built(piece) for piece in self.pieces]
            model = self._joined(made)
        finally:
            keras.config.set_floatx(before)
            keras.config.set_dtype_policy(before)
        rng = np.random.default_rng(self.seed)
        for variable in model.variables:
            if "seed" in variable.path or "int" in str(variable.dtype):
                continue
            new = rng.standard_normal(variable.shape).astype(np.float32)
            if "variance" in variable.path:
                new = np.abs(new) + np.float32(0.2)
            elif new.ndim > 1:
                new /= np.float32(np.sqrt(np.prod(new.shape[:-1])))
            variable.assign(new)
        return model

    def _joined(self, made: list[Any]) -> Any:
        if self.kind == "sequential":
            return keras.Sequential([keras.Input(self.shape), *made])
        if self.kind == "subclassed":
            model = Subclassed(made)
            model(np.zeros((1, *self.shape), "float32"))
            return model
        given = keras.Input(self.shape)
        x = given
        for piece in made:
            x = piece(x)
        if self.kind == "two inputs":
            other = keras.Input((3,))
            return keras.Model([given, other], layers.Concatenate()([layers.Flatten()(x), layers.Dense(2)(other)]))
        return keras.Model(given, [x, ops.tanh(given)] if self.kind == "two outputs" else x)


class Subclassed(keras.Model):  # type: ignore[misc]
    """Calls its pieces one after the other."""

    def __init__(self, pieces: list[Any]) -> None:
        super().__init__()
        self.pieces = pieces

    def call(self, x: Any) -> Any:
        for piece in self.pieces:
            x = piece(x)
        return x


def _built(piece: tuple[str, int, Shape]) -> Any:
    name, seed, shape = piece
    return (PLAIN | ODD)[name][1](Dice(seed), shape)


def drawn(seed: int) -> Drawn:
    """Draw the model of a number: the same for the same number."""
    d = random.Random(seed)
    shape = d.choice(SHAPES[d.choices([1, 2, 3], [30, 20, 50])[0]])
    pieces: list[tuple[str, int, Shape]] = []
    odd_ones, only_layers = 0, True
    count = d.randint(1, 5)
    while len(pieces) < count:
        table = ODD if odd_ones < 2 and d.random() < 0.12 else PLAIN
        piece = (
            d.choice([name for name, (ranks, _) in table.items() if len(shape) in ranks]),
            d.randrange(2**31),
            shape,
        )
        try:
            made = _built(piece)
            out = made(keras.Input(shape)).shape
        except Exception:  # whatever Keras raises for a shape that does not fit
            continue
        if None not in out[1:] and 2 <= len(out) <= 4 and 0 < np.prod(out[1:]) <= MOST:
            odd_ones += table is ODD
            only_layers &= isinstance(made, layers.Layer)
            pieces.append(piece)
            shape = tuple(out[1:])
    kind = d.choices(["functional", "subclassed", "two outputs", "two inputs"], [70, 12, 9, 9])[0]
    return Drawn(seed, tuple(pieces), "sequential" if only_layers and d.random() < 0.7 else kind)


def machine(drawn: Drawn) -> Machine:
    """The model in float64."""
    model = drawn.model("float64")
    shapes = (drawn.shape, (3,)) if drawn.kind == "two inputs" else (drawn.shape,)

    def f(*parts: Any) -> Any:
        found = model(parts[0] if len(parts) == 1 else list(parts), training=False)
        return list(found) if isinstance(found, list | tuple) else [found]

    if keras.backend.backend() == "jax":
        from networks.drawn_models import jax_models

        return jax_models.machine(f, shapes, SINGLE)
    from networks.drawn_models import torch_models

    return torch_models.machine_of(f, shapes, SINGLE)


def asked(seed: int) -> Outcome:
    """Bound the model of a number and attack it."""
    found = drawn(seed)
    given = None if found.kind == "two inputs" else found.shape
    return outcome(found.model(), given, lambda: machine(found), seed)
