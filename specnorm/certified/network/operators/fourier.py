"""Discrete Fourier transforms, in norms in which they are unitary up to a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from specnorm.certified import host
from specnorm.certified.network.operators.base import FloatArray, NotRunError, Operator, Place


def one_over_up(divisors: FloatArray) -> FloatArray:
    """Absolute values of 1 / divisors: a few roundings, and the next number where they are subnormal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(host.next_up(host.inflate(1 / abs(divisors), 4)))


class Fourier(Operator):
    """A transform along axes: the root of ``squared``.

    Complex values are measured by the root of the sum of w |z|^2, w = 2 for entries of a one-sided spectrum that stand
    for their mirror images, too, and else 1: no less than the 2-norm. The front end says by how much weights differ.
    """

    rule = "fourier"
    kind: Literal["fft", "ifft", "rfft", "irfft"]
    axes: tuple[int, ...]
    """The last one is the one-sided one."""
    sizes: tuple[int, ...]
    """Of what is transformed, of the value for "irfft"."""
    norm: Literal["backward", "ortho", "forward"]
    squared: Fraction
    """The number by which the transform is not unitary, squared."""

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        if x.dtype.kind == "c" and self.kind == "rfft":
            raise NotRunError("rfft of complex numbers")
        transform: Any = getattr(np.fft, f"{self.kind}n")
        return np.asarray(transform(x, s=self.sizes, axes=self.axes, norm=self.norm))

    def lipschitz(self, place: Place) -> float:
        return host.root_up(self.squared)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # A few units for each halving, of what the entries' sizes can add up to. Of sizes that are no product of small
        # primes libraries make three transforms of up to four times the size.
        count = math.prod(self.sizes)
        turned = self.kind.startswith("i")
        scale = {"backward": 1 / count if turned else 1.0, "ortho": 1 / math.sqrt(count)}.get(
            self.norm, 1.0 if turned else 1 / count
        )
        length = np.sqrt(np.square(abs(values[0])).sum(axis=self.axes, keepdims=True))
        size = math.sqrt(count) * scale * length * (2 if self.kind == "irfft" else 1)
        return np.broadcast_to(64 * (math.log2(count) + 4) * unit * size, result.shape)


class ComplexPart(Operator):
    """Real and imaginary parts along a last axis of two (``real=True``), or such an axis as complex numbers."""

    rule = "select"
    lipschitz_constant = 1.0
    real: bool

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        if self.real:
            return np.stack([x.real, x.imag], axis=-1)
        if not x.ndim or x.shape[-1] != 2:
            raise NotRunError(f"a value of shape {x.shape} has no last axis of two")
        return np.asarray(x[..., 0] + 1j * x[..., 1])
