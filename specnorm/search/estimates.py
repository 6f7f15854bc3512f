"""Estimates of the norms at the centres of cells. They choose what is proven, and prove nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.symbol import symbols
from specnorm.numerics.power import largest_eigenvalues

if TYPE_CHECKING:
    from specnorm.certified.symbol.cover import CentreMatrices
    from specnorm.certified.symbol.gram_polynomial import GramPolynomial
    from specnorm.search.tuning import Tuning
    from specnorm.types import Array, ArrayOps


@dataclass(eq=False)
class NodeEstimates:
    """What a round knows of its open cells, filled in as it goes on.

    Parameters
    ----------
    polynomial : GramPolynomial
        In the precision that is tried first.
    threshold : float
        What was to be proven when the round began.
    vectors : array, shape (c, rank)
        Estimates of the top eigenvectors; the next round begins with them.
    reduced_for_sq : float array, shape (c,)
        What the matrices are reduced for: no lower limit is proven by them.
    eigenvalues : float array, shape (c,)
        Largest ones of the (reduced) Gram matrices, from below.
    norms_sq : float array, shape (c,)
        Squared norms at the centres, from below.
    kept : list of CentreMatrices
        One for each part of the cells; empty where they would take too much memory.
    exact : int
        How many cells may still get an exact eigenpair.
    """

    polynomial: GramPolynomial
    threshold: float
    vectors: Array
    reduced_for_sq: np.ndarray
    exact: int
    eigenvalues: np.ndarray = field(init=False)
    norms_sq: np.ndarray = field(init=False)
    kept: list[CentreMatrices] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.eigenvalues = np.zeros(len(self.reduced_for_sq))
        self.norms_sq = np.zeros(len(self.reduced_for_sq))


def largest(
    formed: CentreMatrices, vectors: Array, tuning: Tuning, like: Array, *, first: bool, crowded: bool, ops: ArrayOps
) -> tuple[np.ndarray, Array]:
    """Largest eigenvalues of the matrices of some cells, from below, and the vectors for the next round.

    Parameters
    ----------
    vectors : array, shape (c, rank)
        To begin with.
    like : array
        Real, on the device of the others.
    first : bool
        Whether this is the first round: vectors are random.
    crowded : bool
        What `is_crowded` said of it.
    """
    degree = tuning.first_degree if first else tuning.crowded_degree if crowded else tuning.degree
    matrices, cut = formed.matrices, tuning.cut * formed.reduced_for_sq
    values, vectors = largest_eigenvalues(matrices, vectors, cut, degree, like, ops=ops)
    if first and is_crowded(values, formed.reduced_for_sq, matrices.shape[-1], tuning):
        values, vectors = largest_eigenvalues(matrices, vectors, cut, tuning.crowded_first, like, ops=ops)
    return values, vectors


def is_crowded(eigenvalues: np.ndarray, limit_sq: np.ndarray, rank: int, tuning: Tuning) -> bool:
    """Whether nearly all of the first cells are near their limits, as with spectra without a gap: filters are slow."""
    if rank < tuning.smallest_crowded:
        return False
    return bool(np.count_nonzero(eigenvalues > tuning.cut * limit_sq) > tuning.crowded * len(limit_sq))


def lift(
    polynomial: GramPolynomial, planes: tuple[Array, Array], vectors: Array, eigenvalues: np.ndarray, *, ops: ArrayOps
) -> tuple[np.ndarray, Array]:
    """Squared norms at the centres from below, and vectors of all columns, from those of the reduced matrices.

    An eigenvector z of the reduced matrix goes on as ``B z / lambda``.

    Parameters
    ----------
    planes : arrays, shape (f, size, rank)
        Of ``polynomial.planes_at``.
    vectors : array, shape (f, rank)
        Of unit length.
    eigenvalues : float array, shape (f,)
        Of the reduced matrices.
    """
    if polynomial.rank == polynomial.size:
        return eigenvalues.copy(), vectors
    xp = ops.xp
    parts = xp.stack([xp.real(vectors), xp.imag(vectors)], axis=-1)
    even, odd = (xp.matmul(plane, parts) for plane in planes)
    image = ops.complex(even[..., 0] - odd[..., 1], even[..., 1] + odd[..., 0])
    above = ops.to_numpy(xp.sum(xp.real(xp.conj(vectors) * image[:, : polynomial.rank]), axis=-1))
    rest = image[:, polynomial.rank :]
    beside = ops.to_numpy(xp.linalg.vector_norm(rest, axis=-1)) ** 2
    scale = np.maximum(eigenvalues, 1e-30)
    norms_sq = (above + 2 * beside / scale) / (1 + beside / scale**2)
    weight = ops.from_numpy(1 / scale, polynomial.blocks)
    return norms_sq, xp.concat([vectors, rest * xp.astype(weight, rest.dtype)[:, None]], axis=-1)


def unrotated(polynomial: GramPolynomial, vectors: Array, block: int, *, ops: ArrayOps) -> Array:
    """Right vectors (n, size) of one block as given, from those of the block as rotated."""
    if polynomial.rotation is None:
        return vectors
    xp = ops.xp
    turned = symbols.real_times(polynomial.rotation.basis[block, ...], xp.matrix_transpose(vectors), xp=xp)
    return xp.matrix_transpose(turned)
