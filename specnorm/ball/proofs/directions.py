"""Proof that a scaled kernel's layer has a norm of at most a limit, as rounded in its dtype: by matrix products alone.

Nothing branches on values, so the proof holds under a tracer. It holds for every kernel X; X only decides how close to
the limit the norm is. If a kernel has a single tap, the norm is that of the tap as a matrix. For others three bounds of
the norm of the layer of X are known, and the smallest is taken:

1. ``f ||M||``, with M the kernel reshaped to (m, n) and ``f**2`` the taps of its blocks
   (`supremum_up_from_unfolding`). ``||M||`` is bounded by the trace and the Frobenius norm of a power of ``M M^T``.
2. The norm of ``sum_k |X_k|``, by its row and column sums.
3. If symbols have one row or one column, as those of depthwise layers, their norm on a grid of frequencies, times the
   factor of the grid (`grid.proof.grid_factor`).

A kernel that is joined from matrices by a positive window needs only the norms of these (`_joined`).

Rounding: gamma(n) = n u / (1 - n u), u the unit roundoff. Entries of a product of n terms are off by at most gamma(n)
times the product of the absolute values, whose norm is at most the product of Frobenius norms. Returned entries are off
by u relatively, of the working precision and of the result's, which changes the norm by at most u times bound 2, and by
an absolute underflow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import KernelError
from specnorm.geometry import polyphase
from specnorm.grid import proof as grid
from specnorm.grid.search import grid_points
from specnorm.proofs import norms, rounding
from specnorm.symbols.proofs.polynomial import Polynomial
from specnorm.unfoldings.proof import supremum_up_from_unfolding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec

_SQUARINGS = 8
"""Squarings of ``M M^T`` (n, n). Of a projector, whose norm is 1, the bound is up to ``sqrt(n) / 2`` (at a rank of
``n / 2``), and its root of order 512 is taken: 1.005 for n = 512. With four squarings it is 1.08."""
_COLUMNS = 256
"""Columns of one product ``M M^T``; longer ones are summed in parts, since gamma grows with the length."""
_LEAST_DIVISOR = 2.0**-10
"""Kernels of a smaller norm are not enlarged by more than this: their factor could overflow."""


_PRECISIONS = {"float64": (53, -1022), "float32": (24, -126), "bfloat16": (8, -126), "float16": (11, -14)}
"""For each dtype: digits, and exponent of the smallest normal number."""


@dataclass(frozen=True)
class Limit:
    """A limit for the norm of a layer, and the precision in which its kernel is returned.

    Parameters
    ----------
    value : float
    unit : float
        Unit roundoff of the kernel's dtype.
    underflow : float
        Absolute error of an entry that is rounded to that dtype, besides the relative one.
    """

    value: float
    unit: float
    underflow: float

    @classmethod
    def of(cls, bound: float, spec: ConvSpec, dtype: str) -> Limit:
        """The limit for the norm of a layer's symbols, from a bound of the layer's norm; padding may lift it above.

        Raises
        ------
        KernelError
            If the bound is not positive, or too large or small for the dtype.
        """
        digits, least_exponent = _PRECISIONS[dtype]
        most = 2.0 ** (-least_exponent * 0.75)
        if not 1 / most <= bound <= most:
            raise KernelError(f"bound={bound!r} is not a number from {1 / most:.3g} to {most:.3g}, as {dtype} needs.")
        # Processors and compilers flush subnormal numbers of the other dtypes to zero, but not those of float16.
        underflow = 2.0 ** (least_exponent - (digits if dtype == "float16" else 0))
        # The roundings: the root and the quotient.
        return cls(bound / math.sqrt(spec.padding_gain_sq) * (1 - 4 * 2.0**-53), 2.0**-digits, underflow)


@dataclass(frozen=True)
class Window:
    """Fejér's window on kernels with one or three taps on each axis, and the frequencies 0 and pi of each axis.

    Parameters
    ----------
    weights : ndarray, shape (taps,)
        The window ``w``: 1/2, 1, 1/2 on an axis with three taps.
    signs : ndarray, shape (frequencies, taps)
        ``exp(i t θ)``, which is 1 or -1.
    """

    weights: np.ndarray
    signs: np.ndarray

    @classmethod
    def of(cls, kernel_shape: tuple[int, ...]) -> Window | None:
        """The window of a kernel's shape; None if an axis has another number of taps."""
        if not {*kernel_shape} <= {1, 3}:
            return None
        weights: np.ndarray = np.ones(1)
        signs: np.ndarray = np.ones((1, 1))
        for taps in kernel_shape:
            if taps == 3:
                weights = np.kron(weights, [0.5, 1.0, 0.5])
                signs = np.kron(signs, [[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]])
        return cls(weights, signs)

    def symbols(self, by_tap: Array, *, ops: ArrayOps) -> Array:
        """Symbols (b * frequencies, m, p) of kernels (b, m, p, taps) times the window."""
        xp = ops.xp
        b, m, p, taps = by_tap.shape
        table = xp.asarray((self.weights * self.signs).T, dtype=by_tap.dtype, device=ops.device(by_tap))
        symbols = xp.matmul(xp.reshape(by_tap, (b, m * p, taps)), table)
        return xp.reshape(xp.matrix_transpose(symbols), (-1, m, p))


def _joined(factors: Array, factor_norms: Array, window: Window, limit: Limit, *, ops: ArrayOps) -> Array:
    """Join matrices P_g, one for each frequency of a window, to kernels whose norm, as rounded, is within the limit.

    Let N be the number of frequencies, and ``D_t = w_t / N sum_g P_g exp(i t θ_g)``. Its symbol is
    ``sum_g F(θ - θ_g) P_g`` with ``F(φ) = 1 / N sum_t w_t exp(i t φ)``, a product of ``(1 + cos φ_j) / 2``. So F is not
    negative, and since ``(1 + cos φ) / 2 + (1 + cos(φ - pi)) / 2 = 1``, its values at ``θ - θ_g`` have the sum 1: each
    symbol of D is a convex combination of the P_g, whose norm is at most the largest of theirs. This holds at stride 1,
    and a stride only leaves out outputs.

    The weights and N are powers of two. So an entry of D_t is off by at most gamma(N) w_t / N times the sum of the
    magnitudes of N entries, and since ``sum_t w_t = N``, the norm by at most gamma(N) N times the largest norm of
    ``|P_g|``.

    Parameters
    ----------
    factors : array, shape (b * frequencies, m, p)
    factor_norms : array, shape (b * frequencies,)
        Bounds of their norms.

    Returns
    -------
    array, shape (b, m, p, taps)
    """
    xp = ops.xp
    _, m, p = factors.shape
    count, taps = window.signs.shape
    table = xp.asarray(window.signs * (window.weights / count), dtype=factors.dtype, device=ops.device(factors))
    columns = xp.matrix_transpose(xp.reshape(factors, (-1, count, m * p)))
    kernels = xp.reshape(xp.matmul(columns, table), (-1, m, p, taps))
    of_magnitudes = xp.max(xp.reshape(absolute_up(factors, xp=xp), (-1, count)), axis=1)
    lost = rounding.SLACK * rounding.gamma(count, rounding.unit(factors, xp=xp)) * count
    norm = rounding.up(xp.max(xp.reshape(factor_norms, (-1, count)), axis=1) + lost * of_magnitudes, 4, xp=xp)
    # N products and N - 1 sums of an entry may be flushed to 0, before `_scaled` enlarges it.
    flushed = 2 * count * float(xp.finfo(factors.dtype).smallest_normal) * limit.value / _LEAST_DIVISOR
    return _scaled(kernels, norm, count * of_magnitudes, limit, flushed=flushed, xp=xp)


def scaled_within(
    kernels: Array,
    taps: Array | None,
    limit: Limit,
    spec: ConvSpec,
    *,
    factors: Sequence[Array] = (),
    window: Window | None = None,
    ops: ArrayOps,
) -> list[Array]:
    """Multiply each kernel X by a number so that the norm of its layer, as rounded to the limit's dtype, is within it.

    Parameters
    ----------
    kernels : array, shape (b, m, p, *kernel_shape)
        Kernels of groups, of stride ``spec.stride``, in torch's order.
    taps : array, shape (b, m, p), optional
        Kernels with one tap that is not zero, any of the kernel's. The symbol is the tap at every frequency, but for a
        phase; with a stride, it is a column of the blocks of this symbol.
    factors : sequence of array, shape (b * frequencies, m, p)
        Matrices that ``window`` joins to kernels: one stack, or none.

    Returns
    -------
    list of array
        Kernels, and taps if there are any, in their shapes, and joined kernels (b, m, p, taps); to be rounded once
        more, to the limit's dtype.
    """
    xp = ops.xp
    absolute = Polynomial(kernels, xp=xp).absolute_norm_up
    matrices = xp.reshape(kernels, (*kernels.shape[:2], -1))
    bounds = matrix_norms_up([matrices, *([] if taps is None else [taps]), *factors], xp=xp)
    by_reshaping = supremum_up_from_unfolding(bounds[0], spec.block_kernel_shape, xp=xp)
    norm = xp.minimum(by_reshaping, absolute)
    if min(spec.block_shape[:2]) == 1 and math.prod(spec.block_kernel_shape) > 1:
        norm = xp.minimum(norm, _norm_on_grid_up(kernels, spec, ops=ops))
    scaled = [_scaled(kernels, norm, absolute, limit, xp=xp)]
    if taps is not None:
        scaled.append(_scaled(taps, bounds[1], absolute_up(taps, xp=xp), limit, xp=xp))
    if window is not None:
        scaled += [_joined(x, bounds[-1], window, limit, ops=ops) for x in factors]
    return scaled


def _scaled(
    kernels: Array, norm: Array, absolute: Array, limit: Limit, *, flushed: float = 0.0, xp: Namespace
) -> Array:
    """Kernels (b, m, p, *kernel_shape) scaled to a limit, from bounds of the norms of their layers and of ``|X|``'s.

    ``flushed``: what a scaled entry may be off by because of subnormal numbers before the scaling.
    """
    # Each entry is rounded by its product with the factor, and by its conversion.
    unit = rounding.unit(kernels, xp=xp)
    relative = rounding.SLACK * (unit + limit.unit)
    divisor = rounding.up(norm + absolute * relative, 4, xp=xp)
    divisor = xp.where(divisor < _LEAST_DIVISOR, xp.full_like(divisor, _LEAST_DIVISOR), divisor)
    value = max(limit.value - _norm_of_underflow(kernels, limit, flushed, xp=xp), 0.0)
    # The roundings: the conversion of the limit and the quotient.
    factor = rounding.down(value / divisor, 2, xp=xp)
    return kernels * xp.reshape(factor, (-1,) + (1,) * (kernels.ndim - 1))


def _norm_of_underflow(kernels: Array, limit: Limit, flushed: float = 0.0, *, xp: Namespace) -> float:
    """Bound of the norm of a layer whose entries are all as large as the underflows of an entry."""
    _, m, p, *kernel_shape = kernels.shape
    underflow = limit.underflow + float(xp.finfo(kernels.dtype).smallest_normal) + flushed
    return 1.01 * underflow * math.prod(kernel_shape) * math.sqrt(m * p)


def matrix_norms_up(parts: Sequence[Array], *, xp: Namespace) -> list[Array]:
    """Bounds (b,) of the norms of stacks of matrices M (b, m, n) with singular values of about 1, or 0.

    Let ``B_0 = fl(M M^T)`` and ``B_t = fl(B_{t-1}^T B_{t-1})``, with an error of norm at most e_t. After T squarings
    U_T, of `norms.largest_eigenvalue_up`, bounds the largest eigenvalue of B_T. That of the exact product is
    ``||B_{T-1}||**2``. Going back, ``||B_{t-1}|| <= sqrt(U_t + e_t) = U_{t-1}``, and at the end
    ``||M|| <= sqrt(U_0 + e_0)``. The norms have to be about 1: for a power that overflows, from 1.18 on in float32, the
    bound is infinite. The powers of all stacks, which may differ in b and n, are one stack.
    """
    if parts[0].shape[1] > parts[0].shape[2]:
        return [matrix_norms_up([xp.matrix_transpose(x)], xp=xp)[0] for x in parts]
    powers, first_errors = zip(*(_square_up(xp.matrix_transpose(x), xp=xp) for x in parts), strict=True)
    power = xp.concat(powers, axis=0)
    errors = [xp.concat(first_errors, axis=0)]
    for _ in range(_SQUARINGS):
        power, error = _square_up(power, xp=xp)
        errors.append(error)
    # Squares of entries below the root of the smallest normal number may be flushed to 0.
    underflow = power.shape[-1] * math.sqrt(float(xp.finfo(power.dtype).smallest_normal))
    bound = rounding.up(norms.largest_eigenvalue_up(power, xp=xp) + underflow, 2, xp=xp)
    for error in reversed(errors):
        bound = rounding.up(xp.sqrt(bound + error), 4, xp=xp)
    bound = xp.where(xp.isfinite(bound), bound, math.inf)
    ends = list(itertools.accumulate(x.shape[0] for x in parts))
    return [bound[end - x.shape[0] : end] for x, end in zip(parts, ends, strict=True)]


def _square_up(factors: Array, *, xp: Namespace) -> tuple[Array, Array]:
    """``Y^T Y`` of each matrix Y (b, n, m) as computed, and a bound (b,) of the norm of its error."""
    n, m = factors.shape[-2:]
    total: Array | None = None
    for first in range(0, n, _COLUMNS):
        rows = factors[:, first : min(first + _COLUMNS, n), :]
        part = xp.matmul(xp.matrix_transpose(rows), rows)
        total = part if total is None else total + part
    assert total is not None
    # An entry is a sum of products within a part, and of the parts.
    roundings = min(n, _COLUMNS) + arrays.ceil_div(n, _COLUMNS)
    relative = rounding.SLACK * rounding.gamma(roundings, rounding.unit(factors, xp=xp))
    # Of the product, and of the trace, which is the squared Frobenius norm of Y.
    underflow = float(xp.finfo(factors.dtype).smallest_normal) * 2 * n * m
    error = rounding.up(xp.linalg.trace(total) * relative + underflow, roundings + m + 4, xp=xp)
    return total, error


def absolute_up(matrices: Array, *, xp: Namespace) -> Array:
    """Bound of the norm of |M|, and so of M, for each M (b, m, n): the root of its largest row sum times column sum."""
    magnitudes = xp.abs(matrices)
    rows = xp.max(xp.sum(magnitudes, axis=2), axis=1)
    columns = xp.max(xp.sum(magnitudes, axis=1), axis=1)
    return rounding.up(xp.sqrt(rows) * xp.sqrt(columns), sum(matrices.shape[1:]) + 4, xp=xp)


def _norm_on_grid_up(kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Bound 3 of each kernel (b, m, p, *kernel_shape), whose blocks have one row or one column, shape (b,)."""
    xp = ops.xp
    by_group = polyphase.caller_order(xp.reshape(kernels, (-1, *spec.stored_channels, *spec.kernel_shape)), spec, xp=xp)
    columns = arrays.tall(polyphase.to_blocks(by_group, spec, xp=xp), xp=xp)
    kernel_shape = columns.shape[3:]
    sizes = grid_points(tuple(kernel_shape))
    largest = Polynomial(columns, xp=xp).norm_on_grid_up(sizes, ops=ops)
    return grid.everywhere_up(largest, sizes, tuple(kernel_shape), xp=xp)
