"""Where the bound of a logit is smallest or largest: the weights of biases, and the offsets that turn a head most.

Nothing here is proven; `specnorm.logits.proof` proves a bound for whatever is found.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.logits.proof import Side, Turns

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_STARTS = 12
_ASCENT_STEPS = 150
"""Starts, and steps from each, of the ascent for the weights of the biases."""
_LEAST_ODDS = 2.0**-40
"""A bias's share of a token that costs nothing, also where the bias is zero."""
_POWER_STEPS = 6
"""Products with ``A^T A`` at each offset, by which offsets are sorted."""
_SCALING_STEPS = 24
_SQUARINGS = 3


def first_odds(side: Side, *, xp: Namespace) -> Array:
    """Odds (b,) of the bias by lengths alone, which are the best for matrices of rank one if one side has a bias."""
    if not side.has_bias:
        return xp.ones_like(side.error)
    rows = side.root[:, :-1, :]
    of_rows = xp.linalg.vector_norm(rows, axis=(-2, -1)) * math.sqrt(side.basis.shape[1])
    of_bias = xp.linalg.vector_norm(side.root[:, -1, :], axis=-1)
    return _within(of_bias / xp.where(of_rows > 0, of_rows, xp.ones_like(of_rows)), xp=xp)


def _within(odds: Array, *, xp: Namespace) -> Array:
    return xp.clip(odds, _LEAST_ODDS, 1 / _LEAST_ODDS)


def best_odds(
    product: Array, queries: Side, keys: Side, odds: tuple[Array, Array], *, ops: ArrayOps
) -> tuple[Array, Array]:
    """Odds of both biases for which the norm of the weighted product is about the smallest.

    Queries and keys in turn are replaced by those of the largest logit with the other one. If these are the largest
    of all, the smallest bound equals their logit, and Lagrange's multipliers, which are its odds, follow from them.

    ``product`` (b, r, s): ``R Rot S^T`` without weights. ``odds``: of a side without a bias, or to begin with.
    """
    xp = ops.xp
    if not (queries.has_bias or keys.has_bias):
        return odds
    transposed = xp.matrix_transpose(product)
    length = math.sqrt(queries.basis.shape[1])
    start = arrays.real_vectors(1, (_STARTS, int(product.shape[1])))
    x = ops.from_numpy(start.astype(np.float64 if product.dtype == xp.float64 else np.float32), product)
    x = _tokens(xp.broadcast_to(x[None, ...], (product.shape[0], *x.shape)), length, queries.has_bias, xp=xp)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        y = _tokens(xp.matmul(state[0], product), length, keys.has_bias, xp=xp)
        return _tokens(xp.matmul(y, transposed), length, queries.has_bias, xp=xp), y

    y = _tokens(xp.matmul(x, product), length, keys.has_bias, xp=xp)
    x, y = arrays.repeated(step, _ASCENT_STEPS, (x, y), ops=ops)
    of_y = xp.matmul(x, product)
    best = xp.argmax(xp.vecdot(of_y, y), axis=1)
    of_x = xp.matmul(y, transposed)
    return (
        _odds_of(arrays.pick(of_x, best, xp=xp), length, xp=xp) if queries.has_bias else odds[0],
        _odds_of(arrays.pick(of_y, best, xp=xp), length, xp=xp) if keys.has_bias else odds[1],
    )


def _tokens(images: Array, length: float, has_bias: bool, *, xp: Namespace) -> Array:
    """The tokens (..., r) with the largest product with images: of this length, and with a bias's entry of 1 or -1."""
    rows = images[..., :-1] if has_bias else images
    norm = xp.linalg.vector_norm(rows, axis=-1, keepdims=True)
    rows = rows * (length / (norm + arrays.TINY))
    if not has_bias:
        return rows
    last = images[..., -1:]
    return xp.concat([rows, xp.where(last < 0, -xp.ones_like(last), xp.ones_like(last))], axis=-1)


def _odds_of(image: Array, length: float, *, xp: Namespace) -> Array:
    """Odds (b,) for which a token is a multiple of its image (b, r), after both are weighted."""
    norm = xp.linalg.vector_norm(image[:, :-1], axis=-1)
    return _within(xp.abs(image[:, -1]) / (norm * length + arrays.TINY), xp=xp)


def likely_norms(queries: Array, keys: Array, turns: Turns, *, ops: ArrayOps) -> Array:
    """Lower estimates (n,) of ``||R Rot S^T||`` at each offset, by a few power steps for all of them at once.

    ``queries`` (r, d_head); ``keys`` (s, d_head).
    """
    xp = ops.xp
    count, pairs = turns.cos.shape

    def turn(columns: Array, sign: float) -> Array:
        """Rot, or its inverse, times columns (d_head, n), each at its own offset."""
        cos, sin = xp.matrix_transpose(turns.cos), xp.matrix_transpose(turns.sin) * sign
        first, second = columns[:pairs, :], columns[pairs : 2 * pairs, :]
        return xp.concat([first * cos - second * sin, first * sin + second * cos, columns[2 * pairs :, :]], axis=0)

    start = arrays.real_vectors(0, (int(keys.shape[0]), 1)).astype(np.float64)
    v = xp.broadcast_to(ops.from_numpy(np.array(start), keys), (keys.shape[0], count))
    norm = v[0, :]
    for _ in range(_POWER_STEPS):
        u = xp.matmul(queries, turn(xp.matmul(xp.matrix_transpose(keys), v), 1.0))
        u = u / (xp.linalg.vector_norm(u, axis=0) + arrays.TINY)
        v = xp.matmul(keys, turn(xp.matmul(xp.matrix_transpose(queries), u), -1.0))
        norm = xp.linalg.vector_norm(v, axis=0)
        v = v / (norm + arrays.TINY)
    return norm


def pair_scales(queries: Array, keys: Array, pairs: int, *, xp: Namespace) -> Array:
    """Diagonals D (b, d_head), equal on pairs, for which ``||R D|| ||S D^-1||`` is about the smallest.

    At the smallest, each pair has the same share of both top right singular vectors. A step changes the logarithms of D
    by the difference of the shares in powers of the Gram matrices, whose top vectors need not be single.
    """
    grams = [xp.matmul(xp.matrix_transpose(x), x) for x in (queries, keys)]

    def pooled(entries: Array) -> Array:
        """Sums over pairs, repeated for both; other entries as they are."""
        both = entries[:, :pairs] + entries[:, pairs : 2 * pairs]
        return xp.concat([both, both, 2 * entries[:, 2 * pairs :]], axis=1)

    squares = [pooled(xp.linalg.diagonal(gram)) for gram in grams]
    tiny = [1e-12 * xp.max(x, axis=1, keepdims=True) + arrays.TINY for x in squares]
    logarithm = xp.log2((squares[1] + tiny[1]) / (squares[0] + tiny[0])) / 4
    for number in range(_SCALING_STEPS):
        shares = []
        for gram, sign in zip(grams, (1.0, -1.0), strict=True):
            exponent = sign * logarithm
            exponent = exponent - xp.max(exponent, axis=1, keepdims=True)
            scale = arrays.power_of_two(exponent, xp=xp)
            power = gram * scale[:, :, None] * scale[:, None, :]
            for _ in range(_SQUARINGS):
                power = power / (xp.linalg.trace(power)[:, None, None] + arrays.TINY)
                power = xp.matmul(power, power)
            diagonal = xp.linalg.diagonal(power)
            shares.append(pooled(diagonal) / (xp.sum(diagonal, axis=1, keepdims=True) + arrays.TINY))
        logarithm = logarithm + (shares[1] - shares[0]) * (2.0 / (1 + number / 4))
    middle = (xp.max(logarithm, axis=1, keepdims=True) + xp.min(logarithm, axis=1, keepdims=True)) / 2
    exponent = xp.clip(logarithm - middle, -20.0, 20.0)
    return arrays.power_of_two(exponent, xp=xp)
