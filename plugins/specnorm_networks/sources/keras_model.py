"""Keras 3 models on the JAX backend -> ONNX."""

from __future__ import annotations

from typing import Any

import keras

from specnorm import MethodError
from specnorm_networks.sources import jax_function
from specnorm_networks.sources.base import Exported


def export(source: Any, input_shape: Any) -> Exported:
    """Export a model as it is called for inference."""
    if (backend := keras.backend.backend()) != "jax":
        raise MethodError(f"Keras runs on {backend} here: load the model with KERAS_BACKEND=jax.")

    def function(*arrays: Any) -> Any:
        given = arrays[0] if len(arrays) == 1 else list(arrays)
        if not source.built:
            return source(given, training=False)
        with keras.StatelessScope() as scope:  # else a layer that writes its variables would leave a tracer there
            found = source(given, training=False)
        if any(scope.get_current_value(x) is not None for x in source.variables):
            raise MethodError(
                f"{source.name} writes its variables when it is called. Make it a function of its inputs."
            )
        return found

    return jax_function.export(source, input_shape, function)
