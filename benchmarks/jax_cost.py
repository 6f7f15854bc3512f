"""What training with norms costs in JAX for several layers together: steps with a constraint, and of optimizers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from specnorm_jax import training

from benchmarks import facts
from benchmarks.facts import Row
from benchmarks.jax_loops import batches, convolved

Tree = Any
_Call = tuple[Any, ...]
"""A function and its arguments."""
_STEPS, _BUSIEST, _WARM = 300, 100, 3
"""Steps of a training, those in which kernels move most, and turns that are not counted."""


class _Network(NamedTuple):
    """A network to be trained.

    Parameters
    ----------
    params : pytree
    strides : dict
        The geometry of strided kernels.
    loss : callable
        Of weights, images and labels.
    """

    params: Tree
    strides: dict[str, Any]
    loss: Callable[[Tree, Any, Any], Any]


def rows() -> Iterator[Row]:
    """Time over the first contestant's, and seconds of tracing and compilation, of all cases."""
    yield from _training("seven convolutions of 16 to 64 channels", _seven())
    yield from _training("ResNet-20", _resnet20())
    yield from _timed("six convolutions of 64 channels: a training step", _optimizers(), turns=15)


def _training(name: str, network: _Network) -> Iterator[Row]:
    """Whole steps without a constraint, with a power step by hand for each reshaped kernel, and with ours, in turn."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, _STEPS), momentum=0.9)
    rule = training.with_geometry(network.strides)
    state = training.init_spectral_norm(network.params, rule=rule)

    def constrained(params: Tree, state: Tree) -> tuple[Tree, Tree]:
        return training.spectral_norm(params, state, rule=rule)

    def step_with(weights_of: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable[..., Any]:
        def loss(params: Tree, state: Tree, images: Any, labels: Any) -> Any:
            weights, state = weights_of(params, state)
            return network.loss(weights, images, labels), state

        def step(params: Tree, state: Tree, moments: Tree, images: Any, labels: Any) -> Any:
            gradient, state = jax.grad(loss, has_aux=True)(params, state, images, labels)
            updates, moments = optimizer.update(gradient, moments)
            return optax.apply_updates(params, updates), state, moments

        return step

    vectors = {name: jnp.ones(layer["kernel"].shape[-1]) for name, layer in network.params.items()}
    # Plain steps begin with the same weights.
    weights = jax.device_get(constrained(network.params, state)[0])
    contestants: dict[str, tuple[Any, ...]] = {
        "plain": (lambda params, state: (params, state), weights, ()),
        "power step by hand": (_by_hand, network.params, vectors),
        "default": (constrained, network.params, state),
    }
    rng = np.random.default_rng(0)
    data = batches(rng, rng.standard_normal((10, 16, 16, 3)))
    compiled, compiling, states = {}, {}, {}
    for contestant, (weights_of, params, state_of_it) in contestants.items():
        states[contestant] = (params, state_of_it, optimizer.init(params))
        arguments = *states[contestant], *next(data)
        compiled[contestant], compiling[contestant] = _compiled(step_with(weights_of), arguments)
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _, images_and_labels in zip(range(_STEPS), data, strict=False):
        for contestant, step in compiled.items():
            begin = time.process_time()
            states[contestant] = _finished(step(*states[contestant], *images_and_labels))
            seconds[contestant].append(time.process_time() - begin)
    means = {x: sum(times[_WARM:]) / len(times[_WARM:]) for x, times in seconds.items()}
    busy = {x: sum(times[_WARM:_BUSIEST]) for x, times in seconds.items()}
    for contestant, mean in means.items():
        case = f"{name}, 16 pixels, batch 32, SGD 0.1 that decays: {_STEPS} steps"
        row: Row = {"section": "JAX, models", "case": case, "contestant": contestant}
        row |= {"compile_seconds": compiling[contestant], "seconds": mean, "faster": means["plain"] / mean}
        yield row | {"faster_first_hundred": busy["plain"] / busy[contestant]}


def _compiled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    """A compiled function, and the processor time of tracing and compilation."""
    # Equal functions would be traced once.
    jax.clear_caches()  # type: ignore[no-untyped-call]
    begin = time.process_time()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, time.process_time() - begin


def _timed(case: str, calls: dict[str, _Call], turns: int) -> Iterator[Row]:
    """Time functions of (tree, state), which return a tree and the next state, in turn."""
    compiled, compiling, states = {}, {}, {}
    for name, (function, arguments) in calls.items():
        compiled[name], compiling[name] = _compiled(function, arguments)
        states[name] = arguments
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(_WARM + turns):
        for name, call in compiled.items():
            begin = time.process_time()
            states[name] = _finished(call(*states[name]))
            if turn >= _WARM:
                seconds[name].append(time.process_time() - begin)
    base = next(iter(seconds.values()))
    for name, times in seconds.items():
        row: Row = {"section": "JAX, models", "case": case, "contestant": name, "compile_seconds": compiling[name]}
        yield row | facts.timing(times, base)


def _finished(tree: Tree) -> Tree:
    """Arrays, after they are computed."""
    return jax.tree.map(lambda x: x.block_until_ready(), tree)


def _logits(weights: Tree, x: Any) -> Any:
    """ResNet-20 without normalization and biases; shortcuts are padded with zeros."""
    kernels = {name: layer["kernel"] for name, layer in weights.items()}
    x = jax.nn.relu(convolved(x, kernels["conv"]))
    for stage in range(3):
        for block in range(3):
            stride = 2 if stage and not block else 1
            y = jax.nn.relu(convolved(x, kernels[f"{stage}.{block}.conv1"], stride))
            y = convolved(y, kernels[f"{stage}.{block}.conv2"])
            shortcut = x[:, ::stride, ::stride, :]
            x = jax.nn.relu(y + jnp.pad(shortcut, ((0, 0),) * 3 + ((0, y.shape[3] - x.shape[3]),)))
    return 10 * x.mean((1, 2)) @ kernels["dense"]


def _by_hand(params: Tree, vectors: Tree) -> tuple[Tree, Tree]:
    """Kernels over the norms that a power step for each reshaped kernel finds."""
    weights, after = {}, {}
    for name, layer in params.items():
        kernel = layer["kernel"]
        norm, after[name] = _power_step(kernel.reshape(-1, kernel.shape[-1]), vectors[name])
        weights[name] = {"kernel": kernel / norm}
    return weights, after


def _power_step(matrix: Any, u: Any) -> tuple[Any, Any]:
    """One step of power iteration on a matrix: its norm from below, differentiable, and the next vector."""
    still = jax.lax.stop_gradient(matrix)
    v = still @ u
    v = v / jnp.linalg.norm(v)
    u = v @ still
    u = u / jnp.linalg.norm(u)
    return v @ matrix @ u, u


def _cross_entropy(weights: Tree, images: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(_logits(weights, images), labels).mean()


def _resnet20() -> _Network:
    """Gaussian kernels of ResNet-20's shapes, as Flax stores them."""
    shapes: dict[str, tuple[int, ...]] = {"conv": (3, 3, 3, 16)}
    strides = {}
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            shapes[f"{stage}.{block}.conv1"], channels = (3, 3, channels, width), width
            shapes[f"{stage}.{block}.conv2"] = (3, 3, width, width)
        if stage:
            strides[f"{stage}.0.conv1/kernel"] = {"stride": 2}
    params = {name: {"kernel": _normal(shape)} for name, shape in (shapes | {"dense": (64, 10)}).items()}
    return _Network(params, strides, _cross_entropy)


def _seven() -> _Network:
    """Seven convolutions in a row, which learn the mean square of an image."""
    widths = (3, 16, 16, 32, 32, 64, 64, 64)
    kernels = [_normal((3, 3, *channels)) for channels in itertools.pairwise(widths)]

    def loss(weights: Tree, images: Any, _labels: Any) -> Any:
        x = images
        for layer in weights.values():
            x = jax.nn.relu(convolved(x, layer["kernel"]))
        return jnp.mean((x.mean((1, 2, 3)) - (images**2).mean((1, 2, 3))) ** 2)

    return _Network({f"conv{j}": {"kernel": kernel} for j, kernel in enumerate(kernels)}, {}, loss)


def _optimizers() -> dict[str, _Call]:
    """Steps of optimizers, without a constraint, for a batch of 16 images of 16x16."""
    tree = {f"Conv_{j}": {"kernel": _normal((3, 3, 64, 64)), "bias": jnp.zeros(64)} for j in range(6)}
    params = training.rescale(tree, 1.0)
    images = _normal((16, 16, 16, 64))

    def loss(params: Tree) -> Any:
        x = images
        for layer in params.values():
            x = x + jax.nn.relu(convolved(x, layer["kernel"]) + layer["bias"])
        return jnp.mean((x - 1) ** 2)

    def stepping(optimizer: Any) -> _Call:
        def step(params: Tree, state: Tree) -> Any:
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return step, (params, optimizer.init(params))

    optimizers = {
        "Adam": optax.adam(1e-3), "spectral_ball(0.1)": training.spectral_ball(0.1),
        "muon_conv(0.02)": training.muon_conv(0.02),
    }  # fmt: skip
    return {name: stepping(optimizer) for name, optimizer in optimizers.items()}


def _normal(shape: tuple[int, ...]) -> Any:
    array = np.random.default_rng(len(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    return jnp.asarray(array, dtype=jnp.float32)
