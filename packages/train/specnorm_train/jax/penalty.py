"""A penalty on the norms of a tree's kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp

from specnorm._internal import check_word
from specnorm.methods import Method
from specnorm_train.jax.tracking import SYMBOL_NORM, States, init_states, step_states
from specnorm_train.jax.trees import Rule, flax_layout, kernels


@dataclass(frozen=True)
class SpectralPenalty:
    """Sum over a tree's kernels of a function of their spectral norms, tracked from step to step.

    It is a pure function and can be jitted.

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
    sweeps : int, optional
        See `spectral_norm`.

    Raises
    ------
    MethodError
        If ``form`` is not one of these.
    """

    method: Method = SYMBOL_NORM
    rule: Rule = flax_layout
    layers: str = "*"
    form: Literal["sum", "log", "hinge"] = "sum"
    target: float = 1.0
    sweeps: int | None = None

    def __post_init__(self) -> None:
        check_word("form", self.form, ("sum", "log", "hinge"))

    def init(self, tree: Any) -> States:
        """Return the first state, see `init_spectral_norm`.

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
        return init_states(tree, self.method, self.rule, self.layers)

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
            An estimate, see `specnorm.track`; with ``Gram()`` an upper bound. The gradient is 0 for a zero kernel.
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
        return step_states(kernels(tree, self.rule, layers=self.layers), self.method, state, self.sweeps)
