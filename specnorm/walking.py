"""A live model of any framework -> its layers and other arrays, by their paths.

What a layer is, and what a model is made of, the plugins say (`Backend.layer`, `Backend.array_in`, `Backend.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from specnorm import backends, registry
from specnorm.errors import NoBackend, SpecnormError
from specnorm.layers import array_in, keras_parts, layer_kernel
from specnorm.types import AnyArray, LayerKernel

_CLOSED = (type, str, bytes, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""What is no part of a model, or has none."""
_WEIGHTS = ("kernel", "weight")
"""Attributes whose names a layer's kernel is told by."""
_DEEPEST_WRAPPER = 2
"""Levels from a wrapper around a layer to its arrays."""
_PAIR = 2
"""A model and the state beside it."""
_DEEPEST = 100
"""Levels of parts in parts; what is nested deeper is no model."""


@dataclass(frozen=True)
class ModelPart:
    """A layer of a model, or an array outside of its layers.

    Parameters
    ----------
    path : str
        Names of the parts on the way to the kernel or array, joined by dots.
    owner : str
        Class of the object that holds it.
    layer : LayerKernel or None
        Kernel and geometry; None: it is an array, or a layer that is refused.
    array : array or None
    refusal : str or None
        Why the layer cannot be put in words.
    """

    path: str
    owner: str
    layer: LayerKernel | None = None
    array: AnyArray | None = None
    refusal: str | None = None


def model_parts(model: Any, input_shape: Any = None) -> list[ModelPart]:
    """List the layers of a model, and the arrays that lie outside of them, in the model's order.

    Parameters
    ----------
    model : object
        Of torch, Flax NNX, Equinox or Keras, or of a framework whose plugin knows its layers; a pair (model, state)
        where the framework keeps a state beside it.
    input_shape : int or sequence of int, optional
        Spatial input sizes of the layers, where these decide their padding.

    Returns
    -------
    list of ModelPart
        A layer or array that stands in several places is listed at the first. Of another pair: none.
    """
    if isinstance(model, tuple) and len(model) == _PAIR:
        model = _with_state(*model)
    seen: set[int] = set()
    inside: set[int] = set()
    found = list(_walked(model, "", "", input_shape, seen, inside))
    return [part for part in found if part.array is None or id(part.array) not in inside]


def _with_state(model: Any, state: Any) -> Any:
    """A model with the state put back that its framework keeps beside it, as its arrays' plugin knows; or None."""
    array = _first_array((model, state), _DEEPEST)
    root = None if array is None else registry.owner_of(type(array))
    return None if root is None else backends.load(root).with_state(model, state)


def _walked(
    x: Any,
    path: str,
    owner: str,
    input_shape: Any,
    seen: set[int],
    inside: set[int],
) -> Iterator[ModelPart]:
    if id(x) in seen or path.count(".") > _DEEPEST or x is None or isinstance(x, _CLOSED):
        return
    array = x if backends.is_array(x) else _array_in(x)
    if array is not None:
        if id(array) not in seen:
            yield ModelPart(path, owner, array=array)
        seen.update((id(x), id(array)))
        return
    seen.add(id(x))
    kind = type(x).__name__
    parts = parts_of(x)
    layer, refusal = _layer(x, input_shape)
    if layer is None and refusal is None:
        for name, part in parts.items():
            yield from _walked(part, f"{path}.{name}" if path else name, kind, input_shape, seen, inside)
        return
    arrays = [part if backends.is_array(part) else _array_in(part) for part in parts.values()]
    inside.update(id(array) for array in arrays if array is not None)
    # Statically: reading a parametrised weight may move it.
    leaf = next((word for word in _WEIGHTS if word in parts or getattr_static(x, word, None) is not None), "")
    yield ModelPart(".".join(filter(None, (path, leaf))) or kind, kind, layer, refusal=refusal)


def parts_of(x: Any) -> Mapping[str, Any]:
    """What an object is made of, by name: what its plugin says, items, or public attributes."""
    if isinstance(x, Mapping):
        return {str(name): part for name, part in x.items()}
    if isinstance(x, (list, tuple)):
        return {str(at): part for at, part in enumerate(x)}
    found = keras_parts(x)
    root = registry.owner_of(type(x)) if found is None else None
    if root is not None:
        found = backends.load(root).parts(x)
    if found is not None:
        return found
    return {name: part for name, part in getattr(x, "__dict__", {}).items() if not name.startswith("_")}


def _layer(x: Any, input_shape: Any) -> tuple[LayerKernel | None, str | None]:
    """Kernel and geometry of a layer, or why it has none; neither for what is no layer."""
    try:
        try:
            return layer_kernel(x, input_shape), None
        except NoBackend:
            inner = _first_array(x, _DEEPEST_WRAPPER)
            root = None if inner is None else registry.owner_of(type(inner))
            return None if root is None else backends.load(root).layer(x, input_shape), None
    except SpecnormError as error:
        return None, str(error)


def _first_array(x: Any, levels: int) -> Any:
    """Some array in an object, by whose plugin a wrapper around a layer is known."""
    if backends.is_array(x) or x is None or isinstance(x, _CLOSED):
        return x if backends.is_array(x) else None
    inside = _array_in(x)
    parts = parts_of(x).values() if inside is None and levels else ()
    found = (_first_array(part, levels - 1) for part in parts)
    return inside if inside is not None else next((array for array in found if array is not None), None)


def _array_in(x: Any) -> Any:
    """The array that a framework's variable wraps, None: it is no variable."""
    try:
        return array_in(x)
    except SpecnormError:
        return None
