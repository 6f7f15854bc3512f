"""What calls of LAPACK cost, in the multiplications that `specnorm.clock.RATE` counts: they cannot be interrupted.

Measured on one thread at 256 to 1024 rows, on a busy machine: a call takes as long as so many multiplications of a
large matrix product, which run several times faster than those of an eigenvalue routine.
"""

from __future__ import annotations

_COMPLEX = 3.0
"""A complex factorisation over a real one of the same size."""
_EIGH, _EIGVALSH, _SVD = 5.0, 2.0, 10.0
"""Multiplications over the cube of the side: eigenvectors, eigenvalues alone, singular vectors (m n^2 there)."""


def eigh_work(side: int, *, is_complex: bool = False, vectors: bool = True) -> float:
    """Return what the eigenvalues of one Hermitian matrix cost, with its eigenvectors or without."""
    return (_COMPLEX if is_complex else 1.0) * (_EIGH if vectors else _EIGVALSH) * float(side) ** 3


def svd_work(rows: int, columns: int) -> float:
    """Return what the thin SVD of one complex matrix costs."""
    return 2 * _SVD * float(max(rows, columns)) * float(min(rows, columns)) ** 2
