"""Discrete Fourier transforms, in norms in which they are unitary up to a number."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from specnorm.networks.operators.base import Operator


@dataclass(frozen=True, eq=False)
class Fourier(Operator):
    """A transform along axes: the root of ``squared``.

    Complex values are measured by the root of the sum of w |z|^2, w = 2 for entries of a one-sided spectrum that stand
    for their mirror images, too, and else 1. The front end says by how much weights differ.

    Parameters
    ----------
    kind : {"fft", "ifft", "rfft", "irfft"}
    axes, sizes : tuple of int
    norm : {"backward", "ortho", "forward"}
    squared : Fraction
    """

    rule: ClassVar[str] = "fourier"
    kind: Literal["fft", "ifft", "rfft", "irfft"]
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    norm: Literal["backward", "ortho", "forward"]
    squared: Fraction


@dataclass(frozen=True, eq=False)
class ComplexPart(Operator):
    """Real and imaginary parts along a last axis of two (``real=True``), or such an axis as complex numbers."""

    rule: ClassVar[str] = "select"
    real: bool
