"""Sampling at constant positions, and the discrete Fourier transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import Row
from specnorm_networks.certified.operators.base import Affine, FloatArray, Known, LinearMap, NoBoundError, Place, Shape
from specnorm_networks.certified.operators.windows import weighted_sums_along


class Sample(Affine):
    """Sums of entries of the last axes with weights >= 0. Its constant is the norm of the matrix of these weights."""

    rule = "sample"
    rows: tuple[Row, ...]
    """Entries that each output reads, counted along all these axes, with weights."""
    points: tuple[int, ...]
    """Sizes of the value along these axes."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.axes) - len(self.points)))

    def lipschitz(self, place: Place) -> float:
        return axes.weights_norm_up(self.rows)

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        axis = len(before) - len(self.points)
        flat = (*before[:axis], math.prod(before[axis:]))
        after = (*before[:axis], *self.points)
        linear = weighted_sums_along(flat, {axis: self.rows})
        if linear is None:
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return linear.apply([x[0].reshape(-1, *flat)]).reshape(-1, *after)

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [linear.back(y.reshape(-1, *flat[:axis], len(self.rows)))[0].reshape(-1, *before)]

        return LinearMap(apply, absolute=apply, roundings=linear.roundings, shape=after, adjoint=adjoint)

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        # A library that rounds coordinates moves them by a rounding of the number of pixels.
        (x,) = values
        pixels = sum(x.shape[len(x.shape) - len(self.points) :])
        size: FloatArray = super().size_of_terms(values, result) + pixels * abs(x).max(initial=0.0)
        return size


class FourierTransform(Known):
    """The discrete Fourier transform along one axis; the last axis has real parts, and imaginary ones if it has size 2.

    The matrix of the transform of L entries is sqrt(L) times a unitary matrix, that of the inverse 1/sqrt(L) times one.
    Entries that are cut off or filled with zeros before, and outputs that are left out, make it no larger.
    """

    rule = "fourier"
    axis: int
    length: int
    """Number of entries that are transformed: further ones are cut off, missing ones are 0."""
    inverse: bool = False
    onesided: bool = False
    """Whether the outputs are those of frequencies up to one half alone."""

    def lipschitz(self, place: Place) -> float:
        if self.length < 1:
            raise NoBoundError(f"a transform of {self.length} entries")
        return host.root_up(Fraction(1, self.length) if self.inverse else self.length)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        numbers = x[..., 0] + (1j * x[..., 1] if x.shape[-1] == 2 else 0)
        result = (np.fft.ifft if self.inverse else np.fft.fft)(numbers, self.length, self.axis)
        if self.onesided:
            result = np.take(result, range(self.length // 2 + 1), self.axis)
        return np.stack([result.real, result.imag], -1)

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        sums = abs(values[0]).sum(axis=(self.axis, -1), keepdims=True)
        return np.broadcast_to(sums / self.length if self.inverse else sums, result.shape)
