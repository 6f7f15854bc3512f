"""The norm itself, from below: singular vectors of the symbol in every cell of a coarse grid of frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.errors import GeometryError
from specnorm.running import checks
from specnorm.running.base import Evaluation, Followed, Needs, Stepped
from specnorm.training import grid_scalars, grids, matrix_vectors, moving_points
from specnorm.training.proof import attained_down

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.training.grids import Grid

_EXACT = 32
"""Shorter side up to which the norm of a matrix is computed anew in each pass."""
_ALL = 3
"""Channels up to which all singular vectors are followed. With two of three, the first layer of a DCGAN critic at ten
times the usual rate reached 1.0139, with three at most 1.006."""
_STEPS, _LAST_STEPS = 4, 12
"""Newton steps of the highest points of depthwise layers, in training and outside of it."""


@dataclass(frozen=True)
class SymbolNorm(Stepped):
    """Lower bound on sigma*, near it: the largest singular value of the symbol that is found from a coarse grid.

    ``sigma* = max_theta ||G(theta)||`` with ``G(theta) = sum_k K_k e^{i k.theta}`` of the blocks. In every cell of a
    grid of frequencies, vectors and a frequency climb to the cell's maximum (`moving_points`). The value is attained by
    a plane wave, so it is a lower bound wherever the iteration stops. In training, the vectors and frequencies are the
    state. Symbols of depthwise layers are numbers: a step is one product of the kernel with a table, without a state. A
    matrix has one frequency. It is followed by sixteen real vectors (`matrix_vectors`).

    Parameters
    ----------
    points : int, optional
        Points along each axis of a square grid that is as fine. None: 5 to 8 for each tap but one, depending on the
        channels and axes, within limits that were measured in training loops (`default_points`).
    vectors : int
        Number of vectors in each cell; as many as channels if these are fewer, or at most three. Two vectors follow two
        singular values that cross.

    References
    ----------
    .. [1] Farnia, Zhang, Tse, "Generalizable Adversarial Training via Spectral Normalization", ICLR 2019, and Ryu et
       al., ICML 2019 (power iteration on the convolution, one vector). Ours: vectors at all frequencies of a grid, so
       that a maximum that rises elsewhere is seen.
    .. [2] Parlett, "The Symmetric Eigenvalue Problem", 1980, chapter 14 (block power iteration, Rayleigh-Ritz).
    """

    points: int | None = None
    vectors: int = 2

    name: ClassVar = "symbol"
    promise: ClassVar = "lower"
    asks: ClassVar = Needs(rounds="down", precision="mixed", narrow_gradient=True, small_products=True)
    stats: ClassVar = {}
    follows: ClassVar = True
    pads_channels: ClassVar = True

    def __post_init__(self) -> None:
        if self.points is not None:
            checks.count("points", self.points, least=1)
        checks.count("vectors", self.vectors, least=1)

    def needs(self, spec: ConvSpec) -> Needs:
        return replace(super().needs(spec), by_layer=_is_scalar(spec))

    def check(self, spec: ConvSpec) -> None:
        """Refuse a size: the maximum over the frequencies of one size is another number."""
        if spec.input_shape:
            raise GeometryError(
                f"symbol_norm bounds the supremum over all input sizes from below; got input_shape={spec.input_shape}. "
                "Leave it out, or use power_norm(kernel, input_shape) for a lower bound at a size, and "
                "conv_norm(kernel, input_shape) for the norm itself."
            )

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Start, refine, and take the value in the widest precision, rounded down."""
        xp = ops.xp
        group: tuple[Array, ...] = ()
        if _is_scalar(spec):
            highest_group, blocks, angles = grid_scalars.highest(blocks, spec.groups, self.points, _LAST_STEPS, ops=ops)
            group = (highest_group,)
            right = xp.ones_like(xp.reshape(blocks, (blocks.shape[0], -1))[:, :1])
        elif _is_matrix(spec):
            right = self._right_of_matrix(blocks, spec, ops=ops)
            angles = right[:, :0]
        else:
            right, angles = moving_points.highest(blocks, *self._cells(spec), ops=ops)
        wide = arrays.in_wide_dtype(blocks, ops=ops)
        vectors = xp.astype(right, arrays.complex_dtype(wide.dtype, xp=xp), copy=False)
        angles = xp.astype(angles, wide.dtype, copy=False)
        value, image, phases = attained_down(wide, vectors, angles, ops=ops)
        left, _ = arrays.normalise(image, xp=xp)
        return Evaluation(value, (), (*_residuals(left, vectors, phases, xp=xp), *group))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Envelope theorem: ``Re(conj(u) v e^{i k.theta})``, the vectors and the frequency held constant."""
        rows, columns, *group = residuals
        rows = rows * cotangent[:, None, None]
        # NumPy takes a tenth of the time of a product with one inner entry.
        gradient = rows * columns if rows.shape[2] == 1 else xp.matmul(rows, columns)
        if group:
            gradient = arrays.one_hot(gradient, group[0], spec.groups, xp=xp)
        return xp.reshape(gradient, (-1, *spec.block_shape))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """Vectors and frequencies of the cells, and the sketch of the last step; the block of a matrix.

        Layers without a state are computed anew in each pass: depthwise ones, and matrices with a short side.
        """
        if _is_exact(spec):
            return {}
        m, p = spec.block_shape[:2]
        if _is_matrix(spec):
            return matrix_vectors.shapes(max(m, p), min(m, p))
        return moving_points.shapes(m, p, *self._cells(spec))

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The state after the first steps from random vectors."""
        if _is_matrix(spec):
            return matrix_vectors.start(_tall_matrices(blocks, xp=ops.xp), ops=ops)
        return moving_points.start(blocks, *self._cells(spec), ops=ops)

    def follow(
        self, rows: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int | None = None, ops: ArrayOps
    ) -> Followed:
        """Steps of the points or of a matrix; the layer's norm itself, where there is no state."""
        if _is_scalar(spec):
            return self._follow_scalars(rows, spec, ops=ops)
        if _is_matrix(spec):
            return _follow_matrices(rows, state, spec, sweeps=sweeps, ops=ops)
        grid, _ = self._cells(spec)
        return Followed(*moving_points.follow(rows, state, spec, grid, sweeps=sweeps, ops=ops))

    def _follow_scalars(self, rows: Array, spec: ConvSpec, *, ops: ArrayOps) -> Followed:
        """The highest group of each layer (`grid_scalars`)."""
        xp = ops.xp
        layers = xp.reshape(rows, (-1, spec.groups * rows.shape[2]))
        size = xp.max(xp.abs(layers), axis=1) + arrays.TINY
        blocks = xp.reshape(layers / size[:, None], (-1, *spec.block_shape))
        group, block, angles = grid_scalars.highest(blocks, spec.groups, self.points, _STEPS, ops=ops)
        phases = grid_scalars.phases_at(angles, spec.block_kernel_shape, ops=ops)
        image = xp.sum(xp.reshape(block, phases.shape) * phases, axis=1)
        value = xp.abs(image)
        left = (image * arrays.inverse(value, xp=xp))[:, None]
        left, right = _residuals(left, xp.ones_like(left), phases, xp=xp)
        left = xp.reshape(arrays.one_hot(left, group, spec.groups, xp=xp), (-1, spec.groups, 2))
        return Followed(value * size, left, right)

    def _right_of_matrix(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
        """Right vectors (b, p) of matrices after the steps outside of training."""
        rows = ops.xp.reshape(blocks, blocks.shape[:3])
        state = () if _is_exact(spec) else self.start(blocks, spec, ops=ops)
        return self.follow(rows, state, spec, sweeps=1, ops=ops).right[:, 0, :]

    def _cells(self, spec: ConvSpec) -> tuple[Grid, int]:
        """The grid, and the number of vectors at each point."""
        kernel_shape, channels = spec.block_kernel_shape, min(spec.block_shape[:2])
        points = self.points or grids.default_points(kernel_shape, channels)
        count = channels if channels <= _ALL else min(self.vectors, channels)
        return grids.grid_of(kernel_shape, points), count


def _residuals(left: Array, right: Array, phases: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Two real factors of the gradient of the blocks: rows (b, m, 2) and columns (b, 2, p * taps)."""
    waves = xp.reshape(right[:, :, None] * phases[:, None, :], (right.shape[0], -1))
    return arrays.real_pair(left, xp=xp), xp.stack([xp.real(waves), xp.imag(waves)], axis=1)


def _is_scalar(spec: ConvSpec) -> bool:
    """Whether the symbols are numbers, as those of depthwise layers."""
    return spec.block_shape[:2] == (1, 1)


def _is_matrix(spec: ConvSpec) -> bool:
    """Whether there is one symbol: no axis has more than one tap, or all taps read different pixels."""
    return not _is_scalar(spec) and math.prod(spec.block_kernel_shape) == 1


def _is_exact(spec: ConvSpec) -> bool:
    """Whether a layer's norm is computed anew in each pass, which takes less time than to follow it."""
    return _is_scalar(spec) or (_is_matrix(spec) and min(spec.block_shape[:2]) <= _EXACT)


def _follow_matrices(
    rows: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int | None, ops: ArrayOps
) -> Followed:
    xp, matrices = ops.xp, _tall_matrices(rows, xp=ops.xp)
    if _is_exact(spec):
        return Followed(*_factors(*matrix_vectors.exact(matrices, ops=ops), spec, xp=xp))
    block = matrix_vectors.Block(*state)
    value, left, right, block = matrix_vectors.follow(matrices, block, sweeps=sweeps, ops=ops)
    return Followed(*_factors(value, left, right, spec, xp=xp), tuple(block))


def _factors(value: Array, left: Array, right: Array, spec: ConvSpec, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """Norm and factors of its gradient, from unit vectors (b, n, 1) of matrices that are tall."""
    if spec.block_shape[0] < spec.block_shape[1]:
        left, right = right, left
    return value, left, xp.matrix_transpose(right)


def _tall_matrices(blocks: Array, *, xp: Namespace) -> Array:
    """The blocks (b, m, p, 1, ...) as matrices (b, m, p), transposed if m < p."""
    matrices = xp.reshape(blocks, blocks.shape[:3])
    return xp.matrix_transpose(matrices) if matrices.shape[1] < matrices.shape[2] else matrices
