"""Trees of parameters and what training makes of them, for tests with JAX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specnorm

jax: Any = pytest.importorskip("jax")
jnp = jax.numpy

training: Any = pytest.importorskip("specnorm_jax.training")


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
