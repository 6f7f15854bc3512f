"""Cells of unequal size as one line of text, which a certificate holds. Nothing is claimed here: the reader proves.

A digit halves a box along that axis, the lower half first; a dot leaves it. The root is ``[0, pi]`` on the first axis
that has taps and ``[0, 2 pi]`` on the others, so the leaves of every such text cover the frequencies of a real kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.types import ArrayOps

FloatArray: TypeAlias = NDArray[np.float64]
Box: TypeAlias = tuple[tuple[int, int], ...]
"""(a, b) an axis: ``[a, a + 1] / 2**b`` of it."""
MEMORY = 2**20
"""Complex numbers that are held together."""
MARGIN = 1e-9
"""Relative distance that is left for the reader's rounding."""
DEEPEST = 40


def norms_at(blocks: FloatArray, angles: FloatArray) -> FloatArray:
    """Largest norm of blocks (g, m, p, *taps) at each of some frequencies (f, d), shape (f,)."""
    if blocks.shape[1] < blocks.shape[2]:
        blocks = blocks.swapaxes(1, 2)
    g, m, p, *taps = blocks.shape
    rows = blocks.reshape(g, m * p, math.prod(taps)).swapaxes(1, 2)
    where = np.array(list(np.ndindex(*taps))).reshape(math.prod(taps), len(taps))
    found, step = [], max(1, MEMORY // (g * m * p))
    for at in range(0, len(angles), step):
        phase = angles[at : at + step] @ where.T
        symbol = (np.cos(phase) @ rows + 1j * (np.sin(phase) @ rows)).reshape(g, -1, m, p)
        largest = np.linalg.eigvalsh(symbol.conj().swapaxes(-1, -2) @ symbol)[..., -1]
        found.append(np.sqrt(np.maximum(largest, 0)).max(axis=0))
    return np.concatenate(found)


def largest_at(blocks: FloatArray, angles: FloatArray, least: float, *, ops: ArrayOps) -> float:
    """Largest norm at some frequencies (f, d), or ``least`` where that is more, which takes less to tell."""
    above = ~_below(blocks, angles, np.full(len(angles), least * (1 - MARGIN)), False, ops)
    return max(least, float(norms_at(blocks, angles[above]).max()) * (1 + 2 * MARGIN)) if above.any() else least


def tree_below(
    blocks: FloatArray, bound: float, most: int, *, taps: Sequence[int] = (), hermitian: bool = False, ops: ArrayOps
) -> str | None:
    """A tree at whose leaves the cell lemma seems to prove a bound; None if that takes too many boxes.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        Scaled to about 1.
    most : int
        Boxes.
    taps : sequence of int, optional
        How many the reader takes them to have, an axis, if that is more.
    hermitian : bool
        Whether the bound is of the largest eigenvalue of a Hermitian kernel, whose place 0 is the middle tap.
    """
    half = np.array([(k - 1) / 2 for k in taps or blocks.shape[3:]])
    symmetric = int(np.argmax(half > 0)) if half.any() else None
    root: Box = ((0, 0),) * len(half)
    level, cut = [root], dict[Box, int | None]()
    least = max(bound, float(np.abs(blocks).sum(axis=(2, *range(3, blocks.ndim))).max())) if hermitian else bound
    while level:
        pairs = np.array(level, dtype=np.int64).reshape(len(level), len(half), 2)
        places, parts = 2 * pairs[:, :, 0] + 1, 2.0 ** (pairs[:, :, 1] + 1 + (np.arange(len(half)) == symmetric))
        radius = (2 * math.pi / parts) @ half
        cosines = np.where(radius < math.pi / 2 - 1e-6, np.cos(radius), -1.0)
        limits = bound * cosines * (1 - MARGIN) - (least - bound) * (1 - cosines) / 2
        passed = limits > 0
        angles = 2 * math.pi * places / parts * (half > 0)
        passed[passed] = _below(blocks, angles[passed], limits[passed], hermitian, ops)
        # Where it is above the bound, no smaller box will do.
        above = np.full(len(angles) - int(passed.sum()), bound)
        if len(above) and not (half.any() and _below(blocks, angles[~passed], above, hermitian, ops).all()):
            return None
        below: list[Box] = []
        for box, done, wide in zip(level, passed.tolist(), half / parts, strict=True):
            axis = cut[box] = None if done else int(np.argmax(wide))
            if axis is not None:
                if box[axis][1] >= DEEPEST - 1:
                    return None
                below += _halves(box, axis)
        level = below
        if len(cut) + len(level) > most:
            return None
    return _text(root, cut)


def _below(
    blocks: FloatArray, angles: FloatArray, limits: FloatArray, hermitian: bool, ops: ArrayOps
) -> NDArray[np.bool_]:
    """Whether all norms at frequencies (f, d) are below numbers (f,): whether matrices have a factor."""
    if blocks.shape[1] < blocks.shape[2]:
        blocks = blocks.swapaxes(1, 2)
    g, m, p, *taps = blocks.shape
    rows = blocks.reshape(g, m * p, math.prod(taps)).swapaxes(1, 2)
    where = np.array(list(np.ndindex(*taps))).reshape(math.prod(taps), len(taps))
    where = where - np.array([n // 2 if hermitian else 0 for n in taps], dtype=np.int64)
    found: list[NDArray[np.bool_]] = [np.ones(0, dtype=np.bool_)]
    step = max(1, MEMORY // (g * m * p))
    every = np.arange(p)
    for at in range(0, len(angles), step):
        phase = angles[at : at + step] @ where.T
        symbol = (np.cos(phase) @ rows + 1j * (np.sin(phase) @ rows)).reshape(g, -1, m, p)
        limit = limits[at : at + step, None]
        matrix = -(symbol if hermitian else symbol.conj().swapaxes(-1, -2) @ symbol)
        matrix[..., every, every] += limit if hermitian else limit**2
        given: Any = matrix
        factors: Any = ops.cholesky_ok(given)
        found.append(np.asarray(np.all(factors, axis=0)))
    return np.concatenate(found)


def _halves(box: Box, axis: int) -> list[Box]:
    a, b = box[axis]
    return [(*box[:axis], (2 * a + side, b + 1), *box[axis + 1 :]) for side in (0, 1)]


def _text(root: Box, cut: dict[Box, int | None]) -> str:
    """Depth first, the lower half before the upper one."""
    letters, waiting = [], [root]
    while waiting:
        box = waiting.pop()
        axis = cut[box]
        letters.append("." if axis is None else str(axis))
        if axis is not None:
            waiting += _halves(box, axis)[::-1]
    return "".join(letters)
