"""Keras's own layers, whichever library they compute with: kernel and geometry, read off their attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specnorm.errors import GeometryError
from specnorm.library import LayerKernel
from specnorm.problem.padding import same_upper
from specnorm.problem.spec import per_axis

_CONVOLUTIONS = tuple(f"Conv{d}D" for d in (1, 2, 3))
_TRANSPOSED = tuple(f"Conv{d}DTranspose" for d in (1, 2, 3))
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_COMPUTING = ("__call__", "call", "convolution_op")
_LAYOUTS = ("IO", "WIO", "HWIO", "DHWIO")


def keras_layer(x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
    """Kernel and geometry of a Keras layer, as `specnorm.plugin.Backend.layer`; None for anything else."""
    known = (*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, "Dense")
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
    kernel = getattr(x.kernel, "value", x.kernel)
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
    return LayerKernel(kernel, {**geometry, "groups": x.groups})
