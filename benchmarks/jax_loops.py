"""Training runs in JAX, jitted: the constraint is applied inside of the step, and the weights in use are returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from specnorm_jax.training import SpectralPenalty, kernels, with_geometry

from benchmarks.recorder import Run
from specnorm.methods import TensorNorm

Tree = Any
LAYERS = {"0/kernel": {"stride": 1}, "1/kernel": {"stride": 1}, "2/kernel": {"stride": 2}}
WHERE: dict[str, Any] = {"rule": with_geometry(LAYERS), "layers": "[012]/kernel"}


# -- constraints -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Constraint:
    """``init(params)`` makes a state; ``apply(params, state)`` returns constrained parameters and the next state.

    ``start(params)`` returns the parameters to begin with.
    """

    init: Callable[[Tree], Tree]
    apply: Callable[[Tree, Tree], tuple[Tree, Tree]]
    start: Callable[[Tree], Tree] = lambda params: params


def divided(params: Tree, norms: dict[str, Any]) -> Tree:
    """Divide the kernel of each layer by its norm."""
    return {
        name: {**layer, "kernel": layer["kernel"] / norms[f"{name}/kernel"]} if f"{name}/kernel" in norms else layer
        for name, layer in params.items()
    }


def followed(penalty: SpectralPenalty) -> Constraint:
    """Divide each convolution by the norm that a method of specnorm follows."""

    def apply(params: Tree, state: Tree) -> tuple[Tree, Tree]:
        norms, after = penalty.norms(params, state)
        return divided(params, norms), jax.lax.stop_gradient(after)

    return Constraint(penalty.init, apply)


def reshaped_init(params: Tree) -> Tree:
    """One vector a layer, after power steps: what torch's parametrisation begins with."""
    arrays_by_name = kernels(params, **WHERE)
    state = {name: jnp.ones_like(kernel.array[0, 0, 0]) for name, kernel in arrays_by_name.items()}
    for _ in range(15):
        state = reshaped_power(params, state)[1]
    return state


def reshaped_power(params: Tree, state: Tree) -> tuple[Tree, Tree]:
    """Divide by the norm of the reshaped kernel: one power step, by hand (Miyato et al. 2018)."""
    norms, after = {}, {}
    for name, u in state.items():
        matrix = params[name.split("/")[0]]["kernel"].reshape(-1, u.shape[0])
        norms[name], after[name] = power_step(matrix, u)
    return divided(params, norms), after


def power_step(matrix: Any, u: Any) -> tuple[Any, Any]:
    """One step of power iteration on a matrix: its norm from below, differentiable, and the next vector."""
    still = jax.lax.stop_gradient(matrix)
    v = still @ u
    v = v / jnp.linalg.norm(v)
    u = v @ still
    u = u / jnp.linalg.norm(u)
    return v @ matrix @ u, u


CONSTRAINTS = {
    "default": followed(SpectralPenalty(**WHERE)),
    "TensorNorm()": followed(SpectralPenalty(TensorNorm(), **WHERE)),
    "torch": Constraint(reshaped_init, reshaped_power),
}


# -- the runs --------------------------------------------------------------------------------------------------------
def initial(rng: np.random.Generator, channels: tuple[int, int, int]) -> Tree:
    """Three 3x3 convolutions and a linear layer, as torch draws them."""

    def drawn(*shape: int) -> Any:
        limit = 1 / np.sqrt(np.prod(shape[:-1]))
        return jnp.asarray(rng.uniform(-limit, limit, shape), dtype=jnp.float32)

    params = {}
    for j, (n_in, n_out) in enumerate(pairwise((3, *channels))):
        params[f"{j}"] = {"kernel": drawn(3, 3, n_in, n_out), "bias": jnp.zeros(n_out, dtype=jnp.float32)}
    return params | {"head": {"kernel": drawn(channels[-1] * 64, 10)}}


def logits(params: Tree, images: Any) -> Any:
    x = images
    for name in "012":
        strides = (LAYERS[f"{name}/kernel"]["stride"],) * 2
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"])
    return x.reshape(x.shape[0], -1) @ params["head"]["kernel"]


def train(
    constraint: Constraint, optimizer: Any, channels: tuple[int, int, int], seed: int
) -> Iterator[tuple[Tree, Any]]:
    """Yield the parameters that each step used, and its loss."""
    rng = np.random.default_rng(seed)
    params = constraint.start(initial(rng, channels))
    patterns = rng.standard_normal((10, 16, 16, 3))
    for axis in (1, 2):
        patterns = (patterns + np.roll(patterns, 1, axis) + np.roll(patterns, -1, axis)) / np.sqrt(3)

    def loss(params: Tree, state: Tree, images: Any, labels: Any) -> Any:
        used, state = constraint.apply(params, state)
        value = optax.softmax_cross_entropy_with_integer_labels(logits(used, images), labels).mean()
        return value, (used, state)

    @jax.jit
    def step(params: Tree, state: Tree, moments: Tree, images: Any, labels: Any) -> Any:
        (value, (used, state)), gradient = jax.value_and_grad(loss, has_aux=True)(params, state, images, labels)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), state, moments, (used, value)

    state, moments = constraint.init(params), optimizer.init(params)
    while True:
        labels = rng.integers(10, size=32)
        images = (patterns[labels] + rng.standard_normal((32, 16, 16, 3))).astype(np.float32)
        params, state, moments, (used, value) = step(params, state, moments, images, labels)
        yield used, value


@dataclass(frozen=True)
class JaxLoop:
    """``optimizer(factor)`` makes the optimizer, with that factor of its rate."""

    optimizer: Callable[[float], Any]
    says: str
    channels: tuple[int, int, int] = (16, 16, 16)
    steps: int = 120


JAX_LOOPS = {
    "JAX, Adam": JaxLoop(
        lambda factor: optax.adam(1e-3 * factor),
        "The three convolutions as a jitted step, the constraint inside of it; Adam 1e-3.",
    ),
    "JAX, SGD": JaxLoop(
        lambda factor: optax.sgd(0.1 * factor, momentum=0.9), "The same step; SGD 0.1 with momentum 0.9."
    ),
    "JAX, wide": JaxLoop(
        lambda factor: optax.adam(1e-3 * factor), "The same step with 64, 128 and 128 channels; Adam 1e-3.",
        (64, 128, 128), 80,
    ),
}  # fmt: skip


def run(
    name: str, constraint: Constraint, seed: int, steps: int | None = None, optimizer: Any = None
) -> tuple[Run, list[float]]:
    """Train, by the loop's optimizer if none is given; return the weights that were used, and the losses."""
    chosen = JAX_LOOPS[name]
    training = train(constraint, optimizer or chosen.optimizer(1.0), chosen.channels, seed)
    result, losses = Run({name: {"stride": geometry["stride"]} for name, geometry in LAYERS.items()}), []
    for _ in range(steps or chosen.steps):
        used, loss = next(training)
        # The order of axes of torch, which enclosing takes without being told.
        in_order = {name: np.array(used[name[0]]["kernel"]).transpose(3, 2, 0, 1) for name in LAYERS}
        result.steps.append({name: [kernel.copy()] for name, kernel in in_order.items()})
        losses.append(float(loss))
    return result, losses
