"""Recurrent operators: each gate of each direction is a matrix, and a row; of RNN the network has a bound."""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.model_arrays import Tensor
from specnorm.auditing.readers.onnx.nodes import Call, Data, Made, shape_of
from specnorm.auditing.readers.onnx.tensors import Constant
from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import NoBoundError
from specnorm.certified.network.operators.base import Offset

GATES = {"RNN": ("i",), "GRU": ("z", "r", "h"), "LSTM": ("i", "o", "f", "c")}
"""As ONNX stacks them: operator set 7 and later."""
FUNCTIONS = {"Relu": ops.ReLU, "Tanh": ops.Tanh}
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


def rnn(
    call: Call, x: Data, entry: Constant, recurrent: Constant, bias: Constant | None, /, *,
    initial_h: Constant | None, activations: tuple[str, ...], direction: str, hidden_size: int | None, layout: int = 0,
) -> tuple[Made, ...]:  # fmt: skip
    """All states of one layer that runs forward, and the last one."""
    del call
    if direction != "forward" or len(entry.shape) != 3 or entry.shape[0] != 1:
        raise NoBoundError(f"direction={direction[:20]} has no rule here: forward alone has one")
    if not activations or activations[0] not in FUNCTIONS:
        raise NoBoundError(f"activations={list(activations[:2])} have no rule here: Relu and Tanh alone have one")
    before, width = shape_of(x), entry.shape[1]
    if len(before) != 3 or recurrent.shape != (1, width, width) or hidden_size not in (None, width):
        raise NoBoundError(f"its matrices of shapes {entry.shape} and {recurrent.shape} do not fit {before}")
    constants = [each for each in (entry, recurrent, bias, initial_h) if each is not None]
    refusal = next((each.refusal for each in constants if each.refusal is not None), None)
    if refusal is not None:
        raise NoBoundError(refusal)
    w, r = (ops.Layer(each.name, partial(_first, each), {}, 0) for each in (entry, recurrent))
    start = None if initial_h is None else initial_h.load().astype(np.float64)
    if start is not None:
        start = start[:, 0] if layout else start[0]
    time, states = int(bool(layout)), (*before[:2], width)
    every = Made(ops.Recurrent(r, w, FUNCTIONS[activations[0]](), _both(bias), start, time), (x,), states)
    with_directions = (*states[: 1 + time], 1, *states[1 + time :])
    last = Made(ops.Slice(((time, -1, None, 1),)), (every,), (*states[:time], 1, *states[time + 1 :]))
    return Made(ops.Unsqueeze((1 + time,)), (every,), with_directions), last


def _first(constant: Constant) -> NDArray[Any]:
    return np.asarray(constant.load()[0])


def _both(bias: Constant | None) -> tuple[Offset, ...]:
    """The biases of the input and of the state, which stand one behind the other."""
    if bias is None:
        return ()
    return tuple(partial(_half, bias, at) for at in range(2))


def _half(bias: Constant, at: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return bias.load()[0].astype(np.float64).reshape(2, -1)[at], np.zeros(())
