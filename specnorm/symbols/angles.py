"""Newton steps that move frequencies uphill on ``|sum_k c_k e^{i k.theta}|``, for many starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace

SHARES = (1.0, 0.25, 0.0625)
"""Parts of a Newton step that are tried: the first one that leads uphill is taken, else none."""
_LONGEST = 1.0
"""Longest step along an axis, in radians."""
_TINY = 1e-30
"""Added to divisors, so that 0 / 0 is 0."""


def newton_step(terms: Array, taps: Array, *, least_relative_curvature: float = 1e-3, xp: Namespace) -> Array:
    """Return safeguarded Newton steps towards maxima of ``|sum_k c_k e^{i k.theta}|``.

    Parameters
    ----------
    terms : complex array, shape (..., n)
        ``c_k e^{i k.theta}`` at the angles to start from.
    taps : real array, shape (n, d)
        The k; d is at least 1.
    least_relative_curvature : float
        Curvatures below this fraction of the largest one are raised to it, which limits the step along a nearly flat
        direction. With one axis it is not used.

    Returns
    -------
    real array, shape (..., d)
        What to add to the angles. The modulus of the sum is no smaller there.
    """
    step = _uphill(*_derivatives(terms, taps, xp=xp), least_relative_curvature, xp=xp)
    modulus = xp.abs(xp.sum(terms, axis=-1))
    shares = xp.stack([share * step for share in SHARES])
    modulus_after = _modulus(terms, xp.matmul(shares, xp.matrix_transpose(taps)), xp=xp)
    leads_uphill = (modulus_after > modulus)[..., None]
    chosen = xp.zeros_like(step)
    for i in reversed(range(len(SHARES))):
        chosen = xp.where(leads_uphill[i, ...], shares[i, ...], chosen)
    return chosen


def _derivatives(terms: Array, taps: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Gradient (..., d) and Hessian (..., d, d) of half the squared modulus of the sum, with respect to the angles."""
    axes = taps.shape[1]
    pairs = xp.reshape(taps[:, :, None] * taps[:, None, :], (taps.shape[0], axes * axes))
    total = xp.sum(terms, axis=-1)[..., None]
    first = xp.matmul(terms, xp.astype(taps, terms.dtype))
    second = xp.matmul(terms, xp.astype(pairs, terms.dtype))
    gradient = -xp.imag(xp.conj(total) * first)
    second_derivative_term = xp.reshape(xp.real(xp.conj(total) * second), (*first.shape, axes))
    hessian = xp.real(xp.conj(first)[..., :, None] * first[..., None, :]) - second_derivative_term
    return gradient, hessian


def _uphill(gradient: Array, hessian: Array, least_relative_curvature: float, *, xp: Namespace) -> Array:
    """Newton steps towards a maximum; along directions of positive curvature they lead uphill too."""
    axes = hessian.shape[-1]
    if axes == 1:
        step = gradient / (xp.abs(hessian[..., 0]) + _TINY)
    elif axes == 2:
        step = _uphill_in_the_plane(gradient, hessian, least_relative_curvature, xp=xp)
    else:
        values, basis = xp.linalg.eigh(hessian)
        curvature = xp.abs(values)
        least = least_relative_curvature * xp.max(curvature, axis=-1, keepdims=True) + _TINY
        step_in_eigenbasis = xp.matmul(gradient[..., None, :], basis)[..., 0, :] / xp.maximum(curvature, least)
        step = xp.matmul(basis, step_in_eigenbasis[..., None])[..., 0]
    excess = xp.max(xp.abs(step), axis=-1, keepdims=True) / _LONGEST
    return step / xp.maximum(excess, xp.ones_like(excess))


def _uphill_in_the_plane(gradient: Array, hessian: Array, least_relative_curvature: float, *, xp: Namespace) -> Array:
    """``f(H) g`` with ``f(x) = 1 / max(|x|, least)`` of a Hessian of two axes, in closed form.

    H has the eigenvalues ``mean + radius`` and ``mean - radius``. A function of H is the line through its values there,
    ``f(H) = centre I + slope (H - mean I)``. So no eigenvalue routine has to wait for the device.
    """
    mean = 0.5 * (hessian[..., 0, 0] + hessian[..., 1, 1])
    half_difference = 0.5 * (hessian[..., 0, 0] - hessian[..., 1, 1])
    off_diagonal = hessian[..., 0, 1]
    radius = xp.sqrt(half_difference * half_difference + off_diagonal * off_diagonal)
    largest = xp.abs(mean) + radius
    least = least_relative_curvature * largest + _TINY
    at_higher = 1 / xp.maximum(xp.abs(mean + radius), least)
    at_lower = 1 / xp.maximum(xp.abs(mean - radius), least)
    centre = 0.5 * (at_higher + at_lower)
    slope = 0.5 * (at_higher - at_lower) / (radius + _TINY)
    image = xp.matmul(hessian, gradient[..., None])[..., 0]
    return (centre - slope * mean)[..., None] * gradient + slope[..., None] * image


def _modulus(terms: Array, angles: Array, *, xp: Namespace) -> Array:
    """``|sum_k terms_k e^{i angles_k}|``."""
    cos, sin = xp.cos(angles), xp.sin(angles)
    real, imag = xp.real(terms), xp.imag(terms)
    rotated_real = xp.sum(real * cos - imag * sin, axis=-1)
    rotated_imag = xp.sum(real * sin + imag * cos, axis=-1)
    return xp.sqrt(rotated_real * rotated_real + rotated_imag * rotated_imag)
