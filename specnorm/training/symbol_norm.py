"""The norm itself, from below: singular vectors of the symbol at every frequency of a coarse grid, refined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import GeometryError
from specnorm.running import checks
from specnorm.running.base import Evaluation, Followed, Needs, Stepped
from specnorm.training import bundle, moving_points as cells, grid_scalars, grid_vectors, matrix_vectors
from specnorm.training.grid_vectors import Grid, PlaneWaves, placed
from specnorm.training.proof import attained_down

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

_LEAST_VECTORS = 48
"""Least number of vectors of all points together, for grids of few points."""
_MOST_VECTORS = 4
"""Largest number of vectors at a point for that reason."""
_MATRIX_SWEEPS = 16
"""Sweeps of a matrix outside of training."""
_START_STEPS = 10
"""Steps from random vectors before the first value."""
_EXACT = 32
"""Shorter side up to which the norm of a matrix is computed anew in each pass."""
_SWEEPS = {0.001: 1, 0.007: 2, 0.028: 6, 0.056: 12}
"""Number of sweeps of kernels that have gone further than these ways, as parts of their length. With 0.004 in place of
0.001, layers of 128 channels reached 1.011."""
_SINGLE, _MOST_SINGLE = 0.00175, 16
"""Part of the way that one sweep is for, and the most sweeps that a way asks for, on devices: there, a step sweeps once
or not at all."""
_KEPT = 4, 9
"""Waves that a sweep keeps: the highest that lead to maxima of their own."""
_STEPS, _LAST_STEPS = 4, 12
"""Newton steps of the highest points of depthwise layers, in training and outside of it."""


@dataclass(frozen=True)
class SymbolNorm(Stepped):
    """Lower bound on sigma*, near it: the largest singular value of the symbol that is found from a coarse grid.

    ``sigma* = max_theta ||G(theta)||`` with ``G(theta) = sum_k K_k e^{i k.theta}`` of the blocks. Right vectors at
    every frequency of the grid move at once by shifted block power steps. Passes of the bundle, which are power steps
    with Newton steps of the frequency, refine the result. The value is attained by a plane wave, so it is a lower bound
    wherever the iteration stops. In training the vectors and the bundle are the state. A sweep takes about two products
    of the kernel with all vectors, and follows *every* maximum. Symbols of depthwise layers are numbers: a step is one
    product of the kernel with a table, without a state. A matrix has one frequency. It is followed by sixteen real
    vectors (`matrix_vectors`).

    Parameters
    ----------
    points : int, optional
        Points along each axis of a square grid that is as fine. None: 5 or 6 for each tap but one, depending on the
        channels, within limits that were measured in training loops (`default_points`).
    vectors : int
        Least number of vectors at each point. Two vectors follow two singular values that cross.

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
            waves = self._waves(blocks, spec, ops=ops)
            _, first = self._first_steps(waves, spec)
            right, angles = bundle.settled(blocks, first, ops=ops)
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
        """Vectors of the grid, the bundle with its norms, and the sketch of the last sweep; the block of a matrix.

        Layers without a state are computed anew in each pass: depthwise ones, and matrices with a short side.
        """
        if _is_exact(spec):
            return {}
        m, p = spec.block_shape[:2]
        if _is_matrix(spec):
            return matrix_vectors.shapes(max(m, p), min(m, p))
        grid = self._grid(spec.block_kernel_shape, min(m, p))
        return cells.shapes(m, self._count(min(m, p), len(grid)), grid)
        new = grid_vectors.most_waves(spec.block_kernel_shape, len(grid))
        count = new + _kept(spec, new)
        axes = sum(k > 1 for k in spec.block_kernel_shape)
        vectors = min(m, p), self._count(min(m, p), len(grid)), len(grid), 2
        waves = {"left": (m, count, 2), "angles": (axes, count), "norms": (1, count)}
        return {"vectors": vectors, **waves, "sketch": (m, bundle.SKETCHES)}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Vectors after the first steps, and waves after some passes: the first norms are as good as later ones.

        A sketch of zeros is far from every kernel, so that a sweep is due.
        """
        xp = ops.xp
        if _is_matrix(spec):
            return matrix_vectors.start(_tall_matrices(blocks, xp=xp), sweeps=_MATRIX_SWEEPS, ops=ops)
        import specnorm.geometry.spec as _g
        b, m, p = blocks.shape[:3]
        plain = _g.ConvSpec(m, p, tuple(blocks.shape[3:]))
        grid = self._grid(spec.block_kernel_shape, min(m, p))
        return cells.start(xp.reshape(blocks, (b, m, -1)), plain, grid, self._count(min(m, p), len(grid)), ops=ops)
        vectors, first = self._first_steps(self._waves(blocks, spec, ops=ops), spec)
        new, heights, _ = bundle.passes(blocks, first, ops=ops)
        # No wave was followed before: in the places of those that are kept stand the highest again.
        kept = _kept(spec, heights.shape[1])
        waves = bundle.with_highest_kept(new, new, heights, kept, ops=ops)
        norms = xp.concat([xp.zeros_like(heights[:, :kept]), heights], axis=1)[:, None, :]
        *_, shape = self.state_shapes(spec).values()
        sketch = xp.zeros((blocks.shape[0], *shape), dtype=blocks.dtype, device=ops.device(blocks))
        return arrays.real_pair(vectors, xp=xp), *waves, norms, sketch

    def follow(
        self, rows: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int | None = None, ops: ArrayOps
    ) -> Followed:
        """One pass over the bundle, or the steps of a matrix; the layer's norm itself, where there is no state."""
        if _is_scalar(spec):
            return self._follow_scalars(rows, spec, ops=ops)
        if _is_matrix(spec):
            return _follow_matrices(rows, state, spec, sweeps=sweeps, ops=ops)
        m, p = spec.block_shape[:2]
        grid = self._grid(spec.block_kernel_shape, min(m, p))
        return Followed(*cells.follow(rows, state, spec, grid, self._count(min(m, p), len(grid)), sweeps=sweeps, ops=ops))
        vectors, left, angles, _, sketch = state
        value, left, right, moved = bundle.follow(rows, bundle.Waves(left, angles), spec, ops=ops)
        return Followed(value, left, right, (vectors, *moved.waves, moved.norms[:, None, :], sketch))

    def is_swept(self, spec: ConvSpec) -> bool:
        """Convolutions are; a matrix has no other maxima that its block does not see."""
        return False

    def way(self, rows: Array, state: tuple[Array, ...], spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, Array]:
        """The distance of the kernel's sketch from that of the last sweep."""
        sketch = bundle.sketch(rows, state[-1], spec, ops=ops)
        distance, reach = bundle.distance(sketch, state[-1], ops=ops), _reach(spec)
        return distance if reach == 1 else reach * distance, sketch

    def room(self, way: Array) -> Array:
        """Negative for kernels that are to be swept."""
        return min(_SWEEPS) - way

    def sweeps_due(self, way: Array, *, ops: ArrayOps) -> Array:
        """0, 1, 2, 6 or 12: few numbers, since layers that need as many are swept together."""
        ways, added = placed("sweeps", _ways_and_sweeps, way, ops=ops)
        # What is not a number counts as far.
        return ops.xp.sum(ops.xp.where(way[:, None] <= ways, 0.0, added), axis=1)

    def sweep(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        sketch: Array,
        spec: ConvSpec,
        *,
        sweeps: Any,
        way: Array | None = None,
        taps_first: bool = False,
        ops: ArrayOps,
    ) -> tuple[Array, ...]:
        """Step the vectors of the grid. The bundle begins anew at the best points, with the best waves before."""
        xp = ops.xp
        given, left, angles, norms, last_sketch = state
        waves = self._waves(blocks, spec, taps_first=taps_first, ops=ops)
        vectors = xp.reshape(ops.complex(given[..., 0], given[..., 1]), waves.shape)
        vectors = grid_vectors.with_invalid_replaced(vectors, waves)
        vectors, left_of_new, phases = grid_vectors.steps(waves, vectors, sweeps)
        heights = bundle.without_twins(norms[:, 0, :], angles, waves.grid.spacing, ops=ops)
        old, new = bundle.Waves(left, angles), _bundle(left_of_new, phases, spec, ops=ops)
        new = bundle.with_zero_frequency(new, blocks, taps_first=taps_first, ops=ops)
        kept = bundle.with_highest_kept(new, old, heights, _kept(spec, new.angles.shape[2]), ops=ops)
        if way is not None:
            # Each sweep is for a part of the way. The sketch stays where so much of it is left.
            left_of_way = xp.clip(way, 0.0, _MOST_SINGLE * _SINGLE) - sweeps * _SINGLE
            rest = xp.maximum(left_of_way, xp.zeros_like(way)) / (way + arrays.TINY)
            sketch = sketch + rest[:, None, None] * (last_sketch - sketch)
        # Sums that are not finite are far from every kernel, as zeros are.
        sketch = xp.where(xp.isfinite(sketch), sketch, 0.0)
        return xp.reshape(arrays.real_pair(vectors, xp=xp), given.shape), *kept, norms, sketch

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

    def _first_steps(self, waves: PlaneWaves, spec: ConvSpec) -> tuple[Array, bundle.Waves]:
        """Vectors after the first steps, and the waves that they lead to."""
        vectors, left, phases = grid_vectors.steps(waves, grid_vectors.start_vectors(waves), _START_STEPS)
        return vectors, _bundle(left, phases, spec, ops=waves.ops)

    def _waves(self, blocks: Array, spec: ConvSpec, *, taps_first: bool = False, ops: ArrayOps) -> PlaneWaves:
        channels = min(spec.block_shape[:2])
        grid = self._grid(spec.block_kernel_shape, channels)
        return PlaneWaves(blocks, grid, self._count(channels, len(grid)), taps_first=taps_first, ops=ops)

    def _count(self, channels: int, points: int) -> int:
        """Vectors at each point."""
        return min(max(self.vectors, min(arrays.ceil_div(_LEAST_VECTORS, points), _MOST_VECTORS)), channels)

    def _grid(self, kernel_shape: tuple[int, ...], channels: int) -> Grid:
        return grid_vectors.grid_of(kernel_shape, self.points or grid_vectors.default_points(kernel_shape, channels))


def _ways_and_sweeps(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
    """The ways beyond which kernels are swept more often, and how much more often."""
    return np.array([*_SWEEPS], dtype), np.diff([0, *_SWEEPS.values()]).astype(dtype)


def _kept(spec: ConvSpec, new: int) -> int:
    """Number of waves that a sweep keeps beside so many new ones."""
    return min(_KEPT[sum(k > 1 for k in spec.block_kernel_shape) > 2], new)


def _next_taps(spec: ConvSpec) -> list[int]:
    """Number of the tap next to the first one along each axis with more than one."""
    sizes = spec.block_kernel_shape
    return [math.prod(sizes[axis + 1 :]) for axis, k in enumerate(sizes) if k > 1]


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


def _reach(spec: ConvSpec) -> float:
    """How far a change of some length may move a symbol, beside one of 3x3 taps: with the root of the taps.

    Kernels with one axis count twice: with a factor of 1, a layer of 1-D convolutions reached 1.014.
    """
    taps = spec.block_kernel_shape
    return max(2.0 if sum(k > 1 for k in taps) == 1 else 1.0, math.sqrt(math.prod(taps)) / 3)


def _bundle(left: Array, phases: Array, spec: ConvSpec, *, ops: ArrayOps) -> bundle.Waves:
    """The waves with these left vectors (b, m, g) and phases (b, taps, g), as arrays of the state."""
    xp = ops.xp
    columns = [phases[:, j : j + 1, :] for j in _next_taps(spec)]
    chosen = arrays.joined(columns, axis=1, xp=xp)
    return bundle.Waves(arrays.real_pair(left, xp=xp), xp.atan2(xp.imag(chosen), xp.real(chosen)))


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
