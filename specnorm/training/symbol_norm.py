"""The norm itself, from below: singular vectors of the symbol at every frequency of a coarse grid, refined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from specnorm.backends import arrays
from specnorm.errors import GeometryError
from specnorm.running.base import Evaluation, Needs, Stepped, check_count
from specnorm.training import grid_vectors, matrix_vectors
from specnorm.training.grid_vectors import Grid, PlaneWaves, Triples
from specnorm.training.proof import attained_down

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.running.base import FigureRule, Kind

_LEAST_VECTORS = 48
"""Least number of vectors of all points together, for grids of few points."""
_MOST_VECTORS = 4
"""Largest number of vectors at a point for that reason."""
_MATRIX_STEPS = 16
"""Steps of a matrix outside of training, each with a filter of degree 12."""
_START_STEPS = 10
"""Steps from random vectors before the first value."""
_UNROLLED = 3
"""Number of steps of a matrix up to which a Python loop is used. Compilers keep more steps as a loop."""
_LAST_ROUNDS = 40
"""Rounds of the highest point alone, outside of training."""


@dataclass(frozen=True)
class SymbolNorm(Stepped):
    """Lower bound of sigma*, near it: the largest singular value of the symbol that is found from a coarse grid.

    ``sigma* = max_theta ||G(theta)||`` with ``G(theta) = sum_k K_k e^{i k.theta}`` of the blocks. Right vectors at
    every frequency of the grid move at once by shifted block power steps. At the best points Rayleigh-Ritz combines
    them with their power step. The result is refined: power steps alternate with moves of the frequency, first to the
    best of three values along each axis, then by Newton's method. The value is attained by a plane wave, so it is a
    lower bound wherever the iteration stops. In training the vectors are the state. A step takes about two products of
    the kernel with all of them, and follows *every* maximum. Symbols of depthwise layers are numbers: a step is one
    product of the kernel with a table, and does not read the state. A matrix has one frequency. It is followed by two
    real vectors, which each step filters by a Chebyshev polynomial.

    Parameters
    ----------
    points : int, optional
        Points along each axis of a square grid that is as fine. None: 5 or 6 for each tap but one, depending on the
        channels, within limits that were measured in training loops (`default_points`).
    vectors : int
        Least number of vectors at each point. Two vectors follow two singular values that cross. A matrix has two.

    References
    ----------
    .. [1] Farnia, Zhang, Tse, "Generalizable Adversarial Training via Spectral Normalization", ICLR 2019, and Ryu et
       al., ICML 2019 (power iteration on the convolution, one vector). Ours: vectors at all frequencies of a grid, so
       that a maximum that rises elsewhere is seen.
    .. [2] Zhou, Saad, Tiago, Chelikowsky, "Self-consistent-field calculations using Chebyshev-filtered subspace
       iteration", J. Comput. Phys. 219, 2006 (the filter, for the lowest eigenvalues).
    .. [3] Parlett, "The Symmetric Eigenvalue Problem", 1980, chapter 14 (block power iteration, Rayleigh-Ritz).
    """

    points: int | None = None
    vectors: int = 2

    name: ClassVar[str] = "symbol"
    promise: ClassVar[Kind] = "lower"
    asks: ClassVar[Needs] = Needs(rounds="down", precision="mixed", narrow_gradient=True, small_products=True)
    stats: ClassVar[Mapping[str, FigureRule]] = {}
    pads_channels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.points is not None:
            check_count("points", self.points, least=1)
        check_count("vectors", self.vectors, least=1)

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
            highest_group, blocks, triples = self._highest(blocks, spec, _LAST_ROUNDS, ops=ops)
            group = (highest_group,)
        elif _is_matrix(spec):
            triples, _ = _matrix_step(blocks, self.start(blocks, spec, ops=ops)[0], sweeps=1, ops=ops)
        else:
            triples = self._run_from_start(blocks, ops=ops)[1]
        wide = arrays.in_wide_dtype(blocks, ops=ops)
        complex_dtype = arrays.complex_dtype(wide.dtype, xp=xp)
        vectors = xp.astype(triples.right, complex_dtype, copy=False)
        angles = xp.astype(_angles(triples.phases, spec, xp=xp), wide.dtype, copy=False)
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
        """Vectors of the smaller side, as (real, imaginary), at the points of the grid; those of a matrix are real."""
        channels = min(spec.block_shape[:2])
        if _is_matrix(spec):
            return {"vectors": (channels, 2, 1, 1)}
        grid = self._scalar_grid(spec) if _is_scalar(spec) else self._grid(spec.block_kernel_shape, channels)
        return {"vectors": (channels, 1 if _is_scalar(spec) else self._count(channels, len(grid)), len(grid), 2)}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        if _is_scalar(spec):
            waves = PlaneWaves(blocks, self._scalar_grid(spec), ops=ops)
            return (arrays.real_pair(grid_vectors.start_vectors(waves)[:, :, None, :], xp=ops.xp),)
        if _is_matrix(spec):
            first = matrix_vectors.start(_tall_matrices(blocks, xp=ops.xp), ops=ops)
            return (_matrix_step(blocks, first[..., None, None], sweeps=_MATRIX_STEPS, ops=ops)[1][..., None, None],)
        return (arrays.real_pair(self._run_from_start(blocks, ops=ops)[0], xp=ops.xp),)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        xp = ops.xp
        if _is_scalar(spec):
            group, _, triples = self._highest(blocks, spec, ops=ops)
            residuals = _residuals(triples.left, triples.right, triples.phases, xp=xp)
            return Evaluation(triples.value, (), (*residuals, group)), state
        if _is_matrix(spec):
            triples, vectors = _matrix_step(blocks, state[0], sweeps=sweeps, ops=ops)
            new_state = vectors[..., None, None]
            residuals = triples.left[:, :, None], triples.right[:, None, :]
        else:
            waves = self._waves(blocks, ops=ops)
            vectors = xp.reshape(ops.complex(state[0][..., 0], state[0][..., 1]), waves.shape)
            vectors = grid_vectors.with_invalid_replaced(vectors, waves)
            for _ in range(max(sweeps, 1)):
                vectors, start = grid_vectors.step(waves, vectors)
            triples = grid_vectors.highest(waves, start)
            new_state = arrays.real_pair(vectors, xp=xp)
            residuals = _residuals(triples.left, triples.right, triples.phases, xp=xp)
        return Evaluation(triples.value, (), residuals), (new_state,) if sweeps else state

    def _run_from_start(self, blocks: Array, *, ops: ArrayOps) -> tuple[Array, Triples]:
        """Vectors after the first steps, and the triples that they lead to."""
        waves = self._waves(blocks, ops=ops)
        vectors = grid_vectors.start_vectors(waves)
        (vectors,) = arrays.repeated(
            lambda state: (grid_vectors.step(waves, state[0])[0],), _START_STEPS - 1, (vectors,), ops=ops
        )
        vectors, start = grid_vectors.step(waves, vectors)
        return vectors, grid_vectors.highest(waves, start, last_rounds=_LAST_ROUNDS)

    def _highest(
        self, blocks: Array, spec: ConvSpec, last_rounds: int = 0, *, ops: ArrayOps
    ) -> tuple[Array, Array, Triples]:
        """Group, block and triple of the highest group of each layer."""
        from specnorm.training import grid_scalars  # imported here: depthwise layers alone need it

        return grid_scalars.highest(blocks, spec.groups, self._scalar_grid(spec), last_rounds, ops=ops)

    def _scalar_grid(self, spec: ConvSpec) -> Grid:
        from specnorm.training import grid_scalars  # imported here: depthwise layers alone need it

        return grid_scalars.grid_of(spec.block_kernel_shape, self.points)

    def _waves(self, blocks: Array, *, ops: ArrayOps) -> PlaneWaves:
        channels = min(blocks.shape[1:3])
        grid = self._grid(tuple(blocks.shape[3:]), channels)
        return PlaneWaves(blocks, grid, self._count(channels, len(grid)), ops=ops)

    def _count(self, channels: int, points: int) -> int:
        """Vectors at each point."""
        return min(max(self.vectors, min(arrays.ceil_div(_LEAST_VECTORS, points), _MOST_VECTORS)), channels)

    def _grid(self, kernel_shape: tuple[int, ...], channels: int) -> Grid:
        return grid_vectors.grid_of(kernel_shape, self.points or grid_vectors.default_points(kernel_shape, channels))


def _angles(phases: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """The frequencies (b, d) of phases (b, taps): the arguments at the taps next to the first one, along each axis."""
    sizes = spec.block_kernel_shape
    neighbours = [math.prod(sizes[axis + 1 :]) if k > 1 else 0 for axis, k in enumerate(sizes)]
    columns = [phases[:, j : j + 1] for j in neighbours]
    chosen = xp.concat([phases[:, :0], *columns], axis=1)
    return xp.atan2(xp.imag(chosen), xp.real(chosen))


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


def _tall_matrices(blocks: Array, *, xp: Namespace) -> Array:
    """The blocks (b, m, p, 1, ...) as matrices (b, m, p), transposed if m < p."""
    tall = arrays.tall(blocks, xp=xp)
    return xp.reshape(tall, tall.shape[:3])


def _matrix_step(blocks: Array, vectors: Array, *, sweeps: int, ops: ArrayOps) -> tuple[Triples, Array]:
    """`matrix_vectors.step`, at least once, from vectors (b, n, r, 1, 1) of the smaller side: triples, and vectors."""
    xp = ops.xp
    matrices, vectors = _tall_matrices(blocks, xp=xp), vectors[..., 0, 0]

    def repeat(state: tuple[Array, ...]) -> tuple[Array, ...]:
        return (matrix_vectors.step(matrices, state[0], ops=ops)[0],)

    if sweeps > _UNROLLED:
        (vectors,) = arrays.repeated(repeat, sweeps - 1, (vectors,), ops=ops)
    else:
        for _ in range(sweeps - 1):
            (vectors,) = repeat((vectors,))
    vectors, images = matrix_vectors.step(matrices, vectors, ops=ops)
    left, norms = arrays.normalise(images[:, :, 0], xp=xp)
    right = vectors[:, :, 0]
    if blocks.shape[1] < blocks.shape[2]:
        left, right = right, left
    return Triples(norms[:, 0], left, right, ops.complex(xp.ones_like(norms), xp.zeros_like(norms))), vectors
