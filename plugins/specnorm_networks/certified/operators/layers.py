"""Layers: convolutions and products with constant matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.errors import GeometryError, KernelError
from specnorm.proof import AnyArray, host, layer_map
from specnorm_networks.certified.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NotRunError,
    Offset,
    Operator,
    Place,
    Sizes,
)
from specnorm_networks.certified.operators.broadcasting import in_parts

NUMPY: Any = SimpleNamespace(
    xp=np, concrete=True, memory=2**28, device=lambda _: None, from_numpy=lambda x, _: x, to_numpy=lambda x: x
)
"""What a convolution in NumPy needs of `types.ArrayOps`."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A kernel in a network."""

    name: str
    """As a user knows it; nothing is known by it."""
    load: Callable[[], AnyArray]
    """Gives the kernel, in torch's order."""
    geometry: Mapping[str, Any]
    """Keywords of specnorm's functions, with padding and without ``input_shape``."""
    spatial: int
    """Number of the kernel's spatial axes."""
    transposed: bool = False
    """Whether a matrix is stored with its outputs last."""
    error: Callable[[], AnyArray] | None = None
    """Of a matrix that was computed: gives by how much each entry may be off."""

    to_host: Callable[[AnyArray], NDArray[Any]] = np.asarray
    """Makes a NumPy array of what ``load`` gives, exactly."""

    def stored(self) -> Any:
        """The kernel as its library has it; a matrix with its outputs first."""
        stored = self.load()
        return stored.T if self.transposed else stored

    def kernel(self) -> FloatArray:
        """The same in float64, exactly."""
        stored = self.stored()
        try:
            return np.asarray(self.to_host(stored), dtype=np.float64)
        except (TypeError, RuntimeError) as error:
            raise KernelError(
                f"The kernel of {self.name!r} is a {type(stored).__name__}, which NumPy does not read ({error}): give "
                "Layer(..., to_host=...), a function that makes a NumPy array of it."
            ) from error


class _Layered(Linear):
    """A layer with a kernel, and a bias."""

    layer: Layer
    bias: Offset | None = None


class Convolution(_Layered):
    """Convolution or transposed convolution of (samples, channels, *spatial) with a constant kernel.

    Its layer has one spatial axis or more.
    """

    rule = "layer"
    extra: tuple[int, ...] = ()
    """Rows behind the last one of each spatial axis that hold the bias alone: of a transposed convolution whose output
    padding is beyond what is cropped."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset({0})

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if len(before) != self.layer.spatial + 2:
            return None
        kernel = self.layer.kernel()
        try:
            return self._at(before, kernel) if np.all(np.isfinite(kernel)) else None
        except (GeometryError, KernelError):
            return None

    def _at(self, before: Sizes, kernel: FloatArray) -> LinearMap | None:
        geometry = dict(self.layer.geometry)
        spec = ConvSpec.of(kernel.shape, **geometry)
        pads = None
        divided = not any(n % s for n, s in zip(before[2:], spec.stride, strict=True))
        if spec.padding_mode == "circular" and not spec.transposed and not divided:
            # No layer of `ConvSpec`: what wraps around is padded first.
            pads = spec.padding
            geometry = {**geometry, "padding": 0, "padding_mode": "zeros"}
        sizes = tuple(n + sum(pair) for n, pair in zip(before[2:], pads or ((0, 0),) * spec.ndim, strict=True))
        at = ConvSpec.of(kernel.shape, **{**geometry, "input_shape": sizes})
        one: Any = kernel[None]
        layer = layer_map.Convolution(one, at, ops=NUMPY)
        extra = self.extra or (0,) * spec.ndim
        shape = (before[0], spec.cout, *(n + more for n, more in zip(layer.shapes[1][1:], extra, strict=True)))
        if before[1] != spec.cin:
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

        def back(y: FloatArray) -> FloatArray:
            whole: tuple[Any, ...] = (..., *(slice(n - more) for n, more in zip(shape[2:], extra, strict=True)))
            y = y[whole]
            wide: Any = y.reshape(1, len(y), layer.shape[0])
            return np.asarray(layer.adjoint(wide)).reshape(len(y), *layer.shapes[0])

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [in_parts(back, y.reshape(-1, *shape[1:]), 4 * entries).reshape(len(y), *before)]

        flat = _by_output(kernel, spec).reshape(spec.cout, -1)
        # Padding by pixels may add taps up at one of them, but for circular padding by no more than a whole turn.
        taps = flat.shape[1]
        extents = [r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)]
        once = all(extent <= n for extent, n in zip(extents, before[2:], strict=True)) and not spec.transposed
        apart = spec.padding_mode == "zeros" or (spec.padding_mode == "circular" and once)
        rows = host.norm_up(flat) if apart else host.inflate(abs(flat).sum(axis=1), taps)
        both = applied(layer), applied(layer.absolute())
        return LinearMap(
            *both, max(layer.roundings) + taps + 4, rows.reshape(-1, *(1,) * spec.ndim), self.bias, shape,
            adjoint if pads is None else None, max(layer.roundings) + taps + 4, entries=2 * kernel.size,
        )  # fmt: skip


def _by_output(kernel: FloatArray, spec: ConvSpec) -> FloatArray:
    if not spec.transposed:
        return kernel
    # (cin, cout / groups, ...): output g c + o reads the inputs of its group.
    split = kernel.reshape(spec.groups, spec.cin // spec.groups, *kernel.shape[1:])
    return np.moveaxis(split, 1, 2)


class Matrix(_Layered):
    """Product with a constant matrix K of shape (out, in), `Layer.transposed` taken into account.

    Its layer has no spatial axes.
    """

    rule = "layer"
    alpha: float = 1.0
    """A number that the product is multiplied by."""
    side: Literal["right", "left"] = "right"
    """"right": ``alpha * x @ K.T`` along the last axis; "left": ``alpha * K @ x`` along the last but one."""

    def alike(self, place: Place) -> frozenset[int]:
        ndim = len(place.after or ())
        return frozenset(range(ndim)) - {ndim - (1 if self.side == "right" else 2)}

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if self.layer.error is not None or not math.isfinite(self.alpha):
            return None
        kernel = self.layer.kernel()
        outputs, inputs = kernel.shape
        axis = len(before) - (1 if self.side == "right" else 2)
        if axis < 0 or before[axis] != inputs or not np.all(np.isfinite(kernel)):
            return None

        def made(alpha: float, k: FloatArray) -> Apply:
            return lambda x: alpha * (x[0] @ k.T if self.side == "right" else k @ x[0])

        rows = host.next_up(abs(self.alpha) * host.norm_up(kernel)).reshape(-1, *(1,) * (len(before) - 1 - axis))
        both = made(self.alpha, kernel), made(abs(self.alpha), abs(kernel))
        shape = (*before[:axis], outputs, *before[axis + 1 :])
        back = made(self.alpha, kernel.T)
        return LinearMap(
            *both, inputs + 4, rows, self.bias, shape, lambda y: [back([y])], outputs + 4, entries=2 * kernel.size,
        )  # fmt: skip


class Matrices(Operator):
    """Product with a stack of constant matrices, each of which reads entries of its own: at most the largest norm."""

    rule = "matrices"
    layer: Layer
    """A stack (b, m, n)."""
    equation: str
    """Of `numpy.einsum`, for the value and `constant`."""
    constant: Callable[[], FloatArray]
    """The constants in the order that the equation has."""

    def run(self, *values: FloatArray) -> FloatArray:
        return self._product(values[0], np.asarray(self.constant()))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # Gamma of the number of terms, of the sum of their absolute values.
        constant = np.asarray(self.constant())
        return 2 * (constant.size + 2) * unit * self._product(abs(values[0]), abs(constant))

    def _product(self, x: FloatArray, constant: FloatArray) -> FloatArray:
        try:
            return np.asarray(np.einsum(self.equation, x, constant))
        except ValueError as error:
            raise NotRunError(f"{self.equation} does not fit {x.shape} and {constant.shape}: {error}") from error
