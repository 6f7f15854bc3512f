"""Keras 3 models on the JAX and torch backends -> ONNX."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from specnorm.errors import MethodError
from specnorm_networks.sources import jax_function
from specnorm_networks.sources.base import Exported


def export(source: Any, input_shape: Any) -> Exported:
    """Export a model in inference mode."""
    backend = keras.backend.backend()
    if backend == "torch":
        from specnorm_networks.sources import torch_module

        has_inputs = len(input_shape) > 1 and hasattr(input_shape[0], "dtype")
        return torch_module.export(_of_separate_inputs(source) if has_inputs else source, input_shape)
    if backend != "jax":
        raise MethodError(f"Keras runs on {backend} here: load the model with KERAS_BACKEND=jax, or torch.")

    def function(*arrays: Any) -> Any:
        inputs = arrays[0] if len(arrays) == 1 else list(arrays)
        if not source.built:
            return source(inputs, training=False)
        # Without the scope a layer that writes a variable would leave a tracer in it.
        with keras.StatelessScope() as scope:
            outputs = source(inputs, training=False)
        if any(scope.get_current_value(x) is not None for x in source.variables):
            raise MethodError(
                f"{source.name} writes its variables when it is called. Make it a function of its inputs."
            )
        return outputs

    return jax_function.export(source, input_shape, function)


def _of_separate_inputs(source: Any) -> Any:
    """Return a torch module of several arguments: Keras takes a list, and torch's exporter gives them one by one."""
    import torch

    class SeparateInputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = source

        def forward(self, *arrays: Any) -> Any:
            return self.model(list(arrays))

    SeparateInputs.__name__ = type(source).__name__  # for messages
    return SeparateInputs().train(source.training)


def stated(source: Any) -> Any:
    """Return the shape of one sample that a model states, or a tuple of zero arrays if it has several inputs.

    None: the model leaves sizes open.
    """
    is_built = getattr(source, "built", False)
    inputs = (getattr(source, "inputs", None) or ()) if is_built else ()
    shapes = [tuple(x.shape[1:]) for x in inputs]
    if not shapes or any(None in shape for shape in shapes):
        return None
    if len(shapes) == 1:
        return shapes[0]
    return tuple(np.zeros((1, *shape), x.dtype) for shape, x in zip(shapes, inputs, strict=True))
