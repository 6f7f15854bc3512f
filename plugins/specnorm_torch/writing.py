"""Values that are written into places of others: what ``x[..., :n] = y`` becomes where nothing changes in place."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import Operator, Unknown
from specnorm_torch.aten import identity
from specnorm_torch.calls import Call, Made, Moving, Rule, first_of, is_value, rounded, rules, shape_of

REPEATED = "a complex value that is repeated has no rule"


def copied(call: Call, *, self: Moving, src: Moving) -> Made | Operator:
    """The second value, in the shape and dtype of the first."""
    del self
    if shape_of(src) == call.shape:
        made = identity(call, self=src)
        return replace(made, weights=call.weights(src)) if first_of(call.node).is_complex() else made
    if first_of(src).is_complex():
        return Unknown(REPEATED)
    return call.chain(src, (ops.Broadcast(call.shape), call.shape), (ops.Cast(), call.shape))


def filled(call: Call, *, self: Moving, value: Moving) -> Made | Operator:
    """One number at each place."""
    return copied(call, self=self, src=value)


def scattered(call: Call, *, self: Moving, src: Moving, **rest: Any) -> Made | Operator:
    """Entries of the one in places of the other: those that the slice, or the selection, would read."""
    dtype = first_of(call.node).dtype
    if any(is_value(x) and first_of(x).is_complex() and not dtype.is_complex for x in (self, src)):
        return Unknown("it drops the imaginary parts of what it is given")
    read = {"slice_scatter": torch.ops.aten.slice.Tensor, "select_scatter": torch.ops.aten.select.int}[call.label]
    at = read(torch.arange(math.prod(call.shape)).reshape(call.shape), **rest).reshape(-1)
    weights = None
    if dtype.is_complex:
        # Entries keep the weights that they had.
        weights = _weights(call, self).reshape(-1)
        weights[at] = _weights(call, src).reshape(-1)
        weights = weights.reshape(call.shape)
    return Made(ops.Merge(at.numpy()), rounded(call, self, src), weights)


def _weights(call: Call, x: Any) -> Tensor:
    """Of each entry of a complex value; of constants, which do not move, the largest that there are."""
    found = call.weights(x) if is_value(x) else torch.full(shape_of(x), 2, dtype=torch.uint8)
    return torch.ones(shape_of(x), dtype=torch.uint8) if found is None else found.clone()


WRITING: dict[str, Rule] = {
    **rules(copied, "copy", "non_blocking"),
    **rules(filled, "fill.Tensor"),
    **rules(scattered, "slice_scatter select_scatter"),
}
"""Rules of calls with and without complex values."""
