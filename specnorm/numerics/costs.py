"""Cost of LAPACK calls, which cannot be interrupted, in multiplications.

`specnorm.clock.MULTIPLICATIONS_PER_SECOND` of them take a second. The figures were measured on one thread at 256 to
1024 rows, on a busy machine. One unit is a multiplication of a large matrix product; an eigenvalue routine runs several
times slower per multiplication.
"""

from __future__ import annotations

_COMPLEX = 3.0
"""Cost of a complex eigenvalue routine, divided by that of a real one of the same size."""
_EIGH = 5.0
"""Cost of eigenvalues with eigenvectors of a real n x n matrix, divided by n^3."""
_EIGVALSH = 2.0
"""Cost of eigenvalues alone of a real n x n matrix, divided by n^3."""
_SVD = 10.0
"""Cost of the thin SVD of a real m x n matrix with m >= n, divided by m n^2."""
_COMPLEX_SVD = 2.0
"""Cost of a complex thin SVD, divided by that of a real one of the same size."""


def eigh_work(side: int, *, is_complex: bool = False, vectors: bool = True) -> float:
    """Cost of the eigenvalues of one Hermitian matrix, with or without its eigenvectors."""
    factor = _EIGH if vectors else _EIGVALSH
    if is_complex:
        factor *= _COMPLEX
    return factor * float(side) ** 3


def svd_work(rows: int, columns: int) -> float:
    """Cost of the thin SVD of one complex matrix."""
    return _COMPLEX_SVD * _SVD * float(max(rows, columns)) * float(min(rows, columns)) ** 2
