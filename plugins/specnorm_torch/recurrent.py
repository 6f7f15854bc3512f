"""Recurrent layers of torch: one operator for each, of all steps, with its weights in a list."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import linear

from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import Operator, Unknown
from specnorm.certified.network.operators.base import FloatArray
from specnorm_torch.calls import Call, Made, Moving, Rule, is_value, numbers, offset, shape_of

LAYERS = ("rnn_tanh", "rnn_relu")


def is_drawing(label: str, arguments: dict[Any, Any]) -> bool:
    """Whether an operator that torch says to be random draws, as its arguments have it."""
    if label in (*LAYERS, "lstm", "gru"):
        return bool(arguments.get("train", True)) and arguments.get("dropout", 1.0) != 0.0
    if label == "scaled_dot_product_attention":
        return bool(arguments.get("dropout_p", 0.0) != 0.0)
    return "dropout" not in label or "::" in label or arguments.get("train", True) is not False


def layers(
    call: Call, *, input: Moving, hx: Tensor, params: list[Tensor], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool = False,
) -> Made | Operator:  # fmt: skip
    """All states of the last of several layers, one above the other."""
    del dropout, train  # `is_drawing` has looked
    if bidirectional:
        return Unknown("it runs in both directions, of which no rule is known here")
    each = 4 if has_biases else 2
    if len(params) != each * num_layers:
        return Unknown("its layers are projected, of which no rule is known here")
    function, x = (ops.Tanh() if call.label == "rnn_tanh" else ops.ReLU()), input
    time = int(batch_first and len(shape_of(input)) == 3)
    made: Made | None = None
    for at in range(num_layers):
        entry, recurrent, *biases = params[each * at : each * (at + 1)]
        start = numbers(hx)[at]
        operator = ops.Recurrent(
            call.layer(recurrent), call.layer(entry), function, tuple(partial(_exact, bias) for bias in biases),
            start if start.any() else None, time,
        )  # fmt: skip
        if made is not None:
            x = call.add(made.operator, made.inputs, call.shape)
        made = Made(operator, (x,))
    return made or Unknown("it has no layer")


def cell(
    call: Call, *, input: Moving, hx: Moving, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Made:  # fmt: skip
    """One step, of an input and a state."""
    parts: list[Any] = []
    for value, weight, bias in ((input, w_ih, b_ih), (hx, w_hh, b_hh)):
        if is_value(value):
            parts.append(call.add(ops.Matrix(call.layer(weight), offset(bias)), (value,), call.shape))
        else:
            wide: list[Any] = [None if each is None else each.double() for each in (value, weight, bias)]
            parts.append(linear(wide[0], wide[1], wide[2]))
    function = ops.Tanh() if call.label == "rnn_tanh_cell" else ops.ReLU()
    return call.chain(call.add(ops.Add((1.0, 1.0)), tuple(parts), call.shape), (function, call.shape))


def _exact(bias: Tensor) -> tuple[FloatArray, FloatArray]:
    return numbers(bias), np.zeros(())


def last_state(call: Call, source: Any, arguments: dict[Any, Any]) -> Made | Operator:
    """The second result: the last state of each layer, of which one is known."""
    if arguments.get("num_layers") != 1:
        return Unknown("it holds the last states of several layers; those of the last one are in the first result")
    shape = shape_of(source)
    time = int(bool(arguments.get("batch_first")) and len(shape) == 3)
    cut = ops.Slice(((time, shape[time] - 1, shape[time], 1),)), (*shape[:time], 1, *shape[time + 1 :])
    return call.chain(source, cut, (ops.Reshape(call.shape), call.shape))


RECURRENT = {
    **{f"{name}.input": Rule(layers) for name in LAYERS},
    **{f"{name}_cell": Rule(cell) for name in LAYERS},
}
