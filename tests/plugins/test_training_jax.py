"""Penalties and projections on trees of parameters: through JAX's transformations, and for Optax, Flax and Equinox."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import python

import specnorm

jax: Any = pytest.importorskip("jax")
jnp = jax.numpy
training: Any = pytest.importorskip("specnorm_jax.training")

pytestmark = pytest.mark.usefixtures("jax32")

METHODS = [specnorm.TensorNorm(), specnorm.FantasticFour(), specnorm.Gram()]

methods = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)


def optional(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def parameters(seed: int = 0) -> dict[str, Any]:
    """As Flax has them: two convolutions of one shape, a dense layer, biases. One axis, which compiles fast."""
    conv = [{"kernel": normal(3, 4, 4, seed=seed + j), "bias": jnp.zeros(4)} for j in range(2)]
    return {"Conv_0": conv[0], "Conv_1": conv[1], "Dense_0": {"kernel": normal(5, 3, seed=seed + 3)}}


NAMES = ["Conv_0/kernel", "Conv_1/kernel", "Dense_0/kernel"]


def uppers(tree: Any, rule: Any = training.flax_layout) -> dict[str, float]:
    found = training.kernels(tree, rule).items()
    return {name: float(specnorm.enclose(kernel, **geometry).upper) for name, (kernel, geometry) in found}


def certified(tree: Any, bound: float, rule: Any = training.flax_layout) -> bool:
    found = training.kernels(tree, rule).values()
    return all(specnorm.certify(kernel, bound, **geometry) for kernel, geometry in found)


def close(found: Any, expected: Any, rtol: float = 1e-5) -> None:
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected)


# -- penalty -----------------------------------------------------------------------------------------------------
@methods
@pytest.mark.sampled("f4")
def test_the_penalty_is_a_sum_over_norms(method: Any) -> None:
    tree = parameters()
    norms = [float(specnorm.measure(k.array, method, **k.geometry).value) for k in training.kernels(tree).values()]
    expected = {"sum": sum(norms), "log": np.log(norms).sum(), "hinge": sum(max(x - 4, 0) for x in norms)}
    for form, total in expected.items():
        penalty = training.SpectralPenalty(method, form=form, target=4.0)
        value, state = penalty(tree, penalty.init(tree))
        close(value, total, rtol=2e-3)
        assert list(state) == NAMES
        assert value.dtype == jnp.float32
    with pytest.raises(specnorm.MethodError, match="hinge"):
        training.SpectralPenalty(form="squares")


def test_the_state_is_carried_by_scan() -> None:
    """In a compiled loop the vectors follow kernels that drift: never above the norm, and not far below."""
    penalty = training.SpectralPenalty()
    tree, drift = parameters(), parameters(seed=30)

    def body(carry: Any, _: Any) -> Any:
        moved, state = carry
        norms, state = penalty.norms(moved, state)
        return (jax.tree_util.tree_map(lambda x, d: x + 0.02 * d, moved, drift), state), norms

    (last, _), norms = jax.jit(lambda c: jax.lax.scan(body, c, length=20))((tree, penalty.init(tree)))
    before = jax.tree_util.tree_map(lambda x, d: x - 0.02 * d, last, drift)
    for name, (kernel, geometry) in training.kernels(before).items():
        full = float(specnorm.tn_bound(kernel, certified=False, **geometry))
        assert 0.93 * full < float(norms[name][-1]) < 1.0001 * full, name
        assert norms[name].shape == (20,)


# -- certified ---------------------------------------------------------------------------------------------------
def test_rescaled_trees_are_certified() -> None:
    tree = parameters()
    small = training.rescale(tree, 2.0)
    assert certified(small, 2.0)
    assert small["Conv_0"]["bias"] is tree["Conv_0"]["bias"]
    again = training.rescale(small, 2.0)
    close(again, small, rtol=0.0)
    with pytest.raises(specnorm.MethodError):
        jax.jit(training.rescale)(tree)


SHARDED = """
import jax, numpy as np, specnorm
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from specnorm_jax.training import SpectralPenalty
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()), ("part",))
def put(x, *axes):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
normal = np.random.RandomState(0).standard_normal
tree = {name: {"kernel": normal((3, 16, 13)).astype("float32")} for name in ("one", "two")}
tree = jax.tree_util.tree_map(jax.numpy.asarray, tree)
penalty = SpectralPenalty()
state = penalty.init(tree)
moved = jax.tree_util.tree_map(lambda x: 1.1 * x + 0.1 * x**2, tree)
step = jax.jit(jax.value_and_grad(penalty, has_aux=True))
(value, after), gradient = step(moved, state)
spread = jax.tree_util.tree_map(lambda x: put(x, None, "part"), moved)
shards = jax.tree_util.tree_map(lambda x: put(x, None, "part"), state)
(other, later), slope = step(spread, shards)
assert len(spread["one"]["kernel"].sharding.device_set) == 8
np.testing.assert_allclose(other, value, rtol=1e-5)
for a, b in zip(jax.tree_util.tree_leaves((slope, )), jax.tree_util.tree_leaves((gradient, )), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)
method = specnorm.TensorNorm(certified=False)
kernel = spread["one"]["kernel"]
found, _ = specnorm.track(kernel, method, shards["one/kernel"], layout="WIO")
expected, _ = specnorm.track(moved["one"]["kernel"], method, state["one/kernel"], layout="WIO")
np.testing.assert_allclose(found, expected, rtol=1e-5)
print("equal")
"""


@pytest.mark.nightly
def test_sharded_kernels_and_states() -> None:
    """Kernels split over input channels and states over the entries of vectors, on eight devices made of the host."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    assert python(SHARDED, XLA_FLAGS=flags, JAX_PLATFORMS="cpu") == "equal"


# -- projections in chains of Optax ------------------------------------------------------------------------------
F4 = specnorm.FantasticFour()
"""Compiles in a quarter of TN's time, and each transformation compiles anew."""


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
    ("method", "bound"), [(METHODS[0], 1.0), (METHODS[1], 5.0), (METHODS[2], 1.0)], ids=["tn-1", "f4-5", "gram-1"]
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
