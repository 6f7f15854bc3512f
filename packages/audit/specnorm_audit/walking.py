"""List the layers of a live model of any framework, and its arrays outside of layers, with their paths.

Plugins recognise layers and their arrays, and list the parts of a model (`Backend.layer`, `Backend.array_in`,
`Backend.parts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from specnorm.errors import NoBackend, SpecnormError
from specnorm.plugin import AnyArray, LayerKernel, array_in, layer_kernel, reader_of
from specnorm.proof import backends

_WITHOUT_PARTS = (type, str, bytes, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""Types of objects that are neither layers nor arrays, and contain none."""
_KERNEL_ATTRIBUTES = ("kernel", "weight", "embedding", "embeddings")
"""Attributes in which layers store a kernel."""
_WRAPPER_LEVELS = 2
"""Largest number of levels from a wrapper around a layer to the layer's arrays."""
_PAIR = 2
"""Number of a model and the state beside it."""
_MOST_LEVELS = 100
"""Largest number of levels of parts within parts that are searched."""


@dataclass(frozen=True)
class ModelPart:
    """A layer of a model, or an array outside of its layers.

    Parameters
    ----------
    path : str
        Names of the parts on the way from the model to the kernel or array, joined by dots.
    owner : str
        Name of the class of the layer, or of the object that contains the array.
    layer : LayerKernel or None
        Kernel and geometry of a layer; None for an array, and for a layer that no `LayerKernel` describes.
    array : array or None
        The array, if it is not a layer's.
    refusal : str or None
        The reason why no `LayerKernel` describes the layer.
    """

    path: str
    owner: str
    layer: LayerKernel | None = None
    array: AnyArray | None = None
    refusal: str | None = None


def model_parts(model: Any, input_shape: Any = None) -> list[ModelPart]:
    """List the layers of a model, and the arrays outside of layers, in the model's order.

    Parameters
    ----------
    model : object
        A model of torch, Flax NNX, Equinox or Keras, or of another framework whose plugin knows its layers; or a pair
        (model, state), if the framework keeps a state beside the model.
    input_shape : int or sequence of int, optional
        Spatial input sizes, for layers whose padding depends on them.

    Returns
    -------
    list of ModelPart
        A layer or array that occurs in several places is listed at the first one. Empty for a tuple of two that is no
        such pair.
    """
    if is_pair(model):
        model = _with_state(*model)
    seen: set[int] = set()
    arrays_of_layers: set[int] = set()
    parts = list(_walk(model, "", "", input_shape, seen, arrays_of_layers))
    return [part for part in parts if part.array is None or id(part.array) not in arrays_of_layers]


def is_pair(model: Any) -> bool:
    """Whether an object may be a model and the state that its framework keeps beside it."""
    return isinstance(model, tuple) and len(model) == _PAIR


def _with_state(model: Any, state: Any) -> Any:
    """Return a model with the state put back that its framework keeps beside it; None for any other pair."""
    plugin = _plugin_of(_first_array((model, state), _MOST_LEVELS))
    return None if plugin is None else plugin.with_state(model, state)


def _plugin_of(x: Any) -> backends.Backend | None:
    """The plugin of an object's library; None without, and for None."""
    root = backends.registry.owner_of(type(x))
    return None if root is None else backends.load(root)


def _walk(
    x: Any,
    path: str,
    owner: str,
    input_shape: Any,
    seen: set[int],
    arrays_of_layers: set[int],
) -> Iterator[ModelPart]:
    """Yield the parts of an object recursively.

    ``path``: path of ``x`` in the model. ``owner``: name of the class of the object that contains ``x``. ``seen``:
    identities of the objects so far; extended. ``arrays_of_layers``: identities of the arrays that belong to layers;
    extended.
    """
    if id(x) in seen or path.count(".") > _MOST_LEVELS or x is None or isinstance(x, _WITHOUT_PARTS):
        return
    array = _array_in(x)
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
            path_of_part = f"{path}.{name}" if path else name
            yield from _walk(part, path_of_part, kind, input_shape, seen, arrays_of_layers)
        return
    arrays_of_layers.update(id(array) for array in map(_array_in, parts.values()) if array is not None)
    path_of_kernel = ".".join(filter(None, (path, _kernel_attribute(x, parts))))
    yield ModelPart(path_of_kernel or kind, kind, layer, refusal=refusal)


def _kernel_attribute(layer: Any, parts: Mapping[str, Any]) -> str:
    """Name of the attribute in which a layer stores its kernel, or an empty string."""
    for word in _KERNEL_ATTRIBUTES:
        # `getattr_static`, since reading a parametrized weight may change it.
        if word in parts or getattr_static(layer, word, None) is not None:
            return word
    return ""


def parts_of(x: Any) -> Mapping[str, Any]:
    """The parts of an object by name: items of a collection, parts by its plugin, or else public attributes."""
    if isinstance(x, Mapping):
        return {str(name): part for name, part in x.items()}
    if isinstance(x, (list, tuple)):
        return {str(index): part for index, part in enumerate(x)}
    reader = reader_of(x)
    parts = None if reader is None else reader.parts(x)
    plugin = _plugin_of(x) if parts is None else None
    if plugin is not None:
        parts = plugin.parts(x)
    if parts is not None:
        return parts
    return {name: part for name, part in getattr(x, "__dict__", {}).items() if not name.startswith("_")}


def _layer(x: Any, input_shape: Any) -> tuple[LayerKernel | None, str | None]:
    """Kernel and geometry of a layer, or the reason why it cannot be described; both None if ``x`` is not a layer."""
    try:
        try:
            return layer_kernel(x, input_shape), None
        except NoBackend:
            # The plugin of its arrays may know a wrapper around a layer.
            plugin = _plugin_of(_first_array(x, _WRAPPER_LEVELS))
            return None if plugin is None else plugin.layer(x, input_shape), None
    except SpecnormError as error:
        return None, str(error)


def _first_array(x: Any, levels: int) -> Any:
    """The first array in an object, or in its parts down to the given number of levels; None without."""
    if x is None or isinstance(x, _WITHOUT_PARTS):
        return None
    array = _array_in(x)
    if array is not None or levels == 0:
        return array
    for part in parts_of(x).values():
        array = _first_array(part, levels - 1)
        if array is not None:
            return array
    return None


def _array_in(x: Any) -> Any:
    """An array, or the one in a framework's variable (`array_in`); None: there is none, or it cannot be read."""
    try:
        return x if backends.is_array(x) else array_in(x)
    except SpecnormError:
        return None
