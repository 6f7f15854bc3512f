"""Values that are written into places of others: what ``x[..., :n] = y`` becomes where nothing changes in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator, Unknown
from torch import Tensor

from specnorm_torch.aten import OPERATORS, identity
from specnorm_torch.calls import Call, Made, Moving, Rule, rounded, rules, shape_of


def copied(call: Call, *, self: Moving, src: Moving) -> Made | Operator:
    """The second value, in the shape and dtype of the first."""
    del self
    if shape_of(src) == call.shape:
        return identity(call, self=src)
    return call.chain(src, (ops.Broadcast(call.shape), call.shape), (ops.Cast(), call.shape))


def filled(call: Call, *, self: Moving, value: Moving) -> Made | Operator:
    """One number at each place."""
    return copied(call, self=self, src=value)


def scattered(call: Call, *, self: Moving, src: Moving, **rest: Any) -> Made | Operator:
    """Entries of the one in places of the other: those that the slice, or the selection, would read."""
    read = {"slice_scatter": torch.ops.aten.slice.Tensor, "select_scatter": torch.ops.aten.select.int}[call.label]
    return _written(call, self, src, read(_numbered(call), **rest))


def put(
    call: Call, *, self: Moving, indices: Sequence[Tensor | None], values: Moving, accumulate: bool = False
) -> Made | Operator:
    """Entries of the one, repeated where that fits, at places of the other that are constant."""
    at = torch.ops.aten.index.Tensor(_numbered(call), [None if each is None else each.cpu() for each in indices])
    if accumulate or len(at.unique()) < at.numel():
        return Unknown("it adds to what is there, or writes to one place twice")
    if shape_of(values) == tuple(at.shape):
        return _written(call, self, values, at)
    whole, part = rounded(call, self, values)
    wide = call.add(ops.Broadcast(tuple(at.shape)), (part,), tuple(at.shape))
    return Made(ops.Merge(at.reshape(-1).numpy()), (whole, wide))


def _numbered(call: Call) -> Tensor:
    return torch.arange(math.prod(call.shape)).reshape(call.shape)


def _written(call: Call, self: Moving, src: Moving, at: Tensor) -> Made | Operator:
    return Made(ops.Merge(at.reshape(-1).numpy()), rounded(call, self, src))


RULES: dict[str, Rule] = {
    **OPERATORS,
    **rules(copied, "copy", "non_blocking"),
    **rules(filled, "fill.Tensor"),
    **rules(scattered, "slice_scatter select_scatter"),
    **rules(put, "index_put"),
}
"""``operator.overload`` -> its rule; what is not here is unknown."""
