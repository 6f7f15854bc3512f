"""Top singular triples of blocks at frequencies, and their gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.symbol import gradients, symbols
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem.frequencies import Frequencies

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


_LANCZOS_FROM = 192
"""Rows and columns from which Lanczos with a complex matrix is faster than the eigenvalues of its Gram matrix."""


def top_triple_at(
    block: Array, frequency: Frequencies, vectors: tuple[Array, Array] | None = None, *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array]:
    """Top singular triple of one block at one frequency, and the taps' phases there; real vectors may be known."""
    xp = ops.xp
    symbol = symbols.Symbol(block, frequency, ops=ops)
    phase = symbol.phase
    if vectors is not None:
        u, v = (x + 0j for x in vectors)
        return u, v, xp.linalg.vector_norm(symbol.apply(v[:, None, :])[:, 0, :], axis=-1), phase
    matrix = symbols.matrix_at(block, phase, xp=xp)
    found = _by_lanczos(matrix, math.prod(block.shape[3:]) == 1, ops=ops) if ops.concrete else None
    u, v, value = found or symbols.top_triple(matrix, xp=xp)
    return u, v, value, phase


def _by_lanczos(matrix: Array, is_real: bool, *, ops: ArrayOps) -> tuple[Array, Array, Array] | None:
    """Top singular triple of complex matrices (b, m, p); None where an eigenvalue routine is faster, or none is found.

    A complex matrix is iterated with as a real one of twice the size, ``[[Re, -Im], [Im, Re]]``, whose vectors are
    (Re, Im).
    """
    xp, (m, p) = ops.xp, matrix.shape[1:]
    if not is_real and min(m, p) < _LANCZOS_FROM:
        return None
    real, imag = xp.real(matrix), xp.imag(matrix)
    if not is_real:
        upper, lower = xp.concat([real, -imag], axis=2), xp.concat([imag, real], axis=2)
        real = xp.concat([upper, lower], axis=1)
    run = Lanczos(real, tolerance=vector_tolerance(real.dtype, xp=xp), ops=ops).finish()
    if not run.converged.all():
        return None
    u, v = run.vectors()
    value = xp.linalg.vector_norm(xp.matmul(real, v[..., None])[..., 0], axis=-1)
    if is_real:
        return u + 0j, v + 0j, value
    return ops.complex(u[:, :m], u[:, m:]), ops.complex(v[:, :p], v[:, p:]), value


def top_triples(
    layers: list[Array], at: list[tuple[int, Frequencies, tuple[Array, Array] | None]], *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array, Array]:
    """Top singular triple of one block of each layer at one frequency: u, v, sigma, phases and the block's index.

    Parameters
    ----------
    layers : list of arrays, shape (g, m, p, *kernel_shape)
    """
    xp = ops.xp
    found = [
        top_triple_at(blocks[index : index + 1, ...], frequency, vectors, ops=ops)
        for blocks, (index, frequency, vectors) in zip(layers, at, strict=True)
    ]
    u, v, value, phase = (xp.concat(list(x), axis=0) for x in zip(*found, strict=True))
    index = ops.from_numpy(np.asarray([index for index, _, _ in at], dtype=np.int64), layers[0])
    return u, v, value, phase, index


def top_gradient(residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Gradient of a singular value with respect to all blocks of its layer, from u, v, phases and group."""
    u, v, phase, group = residuals
    gradient = gradients.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)
    gradient = arrays.one_hot(gradient, group, spec.groups, xp=xp)
    return xp.reshape(gradient, (-1, *gradient.shape[2:]))
