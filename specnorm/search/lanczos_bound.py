"""A layer of one size by its own Gram matrix: for small layers, and where nothing else comes close enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite, greatest, least
from specnorm.certified.layer.own_matrix import LayerGram, quotients
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.block_tridiagonal import to_layer
from specnorm.numerics.block_lanczos import Plan, top_vectors
from specnorm.numerics.power import composed
from specnorm.problem.layer_map import Convolution

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan, BlockTridiagonal
    from specnorm.numerics.power import LinearMap
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True, eq=False)
class MatrixTuning:
    """Effort for a layer's own matrix. It decides on time and on how wide the interval is.

    Parameters
    ----------
    steps : int
        Lanczos steps: the proof is tried near the lower bound, and fails unless that has converged.
    more : int
        Steps after a proof that failed, where the matrix has several blocks.
    wider : tuple of float
        Tolerances, in those asked for, that are tried then.
    """

    steps: int = 400
    more: int = 1600
    wider: tuple[float, ...] = (0.5, 2.0, 8.0, 32.0)


TUNING = MatrixTuning()


@dataclass(frozen=True, eq=False)
class GroupBounds:
    """Proven bounds of a stack of groups.

    Parameters
    ----------
    upper : list of Upper or None
        None where there is no proof.
    u, v : arrays, shapes (b, outputs) and (b, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    """

    lower: list[Lower]
    upper: list[Upper | None]
    u: Array
    v: Array


def enclose_by_matrix(
    kernels: Array, spec: ConvSpec, plan: BlockPlan, *, rtol: float, lower: float = 0.0, ops: ArrayOps
) -> GroupBounds:
    """Enclose the norms of layers of one group by Lanczos and a factorisation of their Gram matrices.

    Parameters
    ----------
    kernels : array, shape (b, first, second, *kernel_shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        Of one group, with ``input_shape``.
    rtol : float
        Relative width asked for.
    lower : float
        Of the whole layer's norm: of a group below, no more is proven than that it is.
    """
    xp = ops.xp
    step = max(1, ops.memory // plan.memory)
    found = []
    for start in range(0, kernels.shape[0], step):
        few = kernels[start : min(start + step, kernels.shape[0]), ...]
        found.append(_Groups(few, spec, plan, ops=ops).enclose(rtol, lower))
        lower = max(lower, *(bound.value for bound in found[-1].lower))
    vectors = (xp.concat([getattr(x, name) for x in found], axis=0) for name in ("u", "v"))
    return GroupBounds([y for x in found for y in x.lower], [y for x in found for y in x.upper], *vectors)


class _Groups:
    """A stack of groups whose matrices fit the memory together."""

    def __init__(self, kernels: Array, spec: ConvSpec, plan: BlockPlan, *, ops: ArrayOps) -> None:
        self.kernels, self.spec, self.plan, self.ops, self.xp = kernels, spec, plan, ops, ops.xp
        self.layer = Convolution(kernels, spec, ops=ops)
        # A transposed layer's inputs are the small side.
        self.wide = plan.wide != spec.transposed
        there, back = self.layer.apply, self.layer.adjoint
        self.gram: LinearMap = composed(back, there) if self.wide else composed(there, back)

    def enclose(self, rtol: float, lower: float) -> GroupBounds:
        xp, plan = self.xp, self.plan
        vectors = self._lanczos(TUNING.steps, rtol, None)
        found, images = quotients(self.layer, vectors, self.wide, ops=self.ops)
        gram = LayerGram(self.layer, plan, ops=self.ops)
        upper = gram.norms_near(self._target(found, lower, 0.5 * rtol))
        if not self._within(upper, found, lower, rtol):
            if plan.blocks == 1:
                top = to_layer(self._top_vector(gram.matrix), self.spec, plan, xp=xp)
            else:
                top = self._lanczos(TUNING.more, rtol, vectors)
            better, raised = quotients(self.layer, top, self.wide, ops=self.ops)
            pairs = list(zip(better, found, strict=True))
            higher = self.ops.from_numpy(np.asarray([x > y for x, y in pairs]), vectors)[:, None, None]
            vectors, images = (xp.where(higher, x, y) for x, y in ((top, vectors), (raised, images)))
            found = [greatest(y, x) for x, y in pairs]
            for wider in TUNING.wider:
                if self._within(upper, found, lower, rtol):
                    break
                upper = _lower_of(upper, gram.norms_near(self._target(found, lower, wider * rtol)))
            if plan.blocks == 1:
                upper = _lower_of(upper, gram.norms_near(_near_eigenvalues(gram, ops=self.ops)))
        upper = gram.or_zero(upper)
        u, v = (vectors, images) if self.wide else (images, vectors)
        return GroupBounds(found, upper, u[:, 0, :], v[:, 0, :])

    def _lanczos(self, steps: int, rtol: float, start: Array | None) -> Array:
        size = self.layer.shape[0 if self.wide else 1]
        plan = Plan(steps, 0, min(1e-6, rtol / 100))
        vectors, _ = top_vectors(self.gram, self.kernels, size, 1, plan, start=start, ops=self.ops)
        return vectors

    def _target(self, found: list[Lower], lower: float, rtol: float) -> np.ndarray:
        return np.asarray([max(x.value, lower) * (1 + rtol) for x in found])

    def _within(self, upper: list[Upper | None], found: list[Lower], lower: float, rtol: float) -> bool:
        return bool(np.all(np.asarray([finite(x) for x in upper]) <= self._target(found, lower, rtol)))

    def _top_vector(self, band: BlockTridiagonal) -> Array:
        _, top = arrays.top_eigenpair(band.diagonal[:, 0, :, :], xp=self.xp)
        return top[:, None, :]


def _lower_of(one: list[Upper | None], other: list[Upper | None]) -> list[Upper | None]:
    return [y if x is None else least(x, y) for x, y in zip(one, other, strict=True)]


def _near_eigenvalues(gram: LayerGram, *, ops: ArrayOps) -> np.ndarray:
    """As close as a factorisation comes, where quotients are lost in the roundings of taps that cancel; shape (b,)."""
    xp, band = ops.xp, gram.matrix.diagonal
    values, _ = arrays.top_eigenpair(band[:, 0, :, :], xp=xp)
    # Allowance for the proof itself, as in `stacks.matrix_norm_up`, and for what the matrix is off.
    allowance = 1 + 2 * band.shape[-1] * norms.cholesky_loss(band.shape[-1], band, xp=xp)
    squared = xp.maximum(values, xp.zeros_like(values)) * allowance + gram.error
    unit = float(xp.finfo(gram.error.dtype).eps) / 2
    return np.asarray(ops.to_numpy(xp.sqrt(squared) * (1 + 32 * unit)))
