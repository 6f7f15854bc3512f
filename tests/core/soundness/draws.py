"""What a kernel of a family is, and the parts that families are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, ctx
from numpy.typing import NDArray

from soundness.balls import BITS

Random = np.random.RandomState
Float = NDArray[np.float64]
Supremum = Callable[[Float], arb]
"""Takes the kernel as it was rounded to its dtype."""


@dataclass(frozen=True, eq=False)
class Draw:
    """What a family draws, before the scale and the dtype.

    Parameters
    ----------
    values : array
    supremum : callable or None
        Closed form for the final kernel.
    exact : bool
        Few enough bits for every dtype; scaled by powers of two only, so that the structure survives.
    at_zero : bool
        The supremum is attained at frequency 0, so every circular size has it too.
    """

    values: Float
    supremum: Supremum | None = None
    exact: bool = False
    at_zero: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel, and its supremum if that is known."""

    index: int
    family: str
    kernel: NDArray[Any]
    closed_form: Supremum | None
    at_zero: bool = False

    def __str__(self) -> str:
        return f"case {self.index}: {self.family} {self.kernel.shape} {self.kernel.dtype}"

    def supremum(self) -> arb | None:
        """The closed form."""
        return None if self.closed_form is None else self.closed_form(self.kernel.astype(np.float64))


def scaled(x: arb, factor: arb) -> arb:
    with ctx.workprec(BITS):
        return x * factor


def constant_supremum(pairs: int, taps: int) -> Supremum:
    """Closed form of a kernel of one number: the root of its channel pairs times its taps times the number."""

    def total(kernel: Float) -> arb:
        with ctx.workprec(BITS):
            root: arb = arb(pairs).sqrt()
            return root * taps * arb(abs(float(kernel.flat[0])))

    return total


def polynomial(random: Random, length: int, *, whole: bool = False) -> Float:
    """Coefficients of one channel pair: Gaussian, whole, graded over twelve decades, or cancelling."""
    kind = 1 if whole else random.randint(4)
    if kind == 0:
        return random.standard_normal(length)
    if kind == 1:
        return random.randint(-3, 4, size=length).astype(float)
    if kind == 2:
        return random.standard_normal(length) * 10.0 ** random.uniform(-12, 0, size=length)
    values = np.round(random.standard_normal(length), 1)
    values[-1] -= values.sum()
    return values


def dense_shape(random: Random, *, ndims: tuple[int, ...] = (0, 1, 1, 2, 2, 3), channels: int = 4) -> tuple[int, ...]:
    """A small shape: rectangular, even, odd, one channel, one tap."""
    ndim = random.choice(ndims)
    most = {0: 1, 1: 7, 2: 4, 3: 2}[int(ndim)]
    return (*random.randint(1, channels + 1, size=2), *random.randint(1, most + 1, size=ndim))


def placed(random: Random, taps: Float, ndim: int) -> Float:
    """Put (m, p, k) along a line of an ndim-dimensional kernel: ridges of maxima where the line is oblique."""
    m, p, k = taps.shape
    steps = [int(random.randint(-1, 2)) for _ in range(ndim)]
    steps[random.randint(ndim)] = int(random.choice([1, 1, 2] if ndim == 1 else [1, -1, 1, 2]))
    kernel = np.zeros((m, p, *(abs(s) * (k - 1) + 1 for s in steps)))
    for j in range(k):
        kernel[(slice(None), slice(None), *(s * j if s >= 0 else -s * (k - 1 - j) for s in steps))] = taps[:, :, j]
    return kernel
