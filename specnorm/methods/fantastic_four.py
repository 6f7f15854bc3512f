"""The minimum of the unfolding bounds (Singla and Feizi 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.bound import as_array, largest_of_blocks, nothing
from specnorm.certified.layer.every_size import padded_norm
from specnorm.certified.symbol import symbols
from specnorm.methods.base import Evaluation, Needs, Stepped
from specnorm.methods.unfolding import Unfoldings
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.numerics.power import follow, matrix_maps
from specnorm.problem import polyphase, unfoldings
from specnorm.search.smallest_unfolding import no_vectors, smallest

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class FantasticFour(Stepped):
    """The minimum of the unfolding bounds; differentiated through the active one.

    The papers take four (2-D, the channels on different sides); all ``2**(d+1) - 1`` are bounds, and the others win
    for few channels and large kernels, so the minimum here is over all of them.
    """

    name: ClassVar[str] = "f4"

    def needs(self, spec: ConvSpec) -> Needs:
        """An upper bound; what is proven is computed in the widest precision here."""
        return Needs(rounds="up", precision="mixed", narrow_gradient=True, small_products=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size (`ConvSpec.sizes`)."""
        return "upper"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Take the smallest unfolding bound."""
        xp = ops.xp
        if ops.concrete:
            bounds, residuals = smallest(blocks, spec, ops=ops)
            each = [bounds[at : at + spec.groups] for at in range(0, len(bounds), spec.groups)]
            layers = polyphase.by_layers(blocks, spec.groups)
            claims = [
                (nothing(), padded_norm(largest_of_blocks(own, layer), spec))
                for own, layer in zip(each, layers, strict=True)
            ]
            return Evaluation(as_array(bounds, blocks, ops=ops), (), residuals, claims)
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
        every = Unfoldings().forward(blocks, spec, ops=ops)
        active = xp.argmin(every.value, axis=1)
        return Evaluation(xp.min(every.value, axis=1), (), (*every.residuals, active))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
        """The active unfolding's gradient."""
        *vectors, active = residuals
        columns = arrays.one_hot(cotangent, active, len(vectors) // 2, xp=xp)
        return Unfoldings().pullback(tuple(vectors), columns, spec, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """A right vector of each unfolding."""
        shape = spec.block_shape
        splits = unfoldings.unfolding_splits(spec.ndim)
        return {
            f"v{j}": (math.prod(shape) // math.prod(shape[axis] for axis in rows),) for j, rows in enumerate(splits)
        }

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Top right singular vectors; constant ones for a zero block."""
        xp = ops.xp
        found = []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            v = _leading(matrix, ops=ops) if ops.concrete else symbols.top_triple(matrix, xp=xp)[1]
            del matrix
            found.append(arrays.normalise_or_keep(v, xp.ones_like(v) / math.sqrt(v.shape[-1]), xp=xp)[0])
        return tuple(found)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, ops: ArrayOps
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps on each unfolding: an estimate, as each is below its norm."""
        xp = ops.xp
        splits, chooses = unfoldings.unfolding_splits(spec.ndim), ops.concrete
        nothing = no_vectors(blocks, ops=ops)
        values, residuals, after = [], [], []
        for v, rows in zip(state, splits, strict=True):
            u, v, value = follow(*matrix_maps(unfoldings.unfold(blocks, rows, xp=xp), xp=xp), v, sweeps, xp=xp)
            # The rows of some unfoldings are a third of the kernel: found again if that is the one.
            residuals += [nothing if chooses and 8 * u.shape[1] > math.prod(spec.block_shape) else u, v]
            after.append(v)
            values.append(value)
            del u
        every = xp.stack(values, axis=1) * math.sqrt(math.prod(spec.block_kernel_shape))
        active = xp.argmin(every, axis=1)
        if chooses:
            kept = set(ops.to_numpy(active).tolist())
            for j, rows in enumerate(splits):
                if j not in kept:
                    residuals[2 * j : 2 * j + 2] = [nothing, nothing]
                elif not residuals[2 * j].shape[1]:
                    maps = matrix_maps(unfoldings.unfold(blocks, rows, xp=xp), xp=xp)
                    residuals[2 * j] = follow(*maps, state[j], sweeps, xp=xp)[0]
        return Evaluation(xp.min(every, axis=1), (), (*residuals, active)), tuple(after)


def _leading(matrix: Array, *, ops: ArrayOps) -> Array:
    """Right singular vectors to start a training state from: a short run, as steps go on where it ends."""
    xp = ops.xp
    run = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops)
    for _ in range(_ROUNDS):
        run.advance()
        if run.done.all():
            break
    return run.vectors()[1]


_ROUNDS = 4
"""Checks of a Lanczos run that starts a training state: 28 steps, whose basis is smaller than the kernel."""
