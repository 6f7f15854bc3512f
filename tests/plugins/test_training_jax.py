"""Penalties and projections on trees of parameters: through JAX's transformations, and for Optax, Flax and Equinox."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import specnorm

jax: Any = pytest.importorskip("jax")
from jax_training import (  # noqa: E402 - after the skip where JAX is missing
    NAMES,
    certified,
    close,
    jnp,
    methods,
    parameters,
    training,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("jax32")


# -- which leaves are kernels ------------------------------------------------------------------------------------


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
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.stdout.strip() == "equal", run.stderr
