"""Layers that are stepped together: kernels of several shapes in one stack, padded with zeros to common channels.

Channels of zeros change neither the norm of a kernel nor its singular vectors, which are zero there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from specnorm.backends import arrays
from specnorm.backends.registry import called_while_tracing
from specnorm.geometry import polyphase
from specnorm.running.program import program
from specnorm.running.stepping import SteppedProgram, stepped_program

if TYPE_CHECKING:
    from specnorm.backends.types import AnyArray, Backend

_T = TypeVar("_T")
_PlainStack: TypeAlias = tuple[str, tuple[int, ...]]
"""The key of a stack's program, and its members."""
_ADDED_PART = 0.5
"""Zeros that kinds of layers may be padded with to join a stack, as a part of the entries of their kernels."""
_ADDED_ENTRIES = 2**16
"""Number of zeros that they may be padded with anyway: products of so few take less time than calls, and XLA takes 3 s
on a CPU to compile the step of a stack of convolutions."""
_ADDED_ON_DEVICE = 2**22
"""The same where calls only start work on a device. On a GPU, the some 300 calls of a stack take 1 ms, products of so
many zeros a tenth of that."""
_ADDED_WHERE_COMPILED = 2**19
"""The same for matrices where a compiler makes a program for each stack. XLA takes 2 to 3 s for one on a CPU; products
of so many zeros take half a millisecond in each pass."""


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
        return _stacked(self.padded_kernels(layers, kernels, backend=backend), xp), stacked_states

    def padded_kernels(
        self, layers: Sequence[SteppedProgram], kernels: Sequence[AnyArray], *, backend: Backend
    ) -> list[AnyArray]:
        """Kernels of the layers as members of the stack."""
        return [self._member(*x, backend=backend) for x in zip(layers, kernels, strict=True)]

    def out_of(self, layer: SteppedProgram, member: AnyArray, *, backend: Backend) -> AnyArray:
        """An array like a member of the stack, such as its gradient, as one like the layer's kernel."""
        if self.program is layer:
            return member
        xp = backend.namespace(member)
        m, p = self._sides(layer)
        block = member[:m, :p, ...][None, ...]
        if (m, p) != layer.spec.block_shape[:2]:
            block = arrays.swapped(block, xp=xp)
        block = xp.reshape(block, (1, *layer.spec.block_shape))
        return polyphase.from_blocks(block, layer.spec, xp=xp)[0, ...]

    def factors_out_of(
        self, layer: SteppedProgram, left: AnyArray, right: AnyArray, *, backend: Backend
    ) -> tuple[AnyArray, AnyArray]:
        """The gradient of a member of the stack in factors, as that of the layer's kernel in factors.

        ``left`` (rows, r), ``right`` (r, n): their product is the gradient with respect to a member, as a matrix with a
        row for each entry of its first axis. What is returned has the sizes of the layer's kernel: the channels that
        were appended to it are left out, and the axes are in its order. `out_of` does the same for a whole gradient.
        """
        if self.program is layer:
            return left, right
        xp = backend.namespace(left)
        m, p = self._sides(layer)
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
        if block.shape[1:3] != self._sides(layer):
            block = arrays.swapped(block, xp=xp)
        spec = self.program.spec
        taps = [k for k in block.shape[3:] if k > 1]
        block = arrays.extended(xp.reshape(block, (1, *block.shape[1:3], *taps)), spec.block_shape, backend=backend)
        return polyphase.caller_order(block, spec, xp=xp)[0, ...]

    def _state_of_member(
        self, layer: SteppedProgram, state: Sequence[AnyArray], *, backend: Backend
    ) -> Sequence[AnyArray]:
        if self.program is layer:
            return state
        shapes = self.program.state_shapes().values()
        return [arrays.extended(x, shape[1:2], backend=backend) for x, shape in zip(state, shapes, strict=True)]

    def _sides(self, layer: SteppedProgram) -> tuple[int, int]:
        """Rows and columns of a layer's block as a member: the longer side comes first where the stack's does."""
        m, p = layer.spec.block_shape[:2]
        rows, columns, *_ = self.program.spec.block_shape
        return (p, m) if m < p and rows >= columns else (m, p)


def stacks(programs: Sequence[SteppedProgram], *, asynchronous: bool = False) -> list[Stack]:
    """Join the layers of these programs, of one method, to as few stacks as cost little more.

    Parameters
    ----------
    programs : sequence of SteppedProgram
    asynchronous : bool
        Whether calls only start work on a device.
    """
    added = _ADDED_ON_DEVICE if asynchronous else _ADDED_ENTRIES
    return [_stack(*x) for x in _stacks(tuple(x.key for x in programs), added)]


def joint_stacks(programs: Sequence[SteppedProgram]) -> list[Stack]:
    """`stacks` where a compiler makes a program for each: as few as cost little more.

    The states are those of the joint stacks, not of their members, so that layers may join whose states differ.
    """
    return [_stack(*x) for x in _joint_stacks(tuple(x.key for x in programs))]


def unstacked(x: AnyArray, *, backend: Backend) -> Sequence[AnyArray]:
    """The members of a stack; libraries differentiate one operation, where there is one, in fewer operations."""
    # NumPy has it since 2.1, so the core does not rely on it.
    unstack: Any = getattr(backend.namespace(x), "unstack", None)
    return [x[j, ...] for j in range(x.shape[0])] if unstack is None else unstack(x)


def _stacked(members: Sequence[AnyArray], xp: Any) -> AnyArray:
    """Stack arrays; a single one is not copied."""
    return xp.stack(members) if len(members) > 1 else members[0][None, ...]


def _stack(key: str, members: tuple[int, ...]) -> Stack:
    return Stack(_program(key), members)


@called_while_tracing
def _stacks(keys: tuple[str, ...], added: int) -> tuple[_PlainStack, ...]:
    """`stacks` of the programs behind keys, as plain values, with at most so many zeros."""
    return _found_stacks(keys, added)


@called_while_tracing
def _joint_stacks(keys: tuple[str, ...]) -> tuple[_PlainStack, ...]:
    """`joint_stacks` of the programs behind keys, as plain values."""
    return _found_joint_stacks(keys)


@functools.lru_cache(maxsize=64)
def _found_stacks(keys: tuple[str, ...], added: int) -> tuple[_PlainStack, ...]:
    members = _places(keys)
    found = (kinds for family in _families(list(members), _family) for kinds in _joined(family, members, added))
    return tuple((_common(kinds), _members(kinds, members)) for kinds in found)


@functools.lru_cache(maxsize=64)
def _found_joint_stacks(keys: tuple[str, ...]) -> tuple[_PlainStack, ...]:
    members, found = _places(keys), []
    for family in _families(list(members), _joint_family):
        has_taps = len(_padded_shape(_program(family[0]))) > 2
        for kinds in _joined(family, members, _ADDED_ENTRIES if has_taps else _ADDED_WHERE_COMPILED, tall=True):
            key = kinds[0] if len(kinds) == 1 else _padded(kinds, tall=True)
            found.append((key, _members(kinds, members)))
    return tuple(found)


def _places(keys: Sequence[str]) -> dict[str, list[int]]:
    """The places at which each key stands in the list; the keys are those of programs of layers."""
    places: dict[str, list[int]] = {}
    for j, key in enumerate(keys):
        places.setdefault(key, []).append(j)
    return places


def _members(kinds: Sequence[str], members: dict[str, list[int]]) -> tuple[int, ...]:
    return tuple(sorted(j for kind in kinds for j in members[kind]))


def _families(kinds: Sequence[str], family: Callable[[str], Hashable]) -> list[list[str]]:
    """Kinds whose families are equal."""
    found: dict[Hashable, list[str]] = {}
    for kind in kinds:
        found.setdefault(family(kind), []).append(kind)
    return list(found.values())


def _joined(
    kinds: Sequence[str], members: dict[str, list[int]], most: int, *, tall: bool = False
) -> Iterator[list[str]]:
    """Yield kinds that cost little more together, beginning with the largest kind that is left; if tall, the smallest.

    The smallest kinds would join the largest ones last, with the most zeros.
    """
    waiting = sorted(kinds, key=lambda key: math.prod(_padded_shape(_program(key))), reverse=not tall)
    return _greedily(waiting, lambda kinds: _costs_little(kinds, members, most, tall=tall))


def _greedily(waiting: Sequence[_T], cost_little: Callable[[Sequence[_T]], bool]) -> Iterator[list[_T]]:
    """Yield what costs little together, beginning with the first that is left."""
    while waiting:
        joined = [waiting[0]]
        for other in waiting[1:]:
            if cost_little([*joined, other]):
                joined.append(other)
        waiting = [x for x in waiting if x not in joined]
        yield joined


def _family(key: str) -> Hashable:
    """What is equal for kinds of layers that may join, each with a state of its own: all but the channels.

    The same side is the larger one, and states are equal but for the channels.
    """
    kind = _program(key)
    if not _pads(kind):
        return key
    m, p, *taps = _padded_shape(kind)
    sizes = tuple((shape[0], *shape[2:]) for shape in kind.state_shapes().values())
    return kind.plan, kind.dtype, m < p, tuple(taps), sizes


def _joint_family(key: str) -> Hashable:
    """What is equal for kinds of layers that a compiler may join: all but the channels and the numbers of taps."""
    kind = _program(key)
    return (kind.plan, kind.dtype, len(_padded_shape(kind))) if _pads(kind) else key


def _pads(kind: SteppedProgram) -> bool:
    return kind.stepped.pads_channels and kind.spec.groups == 1 and not kind.spec.input_shape


def _costs_little(kinds: Sequence[str], members: dict[str, list[int]], most: int, *, tall: bool) -> bool:
    counts = [len(members[kind]) for kind in kinds]
    entries = sum(n * math.prod(_padded_shape(_program(kind))) for n, kind in zip(counts, kinds, strict=True))
    added = sum(counts) * math.prod(_common_shape(kinds, tall=tall)) - entries
    return added <= max(_ADDED_PART * entries, most)


def _common(kinds: Sequence[str]) -> str:
    """Key of the program of a stack of these kinds."""
    return kinds[0] if len(kinds) == 1 else _padded(kinds)


def _padded(kinds: Sequence[str], *, tall: bool = False) -> str:
    """Key of the program of kernels in which the blocks of these kinds fit; if tall, with the channels last."""
    first, (m, p, *taps) = _program(kinds[0]), _common_shape(kinds, tall=tall)
    if not (tall and taps):
        return stepped_program(first.stepped, (m, p, *taps), first.dtype, ()).key
    layout = (("layout", f"{'DHW'[3 - len(taps) :]}IO"),)
    return stepped_program(first.stepped, (*taps, p, m), first.dtype, layout).key


def _common_shape(kinds: Sequence[str], *, tall: bool = False) -> tuple[int, ...]:
    return tuple(map(max, zip(*(_padded_shape(_program(kind), tall=tall) for kind in kinds), strict=True)))


def _padded_shape(layer: SteppedProgram, *, tall: bool = False) -> tuple[int, ...]:
    """Shape of the block of a layer without axes of one tap; a matrix, and if tall each, has its longer side first."""
    m, p, *sizes = layer.spec.block_shape
    taps = tuple(k for k in sizes if k > 1)
    return (m, p, *taps) if taps and not tall else (max(m, p), min(m, p), *taps)


def _program(key: str) -> SteppedProgram:
    found = program(key)
    assert isinstance(found, SteppedProgram)
    return found
