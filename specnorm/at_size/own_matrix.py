"""Enclose norms by the Gram matrices of layers at their size: vectors from below, a factorization from above."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size import layer_tuning
from specnorm.at_size.proofs.block_tridiagonal import to_layer
from specnorm.at_size.proofs.own_matrix import LayerGram
from specnorm.backends import arrays
from specnorm.geometry.layer_map import Convolution
from specnorm.power.proofs.ritz import quotients
from specnorm.proofs import norms
from specnorm.proofs.bound import Lower, Upper
from specnorm.proofs.found import Found, Witness
from specnorm.symbols import lanczos

if TYPE_CHECKING:
    from specnorm.at_size.proofs.block_tridiagonal import BlockPlan
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


def enclose_by_matrix(
    kernels: Array,
    spec: ConvSpec,
    gram_plan: BlockPlan,
    *,
    rtol: float,
    lower: float = 0.0,
    ops: ArrayOps,
) -> list[Found]:
    """Enclose the norms of layers of one group by singular vectors and a factorization of their Gram matrices.

    ``kernels`` (b, first, second, *kernel_shape): in torch's order, scaled to about 1, with known values. ``spec``:
    geometry of one group, with ``input_shape``. ``gram_plan``: form of the Gram matrix of one group. ``rtol``: relative
    width asked for. ``lower``: lower bound of the whole layer's norm. A group whose norm is below it is only proven to
    be below it.
    """
    step = max(1, ops.memory // gram_plan.memory)
    found: list[Found] = []
    for start in range(0, kernels.shape[0], step):
        stop = min(start + step, kernels.shape[0])
        found += _MatrixEnclosure(kernels[start:stop, ...], spec, gram_plan, ops=ops).enclose(rtol, lower)
        lower = max(lower, *(bounds.lower.value for bounds in found))
    return found


class _MatrixEnclosure:
    """Bounds of the norms of a stack of layers of one group: vectors from below, a factorization from above."""

    def __init__(
        self,
        kernels: Array,
        spec: ConvSpec,
        gram_plan: BlockPlan,
        *,
        ops: ArrayOps,
    ) -> None:
        self.kernels = kernels
        self.spec = spec
        self.gram_plan = gram_plan
        self.ops = ops
        self.xp = ops.xp
        self.layer = Convolution(kernels, spec, ops=ops)
        # Lanczos works on the side of the Gram matrix. ``AA*`` of a convolution has a row for each output of the
        # convolution, an input of the layer if that is transposed; ``A*A`` has rows of the other side.
        self.has_output_vectors = gram_plan.rows_are_outputs != spec.transposed
        self.gram = self.layer.gram(self.has_output_vectors)

    def enclose(self, rtol: float, lower: float) -> list[Found]:
        """Enclose each norm, or prove that it is below ``lower``."""
        gram = LayerGram(self.layer, self.gram_plan, ops=self.ops)
        work = self.kernels.shape[0] * self.gram_plan.size**3
        are_eigenvectors = self.gram_plan.blocks == 1 and work <= layer_tuning.IMMEDIATE_WORK
        if are_eigenvectors:
            vectors = self._eigenvectors(gram)
        else:
            vectors = self._lanczos(rtol, None)
        lowers, images = quotients(self.layer, vectors, self.has_output_vectors, ops=self.ops)
        # The first proof asks for half of the tolerance. If it fails, the retries begin with that again, at the lower
        # bounds as they were raised.
        uppers = gram.norms_near(self._targets(lowers, lower, 0.5 * rtol))
        if not self._within(uppers, lowers, lower, rtol):
            if not are_eigenvectors:
                vectors, images, lowers = self._raised_lowers(gram, vectors, images, lowers, rtol)
            uppers = self._lowered_uppers(gram, uppers, lowers, lower, rtol)
        # A group of zeros has a bound of 0 that no factorization proves.
        uppers = gram.with_zero_layers(uppers)
        u, v = (vectors, images) if self.has_output_vectors else (images, vectors)
        return [
            Found(*ends, Witness(u=u[j : j + 1, 0, :], v=v[j : j + 1, 0, :]))
            for j, ends in enumerate(zip(lowers, uppers, strict=True))
        ]

    def _raised_lowers(
        self,
        gram: LayerGram,
        vectors: Array,
        images: Array,
        lowers: list[Lower],
        rtol: float,
    ) -> tuple[Array, Array, list[Lower]]:
        """Vectors, images and lower bounds, the higher ones of these and of an eigenvalue routine or more Lanczos."""
        if self.gram_plan.blocks == 1:
            other_vectors = self._eigenvectors(gram)
        else:
            other_vectors = self._lanczos(rtol, vectors)
        other_lowers, other_images = quotients(self.layer, other_vectors, self.has_output_vectors, ops=self.ops)
        is_higher = [other > bound for other, bound in zip(other_lowers, lowers, strict=True)]
        chosen = self.ops.from_numpy(np.asarray(is_higher), vectors)[:, None, None]
        return (
            self.xp.where(chosen, other_vectors, vectors),
            self.xp.where(chosen, other_images, images),
            [Lower.greatest(bound, other) for bound, other in zip(lowers, other_lowers, strict=True)],
        )

    def _lowered_uppers(
        self,
        gram: LayerGram,
        uppers: list[Upper | None],
        lowers: list[Lower],
        lower: float,
        rtol: float,
    ) -> list[Upper | None]:
        """Upper bounds after proofs with wider and wider tolerances, and one near the computed eigenvalues."""
        for multiple in (0.5, *layer_tuning.WIDER_MULTIPLES):
            if self._within(uppers, lowers, lower, rtol):
                break
            wider = gram.norms_near(self._targets(lowers, lower, multiple * rtol))
            uppers = _smaller_of_each(uppers, wider)
        if self.gram_plan.blocks == 1:
            near_eigenvalues = gram.norms_near(_limits_near_eigenvalues(gram, ops=self.ops))
            uppers = _smaller_of_each(uppers, near_eigenvalues)
        return uppers

    def _eigenvectors(self, gram: LayerGram) -> Array:
        """Top eigenvectors of Gram matrices in one block, shape (b, 1, size), in the layer's order."""
        _, top = arrays.top_eigenpair(gram.matrix.diagonal[:, 0, :, :], xp=self.xp)
        return to_layer(top[:, None, :], self.spec, self.gram_plan, xp=self.xp)

    def _lanczos(self, rtol: float, start: Array | None) -> Array:
        """Estimates of the top singular vectors on the side of the Gram matrix, shape (b, 1, size)."""
        size = self.layer.shape[0 if self.has_output_vectors else 1]
        least_gain = min(1e-6, rtol / 100)
        vectors, *_ = lanczos.top_vectors(
            self.gram,
            self.kernels,
            size,
            1,
            n_iter=layer_tuning.MATRIX_STEPS,
            least_gain=least_gain,
            start=start,
            ops=self.ops,
        )
        return vectors

    def _targets(self, lowers: list[Lower], lower: float, rtol: float) -> np.ndarray:
        """The bound to prove of each norm."""
        return np.asarray([max(bound.value, lower) * (1 + rtol) for bound in lowers])

    def _within(
        self,
        uppers: list[Upper | None],
        lowers: list[Lower],
        lower: float,
        rtol: float,
    ) -> bool:
        """Whether every norm is proven to be at most its target."""
        values = np.asarray([math.inf if upper is None else upper.value for upper in uppers])
        return bool(np.all(values <= self._targets(lowers, lower, rtol)))


def _smaller_of_each(some: list[Upper | None], others: list[Upper | None]) -> list[Upper | None]:
    """The smaller of two bounds of each norm, of which either may be missing."""
    return [other if bound is None else Upper.least(bound, other) for bound, other in zip(some, others, strict=True)]


def _limits_near_eigenvalues(gram: LayerGram, *, ops: ArrayOps) -> np.ndarray:
    """Limits (b,) as close as a factorization comes to the computed eigenvalues of Gram matrices in one block.

    They are needed where taps cancel: rounding then makes the lower bounds, and the targets made of them, too low.
    """
    xp = ops.xp
    matrices = gram.matrix.diagonal[:, 0, :, :]
    size = matrices.shape[-1]
    eigenvalues, _ = arrays.top_eigenpair(matrices, xp=xp)
    # Allowance for the proof itself, as in `norms.matrix_norm_up`, and for the error of the matrix.
    allowance = 1 + 2 * size * norms.cholesky_loss(size, gram.matrix.diagonal, xp=xp)
    limits_sq = xp.maximum(eigenvalues, xp.zeros_like(eigenvalues)) * allowance + gram.error
    unit = float(xp.finfo(gram.error.dtype).eps) / 2
    return np.asarray(ops.to_numpy(xp.sqrt(limits_sq) * (1 + 32 * unit)))
