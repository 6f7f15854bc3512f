"""Singular values of a circular layer at one input size (Sedghi, Gupta and Long 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.certified.symbol import gradients, symbols
from specnorm.errors import MethodError
from specnorm.methods import requirements
from specnorm.methods.base import Evaluation, Method, Needs, check_count
from specnorm.problem.frequencies import half_grid, mirror_index

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class SingularValues(Method):
    """All singular values of a circular layer at one input size, descending; or the k largest.

    Parameters
    ----------
    k : int or None
        How many; None: all ``prod(input_shape) * min(cin, cout)``.
    max_bytes : int, default 4 GiB
        Refuse what takes more memory.
    """

    k: int | None = None
    max_bytes: int = 2**32

    name: ClassVar[str] = "singular_values"
    promise: ClassVar[Kind] = "exact"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", value_shape=self._value_shape(spec))

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size only, and no more values than there are."""
        requirements.require_circular(spec, "singular_values", "conv_norm and the bounds")
        requirements.require_exact(spec, "singular_values")
        total = self._total(spec)
        if self.k is not None:
            check_count("k", self.k, least=1)
        if self.k is not None and self.k > total:
            raise MethodError(f"k={self.k!r} is not a number of singular values: this layer has {total}.")
        if self.bytes(spec) > self.max_bytes:
            raise MethodError(
                f"{self.cost(spec)} of memory. The largest of them take little: "
                "specnorm.measure(kernel, specnorm.PowerTopK(k=10), input_shape=...), and conv_norm the first. "
                f"max_bytes={self.bytes(spec)} computes them all the same."
            )

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        return (self.k or self._total(spec),)

    @staticmethod
    def _per_group(spec: ConvSpec) -> int:
        """Singular values of one group; those of pixels that no tap reads are zero."""
        first, second = spec.stored_channels
        return math.prod(spec.periods) * min(first // spec.groups, second * math.prod(spec.stride))

    def _total(self, spec: ConvSpec) -> int:
        return spec.groups * self._per_group(spec)

    def cost(self, spec: ConvSpec) -> str:
        """What is computed, in words: its memory decides whether it can be."""
        return f"{self._total(spec)} singular values, with their vectors some {self.bytes(spec) / 2**30:.3g} GiB"

    def bytes(self, spec: ConvSpec) -> int:
        """Memory of the singular vectors at every frequency, and once more at half of them; the same for every k."""
        rows, columns = spec.block_shape[:2]
        frequencies = spec.groups * math.prod(spec.periods)
        return 24 * frequencies * (rows + columns) * min(rows, columns)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        flat = xp.reshape(values, (values.shape[0], -1))
        order = xp.argsort(flat, axis=1, descending=True)
        count = self.k or flat.shape[1]
        return xp.take_along_axis(flat, order[:, :count], axis=1), order

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Undo the merge; values not asked for get 0."""
        return xp.reshape(_unsorted(cotangent, chosen, xp=xp), (chosen.shape[0], groups, -1))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """SVD at half the frequencies; the others are their mirror images, or the same once more."""
        xp = ops.xp
        sizes = spec.grid_shape
        half = half_grid(sizes)
        repeats = math.prod(spec.periods) // math.prod(sizes)
        mirror = ops.from_numpy(np.tile(mirror_index(sizes), repeats), blocks)
        parts, step = [], symbols.chunk_length(blocks, ops=ops)
        for start in range(0, len(half), step):
            symbol = symbols.Symbol(blocks, half[start : start + step], ops=ops)
            u, s, vh = xp.linalg.svd(symbol.matrices(), full_matrices=False)
            phase = xp.broadcast_to(symbol.phase[None, ...], (blocks.shape[0], *symbol.phase.shape))
            parts.append((u, s, vh, phase))
        u, s, vh, phase = (xp.take(xp.concat(list(p), axis=1), mirror, axis=1) for p in zip(*parts, strict=True))
        flat = xp.reshape(s, (s.shape[0], -1))
        order = xp.argsort(flat, axis=1, descending=True)
        count = min(self.k or flat.shape[1], flat.shape[1])
        value = xp.take_along_axis(flat, order[:, :count], axis=1)
        unread = min(self.k or math.inf, self._per_group(spec)) - count
        if unread:
            value = xp.concat([value, xp.broadcast_to(value[:, :1] * 0, (value.shape[0], int(unread)))], axis=1)
        return Evaluation(value, (), (u, vh, phase, order))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """Sum over the values of cotangent times Re(conj(u_o) v_i e^{i k.theta})."""
        u, vh, phase, order = residuals
        b, f, _, r = u.shape
        weights = xp.astype(xp.reshape(_unsorted(cotangent, order, xp=xp), (b, f, 1, r)), u.dtype)
        return gradients.matrices_gradient(xp.matmul(u * weights, vh), phase, spec.block_kernel_shape, xp=xp)


def _unsorted(values: Array, order: Array, *, xp: Namespace) -> Array:
    """Entry order[j] is values[j]; 0 where the list of values has ended."""
    ranks = xp.argsort(order, axis=1)
    listed = ranks < values.shape[1]
    found = xp.take_along_axis(values, xp.where(listed, ranks, xp.zeros_like(ranks)), axis=1)
    return xp.where(listed, found, xp.zeros_like(found))
