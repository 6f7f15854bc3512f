"""Proven upper bounds of attention logits.

A *token* is what a norm layer gives: ``x = g * z + b`` with ``|z| <= sqrt(d)``, and ``sum(z) = 0`` after a layer norm.
With the bias, the query of a head is ``W x + c``. Signs do not matter, since -z is possible too: the largest absolute
logit is that of ``[z, +-1]`` and ``[z', +-1]``, both signs free. By Lagrange, it is at most the norm of
``Q Rot K^T`` for the matrices (d + 1, d_head)

    Q = [sqrt(d / (1 - t)) (W g)^T; (W b + c)^T / sqrt(t)]

and K alike, for every t in (0, 1). Without biases the last row is left out with t = 0, and the bound is attained.

The small matrices that are computed with are the triangular factors R of ``Q = O R``: `Side` counts what the
factorization loses. Rot turns pairs of numbers of a head by the offset of two positions, times an angle for each pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms, rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_TRIGONOMETRY = 2.0**-49
"""Largest error of a cosine or sine by NumPy, in float64; twice the four units in the last place that it allows."""


class Weights(NamedTuple):
    """Matrices of queries, or of keys, on what the norm layer has scaled to length ``sqrt(d)``; as computed.

    Attributes
    ----------
    matrix : array, shape (b, d, d_head)
        ``(W g)^T``, its columns' means removed for a layer norm, times ``2**-exponent``.
    matrix_error : array, shape (b,)
        Bound of the Frobenius norm of its error.
    bias : array, shape (b, d_head), or None
        ``W b + c``, times ``2**-exponent``; None without biases.
    bias_error : array, shape (b,)
    exponent : array, shape (b,)
    """

    matrix: Array
    matrix_error: Array
    bias: Array | None
    bias_error: Array
    exponent: Array


def weights(
    matrix: Array, gain: Array | None, shift: Array | None, bias: Array | None, *, centered: bool, ops: ArrayOps
) -> Weights:
    """Combine matrices (b, d_head, d) with gains (b, d), shifts (b, d) of the norm layer, and biases (b, d_head)."""
    xp = ops.xp
    d = matrix.shape[2]
    scaled, exponent = arrays.scale(matrix, xp=xp)
    scaled_gain = None
    if gain is not None:
        scaled_gain, of_gain = arrays.scale(gain, xp=xp)
        exponent = exponent + of_gain
    product = scaled if scaled_gain is None else scaled * scaled_gain[:, None, :]
    roundings = 0 if scaled_gain is None else 1
    length = norms.frobenius_up(product, xp=xp)
    if centered:
        # A mean of d numbers, relative to their length over sqrt(d), and the difference.
        product = product - xp.sum(product, axis=-1, keepdims=True) / d
        roundings += d + 4
    matrix_error = _times(length, roundings, xp=xp)
    total = None
    bias_error = xp.zeros_like(matrix_error)
    if shift is not None:
        # W is scaled by 2**-a, and the sum by 2**-(a + c), with c the exponent of the gain.
        shift = shift if gain is None else arrays.unscale_blocks(shift, -of_gain, xp=xp)
        total = xp.matmul(scaled, shift[..., None])[..., 0]
        of_shift = norms.frobenius_up(shift[:, None, :], xp=xp)
        bias_error = rounding.up(norms.frobenius_up(scaled, xp=xp) * of_shift, 2, xp=xp) * _gamma(d + 2, total, xp=xp)
    if bias is not None:
        bias = arrays.unscale_blocks(bias, -exponent, xp=xp)
        total = bias if total is None else total + bias
    if total is not None:
        of_total = norms.frobenius_up(total[:, None, :], xp=xp)
        bias_error = rounding.up(bias_error + of_total * _gamma(2, total, xp=xp), 2, xp=xp)
    # Gains may be small where the matrix is large: scaled once more, so that squares are about 1.
    more = arrays.exponents(product, xp=xp)
    if total is not None:
        more = xp.maximum(more, arrays.exponents(total, xp=xp))
        total = arrays.unscale_blocks(total, -more, xp=xp)
    return Weights(
        xp.matrix_transpose(arrays.unscale_blocks(product, -more, xp=xp)),
        arrays.unscale(matrix_error, -more, xp=xp),
        total,
        arrays.unscale(bias_error, -more, xp=xp),
        exponent + more,
    )


def _gamma(n: int, like: Array, *, xp: Namespace) -> float:
    return rounding.SLACK * rounding.gamma(n, rounding.unit(like, xp=xp))


def _times(length: Array, roundings: int, *, xp: Namespace) -> Array:
    """The error of a matrix of this length, by the number of roundings of each entry."""
    return rounding.up(length * _gamma(max(roundings, 1), length, xp=xp), 2, xp=xp) if roundings else length * 0.0


@dataclass(frozen=True, eq=False)
class Side:
    """Queries or keys of heads: small matrices R such that Q is an O R with orthonormal columns in O, and an error.

    Parameters
    ----------
    root : array, shape (b, r, d_head)
        R. With biases, its last row is the bias.
    basis : array, shape (b, d, k)
        O as computed, without the row and column of the bias; for gradients.
    stretch : array, shape (b,)
        Bound of ``||O||``.
    error : array, shape (b,)
        Bound of ``||Q - O R||``, without the bias's row before `weighted`.
    bias_error : array, shape (b,)
        Before `weighted`: bound of the error of the bias.
    length : array, shape (b,)
        Bound of ``||Q||``, by the Frobenius norm, without the bias's error before `weighted`.
    has_bias : bool
    """

    root: Array
    basis: Array
    stretch: Array
    error: Array
    bias_error: Array
    length: Array
    has_bias: bool

    @classmethod
    def of(cls, given: Weights, *, xp: Namespace) -> Side:
        """Factorize matrices (b, d, d_head), before the factors of t (`weighted`) are applied."""
        basis, root = xp.linalg.qr(given.matrix)
        basis_sq = norms.gram_norm_up(basis, xp=xp)
        stretch = rounding.up(xp.sqrt(xp.maximum(basis_sq, xp.ones_like(basis_sq))), 2, xp=xp)
        rest = norms.frobenius_up(given.matrix - xp.matmul(basis, root), xp=xp)
        # The error of the product is relative to |O| |R|, and that of the difference to both.
        lengths = norms.frobenius_up(basis, xp=xp) * norms.frobenius_up(root, xp=xp)
        error = rounding.up(rest + lengths * _gamma(root.shape[1] + 6, root, xp=xp) + given.matrix_error, 4, xp=xp)
        if given.bias is not None:
            root = xp.concat([root, given.bias[:, None, :]], axis=1)
        length = rounding.up(norms.frobenius_up(root, xp=xp) * stretch + error, 4, xp=xp)
        return cls(root, basis, stretch, error, given.bias_error, length, given.bias is not None)

    def factors(self, odds: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Factors (b,) of the matrix and of the bias, ``sqrt(d / (1 - t))`` and ``1 / sqrt(t)``.

        ``odds`` (b,): ``t / (1 - t)``; without biases they are not read.
        """
        tokens = float(self.basis.shape[1])
        if not self.has_bias:
            return xp.full_like(odds, math.sqrt(tokens)), xp.zeros_like(odds)
        return xp.sqrt((1 + odds) * tokens), xp.sqrt((1 + odds) / odds)

    def factors_of_rows(self, odds: Array, *, xp: Namespace) -> Array:
        """The factors of the rows of R, (b, r)."""
        of_matrix, of_bias = self.factors(odds, xp=xp)
        rows = self.root.shape[1] - self.has_bias
        of_rows = xp.broadcast_to(of_matrix[:, None], (of_matrix.shape[0], rows))
        return xp.concat([of_rows, of_bias[:, None]], axis=1) if self.has_bias else of_rows

    def weighted(self, odds: Array, *, xp: Namespace) -> Side:
        """The same of the matrix that bounds logits."""
        of_matrix, of_bias = self.factors(odds, xp=xp)
        root = self.root * self.factors_of_rows(odds, xp=xp)[..., None]
        # The factors are correct to eight roundings.
        lost = norms.frobenius_up(root, xp=xp) * self.stretch * _gamma(10, root, xp=xp)
        error = rounding.up(of_matrix * self.error + of_bias * self.bias_error + lost, 16, xp=xp)
        length = rounding.up(norms.frobenius_up(root, xp=xp) * self.stretch + error, 4, xp=xp)
        return Side(root, self.basis, self.stretch, error, self.bias_error, length, self.has_bias)

    def take(self, index: int) -> Side:
        """One of the heads, as a stack of one."""
        part = slice(index, index + 1)
        return Side(
            self.root[part, ...],
            self.basis[part, ...],
            self.stretch[part, ...],
            self.error[part, ...],
            self.bias_error[part, ...],
            self.length[part, ...],
            self.has_bias,
        )


def largest_up(norm: Array, queries: Side, keys: Side, *, xp: Namespace) -> Array:
    """Bounds (b,) of ``||Q Rot K^T||`` from those of ``||R Rot S^T||``, with the small matrices R and S."""
    inner = queries.stretch * norm * keys.stretch
    # ``||O R||`` is at most ``||Q||`` and the error.
    of_errors = queries.error * keys.length + (queries.length + queries.error) * keys.error
    return rounding.up(inner + of_errors, 8, xp=xp)


class Turns(NamedTuple):
    """Cosines and sines (n, pairs) of offsets, and a bound of their errors."""

    cos: Array
    sin: Array
    error: float

    @classmethod
    def of(cls, angles: np.ndarray, offsets: np.ndarray, like: Array, *, ops: ArrayOps) -> Turns:
        """The turns by ``-offset * angle``: of a key, as the query at a position later by the offset sees it."""
        turns = -offsets.astype(np.float64)[:, None] * angles[None, :]
        # The rounding of the product is an error of the angle.
        error = float(np.max(np.abs(turns), initial=0.0)) * 2.0**-52 + _TRIGONOMETRY
        error += 2 * rounding.unit(like, xp=ops.xp)
        cos, sin = (arrays.device_table(x, like, ops=ops) for x in (np.cos(turns), np.sin(turns)))
        return cls(cos, sin, error)

    def apply(self, rows: Array, *, xp: Namespace) -> Array:
        """``X Rot^T`` at each offset, (n, m, d_head), for one matrix X (m, d_head), or for one at each offset."""
        count, pairs = self.cos.shape
        cos, sin = self.cos[:, None, :], self.sin[:, None, :]
        first, second = rows[..., :pairs], rows[..., pairs : 2 * pairs]
        turned = [first * cos - second * sin, first * sin + second * cos]
        if rows.shape[-1] > 2 * pairs:
            rest = rows[..., 2 * pairs :]
            turned.append(xp.broadcast_to(rest, (count, *rest.shape[-2:])))
        return xp.concat(turned, axis=-1)

    def back(self, rows: Array, *, xp: Namespace) -> Array:
        """``X Rot``: `apply` with the inverse."""
        return Turns(self.cos, -self.sin, self.error).apply(rows, xp=xp)

    def loss(self, like: Array, *, xp: Namespace) -> float:
        """Return e such that `apply` changes a matrix X by at most ``e ||X||_F``.

        Two numbers of a pair have errors of three roundings of ``|cos x| + |sin y|``, and of the table's.
        """
        return rounding.SLACK * (2 * rounding.gamma(4, rounding.unit(like, xp=xp)) + 2 * self.error)


def products(queries: Array, keys: Array, turns: Turns | None, *, xp: Namespace) -> tuple[Array, Array]:
    """``R Rot S^T`` of small matrices, and a bound of their errors.

    Without turns: ``queries`` (b, r, d_head), ``keys`` (b, s, d_head), for (b, r, s) and (b,). With: one head (r,
    d_head), (s, d_head), for (n, r, s) and (n,).
    """
    turned = keys if turns is None else turns.apply(keys, xp=xp)
    product = xp.matmul(queries, xp.matrix_transpose(turned))
    loss = 0.0 if turns is None else turns.loss(keys, xp=xp)
    relative = rounding.product_error(queries.shape[-1], product, xp=xp) * (1 + loss) + loss
    lengths = norms.frobenius_up(queries, xp=xp) * norms.frobenius_up(keys, xp=xp)
    error = rounding.up(lengths * (rounding.SLACK * relative), 4, xp=xp)
    return product, xp.broadcast_to(error, product.shape[:-2])


def at_one_offset_up(queries: Side, keys: Side, *, ops: ArrayOps) -> Array:
    """Bounds (b,) of ``||R S^T||``: of heads without rotary positions."""
    product, error = products(queries.root, keys.root, None, xp=ops.xp)
    return norms.matrix_norm_up(product, error, ops=ops)


def at_offsets_up(queries: Side, keys: Side, turns: Turns, *, ops: ArrayOps) -> Array:
    """Bounds (n,) of ``||R Rot S^T||`` at offsets, of one head."""
    product, error = products(queries.root[0, ...], keys.root[0, ...], turns, xp=ops.xp)
    return norms.matrix_norm_up(product, error, ops=ops)


def at_every_offset_up(queries: Side, keys: Side, scales: Array, *, ops: ArrayOps) -> Array:
    """Bounds (b,) of ``||R Rot S^T||`` at every real offset, by ``||R D|| ||S D^-1||``.

    D is diagonal and equal for both numbers of a pair, so it commutes with every Rot.

    ``scales`` (b, d_head): D, positive; every choice is valid.
    """
    xp = ops.xp
    bounds = []
    for root, factors in ((queries.root, scales), (keys.root, 1 / scales)):
        scaled = root * factors[:, None, :]
        error = norms.frobenius_up(scaled, xp=xp) * _gamma(4, scaled, xp=xp)
        exponent = arrays.exponents(scaled, xp=xp)
        parts = arrays.unscale_blocks(scaled, -exponent, xp=xp), arrays.unscale(error, -exponent, xp=xp)
        bounds.append(arrays.unscale(norms.matrix_norm_up(*parts, ops=ops), exponent, xp=xp))
    return rounding.up(bounds[0] * bounds[1], 4, xp=xp)


def scaled_up(bound: Array, scale: float, exponent: Array, *, eager: bool, xp: Namespace) -> Array:
    """``scale * bound * 2**exponent``, from bounds (b,) and exponents (b,); infinite where the bound overflowed.

    ``scale``: correct to two roundings. ``eager``: as of `rounding.kept_positive`.
    """
    scaled = rounding.up(bound * scale, 4, xp=xp)
    value = rounding.kept_positive(arrays.unscale(scaled, exponent, xp=xp), scaled, eager=eager, xp=xp)
    return xp.where(xp.isnan(value), math.inf, value)


class OffsetProof:
    """Proofs of a limit of ``||R Rot S^T||`` at many offsets of one head, by one Cholesky factorization each.

    With any symmetric P let ``||R P R^T|| <= c``. If ``T**2 P - Rot S^T S Rot^T >= -e I``, then
    ``||R Rot S^T||**2 = ||R (Rot S^T S Rot^T) R^T|| <= T**2 c + e ||R||**2``. With P about the inverse of ``R^T R``, c
    is about 1, and nothing but a rotation of the Gram matrix is computed for each offset.

    Parameters
    ----------
    queries, keys : Side
        Of one head.
    """

    SHIFT = 1e-6
    """Multiple of ``||R^T R||`` that is added before the inversion. No proof rests on it."""

    def __init__(self, queries: Side, keys: Side, *, ops: ArrayOps) -> None:
        self._ops = ops
        xp = ops.xp
        root, right = queries.root[0, ...], keys.root[0, ...]
        size = root.shape[-1]
        gram = xp.matmul(xp.matrix_transpose(root), root)
        largest = float(xp.linalg.eigvalsh(gram)[-1])
        eye = xp.eye(size, dtype=root.dtype, device=ops.device(root))
        inverse = xp.linalg.inv(gram + (self.SHIFT * largest) * eye)
        self._inverse = (inverse + xp.matrix_transpose(inverse)) / 2
        half = xp.matmul(root, self._inverse)
        product = xp.matmul(half, xp.matrix_transpose(root))
        length = norms.frobenius_up(root, xp=xp)
        of_inverse = norms.frobenius_up(self._inverse, xp=xp)
        self._of_inverse = float(of_inverse)
        error = length**2 * of_inverse * _gamma(2 * size + 8, root, xp=xp)
        # c: of the symmetric part, whose norm is no larger.
        self._ratio = float(rounding.up(norms.matrix_norm_up(product, error, ops=ops), 2, xp=xp))
        self._length_sq = float(rounding.up(norms.matrix_norm_up(root, ops=ops) ** 2, 2, xp=xp))
        self._gram = xp.matmul(xp.matrix_transpose(right), right)
        self._keys_sq = float(rounding.up(norms.frobenius_up(right, xp=xp) ** 2, 2, xp=xp))
        self._rows = int(right.shape[0])
        self._trace = float(rounding.up(xp.linalg.trace(xp.abs(self._inverse)), size + 2, xp=xp))

    def limit_sq(self, bound: float, error: float) -> float:
        """The T**2 that proves a bound, or a little less; not positive if none does.

        ``error``: of the turns.
        """
        return (bound**2 * (1 - 2.0**-40) - self._lost(bound**2, error) * self._length_sq) / self._ratio

    def bound_up(self, limit_sq: float, error: float) -> float:
        """The bound that `below` proves."""
        value = limit_sq * self._ratio + self._lost(limit_sq, error) * self._length_sq
        return math.sqrt(value * (1 + 2.0**-48)) * (1 + 2.0**-50)

    def _lost(self, limit_sq: float, error: float) -> float:
        """The e: the loss of the factorization, and errors of the Gram matrix, its rotation, and the difference."""
        xp = self._ops.xp
        size = int(self._gram.shape[-1])
        unit = rounding.unit(self._gram, xp=xp)
        loss = norms.cholesky_loss(size, self._gram, xp=xp) * limit_sq * self._trace * (1 + 2.0**-40)
        of_turns = 2 * (2 * rounding.gamma(4, unit) + 2 * error)
        of_gram = self._keys_sq * (rounding.gamma(self._rows, unit) + of_turns)
        of_difference = 3 * unit * (limit_sq * self._of_inverse + 2 * self._keys_sq)
        # A triangle of the matrix is read: twice the errors cover the other one. Second orders are in the slack.
        return rounding.SLACK * (loss + 2 * (of_gram + of_difference))

    def below(self, limit_sq: float, turns: Turns) -> np.ndarray:
        """Whether the factorization completes at each offset (n,)."""
        xp = self._ops.xp
        half = turns.apply(self._gram, xp=xp)
        whole = turns.apply(xp.matrix_transpose(half), xp=xp)
        return np.asarray(self._ops.to_numpy(self._ops.cholesky_ok(limit_sq * self._inverse - whole)))
