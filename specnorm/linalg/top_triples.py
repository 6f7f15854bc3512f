"""Top singular triples of blocks at frequencies, and their gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import Frequencies
from specnorm.linalg.lanczos import Lanczos, vector_tolerance

if TYPE_CHECKING:
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


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
    if math.prod(block.shape[3:]) == 1 and ops.may_branch:
        matrix = xp.reshape(block, block.shape[:3])
        run = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops).finish()
        if run.converged.all():
            u, v = run.vectors()
            value = xp.linalg.vector_norm(xp.matmul(matrix, v[..., None])[..., 0], axis=-1)
            return u + 0j, v + 0j, value, phase
    u, v, value = symbols.top_triple(symbols.matrix_at(block, phase, xp=xp), xp=xp)
    return u, v, value, phase


def top_triples(
    layers: list[Array], at: list[tuple[int, Frequencies, tuple[Array, Array] | None]], *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array, Array]:
    """Top singular triple of one block of each layer at one frequency: u, v, sigma, phases and the block's index.

    Parameters
    ----------
    layers : list of arrays, shape (g, m, p, *kernel_shape)
    at : list of (block index, frequency, its singular vectors if they are known)
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
    gradient = symbols.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)
    gradient = arrays.one_hot(gradient, group, spec.groups, xp=xp)
    return xp.reshape(gradient, (-1, *gradient.shape[2:]))
