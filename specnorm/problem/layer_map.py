"""The layer itself as a linear map at one input size: every stride, dilation, group, padding and amount of it.

Along one axis, output ``m`` and tap ``k`` read the input at ``s m + r k - before``, mapped back into the input as the
padding says. That is a table of k_j times m_j integers for each axis on its own, so patches are gathered axis by axis
and met with the kernel in one matrix product; the adjoint is the same product turned around, and the tables' inverses.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from specnorm.problem.taps import along_axes, axis_tables, readers_of, shapes_of, sizes_of, tables_of_axes

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


class Convolution:
    """A stack of layers of one geometry as linear maps between vectors.

    Parameters
    ----------
    kernels : array, shape (b, *shape)
        In torch's order (`torch_order`): (cout, cin // groups, *kernel_shape), transposed (cin, cout // groups, ...).
    spec : ConvSpec
        With ``input_shape``.
    vectors : int
        How many vectors a kernel are applied at once; memory is planned for that many.
    budget : int
        Bytes for the patches of one product. Beyond it the taps of the first axes are taken one after another.

    Attributes
    ----------
    shape : tuple (outputs, inputs)
        Of the layer's matrix.
    roundings : tuple (forward, backward)
        ``|computed A x - A x| <= gamma(forward) |A| |x|``, and likewise for the adjoint.

    Raises
    ------
    GeometryError
        As `sizes_of`.
    """

    def __init__(
        self, kernels: Array, spec: ConvSpec, *, vectors: int = 1, budget: int | None = None, ops: ArrayOps
    ) -> None:
        xp = ops.xp
        self.xp, self.spec = xp, spec
        self.large, self.small = sizes_of(spec)
        self.shapes = shapes_of(spec)
        self.shape = math.prod(self.shapes[1]), math.prod(self.shapes[0])
        b, first, second, *taps = kernels.shape
        self.outer, self.inner = first // spec.groups, second
        self.kernels = xp.reshape(kernels, (b, spec.groups, self.outer, second, *taps))
        self.lead = self._lead(b * vectors * spec.groups * second, ops.memory if budget is None else budget)
        self.gathers: list[list[Gather]] = []
        # What a tap reads of a padded input is a slice of it: several times as fast as a table, but an operation a tap.
        sliced = self.lead == 0 and ops.concrete
        self.slices = slices_of(self.large, self.small, spec, like=kernels, ops=ops) if sliced else None
        turns = sliced and self._lead(b * vectors * first, ops.memory if budget is None else budget) == 0
        self.turned = turned_slices_of(self.large, self.small, spec, like=kernels, ops=ops) if turns else None
        for j, table in enumerate(tables_of_axes(self.large, self.small, spec)):
            parts = [*table] if j < self.lead else [table.reshape(-1)]
            self.gathers.append([Gather(part, self.large[j], like=kernels, ops=ops) for part in parts])
        loops = math.prod(self.kernel_shape[: self.lead])
        forward = second * math.prod(taps) + 2
        backward = self.outer + sum(max(g.most_readers for g in axis) for axis in self.gathers) + loops + 2
        if self.turned is not None:
            backward = self.outer * math.prod(taps) + 2
        elif self.slices is not None:
            backward = self.outer + math.prod(taps) + self.slices.most_readers + 2
        self.roundings = (backward, forward) if spec.transposed else (forward, backward)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Spatial sizes of the kernel."""
        return self.spec.kernel_shape

    def absolute(self) -> Convolution:
        """The layers with the absolute values of the kernels: what rounding errors are measured by."""
        other = object.__new__(Convolution)
        other.__dict__.update(self.__dict__, kernels=self.xp.abs(self.kernels))
        return other

    def apply(self, x: Array) -> Array:
        """A x, shape (b, r, inputs) -> (b, r, outputs)."""
        return self._backward(x) if self.spec.transposed else self._forward(x)

    def adjoint(self, y: Array) -> Array:
        """A* y, shape (b, r, outputs) -> (b, r, inputs)."""
        return self._forward(y) if self.spec.transposed else self._backward(y)

    def kernel_gradient(self, y: Array, x: Array) -> Array:
        """Gradient of <y_r, A x_r> with respect to the kernel, shape (b, r, *shape of one kernel)."""
        xp, small = self.xp, math.prod(self.small)
        if self.spec.transposed:
            x, y = y, x
        b, r = x.shape[:2]
        groups = self.spec.groups
        y = xp.reshape(y, (b, r, groups, self.outer, small))
        parts = []
        for taps in self._leading_taps():
            patches = xp.reshape(self._patches(x, taps), (b, groups, -1, small, r))
            patches = xp.permute_dims(patches, (0, 4, 1, 3, 2))
            parts.append(xp.matmul(y, patches))
        # (b, r, groups, outer, lead taps, inner * other taps), the inner channels to the front of all taps.
        total = xp.stack(parts, axis=4)
        total = xp.reshape(total, (b, r, groups, self.outer, len(parts), self.inner, -1))
        total = xp.permute_dims(total, (0, 1, 2, 3, 5, 4, 6))
        return xp.reshape(total, (b, r, groups * self.outer, self.inner, *self.kernel_shape))

    def _lead(self, lines: int, budget: int) -> int:
        """Number of leading axes whose taps are taken one after another, so that the patches fit the budget."""
        itemsize = 8
        for lead in range(len(self.kernel_shape) + 1):
            if itemsize * lines * math.prod(self.kernel_shape[lead:]) * math.prod(self.small) <= budget:
                return lead
        return len(self.kernel_shape)

    def _leading_taps(self) -> list[tuple[int, ...]]:
        return list(itertools.product(*map(range, self.kernel_shape[: self.lead])))

    def _gather(self, axis: int, taps: tuple[int, ...]) -> Gather:
        return self.gathers[axis][taps[axis] if axis < self.lead else 0]

    def _matrix(self, taps: tuple[int, ...]) -> Array:
        """Kernels as (b, groups, outer, inner * other taps) at the leading taps."""
        part = self.kernels[(slice(None),) * 4 + taps + (slice(None),) * (len(self.kernel_shape) - self.lead)]
        return self.xp.reshape(part, (*part.shape[:3], -1))

    def _patches(self, x: Array, taps: tuple[int, ...]) -> Array:
        """What the outputs read: (b, r, inputs) -> (b, groups, inner * other taps, outputs * r).

        The vectors come last, so that what is moved together lies together.
        """
        xp, groups, rest = self.xp, self.spec.groups, range(self.lead, len(self.kernel_shape))
        b, r = x.shape[:2]
        x = xp.reshape(xp.matrix_transpose(x), (b, groups * self.inner, *self.large, r))
        if self.slices is not None:
            return xp.reshape(self.slices.read(x), (b, groups, -1, math.prod(self.small) * r))
        for axis in range(len(self.kernel_shape)):
            x = self._gather(axis, taps).read(x, axis + 2)
        shape, position, tap_axes, out_axes = [b, groups, self.inner], 3, [], []
        for axis, size in enumerate(self.small):
            if axis in rest:
                shape.append(self.kernel_shape[axis])
                tap_axes.append(position)
                position += 1
            shape.append(size)
            out_axes.append(position)
            position += 1
        x = xp.permute_dims(xp.reshape(x, (*shape, r)), (0, 1, 2, *tap_axes, *out_axes, position))
        return xp.reshape(x, (b, groups, -1, math.prod(self.small) * r))

    def _forward(self, x: Array) -> Array:
        xp = self.xp
        b, r = x.shape[:2]
        parts = (xp.matmul(self._matrix(taps), self._patches(x, taps)) for taps in self._leading_taps())
        return xp.matrix_transpose(xp.reshape(functools.reduce(operator.add, parts), (b, -1, r)))

    def _backward(self, y: Array) -> Array:
        xp, groups, small = self.xp, self.spec.groups, math.prod(self.small)
        b, r = y.shape[:2]
        if self.turned is not None:
            y = xp.reshape(xp.matrix_transpose(y), (b, groups * self.outer, *self.small, r))
            across = xp.permute_dims(self.kernels, (0, 1, 3, 2, *range(4, self.kernels.ndim)))
            kernels = xp.reshape(across, (b, groups, self.inner, -1))
            w = xp.matmul(kernels, xp.reshape(self.turned.read(y), (b, groups, kernels.shape[-1], -1)))
            return xp.matrix_transpose(xp.reshape(w, (b, -1, r)))
        y = xp.reshape(xp.matrix_transpose(y), (b, groups, self.outer, small * r))
        rest = list(range(self.lead, len(self.kernel_shape)))
        taps_shape = tuple(self.kernel_shape[axis] for axis in rest)
        # From (b, groups, inner, *taps, *outputs, r) each axis' taps go in front of its outputs.
        first_out = 3 + len(rest)
        order, merged = [0, 1, 2], []
        for axis, size in enumerate(self.small):
            if axis in rest:
                order.append(3 + rest.index(axis))
            order.append(first_out + axis)
            merged.append(size * (self.kernel_shape[axis] if axis in rest else 1))

        def read_by(taps: tuple[int, ...]) -> Array:
            w = xp.matmul(xp.matrix_transpose(self._matrix(taps)), y)
            if self.slices is not None:
                return self.slices.add(xp.reshape(w, (b, groups * self.inner, -1, *self.small, r)))
            w = xp.reshape(w, (b, groups, self.inner, *taps_shape, *self.small, r))
            w = xp.permute_dims(w, (*order, w.ndim - 1))
            w = xp.reshape(w, (b, groups * self.inner, *merged, r))
            for axis in range(len(self.kernel_shape)):
                w = self._gather(axis, taps).add(w, axis + 2)
            return w

        total = functools.reduce(operator.add, map(read_by, self._leading_taps()))
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))


def slices_of(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec, *, like: Array, ops: ArrayOps) -> Slices:
    """What each tap of a layer reads."""
    tables, along = [], []
    for n, m, k, s, r, (before, _) in along_axes(large, small, spec):
        tables.append(axis_tables(n, s * (m - 1) + r * (k - 1) + 1, 1, 1, 1, before, spec.padding_mode)[0])
        along.append([slice(r * tap, r * tap + s * (m - 1) + 1, s) for tap in range(k)])
    return Slices(tables, large, along, like=like, ops=ops)


def turned_slices_of(
    large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec, *, like: Array, ops: ArrayOps
) -> Slices | None:
    """What each tap of the adjoint reads, where that is a convolution too; else None.

    Without stride, with zeros or circular: input i meets output ``i + before - r k`` by tap k.
    """
    rings = spec.padding_mode == "circular" and large == small
    if any(s > 1 for s in spec.stride) or not (rings or spec.padding_mode == "zeros"):
        return None
    tables, along = [], []
    for n, m, k, _, r, (before, _) in along_axes(large, small, spec):
        extent = r * (k - 1)
        tables.append(axis_tables(m, n + extent, 1, 1, 1, extent - before, spec.padding_mode)[0])
        along.append([slice(extent - r * tap, extent - r * tap + n) for tap in range(k)])
    return Slices(tables, small, along, like=like, ops=ops)


class Slices:
    """The taps of a layer as slices of its padded input, and the adjoint of reading them. Writes in place.

    Parameters
    ----------
    tables : sequence of integer array, shape (padded size,)
        Of each axis: which position of the input lies there, or the size for a zero.
    sizes : sequence of int
        Of the input.
    along : sequence of list of slice
        Of each axis: what each of its taps reads of the padded input.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        sizes: Sequence[int],
        along: Sequence[list[slice]],
        *,
        like: Array,
        ops: ArrayOps,
    ) -> None:
        self.xp, self.ops = ops.xp, ops
        self.pads = [Gather(table, n, like=like, ops=ops) for table, n in zip(tables, sizes, strict=True)]
        self.taps = list(itertools.product(*along))
        self.most_readers = sum(pad.most_readers for pad in self.pads)

    def read(self, x: Array) -> Array:
        """(b, c, *sizes, r) -> (b, c, taps, *outputs, r)."""
        for axis, pad in enumerate(self.pads):
            x = pad.read(x, axis + 2)
        return self.xp.stack([x[(slice(None), slice(None), *tap, ...)] for tap in self.taps], axis=2)

    def add(self, w: Array) -> Array:
        """(b, c, taps, *outputs, r) -> (b, c, *sizes, r)."""
        shape = (*w.shape[:2], *(pad.length for pad in self.pads), w.shape[-1])
        total = self.xp.zeros(shape, dtype=w.dtype, device=self.ops.device(w))
        for j, tap in enumerate(self.taps):
            total[(slice(None), slice(None), *tap, ...)] += w[:, :, j, ...]
        for axis, pad in enumerate(self.pads):
            total = pad.add(total, axis + 2)
        return total


class Gather:
    """A table of positions to read along one axis, and its inverse: who read each position.

    Parameters
    ----------
    table : integer array, shape (l,)
        Positions 0..n-1, or n for a zero.
    size : int
        n.
    """

    def __init__(self, table: np.ndarray, size: int, *, like: Array, ops: ArrayOps) -> None:
        xp = ops.xp
        self.xp, self.size, self.length = xp, size, len(table)
        self.plain = np.array_equal(table, np.arange(size))
        readers = readers_of(table, size)
        self.most_readers = len(readers)
        self.zero_read = bool((table == size).any())
        self.zero_added = bool((readers == len(table)).any())
        self.table = ops.from_numpy(table.astype(np.int32), like)
        self.readers = ops.from_numpy(readers.reshape(-1).astype(np.int32), like)

    def read(self, x: Array, axis: int) -> Array:
        """Length n of an axis -> length l."""
        if self.plain:
            return x
        return self.xp.take(self._with_zero(x, axis) if self.zero_read else x, self.table, axis=axis)

    def add(self, y: Array, axis: int) -> Array:
        """Length l of an axis -> length n: what was read from a position is added up there."""
        if self.plain:
            return y
        y = self.xp.take(self._with_zero(y, axis) if self.zero_added else y, self.readers, axis=axis)
        shape = (*y.shape[:axis], self.most_readers, self.size, *y.shape[axis + 1 :])
        return self.xp.sum(self.xp.reshape(y, shape), axis=axis)

    def _with_zero(self, x: Array, axis: int) -> Array:
        first = x[(slice(None),) * axis + (slice(0, 1),) + (slice(None),) * (x.ndim - axis - 1)]
        return self.xp.concat([x, self.xp.zeros_like(first)], axis=axis)
