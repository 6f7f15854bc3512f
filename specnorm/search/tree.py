"""Cells of unequal size as one line of text, which a certificate holds. Nothing is claimed here: the reader proves.

A digit halves a box along that axis, the lower half first; a dot leaves it. The root is ``[0, pi]`` on the first axis
that has taps and ``[0, 2 pi]`` on the others, so the leaves of every such text cover the frequencies of a real kernel.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Box: TypeAlias = tuple[tuple[int, int], ...]
"""(a, b) an axis: ``[a, a + 1] / 2**b`` of it."""
MEMORY = 2**20
"""Complex numbers that are held together."""
MARGIN = 1e-10
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


def tree_below(blocks: FloatArray, bound: float, most: int) -> str | None:
    """A tree at whose leaves the cell lemma seems to prove a bound; None if a norm is above, or boxes are too many."""
    taps = blocks.shape[3:]
    half = np.array([(k - 1) / 2 for k in taps])
    symmetric = int(np.argmax(half > 0)) if half.any() else None
    root: Box = ((0, 0),) * len(taps)
    level, cut = [root], dict[Box, int | None]()
    while level:
        pairs = np.array(level, dtype=np.int64).reshape(len(level), len(taps), 2)
        places, parts = 2 * pairs[:, :, 0] + 1, 2.0 ** (pairs[:, :, 1] + 1 + (np.arange(len(taps)) == symmetric))
        radius = (2 * math.pi / parts) @ half
        norms = norms_at(blocks, 2 * math.pi * places / parts * (half > 0))
        passed = (radius < math.pi / 2 - 1e-6) & (norms <= bound * np.cos(radius) * (1 - MARGIN))
        if norms.max() >= bound or (not half.any() and not passed.all()):
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
