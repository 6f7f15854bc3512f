"""Small Keras files of every format and kind of layer, for the tests: ``KERAS_BACKEND=jax python make_keras.py``.

Weights are random. `layers.json` holds, of each kernel, the norm of the layer at two input sizes, computed by Keras
alone: its operator on every unit vector, then an SVD.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers as kl

HERE = Path(__file__).parent / "keras"
SIZES = {1: ((6,), (11,)), 2: ((6, 5), (7, 9)), 3: ((4, 3, 5), (5, 4, 3))}
"""Two input sizes by number of spatial axes; some are no multiples of a stride."""


def two_dimensional() -> Any:
    """Convolutions of all sorts, nested, wrapped; a Lambda layer and what has no kernels between them."""
    given = keras.Input((11, 10, 3))
    x = kl.Conv2D(4, 3, strides=2, padding="same", name="first")(given)
    x = kl.BatchNormalization()(x)
    x = kl.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2, padding="same")(x)
    x = kl.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = kl.SeparableConv2D(6, (3, 2), padding="same")(x)
    x = kl.Conv2D(6, (2, 3), groups=2, padding="valid", name="grouped")(x)
    x = kl.Conv2D(6, 1)(x)
    x = keras.Sequential([keras.Input((2, 1, 6)), kl.Conv2D(5, 1, name="inside"), kl.PReLU()], name="inner")(x)
    x = kl.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = kl.Conv2DTranspose(4, 2, strides=2, padding="valid", name="up")(x)
    x = kl.Lambda(lambda tensor: 2 * tensor)(x)
    x = kl.SpectralNormalization(kl.Conv2D(3, 3, name="normalised"))(x)
    x = kl.GlobalAveragePooling2D()(x)
    return keras.Model(given, kl.Dense(10, name="head")(x))


def others() -> Any:
    """One and three dimensions, recurrent layers, attention, an embedding."""
    given = keras.Input((12,), dtype="int32")
    x = kl.Embedding(7, 4)(given)
    x = kl.Conv1D(4, 3, dilation_rate=2, padding="causal", name="causal")(x)
    x = kl.TimeDistributed(kl.Dense(6, name="each"))(x)
    x = kl.SeparableConv1D(4, 3, strides=2, padding="same")(x)
    x = kl.DepthwiseConv1D(3, padding="same")(x)
    x = kl.Conv1DTranspose(4, 3, strides=3, padding="same")(x)
    x = kl.MultiHeadAttention(2, 3)(x, x)
    x = kl.Bidirectional(kl.LSTM(3, return_sequences=True))(x)
    x = kl.Reshape((6, 3, 3, 2))(x)
    x = kl.Conv3D(3, (3, 2, 1), strides=(2, 1, 1), padding="same", name="deep")(x)
    x = kl.Conv3DTranspose(2, 2, strides=(1, 2, 2), padding="valid", name="deep_up")(x)
    return keras.Model(given, kl.Dense(1)(kl.Flatten()(x)))


def trained(model: Any) -> Any:
    """After one step of training, so that the files hold an optimizer's state."""
    model.compile("adam", "mse")
    inputs = np.zeros((2, *model.input_shape[1:]))
    model.fit(inputs, np.ones((2, *model.output_shape[1:])), verbose=0)
    return model


def norm(operator: Any, sizes: tuple[int, ...], cin: int) -> float:
    """Largest singular value of a linear operator on (1, *sizes, cin)."""
    count = int(np.prod(sizes)) * cin
    columns = np.eye(count, dtype=np.float32).reshape(count, *sizes, cin)
    return float(np.linalg.svd(np.asarray(operator(columns), dtype=np.float64).reshape(count, -1), compute_uv=False)[0])


def operators(layer: Any) -> list[tuple[str, Any, int]]:
    """(variable's name, linear part as a function, channels in) of each kernel of a layer."""
    if isinstance(layer, (kl.SeparableConv1D, kl.SeparableConv2D)):
        shared = {"strides": layer.strides, "padding": layer.padding, "dilation_rate": layer.dilation_rate}
        depth, point = layer.depthwise_kernel, layer.pointwise_kernel
        return [
            ("depthwise_kernel", lambda x: keras.ops.depthwise_conv(x, depth, **shared), depth.shape[-2]),
            ("pointwise_kernel", lambda x: keras.ops.conv(x, point, strides=1, padding="valid"), point.shape[-2]),
        ]
    config = layer.get_config() | {"use_bias": False, "activation": None}
    plain = type(layer).from_config(config)
    if "Transpose" in type(layer).__name__:
        cin = layer.kernel.shape[-1]
    else:
        cin = layer.kernel.shape[-2] * getattr(layer, "groups", 1)
    plain.build((None, *[None] * (len(layer.kernel.shape) - 2), cin))
    plain.kernel.assign(layer.kernel)
    name = "depthwise_kernel" if "Depthwise" in type(layer).__name__ else "kernel"
    return [(name, plain, cin)]


def convolutions(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every convolution, with the names of the models around it."""
    found = []
    for layer in model.layers:
        name = f"{prefix}{layer.name}"
        if isinstance(layer, keras.Model):
            found += convolutions(layer, f"{name}/")
        elif isinstance(layer, kl.SpectralNormalization):
            found.append((f"{name}/{layer.layer.name}", layer.layer))
        elif "Conv" in type(layer).__name__:
            found.append((name, layer))
    return found


def truths(model: Any) -> dict[str, Any]:
    """Norms of every convolution at two input sizes."""
    found = {}
    for name, layer in convolutions(model):
        for variable, operator, cin in operators(layer):
            sizes = SIZES[len(layer.kernel_size)]
            found[f"{name}/{variable}"] = [[list(size), norm(operator, size, cin)] for size in sizes]
    return found


def main() -> None:
    HERE.mkdir(exist_ok=True)
    expected = {}
    for label, build in (("two", two_dimensional), ("others", others)):
        keras.utils.set_random_seed(0)
        model = trained(build())
        for suffix in ("keras", "h5"):
            model.save(HERE / f"{label}.{suffix}")
        model.save_weights(HERE / f"{label}.weights.h5")
        expected[label] = truths(model)
    (HERE / "layers.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
