"""Merge layers of different widths into one batch, by channels of zeros, so that compilers see fewer shapes.

Zero channels do not change the norm, and the entries of a method's vectors there stay zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from specnorm.runtime.stepping import SteppedProgram, stepped_program
from specnorm.types import AnyArray

NARROW = 64
"""Layers with at most so many channels are merged into one batch; wider ones up to the next power of two. Products with
so few channels take less time than the calls that make them."""


class Batch(NamedTuple):
    """Layers that are stepped together.

    Parameters
    ----------
    members : list of int
        Indices of the layers.
    program : SteppedProgram
        The program of all of them, as wide as the widest.
    """

    members: list[int]
    program: SteppedProgram


def batches(
    plans: Sequence[SteppedProgram], geometries: Sequence[Mapping[str, Any]], devices: Sequence[str], *, merge: bool
) -> list[Batch]:
    """Group layers into batches: with equal problems and devices; if ``merge``, also with different widths."""
    members_of_batch: dict[Hashable, list[int]] = {}
    for j, plan in enumerate(plans):
        batch_key = _merging_key(plan) if merge else plan.key
        members_of_batch.setdefault((batch_key, devices[j]), []).append(j)
    result = []
    for members in members_of_batch.values():
        plan = plans[members[0]]
        if merge:
            plan = _widest([plans[j] for j in members], geometries[members[0]])
        result.append(Batch(members, plan))
    return result


def _merging_key(plan: SteppedProgram) -> Hashable:
    """A key that is equal for layers that can be merged by zero channels."""
    spec = plan.spec
    state_class = plan.stepped.state_class(spec)
    if state_class is None or spec.groups > 1 or max(spec.stride, default=1) > 1:
        return plan.key
    widened_spec = replace(spec, cout=_largest_width(spec.cout), cin=_largest_width(spec.cin))
    return repr((plan.method, widened_spec, state_class, plan.dtype))


def _largest_width(channels: int) -> int:
    """The largest number of channels that is merged with this one."""
    return max(NARROW, 1 << (channels - 1).bit_length())


def _widest(plans: Sequence[SteppedProgram], geometry: Mapping[str, Any]) -> SteppedProgram:
    """The program whose kernel is, along each axis, as large as the largest of the given ones."""
    shape = tuple(map(max, zip(*(plan.shape for plan in plans), strict=True)))
    first = plans[0]
    if shape == first.shape:
        return first
    return stepped_program(first.method, shape, first.dtype, tuple(geometry.items()))


def padded(kernel: AnyArray, shape: tuple[int, ...], *, xp: Any) -> AnyArray:
    """Append zeros to a kernel, along each axis, up to the given shape."""
    for axis, (size, new_size) in enumerate(zip(kernel.shape, shape, strict=True)):
        if size < new_size:
            zero = xp.zeros_like(kernel[(slice(None),) * axis + (slice(1),)])
            zeros_shape = (*zero.shape[:axis], new_size - size, *zero.shape[axis + 1 :])
            kernel = xp.concat([kernel, xp.broadcast_to(zero, zeros_shape)], axis=axis)
    return kernel


def moved(
    state: tuple[AnyArray, ...], from_program: SteppedProgram, to_program: SteppedProgram, *, xp: Any
) -> tuple[AnyArray, ...]:
    """Convert the state of a program to that of another one with which it can be merged."""
    if from_program.shape == to_program.shape:
        return state
    return from_program.stepped.with_channels(state, from_program.spec, to_program.spec, xp=xp)
