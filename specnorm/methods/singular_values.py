"""All singular values of a layer at one input size: by its symbols, or by an SVD of the layer's own matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.certified.matrices import norms
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError, MethodError
from specnorm.methods.base import Evaluation, Method, Needs, check_count, require_circular, require_exact
from specnorm.numerics import gradients
from specnorm.problem.frequencies import half_grid, mirror_index
from specnorm.problem.layer_map import Convolution
from specnorm.problem.taps import shapes_of, sizes_of
from specnorm.search.enclosing import grid_sizes

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps

MOST_ROWS = 4096
"""Largest shorter side of a layer's own matrix: an SVD of that size takes a minute."""


@dataclass(frozen=True)
class _LayerValues(Method):
    """Base of both methods: how many of the values are asked for."""

    k: int | None = None
    max_bytes: int = 2**32
    smallest: bool = False

    promise: ClassVar[Kind] = "exact"
    asks: ClassVar[Needs] = Needs(precision="wide")

    def total(self, spec: ConvSpec) -> int:
        """Number of singular values of a layer."""
        raise NotImplementedError

    @property
    def _rounds_down(self) -> bool:
        """Whether each value is a lower bound of the singular value of its rank: the k largest are."""
        return self.k is not None and not self.smallest

    def needs(self, spec: ConvSpec) -> Needs:
        rounds: Rounds = "down" if self._rounds_down else "nearest"
        return replace(self.asks, rounds=rounds, value_shape=(self.k or self.total(spec),))

    def _check_k(self, spec: ConvSpec) -> None:
        """Refuse a ``k`` that is no count, or more than the singular values that a layer has; None means all of them.

        Raises
        ------
        MethodError
        """
        if self.k is None:
            return
        check_count("k", self.k, least=1)
        total = self.total(spec)
        if self.k > total:
            raise MethodError(f"k={self.k!r} is not a number of singular values: this layer has {total}.")


@dataclass(frozen=True)
class SingularValues(_LayerValues):
    """All singular values of a circular layer at one input size, descending; or the k largest or smallest.

    A layer without padding whose outputs read disjoint patches, such as a 1x1 layer, is supported, too: its values are
    those of one matrix, repeated.

    Parameters
    ----------
    k : int or None
        Number of values; None: all, of which a layer without stride has ``prod(input_shape) * min(cin, cout)``. Each of
        the k largest is a proven lower bound of the singular value of its rank.
    smallest : bool
        Whether the k smallest are meant, not the k largest.
    max_bytes : int, default 4 GiB
        Refuse computations that take more memory.
    """

    name: ClassVar[str] = "singular_values"

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers that are neither circular at a size nor a matrix for each patch, and a k that is too large."""
        if spec.input_shape is None or not spec.repeats_a_matrix:
            require_circular(
                spec,
                "singular_values",
                at_every_size="conv_norm(kernel) and the bounds",
                for_other_padding="The largest values of a padded layer: singular_values(kernel, input_shape, k=...).",
            )
            require_exact(spec, "singular_values")
        self._check_k(spec)
        memory = self.memory(spec)
        if memory > self.max_bytes:
            raise MethodError(
                f"{self.total(spec)} singular values, with their vectors some {memory / 2**30:.3g} GiB of memory. "
                "The largest of them take little: "
                "specnorm.measure(kernel, specnorm.methods.PowerTopK(k=10), input_shape=...), and conv_norm the first. "
                f"max_bytes={memory} computes them all the same."
            )

    @staticmethod
    def _per_group(spec: ConvSpec) -> int:
        """Number of singular values of one group; those of pixels that no tap reads are zero."""
        output_channels, input_channels = spec.group_channels
        positions = _positions(spec)
        pixels = positions * math.prod(spec.stride)
        if spec.repeats_a_matrix:
            large, _ = sizes_of(spec)
            pixels = math.prod(large)
        return min(output_channels * positions, input_channels * pixels)

    def total(self, spec: ConvSpec) -> int:
        return spec.groups * self._per_group(spec)

    def memory(self, spec: ConvSpec) -> int:
        """Bytes of the singular vectors at every frequency, and once more at half of them; the same for every k."""
        rows, columns = spec.block_shape[:2]
        frequencies = spec.groups * _positions(spec)
        # Complex numbers of 16 bytes, one and a half times.
        return 24 * frequencies * (rows + columns) * min(rows, columns)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        flat = xp.reshape(values, (values.shape[0], -1))
        order = self._order(flat, xp=xp)
        count = self.k or flat.shape[1]
        return xp.take_along_axis(flat, order[:, :count], axis=1), order

    def _order(self, flat: Array, *, xp: Namespace) -> Array:
        """Indices that bring the k values that are asked for, descending, to the front."""
        order = xp.argsort(flat, axis=1, descending=True)
        if self.k is None or not self.smallest:
            return order
        return xp.concat([order[:, -self.k :], order[:, : -self.k]], axis=1)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Undo the merge; values not asked for get 0."""
        return xp.reshape(_unsorted(cotangent, chosen, xp=xp), (chosen.shape[0], groups, -1))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """SVD at half the frequencies; the others are their mirror images or, for axes with one tap, repetitions."""
        xp = ops.xp
        # Axes with one tap need one frequency.
        sizes = grid_sizes(spec, spec.block_kernel_shape) if spec.ndim else ()
        half = half_grid(sizes)
        repeats = _positions(spec) // math.prod(sizes)
        mirror = ops.from_numpy(np.tile(mirror_index(sizes), repeats), blocks)
        parts = []
        step = symbols.chunk_length(blocks, ops=ops)
        for start in range(0, len(half), step):
            symbol = symbols.Symbol(blocks, half[start : start + step], ops=ops)
            matrices = symbol.matrices()
            u, s, vh = xp.linalg.svd(matrices, full_matrices=False)
            if self._rounds_down:
                error = symbols.symbol_error(blocks, xp=xp)[:, None]
                s = norms.singular_values_down(matrices, (u, s, vh), error, xp=xp)
            phase = xp.broadcast_to(symbol.phase[None, ...], (blocks.shape[0], *symbol.phase.shape))
            parts.append((u, s, vh, phase))
        half_factors = (xp.concat(list(chunks), axis=1) for chunks in zip(*parts, strict=True))
        u, s, vh, phase = (xp.take(factor, mirror, axis=1) for factor in half_factors)
        flat = xp.reshape(s, (s.shape[0], -1))
        unread = self._per_group(spec) - flat.shape[1]
        if unread:
            # Pixels that no tap reads: no vectors, and values of 0 after all others.
            flat = xp.concat([flat, xp.broadcast_to(flat[:, :1] * 0, (flat.shape[0], unread))], axis=1)
        order = self._order(flat, xp=xp)
        count = min(self.k or flat.shape[1], flat.shape[1])
        return Evaluation(xp.take_along_axis(flat, order[:, :count], axis=1), (), (u, vh, phase, order))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Sum over the values of cotangent times Re(conj(u_o) v_i e^{i k.theta})."""
        u, vh, phase, order = residuals
        b, f, _, r = u.shape
        weights = xp.reshape(_unsorted(cotangent, order, xp=xp)[:, : f * r], (b, f, 1, r))
        weights = xp.astype(weights, u.dtype)
        return gradients.matrices_gradient(xp.matmul(u * weights, vh), phase, spec.block_kernel_shape, xp=xp)


@dataclass(frozen=True)
class OwnSingularValues(_LayerValues):
    """All singular values of a layer at one input size, descending; or the k largest or smallest.

    The layer is applied to each unit vector of inputs. That gives its matrix, for an SVD; so the layer must be small.
    `SingularValues` needs only one SVD for each frequency, for layers that symbols describe.

    Parameters
    ----------
    k, max_bytes, smallest
        As in `SingularValues`; a layer has ``min(inputs, outputs)`` values.
    """

    name: ClassVar[str] = "own_singular_values"
    asks: ClassVar[Needs] = Needs(precision="wide", blocks=False)

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers without a size, or whose matrix is too large, and a k beyond their values."""
        if spec.input_shape is None:
            raise GeometryError("singular_values needs input_shape, the layer's spatial input sizes.")
        self._check_k(spec)
        outputs, inputs = self._sides(spec)
        advice = (
            "give a smaller input_shape; or use singular_values(kernel, input_shape, k=...), which computes the k "
            "largest ones by Lanczos, or enclose_smallest(kernel, input_shape), which encloses the smallest one."
        )
        problem = f"a layer whose borders cut taps off has the singular values of its own matrix, {outputs} x {inputs}"
        if self.total(spec) > MOST_ROWS:
            raise MethodError(f"{problem}, of which more than {MOST_ROWS} take too long: {advice}")
        memory = self.memory(spec)
        if memory > self.max_bytes:
            raise MethodError(
                f"{problem}, some {memory / 2**30:.3g} GiB of memory: {advice} max_bytes={memory} computes them all "
                "the same."
            )

    def memory(self, spec: ConvSpec) -> int:
        """Bytes of the matrix, its factors, and the gradient of each value that is asked for."""
        outputs, inputs = self._sides(spec)
        least = min(outputs, inputs)
        kernel_entries = math.prod(spec.kernel_shape) * math.prod(spec.stored_channels)
        return 8 * (2 * outputs * inputs + least * (outputs + inputs) + (self.k or least) * kernel_entries)

    @staticmethod
    def _sides(spec: ConvSpec) -> tuple[int, int]:
        """Numbers of outputs and of inputs."""
        inputs, outputs = shapes_of(spec)
        return math.prod(outputs), math.prod(inputs)

    def total(self, spec: ConvSpec) -> int:
        return min(self._sides(spec))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        layer = Convolution(blocks, spec, ops=ops)
        _, inputs = layer.shape
        unit_vectors = xp.eye(inputs, dtype=blocks.dtype, device=ops.device(blocks))
        # Row j is the image of input j: the transposed matrix.
        images = layer.apply(xp.broadcast_to(unit_vectors, (blocks.shape[0], inputs, inputs)))
        v, values, u = xp.linalg.svd(images, full_matrices=False)
        count = self.k or values.shape[-1]
        wanted = slice(values.shape[-1] - count, values.shape[-1]) if self.smallest else slice(0, count)
        right = xp.matrix_transpose(v)[:, wanted, :]
        # Of <u_j, A v_j>, with the vectors held fixed.
        kernel_gradients = layer.kernel_gradient(u[:, wanted, :], right)
        return Evaluation(values[:, wanted], (), (kernel_gradients,))


def _positions(spec: ConvSpec) -> int:
    """Number of positions on the small side of the convolution: of outputs, or of inputs of a transposed layer."""
    if spec.repeats_a_matrix:
        _, small = sizes_of(spec)
        return math.prod(small)
    return math.prod(spec.block_positions)


def _unsorted(values: Array, order: Array, *, xp: Namespace) -> Array:
    """Values at the places that ``order`` lists, and 0 at places beyond the end of the values."""
    ranks = xp.argsort(order, axis=1)
    has_value = ranks < values.shape[1]
    unsorted = xp.take_along_axis(values, xp.where(has_value, ranks, xp.zeros_like(ranks)), axis=1)
    return xp.where(has_value, unsorted, xp.zeros_like(unsorted))
