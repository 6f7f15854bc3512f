"""Steps of a proven length, as Optax transformations: inside the ball of all kernels within a bound, or free.

The direction of a step is `specnorm.lmo` of the momentum, a kernel whose norm is proven to be at most a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

import specnorm
from specnorm._internal import check_bound, check_momentum, check_number, lmo_many, updates_in_ball
from specnorm.errors import KernelError, MethodError
from specnorm_train.jax.trees import Kernel, Rule, arrays_like, flax_layout, is_kernel, kernels, name_of, with_kernels

if TYPE_CHECKING:
    import optax

_Rate: TypeAlias = float | jax.Array | Callable[[Any], Any]
"""A learning rate, or an Optax schedule: a function of the number of steps."""


class BallState(NamedTuple):
    """State of `spectral_ball` and `muon_conv`.

    Attributes
    ----------
    count : integer array
        Number of steps.
    momentum : dict of str to array
        Mean of the gradients of each kernel, by path.
    rest : pytree
        State of the transformation of the other leaves.
    """

    count: Any
    momentum: dict[str, Any]
    rest: Any


def spectral_ball(
    learning_rate: _Rate,
    bound: float = 1.0,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    rule: Rule = flax_layout,
    layers: str = "*",
    rest: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Optimizer whose kernels have norms of at most ``bound`` after every step, without computing a norm.

    A step is ``K <- (1 - a) K - a D`` with a the learning rate, and D a kernel of norm at most ``bound`` in the
    direction of the momentum (`specnorm.lmo`). The kernels within the bound are a convex set, which such steps never
    leave. ::

        params = rescale(params, 1.0)
        optimizer = spectral_ball(optax.warmup_cosine_decay_schedule(0.0, 0.2, 1_000, 10_000))
        state = optimizer.init(params)

    Parameters
    ----------
    learning_rate : float or schedule
        From 0 to 1; a schedule is cut off there. Rates from 0.05 to 0.2, after a warm-up and decaying to nearly 0, are
        usual: a step moves a kernel by at most ``2 * learning_rate * bound`` in its norm.
    bound : float, default 1
        Positive.
    momentum : float, default 0.95
        Weight of the past gradients in their mean.
    nesterov : bool, default True
        Whether the newest gradient counts once more.
    rule, layers
        See `kernels`.
    rest : optax.GradientTransformation, optional
        For all other leaves. None: ``optax.adamw(1e-3)``.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update`` needs the argument ``params``, and must be the last to change the kernels' updates. Its state
        is a `BallState`, a tree of arrays.

    Raises
    ------
    ImportError
        If Optax is not installed.
    MethodError
        If the learning rate is a number below 0 or above 1.
    KernelError
        If ``bound`` is not positive and finite. From ``init``: if no leaf is a kernel, if a kernel's norm is not proven
        to be within the bound (call `rescale` first), or if its dtype has fewer than 32 bits. Under a tracer, as in
        ``jax.eval_shape(optimizer.init, params)``, norms are not checked.

    Notes
    -----
    The bound holds for the kernels after ``optax.apply_updates``, rounding included. A step rounds each entry, so that
    kernels are shrunk by some units of rounding at each step, for 64 channels and 3x3 taps by at most 1e-5.

    References
    ----------
    .. [1] Pokutta, Spiegel, Zimmer, "Deep Neural Network Training with Frank-Wolfe", arXiv:2010.07243, 2020.
    .. [2] Pethick et al., "Training Deep Learning Models with Norm-Constrained LMOs", ICML 2025, arXiv:2502.07529
       (matrices).
    """
    check_bound(bound)
    if isinstance(learning_rate, int | float) and not 0 <= learning_rate <= 1:
        raise MethodError(f"learning_rate={learning_rate} is not from 0 to 1, so a step would leave the ball.")

    def check(path: str, kernel: Kernel) -> None:
        if kernel.array.dtype.itemsize < 4:
            raise KernelError(
                f"{path} is {kernel.array.dtype}, in which a step's rounding is as large as the step. Keep the "
                "parameters in float32, and convert them inside of the loss."
            )
        if isinstance(kernel.array, jax.core.Tracer):
            return
        if specnorm.rescale(kernel.array, bound, **kernel.geometry) is not kernel.array:
            raise KernelError(
                f"the norm of {path} is not proven to be at most bound={bound}, so that the first steps would not be "
                "within it either. Start with params = specnorm_jax.training.rescale(params, bound, rule)."
            )

    updates_of = partial(updates_in_ball, bound=bound)
    return _transformation(learning_rate, momentum, nesterov, rule, layers, rest, updates_of, check)


def muon_conv(
    learning_rate: _Rate,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    rule: Rule = flax_layout,
    layers: str = "*",
    rest: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon whose steps have a known length for convolutions too: a step moves a layer by at most the rate in its norm.

    A step is ``K <- K - learning_rate * D`` with D = `specnorm.lmo` of the momentum. Muon's usual steps take the
    polar factor of the reshaped kernel, whose convolution has a norm of up to 3 for 3x3 taps.

    Parameters
    ----------
    learning_rate, momentum, nesterov, rule, layers, rest
        See `spectral_ball`; the rate is not limited.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update`` needs the argument ``params``. Its state is a `BallState`.

    Raises
    ------
    ImportError
        If Optax is not installed.
    KernelError
        From ``init``: if no leaf is a kernel.
    """

    def updates_of(
        _kernels: Sequence[Any], gradients: Sequence[Any], rate: Any, *, geometries: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        return [-jnp.asarray(rate, x.dtype) * x for x in lmo_many(gradients, bound=1.0, geometries=geometries)]

    return _transformation(learning_rate, momentum, nesterov, rule, layers, rest, updates_of, lambda *_: None)


def _transformation(
    learning_rate: _Rate,
    momentum: float | jax.Array,
    nesterov: bool,
    rule: Rule,
    layers: str,
    rest: optax.GradientTransformation | None,
    updates_of: Callable[..., list[Any]],
    check: Callable[[str, Kernel], None],
) -> optax.GradientTransformationExtraArgs:
    """Make a transformation from the updates of kernels.

    Parameters
    ----------
    updates_of : callable
        Of (kernels, gradients, rate, geometries=geometries), as `updates_in_ball`.
    check : callable
        Raises an error for a kernel that may not be in the first tree of parameters.
    """
    import optax

    # Arrays may be traced, as those of `optax.inject_hyperparams`.
    if not isinstance(momentum, jax.Array):
        check_momentum(momentum, nesterov)
    if not callable(learning_rate) and not isinstance(learning_rate, jax.Array):
        check_number("learning_rate", learning_rate)
    if rest is not None and not hasattr(rest, "init"):
        raise MethodError(f"rest={rest!r} is no optax.GradientTransformation, such as optax.adamw(1e-3).")
    of_rest = optax.with_extra_args_support(optax.adamw(1e-3) if rest is None else rest)

    def masked(params: Any, kernels_of_tree: Mapping[str, Kernel]) -> optax.GradientTransformationExtraArgs:
        mask = jax.tree_util.tree_map_with_path(lambda keys, _: not is_kernel(name_of(keys), kernels_of_tree), params)
        return optax.with_extra_args_support(optax.masked(of_rest, mask))

    def init(params: Any) -> BallState:
        kernels_of_tree = kernels(params, rule, layers=layers)
        for path, kernel in kernels_of_tree.items():
            check(path, kernel)
        means = {path: jnp.zeros_like(kernel.array) for path, kernel in kernels_of_tree.items()}
        return BallState(jnp.zeros((), jnp.int32), means, masked(params, kernels_of_tree).init(params))

    def update(updates: Any, state: BallState, params: Any = None, **extra: Any) -> tuple[Any, BallState]:
        if params is None:
            raise ValueError("the parameters are needed: call update(updates, state, params).")
        kernels_of_tree = kernels(params, rule, layers=layers)
        if kernels_of_tree.keys() != state.momentum.keys():
            raise KernelError(
                f"the state is of the kernels {sorted(state.momentum)}, and the tree has {sorted(kernels_of_tree)}. "
                "Give the state that init returned for this tree."
            )
        gradient_of = arrays_like(updates, kernels_of_tree)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        means, targets = {}, {}
        for path, kernel in kernels_of_tree.items():
            gradient = gradient_of[path].astype(kernel.array.dtype)
            means[path] = momentum * state.momentum[path] + (1 - momentum) * gradient
            targets[path] = momentum * means[path] + (1 - momentum) * gradient if nesterov else means[path]
        arrays, geometries = zip(*kernels_of_tree.values(), strict=True)
        new_updates = updates_of(arrays, list(targets.values()), rate, geometries=geometries)
        kernel_updates = dict(zip(targets, new_updates, strict=True))
        other_updates, rest_state = masked(params, kernels_of_tree).update(updates, state.rest, params, **extra)
        count = optax.safe_increment(state.count)
        return with_kernels(other_updates, kernel_updates), BallState(count, means, rest_state)

    return optax.GradientTransformationExtraArgs(init, update)
