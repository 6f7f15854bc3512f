"""A probable bound on the norm of an operator whose adjoint is known up to a stated error.

Let A have the norm a, and let B be a fixed linear map with ``|B - A*| <= tau a``, such as the backprojection of a
tomograph on a GPU. Then M = B A differs from the Hermitian matrix H = A* A by at most ``tau a**2``, and is no Hermitian
matrix: a Lanczos process with M proves nothing. But one polynomial of M tells the norm.

**Theorem.** Let M be of order n, L > 0, p the Chebyshev polynomial of degree k of the interval [0, L], b a normal
random vector that is independent of M and L, and ``c = delta sqrt(pi / (2 n))``. Then, with a probability of at least
1 - delta,

    (1 - kappa tau) a**2 <= L (1 + cosh(arsinh(|p(M) b| / (c |b|)) / k)) / 2,    kappa = log2(n) + 2.038.

*Proof.* The eigenvalues of H and M, properly ordered, differ by at most ``kappa |M - H|`` (Kahan, "Spectra of nearly
Hermitian matrices", Proc. AMS 48, 1975). So M has an eigenvalue mu with ``Re mu >= x = (1 - kappa tau) a**2``. If
x <= L, the claim is true. Otherwise let ``2 mu / L - 1 = cosh(s + i t)`` with s >= 0. The real part is cosh(s) cos(t),
so ``cosh(s) >= 2 x / L - 1 > 1``. And ``|p(mu)| = |cosh(k (s + i t))| >= sinh(k s)`` is the modulus of an eigenvalue
of p(M), so the norm of p(M) is at least that. Let v be a right singular vector of p(M) for its norm. It depends on M
and L alone, so ``|<v, b>| >= c |b|`` with a probability of at least 1 - delta: for n > 2, the density of
``<v, b> / |b|`` is at most ``sqrt(n / (2 pi))``; for n = 2, the probability of less than c is 2 arcsin(c) / pi <= c.
Then ``|p(M) b| >= c |b| sinh(k s)``, which is solved for x.

The theorem says nothing about an adjoint whose error changes from call to call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Product = Callable[[Vector], Vector]
_WIDTH = 0.8
"""Part of the relative width that is left to the polynomial; the rest is for its interval, which is an estimate."""
_LARGEST = 2.0**300
"""Largest norm of a filtered vector, beyond which it is scaled."""


def loss_of_adjoint(tolerance: float, n: int) -> float:
    """Return kappa tau, the largest relative error of an eigenvalue of M, of order n."""
    return (math.log2(n) + 2.038) * tolerance


def degree_for(rtol: float, delta: float, n: int) -> int:
    """Return the degree at which the bound is within a relative width of a norm that is the end of the interval."""
    growth = math.asinh(1 / _chance(delta, n))
    return math.ceil(growth / math.acosh(2 * (1 + _WIDTH * rtol) ** 2 - 1))


def squared_norm_up(length: float, logarithm: float, degree: int, tolerance: float, delta: float, n: int) -> float:
    """Bound the squared norm by the theorem.

    Parameters
    ----------
    length : float
        L.
    logarithm : float
        ``log(|p(M) b| / |b|)``, which may be ``-inf``.
    degree : int
        k.
    tolerance, delta : float
    n : int
    """
    growth = _arsinh_of_exp(logarithm - math.log(_chance(delta, n))) / degree
    return length * (1 + math.cosh(growth)) / (2 * (1 - loss_of_adjoint(tolerance, n)))


def filtered(product: Product, length: float, degree: int, start: Vector) -> tuple[Vector, float]:
    """Return a multiple of ``p(M) start``, and the logarithm of ``|p(M) start| / |start|``."""
    previous = start / float(np.linalg.norm(start))
    vector = product(previous) * (2 / length) - previous
    scale = 0.0
    for _ in range(degree - 1):
        previous, vector = vector, product(vector) * (4 / length) - 2 * vector - previous
        size = float(np.linalg.norm(vector))
        if size > _LARGEST:
            previous = previous / size
            vector = vector / size
            scale += math.log(size)
    size = float(np.linalg.norm(vector))
    return vector, scale + math.log(size) if size > 0 else -math.inf


def _arsinh_of_exp(exponent: float) -> float:
    return exponent + math.log(2) if exponent > 300 else math.asinh(math.exp(exponent))


def _chance(delta: float, n: int) -> float:
    """Return c."""
    return min(delta * math.sqrt(math.pi / (2 * n)), 1.0)
