"""Projections on trees of parameters: in chains of Optax, in training loops of Flax and Equinox."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import specnorm

jax: Any = pytest.importorskip("jax")
from jax_training import (  # noqa: E402 - after the skip where JAX is missing
    METHODS,
    NAMES,
    certified,
    jnp,
    normal,
    optional,
    parameters,
    training,
    uppers,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("jax32")

F4 = specnorm.FantasticFour()
"""Compiles in a quarter of TN's time, and each transformation compiles anew. TN's own are below and in
`test_training_jax`."""


def fit(tree: Any, transformation: Any, steps: int = 25) -> tuple[Any, list[dict[str, float]]]:
    """Towards parameters of larger norms; the proven norms after each fifth step."""
    optax = optional("optax")
    target = jax.tree_util.tree_map(lambda x: 3 * x, parameters(seed=40))
    state = transformation.init(tree)

    def step(tree: Any, state: Any) -> Any:
        def loss(tree: Any) -> Any:
            pairs = zip(jax.tree_util.tree_leaves(tree), jax.tree_util.tree_leaves(target), strict=True)
            return sum(jnp.sum((a - b) ** 2) for a, b in pairs)

        updates, state = transformation.update(jax.grad(loss)(tree), state, tree)
        return optax.apply_updates(tree, updates), state

    norms, compiled = [], jax.jit(step)
    for j in range(steps):
        tree, state = compiled(tree, state)
        if j % 5 == 4:
            norms.append(uppers(tree))
    return tree, norms


FACTOR = {"tn": 1.1, "f4": 1.05, "gram": 1.002}
"""What the norms may exceed the bound by while training: TN and F4 follow their vectors; Gram is a bound, and 0.2 % is
what the enclosure and rounding take."""


@pytest.mark.parametrize(
    ("method", "bound"),
    [(METHODS[0], 1.0), (METHODS[1], 5.0), (METHODS[2], 1.0)],
    ids=["tn-1", "f4-5", "gram-1"],
)
@pytest.mark.sampled("f4-5")
def test_the_projection_keeps_the_norms_at_the_bound(method: Any, bound: float) -> None:
    """All along, in steps that move a kernel by several percent; then one call makes it certain."""
    optax = optional("optax")
    chain = optax.chain(optax.adam(0.01 * bound), training.project_spectral_norm(bound, method=method))
    tree, norms = fit(parameters(), chain)
    assert max(max(n.values()) for n in norms) <= FACTOR[method.name] * bound
    # A constraint that is active: what a layer is below it, the method's value is above the norm.
    assert min(norms[-1][name] for name in NAMES[:2]) > 0.6 * bound
    assert certified(training.rescale(tree, bound), bound)


# -- Flax and Equinox --------------------------------------------------------------------------------------------
def test_flax_nnx() -> None:
    optax, nnx = optional("optax"), optional("flax.nnx")

    class Net(nnx.Module):  # type: ignore[name-defined, misc]
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
            self.dense = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.dense(jax.nn.relu(self.conv(x)).mean((1, 2)))

    net = Net(nnx.Rngs(0))
    penalty = training.SpectralPenalty(F4)
    state = penalty.init(nnx.state(net, nnx.Param))
    assert list(state) == ["conv/kernel", "dense/kernel"]
    chain = optax.chain(optax.sgd(0.01), training.project_spectral_norm(0.5, method=F4))
    optimizer = nnx.Optimizer(net, chain, wrt=nnx.Param)
    images = normal(8, 6, 6, 1)

    def step(net: Any, optimizer: Any, state: Any) -> Any:
        def loss(net: Any) -> Any:
            value, after = penalty(nnx.state(net, nnx.Param), state)
            return 1e-3 * value - jnp.abs(net(images)).sum(), after

        gradient, after = nnx.grad(loss, has_aux=True)(net)
        optimizer.update(net, gradient)
        return after

    compiled = nnx.jit(step)
    for _ in range(8):
        state = compiled(net, optimizer, state)
    norms = uppers(nnx.state(net, nnx.Param))
    assert list(norms) == ["conv/kernel", "dense/kernel"]
    assert all(0.2 < x < 0.55 for x in norms.values())
    nnx.update(net, training.rescale(nnx.state(net, nnx.Param), 0.5))
    assert certified(nnx.state(net, nnx.Param), 0.5)


@pytest.mark.nightly
def test_equinox() -> None:
    eqx, optax = optional("equinox"), optional("optax")
    keys = jax.random.split(jax.random.key(0), 2)
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 4, 3, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(64, 2, key=keys[1]),
        ]
    )
    rule = training.equinox_layout
    penalty = training.SpectralPenalty(F4, rule=rule)
    state = penalty.init(model)
    assert list(state) == ["layers/0/weight", "layers/3/weight"]
    chain = optax.chain(optax.sgd(0.01), training.project_spectral_norm(0.5, method=F4, rule=rule))
    optimum = chain.init(eqx.filter(model, eqx.is_array))
    images = normal(5, 1, 6, 6)

    def step(model: Any, optimum: Any, state: Any) -> Any:
        def loss(model: Any) -> Any:
            value, after = penalty(model, state)
            return 1e-3 * value - jnp.abs(jax.vmap(model)(images)).sum(), after

        gradient, after = eqx.filter_grad(loss, has_aux=True)(model)
        updates, optimum = chain.update(gradient, optimum, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), optimum, after

    compiled = eqx.filter_jit(step)
    for _ in range(8):
        model, optimum, state = compiled(model, optimum, state)
    assert all(0.2 < x < 0.55 for x in uppers(model, rule).values())
    assert certified(training.rescale(model, 0.5, rule), 0.5, rule)


def test_the_documentation_runs_with_optax() -> None:
    """Blocks of the page that need Optax, which its other examples do without."""
    optional("optax")
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(import optax\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, Any] = {}
        exec(compile(block, "training.md", "exec"), names)
        _, seen = fit(parameters(), names["optimizer"], steps=5)
        assert max(seen[-1].values()) <= 1.1
