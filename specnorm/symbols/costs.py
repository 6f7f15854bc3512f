"""Cost of LAPACK calls, which cannot be interrupted, in multiplications.

`running.clock.MULTIPLICATIONS_PER_SECOND` of them take a second. The figures were measured on one thread at 256 to
1024 rows, on a busy machine. One unit is a multiplication of a large matrix product; an eigenvalue routine runs several
times slower per multiplication.
"""

from __future__ import annotations

_COMPLEX_EIGH = 3.0
"""Cost of a complex eigenvalue routine, divided by that of a real one of the same size."""
_EIGH = 5.0
"""Cost of eigenvalues with eigenvectors of a real n x n matrix, divided by n^3."""
_EIGVALSH = 2.0
"""Cost of eigenvalues alone of a real n x n matrix, divided by n^3."""


def eigh_cost(side: int, *, is_complex: bool = False, vectors: bool = True) -> float:
    """Cost of the eigenvalues of one Hermitian matrix, with or without its eigenvectors."""
    factor = _EIGH if vectors else _EIGVALSH
    if is_complex:
        factor *= _COMPLEX_EIGH
    return factor * float(side) ** 3
