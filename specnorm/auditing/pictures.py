"""The worst layers' singular values over a grid of frequencies: for a report to draw. Close, not proven."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from specnorm import arrays
from specnorm.auditing.layers import Layer
from specnorm.auditing.rows import Picture, Row
from specnorm.backends import backend_for
from specnorm.certified.symbol import symbols
from specnorm.problem import polyphase
from specnorm.problem.frequencies import half_grid, mirror_index
from specnorm.problem.spec import ConvSpec
from specnorm.runtime.execution import Execution
from specnorm.types import ArrayObject

WORST = 3
"""Layers of a model that a report shows the frequencies of: those with the largest `Row.upper`."""

_FINEST = {0: 1, 1: 256, 2: 48, 3: 20}
"""Frequencies per axis, by the number of axes with more than one tap; more for long kernels, fewer for wide ones."""
_BUDGET = 2e9
"""Multiplications up to which the decompositions of one layer take a second or two."""
_COARSEST = 8
_LIMIT = 5e10
"""Multiplications beyond which a layer is not drawn."""
_KEPT = 513
"""Singular values kept of the sorted list."""


def worst(rows: Sequence[Row], count: int) -> list[int]:
    """Positions of the layers with the largest proven upper bounds, highest first; zero layers are none."""
    known = [(row.upper, i) for i, row in enumerate(rows) if row.reason is None and row.upper and row.spec is not None]
    return [i for _, i in sorted(known, key=lambda pair: (-pair[0], pair[1]))[:count]]


def take(layers: Sequence[Layer], rows: Sequence[Row], count: int) -> tuple[Picture, ...]:
    """Pictures of the worst layers, whose kernels are read once more; ``rows`` are theirs, in the same order."""
    found = []
    for i in worst(rows, count):
        spec = rows[i].spec
        assert spec is not None
        try:
            with warnings.catch_warnings(action="ignore"):  # the layer's row has them in its note
                kernel = layers[i].tensor.load()
            found.append(picture(i, kernel, spec))
        except Exception as error:  # a picture must not lose the report
            found.append(Picture(i, reason=f"{type(error).__name__}: {error}"))
    return tuple(found)


def picture(row: int, kernel: ArrayObject, spec: ConvSpec) -> Picture:
    """Singular values of a layer's symbol over a grid, computed by NumPy in float64.

    Parameters
    ----------
    row : int
        Position of the layer in its report.
    kernel : array
        As stored; copied to the host.
    spec : ConvSpec
        The frequencies are those of the layer's blocks, to which strides and dilations are reduced.
    """
    backend = backend_for(kernel)
    host = backend.host()
    dense = np.asarray(backend.to_numpy(kernel), dtype=np.float64)
    xp = host.namespace(dense)
    scaled, exponent = arrays.scale(xp.reshape(xp.asarray(dense), (1, -1)), xp=xp)
    blocks = polyphase.to_blocks(xp.reshape(scaled, (1, *dense.shape)), spec, xp=xp)
    sizes = grid(blocks.shape)
    half = half_grid(sizes)
    if len(half) * _cost(blocks.shape) > _LIMIT:
        return Picture(row, reason="the layer is too large: its singular values would take minutes.")
    ops = Execution.of(host, blocks)
    step = symbols.chunk_length(blocks, ops=ops)
    parts = [
        xp.linalg.svdvals(symbols.Symbol(blocks, half[start : start + step], ops=ops).matrices())
        for start in range(0, len(half), step)
    ]
    values = np.concatenate([np.asarray(part) for part in parts], axis=1)[:, mirror_index(sizes)]
    values = np.ldexp(values, int(exponent[0]))
    descending = np.sort(values, axis=None)[::-1]
    ranks = np.unique(np.linspace(0, len(descending) - 1, _KEPT).round().astype(int))
    return Picture(
        row,
        grid=sizes,
        norms=tuple(values.max(axis=(0, 2)).tolist()),
        spectrum=tuple(descending[ranks].tolist()),
        ranks=tuple(ranks.tolist()),
    )


def grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Frequencies per axis for blocks (b, m, p, *kernel_shape): even numbers, so that 0 and π are among them.

    Returns
    -------
    tuple of int
        1 along axes with one tap, where the symbol is constant.
    """
    taps = shape[3:]
    wide = [k for k in taps if k > 1]
    cost = _cost(shape)
    n = max(_FINEST[len(wide)], *(4 * k for k in wide)) if wide else 1
    while n > _COARSEST and n ** len(wide) / 2 * cost > _BUDGET:
        n -= 2
    return tuple(n if k > 1 else 1 for k in taps)


def _cost(shape: tuple[int, ...]) -> int:
    """Multiplications for all blocks at one frequency, in units of what they take for large ones."""
    b, m, p = shape[:3]
    return b * (m * p * min(m, p) + 3000)
