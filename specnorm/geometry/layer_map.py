"""The layer as a linear map at one input size, for every stride, dilation, number of groups and padding.

Along one axis, tap ``k`` of output ``m`` reads position ``s m + r k - before``, which the padding maps to a pixel of
the input. So there is one table of pixels for each axis (`taps.axis_tables`). Patches are gathered axis by axis, and a
matrix product applies the kernel to them. The adjoint is the transposed product, followed by sums over all reads of
each pixel.

If the patches of all taps do not fit into memory, the first spatial axes are *looped*: the taps along them are taken
one after another, and only the taps of the other axes are gathered at once. If no axis is looped, patches are slices of
the padded input, which is several times as fast as tables.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.geometry.taps import Axis, along_axes, axis_tables, readers_of, shapes_of, sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


class Convolution:
    """A stack of layers of one geometry as linear maps between vectors.

    Parameters
    ----------
    kernels : array, shape (b, *shape)
        In torch's order (`torch_order`): (cout, cin // groups, *kernel_shape), transposed (cin, cout // groups, ...).
    spec : ConvSpec
        With ``input_shape``.
    vector_count : int
        Number of vectors to which each layer is applied at once, for planning memory.
    budget : int, optional
        Bytes for the patches of one product, which decide how many axes are looped; None: ``ops.memory``.

    Attributes
    ----------
    shapes : tuple
        Shapes of the layer's input and of its output, channels first.
    shape : tuple (outputs, inputs)
        Rows and columns of the layer's matrix A.
    large, small : tuple of int
        Spatial sizes of the convolution's input and output (`sizes_of`).
    large_channels, small_channels : int
        Channels of one group on the large side and on the small side.
    kernels : array, shape (b, groups, small_channels, large_channels, *kernel_shape)
    roundings : tuple (forward, backward)
        ``|computed A x - A x| <= gamma(forward) |A| |x|`` for the layer; ``backward`` for its adjoint.

    Raises
    ------
    GeometryError
        As in `sizes_of`.
    """

    def __init__(
        self,
        kernels: Array,
        spec: ConvSpec,
        *,
        vector_count: int = 1,
        budget: int | None = None,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.xp = xp
        self.spec = spec
        self.large, self.small = sizes_of(spec)
        self.shapes = shapes_of(spec)
        inputs, outputs = self.shapes
        self.shape = math.prod(outputs), math.prod(inputs)
        b, first, second, *taps = kernels.shape
        self.small_channels = first // spec.groups
        self.large_channels = second
        self._set_kernels(xp.reshape(kernels, (b, spec.groups, self.small_channels, self.large_channels, *taps)))
        budget = ops.memory if budget is None else budget
        self.looped_axes = self._looped_axes(b * vector_count * spec.groups * second, budget)
        can_slice = self.looped_axes == 0 and ops.concrete
        self.slices: Slices | None = None
        self.adjoint_slices: Slices | None = None
        if can_slice:
            self.slices = slices_of(self.large, self.small, spec, like=kernels, ops=ops)
            if self._looped_axes(b * vector_count * first, budget) == 0:
                self.adjoint_slices = slices_of_adjoint(self.large, self.small, spec, like=kernels, ops=ops)
        self.gathers: list[list[Gather]] = []
        for j, table in enumerate(tables_of_axes(self.large, self.small, spec)):
            # One table for each tap of a looped axis, one for all taps of any other.
            parts = [*table] if j < self.looped_axes else [table.reshape(-1)]
            self.gathers.append([Gather(part, self.large[j], like=kernels, ops=ops) for part in parts])
        forward = self.large_channels * math.prod(taps) + 2
        backward = self._backward_roundings(math.prod(taps))
        self.roundings = (backward, forward) if spec.transposed else (forward, backward)

    def _backward_roundings(self, taps: int) -> int:
        """Number of roundings of an entry that the adjoint of the convolution returns."""
        if self.adjoint_slices is not None:
            return self.small_channels * taps + 2
        if self.slices is not None:
            return self.small_channels + taps + self.slices.most_readers + 2
        readers = sum(max(gather.most_readers for gather in axis) for axis in self.gathers)
        loops = math.prod(self.kernel_shape[: self.looped_axes])
        return self.small_channels + readers + loops + 2

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Spatial sizes of the kernel."""
        return self.spec.kernel_shape

    def absolute(self) -> Convolution:
        """The layers with the absolute values of the kernels, for bounds of rounding errors."""
        absolute = copy.copy(self)
        absolute._set_kernels(self.xp.abs(self.kernels))
        return absolute

    def _set_kernels(self, kernels: Array) -> None:
        """Set the kernels, and those of the adjoint's convolution.

        Parameters
        ----------
        kernels : array, shape (b, groups, small channels, large channels, *kernel_shape)
        """
        self.kernels = kernels
        swapped = self.xp.permute_dims(kernels, (0, 1, 3, 2, *range(4, kernels.ndim)))
        self._adjoint_kernels = self.xp.reshape(swapped, (*swapped.shape[:3], -1))

    def apply(self, x: Array) -> Array:
        """Apply the layers: A x, shape (b, r, inputs) -> (b, r, outputs)."""
        return self._backward(x) if self.spec.transposed else self._forward(x)

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint layers: A* y, shape (b, r, outputs) -> (b, r, inputs)."""
        return self._forward(y) if self.spec.transposed else self._backward(y)

    def kernel_gradient(self, y: Array, x: Array) -> Array:
        """Gradient of <y_r, A x_r> with respect to the kernel, shape (b, r, *shape of one kernel)."""
        xp = self.xp
        if self.spec.transposed:
            x, y = y, x
        b, r = x.shape[:2]
        groups, outputs = self.spec.groups, math.prod(self.small)
        y = xp.reshape(y, (b, r, groups, self.small_channels, outputs))
        parts = []
        for taps in self._looped_taps():
            patches = xp.reshape(self._patches(x, taps), (b, groups, -1, outputs, r))
            patches = xp.permute_dims(patches, (0, 4, 1, 3, 2))
            parts.append(xp.matmul(y, patches))
        # From (b, r, groups, small channels, looped taps, large channels * other taps)
        # to (b, r, groups, small channels, large channels, all taps).
        total = xp.stack(parts, axis=4)
        total = xp.reshape(total, (b, r, groups, self.small_channels, len(parts), self.large_channels, -1))
        total = xp.permute_dims(total, (0, 1, 2, 3, 5, 4, 6))
        return xp.reshape(total, (b, r, groups * self.small_channels, self.large_channels, *self.kernel_shape))

    def _looped_axes(self, values_per_tap: int, budget: int) -> int:
        """Number of first axes that have to be looped so that patches fit the budget.

        Parameters
        ----------
        values_per_tap : int
            How many values one tap reads for one output: layers times vectors times channels.
        """
        bytes_of_a_tap = 8 * values_per_tap * math.prod(self.small)
        for looped in range(len(self.kernel_shape) + 1):
            if bytes_of_a_tap * math.prod(self.kernel_shape[looped:]) <= budget:
                return looped
        return len(self.kernel_shape)

    def _looped_taps(self) -> list[tuple[int, ...]]:
        """All combinations of taps of the looped axes."""
        return list(itertools.product(*map(range, self.kernel_shape[: self.looped_axes])))

    def _gather(self, axis: int, taps: tuple[int, ...]) -> Gather:
        """The gather of one axis: for the given tap, if the axis is looped; else for all its taps."""
        return self.gathers[axis][taps[axis] if axis < self.looped_axes else 0]

    def _matrix(self, taps: tuple[int, ...]) -> Array:
        """The kernels at one combination of taps of the looped axes.

        Shape (b, groups, small channels, large channels * other taps).
        """
        part = self.kernels[(slice(None), slice(None), slice(None), slice(None), *taps, ...)]
        return self.xp.reshape(part, (*part.shape[:3], -1))

    def _patches(self, x: Array, taps: tuple[int, ...]) -> Array:
        """Gather what all outputs read: (b, r, inputs) -> (b, groups, large channels * other taps, outputs * r).

        The axis of the r vectors comes last, so that each gathered piece of memory is contiguous.
        """
        xp, groups = self.xp, self.spec.groups
        b, r = x.shape[:2]
        x = xp.reshape(xp.matrix_transpose(x), (b, groups * self.large_channels, *self.large, r))
        if self.slices is not None:
            return xp.reshape(self.slices.read(x), (b, groups, -1, math.prod(self.small) * r))
        for axis in range(len(self.kernel_shape)):
            x = self._gather(axis, taps).read(x, axis + 2)
        shape, tap_axes, output_axes = [b, groups, self.large_channels], [], []
        for axis, size in enumerate(self.small):
            if axis >= self.looped_axes:
                tap_axes.append(len(shape))
                shape.append(self.kernel_shape[axis])
            output_axes.append(len(shape))
            shape.append(size)
        x = xp.reshape(x, (*shape, r))
        x = xp.permute_dims(x, (0, 1, 2, *tap_axes, *output_axes, len(shape)))
        return xp.reshape(x, (b, groups, -1, math.prod(self.small) * r))

    def _forward(self, x: Array) -> Array:
        """Apply the convolution, from the large side to the small one."""
        xp = self.xp
        b, r = x.shape[:2]
        products = (xp.matmul(self._matrix(taps), self._patches(x, taps)) for taps in self._looped_taps())
        total = functools.reduce(operator.add, products)
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))

    def _backward(self, y: Array) -> Array:
        """Apply the adjoint of the convolution, from the small side to the large one."""
        if self.adjoint_slices is not None:
            return self._backward_as_convolution(y, self.adjoint_slices)
        xp = self.xp
        b, r = y.shape[:2]
        shape = (b, self.spec.groups, self.small_channels, math.prod(self.small) * r)
        by_channel = xp.reshape(xp.matrix_transpose(y), shape)
        parts = []
        for taps in self._looped_taps():
            products = xp.matmul(xp.matrix_transpose(self._matrix(taps)), by_channel)
            parts.append(self._added_up(products, taps, r))
        total = functools.reduce(operator.add, parts)
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))

    def _backward_as_convolution(self, y: Array, slices: Slices) -> Array:
        """Apply the adjoint of the convolution as a convolution of its own, if it is one (`slices_of_adjoint`)."""
        xp, groups = self.xp, self.spec.groups
        b, r = y.shape[:2]
        y = xp.reshape(xp.matrix_transpose(y), (b, groups * self.small_channels, *self.small, r))
        patches = xp.reshape(slices.read(y), (b, groups, self._adjoint_kernels.shape[-1], -1))
        return xp.matrix_transpose(xp.reshape(xp.matmul(self._adjoint_kernels, patches), (b, -1, r)))

    def _added_up(self, products: Array, taps: tuple[int, ...], r: int) -> Array:
        """Sum over all reads of each pixel.

        From (b, groups, large channels * other taps, outputs * r) to (b, c, *large, r).
        """
        xp = self.xp
        b, groups = products.shape[:2]
        channels = groups * self.large_channels
        if self.slices is not None:
            return self.slices.add(xp.reshape(products, (b, channels, -1, *self.small, r)))
        other_axes = list(range(self.looped_axes, len(self.kernel_shape)))
        other_taps = [self.kernel_shape[axis] for axis in other_axes]
        products = xp.reshape(products, (b, groups, self.large_channels, *other_taps, *self.small, r))
        # Put the taps of each axis right before its outputs, and merge both.
        order, merged = [0, 1, 2], []
        first_output_axis = 3 + len(other_axes)
        for axis, size in enumerate(self.small):
            if axis in other_axes:
                order += [3 + other_axes.index(axis), first_output_axis + axis]
                merged.append(self.kernel_shape[axis] * size)
            else:
                order.append(first_output_axis + axis)
                merged.append(size)
        products = xp.permute_dims(products, (*order, products.ndim - 1))
        total = xp.reshape(products, (b, channels, *merged, r))
        for axis in range(len(self.kernel_shape)):
            total = self._gather(axis, taps).add(total, axis + 2)
        return total


def slices_of(
    large: tuple[int, ...],
    small: tuple[int, ...],
    spec: ConvSpec,
    *,
    like: Array,
    ops: ArrayOps,
) -> Slices:
    """The `Slices` of a convolution: what each tap reads for all outputs."""
    tables, slices_of_axes = [], []
    for axis in along_axes(large, small, spec):
        last_output = axis.stride * (axis.outputs - 1)
        padded_size = last_output + axis.dilation * (axis.taps - 1) + 1
        tables.append(_padded_table(axis.pixels, axis.before, padded_size, spec.padding_mode))
        firsts = [axis.dilation * tap for tap in range(axis.taps)]
        slices_of_axes.append([slice(first, first + last_output + 1, axis.stride) for first in firsts])
    return Slices(tables, large, slices_of_axes, like=like, ops=ops)


def slices_of_adjoint(
    large: tuple[int, ...],
    small: tuple[int, ...],
    spec: ConvSpec,
    *,
    like: Array,
    ops: ArrayOps,
) -> Slices | None:
    """The `Slices` of the adjoint of a convolution, if the adjoint is a convolution too; else None.

    It is one for layers without stride, with zero padding or with circular padding that keeps the size. In the adjoint,
    tap k of pixel i reads the output ``i + before - r k``.
    """
    is_circular = spec.padding_mode == "circular" and large == small
    if any(stride > 1 for stride in spec.stride) or not (is_circular or spec.padding_mode == "zeros"):
        return None
    tables, slices_of_axes = [], []
    for axis in along_axes(large, small, spec):
        reach = axis.dilation * (axis.taps - 1)
        padded_size = axis.pixels + reach
        tables.append(_padded_table(axis.outputs, reach - axis.before, padded_size, spec.padding_mode))
        firsts = [reach - axis.dilation * tap for tap in range(axis.taps)]
        slices_of_axes.append([slice(first, first + axis.pixels) for first in firsts])
    return Slices(tables, small, slices_of_axes, like=like, ops=ops)


def _padded_table(pixels: int, before: int, padded_size: int, mode: str) -> np.ndarray:
    """The pixel at each position of a padded axis, shape (padded_size,): what a single tap without a stride reads."""
    single_tap = Axis(pixels, outputs=padded_size, taps=1, stride=1, dilation=1, before=before)
    return np.asarray(axis_tables(single_tap, mode)[0])


class Slices:
    """Read what each tap reads for all outputs, as a slice of the padded input; and the adjoint of that.

    `add` writes in place, which not every library can.

    Parameters
    ----------
    tables : sequence of integer array, shape (padded size,)
        For each axis, the pixel at each position of the padded input; the input's size stands for a zero.
    sizes : sequence of int
        Spatial sizes of the input.
    slices_of_axes : sequence of list of slice
        For each axis and each of its taps, the slice of the padded input that the tap reads.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        sizes: Sequence[int],
        slices_of_axes: Sequence[list[slice]],
        *,
        like: Array,
        ops: ArrayOps,
    ) -> None:
        self.xp = ops.xp
        self.ops = ops
        self.pads = [Gather(table, size, like=like, ops=ops) for table, size in zip(tables, sizes, strict=True)]
        self.taps = list(itertools.product(*slices_of_axes))
        self.most_readers = sum(pad.most_readers for pad in self.pads)

    def read(self, x: Array) -> Array:
        """Read: (b, c, *sizes, r) -> (b, c, taps, *outputs, r)."""
        for axis, pad in enumerate(self.pads):
            x = pad.read(x, axis + 2)
        return self.xp.stack([x[(slice(None), slice(None), *tap, ...)] for tap in self.taps], axis=2)

    def add(self, w: Array) -> Array:
        """Adjoint of `read`, a sum over all reads of each pixel: (b, c, taps, *outputs, r) -> (b, c, *sizes, r)."""
        shape = (*w.shape[:2], *(pad.length for pad in self.pads), w.shape[-1])
        total = self.xp.zeros(shape, dtype=w.dtype, device=self.ops.device(w))
        for j, tap in enumerate(self.taps):
            total[(slice(None), slice(None), *tap, ...)] += w[:, :, j, ...]
        for axis, pad in enumerate(self.pads):
            total = pad.add(total, axis + 2)
        return total


class Gather:
    """Reads positions along one axis by a table; its adjoint adds up all reads of each position.

    Parameters
    ----------
    table : integer array, shape (l,)
        The positions 0 to n - 1 that are read; n stands for a zero.
    size : int
        n.
    """

    def __init__(self, table: np.ndarray, size: int, *, like: Array, ops: ArrayOps) -> None:
        readers = readers_of(table, size)
        self.xp = ops.xp
        self.ops = ops
        self.size = size
        self.length = len(table)
        self.is_identity = np.array_equal(table, np.arange(size))
        self.run = _run_between_zeros(table, size)
        self.most_readers = len(readers)
        self.reads_zeros = bool((table == size).any())
        self.adds_zeros = bool((readers == len(table)).any())
        self.table = ops.from_numpy(table.astype(np.int32), like)
        self.readers = ops.from_numpy(readers.reshape(-1).astype(np.int32), like)

    def read(self, x: Array, axis: int) -> Array:
        """Read the table's positions along an axis, whose length changes from n to l."""
        if self.is_identity:
            return x
        if self.run is not None:
            zeros_before, positions, zeros_after = self.run
            part = x[(*(slice(None),) * axis, positions, ...)]
            return self.xp.concat(
                [self._zeros(x, axis, zeros_before), part, self._zeros(x, axis, zeros_after)], axis=axis
            )
        if self.reads_zeros:
            x = self._with_zero(x, axis)
        return self.xp.take(x, self.table, axis=axis)

    def add(self, y: Array, axis: int) -> Array:
        """Adjoint of `read`: add up all reads of each position along an axis, whose length changes from l to n."""
        if self.is_identity:
            return y
        if self.adds_zeros:
            y = self._with_zero(y, axis)
        y = self.xp.take(y, self.readers, axis=axis)
        shape = (*y.shape[:axis], self.most_readers, self.size, *y.shape[axis + 1 :])
        return self.xp.sum(self.xp.reshape(y, shape), axis=axis)

    def _with_zero(self, x: Array, axis: int) -> Array:
        """Append one position with zeros along an axis."""
        return self.xp.concat([x, self._zeros(x, axis, 1)], axis=axis)

    def _zeros(self, x: Array, axis: int, length: int) -> Array:
        """Zeros in the shape of an array, but of another length along an axis."""
        shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
        return self.xp.zeros(shape, dtype=x.dtype, device=self.ops.device(x))


def _run_between_zeros(table: np.ndarray, size: int) -> tuple[int, slice, int] | None:
    """Zeros before, consecutive positions, and zeros after, if a table of `Gather` consists of these; else None.

    Such tables, those of zero padding, are read by one copy, which is faster than a table.
    """
    (places,) = np.nonzero(table != size)
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1])
    start = int(table[first])
    if not np.array_equal(table[first : last + 1], np.arange(start, start + last - first + 1)):
        return None
    return first, slice(start, start + last - first + 1), len(table) - last - 1
