"""Products, quotients and powers, in the words of `specnorm.networks.rules`."""

from __future__ import annotations

from typing import Any

import torch

from specnorm.networks.steep import power_params
from specnorm_torch.calls import Call, Rule, Translation

PRODUCT = {"reason": "it is a product of two values that depend on the input, which has no constant"}
_QUOTIENT = {"reason": "it divides by a value that depends on the input, which has no constant"}


def steep(function: str) -> Rule:
    """A function of each entry whose slope is bounded on intervals alone."""
    return lambda _: Translation("pointwise", {"function": function})


def multiply(call: Call) -> Translation:
    """Of values, or by constants."""
    if call.is_data("self") and call.is_data("other"):
        return (
            _gated(call["self"], call["other"])
            or _gated(call["other"], call["self"])
            or Translation("product", PRODUCT, (str(call["self"].name), str(call["other"].name)))
        )
    data, constant = ("self", "other") if call.is_data("self") else ("other", "self")
    return _scaled(call, data, call[constant])


def _gated(x: Any, gate: Any) -> Translation | None:
    """``x * sigmoid(x)`` written out."""
    name = getattr(gate.target, "_schema", None)
    known = {"aten::sigmoid": "silu", "aten::hardsigmoid": "hard_swish"}
    if name is not None and name.name in known and gate.args[0] is x:
        return Translation("pointwise", {"function": known[name.name]}, (str(x.name),))
    return None


def power(call: Call) -> Translation:
    """Whole exponents, roots and inverses."""
    exponent = 2.0 if call.name == "square" else float(call["exponent"])
    params = power_params(exponent)
    if params is None:
        return Translation("unknown", {"reason": f"a power of {exponent:.6g} has no rule"})
    return Translation("pointwise", params)


def divide(call: Call) -> Translation:
    """By constants, of a number, or of values."""
    if call.is_data("self") and call.is_data("other"):
        return Translation("quotient", _QUOTIENT, (str(call["self"].name), str(call["other"].name)))
    if call.is_data("other"):
        number = torch.as_tensor(call["self"], dtype=torch.float64)
        if number.numel() != 1 or call.shape() != call.shape("other"):
            return Translation("unknown", _QUOTIENT)
        return Translation("pointwise", {"function": "reciprocal", "scale": float(number)})
    return _scaled(call, "self", 1 / torch.as_tensor(call["other"], dtype=torch.float64))


def _scaled(call: Call, data: str, constant: Any) -> Translation:
    values = torch.as_tensor(constant, dtype=torch.float64).cpu()
    exact = call.name == "mul"
    ndim = len(call.shape())
    wide = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    if len(wide) == 1 and call.shape(data) == call.shape():
        channel = ndim - values.ndim + wide[0]
        return Translation("scale", {"values": values.reshape(-1).numpy(), "channel": channel, "exact": exact})
    return Translation("scale", {"values": values.numpy(), "exact": exact})
