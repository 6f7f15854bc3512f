"""Values that are written into places of others: what ``x[..., :n] = y`` becomes where nothing changes in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    if first_of(call.node).is_complex():
        return Unknown(REPEATED)
    whole, part = rounded(call, self, values)
    wide = call.add(ops.Broadcast(tuple(at.shape)), (part,), tuple(at.shape))
    return Made(ops.Merge(at.reshape(-1).numpy()), (whole, wide))


def _numbered(call: Call) -> Tensor:
    return torch.arange(math.prod(call.shape)).reshape(call.shape)


def _written(call: Call, self: Moving, src: Moving, at: Tensor) -> Made | Operator:
    dtype, at = first_of(call.node).dtype, at.reshape(-1)
    if any(is_value(x) and first_of(x).is_complex() and not dtype.is_complex for x in (self, src)):
        return Unknown("it drops the imaginary parts of what it is given")
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
    **rules(put, "index_put"),
}
"""Rules of calls with and without complex values."""
