"""Completions: kernels H with K*K + H*H close to a multiple of the identity, whose lags then prove a bound of K.

The lags are to be those of a multiple of the identity: a least-squares problem, solved by Gauss-Newton with conjugate
gradients inside. They are found as products of polynomials are: small tables take the taps to points, where everything
else is one batch of products of real matrices. Nothing here is proven: `certified.completion` has the lags that prove.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import completion
from specnorm.problem.frequencies import Frequencies, full_grid, half_grid, half_lags, phases

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps

PRODUCTS = 700
"""Products at most, unless the caller says how many."""
_WORK = 1e11
"""Products of numbers in a search that is to end in about 5 s on one thread (20 a nanosecond, measured)."""
_LEAST_PRODUCTS = 10
"""In such a search, however large the layer is."""
_NOISE = 0.3
"""Size of the random part of a completion that begins near an isometry."""
_ROOM = 0.05
"""Part of the squared norm that such a completion has at least."""
_INNER = 40
"""Of them in a Gauss-Newton step, at most."""
_FORCING = 0.03
"""Part of the squared residual at which conjugate gradients stop."""
_MENDING = 3
"""Products in a step that follows a kernel in training."""
_MARGINS = 0.002, 0.01
"""What is aimed at then: least and most above the norm."""
_NEAR = 4
"""Halvings of the distance then: a thousandth of the norm is near enough."""
_AIM = 0.4
"""Part of the tolerance that lies between the norm and the number aimed at; the residual takes the rest."""
_POWERS, _CENTRES, _ZOOMS = 12, 3, 7
"""Of `largest_symbol`: power steps on the grid, its highest points that are followed, and halvings of the distance."""
_LOST = 4000.0
"""Condition of the tables at points of half-circles up to which float32 keeps the digits that a step needs."""
_TINY = 1e-30


class Peak(NamedTuple):
    """Where the symbols of narrow blocks have their largest norm, as far as a search went."""

    norm: Array  # (b,)
    vector: Array  # (b, 2 c): a right vector, real part before imaginary part
    cos: Array  # (b, taps), of the taps' angles at the frequency
    sin: Array


class Found(NamedTuple):
    """Completions (b, rows, c, *taps) of a stack of blocks, the bounds (b,) that are proven, whether by the completion.

    And the products it took (b,), and the derivative of the blocks' norm at its maximum, times bound over norm.
    """

    kernel: Array
    bound: Array
    helps: Array
    products: Array
    gradient: Array


def row_count(channels: int) -> int:
    """Rows of a completion: with fewer than four for each channel some kernels stall."""
    return max(4 * channels, 8)


def completion_shape(block_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape (rows, c, *taps) of a block's completion."""
    m, p, *taps = block_shape
    return (row_count(min(m, p)), min(m, p), *taps)


def narrow(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks with the smaller number of channels second: G transposed at every frequency, which has G's norm."""
    if blocks.shape[2] <= blocks.shape[1]:
        return blocks
    return xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))


def small_random(block_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Completion to begin with, for blocks of norm 1."""
    shape = completion_shape(block_shape)
    scale = math.sqrt(0.5 / (shape[0] * math.prod(shape[2:])))
    return np.random.RandomState(seed).standard_normal(shape) * scale


def products_in_time(block_shape: tuple[int, ...]) -> int:
    """Return how many products a search on a block of this shape has if it is to end in about 5 s."""
    rows, channels, *taps = completion_shape(block_shape)
    lags = math.prod(2 * k - 1 for k in taps)
    return max(_LEAST_PRODUCTS, min(PRODUCTS, int(_WORK / (2 * lags * rows * channels**2))))


def near_isometry(block_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a completion near an isometry, to begin with where there are few products.

    A unit matrix at each corner of the taps, mirror images left out: a change of H there moves every lag, each by
    about as much. The rest is small random numbers.
    """
    _, channels, *taps = completion_shape(block_shape)
    h = _NOISE * small_random(block_shape, seed)
    corners = list(itertools.product(*((0,) if at == 0 or k == 1 else (0, k - 1) for at, k in enumerate(taps))))
    for j, corner in enumerate(corners):
        diagonal: Any = (np.arange(channels) + j * channels, np.arange(channels), *corner)
        h[diagonal] += math.sqrt(1 / len(corners))
    return h


@functools.lru_cache(maxsize=64)
def _tables(taps: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables F, D (points, taps) and W (lags, points): lag t of ``K*H`` is ``sum_j W_tj (F K)_j^T (D H)_j``.

    Lags in the order 0, those of one half, the negatives of these.

    Few taps: K and H read as homogeneous polynomials at as many points of a half-circle as there are lags. More, where
    that would lose digits: at half of the grid of 2 k - 1 points, a product of complex numbers as three of real ones.
    """
    axes = [_polynomials(k) for k in taps]
    if math.prod(float(np.linalg.cond(axis[2])) for axis in axes) <= _LOST:
        first, second, combined = axes[0] if axes else (np.eye(1),) * 3
        for axis in axes[1:]:
            first, second, combined = np.kron(first, axis[0]), np.kron(second, axis[1]), np.kron(combined, axis[2])
        middle = len(combined) // 2
        return first, second, np.concatenate([combined[middle:], combined[:middle][::-1]])
    sizes = tuple(2 * k - 1 for k in taps)
    points = full_grid(sizes).numerators
    mirrored = np.ravel_multi_index(tuple((-points % np.asarray(sizes)).T), sizes)
    points = points[np.arange(len(points)) <= mirrored]  # 0 first, and one of each other pair
    cos, sin = phases(Frequencies(points, sizes), taps)
    half = half_lags(taps)
    reached = np.concatenate([half, -half[1:]]) @ (2 * np.pi * points / np.asarray(sizes)).T
    weights = np.where(points.any(axis=1), 2.0, 1.0) / math.prod(sizes)
    cosines, sines = np.cos(reached) * weights, np.sin(reached) * weights
    # (A - iB)(C + iD), as symbols of K and H, from A C, B D and (A + B)(C - D).
    return (
        np.concatenate([cos, sin, cos + sin]),
        np.concatenate([cos, sin, cos - sin]),
        np.concatenate([cosines + sines, cosines - sines, -sines], axis=1),
    )


def _polynomials(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables of `_tables` on one axis."""
    n = 2 * k - 1
    angle = math.pi * (np.arange(n)[:, None] / n + 0.25)

    def monomials(degree: int) -> np.ndarray:
        power = np.arange(degree + 1)
        return np.cos(angle) ** (degree - power) * np.sin(angle) ** power

    return monomials(k - 1)[:, ::-1], monomials(k - 1), np.linalg.inv(monomials(2 * k - 2))


class _Products(NamedTuple):
    """Products of kernels K and H by tap, (b, taps, rows, c), by the `_tables` of their taps."""

    first: Array
    second: Array
    combined: Array
    xp: Namespace

    @classmethod
    def of(cls, blocks: Array, *, ops: ArrayOps) -> _Products:
        """For blocks (b, rows, c, *taps)."""
        tables = _tables(tuple(blocks.shape[3:]))
        first, second, combined = (ops.from_numpy(x.astype(ops.own_dtype), blocks) for x in tables)
        return cls(first, second, combined, ops.xp)

    def _apply(self, table: Array, x: Array) -> Array:
        b, n, *matrix = x.shape
        flat = self.xp.reshape(x, (b, n, matrix[0] * matrix[1]))
        return self.xp.reshape(self.xp.matmul(table, flat), (b, table.shape[0], *matrix))

    def at_points(self, k: Array) -> Array:
        """``(F K)^T``, (b, points, c, rows)."""
        return self._apply(self.first, self.xp.matrix_transpose(k))

    def lags(self, at_points: Array, h: Array) -> Array:
        """Half of the lags of ``K*H + H*K``, (b, lags, c, c)."""
        xp = self.xp
        products = xp.matmul(at_points, self._apply(self.second, h))
        found = self._apply(self.combined, products)
        n = found.shape[1] // 2 + 1
        return found[:, :n, ...] + xp.matrix_transpose(xp.concat([found[:, :1, ...], found[:, n:, ...]], axis=1))

    def taps(self, at_points: Array, half: Array) -> Array:
        """``sum_y K_y M_{z-y}`` at tap z: half of the adjoint of `lags`, for lags with ``M_{-t} = M_t^T``."""
        xp = self.xp
        every = xp.concat([half, xp.matrix_transpose(half[:, 1:, ...])], axis=1)
        products = xp.matmul(xp.matrix_transpose(at_points), self._apply(xp.matrix_transpose(self.combined), every))
        return self._apply(xp.matrix_transpose(self.second), products)

    def step(self, h: Array, residual: Array, inner: Any, *, ops: ArrayOps) -> tuple[Array, Array]:
        """A Gauss-Newton step from taps h that lessens the residual's lags, and how many products it took."""
        xp, at_points = self.xp, self.at_points(h)
        down = self.taps(at_points, residual)
        first = _dot(down, down, xp=xp)

        def going(state: tuple[Array, ...]) -> Any:
            # One at least: where there are no numbers the search would never reach its limit.
            open_ = (state[0] < 1) | xp.any(state[4] > _FORCING * first)
            return (state[0] < inner) & (state[0] < _INNER) & open_

        def further(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, x, rest, p, rho = state
            image = self.taps(at_points, self.lags(at_points, p))
            length = _wide(rho / (_dot(p, image, xp=xp) + _TINY), xp=xp)
            rest = rest - length * image
            after = _dot(rest, rest, xp=xp)
            return count + 1, x + length * p, rest, rest + _wide(after / (rho + _TINY), xp=xp) * p, after

        begin = (arrays.counter(h, ops=ops), xp.zeros_like(h), down, down, first)
        count, step, *_ = ops.loop(going, further, begin)
        return step, count


def _residual(target: Array, own: Array, beside: Array, *, dtype: Any, ops: ArrayOps) -> Array:
    """Lags of ``target I - K*K - H*H``, from those of K and of H."""
    xp, both = ops.xp, own + beside
    return xp.astype(xp.astype(target, both.dtype)[:, None, None, None] * _unit(both, ops=ops) - both, dtype)


def _unit(lags: Array, *, ops: ArrayOps) -> Array:
    """Lags (1, lags, c, c) of the kernel 1."""
    unit = np.zeros((1, *lags.shape[1:]), dtype=ops.wide_dtype)
    unit[:, 0, ...] = np.eye(lags.shape[-1])
    return ops.from_numpy(unit, lags)


def _dot(x: Array, y: Array, *, xp: Namespace) -> Array:
    return xp.sum(x * y, axis=tuple(range(1, x.ndim)))


def _wide(x: Array, *, xp: Namespace) -> Array:
    return xp.reshape(x, (-1, 1, 1, 1))


def by_tap(x: Array, *, xp: Namespace) -> Array:
    """From (b, rows, c, *taps) to (b, taps, rows, c)."""
    return xp.permute_dims(xp.reshape(x, (*x.shape[:3], -1)), (0, 3, 1, 2))


def by_row(x: Array, taps: tuple[int, ...], *, xp: Namespace) -> Array:
    """From (b, taps, rows, c) to (b, rows, c, *taps)."""
    return xp.reshape(xp.permute_dims(x, (0, 2, 3, 1)), (x.shape[0], *x.shape[2:], *taps))


def lags_of(x: Array, *, ops: ArrayOps) -> completion.Lags:
    """Lags of kernels in the widest precision."""
    return completion.lags(x, ops=ops, wide=True)


def complete(
    blocks: Array,
    begin: Array | None = None,
    *,
    rtol: float = 1e-2,
    products: int | None = None,
    seed: int = 0,
    hurried: bool = False,
    ops: ArrayOps,
) -> Found:
    """Search completions of blocks (b, m, p, *taps), scaled to about 1, and bound them.

    Parameters
    ----------
    begin : array, shape (b, rows, min(m, p), *taps), optional
        To begin from; None, and for each block where it is zero or no number: small random numbers.
    rtol : float
        Where to stop: relative distance of the bound from an estimate of the norm.
    products : int, optional
        At most; 0: the bound that ``begin`` proves. None: `PRODUCTS`.
    hurried : bool
        Begin near an isometry instead of at random: closer after 10 to 40 products, no closer after more.

    Returns
    -------
    Found
        ``bound`` in the widest precision, an upper bound whatever the search came to.
    """
    xp, narrow_blocks = ops.xp, narrow(blocks, xp=ops.xp)
    taps = tuple(narrow_blocks.shape[3:])
    own = lags_of(narrow_blocks, ops=ops)
    peak = largest_symbol(own.values, taps, ops=ops)
    norm = peak.norm
    # Not zeros: they would be no start for what a zero kernel becomes.
    size = xp.where(norm > 0, norm, xp.ones_like(norm))
    drawn = (near_isometry if hurried else small_random)(tuple(blocks.shape[1:]), seed).astype(ops.own_dtype)
    length = size
    if hurried:
        mean = xp.astype(xp.linalg.trace(own.values[:, 0, ...]), size.dtype) / narrow_blocks.shape[2]
        length = xp.sqrt(xp.maximum(size**2 - mean, _ROOM * size**2))
    h = by_tap(ops.from_numpy(drawn, blocks)[None, ...], xp=xp) * _wide(length, xp=xp)
    if begin is not None:
        square = _dot(begin, begin, xp=xp)
        h = xp.where(_wide(xp.isfinite(square) & (square > 0), xp=xp), by_tap(begin, xp=xp), h)

    def lags_of_taps(x: Array) -> completion.Lags:
        return lags_of(by_row(x, taps, xp=xp), ops=ops)

    limit = PRODUCTS if products is None else products
    count, beside = arrays.counter(h, ops=ops), lags_of_taps(h)
    bound, helps = completion.norms_up(own, beside, ops=ops)
    best, first = h, bound
    if limit:
        searched = _Products.of(narrow_blocks, ops=ops)
        target = (norm * (1 + _AIM * rtol)) ** 2
        enough = xp.astype(norm * (1 + rtol), bound.dtype)

        def going(state: tuple[Array, ...]) -> Any:
            return (state[0] < limit) & xp.any(state[4] > enough)

        def further(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, x, values, best, bound = state
            residual = _residual(target, own.values, values, dtype=x.dtype, ops=ops)
            step, used = searched.step(x, residual, limit - count, ops=ops)
            x = x + step
            beside = lags_of_taps(x)
            now = completion.norms_up(own, beside, ops=ops)[0]
            better = now < bound
            best = xp.where(_wide(better, xp=xp), x, best)
            return count + used, x, beside.values, best, xp.where(better, now, bound)

        count, _, _, best, bound = ops.loop(going, further, (count, h, beside.values, best, bound))
    slope = in_rows(norm_gradient(narrow_blocks, peak, xp=xp), blocks, xp=xp)
    slope = slope * xp.reshape(xp.astype(bound, norm.dtype) / size, (-1,) + (1,) * (blocks.ndim - 1))
    count = xp.broadcast_to(xp.asarray(count, dtype=xp.int32, device=ops.device(bound)), bound.shape)
    return Found(by_row(best, taps, xp=xp), bound, helps | (bound < first), count, slope)


def mend(blocks: Array, h: Array, own: Array, beside: Array, steps: int, *, ops: ArrayOps) -> Array:
    """Completions h (b, rows, c, *taps) after some short Gauss-Newton steps, for blocks that have moved.

    Where a step would lead to no numbers, h stays.

    Parameters
    ----------
    own, beside : arrays
        Lags of the narrow blocks, and about those of h.
    """
    xp = ops.xp
    narrow_blocks, taps = narrow(blocks, xp=xp), tuple(blocks.shape[3:])
    searched = _Products.of(narrow_blocks, ops=ops)
    norm = largest_symbol(own, taps, zooms=_NEAR, ops=ops).norm
    least, most = ((norm * (1 + margin)) ** 2 for margin in _MARGINS)
    x = by_tap(h, xp=xp)
    for at in range(steps):
        beside = lags_of(by_row(x, taps, xp=xp), ops=ops).values if at else beside
        # Near the multiple that the lags are of already: to come to another one takes more than a short step.
        centre = (own + beside)[:, 0, ...]
        mean = xp.astype(xp.linalg.trace(centre), norm.dtype) / centre.shape[-1]
        target = xp.minimum(xp.maximum(mean, least), most)
        x = x + searched.step(x, _residual(target, own, beside, dtype=x.dtype, ops=ops), _MENDING, ops=ops)[0]
    moved = by_row(x, taps, xp=xp)
    finite = xp.isfinite(xp.sum(moved * 0.0, axis=tuple(range(1, moved.ndim)), keepdims=True))
    return xp.where(finite, moved, h)


def bound_and_gradient(
    blocks: Array, own: completion.Lags, beside: completion.Lags, *, ops: ArrayOps
) -> tuple[Array, Array]:
    """Bounds (b,) from lags of narrow blocks and their completions; derivatives with respect to the blocks.

    The bound squared is ``v + ||M_0 - v I|| + sum ||M_t||`` at the best v, and ``M_t = sum_y K_y^T K_{y+t} + ...``: so
    its derivative is ``2 sum_y K_y D_{z-y}`` at tap z, D_t the derivatives of the norms.
    """
    xp = ops.xp
    bound, helps = completion.norms_up(own, beside, ops=ops)
    values = xp.where(_wide(helps, xp=xp), own.values + beside.values, own.values)
    c, flat = values.shape[-1], (*values.shape[:2], -1)
    eye = ops.from_numpy(np.eye(c)[None, None, ...].astype(ops.wide_dtype), values)
    shift = _wide(completion.best_shift(values[:, 0, ...], ops=ops), xp=xp)
    centred = xp.concat([values[:, :1, ...] - shift * eye, values[:, 1:, ...]], axis=1)
    norms = xp.sqrt(xp.vecdot(xp.reshape(centred, flat), xp.reshape(centred, flat)))[..., None, None]
    # At a multiple of the identity v takes all of M_0, whose derivative then is that of its mean.
    none = norms <= 8 * c * float(xp.finfo(values.dtype).eps) * shift
    weights = xp.where(none, xp.zeros_like(norms), 1 / (norms + _TINY))
    first = xp.where(none[:, :1, ...], eye / c, weights[:, :1, ...] * centred[:, :1, ...])
    slopes = xp.concat([first, weights[:, 1:, ...] * centred[:, 1:, ...]], axis=1)
    gradient = taps_of_slopes(narrow(blocks, xp=xp), slopes, ops=ops) / 2
    gradient = gradient / xp.reshape(xp.astype(bound, gradient.dtype) + _TINY, (-1,) + (1,) * (blocks.ndim - 1))
    return bound, in_rows(gradient, blocks, xp=xp)


def taps_of_slopes(blocks: Array, slopes: Array, *, ops: ArrayOps) -> Array:
    """Gradient of a function of the lags of narrow blocks (b, rows, c, *taps), from its slopes D (b, lags, c, c).

    ``2 sum_y K_y D_{z-y}`` at tap z, since ``M_t = sum_y K_y^T K_{y+t}`` and ``D_{-t} = D_t^T``.
    """
    xp = ops.xp
    k, products = by_tap(blocks, xp=xp), _Products.of(blocks, ops=ops)
    taps = products.taps(products.at_points(k), xp.astype(slopes, k.dtype, copy=False))
    return 2 * by_row(taps, tuple(blocks.shape[3:]), xp=xp)


def in_rows(gradient: Array, blocks: Array, *, xp: Namespace) -> Array:
    """Gradient of narrow blocks as that of the blocks: the adjoint of `narrow`."""
    if blocks.shape[2] <= blocks.shape[1]:
        return gradient
    return xp.permute_dims(gradient, (0, 2, 1, *range(3, blocks.ndim)))


def norm_gradient(blocks: Array, peak: Peak, *, xp: Namespace) -> Array:
    """Derivative of ``||G v||`` with respect to narrow blocks at a peak, frequency and v held fixed."""
    b, rows, c, *taps = blocks.shape
    k = xp.reshape(by_tap(blocks, xp=xp), (b, -1, rows * c))
    real, imag = (xp.reshape(xp.matmul(t[:, None, :], k), (b, rows, c)) for t in (peak.cos, peak.sin))
    one, two = peak.vector[:, :c, None], peak.vector[:, c:, None]
    image = [xp.matmul(real, one) - xp.matmul(imag, two), xp.matmul(imag, one) + xp.matmul(real, two)]
    up, down = (x / (peak.norm[:, None, None] + _TINY) for x in image)
    one, two = xp.matrix_transpose(one), xp.matrix_transpose(two)
    along = [xp.matmul(up, one) + xp.matmul(down, two), xp.matmul(down, one) - xp.matmul(up, two)]
    cos, sin = peak.cos[:, :, None, None], peak.sin[:, :, None, None]
    return by_row(cos * along[0][:, None, ...] + sin * along[1][:, None, ...], tuple(taps), xp=xp)


def largest_symbol(lags: Array, taps: tuple[int, ...], *, zooms: int = _ZOOMS, ops: ArrayOps) -> Peak:
    """Estimate from below the largest norm of kernels' symbols from their lags, by a fixed number of power steps.

    On a grid first; then around its highest points, with vectors kept and distances halved. ``G*G`` at a frequency is
    ``M_0 + sum_{t > 0} cos(t.theta) (M_t + M_t^T) + i sin(t.theta) (M_t - M_t^T)``.
    """
    xp, (b, n, c, _) = ops.xp, lags.shape
    d, half = len(taps), half_lags(taps)
    lags = xp.astype(lags, getattr(xp, ops.own_dtype), copy=False)

    def device(x: np.ndarray) -> Array:
        return ops.from_numpy(x.astype(ops.own_dtype), lags)

    transposed = xp.matrix_transpose(lags)
    even, odd = (xp.reshape(x, (b, n, c * c)) for x in (lags + transposed, lags - transposed))

    def norms(angle: Array, v: Array, count: int) -> tuple[Array, Array]:
        """Vectors and norms (b, f) after some steps from vectors (b, f, 2 c), at angles (b or 1, f, n) of the lags."""
        f = angle.shape[1]
        real = xp.reshape(xp.matmul(xp.cos(angle) * once, even), (b, f, c, c))
        imag = xp.reshape(xp.matmul(xp.sin(angle), odd), (b, f, c, c))

        def further(state: tuple[Array, ...]) -> tuple[Array, ...]:
            columns = xp.matrix_transpose(xp.reshape(state[0], (b, f, 2, c)))
            along, across = xp.matmul(real, columns), xp.matmul(imag, columns)
            image = xp.concat([along[..., 0] - across[..., 1], along[..., 1] + across[..., 0]], axis=2)
            return arrays.unit(image, xp=xp)

        v, norm_sq = arrays.repeated(further, count, (v, v[..., 0]), ops=ops)
        return v, xp.sqrt(norm_sq)

    once = device(np.where(np.arange(n) == 0, 0.5, 1.0))
    of_lags, of_taps = device(half.T), device(np.indices(taps).reshape(d, math.prod(taps)))
    sizes = tuple(1 if k == 1 else 3 * (k - 1) + 1 for k in taps)
    points = half_grid(sizes)
    v, _ = arrays.unit(device(np.random.RandomState(1).standard_normal(2 * c)), xp=xp)
    v, value = norms(
        device(points.angles @ half.T)[None, ...],
        xp.broadcast_to(v, (b, len(points), 2 * c)),
        _POWERS if len(points) > 1 else 8 * _POWERS,
    )
    if len(points) == 1:
        angle = xp.zeros((b, math.prod(taps)), dtype=v.dtype, device=ops.device(v))
        return Peak(value[:, 0], v[:, 0, :], xp.cos(angle), angle)
    order = xp.argsort(value, axis=1, descending=True)[:, :_CENTRES]
    m = order.shape[1]
    centre = xp.reshape(xp.take(device(points.angles), xp.reshape(order, (-1,)), axis=0), (b * m, 1, d))
    v = xp.take_along_axis(v, xp.broadcast_to(order[:, :, None], (b, m, 2 * c)), axis=1)
    moves = np.concatenate([np.zeros((1, d)), np.eye(d), -np.eye(d)])
    p = len(moves)

    def zoomed(state: tuple[Array, ...]) -> tuple[Array, ...]:
        centre, v, step, _ = state
        around = centre + step * device(moves / np.asarray(sizes))
        angle = xp.matmul(xp.reshape(around, (b, m * p, d)), of_lags)
        v = xp.reshape(xp.broadcast_to(xp.reshape(v, (b, m, 1, 2 * c)), (b, m, p, 2 * c)), (b, m * p, 2 * c))
        v, value = norms(angle, v, _POWERS // 3)
        value = xp.reshape(value, (b * m, p))
        top = xp.argmax(value, axis=1)
        v = xp.reshape(arrays.pick(xp.reshape(v, (b * m, p, 2 * c)), top, xp=xp), (b, m, 2 * c))
        return arrays.pick(around, top, xp=xp)[:, None, :], v, step / 2, xp.reshape(xp.max(value, axis=1), (b, m))

    step = xp.full((1,), math.pi, dtype=lags.dtype, device=ops.device(lags))
    begin = (centre, v, step, xp.zeros((b, m), dtype=lags.dtype, device=ops.device(lags)))
    centre, v, _, value = arrays.repeated(zoomed, zooms, begin, ops=ops)
    top = xp.argmax(value, axis=1)
    angle = xp.matmul(arrays.pick(xp.reshape(centre, (b, m, d)), top, xp=xp), of_taps)
    return Peak(xp.max(value, axis=1), arrays.pick(v, top, xp=xp), xp.cos(angle), xp.sin(angle))
