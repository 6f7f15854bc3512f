"""States that follow the norms of a tree's kernels: one training step of all kernels, similar ones in a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from specnorm_jax import BACKEND

from specnorm._internal import Stack, check_count, check_values, joint_stacks, stepped_program
from specnorm.errors import KernelError
from specnorm.methods import Method, SymbolNorm
from specnorm.plugin import Backend, SteppedProgram
from specnorm_train.jax.trees import Kernel, Rule, kernels

SYMBOL_NORM = SymbolNorm()
States: TypeAlias = dict[str, Any]
"""The state of each stack of kernels, under the path of its first kernel: arrays by name, whose first axis is that of
the stack. XLA would compile a program of its own for each kernel that is taken out of a stack or put into one."""


class Stacks:
    """The kernels of a tree, joined to as few stacks as cost little more: XLA compiles a step for each stack.

    Parameters
    ----------
    method : Method
    kernels_of_tree : dict of str to Kernel
    """

    def __init__(self, method: Method, kernels_of_tree: Mapping[str, Kernel]) -> None:
        self.paths = list(kernels_of_tree)
        self.programs = tuple(_program(method, kernel) for kernel in kernels_of_tree.values())
        self.stacks = tuple(joint_stacks(self.programs))

    def names(self) -> list[str]:
        """Return the name of each stack's state."""
        return [self.paths[min(stack.members)] for stack in self.stacks]


def init_states(tree: Any, method: Method, rule: Rule, layers: str) -> States:
    """Return the first state of each stack of a tree's kernels."""
    kernels_of_tree = kernels(tree, rule, layers=layers)
    found = Stacks(method, kernels_of_tree)
    arrays = [BACKEND.detach(kernel.array) for kernel in kernels_of_tree.values()]
    for array, program in zip(arrays, found.programs, strict=True):
        if not BACKEND.is_traced(array):
            check_values(array, program.shape, backend=BACKEND)
    # Where values are known, stacks are joined in NumPy: there is nothing to compile.
    known = all(not BACKEND.is_traced(array) and array.is_fully_addressable for array in arrays)
    states = {}
    for name, stack in zip(found.names(), found.stacks, strict=True):
        names = stack.program.state_shapes()
        like = arrays[stack.members[0]]
        if not names:
            first: tuple[Any, ...] = ()
        elif known:
            host_arrays = list(map(BACKEND.to_numpy, arrays))
            kernels_of_stack = np.stack(_members(stack, found.programs, host_arrays, backend=BACKEND.host()))
            host_state = stack.program.init(kernels_of_stack, backend=BACKEND.host())
            first = tuple(BACKEND.from_numpy(x, like) for x in host_state)
        else:
            first = _compiled_init(stack, found.programs, arrays)
        states[name] = dict(zip(names, first, strict=True))
    return states


def step_states(
    kernels_of_tree: Mapping[str, Kernel],
    method: Method,
    states: States,
    sweeps: int | None,
) -> tuple[dict[str, Any], States]:
    """Return the norms of a tree's kernels by path, and the states for the next step."""
    if sweeps is not None:
        check_count("sweeps", sweeps)
    given_states: Any = states
    for part in (given_states, *(given_states.values() if isinstance(given_states, Mapping) else ())):
        if not isinstance(part, Mapping):
            kind = type(part).__name__
            raise KernelError(f"the state is of type {kind}. Give the dict of dicts that init returned for this tree.")
    found = Stacks(method, kernels_of_tree)
    expected, given = _shapes_expected(found), _shapes_given(states)
    if given != expected:
        raise KernelError(
            f"the state holds {given}, and this tree needs {expected}. Give the state that init returned for this "
            "tree, method, rule and layers."
        )
    arrays = [kernel.array for kernel in kernels_of_tree.values()]
    # Not in the order of the given dicts, which JAX sorts.
    state_arrays = [tuple(states[name][word] for word in expected[name]) for name in expected]
    norms, new_arrays = _compiled_step(found.stacks, found.programs, sweeps, arrays, state_arrays)
    new_states = {}
    for name, stack, new in zip(found.names(), found.stacks, new_arrays, strict=True):
        new_states[name] = dict(zip(stack.program.state_shapes(), new, strict=True))
    return dict(zip(found.paths, norms, strict=True)), new_states


def _program(method: Method, kernel: Kernel) -> SteppedProgram:
    shape = tuple(kernel.array.shape)
    return stepped_program(method, shape, str(kernel.array.dtype), tuple(kernel.geometry.items()))


def _shapes_expected(found: Stacks) -> dict[str, dict[str, tuple[int, ...]]]:
    expected = {}
    for name, stack in zip(found.names(), found.stacks, strict=True):
        shapes = stack.program.state_shapes()
        expected[name] = {word: (len(stack.members), *shape) for word, shape in shapes.items()}
    return expected


def _shapes_given(states: States) -> dict[str, dict[str, tuple[int, ...]]]:
    return {name: {word: tuple(x.shape) for word, x in state.items()} for name, state in states.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _compiled_init(stack: Stack, programs: tuple[SteppedProgram, ...], arrays: list[Any]) -> tuple[Any, ...]:
    return stack.program.init(jnp.stack(_members(stack, programs, arrays, backend=BACKEND)), backend=BACKEND)


def _members(stack: Stack, programs: Sequence[SteppedProgram], arrays: Sequence[Any], *, backend: Backend) -> list[Any]:
    """The kernels of a stack's layers, as its members."""
    layers = ([x[j] for j in stack.members] for x in (programs, arrays))
    return stack.padded_kernels(*layers, backend=backend)


# Compiled also if the user does not call it inside of `jit`, where JAX would compile each operation.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled_step(
    stacks_of_tree: tuple[Stack, ...],
    programs: tuple[SteppedProgram, ...],
    sweeps: int | None,
    arrays: list[Any],
    states: list[tuple[Any, ...]],
) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """The norm of each kernel, and the state of each stack."""
    norms: list[Any] = [None] * len(arrays)
    new_states = []
    for stack, state in zip(stacks_of_tree, states, strict=True):
        values, new_state = _steps(stack, programs, arrays, state, sweeps)
        new_states.append(new_state)
        for j, value in zip(stack.members, values, strict=True):
            norms[j] = value
    return norms, new_states


def _steps(
    stack: Stack, programs: tuple[SteppedProgram, ...], arrays: list[Any], state: tuple[Any, ...], sweeps: int | None
) -> tuple[list[Any], tuple[Any, ...]]:
    """The norms of the layers of a joint stack, and its next state."""
    program = stack.program
    if not program.stepped.follows and not state:
        return [BACKEND.apply(programs[j], arrays[j]).value for j in stack.members], ()
    members = _members(stack, programs, arrays, backend=BACKEND)
    if not program.stepped.follows:
        values, new_state = BACKEND.step(program, jnp.stack(members), state, sweeps)
        return list(values), new_state
    constants = list(map(BACKEND.detach, members))
    if all(programs[j] is program for j in stack.members):
        # XLA takes half a second to compile a concatenation of four axes. Padded members would be copied twice.
        constants = [x.reshape(-1) for x in constants]
    stacked = jnp.stack(constants).reshape(-1, *program.shape)
    # An evaluation takes the steps that the change needs, too.
    followed = program.follow(stacked, tuple(map(BACKEND.detach, state)), sweeps=sweeps or None, backend=BACKEND)
    norms = BACKEND.with_factors(program, members, followed.value, followed.left, followed.right)
    return list(norms), state if sweeps == 0 else followed.state
