"""Models of JAX, Flax and Equinox enter as ONNX: the file computes what the model does, and its graph has a bound."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import numpy as np
import pytest

from specnorm.errors import MethodError, TranslationError

os.environ.setdefault("KERAS_BACKEND", "jax")
jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx", reason="pip install jax2onnx")
from helpers.processes import python  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from specnorm_networks.certified.operators import Tanh  # noqa: E402


def test_a_function_is_compared_with_its_graph() -> None:
    weight = jax.random.normal(jax.random.key(0), (5, 4))
    found = network_bound(lambda x: jax.nn.relu(x @ weight), (5,))
    assert found.checked.samples == (2, 3, 16)
    norm = np.linalg.norm(np.asarray(weight, np.float64), 2)
    assert norm * (1 - 1e-6) <= (found.upper or 0) <= norm * (1 + 1e-3)


def test_flax_keeps_its_own_mode(nnx: Any) -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.relu)
    assert network_bound(model, (4, 4, 3)).checked.complete
    assert not model.layers[1].use_running_average


def test_flax_with_normalised_weights() -> None:
    """Flax writes the weight that it computes into the module; Linen asks whether a computed norm is 0."""
    jax, nnx, linen = map(pytest.importorskip, ("jax", "flax.nnx", "flax.linen"))
    rngs = nnx.Rngs(0)
    normed = nnx.WeightNorm(nnx.Linear(3, 4, rngs=rngs), rngs=rngs)
    upper = network_bound(normed, (3,)).upper
    matrix = np.asarray(normed(np.eye(3, dtype=np.float32)) - normed(np.zeros((1, 3), np.float32)))
    assert upper == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-5)
    with pytest.raises(MethodError, match="give the module itself"):
        network_bound(lambda x: normed(x), (3,))
    layer = linen.SpectralNorm(linen.Dense(4, use_bias=False))
    variables = layer.init(jax.random.key(0), np.ones((1, 3), np.float32), update_stats=False)
    upper = network_bound(lambda x: layer.apply(variables, x, update_stats=False), (3,)).upper
    matrix = np.asarray(layer.apply(variables, np.eye(3, dtype=np.float32), update_stats=False))
    assert upper == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-5)


@pytest.mark.parametrize("name", ["Conv", "Linear"])
@pytest.mark.sampled("Conv")
def test_a_kernel_that_jax2onnx_cannot_write_is_computed_before(nnx: Any, name: str) -> None:
    """NNX sets a whole kernel, which becomes a Reshape of no indices, and multiplies what is no array."""
    sizes, shape = ((2, 3, (3, 3)), (3, 3, 2)) if name == "Conv" else ((5, 3), (5,))
    normed = nnx.SpectralNorm(getattr(nnx, name)(*sizes, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    normed.eval()
    found = network_bound(normed, shape)
    assert found.checked.complete
    units = np.eye(math.prod(shape), dtype=np.float32).reshape(-1, *shape)
    matrix = np.asarray(normed(units) - normed(np.zeros_like(units)), np.float64).reshape(len(units), -1)
    norm = np.linalg.norm(matrix, 2)
    assert norm * (1 - 1e-5) <= (found.upper or 0) <= norm * 1.01


def test_flax_in_halves(nnx: Any) -> None:
    """What `nnx.split` returns is the module."""
    linear = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    upper = network_bound(nnx.split(linear), (4,)).upper
    assert upper == network_bound(linear, (4,)).upper


def test_training_modes_are_told(nnx: Any) -> None:
    equinox = pytest.importorskip("equinox")
    for rate in (0.5, None):
        rngs = nnx.Rngs(0)
        key = jax.random.key(0)
        dropped = [] if rate is None else [nnx.Dropout(rate, rngs=rngs)]
        model = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), *dropped)
        dropped = [] if rate is None else [equinox.nn.Dropout(rate)]
        other = equinox.nn.Sequential([equinox.nn.Linear(3, 3, dtype="float32", key=key), *dropped])
        for each in (model, other):
            assert ("taken in eval()" in str(network_bound(each, (3,)))) == (rate is not None)


def test_keras_layers_that_write_their_variables_are_refused() -> None:
    """1 was claimed for 100, and the model did not run any more."""
    keras: Any = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend")

    class Counting(keras.layers.Layer):  # type: ignore[misc]  # of any type
        def build(self, _: Any) -> None:
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x: Any) -> Any:
            self.calls.assign_add(1.0)
            return x * jax.numpy.where(self.calls.value > 100, 100.0, 1.0)

    model = keras.Sequential([keras.Input((3,)), Counting()])
    with pytest.raises(MethodError, match="writes its variables"):
        network_bound(model, (3,))
    assert np.asarray(model(np.ones((1, 3)))).tolist() == [[1, 1, 1]]


def test_keras_models_state_their_sizes() -> None:
    """A Sequential that begins with keras.Input was said to state none."""
    keras: Any = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras runs on another backend")
    layers = keras.layers
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    assert network_bound(model).upper == network_bound(model, (4,)).upper
    first = keras.Input((4,))
    second = keras.Input((2,))
    joined = keras.Model([first, second], layers.Add()([layers.Dense(3)(first), layers.Dense(3)(second)]))
    one, other = (float(np.linalg.norm(np.asarray(x.kernel.value), 2)) for x in joined.layers if hasattr(x, "kernel"))
    assert network_bound(joined).upper == pytest.approx(np.hypot(one, other), rel=1e-3)
    for vague in (keras.Sequential([layers.Dense(3)]), keras.Sequential([keras.Input((None, 3)), layers.Dense(3)])):
        with pytest.raises(MethodError, match="states no sizes: give input_shape"):
            network_bound(vague)


ON_TORCH = """
import keras, numpy as np
from specnorm_networks import network_bound
layers = keras.layers
moved = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Dropout(0.5)]
model = keras.Sequential([keras.Input((6, 6, 3)), *moved])
found = network_bound(model)
basis = np.eye(108, dtype="float32").reshape(108, 6, 6, 3)
answers = np.asarray(model.predict(basis, verbose=0) - model.predict(0 * basis, verbose=0)).reshape(108, -1)
given = [keras.Input((3,)), keras.Input((2,))]
two = network_bound(keras.Model(given, layers.Concatenate()([3 * given[0], given[1]])))
print(found.checked.complete, float(found.upper) / np.linalg.norm(answers, 2), float(two.upper) / np.hypot(3, 1))
"""


@pytest.mark.nightly  # `test_twins` has Keras models in CI, and `test_exported_torch` modules of torch
def test_keras_on_torch_is_a_torch_module() -> None:
    """It was refused for its backend; torch's exporter gives several inputs one by one, and Keras takes a list."""
    if not all(map(importlib.util.find_spec, ("keras", "torch", "onnxscript"))):
        pytest.skip("keras, torch or onnxscript is not installed")
    complete, *ratios = python(ON_TORCH, KERAS_BACKEND="torch").split()
    assert complete == "True"
    assert [ratio for ratio in ratios if not (1 - 1e-6 < float(ratio) < 1.01)] == []


@pytest.mark.parametrize("shape", [None, (3, 32, 32)])
def test_weights_alone_are_refused_without_their_numbers(shape: Any) -> None:
    """A state dict was asked for a shape, and then printed."""
    state = {"0.weight": np.full((4, 3), 0.25)}
    with pytest.raises(MethodError, match="dict of 1 entry, which says nothing of their use") as caught:
        network_bound(state, shape)
    assert "0.25" not in str(caught.value)
    with pytest.raises(MethodError, match=r"ndarray of shape \(4, 3\)") as caught:
        network_bound(state["0.weight"], shape)
    assert "0.25" not in str(caught.value)


@pytest.mark.parametrize("last", ["kernel", "largest"])
@pytest.mark.sampled(2)
def test_a_constant_kernel_may_be_normalised_inside(last: str) -> None:
    """A power step at each call, as the spectral norms of Flax and Equinox make; or the largest entry."""
    dice = np.random.default_rng(0)
    w = jax.numpy.asarray(dice.standard_normal((4, 6)), jax.numpy.float32)
    u = jax.numpy.asarray(dice.standard_normal(4), jax.numpy.float32)

    def function(x: Any) -> Any:
        v = w.T @ u
        v = v / jax.numpy.linalg.norm(v)
        size = jax.numpy.linalg.norm(w @ v) if last == "kernel" else jax.numpy.max(abs(w @ v))
        return x @ (w / size).T

    true = np.linalg.norm(np.asarray(function(np.eye(6)), np.float64), 2)
    assert true * (1 - 1e-6) <= (network_bound(function, (6,)).upper or 0) <= true * (1 + 1e-3)


@pytest.mark.parametrize("features", [1, 6])
@pytest.mark.sampled(2)
def test_layer_norm_is_read_as_it_computes_and_nothing_else_is(
    nnx: Any, features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the variance is smaller than its rounding, nothing is compared; elsewhere a little more is noticed."""
    model = nnx.LayerNorm(features, rngs=nnx.Rngs(0))
    found = network_bound(model, (8, features))
    assert found.upper is not None
    assert found.checked.complete
    if features > 1:
        from specnorm_networks.certified.operators import Sqrt

        monkeypatch.setattr(Sqrt, "value", lambda _, x: np.sqrt(1.001 * x))
        with pytest.raises(TranslationError, match="not read as it computes"):
            network_bound(model, (8, features))


SCALES = np.diag(np.arange(1, 5, dtype=np.float32))
ACTIVATIONS = {
    "softplus": (jax.nn.softplus, 1.0),
    "log_sigmoid": (jax.nn.log_sigmoid, 1.0),
    "mish": (jax.nn.mish, 1.08850),
    "logaddexp": (lambda x: jax.numpy.logaddexp(x, 3.0), 1.0),
    "nan_to_num": (jax.numpy.nan_to_num, 1.0),
    "logsumexp": (lambda x: jax.nn.logsumexp(x, axis=-1), 1.0),
    "softmax": (jax.nn.softmax, 0.5),
    "log_softmax": (jax.nn.log_softmax, 2.0),
    "by variance": (
        lambda x: (x - x.mean(-1, keepdims=True)) / jax.numpy.sqrt(x.var(-1, keepdims=True) + 0.01), 10.0,
    ),
    "unit columns": (lambda x: x @ (SCALES / jax.numpy.sqrt(jax.numpy.sum(SCALES**2, 0))), 1.0),
    "max-min": (lambda x: jax.numpy.concatenate([library(x[:, ::2], x[:, 1::2]) for library in (
        jax.numpy.maximum, jax.numpy.minimum)], 1), 1.0),
    "a coupling": (lambda x: jax.numpy.concatenate([x[:, :2] + jax.numpy.tanh(x[:, 2:]), x[:, 2:]], 1),
                   (1 + math.sqrt(5)) / 2),
    "by a longer norm than 1": (
        lambda x: x / jax.numpy.maximum(1.0, jax.numpy.linalg.norm(x, axis=-1, keepdims=True)), 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.sampled("mish", "by variance")
def test_functions_that_jax_writes_out_are_read_as_what_they_are(name: str) -> None:
    """They had no bound, by a guard against NaN, an exponential or a root."""
    function, constant = ACTIVATIONS[name]
    found = network_bound(function, (4,))
    assert found.checked.complete
    assert constant * (1 - 1e-5) <= (found.upper or 0) <= constant * (1 + 1e-5)


def test_what_is_computed_in_half_precision_inside_is_compared_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX gives no inner values, and the rounding of a cast was not counted: a right reading was refused."""
    weight = np.eye(6, dtype=np.float32)

    def model(x: Any) -> Any:
        return jax.numpy.tanh(x.astype(jax.numpy.float16)).astype(x.dtype) @ weight

    found = network_bound(model, (6,))
    assert found.checked.complete
    assert found.upper == pytest.approx(1, rel=1e-5)
    value = Tanh.value
    monkeypatch.setattr(Tanh, "value", lambda self, x: 1.1 * value(self, x))
    with pytest.raises(TranslationError, match="not read as it computes"):
        network_bound(model, (6,))


def test_an_ellipsis_stands_for_all_other_axes() -> None:
    weight = jax.random.normal(jax.random.key(0), (6, 4))
    norm = np.linalg.norm(np.asarray(weight, np.float64), 2)
    for equation, first in (("...i,ij->...j", True), ("ij,...i->...j", False)):
        found = network_bound(lambda x: jax.numpy.einsum(equation, *((x, weight) if first else (weight, x))), (3, 6))  # noqa: B023
        assert norm * (1 - 1e-6) <= (found.upper or 0) <= norm * (1 + 1e-3)
        assert found.checked.complete


@pytest.mark.parametrize("input_shape", [(5,), np.zeros((1, 5))], ids=["a shape", "an input"])
def test_constants_of_double_precision_decide_the_precision(input_shape: Any) -> None:
    """JAX promotes single to double precision; jax2onnx would mix both in one operator, which ONNX does not allow."""
    w = np.random.default_rng(0).standard_normal((3, 5))
    weight = jax.numpy.asarray(w)
    assert weight.dtype == "float64"
    found = network_bound(lambda x: x @ (weight.T @ weight), input_shape, budget=1)
    assert float(found.upper) == pytest.approx(np.linalg.norm(w, 2) ** 2, rel=1e-6)


def test_what_a_function_raises_is_refused_with_advice() -> None:
    linen = pytest.importorskip("flax.linen")
    layer = linen.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), np.ones((2, 4), np.float32))

    def broken(x: Any) -> Any:
        raise ZeroDivisionError(f"of a model of {x.ndim} axes")

    calls = iter(range(99))
    kinds: list[tuple[Any, str]] = [
        (lambda x: x + next(calls), "not read as it computes"),
        (lambda x: x if isinstance(x, jax.core.Tracer) else 3 * x, "exported otherwise than it computes"),  # 1 for 3
        ((lambda x: x, {}), r"got \(function, dict\).*lambda x: model\(x, state\)"),
        ((linen.Dense(3), {}), r"lambda x: module.apply\(variables, x\)"),
        (lambda x: jax.numpy.cumsum(x, -1), r"write cumsum\(x, axis="),
        (broken, "ZeroDivisionError: of a model of 2 axes. If the shape is the cause, give one input's shape without"),
        (lambda x: x if x.sum() > 0 else -x, "It asks for the values of an array.*: write it by jax.numpy"),
        (lambda x: np.sin(np.asarray(x)), "It asks for the values of an array"),
        (lambda x: jax.pure_callback(np.asarray, x, x), "pure_callback.*give an ONNX file of the model"),
        (lambda _: None, "returns no array: it has to return its outputs"),
        (lambda x: layer.apply(variables, x), "It is in training mode: apply the module with use_running_average=True"),
    ]
    for function, words in kinds:
        with pytest.raises((MethodError, TranslationError), match=words):
            network_bound(function, (4,))
    with pytest.raises(MethodError, match=r"give input_shape.*\(32, 32, 3\)"):
        network_bound(lambda x: x)
