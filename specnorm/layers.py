"""A framework's own layer in place of a kernel: the plugin of its arrays says kernel and geometry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from specnorm import backends, registry
from specnorm.errors import GeometryError, NoBackend
from specnorm.methods import Method
from specnorm.problem.padding import same_upper
from specnorm.problem.spec import GEOMETRY_WORDS, ConvSpec, Layer, per_axis
from specnorm.types import LayerKernel
from specnorm.words import check_words

Function = TypeVar("Function", bound=Callable[..., Any])
_HOLD = ("kernel", "weight")
"""Attributes in which layers hold a kernel."""
_RETURN_A_KERNEL = ("rescale", "clip", "gram_rescaling", "fold_batch_norm")


def takes_layers(function: Function) -> Function:
    """Let a function of a kernel, and of geometry by keyword, take a framework's layer in the kernel's place.

    A keyword that is given and contradicts the layer is refused; one that is not given is the layer's.
    """
    code: Any = function.__code__
    by_place: tuple[str, ...] = code.co_varnames[: code.co_argcount]
    known = GEOMETRY_WORDS.union(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])

    def front_door(*args: Any, **keywords: Any) -> Any:
        if len(args) > len(by_place):
            _refuse_positions(function.__name__, by_place, args)
        if not known.issuperset(keywords):
            check_words(function.__name__, keywords, known)
        if args and not backends.is_array(args[0]):
            inside = array_in(args[0])
            if inside is not None:
                return function(inside, *args[1:], **keywords)
            given = {**dict(zip(by_place, args, strict=False)), **keywords}
            return function(**_opened(function.__name__, by_place, given))
        return function(*args, **keywords)

    # As functools.wraps, which makes as many calls at import as a module of its own.
    front_door.__wrapped__ = function  # type: ignore[attr-defined]
    front_door.__name__, front_door.__qualname__ = function.__name__, function.__qualname__
    front_door.__module__, front_door.__doc__ = function.__module__, function.__doc__
    front_door.__annotations__ = function.__annotations__
    return front_door  # type: ignore[return-value]


def _refuse_positions(name: str, by_place: tuple[str, ...], args: tuple[Any, ...]) -> None:
    if any(isinstance(x, Method) for x in args):
        raise TypeError(f"{name} takes no method. specnorm.measure(kernel, method) runs one.")
    raise TypeError(
        f"{name} takes {' and '.join(by_place)} by position alone: give everything else by keyword, such as "
        "input_shape=32."
    )


def _opened(name: str, by_place: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    x = given.pop(by_place[0])
    if isinstance(x, (int, float)) and any(map(backends.is_array, given.values())):
        raise NoBackend(f"{name} takes the kernel first: {name}(kernel, {x!r}); got {x!r} in its place.")
    kernel, told, as_stored = layer_kernel(x, given.get("input_shape"), name)
    kind = type(x).__name__
    if name in _RETURN_A_KERNEL and not as_stored:
        raise GeometryError(
            f"{name} returns a kernel, and {kind} stores its own in an order of axes that specnorm has no name for. "
            "Give the kernel in torch's order, with its geometry."
        )
    spec = ConvSpec.of(kernel.shape, **told)
    if not spec.ndim:
        # A linear layer is one whatever the size: it has no pixels.
        given = {word: value for word, value in given.items() if word not in ("input_shape", "padding_mode")}
    for word in Layer.__annotations__.keys() & given.keys():
        other = ConvSpec.of(kernel.shape, **{**told, word: given[word]})
        if other != spec:
            raise GeometryError(
                f"{word}={given[word]!r} contradicts the layer: this {kind} has {word}="
                f"{told.get(word, getattr(spec, word))!r}. Leave it out; or give the kernel with the geometry you mean."
            )
    return {by_place[0]: kernel, **told, **given}


def array_in(x: Any) -> Any:
    """Return the array in what a framework wraps its parameters in, by the plugin that knows it; None: it is none.

    Keras's variables, of any library, are known here.
    """
    if any(cls.__module__.partition(".")[0] == "keras" and cls.__name__ == "Variable" for cls in type(x).__mro__):
        return x.value
    for inside in _held(x, ("",)):
        root = registry.owner_of(type(inside))
        found = backends.load(root).array_in(x) if root else None
        if found is not None:
            return found
    return None


def unwrapped(x: Any) -> Any:
    """`array_in` of what wraps an array; anything else as it is."""
    inside = None if x is None or backends.is_array(x) else array_in(x)
    return x if inside is None else inside


def layer_kernel(x: Any, input_shape: Any = None, name: str = "specnorm") -> LayerKernel:
    """Kernel and geometry of a framework's own layer, by the plugin of its arrays; Keras's hold those of any library.

    Parameters
    ----------
    x : object
    input_shape : int or sequence of int, optional
        Spatial input sizes, where they decide the padding.
    name : str
        What was called, for the message.

    Raises
    ------
    NoBackend
        If it is no layer that a plugin knows.
    GeometryError
        If its geometry has no words here.
    """
    found = keras_layer(x, input_shape)
    if found is not None:
        return found
    # Of an object that a plugin owns, attributes are not looked at: reading a parametrised weight may move it.
    own = registry.owner_of(type(x)) is not None
    for cls in (type(x),) if own else dict.fromkeys(map(type, _held(x, _HOLD))):
        root = registry.owner_of(cls)
        found = _by_plugin(root, x, input_shape) if root else None
        if found is not None:
            return found
    raise _refusal(x, name)


def _by_plugin(root: str, x: Any, input_shape: Any) -> LayerKernel | None:
    backend: backends.Backend = backends.load(root)
    return backend.layer(x, input_shape)


def _held(x: Any, words: Sequence[str]) -> Iterator[Any]:
    """Arrays that an object may have under some names ("": itself), out of what frameworks wrap them in."""
    for word in words:
        held = getattr(x, word, None) if word else x
        inside = getattr(held, "get_value", None)  # Flax's; its `value` warns
        yield inside() if callable(inside) else getattr(held, "value", held)


def _refusal(x: Any, name: str) -> NoBackend:
    kind = type(x).__name__
    if isinstance(x, Method):
        return NoBackend(f"{name} takes the kernel first, got the method {kind}(): specnorm.measure(kernel, {kind}()).")
    if isinstance(x, (str, bytes, os.PathLike)):
        return NoBackend(
            f"{name} takes one layer's kernel, got the {kind} {x!r}. specnorm.audit reads a model's file and measures "
            "each of its layers."
        )
    listed = x if isinstance(x, (list, tuple)) else ()
    if isinstance(x, Mapping) or any(isinstance(part, Mapping) or backends.is_array(part) for part in listed):
        return NoBackend(
            f"{name} takes one layer's kernel, got a {kind} of {len(x)}. specnorm.audit measures each layer of a state "
            "dict, or of a tree of arrays."
        )
    if callable(x) and not isinstance(x, type):
        return NoBackend(
            f"{kind} is no array, and no convolution or linear layer whose kernel and geometry are read. Give its "
            "kernel with the geometry by keyword. specnorm.audit measures each layer of a "
            "model, of its arrays or of its file."
        )
    try:
        backends.backend_for(x)
    except NoBackend as error:
        return error
    return NoBackend(f"{kind} is no array.")


_CONVOLUTIONS = tuple(f"Conv{d}D" for d in (1, 2, 3))
_TRANSPOSED = tuple(f"Conv{d}DTranspose" for d in (1, 2, 3))
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_COMPUTING = ("__call__", "call", "convolution_op")
_LAYOUTS = ("IO", "WIO", "HWIO", "DHWIO")


def keras_layer(x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
    """Kernel and geometry of a Keras layer, as `specnorm.plugin.Backend.layer`; None for anything else."""
    known = (*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE, "Dense")
    bases = [cls for cls in type(x).__mro__ if cls.__module__.partition(".")[0] == "keras" and cls.__name__ in known]
    if not bases:
        return None
    name, kind = type(x).__name__, bases[0].__name__
    if any(getattr(type(x), word, None) is not getattr(bases[0], word, None) for word in _COMPUTING):
        raise GeometryError(
            f"{name} has a call() of its own: its attributes do not say what it computes. Give the kernel that it "
            "amounts to, with its geometry."
        )
    if not x.built:
        raise GeometryError(f"{name} has no kernel yet: call it once on an input, or its build() with a shape.")
    kernel = _separable_kernel(x) if kind in _SEPARABLE else getattr(x.kernel, "value", x.kernel)
    if kind == "Dense":
        return LayerKernel(kernel, {"layout": "IO"})
    ndim = kernel.ndim - 2
    stride, dilation = per_axis("strides", x.strides, ndim), per_axis("dilation_rate", x.dilation_rate, ndim)
    geometry: dict[str, Any] = {
        "stride": stride, "dilation": dilation, "layout": _LAYOUTS[ndim], "padding_mode": "zeros"
    }  # fmt: skip
    if kind in _TRANSPOSED:
        if input_shape is not None and (x.padding != "valid" or x.output_padding is not None):
            raise GeometryError(
                f"{name} crops its output by a rule that differs from one library of Keras's to another. Leave "
                "input_shape out, or give layer.kernel with layout, stride, transposed=True and the padding."
            )
        return LayerKernel(kernel, {**geometry, "transposed": True, "padding": "valid"})
    sizes = (None,) * ndim if input_shape is None else per_axis("input_shape", input_shape, ndim)
    reach = kernel.shape[:ndim]
    if x.padding == "causal":
        geometry["padding"] = [(dilation[0] * (reach[0] - 1), 0)]
    elif x.padding == "same":
        geometry["padding"] = [same_upper(*axis) for axis in zip(sizes, reach, stride, dilation, strict=True)]
    else:
        geometry["padding"] = x.padding
    if kind in _DEPTHWISE:
        # Stored (*spatial, cin, times); a layer with cin groups has (*spatial, 1, cin * times).
        cin, times = kernel.shape[-2:]
        moved = kernel.reshape((*reach, 1, cin * times))
        return LayerKernel(moved, {**geometry, "groups": cin}, as_stored=False)
    if kind in _SEPARABLE:
        return LayerKernel(kernel, geometry, as_stored=False)
    return LayerKernel(kernel, {**geometry, "groups": x.groups})


def keras_parts(x: Any) -> Mapping[str, Any] | None:
    """Layers in a Keras layer or model by their names, and the variables outside of them; None for anything else."""
    if not is_keras_layer(x):
        return None
    found = {str(layer.name): layer for layer in getattr(x, "layers", None) or _keras_layers(vars(x).values())}
    if type(x).__name__ == "SpectralNormalization":  # whose own variable is a vector; the kernel is the inner layer's
        return found
    inner = {id(variable) for layer in found.values() for variable in layer.weights}
    return found | {str(variable.name): variable for variable in x.weights if id(variable) not in inner}


def is_keras_layer(x: Any) -> bool:
    """Return whether an object is a layer, or a model, of Keras."""
    return any(cls.__module__.partition(".")[0] == "keras" and cls.__name__ == "Layer" for cls in type(x).__mro__)


def _keras_layers(values: Iterable[Any]) -> list[Any]:
    """Layers among attributes, and in lists of these."""
    found = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += _keras_layers(value)
        elif is_keras_layer(value):
            found.append(value)
    return found


def _separable_kernel(x: Any) -> np.ndarray:
    """The one kernel (*spatial, cin, filters) that a depthwise layer and the 1x1 layer after it amount to, in float64.

    With one multiplier an entry is the product of two numbers: of float32 ones it is exact.
    """
    depthwise, pointwise = (_on_host(v).astype(np.float64) for v in (x.depthwise_kernel, x.pointwise_kernel))
    cin, times = depthwise.shape[-2:]
    kernel: np.ndarray = np.einsum("...cm,cmf->...cf", depthwise, pointwise.reshape(cin, times, -1))
    return kernel


def _on_host(variable: Any) -> np.ndarray:
    backend: backends.Backend = backends.backend_for(variable.value)
    found: np.ndarray = backend.to_numpy(variable.value)
    return found
