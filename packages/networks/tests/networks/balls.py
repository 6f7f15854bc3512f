"""LipSDP's inequality of a small network in ball arithmetic: whether a matrix is definite is proven, without a margin.

The matrices are those of `dense_networks` and `dense_sums`, as exact numbers; nothing here is
shared with what is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
BITS = 160


def quadratic_form(
    order: Sequence[int], sums: Sequence[dict[int, Matrix]], slopes: Sequence[tuple[float, float]],
    depths: Sequence[int], weights: Sequence[Matrix], constant: float,
) -> Any:  # fmt: skip
    """``|q_0 x|^2 + sum_i t^2g_i q_i^2 (z_i - a v_i)(z_i - b v_i) - |q_l y|^2 / constant^2``, ``t^g_l constant = 1``.

    Parameters
    ----------
    order : sequence of int
        Numbers of the values: the first is the input, the last the output.
    sums : sequence of dict
        For each value: number of an earlier one -> matrix.
    slopes : sequence of (float, float)
        Of each value's function: an interval that holds 0 is made of it, as the proof does.
    depths : sequence of int
        g, for each of ``order``.
    weights : sequence of array
        q: one number an entry, for each of ``order``.
    constant : float

    Returns
    -------
    arb_mat
    """
    ctx.prec = BITS
    sizes = [len(weight) for weight in weights[:-1]]
    at = dict(zip(order, np.cumsum([0, *sizes]).tolist(), strict=False))
    n = sum(sizes)
    whole = arb_mat(n, n)
    for i in range(sizes[0]):
        whole[i, i] = arb(float(weights[0][i])) ** 2
    for place, number in enumerate(order[1:], start=1):
        last = number == order[-1]
        wide = np.zeros((len(weights[place]), n))
        for source, matrix in sums[number].items():
            wide[:, at[source] : at[source] + matrix.shape[1]] += matrix
        low, high = slopes[number]
        squares = arb(1) / arb(constant) ** 2
        if not last:
            squares = (arb(constant).log() * (-2 * depths[place]) / depths[-1]).exp()
        scaled = [squares * arb(float(q)) ** 2 for q in weights[place]]
        v = arb_mat(wide.tolist())
        qv = arb_mat([[q * x for x in row] for q, row in zip(scaled, v.tolist(), strict=True)])
        if last:
            whole = whole - v.transpose() * qv * arb(max(abs(low), abs(high))) ** 2
            continue
        a = arb(min(low, 0.0))
        b = arb(max(high, 0.0))
        z = arb_mat(np.eye(n)[at[number] : at[number] + len(scaled)].tolist())
        qz = arb_mat([[q * x for x in row] for q, row in zip(scaled, z.tolist(), strict=True)])
        cross = z.transpose() * qv
        whole = whole + z.transpose() * qz - (cross + cross.transpose()) * ((a + b) / 2) + v.transpose() * qv * (a * b)
    return whole


def definite(form: Any) -> bool | None:
    """Whether a symmetric matrix is positive definite: by the signs of its pivots. None if a ball cannot tell.

    A negative pivot, where all before are positive, is a negative value of the form.
    """
    rows = form.tolist()
    for i, row in enumerate(rows):
        pivot = row[i]
        if not pivot > 0:
            return False if pivot < 0 else None
        for other in rows[i + 1 :]:
            factor = other[i] / pivot
            if factor != 0:
                for j in range(i + 1, len(row)):
                    other[j] -= factor * row[j]
    return True
