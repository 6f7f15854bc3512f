"""A bound of a black box that holds with a stated probability: of a kind of its own, and never called proven."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.result import TwoSided, shown

Vector = NDArray[np.float64]
Product = Callable[[Vector], Vector]
_ADJOINT = 1e-5
"""Relative distance of <A v, u> from <v, A* u>; products in single precision are closer."""
_AXES = 2


@dataclass(frozen=True, eq=False)
class ProbableBound(TwoSided):
    """Two bounds of an operator's norm, the upper one with a stated probability.

    ``lower, upper = operator_norm(...)`` unpacks it. ``float()`` of it and comparisons raise: it is two numbers.

    Parameters
    ----------
    lower : NumPy scalar
        Attained by a vector, up to rounding.
    upper : NumPy scalar
        No smaller than the norm with probability ``1 - delta`` over the start, up to rounding.
    delta : float
    products : int
        Number of products with the operator and its adjoint, together.
    """

    lower: np.float64
    upper: np.float64
    delta: float
    products: int

    kind = "probable"

    def __repr__(self) -> str:
        """Both bounds, and the probability of the upper one, in one line."""
        ends = f"{shown(self.lower, 'lower')} <= norm <= {shown(self.upper, 'upper')}"
        return f"{ends} with probability 1 - {self.delta:g} ({self.products} products)"


@dataclass(frozen=True)
class LinearOperator:
    """A linear map by its products, in NumPy's float64 vectors.

    Parameters
    ----------
    matvec : callable
        ``v -> A v``, from arrays of shape (n,) to (m,).
    rmatvec : callable
        ``u -> A* u``, its adjoint.
    shape : (m, n)
    """

    matvec: Product
    rmatvec: Product
    shape: tuple[int, int]


def operator_norm(
    operator: Any,
    rmatvec: Product | None = None,
    shape: tuple[int, int] | None = None,
    *,
    rtol: float = 1e-2,
    delta: float = 1e-9,
    seed: int | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ProbableBound:
    """Bound the norm of a linear operator that only its products are known of, with a stated probability.

    Nothing can be proven of a black box. But Lanczos from a random start is far below the norm with a probability that
    is known, whatever the operator is.

    Parameters
    ----------
    operator : callable, or object with ``shape`` and either ``matvec`` and ``rmatvec`` or ``@``
        A function ``v -> A v`` from arrays of shape (n,) to (m,), float64, with the two arguments below; or what
        SciPy's ``aslinearoperator`` takes: its own and pylops' operators, sparse and dense matrices, real or complex.
        Functions of tensors: `specnorm_torch.linear_operator(function, x)` and `specnorm_jax.linear_operator`.
    rmatvec : callable, optional
        ``u -> A* u``, the adjoint of a function. One random pair is compared.
    shape : (m, n), optional
        Of a function.
    rtol : float, default 1e-2
        ``upper`` is ``(1 + rtol) lower``. The number of products grows as ``log(n / delta**2) / sqrt(2 rtol)``.
    delta : float, default 1e-9
        Probability that ``upper`` is below the norm.
    seed : int or None, default 0
        Of the start; None: another one each time. Of an operator that knows the seed nothing is known.
    progress : callable, optional
        Called about once a second with the number of steps taken and of all.

    Returns
    -------
    ProbableBound

    Raises
    ------
    MethodError
        If the adjoint is missing or is not the adjoint, a product is not finite or of another shape, or an argument is
        none.

    Notes
    -----
    Kuczyński, Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start"
    (SIAM J. Matrix Anal. Appl. 13, 1992), theorem 4.1: after k steps with ``A* A``, of order n, the largest Ritz value
    is below ``(1 - eps) |A|**2`` with a probability of at most ``1.648 sqrt(n) exp(-sqrt(eps) (2 k - 1))``. Ten power
    steps times 1.05, which is common, has no such number. A complex operator is taken as the real one of twice the
    order. Rounding is not counted.

    Examples
    --------
    >>> import numpy, specnorm
    >>> a = numpy.diag([3.0, 2.0, 1.0])
    >>> lower, upper = specnorm.operator_norm(lambda v: a @ v, lambda u: a.T @ u, (3, 3))
    >>> print(f"{lower:.3f} <= norm <= {upper:.3f}")
    3.000 <= norm <= 3.030
    """
    _check_part("rtol", rtol, "a relative width such as 1e-2: the number of products grows as 1 / sqrt(rtol)")
    _check_part("delta", delta, "a probability such as 1e-9: without chance nothing is known of a black box")
    known = _operator(operator, rmatvec, shape)
    _check_way(known)
    m, n = known.shape
    random = np.random.default_rng(seed)
    forth, back = (_checked(known.matvec, "matvec", m), _checked(known.rmatvec, "rmatvec", n))
    v, u = random.standard_normal(n), random.standard_normal(m)
    ahead, behind = forth(v), back(u)
    # Of about the operator's entries.
    scale = 2.0 ** min(math.frexp(float(np.max(np.abs(ahead)) + np.max(np.abs(behind))))[1], 1023)
    ahead, behind = ahead / scale, behind / scale
    size = float(np.linalg.norm(ahead) * np.linalg.norm(u) + np.linalg.norm(v) * np.linalg.norm(behind))
    if abs(float(ahead @ u) - float(v @ behind)) > _ADJOINT * size:
        raise MethodError(
            f"rmatvec is not the adjoint of matvec: <A v, u> is {scale * float(ahead @ u):.6g} and <v, A* u> is "
            f"{scale * float(v @ behind):.6g} for a random pair. A map with an offset or a nonlinearity has no adjoint."
        )
    if m < n:
        forth, back, n = back, forth, m
    eps = 1 - (1 + rtol) ** -2
    steps = min(n, math.ceil((math.log(1.648 * math.sqrt(n) / delta) / math.sqrt(eps) + 1) / 2))
    largest, taken = _lanczos(lambda x: back(forth(x) / scale) / scale, random.standard_normal(n), steps, progress)
    lower = scale * math.sqrt(max(largest, 0.0))
    return ProbableBound(np.float64(lower), np.float64(lower * (1 + rtol)), delta, 2 + 2 * taken)


def _check_part(name: str, value: object, advice: str) -> None:
    """Refuse what is no number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value < 1:
        raise MethodError(f"{name}={value!r} is no number between 0 and 1: give {advice}.")


def _check_way(known: LinearOperator) -> None:
    """Refuse a shape that is given the wrong way round, by the sizes that a product takes and returns."""
    m, n = known.shape
    if m == n or _size_of_image(known.matvec, n) == m:
        return
    if _size_of_image(known.matvec, m) == n:
        raise MethodError(
            f"shape=({m}, {n}) is the wrong way round: matvec takes {m} numbers and returns {n}. Give ({n}, {m}), "
            "(outputs, inputs)."
        )


def _size_of_image(product: Product, size: int) -> int | None:
    """Entries that a product returns for so many; None where it takes another number of them."""
    try:
        return int(np.asarray(product(np.zeros(size))).size)
    except Exception:
        return None


def _operator(
    operator: Any,
    rmatvec: Product | None,
    shape: tuple[int, int] | None,
) -> LinearOperator:
    """What was given, as a real operator; SciPy's own reading of it without SciPy."""
    if shape is not None and rmatvec is not None:
        known = LinearOperator(operator, rmatvec, shape)
    elif rmatvec is not None or shape is not None or not hasattr(operator, "shape"):
        raise MethodError(
            f"a function needs its adjoint and its shape, operator_norm(matvec, rmatvec, (m, n)); got "
            f"rmatvec={rmatvec} and shape={shape}. For a function of tensors, specnorm_torch.linear_operator(function, "
            "x) or specnorm_jax.linear_operator(function, x) finds them."
        )
    elif hasattr(operator, "matvec"):
        if not hasattr(operator, "rmatvec"):
            raise MethodError(f"{type(operator).__name__} has no rmatvec: its adjoint is needed beside matvec.")
        known = LinearOperator(operator.matvec, operator.rmatvec, operator.shape)
    else:
        adjoint = operator.conj().T
        known = LinearOperator(lambda v: operator @ v, lambda u: adjoint @ u, operator.shape)
    sizes: Any = tuple(known.shape)
    if len(sizes) != _AXES or not all(isinstance(k, (int, np.integer)) and k > 0 for k in sizes):
        raise MethodError(f"shape={known.shape!r} must be two positive whole numbers, (m, n).")
    known = LinearOperator(known.matvec, known.rmatvec, (int(sizes[0]), int(sizes[1])))
    return _real(known) if getattr(getattr(operator, "dtype", None), "kind", "") == "c" else known


def _real(known: LinearOperator) -> LinearOperator:
    """The operator on real and imaginary parts, one after the other, whose norm is the same."""

    def parts(product: Any) -> Product:
        def applied(x: Vector) -> Vector:
            found = np.asarray(product(x[: x.size // 2] + 1j * x[x.size // 2 :])).reshape(-1)
            return np.concatenate([found.real, found.imag])

        return applied

    m, n = known.shape
    return LinearOperator(parts(known.matvec), parts(known.rmatvec), (2 * m, 2 * n))


def _checked(product: Product, name: str, size: int) -> Product:
    def applied(x: Vector) -> Vector:
        try:
            found = np.asarray(product(x))
        except NotImplementedError as error:
            raise MethodError(f"the operator does not implement {name}: the norm needs A and its adjoint.") from error
        if found.dtype.kind == "c":
            raise MethodError(f"{name} returned complex numbers for real ones: give an operator of a complex dtype.")
        if found.size != size:
            raise MethodError(f"{name} returned an array of shape {found.shape}; expected ({size},).")
        bad = found.size - int(np.isfinite(found).sum())
        if bad:
            raise MethodError(
                f"{name} returned NaN or infinity in {bad} of {size} numbers for finite ones: an operator with such "
                "entries has no norm. Look for them in its matrix, or where it divides or overflows."
            )
        return found.reshape(size).astype(np.float64)

    return applied


def _lanczos(
    gram: Product,
    start: Vector,
    steps: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[float, int]:
    """The largest Ritz value, and the steps taken; vectors that lose their orthogonality repeat values, spoil none."""
    here: Vector = start / np.linalg.norm(start)
    before, off = np.zeros_like(here), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    told = time.monotonic()
    for step in range(steps):
        if progress is not None and time.monotonic() > told + 1:
            progress(step, steps)
            told = time.monotonic()
        ahead = gram(here) - off * before
        diagonal.append(float(here @ ahead))
        ahead -= diagonal[-1] * here
        off = float(np.linalg.norm(ahead))
        beside.append(off)
        if off <= 1e-300:
            break
        before, here = here, ahead / off
    return _largest_eigenvalue(np.asarray(diagonal), np.asarray(beside[:-1])), len(diagonal)


_SHIFTS, _ROUNDS = 64, 10
"""Of Sturm sequences: an interval becomes as many times shorter in each round, after ten as short as a rounding."""


def _largest_eigenvalue(diagonal: Vector, beside: Vector) -> float:
    """Largest eigenvalue of a symmetric tridiagonal matrix, from below, by Sturm sequences of many shifts at once.

    The dense matrix of many steps would take far longer than the products.
    """
    edges = np.abs(np.concatenate([[0.0], beside, [0.0]]))
    low, high = float(diagonal.max()), float((diagonal + edges[:-1] + edges[1:]).max())
    squares = beside**2
    for _ in range(_ROUNDS):
        shifts = np.linspace(low, high, _SHIFTS)[1:-1]
        # An eigenvalue is above a shift where a pivot of the matrix without the shift is.
        pivot = diagonal[0] - shifts
        above = pivot > 0
        for entry, square in zip(diagonal[1:], squares, strict=True):
            pivot = entry - shifts - square / np.where(pivot == 0, -1e-300, pivot)
            above |= pivot > 0
        count = int(np.count_nonzero(above))
        edge = [low, *shifts.tolist(), high]
        low, high = edge[count], edge[count + 1]
    return low
