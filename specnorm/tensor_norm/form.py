"""The multilinear form of the tensor norm, and the vectors from which it is maximized.

The form is ``sum K[o,i,k,l] u_o v_i a_k b_l``, and the tensor norm is its largest modulus over unit vectors. u is the
*left*, v the *right* vector; a, b, one for each spatial axis, are the *spatial vectors*, and their outer product, with
one entry for each tap, are the *tap weights*.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import Frequencies
from specnorm.tensor_norm.one_set import best_spatial_vectors, outer

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps


class Form:
    """The forms of a stack of blocks (b, m, p, *kernel_shape), evaluated at s sets of vectors for each block.

    A sweep reads the kernel twice, in real matrix products with the vectors of all sets at once. Kernels are real and
    vectors complex, so such a product takes real and imaginary parts apart: *parts* are real arrays (b, 2 s, n) that
    hold the real parts of the s vectors, then their imaginary parts.

    Attributes
    ----------
    p, taps : int
        Input channels, and number of taps.
    lengths : tuple of int
        Lengths of the spatial vectors; a matrix has one spatial vector, of length 1.
    by_row : array, shape (b, m, p * taps)
        The blocks.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        b, m, p, *sizes = blocks.shape
        self.xp = ops.xp
        self.ops = ops
        self.p = p
        self.taps = math.prod(sizes)
        self.lengths = tuple(sizes or [1])
        self.by_row = self.xp.reshape(blocks, (b, m, p * self.taps))

    def image(self, v: Array, spatial_vectors: list[Array]) -> Array:
        """The conjugate of the kernel contracted with v and the spatial vectors, as parts (b, 2 s, m) (see the class).

        The kernel is the left factor, since BLAS takes 1.5 times as long if the transposed factor is on the right.
        """
        xp = self.xp
        tap_weights = outer(spatial_vectors, xp=xp)
        pairs = xp.conj(v)[..., None] * xp.conj(tap_weights)[:, :, None, :]
        pairs = xp.reshape(pairs, (*v.shape[:2], self.p * self.taps))
        parts = xp.concat([xp.real(pairs), xp.imag(pairs)], axis=1)
        return xp.matrix_transpose(xp.matmul(self.by_row, xp.matrix_transpose(parts)))

    def left(self, image: Array) -> tuple[Array, Array]:
        """The u that maximizes the form for the other vectors, shape (b, s, m), and the form's value, shape (b, s).

        The form is linear in u. The conjugate of its coefficients, the image of the others, is the maximiser, divided
        by its norm.
        """
        return arrays.unit(self._complex(image), xp=self.xp)

    def contracted_with_left(self, image: Array) -> Array:
        """The kernel contracted with the left vector u that maximizes the form, shape (b, s, p, taps)."""
        xp = self.xp
        b, parts, _ = image.shape
        sets = parts // 2
        # The squared norms of the real parts, then those of the imaginary parts.
        squared_parts = xp.vecdot(image, image)
        norm_sq = squared_parts[:, :sets] + squared_parts[:, sets:]
        inverse_norm = arrays.inverse(xp.sqrt(norm_sq), xp=xp)
        u = image * xp.concat([inverse_norm, inverse_norm], axis=1)[..., None]
        return xp.reshape(self._complex(xp.matmul(u, self.by_row)), (b, sets, self.p, self.taps))

    def right(self, by_tap: Array, spatial_vectors: list[Array]) -> Array:
        """The v that maximizes the form for the other vectors, times the form's value, shape (b, s, p).

        ``by_tap`` (b, s, p, taps): the kernel contracted with u, as from `contracted_with_left`.
        """
        xp = self.xp
        contracted = by_tap
        for spatial_vector in reversed(spatial_vectors):
            by_last_axis = xp.reshape(contracted, (*by_tap.shape[:2], -1, spatial_vector.shape[2]))
            contracted = xp.matmul(by_last_axis, spatial_vector[..., None])[..., 0]
        return xp.conj(contracted)

    def sweep(self, v: Array, spatial_vectors: list[Array]) -> tuple[list[Array], Array]:
        """Maximise over u; over each spatial vector, together with v; over v. The form never decreases.

        Returns ``vectors`` (b, s, p) and (b, s, k_j): right and spatial vectors; ``value`` (b, s): the form's value.
        """
        xp = self.xp
        by_tap = self.contracted_with_left(self.image(v, spatial_vectors))
        # With u contracted, the form is linear in v: v_i is multiplied by row i of `by_tap`, contracted with the
        # spatial vectors. Where v is replaced by its maximiser for the present spatial vectors, a form in these alone
        # is left.
        right_image = self.right(by_tap, spatial_vectors)
        spatial_form = xp.matmul(right_image[:, :, None, :], by_tap)
        spatial_form = xp.reshape(spatial_form, (*v.shape[:2], *self.lengths))
        # The two leading axes are blocks and sets.
        spatial_vectors = best_spatial_vectors(spatial_form, spatial_vectors, leading=2, xp=xp)
        # Reshape to one leading axis: compilers produce faster code for that than for two.
        unit_v, value = arrays.unit(xp.reshape(self.right(by_tap, spatial_vectors), (-1, self.p)), xp=xp)
        return [xp.reshape(unit_v, v.shape), *spatial_vectors], xp.reshape(value, v.shape[:2])

    def _complex(self, parts: Array) -> Array:
        """Complex arrays (b, s, n) from parts (b, 2 s, n)."""
        count = parts.shape[1] // 2
        return self.ops.complex(parts[:, :count, :], parts[:, count:, :])


def starts(
    blocks: Array,
    count: int,
    random_count: int,
    seed: int,
    *,
    ops: ArrayOps,
) -> tuple[Array, list[Array]]:
    """Right vectors (b, s, p) and spatial vectors (b, s, k_j) from which the form is maximized.

    The first ``count`` have the Fourier vectors of the best frequencies of a coarse grid as spatial vectors; then
    follow ``random_count`` random ones.
    """
    xp = ops.xp
    b, _, p, *sizes = blocks.shape
    dtype = "complex128" if blocks.dtype == xp.float64 else "complex64"

    def for_each_block(x: np.ndarray) -> Array:
        constant = ops.from_numpy(x, blocks)
        return xp.broadcast_to(constant, (b, *constant.shape[1:]))

    v, *spatial_vectors = (for_each_block(x) for x in _coarse_waves(seed, p, tuple(sizes), dtype))
    form = Form(blocks, ops=ops)
    by_tap = form.contracted_with_left(form.image(v, spatial_vectors))
    v, value = arrays.unit(form.right(by_tap, spatial_vectors), xp=xp)
    _, v, spatial_vectors = best_iterates(value, v, spatial_vectors, count, xp=xp)
    if sizes and random_count:
        random_v, *random_vectors = (for_each_block(x) for x in _random(seed, random_count, p, tuple(sizes), dtype))
        v = xp.concat([v, random_v], axis=1)
        pairs = zip(spatial_vectors, random_vectors, strict=True)
        spatial_vectors = [xp.concat(list(pair), axis=1) for pair in pairs]
    return v, spatial_vectors


def best_iterates(
    value: Array,
    v: Array,
    spatial_vectors: list[Array],
    count: int,
    *,
    xp: Namespace,
) -> tuple[Array, Array, list[Array]]:
    """Values (b, s) and vectors of the ``count`` iterates of each block with the largest values."""
    if count >= value.shape[1]:
        return value, v, spatial_vectors
    largest = xp.argsort(value, axis=1, descending=True)[:, :count]

    def of_largest(x: Array) -> Array:
        index = xp.broadcast_to(largest[:, :, None], (*largest.shape, x.shape[2]))
        return xp.take_along_axis(x, index, axis=1)

    largest_values = xp.take_along_axis(value, largest, axis=1)
    return largest_values, of_largest(v), [of_largest(vector) for vector in spatial_vectors]


@functools.lru_cache(maxsize=256)
def _coarse_waves(
    seed: int,
    p: int,
    sizes: tuple[int, ...],
    dtype: str,
) -> tuple[np.ndarray, ...]:
    """A random right vector, and the Fourier vectors of each axis, for the s frequencies of a coarse grid.

    Arrays (1, s, n) on the host.
    """
    angles = Frequencies.coarse_grid(sizes).angles
    return unit_rows([arrays.random_vectors(seed, (len(angles), p)), *waves(angles, sizes)], dtype)


@functools.lru_cache(maxsize=256)
def _random(
    seed: int,
    count: int,
    p: int,
    sizes: tuple[int, ...],
    dtype: str,
) -> tuple[np.ndarray, ...]:
    """Random right vectors and spatial vectors; arrays (1, count, n) on the host."""
    vectors = [arrays.random_vectors(seed + 1 + j, (count, length)) for j, length in enumerate([p, *sizes])]
    return unit_rows(vectors, dtype)


def waves(angles: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Fourier vectors e^{i k theta_j} of frequencies theta (s, d): (s, size) for each axis j; ones for a matrix."""
    if not sizes:
        return [np.ones((len(angles), 1))]
    return [np.exp(1j * np.outer(angles[:, axis], np.arange(size))) for axis, size in enumerate(sizes)]


def unit_rows(vectors: list[np.ndarray], dtype: str) -> tuple[np.ndarray, ...]:
    """Divide the rows of arrays (s, n) by their norms; return arrays (1, s, n)."""
    unit_vectors = (rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in vectors)
    return tuple(rows.astype(dtype)[None, ...] for rows in unit_vectors)
