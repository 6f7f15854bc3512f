"""Export a framework's model to ONNX by the adapter for the framework.

The adapter is chosen by the packages in which the model's class and its bases are defined; no framework is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from specnorm.errors import MethodError
from specnorm.proof import counted
from specnorm_networks.sources.base import Exported

_ADAPTERS = {
    "equinox": "jax_function",
    "flax": "jax_function",
    "jax": "jax_function",
    "jaxlib": "jax_function",
    "keras": "keras_model",
    "torch": "torch_module",
}
"""Modules of this package by the name of a framework's package."""
_WITH_STATE = ("equinox", "flax")
"""Frameworks that keep a state beside the model."""
_EXAMPLE_SHAPES = {"torch": "(3, 32, 32)", "equinox": "(3, 32, 32)"}
"""Shape of an image in messages, for frameworks with channels first."""


def export(source: Any, input_shape: Any) -> Exported:
    """Export a live model to ONNX.

    Parameters
    ----------
    source : JAX function, Flax NNX module, Equinox module, Keras 3 model or torch module
        Or a pair (model, state) of Equinox, or of the halves of Flax's ``nnx.split``.
    input_shape : sequence of int, array, or tuple of array
        Shape of one sample, without the batch axis; or an input, with its batch axis; or a tuple of inputs. None: the
        shape that a Keras model states.

    Returns
    -------
    Exported

    Raises
    ------
    MethodError
        If there is no adapter for such a model, or the adapter cannot export it.
    """
    is_pair = isinstance(source, tuple) and len(source) == 2
    model = source[0] if is_pair else source
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    root = next((package for package in packages if package in _ADAPTERS), None)
    if is_pair and root not in _WITH_STATE:
        raise MethodError(
            "A pair (model, state) is taken of Equinox and of Flax's nnx.split; got "
            f"({type(model).__name__}, {type(source[1]).__name__}). Give a function of the input, such as "
            "lambda x: model(x, state)."
        )
    if not is_pair and not callable(source):
        raise MethodError(
            "source must be a torch, Flax or Equinox module, a JAX function, a Keras 3 model, an ONNX file or a Graph; "
            f"got {_described(source)}."
        )
    if input_shape is None and root == "keras":
        from specnorm_networks.sources.keras_model import stated

        input_shape = stated(source)
    if input_shape is None:
        raise MethodError(
            f"{type(model).__name__} states no sizes: give input_shape, one input's shape without the batch axis, "
            f"such as {_EXAMPLE_SHAPES.get(str(root), '(32, 32, 3)')}."
        )
    shape_or_inputs = (input_shape,) if hasattr(input_shape, "dtype") else input_shape
    are_arrays = isinstance(shape_or_inputs, tuple) and all(hasattr(x, "dtype") for x in shape_or_inputs)
    is_sequence = isinstance(shape_or_inputs, Sequence)
    if not (is_sequence and (are_arrays or all(isinstance(n, int) and n > 0 for n in shape_or_inputs))):
        raise MethodError(
            f"input_shape={input_shape!r:.80} is not a shape: give one input's shape without the batch axis, such as "
            "(3, 32, 32), an array, or a tuple of arrays."
        )
    # A callable of no framework is taken for a JAX function.
    name = "jax_function" if root is None else _ADAPTERS[root]
    exported: Exported = import_module(f"{__name__}.{name}").export(source, tuple(shape_or_inputs))
    return exported


def _described(source: Any) -> str:
    """Return the type of a source and its size, for a message, without the numbers in it."""
    name = f"the {type(source).__qualname__}"
    if isinstance(source, Mapping):
        entries = counted(len(source), "entry", "entries")
        return f"{name} of {entries}, which says nothing of their use; specnorm.audit reads weights"
    return f"{name} of shape {tuple(source.shape)}" if hasattr(source, "shape") else f"{name} {source!r:.80}"
