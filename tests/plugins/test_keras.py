"""Keras 3 on torch and on JAX, which has one library a process: the constraint, the regulariser, the monitor."""

from __future__ import annotations

import importlib.util

import pytest
from helpers.processes import python

BACKENDS = ["torch", pytest.param("jax", marks=pytest.mark.nightly)]
"""A fit on JAX compiles for tens of seconds."""

TRAINED = """
import json, os, tempfile
import keras, numpy as np, specnorm
from specnorm_keras import NormMonitor, SpectralNorm, SpectralRegularizer

keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((8, 3)),
    layers.Conv1D(4, 3, strides=2, kernel_constraint=SpectralNorm(layer="conv", strides=2)),
    layers.ReLU(),
    layers.Flatten(),
    layers.Dense(3, kernel_constraint=SpectralNorm(2.0), kernel_regularizer=SpectralRegularizer(0.01, form="log")),
])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.randn(32, 8, 3).astype("float32")
y = np.random.randint(0, 3, 32)
monitor = NormMonitor(model, every=2, upper=True)
for word, meant in (("stride", "strides"), ("dilation", "dilation_rate"), ("lower", None)):
    for make in (SpectralNorm, SpectralRegularizer):
        try:
            make(**{word: 2})
        except TypeError as error:
            assert meant is None or f"did you mean {meant}?" in str(error), error
        else:
            raise AssertionError(word)
logs = model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[monitor.callback()]).history
for name, bound in (("conv1d", 1.0), ("dense", 2.0)):
    found = specnorm.enclose(model.get_layer(name))
    assert 0.995 * bound < float(found.upper) < 1.002 * bound, found
    assert 0.995 * bound < logs[f"norm/{name}"][-1] <= logs[f"upper/{name}"][-1] < 1.06 * bound
assert abs(logs["norm/product"][-1] - 2) < 0.02
path = os.path.join(tempfile.mkdtemp(), "model.keras")
model.save(path)
again = keras.models.load_model(path)
for name in ("conv1d", "dense"):
    constraint = model.get_layer(name).kernel_constraint
    assert again.get_layer(name).kernel_constraint.get_config() == constraint.get_config()
penalty = again.get_layer("dense").kernel_regularizer
assert penalty.get_config() == model.get_layer("dense").kernel_regularizer.get_config()
assert json.loads(json.dumps(penalty.get_config()))["form"] == "log"
print("trained")
"""

DIVERGED = """
import keras, numpy as np, pytest
from specnorm.errors import MethodError
from specnorm_keras import SpectralNorm, SpectralRegularizer

layers = keras.layers
assert keras.saving.get_registered_object("specnorm>SpectralBall"), "a saved model may name it, too"
model = keras.Sequential([
    keras.Input((8, 8, 3)),
    layers.Conv2D(4, 3, kernel_constraint=SpectralNorm(), kernel_regularizer=SpectralRegularizer(0.1)),
    layers.Flatten(),
    layers.Dense(3),
])
model.compile(keras.optimizers.SGD(0.1), "mse")
inputs, targets = np.ones((8, 8, 8, 3), "float32"), np.ones((8, 3), "float32")
inputs[5, 0, 0, 0] = np.nan
model.fit(inputs, targets, batch_size=4, epochs=3, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
assert model.stop_training
assert np.isnan(keras.ops.convert_to_numpy(model.layers[0].kernel)).all()
for bad in (np.nan, np.inf):
    kernel = np.ones((3, 3, 2, 2), "float32")
    kernel[0, 0, 0, 0] = bad
    for only_shrink in (False, True):
        made = SpectralNorm(only_shrink=only_shrink)(keras.ops.convert_to_tensor(kernel))
        assert np.isnan(keras.ops.convert_to_numpy(made)).all()
    assert np.isnan(keras.ops.convert_to_numpy(SpectralRegularizer()(keras.ops.convert_to_tensor(kernel))))
zeros = keras.ops.zeros((3, 3, 2, 2))
assert not keras.ops.convert_to_numpy(SpectralNorm()(zeros)).any()
for method in ("power", "smallest", "isometry", "none"):
    with pytest.raises(MethodError, match=f"method='{method}' is not one of tn, .*without an input size"):
        SpectralNorm(method=method)
print("stopped")
"""

COMPILED = """
import jax, keras, numpy as np, specnorm
from specnorm_keras import SpectralNorm, SpectralRegularizer

kernel = jax.numpy.asarray(np.random.RandomState(0).standard_normal((3, 3, 2, 2)).astype("float32"))
variable = keras.Variable(kernel)
found = specnorm.enclose(jax.jit(SpectralNorm())(variable.value), layout="HWIO")
assert 0.995 < float(found.upper) < 1.002, found
assert not keras.constraints.deserialize(keras.constraints.serialize(SpectralNorm())).only_shrink
# The gradient of a norm along the kernel is the norm.
slope = jax.grad(SpectralRegularizer(1.0))(kernel)
assert abs(float((slope * kernel).sum()) / float(specnorm.enclose(kernel, layout="HWIO").lower) - 1) < 5e-3
print("compiled")
"""

KERNELS = """
import keras, numpy as np, pytest, specnorm
from specnorm_keras import SpectralNorm, SpectralRegularizer

normal = np.random.RandomState(0).standard_normal
tensor = lambda *shape: keras.ops.convert_to_tensor(normal(shape).astype("float32"))
to_numpy = keras.ops.convert_to_numpy

# What a constraint returns has the norm of the layer, by the layer's own reader.
for layer, shape, constraint in (
    (keras.layers.Conv2D(6, 3, strides=2), (9, 9, 4), SpectralNorm(strides=2)),
    (keras.layers.Conv2D(6, 3, groups=2), (9, 9, 4), SpectralNorm(groups=2)),
    (keras.layers.Conv2D(6, 3, dilation_rate=2), (9, 9, 4), SpectralNorm(dilation_rate=2)),
    (keras.layers.Conv2DTranspose(2, 3, strides=2), (9, 9, 4), SpectralNorm(layer="transposed", strides=2)),
    (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (9, 9, 4), SpectralNorm(layer="depthwise")),
    (keras.layers.Dense(5), (4,), SpectralNorm()),
):
    layer.build((None, *shape))
    kernel = layer.kernel
    kernel.assign(constraint(3 * tensor(*kernel.shape)))
    found = specnorm.enclose(layer)
    assert abs(float(found.upper) - 1) < 5e-3, (type(layer).__name__, found)

# A dense kernel with three axes is a matrix.
kernel = tensor(16, 2, 8)
small = to_numpy(SpectralNorm(layer="dense", input_axes=1)(kernel))
assert abs(np.linalg.norm(small.reshape(16, 16), 2) - 1) < 1e-4
with pytest.raises(specnorm.errors.GeometryError, match="Conv1D or of EinsumDense"):
    SpectralNorm()(kernel)
with pytest.raises(specnorm.errors.GeometryError, match="layer='linear' is not one of"):
    SpectralNorm(layer="linear")
with pytest.raises(specnorm.errors.MethodError, match="method='power_iteration' is not one of"):
    SpectralNorm(method="power_iteration")
with pytest.raises(specnorm.errors.MethodError, match="form='squares' is none of"):
    SpectralRegularizer(form="squares")
with pytest.raises(specnorm.errors.MethodError, match="factor must be a number, got str 'x'"):
    SpectralRegularizer(factor="x")

# Below the bound nothing is stretched, and zeros stay zeros; an upper bound leaves nothing above it.
low = 1e-3 * tensor(4, 4)
assert np.array_equal(to_numpy(SpectralNorm(only_shrink=True)(low)), to_numpy(low))
assert not to_numpy(SpectralNorm()(0 * low)).any()
proven = SpectralNorm(method="gram")(tensor(3, 3, 4, 4))
assert float(specnorm.enclose(proven, layout="HWIO").lower) <= 1 + 1e-6

matrix = tensor(4, 4)
norm = np.linalg.norm(to_numpy(matrix), 2)
for form, value in (("sum", norm), ("log", np.log(norm)), ("hinge", norm - 1)):
    assert abs(float(SpectralRegularizer(0.5, form=form)(matrix)) - 0.5 * value) < 1e-4
print("right")
"""

MONITORED = """
import warnings
import keras, specnorm
from specnorm_keras import NormMonitor

layers = keras.layers
inner = keras.Sequential([keras.Input((8, 8, 4)), layers.DepthwiseConv2D(3, name="depthwise")], name="inner")
model = keras.Sequential([
    keras.Input((8, 8, 3)), layers.Conv2DTranspose(4, 1, name="up"), inner,
    layers.SeparableConv2D(2, 3, name="separable"), layers.BatchNormalization(),
])
plain = NormMonitor(model, upper=True)
assert not plain.left_out
report = plain(0)
assert list(report) == [
    f"{kind}/{name}"
    for kind in ("norm", "upper")
    for name in ("up", "inner/depthwise", "separable", "product")
]
for name, layer in (
    ("up", model.get_layer("up")),
    ("inner/depthwise", inner.get_layer("depthwise")),
    ("separable", model.get_layer("separable")),
):
    truth = specnorm.enclose(layer)
    assert report[f"norm/{name}"] <= float(truth.upper)
    assert float(truth.lower) <= report[f"upper/{name}"]

odd = keras.Sequential([
    keras.Input((8, 8, 3)),
    layers.Conv2D(4, 1, name="conv"),
    layers.Reshape((64, 4)),
    layers.EinsumDense("abc,cde->abde", output_shape=(64, 2, 3), name="einsum"),
])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    monitor = NormMonitor(odd, upper=True)
assert "einsum: a EinsumDense is not measured" in str(told[0].message), told
assert list(monitor(0)) == ["norm/conv", "upper/conv"]
assert list(monitor.left_out) == ["einsum"]
chosen = NormMonitor(odd, select=lambda name, layer: name == "conv", upper=False)
assert list(chosen(0)) == ["norm/conv", "norm/product"]
print("named")
"""


IN_THE_BALL = """
import os, tempfile
import keras, numpy as np, pytest, specnorm
from specnorm_keras import NormMonitor, SpectralBall, SpectralNorm

keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((8, 3)),
    layers.Conv1D(4, 3, activation="relu"),
    layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"),
    layers.Conv1DTranspose(2, 3, strides=2),
    layers.Flatten(),
    layers.Dense(3),
])
optimizer = SpectralBall(model, keras.optimizers.schedules.PolynomialDecay(1.0, 12), bound=0.5, amsgrad=True)
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.randn(32, 8, 3).astype("float32")
y = np.random.randint(0, 3, 32)
norms = []

def norms_on_a_grid(model):
    # Of the dense layer's matrix, and of the symbols of blocks, taps first. With a stride of 2, a block has two taps.
    to_numpy = keras.ops.convert_to_numpy
    kernels = [to_numpy(layer.kernel).astype("float64") for layer in model.layers if layer.weights]
    conv, depthwise, up, dense = kernels
    _, n_out, n_in = up.shape
    pairs = np.concatenate([up, 0 * up[:1]]).reshape(2, 2, n_out, n_in).swapaxes(1, 2).reshape(2, 2 * n_out, n_in)
    found = [np.linalg.norm(dense, 2)]
    for block in (conv, depthwise[:, :, :, None], pairs):
        symbols = np.fft.fft(block, 64, axis=0)
        found.append(np.linalg.norm(symbols, 2, axis=(-2, -1)).max() * (1 - 1e-12))
    return found

class Look(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        norms.append(norms_on_a_grid(self.model))

losses = model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Look()]).history["loss"]
assert len(norms) == 12 and losses[-1] < losses[0]
assert np.max(norms) <= 0.5, norms
assert np.max(norms, axis=0).min() > 0.3, norms
for layer in model.layers:
    if layer.weights:
        assert specnorm.certify(layer, 0.5)
path = os.path.join(tempfile.mkdtemp(), "model.keras")
model.save(path)
again = keras.models.load_model(path)
assert again.optimizer.get_config() == optimizer.get_config()
for restored, variable in zip(again.optimizer.variables, optimizer.variables, strict=True):
    assert np.array_equal(keras.ops.convert_to_numpy(restored), keras.ops.convert_to_numpy(variable))
constrained = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_constraint=SpectralNorm())])
with pytest.raises(specnorm.errors.MethodError, match="kernel has the constraint SpectralNorm"):
    SpectralBall(constrained)
for rate in (1.5, -0.1):
    with pytest.raises(specnorm.errors.MethodError, match=f"learning_rate={rate} is not from 0 to 1"):
        SpectralBall(model, rate)
with pytest.raises(specnorm.errors.MethodError, match="0.1 is not a model of Keras: the model comes first"):
    SpectralBall(0.1)
for name in ("momentum", "adam_lr_ratio"):
    with pytest.raises(specnorm.errors.MethodError, match=f"{name} must be a number, got str"):
        SpectralBall(model, **{name: "x"})
with pytest.raises(AttributeError, match="callbacks=.monitor.callback.."):
    model.fit(x, y, epochs=1, verbose=0, callbacks=[NormMonitor(model)])
print("inside")
"""


PROGRAMS = {"trained": TRAINED, "stopped": DIVERGED, "right": KERNELS, "named": MONITORED, "inside": IN_THE_BALL}
"""Each by the word that it prints at its end."""
ONE_AFTER_ANOTHER = """
import sys, traceback
import keras

for name, code in {programs!r}.items():
    keras.backend.clear_session()
    try:
        exec(compile(code, name, "exec"), {{"__name__": "__main__"}})
    except BaseException:
        print(traceback.format_exc())
"""
"""Keras and its library take longer to load than most of the programs to run: one process for them."""


def run(code: str, backend: str) -> list[str]:
    if not all(map(importlib.util.find_spec, ("keras", backend))):
        pytest.skip(f"keras or {backend} is not installed")
    return python(code, KERAS_BACKEND=backend).splitlines()


def test_the_constraint_in_a_compiled_step_of_jax() -> None:
    assert run(COMPILED, "jax")[-1] == "compiled"


@pytest.mark.parametrize("backend", BACKENDS)
def test_programs_print_their_last_words(backend: str) -> None:
    """After a fit weights are at the bound, and the model is saved and loaded; the norm is the layer's own; layers are
    measured or named; no step leaves the ball; a model that diverges is left to the callbacks: the constraint ended
    `fit` with an error about a kernel on torch, and kept finite weights beside NaN on JAX.
    """
    printed = [line for line in run(ONE_AFTER_ANOTHER.format(programs=PROGRAMS), backend) if "Invalid loss" not in line]
    assert printed == list(PROGRAMS), "\n".join(printed)
