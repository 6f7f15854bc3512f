"""Penalties and projections on trees of parameters: through JAX's transformations, and for Optax, Flax and Equinox."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.tensor.form import Form

jax: Any = pytest.importorskip("jax")
from jax_training import (  # noqa: E402 - after the skip where JAX is missing
    METHODS,
    NAMES,
    certified,
    close,
    followed,
    jnp,
    methods,
    normal,
    parameters,
    stack,
    training,
    uppers,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("jax32")


# -- which leaves are kernels ------------------------------------------------------------------------------------
def test_kernels_by_name_and_rank() -> None:
    found = training.kernels(parameters())
    assert list(found) == NAMES
    assert [k.geometry["layout"] for k in found.values()] == ["WIO", "WIO", "IO"]
    assert list(training.kernels(parameters(), layers="Conv_[12]/*")) == NAMES[1:2]


def test_a_rule_of_ones_own() -> None:
    def rule(path: str, leaf: Any) -> Mapping[str, Any] | None:
        if path == "Conv_0/kernel":
            return {"layout": "WIO", "stride": 2}
        return training.flax_layout(path, leaf) if leaf.ndim == 2 else None

    found = training.kernels({**parameters(), "step": 3, "counts": jnp.arange(6).reshape(2, 3)}, rule)
    assert {name: dict(k.geometry) for name, k in found.items()} == {
        "Conv_0/kernel": {"layout": "WIO", "stride": 2},
        "Dense_0/kernel": {"layout": "IO"},
    }


def test_a_tree_without_kernels_is_refused() -> None:
    with pytest.raises(specnorm.KernelError, match="equinox_layout"):
        training.kernels(parameters(), training.equinox_layout)
    with pytest.raises(specnorm.KernelError, match="Conv_0/bias"):
        training.SpectralPenalty(layers="nothing*").init(parameters())


# -- penalty -----------------------------------------------------------------------------------------------------
@methods
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


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: m.name)
def test_compiled_mapped_and_differentiated(method: Any) -> None:
    penalty = training.SpectralPenalty(method)
    trees = [parameters(seed) for seed in (0, 10)]
    # At rest: rounding is amplified in vectors that still change.
    states = [followed(penalty, tree, penalty.init(tree)) for tree in trees]
    graded = jax.value_and_grad(penalty, has_aux=True)
    plain = [graded(tree, state) for tree, state in zip(trees, states, strict=True)]
    close(jax.jit(graded)(trees[0], states[0]), plain[0], rtol=1e-3)
    # The two convolutions of one shape are a batch already: the map puts another axis in front.
    close(jax.vmap(graded)(stack(trees), stack(states)), stack(plain), rtol=1e-3)


def test_the_gradient_is_that_of_finite_differences() -> None:
    tree = parameters()
    penalty = training.SpectralPenalty()
    state = followed(penalty, tree, penalty.init(tree))
    gradient = jax.grad(lambda t: penalty(t, state)[0])(tree)
    direction = parameters(seed=20)

    def at(step: float) -> float:
        moved = jax.tree_util.tree_map(lambda x, d: x + step * d, tree, direction)
        return float(penalty(moved, followed(penalty, moved, state))[0])

    slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree_util.tree_leaves, (gradient, direction)), strict=True))
    close((at(1e-2) - at(-1e-2)) / 2e-2, float(slope), rtol=1e-2)
    assert not gradient["Conv_0"]["bias"].any()


def test_what_training_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of several widths are one program, and their start none: NumPy's steps, zero channels and all."""
    traced, started, sweeps = [], [], []

    def advance(self: Any, blocks: Any, *given: Any, real: Any = specnorm.TensorNorm.advance, **named: Any) -> Any:
        traced.append(blocks.shape)
        return real(self, blocks, *given, **named)

    def start(self: Any, blocks: Any, *given: Any, real: Any = specnorm.TensorNorm.start, **named: Any) -> Any:
        started.append(type(blocks))
        return real(self, blocks, *given, **named)

    def rows(self: Any, *given: Any, real: Any = Form.rows) -> Any:
        sweeps.append(given)
        return real(self, *given)

    monkeypatch.setattr(Form, "rows", rows)
    monkeypatch.setattr(specnorm.TensorNorm, "advance", advance)
    monkeypatch.setattr(specnorm.TensorNorm, "start", start)
    widths = [(2, 5), (5, 5), (5, 7)]
    tree = {f"{j}": {"kernel": normal(3, *n, seed=j)} for j, n in enumerate(widths)}
    penalty = training.SpectralPenalty()
    with jax.no_tracing():
        state = penalty.init(tree)
    assert started == [np.ndarray] * 3
    sweeps.clear()
    _, state = penalty(tree, state)
    assert len(sweeps) == 1
    gradient, _ = jax.grad(penalty, has_aux=True)(tree, state)
    norms, _ = penalty.norms(tree, state)
    assert traced == [(3, 7, 5, 3)]
    for name, kernel in training.kernels(tree).items():
        array, before = np.asarray(kernel.array), {k: np.asarray(x) for k, x in state[name].items()}
        value, _ = specnorm.track(array, specnorm.TensorNorm(), before, layout="WIO")
        slope = specnorm.value_and_grad(array, specnorm.TensorNorm(certified=False), layout="WIO")[1]
        close(norms[name], value, rtol=1e-5)
        found = gradient[name.partition("/")[0]]["kernel"]
        assert np.linalg.norm(found - slope) <= 5e-3 * np.linalg.norm(slope)


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and all that it calls; those that call are left out."""
    for equation in jaxpr.eqns:
        given = [x for value in equation.params.values() for x in (value if isinstance(value, tuple) else (value,))]
        called = [getattr(x, "jaxpr", x) for x in given if hasattr(getattr(x, "jaxpr", x), "eqns")]
        yield from itertools.chain.from_iterable(map(equations, called)) if called else (equation,)


def test_a_step_has_few_products_to_compile() -> None:
    """XLA compiles equal operations on equal shapes once: a step has 17 products."""
    tree = {"kernel": normal(3, 3, 8, 4, seed=1)}
    penalty = training.SpectralPenalty()
    jaxpr = jax.make_jaxpr(jax.value_and_grad(penalty, has_aux=True))(tree, penalty.init(tree)).jaxpr
    products = [
        tuple(x.aval.shape for x in (*equation.invars, *equation.outvars))
        for equation in equations(jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    assert 10 < len(products) <= 17


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


@methods
@pytest.mark.parametrize("form", ["sum", "log"])
def test_a_zero_kernel_has_a_zero_gradient(method: Any, form: str) -> None:
    tree = jax.tree_util.tree_map(jnp.zeros_like, parameters())
    penalty = training.SpectralPenalty(method, form=form)
    state = penalty.init(tree)
    (value, after), gradient = jax.value_and_grad(penalty, has_aux=True)(tree, state)
    assert float(value) < 1e-30
    assert not any(bool(x.any()) for x in jax.tree_util.tree_leaves(gradient))
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree_util.tree_leaves(after))
    # And the state can still follow what grows out of it.
    norms, _ = penalty.norms(parameters(), followed(penalty, parameters(), after))
    assert all(float(norms[name]) > 0.9 * upper for name, upper in uppers(parameters()).items())


def test_a_state_of_another_tree_is_refused() -> None:
    penalty = training.SpectralPenalty()
    tree = parameters()
    state = penalty.init(tree)
    del tree["Conv_1"]
    with pytest.raises(specnorm.KernelError, match="Conv_1/kernel"):
        penalty(tree, state)


def test_half_precision_is_penalised_in_float32() -> None:
    tree = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), parameters())
    penalty = training.SpectralPenalty(specnorm.FantasticFour())
    (value, _), gradient = jax.value_and_grad(penalty, has_aux=True)(tree, penalty.init(tree))
    assert value.dtype == jnp.float32
    assert gradient["Conv_0"]["kernel"].dtype == jnp.bfloat16


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
tree = {name: {"kernel": normal((3, 13, 16)).astype("float32")} for name in ("one", "two")}
tree = jax.tree_util.tree_map(jax.numpy.asarray, tree)
penalty = SpectralPenalty()
state = penalty.init(tree)
moved = jax.tree_util.tree_map(lambda x: 1.1 * x + 0.1 * x**2, tree)
step = jax.jit(jax.value_and_grad(penalty, has_aux=True))
(value, after), gradient = step(moved, state)
spread = jax.tree_util.tree_map(lambda x: put(x, None, None, "part"), moved)
shards = jax.tree_util.tree_map(lambda x: put(x, None, None, "part"), state)
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


def test_sharded_kernels_and_states() -> None:
    """Kernels split over output channels and states over the entries of vectors, on eight devices made of the host."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.strip() == "equal", run.stderr
