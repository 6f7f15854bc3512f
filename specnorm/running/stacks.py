"""Layers that are stepped together: kernels of several shapes in one stack, padded with zeros to common channels.

Channels of zeros change neither the norm of a kernel nor its singular vectors, which are zero there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from specnorm.backends import arrays
from specnorm.backends.registry import called_while_tracing
from specnorm.geometry import polyphase
from specnorm.running.program import program
from specnorm.running.stepping import SteppedProgram, stepped_program

if TYPE_CHECKING:
    from specnorm.backends.types import AnyArray, Backend

_ADDED_PART = 0.5
"""Zeros that kinds of layers may be padded with to join a stack, as a part of the entries of their kernels."""
_ADDED_ENTRIES = 2**15
"""Number of zeros that they may be padded with anyway: products of so few take less time than calls."""
_ADDED_ON_DEVICE = 2**22
"""The same where calls only start work on a device. On a GPU, the some 300 calls of a stack take 1 ms, products of so
many zeros a tenth of that."""
_ADDED_WHERE_COMPILED = 2**19
"""The same where a compiler makes a program for each stack. XLA takes 2 to 3 s for one on a CPU; products of so many
zeros take half a millisecond in each pass."""


class Stack(NamedTuple):
    """Layers that are stepped together.

    Parameters
    ----------
    program : SteppedProgram
        Of one member of the stack.
    members : tuple of int
        Places of the layers.
    """

    program: SteppedProgram
    members: tuple[int, ...]

    def joined(
        self,
        layers: Sequence[SteppedProgram],
        kernels: Sequence[AnyArray],
        states: Sequence[Sequence[AnyArray]],
        *,
        backend: Backend,
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Kernels and states of the layers as stacks, with one leading axis."""
        if len(layers) == 1 and layers[0] is self.program:
            return kernels[0][None, ...], tuple(x[None, ...] for x in states[0])
        member_states = [self._state_of_member(*x, backend=backend) for x in zip(layers, states, strict=True)]
        xp = backend.namespace(kernels[0])
        stacked_states = tuple(_stacked(x, xp) for x in zip(*member_states, strict=True))
        return self.joined_kernels(layers, kernels, backend=backend), stacked_states

    def joined_kernels(
        self, layers: Sequence[SteppedProgram], kernels: Sequence[AnyArray], *, backend: Backend
    ) -> AnyArray:
        """Kernels of the layers as a stack, with one leading axis."""
        members = [self._member(*x, backend=backend) for x in zip(layers, kernels, strict=True)]
        return _stacked(members, backend.namespace(kernels[0]))

    def out_of(self, layer: SteppedProgram, member: AnyArray, *, backend: Backend) -> AnyArray:
        """An array like a member of the stack, such as its gradient, as one like the layer's kernel."""
        if self.program is layer:
            return member
        xp = backend.namespace(member)
        m, p, *_ = _padded_shape(layer)
        block = member[:m, :p, ...][None, ...]
        if (m, p) != layer.spec.block_shape[:2]:
            block = arrays.swapped(block, xp=xp)
        block = xp.reshape(block, (1, *layer.spec.block_shape))
        return polyphase.from_blocks(block, layer.spec, xp=xp)[0, ...]

    def factors_out_of(
        self, layer: SteppedProgram, left: AnyArray, right: AnyArray, *, backend: Backend
    ) -> tuple[AnyArray, AnyArray]:
        """The factors (rows, r) and (r, n) of a member's gradient, as those of the gradient of the layer's kernel."""
        if self.program is layer:
            return left, right
        xp = backend.namespace(left)
        m, p = _padded_shape(layer)[:2]
        rank = left.shape[1]
        left = left[:m, :]
        right = xp.reshape(xp.reshape(right, (rank, self.program.shape[1], -1))[:, :p, :], (rank, -1))
        if (m, p) != layer.spec.block_shape[:2]:
            left, right = xp.matrix_transpose(right), xp.matrix_transpose(left)
        blocks = xp.reshape(right, (1, rank, *layer.spec.block_shape[1:]))
        return left, polyphase.rows_of_kernel(blocks, layer.spec, xp=xp)[0, ...]

    def state_out_of(self, layer: SteppedProgram, state: Sequence[AnyArray]) -> tuple[AnyArray, ...]:
        """The state of a member of the stack as that of the layer."""
        if self.program is layer:
            return tuple(state)
        shapes = layer.state_shapes().values()
        return tuple(x[:, : shape[1], ...] for x, shape in zip(state, shapes, strict=True))

    def _member(self, layer: SteppedProgram, kernel: AnyArray, *, backend: Backend) -> AnyArray:
        """A layer's kernel as a member of the stack: its blocks with zeros appended."""
        if self.program is layer:
            return kernel
        xp = backend.namespace(kernel)
        block = polyphase.to_blocks(kernel[None, ...], layer.spec, xp=xp)
        if block.shape[1:3] != _padded_shape(layer)[:2]:
            block = arrays.swapped(block, xp=xp)
        m, p, *taps = self.program.shape
        block = xp.reshape(block, (*block.shape[1:3], *taps))
        return _extended(_extended(block, 0, m, backend=backend), 1, p, backend=backend)

    def _state_of_member(
        self, layer: SteppedProgram, state: Sequence[AnyArray], *, backend: Backend
    ) -> Sequence[AnyArray]:
        if self.program is layer:
            return state
        shapes = self.program.state_shapes().values()
        return [_extended(x, 1, shape[1], backend=backend) for x, shape in zip(state, shapes, strict=True)]


def stacks(programs: Sequence[SteppedProgram], *, asynchronous: bool = False, compiled: bool = False) -> list[Stack]:
    """Join the layers of these programs, of one method, to as few stacks as cost little more.

    Parameters
    ----------
    programs : sequence of SteppedProgram
    asynchronous : bool
        Whether calls only start work on a device.
    compiled : bool
        Whether a compiler makes a program for each stack. Then the states are those of the stacks, not of their
        members, so that layers may join whose states differ.
    """
    added = _ADDED_WHERE_COMPILED if compiled else _ADDED_ON_DEVICE if asynchronous else _ADDED_ENTRIES
    keys = tuple(x.key for x in programs)
    return [Stack(program(key), members) for key, members in _stacks(keys, added, compiled)]  # type: ignore[arg-type]


def unstacked(x: AnyArray, *, backend: Backend) -> Sequence[AnyArray]:
    """The members of a stack; libraries differentiate one operation, where there is one, in fewer operations."""
    # NumPy has it since 2.1, so the core does not rely on it.
    unstack: Any = getattr(backend.namespace(x), "unstack", None)
    return [x[j, ...] for j in range(x.shape[0])] if unstack is None else unstack(x)


def _stacked(members: Sequence[AnyArray], xp: Any) -> AnyArray:
    """Stack arrays; a single one is not copied."""
    return xp.stack(members) if len(members) > 1 else members[0][None, ...]


def _extended(x: AnyArray, axis: int, size: int, *, backend: Backend) -> AnyArray:
    """Append zeros along an axis."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    xp: Any = backend.namespace(x)
    shape = (*x.shape[:axis], missing, *x.shape[axis + 1 :])
    return xp.concat([x, xp.zeros(shape, dtype=x.dtype, device=backend.device(x))], axis=axis)


@called_while_tracing
def _stacks(keys: tuple[str, ...], added: int, compiled: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`stacks` of the programs behind keys, as plain values, with at most so many zeros."""
    return _found_stacks(keys, added, compiled)


@functools.lru_cache(maxsize=64)
def _found_stacks(keys: tuple[str, ...], added: int, compiled: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    members: dict[str, list[int]] = {}
    for j, key in enumerate(keys):
        members.setdefault(key, []).append(j)
    families: dict[Hashable, list[str]] = {}
    for key in members:
        families.setdefault(_family(key, compiled), []).append(key)
    return tuple(
        (_common(joined), tuple(sorted(j for kind in joined for j in members[kind])))
        for kinds in families.values()
        for joined in _joined(kinds, members, added)
    )


def _joined(kinds: Sequence[str], members: dict[str, list[int]], most: int) -> Iterator[list[str]]:
    """Yield kinds that cost little more together, beginning with the largest kind that is left."""
    waiting = sorted(kinds, key=lambda key: -math.prod(_padded_shape(_program(key))))
    while waiting:
        joined = waiting[:1]
        for kind in waiting[1:]:
            if _costs_little([*joined, kind], members, most):
                joined.append(kind)
        waiting = [kind for kind in waiting if kind not in joined]
        yield joined


def _family(key: str, compiled: bool) -> Hashable:
    """What is equal for kinds of layers that may join: all but the channels.

    Layers that keep states of their own in a stack also have the same side that is larger, and equal states but for the
    channels.
    """
    kind = _program(key)
    if not kind.stepped.pads_channels or kind.spec.groups > 1 or kind.spec.input_shape:
        return key
    m, p, *taps = _padded_shape(kind)
    if compiled:
        return kind.plan, kind.dtype, tuple(taps)
    sizes = tuple((shape[0], *shape[2:]) for shape in kind.state_shapes().values())
    return kind.plan, kind.dtype, m < p, tuple(taps), sizes


def _costs_little(kinds: Sequence[str], members: dict[str, list[int]], most: int) -> bool:
    counts = [len(members[kind]) for kind in kinds]
    entries = sum(n * math.prod(_padded_shape(_program(kind))) for n, kind in zip(counts, kinds, strict=True))
    added = sum(counts) * math.prod(_common_shape(kinds)) - entries
    return added <= max(_ADDED_PART * entries, most)


def _common(kinds: Sequence[str]) -> str:
    """Key of the program of a stack of these kinds."""
    if len(kinds) == 1:
        return kinds[0]
    first = _program(kinds[0])
    return stepped_program(first.stepped, _common_shape(kinds), first.dtype, ()).key


def _common_shape(kinds: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(max, zip(*(_padded_shape(_program(kind)) for kind in kinds), strict=True)))


def _padded_shape(layer: SteppedProgram) -> tuple[int, ...]:
    """Shape of the block of a layer without axes of one tap; a matrix has its longer side first."""
    m, p, *sizes = layer.spec.block_shape
    taps = tuple(k for k in sizes if k > 1)
    return (m, p, *taps) if taps else (max(m, p), min(m, p))


def _program(key: str) -> SteppedProgram:
    found = program(key)
    assert isinstance(found, SteppedProgram)
    return found
