"""LipSDP's optimum of a small fully connected network with ReLU, as a cone program, by Clarabel.

Fazlyab et al., "Efficient and Accurate Estimation of Lipschitz Constants for Deep Neural Networks", NeurIPS 2019, with
one multiplier for each neuron (LipSDP-neuron). Written apart from specnorm's code, which it is to judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def lipsdp(weights: Sequence[NDArray[np.float64]]) -> float:
    """The least L for which a form is nonnegative for some t_i >= 0:

        L^2 |x|^2 + sum_i 2 t_i z_i (z_i - v_i) - |y|^2.

    v are the values before the functions, z those after, y the network's. To the solver's tolerance, about 1e-8.
    """
    import clarabel
    from scipy import sparse

    widths = [weight.shape[1] for weight in weights]
    starts = np.cumsum([0, *widths])
    size, unknowns = int(starts[-1]), 1 + sum(widths[1:])
    forms = np.zeros((unknowns, size, size))
    forms[0, range(widths[0]), range(widths[0])] = 1
    at = 1
    for layer, weight in enumerate(weights[:-1]):
        before = slice(starts[layer], starts[layer + 1])
        for row, taps in enumerate(weight):
            here = starts[layer + 1] + row
            forms[at, here, here] = 2
            forms[at, here, before] -= taps
            forms[at, before, here] -= taps
            at += 1
    constant = np.zeros((size, size))
    constant[starts[-2] :, starts[-2] :] = -weights[-1].T @ weights[-1]
    # A x + s = b: the matrix's triangle, column by column, its off-diagonal entries times sqrt 2; then x >= 0.
    columns, rows = np.tril_indices(size)
    scale = np.where(rows == columns, 1, np.sqrt(2))
    a = np.vstack([-(forms[:, rows, columns] * scale).T, -np.eye(unknowns)])
    b = np.concatenate([constant[rows, columns] * scale, np.zeros(unknowns)])
    cost = np.append(1.0, np.zeros(unknowns - 1))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    cones = [clarabel.PSDTriangleConeT(size), clarabel.NonnegativeConeT(unknowns)]
    empty = sparse.csc_matrix((unknowns, unknowns))
    found = clarabel.DefaultSolver(empty, cost, sparse.csc_matrix(a), b, cones, settings).solve()
    assert str(found.status) == "Solved", found.status
    return float(np.sqrt(found.x[0]))
