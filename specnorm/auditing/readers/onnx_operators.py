"""ONNX's operators in the words of `specnorm.networks.rules`: a function or a line each, and the result's shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx_shapes import (
    broadcast_shapes,
    fresh,
    pooled,
    reduced,
    reshaped,
    same_pads,
    sliced,
    times,
)
from specnorm.auditing.readers.onnx_tensors import STEPS, Constant, constant_of
from specnorm.networks.graph import Shape, Size, concrete
from specnorm.networks.pointwise import SLOPES

FLOATING = ("float16", "bfloat16", "float32", "float64")
MAX_AMOUNT = 2**16
"""Largest stride, dilation, padding or group count that is believed."""
PRODUCT = "it is a product of two values that depend on the input, which has no constant"


class UnreadError(Exception):
    """An operator that is not read; the message says why."""


@dataclass(frozen=True)
class Data:
    """A value that depends on the network's inputs.

    Parameters
    ----------
    name : str
    shape : tuple of Size or None
    held : bool
        Whether it depends on shapes and integers only: then it stays while floating inputs move.
    call : Call or None
        What made it.
    """

    name: str
    shape: Shape | None
    held: bool = False
    call: Call | None = None


Value: TypeAlias = Constant | Data


@dataclass(frozen=True)
class Translated:
    """What becomes of an operator.

    Parameters
    ----------
    rule, inputs, params
        Of its node.
    shapes : tuple
        Of its outputs, as far as they are known.
    kernel : Constant or None
        Of a layer, with its ``geometry`` for specnorm's functions, as the file ``stated`` it, and the spatial ``sizes``
        of its input. ``turned``: a matrix that is stored with its outputs last.
    pieces : bool
        Whether the rule holds for every output, not for the first alone.
    """

    rule: str
    inputs: tuple[str, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    kernel: Constant | None = None
    geometry: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    sizes: Shape | None = None
    turned: bool = False
    pieces: bool = False


@dataclass(frozen=True)
class Call:
    """One node of an ONNX graph."""

    operator: str
    opset: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    outputs: int
    describe: Callable[[Any, str], Constant]
    label: str

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute: number, text, or list of numbers."""
        found = self.attributes.get(name)
        if found is None:
            return default
        kinds = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
        value = getattr(found, kinds[found.type])
        if found.type in (6, 7):
            return list(value)
        return value.decode("utf-8", "replace") if found.type == 3 else value

    def input(self, at: int) -> Value | None:
        """An input; None if it is left out."""
        return self.inputs[at] if at < len(self.inputs) else None

    def data(self, at: int = 0) -> Data:
        """An input that must depend on the network's inputs."""
        value = self.input(at)
        if not isinstance(value, Data):
            raise UnreadError(f"{self.operator} of constants is not evaluated")
        return value

    def constant(self, at: int, limit: int | None = None) -> Constant | None:
        """An input that must be constant, or left out.

        Raises
        ------
        UnreadError
            If it is data, or has more entries than the limit, or cannot be read.
        """
        value = self.input(at)
        if isinstance(value, Data):
            raise UnreadError(f"input {at} of {self.operator} is not constant")
        if value is not None and limit is not None and (value.size > limit or value.refusal is not None):
            raise UnreadError(f"input {at} of {self.operator} cannot be read")
        return value

    def numbers(self, name: str, at: int) -> list[Any] | None:
        """A list from an attribute or, in newer operator sets, a constant input; None if it is in neither."""
        found = self.attribute(name)
        if found is not None:
            return [found] if isinstance(found, int | float) else list(found)
        constant = self.constant(at, MAX_FOLDED)
        return None if constant is None else list(np.ravel(constant.load()).tolist())

    def only(self, *positions: int) -> None:
        """Refuse if other inputs move with the network's."""
        for at, value in enumerate(self.inputs):
            if at not in positions and isinstance(value, Data) and not value.held:
                raise UnreadError(f"input {at} of {self.operator} depends on the network's input")


Operator = Callable[[Call], Constant | Translated]
MAX_FOLDED = 2**16
"""Entries of constants that are evaluated to learn shapes."""


def _names(call: Call) -> tuple[str, ...]:
    return tuple(value.name for value in call.inputs if isinstance(value, Data))


def _one(call: Call, rule: str, shape: Shape | None, at: int = 0, **params: Any) -> Translated:
    """A rule with one input."""
    call.only(at)
    return Translated(rule, (call.data(at).name,), (shape,), params)


# -- layers --------------------------------------------------------------------------------------------------------
def _amounts(call: Call, name: str, count: int, default: int) -> tuple[int, ...]:
    given = call.attribute(name) or [default] * count
    if (
        len(given) != count
        or any(not 0 <= abs(n) <= MAX_AMOUNT for n in given)
        or min(given, default=0) < min(default, 0)
    ):
        raise UnreadError(f"{name}={given[:8]} of {call.operator} make no sense here")
    return tuple(int(n) for n in given)


def _pads(
    call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Shape | None
) -> tuple[tuple[int, int], ...] | None:
    """Padding per axis; None for "same" at sizes that are not known."""
    how = call.attribute("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        known = concrete(sizes)
        return None if known is None else same_pads(known, kernel, stride, dilation, lower=how == "SAME_LOWER")
    flat = _amounts(call, "pads", 2 * len(kernel), 0) if how == "NOTSET" else (0,) * (2 * len(kernel))
    return tuple(zip(flat[: len(kernel)], flat[len(kernel) :], strict=True))


def _conv(call: Call) -> Translated:
    x, weight = call.data(0), call.input(1)
    call.only(0)
    if not isinstance(weight, Constant):
        raise UnreadError(PRODUCT)
    ndim = len(weight.shape) - 2
    if not 1 <= ndim <= 3:
        raise UnreadError(f"its kernel has {len(weight.shape)} axes")
    transposed = call.operator == "ConvTranspose"
    kernel = weight.shape[2:]
    stride, dilation = _amounts(call, "strides", ndim, 1), _amounts(call, "dilations", ndim, 1)
    if 0 in stride or 0 in dilation or (call.attribute("kernel_shape") or list(kernel)) != list(kernel):
        raise UnreadError("its strides, dilations or kernel_shape do not fit its kernel")
    groups = int(call.attribute("group", 1))
    if not 1 <= groups <= MAX_AMOUNT:
        raise UnreadError(f"group={groups}")
    sizes = None if x.shape is None else x.shape[2:]
    if sizes is not None and len(sizes) != ndim:
        raise UnreadError(f"its input has shape {x.shape}, its kernel {weight.shape}")
    geometry = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "transposed": transposed,
        "padding_mode": "zeros",
    }
    if transposed:
        pads, outputs = _cropping(call, kernel, stride, dilation, sizes)
        channels = weight.shape[1] * groups
        stated: Any = pads
    else:
        found = _pads(call, kernel, stride, dilation, sizes)
        channels = weight.shape[0]
        pads = found if found is not None else tuple((0, 0) for _ in kernel)
        how = call.attribute("auto_pad", "NOTSET")
        stated = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower"}.get(how, pads)
        windows = zip(sizes or (), kernel, stride, dilation, found or ((None, None),) * ndim, strict=False)
        outputs = [pooled(n, k, s, r, before, after) for n, k, s, r, (before, after) in windows]
    shape = None if x.shape is None else (x.shape[0], channels, *outputs)
    return Translated(
        "layer", (x.name,), (shape,), {}, weight, {**geometry, "padding": pads}, {**geometry, "padding": stated}, sizes
    )  # fmt: skip


def _cropping(
    call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Shape | None
) -> tuple[tuple[tuple[int, int], ...], list[Size]]:
    """What a transposed convolution crops, and its output sizes. Rows of zeros that it adds change no norm."""
    ndim = len(kernel)
    extra = _amounts(call, "output_padding", ndim, 0)
    wanted = call.attribute("output_shape")
    how = call.attribute("auto_pad", "NOTSET")
    known = concrete(sizes)
    if wanted is not None or how in ("SAME_UPPER", "SAME_LOWER"):
        given = [int(n) for n in wanted[-ndim:]] if wanted is not None else None
        if known is None:
            # Zero padding, so the bound at every size does not depend on the crop.
            return ((0, 0),) * ndim, list(given) if given is not None else [fresh() for _ in kernel]
        goals = given if given is not None else [n * s for n, s in zip(known, stride, strict=True)]
        pairs = []
        for n, k, s, r, more, goal in zip(known, kernel, stride, dilation, extra, goals, strict=True):
            total = s * (n - 1) + more + r * (k - 1) + 1 - goal
            half = total // 2 if how == "SAME_UPPER" else total - total // 2
            pairs.append((max(half, 0), max(total - half - more, 0)))
        return tuple(pairs), list(goals)
    pads = _pads(call, kernel, stride, dilation, None) or ((0, 0),) * ndim
    cropped = tuple((before, after - more) for (before, after), more in zip(pads, extra, strict=True))
    axes = zip(sizes or (), kernel, stride, dilation, cropped, strict=False)
    outputs = [times(n, s, r * (k - 1) + 1 - s - before - after) for n, k, s, r, (before, after) in axes]
    return tuple((before, max(after, 0)) for before, after in cropped), outputs


def _matmul(call: Call) -> Translated:
    a, b = call.input(0), call.input(1)
    if isinstance(a, Data) and isinstance(b, Data) and not (a.held and b.held):
        raise UnreadError(PRODUCT)
    x, weight, first = (a, b, True) if isinstance(a, Data) else (b, a, False)
    if not isinstance(x, Data) or not isinstance(weight, Constant):
        raise UnreadError("MatMul of constants is not evaluated")
    if len(weight.shape) != 2:
        raise UnreadError(f"its constant matrix has shape {weight.shape}")
    shape = None
    if x.shape is not None and len(x.shape) >= 2:
        shape = (*x.shape[:-1], weight.shape[1]) if first else (*x.shape[:-2], weight.shape[0], x.shape[-1])
    return _matrix(weight, x, shape, 1.0, turned=first, foldable=first)


def _gemm(call: Call) -> Translated:
    call.only(0, 1)
    a, b = call.input(0), call.input(1)
    if isinstance(a, Data) and isinstance(b, Data):
        raise UnreadError(PRODUCT)
    x, weight, name, flag = (a, b, "transB", 0) if isinstance(a, Data) else (b, a, "transA", 1)
    if not isinstance(x, Data) or not isinstance(weight, Constant) or len(weight.shape) != 2:
        raise UnreadError("Gemm without a constant matrix")
    turned = bool(call.attribute(name, 0))
    rows, columns = weight.shape[::-1] if turned else weight.shape
    shape: Shape | None = None
    if x.shape is not None and len(x.shape) == 2:
        kept = x.shape[1 if call.attribute("transA" if flag == 0 else "transB", 0) else 0] if flag == 0 else None
        shape = (kept, columns) if kept is not None else (rows, fresh())
    right = isinstance(a, Data)
    alpha = abs(float(call.attribute("alpha", 1.0)))
    return _matrix(weight, x, shape, alpha, turned=right and not turned, foldable=right)


def _matrix(
    weight: Constant, x: Data, shape: Shape | None, alpha: float, *, turned: bool, foldable: bool
) -> Translated:
    """A constant matrix; its row is as it is stored, since it has the norm of its transpose."""
    params = {"alpha": alpha, "foldable": foldable}
    return Translated("layer", (x.name,), (shape,), params, weight, {}, {}, (), turned=turned)


def _batch_norm(call: Call) -> Translated:
    x = call.data(0)
    call.only(0)
    if call.attribute("training_mode", 0) or not call.attribute("spatial", 1):
        raise UnreadError("it normalises by the statistics of the batch")
    gamma, variance = call.constant(1, 2**20), call.constant(4, 2**20)
    if gamma is None or variance is None:
        raise UnreadError("its statistics are missing")
    eps = float(call.attribute("epsilon", 1e-5))
    with np.errstate(all="ignore"):
        spread = np.sqrt(variance.load().astype(np.float64) + eps)
        values = gamma.load().astype(np.float64) / spread
    if not np.all(np.isfinite(values)):
        raise UnreadError("its variances are negative or not finite")
    return Translated("scale", (x.name,), (x.shape,), {"values": values, "channel": 1})


# -- pooling, resizing, padding ------------------------------------------------------------------------------------
def _pool(call: Call) -> Translated:
    x = call.data(0)
    kernel = tuple(int(n) for n in call.attribute("kernel_shape"))
    ndim = len(kernel)
    if not 1 <= ndim <= 3 or min(kernel) < 1 or max(kernel) > MAX_AMOUNT:
        raise UnreadError(f"kernel_shape={kernel[:8]}")
    stride, dilation = _amounts(call, "strides", ndim, 1), _amounts(call, "dilations", ndim, 1)
    if 0 in stride or 0 in dilation:
        raise UnreadError("a stride or dilation of 0")
    sizes = None if x.shape is None else x.shape[2:]
    pads = _pads(call, kernel, stride, dilation, sizes)
    average = call.operator == "AveragePool"
    if pads is None and average:
        raise UnreadError("its padding depends on the input's size: give the input shape")
    ceil = bool(call.attribute("ceil_mode", 0))
    found = pads or ((None, None),) * ndim
    axes = zip(sizes or (), kernel, stride, dilation, found, strict=False)
    outputs = [pooled(n, k, s, r, before, after, ceil=ceil) for n, k, s, r, (before, after) in axes]
    shape = None if x.shape is None else (*x.shape[:2], *outputs)
    params = {
        "kernel": kernel, "stride": stride, "dilation": dilation, "padding": pads or ((0, 0),) * ndim, "ceil": ceil,
        "count_padding": bool(call.attribute("count_include_pad", 0)),
    }  # fmt: skip
    return Translated("average_pool" if average else "max_pool", (x.name,), (shape,), params)


def _global(rule: str) -> Operator:
    def translate(call: Call) -> Translated:
        x = call.data(0)
        if x.shape is None:
            return Translated(rule if rule == "length" else "select", (x.name,), (None,))
        shape = (*x.shape[:2], *(1 for _ in x.shape[2:]))
        return Translated(rule, (x.name,), (shape,), {"axes": tuple(range(2, len(x.shape)))})

    return translate


def _reduce(rule: str) -> Operator:
    def translate(call: Call) -> Translated:
        x = call.data(0)
        axes = call.numbers("axes", 1)
        if not axes and call.attribute("noop_with_empty_axes", 0):
            return Translated("select", (x.name,), (x.shape,))
        if x.shape is None:
            if rule == "sum":
                raise UnreadError("the shape of its input is not known: give the input shape")
            # A mean, a maximum and a length are at most 1.
            return Translated("length", (x.name,), (None,))
        ndim = len(x.shape)
        wanted = sorted({int(a) % ndim for a in axes}) if axes else list(range(ndim))
        return Translated(
            rule,
            (x.name,),
            (reduced(x.shape, wanted, keep=bool(call.attribute("keepdims", 1))),),
            {"axes": tuple(wanted)},
        )

    return translate


def _resize(call: Call) -> Translated:
    x = call.data(0)
    call.only(0)
    newer = call.operator == "Resize" and call.opset >= 11
    if (
        call.attribute("antialias", 0)
        or call.attribute("exclude_outside", 0)
        or call.attribute("keep_aspect_ratio_policy")
    ):
        raise UnreadError("antialias, exclude_outside and keep_aspect_ratio_policy have no rule")
    mode = call.attribute("mode", "nearest")
    coordinates = call.attribute("coordinate_transformation_mode", "half_pixel") if newer else "asymmetric"
    nearest = call.attribute("nearest_mode", "round_prefer_floor") if newer else "floor"
    given = call.numbers("scales", 2 if newer else 1)
    wanted = call.numbers("sizes", 3) if newer and not given else None
    if x.shape is None:
        raise UnreadError("the shape of its input is not known: give the input shape")
    axes = [int(a) % len(x.shape) for a in call.attribute("axes") or range(len(x.shape))]
    scales, shape = [Fraction(1)] * len(x.shape), list(x.shape)
    for axis, amount in zip(axes, given or wanted or [], strict=True):
        n = x.shape[axis]
        if given:
            scales[axis] = Fraction(float(amount))
            shape[axis] = math.floor(n * scales[axis]) if isinstance(n, int) else n if amount == 1 else fresh()
        elif isinstance(n, int):
            scales[axis], shape[axis] = Fraction(int(amount), n), int(amount)
        else:
            raise UnreadError("the shape of its input is not known: give the input shape")
    if min(scales) <= 0:
        raise UnreadError("a scale that is not positive")
    exact = (coordinates, nearest) == ("asymmetric", "floor") or (
        coordinates in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round")
    )
    if mode == "nearest" and exact and all(f.denominator == 1 for f in scales):
        return Translated("copies", (x.name,), (tuple(shape),), {"copies": math.prod(int(f) for f in scales)})
    params = {"mode": mode, "scales": scales, "coordinates": coordinates, "nearest": nearest}
    return Translated("resize", (x.name,), (tuple(shape),), params)


def _pad(call: Call) -> Translated:
    x = call.data(0)
    call.only(0)
    mode = {"constant": "zeros", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(
        call.attribute("mode", "constant")
    )
    flat = call.numbers("pads", 1) or call.attribute("paddings")
    axes = call.constant(3, MAX_FOLDED)
    if mode is None or flat is None or any(abs(int(p)) > MAX_AMOUNT for p in flat):
        raise UnreadError("its mode or pads make no sense here")
    if x.shape is None:
        if mode != "zeros":
            raise UnreadError("the shape of its input is not known: give the input shape")
        return Translated("select", (x.name,), (None,))
    ndim = len(x.shape)
    where = [int(a) % ndim for a in np.ravel(axes.load())] if axes is not None else list(range(ndim))
    pairs = [(0, 0)] * ndim
    for at, axis in enumerate(where):
        pairs[axis] = (int(flat[at]), int(flat[at + len(where)]))
    shape = tuple(n if p == (0, 0) else times(n, 1, sum(p)) for n, p in zip(x.shape, pairs, strict=True))
    if min(a for pair in pairs for a in pair) < 0:
        if mode != "zeros":
            raise UnreadError("negative padding by repeated pixels")
        return Translated("select", (x.name,), (shape,))
    leading = 2 if not any(sum(p) for p in pairs[:2]) else 0
    return Translated("pad", (x.name,), (shape,), {"mode": mode, "pads": tuple(pairs[leading:])})


# -- entry by entry ------------------------------------------------------------------------------------------------
def _function(function: str, default: float = 1.0, attribute: str = "alpha") -> Operator:
    def translate(call: Call) -> Translated:
        alpha = float(call.attribute(attribute, default))
        return _one(call, "pointwise", call.data().shape, function=function, alpha=alpha)

    return translate


def _celu(call: Call) -> Translated:
    if not call.attribute("alpha", 1.0) > 0:
        raise UnreadError("its alpha is not positive")
    return _one(call, "pointwise", call.data().shape, function="celu")


def _selu(call: Call) -> Translated:
    alpha, gamma = (
        call.attribute("alpha", 1.67326319217681884765625),
        call.attribute("gamma", 1.05070102214813232421875),
    )
    steep = math.nextafter(abs(gamma) * max(1.0, abs(alpha)), math.inf)
    return _one(call, "pointwise", call.data().shape, function="linear", alpha=steep)


def _gelu(call: Call) -> Translated:
    kind = "gelu_tanh" if call.attribute("approximate", "none") == "tanh" else "gelu"
    return _one(call, "pointwise", call.data().shape, function=kind)


def _prelu(call: Call) -> Translated:
    slopes = call.constant(1, 2**20)
    alpha = float(np.max(np.abs(slopes.load()), initial=0.0)) if slopes is not None else math.nan
    return _one(call, "pointwise", call.data().shape, function="leaky", alpha=alpha)


def _scalar(value: Value | None) -> float | None:
    if not isinstance(value, Constant) or value.size != 1 or value.refusal is not None:
        return None
    return float(np.ravel(value.load())[0])


def _modern(call: Call) -> None:
    if call.opset < 7 and call.attribute("broadcast", 0):
        raise UnreadError("broadcasting of operator sets before 7 is not read")


def _add(call: Call) -> Constant | Translated:
    _modern(call)
    values = [value for value in call.inputs if isinstance(value, Data)]
    if call.operator == "Mean" and len(values) < len(call.inputs):
        raise UnreadError("Mean with constants")
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    if len(values) > 1:
        return Translated("average" if call.operator == "Mean" else "add", _names(call), (shape,))
    if shape is None or shape != values[0].shape:
        return _one(call, "broadcast", shape, call.inputs.index(values[0]))
    return Translated("select", _names(call), (shape,), {"shift": True})


def _multiple(value: Value | None) -> tuple[Value | None, float]:
    """A value as a number times another one."""
    call = value.call if isinstance(value, Data) else None
    if call is not None and call.operator in ("Mul", "Div"):
        for x, c in ((call.input(0), call.input(1)), (call.input(1), call.input(0)))[
            : 2 if call.operator == "Mul" else 1
        ]:
            number = _scalar(c)
            if isinstance(x, Data) and number:
                return x, number if call.operator == "Mul" else 1 / number
    return value, 1.0


def _gated(x: Value | None, gate: Value | None) -> tuple[str, float] | None:
    """``x * sigmoid(x)``, ``x * hard_sigmoid(x)``, ``x * tanh(softplus(x))``, ``c x * (1 + erf(c' x))`` written out."""
    base, number = _multiple(x)
    call = gate.call if isinstance(gate, Data) else None
    if call is None or not isinstance(base, Data):
        return None
    inner = call.input(0)
    if call.operator == "Sigmoid" and _same(_multiple(inner)[0], base):
        return "silu", number  # (1/c) silu(c x) has the slopes of silu
    if call.operator == "HardSigmoid" and _same(inner, base):
        sixth = abs(call.attribute("alpha", 0.2) - 1 / 6) < 1e-7 and call.attribute("beta", 0.5) == 0.5
        return ("hard_swish", number * (1 + 1e-6)) if sixth else None
    if call.operator == "Tanh" and isinstance(inner, Data) and inner.call is not None:
        return ("mish", number) if inner.call.operator == "Softplus" and _same(inner.call.input(0), base) else None
    if call.operator == "Add":
        for erf, one in ((call.input(0), call.input(1)), (call.input(1), call.input(0))):
            made = erf.call if isinstance(erf, Data) else None
            if (
                made is not None
                and made.operator == "Erf"
                and _scalar(one) == 1
                and _same(_multiple(made.input(0))[0], base)
            ):
                return "gelu", 2 * number
    return None


def _same(a: Value | None, b: Value | None) -> bool:
    return isinstance(a, Data) and isinstance(b, Data) and a.name == b.name


def _multiply(call: Call) -> Translated:
    _modern(call)
    a, b = call.input(0), call.input(1)
    shape = broadcast_shapes([None if value is None else value.shape for value in (a, b)])
    if isinstance(a, Data) and isinstance(b, Data) and not (a.held and b.held):
        found = _gated(a, b) or _gated(b, a)
        if found is None:
            raise UnreadError(PRODUCT)
        function, number = found
        base = _multiple(a)[0] if _gated(a, b) else _multiple(b)[0]
        assert isinstance(base, Data)  # for the type checker: `_gated` looked
        steep = math.nextafter(SLOPES[function] * abs(number) * (1 + 2.0**-50), math.inf)
        return Translated("pointwise", (base.name,), (base.shape,), {"function": "linear", "alpha": steep})
    at = 0 if isinstance(a, Data) else 1
    constant = call.constant(1 - at, 2**24)
    if constant is None:
        raise UnreadError("an input is missing")
    return _scaled(call, at, constant.load().astype(np.float64), shape, exact=True)


def _divide(call: Call) -> Translated:
    _modern(call)
    if isinstance(call.input(1), Data):
        raise UnreadError("it divides by a value that depends on the input")
    constant = call.constant(1, 2**24)
    if constant is None:
        raise UnreadError("an input is missing")
    with np.errstate(all="ignore"):
        values = 1 / constant.load().astype(np.float64)
    return _scaled(call, 0, values, broadcast_shapes([call.data().shape, constant.shape]), exact=False)


def _scaled(call: Call, at: int, values: NDArray[np.float64], shape: Shape | None, *, exact: bool) -> Translated:
    x = call.data(at)
    wide = [axis for axis in range(values.ndim) if values.shape[axis] > 1]
    by_channel = len(wide) == 1 and shape is not None and shape == x.shape
    channel = len(shape) - values.ndim + wide[0] if by_channel and shape is not None else None
    params = {"values": values.reshape(-1) if by_channel else values, "channel": channel, "exact": exact}
    return Translated("scale", (x.name,), (shape,), params)


def _extreme(call: Call) -> Translated:
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    values = [value for value in call.inputs if isinstance(value, Data)]
    if len(values) == 1:
        return _one(call, "broadcast", shape, call.inputs.index(values[0]))
    return Translated("extreme", _names(call), (shape,))


def _where(call: Call) -> Translated:
    call.only(1, 2)
    shape = broadcast_shapes([None if value is None else value.shape for value in call.inputs])
    names = tuple(value.name for value in call.inputs[1:] if isinstance(value, Data))
    return Translated("extreme", names, (shape,))


def _log_softmax(call: Call) -> Translated:
    x = call.data()
    if x.shape is None:
        raise UnreadError("the number of classes is not known: give the input shape")
    axis = int(call.attribute("axis", -1 if call.opset >= 13 else 1)) % len(x.shape)
    counted = concrete(x.shape[axis : axis + 1] if call.opset >= 13 else x.shape[axis:])
    if counted is None:
        raise UnreadError("the number of classes is not known: give the input shape")
    return Translated("log_softmax", (x.name,), (x.shape,), {"classes": math.prod(counted)})


# -- moving entries ------------------------------------------------------------------------------------------------
def _reshape(call: Call) -> Constant | Translated:
    shape = call.input(1)
    given = call.attribute("shape")
    if given is None and isinstance(shape, Constant) and shape.size <= 16 and shape.refusal is None:
        given = [int(n) for n in np.ravel(shape.load())]
    x = call.input(0)
    if x is None:
        raise UnreadError("an input is missing")
    new = None if given is None else reshaped(x.shape, given, allow_zero=bool(call.attribute("allowzero", 0)))
    return _moved(call, new, lambda a: a.reshape(concrete(new) or ()))


def _moved(call: Call, shape: Shape | None, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Constant | Translated:
    """Entries in another order or shape, of data or of a constant."""
    x = call.input(0)
    if isinstance(x, Constant):
        known = concrete(shape)
        if known is None or math.prod(known) != x.size:
            raise UnreadError(f"{call.operator} of a constant to a shape that is not known")
        return x.mapped(known, change)
    return _one(call, "select", shape)


def _transpose(call: Call) -> Constant | Translated:
    x = call.input(0)
    if x is None or x.shape is None:
        return _one(call, "select", None)
    perm = [int(p) for p in call.attribute("perm") or reversed(range(len(x.shape)))]
    if sorted(perm) != list(range(len(x.shape))):
        raise UnreadError(f"perm={perm[:8]} does not fit shape {x.shape}")
    return _moved(call, tuple(x.shape[p] for p in perm), lambda a: np.transpose(a, perm))


def _flatten(call: Call) -> Constant | Translated:
    x = call.input(0)
    if x is None or x.shape is None:
        return _one(call, "select", None)
    axis = int(call.attribute("axis", 1))
    axis += len(x.shape) if axis < 0 else 0
    known = [concrete(part) for part in (x.shape[:axis], x.shape[axis:])]
    shape = tuple(fresh() if part is None else math.prod(part) for part in known)
    return _moved(call, shape, lambda a: a.reshape(concrete(shape) or ()))


def _squeeze(call: Call) -> Constant | Translated:
    x = call.input(0)
    axes = call.numbers("axes", 1)
    if x is None or x.shape is None:
        return _one(call, "select", None)
    if call.operator == "Squeeze":
        ndim = len(x.shape)
        gone = {int(a) % ndim for a in axes} if axes else {at for at, n in enumerate(x.shape) if n == 1}
        if not axes and concrete(x.shape) is None:
            return _one(call, "select", None)
        shape = tuple(n for at, n in enumerate(x.shape) if at not in gone)
    else:
        ndim = len(x.shape) + len(axes or ())
        new, old = {int(a) % ndim for a in axes or ()}, iter(x.shape)
        shape = tuple(1 if at in new else next(old) for at in range(ndim))
    return _moved(call, shape, lambda a: a.reshape(concrete(shape) or ()))


def _identity(call: Call) -> Constant | Translated:
    x = call.input(0)
    if isinstance(x, Constant):
        return x
    if call.operator == "Dropout" and isinstance(call.input(2), Data | Constant) and _scalar(call.input(2)) != 0:
        raise UnreadError("dropout may be active: training_mode is not false")
    return Translated("select", _names(call)[:1], (call.data().shape,), {"shift": True})


def _cast(call: Call) -> Constant | Translated:
    x, to = call.input(0), int(call.attribute("to", 0))
    if isinstance(x, Constant):
        if x.dtype.startswith(FLOATING) and to in (1, 11) and not (x.dtype == "float64" and to == 1):
            return x  # exact
        return _folded(call)
    if to not in (1, 10, 11, 16):
        raise UnreadError("it casts to integers: steps")
    return _one(call, "select", call.data().shape)


def _dequantize(call: Call) -> Constant | Translated:
    x, scale, zero = call.input(0), call.constant(1, 2**20), call.constant(2, 2**20)
    if not isinstance(x, Constant) or scale is None:
        raise UnreadError("it dequantises values of the network: steps")
    if call.attribute("block_size", 0) or x.dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        return x.refused(f"its quantisation ({x.dtype}, in blocks or of another kind) is not read.")
    axis = int(call.attribute("axis", 1)) % max(len(x.shape), 1)
    ones = [1] * len(x.shape)
    if scale.size > 1:
        ones[axis] = scale.size
    shape = tuple(ones)

    def change(a: NDArray[Any]) -> NDArray[Any]:
        centre = np.zeros(shape) if zero is None else zero.load().astype(np.float64).reshape(shape)
        # An integer times a float32 is exact in float64.
        return np.asarray((a.astype(np.float64) - centre) * scale.load().astype(np.float64).reshape(shape))

    return Constant(x.name, x.shape, "float64", lambda: change(x.load()), x.refusal, (*x.steps, next(STEPS)))


def _slice(call: Call) -> Constant | Translated:
    if all(isinstance(value, Constant) for value in call.inputs if value is not None):
        return _folded(call)
    x = call.data()
    call.only(0)
    if any(isinstance(value, Data) for value in call.inputs[1:]) or x.shape is None:
        return _one(call, "select", None)
    return Translated("select", (x.name,), (sliced(x.shape, *_slices(call, len(x.shape))),))


def _slices(call: Call, ndim: int) -> tuple[list[int], list[int], list[int], list[int]]:
    starts, ends = call.numbers("starts", 1) or [], call.numbers("ends", 2) or []
    axes = [int(a) % ndim for a in call.numbers("axes", 3) or range(len(starts))]
    steps = [int(s) for s in call.numbers("steps", 4) or [1] * len(starts)]
    return [int(s) for s in starts], [int(e) for e in ends], axes, steps


def _split(call: Call) -> Translated:
    x = call.data()
    call.only(0)
    sizes = call.numbers("split", 1) if not isinstance(call.input(1), Data) else None
    shapes: tuple[Shape | None, ...] = (None,) * call.outputs
    if x.shape is not None:
        axis = int(call.attribute("axis", 0)) % len(x.shape)
        n = x.shape[axis]
        if sizes is None and isinstance(n, int) and not isinstance(call.input(1), Data):
            each = -(-n // call.outputs)
            sizes = [max(min(each, n - each * at), 0) for at in range(call.outputs)]
        parts: list[Size] = [fresh() for _ in range(call.outputs)] if sizes is None else [int(s) for s in sizes]
        shapes = tuple((*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in parts)
    return Translated("select", (x.name,), shapes, pieces=True)


def _concat(call: Call) -> Constant | Translated:
    if all(isinstance(value, Constant) for value in call.inputs):
        return _folded(call)
    shapes = [value.shape if value is not None else None for value in call.inputs]
    shape = None
    if all(s is not None and len(s) == len(shapes[0] or ()) for s in shapes):
        known = [s for s in shapes if s is not None]
        axis = int(call.attribute("axis", 1)) % len(known[0])
        sizes = [s[axis] for s in known]
        total = sum(n for n in sizes if isinstance(n, int)) if all(isinstance(n, int) for n in sizes) else fresh()
        shape = (*known[0][:axis], total, *known[0][axis + 1 :])
    return Translated("stack", _names(call), (shape,))


def _gather(call: Call) -> Constant | Translated:
    x, at = call.input(0), call.input(1)
    if isinstance(x, Constant) and isinstance(at, Constant):
        return _folded(call)
    if isinstance(x, Constant):
        return Translated("unknown", _names(call), (), {"reason": "a table that is read at positions"})
    call.only(0)
    where = call.constant(1, MAX_FOLDED)
    data = call.data()
    if where is None or data.shape is None:
        raise UnreadError("the shape of its input is not known: give the input shape")
    axis = int(call.attribute("axis", 0)) % len(data.shape)
    n, index = data.shape[axis], np.ravel(where.load()).astype(np.int64)
    index = np.where(index < 0, index + n, index) if isinstance(n, int) else index
    most = int(np.unique(index, return_counts=True)[1].max(initial=1))
    if not isinstance(n, int) and bool((index < 0).any()):
        most = index.size
    return Translated(
        "copies", (data.name,), ((*data.shape[:axis], *where.shape, *data.shape[axis + 1 :]),), {"copies": most}
    )


def _expand(call: Call) -> Constant | Translated:
    x, wanted = call.data(), call.constant(1, 64)
    call.only(0)
    target = None if wanted is None else tuple(int(n) for n in np.ravel(wanted.load()))
    return Translated("broadcast", (x.name,), (broadcast_shapes([x.shape, target]),))


def _tile(call: Call) -> Translated:
    x, wanted = call.data(), call.constant(1, 64)
    call.only(0)
    counts = [int(n) for n in np.ravel(wanted.load())] if wanted is not None else []
    if min(counts, default=0) < 1:
        raise UnreadError("its repeats make no sense here")
    shape = None if x.shape is None else tuple(times(n, r, 0) for n, r in zip(x.shape, counts, strict=True))
    return Translated("copies", (x.name,), (shape,), {"copies": math.prod(counts)})


def _blocks(call: Call) -> Translated:
    x, b = call.data(), int(call.attribute("blocksize", 1))
    if x.shape is None or concrete(x.shape) is None or len(x.shape) != 4 or not 1 <= b <= MAX_AMOUNT:
        return _one(call, "select", None)
    n, c, h, w = concrete(x.shape) or (1, 1, 1, 1)
    deeper = call.operator == "SpaceToDepth"
    shape = (n, c * b * b, h // b, w // b) if deeper else (n, c // (b * b), h * b, w * b)
    return _one(call, "select", shape)


# -- constants -----------------------------------------------------------------------------------------------------
def _constant(call: Call) -> Constant:
    proto = call.attributes.get("value")
    if proto is not None and proto.HasField("t"):
        return call.describe(proto.t, call.label)
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        found = call.attribute(name)
        if found is not None:
            return constant_of(np.asarray(found, dtype=dtype), call.label)
    raise UnreadError("a constant of a kind that is not read")


def _shape_of(call: Call) -> Constant | Translated:
    x = call.input(0)
    known = None if x is None else concrete(x.shape)
    if known is None:
        return Translated("held")
    part = known[slice(call.attribute("start", 0), call.attribute("end", None))]
    return constant_of(np.asarray(part, dtype=np.int64), call.label)


def _filled(call: Call) -> Constant | Translated:
    wanted = call.input(0)
    if not isinstance(wanted, Constant) or wanted.size > 16:
        return Translated("held")
    shape = tuple(int(n) for n in np.ravel(wanted.load()))
    if not 0 <= math.prod(shape) <= MAX_FOLDED or min(shape, default=0) < 0:
        return Translated("held")
    proto = call.attributes.get("value")
    value = 0.0 if proto is None else np.ravel(call.describe(proto.t, f"{call.label} value").load())[0]
    return constant_of(np.full(shape, value), call.label)


_CASTS = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def _folded(call: Call) -> Constant | Translated:
    """Evaluate small constants, so that shapes computed in the graph are known; larger ones stay unknown constants."""
    values = [value for value in call.inputs if value is not None]
    if not all(isinstance(v, Constant) and v.size <= MAX_FOLDED and v.refusal is None for v in values):
        if any(isinstance(v, Data) and not v.held for v in values):
            raise UnreadError(f"{call.operator} has no rule here")
        return Translated("held", _names(call))
    a = [v.load() for v in values if isinstance(v, Constant)]
    if sum(x.size for x in a) > MAX_FOLDED:
        return Translated("held")
    axis = int(call.attribute("axis", 0))
    with np.errstate(all="ignore"):
        if call.operator == "Gather":
            found = np.take(a[0], a[1].astype(np.int64), axis=axis)
        elif call.operator == "Concat":
            found = np.concatenate([np.atleast_1d(x) for x in a], axis=axis)
        elif call.operator == "Cast":
            found = a[0].astype(_CASTS[int(call.attribute("to"))])
        elif call.operator == "Slice":
            starts, ends, axes, steps = _slices(call, a[0].ndim)
            cuts = [slice(None)] * a[0].ndim
            for start, end, at, step in zip(starts, ends, axes, steps, strict=True):
                cuts[at] = slice(start, end if abs(end) < 2**31 else None, step)
            found = a[0][tuple(cuts)]
        elif call.operator in ("Add", "Sub", "Mul", "Div"):
            whole = call.operator == "Div" and a[0].dtype.kind == "i"
            apply = {
                "Add": np.add,
                "Sub": np.subtract,
                "Mul": np.multiply,
                "Div": np.floor_divide if whole else np.divide,
            }
            found = apply[call.operator](a[0], a[1])
        else:
            return Translated("held")
    return constant_of(np.asarray(found), call.label) if found.size <= MAX_FOLDED else Translated("held")


def _or_folded(operator: Operator) -> Operator:
    """Fold if no input is data."""
    return lambda call: operator(call) if any(isinstance(v, Data) for v in call.inputs) else _folded(call)


def _same_shape(rule: str) -> Operator:
    return lambda call: _one(call, rule, call.data().shape)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "ConvTranspose": _conv, "MatMul": _matmul, "Gemm": _gemm, "BatchNormalization": _batch_norm,
    "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _global("mean"), "GlobalMaxPool": _global("length"),
    "ReduceMean": _reduce("mean"), "ReduceSum": _reduce("sum"), "ReduceMax": _reduce("length"),
    "ReduceMin": _reduce("length"), "ReduceL2": _reduce("length"), "Resize": _resize, "Upsample": _resize, "Pad": _pad,
    "Relu": _function("relu"), "LeakyRelu": _function("leaky", 0.01), "Elu": _function("leaky"), "Celu": _celu,
    "Sigmoid": _function("sigmoid"), "Tanh": _function("tanh"), "Softplus": _function("softplus"),
    "Softsign": _function("softsign"), "HardSigmoid": _function("linear", 0.2), "HardSwish": _function("hard_swish"),
    "Mish": _function("mish"), "Swish": _function("silu"), "Erf": _function("erf"), "Abs": _function("abs"),
    "Neg": _function("negative"), "Sin": _function("sin"), "Cos": _function("cos"), "Atan": _function("arctan"),
    "Clip": _function("clip"), "Selu": _selu, "Gelu": _gelu, "PRelu": _prelu,
    "Add": _or_folded(_add), "Sub": _or_folded(_add), "Sum": _add, "Mean": _add, "Mul": _or_folded(_multiply),
    "Div": _or_folded(_divide), "Max": _extreme, "Min": _extreme, "Where": _where,
    "Softmax": _same_shape("softmax"), "LogSoftmax": _log_softmax,
    "Reshape": _reshape, "Transpose": _transpose, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _squeeze,
    "Identity": _identity, "Dropout": _identity, "Cast": _cast, "DequantizeLinear": _dequantize, "Slice": _slice,
    "Split": _split, "Concat": _concat, "Gather": _gather, "Expand": _expand, "Tile": _tile,
    "DepthToSpace": _blocks, "SpaceToDepth": _blocks,
    "Constant": _constant, "ConstantOfShape": _filled, "Shape": _shape_of,
}  # fmt: skip
"""Operator -> translation. Everything else is unknown."""
