"""Projection after each step of an optimizer, as an Optax transformation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from specnorm._internal import check_bound
from specnorm.methods import Method
from specnorm_train.jax.constraint import scaled_to
from specnorm_train.jax.tracking import SYMBOL_NORM, States, init_states, step_states
from specnorm_train.jax.trees import Rule, arrays_like, flax_layout, kernels, with_kernels

if TYPE_CHECKING:
    import optax


def project_spectral_norm(
    bound: float = 1.0,
    *,
    method: Method = SYMBOL_NORM,
    rule: Rule = flax_layout,
    layers: str = "*",
    sweeps: int | None = None,
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
        the norms are at most about ``bound``. With ``Gram()`` they are at most ``bound``, up to the rounding of
        ``params + updates``.
    rule, layers
        See `kernels`.
    sweeps : int, optional
        See `spectral_norm`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update`` needs the argument ``params``. Its state is that of `init_spectral_norm`.

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

    def init(params: Any) -> States:
        return init_states(params, method, rule, layers)

    def update(
        updates: Any,
        state: States,
        params: Any = None,
        **_extra: Any,
    ) -> tuple[Any, States]:
        if params is None:
            raise ValueError("project_spectral_norm needs the parameters: call update(updates, state, params).")
        old_kernels = kernels(params, rule, layers=layers)
        update_of_path = arrays_like(updates, old_kernels)
        updated_kernels = {}
        for path, kernel in old_kernels.items():
            updated_kernels[path] = kernel._replace(array=_after_update(kernel.array, update_of_path[path]))
        norms, new_states = step_states(updated_kernels, method, state, sweeps)
        arrays = {path: kernel.array for path, kernel in updated_kernels.items()}
        projected_kernels = scaled_to(arrays, norms, bound, only_shrink=True)

        new_updates = {}
        for path, kernel in old_kernels.items():
            update = update_of_path[path]
            projected_update = (projected_kernels[path] - kernel.array).astype(update.dtype)
            new_updates[path] = jnp.where(norms[path] > bound, projected_update, update)
        return with_kernels(updates, new_updates), new_states

    return optax.GradientTransformationExtraArgs(init, update)


def _after_update(kernel: Any, update: Any) -> Any:
    """Return a kernel after an update of the optimizer, as a constant."""
    return jax.lax.stop_gradient((kernel + update).astype(kernel.dtype))
