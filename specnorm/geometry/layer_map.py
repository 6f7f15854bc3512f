"""The layer as a linear map at one input size, for every stride, dilation, number of groups and padding.

Along one axis, tap ``k`` of output ``m`` reads position ``s m + r k - before``, which the padding maps to a pixel of
the input. So there is one table of pixels for each axis (`taps.Axis.table`). Patches are gathered axis by axis, and a
matrix product applies the kernel to them. The adjoint is the transposed product, followed by sums over all reads of
each pixel.

If the patches of all taps do not fit into memory, the first spatial axes are *looped*: the taps along them are taken
one after another, and only the taps of the other axes are gathered at once. If no axis is looped, patches are slices of
the padded input, which is several times as fast as tables; those of the first axis need no copy.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm.geometry.taps import Axis, readers_of

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
        Spatial sizes of the convolution's input and output (`ConvSpec.sides`).
    large_channels, small_channels : int
        Channels of one group on the large side and on the small side.
    kernels : array, shape (b, groups, small_channels, large_channels, *kernel_shape)
    roundings : tuple (forward, backward)
        ``|computed A x - A x| <= gamma(forward) |A| |x|`` for the layer; ``backward`` for its adjoint.

    Raises
    ------
    GeometryError
        As in `ConvSpec.sides`.
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
        self.large, self.small = spec.sides
        self.shapes = spec.shapes
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
            self.slices = slices_of(spec, like=kernels, ops=ops)
            if self._looped_axes(b * vector_count * first, budget) == 0:
                self.adjoint_slices = slices_of_adjoint(spec, like=kernels, ops=ops)
        self.gathers: list[list[Gather]] = []
        for j, axis in enumerate(() if can_slice else spec.axes):
            table = axis.table
            # One table for each tap of a looped axis, one for all taps of any other.
            parts = [*table] if j < self.looped_axes else [table.reshape(-1)]
            self.gathers.append([Gather(part, axis.pixels, like=kernels, ops=ops) for part in parts])
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

        ``kernels`` is (b, groups, small channels, large channels, *kernel_shape).
        """
        self.kernels = kernels
        self._adjoint_kernels = self.xp.permute_dims(kernels, (0, 1, 3, 2, *range(4, kernels.ndim)))
        # The matrices of both, which `_convolved` makes at its first call.
        self._matrices: dict[bool, list[Array]] = {}

    def apply(self, x: Array) -> Array:
        """Apply the layers: A x, shape (b, r, inputs) -> (b, r, outputs)."""
        return self._backward(x) if self.spec.transposed else self._forward(x)

    def adjoint(self, y: Array) -> Array:
        """Apply the adjoint layers: A* y, shape (b, r, outputs) -> (b, r, inputs)."""
        return self._forward(y) if self.spec.transposed else self._backward(y)

    def gram(self, on_outputs: bool) -> Callable[[Array], Array]:
        """The map ``A A*`` of vectors of outputs, or ``A* A`` of vectors of inputs."""
        if on_outputs:
            return lambda y: self.apply(self.adjoint(y))
        return lambda x: self.adjoint(self.apply(x))

    def kernel_gradient(self, y: Array, x: Array) -> Array:
        """Gradient of <y_r, A x_r> with respect to the kernel, shape (b, r, *shape of one kernel).

        ``y`` (b, r, outputs), ``x`` (b, r, inputs). For gradients: no proof reads it.
        """
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

        ``values_per_tap``: how many values one tap reads for one output: layers times vectors times channels.
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
        if self.slices is not None:
            return self._convolved(x, self.slices, is_adjoint=False)
        products = (xp.matmul(self._matrix(taps), self._patches(x, taps)) for taps in self._looped_taps())
        total = functools.reduce(operator.add, products)
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))

    def _backward(self, y: Array) -> Array:
        """Apply the adjoint of the convolution, from the small side to the large one."""
        if self.adjoint_slices is not None:
            return self._convolved(y, self.adjoint_slices, is_adjoint=True)
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

    def _convolved(self, x: Array, slices: Slices, *, is_adjoint: bool) -> Array:
        """Apply the convolution by slices, or its adjoint, if that is a convolution too (`slices_of_adjoint`).

        What a tap of the first axis reads is a run of columns of the same matrix, so that the taps of the other axes
        alone are copied.
        """
        xp = self.xp
        b, r = x.shape[:2]
        kernels = self._adjoint_kernels if is_adjoint else self.kernels
        groups, channels = kernels.shape[1], kernels.shape[3]
        patches = slices.read_lines(xp.reshape(xp.matrix_transpose(x), (b, groups * channels, *slices.sizes, r)))
        columns = xp.reshape(patches, (b, groups, channels * len(slices.line_taps), -1))
        if is_adjoint not in self._matrices:
            self._matrices[is_adjoint] = slices.matrices(kernels)
        matrices = self._matrices[is_adjoint]
        size_of_line = columns.shape[3] // slices.lines
        products = []
        for matrix, lines in zip(matrices, slices.runs_of_lines, strict=True):
            part = columns[..., lines.start * size_of_line : lines.stop * size_of_line]
            products.append(xp.matmul(matrix, part))
        total = functools.reduce(operator.add, products)
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))

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
    spec: ConvSpec,
    *,
    like: Array,
    ops: ArrayOps,
) -> Slices:
    """The `Slices` of a convolution: what each tap reads for all outputs."""
    tables, slices_of_axes = [], []
    for axis in spec.axes:
        last_output = axis.stride * (axis.outputs - 1)
        padded_size = last_output + axis.dilation * (axis.taps - 1) + 1
        tables.append(_padded_table(axis.pixels, axis.before, padded_size, spec.padding_mode))
        firsts = [axis.dilation * tap for tap in range(axis.taps)]
        slices_of_axes.append([slice(first, first + last_output + 1, axis.stride) for first in firsts])
    return Slices(tables, spec.sides[0], slices_of_axes, like=like, ops=ops)


def slices_of_adjoint(
    spec: ConvSpec,
    *,
    like: Array,
    ops: ArrayOps,
) -> Slices | None:
    """The `Slices` of the adjoint of a convolution, if the adjoint is a convolution too; else None.

    It is one for layers without stride, with zero padding or with circular padding that keeps the size. In the adjoint,
    tap k of pixel i reads the output ``i + before - r k``.
    """
    large, small = spec.sides
    is_circular = spec.padding_mode == "circular" and large == small
    if any(stride > 1 for stride in spec.stride) or not (is_circular or spec.padding_mode == "zeros"):
        return None
    tables, slices_of_axes = [], []
    for axis in spec.axes:
        reach = axis.dilation * (axis.taps - 1)
        padded_size = axis.pixels + reach
        tables.append(_padded_table(axis.outputs, reach - axis.before, padded_size, spec.padding_mode))
        firsts = [reach - axis.dilation * tap for tap in range(axis.taps)]
        slices_of_axes.append([slice(first, first + axis.pixels) for first in firsts])
    return Slices(tables, small, slices_of_axes, like=like, ops=ops)


@functools.lru_cache(maxsize=64)
def _padded_table(pixels: int, before: int, padded_size: int, mode: str) -> np.ndarray:
    """The pixel at each position of a padded axis, (padded_size,), read-only: what a tap without a stride reads."""
    single_tap = Axis(pixels, outputs=padded_size, taps=1, stride=1, dilation=1, before=before, mode=mode)
    table = np.asarray(single_tap.table[0])
    table.flags.writeable = False
    return table


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
        self.sizes = tuple(sizes)
        self.taps = list(itertools.product(*slices_of_axes))
        self.most_readers = sum(pad.most_readers for pad in self.pads)
        # For zero padding on every axis: where the pixels are in the padded input, and which they are.
        self._inside: tuple[Any, ...] | None = None
        self._read_inside: tuple[Any, ...] = ()
        runs = [pad.plan.run for pad in self.pads]
        if all(run is not None for run in runs):
            every = (slice(None), slice(None))
            self._inside = (*every, *(run[0] for run in runs if run), ...)
            self._read_inside = (*every, *(run[1] for run in runs if run), ...)
        # Without a stride along the first axis, the taps of that axis read runs of lines of what the others read.
        self._has_lines = bool(slices_of_axes) and all(tap.step in (None, 1) for tap in slices_of_axes[0])
        if self._has_lines:
            self.runs_of_lines = slices_of_axes[0]
            self.lines = self.pads[0].length
            self.line_taps = [(slice(None), *tap) for tap in itertools.product(*slices_of_axes[1:])]
        else:
            self.runs_of_lines = [slice(0, 1)]
            self.lines = 1
            self.line_taps = self.taps

    def _padded(self, x: Array) -> Array:
        """The padded input: (b, c, *sizes, r) -> (b, c, *padded sizes, r)."""
        if self._inside is None:
            for axis, pad in enumerate(self.pads):
                x = pad.read(x, axis + 2)
            return x
        if all(pad.plan.is_identity for pad in self.pads):
            return x
        shape = (*x.shape[:2], *(pad.length for pad in self.pads), x.shape[-1])
        padded = self.xp.zeros(shape, dtype=x.dtype, device=self.ops.device(x))
        padded[self._inside] = x[self._read_inside]
        return padded

    def read(self, x: Array) -> Array:
        """Read: (b, c, *sizes, r) -> (b, c, taps, *outputs, r)."""
        x = self._padded(x)
        return self.xp.stack([x[(slice(None), slice(None), *tap, ...)] for tap in self.taps], axis=2)

    def read_lines(self, x: Array) -> Array:
        """Read what the taps of all axes but the first one read, (b, c, taps, lines, *outputs of these axes, r).

        `runs_of_lines` has the lines of each tap of the first axis. With a stride along that axis, one run has all
        lines, and the taps are those of all axes.
        """
        x = self._padded(x)
        return self.xp.stack([x[(slice(None), slice(None), *tap, ...)] for tap in self.line_taps], axis=2)

    def matrices(self, kernels: Array) -> list[Array]:
        """The matrix (b, groups, m, c taps) for each run of lines, from kernels (b, groups, m, c, *kernel_shape)."""
        xp = self.xp
        shape = (*kernels.shape[:3], -1)
        if not self._has_lines:
            return [xp.reshape(kernels, shape)]
        return [xp.reshape(kernels[:, :, :, :, j, ...], shape) for j in range(kernels.shape[4])]

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
        self.plan = GatherPlan.of(table.astype(np.int32).tobytes(), size)
        self.xp = ops.xp
        self.ops = ops
        self.size = size
        self.length = len(table)
        self.most_readers = len(self.plan.readers)
        self.table = ops.from_numpy(self.plan.table, like)
        self.readers = ops.from_numpy(self.plan.readers.reshape(-1), like)

    def read(self, x: Array, axis: int) -> Array:
        """Read the table's positions along an axis, whose length changes from n to l."""
        if self.plan.is_identity:
            return x
        if self.plan.reads_zeros:
            x = self._with_zero(x, axis)
        return self.xp.take(x, self.table, axis=axis)

    def add(self, y: Array, axis: int) -> Array:
        """Adjoint of `read`: add up all reads of each position along an axis, whose length changes from l to n."""
        if self.plan.is_identity:
            return y
        if self.plan.adds_zeros:
            y = self._with_zero(y, axis)
        y = self.xp.take(y, self.readers, axis=axis)
        shape = (*y.shape[:axis], self.most_readers, self.size, *y.shape[axis + 1 :])
        return self.xp.sum(self.xp.reshape(y, shape), axis=axis)

    def _with_zero(self, x: Array, axis: int) -> Array:
        """Append one position with zeros along an axis."""
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        return self.xp.concat([x, self.xp.zeros(shape, dtype=x.dtype, device=self.ops.device(x))], axis=axis)


def _run(table: np.ndarray, size: int) -> tuple[slice, slice] | None:
    """If a table reads consecutive positions, with zeros before and after: its entries that are not zeros, and these.

    None for other tables.
    """
    (places,) = np.nonzero(table != size)
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1])
    start = int(table[first])
    if not np.array_equal(table[first : last + 1], np.arange(start, start + last - first + 1)):
        return None
    return slice(first, last + 1), slice(start, start + last - first + 1)


class GatherPlan(NamedTuple):
    """What a `Gather` needs to know about its table, on the host; read-only.

    Parameters
    ----------
    table, readers : integer arrays
        ``readers`` is the inverse of the table, by `readers_of`.
    run : pair of slices, optional
        If the positions that are read are consecutive: see `_run`.
    is_identity, reads_zeros, adds_zeros : bool
        Whether each position is read in order; whether the table, and its inverse, contain zeros.
    """

    table: np.ndarray
    readers: np.ndarray
    run: tuple[slice, slice] | None
    is_identity: bool
    reads_zeros: bool
    adds_zeros: bool

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def of(table_bytes: bytes, size: int) -> GatherPlan:
        """The plan of a table of 32-bit integers. Layers of the same geometry share it."""
        table = np.frombuffer(table_bytes, dtype=np.int32)
        readers = readers_of(table, size).astype(np.int32)
        readers.flags.writeable = False
        return GatherPlan(
            table,
            readers,
            _run(table, size),
            np.array_equal(table, np.arange(size)),
            bool((table == size).any()),
            bool((readers == len(table)).any()),
        )
