"""Constants of loops: recurrent layers for sequences of every length, equilibrium layers, linear state spaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from specnorm.certified.network.loops import Loop, StateSpace
from specnorm.certified.network.operators.base import FloatArray
from specnorm.errors import MethodError
from specnorm.networks.gains import GainBound, gain_of_loop, gain_of_space
from specnorm.networks.measuring import Measure


def recurrent_bound(
    W: Any, U: Any, C: Any = None, slopes: tuple[Any, Any] = (0.0, 1.0), *, measure: Measure | None = None
) -> GainBound:
    """Bound the Lipschitz constant of a recurrent layer, from a sequence to a sequence, for every length.

    The layer is h_t = phi(W h_{t-1} + U x_t + b), y_t = C h_t, from a state h_{-1} that is held.

    Parameters
    ----------
    W : array, shape (n, n)
    U : array, shape (n, m)
    C : array, shape (p, n), optional
        Default: the states themselves.
    slopes : (float, float), default (0, 1)
        Between which all difference quotients of phi lie: 0 and 1 for ReLU and tanh. Or arrays of shape (n,).
    measure : Measure, optional
        What measures K.

    Returns
    -------
    GainBound

    Raises
    ------
    MethodError
        If the matrices do not fit each other, or are not finite.
    """
    return gain_of_loop(_loop(W, U, C, slopes, 1), measure or Measure())


def equilibrium_bound(
    W: Any, U: Any, C: Any = None, slopes: tuple[Any, Any] = (0.0, 1.0), *, measure: Measure | None = None
) -> GainBound:
    """Bound the Lipschitz constant of an equilibrium layer: h = phi(W h + U x + b), y = C h.

    It holds for every h that solves the equation; that there is one, and one alone, is not claimed.

    Parameters
    ----------
    W, U, C, slopes, measure
        As for `recurrent_bound`.

    Returns
    -------
    GainBound

    Raises
    ------
    MethodError
        If the matrices do not fit each other, or are not finite.
    """
    return gain_of_loop(_loop(W, U, C, slopes, 0), measure or Measure())


def state_space_bound(A: Any, B: Any, C: Any = None, D: Any = None, *, measure: Measure | None = None) -> GainBound:
    """Bound the gain of a linear state space: the supremum of ||C (z - A)^-1 B + D|| on the unit circle.

    The layer is s_{t+1} = A s_t + B x_t, y_t = C s_t + D x_t, from a state s_0 that is held.

    Parameters
    ----------
    A : array, shape (n, n)
    B : array, shape (n, m)
    C : array, shape (p, n), optional
        Default: the states themselves.
    D : array, shape (p, m), optional
        Default: zeros.
    measure : Measure, optional
        What measures norms.

    Returns
    -------
    GainBound

    Raises
    ------
    MethodError
        If the matrices do not fit each other, or are not finite.
    """
    a, b = _matrix("A", A, None, None), _matrix("B", B, None, None)
    a = _matrix("A", a, len(a), len(a))
    b = _matrix("B", b, len(a), None)
    c = np.eye(len(a)) if C is None else _matrix("C", C, None, len(a))
    d = np.zeros((len(c), b.shape[1])) if D is None else _matrix("D", D, len(c), b.shape[1])
    return gain_of_space(StateSpace(a, b, c, d), measure or Measure())


def _matrix(name: str, given: Any, rows: int | None, columns: int | None) -> FloatArray:
    """float64 of a shape; `MethodError` in words."""
    found = np.asarray(given, dtype=np.float64)
    wanted = tuple("any" if n is None else str(n) for n in (rows, columns))
    fits = found.ndim == 2 and all(n in (None, m) for n, m in zip((rows, columns), found.shape, strict=True))
    if not fits or not found.size:
        raise MethodError(f"{name} has shape {found.shape}; expected a matrix of shape ({', '.join(wanted)}).")
    if not np.isfinite(found).all():
        raise MethodError(f"{name} has entries that are not finite.")
    return found


def _loop(W: Any, U: Any, C: Any, slopes: tuple[Any, Any], lag: int) -> Loop:
    w = _matrix("W", W, None, None)
    w = _matrix("W", w, len(w), len(w))
    u = _matrix("U", U, len(w), None)
    c = np.eye(len(w)) if C is None else _matrix("C", C, None, len(w))
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), (len(w),)) for end in slopes)
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise MethodError(f"slopes={slopes!r}; expected the smallest and the largest, finite.")
    return Loop(w, u, c, (low, high), lag)
