"""Training with JAX: constraints, penalties, projections on trees of parameters (Flax, Equinox, or any other pytree).

Which leaves are kernels, and with which geometry, is said by a rule of `specnorm_jax.kernels`.
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


# -- certified, after training -----------------------------------------------------------------------------------
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
        The same tree with other kernels; those that are proven to be at most ``bound`` already are the same arrays.

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


def _replaced(tree: Tree, new: Mapping[str, Any]) -> Tree:
    """Return the tree with other kernels, by path, each in the shape of its leaf."""

    def leaf_of(keys: tuple[Any, ...], leaf: Any) -> Any:
        kernel = new.get(name_of(keys))
        if kernel is None:
            return leaf
        return kernel if kernel.shape == leaf.shape else jnp.reshape(kernel, leaf.shape)

    changed: Tree = jax.tree_util.tree_map_with_path(leaf_of, tree)
    return changed


# -- while training ----------------------------------------------------------------------------------------------
_HashableGeometry: TypeAlias = tuple[tuple[str, Any], ...]
States: TypeAlias = dict[str, Any]
"""By path, what `specnorm.init_tracking` returns for the kernel there, and how often it was tracked under the name
"passes": a tree of arrays, to be kept like any other."""
_FIRST_PASSES, _FIRST_STEPS = 16, 3
"""In so many passes so many steps are taken at least: an optimiser's first steps turn all weights one way."""


def _init(tree: Any, method: Method, rule: Rule, layers: str) -> States:
    """Return the state of each kernel of a tree."""
    states = {}
    for name, kernel in kernels(tree, rule, layers=layers).items():
        vectors = specnorm.init_tracking(kernel.array, method, **kernel.geometry)
        states[name] = {**vectors, "passes": jnp.zeros((), dtype=jnp.int32)}
    return states


def _step(
    of_tree: Mapping[str, Kernel],
    method: Method,
    states: States,
    sweeps: int,
) -> tuple[dict[str, Any], States]:
    """Return the norms of a tree's kernels, and their states for the next step."""
    if of_tree.keys() != states.keys():
        raise KernelError(
            f"the state is of the kernels {sorted(states)}, and the tree has {sorted(of_tree)}. Give the state that "
            "init returned for this tree, rule and layers."
        )
    geometries = tuple(_hashable(kernel.geometry) for kernel in of_tree.values())
    arrays = [kernel.array for kernel in of_tree.values()]
    before = [states[name] for name in of_tree]
    norms, after = _compiled(method, geometries, sweeps, arrays, before)
    return dict(zip(of_tree, norms, strict=True)), dict(zip(of_tree, after, strict=True))


def _stepped(
    method: Method,
    geometries: tuple[_HashableGeometry, ...],
    sweeps: int,
    arrays: list[Any],
    states: Any,
) -> tuple[list[Any], list[States]]:
    words = [dict(geometry) for geometry in geometries]
    passes = [state["passes"] for state in states]
    vectors = [{name: x for name, x in state.items() if name != "passes"} for state in states]
    if sweeps and any(vectors):
        is_first = jnp.max(jnp.stack(passes)) < _FIRST_PASSES
        more_steps = jnp.where(is_first, max(_FIRST_STEPS - sweeps, 0), 0)
        vectors = _moved_ahead(method, words, arrays, vectors, steps=more_steps)
    norms, after = specnorm.track_many(arrays, method, vectors, geometries=words, sweeps=sweeps)
    passes_after = [count + (1 if sweeps else 0) for count in passes]
    return norms, [{**state, "passes": count} for state, count in zip(after, passes_after, strict=True)]


def _moved_ahead(
    method: Method, geometries: list[dict[str, Any]], arrays: list[Any], vectors: list[States], *, steps: Any
) -> Any:
    """Return the vectors after some steps, a traced number, without a gradient."""
    still = jax.lax.stop_gradient(arrays)

    def one_step(_: Any, vectors: Any) -> Any:
        return specnorm.track_many(still, method, vectors, geometries=geometries)[1]

    return jax.lax.fori_loop(0, steps, one_step, jax.lax.stop_gradient(vectors))


_compiled = jax.jit(_stepped, static_argnums=(0, 1, 2))
"""Also outside of the user's ``jit``, where each operation would be a program of its own."""


def _hashable(geometry: Mapping[str, Any]) -> _HashableGeometry:
    """Return the words of a geometry as what ``jit`` takes for a static argument."""
    return tuple((word, _frozen(x)) for word, x in geometry.items())


def _frozen(x: Any) -> Any:
    """Return lists in lists as tuples in tuples."""
    return tuple(map(_frozen, x)) if isinstance(x, (list, tuple)) else x


def init_spectral_norm(
    params: Any,
    *,
    method: Method = _SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
) -> States:
    """Find the state for `spectral_norm`, once, outside of ``jit``.

    Parameters
    ----------
    params : pytree
    method, rule, layers
        Those that `spectral_norm` gets.

    Returns
    -------
    dict
        By path, what `specnorm.init_tracking` returns, and a count of the passes.

    Raises
    ------
    KernelError
        If no leaf is a kernel.
    MethodError
        If the method cannot be stepped.
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
    """Divide every kernel by its norm and multiply by ``bound``: the constraint, for use inside a jitted step; pure.

    The free parameters are what the optimiser moves; the returned tree is what the network uses::

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
        One that `specnorm.track` serves. SymbolNorm follows the norm itself, from below. With ``Completion()`` no norm
        exceeds the bound, up to the rounding of the division.
    rule, layers
        See `kernels`. Leaves that are no kernels are returned as they are.
    only_shrink : bool, default False
        Leave kernels below the bound as they are.
    sweeps : int, default 1
        See `specnorm.track`. 0 where the state is not to move, as in an evaluation.

    Returns
    -------
    weights : pytree
        The same tree, of the same dtypes, with other kernels. A zero kernel stays zero. The gradient passes through
        the division, the singular vectors held constant (the envelope theorem).
    state : dict
        For the next step; not differentiated.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite, or the state is of another tree.

    Notes
    -----
    Nothing is proven while training. `rescale` makes the trained weights certified.
    """
    check_bound(bound)
    of_tree = kernels(params, rule, layers=layers)
    norms, after = _step(of_tree, method, state, sweeps)
    new = {name: _normalised(kernel.array, norms[name], bound, only_shrink) for name, kernel in of_tree.items()}
    return _replaced(params, new), after


def _normalised(kernel: Any, norm: Any, bound: float, only_shrink: bool) -> Any:
    """Return a kernel divided by its norm, times the bound; a kernel of zeros, or one to be left alone, as it is."""
    is_divided = norm > bound if only_shrink else norm > 0
    divisor = jnp.where(is_divided, norm, 1)  # keeps a division by zero out of the gradient
    factor = jnp.where(is_divided, bound / divisor, 1)
    return (kernel * factor).astype(kernel.dtype)


@dataclass(frozen=True)
class SpectralPenalty:
    """Sum over a tree's kernels of a function of their norms, followed from step to step; pure, jittable.

    ::

        penalty = SpectralPenalty(rule=equinox_layout)
        state = penalty.init(params)

        def loss(params, state, batch):
            value, state = penalty(params, state)
            return cross_entropy(params, batch) + 0.05 * value, state

    Parameters
    ----------
    method : Method, default ``SymbolNorm()``
        One that `specnorm.track` serves.
    rule, layers
        See `kernels`.
    form : {"sum", "log", "hinge"}, default "sum"
        Of a norm s: s, log s (of the product of the norms; zero kernels count nothing), or max(s - target, 0).
    target : float, default 1
        Of the hinge.
    sweeps : int, default 1
        See `specnorm.track`.

    Raises
    ------
    MethodError
        If ``form`` is none of them.
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
        """Return the state for `__call__`: by path, what `specnorm.init_tracking` returns, and a count of the passes.

        Parameters
        ----------
        tree : pytree
            Parameters; see `kernels`.

        Raises
        ------
        KernelError
            If no leaf is a kernel.
        MethodError
            If the method cannot be stepped.
        """
        return _init(tree, self.method, self.rule, self.layers)

    def __call__(self, tree: Any, state: States) -> tuple[Any, States]:
        """Take the penalty and move the state.

        Parameters
        ----------
        tree : pytree
            The parameters that `init` was given, moved a little.
        state : dict

        Returns
        -------
        value : 0-d array
            An estimate, as `specnorm.track` tells; with ``Gram()`` or ``Completion()`` an upper bound. The gradient of
            a zero kernel is zero.
        state : dict
            Not differentiated.

        Raises
        ------
        KernelError
            If the state is of another tree.
        """
        norms, after = self.norms(tree, state)
        values = jnp.stack(list(norms.values()))
        if self.form == "log":
            values = jnp.log(jnp.where(values > 0, values, 1))
        elif self.form == "hinge":
            values = jnp.maximum(values - self.target, 0)
        return jnp.sum(values), after

    def norms(self, tree: Any, state: States) -> tuple[dict[str, Any], States]:
        """Take the norms one by one, for a penalty of another form.

        Returns
        -------
        values : dict of str to 0-d array
            By path.
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
    """Optax transformation after whose step no kernel's norm exceeds ``bound``: projected gradient descent.

    The last link of a chain: ``optax.chain(optax.adam(1e-3), project_spectral_norm(1.0))``. A kernel above the bound is
    multiplied by one factor; the others are left alone.

    Parameters
    ----------
    bound : float, default 1
        Positive.
    method : Method, default ``SymbolNorm()``
        One that `specnorm.track` serves. SymbolNorm follows the norm itself, from below: what holds during training
        is an estimate. With ``Gram()`` or ``Completion()`` it is a bound, up to the rounding of ``params + updates``.
    rule, layers
        See `kernels`.
    sweeps : int, default 1
        See `specnorm.track`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update`` needs ``params``. State is a tree of arrays, `ProjectionState`.

    Raises
    ------
    ImportError
        If Optax is not installed.
    KernelError
        If ``bound`` is not positive and finite; from ``init``, if no leaf is a kernel.

    Notes
    -----
    Nothing is proven while training. `rescale` makes the trained tree certified.
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
        before = kernels(params, rule, layers=layers)
        steps = {name_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(updates)}
        moved = {name: kernel._replace(array=_moved(kernel.array, steps[name])) for name, kernel in before.items()}
        norms, after = _step(moved, method, state.kernels, sweeps)

        def projected(keys: tuple[Any, ...], step: Any) -> Any:
            name = name_of(keys)
            if name not in before:
                return step
            goal = _normalised(moved[name].array, norms[name], bound, only_shrink=True)
            change = (goal - before[name].array).astype(step.dtype)
            return jnp.where(norms[name] > bound, jnp.reshape(change, step.shape), step)

        return jax.tree_util.tree_map_with_path(projected, updates), ProjectionState(after)

    return optax.GradientTransformationExtraArgs(init, update)


def _moved(kernel: Any, step: Any) -> Any:
    """Return a kernel after a step of the optimiser, without a gradient."""
    sum_of_both = kernel + jnp.reshape(step, kernel.shape)
    return jax.lax.stop_gradient(sum_of_both.astype(kernel.dtype))
