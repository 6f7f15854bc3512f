"""Which adapter exports a framework's model: by the packages along its class's bases; no framework is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from specnorm.errors import MethodError
from specnorm_networks.sources.base import Exported

GROUP = "specnorm.sources"
"""Entry points of other adapters: the name is a package root, the value ``export(source, input_shape) -> Exported``."""
_OWN = {
    "equinox": "jax_function", "flax": "jax_function", "jax": "jax_function", "jaxlib": "jax_function",
    "keras": "keras_model", "torch": "torch_module",
}  # fmt: skip
_EXAMPLES = {"torch": "(3, 32, 32)", "equinox": "(3, 32, 32)"}
"""A shape of an image where channels come first."""


def export(source: Any, input_shape: Any) -> Exported:
    """Export a live model to ONNX.

    Parameters
    ----------
    source : JAX function, Flax NNX module, Equinox module, Keras 3 model or torch module
    input_shape : sequence of int, array, or tuple of array
        One input's shape without the batch axis; or an input with it; or several. None: as a Keras model states.

    Returns
    -------
    Exported

    Raises
    ------
    MethodError
        If nothing here exports such a model, or its adapter cannot.
    """
    roots = [base.__module__.partition(".")[0] for base in type(source).__mro__]
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    root = next((root for root in roots if root in others or root in _OWN), None)
    if root not in others and not callable(source):
        raise MethodError(
            "source must be a torch, Flax or Equinox module, a JAX function, a Keras 3 model, an ONNX file or a Graph; "
            f"got {_described(source)}."
        )
    if input_shape is None and root == "keras":
        from specnorm_networks.sources.keras_model import stated

        input_shape = stated(source)
    if input_shape is None:
        raise MethodError(
            f"{type(source).__name__} states no sizes: give input_shape, one input's shape without the batch axis, "
            f"such as {_EXAMPLES.get(str(root), '(32, 32, 3)')}."
        )
    given = (input_shape,) if hasattr(input_shape, "dtype") else input_shape
    arrays = isinstance(given, tuple) and bool(given) and all(hasattr(x, "dtype") for x in given)
    if not arrays and not (isinstance(given, Sequence) and all(isinstance(n, int) and n > 0 for n in given)):
        raise MethodError(
            f"input_shape={input_shape!r:.80} is none: give one input's shape without the batch axis, such as "
            "(3, 32, 32), an array, or a tuple of arrays."
        )
    if root in others:
        made: Exported = others[root].load()(source, input_shape)
        return made
    return _adapter("jax_function" if root is None else _OWN[root])(source, tuple(given))


def _described(source: Any) -> str:
    """What a source is, without the numbers in it."""
    name = f"the {type(source).__qualname__}"
    if isinstance(source, Mapping):
        return f"{name} of {len(source)} entries, which says nothing of how they are used; specnorm.audit reads weights"
    return f"{name} of shape {tuple(source.shape)}" if hasattr(source, "shape") else f"{name} {source!r:.80}"


def _adapter(name: str) -> Callable[[Any, Any], Exported]:
    export: Callable[[Any, Any], Exported] = import_module(f"{__name__}.{name}").export
    return export
