"""States that follow the norms of a tree's kernels: one training step of all kernels, equal ones in a stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

import specnorm
from specnorm.errors import KernelError
from specnorm.methods import Method, SymbolNorm
from specnorm_jax.training.trees import HashableGeometry, Kernel, Rule, hashable, kernels

SYMBOL_NORM = SymbolNorm()
States: TypeAlias = dict[str, Any]
"""For the path of each kernel, the state that `specnorm.init_tracking` returns, and under the name "passes" the number
of times that the kernel was tracked: a tree of arrays like any other."""


def init_states(tree: Any, method: Method, rule: Rule, layers: str) -> States:
    """Return the first state of each kernel of a tree."""
    states = {}
    for name, kernel in kernels(tree, rule, layers=layers).items():
        vectors = specnorm.init_tracking(kernel.array, method, **kernel.geometry)
        states[name] = {**vectors, "passes": jnp.zeros((), dtype=jnp.int32)}
    return states


def step_states(
    kernels_of_tree: Mapping[str, Kernel],
    method: Method,
    states: States,
    sweeps: int,
) -> tuple[dict[str, Any], States]:
    """Return the norms of a tree's kernels, and their states for the next step, by path."""
    if not isinstance(states, Mapping):
        raise KernelError(
            f"the state is of type {type(states).__name__}. Give the dict that init returned for this tree."
        )
    if kernels_of_tree.keys() != states.keys():
        raise KernelError(
            f"the state is of the kernels {sorted(states)}, and the tree has {sorted(kernels_of_tree)}. Give the state "
            "that init returned for this tree, rule and layers."
        )
    geometries = tuple(hashable(kernel.geometry) for kernel in kernels_of_tree.values())
    arrays = [kernel.array for kernel in kernels_of_tree.values()]
    states_of_arrays = [states[path] for path in kernels_of_tree]
    norms, new_states = _compiled_track(method, geometries, sweeps, arrays, states_of_arrays)
    return dict(zip(kernels_of_tree, norms, strict=True)), dict(zip(kernels_of_tree, new_states, strict=True))


def _first_sweeps(passes: Any) -> Any:
    """Least number of sweeps after a number of passes: 5, 4, 3 and 2 in 16 passes each, then less.

    An optimiser's first steps change all weights in one direction, and one sweep a pass would lag.
    """
    return 5 - passes // 16


def _track(
    method: Method,
    geometries: tuple[HashableGeometry, ...],
    sweeps: int,
    arrays: list[Any],
    states: Any,
) -> tuple[list[Any], list[States]]:
    keywords = [dict(geometry) for geometry in geometries]
    passes = jnp.max(jnp.stack([state["passes"] for state in states]))
    vectors = [{name: x for name, x in state.items() if name != "passes"} for state in states]
    steps: Any = jnp.maximum(_first_sweeps(passes), sweeps) if sweeps else 0
    norms, new_vectors = specnorm.track_many(arrays, method, vectors, geometries=keywords, sweeps=steps)
    new_passes = passes + 1 if sweeps else passes
    return norms, [{**vectors_of_kernel, "passes": new_passes} for vectors_of_kernel in new_vectors]


_compiled_track = jax.jit(_track, static_argnums=(0, 1, 2))
"""`_track`, compiled also if the user does not call it inside of ``jit``, where JAX would compile each operation."""
