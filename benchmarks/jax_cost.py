"""What training with norms costs in JAX for several layers together: steps with a constraint, and of optimizers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from specnorm_jax import training

from benchmarks import facts
from benchmarks.facts import Row
from benchmarks.jax_loops import batches, convolved, cross_entropy, stepping

Tree = Any
Contestant = tuple[Callable[..., Any], tuple[Tree, Tree, Tree]]
"""A step as `stepping` returns it, and the parameters, the state and the moments with which it begins."""
_STEPS, _BUSIEST, _WARM = 300, 100, 3
"""Steps of a training, those in which kernels move most, and those that are not counted."""


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
    for name, network in (("seven convolutions of 16 to 64 channels", _seven()), ("ResNet-20", _resnet20())):
        rng = np.random.default_rng(0)
        data = itertools.islice(batches(rng, rng.standard_normal((10, 16, 16, 3))), _STEPS)
        told = f"{name}, 16 pixels, batch 32, SGD 0.1 that decays: {_STEPS} steps"
        yield from _in_turn(told, _constraints(network), data)
    yield from _in_turn("six convolutions of 64 channels: a training step", _optimizers(), itertools.repeat((), 18))


def _in_turn(case: str, contestants: dict[str, Contestant], data: Iterable[tuple[Any, ...]]) -> Iterator[Row]:
    """Make a step of each contestant with each of the data, in turn, and tell their processor times."""
    first, *others = data
    compiled, compiling = {}, {}
    states = {name: state for name, (_, state) in contestants.items()}
    for name, (step, state) in contestants.items():
        # Equal functions would be traced once.
        jax.clear_caches()  # type: ignore[no-untyped-call]
        begin = time.process_time()
        compiled[name] = jax.jit(lambda *arguments, step=step: step(*arguments)[:3]).lower(*state, *first).compile()
        compiling[name] = time.process_time() - begin
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for arguments, (name, call) in itertools.product((first, *others), compiled.items()):
        begin = time.process_time()
        states[name] = jax.block_until_ready(call(*states[name], *arguments))  # type: ignore[no-untyped-call]
        times[name].append(time.process_time() - begin)
    counted = {name: seconds[_WARM:] for name, seconds in times.items()}
    base = next(iter(counted.values()))
    for name, seconds in counted.items():
        row: Row = {"section": "JAX, models", "case": case, "contestant": name, "compile_seconds": compiling[name]}
        row |= facts.timing(seconds, base)
        if len(seconds) > _BUSIEST:  # of a whole training, means: steps of several iterations count
            busy = slice(_BUSIEST - _WARM)
            row |= {
                "seconds": sum(seconds) / len(seconds), "faster": sum(base) / sum(seconds),
                "faster_first_hundred": sum(base[busy]) / sum(seconds[busy]),
            }  # fmt: skip
        yield row


def _constraints(network: _Network) -> dict[str, Contestant]:
    """Whole steps without a constraint, with a power step by hand for each reshaped kernel, and with ours."""
    optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, _STEPS), momentum=0.9)
    rule = training.with_geometry(network.strides)
    state = training.init_spectral_norm(network.params, rule=rule)

    def constrained(params: Tree, state: Tree) -> tuple[Tree, Tree]:
        return training.spectral_norm(params, state, rule=rule)

    vectors = {name: jnp.ones(layer["kernel"].shape[-1]) for name, layer in network.params.items()}
    # Plain steps begin with the same weights.
    weights = jax.device_get(constrained(network.params, state)[0])
    ways: dict[str, tuple[Any, Tree, Tree]] = {
        "plain": (_unchanged, weights, ()),
        "power step by hand": (_by_hand, network.params, vectors),
        "default": (constrained, network.params, state),
    }
    return {
        name: (stepping(apply, network.loss, optimizer), (params, state, optimizer.init(params)))
        for name, (apply, params, state) in ways.items()
    }


def _unchanged(params: Tree, state: Tree) -> tuple[Tree, Tree]:
    return params, state


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


def _resnet20() -> _Network:
    """Gaussian kernels of ResNet-20's shapes, as Flax stores them."""
    shapes: dict[str, tuple[int, ...]] = {"conv": (3, 3, 3, 16)}
    channels = 16
    for stage, width in enumerate((16, 32, 64)):
        for block in range(3):
            shapes[f"{stage}.{block}.conv1"], channels = (3, 3, channels, width), width
            shapes[f"{stage}.{block}.conv2"] = (3, 3, width, width)
    strides = {f"{stage}.0.conv1/kernel": {"stride": 2} for stage in (1, 2)}
    params = {name: {"kernel": _normal(shape)} for name, shape in (shapes | {"dense": (64, 10)}).items()}
    return _Network(params, strides, cross_entropy(_logits))


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


def _optimizers() -> dict[str, Contestant]:
    """Steps of optimizers, without a constraint, for a batch of 16 images of 16x16."""
    tree = {f"Conv_{j}": {"kernel": _normal((3, 3, 64, 64)), "bias": jnp.zeros(64)} for j in range(6)}
    params = training.rescale(tree, 1.0)
    images = _normal((16, 16, 16, 64))

    def loss(params: Tree) -> Any:
        x = images
        for layer in params.values():
            x = x + jax.nn.relu(convolved(x, layer["kernel"]) + layer["bias"])
        return jnp.mean((x - 1) ** 2)

    optimizers = {
        "Adam": optax.adam(1e-3), "spectral_ball(0.1)": training.spectral_ball(0.1),
        "muon_conv(0.02)": training.muon_conv(0.02),
    }  # fmt: skip
    return {
        name: (stepping(_unchanged, loss, optimizer), (params, (), optimizer.init(params)))
        for name, optimizer in optimizers.items()
    }


def _normal(shape: tuple[int, ...]) -> Any:
    array = np.random.default_rng(len(shape)).standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
    return jnp.asarray(array, dtype=jnp.float32)
