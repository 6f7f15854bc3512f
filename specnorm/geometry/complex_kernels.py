"""Complex kernels: bounded through their real form, which has the same norm and each singular value twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from specnorm import backends
from specnorm.backends.types import AnyArray
from specnorm.errors import KernelError, MethodError
from specnorm.geometry.spec import ConvSpec, Layer

REAL_FORM = (
    "Give the real kernel [[Re, -Im], [Im, Re]] of twice as many channels, which has the same norm: "
    "numpy.block([[K.real, -K.imag], [K.imag, K.real]]) of a matrix; of a kernel, concatenate K.real and -K.imag along "
    "the input channels, K.imag and K.real too, and both results along the output channels (of each group)."
)
_REFUSED = {
    **dict.fromkeys(("rescale", "clip", "gram_rescaling", "lmo", "complete"), "returns a kernel"),
    **dict.fromkeys(("value_and_grad", "init_tracking", "track"), "has a gradient"),
    "slogdet": "needs a real matrix",
}
"""Public functions that do more than bound a number, and what."""


def is_complex(x: Any) -> bool:
    """Whether something is an array with a complex dtype."""
    return "complex" in str(getattr(x, "dtype", "")) and backends.is_array(x)


def of_real_form(function: Callable[[Any], Any], x: Any, *, first_axis: int, second_axis: int, groups: int = 1) -> Any:
    """Call a function on the real form of a complex array; its answer refuses to be differentiated.

    The axes are those of outputs and inputs, in either order; the real form has twice as many of each. It has each
    singular value twice, which the function allows for.
    """
    constant = backends.backend_for(x).detach(x)
    form = _real_form(constant, first_axis=first_axis, second_axis=second_axis, groups=groups)
    return _without_derivative(function(form), x)


def _real_form(kernel: AnyArray, *, first_axis: int, second_axis: int, groups: int) -> AnyArray:
    """The real kernel [[Re, -Im], [Im, Re]] of the kernel of each group; the groups lie along the first axis."""
    xp = backends.backend_for(kernel).namespace(kernel)
    real, imag = xp.real(kernel), xp.imag(kernel)
    rows = [xp.concat([real, -imag], axis=second_axis), xp.concat([imag, real], axis=second_axis)]
    before, (size, *after) = rows[0].shape[:first_axis], rows[0].shape[first_axis:]
    by_group = [xp.reshape(x, (*before, groups, size // groups, *after)) for x in rows]
    return xp.reshape(xp.concat(by_group, axis=first_axis + 1), (*before, 2 * size, *after))


def with_real_form(function: Callable[..., Any], kernel: AnyArray, args: tuple[Any, ...], keywords: Any) -> Any:
    """Call a public function on the real form of a complex kernel.

    Raises `KernelError` if the function returns a kernel or a gradient.
    """
    name = function.__name__
    shape = tuple(kernel.shape)
    if name in _REFUSED:
        raise KernelError(
            f"{name} {_REFUSED[name]}, and the kernel of shape {shape} is complex ({kernel.dtype}). {REAL_FORM}"
        )
    geometry: Mapping[str, Any] = {word: keywords[word] for word in Layer.__annotations__ if word in keywords}
    spec = ConvSpec.of(shape, **geometry)  # raises for what is no kernel
    axes = (-1, -2) if spec.layout is not None else (0, 1)
    first_axis, second_axis = (axis % len(shape) for axis in axes)
    if name == "singular_values" and keywords.get("k") is not None:
        keywords = {**keywords, "k": _twice(keywords["k"], ConvSpec.of(shape, **geometry, **_size(args, keywords)))}
    method = keywords.get("method", args[0] if args else None) if name == "measure" else None
    twice = getattr(method, "with_each_twice", lambda: method)()
    if twice is not method:
        args, keywords = (), {**keywords, "method": twice}

    def found(form: Any) -> Any:
        answer = function(form, *args, **keywords)
        if name == "singular_values":
            return answer[::2]
        return answer if twice is method else answer.every_second(method)

    return of_real_form(found, kernel, first_axis=first_axis, second_axis=second_axis, groups=spec.groups)


def _size(args: tuple[Any, ...], keywords: Any) -> dict[str, Any]:
    """The argument ``input_shape`` of `singular_values`, its second one."""
    return {"input_shape": args[0]} if args else {word: keywords[word] for word in ("input_shape",) if word in keywords}


def _twice(k: Any, spec: ConvSpec) -> Any:
    """Number of singular values of the real form for k of the complex layer; refused if there are fewer."""
    count = spec.singular_value_count
    if isinstance(k, int) and k > count:
        raise MethodError(f"k={k!r} is not a number of singular values: this layer has {count}.")
    return 2 * k if isinstance(k, int) else k


def _without_derivative(found: Any, kernel: AnyArray) -> Any:
    """An answer for a complex kernel whose numbers refuse to be differentiated."""
    reason = f"the kernel is complex, and no gradient with respect to it is given. {REAL_FORM}"
    backend = backends.backend_for(kernel)
    if backends.is_array(found):
        return backend.without_derivative(found, kernel, reason)
    for word in ("lower", "upper", "value"):
        if backends.is_array(getattr(found, word, None)):
            # In place: an enclosure keeps its claims.
            object.__setattr__(found, word, backend.without_derivative(getattr(found, word), kernel, reason))
    return found
