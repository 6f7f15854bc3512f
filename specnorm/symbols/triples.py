"""Top singular vectors of symbols at given frequencies, and the gradient of a singular value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.lanczos import DIRECT_SIZE, Lanczos
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.found import Witness


def _top_vectors(
    block: Array,
    frequency: Frequencies,
    vectors: tuple[Array, Array] | None = None,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array]:
    """Top singular vectors u and v of one block at one frequency, and the phases of its taps there.

    ``vectors``: u and v, if they are known already.
    """
    xp = ops.xp
    polynomial = Polynomial(block, xp=xp)
    phase = polynomial.at(frequency, ops=ops).phase
    if vectors is not None:
        u, v = (vector + 0j for vector in vectors)
        return u, v, phase
    matrix = polynomial.matrix_at(phase)
    is_large = ops.concrete and min(matrix.shape[1:]) > DIRECT_SIZE
    found = _top_vectors_of_large(matrix, ops=ops) if is_large else None
    u, v, *_ = arrays.top_triple(matrix, xp=xp) if found is None else found
    return u, v, phase


def _top_vectors_of_large(matrix: Array, *, ops: ArrayOps) -> tuple[Array, Array] | None:
    """Top singular vectors by Lanczos, of the real matrix [[Re, -Im], [Im, Re]]; None if it does not converge."""
    xp = ops.xp
    rows, columns = matrix.shape[1:]
    real = xp.real(matrix)
    imag = xp.imag(matrix)
    doubled = xp.concat([xp.concat([real, -imag], axis=2), xp.concat([imag, real], axis=2)], axis=1)
    run = Lanczos(doubled, tolerance=Lanczos.vector_tolerance(doubled.dtype, xp=xp), ops=ops).finish()
    if not run.converged.all():
        return None
    u, v = run.vectors()
    u = u[:, :rows] + 1j * u[:, rows:]
    v = v[:, :columns] + 1j * v[:, columns:]
    return u, v


def top_vectors(layers: list[Array], witnesses: list[Witness], *, ops: ArrayOps) -> tuple[Array, Array, Array, Array]:
    """Top singular vectors of one block of each layer at one frequency: u, v, phases and the block's index.

    ``layers`` (g, m, p, *kernel_shape): blocks of each layer. ``at``: one entry for each layer.
    """
    found = []
    for blocks, witness in zip(layers, witnesses, strict=True):
        block = blocks[witness.block : witness.block + 1, ...]
        vectors = None if witness.u is None else (witness.u, witness.v)
        found.append(_top_vectors(block, witness.frequency, vectors, ops=ops))
    u, v, phase = (ops.xp.concat(list(column), axis=0) for column in zip(*found, strict=True))
    indices = np.asarray([witness.block for witness in witnesses], dtype=np.int64)
    return u, v, phase, ops.from_numpy(indices, layers[0])


def top_gradient(
    residuals: tuple[Array, ...],
    cotangent: Array,
    spec: ConvSpec,
    *,
    xp: Namespace,
) -> Array:
    """Pullback of what unit vectors u and v attain: ``Re(u* G v)``, G the sum of the taps with their weights.

    ``residuals``: u, v, the weights of the taps, such as their phases at a frequency, and, of a plan with one answer
    for each layer, the group. A factor of the value is a factor of u.
    """
    u, v, weights, *group = residuals
    gradient = Polynomial.singular_value_gradient(u, v, weights, cotangent, spec.block_kernel_shape, xp=xp)
    if group:
        gradient = arrays.one_hot(gradient, group[0], spec.groups, xp=xp)
    return xp.reshape(gradient, (-1, *spec.block_shape))
