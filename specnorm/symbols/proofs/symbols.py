"""The symbol of a convolution: its matrices at frequencies, their products, singular triples and gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.frequencies import PHASE_ERROR, Frequencies, cos_sin_of_taps
from specnorm.proofs import rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps


class Symbol:
    """The symbol ``G(theta) = sum_k K_k e^{i k.theta}`` of a stack of blocks at a list of frequencies.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    frequencies : Frequencies
        f points.
    by_block : bool
        Whether each block has its own f points: ``frequencies`` are then b * f points, those of the first block first.
        Only `matrices` and `planes` serve such a symbol.
    """

    def __init__(
        self,
        blocks: Array,
        frequencies: Frequencies,
        *,
        by_block: bool = False,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.xp = xp
        self._ops = ops
        self.blocks = blocks
        self.shape = blocks.shape
        self.cos, self.sin = cosines_and_sines(frequencies, blocks, ops=ops)
        if by_block:
            shape = (blocks.shape[0], -1, self.cos.shape[1])
            self.cos, self.sin = xp.reshape(self.cos, shape), xp.reshape(self.sin, shape)
        self.phase = ops.complex(self.cos, self.sin)

    def matrices(self) -> Array:
        """G at every frequency, shape (b, f, m, p): two real products with the table of cosines and sines."""
        return self._ops.complex(*self.planes())

    def planes(self) -> tuple[Array, Array]:
        """Real and imaginary parts of G, (b, f, m, p) each."""
        return planes_at(self.blocks, self.cos, self.sin, xp=self.xp)

    @functools.cached_property
    def _stacked_taps(self) -> Array:
        return stacked_taps(self.blocks, xp=self.xp)

    def apply(self, v: Array) -> Array:
        """G(theta_f) v_f for one vector a frequency, shape (b, f, p) -> (b, f, m), without forming any G."""
        xp = self.xp
        b, m = self.shape[:2]
        # (b, taps*m, p) @ (b, p, f): every tap applied to every vector, then weighted by its phase.
        images = arrays.real_times(self._stacked_taps, xp.matrix_transpose(v), ops=self._ops)
        by_tap = xp.reshape(images, (b, -1, m, v.shape[1]))
        weights = xp.matrix_transpose(self.phase)
        return xp.matrix_transpose(xp.sum(by_tap * weights[None, :, None, :], axis=1))

    def apply_adjoint(self, u: Array) -> Array:
        """G(theta_f)* u_f, shape (b, f, m) -> (b, f, p)."""
        xp = self.xp
        b, f, _ = u.shape
        # Every vector weighted by the phase of every tap, (b, taps*m, f), and one product sums over the taps.
        weights = xp.conj(xp.matrix_transpose(self.phase))
        weighted = xp.reshape(weights[None, :, None, :] * xp.matrix_transpose(u)[:, None, :, :], (b, -1, f))
        return xp.matrix_transpose(arrays.real_times(xp.matrix_transpose(self._stacked_taps), weighted, ops=self._ops))


def cosines_and_sines(frequencies: Frequencies, blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """`cos_sin_of_taps` of blocks, in the precision and on the device of the blocks: (f, taps) each."""
    return device_tables(*cos_sin_of_taps(frequencies, blocks.shape[3:]), blocks, ops=ops)


def device_tables(real: np.ndarray, imag: np.ndarray, like: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Tables of real and imaginary parts, such as cosines and sines, in the precision and on the device of an array."""
    return device_table(real, like, ops=ops), device_table(imag, like, ops=ops)


def device_table(table: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    """A real table in the precision and on the device of an array."""
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    return ops.from_numpy(np.ascontiguousarray(table, dtype=dtype), like)


def gram_planes(real: Array, imag: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Real and imaginary part of ``X* X``: symmetric and antisymmetric, bit for bit."""
    turned = xp.matrix_transpose(real)
    cross = xp.matmul(turned, imag)
    square = xp.matmul(turned, real) + xp.matmul(xp.matrix_transpose(imag), imag)
    return square, cross - xp.matrix_transpose(cross)


def chunk_length(blocks: Array, *, ops: ArrayOps) -> int:
    """How many frequencies fit the memory budget: about six complex matrices each, and two dozen numbers a tap."""
    b, m, p = blocks.shape[:3]
    return int(max(1, ops.memory // (6 * 16 * b * m * p + 24 * 8 * math.prod(blocks.shape[3:]))))


def max_over_frequencies(
    norms: Callable[[Symbol], Array],
    blocks: Array,
    frequencies: Frequencies,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Maximum of a function of the symbol over frequencies, within the memory budget.

    Parameters
    ----------
    norms : callable
        Takes a `Symbol` of f frequencies, returns (b, f).

    Returns
    -------
    value : array, shape (b,)
    phase : complex array, shape (b, taps)
        ``e^{i k.theta}`` of the taps at the arg-max.
    """
    xp = ops.xp
    step = chunk_length(blocks, ops=ops)

    def largest_of(start: int) -> tuple[Array, Array]:
        symbol = Symbol(blocks, frequencies[start : start + step], ops=ops)
        values = norms(symbol)
        return xp.max(values, axis=1), xp.take(symbol.phase, xp.argmax(values, axis=1), axis=0)

    value, phase = largest_of(0)
    for start in range(step, len(frequencies), step):
        next_value, next_phase = largest_of(start)
        phase = xp.where((next_value > value)[:, None], next_phase, phase)
        value = xp.maximum(value, next_value)  # a NaN stays
    return value, phase


def matrix_at(blocks: Array, phase: Array, *, xp: Namespace) -> Array:
    """Symbol of each block at its own frequency, given by the taps' phases (b, taps): (b, m, p)."""
    return matrices_at(blocks, phase[:, None, :], xp=xp)[:, 0, ...]


def matrices_at(blocks: Array, phase: Array, *, xp: Namespace) -> Array:
    """Symbols of blocks at f frequencies, given by the taps' phases (f, taps) or (b, f, taps): (b, f, m, p)."""
    real, imag = planes_at(blocks, xp.real(phase), xp.imag(phase), xp=xp)
    return real + 1j * imag


def planes_at(blocks: Array, cos: Array, sin: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Real and imaginary part of `matrices_at`, given by the cosines and sines of the taps' angles."""
    b, m, p = blocks.shape[:3]
    taps = xp.permute_dims(xp.reshape(blocks, (b, m * p, -1)), (0, 2, 1))
    real = xp.reshape(xp.matmul(cos, taps), (b, -1, m, p))
    imag = xp.reshape(xp.matmul(sin, taps), (b, -1, m, p))
    return real, imag


def top_triple(g: Array, *, xp: Namespace) -> tuple[Array, Array, Array]:
    """Top singular triple (u, v, sigma) of each matrix of a stack, from the smaller Gram matrix.

    A zero matrix gets zero vectors, hence a zero gradient rather than an arbitrary one.
    """
    wide = g.shape[-1] > g.shape[-2]
    a = arrays.adjoint(g, xp=xp) if wide else g
    _, v = arrays.top_eigenpair(arrays.gram_smaller(a, xp=xp), xp=xp)
    u, norm = arrays.normalise(xp.matmul(a, v[..., None])[..., 0], xp=xp)
    v = xp.where(norm > 0, v, xp.zeros_like(v))
    return (v, u, norm[..., 0]) if wide else (u, v, norm[..., 0])


def phase_error(u: float) -> float:
    """Absolute error of the cosines and sines in the working precision."""
    # In float32 they are rounded from float64, whose own error is far below one hundredth of a rounding.
    return PHASE_ERROR * u if u == 2.0**-53 else 1.01 * u


def absolute_norm_up(blocks: Array, *, xp: Namespace) -> Array:
    """Upper bound q of ``|| sum_k |K_k| ||``, from its row and column sums, shape (b,)."""
    b, m, p = blocks.shape[:3]
    sums = xp.sum(xp.reshape(xp.abs(blocks), (b, m, p, -1)), axis=-1)
    rows = xp.max(xp.sum(sums, axis=2), axis=1)
    columns = xp.max(xp.sum(sums, axis=1), axis=1)
    return rounding.up(xp.sqrt(rows * columns), math.prod(blocks.shape[3:]) + m + p + 4, xp=xp)


def symbol_error(blocks: Array, *, xp: Namespace) -> Array:
    """Bound on ``||computed G(theta) - G(theta)||`` at any frequency of `symbols.Symbol`, shape (b,).

    ``(gamma(taps) + sqrt(2) eps_c) q`` with ``q >= || sum_k |K_k| ||`` and eps_c the error of the cosines and sines.
    """
    u = rounding.unit(blocks, xp=xp)
    taps = math.prod(blocks.shape[3:])
    relative = rounding.SLACK * (rounding.gamma(taps + 1, u) + math.sqrt(2) * phase_error(u))
    return absolute_norm_up(blocks, xp=xp) * relative


def autocorrelation_error(mass: float, terms: int, u: float) -> float:
    """Bound on ``||computed H(theta) - H(theta)||`` of `gram_polynomial.GramPolynomial`.

    ``(gamma(terms) + sqrt(2) eps_c) mass``, with ``mass = q**2``: every entry of H is a sum of products of two kernel
    entries with a cosine or sine. Real and imaginary part together are no worse than one, as ``cos**2 + sin**2 = 1``;
    the errors of cosine and sine change ``e^{i d.theta}`` by at most ``sqrt(2) eps_c``; both stand before
    ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)``, entrywise. `SLACK` covers the roundings of this formula.

    Parameters
    ----------
    mass : float
        Norm of the magnitudes that the roundings multiply: q**2, q of `absolute_norm_up`, or less.
    terms : int
        Roundings of an entry.
    u : float
        Unit roundoff of the precision that is computed in.
    """
    return mass * (rounding.SLACK * (rounding.gamma(terms, u) + math.sqrt(2) * phase_error(u)))


def stacked_taps(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks as matrices (g, taps * m, p): the taps of a block stacked on one another."""
    g, m, p = blocks.shape[:3]
    by_tap = xp.permute_dims(xp.reshape(blocks, (g, m, p, -1)), (0, 3, 1, 2))
    return xp.reshape(by_tap, (g, -1, p))
