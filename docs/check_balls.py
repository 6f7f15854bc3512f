"""Ball arithmetic for ``check.py --balls``: the same inequalities with python-flint, which counts every rounding."""

import itertools

import numpy as np
from flint import acb, acb_mat, arb, ctx, fmpq


def prove(blocks, errors, turns, common, bound, hermitian):
    """Prove |G| < bound, or with ``hermitian`` G < bound, for kernels (g, m, p, taps) at the frequencies of ``turns``.

    The sum of taps of each entry may be off by ``errors`` (g, m, p). Of each frequency: t.theta / 2 pi of each tap, in
    units of 1 / ``common``. M = bound**2 - G*G, or bound - G, is positive definite if R M R* = I + E, |E| < 1, for any
    R. NumPy proposes R, the inverse of a Cholesky factor; nothing else is taken from floating point.
    """
    ctx.prec = 128
    bound, n = arb(fmpq(bound.numerator, bound.denominator)), blocks.shape[2]
    for row, (block, error) in itertools.product(
        turns.astype(np.int64).tolist(), list(zip(blocks, errors + 2.0**-600, strict=True))
    ):
        symbol = acb_mat([[acb(arb(0, x), arb(0, x)) for x in line] for line in error.tolist()])
        for tap, turn in enumerate(row):
            symbol += acb_mat(block[..., tap].tolist()) * acb(fmpq(2 * turn, common)).exp_pi_i()
        gram = symbol if hermitian else symbol.conjugate().transpose() * symbol
        matrix = acb_mat(n, n, bound if hermitian else bound**2) - gram
        middle = np.array([[complex(x) for x in line] for line in matrix.mid().tolist()])
        factor = np.linalg.inv(np.linalg.cholesky(middle))
        rest = acb_mat(factor.tolist()) * matrix * acb_mat(factor.conj().T.tolist()) - acb_mat(n, n, 1)
        if not all(sum(map(abs, line)) < 1 for line in rest.tolist()):
            raise ArithmeticError("at a frequency the norm is larger, or too close to tell")
