"""A constraint, a regulariser and a monitor of norms for Keras 3 on its torch and JAX backends.

They pass a layer's kernel, a torch or JAX array, to specnorm's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Literal, TypeAlias, TypeVar

import keras

import specnorm
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import METHODS
from specnorm.plugin import ModelMonitor, Reading, check_bound, check_words, keras_callback, keras_reading

__all__ = ["NormMonitor", "SpectralNorm", "SpectralRegularizer"]

LayerKind: TypeAlias = Literal["conv", "transposed", "depthwise", "dense"]
_KINDS = ("conv", "transposed", "depthwise", "dense")
_LAYOUTS = {2: "IO", 3: "WIO", 4: "HWIO", 5: "DHWIO"}
"""Layout of Keras's kernels, by their number of axes."""
_LAYER_BY_AXES = {2: "dense", 4: "conv", 5: "conv"}
"""Default kind of layer, by the number of axes of its kernel; 3 axes are ambiguous."""

_NORMS = [name for name, method in METHODS.items() if method.quantity == "norm" and name != "power"]
"""Names of the methods that measure a norm. The power method needs an input size, which a constraint does not have."""


_Init = TypeVar("_Init", bound=Callable[..., None])


def _explains_keywords(init: _Init) -> _Init:
    """Return a constructor whose error on an unknown keyword names the one that was probably meant."""
    allowed = [name for name in signature(init).parameters if name != "self"]

    @wraps(init)
    def checked(self: object, *args: Any, **keywords: Any) -> None:
        check_words(type(self).__name__, keywords, allowed)
        init(self, *args, **keywords)

    return checked  # type: ignore[return-value] # the signature is that of `init`


class _KernelNorm:
    """A function from a kernel to its norm, for a layer's geometry; shared by the constraint and the regulariser.

    Parameters as in `SpectralNorm`.
    """

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
        if method not in _NORMS:
            raise MethodError(
                f"method={method!r} is not one of {', '.join(_NORMS)}: the methods that measure a layer's norm without "
                "an input size."
            )
        self.layer = layer
        self.strides = _plain(strides)
        self.dilation_rate = _plain(dilation_rate)
        self.groups = groups
        self.input_axes = input_axes
        self.method = method

    def norm(self, kernel: Any) -> Any:
        """Return the norm of a kernel, a tensor of Keras's backend; NaN for a non-finite kernel."""
        ops = keras.ops
        # `measure` refuses values that are not finite where it sees them: the training loop would end with its error.
        finite = ops.where(ops.isfinite(kernel), kernel, ops.zeros_like(kernel))
        oriented, geometry = self._geometry(finite)
        norm = specnorm.measure(oriented, METHODS[self.method](), **geometry).value
        # 0 times infinity or NaN is NaN.
        return norm + ops.cast(ops.sum(kernel * 0), norm.dtype)

    def _geometry(self, kernel: Any) -> tuple[Any, dict[str, Any]]:
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
        return {
            "layer": self.layer,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "input_axes": self.input_axes,
            "method": self.method,
        }


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
        The kind of the layer. None: "dense" for a kernel with 2 axes, "conv" for one with 4 or 5. A kernel with 3 axes
        belongs to Conv1D (``"conv"``) or EinsumDense (``"dense"``).
    strides, dilation_rate : int or tuple of int, default 1
        As of the layer.
    groups : int, default 1
        As of the layer.
    input_axes : int, default 1
        For a dense layer: the number of the kernel's first axes that are inputs.
    only_shrink : bool, default False
        Whether to leave kernels with a norm below the bound unchanged.
    method : str, default "symbol"
        Name of a method in `specnorm.methods.METHODS` that measures the norm without an input size. "symbol" computes
        the norm from below, within about 0.1 %.
        "completion" and "gram" are upper bounds: with them no norm exceeds ``bound``, up to the rounding of the
        division.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite.
    GeometryError
        If ``layer`` is another word; at the first step, if the kind of the layer is ambiguous.
    MethodError
        If there is no such method.

    Notes
    -----
    Keras applies constraints after steps of the optimiser, so the initial kernel of a layer is not constrained. Keras's
    constraints have no state, so the norm is computed from the beginning each time, at about 10 times the cost of a
    tracked step.

    If an entry of the kernel is NaN or infinite, the constraint makes the whole kernel NaN, as a division by its norm
    does; so does ``spectral_norm`` of the plugins for torch and JAX. The loss is NaN then, which
    ``keras.callbacks.TerminateOnNaN`` notices.
    """

    @_explains_keywords
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
        """Return the kernel, scaled so that its norm is the bound; a zero kernel is returned unchanged.

        A non-finite kernel is returned as NaN.
        """
        ops = keras.ops
        kernel = ops.stop_gradient(ops.convert_to_tensor(w))
        norm = self._norm.norm(kernel)
        # Comparisons with NaN are false, so that a norm of NaN makes the factor NaN.
        is_kept = norm <= (self.bound if self.only_shrink else 0)
        divisor = ops.where(is_kept, ops.ones_like(norm), norm)
        factor = ops.where(is_kept, ops.ones_like(norm), self.bound / divisor)
        return ops.cast(kernel * factor, kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
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
        The function of the norm s: s, log s (0 for a zero kernel), or max(s - target, 0).
    target : float, default 1
        For the form "hinge".
    layer, strides, dilation_rate, groups, input_axes, method
        See `SpectralNorm`.

    Raises
    ------
    GeometryError, MethodError
        See `SpectralNorm`; also MethodError if ``form`` is another word.
    """

    @_explains_keywords
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
        """Return the constructor's arguments."""
        return {"factor": self.factor, "form": self.form, "target": self.target, **self._norm.config()}


class NormMonitor(ModelMonitor):
    """Reports the norms of a model's layers in every so many steps, and proven upper bounds in some of the reports.

    ``monitor(step)`` returns a dictionary for any logger, which `specnorm.plugin.Monitor` describes. ``callback()``
    makes a Keras callback.

    Parameters
    ----------
    model : keras.Model
        Already built.
    every : int, default 100
        Number of steps between two reports.
    select : callable, optional
        ``select(name, layer)`` returns whether to measure a layer. None: all layers are measured.
    upper, budget
        See `specnorm.plugin.Monitor`.
    """

    def read(self) -> Reading:
        """Return the model's layers."""
        return keras_reading(self.model, self.select)

    def callback(self) -> Any:
        """Make a Keras callback that adds the last report to the logs of each epoch."""
        return keras_callback(self, keras.callbacks.Callback)


def _plain(counts: int | tuple[int, ...] | list[int]) -> int | list[int]:
    """Return strides or dilations in the form that JSON restores: a list instead of a tuple."""
    return counts if isinstance(counts, int) else [int(n) for n in counts]
