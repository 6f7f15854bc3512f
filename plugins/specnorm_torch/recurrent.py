"""Recurrent layers of torch: one operator for each, of all steps, with its weights in a list."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import Operator, Unknown
from specnorm.certified.network.operators.base import Offset, added
from specnorm_torch.calls import Call, Made, Moving, Rule, numbers, shape_of

GATES = (
    "its gates multiply values that depend on the input: no constant holds for every sequence, and on a box no rule is "
    "known here"
)
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
            call.layer(recurrent), call.layer(entry), function, _both(*biases) if biases else None,
            start if start.any() else None, time,
        )  # fmt: skip
        if made is not None:
            x = call.add(made.operator, made.inputs, call.shape)
        made = Made(operator, (x,))
    return made or Unknown("it has no layer")


def _both(of_input: Tensor, of_state: Tensor) -> Offset:
    """The sum of two biases."""
    return lambda: added(numbers(of_input), numbers(of_state))


def last_state(call: Call, source: Any, arguments: dict[Any, Any]) -> Made | Operator:
    """The second result: the last state of each layer, of which one is known."""
    if arguments.get("num_layers") != 1:
        return Unknown("it holds the last states of several layers; those of the last one are in the first result")
    shape = shape_of(source)
    time = int(bool(arguments.get("batch_first")) and len(shape) == 3)
    cut = ops.Slice(((time, shape[time] - 1, shape[time], 1),)), (*shape[:time], 1, *shape[time + 1 :])
    return call.chain(source, cut, (ops.Reshape(call.shape), call.shape))


RECURRENT = {f"{name}.input": Rule(layers) for name in LAYERS}
