"""Training with JAX: constraints, penalties, projections for trees of parameters (Flax, Equinox, or any other pytree).

A rule of `specnorm_jax.kernels` decides which leaves are kernels, and with which geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

import specnorm
from specnorm.errors import KernelError, MethodError
from specnorm.methods import Method, SymbolNorm
from specnorm.plugin import check_bound
from specnorm_jax.kernels import (
    Kernel,
    Rule,
    equinox_layout,
    flax_layout,
    kernels,
    layout_of,
    name_of,
    with_geometry,
)  # fmt: skip
from specnorm_jax.monitor import NormMonitor
from specnorm_jax.orthogonality import OrthogonalityPenalty

if TYPE_CHECKING:
    import optax

__all__ = [
    "Kernel", "NormMonitor", "OrthogonalityPenalty", "ProjectionState", "Rule", "SpectralPenalty", "States",
    "equinox_layout", "flax_layout", "init_spectral_norm", "kernels", "layout_of", "project_spectral_norm", "rescale",
    "spectral_norm", "with_geometry",
]  # fmt: skip

Tree = TypeVar("Tree")
_SYMBOL_NORM = SymbolNorm()


# -- proven, after training --------------------------------------------------------------------------------------
def rescale(tree: Tree, bound: float = 1.0, rule: Rule = flax_layout, *, layers: str = "*") -> Tree:
    """Shrink every kernel of a tree so that its norm is proven to be at most ``bound``: `specnorm.rescale` on each.

    Parameters
    ----------
    tree : pytree
    bound : float, default 1
    rule, layers
        See `kernels`.

    Returns
    -------
    pytree
        The tree with new kernels. A kernel whose norm is proven to be at most ``bound`` already is the same array.

    Raises
    ------
    MethodError
        Under a tracer: a proof needs values.
    Undecided
        If a norm could not be proven within the budget.
    """
    rescaled = {}
    for name, kernel in kernels(tree, rule, layers=layers).items():
        rescaled[name] = specnorm.rescale(kernel.array, bound, **kernel.geometry)
    return _replaced(tree, rescaled)


def _replaced(tree: Tree, new_kernels: Mapping[str, Any]) -> Tree:
    """Return the tree with the leaves at some paths replaced by new kernels, reshaped to the leaves' shapes."""

    def new_leaf(keys: tuple[Any, ...], leaf: Any) -> Any:
        kernel = new_kernels.get(name_of(keys))
        if kernel is None:
            return leaf
        return kernel if kernel.shape == leaf.shape else jnp.reshape(kernel, leaf.shape)

    new_tree: Tree = jax.tree_util.tree_map_with_path(new_leaf, tree)
    return new_tree


# -- while training ----------------------------------------------------------------------------------------------
_HashableGeometry: TypeAlias = tuple[tuple[str, Any], ...]
States: TypeAlias = dict[str, Any]
"""For the path of each kernel, the state that `specnorm.init_tracking` returns, and under the name "passes" the number
of times that the kernel was tracked: a tree of arrays like any other."""
_FIRST_PASSES = 32
"""Number of passes at the beginning that take at least `_FIRST_STEPS` steps each.

An optimiser's first steps change all weights in one direction.
"""
_FIRST_STEPS = 3


def _init(tree: Any, method: Method, rule: Rule, layers: str) -> States:
    """Return the first state of each kernel of a tree."""
    states = {}
    for name, kernel in kernels(tree, rule, layers=layers).items():
        vectors = specnorm.init_tracking(kernel.array, method, **kernel.geometry)
        states[name] = {**vectors, "passes": jnp.zeros((), dtype=jnp.int32)}
    return states


def _step(
    kernels_of_tree: Mapping[str, Kernel],
    method: Method,
    states: States,
    sweeps: int,
) -> tuple[dict[str, Any], States]:
    """Return the norms of a tree's kernels, and their states for the next step, by path."""
    if kernels_of_tree.keys() != states.keys():
        raise KernelError(
            f"the state is of the kernels {sorted(states)}, and the tree has {sorted(kernels_of_tree)}. Give the state "
            "that init returned for this tree, rule and layers."
        )
    geometries = tuple(_hashable(kernel.geometry) for kernel in kernels_of_tree.values())
    arrays = [kernel.array for kernel in kernels_of_tree.values()]
    states_of_arrays = [states[path] for path in kernels_of_tree]
    norms, new_states = _compiled_track(method, geometries, sweeps, arrays, states_of_arrays)
    return dict(zip(kernels_of_tree, norms, strict=True)), dict(zip(kernels_of_tree, new_states, strict=True))


def _track(
    method: Method,
    geometries: tuple[_HashableGeometry, ...],
    sweeps: int,
    arrays: list[Any],
    states: Any,
) -> tuple[list[Any], list[States]]:
    keywords = [dict(geometry) for geometry in geometries]
    passes = [state["passes"] for state in states]
    vectors = [{name: x for name, x in state.items() if name != "passes"} for state in states]
    if sweeps and any(vectors):
        is_first = jnp.max(jnp.stack(passes)) < _FIRST_PASSES
        more_steps = jnp.where(is_first, max(_FIRST_STEPS - sweeps, 0), 0)
        vectors = _after_more_steps(method, keywords, arrays, vectors, steps=more_steps)
    norms, new_vectors = specnorm.track_many(arrays, method, vectors, geometries=keywords, sweeps=sweeps)
    new_states = []
    for vectors_of_kernel, count in zip(new_vectors, passes, strict=True):
        new_count = count + 1 if sweeps else count
        new_states.append({**vectors_of_kernel, "passes": new_count})
    return norms, new_states


def _after_more_steps(
    method: Method, geometries: list[dict[str, Any]], arrays: list[Any], vectors: list[States], *, steps: Any
) -> Any:
    """Return the vectors after more steps without a gradient; the number of steps may be a tracer."""
    constant_arrays = jax.lax.stop_gradient(arrays)

    def one_step(_: Any, vectors: Any) -> Any:
        return specnorm.track_many(constant_arrays, method, vectors, geometries=geometries)[1]

    return jax.lax.fori_loop(0, steps, one_step, jax.lax.stop_gradient(vectors))


_compiled_track = jax.jit(_track, static_argnums=(0, 1, 2))
"""`_track`, compiled also if the user does not call it inside of ``jit``, where JAX would compile each operation."""


def _hashable(geometry: Mapping[str, Any]) -> _HashableGeometry:
    """Convert geometry keywords to a tuple, which can be a static argument of ``jit``."""
    return tuple((word, _as_tuples(x)) for word, x in geometry.items())


def _as_tuples(x: Any) -> Any:
    """Convert lists, also inside of lists and tuples, to tuples."""
    return tuple(map(_as_tuples, x)) if isinstance(x, (list, tuple)) else x


def init_spectral_norm(
    params: Any,
    *,
    method: Method = _SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
) -> States:
    """Compute the first state for `spectral_norm`, outside of ``jit``.

    Parameters
    ----------
    params : pytree
    method, rule, layers
        The same as for `spectral_norm`.

    Returns
    -------
    dict
        The state of each kernel by its path, from `specnorm.init_tracking`, with a count of the passes.

    Raises
    ------
    KernelError
        If no leaf is a kernel.
    MethodError
        If the method has no training state.
    """
    return _init(params, method, rule, layers)


def spectral_norm(
    params: Tree,
    state: States,
    bound: float = 1.0,
    *,
    method: Method = _SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
    only_shrink: bool = False,
    sweeps: int = 1,
) -> tuple[Tree, States]:
    """Divide every kernel of a tree by its norm, and multiply it by ``bound``. A pure function, for a jitted step.

    The optimiser changes the given parameters; the network uses the returned ones::

        state = init_spectral_norm(params)

        def loss(params, state, batch):
            weights, state = spectral_norm(params, state)
            return cross_entropy(weights, batch), state

    Parameters
    ----------
    params : pytree
        Parameters; see `kernels`.
    state : dict
        From `init_spectral_norm`, or from the step before.
    bound : float, default 1
        Positive.
    method : Method, default ``SymbolNorm()``
        A method with a training state, see `specnorm.track`. SymbolNorm follows the norm from below. With
        ``Completion()`` no norm exceeds the bound, up to the rounding of the division.
    rule, layers
        See `kernels`. Other leaves are returned unchanged.
    only_shrink : bool, default False
        Whether to leave kernels with a norm below the bound unchanged.
    sweeps : int, default 1
        See `specnorm.track`. 0: do not move the state, for example in an evaluation.

    Returns
    -------
    weights : pytree
        The tree with new kernels, of the same dtypes. A zero kernel stays zero. The gradient passes through the
        division, with constant singular vectors (envelope theorem).
    state : dict
        The state for the next step, as constants.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite, or the state belongs to another tree.

    Notes
    -----
    Nothing is proven in training. After it, `rescale` returns weights whose norms are proven.
    """
    check_bound(bound)
    kernels_of_tree = kernels(params, rule, layers=layers)
    norms, new_state = _step(kernels_of_tree, method, state, sweeps)
    new_kernels = {
        path: _at_bound(kernel.array, norms[path], bound, only_shrink) for path, kernel in kernels_of_tree.items()
    }
    return _replaced(params, new_kernels), new_state


def _at_bound(kernel: Any, norm: Any, bound: float, only_shrink: bool) -> Any:
    """Scale a kernel so that its norm is the bound; a zero kernel, or one to be left alone, is returned unchanged."""
    is_scaled = norm > bound if only_shrink else norm > 0
    # So that the gradient has no division by zero.
    divisor = jnp.where(is_scaled, norm, 1)
    factor = jnp.where(is_scaled, bound / divisor, 1)
    return (kernel * factor).astype(kernel.dtype)


@dataclass(frozen=True)
class SpectralPenalty:
    """Sum over a tree's kernels of a function of their norms, which a state follows from step to step.

    It is a pure function, which can be jitted.

    ::

        penalty = SpectralPenalty(rule=equinox_layout)
        state = penalty.init(params)

        def loss(params, state, batch):
            value, state = penalty(params, state)
            return cross_entropy(params, batch) + 0.05 * value, state

    Parameters
    ----------
    method : Method, default ``SymbolNorm()``
        A method with a training state, see `specnorm.track`.
    rule, layers
        See `kernels`.
    form : {"sum", "log", "hinge"}, default "sum"
        The function of a norm s: s, log s (0 for a zero kernel; the sum is the logarithm of the product of the norms),
        or max(s - target, 0).
    target : float, default 1
        For the form "hinge".
    sweeps : int, default 1
        See `specnorm.track`.

    Raises
    ------
    MethodError
        If ``form`` is another word.
    """

    method: Method = _SYMBOL_NORM
    rule: Rule = flax_layout
    layers: str = "*"
    form: Literal["sum", "log", "hinge"] = "sum"
    target: float = 1.0
    sweeps: int = 1

    def __post_init__(self) -> None:
        if self.form not in ("sum", "log", "hinge"):
            raise MethodError(f"form={self.form!r} is not one of 'sum', 'log', 'hinge'.")

    def init(self, tree: Any) -> States:
        """Return the first state: for each kernel, the state from `specnorm.init_tracking` and a count of passes.

        Parameters
        ----------
        tree : pytree
            Parameters; see `kernels`.

        Raises
        ------
        KernelError
            If no leaf is a kernel.
        MethodError
            If the method has no training state.
        """
        return _init(tree, self.method, self.rule, self.layers)

    def __call__(self, tree: Any, state: States) -> tuple[Any, States]:
        """Compute the penalty, and move the state.

        Parameters
        ----------
        tree : pytree
            The parameters that were given to `init`, after some training steps.
        state : dict

        Returns
        -------
        value : 0-d array
            An estimate, see `specnorm.track`; with ``Gram()`` or ``Completion()`` an upper bound. The gradient is 0 for
            a zero kernel.
        state : dict
            The state for the next step, as constants.

        Raises
        ------
        KernelError
            If the state belongs to another tree.
        """
        norms, new_state = self.norms(tree, state)
        values = jnp.stack(list(norms.values()))
        if self.form == "log":
            values = jnp.log(jnp.where(values > 0, values, 1))
        elif self.form == "hinge":
            values = jnp.maximum(values - self.target, 0)
        return jnp.sum(values), new_state

    def norms(self, tree: Any, state: States) -> tuple[dict[str, Any], States]:
        """Return the norms of all kernels, for a penalty of another form, and move the state.

        Returns
        -------
        values : dict of str to 0-d array
            The norms by path.
        state : dict
        """
        return _step(kernels(tree, self.rule, layers=self.layers), self.method, state, self.sweeps)


class ProjectionState(NamedTuple):
    """State of `project_spectral_norm`."""

    kernels: States


def project_spectral_norm(
    bound: float = 1.0,
    *,
    method: Method = _SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
    sweeps: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Optax transformation after whose step no kernel's norm exceeds ``bound``, as in projected gradient descent.

    It is the last one in a chain: ``optax.chain(optax.adam(1e-3), project_spectral_norm(1.0))``. A kernel above the
    bound is multiplied by a factor; other kernels are not changed.

    Parameters
    ----------
    bound : float, default 1
        Positive.
    method : Method, default ``SymbolNorm()``
        A method with a training state, see `specnorm.track`. SymbolNorm follows the norm from below, so during training
        the norms are at most about ``bound``. With ``Gram()`` or ``Completion()`` they are at most ``bound``, up to the
        rounding of ``params + updates``.
    rule, layers
        See `kernels`.
    sweeps : int, default 1
        See `specnorm.track`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update`` needs the argument ``params``. Its state is a `ProjectionState`, a tree of arrays.

    Raises
    ------
    ImportError
        If Optax is not installed.
    KernelError
        If ``bound`` is not positive and finite; from ``init``, if no leaf is a kernel.

    Notes
    -----
    Nothing is proven in training. After it, `rescale` returns a tree whose norms are proven.
    """
    import optax

    check_bound(bound)

    def init(params: Any) -> ProjectionState:
        return ProjectionState(_init(params, method, rule, layers))

    def update(
        updates: Any,
        state: ProjectionState,
        params: Any = None,
        **_extra: Any,
    ) -> tuple[Any, ProjectionState]:
        if params is None:
            raise ValueError("project_spectral_norm needs the parameters: call update(updates, state, params).")
        old_kernels = kernels(params, rule, layers=layers)
        update_of_path = {name_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(updates)}
        updated_kernels = {}
        for path, kernel in old_kernels.items():
            updated_kernels[path] = kernel._replace(array=_after_update(kernel.array, update_of_path[path]))
        norms, new_states = _step(updated_kernels, method, state.kernels, sweeps)

        def projected(keys: tuple[Any, ...], update: Any) -> Any:
            path = name_of(keys)
            if path not in old_kernels:
                return update
            projected_kernel = _at_bound(updated_kernels[path].array, norms[path], bound, only_shrink=True)
            projected_update = (projected_kernel - old_kernels[path].array).astype(update.dtype)
            return jnp.where(norms[path] > bound, jnp.reshape(projected_update, update.shape), update)

        return jax.tree_util.tree_map_with_path(projected, updates), ProjectionState(new_states)

    return optax.GradientTransformationExtraArgs(init, update)


def _after_update(kernel: Any, update: Any) -> Any:
    """Return a kernel after an update of the optimiser, as a constant."""
    new_kernel = kernel + jnp.reshape(update, kernel.shape)
    return jax.lax.stop_gradient(new_kernel.astype(kernel.dtype))
