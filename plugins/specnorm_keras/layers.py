"""Kernel and geometry of Keras layers, and the parts of Keras models, whose arrays are those of several libraries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from specnorm.errors import GeometryError
from specnorm.plugin import LayerKernel, LayerReader, backend_for, per_axis, same_upper

_CONVOLUTIONS = tuple(f"Conv{d}D" for d in (1, 2, 3))
_TRANSPOSED = tuple(f"Conv{d}DTranspose" for d in (1, 2, 3))
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_COMPUTING_METHODS = ("__call__", "call", "convolution_op")
"""Methods of Keras's layers that decide what a layer computes."""
_LAYOUTS = ("IO", "WIO", "HWIO", "DHWIO")
"""Layout of Keras's kernels, by the number of spatial axes."""


def layer_of(x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
    """Kernel and geometry of a Keras layer, as `LayerReader.layer`; None for other objects."""
    names = (*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE, "Dense", "Embedding")
    bases = [cls for cls in type(x).__mro__ if cls.__module__.partition(".")[0] == "keras" and cls.__name__ in names]
    if not bases:
        return None
    name = type(x).__name__
    kind = bases[0].__name__
    if any(getattr(type(x), word, None) is not getattr(bases[0], word, None) for word in _COMPUTING_METHODS):
        raise GeometryError(
            f"{name} has a call() of its own: its attributes do not say what it computes. Give the kernel that it "
            "amounts to, with its geometry."
        )
    if not x.built:
        raise GeometryError(f"{name} has no kernel yet: call it once on an input, or its build() with a shape.")
    if kind == "Embedding":
        return LayerKernel(getattr(x.embeddings, "value", x.embeddings), {})
    kernel = _separable_kernel(x) if kind in _SEPARABLE else getattr(x.kernel, "value", x.kernel)
    if kind == "Dense":
        return LayerKernel(kernel, {"layout": "IO"})
    ndim = kernel.ndim - 2
    geometry: dict[str, Any] = {
        "stride": per_axis("strides", x.strides, ndim),
        "dilation": per_axis("dilation_rate", x.dilation_rate, ndim),
        "layout": _LAYOUTS[ndim],
        "padding_mode": "zeros",
    }
    if kind in _TRANSPOSED:
        if input_shape is not None and (x.padding != "valid" or x.output_padding is not None):
            raise GeometryError(
                f"{name} crops its output by a rule that depends on the Keras backend. Leave "
                "input_shape out, or give layer.kernel with layout, stride, transposed=True and the padding."
            )
        return LayerKernel(kernel, {**geometry, "transposed": True, "padding": "valid"})
    sizes = (None,) * ndim if input_shape is None else per_axis("input_shape", input_shape, ndim)
    kernel_shape = kernel.shape[:ndim]
    geometry["padding"] = _keras_padding(x.padding, sizes, kernel_shape, geometry)
    if kind in _DEPTHWISE:
        # Keras stores (*spatial, cin, multiplier); the same layer with cin groups has (*spatial, 1, cin * multiplier).
        cin, multiplier = kernel.shape[-2:]
        grouped_kernel = kernel.reshape((*kernel_shape, 1, cin * multiplier))
        return LayerKernel(grouped_kernel, {**geometry, "groups": cin}, stored_shape=tuple(kernel.shape))
    if kind in _SEPARABLE:
        return LayerKernel(kernel, geometry, as_stored=False)
    return LayerKernel(kernel, {**geometry, "groups": x.groups})


def _keras_padding(
    padding: str,
    sizes: tuple[int | None, ...],
    kernel_shape: tuple[int, ...],
    geometry: Mapping[str, Any],
) -> str | list[tuple[int, int]]:
    """The padding of a Keras layer with this stride and dilation, for inputs of these sizes (None: of every size)."""
    stride = geometry["stride"]
    dilation = geometry["dilation"]
    if padding == "causal":
        return [(dilation[0] * (kernel_shape[0] - 1), 0)]
    if padding == "same":
        return [same_upper(*axis) for axis in zip(sizes, kernel_shape, stride, dilation, strict=True)]
    return padding


def parts_of(x: Any) -> Mapping[str, Any] | None:
    """Sublayers of a Keras layer or model, and its other variables, by their names; None for other objects."""
    if not is_layer(x):
        return None
    sublayers = getattr(x, "layers", None) or _keras_layers(vars(x).values())
    parts = {str(layer.name): layer for layer in sublayers}
    if type(x).__name__ == "SpectralNormalization":
        # Its own variable is a vector of the power iteration. The kernel is the sublayer's.
        return parts
    variables_of_sublayers = {id(variable) for layer in parts.values() for variable in layer.weights}
    own_variables = [variable for variable in x.weights if id(variable) not in variables_of_sublayers]
    return parts | {str(variable.name): variable for variable in own_variables}


def is_layer(x: Any) -> bool:
    """Whether an object is a layer or a model of Keras."""
    return any(cls.__module__.partition(".")[0] == "keras" and cls.__name__ == "Layer" for cls in type(x).__mro__)


def _keras_layers(values: Iterable[Any]) -> list[Any]:
    """The Keras layers among the values of attributes, also inside of lists and tuples."""
    layers = []
    for value in values:
        if isinstance(value, (list, tuple)):
            layers += _keras_layers(value)
        elif is_layer(value):
            layers.append(value)
    return layers


def _separable_kernel(x: Any) -> np.ndarray:
    """The kernel (*spatial, cin, filters), in float64, of the depthwise and the 1x1 step of a separable layer together.

    With a depth multiplier of 1, an entry is the product of two float32 numbers, which float64 holds exactly.
    """
    depthwise = _on_host(x.depthwise_kernel).astype(np.float64)
    pointwise = _on_host(x.pointwise_kernel).astype(np.float64)
    cin, multiplier = depthwise.shape[-2:]
    kernel: np.ndarray = np.einsum("...cm,cmf->...cf", depthwise, pointwise.reshape(cin, multiplier, -1))
    return kernel


def _on_host(variable: Any) -> np.ndarray:
    """The value of a Keras variable as a NumPy array."""
    return backend_for(variable.value).to_numpy(variable.value)


class Reader(LayerReader):
    """Reads layers, models and variables of Keras."""

    without_map = ("Normalization",)

    def layer(self, x: Any, input_shape: Any = None) -> LayerKernel | None:
        """Kernel and geometry of a layer; None for other objects."""
        return layer_of(x, input_shape)

    def array_in(self, x: Any) -> Any:
        """The value of a variable; None for other objects."""
        is_variable = any(_is_of_keras(cls) and cls.__name__ == "Variable" for cls in type(x).__mro__)
        return x.value if is_variable else None

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        """Sublayers and own variables of a layer or model; None for other objects."""
        return parts_of(x)


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras"


READER = Reader()
"""What the entry point in ``specnorm.layers`` names."""
