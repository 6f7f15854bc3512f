"""Alternating maximization with one set of vectors for each kernel, which follows the kernel in training.

A step takes only about twenty calls of the array library. The vectors are named in `specnorm.tensor_norm.form`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from specnorm.backends import arrays

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace


def step(
    kernels: Array,
    left_pair: Array,
    spatial_vectors: list[Array],
    sweeps: int,
    *,
    join: Callable[[Array, Array], Array],
    xp: Namespace,
) -> tuple[Array, Array, list[Array], Array]:
    """Maximise the form over v, the spatial vectors and u in turn, a few times; it never decreases.

    ``kernels`` (..., m, p * taps): real. ``left_pair`` (..., m, 2): left vector, as real and imaginary part.
    ``spatial_vectors`` (..., k_j): spatial vectors. ``sweeps``: 0: maximise over v alone, once. ``join``: makes a
    complex array from its real and imaginary part.

    Returns ``value`` (...): the form's value, without the root of the number of taps; ``left_pair`` and
    ``spatial_vectors``, with which the next step begins; ``right_pair`` (..., 2, p * taps): outer product of the right
    vector and the spatial vectors, as real part and negative imaginary part: ``left_pair @ right_pair`` is the gradient
    of the value.
    """
    leading_shape = kernels.shape[:-2]
    sizes = [spatial_vector.shape[-1] for spatial_vector in spatial_vectors]
    taps = math.prod(sizes)
    tap_weights = outer(spatial_vectors, xp=xp)
    moves_all_vectors = sweeps > 0
    for _ in range(max(sweeps, 1)):
        # The kernel contracted with u, shape (..., p, taps).
        real_and_imag = xp.matmul(xp.matrix_transpose(left_pair), kernels)
        contracted = xp.reshape(join(real_and_imag[..., 0, :], real_and_imag[..., 1, :]), (*leading_shape, -1, taps))
        conjugate_v, value = _unit(xp.matmul(contracted, tap_weights[..., None]), 2, xp=xp)
        if moves_all_vectors and taps > 1:
            spatial_form = xp.matmul(xp.matrix_transpose(xp.conj(conjugate_v)), contracted)
            spatial_form = xp.reshape(spatial_form, (*leading_shape, *sizes))
            spatial_vectors = best_spatial_vectors(spatial_form, spatial_vectors, len(leading_shape), xp=xp)
            tap_weights = outer(spatial_vectors, xp=xp)
        right_pair = _right_pair(conjugate_v, tap_weights, xp=xp)
        if moves_all_vectors:
            left_pair, value = _unit(xp.matmul(kernels, xp.matrix_transpose(right_pair)), 2, xp=xp)
    return xp.reshape(value, leading_shape), left_pair, spatial_vectors, right_pair


def _unit(x: Array, axes: int, *, xp: Namespace) -> tuple[Array, Array]:
    """Divide x by its norm over the last ``axes`` axes; also return the norm, with these axes of length 1.

    A zero vector stays zero.
    """
    flat = x if axes == 1 else xp.reshape(x, (*x.shape[:-axes], -1))
    norm = xp.sqrt(xp.real(xp.vecdot(flat, flat)))
    for _ in range(axes):
        norm = norm[..., None]
    return x / (norm + arrays.TINY), norm


def outer(spatial_vectors: list[Array], *, xp: Namespace) -> Array:
    """Outer product of the spatial vectors, flattened: shape (..., taps)."""
    product = spatial_vectors[0]
    for spatial_vector in spatial_vectors[1:]:
        product = xp.reshape(product[..., :, None] * spatial_vector[..., None, :], (*product.shape[:-1], -1))
    return product


def _right_pair(conjugate_v: Array, tap_weights: Array, *, xp: Namespace) -> Array:
    """The ``right_pair`` of `step`, from the conjugate right vector (..., p, 1) and the tap weights (..., taps)."""
    conjugate = conjugate_v * xp.conj(tap_weights)[..., None, :]
    flat = xp.reshape(conjugate, (*conjugate.shape[:-2], -1))
    return xp.stack([xp.real(flat), xp.imag(flat)], axis=-2)


def best_spatial_vectors(
    spatial_form: Array,
    spatial_vectors: list[Array],
    leading: int,
    *,
    xp: Namespace,
) -> list[Array]:
    """Maximise a multilinear form of the spatial vectors alone over one of them after the other.

    ``spatial_form`` (*leading axes, *sizes): its coefficients. ``spatial_vectors``: the spatial vectors before.
    ``leading``: number of leading axes.
    """
    spatial_vectors = list(spatial_vectors)
    count = len(spatial_vectors)
    for axis in range(count):
        # `Any`: the Protocol of arrays does not know indices that are built from tuples.
        contracted: Any = spatial_form
        # Contract all other axes, the last one first. An axis behind `axis` is then the last one, an axis before it
        # the last but one.
        for other in reversed(range(count)):
            other_axes = (None,) * (contracted.ndim - leading - 2)
            if other > axis:
                column = spatial_vectors[other][(..., *other_axes, slice(None), None)]
                contracted = xp.matmul(contracted, column)[..., 0]
            elif other < axis:
                row = spatial_vectors[other][(..., *other_axes, None, slice(None))]
                contracted = xp.matmul(row, contracted)[..., 0, :]
        spatial_vectors[axis], _ = _unit(xp.conj(contracted), 1, xp=xp)
    return spatial_vectors
