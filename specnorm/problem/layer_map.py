"""The layer itself as a linear map at one input size: every stride, dilation, group, padding and amount of it.

Along one axis, output ``m`` and tap ``k`` read the input at ``s m + r k - before``, mapped back into the input as the
padding says. That is a table of k_j times m_j integers for each axis on its own, so patches are gathered axis by axis
and met with the kernel in one matrix product; the adjoint is the same product turned around, and the tables' inverses.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.errors import GeometryError
from specnorm.problem.taps import Gather, Slices, axis_tables

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


def torch_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Kernels (batch, *shape) with the axes in torch's order, groups and stride left as they are."""
    if _io(spec):
        kernels = xp.permute_dims(kernels, _swap(kernels.ndim))
    return kernels


def caller_order(kernels: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Inverse (and adjoint) of `torch_order`."""
    if _io(spec):
        kernels = xp.permute_dims(kernels, arrays.inverse_permutation(_swap(kernels.ndim)))
    return kernels


def _io(spec: ConvSpec) -> bool:
    return spec.layout is not None and spec.layout.endswith("IO")


def _swap(ndim: int) -> tuple[int, ...]:
    return (0, ndim - 1, ndim - 2, *range(1, ndim - 2))


def sizes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial sizes of the large side and of the small side of the convolution behind a layer at ``input_shape``.

    The large side is the input, or a transposed layer's output.

    Raises
    ------
    GeometryError
        Without a size, if the layer has no output there, or if there is no such layer.
    """
    if spec.input_shape is None:
        raise GeometryError("the layer itself is a matrix at one size only: give input_shape.")
    axes = list(zip(spec.kernel_shape, spec.input_shape, spec.stride, spec.dilation, spec.padding, strict=True))
    if spec.transposed:
        same = tuple(before + after for before, after in spec.padding) == tuple(r * (k - 1) for k, _, _, r, _ in axes)
        if spec.padding_mode == "zeros":
            large = tuple((n - 1) * s - sum(pads) + r * (k - 1) + 1 for k, n, s, r, pads in axes)
        elif spec.padding_mode == "circular" and same:
            large = tuple(n * s for _, n, s, _, _ in axes)
        else:
            raise GeometryError(
                f"there is no transposed convolution with padding_mode={spec.padding_mode!r} and padding="
                f'{spec.padding}. Use padding_mode="zeros" with any padding, or "circular" with padding="same".'
            )
        small = spec.input_shape
    else:
        large = spec.input_shape
        small = tuple((n + sum(pads) - r * (k - 1) - 1) // s + 1 for k, n, s, r, pads in axes)
    if any(m < 1 for m in (*large, *small)):
        raise GeometryError(
            f"the layer has no output at input_shape={spec.input_shape} (kernel {spec.kernel_shape}, padding "
            f"{spec.padding}, dilation {spec.dilation}). Give a larger input_shape or more padding."
        )
    if spec.padding_mode == "reflect" and any(max(pads) >= n for _, n, _, _, pads in axes):
        raise GeometryError(
            f"reflect padding {spec.padding} needs an input larger than itself on every axis; input_shape is "
            f'{spec.input_shape}. Use a larger one, or padding_mode="replicate".'
        )
    return large, small


def shapes_of(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output, channels first."""
    large, small = sizes_of(spec)
    return ((spec.cin, *small), (spec.cout, *large)) if spec.transposed else ((spec.cin, *large), (spec.cout, *small))


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
        total: Array | None = None
        for taps in self._leading_taps():
            part = xp.matmul(self._matrix(taps), self._patches(x, taps))
            total = part if total is None else total + part
        assert total is not None  # for the type checker: there are taps
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))

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
        total: Array | None = None
        for taps in self._leading_taps():
            w = xp.matmul(xp.matrix_transpose(self._matrix(taps)), y)
            if self.slices is not None:
                total = self.slices.add(xp.reshape(w, (b, groups * self.inner, -1, *self.small, r)))
                break
            w = xp.reshape(w, (b, groups, self.inner, *taps_shape, *self.small, r))
            w = xp.permute_dims(w, (*order, w.ndim - 1))
            w = xp.reshape(w, (b, groups * self.inner, *merged, r))
            for axis in range(len(self.kernel_shape)):
                w = self._gather(axis, taps).add(w, axis + 2)
            total = w if total is None else total + w
        assert total is not None  # for the type checker: there are taps
        return xp.matrix_transpose(xp.reshape(total, (b, -1, r)))


def tables_of_axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[np.ndarray]:
    """`axis_tables` of every axis."""
    axes = _axes(large, small, spec)
    return [axis_tables(n, m, k, s, r, before, spec.padding_mode) for n, m, k, s, r, (before, _) in axes]


def visible(spec: ConvSpec) -> np.ndarray | None:
    """Taps that read a pixel at ``spec.input_shape``, shape (*kernel_shape); None where all do.

    The others are no part of the layer at that size, and must not set the scale of what is.
    """
    if spec.padding_mode != "zeros" or spec.input_shape is None:
        return None
    large, small = sizes_of(spec)
    seen = np.ones(spec.kernel_shape, dtype=np.bool_)
    for axis, (table, n) in enumerate(zip(tables_of_axes(large, small, spec), large, strict=True)):
        read = (table < n).any(axis=1)
        seen &= read.reshape((-1,) + (1,) * (spec.ndim - 1 - axis))
    return None if seen.all() else seen


def slices_of(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec, *, like: Array, ops: ArrayOps) -> Slices:
    """What each tap of a layer reads."""
    tables, along = [], []
    for n, m, k, s, r, (before, _) in _axes(large, small, spec):
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
    for n, m, k, _, r, (before, _) in _axes(large, small, spec):
        extent = r * (k - 1)
        tables.append(axis_tables(m, n + extent, 1, 1, 1, extent - before, spec.padding_mode)[0])
        along.append([slice(extent - r * tap, extent - r * tap + n) for tap in range(k)])
    return Slices(tables, small, along, like=like, ops=ops)


def _axes(large: tuple[int, ...], small: tuple[int, ...], spec: ConvSpec) -> list[Any]:
    return list(zip(large, small, spec.kernel_shape, spec.stride, spec.dilation, spec.padding, strict=True))
