"""The largest ``||Q Rot K^T||`` of heads: without rotations, at the offsets that are used, or at every offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.logits import proof, search
from specnorm.logits.proof import OffsetProof, Side, Turns

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_FIRST = 16
"""Number of offsets whose norms are bounded first: the likely largest ones."""
_MOST_ODDS = 8
"""Most choices of the biases' odds, each the best at one offset."""
_GAIN = 1e-3
"""Relative gain from which on another choice is tried."""
_BYTES_AT_ONCE = 2**22
"""Bytes of the matrices of a stack of offsets, so that they stay in the cache."""


class Touching(NamedTuple):
    """The derivative of bounds by the matrices Q (or K) of heads: outer products ``tokens head^T``.

    Attributes
    ----------
    tokens : array, shape (b, d)
        Times the factor of the matrix.
    bias : array, shape (b,)
        The entry of the bias's row, times the factor of the bias; 0 without.
    head : array, shape (b, d_head)
    """

    tokens: Array
    bias: Array
    head: Array


class Top(NamedTuple):
    """Bounds (b,) of heads, and their derivatives by queries and by keys."""

    bound: Array
    left: Touching
    right: Touching


def largest(queries: Side, keys: Side, angles: np.ndarray, offsets: Sequence[int] | None, *, ops: ArrayOps) -> Top:
    """Bound heads; without values, or offsets, at every offset. Parameters as of `LogitBound`."""
    xp = ops.xp
    odds = search.first_odds(queries, xp=xp), search.first_odds(keys, xp=xp)
    if not len(angles):
        product, _ = proof.products(queries.root, keys.root, None, xp=xp)
        odds = search.best_odds(product, queries, keys, odds, ops=ops)
        left, right = queries.weighted(odds[0], xp=xp), keys.weighted(odds[1], xp=xp)
        bound = proof.largest_up(proof.at_one_offset_up(left, right, ops=ops), left, right, xp=xp)
        return _top(bound, queries, keys, odds, left, right, None, ops=ops)
    if offsets is None or ops.traced:
        return _at_every_offset(queries, keys, odds, len(angles), ops=ops)
    heads = queries.root.shape[0]
    positions = np.asarray(offsets)
    found = []
    for n in range(heads):
        of_head = odds[0][n : n + 1], odds[1][n : n + 1]
        found.append(_at_offsets(queries.take(n), keys.take(n), of_head, angles, positions, ops=ops))
    touching = [
        Touching(*(xp.concat(parts) for parts in zip(*side, strict=True)))
        for side in ([top.left for top in found], [top.right for top in found])
    ]
    return Top(xp.concat([top.bound for top in found]), *touching)


def _top(
    bound: Array,
    queries: Side,
    keys: Side,
    odds: tuple[Array, Array],
    left: Side,
    right: Side,
    turns: Turns | None,
    *,
    ops: ArrayOps,
) -> Top:
    """The derivative by the top singular vectors, at one offset of one head, or without turns."""
    xp = ops.xp
    turned = right.root if turns is None else turns.apply(right.root[0, ...], xp=xp)
    u, v, _ = arrays.top_triple(xp.matmul(left.root, xp.matrix_transpose(turned)), xp=xp)
    of_left = xp.matmul(v[:, None, :], turned)[:, 0, :]
    of_right = xp.matmul(u[:, None, :], left.root)
    of_right = of_right if turns is None else turns.back(of_right, xp=xp)
    return Top(
        bound,
        _touching(queries, odds[0], u, of_left, ops=ops),
        _touching(keys, odds[1], v, of_right[:, 0, :], ops=ops),
    )


def _touching(side: Side, odds: Array, vector: Array, head: Array, *, ops: ArrayOps) -> Touching:
    xp = ops.xp
    of_matrix, of_bias = side.factors(odds, xp=xp)
    rows = side.basis.shape[2]
    tokens = xp.matmul(side.basis, vector[:, :rows, None])[..., 0] * of_matrix[:, None]
    bias = vector[:, -1] * of_bias if side.has_bias else xp.zeros_like(of_bias)
    return Touching(tokens, bias, head)


def _at_every_offset(queries: Side, keys: Side, odds: tuple[Array, Array], pairs: int, *, ops: ArrayOps) -> Top:
    xp = ops.xp
    left, right = queries.weighted(odds[0], xp=xp), keys.weighted(odds[1], xp=xp)
    scales = search.pair_scales(left.root, right.root, pairs, xp=xp)
    bound = proof.largest_up(proof.at_every_offset_up(left, right, scales, ops=ops), left, right, xp=xp)
    u, head_of_left, norm_of_left = arrays.top_triple(left.root * scales[:, None, :], xp=xp)
    v, head_of_right, norm_of_right = arrays.top_triple(right.root / scales[:, None, :], xp=xp)
    return Top(
        bound,
        _touching(queries, odds[0], u, head_of_left * scales * norm_of_right[:, None], ops=ops),
        _touching(keys, odds[1], v, head_of_right / scales * norm_of_left[:, None], ops=ops),
    )


class _Weighted(NamedTuple):
    """Both sides of one head with one choice of odds, and the likely norm at each offset (n,)."""

    odds: tuple[Array, Array]
    left: Side
    right: Side
    likely: np.ndarray


def _at_offsets(
    queries: Side, keys: Side, odds: tuple[Array, Array], angles: np.ndarray, offsets: np.ndarray, *, ops: ArrayOps
) -> Top:
    """The largest bound at offsets (n,) of one head, and where it is nearly attained.

    With biases every offset has its own best odds: those of a few offsets are tried at all others.
    """
    xp = ops.xp
    turns = _TurnsAt(angles, offsets, queries.root, ops)
    everywhere = turns(np.arange(len(offsets)))

    def weighted(odds: tuple[Array, Array]) -> _Weighted:
        left, right = queries.weighted(odds[0], xp=xp), keys.weighted(odds[1], xp=xp)
        likely = search.likely_norms(left.root[0, ...], right.root[0, ...], everywhere, ops=ops)
        return _Weighted(odds, left, right, np.asarray(ops.to_numpy(likely)))

    choices = [weighted(odds)]
    likely = choices[0].likely
    while queries.has_bias or keys.has_bias:
        place = int(np.argmax(likely))
        product, _ = proof.products(queries.root[0, ...], keys.root[0, ...], turns(np.array([place])), xp=xp)
        new = weighted(search.best_odds(product, queries, keys, odds, ops=ops))
        is_first = choices[0].odds is odds
        choices = [new] if is_first else [*choices, new]
        if len(choices) == _MOST_ODDS or not (is_first or new.likely[place] < likely[place] * (1 - _GAIN)):
            break
        likely = np.min([choice.likely for choice in choices], axis=0)
    return _Search(queries, keys, choices, turns, ops).largest()


class _TurnsAt(NamedTuple):
    """Turns at some of the offsets, by their indices."""

    angles: np.ndarray
    offsets: np.ndarray
    like: Array
    ops: ArrayOps

    def __call__(self, index: np.ndarray) -> Turns:
        return Turns.of(self.angles, self.offsets[index], self.like, ops=self.ops)


class _Search:
    """The search for the largest norm at the offsets of one head.

    Parameters
    ----------
    queries, keys : Side
        Without weights.
    choices : list of _Weighted
    turns : _TurnsAt
    """

    def __init__(self, queries: Side, keys: Side, choices: list[_Weighted], turns: _TurnsAt, ops: ArrayOps) -> None:
        self._queries, self._keys, self._choices, self._turns, self._ops = queries, keys, choices, turns, ops
        self._norm = 0.0
        self._bound = ops.xp.zeros_like(queries.error)
        self._top = choices[0], 0

    def largest(self) -> Top:
        """The bound and its derivative."""
        chosen = np.argmin([choice.likely for choice in self._choices], axis=0)
        parts = [np.flatnonzero(chosen == number) for number in range(len(self._choices))]
        highest = [np.max(choice.likely[part], initial=0.0) for choice, part in zip(self._choices, parts, strict=True)]
        for number in np.argsort(highest)[::-1]:
            if len(parts[number]):
                self._add(self._choices[number], parts[number])
        choice, place = self._top
        turns = self._turns(np.array([place]))
        return _top(
            self._bound, self._queries, self._keys, choice.odds, choice.left, choice.right, turns, ops=self._ops
        )

    def _add(self, choice: _Weighted, index: np.ndarray) -> None:
        """Include the offsets with these indices.

        The likely largest ones are bounded first. For the others one factorization each proves that they are no larger;
        where it fails, they are bounded as well.
        """
        xp, left, right = self._ops.xp, choice.left, choice.right
        index = index[np.argsort(-choice.likely[index], kind="stable")]
        self._bound_each(index[:_FIRST])
        rest = index[_FIRST:]
        if not len(rest):
            return
        scales = search.pair_scales(left.root, right.root, len(self._turns.angles), xp=xp)
        at_every_offset = float(proof.at_every_offset_up(left, right, scales, ops=self._ops)[0])
        if at_every_offset <= self._norm:
            self._include(at_every_offset, choice)
            return
        at_once = max(1, _BYTES_AT_ONCE // (8 * int(left.root.shape[2]) ** 2))
        proofs = OffsetProof(left, right, ops=self._ops)
        error = self._turns(rest).error
        limit_sq = proofs.limit_sq(self._norm, error)
        for start in range(0, len(rest), at_once):
            part = rest[start : start + at_once]
            if limit_sq > 0:
                part = part[~proofs.below(limit_sq, self._turns(part))]
            if len(part):
                self._bound_each(part)
                limit_sq = max(limit_sq, proofs.limit_sq(self._norm, error))
        if limit_sq > 0:
            self._include(proofs.bound_up(limit_sq, error), choice)

    def _include(self, norm: float, choice: _Weighted) -> None:
        xp = self._ops.xp
        norms = xp.full_like(self._queries.error, norm)
        self._bound = xp.maximum(self._bound, proof.largest_up(norms, choice.left, choice.right, xp=xp))

    def _bound_each(self, index: np.ndarray) -> None:
        """Bound the norms at these offsets, each by the best choice."""
        turns = self._turns(index)
        bounds = []
        for choice in self._choices:
            found = proof.at_offsets_up(choice.left, choice.right, turns, ops=self._ops)
            bounds.append(np.asarray(self._ops.to_numpy(found)))
        best = np.argmin(bounds, axis=0)
        for number, choice in enumerate(self._choices):
            norms = bounds[number][best == number]
            if not norms.size:
                continue
            norm = float(np.max(norms))
            self._include(norm, choice)
            if norm > self._norm:
                self._norm = norm
                self._top = choice, int(index[best == number][np.argmax(norms)])
