"""Models of JAX, Flax and Equinox enter as ONNX: the file computes what the model does, and its graph has a bound."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from specnorm.errors import MethodError, TranslationError

os.environ.setdefault("KERAS_BACKEND", "jax")
jax = pytest.importorskip("jax")
pytest.importorskip("jax2onnx", reason="pip install jax2onnx")
from specnorm_networks import network_bound  # noqa: E402
from specnorm_networks.sources import export  # noqa: E402 after what may be missing


def compare(source: Any, shape: tuple[int, ...]) -> None:
    """The file's values, by onnx's reference evaluator, beside the model's own."""
    from onnx.reference import ReferenceEvaluator

    found = export(source, shape)
    assert found.free
    for samples in (1, 3):
        x = np.random.default_rng(0).standard_normal((samples, *shape)).astype(np.float32)
        (theirs,) = ReferenceEvaluator(found.model).run(None, {found.model.graph.input[0].name: x})
        (ours,) = found.run(x)
        np.testing.assert_allclose(
            np.asarray(theirs, np.float64), np.asarray(ours.value, np.float64), rtol=1e-4, atol=1e-5
        )


def test_function() -> None:
    weight = jax.random.normal(jax.random.key(0), (5, 4))
    compare(lambda x: jax.nn.relu(x @ weight), (5,))
    found = network_bound(lambda x: jax.nn.relu(x @ weight), (5,))
    assert found.checked.samples == (2, 3, 16)
    norm = np.linalg.norm(np.asarray(weight, np.float64), 2)
    assert norm * (1 - 1e-6) <= (found.upper or 0) <= norm * (1 + 1e-3)


def test_flax() -> None:
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.relu)
    compare(model, (8, 8, 3))
    assert not model.layers[1].use_running_average  # the user's own stays as it was


def test_equinox() -> None:
    equinox = pytest.importorskip("equinox")
    layers = [equinox.nn.Conv2d(3, 4, 3, dtype="float32", key=jax.random.key(0)), equinox.nn.Lambda(jax.nn.relu)]
    compare(equinox.nn.Sequential(layers), (3, 8, 8))


def test_another_output_at_each_call_is_seen() -> None:
    calls = iter(range(99))
    with pytest.raises(TranslationError, match="not read as it computes"):
        network_bound(lambda x: x + next(calls), (3,))


def test_training_modes_are_told() -> None:
    nnx, equinox = pytest.importorskip("flax.nnx"), pytest.importorskip("equinox")
    for rate in (0.5, None):
        rngs, key = nnx.Rngs(0), jax.random.key(0)
        dropped = [] if rate is None else [nnx.Dropout(rate, rngs=rngs)]
        model = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), *dropped)
        dropped = [] if rate is None else [equinox.nn.Dropout(rate)]
        other = equinox.nn.Sequential([equinox.nn.Linear(3, 3, dtype="float32", key=key), *dropped])
        for each in (model, other):
            assert ("taken in eval()" in str(network_bound(each, (3,)))) == (rate is not None)


def test_an_output_that_is_an_input_is_compared() -> None:
    """1 was claimed for 3."""
    with pytest.raises(TranslationError, match="exported otherwise than it computes"):
        network_bound(lambda x: x if isinstance(x, jax.core.Tracer) else 3 * x, (3,))


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


def test_no_shape_is_refused() -> None:
    with pytest.raises(MethodError, match="give input_shape"):
        export(lambda x: x, None)


COMPILED = """
import sys
import jax
from specnorm_networks.sources import export
count = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: count.append("backend_compile" in name))
export(lambda x: x, (3,))
left = [name for name, module in sys.modules.items() if not name.startswith("jax2onnx")
        for x in list(getattr(module, "__dict__", {}).values()) if isinstance(x, jax.core.Tracer)]
failed = [name for name in ("lax.dot_general", "nn.relu") if f"jax2onnx.plugins.jax.{name}" not in sys.modules]
print(sum(count), left, failed)
"""


def test_the_first_export_compiles_next_to_nothing() -> None:
    """The plugins of jax2onnx make layers when they are imported: 110 compilations, most of a small network's time.

    No module of another library keeps a tracer of theirs.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=120)
    count, rest = done.stdout.strip().split(" ", 1)
    assert int(count) < 30
    assert rest == "[] []"
