"""The constraint: kernels divided by their norms, as a pure function for a jitted step; and proven, after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import jax.numpy as jnp

import specnorm
from specnorm._internal import check_bound, check_flag
from specnorm.methods import Method
from specnorm_train.jax.tracking import SYMBOL_NORM, States, init_states, step_states
from specnorm_train.jax.trees import Rule, flax_layout, kernels, with_kernels

Tree = TypeVar("Tree")
_LEAST_NORM = 1e-12
"""A kernel whose norm is at most this is left as it is, as by ``eps`` of torch's plugin."""


def init_spectral_norm(
    params: Any,
    *,
    method: Method = SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
) -> States:
    """Compute the initial state for `spectral_norm`, outside ``jit``.

    Parameters
    ----------
    params : pytree
    method, rule, layers
        The same as for `spectral_norm`.

    Returns
    -------
    dict
        The state of each stack of kernels, under the path of its first kernel: arrays that can be saved like any other.
        Kernels that differ in channels and taps alone are one stack, which XLA compiles once.

    Raises
    ------
    KernelError
        If no leaf is a kernel.
    MethodError
        If the method has no training state.
    """
    return init_states(params, method, rule, layers)


def spectral_norm(
    params: Tree,
    state: States,
    bound: float = 1.0,
    *,
    method: Method = SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
    only_shrink: bool = False,
    sweeps: int | None = None,
) -> tuple[Tree, States]:
    """Scale every kernel of a tree so that its spectral norm is ``bound``: a pure function for a jitted step.

    The optimizer updates the given parameters; the network uses the returned ones::

        state = init_spectral_norm(params)

        def loss(params, state, batch):
            weights, state = spectral_norm(params, state)
            return cross_entropy(weights, batch), state

    Parameters
    ----------
    params : pytree
        Parameters; see `kernels`.
    state : dict
        From `init_spectral_norm`, or from the previous step.
    bound : float, default 1
        Positive.
    method : Method, default ``SymbolNorm()``
        A method with a training state, see `specnorm.track`. SymbolNorm tracks the norm from below. With ``Gram()``, no
        norm exceeds the bound, up to the rounding of the division.
    rule, layers
        See `kernels`. Other leaves are returned unchanged.
    only_shrink : bool, default False
        Whether to leave kernels with a norm below the bound unchanged.
    sweeps : int, optional
        Number of sweeps, four steps each, in each call. None: as many steps as the change of the kernels requires. 0:
        the same, and the state is kept, for example during evaluation.

    Returns
    -------
    weights : pytree
        The tree with new kernels, of the same dtypes. A kernel whose norm is at most 1e-12 is unchanged. The gradient
        passes through the division, with the singular vectors held constant (envelope theorem).
    state : dict
        The state for the next step, as constants.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite, or the state belongs to another tree.

    Notes
    -----
    Nothing is proven during training. Afterwards, apply `rescale` to the weights, not to the parameters, to prove that
    their norms are within the bound.
    """
    check_bound(bound)
    check_flag("only_shrink", only_shrink)
    kernels_of_tree = kernels(params, rule, layers=layers)
    norms, new_state = step_states(kernels_of_tree, method, state, sweeps)
    arrays = {path: kernel.array for path, kernel in kernels_of_tree.items()}
    new_kernels = scaled_to(arrays, norms, bound, only_shrink)
    return with_kernels(params, new_kernels), new_state


def scaled_to(kernels: Mapping[str, Any], norms: Mapping[str, Any], bound: float, only_shrink: bool) -> dict[str, Any]:
    """Scale kernels so that their norms are the bound; tiny kernels, and those to be left alone, are not changed."""
    return {path: _scaled(kernel, norms[path], bound, only_shrink) for path, kernel in kernels.items()}


def _scaled(kernel: Any, norm: Any, bound: float, only_shrink: bool) -> Any:
    # Comparisons with NaN are false, so that a kernel whose norm is NaN becomes NaN.
    is_left = norm <= (bound if only_shrink else _LEAST_NORM)
    # So that the gradient, which has the squared divisor, is finite.
    divisor = jnp.where(is_left, 1, norm)
    return (kernel * jnp.where(is_left, 1, bound / divisor)).astype(kernel.dtype)


def rescale(
    tree: Tree, bound: float = 1.0, rule: Rule = flax_layout, *, layers: str = "*", only_shrink: bool = True
) -> Tree:
    """Scale every kernel of a tree so that its spectral norm is proven to be at most ``bound``, by `specnorm.rescale`.

    Parameters
    ----------
    tree : pytree
    bound : float, default 1
    rule, layers
        See `kernels`.
    only_shrink : bool, default True
        Whether kernels whose norms are within the bound stay as they are. False: every norm is just below the bound.

    Returns
    -------
    pytree
        The tree with new kernels. A kernel that is not changed is the same array.

    Raises
    ------
    MethodError
        Under a tracer: a proof needs concrete values.
    Undecided
        If a norm could not be proven within the budget.
    """
    rescaled = {}
    for name, kernel in kernels(tree, rule, layers=layers).items():
        rescaled[name] = specnorm.rescale(kernel.array, bound, only_shrink=only_shrink, **kernel.geometry)
    return with_kernels(tree, rescaled)
