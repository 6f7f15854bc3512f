"""The symbol of a convolution: its matrices at frequencies, their products, singular triples, gradients and errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import Lower, Upper
from specnorm.proofs.frequencies import PHASE_ERROR, Frequencies, tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps


_SMALL_GRAM = 32
"""Columns up to which a product is faster than BLAS's product of a matrix with itself (syrk), which NumPy takes unless
one of both is a copy."""


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
        self.frequencies = frequencies
        self.shape = blocks.shape
        self.cos, self.sin = cosines_and_sines(frequencies, tap_points(tuple(blocks.shape[3:])), blocks, ops=ops)
        if by_block:
            shape = (blocks.shape[0], -1, self.cos.shape[1])
            self.cos, self.sin = xp.reshape(self.cos, shape), xp.reshape(self.sin, shape)

    @functools.cached_property
    def phase(self) -> Array:
        """The taps' phases, complex, in the shape of their cosines."""
        return self._ops.complex(self.cos, self.sin)

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

    def norm_down(self, block: int, right: Array) -> Lower:
        """Bound the norm of one block's symbol at a single frequency from below: a quotient less the symbol's error.

        The blocks are in the wide dtype, scaled to about 1. ``right`` (1, p): any vector; the closer to the top right
        singular vector the better.
        """
        one_block = self.blocks[block : block + 1, ...]
        quotient = norms.quotient_down(matrix_at(one_block, self.phase, xp=self.xp), right, xp=self.xp)
        error = float(symbol_error(one_block, xp=self.xp)[0])
        value = max(host.sub_down(float(quotient[0]), error), 0.0)
        return Lower._by_rule(value, self.frequencies, "quotient of a vector")


def cosines_and_sines(
    frequencies: Frequencies, points: np.ndarray, like: Array, *, ops: ArrayOps
) -> tuple[Array, Array]:
    """`Frequencies.cos_sin` of points, such as taps or lags, in the precision and on the device of an array."""
    cos, sin = frequencies.cos_sin(points)
    return device_table(cos, like, ops=ops), device_table(sin, like, ops=ops)


def device_table(table: np.ndarray, like: Array, *, ops: ArrayOps) -> Array:
    """A real table in the precision and on the device of an array."""
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    return ops.from_numpy(np.ascontiguousarray(table, dtype=dtype), like)


def gram_planes(real: Array, imag: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """Real and imaginary part of ``X* X``."""
    real_t, imag_t = xp.matrix_transpose(real), xp.matrix_transpose(imag)
    cross = xp.matmul(real_t, imag)
    if real.shape[-1] <= _SMALL_GRAM:
        real, imag = xp.asarray(real, copy=True), xp.asarray(imag, copy=True)
    return xp.matmul(real_t, real) + xp.matmul(imag_t, imag), cross - xp.matrix_transpose(cross)


def chunk_length(blocks: Array, *, ops: ArrayOps) -> int:
    """How many frequencies of blocks fit the memory budget."""
    return frequencies_in_memory(math.prod(blocks.shape[:3]), math.prod(blocks.shape[3:]), ops=ops)


def frequencies_in_memory(entries: int, taps: int, *, ops: ArrayOps) -> int:
    """How many frequencies fit the memory budget: about six complex matrices each, and two dozen numbers a tap.

    ``entries``: of the matrices of all blocks at a frequency. ``taps``: of one block.
    """
    return int(max(1, ops.memory // (6 * 16 * entries + 24 * 8 * taps)))


def max_over_frequencies(
    norms: Callable[[Symbol], Array],
    blocks: Array,
    frequencies: Frequencies,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Maximum of a function of the symbol over frequencies, within the memory budget.

    ``norms``: takes a `Symbol` of f frequencies, returns (b, f). Returns ``value`` (b,); ``phase`` (b, taps): ``e^{i
    k.theta}`` of the taps at the arg-max.
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


def _real_of_product(x: Array, y: Array, *, xp: Namespace) -> Array:
    """``Re(conj(X) Y) = Re X Re Y + Im X Im Y`` for matrices (b, m, r) and (b, r, n), as one real product."""
    left = xp.concat([xp.real(x), xp.imag(x)], axis=2)
    right = xp.concat([xp.real(y), xp.imag(y)], axis=1)
    return xp.matmul(left, right)


def singular_value_gradient(
    u: Array,
    v: Array,
    phase: Array,
    cotangent: Array,
    kernel_shape: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """Cotangent (b,) times the gradient of ``Re(u* G(theta) v)``: ``Re(conj(u_o) v_i e^{i k.theta})``.

    For singular vectors u (b, m) and v (b, p), that is a singular value of each block's symbol at one frequency.
    ``phase`` (b, taps): e^{i k.theta} for each tap k, or other weights of the taps. Returns (b, m, p, *kernel_shape).
    """
    b, m = u.shape
    u = u * xp.astype(cotangent, u.dtype)[:, None]
    right = xp.reshape(v[:, :, None] * phase[:, None, :], (b, 1, -1))
    total = _real_of_product(u[:, :, None], right, xp=xp)
    return xp.reshape(total, (b, m, -1, *kernel_shape))


def matrices_gradient(
    symbol_gradients: Array,
    phase: Array,
    kernel_shape: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """Gradient of ``sum_f Re<Gamma_f, G(theta_f)>`` with respect to the blocks.

    It is ``Re sum_f conj(Gamma_f) e^{i k.theta_f}`` for tap k.

    ``phase`` is (b, f, taps). ``symbol_gradients`` (b, f, m, p): Gamma_f: the gradients with respect to the symbols at
    f frequencies.
    """
    b, f, m, p = symbol_gradients.shape
    by_entry = xp.matrix_transpose(xp.reshape(symbol_gradients, (b, f, m * p)))
    return xp.reshape(_real_of_product(by_entry, phase, xp=xp), (b, m, p, *kernel_shape))


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
    """Upper bound q of ``|| sum_k |K_k| ||``, shape (b,)."""
    return norm_of_magnitudes_up(sums_of_magnitudes(blocks, xp=xp), math.prod(blocks.shape[3:]), xp=xp)


def sums_of_magnitudes(blocks: Array, *, xp: Namespace) -> Array:
    """``sum_k |K_k|`` of blocks, shape (b, m, p)."""
    return xp.sum(xp.reshape(xp.abs(blocks), (*blocks.shape[:3], -1)), axis=-1)


def norm_of_magnitudes_up(sums: Array, taps: int, *, xp: Namespace) -> Array:
    """Upper bound of the norm of `sums_of_magnitudes`, from its row and column sums, shape (b,); 0 for zeros alone."""
    m, p = sums.shape[1:]
    rows = xp.max(xp.sum(sums, axis=2), axis=1)
    columns = xp.max(xp.sum(sums, axis=1), axis=1)
    # A product of the roots, since that of the sums could be too small a number.
    return rounding.up(xp.sqrt(rows) * xp.sqrt(columns), taps + m + p + 4, xp=xp)


def symbol_error(blocks: Array, *, xp: Namespace) -> Array:
    """Bound on ``||computed G(theta) - G(theta)||`` at any frequency of `symbols.Symbol`, shape (b,).

    ``(gamma(taps) + sqrt(2) eps_c) q`` with ``q >= || sum_k |K_k| ||`` and eps_c the error of the cosines and sines.
    """
    return absolute_norm_up(blocks, xp=xp) * relative_symbol_error(blocks, xp=xp)


def relative_symbol_error(blocks: Array, *, xp: Namespace) -> float:
    """`symbol_error` as a multiple of q."""
    u = rounding.unit(blocks, xp=xp)
    taps = math.prod(blocks.shape[3:])
    return rounding.SLACK * (rounding.gamma(taps + 1, u) + math.sqrt(2) * phase_error(u))


def autocorrelation_error(mass: float, terms: int, u: float) -> float:
    """Bound on ``||computed H(theta) - H(theta)||`` of `gram_polynomial.GramPolynomial`.

    ``(gamma(terms) + sqrt(2) eps_c) mass``, with ``mass = q**2``: every entry of H is a sum of products of two kernel
    entries with a cosine or sine. Real and imaginary part together are no worse than one, as ``cos**2 + sin**2 = 1``;
    the errors of cosine and sine change ``e^{i d.theta}`` by at most ``sqrt(2) eps_c``; both stand before
    ``sum_d |R_d| <= (sum_k |K_k|)^T (sum_k |K_k|)``, entrywise. `SLACK` covers the roundings of this formula.

    ``mass``: norm of the magnitudes that the roundings multiply: q**2, q of `absolute_norm_up`, or less. ``terms``:
    roundings of an entry. ``u``: unit roundoff of the precision that is computed in.
    """
    return mass * (rounding.SLACK * (rounding.gamma(terms, u) + math.sqrt(2) * phase_error(u)))


def without_zero_borders(block: Array, *, ops: ArrayOps) -> Array:
    """Remove slices of taps that are zero from the borders of kernels (b, m, p, *kernel_shape) with known values.

    A slice is removed if it is zero in all b kernels. That shifts the kernels, which multiplies their symbols by a
    phase and changes no norm. Longer kernels would make the search's bounds on cells of frequencies worse.
    """
    is_used = (ops.to_numpy(block) != 0).any(axis=(0, 1, 2))
    index: list[slice] = []
    for axis in range(is_used.ndim):
        other_axes = tuple(j for j in range(is_used.ndim) if j != axis)
        used = np.flatnonzero(is_used.any(axis=other_axes))
        index.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1))
    return block[(slice(None), slice(None), slice(None), *index)]


def stacked_taps(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks as matrices (g, taps * m, p): the taps of a block stacked on one another."""
    g, m, p = blocks.shape[:3]
    by_tap = xp.permute_dims(xp.reshape(blocks, (g, m, p, -1)), (0, 3, 1, 2))
    return xp.reshape(by_tap, (g, -1, p))


def wrapped(blocks: Array, sizes: tuple[int, ...], *, ops: ArrayOps) -> tuple[Array, float]:
    """Kernels with no more taps than a circulant's points, and with the same symbols at its frequencies.

    The phases of taps k and k + n are the same at the frequencies of n points. Sums are computed with their exact
    rounding errors (Knuth's two-sum), so that taps which cancel do so exactly.

    ``blocks`` is (g, m, p, *kernel_shape). ``sizes``: points of each axis. Returns ``blocks`` (g, m, p,
    *wrapped_shape); ``error``: bound of the norm of the difference of both symbols of any block.
    """
    totals = ops.to_numpy(blocks).astype(np.float64)
    lost = np.zeros_like(totals)
    additions = 0
    for axis, n in enumerate(sizes, start=3):
        turns = arrays.ceil_div(totals.shape[axis], n)
        if turns == 1:
            continue
        missing = [(0, turns * n - totals.shape[axis] if j == axis else 0) for j in range(totals.ndim)]
        parts = np.split(np.pad(totals, missing), turns, axis=axis)
        lost = np.sum(np.split(np.pad(lost, missing), turns, axis=axis), axis=0)
        totals = parts[0]
        for part in parts[1:]:
            total = totals + part
            share = total - totals
            lost = lost + np.abs((totals - (total - share)) + (part - share))
            totals = total
        additions += 2 * turns
    if not additions:
        return blocks, 0.0
    on_host: Any = lost
    xp = ops.backend.host().namespace(on_host)
    errors = rounding.up(absolute_norm_up(on_host, xp=xp), additions, xp=xp)
    return ops.from_numpy(totals, blocks), float(xp.max(errors))


def of_wrapped(lower: Lower, upper: Upper | None, error: float) -> tuple[Lower, Upper | None]:
    """Bounds for kernels, from those for `wrapped` ones."""
    if error == 0:
        return lower, upper
    rule = "taps that wrap around are added up, with rounding"
    lower_of_kernel = Lower._by_rule(max(host.sub_down(lower.value, error), 0.0), lower.what, rule, lower)
    if upper is None:
        return lower_of_kernel, None
    return lower_of_kernel, Upper._by_rule(host.add_up(upper.value, error), upper.what, rule, upper)
