"""Let public functions take a framework's layer in place of a kernel; kernel and geometry come from its plugin.

Layers of a framework whose arrays belong to several libraries are read by the `LayerReader` of a package.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from specnorm import backends
from specnorm.backends import registry
from specnorm.backends.registry import READERS
from specnorm.backends.types import ArrayT, LayerKernel, LayerReader
from specnorm.errors import BrokenBackend, GeometryError, LayoutWarning, NoBackend, TracerError
from specnorm.geometry.complex_kernels import is_complex, with_real_form
from specnorm.geometry.spec import GEOMETRY_KEYWORDS, ConvSpec, Layer, is_transposed
from specnorm.geometry.words import check_words

Function = TypeVar("Function", bound=Callable[..., Any])
KernelOrLayer: TypeAlias = ArrayT | Callable[..., ArrayT]
"""The first argument of functions with `takes_layers`. To type checkers a layer is what returns arrays of its library
when it is called."""
_KERNEL_ATTRIBUTES = ("kernel", "weight", "embedding")
"""Attributes in which layers store a kernel."""
_LEAST_AXES = 3
"""Smallest number of axes of a convolution's kernel."""
_LAYOUTS_OF_PARAMETERS = {3: "WIO", 4: "HWIO", 5: "DHWIO"}
"""Layouts of the kernels of Flax and Keras, by their number of axes."""
_TORCH_LAYOUTS = {3: "OIW", 4: "OIHW", 5: "OIDHW"}
"""Layouts of kernels in torch's order."""
_RETURN_A_KERNEL = ("rescale", "clip", "gram_rescaling", "lmo")
"""Public functions that return a kernel in the layout of the given one."""


def takes_layers(function: Function) -> Function:
    """Decorate a function of a kernel and of geometry keywords, so that it also takes a framework's layer as kernel.

    The layer supplies the geometry. A keyword that contradicts the layer is refused. The function itself gets an array.
    """
    described: Any = function
    code = described.__code__
    positional_names: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    all_names = GEOMETRY_KEYWORDS.union(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])

    def with_layers(*args: Any, **keywords: Any) -> Any:
        if len(args) > len(positional_names):
            _refuse_positional(function.__name__, positional_names, args)
        if not all_names.issuperset(keywords):
            check_words(function.__name__, keywords, all_names)
        states_no_layout = "layout" in all_names and keywords.get("layout") is None
        stored_shape = None
        try:
            given = args[0] if args else keywords.get(positional_names[0])
            array = None if not args or backends.is_array(given) else array_in(given)
            if array is not None:
                if states_no_layout:
                    _refuse_without_layout(function.__name__, given, array)
                args = (array, *args[1:])
            elif args and not backends.is_array(given):
                arguments = {**dict(zip(positional_names, args, strict=False)), **keywords}
                keywords, stored_shape = _with_layer_read(function.__name__, positional_names[0], arguments)
                args = (keywords.pop(positional_names[0]),)
            elif states_no_layout and not is_transposed(keywords.get("transposed", False)):
                _warn_of_layout(function.__name__, given)
            given = args[0] if args else given
            if is_complex(given):
                others = {word: x for word, x in keywords.items() if word != positional_names[0]}
                result = with_real_form(function, given, args[1:], others)
            else:
                result = function(*args, **keywords)
        except TracerError:
            # Raised again by each function that calls another, so that it names the user's.
            raise TracerError(function.__name__) from None
        return result if stored_shape is None else _reshaped(result, stored_shape)

    # As `functools.wraps`, whose calls for all public functions would take as long as importing another module.
    with_layers.__wrapped__ = function  # type: ignore[attr-defined]
    with_layers.__name__ = function.__name__
    with_layers.__qualname__ = function.__qualname__
    with_layers.__module__ = function.__module__
    with_layers.__doc__ = function.__doc__
    with_layers.__annotations__ = function.__annotations__
    described = with_layers
    decorated: Function = described
    return decorated


def _refuse_without_layout(name: str, parameter: Any, array: Any) -> None:
    """Refuse a framework's parameter of a convolution's shape, whose axes may not be in torch's order."""
    axes = len(array.shape)
    if axes < _LEAST_AXES:
        return
    kind = type(parameter).__name__
    layout = _LAYOUTS_OF_PARAMETERS.get(axes, "HWIO")
    raise GeometryError(
        f"{name} got a {kind} of shape {tuple(array.shape)}, a framework's own parameter, whose convolutions do not "
        f"have their axes in torch's order. Give the layer itself, as in {name}(conv), which states its geometry; or "
        f"say the order: {name}(conv.kernel, layout={layout!r}), with its strides and groups."
    )


def _looks_channels_last(shape: Any) -> bool:
    """Whether a shape is rather that of a kernel of Keras or Flax than one in torch's order.

    In torch's order it would have few channels, and an even number of taps above 8: such as (3, 3, 16, 32).
    """
    axes = len(shape)
    if axes not in _LAYOUTS_OF_PARAMETERS:
        return False
    taps, channels = shape[:-2], shape[-2:]
    has_equal_odd_taps = len(set(taps)) == 1 and taps[0] in (3, 5, 7, 9)
    even = [n for n in (channels if axes > _LEAST_AXES else channels[1:]) if n > 8 and n % 2 == 0]
    return has_equal_odd_taps and bool(even)


def _warn_of_layout(name: str, kernel: Any) -> None:
    """Warn if an array is read in torch's order, though its shape is that of another framework's kernel."""
    try:
        shape = getattr(kernel, "shape", ())
    except RuntimeError:  # a lazy tensor of torch has none, which the call itself says
        return
    if not _looks_channels_last(shape):
        return
    layout = _LAYOUTS_OF_PARAMETERS[len(kernel.shape)]
    warnings.warn(
        f"{name} reads an array of shape {tuple(kernel.shape)} in torch's order, as {kernel.shape[0]} output channels "
        f"with {' x '.join(map(str, kernel.shape[2:]))} taps. If it is a kernel of Keras or Flax, give "
        f"layout={layout!r}; otherwise give the layout in words, such as layout={_TORCH_LAYOUTS[len(kernel.shape)]!r}.",
        LayoutWarning,
        stacklevel=3,
    )


def _refuse_positional(name: str, positional_names: tuple[str, ...], args: tuple[Any, ...]) -> None:
    """Raise the error for a call with too many positional arguments."""
    if any(hasattr(x, "needs") for x in args):  # a method
        raise TypeError(f"{name} takes no method. specnorm.measure(kernel, method) runs one.")
    raise TypeError(
        f"{name} takes only {' and '.join(positional_names)} by position: give everything else by keyword, such as "
        "input_shape=32."
    )


def _reshaped(kernel: Any, shape: tuple[int, ...]) -> Any:
    return backends.backend_for(kernel).namespace(kernel).reshape(kernel, shape)


def _with_layer_read(
    name: str, kernel_name: str, arguments: dict[str, Any]
) -> tuple[dict[str, Any], tuple[int, ...] | None]:
    """The arguments of a call with the layer replaced by its kernel and geometry, and the shape for a returned kernel.

    ``name``: the function that was called. ``kernel_name``: name of its argument for the kernel. ``arguments``: all
    arguments by name, the layer among them.
    """
    layer = arguments.pop(kernel_name)
    if isinstance(layer, (int, float)) and any(map(backends.is_array, arguments.values())):
        raise NoBackend(f"{name} takes the kernel first: {name}(kernel, {layer!r}); got {layer!r} in its place.")
    if any(hasattr(layer, word) for word in ("rmatvec", "adj_op")) or hasattr(layer, "oshape"):
        raise NoBackend(
            f"{name} takes a kernel or a layer of a framework, and {type(layer).__name__} is a linear operator: "
            "specnorm.operator_norm(operator) bounds its norm from its products, with a stated probability."
        )
    kernel, geometry, as_stored, stored_shape = layer_kernel(layer, arguments.get("input_shape"), name)
    kind = type(layer).__name__
    if name in _RETURN_A_KERNEL and not as_stored:
        raise GeometryError(
            f"{name} returns a kernel, and {kind} stores its own in an order of axes that specnorm has no name for. "
            "Give the kernel in torch's order, with its geometry."
        )
    spec = ConvSpec.of(kernel.shape, **geometry)
    if not spec.ndim:
        # A linear layer has no pixels, so it is the same at every size.
        arguments = {word: x for word, x in arguments.items() if word not in ("input_shape", "padding_mode")}
    for word in Layer.__annotations__.keys() & arguments.keys():
        other_spec = ConvSpec.of(kernel.shape, **{**geometry, word: arguments[word]})
        if other_spec != spec:
            value_of_layer = geometry.get(word, getattr(spec, word))
            raise GeometryError(
                f"{word}={arguments[word]!r} contradicts the layer: this {kind} has {word}={value_of_layer!r}. Leave "
                "it out; or give the kernel with the geometry you mean."
            )
    return {kernel_name: kernel, **geometry, **arguments}, stored_shape if name in _RETURN_A_KERNEL else None


def reader_of(x: Any) -> LayerReader | None:
    """The `LayerReader` that is registered for the package of an object's class, or of a class that it derives from."""
    readers = registry.registered(READERS)
    roots = (cls.__module__.partition(".")[0] for cls in type(x).__mro__)
    root = next((root for root in roots if root in readers), None)
    return None if root is None else registry.load_reader(root)


def array_in(x: Any) -> Any:
    """Return the array that a framework's parameter object contains; None if ``x`` is not such an object."""
    reader = reader_of(x)
    array = None if reader is None else reader.array_in(x)
    if array is not None:
        return array
    root = registry.owner_of(type(_unwrapped_value(x)))
    return backends.load(root).array_in(x) if root else None


def unwrapped(x: Any) -> Any:
    """The array in a parameter object (`array_in`); other objects are returned as they are."""
    array = None if x is None or backends.is_array(x) else array_in(x)
    return x if array is None else array


def layer_kernel(x: Any, input_shape: Any = None, name: str = "specnorm") -> LayerKernel:
    """Read kernel and geometry of a framework's layer, by a `LayerReader` or by the plugin of its arrays.

    Parameters
    ----------
    x : object
    input_shape : int or sequence of int, optional
        Spatial input sizes, for layers whose padding depends on them.
    name : str
        The function that was called, for error messages.

    Raises
    ------
    NoBackend
        If no plugin knows the object as a layer.
    GeometryError
        If no `LayerKernel` describes the layer.
    """
    reader = reader_of(x)
    layer = None if reader is None else reader.layer(x, input_shape)
    if layer is not None:
        return _stated_by_reader(reader, layer, x)
    if registry.owner_of(type(x)) is not None:
        # Attributes of an object that a plugin owns are not read: reading a parametrized weight may change it.
        candidates = [type(x)]
    else:
        values = (_unwrapped_value(getattr(x, word, None)) for word in _KERNEL_ATTRIBUTES)
        candidates = list(dict.fromkeys(map(type, values)))
    for cls in candidates:
        root = registry.owner_of(cls)
        layer = _by_plugin(root, x, input_shape) if root else None
        if layer is not None:
            return layer
    raise _refusal(x, name)


def _stated_by_reader(reader: Any, answer: Any, x: Any) -> LayerKernel:
    """The answer of `LayerReader.layer` for a layer x, also as a plain tuple; others raise `BrokenBackend`."""
    kernel, geometry = (*answer[:2], None, None)[:2] if isinstance(answer, tuple) else (None, None)
    if isinstance(geometry, Mapping) and backends.is_array(kernel):
        return LayerKernel(*answer)
    parts = ", ".join(type(part).__name__ for part in answer) if isinstance(answer, tuple) else ""
    kinds = f"({parts})" if parts else f"a {type(answer).__name__}"
    raise BrokenBackend(
        f"{type(reader).__name__}.layer returned {kinds} for a {type(x).__name__}. Expected a LayerKernel or a pair: "
        "an array, and a mapping of geometry keywords such as {'stride': 2}; None for an object that is not a layer."
    )


def _by_plugin(root: str, x: Any, input_shape: Any) -> LayerKernel | None:
    backend: backends.Backend = backends.load(root)
    return backend.layer(x, input_shape)


def _unwrapped_value(x: Any) -> Any:
    """The value of a framework's variable, from its ``get_value()`` or ``value``; other objects as they are."""
    # Flax's variables have both, and warn about `value`.
    get_value = getattr(x, "get_value", None)
    return get_value() if callable(get_value) else getattr(x, "value", x)


def _refusal(x: Any, name: str) -> NoBackend:
    """The error for an object that is neither an array nor a layer, with advice for what it is instead."""
    kind = type(x).__name__
    if hasattr(x, "needs"):  # a method
        return NoBackend(f"{name} takes the kernel first, got the method {kind}(): specnorm.measure(kernel, {kind}()).")
    if isinstance(x, (str, bytes, os.PathLike)):
        return NoBackend(
            f"{name} takes one layer's kernel, got the {kind} {x!r}. specnorm.audit reads a model's file and measures "
            "each of its layers."
        )
    entries = x if isinstance(x, (list, tuple)) else ()
    holds_arrays = any(isinstance(entry, Mapping) or backends.is_array(entry) for entry in entries)
    if isinstance(x, Mapping) or holds_arrays:
        return NoBackend(
            f"{name} takes one layer's kernel, got a {kind} of {len(x)}. specnorm.audit measures each layer of a state "
            "dict, or of a tree of arrays."
        )
    if callable(x) and not isinstance(x, type):
        return NoBackend(
            f"{kind} is neither an array nor a convolution, a linear layer or an embedding that specnorm reads. Give "
            "its kernel, with the geometry by keyword. specnorm.audit measures each layer of a "
            "model, of its arrays or of its file."
        )
    try:
        backends.backend_for(x)
    except NoBackend as error:
        return error
    return NoBackend(f"{kind} is not an array.")
