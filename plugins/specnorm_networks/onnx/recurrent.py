"""Recurrent operators: each gate of each direction is a matrix, and a row."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.model_arrays import Tensor
from specnorm_networks.onnx.tensors import Constant

GATES = {"RNN": ("i",), "GRU": ("z", "r", "h"), "LSTM": ("i", "o", "f", "c")}
"""As ONNX stacks them: operator set 7 and later."""
WEIGHTS = (1, 2)
"""Inputs that are matrices: of the input, and of the state. The others are biases, lengths and states."""
PEEPHOLES = 7
"""Input that is a diagonal matrix of each gate."""


def gates(constant: Constant, operator: str, name: str, taken: Container[str]) -> Iterator[Tensor]:
    """Rows of one input of a recurrent operator; nothing where its shape is not the standard's.

    Parameters
    ----------
    constant : Constant
        Of shape (directions, gates * hidden, columns).
    operator : str
        A key of `GATES`.
    name : str
        Of the array.
    taken : container of str
        Names of other arrays; a row of such a name gets a prime.
    """
    labels = GATES[operator]
    if len(constant.shape) != 3 or constant.shape[1] % len(labels) or min(constant.shape) < 1:
        return
    directions, rows, columns = constant.shape
    hidden = rows // len(labels)
    for at in range(directions):
        for j, label in enumerate(labels):
            place = f"{name}.{at}.{label}" if directions > 1 else f"{name}.{label}"
            while place in taken:
                place = f"{place}'"
            load = partial(_part, constant, at, slice(j * hidden, (j + 1) * hidden))
            yield Tensor(place, (hidden, columns), constant.dtype, load, "linear", refusal=constant.refusal)


def _part(constant: Constant, direction: int, rows: slice) -> NDArray[Any]:
    return np.asarray(constant.load()[direction, rows])
