"""``H(theta) = G* G`` as a trigonometric polynomial: its matrix coefficients once, then any H by two real products.

``H(theta) = R_0 + sum_{d>0} [cos(d.theta) (R_d + R_d^T) + i sin(d.theta) (R_d - R_d^T)]`` with the channel
autocorrelations ``R_d = sum_k K_k^T K_{k+d}``. A frequency then costs no product of matrices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.frequencies import Frequencies, phases_at, product

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend


class Autocorrelation:
    """Gram polynomial of one block, on its smaller side.

    Parameters
    ----------
    block : array, shape (m, p, *kernel_shape)
        Of a wide real dtype, scaled to about 1.

    Attributes
    ----------
    size : int
        min(m, p).
    lags : integer array, shape (L, d)
        Half of all lags, the zero lag first.
    norms : float array, shape (L,)
        Upper bounds of ``||R_d||`` (Frobenius norms, rounded up).
    terms : int
        Longest chain of roundings behind one entry of H (the n of its error bound).
    """

    def __init__(self, block: Array, *, xp: Any, backend: Backend) -> None:
        m, p, *shape = block.shape
        if m < p:
            # G G* has the same norm: conj(G G*) is the Gram polynomial of the kernel with its channels swapped.
            block = xp.permute_dims(block, (1, 0, *range(2, block.ndim)))
            m, p = p, m
        self.xp, self.backend, self.size, self.like = xp, backend, p, block
        self.lags = half_lags(tuple(shape))
        coefficients = [_coefficient(block, lag, xp=xp) for lag in self.lags]
        rest = [xp.matrix_transpose(r) for r in coefficients[1:]]
        even = [coefficients[0], *[r + t for r, t in zip(coefficients[1:], rest, strict=True)]]
        odd = [r - t for r, t in zip(coefficients[1:], rest, strict=True)]
        self.even = xp.stack([xp.reshape(x, (-1,)) for x in even], axis=0)
        self.odd = xp.stack([xp.reshape(x, (-1,)) for x in odd], axis=0) if odd else None
        squares = xp.sum(xp.stack([xp.reshape(r, (-1,)) for r in coefficients], axis=0) ** 2, axis=1)
        self.norms = np.sqrt(backend.to_numpy(squares)) * (1 + 1e-8)
        taps = math.prod(shape)
        self.terms = m * taps + taps + len(self.lags) + 2

    def matrices(self, frequencies: Frequencies) -> Array:
        """H at every frequency, complex, shape (f, size, size)."""
        xp = self.xp
        cos, sin = phases_at(frequencies, self.lags)
        dtype = np.float64 if self.even.dtype == xp.float64 else np.float32
        even = xp.matmul(self.backend.from_numpy(cos.astype(dtype), self.like), self.even)
        if self.odd is None:
            flat = xp.astype(even, arrays.complex_dtype(even.dtype, xp=xp))
        else:
            odd = xp.matmul(self.backend.from_numpy(sin[:, 1:].astype(dtype), self.like), self.odd)
            flat = self.backend.complex(even, odd)
        return xp.reshape(flat, (len(frequencies), self.size, self.size))

    def action(self, frequency: Frequencies, v: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """H, its gradient and its Hessian with respect to theta, applied to a vector at one frequency (host).

        Parameters
        ----------
        frequency : Frequencies
            One point.
        v : array, shape (size,)

        Returns
        -------
        value, gradient, hessian : complex arrays, shapes (size,), (d, size), (d, d, size)
        """
        xp = self.xp
        columns = xp.stack([xp.real(v), xp.imag(v)], axis=-1)

        def applied(table: Array) -> np.ndarray:
            out = self.backend.to_numpy(xp.matmul(xp.reshape(table, (-1, self.size)), columns))
            return (out[:, 0] + 1j * out[:, 1]).reshape(-1, self.size)

        even = applied(self.even)
        odd = (
            np.concatenate([np.zeros_like(even[:1]), applied(self.odd)])
            if self.odd is not None
            else np.zeros_like(even)
        )
        cos, sin = (x[0, :, None] for x in phases_at(frequency, self.lags))
        terms, slopes = cos * even + 1j * sin * odd, 1j * cos * odd - sin * even
        lags = self.lags.astype(float)
        return terms.sum(axis=0), lags.T @ slopes, -np.einsum("li,lj,lp->ijp", lags, lags, terms)

    def variation(self, distance: np.ndarray) -> np.ndarray:
        """Bound on how far the polynomial with these coefficients moves from its value at c, rounded up, shape (c,).

        For ``|theta_j - c_j| <= distance_j``: ``|e^{i d.theta} - e^{i d.c}| <= min(2, sum_j |d_j| distance_j)``, twice
        for each pair of lags. The coefficients' own rounding is not in it.
        """
        angle = np.minimum(2.0, distance @ np.abs(self.lags[1:].T))
        return np.asarray(2 * angle @ self.norms[1:] * (1 + 1e-8))


def half_lags(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Lags d with |d_j| < k_j, one of each pair (d, -d), zero first, shape (L, d)."""
    every = product([np.arange(1 - k, k) for k in kernel_shape])
    middle = len(every) // 2
    return every[middle:]


def _coefficient(block: Array, lag: np.ndarray, *, xp: Any) -> Array:
    """R_d of a block (m, p, *kernel_shape), as one product of stacked taps."""
    shape = block.shape[2:]
    here = tuple(slice(max(0, -d), min(k, k - d)) for d, k in zip(lag.tolist(), shape, strict=True))
    there = tuple(slice(max(0, d), min(k, k + d)) for d, k in zip(lag.tolist(), shape, strict=True))
    order = (1, 0, *range(2, block.ndim))

    def stacked(index: tuple[slice, ...]) -> Array:
        part = xp.permute_dims(block[(slice(None), slice(None), *index)], order)
        return xp.reshape(part, (part.shape[0], -1))

    return xp.matmul(stacked(here), xp.matrix_transpose(stacked(there)))
