"""A layer of one size by its own Gram matrix: for small layers, and where nothing else comes close enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from specnorm.linalg import arrays
from specnorm.linalg.block_lanczos import Plan, top_vectors
from specnorm.linalg.layer_map import Convolution
from specnorm.linalg.line_blocks import Band, BandPlan, gram_band, to_layer
from specnorm.linalg.power import composed
from specnorm.proof import matrices, rounding
from specnorm.proof.layer import gram_error, norm_up_near, ritz_values_down

if TYPE_CHECKING:
    from specnorm.linalg.power import LinearMap
    from specnorm.spec import ConvSpec
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
    lower, upper : arrays, shape (b,)
    u, v : arrays, shapes (b, outputs) and (b, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    """

    lower: Array
    upper: Array
    u: Array
    v: Array


def enclose_by_matrix(
    kernels: Array, spec: ConvSpec, plan: BandPlan, *, rtol: float, lower: float = 0.0, ops: ArrayOps
) -> GroupBounds:
    """Enclose the norms of layers of one group by Lanczos and a factorisation of their Gram matrices.

    Parameters
    ----------
    kernels : array, shape (b, first, second, *kernel_shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        Of one group, with ``input_shape``.
    plan : BandPlan
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
        lower = max(lower, float(xp.max(found[-1].lower)))
    return GroupBounds(*(xp.concat([getattr(x, name) for x in found], axis=0) for name in ("lower", "upper", "u", "v")))


class _Groups:
    """A stack of groups whose matrices fit the memory together."""

    def __init__(self, kernels: Array, spec: ConvSpec, plan: BandPlan, *, ops: ArrayOps) -> None:
        self.kernels, self.spec, self.plan, self.ops, self.xp = kernels, spec, plan, ops, ops.xp
        self.layer = Convolution(kernels, spec, ops=ops)
        # A transposed layer's inputs are the small side.
        self.wide = plan.wide != spec.transposed
        there, back = self.layer.apply, self.layer.adjoint
        self.gram: LinearMap = composed(back, there) if self.wide else composed(there, back)

    def enclose(self, rtol: float, lower: float) -> GroupBounds:
        xp, plan = self.xp, self.plan
        vectors = self._lanczos(TUNING.steps, rtol, None)
        values, images = ritz_values_down(self.layer, vectors, self.wide, ops=self.ops)
        band, roundings = gram_band(self.kernels, self.spec, plan, ops=self.ops)
        error, empty = gram_error(self.layer, roundings, plan.lines * plan.entries, ops=self.ops)
        found = values[:, 0]
        upper = norm_up_near(band, error, self._target(found, lower, 0.5 * rtol), ops=self.ops)
        if not self._within(upper, found, lower, rtol):
            if plan.blocks == 1:
                top = to_layer(self._top_vector(band), self.spec, plan, xp=xp)
            else:
                top = self._lanczos(TUNING.more, rtol, vectors)
            better, raised = ritz_values_down(self.layer, top, self.wide, ops=self.ops)
            higher = better[:, 0] > found
            vectors, images = (xp.where(higher[:, None, None], x, y) for x, y in ((top, vectors), (raised, images)))
            found = xp.where(higher, better[:, 0], found)
            for wider in TUNING.wider:
                if self._within(upper, found, lower, rtol):
                    break
                target = self._target(found, lower, wider * rtol)
                upper = xp.minimum(upper, norm_up_near(band, error, target, ops=self.ops))
            if plan.blocks == 1:
                upper = xp.minimum(upper, self._at_eigenvalue(band, error))
        # Nothing can be proven about 0 by a factorisation, and nothing needs to be.
        upper = xp.where(empty, xp.zeros_like(upper), upper)
        u, v = (vectors, images) if self.wide else (images, vectors)
        return GroupBounds(found, upper, u[:, 0, :], v[:, 0, :])

    def _lanczos(self, steps: int, rtol: float, start: Array | None) -> Array:
        size = self.layer.shape[0 if self.wide else 1]
        plan = Plan(steps, 0, min(1e-6, rtol / 100))
        vectors, _ = top_vectors(self.gram, self.kernels, size, 1, plan, start=start, ops=self.ops)
        return vectors

    def _target(self, found: Array, lower: float, rtol: float) -> Array:
        return self.xp.maximum(found, self.xp.full_like(found, lower)) * (1 + rtol)

    def _within(self, upper: Array, found: Array, lower: float, rtol: float) -> bool:
        return bool(self.xp.all(upper <= self._target(found, lower, rtol)))

    def _top_vector(self, band: Band) -> Array:
        _, top = arrays.top_eigenpair(band.diagonal[:, 0, :, :], xp=self.xp)
        return top[:, None, :]

    def _at_eigenvalue(self, band: Band, error: Array) -> Array:
        """As close as a factorisation comes, where the lower bound is lost in the roundings of taps that cancel."""
        xp, size = self.xp, self.plan.size
        values, _ = arrays.top_eigenpair(band.diagonal[:, 0, :, :], xp=xp)
        # Allowance for the proof itself, as in `matrices.matrix_norm_up`, and for what the matrix is off.
        allowance = 1 + 2 * size * matrices.cholesky_loss(size, band.diagonal, xp=xp)
        squared = xp.maximum(values, xp.zeros_like(values)) * allowance + error
        target = xp.sqrt(squared) * (1 + 32 * rounding.unit(error, xp=xp))
        return norm_up_near(band, error, target, ops=self.ops)
