"""The constant of a run's weights on a grid of frequencies, and its gradient: what `descent` makes small.

At each frequency the values that later links read have a positive definite matrix F, the Schur complement of the
quadratic form of `segments` where all earlier ones are eliminated. A link with map C from them, multipliers L and
slopes in [a, b] (c and e as in `segments.middle`) makes of it

    [[F - C* e^2 L C, -C* c L], [-L c C, L]],

from which what is read no more is eliminated. It is positive definite for

    L = share D / max_theta ||(h D^1/2) C F^-1 C* (D^1/2 h)||,    h^2 = c^2 + e^2,    0 < share < 1,

whatever the positive diagonal D is; ``share = 1/2``, ``D = 1`` is ECLipsE's closed form [1]_, frequency by frequency.
`descent` goes on by gradient steps on log D and the logit of the share: the largest eigenvalues are simple in general,
so that the gradient comes from one frequency for each. Where a run is cut, F begins anew as L, with c = 0 and share 1.
The constant's square is the largest eigenvalue of C F^-1 C* of the last link.

.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks",
   NeurIPS 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.stages import Stage, Vectors, adjoint

ALMOST = 1 / (1 + math.exp(-16))
"""The largest share."""


@dataclass(eq=False)
class _Kept:
    """What the way back needs of one stage."""

    multipliers: FloatArray
    largest: tuple[float, int, Vectors]
    solved: Vectors | None
    eliminated: Vectors | None


def value_and_gradient(
    run: Sequence[Stage], logs: Sequence[FloatArray], logits: FloatArray
) -> tuple[float, list[FloatArray], list[FloatArray], FloatArray]:
    """Logarithm of the constant's square on the grid, the multipliers, and its gradient.

    Parameters
    ----------
    run : sequence of Stage
        l of them.
    logs : sequence of array
        log D of the first l - 1.
    logits : array, shape (l - 1,)
        Of the shares.

    Returns
    -------
    value : float
    multipliers : list of array
    gradient : list of array, array
        With respect to logs and logits.
    """
    shares = _shares(run, logits)
    kept = forward(run, [*logs, last_log(run)], shares)
    return math.log(kept[-1].largest[0]), [each.multipliers for each in kept[:-1]], *_back(run, kept, shares)


def value_alone(run: Sequence[Stage], logs: Sequence[FloatArray], logits: FloatArray) -> tuple[float, list[FloatArray]]:
    """The first two results of `value_and_gradient`."""
    kept = forward(run, [*logs, last_log(run)], _shares(run, logits), tape=False)
    return math.log(kept[-1].largest[0]), [each.multipliers for each in kept[:-1]]


def last_log(run: Sequence[Stage]) -> FloatArray:
    """Logarithm of D of the last: it has no multipliers."""
    return np.zeros(run[-1].symbols.shape[1])


def _shares(run: Sequence[Stage], logits: FloatArray) -> FloatArray:
    """Of each stage; all of it at a cut."""
    return np.where([stage.cut for stage in run], 1.0, 1 / (1 + np.exp(-np.append(logits, 0.0))))


def forward(
    run: Sequence[Stage],
    logs: Sequence[FloatArray],
    shares: FloatArray | None,
    *,
    tape: bool = True,
    diagonal: FloatArray | None = None,
) -> list[_Kept]:
    """``shares``: None where D are the multipliers themselves; ``diagonal``: what the first value begins with."""
    kept: list[_Kept] = []
    form: Vectors | None = None  # a diagonal
    dense = 0
    real = run[0].symbols.real.dtype
    diagonal = np.ones(run[0].symbols.shape[2]) if diagonal is None else diagonal
    for i, (stage, log) in enumerate(zip(run, logs, strict=True)):
        right = adjoint(stage.symbols)
        solved = right / diagonal[:, None].astype(real) if form is None else _solved(form, right, dense)
        weight = np.exp(log / 2) * stage.spread
        gram, narrow = stage.symbols @ solved, weight.astype(real)
        if stage.summed:
            gram = gram.real.sum(axis=0, keepdims=True)
        norm, at, vector = stage.largest(narrow[:, None] * gram * narrow)
        if norm <= 0:  # a layer of zeros: any multipliers will do
            norm = 1.0
        share = 1.0 if stage.cut else min(norm, ALMOST) if shares is None else shares[i]
        lam = share * np.exp(log) / norm
        eliminated = None
        if stage.cut:
            form, diagonal = None, np.repeat(lam, stage.copies)
        elif not len(stage.kept) and not stage.leaf.any():
            steep = (stage.centre * lam).astype(real)
            gram *= -steep[:, None]
            gram *= steep
            own = np.arange(len(lam))
            gram[:, own, own] += lam.astype(real)
            form, dense = gram, 0
        else:
            before = form if form is not None else diagonal.astype(real) * np.eye(len(diagonal), dtype=real)
            form, eliminated = _eliminated(stage, before, lam.astype(real))
            dense = len(stage.kept) if len(stage.kept) == stage.symbols.shape[2] else 0
        kept.append(_Kept(lam, (norm, at, vector * weight), *((solved, eliminated) if tape else (None, None))))
    return kept


def _solved(form: Vectors, right: Vectors, dense: int) -> Vectors:
    """``form^-1 right``; ``dense``: entries but for which the form is diagonal, 0: all."""
    if not dense:
        return np.asarray(np.linalg.solve(form, right))
    between, diagonal = form[:, :dense, dense:], np.einsum("kii->ki", form[:, dense:, dense:]).real
    scaled = between / diagonal[:, None]
    inner = form[:, :dense, :dense] - scaled @ adjoint(between)
    first = np.linalg.solve(inner, right[:, :dense] - scaled @ right[:, dense:])
    second = (right[:, dense:] - adjoint(between) @ first) / diagonal[..., None]
    return np.concatenate([first, second], axis=1)


def _eliminated(stage: Stage, form: Vectors, lam: FloatArray) -> tuple[Vectors, Vectors]:
    """F after a link, and ``F_rr^-1 F_rk`` (r: what is read no more; k: kept, the link last)."""
    if stage.leaf.any():
        form = form - adjoint(stage.symbols) @ ((stage.leaf.astype(lam.dtype) ** 2 * lam)[:, None] * stage.symbols)
    joint: Vectors = -(stage.centre.astype(lam.dtype) * lam)[:, None] * stage.symbols
    gone, stay = _split(stage)
    m, n = len(lam), len(stay)
    new = np.zeros((joint.shape[0], n + m, n + m), dtype=joint.dtype)
    new[:, n:, n:] = np.diag(lam)
    between = adjoint(joint)[:, gone]
    if n:
        wide = np.broadcast_to(form, (joint.shape[0], *form.shape[-2:]))
        new[:, :n, :n] = wide[:, stay[:, None], stay]
        new[:, n:, :n], new[:, :n, n:] = joint[:, :, stay], adjoint(joint)[:, stay]
        between = np.concatenate([wide[:, gone[:, None], stay], between], axis=2)
    if not len(gone):
        return new, between
    inner = form if not n else form[..., gone[:, None], gone]
    solved = np.linalg.solve(np.broadcast_to(inner, (joint.shape[0], *inner.shape[-2:])), between)
    return new - adjoint(between) @ solved, solved


def _split(stage: Stage) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the values before a link go, and which stay."""
    return np.setdiff1d(np.arange(stage.symbols.shape[2]), stage.kept), stage.kept


def _back(run: Sequence[Stage], kept: Sequence[_Kept], shares: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """The gradient: F's cotangents, at the few frequencies where a largest eigenvalue is."""
    logs: list[FloatArray] = []
    logits = np.zeros(len(kept))
    at_all: list[int] = []
    cotangents: Vectors = np.zeros((0, 0, 0))
    after: FloatArray | None = None  # of the diagonal that the next part begins with
    for i in range(len(kept) - 1, -1, -1):
        stage, each = run[i], kept[i]
        lam, (norm, at, vector) = each.multipliers, each.largest
        of_lam = np.zeros(len(lam))
        before: Vectors = np.zeros((0, stage.symbols.shape[2], stage.symbols.shape[2]), dtype=stage.symbols.dtype)
        if stage.cut:
            at_all = []
            if after is not None:
                of_lam = after.reshape(len(lam), -1).sum(axis=1)
        elif at_all:
            at_all = list(range(len(stage.symbols))) if stage.summed else at_all
            before, of_lam = _through(stage, each, lam, np.asarray(at_all), cotangents)
        total = float(np.sum(of_lam * lam))
        pull = 1.0 if i == len(kept) - 1 else -total  # d value / d log norm
        assert each.solved is not None  # for the type checker: there is a tape
        here = list(range(len(stage.symbols))) if stage.summed else [at]
        reached = each.solved[here] @ vector
        at_all, cotangents = _with(at_all, before, here, -(pull / norm) * reached[:, :, None] * reached[:, None].conj())
        if i < len(kept) - 1:
            images = np.einsum("kmp,kp->m", stage.symbols[here], reached)
            shape = (vector.conj() * images).real / norm
            logs.append(of_lam * lam - total * shape)
            logits[i] = 0.0 if stage.cut else total * (1 - shares[i])
        if stage.starts:
            after = np.einsum("kii->i", cotangents).real
    return logs[::-1], logits[:-1]


def _with(at_all: list[int], cotangents: Vectors, at: list[int], new: Vectors) -> tuple[list[int], Vectors]:
    """Those of some frequencies, and of some more."""
    for one, more in zip(at, new, strict=True):
        if one in at_all:
            cotangents[at_all.index(one)] += more
    fresh = [j for j, one in enumerate(at) if one not in at_all]
    return [*at_all, *(at[j] for j in fresh)], np.concatenate([cotangents, new[fresh]])


def _through(
    stage: Stage, each: _Kept, lam: FloatArray, rows: NDArray[np.intp], cotangents: Vectors
) -> tuple[Vectors, FloatArray]:
    """Cotangents of F before a link, and of the link's multipliers, from those of F after it."""
    gone, stay = _split(stage)
    p, m = stage.symbols.shape[2], len(lam)
    if each.eliminated is not None:
        t = each.eliminated[rows]
    else:
        assert each.solved is not None  # for the type checker: there is a tape
        t = -each.solved[rows] * (stage.centre * lam)
    symbols = stage.symbols[rows]
    # Of the matrix before elimination, values first: [[F, F_b], [F_b*, L]].
    whole = np.zeros((len(rows), p + m, p + m), dtype=stage.symbols.dtype)
    behind = np.concatenate([stay, np.arange(p, p + m)])
    whole[:, behind[:, None], behind] = cotangents
    if len(gone):
        up = t @ cotangents
        whole[:, gone[:, None], behind] = -up
        whole[:, behind[:, None], gone] = -adjoint(up)
        whole[:, gone[:, None], gone] = up @ adjoint(t)
    inner, between = whole[:, :p, :p], whole[:, :p, p:]
    # Diagonals of C F_b and C F C*, F here the cotangents.
    of_lam = np.einsum("kii->i", cotangents[:, len(stay) :, len(stay) :]).real
    of_lam = of_lam - 2 * stage.centre * np.einsum("kmp,kpm->m", symbols, between).real
    if stage.leaf.any():
        of_lam = of_lam - stage.leaf**2 * np.einsum("kmp,kmp->m", symbols @ inner, symbols.conj()).real
    return inner.copy(), of_lam


def parameters(run: Sequence[Stage], multipliers: Sequence[FloatArray]) -> list[FloatArray]:
    """Logarithms of D and logits of the shares with which multipliers are these ones, as far as they are feasible."""
    logs = [np.log(each) for each in multipliers]
    norms = np.array([each.largest[0] for each in forward(run, [*logs, last_log(run)], None, tape=False)[:-1]])
    norms = np.minimum(norms, ALMOST)
    return [*logs, np.log(norms / (1 - norms))]
