"""Optimizers whose steps have proven lengths, on trees of JAX arrays: in the ball at every step, by an oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.oracle import dense_norm, sigma_star

import specnorm
from specnorm.errors import KernelError, MethodError

jax: Any = pytest.importorskip("jax")
optax: Any = pytest.importorskip("optax", reason="optax is not installed: pip install optax")
jnp = jax.numpy
training: Any = pytest.importorskip("specnorm_jax.training")

pytestmark = pytest.mark.usefixtures("jax32")

GEOMETRY: dict[str, Any] = {"down/kernel": {"stride": 2}, "deep/kernel": {"groups": 4}}
RULE = training.with_geometry(GEOMETRY)


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def parameters() -> dict[str, Any]:
    """Two equal convolutions, a strided and a depthwise one, all of one axis, as Flax stores them; a dense layer."""
    shapes = {"Conv_0": (3, 4, 4), "Conv_1": (3, 4, 4), "down": (4, 4, 6), "deep": (3, 1, 4), "Dense_0": (5, 3)}
    tree = {name: {"kernel": normal(*shape, seed=j)} for j, (name, shape) in enumerate(shapes.items())}
    return {name: {**layer, "bias": jnp.zeros(layer["kernel"].shape[-1])} for name, layer in tree.items()}


def lower_norms(tree: Any) -> dict[str, float]:
    """Lower ends of the oracle's norms, over all sizes, of a tree's kernels in float64."""
    norms = {}
    for name, layer in tree.items():
        kernel = np.moveaxis(np.asarray(layer["kernel"], dtype=np.float64), (-1, -2), (0, 1))
        norms[name] = sigma_star(kernel, rtol=1e-4, **GEOMETRY.get(f"{name}/kernel", {})).lo
    return norms


def one_tap(tree: Any) -> Any:
    """Gradients whose directions have norms as near to the bound as a proof can tell: one row of one tap."""
    return jax.tree_util.tree_map(lambda x: jnp.zeros_like(x).at[(0,) * (x.ndim - 1)].set(1.0), tree)


def test_no_step_leaves_the_ball() -> None:
    """Large and small steps towards one kernel again and again, then anywhere; at most the bound, to the last bit."""
    bound = 2.0
    rates = jnp.asarray([0.5] * 8 + [1.0] * 4 + [1e-2] * 4 + [1e-5] * 4 + [0.5] * 4 + [0.0])
    options = {"momentum": 0.5, "rule": RULE, "rest": optax.sgd(0.1)}
    optimizer = training.spectral_ball(lambda count: rates[count], bound, **options)
    tree = training.rescale(parameters(), bound, RULE)
    state = optimizer.init(tree)

    def step(tree: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, tree)
        return optax.apply_updates(tree, updates), state

    compiled = jax.jit(step)

    largest: dict[str, float] = {}
    for j in range(len(rates)):
        noise = jax.tree_util.tree_map(lambda x: normal(*x.shape, seed=j), tree)  # noqa: B023
        before = tree
        tree, state = compiled(tree, state, one_tap(tree) if j < 20 else noise)
        norms = lower_norms(tree)
        assert max(norms.values()) <= bound, (j, norms)
        largest = {name: max(norm, largest.get(name, 0)) for name, norm in norms.items()}
    # The steps do go as far as they may.
    assert min(largest.values()) > 0.999 * bound
    # A rate of 0 moves no kernel; biases are for the other optimizer.
    for name, layer in tree.items():
        np.testing.assert_array_equal(layer["kernel"], before[name]["kernel"])
        assert (layer["bias"] != before[name]["bias"]).any()


@pytest.mark.parametrize("padding", ["reflect", "replicate"])
def test_no_step_leaves_the_ball_of_padded_layers(padding: str) -> None:
    geometry = {"padding": 2, "padding_mode": padding}
    rule = training.with_geometry({"Conv_0/kernel": geometry})
    tree = training.rescale({"Conv_0": {"kernel": normal(3, 2, 3)}}, 1.0, rule)
    optimizer = training.spectral_ball(0.5, momentum=0.5, rule=rule)
    update, state = jax.jit(optimizer.update), optimizer.init(tree)
    largest = 0.0
    for j in range(12):
        gradient = one_tap(tree) if j < 8 else {"Conv_0": {"kernel": normal(3, 2, 3, seed=j)}}
        updates, state = update(gradient, state, tree)
        tree = optax.apply_updates(tree, updates)
        kernel = np.asarray(tree["Conv_0"]["kernel"], dtype=np.float64).transpose(2, 1, 0)
        norm = max(dense_norm(kernel, n, **geometry).lo for n in (3, 5, 12))
        assert norm <= 1, j
        largest = max(norm, largest)
    assert largest > 0.7


def test_a_step_of_muon_moves_a_layer_by_the_rate() -> None:
    optimizer = training.muon_conv(0.25, rule=RULE)
    tree = parameters()
    gradient = jax.tree_util.tree_map(lambda x: normal(*x.shape, seed=x.size), tree)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(tree), tree)
    moved = lower_norms(updates)
    assert [norm for norm in moved.values() if not (0.1 < norm <= 0.25)] == [], moved
    for name, layer in updates.items():
        assert jnp.vdot(layer["kernel"], gradient[name]["kernel"]) < 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_direction_of_the_mean_of_the_gradients(nesterov: bool) -> None:
    """By hand, of two gradients of different lengths; what the other optimizer is given reaches it."""
    rest = optax.GradientTransformationExtraArgs(
        lambda _: (), lambda x, *_, loss: (jax.tree.map(lambda y: loss * y, x), ())
    )
    optimizer = training.muon_conv(0.5, momentum=0.75, nesterov=nesterov, rest=rest)
    tree = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
    state, mean = optimizer.init(tree), np.zeros((4, 3))
    for seed, scale in enumerate((1.0, 10.0)):
        gradient = scale * normal(4, 3, seed=seed)
        updates, state = optimizer.update({"kernel": gradient, "bias": jnp.ones(3)}, state, tree, loss=7.0)
        mean = 0.75 * mean + 0.25 * np.asarray(gradient)
        target = 0.75 * mean + 0.25 * np.asarray(gradient) if nesterov else mean
        direction = specnorm.lmo(target.T.astype(np.float32)).T
        np.testing.assert_allclose(updates["kernel"], -0.5 * direction, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(updates["bias"], np.full(3, 7.0))


def test_refusals() -> None:
    tree = parameters()
    with pytest.raises(KernelError, match=r"Conv_0/kernel is not proven to be at most bound=1\.0.*rescale"):
        training.spectral_ball(0.1, rule=RULE).init(tree)
    inside = training.rescale(tree, 1.0, RULE)
    half = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), inside)
    with pytest.raises(KernelError, match=r"is bfloat16.*float32"):
        training.spectral_ball(0.1, rule=RULE).init(half)
    with pytest.raises(MethodError, match=r"learning_rate=1\.5"):
        training.spectral_ball(1.5)
    optimizer = training.spectral_ball(0.1, rule=RULE)
    state = optimizer.init(inside)
    with pytest.raises(ValueError, match="parameters are needed"):
        optimizer.update(inside, state)
    with pytest.raises(KernelError, match="the state is of the kernels"):
        optimizer.update(inside, state._replace(momentum={}), inside)
    # Shapes alone, as checkpoints are restored with.
    assert jax.eval_shape(optimizer.init, tree).momentum.keys() == state.momentum.keys()
