"""Training runs in JAX, jitted: the constraint is applied inside of the step, and the weights in use are returned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from specnorm_jax.training import init_spectral_norm, spectral_norm, with_geometry

from benchmarks.recorder import Used
from specnorm.methods import Method, SymbolNorm, TensorNorm

Tree = Any
LAYERS = {"0/kernel": {"stride": 1}, "1/kernel": {"stride": 1}, "2/kernel": {"stride": 2}}
WHERE: dict[str, Any] = {"rule": with_geometry(LAYERS), "layers": "[012]/kernel"}
Constraint = tuple[Callable[[Tree], Tree], Callable[[Tree, Tree], tuple[Tree, Tree]]]
"""``init(params)`` makes a state; ``apply(params, state)`` returns constrained parameters and the next state."""


# -- constraints -----------------------------------------------------------------------------------------------------
def followed(method: Method) -> Constraint:
    """Divide each convolution by the norm that a method of specnorm follows."""
    where = {**WHERE, "method": method}
    return partial(init_spectral_norm, **where), partial(spectral_norm, **where)


CONSTRAINTS = {"default": followed(SymbolNorm()), "TensorNorm()": followed(TensorNorm())}
"""Power steps on reshaped kernels, as torch makes them, were measured by the programs of commit 262d541a."""


# -- the runs --------------------------------------------------------------------------------------------------------
def convolved(x: Any, kernel: Any, stride: int = 1) -> Any:
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def initial(rng: np.random.Generator, channels: tuple[int, int, int]) -> Tree:
    """Three 3x3 convolutions and a linear layer, as torch draws them."""

    def drawn(*shape: int) -> Any:
        limit = 1 / np.sqrt(np.prod(shape[:-1]))
        return jnp.asarray(rng.uniform(-limit, limit, shape), dtype=jnp.float32)

    params = {}
    for j, (n_in, n_out) in enumerate(itertools.pairwise((3, *channels))):
        params[f"{j}"] = {"kernel": drawn(3, 3, n_in, n_out), "bias": jnp.zeros(n_out, dtype=jnp.float32)}
    return params | {"head": {"kernel": drawn(channels[-1] * 64, 10)}}


def logits(params: Tree, x: Any) -> Any:
    for name in "012":
        y = convolved(x, params[name]["kernel"], LAYERS[f"{name}/kernel"]["stride"])
        x = jax.nn.relu(y + params[name]["bias"])
    return x.reshape(x.shape[0], -1) @ params["head"]["kernel"]


def batches(rng: np.random.Generator, patterns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield patterns in noise, and their numbers."""
    while True:
        labels = rng.integers(10, size=32)
        yield (patterns[labels] + rng.standard_normal((32, 16, 16, 3))).astype(np.float32), labels


@dataclass(frozen=True)
class JaxLoop:
    """A training of so many steps by an optimizer."""

    optimizer: Any
    says: str
    channels: tuple[int, int, int] = (16, 16, 16)
    steps: int = 120


JAX_LOOPS = {
    "JAX, Adam": JaxLoop(
        optax.adam(1e-3), "The three convolutions as a jitted step, the constraint inside of it; Adam 1e-3."
    ),
    "JAX, SGD": JaxLoop(optax.sgd(0.1, momentum=0.9), "The same step; SGD 0.1 with momentum 0.9."),
    "JAX, wide": JaxLoop(
        optax.adam(1e-3), "The same step with 64, 128 and 128 channels; Adam 1e-3.", (64, 128, 128), 80
    ),
}


def stepping(apply: Callable[..., Any], loss_of: Callable[..., Any], optimizer: Any) -> Callable[..., Any]:
    """Return a step that trains weights as ``apply`` changes them, with parameters, states and these weights."""

    def loss(params: Tree, state: Tree, *data: Any) -> Any:
        used, state = apply(params, state)
        return loss_of(used, *data), (used, state)

    def step(params: Tree, state: Tree, moments: Tree, *data: Any) -> Any:
        gradient, (used, state) = jax.grad(loss, has_aux=True)(params, state, *data)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), state, moments, used

    return step


def cross_entropy(logits_of: Callable[[Tree, Any], Any]) -> Callable[[Tree, Any, Any], Any]:
    """Return the mean loss, a function of weights, images and labels."""

    def loss(weights: Tree, images: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits_of(weights, images), labels).mean()

    return loss


def run(loop: JaxLoop, constraint: Constraint, seed: int) -> Iterator[list[Used]]:
    """Train, and yield the weights that each step used."""
    init, apply = constraint
    rng = np.random.default_rng(seed)
    params = initial(rng, loop.channels)
    patterns = rng.standard_normal((10, 16, 16, 3))
    for axis in (1, 2):
        patterns = (patterns + np.roll(patterns, 1, axis) + np.roll(patterns, -1, axis)) / np.sqrt(3)
    step = jax.jit(stepping(apply, cross_entropy(logits), loop.optimizer))
    state, moments = init(params), loop.optimizer.init(params)
    for images, labels in itertools.islice(batches(rng, patterns), loop.steps):
        params, state, moments, used = step(params, state, moments, images, labels)
        # The order of axes of torch, which enclosing takes without being told.
        yield [
            Used(name, np.array(used[name[0]]["kernel"]).transpose(3, 2, 0, 1).copy(), geometry)
            for name, geometry in LAYERS.items()
        ]
