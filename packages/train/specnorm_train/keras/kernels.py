"""Kernels of Keras's layers in a layout of specnorm."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import keras

from specnorm.errors import GeometryError

LayerKind: TypeAlias = Literal["conv", "transposed", "depthwise", "dense"]
_KINDS = ("conv", "transposed", "depthwise", "dense")
_LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
"""Layout of Keras's kernels, by their number of axes."""
_LAYER_BY_AXES = {2: "dense", 4: "conv", 5: "conv"}
"""Default kind of layer, by the number of axes of its kernel; 3 axes are ambiguous."""


@dataclass
class KernelLayer:
    """What a kernel of Keras does not tell of its layer. Parameters as in `SpectralNorm`."""

    layer: LayerKind | None = None
    strides: int | tuple[int, ...] | list[int] = 1
    dilation_rate: int | tuple[int, ...] | list[int] = 1
    groups: int = 1
    input_axes: int = 1

    def __post_init__(self) -> None:
        if self.layer not in (None, *_KINDS):
            raise GeometryError(f"layer={self.layer!r} is not one of {', '.join(_KINDS)}.")
        for name in ("strides", "dilation_rate", "groups", "input_axes"):
            value = getattr(self, name)
            has_axes = name in ("strides", "dilation_rate") and isinstance(value, tuple | list)
            numbers = value if has_axes else [value]
            if not all(isinstance(n, int) and n > 0 for n in numbers):
                raise GeometryError(f"{name}={value!r}; expected a positive integer, or for strides one for each axis.")
        # In the form that JSON restores: lists instead of tuples.
        self.strides, self.dilation_rate = _plain(self.strides), _plain(self.dilation_rate)

    def oriented(self, kernel: Any) -> tuple[Any, dict[str, Any]]:
        """Return the kernel in a layout of specnorm, and the geometry keywords."""
        shape = tuple(kernel.shape)
        layer = self.layer or _LAYER_BY_AXES.get(len(shape))
        if layer is None:
            raise GeometryError(
                f"a kernel of shape {shape} may be that of Conv1D or of EinsumDense (MultiHeadAttention): say "
                "layer='conv', or layer='dense' with input_axes, the number of its first axes that are inputs."
            )
        if layer == "dense":
            if not 0 < self.input_axes < len(shape):
                raise GeometryError(f"input_axes={self.input_axes} of a kernel of shape {shape}: give fewer than all.")
            inputs = math.prod(shape[: self.input_axes])
            return keras.ops.reshape(kernel, (inputs, -1)), {"layout": "IO"}
        if not 3 <= len(shape) <= 5:
            raise GeometryError(f"layer={layer!r}: a kernel of shape {shape} has no spatial axes.")
        geometry: dict[str, Any] = {
            "stride": self.strides,
            "dilation": self.dilation_rate,
            "layout": _LAYOUTS[len(shape)],
        }
        if layer == "transposed":
            return kernel, {**geometry, "transposed": True}
        if layer == "depthwise":
            # Keras stores (*taps, cin, multiplier); a layer with cin groups has (*taps, 1, cin * multiplier).
            *taps, cin, multiplier = shape
            grouped = keras.ops.reshape(kernel, (*taps, 1, cin * multiplier))
            return grouped, {**geometry, "groups": cin}
        return kernel, {**geometry, "groups": self.groups}

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for Keras's ``get_config()``."""
        return asdict(self)


def _plain(counts: int | tuple[int, ...] | list[int]) -> int | list[int]:
    return counts if isinstance(counts, int) else [int(n) for n in counts]
