"""Unfolding bounds and Fantastic Four: norms of the kernel reshaped into matrices (Singla and Feizi 2019, 2021).

For every split of the axes (cout, cin, *spatial) into rows and columns, ``sqrt(prod k_j) ||unfolding|| >= sigma*``.
Each norm is proven, not iterated: an unconverged power iteration would be below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, operators, rounding
from specnorm.methods.base import Evaluation, Method

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class Unfoldings(Method):
    """All ``2**(d+1) - 1`` unfolding bounds, as one 1-d value; each is an upper bound on its own.

    The first ``2**d`` separate the channels (in 2-D: R, S, T, U of the papers in some order), the others do not.

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019 (two of them).
    .. [2] Singla, Feizi, "Fantastic Four", ICLR 2021, theorem 1 (four of them).
    """

    name: ClassVar[str] = "unfoldings"
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size: the bound is on sigma*, the supremum over sizes."""
        del spec
        return "upper"

    def value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One value a split."""
        return (2 ** (spec.ndim + 1) - 1,)

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Prove every unfolding's norm."""
        bounds, residuals = [], []
        for rows in operators.unfolding_splits(spec.ndim):
            matrix = operators.unfold(blocks, rows, xp=xp)
            bounds.append(rounding.matrix_norm_up(matrix, xp=xp, backend=backend))
            residuals += list(operators.top_triple(matrix, xp=xp)[:2])
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        return Evaluation(rounding.up(xp.stack(bounds, axis=1) * root, 3, xp=xp), (), tuple(residuals))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """sqrt(taps) u v^T of each unfolding, folded back and weighted by its cotangent."""
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        total = 0.0
        for j, rows in enumerate(operators.unfolding_splits(spec.ndim)):
            u, v = residuals[2 * j], residuals[2 * j + 1]
            u = u * (root * cotangent[:, j])[:, None]
            total = total + operators.fold(u[:, :, None] * v[:, None, :], rows, spec.block_shape, xp=xp)
        return total


@dataclass(frozen=True)
class FantasticFour(Method):
    """The minimum of the unfolding bounds; differentiated through the active one.

    The papers take four (2-D, the channels on different sides); all ``2**(d+1) - 1`` are bounds, and the others win
    for few channels and large kernels, so the minimum here is over all of them.
    """

    name: ClassVar[str] = "f4"
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True
    small_steps: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size."""
        del spec
        return "upper"

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Take the smallest unfolding bound."""
        if not (backend.static_shapes or backend.is_traced(blocks)):
            return _smallest(blocks, spec, xp=xp, backend=backend)
        every = Unfoldings().forward(blocks, spec, xp=xp, backend=backend)
        active = xp.argmin(every.value, axis=1)
        return Evaluation(xp.min(every.value, axis=1), (), (*every.residuals, active))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """The active unfolding's gradient."""
        *vectors, active = residuals
        columns = arrays.one_hot(cotangent, active, len(vectors) // 2, xp=xp)
        return Unfoldings().pullback(tuple(vectors), columns, spec, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """A right vector of each unfolding."""
        shape = spec.block_shape
        splits = operators.unfolding_splits(spec.ndim)
        return {
            f"v{j}": (math.prod(shape) // math.prod(shape[axis] for axis in rows),) for j, rows in enumerate(splits)
        }

    def start(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> tuple[Array, ...]:
        """Top right singular vectors; constant ones for a zero block."""
        del backend
        found = []
        for rows in operators.unfolding_splits(spec.ndim):
            _, v, _ = operators.top_triple(operators.unfold(blocks, rows, xp=xp), xp=xp)
            found.append(arrays.normalise_or_keep(v, xp.ones_like(v) / math.sqrt(v.shape[-1]), xp=xp)[0])
        return tuple(found)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, xp: Any, backend: Backend
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps on each unfolding: an estimate, as each is below its norm."""
        del backend
        values, residuals, after = [], [], []
        for v, rows in zip(state, operators.unfolding_splits(spec.ndim), strict=True):
            u, v, value = follow_matrix(operators.unfold(blocks, rows, xp=xp), v, sweeps, xp=xp)
            values.append(value)
            residuals += [u, v]
            after.append(v)
        every = xp.stack(values, axis=1) * math.sqrt(math.prod(spec.block_kernel_shape))
        active = xp.argmin(every, axis=1)
        return Evaluation(xp.min(every, axis=1), (), (*residuals, active)), tuple(after)


def follow_matrix(a: Array, v: Array, sweeps: int, *, xp: Any) -> tuple[Array, Array, Array]:
    """Power steps on matrices (b, m, n) from vectors (b, n): (u, v, u a v)."""
    u, norm = arrays.normalise(xp.matmul(a, v[..., None])[..., 0], xp=xp)
    for j in range(sweeps):
        if j:
            u, _ = arrays.normalise(xp.matmul(a, v[..., None])[..., 0], xp=xp)
        v, norm = arrays.normalise_or_keep(xp.matmul(u[..., None, :], a)[..., 0, :], v, xp=xp)
    return u, v, norm[..., 0]


_STEPS = 8
"""Power steps that tell which unfoldings cannot have the smallest norm: they estimate it from below."""


def _smallest(blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
    """The smallest unfolding bound of each block, proving no norm that a power iteration shows to be larger."""
    splits = operators.unfolding_splits(spec.ndim)
    matrices = [operators.unfold(blocks, rows, xp=xp) for rows in splits]
    guesses = [_from_below(matrix, xp=xp, backend=backend) for matrix in matrices]
    least = np.stack([value for value, _ in guesses])
    best = np.full_like(least[0], math.inf)
    active = np.zeros(blocks.shape[0], dtype=np.int64)
    for j in np.argsort(least.sum(axis=1), kind="stable").tolist():
        if (least[j] >= best).all():
            continue
        found = backend.to_numpy(rounding.matrix_norm_up(matrices[j], xp=xp, backend=backend))
        active = np.where(found < best, j, active)
        best = np.minimum(found, best)
    value = backend.from_numpy(best, blocks)
    residuals: list[Array] = []
    for j, matrix in enumerate(matrices):
        if (active == j).any():
            residuals += operators.sharpened_triple(matrix, guesses[j][1], value, xp=xp, backend=backend)
        else:
            residuals += [xp.zeros_like(matrix[:, :, 0]), xp.zeros_like(matrix[:, 0, :])]
    root = math.sqrt(math.prod(spec.block_kernel_shape))
    chosen = backend.from_numpy(active, blocks)
    return Evaluation(rounding.up(value * root, 3, xp=xp), (), (*residuals, chosen))


def _from_below(matrix: Array, *, xp: Any, backend: Backend) -> tuple[np.ndarray, Array]:
    """Norms of a stack of matrices from below, and the vectors of their smaller sides."""
    wide = matrix.shape[-1] > matrix.shape[-2]
    tall = xp.matrix_transpose(matrix) if wide else matrix
    start = np.broadcast_to(arrays.random_vectors(0, (1, tall.shape[-1])).real, (matrix.shape[0], tall.shape[-1]))
    v = backend.from_numpy(start.astype(np.float64 if matrix.dtype == xp.float64 else np.float32), matrix)
    _, v, norm = follow_matrix(tall, arrays.normalise(v, xp=xp)[0], _STEPS, xp=xp)
    # ||A* u|| <= ||A|| for a unit vector u; less a little for rounding.
    return backend.to_numpy(norm) * (1 - 1e-6), v
