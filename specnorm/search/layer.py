"""Proven bounds of a layer's norm at one input size, any geometry: Lanczos from below, its matrix from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.block_lanczos import Plan, top_vectors
from specnorm.linalg.layer_map import Convolution
from specnorm.linalg.plane_wave import windowed_wave
from specnorm.proof import matrices, rounding
from specnorm.proof.layer import gram_matrix, norm_up_near, ritz_values_down

if TYPE_CHECKING:
    from specnorm.linalg.power import LinearMap
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True)
class LayerTuning:
    """Effort for a layer at its size. It decides on time and on how wide the interval is.

    Parameters
    ----------
    dense : int
        Largest smaller side of a group's matrix that is written out for a proof: a factorisation is then 3 Gflop.
    steps : int
        Lanczos steps where the matrix is written out: its proof is near the lower bound only if that has converged.
    steps_only : int
        Lanczos steps elsewhere. There the upper bound is that of every size; its gap is wider than what more would win.
    applied : int
        Pixels times channels up to which so many steps are taken: a product then takes milliseconds.
    wave_steps, wave_work : int
        Beyond, Lanczos steps from a plane wave at the best frequency, and pixels times channels times steps at most.
        The wave alone is within 0.3 to 1.5 % of the supremum at 40 pixels an axis, where a hundred steps from a random
        vector are within 0.2 to 1.2 %.
    """

    dense: int = 2048
    steps: int = 400
    steps_only: int = 100
    applied: int = 2**17
    wave_steps: int = 8
    wave_work: int = 2**21


TUNING = LayerTuning()


@dataclass(frozen=True)
class LayerBounds:
    """Two proven bounds of ``||A||`` for each of a stack of layers.

    Parameters
    ----------
    lower, upper : arrays, shape (b,)
    u, v : arrays, shapes (b, outputs) and (b, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    converged : bool
        Whether both bounds are within rtol.
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
    near: list[tuple[int, np.ndarray]] | None = None,
    seed: int = 0,
    dense: int | None = None,
    ops: ArrayOps,
) -> LayerBounds:
    """Enclose the norm of layers at ``spec.input_shape``, whatever their stride, groups and padding.

    From below by Lanczos. From above by the smaller of a given bound and, where the smaller side of a group's matrix A
    is at most ``dense``, of a proof that ``A*A`` (or ``AA*``), written out, stays below a limit: by Cholesky, at the
    lower bound raised by rtol; if that fails the lower bound was not converged, and the top eigenvector raises it.

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
    near : list of (group, angles), optional
        For each layer the group and the frequency of its blocks where the norm is largest: what a large layer's lower
        bound is looked for near.

    Returns
    -------
    LayerBounds
    """
    xp = ops.xp
    dense = TUNING.dense if dense is None else dense
    b, groups = kernels.shape[0], spec.groups
    single = replace(spec, cout=spec.cout // groups, cin=spec.cin // groups, groups=1)
    parts = xp.reshape(kernels, (b * groups, kernels.shape[1] // groups, *kernels.shape[2:]))
    plain = Convolution(parts[:1, ...], single, ops=ops)
    size = min(plain.shape)
    if near is not None and size > dense and max(plain.shape) * groups > TUNING.applied:
        return _enclose_large(parts, single, rtol, near, supremum, groups, ops=ops)
    # A handful of matrices of the smaller side, and a basis of vectors, for each group at once.
    cost = 8 * (4 * size * size if size <= dense else 1) + 8 * 64 * max(plain.shape)
    step = max(1, ops.memory // cost)
    found = []
    for start in range(0, b * groups, step):
        part = parts[start : min(start + step, b * groups), ...]
        found.append(_enclose(part, single, rtol, seed, size <= dense, ops=ops))
    lower, upper, u, v = (xp.concat(list(parts), axis=0) for parts in zip(*found, strict=True))
    lower, upper = xp.reshape(lower, (b, groups)), xp.reshape(upper, (b, groups))
    if supremum is not None:
        upper = xp.minimum(upper, _at_every_size(supremum, spec, xp=xp)[:, None])
    best = xp.argmax(lower, axis=1)
    u, v = (_in_group(arrays.pick(xp.reshape(x, (b, groups, -1)), best, xp=xp), best, groups, xp=xp) for x in (u, v))
    lower, upper = xp.max(lower, axis=1), xp.max(upper, axis=1)
    return LayerBounds(lower, upper, u, v, bool(xp.all(upper <= lower * (1 + rtol))))


def _enclose_large(
    parts: Array,
    spec: ConvSpec,
    rtol: float,
    near: list[tuple[int, np.ndarray]],
    supremum: Array | None,
    groups: int,
    *,
    ops: ArrayOps,
) -> LayerBounds:
    """Bounds of layers whose products take long: from below near a plane wave, from above that of every size."""
    xp = ops.xp
    found = []
    for j, (group, angles) in enumerate(near):
        kernel = parts[j * groups + group : j * groups + group + 1, ...]
        layer = Convolution(kernel, spec, ops=ops)
        there, back = (layer.adjoint, layer.apply) if spec.transposed else (layer.apply, layer.adjoint)
        vectors = windowed_wave(kernel, spec, angles, ops=ops)
        steps = min(TUNING.wave_steps, TUNING.wave_work // (max(layer.shape) * groups))
        if steps > 0:
            gram = _composed(there, back)
            vectors, _ = top_vectors(gram, kernel, vectors.shape[2], 1, Plan(steps, 0, rtol), start=vectors, ops=ops)
        values, images = ritz_values_down(layer, vectors, spec.transposed, ops=ops)
        u, v = (vectors, images) if spec.transposed else (images, vectors)
        found.append((values[:, 0], u[:, 0, :], v[:, 0, :]))
    lower, u, v = (xp.concat(list(x), axis=0) for x in zip(*found, strict=True))
    best = ops.from_numpy(np.asarray([group for group, _ in near], dtype=np.int64), parts)
    u, v = (_in_group(x, best, groups, xp=xp) for x in (u, v))
    upper = xp.full_like(lower, float(xp.finfo(lower.dtype).max))
    upper = upper if supremum is None else _at_every_size(supremum, spec, xp=xp)
    return LayerBounds(lower, upper, u, v, bool(xp.all(upper <= lower * (1 + rtol))))


def _composed(first: LinearMap, second: LinearMap) -> LinearMap:
    return lambda x: second(first(x))


def _at_every_size(supremum: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Upper bounds of the norm at any size, from those of sigma*."""
    return rounding.up(supremum * math.sqrt(spec.padding_gain_sq), 4, xp=xp)


def _in_group(x: Array, group: Array, groups: int, *, xp: Namespace) -> Array:
    """Vectors (b, n) of one group of each layer, as vectors of the layer."""
    return xp.reshape(arrays.one_hot(x, group, groups, xp=xp), (x.shape[0], -1))


def _enclose(
    kernels: Array, spec: ConvSpec, rtol: float, seed: int, dense: bool, *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array]:
    xp = ops.xp
    layer = Convolution(kernels, spec, ops=ops)
    wide = layer.shape[0] < layer.shape[1]
    gram = _composed(layer.adjoint, layer.apply) if wide else _composed(layer.apply, layer.adjoint)
    # Without a matrix the upper bound is that of every size, and the gap to it is wider than any rtol worth asking for.
    plan = Plan(TUNING.steps, seed, min(1e-6, rtol / 100)) if dense else Plan(TUNING.steps_only, seed, rtol / 10)
    vectors, _ = top_vectors(gram, kernels, min(layer.shape), 1, plan, ops=ops)
    values, images = ritz_values_down(layer, vectors, wide, ops=ops)
    lower = values[:, 0]
    upper = xp.full_like(lower, float(xp.finfo(lower.dtype).max))
    if dense:
        matrix, error, empty = gram_matrix(layer, wide, ops=ops)
        upper = norm_up_near(matrix, error, lower * (1 + rtol / 2), ops=ops)
        if not bool(xp.all(upper <= lower * (1 + rtol))):
            values, top = arrays.top_eigenpair(matrix, xp=xp)
            better, raised = ritz_values_down(layer, top[:, None, :], wide, ops=ops)
            higher = better[:, 0] > lower
            vectors = xp.where(higher[:, None, None], top[:, None, :], vectors)
            images = xp.where(higher[:, None, None], raised, images)
            lower = xp.where(higher, better[:, 0], lower)
            values = xp.maximum(values, xp.zeros_like(values))
            # Room for the proof itself, as in `matrices.matrix_norm_up`, and for what the matrix is off.
            room = 1 + 2 * min(layer.shape) * matrices.cholesky_loss(min(layer.shape), matrix, xp=xp)
            target = xp.sqrt(values * room + error) * (1 + 32 * rounding.unit(lower, xp=xp))
            upper = xp.minimum(upper, norm_up_near(matrix, error, target, ops=ops))
            upper = xp.minimum(upper, norm_up_near(matrix, error, lower * (1 + rtol / 2), ops=ops))
        # Nothing can be proven about 0 by a factorisation, and nothing needs to be.
        upper = xp.where(empty, xp.zeros_like(upper), upper)
    u, v = (vectors, images) if wide else (images, vectors)
    return lower, upper, u[:, 0, :], v[:, 0, :]
