"""A bound of a black box that holds with a stated probability: of a kind of its own, and never called proven."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError

Vector = NDArray[np.float64]
Product = Callable[[Vector], Vector]
_ADJOINT = 1e-5
"""Relative distance of <A v, u> from <v, A* u>; products in single precision are closer."""


@dataclass(frozen=True)
class ProbableBound:
    """The norm of an operator, by products with it alone.

    Parameters
    ----------
    lower : float
        Attained, up to rounding.
    upper : float
        No smaller than the norm with probability ``1 - delta`` over the start, up to rounding.
    delta : float
    products : int
        With the operator and its adjoint, together.
    """

    lower: float
    upper: float
    delta: float
    products: int

    kind = "probable"

    def __str__(self) -> str:
        """One line."""
        return (
            f"norm at least {self.lower:.6g}; at most {self.upper:.6g} with probability 1 - {self.delta:g} "
            f"({self.products} products)"
        )


def operator_norm(
    matvec: Product, rmatvec: Product, shape: tuple[int, int], *, delta: float = 1e-9, rtol: float = 1e-2,
    seed: int | None = None,
) -> ProbableBound:  # fmt: skip
    """Bound the norm of a linear operator that only its products are known of, with a stated probability.

    Nothing can be proven of a black box. But Lanczos from a random start is far below the norm with a probability that
    is known, whatever the operator is.

    Parameters
    ----------
    matvec : callable
        ``v -> A v``, from arrays of shape (n,) to (m,), float64.
    rmatvec : callable
        ``u -> A* u``, its adjoint. One random pair is compared.
    shape : (m, n)
    delta : float, default 1e-9
        Probability that ``upper`` is below the norm.
    rtol : float, default 1e-2
        ``upper`` is ``(1 + rtol) lower``. The number of products grows as ``log(n / delta**2) / sqrt(2 rtol)``.
    seed : int, optional
        Of the start; None: another one each time. Of an operator that knows the seed nothing is known.

    Returns
    -------
    ProbableBound

    Raises
    ------
    MethodError
        If ``rmatvec`` is not the adjoint, a product is not finite or of another shape, or an argument is none.

    Notes
    -----
    Kuczyński, Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start"
    (SIAM J. Matrix Anal. Appl. 13, 1992), theorem 4.1: after k steps with ``A* A``, of order n, the largest Ritz value
    is below ``(1 - eps) |A|**2`` with a probability of at most ``1.648 sqrt(n) exp(-sqrt(eps) (2 k - 1))``. Ten power
    steps times 1.05, which is common, has no such number. Rounding is not counted.
    """
    m, n = shape
    if not (type(m) is int and type(n) is int and min(m, n) > 0 and 0 < delta < 1 and 0 < rtol < 1):
        raise MethodError(
            f"shape={shape!r}, delta={delta!r}, rtol={rtol!r}: expected two positive whole numbers, and two numbers "
            "between 0 and 1."
        )
    random = np.random.default_rng(seed)
    forth, back = (_checked(matvec, "matvec", m), _checked(rmatvec, "rmatvec", n))
    v, u = random.standard_normal(n), random.standard_normal(m)
    ahead, behind = forth(v), back(u)
    size = float(np.linalg.norm(ahead) * np.linalg.norm(u) + np.linalg.norm(v) * np.linalg.norm(behind))
    if abs(float(ahead @ u) - float(v @ behind)) > _ADJOINT * size:
        raise MethodError(
            f"rmatvec is not the adjoint of matvec: <A v, u> is {float(ahead @ u):.6g} and <v, A* u> is "
            f"{float(v @ behind):.6g} for a random pair."
        )
    if m < n:
        forth, back, n = back, forth, m
    eps = 1 - (1 + rtol) ** -2
    steps = min(n, math.ceil((math.log(1.648 * math.sqrt(n) / delta) / math.sqrt(eps) + 1) / 2))
    # Of about the operator's entries.
    scale = 2.0 ** math.frexp(float(np.max(np.abs(ahead)) + np.max(np.abs(behind))))[1]
    largest, taken = _lanczos(lambda x: back(forth(x) / scale) / scale, random.standard_normal(n), steps)
    lower = scale * math.sqrt(max(largest, 0.0))
    return ProbableBound(lower, lower * (1 + rtol), delta, 2 + 2 * taken)


def _checked(product: Product, name: str, size: int) -> Product:
    def applied(x: Vector) -> Vector:
        found = np.asarray(product(x), dtype=np.float64)
        if found.shape != (size,) or not np.isfinite(found).all():
            raise MethodError(f"{name} returned an array of shape {found.shape}; expected ({size},), finite numbers.")
        return found

    return applied


def _lanczos(gram: Product, start: Vector, steps: int) -> tuple[float, int]:
    """The largest Ritz value, and the steps taken; vectors that lose their orthogonality repeat values, spoil none."""
    here: Vector = start / np.linalg.norm(start)
    before, off = np.zeros_like(here), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps):
        ahead = gram(here) - off * before
        diagonal.append(float(here @ ahead))
        ahead -= diagonal[-1] * here
        off = float(np.linalg.norm(ahead))
        beside.append(off)
        if off <= 1e-300:
            break
        before, here = here, ahead / off
    ritz = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return float(ritz[-1]), len(diagonal)
