"""What training with norms costs in JAX for several layers together: a model's constraint, and optimizers' steps."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

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
_WARM = 65
"""Turns that are not counted: in the first ones a constraint takes more sweeps of its grid."""


def rows() -> Iterator[Row]:
    """Time over the first contestant's, and seconds of tracing and compilation, of both cases."""
    yield from _timed("ResNet-20's kernels: weights, gradient and a step of SGD", _constraints(), turns=60)
    yield from _timed("six convolutions of 64 channels: a training step", _optimizers(), turns=15)
    yield from _in_training()


def _timed(case: str, calls: dict[str, _Call], turns: int) -> Iterator[Row]:
    """Time functions of (tree, state), which return a tree and the next state, in turn."""
    compiling, runs = {}, {}
    for name, (function, arguments) in calls.items():
        # Equal functions would be traced once.
        jax.clear_caches()  # type: ignore[no-untyped-call]
        begin = time.process_time()
        compiled = jax.jit(function).lower(*arguments).compile()
        compiling[name] = time.process_time() - begin
        runs[name] = _stepping(compiled, arguments)
    seconds = facts.paired(runs, turns, warm=_WARM)
    base = next(iter(seconds.values()))
    for name, times in seconds.items():
        row: Row = {"section": "JAX, models", "case": case, "contestant": name, "compile_seconds": compiling[name]}
        yield row | facts.timing(times, base)


def _stepping(call: Callable[..., Tree], arguments: Tree) -> Callable[[], None]:
    """Return a function that takes one step from where the last one ended."""

    def step() -> None:
        nonlocal arguments
        arguments = _finished(call(*arguments))

    return step


def _finished(tree: Tree) -> Tree:
    """Arrays, after they are computed."""
    return jax.tree.map(lambda x: x.block_until_ready(), tree)


def _layers_swept(before: Tree, after: Tree) -> int:
    """Number of layers that were swept between two states of a constraint; 0 for other states."""
    states = before.items() if isinstance(before, dict) else ()
    pairs = [(x["sketch"], after[name]["sketch"]) for name, x in states if isinstance(x, dict) and "sketch" in x]
    return sum(int(np.any(np.asarray(x != y), axis=(1, 2, 3)).sum()) for x, y in pairs)


def _in_training(steps: int = 300) -> Iterator[Row]:
    """Mean time of the calls of `_constraints` in a training of ResNet-20, at a rate that decays from 0.1.

    Both are called with the parameters of each step. The constraint's row also says how often layers are swept.
    """
    calls = _constraints()
    compiled = {name: jax.jit(function).lower(*arguments).compile() for name, (function, arguments) in calls.items()}
    states = {name: state for name, (_, (_, state)) in calls.items()}
    seconds = dict.fromkeys(calls, 0.0)
    params, strides = _resnet20()
    rule = training.with_geometry(strides)
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((10, 16, 16, 3))

    def loss(params: Tree, state: Tree, images: Any, labels: Any) -> Any:
        weights, state = training.spectral_norm(params, state, rule=rule)
        return optax.softmax_cross_entropy_with_integer_labels(_logits(weights, images), labels).mean(), state

    @jax.jit
    def step(params: Tree, state: Tree, moments: Tree, images: Any, labels: Any) -> Any:
        gradient, state = jax.grad(loss, has_aux=True)(params, state, images, labels)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), state, moments

    moments, counts = optimizer.init(params), []
    for _, (images, labels) in zip(range(steps), batches(rng, patterns), strict=False):
        before = states["default"]
        for name, call in compiled.items():
            begin = time.process_time()
            _, states[name] = _finished(call(params, states[name]))
            seconds[name] += time.process_time() - begin
        counts.append(_layers_swept(before, states["default"]))
        # Waited for, so that the clock does not count it.
        params, _, moments = _finished(step(params, before, moments, images, labels))
    swept = [x > 0 for x in counts]
    shares: Row = {"layers_swept": sum(counts) / sum(swept), "swept": sum(swept) / steps}
    case = f"the same in training on 16x16 pixels, SGD 0.1, cosine decay: mean of {steps} steps"
    base = next(iter(seconds.values()))
    for name, of_all in seconds.items():
        row: Row = {"section": "JAX, models", "case": case, "contestant": name}
        yield row | {"seconds": of_all / steps, "faster": base / of_all} | (shares if name == "default" else {})


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


def _constraints() -> dict[str, _Call]:
    """The constraint of ResNet-20's kernels, and one power step for each reshaped kernel, by hand."""
    params, strides = _resnet20()
    rule = training.with_geometry(strides)

    def stepping(weights_of: Callable[[Tree, Tree], tuple[Tree, Tree]]) -> Callable[..., Tree]:
        def step(params: Tree, state: Tree) -> Any:
            def loss(params: Tree) -> Any:
                weights, after = weights_of(params, state)
                kernels = [layer["kernel"] for layer in weights.values()]
                return sum(jnp.sum(x * x * jnp.arange(x.shape[-1], dtype=x.dtype)) for x in kernels), after

            gradient, after = jax.grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda x, g: x - 1e-4 * g, params, gradient), after

        return step

    def by_hand(params: Tree, vectors: Tree) -> tuple[Tree, Tree]:
        weights, after = {}, {}
        for name, layer in params.items():
            kernel = layer["kernel"]
            norm, after[name] = _power_step(kernel.reshape(-1, kernel.shape[-1]), vectors[name])
            weights[name] = {"kernel": kernel / norm}
        return weights, after

    constrained = functools.partial(training.spectral_norm, rule=rule)
    vectors = {name: jnp.ones(layer["kernel"].shape[-1]) for name, layer in params.items()}
    state = training.init_spectral_norm(params, rule=rule)
    return {
        "power step by hand": (stepping(by_hand), (params, vectors)),
        "default": (stepping(constrained), (params, state)),
    }


def _power_step(matrix: Any, u: Any) -> tuple[Any, Any]:
    """One step of power iteration on a matrix: its norm from below, differentiable, and the next vector."""
    still = jax.lax.stop_gradient(matrix)
    v = still @ u
    v = v / jnp.linalg.norm(v)
    u = v @ still
    u = u / jnp.linalg.norm(u)
    return v @ matrix @ u, u


def _resnet20() -> tuple[Tree, dict[str, Any]]:
    """Gaussian kernels of ResNet-20's shapes, as Flax stores them, and the geometry of the strided ones."""
    shapes: dict[str, tuple[int, ...]] = {"conv": (3, 3, 3, 16)}
    strides = {}
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            shapes[f"{stage}.{block}.conv1"], channels = (3, 3, channels, width), width
            shapes[f"{stage}.{block}.conv2"] = (3, 3, width, width)
        if stage:
            strides[f"{stage}.0.conv1/kernel"] = {"stride": 2}
    return {name: {"kernel": _normal(shape)} for name, shape in (shapes | {"dense": (64, 10)}).items()}, strides


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
