"""Training with JAX: penalties and projections on trees of parameters (Flax, Equinox, or any other pytree).

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
from specnorm.methods import Method, TensorNorm
from specnorm.plugin import check_bound
from specnorm_jax.kernels import Kernel, Rule, equinox_layout, flax_layout, kernels, name_of, with_geometry
from specnorm_jax.orthogonality import OrthogonalityPenalty

if TYPE_CHECKING:
    import optax

__all__ = [
    "Kernel", "OrthogonalityPenalty", "ProjectionState", "Rule", "SpectralPenalty", "States", "equinox_layout",
    "flax_layout", "kernels", "project_spectral_norm", "rescale", "with_geometry",
]  # fmt: skip

Tree = TypeVar("Tree")
_TENSOR_NORM = TensorNorm()


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
    new = {
        name: specnorm.rescale(kernel.array, bound, **kernel.geometry)
        for name, kernel in kernels(tree, rule, layers=layers).items()
    }
    changed: Tree = jax.tree_util.tree_map_with_path(lambda keys, leaf: new.get(name_of(keys), leaf), tree)
    return changed


# -- while training ----------------------------------------------------------------------------------------------
States: TypeAlias = dict[str, Any]
"""By path, what `specnorm.init_tracking` returns for the kernel there: a tree of arrays, to be kept like any other."""


def _init(tree: Any, method: Method, rule: Rule, layers: str) -> States:
    found = kernels(tree, rule, layers=layers)
    return {name: specnorm.init_tracking(kernel.array, method, **kernel.geometry) for name, kernel in found.items()}


def _step(found: Mapping[str, Kernel], method: Method, states: States, sweeps: int) -> tuple[dict[str, Any], States]:
    if found.keys() != states.keys():
        raise KernelError(
            f"the state is of the kernels {sorted(states)}, and the tree has {sorted(found)}. Give the state that init "
            "returned for this tree, rule and layers."
        )
    values, after = _compiled(
        method,
        tuple(tuple((word, _frozen(x)) for word, x in k.geometry.items()) for k in found.values()),
        sweeps,
        [k.array for k in found.values()],
        [states[name] for name in found],
    )
    return dict(zip(found, values, strict=True)), dict(zip(found, after, strict=True))


def _stepped(
    method: Method, geometries: tuple[tuple[tuple[str, Any], ...], ...], sweeps: int, arrays: list[Any], states: Any
) -> tuple[list[Any], list[States]]:
    return specnorm.track_many(arrays, method, states, geometries=[dict(g) for g in geometries], sweeps=sweeps)


_compiled = jax.jit(_stepped, static_argnums=(0, 1, 2))
"""Also outside of the user's ``jit``, where each operation would be a program of its own."""


def _frozen(x: Any) -> Any:
    return tuple(map(_frozen, x)) if isinstance(x, (list, tuple)) else x


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
    method : Method, default ``TensorNorm()``
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

    method: Method = _TENSOR_NORM
    rule: Rule = flax_layout
    layers: str = "*"
    form: Literal["sum", "log", "hinge"] = "sum"
    target: float = 1.0
    sweeps: int = 1

    def __post_init__(self) -> None:
        if self.form not in ("sum", "log", "hinge"):
            raise MethodError(f"form={self.form!r} is not one of 'sum', 'log', 'hinge'.")

    def init(self, tree: Any) -> States:
        """Return the state for `__call__`: by path, what `specnorm.init_tracking` returns.

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
    bound: float = 1.0, *, method: Method = _TENSOR_NORM, rule: Rule = flax_layout, layers: str = "*", sweeps: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Optax transformation after whose step no kernel's norm exceeds ``bound``: projected gradient descent.

    The last link of a chain: ``optax.chain(optax.adam(1e-3), project_spectral_norm(1.0))``. A kernel above the bound is
    multiplied by one factor; the others are left alone.

    Parameters
    ----------
    bound : float, default 1
        Positive.
    method : Method, default ``TensorNorm()``
        One that `specnorm.track` serves. TensorNorm follows an upper bound of the norm, from below: what holds during
        training is an estimate. With ``Gram()`` or ``Completion()`` it is a bound, up to the
        rounding of ``params + updates``.
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

    def update(updates: Any, state: ProjectionState, params: Any = None, **_extra: Any) -> tuple[Any, ProjectionState]:
        if params is None:
            raise ValueError("project_spectral_norm needs the parameters: call update(updates, state, params).")
        found = kernels(params, rule, layers=layers)
        steps = {name_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(updates)}
        moved = {
            name: kernel._replace(array=jax.lax.stop_gradient((kernel.array + steps[name]).astype(kernel.array.dtype)))
            for name, kernel in found.items()
        }
        norms, after = _step(moved, method, state.kernels, sweeps)

        def projected(keys: tuple[Any, ...], step: Any) -> Any:
            name = name_of(keys)
            if name not in found:
                return step
            norm, kernel = norms[name], found[name].array
            above = norm > bound
            factor = bound / jnp.where(above, norm, 1)
            return jnp.where(above, (moved[name].array * factor - kernel).astype(step.dtype), step)

        return jax.tree_util.tree_map_with_path(projected, updates), ProjectionState(after)

    return optax.GradientTransformationExtraArgs(init, update)
