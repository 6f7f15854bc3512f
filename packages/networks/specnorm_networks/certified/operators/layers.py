"""Layers: convolutions and products with constant matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.errors import GeometryError, KernelError
from specnorm.proof import AnyArray, ArrayOps, backends, host, layer_map
from specnorm_networks.certified.operators.base import (
    Affine,
    Apply,
    FloatArray,
    Known,
    Lengths,
    LinearMap,
    NotRunError,
    Offset,
    Operator,
    Place,
    Shape,
    lengths_at,
    lengths_of,
    offset_up,
)
from specnorm_networks.certified.operators.broadcasting import apply_in_parts
from specnorm_networks.certified.operators.contractions import along, contracted
from specnorm_networks.certified.operators.linear import Pad


@dataclass(frozen=True, eq=False)
class Layer:
    """The kernel of a layer: how to load it, and the geometry in which the layer applies it.

    `Convolution` and `Matrix` are the operators that have such a kernel.
    """

    name: str
    """Name by which a user knows the kernel; it has no influence on bounds."""
    load: Callable[[], AnyArray]
    """Returns the kernel, with its axes in torch's order."""
    geometry: Mapping[str, Any]
    """Keywords of specnorm's functions, with padding and without ``input_shape``."""
    spatial: int
    """Number of the kernel's spatial axes."""
    outputs_last: bool = False
    """Whether ``load`` returns a matrix with its outputs along the last axis."""
    to_host: Callable[[AnyArray], NDArray[Any]] = np.asarray
    """Makes a NumPy array of what ``load`` returns, exactly."""

    @property
    def digested(self) -> tuple[Any, ...]:
        """What digests have of the layer: its kernel and its geometry."""
        return self.to_host(self.stored()), self.geometry, self.spatial

    def stored(self) -> Any:
        """Return the kernel as an array of its own library; a matrix with its outputs first."""
        stored = self.load()
        return stored.T if self.outputs_last else stored

    def kernel(self) -> FloatArray:
        """Return the kernel in float64, exactly."""
        stored = self.stored()
        try:
            return np.asarray(self.to_host(stored), dtype=np.float64)
        except (TypeError, RuntimeError) as error:
            raise KernelError(
                f"The kernel of {self.name!r} is a {type(stored).__name__}, which NumPy does not read ({error}): give "
                "Layer(..., to_host=...), a function that makes a NumPy array of it."
            ) from error


class _WithKernel(Affine):
    """A linear operator with a kernel, and a bias."""

    layer: Layer
    bias: Offset | None = None

    @property
    def axis_of_outputs(self) -> int:
        return -1 - self.layer.spatial


class Convolution(_WithKernel):
    """Convolution or transposed convolution of (samples, channels, *spatial) with a constant kernel.

    Its layer has one spatial axis or more.
    """

    rule = "layer"
    is_layer = True
    extra: tuple[int, ...] = ()
    """Numbers of pixels, one for each spatial axis, that the output has after the last one that reads the input. They
    hold the bias alone. A transposed convolution has such pixels if its output padding exceeds its cropping."""

    def with_padding(self, pad: Operator, before: Shape | None) -> dict[str, Any] | None:
        if not isinstance(pad, Pad) or len(pad.pads) != self.layer.spatial:
            return None
        padding = self.layer.geometry.get("padding", ())
        if isinstance(padding, str) or any(sum(pair) for pair in padding) or self.layer.geometry.get("transposed"):
            return None
        if pad.mode == "reflect":
            sizes = None if before is None else before[len(before) - self.layer.spatial :]
            if sizes is None or any(max(pair) >= size for pair, size in zip(pad.pads, sizes, strict=False)):
                return None
        return {"padding_mode": pad.mode, "padding": pad.pads}

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset({0})

    def row_norms(self, before: Shape) -> FloatArray:
        """Return one number for each output channel."""
        kernel = self.layer.kernel()
        spatial = before[2:]
        spec = ConvSpec.of(kernel.shape, **self.layer.geometry)
        if spec.transposed:
            # A transposed kernel has the shape (cin, cout / groups, ...): output (group, o) reads the inputs of its
            # group.
            by_group = kernel.reshape(spec.groups, spec.cin // spec.groups, *kernel.shape[1:])
            kernel = np.moveaxis(by_group, 1, 2)
        taps_of_output = kernel.reshape(spec.cout, -1)
        extents = [r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)]
        wraps_once = all(extent <= n for extent, n in zip(extents, spatial, strict=True))
        reads_each_pixel_once = spec.padding_mode == "circular" and wraps_once and not spec.transposed
        if spec.padding_mode == "zeros" or reads_each_pixel_once:
            norms = host.norm_up(taps_of_output)
        else:  # several taps may read one pixel
            norms = host.inflate(abs(taps_of_output).sum(axis=1), taps_of_output.shape[1])
        return np.asarray(norms).reshape(-1, *(1,) * self.layer.spatial)

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        if len(before) != self.layer.spatial + 2:
            return None
        kernel = self.layer.kernel()
        try:
            return self._map_of_kernel(before, kernel) if np.all(np.isfinite(kernel)) else None
        except (GeometryError, KernelError):
            return None

    def _map_of_kernel(self, before: Shape, kernel: FloatArray) -> LinearMap | None:
        """Return the map for inputs of a shape (samples, channels, *spatial); None if the channels do not fit."""
        geometry = dict(self.layer.geometry)
        spec = ConvSpec.of(kernel.shape, **geometry)
        if before[1] != spec.cin:
            return None
        spatial = before[2:]
        spec_at_size = ConvSpec.of(kernel.shape, **{**geometry, "input_shape": spatial})
        stack_of_one: Any = kernel[None]
        ops = ArrayOps.of(backends.backend_for(stack_of_one), stack_of_one)
        layer = layer_map.Convolution(stack_of_one, spec_at_size, ops=ops)
        output_entries, input_entries = layer.shape
        input_shape, output_shape = layer.shapes
        extra = self.extra or (0,) * spec.ndim
        _, *spatial_of_layer = output_shape
        spatial_after = [n + more for n, more in zip(spatial_of_layer, extra, strict=True)]
        shape = (before[0], spec.cout, *spatial_after)
        # Entries that are needed for one sample: the taps of each pixel.
        pixels = max(math.prod(spatial), math.prod(spatial_after))
        entries = kernel[0].size * spec.groups * pixels

        def applied(layer: layer_map.Convolution) -> Apply:
            def convolve_samples(x: FloatArray) -> FloatArray:
                vectors: Any = x.reshape(1, len(x), input_entries)
                return np.asarray(layer.apply(vectors)).reshape(len(x), *output_shape)

            def apply(x: Sequence[FloatArray]) -> FloatArray:
                samples = x[0].reshape(-1, *before[1:])
                values = apply_in_parts(convolve_samples, samples, entries)
                if any(extra):
                    padding = [(0, more) for more in (0, 0, *extra)]
                    values = np.pad(values, padding)
                return values.reshape(len(x[0]), *shape)

            return apply

        def adjoint_of_samples(y: FloatArray) -> FloatArray:
            without_extra: tuple[Any, ...] = (..., *(slice(n) for n in spatial_of_layer))
            y = y[without_extra]
            vectors: Any = y.reshape(1, len(y), output_entries)
            return np.asarray(layer.adjoint(vectors)).reshape(len(y), *input_shape)

        def adjoint(y: FloatArray) -> list[FloatArray]:
            samples = y.reshape(-1, *shape[1:])
            # The adjoint reads patches of the output's channels, and adds up copies of pixels: a rough factor of 4.
            return [apply_in_parts(adjoint_of_samples, samples, 4 * entries).reshape(len(y), *before)]

        roundings = max(layer.roundings) + kernel.size // spec.cout + 4
        return LinearMap(
            applied(layer),
            absolute=applied(layer.absolute()),
            roundings=roundings,
            offset=self.bias,
            shape=shape,
            adjoint=adjoint,
            kept_numbers=2 * kernel.size,  # the kernel and its absolute values
        )


class Matrix(_WithKernel):
    """Product with a constant matrix K of shape (out, in), `Layer.outputs_last` taken into account.

    Its layer has no spatial axes.
    """

    rule = "layer"
    is_layer = True
    alpha: float = 1.0
    """Factor of the product."""
    side: Literal["right", "left"] = "right"
    """"right": ``alpha * x @ K.T`` along the last axis; "left": ``alpha * K @ x`` along the last but one."""

    @property
    def factor_of_layer(self) -> float:
        return self.alpha

    @property
    def axis_of_outputs(self) -> int:
        return self._axis(0)

    def alike(self, place: Place) -> frozenset[int]:
        return place.axes - {self._axis(len(place.axes))}

    def _axis(self, ndim: int) -> int:
        """Return the axis along which the matrix multiplies a value with ``ndim`` axes."""
        return ndim - (1 if self.side == "right" else 2)

    def row_norms(self, before: Shape) -> FloatArray:
        norms = host.next_up(abs(self.alpha) * host.norm_up(self.layer.kernel()))
        return norms if self.side == "right" else norms[:, None]

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the norm times the length before, and the bias, along the axis that the matrix multiplies."""
        after = place.after or ()
        axis = self._axis(len(after))
        if axis < 0 or before[0][axis] == math.inf:
            return None
        length = host.mul_up(abs(self.alpha), norm(), before[0][axis])
        if self.bias is not None:
            length = host.add_up(length, lengths_of(offset_up(self.bias, after))[axis])
        return lengths_at(len(after), (axis,), length)

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        """Return the map x -> alpha x K^T, or alpha K x, plus the bias; None if the shapes do not fit."""
        if not math.isfinite(self.alpha):
            return None
        kernel = self.layer.kernel()
        _, inputs = kernel.shape
        axis = self._axis(len(before))
        if axis < 0 or before[axis] != inputs or not np.all(np.isfinite(kernel)):
            return None

        return contracted(
            [along(kernel, axis, before, self.alpha)],
            roundings=inputs + 4,
            offset=self.bias,
            kept_numbers=2 * kernel.size,  # the matrix and its absolute values
        )


class Matrices(Known):
    """Product with a stack of constant matrices, each of which reads entries of its own: at most the largest norm."""

    rule = "matrices"
    layer: Layer
    """The matrices, as a stack (b, m, n)."""
    equation: str
    """Equation of `numpy.einsum`, for the input and ``constant``."""
    constant: Callable[[], FloatArray]
    """Returns the entries of the matrices, with the axes that the equation names."""

    def run(self, *values: FloatArray) -> FloatArray:
        return self._product(values[0], np.asarray(self.constant()))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        return self._product(abs(values[0]), abs(np.asarray(self.constant())))

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return lengths along the axes of the rows of one matrix, whose columns may be along several axes."""
        products = products_of(self)
        if products is None or not products.columns or place.after is None:
            return None
        sizes = dict(zip(products.before, place.shape, strict=True))
        by_axis = dict(zip(products.before, before[0], strict=True))
        count = math.prod(sizes[x] for x in products.columns)
        length = min(host.mul_up(by_axis[x], host.root_up(count // max(sizes[x], 1))) for x in products.columns)
        if length == math.inf:
            return None
        axes = [products.after.index(x) for x in products.rows]
        return lengths_at(len(place.after), axes, host.mul_up(norm(), length))

    def linear_map(self) -> LinearMap:
        """Return the product as a linear map, for intervals."""
        return LinearMap(
            lambda x: np.stack([self.run(value) for value in x[0]]),
            absolute=lambda x: np.stack([self.size_of_terms([value], value) for value in x[0]]),
            roundings=self.layer.kernel().shape[-1] + 4,
        )

    def _product(self, x: FloatArray, constant: FloatArray) -> FloatArray:
        try:
            return np.asarray(np.einsum(self.equation, x, constant))
        except ValueError as error:
            raise NotRunError(f"{self.equation} does not fit {x.shape} and {constant.shape}: {error}") from error


@dataclass(frozen=True, eq=False)
class Products:
    """One constant matrix that multiplies a value along some of its axes, at each position of the others.

    Axes are letters, as in `numpy.einsum`.
    """

    kernel: FloatArray
    """The matrix (rows, columns)."""
    before: str
    """Axes of the value that is multiplied."""
    after: str
    """Axes of the product."""
    columns: str
    """Axes of the columns, of the value; they are not in the product."""
    rows: str
    """Axes of the rows, of the product."""

    def columns_last(self, value: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the value's shape with its columns as the last axis."""
        kept = [x for x in self.before if x not in self.columns]
        moved = value.transpose([self.before.index(x) for x in (*kept, *self.columns)])
        return moved.reshape(*moved.shape[: len(kept)], -1)

    def spread(self, kept: NDArray[Any], by_row: NDArray[Any], shape: Shape) -> NDArray[Any]:
        """Return numbers at each position of the other axes plus numbers of each row, in the product's shape."""
        order = [x for x in self.before if x not in self.columns] + [*self.rows]
        sizes = dict(zip(self.after, shape, strict=True))
        numbers = by_row.reshape([sizes[x] for x in self.rows]) + kept.reshape(*kept.shape, *(1,) * len(self.rows))
        return np.asarray(numbers.transpose([order.index(x) for x in self.after]))


def products_of(matrices: Matrices) -> Products | None:
    """Return products with a stack of one matrix; None for a stack of several."""
    terms, _, after = matrices.equation.partition("->")
    before, constant = terms.split(",")
    if any(x in before and x in after for x in constant):
        return None
    columns = "".join(x for x in constant if x in before)
    rows = "".join(x for x in constant if x not in before)
    kernel = matrices.layer.kernel()
    return Products(kernel[0], before, after, columns, rows)
