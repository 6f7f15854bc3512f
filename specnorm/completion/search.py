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
from collections.abc import Callable
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
_FORCING = 0.03
"""Part of the squared residual at which conjugate gradients stop."""
_POWER_STEPS = 12
"""Power steps of `peak_of_norm` on its grid, and in each round."""
_PEAKS = 4
"""Number of the highest points of the grid from which `peak_of_norm` ascends."""
_ROUNDS = 5
"""Newton steps of `peak_of_norm`, each followed by power steps."""


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
    # A step needs half of the digits of float32.
    is_precise = condition <= float(np.finfo(np.float32).eps) ** -0.5
    return _polynomial_tables(axes) if is_precise else _frequency_tables(taps)


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
            return (count < most_products) & is_open

        def iterate(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, x, rest, direction, rest_sq = state
            image = self.adjoint_lags(at_points, self.lags(at_points, direction))
            length = _per_block(rest_sq / (_dot(direction, image, xp=xp) + arrays.TINY), xp=xp)
            rest = rest - length * image
            next_rest_sq = _dot(rest, rest, xp=xp)
            ratio = _per_block(next_rest_sq / (rest_sq + arrays.TINY), xp=xp)
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
    norm, vector, phase = peak_of_norm(narrow_blocks, ops=ops)
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
    # The square of what the search aims at is a multiple of the identity. The residual may take half of the tolerance.
    target = (norm * (1 + rtol / 2)) ** 2
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
    u = image / xp.astype(norm[:, None] + arrays.TINY, image.dtype)
    return Polynomial.singular_value_gradient(u, v, phase, cotangent, tuple(blocks.shape[3:]), xp=xp)


# -- the norm --------------------------------------------------------------------------------------------------------
def peak_of_norm(blocks: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Estimate from below the largest norm of the symbols of tall blocks, by a fixed number of power steps.

    The steps are made on a grid first, then in turn with Newton steps of the frequency from its highest points. The
    search stops and its gradient begins by this norm; no proof rests on it.

    Returns ``norm`` (b,); there, ``vector`` (b, p), a right vector, and ``phase`` (b, taps), the phases of the taps.
    """
    xp = ops.xp
    b, m, p, *sizes = blocks.shape
    taps = tuple(sizes) or (1,)
    points = tap_points(taps).astype(ops.own_dtype)
    tables = [
        ops.from_numpy(table.astype(ops.own_dtype), blocks) for table in (points.T, *ascent.newton_tables(points))
    ]
    tap_axes, *newton = tables
    symbols = Polynomial(blocks, xp=xp)
    by_tap = xp.reshape(xp.permute_dims(xp.reshape(blocks, (b, m, p, -1)), (0, 1, 3, 2)), (b, -1, p))

    def phases_at(angles: Array) -> Array:
        of_taps = xp.matmul(angles, tap_axes)
        return ops.complex(xp.cos(of_taps), xp.sin(of_taps))

    def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
        angles, vectors, _ = state
        images = arrays.real_times(by_tap, xp.matrix_transpose(vectors), ops=ops)
        images = xp.reshape(xp.matrix_transpose(images), (b, -1, m, len(points)))
        terms = images * phases_at(angles)[:, :, None, :]
        angles = angles + ascent.uphill(terms, newton, len(taps), xp=xp)
        return angles, *_powered(symbols.matrices_at(phases_at(angles)), vectors, ops=ops)

    angles, vectors, norms_sq = _highest_of_grid(symbols, phases_at, ops=ops)
    angles, vectors, norms_sq = arrays.repeated(move, _ROUNDS, (angles, vectors, norms_sq), ops=ops)
    best = xp.argmax(norms_sq, axis=1)
    phase = phases_at(arrays.pick(angles, best, xp=xp))
    return xp.sqrt(xp.max(norms_sq, axis=1)), arrays.pick(vectors, best, xp=xp), phase


def _highest_of_grid(
    symbols: Polynomial, phases_at: Callable[[Array], Array], *, ops: ArrayOps
) -> tuple[Array, Array, Array]:
    """Angles (b, n, d) of the highest points of a coarse grid, with vectors (b, n, p) and squared norms (b, n).

    ``phases_at``: the phases of the taps (b, f, taps) at angles (b, f, d).
    """
    xp = ops.xp
    blocks = symbols.coefficients
    b, _, p, *sizes = blocks.shape
    grid = Frequencies.coarse_grid(tuple(sizes) or (1,))
    angles = ops.from_numpy(grid.angles.astype(ops.own_dtype), blocks)
    angles = xp.broadcast_to(angles[None, ...], (b, *angles.shape))
    start = arrays.start_vector(1, p).astype(np.result_type(ops.own_dtype, np.complex64))
    vectors = xp.broadcast_to(ops.from_numpy(start, blocks), (b, len(grid), p))
    vectors, norms_sq = _powered(symbols.matrices_at(phases_at(angles)), vectors, ops=ops)
    highest = ops.places_of_largest(norms_sq, min(_PEAKS, len(grid)))

    def at_highest(x: Array) -> Array:
        places = xp.broadcast_to(highest[:, :, None], (*highest.shape, x.shape[2]))
        return xp.take_along_axis(x, places, axis=1)

    return at_highest(angles), at_highest(vectors), at_highest(norms_sq[..., None])[..., 0]


def _powered(symbols: Array, vectors: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Vectors (b, f, p) after some power steps with ``G*G``, for matrices G (b, f, m, p), and squared norms (b, f).

    A loop, which compilers compile once; the steps of `symbols.power.gram_power` are written out.
    """
    xp = ops.xp
    gram = xp.matmul(arrays.adjoint(symbols, xp=xp), symbols)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        return arrays.unit(xp.matmul(gram, state[0][..., None])[..., 0], xp=xp)

    vectors, norms_sq = arrays.repeated(step, _POWER_STEPS, (vectors, xp.real(vectors[..., 0])), ops=ops)
    return vectors, norms_sq
