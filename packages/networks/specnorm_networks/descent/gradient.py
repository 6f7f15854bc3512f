"""The constant of a run's weights on a grid of frequencies, its gradient, and steps along that.

At each frequency the values that later links read have a positive definite matrix F, the Schur complement of the
quadratic form of `segments` where all earlier ones are eliminated. A link with map C from them, multipliers L and
slopes in [a, b] (c and e as in `segments.middle`) makes of it

    [[F - C* e^2 L C, -C* c L], [-L c C, L]],

from which those values are eliminated that no later link reads. It is positive definite for

    L = share D / max_theta ||(h D^1/2) C F^-1 C* (D^1/2 h)||,    h^2 = c^2 + e^2,    0 < share < 1,

whatever the positive diagonal D is; ``share = 1/2``, ``D = 1`` is ECLipsE's closed form [1]_, frequency by frequency.
The search goes on by gradient steps on log D and the logit of the share: the largest eigenvalues are simple in general,
so that the gradient comes from one frequency for each. Where a run is cut, F begins anew as L, with c = 0 and share 1.
The constant's square is the largest eigenvalue of C F^-1 C* of the last link.

.. [1] Xu, Sivaranjani, "ECLipsE: Efficient Compositional Lipschitz Constant Estimation for Deep Neural Networks",
   NeurIPS 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.links import Link
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.descent.adam import Adam
from specnorm_networks.descent.stages import Largest, Stage, Vectors, adjoint

ALMOST = 1 / (1 + math.exp(-16))
"""The largest share."""
STEP = 0.07
"""Rate of Adam, in logarithms of multipliers."""
DECAY = 0.99
"""Decay of Adam's means of squares."""
LAST_SHARE = 0.1
"""Share of the rate that the last step of a round takes, unless the round says otherwise."""


@dataclass(eq=False)
class Forward:
    """Results of the forward pass of one stage that the backward pass needs."""

    multipliers: FloatArray
    """L."""
    largest: Largest
    """Largest eigenvalue of h D^1/2 C F^-1 C* D^1/2 h; the vector is multiplied by h D^1/2."""
    solved: Vectors
    """F^-1 C*, shape (f, p, m)."""
    eliminated: Vectors | None
    """``F_rr^-1 F_rk`` (r: the values that are eliminated; k: those that are kept, the link last). None: all values
    were eliminated, and it is -F^-1 C* c L."""


def value_and_gradient(
    run: Sequence[Stage],
    point: FloatArray,
) -> tuple[float, list[FloatArray], FloatArray]:
    """Return the logarithm of the constant's square on the grid, and its gradient with respect to logs and logits.

    ``point``: log D of each stage but the last, one after the other, and the logits of their shares.
    """
    logs, shares = _unknowns(run, point)
    stages_forward = forward(run, logs, shares)
    logs_gradient, logits_gradient = _backward(run, stages_forward, shares)
    return log_of_norm(stages_forward[-1].largest.value), logs_gradient, logits_gradient


def value_alone(run: Sequence[Stage], point: FloatArray) -> tuple[float, list[FloatArray]]:
    """Return the logarithm of the constant's square on the grid, and the multipliers."""
    logs, shares = _unknowns(run, point)
    stages_forward = forward(run, logs, shares)
    return log_of_norm(stages_forward[-1].largest.value), [one.multipliers for one in stages_forward[:-1]]


def log_of_norm(value: float) -> float:
    """Return a logarithm; `ArithmeticError` of 0, which is the norm of kernels that are zero or empty."""
    if value <= 0:
        raise ArithmeticError("a norm of 0 cannot be searched with")
    return math.log(value)


def _unknowns(run: Sequence[Stage], point: FloatArray) -> tuple[list[FloatArray], FloatArray]:
    """Return the logarithms of D, and the share of each stage, which is 1 at a cut."""
    ends_of_logs = np.cumsum([len(stage.centre) for stage in run[:-1]])
    *logs, logits = np.split(point, ends_of_logs)
    shares = 1 / (1 + np.exp(-np.append(logits, 0.0)))
    is_cut = [stage.cut for stage in run]
    return [*logs, last_log(run)], np.where(is_cut, 1.0, shares)


def last_log(run: Sequence[Stage]) -> FloatArray:
    """Return the logarithm of D of the last stage, which has no multipliers: D is 1."""
    return np.zeros(len(run[-1].centre))


# -- forward -----------------------------------------------------------------------------------------------------------
def forward(
    run: Sequence[Stage],
    logs: Sequence[FloatArray],
    shares: FloatArray | None,
) -> list[Forward]:
    """Eliminate the values of a run, one link after the other.

    ``logs``: logarithms of D. ``shares``: None if D are the multipliers themselves.
    """
    stages_forward: list[Forward] = []
    real = run[0].symbols.real.dtype
    form: Vectors | None = None  # F; None: it is the diagonal
    diagonal = np.ones(run[0].symbols.shape[2])
    for number, (stage, log) in enumerate(zip(run, logs, strict=True)):
        right = adjoint(stage.symbols)
        weight = np.exp(log / 2) * stage.spread
        narrow_weight = weight.astype(real)
        solved = right / diagonal[:, None].astype(real) if form is None else np.linalg.solve(form, right)
        gram = stage.symbols @ solved
        if stage.summed:
            gram = gram.real.sum(axis=0, keepdims=True)
        norm, at, vector = stage.largest(narrow_weight[:, None] * gram * narrow_weight)
        if norm <= 0:  # a layer of zeros: any multipliers will do
            norm = 1.0
        lam = _share(stage, number, norm, shares) * np.exp(log) / norm
        eliminated = None
        if stage.cut:
            form = None
            diagonal = np.repeat(lam, stage.copies)
        elif not len(stage.kept) and not stage.leaf.any():
            form = _form_of_link_alone(gram, stage, lam, real)
        else:
            before = diagonal.astype(real) * np.eye(len(diagonal), dtype=real) if form is None else form
            form, eliminated = _eliminate(stage, before, lam.astype(real))
        stages_forward.append(Forward(lam, Largest(norm, at, vector * weight), solved, eliminated))
    return stages_forward


def _share(stage: Stage, number: int, norm: float, shares: FloatArray | None) -> float:
    if stage.cut:
        return 1.0
    if shares is None:
        return min(norm, ALMOST)
    return float(shares[number])


def _form_of_link_alone(gram: Vectors, stage: Stage, lam: FloatArray, real: np.dtype) -> Vectors:
    """Return F = L - L c C F^-1 C* c L behind a link after which no earlier value is read; ``gram`` is overwritten."""
    steep = (stage.centre * lam).astype(real)
    gram *= -steep[:, None]
    gram *= steep
    diagonal = np.arange(len(lam))
    gram[:, diagonal, diagonal] += lam.astype(real)
    return gram


def _eliminate(stage: Stage, form: Vectors, lam: FloatArray) -> tuple[Vectors, Vectors]:
    """Return F after a link, and ``F_rr^-1 F_rk`` (see `Forward`)."""
    if stage.leaf.any():
        of_leaf = stage.leaf.astype(lam.dtype) ** 2 * lam
        form = form - adjoint(stage.symbols) @ (of_leaf[:, None] * stage.symbols)
    of_link: Vectors = -(stage.centre.astype(lam.dtype) * lam)[:, None] * stage.symbols
    count = of_link.shape[0]
    gone = stage.gone
    stay = stage.kept
    m = len(lam)
    n = len(stay)
    kept_form = np.zeros((count, n + m, n + m), dtype=of_link.dtype)
    kept_form[:, n:, n:] = np.diag(lam)
    between = adjoint(of_link)[:, gone]
    if n:
        wide_form = np.broadcast_to(form, (count, *form.shape[-2:]))
        kept_form[:, :n, :n] = wide_form[:, stay[:, None], stay]
        kept_form[:, n:, :n] = of_link[:, :, stay]
        kept_form[:, :n, n:] = adjoint(of_link)[:, stay]
        between = np.concatenate([wide_form[:, gone[:, None], stay], between], axis=2)
    if not len(gone):
        return kept_form, between
    gone_form = form if not n else form[..., gone[:, None], gone]
    solved = np.linalg.solve(np.broadcast_to(gone_form, (count, *gone_form.shape[-2:])), between)
    return kept_form - adjoint(between) @ solved, solved


# -- backward ----------------------------------------------------------------------------------------------------------
def _backward(
    run: Sequence[Stage],
    stages_forward: Sequence[Forward],
    shares: FloatArray,
) -> tuple[list[FloatArray], FloatArray]:
    """Return the gradient with respect to the logarithms of D and the logits of the shares."""
    last = len(run) - 1
    logs_gradient: list[FloatArray] = []
    logits_gradient = np.zeros(len(run))
    # Derivatives with respect to F, by the few frequencies where these are not 0.
    cotangents: dict[int, Vectors] = {}
    of_diagonal: FloatArray | None = None  # derivative with respect to the diagonal that the next part begins with
    for number in range(last, -1, -1):
        stage = run[number]
        one = stages_forward[number]
        lam = one.multipliers
        norm, at, vector = one.largest
        lam_gradient = np.zeros(len(lam))
        # The eigenvalue comes from one frequency, or from the sum over all.
        of_norm = [*range(len(stage.symbols))] if stage.summed else [at]
        if stage.cut:
            cotangents = {}
            if of_diagonal is not None:
                lam_gradient = of_diagonal.reshape(len(lam), -1).sum(axis=1)
        else:
            rows = of_norm if stage.summed else [*cotangents]
            of_form, lam_gradient = _through(stage, one, np.array(rows), np.array([*cotangents.values()]))
            cotangents = dict(zip(rows, of_form, strict=True))
        total = float(np.sum(lam_gradient * lam))
        norm_gradient = 1.0 if number == last else -total  # d value / d log norm
        reached = one.solved[of_norm] @ vector
        outer = -(norm_gradient / norm) * reached[:, :, None] * reached[:, None].conj()
        for frequency, summand in zip(of_norm, outer, strict=True):
            if frequency in cotangents:
                cotangents[frequency] += summand
            else:
                cotangents[frequency] = summand
        if number < last:
            images = np.einsum("kmp,kp->m", stage.symbols[of_norm], reached)
            norm_by_log = (vector.conj() * images).real / norm
            logs_gradient.append(lam_gradient * lam - total * norm_by_log)
            logits_gradient[number] = 0.0 if stage.cut else total * (1 - shares[number])
        if stage.starts:
            of_diagonal = np.einsum("kii->i", np.array([*cotangents.values()])).real
    return logs_gradient[::-1], logits_gradient[:-1]


def _through(
    stage: Stage,
    one: Forward,
    rows: NDArray[np.intp],
    cotangents: Vectors,
) -> tuple[Vectors, FloatArray]:
    """Return derivatives with respect to F before a link, and to the link's multipliers, from those to F after it.

    ``rows``: the frequencies of the cotangents.
    """
    gone = stage.gone
    stay = stage.kept
    p = stage.symbols.shape[2]
    m = len(one.multipliers)
    if one.eliminated is None:
        t = -one.solved[rows] * (stage.centre * one.multipliers)
    else:
        t = one.eliminated[rows]
    symbols = stage.symbols[rows]
    # Of the matrix before elimination, values first: [[F, F_b], [F_b*, L]].
    whole = np.zeros((len(rows), p + m, p + m), dtype=stage.symbols.dtype)
    kept = np.concatenate([stay, np.arange(p, p + m)])
    whole[:, kept[:, None], kept] = cotangents
    if len(gone):
        up = t @ cotangents
        whole[:, gone[:, None], kept] = -up
        whole[:, kept[:, None], gone] = -adjoint(up)
        whole[:, gone[:, None], gone] = up @ adjoint(t)
    of_form = whole[:, :p, :p]
    between = whole[:, :p, p:]
    # Diagonals of C F_b and C F C*, F here the cotangents.
    lam_gradient = np.einsum("kii->i", cotangents[:, len(stay) :, len(stay) :]).real
    lam_gradient = lam_gradient - 2 * stage.centre * np.einsum("kmp,kpm->m", symbols, between).real
    if stage.leaf.any():
        squares = np.einsum("kmp,kmp->m", symbols @ of_form, symbols.conj()).real
        lam_gradient = lam_gradient - stage.leaf**2 * squares
    return of_form, lam_gradient


# -- points and steps --------------------------------------------------------------------------------------------------
def gradient_steps(
    grid: Sequence[Stage],
    links: Sequence[Link],
    point: FloatArray,
    steps: int,
    patience: int | None = None,
    rates: tuple[float, float] | None = None,
    adam: Adam | None = None,
) -> Iterator[tuple[int, float, FloatArray]]:
    """Make steps of Adam from a point, shorter and shorter; yield each number, the least value so far, and its point.

    Parameters
    ----------
    patience : int, optional
        Steps without a gain of a thousandth after which the iteration ends. None: it makes all steps. Rounding decides
        whether a step gains a thousandth, so that an iteration that ends by it ends elsewhere on another processor.
    rates : pair of float, optional
        Shares of the rate of the first and the last step. Default: the whole rate for half of the steps, then less and
        less, to a tenth.
    adam : Adam, optional
        The means of earlier steps. Default: there were none.
    """
    adam = Adam(STEP, DECAY) if adam is None else adam
    least = math.inf
    best_point = point
    steps_without_gain = 0
    for number in range(steps + 1):
        value, logs_gradient, logits_gradient = value_and_gradient(grid, point)
        steps_without_gain = 0 if value < least - 1e-3 else steps_without_gain + 1
        if value < least:
            least = value
            best_point = point
        yield number, least, best_point
        if patience is not None and steps_without_gain > patience:
            return
        slopes = []
        for gradient, link in zip(logs_gradient, links, strict=True):
            if link.groups is not None:  # one number a group
                gradient = np.bincount(link.groups, gradient)[link.groups]
            slopes.append(gradient)
        share = _share_of_rate(number / max(steps, 1), rates)
        point = point - adam.step(np.concatenate([*slopes, logits_gradient]), share)


def _share_of_rate(part: float, rates: tuple[float, float] | None) -> float:
    """Return the share of the rate after a part of the steps."""
    if rates is None:
        return min(1.0, LAST_SHARE + 2 * (1 - LAST_SHARE) * (1 - part))
    first, last = rates
    return first + (last - first) * part
