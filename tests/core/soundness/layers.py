"""Layers at one size that are hard to bound, each from one number, and what their norms truly are.

Imports nothing of specnorm. Sizes are small, since there the border is most of the layer: inputs of one pixel, kernels
larger than the input, taps that read nothing but padding, strides beyond the kernel, dilations beyond the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from core.soundness import balls
from flint import acb_mat, ctx
from helpers.cases import FAMILIES as PLAIN
from helpers.cases import Random, Shape
from helpers.oracle import (
    Float,
    PaddingMode,
    Truth,
    all_singular_values,
    dense_matrix,
    dense_norm,
    output_shape,
    padding_pairs,
)
from numpy.typing import NDArray

LARGEST = 260
"""Rows and columns of a dense matrix at most."""
SIDES = {1: 33, 2: 9, 3: 4}
"""Pixels an axis at most, unless padding asks for more."""


def positive(random: Random, shape: Shape) -> Float:
    """The maximum at frequency 0."""
    return random.uniform(0.1, 1.0, size=shape)


def alternating(random: Random, shape: Shape) -> Float:
    """The maximum at frequency pi."""
    signs = np.ones(())
    for n in shape[2:]:
        signs = np.multiply.outer(signs, (-1.0) ** np.arange(n))
    return np.asarray(positive(random, shape) * signs)


def wave(random: Random, shape: Shape) -> Float:
    """The maximum at a frequency in between."""
    turns = [random.uniform(0, math.pi) * np.arange(n) for n in shape[2:]]
    phase = sum(np.meshgrid(*turns, indexing="ij"), start=np.zeros(()))
    return random.uniform(0.5, 1.0, size=shape) * np.cos(phase + random.uniform(0, 2 * math.pi))


def repeated(random: Random, shape: Shape) -> Float:
    """Every channel apart, and all alike: the largest singular value many times."""
    kernel = np.zeros(shape)
    taps = random.standard_normal(shape[2:])
    for channel in range(min(shape[:2])):
        kernel[channel, channel] = taps
    return kernel


def faint(random: Random, shape: Shape) -> Float:
    """Taps that differ by hundreds of powers of ten: those that are seen may be the least ones."""
    return np.asarray(random.standard_normal(shape) * 10.0 ** random.choice([0.0, -8, -140, -280], size=shape[2:]))


FAMILIES: dict[str, Callable[[Random, Shape], NDArray[Any]]] = {
    **PLAIN, "positive": positive, "alternating": alternating, "wave": wave, "repeated": repeated, "faint": faint,
}  # fmt: skip
NAMES = sorted(FAMILIES)


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: input and output sizes, taps, stride, dilation, padding before."""

    n: int
    outputs: int
    k: int
    s: int
    r: int
    before: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer at its size; ``geometry`` holds keywords that the library and the oracle both take."""

    index: int
    family: str
    kernel: NDArray[Any]
    input_shape: Shape
    geometry: dict[str, Any]

    def __str__(self) -> str:
        what = f"layer({self.index}) {self.family} {self.kernel.shape} {self.kernel.dtype}"
        return f"{what} at {self.input_shape}, {self.geometry}"

    @property
    def axes(self) -> list[Axis]:
        g = self.geometry
        pads = padding_pairs(g["padding"], self.kernel.shape[2:], g["dilation"])
        each = zip(self.kernel.shape[2:], self.input_shape, g["stride"], g["dilation"], pads, strict=True)
        if g["transposed"]:
            return [Axis((n - 1) * s - b - a + r * (k - 1) + 1, n, k, s, r, b) for k, n, s, r, (b, a) in each]
        counts = output_shape(self.kernel.shape[2:], self.input_shape, g["stride"], g["dilation"], pads)
        return [Axis(n, m, k, s, r, b) for m, (k, n, s, r, (b, _)) in zip(counts, each, strict=True)]

    def truth(self) -> Truth:
        return dense_norm(self.kernel, self.input_shape, **self.geometry)

    def singular_values(self) -> Float:
        return all_singular_values(self.kernel, self.input_shape, **self.geometry)

    def proven(self) -> balls.Bounds:
        """Spectral norm in ball arithmetic: taps that meet in one entry are added there."""
        kernel = np.asarray(self.kernel).astype(np.float64)
        total: acb_mat | None = None
        with ctx.workprec(balls.BITS):
            for tap in np.ndindex(*kernel.shape[2:]):
                alone = np.zeros_like(kernel)
                alone[:, :, *tap] = kernel[:, :, *tap]
                one = balls.matrix(dense_matrix(alone, self.input_shape, **self.geometry))
                total = one if total is None else total + one
            assert total is not None
            return balls.norm(total, balls.exponent_of(kernel))


def layer(index: int, modes: Sequence[PaddingMode] = ("zeros",), largest: int = LARGEST) -> Layer:
    random = np.random.RandomState(index)
    while True:
        drawn = _drawn(index, random, str(random.choice(list(modes))))
        # Of layers that are zero, since their taps read nothing but padding, a few are enough.
        if drawn is not None and _sides(drawn) <= largest and (_sees(drawn) or random.randint(8) == 0):
            return drawn


def _sees(drawn: Layer) -> bool:
    if drawn.geometry["padding_mode"] != "zeros":
        return True
    seen = drawn.kernel != 0
    for j, a in enumerate(drawn.axes):
        inside = [any(0 <= a.s * m + a.r * t - a.before < a.n for m in range(a.outputs)) for t in range(a.k)]
        seen &= np.asarray(inside).reshape(-1, *[1] * (drawn.kernel.ndim - 3 - j))
    return bool(np.any(seen))


def _sides(drawn: Layer) -> int:
    first, second = drawn.kernel.shape[0], drawn.kernel.shape[1] * drawn.geometry["groups"]
    axes = drawn.axes
    return int(max(first * math.prod(a.outputs for a in axes), second * math.prod(a.n for a in axes)))


def _drawn(index: int, random: Random, mode: str) -> Layer | None:
    ndim = int(random.choice([1, 1, 1, 2, 2, 2, 3]))
    kernel_shape = tuple(int(random.randint(1, {1: 8, 2: 5, 3: 4}[ndim])) for _ in range(ndim))
    stride = tuple(int(random.choice([1, 1, 1, 2, 2, 3, 4, 5])) for _ in range(ndim))
    dilation = tuple(int(random.choice([1, 1, 1, 2, 2, 3, 4, 6])) for _ in range(ndim))
    transposed = mode == "zeros" and random.randint(3) == 0
    groups = int(random.choice([1, 1, 1, 2, 3]))
    channels = (1, 1) if random.randint(3) == 0 else tuple(int(random.randint(1, 5)) for _ in range(2))
    padding = _padding(random, kernel_shape, dilation)
    pads = padding_pairs(padding, kernel_shape, dilation)
    sizes = []
    for k, s, r, (before, after) in zip(kernel_shape, stride, dilation, pads, strict=True):
        reach = r * (k - 1) + 1
        least = max(1, -(-(before + after - reach + 1) // s) + 1 if transposed else reach - before - after)
        if mode in ("reflect", "symmetric"):
            least = max(least, max(before, after) + (mode == "reflect"))
        last = int(random.randint(1, SIDES[ndim] + 1))
        near = [1, 1, 2, 3, k - 1, k, k + 1, reach, s, 2 * s, 2 * s + 1, 3 * s - 1, last]
        sizes.append(max(least, min(int(random.choice(near)), SIDES[ndim])))
        if sizes[-1] > 2 * SIDES[ndim]:
            return None
    family, dtype = NAMES[random.randint(len(NAMES))], str(random.choice(["float32", "float64"]))
    kernel = FAMILIES[family](random, (channels[0] * groups, channels[1], *kernel_shape))
    exponent = int(
        random.choice([0, 0, 0, 30, -30] if dtype == "float32" or family == "faint" else [0, 0, 0, 200, -200])
    )
    with np.errstate(under="ignore"):
        kernel = (kernel * 10.0 ** (0 if family == "faint" else exponent)).astype(dtype)
    geometry = {
        "stride": stride, "dilation": dilation, "groups": groups, "transposed": transposed,
        "padding_mode": mode, "padding": padding,
    }  # fmt: skip
    return Layer(index, family, kernel, tuple(sizes), geometry)


def _padding(random: Random, kernel_shape: Shape, dilation: Shape) -> Any:
    kind = random.randint(6)
    if kind < 2:
        return "same"
    if kind < 5:
        return int([0, 1, 2][kind - 2])
    reach = [r * (k - 1) + 1 for k, r in zip(kernel_shape, dilation, strict=True)]
    return [(int(random.randint(0, m + 3)), int(random.randint(0, m + 3))) for m in reach]
