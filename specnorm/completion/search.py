"""Completions: kernels H with K*K + H*H close to a multiple of the identity, whose lags then prove a bound of K.

K* is the adjoint of a convolution K, and K*K a convolution, too: its taps, the lags, are the matrices
``M_t = sum_y K_y^T K_{y+t}``. That the lags of K*K + H*H are those of a multiple of the identity is a nonlinear
least-squares problem for H, solved by Gauss-Newton with conjugate gradients inside. Lags are computed as products of
polynomials are: small matrices (`_Products`) take the taps to values at points, these are multiplied in one batch of
products of real matrices, and another small matrix takes the products to lags. Nothing is proven in this file: from the
lags, `completion.proof` proves the bound.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from specnorm.backends import arrays
from specnorm.completion import proof as completion_proof
from specnorm.proofs.frequencies import Frequencies, tap_points
from specnorm.running.base import Evaluation
from specnorm.symbols import ascent
from specnorm.symbols.proofs.lags import Lags
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

PRODUCTS = 700
"""Most products of a search, unless the caller says how many. A product here is one step of conjugate gradients: one
call each of `_Products.lags` and `_Products.adjoint_lags`."""
_INNER_PRODUCTS = 40
"""Most products of one Gauss-Newton step."""
_FORCING = 0.03
"""Part of the squared residual at which conjugate gradients stop."""
_TARGET_SHARE = 0.4
"""Part of the tolerance by which the target exceeds the norm: the square of that is the multiple of the identity that
the search aims at. The residual may take the rest of the tolerance."""
_POINTS_PER_LAG = 3
"""Points of the grid of `peak_of_norm` along an axis, for each step from one tap to the next."""
_POWER_STEPS = 12
"""Power steps of `peak_of_norm` on its grid."""
_ROUND_POWER_STEPS = 4
"""Power steps of `peak_of_norm` in each round, which begin with the vectors of the round before."""
_MATRIX_POWER_STEPS = 96
"""Power steps of `peak_of_norm` for kernels with one tap: there is one matrix, and no round follows."""
_PEAKS = 3
"""Number of the highest points of the grid from which `peak_of_norm` ascends."""
_ROUNDS = 7
"""Newton steps of `peak_of_norm`, each followed by power steps."""
_WORST_CONDITION = 4000.0
"""Condition of the tables of polynomials up to which float32 keeps the digits that a step needs."""
_TINY = 1e-30


# -- shapes and starts -----------------------------------------------------------------------------------------------
def row_count(channels: int) -> int:
    """Rows of a completion: with fewer than four for each channel, the search stalls on some kernels."""
    return max(4 * channels, 8)


def completion_shape(block_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape (rows, c, *taps) of a block's completion."""
    m, p, *taps = block_shape
    channels = min(m, p)
    return (row_count(channels), channels, *taps)


def small_random(block_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a random first completion of blocks of norm 1."""
    shape = completion_shape(block_shape)
    scale = math.sqrt(0.5 / (shape[0] * math.prod(shape[2:])))
    return np.random.RandomState(seed).standard_normal(shape) * scale


# -- lags by tables --------------------------------------------------------------------------------------------------
_Tables: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"
"""The tables F, D and W of `_Products`, on the host."""


@functools.lru_cache(maxsize=64)
def _tables(taps: tuple[int, ...]) -> _Tables:
    """Tables by polynomials for few taps; for more, with which these would lose digits, by frequencies."""
    axes = [_axis_tables(k) for k in taps]
    condition = math.prod(float(np.linalg.cond(to_lags)) for _, _, to_lags in axes)
    return _polynomial_tables(axes) if condition <= _WORST_CONDITION else _frequency_tables(taps)


def _polynomial_tables(axes: list[_Tables]) -> _Tables:
    """Tables with K and H as homogeneous polynomials, at as many points of a half-circle per axis as there are lags."""
    one: np.ndarray = np.eye(1)
    of_k = of_h = to_lags = one
    for k_of_axis, h_of_axis, lags_of_axis in axes:
        of_k = np.kron(of_k, k_of_axis)
        of_h = np.kron(of_h, h_of_axis)
        to_lags = np.kron(to_lags, lags_of_axis)
    # The lags ascend, with 0 in the middle: those above it are the half, those below, backwards, their negatives.
    middle = len(to_lags) // 2
    zero_and_half = to_lags[middle:]
    negatives = to_lags[:middle][::-1]
    return of_k, of_h, np.concatenate([zero_and_half, negatives])


def _axis_tables(k: int) -> _Tables:
    """Tables of one axis with k taps, whose lags stand in ascending order."""
    count = 2 * k - 1
    # A quarter of pi is added, so that no point is at an axis, where powers of the cosine or of the sine vanish.
    angle = math.pi * (np.arange(count)[:, None] / count + 0.25)

    def monomials(degree: int) -> np.ndarray:
        power = np.arange(degree + 1)
        return np.cos(angle) ** (degree - power) * np.sin(angle) ** power

    # The polynomial of K* has the coefficients of K in the reverse order.
    return monomials(k - 1)[:, ::-1], monomials(k - 1), np.linalg.inv(monomials(2 * k - 2))


def _frequency_tables(taps: tuple[int, ...]) -> _Tables:
    """Tables by symbols, at half of the grid of 2 k - 1 points per axis.

    With K = A + iB and H = C + iD at a point, K*H has the real part ``A C + B D`` and the imaginary part
    ``A C - B D - (A + B)(C - D)`` (transposes left out): three real products. So each point stands three times in the
    tables. Lag t is the mean of the real part times ``cos(t.theta)`` plus the imaginary part times ``sin(t.theta)``.
    """
    sizes = tuple(2 * k - 1 for k in taps)
    points, multiplicities = Frequencies.distinct_grid(sizes)
    cos, sin = points.cos_sin(tap_points(tuple(taps)))
    half = Lags.points(taps)
    lags = np.concatenate([half, -half[1:]])
    angles = lags @ points.angles.T
    weights = multiplicities / math.prod(sizes)
    cosines = np.cos(angles) * weights
    sines = np.sin(angles) * weights
    of_k = np.concatenate([cos, sin, cos + sin])
    of_h = np.concatenate([cos, sin, cos - sin])
    return of_k, of_h, np.concatenate([cosines + sines, cosines - sines, -sines], axis=1)


class _Products:
    """Lags of products of kernels by tap, (b, taps, rows, c), by tables F, D and W.

    Lag t of ``K*H`` is ``sum_j W_tj (F K)_j^T (D H)_j``, j the points: F K has the values of K* at the points, and D H
    those of H. The order of the lags is: 0, those of `Lags.points`, and the negatives of these.

    ``blocks`` (b, rows, c, *taps): the tables are for their taps, in their precision and on their device.
    """

    def __init__(self, blocks: Array, *, ops: ArrayOps) -> None:
        tables = _tables(tuple(blocks.shape[3:]))
        # F and D are (points, taps), W is (lags, points).
        self.of_k, self.of_h, self.to_lags = (ops.from_numpy(table.astype(ops.own_dtype), blocks) for table in tables)
        self.xp = ops.xp

    def _apply(self, table: Array, x: Array) -> Array:
        """A table on the second axis of (b, n, rows, c)."""
        b, n, rows, c = x.shape
        flat = self.xp.reshape(x, (b, n, rows * c))
        return self.xp.reshape(self.xp.matmul(table, flat), (b, table.shape[0], rows, c))

    def at_points(self, k: Array) -> Array:
        """``(F K)^T``, (b, points, c, rows)."""
        return self._apply(self.of_k, self.xp.matrix_transpose(k))

    def lags(self, at_points: Array, h: Array) -> Array:
        """Half of the lags of ``K*H + H*K``, (b, lags, c, c)."""
        xp = self.xp
        products = xp.matmul(at_points, self._apply(self.of_h, h))
        of_product = self._apply(self.to_lags, products)
        half = of_product.shape[1] // 2 + 1
        zero, positive = of_product[:, :1, ...], of_product[:, :half, ...]
        zero_and_negative = xp.concat([zero, of_product[:, half:, ...]], axis=1)
        # Lag t of H*K is the transpose of lag -t of K*H.
        return positive + xp.matrix_transpose(zero_and_negative)

    def adjoint_lags(self, at_points: Array, half: Array) -> Array:
        """``sum_y K_y M_{z-y}`` at tap z, for lags with ``M_{-t} = M_t^T``.

        That is half of the adjoint of the map from h to all lags of ``K*H + H*K``.
        """
        xp = self.xp
        lags = xp.concat([half, xp.matrix_transpose(half[:, 1:, ...])], axis=1)
        weighted = self._apply(xp.matrix_transpose(self.to_lags), lags)
        products = xp.matmul(xp.matrix_transpose(at_points), weighted)
        return self._apply(xp.matrix_transpose(self.of_h), products)

    def step(
        self,
        h: Array,
        residual: Array,
        most_products: Any,
        *,
        ops: ArrayOps,
    ) -> tuple[Array, Array]:
        """A Gauss-Newton step from taps h that lessens the residual's lags, and how many products it took.

        Conjugate gradients on the normal equations ``J* J x = J* residual``, J the derivative of all lags at h. J x is
        `lags`, J* twice `adjoint_lags`; the factor 2 on both sides is left out.
        """
        xp = self.xp
        at_points = self.at_points(h)
        downhill = self.adjoint_lags(at_points, residual)
        first_rest_sq = _dot(downhill, downhill, xp=xp)

        def continues(state: tuple[Array, ...]) -> Any:
            count, _, _, _, rest_sq = state
            # At least one product, even if the residual has NaN: the caller's loop ends by the number of products.
            is_open = (count < 1) | xp.any(rest_sq > _FORCING * first_rest_sq)
            return (count < most_products) & (count < _INNER_PRODUCTS) & is_open

        def iterate(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, x, rest, direction, rest_sq = state
            image = self.adjoint_lags(at_points, self.lags(at_points, direction))
            length = _per_block(rest_sq / (_dot(direction, image, xp=xp) + _TINY), xp=xp)
            rest = rest - length * image
            next_rest_sq = _dot(rest, rest, xp=xp)
            ratio = _per_block(next_rest_sq / (rest_sq + _TINY), xp=xp)
            return count + 1, x + length * direction, rest, rest + ratio * direction, next_rest_sq

        first_state = (arrays.counter(h, ops=ops), xp.zeros_like(h), downhill, downhill, first_rest_sq)
        count, step, *_ = ops.loop(continues, iterate, first_state)
        return step, count


def _residual(
    target: Array,
    kernel_lags: Array,
    completion_lags: Array,
    *,
    dtype: Any,
    ops: ArrayOps,
) -> Array:
    """Lags of ``target I - K*K - H*H``, from those of K and of H."""
    xp = ops.xp
    lags = kernel_lags + completion_lags
    wanted = xp.astype(target, lags.dtype)[:, None, None, None] * _lags_of_identity(lags, ops=ops)
    return xp.astype(wanted - lags, dtype)


def _lags_of_identity(like: Array, *, ops: ArrayOps) -> Array:
    """Lags (1, lags, c, c) of the identity."""
    lags = np.zeros((1, *like.shape[1:]), dtype=ops.wide_dtype)
    lags[:, 0, ...] = np.eye(like.shape[-1])
    return ops.from_numpy(lags, like)


def _dot(x: Array, y: Array, *, xp: Namespace) -> Array:
    """Inner products (b,) of the entries of two stacks."""
    return xp.sum(x * y, axis=tuple(range(1, x.ndim)))


def _per_block(x: Array, *, xp: Namespace) -> Array:
    """Numbers (b,) as factors of stacks (b, taps, rows, c)."""
    return xp.reshape(x, (-1, 1, 1, 1))


def by_tap(x: Array, *, xp: Namespace) -> Array:
    """From (b, rows, c, *taps) to (b, taps, rows, c)."""
    return xp.permute_dims(xp.reshape(x, (*x.shape[:3], -1)), (0, 3, 1, 2))


def by_row(x: Array, taps: tuple[int, ...], *, xp: Namespace) -> Array:
    """From (b, taps, rows, c) to (b, rows, c, *taps)."""
    return xp.reshape(xp.permute_dims(x, (0, 2, 3, 1)), (x.shape[0], *x.shape[2:], *taps))


# -- the search ------------------------------------------------------------------------------------------------------
def complete(
    blocks: Array,
    begin: Array | None = None,
    *,
    rtol: float = 1e-2,
    products: int | None = None,
    seed: int = 0,
    ops: ArrayOps,
) -> tuple[Array, Evaluation]:
    """Search completions of blocks (b, m, p, *taps), scaled to about 1, and bound them.

    Parameters
    ----------
    begin : array, shape (b, rows, min(m, p), *taps), optional
        First completions. Without them, and for blocks whose first completion is zero or not finite, the search begins
        at random.
    rtol : float
        Relative distance of the bound from an estimate of the norm at which the search stops.
    products : int, optional
        Most products; 0: the bound is the one that ``begin`` proves. None: `PRODUCTS`.

    Returns
    -------
    completions : array, shape (b, rows, min(m, p), *taps)
        H; 0 where H = 0 proves the bound.
    bounds : Evaluation
        Upper bounds (b,) in the widest precision, whether or not the search came close, and the number of products. The
        residual is the derivative of the blocks' norm at its maximum, times bound over norm: as if their ratio were
        constant.
    """
    xp = ops.xp
    narrow_blocks = arrays.tall(blocks, xp=xp)
    taps = tuple(narrow_blocks.shape[3:])
    kernel_lags = Polynomial(narrow_blocks, xp=xp).lags(wide=True, ops=ops)
    norm, vector, phase = peak_of_norm(kernel_lags.values, taps, ops=ops)
    # A zero kernel gets the start of a kernel of norm 1: from H = 0 no step could follow it once it is trained.
    norm_or_one = xp.where(norm > 0, norm, xp.ones_like(norm))
    start = _start(blocks, norm_or_one, seed, ops=ops)
    if begin is not None:
        begin_sq = _dot(begin, begin, xp=xp)
        usable = _per_block(xp.isfinite(begin_sq) & (begin_sq > 0), xp=xp)
        start = xp.where(usable, by_tap(begin, xp=xp), start)
    start_lags = Polynomial(by_row(start, taps, xp=xp), xp=xp).lags(wide=True, ops=ops)
    first_bound, helps = completion_proof.norms_up(kernel_lags, start_lags, ops=ops)
    best, bound, count = start, first_bound, arrays.counter(start, ops=ops)
    limit = PRODUCTS if products is None else products
    if limit:
        best, bound, count = _gauss_newton(
            narrow_blocks,
            kernel_lags,
            start,
            start_lags,
            first_bound,
            norm=norm,
            rtol=rtol,
            limit=limit,
            ops=ops,
        )
    helps = helps | (bound < first_bound)  # a bound better than the first is that of a later H
    needed = by_row(xp.where(_per_block(helps, xp=xp), best, xp.zeros_like(best)), taps, xp=xp)
    taken = xp.broadcast_to(xp.asarray(count, dtype=xp.int32, device=ops.device(bound)), bound.shape)
    bound_over_norm = xp.astype(bound, norm.dtype) / norm_or_one
    gradient = norm_gradient(narrow_blocks, norm, vector, phase, bound_over_norm, ops=ops)
    return needed, Evaluation(bound, (taken,), (arrays.from_tall(gradient, blocks, xp=xp),))


def _start(blocks: Array, norm: Array, seed: int, *, ops: ArrayOps) -> Array:
    """First completions by tap, (b, taps, rows, c), in the scale of the blocks."""
    of_norm_one = small_random(tuple(blocks.shape[1:]), seed)
    drawn = ops.from_numpy(of_norm_one.astype(ops.own_dtype), blocks)[None, ...]
    return by_tap(drawn, xp=ops.xp) * _per_block(norm, xp=ops.xp)


def _gauss_newton(
    narrow_blocks: Array,
    kernel_lags: Lags,
    start: Array,
    start_lags: Lags,
    first_bound: Array,
    *,
    norm: Array,
    rtol: float,
    limit: int,
    ops: ArrayOps,
) -> tuple[Array, Array, Array]:
    """The best completions by tap, their bounds, and the products that the search for them took."""
    xp = ops.xp
    taps = tuple(narrow_blocks.shape[3:])
    tables = _Products(narrow_blocks, ops=ops)
    target = (norm * (1 + _TARGET_SHARE * rtol)) ** 2
    close_enough = xp.astype(norm * (1 + rtol), first_bound.dtype)

    def continues(state: tuple[Array, ...]) -> Any:
        count, _, _, _, bound = state
        return (count < limit) & xp.any(bound > close_enough)

    def iterate(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, h, lags, best, bound = state
        residual = _residual(target, kernel_lags.values, lags, dtype=h.dtype, ops=ops)
        step, used = tables.step(h, residual, limit - count, ops=ops)
        h = h + step
        completion_lags = Polynomial(by_row(h, taps, xp=xp), xp=xp).lags(wide=True, ops=ops)
        new_bound, _ = completion_proof.norms_up(kernel_lags, completion_lags, ops=ops)
        is_better = new_bound < bound
        best = xp.where(_per_block(is_better, xp=xp), h, best)
        bound = xp.where(is_better, new_bound, bound)
        return count + used, h, completion_lags.values, best, bound

    first_state = (arrays.counter(start, ops=ops), start, start_lags.values, start, first_bound)
    count, _, _, best, bound = ops.loop(continues, iterate, first_state)
    return best, bound, count


# -- gradients -------------------------------------------------------------------------------------------------------
def norm_gradient(blocks: Array, norm: Array, v: Array, phase: Array, cotangent: Array, *, ops: ArrayOps) -> Array:
    """Cotangent (b,) times the gradient of ``||G v||`` by tall blocks at a peak, with the frequency and v constant."""
    xp = ops.xp
    image = xp.matmul(Polynomial(blocks, xp=xp).matrix_at(phase), v[:, :, None])[:, :, 0]
    u = image / xp.astype(norm[:, None] + _TINY, image.dtype)
    return Polynomial.singular_value_gradient(u, v, phase, cotangent, tuple(blocks.shape[3:]), xp=xp)


# -- the norm --------------------------------------------------------------------------------------------------------
def peak_of_norm(
    lags: Array,
    taps: tuple[int, ...],
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array]:
    """Estimate from below the largest norm of kernels' symbols from their lags, by a fixed number of power steps.

    The steps are made on a grid first, then in turn with Newton steps of the frequency from its highest points.

    Returns ``norm`` (b,); there, ``vector`` (b, c), a right vector, and ``phase`` (b, taps), the phases of the taps.
    """
    xp = ops.xp
    b, _, c, _ = lags.shape
    symbols = _LagSymbols(xp.astype(lags, getattr(xp, ops.own_dtype), copy=False), taps, ops=ops)
    sizes = tuple(1 if k == 1 else _POINTS_PER_LAG * (k - 1) + 1 for k in taps)
    points = Frequencies.half_grid(sizes)
    start, _ = arrays.unit(symbols.from_host(np.random.RandomState(1).standard_normal(2 * c)), xp=xp)
    vectors, norms = symbols.power(
        symbols.from_host(points.angles @ Lags.points(taps).T)[None, ...],
        xp.broadcast_to(start, (b, len(points), 2 * c)),
        _POWER_STEPS if len(points) > 1 else _MATRIX_POWER_STEPS,
    )
    if len(points) == 1:
        # One tap, at the angle 0 of cosine 1 and sine 0.
        zero = xp.zeros((b, math.prod(taps)), dtype=vectors.dtype, device=ops.device(vectors))
        return norms[:, 0], _as_complex(vectors[:, 0, :], ops=ops), ops.complex(xp.cos(zero), zero)
    return _ascended(symbols, points, vectors, norms, ops=ops)


def _as_complex(vectors: Array, *, ops: ArrayOps) -> Array:
    """Vectors (b, c) of (b, 2 c), real part before imaginary part."""
    c = vectors.shape[1] // 2
    return ops.complex(vectors[:, :c], vectors[:, c:])


def _ascended(
    symbols: _LagSymbols,
    points: Frequencies,
    vectors: Array,
    norms: Array,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array]:
    """The highest point that is reached from the highest of a grid, by power steps and Newton steps in turn.

    ``vectors``, ``norms`` (b, points, 2 c) and (b, points): vectors and norms at the points of the grid.
    """
    xp = ops.xp
    b, _, size = vectors.shape
    highest = ops.places_of_largest(norms, min(_PEAKS, norms.shape[1]))
    peaks = highest.shape[1]
    angles = xp.take(symbols.from_host(points.angles), xp.reshape(highest, (-1,)), axis=0)
    angles = xp.reshape(angles, (b, peaks, -1))
    vectors = xp.take_along_axis(vectors, xp.broadcast_to(highest[:, :, None], (b, peaks, size)), axis=1)

    def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
        angles, vectors, _ = state
        angles = angles + ascent.newton_step(symbols.terms(angles, vectors), symbols.points, symbols.newton, xp=xp)
        return angles, *symbols.power(xp.matmul(angles, symbols.lag_points), vectors, _ROUND_POWER_STEPS)

    first_norms = xp.zeros((b, peaks), dtype=norms.dtype, device=ops.device(norms))
    angles, vectors, norms = arrays.repeated(move, _ROUNDS, (angles, vectors, first_norms), ops=ops)
    best = xp.argmax(norms, axis=1)
    tap_angles = xp.matmul(arrays.pick(angles, best, xp=xp), symbols.tap_points)
    vector = _as_complex(arrays.pick(vectors, best, xp=xp), ops=ops)
    return xp.max(norms, axis=1), vector, ops.complex(xp.cos(tap_angles), xp.sin(tap_angles))


class _LagSymbols:
    """``G*G`` from lags: ``M_0 + sum_{t > 0} [cos(t.theta) (M_t + M_t^T) + i sin(t.theta) (M_t - M_t^T)]``.

    Parameters
    ----------
    lags : array, shape (b, n, c, c)
    taps : tuple of int
        Kernel shape.

    Attributes
    ----------
    lag_points, tap_points : arrays, shapes (d, n) and (d, taps)
        Angles (..., d) times these are the angles of the lags and of the taps.
    points, newton : array, shape (2 n - 1, d), and those of `newton_tables`
        Those of the lags and their negatives.
    """

    def __init__(self, lags: Array, taps: tuple[int, ...], *, ops: ArrayOps) -> None:
        xp = ops.xp
        b, n, c, _ = lags.shape
        self.taps = taps
        self._lags = lags
        self._ops = ops
        even, odd = Lags.even_and_odd(lags, xp.matrix_transpose(lags), xp=xp)
        self._even = xp.reshape(even, (b, n, c * c))
        self._odd = xp.reshape(odd, (b, n, c * c))
        of_half = Lags.points(taps)
        points = np.concatenate([of_half, -of_half[1:]]).astype(float)
        self.lag_points, self.points = self.from_host(of_half.T), self.from_host(points)
        powers, forms, signs = map(self.from_host, ascent.newton_tables(points))
        self.newton = powers, forms, signs
        self.tap_points = self.from_host(np.indices(taps).reshape(len(taps), math.prod(taps)))

    def from_host(self, x: np.ndarray) -> Array:
        """An array of the host in the kernel's precision, on the device of the lags."""
        return self._ops.from_numpy(x.astype(self._ops.own_dtype), self._lags)

    def terms(self, angles: Array, vectors: Array) -> Array:
        """Terms of `ascent.newton_step` for the sum ``v* G*G v`` over all lags, at angles (b, f, d).

        With ``v = x + i y``, those of lags t and -t are conjugate, and that of t is
        ``(x^T M_t x + y^T M_t y + i (x^T M_t y - y^T M_t x)) e^{i t theta}``.
        """
        xp = self._ops.xp
        b, n, c, _ = self._lags.shape
        x, y = vectors[..., :c], vectors[..., c:]
        by_entry = xp.matrix_transpose(xp.reshape(self._lags, (b, n, c * c)))
        real = xp.matmul(_outer(x, x, xp=xp) + _outer(y, y, xp=xp), by_entry)
        imag = xp.matmul(_outer(x, y, xp=xp) - _outer(y, x, xp=xp), by_entry)
        angle = xp.matmul(angles, self.lag_points)
        of_half = self._ops.complex(real, imag) * self._ops.complex(xp.cos(angle), xp.sin(angle))
        return xp.concat([of_half, xp.conj(of_half[..., 1:])], axis=-1)

    def power(self, angles: Array, vectors: Array, steps: int) -> tuple[Array, Array]:
        """Vectors and norms (b, f) after some power steps with ``G*G``.

        ``angles`` (b or 1, f, n): angles of the lags at f frequencies. ``vectors`` (b, f, 2 c): real part before
        imaginary part.
        """
        xp = self._ops.xp
        b, _, c, _ = self._lags.shape
        f = angles.shape[1]
        real = xp.reshape(xp.matmul(xp.cos(angles), self._even), (b, f, c, c))
        imag = xp.reshape(xp.matmul(xp.sin(angles), self._odd), (b, f, c, c))

        def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
            columns = xp.matrix_transpose(xp.reshape(state[0], (b, f, 2, c)))
            by_real, by_imag = xp.matmul(real, columns), xp.matmul(imag, columns)
            image_real = by_real[..., 0] - by_imag[..., 1]
            image_imag = by_real[..., 1] + by_imag[..., 0]
            return arrays.unit(xp.concat([image_real, image_imag], axis=2), xp=xp)

        vectors, norms_sq = arrays.repeated(step, steps, (vectors, vectors[..., 0]), ops=self._ops)
        return vectors, xp.sqrt(norms_sq)


def _outer(x: Array, y: Array, *, xp: Namespace) -> Array:
    """Products of all entries of vectors (b, f, c) with all of others, shape (b, f, c * c)."""
    return xp.reshape(x[..., :, None] * y[..., None, :], (*x.shape[:2], -1))
