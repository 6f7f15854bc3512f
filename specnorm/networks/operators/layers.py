"""Layers: convolutions and products with constant matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from specnorm.backends import backend_for
from specnorm.errors import GeometryError
from specnorm.linalg import layer_map
from specnorm.networks.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NotRunError,
    Offset,
    Operator,
    Place,
    in_parts,
)
from specnorm.runtime.execution import Execution
from specnorm.spec import ConvSpec
from specnorm.types import AnyArray


@dataclass(frozen=True, eq=False)
class Layer:
    """A kernel in a network.

    Parameters
    ----------
    name : str
        Of the kernel, as a user knows it. Nothing is known by it.
    load : callable
        Gives the kernel, in torch's order.
    geometry : mapping
        Keywords of specnorm's functions, with padding and without ``input_shape``.
    spatial : int
        Number of the kernel's spatial axes.
    turned : bool
        Whether a matrix is stored with its outputs last.
    error : callable or None
        Of a matrix that was computed: gives by how much each entry may be off.
    """

    name: str
    load: Callable[[], AnyArray]
    geometry: Mapping[str, Any]
    spatial: int
    turned: bool = False
    error: Callable[[], AnyArray] | None = None

    def kernel(self) -> FloatArray:
        """The kernel in float64, exactly; a matrix with its outputs first."""
        stored: Any = self.load()
        kernel = np.asarray(backend_for(stored).to_numpy(stored), dtype=np.float64)
        return kernel.T if self.turned else kernel


@dataclass(frozen=True, eq=False)
class Convolution(Linear):
    """Convolution or transposed convolution of a value of shape (samples, channels, *spatial) with a constant kernel.

    Parameters
    ----------
    layer : Layer
        With one spatial axis or more.
    bias : callable or None
        What is added.
    extra : tuple of int
        Rows behind the last one of each spatial axis that hold what is added alone: a transposed convolution's, whose
        output padding is beyond what is cropped.
    sized : bool
        Whether the padding is the layer's own; else it depends on sizes that are not known, and the norm alone holds.
    """

    rule: ClassVar[str] = "layer"
    layer: Layer
    bias: Offset | None = None
    extra: tuple[int, ...] = ()
    sized: bool = True

    def linear_map(self, place: Place) -> LinearMap | None:
        """The layer as a linear map at its input's size."""
        befores = place.sizes()
        if not self.sized or befores is None or len(befores[0]) != self.layer.spatial + 2:
            return None
        kernel = self.layer.kernel()
        try:
            return self._at(befores[0], kernel, place) if np.all(np.isfinite(kernel)) else None
        except GeometryError:
            return None

    def _at(self, before: tuple[int, ...], kernel: FloatArray, place: Place) -> LinearMap | None:
        geometry = dict(self.layer.geometry)
        spec = ConvSpec.of(kernel.shape, **geometry)
        pads = None
        divided = not any(n % s for n, s in zip(before[2:], spec.stride, strict=True))
        if spec.padding_mode == "circular" and not spec.transposed and not divided:
            # No layer of `ConvSpec`: what wraps around is padded first.
            pads, geometry = spec.padding, {**geometry, "padding": 0, "padding_mode": "zeros"}
        sizes = tuple(n + sum(pair) for n, pair in zip(before[2:], pads or ((0, 0),) * spec.ndim, strict=True))
        at = ConvSpec.of(kernel.shape, **{**geometry, "input_shape": sizes})
        one: Any = kernel[None]
        layer = layer_map.Convolution(one, at, ops=Execution.of(backend_for(kernel), one))
        extra = self.extra or (0,) * spec.ndim
        shape = (before[0], spec.cout, *(n + more for n, more in zip(layer.shapes[1][1:], extra, strict=True)))
        if before[1] != spec.cin or not place.fits(shape):
            return None
        entries = kernel[0].size * spec.groups * max(map(math.prod, (sizes, shape[2:])))

        def applied(layer: layer_map.Convolution) -> Apply:
            def samples(x: FloatArray) -> FloatArray:
                if pads is not None:
                    x = np.pad(x, ((0, 0), (0, 0), *pads), mode="wrap")
                wide: Any = x.reshape(1, len(x), layer.shape[1])
                return np.asarray(layer.apply(wide)).reshape(len(x), *layer.shapes[1])

            def apply(x: Sequence[FloatArray]) -> FloatArray:
                found = in_parts(samples, x[0].reshape(-1, *before[1:]), entries)
                if any(extra):
                    found = np.pad(found, ((0, 0), (0, 0), *((0, more) for more in extra)))
                return found.reshape(len(x[0]), *shape)

            return apply

        flat = _by_output(kernel, spec).reshape(spec.cout, -1)
        # Padding by pixels may add taps up at one of them.
        length = np.linalg.norm(flat, axis=1) if spec.padding_mode == "zeros" else abs(flat).sum(axis=1)
        roundings, ones = max(layer.roundings) + flat.shape[1] + 4, (1,) * spec.ndim
        return LinearMap(
            applied(layer), applied(layer.absolute()), roundings, length.reshape(-1, *ones), self.bias
        )  # fmt: skip


def _by_output(kernel: FloatArray, spec: ConvSpec) -> FloatArray:
    """What each output channel reads, along the first axis."""
    if not spec.transposed:
        return kernel
    # (cin, cout / groups, ...): output g c + o reads the inputs of its group.
    split = kernel.reshape(spec.groups, spec.cin // spec.groups, *kernel.shape[1:])
    return np.moveaxis(split, 1, 2)


@dataclass(frozen=True, eq=False)
class Matrix(Linear):
    """Product with a constant matrix K of shape (out, in), `Layer.turned` taken into account.

    Parameters
    ----------
    layer : Layer
        Without spatial axes.
    bias : callable or None
        What is added.
    alpha : float
        A number that the product is multiplied by.
    side : {"right", "left"}
        "right": ``alpha * x @ K.T`` along the last axis; "left": ``alpha * K @ x`` along the last but one.
    """

    rule: ClassVar[str] = "layer"
    layer: Layer
    bias: Offset | None = None
    alpha: float = 1.0
    side: Literal["right", "left"] = "right"

    def linear_map(self, place: Place) -> LinearMap | None:
        """The product; None for a matrix that is off."""
        befores = place.sizes()
        if befores is None or self.layer.error is not None or not math.isfinite(self.alpha):
            return None
        (before,), kernel = befores, self.layer.kernel()
        outputs, inputs = kernel.shape
        axis = len(before) - (1 if self.side == "right" else 2)
        if axis < 0 or before[axis] != inputs or not np.all(np.isfinite(kernel)):
            return None
        if not place.fits((*before[:axis], outputs, *before[axis + 1 :])):
            return None

        def made(alpha: float, k: FloatArray) -> Apply:
            return lambda x: alpha * (x[0] @ k.T if self.side == "right" else k @ x[0])

        rows = abs(self.alpha) * np.linalg.norm(kernel, axis=1).reshape(-1, *(1,) * (len(before) - 1 - axis))
        both = made(self.alpha, kernel), made(abs(self.alpha), abs(kernel))
        return LinearMap(*both, inputs + 4, rows, self.bias)


@dataclass(frozen=True, eq=False)
class Matrices(Operator):
    """Product with a stack of constant matrices, each of which reads entries of its own: at most the largest norm.

    Parameters
    ----------
    layer : Layer
        A stack (b, m, n), of complex numbers (b, m, n, 2) with real and imaginary parts.
    equation : str
        Of `numpy.einsum`, for the value and `constant`.
    constant : callable
        The constants in the order that the equation has.
    """

    rule: ClassVar[str] = "matrices"
    layer: Layer
    equation: str
    constant: Callable[[], FloatArray]

    def run(self, *values: FloatArray) -> FloatArray:
        """By `numpy.einsum`."""
        return self._product(values[0], np.asarray(self.constant()))

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Gamma of the number of terms, of the sum of their absolute values; complex products have three roundings."""
        del result
        constant = np.asarray(self.constant())
        return 2 * (constant.size + 8) * unit * self._product(abs(values[0]), abs(constant))

    def _product(self, x: FloatArray, constant: FloatArray) -> FloatArray:
        try:
            return np.asarray(np.einsum(self.equation, x, constant))
        except ValueError as error:
            raise NotRunError(f"{self.equation} does not fit {x.shape} and {constant.shape}: {error}") from error
