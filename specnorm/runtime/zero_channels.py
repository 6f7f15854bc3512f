"""Layers of several widths as one batch, by zero channels: where a library compiles, each shape is a program less.

Zero channels change no norm, and a method's vectors stay zero there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from specnorm.runtime.stepping import SteppedProgram, stepped_program
from specnorm.types import AnyArray

NARROW = 64
"""Channels up to which all widths are one class; further classes end at powers of two. Products with so few channels
cost less than the calls they are made by."""


class Batch(NamedTuple):
    """Layers that are stepped together, by their places, and the program of all: as wide as the widest."""

    members: list[int]
    program: SteppedProgram


def batches(
    plans: Sequence[SteppedProgram], geometries: Sequence[Mapping[str, Any]], devices: Sequence[str], *, merge: bool
) -> list[Batch]:
    """Layers of one shape, dtype, device and geometry together; where ``merge``, of one class of widths."""
    found: dict[Hashable, list[int]] = {}
    for j, plan in enumerate(plans):
        found.setdefault((_class(plan) if merge else plan.key, devices[j]), []).append(j)
    if not merge:
        return [Batch(members, plans[members[0]]) for members in found.values()]
    return [Batch(members, _widest([plans[j] for j in members], geometries[members[0]])) for members in found.values()]


def _class(plan: SteppedProgram) -> Hashable:
    spec = plan.spec
    known = plan.stepped.state_class(spec)
    if known is None or spec.groups > 1 or max(spec.stride, default=1) > 1:
        return plan.key
    return repr((plan.method, replace(spec, cout=_width(spec.cout), cin=_width(spec.cin)), known, plan.dtype))


def _width(channels: int) -> int:
    return max(NARROW, 1 << (channels - 1).bit_length())


def _widest(plans: Sequence[SteppedProgram], geometry: Mapping[str, Any]) -> SteppedProgram:
    shape = tuple(map(max, zip(*(plan.shape for plan in plans), strict=True)))
    first = plans[0]
    return first if shape == first.shape else stepped_program(first.method, shape, first.dtype, tuple(geometry.items()))


def padded(kernel: AnyArray, shape: tuple[int, ...], *, xp: Any) -> AnyArray:
    """Zeros after a kernel's channels, up to a shape."""
    for axis, (n, wider) in enumerate(zip(kernel.shape, shape, strict=True)):
        if n < wider:
            more = xp.zeros_like(kernel[(slice(None),) * axis + (slice(1),)])
            wide = (*more.shape[:axis], wider - n, *more.shape[axis + 1 :])
            kernel = xp.concat([kernel, xp.broadcast_to(more, wide)], axis=axis)
    return kernel


def moved(state: tuple[AnyArray, ...], here: SteppedProgram, there: SteppedProgram, *, xp: Any) -> tuple[AnyArray, ...]:
    """A state of one program as one of another of its class."""
    if here.shape == there.shape:
        return state
    return here.stepped.with_channels(state, here.spec, there.spec, xp=xp)
