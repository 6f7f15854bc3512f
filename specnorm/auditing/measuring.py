"""One layer -> one row: the geometry that is assumed, the proven interval, the methods' columns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from specnorm.api import measure
from specnorm.auditing.layers import Layer
from specnorm.auditing.placement import place
from specnorm.auditing.provenance import origin
from specnorm.auditing.report import CIRCULAR, INTERVAL, STANDARD, Origin, Row, Value
from specnorm.backends import Array, backend_for
from specnorm.conv import ConvSpec, PaddingMode
from specnorm.errors import SpecnormError
from specnorm.methods import METHODS
from specnorm.result import Result

NEEDS_A_SIZE = frozenset({"power"})
"""Methods that answer at one input size only."""
AT_A_SIZE = NEEDS_A_SIZE | {"fft", "gram", "enclose"}
"""Methods that answer at the input size where one is given; the others for every size at once."""
CIRCULAR_AT_A_SIZE = frozenset({"fft"})
"""Methods that answer at one input size for a circular layer only."""

EVERY_SIZE = "enclose, every size"
SMALL = 2**17
"""Pixels times channels of a layer up to which it is enclosed itself: a product takes milliseconds."""


@dataclass(frozen=True)
class Settings:
    """How to measure, the same for every layer of an audit. Plain values, so that it crosses process borders.

    Parameters
    ----------
    methods : tuple of str
        Names in ``METHODS``.
    input_shape : int, tuple of int or None
    layout : str or None
        Axis order of the kernels; names the convention, so that ``"HWIO"`` reads a 3-axis kernel as ``"WIO"``.
    padding_mode : str or None
        None: zeros, and the row says that it was assumed.
    backend, device : str or None
        Library and device to measure with; None: the array's own.
    """

    methods: tuple[str, ...] = STANDARD
    input_shape: int | tuple[int, ...] | None = None
    layout: str | None = None
    padding_mode: PaddingMode | None = None
    backend: str | None = None
    device: str | None = None


def describe(layer: Layer, settings: Settings) -> Row:
    """Row of a layer before it is measured: its geometry and what of it is assumed.

    Parameters
    ----------
    layer : Layer
    settings : Settings

    Returns
    -------
    Row
        Without values; with a reason if the geometry does not fit the shape.
    """
    shape = layer.tensor.shape
    columns = [*settings.methods, *([CIRCULAR] if settings.input_shape is not None else [])]
    blank = Row(layer.tensor.name, layer.kind, shape, None, values=dict.fromkeys(columns), reason=layer.refusal)
    layout = _layout(settings.layout, len(shape))
    try:
        spec = ConvSpec.of(
            shape,
            layout=layout,
            padding_mode=settings.padding_mode or "zeros",
            input_shape=() if layer.kind == "linear" and settings.input_shape is not None else settings.input_shape,
        )
    except SpecnormError as error:
        return replace(blank, reason=layer.refusal or str(error))
    return replace(blank, spec=spec, assumed=(*_assumed(layer, layout, settings), *layer.assumed))


def fill(row: Row, kernel: Array, settings: Settings) -> Row:
    """Measure a layer. Whatever goes wrong becomes the row's reason; what was measured before it is kept.

    Parameters
    ----------
    row : Row
        From `describe`.
    kernel : array
    settings : Settings

    Returns
    -------
    Row
    """
    if row.reason is not None or row.spec is None:
        return row
    try:
        if settings.backend is not None:
            kernel = place(kernel, settings.backend, settings.device)
        take = _Results(kernel, row.spec)
        lower, upper = interval(take, row.spec)
        row = replace(row, lower=lower, upper=upper, origins={INTERVAL: take.ends})
        for column in row.values:
            result = take("fft" if column == CIRCULAR else column)
            row = replace(
                row,
                values={**row.values, column: _value(result)},
                promises={**row.promises, column: result.kind},
                origins={**row.origins, column: origin(result)},
            )
    except SpecnormError as error:
        return replace(row, reason=str(error))
    except Exception as error:  # one bad layer must not lose the others
        return replace(row, reason=f"{type(error).__name__}: {error}")
    return row


def interval(take: Callable[[str], Result], spec: ConvSpec) -> tuple[float, float]:
    """Proven ends of a layer's norm, at ``spec.input_shape`` or (None) of its supremum over all input sizes.

    Small inputs: of the layer itself. Large ones, whose products take long: the supremum's upper end, which holds at
    every size, and its lower end times the root of the share of outputs that see no padding. Fed with a plane wave at
    the best frequency, those outputs alone carry that much of its energy, whatever the padding is.

    Parameters
    ----------
    take : callable
        Method name -> its result for this layer.
    spec : ConvSpec
        Stride 1, dilation 1.

    Returns
    -------
    lower, upper : float
    """
    small = spec.input_shape is None or math.prod(spec.input_shape) * max(spec.cin, spec.cout) <= SMALL
    found = take("enclose" if small else EVERY_SIZE)
    lower, upper = _number(found.stats["lower"]), _number(found.value)
    if small or spec.input_shape is None:
        return lower, upper
    whole = [n - k + 1 for n, k in zip(spec.input_shape, spec.kernel_shape, strict=True)]
    if min(whole, default=1) < 1:
        return 0.0, upper
    share = Fraction(math.prod(whole), math.prod(spec.input_shape))
    return max(_times_root_down(lower, share), _number(take("reshaped").value)), upper


def _times_root_down(x: float, share: Fraction) -> float:
    """``x sqrt(share)`` rounded down, checked in rational numbers."""
    y = x * math.sqrt(share)
    while Fraction(y) ** 2 > Fraction(x) ** 2 * share:
        y = math.nextafter(y, 0.0)
    return y


class _Results:
    """Results of one layer by method name, each computed once."""

    def __init__(self, kernel: Array, spec: ConvSpec) -> None:
        self.kernel = kernel
        self.spec = spec
        self.known: dict[str, Result] = {}

    def __call__(self, name: str) -> Result:
        if name not in self.known:
            geometry: dict[str, Any] = {"layout": self.spec.layout, "padding_mode": self.spec.padding_mode}
            if name in AT_A_SIZE:
                geometry["input_shape"] = self.spec.input_shape
            if name in CIRCULAR_AT_A_SIZE and self.spec.input_shape is not None:
                geometry["padding_mode"] = "circular"
            method = METHODS["enclose" if name == EVERY_SIZE else name]()
            self.known[name] = measure(self.kernel, method, **geometry)
        return self.known[name]

    @property
    def ends(self) -> Origin:
        """Where the two ends of `interval` came from."""
        if "enclose" in self.known:
            return origin(self.known["enclose"])
        return replace(origin(self.known[EVERY_SIZE]), detail="lower times the share of outputs that see no padding")


def _value(result: Result) -> Value:
    if len(result.value.shape) == 0:
        return _number(result.value)
    return tuple(float(x) for x in backend_for(result.value).to_numpy(result.value).reshape(-1))


def _number(x: Array) -> float:
    """The number in a 0-d array, exactly; through the plugin, which knows how to detach it."""
    return float(backend_for(x).to_numpy(x))


def _layout(layout: str | None, axes: int) -> str | None:
    """Layout for a kernel with so many axes, in the convention that ``layout`` names."""
    if layout is None:
        return None
    spatial = "DHW"[5 - axes :]
    return f"{spatial}IO" if layout.endswith("IO") else f"OI{spatial}"


def _assumed(layer: Layer, layout: str | None, settings: Settings) -> tuple[str, ...]:
    if layer.kind == "linear":
        return ()  # a matrix has no geometry, and its norm does not depend on which axis is the output
    words = ["stride=1", "dilation=1", "groups=1", "transposed=False"]
    if settings.layout is None:
        words.append(f"layout=OI{'DHW'[5 - len(layer.tensor.shape) :]}")
    elif layout != settings.layout:
        words.append(f"layout={layout}")
    if settings.padding_mode is None:
        words.append("padding_mode=zeros")
    return (*words, "padding=same")
