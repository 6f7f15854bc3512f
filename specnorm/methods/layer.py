"""Proven ends of a layer's norm at one input size, any geometry: Lanczos from below, its matrix from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specnorm.linalg import arrays
from specnorm.linalg.layer_map import BUDGET, Convolution
from specnorm.methods.power import Power, top_vectors
from specnorm.proof import matrices, rounding

if TYPE_CHECKING:
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

DENSE = 2048
"""Largest smaller side of a group's matrix that is written out for a proof."""


@dataclass(frozen=True)
class Ends:
    """Two proven ends of ``||A||`` for each of a stack of layers.

    Parameters
    ----------
    lower, upper : arrays, shape (b,)
    u, v : arrays, shapes (b, outputs) and (b, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    converged : bool
        Whether all ends are within rtol.
    """

    lower: Array
    upper: Array
    u: Array
    v: Array
    converged: bool


def enclose_layer(
    kernels: Array,
    spec: ConvSpec,
    *,
    rtol: float,
    supremum: Array | None = None,
    seed: int = 0,
    dense: int = DENSE,
    ops: ArrayOps,
) -> Ends:
    """Enclose the norm of layers at ``spec.input_shape``, whatever their stride, groups and padding.

    From below by Lanczos. From above by the smaller of a given bound and, where the smaller side of a group's matrix A
    is at most ``dense``, of a proof that ``A*A`` (or ``AA*``), written out, stays below a limit: by Cholesky, at the
    lower end raised by rtol; if that fails the lower end was not converged, and the top eigenvector raises it.

    Parameters
    ----------
    kernels : array, shape (b, *shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        With ``input_shape``.
    rtol : float
        Relative width asked for.
    supremum : array, shape (b,), optional
        Proven upper bounds of sigma*; they are multiplied by the padding's factor here.

    Returns
    -------
    Ends
    """
    xp = ops.xp
    b, groups = kernels.shape[0], spec.groups
    single = replace(spec, cout=spec.cout // groups, cin=spec.cin // groups, groups=1)
    parts = xp.reshape(kernels, (b * groups, kernels.shape[1] // groups, *kernels.shape[2:]))
    plain = Convolution(parts[:1, ...], single, ops=ops)
    size = min(plain.shape)
    # A handful of matrices of the smaller side, and a basis of vectors, for each group at once.
    cost = 8 * (4 * size * size if size <= dense else 1) + 8 * 64 * max(plain.shape)
    step = max(1, BUDGET // cost)
    found = []
    for start in range(0, b * groups, step):
        part = parts[start : min(start + step, b * groups), ...]
        found.append(_enclose(part, single, rtol, seed, size <= dense, ops=ops))
    lower, upper, u, v = (xp.concat(list(ends), axis=0) for ends in zip(*found, strict=True))
    lower, upper = xp.reshape(lower, (b, groups)), xp.reshape(upper, (b, groups))
    if supremum is not None:
        bound = rounding.up(supremum * math.sqrt(spec.copies), 4, xp=xp)
        upper = xp.minimum(upper, bound[:, None])
    # The layer's vectors are those of its best group, in that group's channels.
    best = xp.argmax(lower, axis=1)

    def of_best(x: Array) -> Array:
        chosen = arrays.pick(xp.reshape(x, (b, groups, -1)), best, xp=xp)
        return xp.reshape(arrays.one_hot(chosen, best, groups, xp=xp), (b, -1))

    u, v = of_best(u), of_best(v)
    lower, upper = xp.max(lower, axis=1), xp.max(upper, axis=1)
    return Ends(lower, upper, u, v, bool(xp.all(upper <= lower * (1 + rtol))))


def _enclose(
    kernels: Array, spec: ConvSpec, rtol: float, seed: int, dense: bool, *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array]:
    xp = ops.xp
    layer = Convolution(kernels, spec, ops=ops)
    wide = layer.shape[0] < layer.shape[1]
    there, back = (layer.adjoint, layer.apply) if wide else (layer.apply, layer.adjoint)

    def gram(x: Array) -> Array:
        return back(there(x))

    # Without a matrix the upper end is that of every size, and the gap to it is wider than any rtol worth asking for.
    plan = Power(n_iter=400, seed=seed, rtol=min(1e-6, rtol / 100)) if dense else Power(seed=seed, rtol=rtol / 10)
    vectors, _ = top_vectors(gram, kernels, min(layer.shape), 1, plan, ops=ops)
    lower, images = _quotients(layer, vectors, wide, ops=ops)
    upper = xp.full_like(lower, float(xp.finfo(lower.dtype).max))
    if dense:
        matrix, error, empty = gram_matrix(layer, wide, ops=ops)
        upper = _proven(matrix, error, lower * (1 + rtol / 2), ops=ops)
        if not bool(xp.all(upper <= lower * (1 + rtol))):
            values, top = arrays.top_eigenpair(matrix, xp=xp)
            better, raised = _quotients(layer, top[:, None, :], wide, ops=ops)
            higher = better > lower
            vectors = xp.where(higher[:, None, None], top[:, None, :], vectors)
            images = xp.where(higher[:, None, None], raised, images)
            lower = xp.where(higher, better, lower)
            values = xp.maximum(values, xp.zeros_like(values))
            # Room for the proof itself, as in `matrices.matrix_norm_up`, and for what the matrix is off.
            room = 1 + 2 * min(layer.shape) * matrices.cholesky_loss(min(layer.shape), matrix, xp=xp)
            target = xp.sqrt(values * room + error) * (1 + 32 * rounding.unit(lower, xp=xp))
            upper = xp.minimum(upper, _proven(matrix, error, target, ops=ops))
            upper = xp.minimum(upper, _proven(matrix, error, lower * (1 + rtol / 2), ops=ops))
        # Nothing can be proven about 0 by a factorisation, and nothing needs to be.
        upper = xp.where(empty, xp.zeros_like(upper), upper)
    u, v = (vectors, images) if wide else (images, vectors)
    return lower, upper, u[:, 0, :], v[:, 0, :]


def _quotients(layer: Convolution, vectors: Array, wide: bool, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Lower bounds (b,) from one vector each, and the images as unit vectors."""
    xp = ops.xp
    magnitude = layer.absolute()
    images = layer.adjoint(vectors) if wide else layer.apply(vectors)
    terms = magnitude.adjoint(xp.abs(vectors)) if wide else magnitude.apply(xp.abs(vectors))
    values = matrices.ritz_down(images, terms, vectors, layer.roundings[wide], ops=ops)
    return values[:, 0], arrays.normalise(images, xp=xp)[0]


def gram_matrix(layer: Convolution, wide: bool, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """A*A, or AA* for a wide layer, by applying the layer to unit vectors; a bound of its error's norm, (b,).

    And whether A is zero, (b,): every tap that is not may read nothing but padding.

    Two products with n roundings in all are off by at most ``gamma(n) |A|* |A|`` entry by entry, and the norm of
    ``|A|`` is at most the root of its largest row sum times its largest column sum.
    """
    xp = ops.xp
    b, size = layer.kernels.shape[0], min(layer.shape)
    like = layer.kernels
    eye = xp.eye(size, dtype=like.dtype, device=ops.device(like))
    step = max(1, BUDGET // (8 * b * max(layer.shape) * 8))
    rows = []
    for start in range(0, size, step):
        units = xp.broadcast_to(eye[start : min(start + step, size), :], (b, min(step, size - start), size))
        rows.append(layer.apply(layer.adjoint(units)) if wide else layer.adjoint(layer.apply(units)))
    magnitude = layer.absolute()
    outputs, inputs = (xp.ones((b, 1, n), dtype=like.dtype, device=ops.device(like)) for n in layer.shape)
    row = rounding.up(xp.max(magnitude.apply(inputs), axis=(1, 2)), layer.roundings[0], xp=xp)
    column = rounding.up(xp.max(magnitude.adjoint(outputs), axis=(1, 2)), layer.roundings[1], xp=xp)
    count = sum(layer.roundings)
    error = rounding.up(row * column, 2, xp=xp) * (rounding.SLACK * rounding.gamma(count, rounding.unit(like, xp=xp)))
    return xp.concat(rows, axis=1), error, row == 0


def _proven(matrix: Array, error: Array, target: Array, *, ops: ArrayOps) -> Array:
    """The target raised by a rounding or two where it is proven to bound the norm, the largest number elsewhere."""
    xp = ops.xp
    limit = rounding.down(target**2 - error, 4, xp=xp)
    usable = limit > 0
    proven = matrices.gram_below(matrix, xp.where(usable, limit, xp.ones_like(limit)), ops=ops)
    bound = rounding.up(target, 4, xp=xp)
    return xp.where(proven & usable, bound, xp.full_like(bound, float(xp.finfo(bound.dtype).max)))
