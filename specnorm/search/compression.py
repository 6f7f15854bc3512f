"""Upper bounds of a zero-padded layer by few vectors: a circulant's highest waves, and Lanczos' vectors of the layer.

What they claim is `certified.layer.lehmann_maehly`. Vectors are dear on many pixels, and cheap on few, where the
layer's own matrix would take a hundred times as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specnorm import arrays
from specnorm.certified.layer.lehmann_maehly import Compression, norm_off_subspace, waves_on_outputs
from specnorm.certified.layer.own_matrix import quotients
from specnorm.clock import Clock
from specnorm.problem.layer_map import sizes_of

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.problem.layer_map import Convolution
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.deflated import DeflatedCirculant
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True, eq=False)
class SubspaceTuning:
    """How many vectors are taken. It decides on time and on how close the bound comes.

    Parameters
    ----------
    parts : tuple of float
        Of the norm: waves above are in the subspace.
    work : float
        Multiplications of the layer with all of them at most.
    rounds : int
        Proofs tried with the same waves, each with more vectors.
    block, directions : int
        Least vectors that are added, and directions without a proof up to which that is worth its while.
    raised : float
        Part of the tolerance by which a Ritz value is above the lower bound if that is to be proven anew.
    independent : float
        Part of the largest eigenvalue of the vectors' inner products below which directions are left out.
    """

    parts: tuple[float, ...] = (0.9, 0.8)
    work: float = 1e9
    rounds: int = 6
    block: int = 12
    directions: int = 24
    raised: float = 0.01
    independent: float = 1e-10


TUNING = SubspaceTuning()


def most_vectors(spec: ConvSpec) -> int:
    """How many vectors of the small side of a layer of one group are worth their while."""
    layer_work = 2.0 * math.prod(spec.stored_channels) * math.prod(spec.kernel_shape)
    return int(TUNING.work / (layer_work * math.prod(sizes_of(spec)[1])))


def bound_by_subspace(
    circulant: DeflatedCirculant,
    layer: Convolution,
    near: Array,
    lower: float,
    rtol: float,
    deadline: float,
    *,
    ops: ArrayOps,
) -> tuple[Upper | None, Array | None]:
    """A bound of a layer's norm, and a vector whose quotient is higher than was known.

    Parameters
    ----------
    circulant : DeflatedCirculant
        Of the layer's blocks.
    layer : Convolution
        Of one group.
    near : array, shape (1, k, size of the small side)
        Vectors near the top ones.
    lower : float
        What is known of the norm of the whole layer.
    deadline : float
        On the clock of `time.monotonic`: nothing is begun after it.

    Returns
    -------
    upper : Upper or None
        Of the lower bound raised by rtol; None where that is not proven.
    vector : array, shape (1, 1, size of the small side), or None
    """
    best: Array | None = None
    for part in TUNING.parts:
        found = None if Clock(deadline).expired else circulant.split(part, lower)
        if found is None or 2 * len(found[1].at) > most_vectors(circulant.spec):
            break
        cover, highest = found
        waves, _ = waves_on_outputs(circulant.spec, circulant.circulant, highest, ops=ops)
        basis = orthonormal(ops.xp.concat([near, waves], axis=1), ops=ops)
        on = Compression(layer, basis, ops=ops)
        off = norm_off_subspace(circulant.kernel, circulant.spec, circulant.circulant, cover, highest, basis, ops=ops)
        for _ in range(TUNING.rounds):
            ritz = _top(on, ops=ops)
            if float(ops.xp.sqrt(ritz[0])) > lower * (1 + TUNING.raised * rtol):
                (higher,), _ = quotients(layer, ritz[1], not layer.spec.transposed, ops=ops)
                if higher > lower:
                    lower, best = higher.value, ritz[1]
            upper = None if off is None else on.norm(off, lower * (1 + rtol))
            if off is None or upper is not None:
                return upper, best
            more = _residuals(on, off.value, lower * (1 + rtol), ops=ops)
            if more is None or Clock(deadline).expired:
                break
            on = Compression(layer, more, on, ops=ops)
    return None, best


def _top(on: Compression, *, ops: ArrayOps) -> tuple[Array, Array]:
    """The largest Ritz value, and its unit vector (1, 1, size)."""
    value, vector = arrays.top_eigenpair(on.gram, xp=ops.xp)
    return value, arrays.normalise(ops.xp.matmul(vector[None, :], on.basis), xp=ops.xp)[0][None, ...]


def _residuals(on: Compression, off: float, bound: float, *, ops: ArrayOps) -> Array | None:
    """Where the layer leads from the directions that no proof was found for, (1, k, size); None: they are too many."""
    xp, gap = ops.xp, bound**2 - off**2
    if not gap > 0:
        return None
    values, vectors = xp.linalg.eigh(on.pencil(gap, bound**2))
    open_ = int(xp.sum(xp.astype(values > bound**2, xp.int32)))
    if open_ > TUNING.directions:
        return None
    few = min(values.shape[0], max(open_ + 1, TUNING.block))
    more = xp.matmul(xp.matrix_transpose(vectors[:, -few:]), on.rest)
    return orthonormal(more[None, ...], ops=ops)


def orthonormal(vectors: Array, *, ops: ArrayOps) -> Array:
    """A basis (1, k, size) of the span of some vectors, but for directions that are next to nothing in it."""
    xp = ops.xp
    x = arrays.normalise(vectors[0, ...], xp=xp)[0]
    values, turned = xp.linalg.eigh(xp.matmul(x, xp.matrix_transpose(x)))
    few = int(xp.sum(xp.astype(values > TUNING.independent * values[-1], xp.int32)))
    kept = turned[:, -few:] / xp.sqrt(values[-few:])
    return xp.matmul(xp.matrix_transpose(kept), x)[None, ...]
