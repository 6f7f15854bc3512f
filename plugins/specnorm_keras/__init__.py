"""Keras 3 for specnorm: a constraint, a regulariser and a monitor of norms, on Keras's torch and JAX backends.

They hand a layer's kernel to specnorm's own functions; the plugin of its arrays serves it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import keras

import specnorm
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import METHODS
from specnorm.plugin import ModelMonitor, Reading, check_bound, keras_callback, keras_reading

__all__ = ["NormMonitor", "SpectralNorm", "SpectralRegularizer"]

LayerKind: TypeAlias = Literal["conv", "transposed", "depthwise", "dense"]
_KINDS = ("conv", "transposed", "depthwise", "dense")
_LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
_LAYER_BY_AXES = {2: "dense", 4: "conv", 5: "conv"}
"""The layer of a kernel with so many axes, if none is told; 3 axes leave it open."""


class _KernelNorm:
    """The norm of a kernel, by the geometry of its layer: the constraint and the regulariser share it."""

    def __init__(
        self,
        layer: LayerKind | None,
        strides: int | tuple[int, ...],
        dilation_rate: int | tuple[int, ...],
        groups: int,
        input_axes: int,
        method: str,
    ) -> None:
        if layer not in (None, *_KINDS):
            raise GeometryError(f"layer={layer!r} is not one of {', '.join(_KINDS)}.")
        if method not in METHODS:
            raise MethodError(f"method={method!r} is not one of {', '.join(METHODS)}.")
        self.layer = layer
        self.strides = _plain(strides)
        self.dilation_rate = _plain(dilation_rate)
        self.groups = groups
        self.input_axes = input_axes
        self.method = method

    def norm(self, kernel: Any) -> Any:
        """Return the norm of a kernel, a tensor of Keras's backend."""
        matrix, geometry = self._geometry(kernel)
        return specnorm.measure(matrix, METHODS[self.method](), **geometry).value

    def _geometry(self, kernel: Any) -> tuple[Any, dict[str, Any]]:
        """Return the kernel as that of a layer that specnorm has, and the layer's geometry."""
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
            "stride": self.strides, "dilation": self.dilation_rate, "layout": _LAYOUTS[len(shape)]
        }  # fmt: skip
        if layer == "transposed":
            return kernel, {**geometry, "transposed": True}
        if layer == "depthwise":
            # Stored (*taps, cin, times); a layer with cin groups has (*taps, 1, cin * times).
            *taps, cin, times = shape
            grouped = keras.ops.reshape(kernel, (*taps, 1, cin * times))
            return grouped, {**geometry, "groups": cin}
        return kernel, {**geometry, "groups": self.groups}

    def config(self) -> dict[str, Any]:
        """Return the arguments of the layer's geometry, and the method."""
        return {
            "layer": self.layer, "strides": self.strides, "dilation_rate": self.dilation_rate, "groups": self.groups,
            "input_axes": self.input_axes, "method": self.method,
        }  # fmt: skip


@keras.saving.register_keras_serializable(package="specnorm")
class SpectralNorm(keras.constraints.Constraint):  # type: ignore[misc] # Keras has no types
    """Constraint that sets a kernel's norm to ``bound`` after each step of the optimiser.

    ::

        keras.layers.Conv2D(64, 3, kernel_constraint=SpectralNorm())
        keras.layers.Conv2D(64, 3, strides=2, kernel_constraint=SpectralNorm(strides=2))
        keras.layers.DepthwiseConv2D(3, depthwise_constraint=SpectralNorm(layer="depthwise"))

    Parameters
    ----------
    bound : float, default 1
        Positive.
    layer : {"conv", "transposed", "depthwise", "dense"}, optional
        What the kernel is of. None: of Dense where it has two axes, of a convolution where it has 4 or 5. A kernel with
        3 axes is Conv1D's (``"conv"``) or EinsumDense's (``"dense"``).
    strides, dilation_rate : int or tuple of int, default 1
        The layer's.
    groups : int, default 1
        The layer's.
    input_axes : int, default 1
        Of a dense layer: how many of the kernel's first axes are inputs.
    only_shrink : bool, default False
        Leave kernels below the bound as they are.
    method : str, default "symbol"
        Name of a method, see `specnorm.methods.METHODS`. "symbol" is the norm itself, from below, within about
        0.1 % of it. "completion" and "gram" are upper bounds: no norm exceeds ``bound`` then, up to the rounding of
        the division.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite.
    GeometryError
        If the layer is of no such kind; at the first step, if the kernel's axes do not say what it is of.
    MethodError
        If there is no such method.

    Notes
    -----
    Keras applies constraints after steps: the kernel that a layer is made with is not constrained. A constraint of
    Keras has no state, so that the norm is computed anew each time, some 10 times the cost of a tracked step.
    """

    def __init__(
        self,
        bound: float = 1.0,
        *,
        layer: LayerKind | None = None,
        strides: int | tuple[int, ...] = 1,
        dilation_rate: int | tuple[int, ...] = 1,
        groups: int = 1,
        input_axes: int = 1,
        only_shrink: bool = False,
        method: str = "symbol",
    ) -> None:
        check_bound(bound)
        self.bound = bound
        self.only_shrink = only_shrink
        self._norm = _KernelNorm(layer, strides, dilation_rate, groups, input_axes, method)

    def __call__(self, w: Any) -> Any:
        """Return the kernel with its norm at the bound; a zero kernel as it is."""
        ops = keras.ops
        kernel = ops.stop_gradient(ops.convert_to_tensor(w))
        norm = self._norm.norm(kernel)
        is_divided = norm > self.bound if self.only_shrink else norm > 0
        divisor = ops.where(is_divided, norm, 1.0)
        factor = ops.where(is_divided, self.bound / divisor, 1.0)
        return ops.cast(kernel * factor, kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"bound": self.bound, "only_shrink": self.only_shrink, **self._norm.config()}


@keras.saving.register_keras_serializable(package="specnorm")
class SpectralRegularizer(keras.regularizers.Regularizer):  # type: ignore[misc] # Keras has no types
    """Regulariser: ``factor`` times a function of a kernel's norm.

    ::

        keras.layers.Conv2D(64, 3, kernel_regularizer=SpectralRegularizer(0.01, form="hinge"))

    Parameters
    ----------
    factor : float, default 0.01
    form : {"sum", "log", "hinge"}, default "sum"
        Of a norm s: s, log s (zero for a zero kernel), or max(s - target, 0).
    target : float, default 1
        Of the hinge.
    layer, strides, dilation_rate, groups, input_axes, method
        See `SpectralNorm`.

    Raises
    ------
    GeometryError, MethodError
        See `SpectralNorm`; also MethodError if ``form`` is none of them.
    """

    def __init__(
        self,
        factor: float = 0.01,
        *,
        form: Literal["sum", "log", "hinge"] = "sum",
        target: float = 1.0,
        layer: LayerKind | None = None,
        strides: int | tuple[int, ...] = 1,
        dilation_rate: int | tuple[int, ...] = 1,
        groups: int = 1,
        input_axes: int = 1,
        method: str = "symbol",
    ) -> None:
        if form not in ("sum", "log", "hinge"):
            raise MethodError(f"form={form!r} is not one of 'sum', 'log', 'hinge'.")
        self.factor = factor
        self.form = form
        self.target = target
        self._norm = _KernelNorm(layer, strides, dilation_rate, groups, input_axes, method)

    def __call__(self, x: Any) -> Any:
        """Return the penalty of a kernel."""
        ops = keras.ops
        value = self._norm.norm(ops.convert_to_tensor(x))
        if self.form == "log":
            value = ops.log(ops.where(value > 0, value, 1.0))
        elif self.form == "hinge":
            value = ops.maximum(value - self.target, 0.0)
        return self.factor * value

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"factor": self.factor, "form": self.form, "target": self.target, **self._norm.config()}


class NormMonitor(ModelMonitor):
    """Norms of a model's layers every so many steps, and now and then proven upper bounds.

    ``monitor(step)`` returns a dictionary for any logger: `specnorm.plugin.Monitor` says what is in it. ``callback()``
    makes a callback of Keras.

    Parameters
    ----------
    model : keras.Model
        Built.
    every : int, default 100
        Number of steps between two reports.
    select : callable, optional
        ``select(name, layer)`` says whether a layer counts. None: every layer does.
    upper, budget
        See `specnorm.plugin.Monitor`.
    """

    def read(self) -> Reading:
        """Return the model's layers."""
        return keras_reading(self.model, self.select)

    def callback(self) -> Any:
        """Make a callback of Keras: the last report joins the logs of each epoch."""
        return keras_callback(self, keras.callbacks.Callback)


def _plain(counts: int | tuple[int, ...] | list[int]) -> int | list[int]:
    """Return strides or dilations as JSON gives them back: a list for a tuple."""
    return counts if isinstance(counts, int) else [int(n) for n in counts]
