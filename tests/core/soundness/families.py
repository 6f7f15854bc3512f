"""Kernels made to break bounds, each from one number. Imports nothing of specnorm.

A family draws a kernel and, where there is one, a closed form of its supremum ``sigma* = max ||G(theta)||``, exact to
70 digits for the numbers that the floats are. Add the kernel that broke something as a family.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from core.soundness.balls import BITS, Exact, largest, norm, power_of_two, scalar_supremum
from flint import arb, ctx
from helpers.cases import FAMILIES as PLAIN
from numpy.typing import NDArray

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


def dense_shape(random: Random, channels: int = 4) -> tuple[int, ...]:
    ndim = random.choice((0, 1, 1, 2, 2, 3))
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


def _scalar(random: Random) -> Draw:
    """One channel: any polynomial, also on an oblique line of a kernel with more axes."""
    taps = polynomial(random, random.randint(1, 9))[None, None]
    ndim = int(random.choice([1, 1, 1, 2, 3]))
    if ndim == 1:
        return Draw(taps, lambda kernel: scalar_supremum([kernel[0, 0]]))
    kernel = placed(random, taps[..., :4], ndim)
    where = np.flatnonzero(placed_mask(kernel))
    return Draw(kernel, lambda final: scalar_supremum([_along(final, where)]))


def placed_mask(kernel: Float) -> NDArray[np.bool_]:
    """Taps that any channel pair uses, flat."""
    return np.asarray(np.abs(kernel).max(axis=(0, 1)).reshape(-1) > 0)


def _along(kernel: Float, where: NDArray[np.int64]) -> Float:
    # Zero coefficients inside the line would be lost by looking at nonzero taps: the line is a shear of them, so the
    # polynomial in one variable is read off the taps' own order and distances.
    flat = kernel.reshape(-1)
    out = np.zeros(int(np.ptp(where)) // _gap(where) + 1) if len(where) else np.zeros(1)
    for index in where:
        out[(index - where[0]) // _gap(where)] = flat[index]
    return out


def _gap(where: NDArray[np.int64]) -> int:
    return int(np.gcd.reduce(np.diff(where))) if len(where) > 1 else 1


def _stack(random: Random) -> Draw:
    """One column or one row of channels: the sum of squares."""
    count, length = random.randint(2, 6), random.randint(1, 7)
    taps = np.stack([polynomial(random, length) for _ in range(count)])
    values = taps[:, None] if random.randint(2) else taps[None]
    return Draw(values, lambda kernel: scalar_supremum(list(kernel.reshape(count, length))))


def _diagonal(random: Random) -> Draw:
    """A permuted diagonal of polynomials; often two maxima that are nearly equal, at different frequencies."""
    size, length = random.randint(2, 5), random.randint(2, 6)
    taps = np.stack([polynomial(random, length) for _ in range(size)])
    if random.randint(2):
        # Half a turn away, and higher or lower by almost nothing.
        taps[1] = taps[0] * (-1.0) ** np.arange(length) * (1 + 10.0 ** -random.randint(3, 16) * random.choice([-1, 1]))
    order = random.permutation(size)
    values = np.zeros((size, size, length))
    values[np.arange(size), order] = taps
    return Draw(values, lambda kernel: largest([scalar_supremum([kernel[j, i]]) for j, i in enumerate(order)]))


def _hadamard(random: Random) -> Draw:
    """``H diag(polynomials) H`` with Hadamard's matrix: dense, sums exact, ``n`` times the largest."""
    h = np.array([[1.0, 1.0], [1.0, -1.0]])
    h = np.kron(h, h) if random.randint(2) else h
    length = random.randint(1, 5)
    taps = np.stack([polynomial(random, length, whole=True) for _ in range(len(h))])
    if random.randint(3) == 0:
        taps[:] = taps[0] * random.choice([-1.0, 1.0], size=(len(h), 1))  # every singular value equal
    values = np.einsum("oj,jk,ij->oik", h, taps, h)
    base = largest([scalar_supremum([c]) for c in taps])
    unit = _scale_from(values)
    return Draw(values, lambda kernel: scaled(base * len(h), unit(kernel)), exact=True)


def _scale_from(values: Float) -> Callable[[Float], arb]:
    """Power of two by which a kernel drawn exactly was scaled."""
    place = np.unravel_index(int(np.argmax(np.abs(values))), values.shape)
    start = int(np.frexp(values[place])[1])
    return lambda kernel: power_of_two(int(np.frexp(kernel[place])[1]) - start) if values[place] else arb(0)


def _decaying(random: Random) -> Draw:
    """Sixteen channels with few large directions: a closed form by Hadamard's matrix, or random rotations without."""
    h = np.array([[1.0, 1.0], [1.0, -1.0]])
    h = np.kron(np.kron(h, h), np.kron(h, h))
    size, length, ndim = len(h), random.randint(1, 4), random.randint(1, 3)
    taps = np.stack([polynomial(random, length, whole=True) for _ in range(size)])
    taps *= 2.0 ** -np.minimum(np.arange(size) // random.randint(1, 4), 6)[:, None]
    if random.randint(2):
        values = np.einsum("oj,jk,ij->oik", h, taps, h)
        unit, base = _scale_from(values), largest([scalar_supremum([c]) for c in taps])
        return Draw(values, lambda kernel: scaled(base * size, unit(kernel)), exact=True)
    left, right = (np.linalg.qr(random.standard_normal((size, size)))[0] for _ in range(2))
    values = np.einsum("oj,jk,ij->oik", left, taps, right) * (1 + 0.1 * random.standard_normal((size, size, 1)))
    return Draw(placed(random, values, ndim))


def _rotation(random: Random) -> Draw:
    """``sum_k c_k J**k e^{ik theta}`` with J a quarter turn: complex singular vectors, norm that of one polynomial."""
    taps = polynomial(random, random.randint(2, 6), whole=True)
    j, power, blocks = np.array([[0.0, -1.0], [1.0, 0.0]]), np.eye(2), []
    for c in taps:
        blocks.append(c * power)
        power = power @ j
    values = np.stack(blocks, axis=-1)
    unit = _scale_from(values)
    base = scalar_supremum([taps])
    return Draw(values, lambda kernel: scaled(base, unit(kernel)), exact=True)


def _separable(random: Random) -> Draw:
    """Outer products of whole polynomials, with or without channels: the maxima multiply."""
    ndim = random.randint(2, 4)
    axes = [polynomial(random, random.randint(1, 5 - ndim + 1), whole=True) for _ in range(ndim)]
    channels = random.randint(-2, 3, size=(random.randint(1, 4), 1)).astype(float)
    values: Float = channels if random.randint(2) else channels.T
    base = norm(Exact(values).matrix()).high
    for axis in axes:
        values = np.multiply.outer(values, axis)
        base = scaled(base, scalar_supremum([axis]))
    unit = _scale_from(values)
    return Draw(values, lambda kernel: scaled(base, unit(kernel)), exact=True)


STENCILS = ((1.0, 1.0), (1.0, 2.0, 1.0), (1.0, -1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0), (1.0, 1.0, 1.0), (1.0,))


def _stencil(random: Random) -> Draw:
    """Sums, differences, Laplacians, Sobel: the symbol is 0 somewhere, the maximum at 0, at pi, or both."""
    ndim = int(random.choice([1, 2, 2, 3]))
    if ndim == 2 and random.randint(3) == 0:
        laplacian = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
        unit = _scale_from(laplacian)
        return Draw(laplacian, lambda kernel: scaled(arb(8), unit(kernel)), exact=True)
    values, total = np.ones((1, 1)), arb(1)
    for _ in range(ndim):
        axis = np.asarray(STENCILS[random.randint(len(STENCILS))])
        values = np.multiply.outer(values, axis)
        total *= arb(float(np.abs(axis).sum()))  # each is largest at 0 or at pi (or pi / 2), where the terms align
    unit = _scale_from(values)
    return Draw(values, lambda kernel: scaled(total, unit(kernel)), exact=True)


def _ones(random: Random) -> Draw:
    """All ones: taps times the root of the channels; or zero."""
    values = np.ones(dense_shape(random)) * random.choice([1.0, 1.0, 1.0, 0.0])
    return Draw(values, constant_supremum(values.shape[0] * values.shape[1], values[0, 0].size), at_zero=True)


def _corners(random: Random) -> Draw:
    """Two opposite corners: one cosine, the worst case of the lemmas on cells and grids, with a ridge of maxima."""
    sizes = random.randint(1, 5, size=random.randint(1, 4))
    values = np.zeros((1, 1, *sizes))
    values[(0, 0, *(0 for _ in sizes))] = 1.0
    values[(0, 0, *(-1 for _ in sizes))] += random.choice([-1.0, 1.0])
    peak = float(np.abs(values).sum())  # the two taps align somewhere, unless they are one
    unit = _scale_from(values)
    return Draw(values, lambda kernel: scaled(arb(peak), unit(kernel)), exact=True)


def _two_peaks(random: Random) -> Draw:
    """A polynomial and its mirror at half a turn in one dense 2x2 kernel: two maxima, close or equal in height."""
    taps = random.randint(-9, 10, size=random.randint(2, 7)).astype(float)
    other = taps * (-1.0) ** np.arange(len(taps))
    other[random.randint(len(other))] += random.choice([0.0, 2.0**-6, -(2.0**-6), 2.0**-20])
    h = np.array([[1.0, 1.0], [1.0, -1.0]])
    values = np.einsum("oj,jk,ij->oik", h, np.stack([taps, other]), h)

    def total(kernel: Float) -> arb:
        """From the final kernel: rounding keeps its symmetry, so H K H is diagonal; its sums have few bits."""
        back = np.einsum("oj,jik,il->olk", h, kernel, h)
        return scaled(largest([scalar_supremum([back[0, 0]]), scalar_supremum([back[1, 1]])]), power_of_two(-1))

    return Draw(values, total, exact=True)


def _long(random: Random) -> Draw:
    """One number in a long column or row: rounding errors of its sums have one sign and add up."""
    count, length = int(random.choice([200, 1000, 4000])), random.randint(1, 4)
    values = np.full((count, 1, length), random.uniform(1, 2))
    if random.randint(2):
        values = np.swapaxes(values, 0, 1)
    return Draw(values, constant_supremum(count, length), at_zero=True)


def _plain(family: str, random: Random) -> Draw:
    """A family of all packages' tests, or nearly; also with more channels, whose allowances are larger."""
    values = PLAIN[family](random, dense_shape(random, channels=int(random.choice([4, 4, 24]))))
    near = 10.0 ** -random.randint(2, 18) * random.randint(2)
    return Draw(values + near * random.standard_normal(values.shape), exact=family == "integer" and not near)


CLOSED: tuple[Callable[[Random], Draw], ...] = (
    _scalar, _stack, _diagonal, _hadamard, _decaying, _rotation, _separable, _stencil,
    _ones, _corners, _two_peaks, _long,
)  # fmt: skip
FAMILIES = {x.__name__[1:].replace("_", " "): x for x in CLOSED} | {
    name: functools.partial(_plain, name) for name in PLAIN if name not in ("zero", "ones", "corners")
}

DTYPES = ("float64", "float64", "float32", "float16")
_SCALES = {
    # Powers of ten and of two; the last ones reach into subnormal numbers.
    "float64": ((200, -200, 300, -300, -308, -310), (664, -664, 990, -1000, -1060, -1068)),
    "float32": ((30, -30, 36, -36, -39), (99, -99, 118, -120, -140)),
    "float16": ((-3, -5), (-8, -18)),
}


def case(index: int, *, dtypes: tuple[str, ...] = DTYPES, family: str | None = None, subnormal: bool = True) -> Case:
    """The kernel of a number: the same on every machine."""
    random = np.random.RandomState(index)
    name = family or list(FAMILIES)[index % len(FAMILIES)]
    draw = FAMILIES[name](random)
    dtype = dtypes[random.randint(len(dtypes))]
    decimal, binary = _SCALES[dtype]
    which = random.randint(3 * len(decimal))
    if not subnormal:
        which = which if which < 2 else len(decimal)
    values = draw.values
    if which < len(decimal):
        values = np.ldexp(values, binary[which]) if draw.exact else values * 10.0 ** decimal[which]
    kernel = values.astype(dtype)
    if _has_single_entries(kernel):
        return Case(index, name, kernel, lambda values: arb(float(np.max(np.abs(values), initial=0.0))), at_zero=True)
    return Case(index, name, kernel, draw.supremum, draw.at_zero)


def _has_single_entries(kernel: NDArray[Any]) -> bool:
    """Whether rows and columns have one entry other than 0, over all taps: their modulus is that at each frequency."""
    used = np.count_nonzero(kernel.reshape(*kernel.shape[:2], -1), axis=2)
    return bool(used.sum(axis=0).max(initial=0) <= 1 and used.sum(axis=1).max(initial=0) <= 1)
