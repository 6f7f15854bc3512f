"""A constraint and a regularizer of Keras, which pass a layer's kernel, a torch or JAX array, to specnorm."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Literal, TypeVar

import keras

import specnorm
from specnorm._internal import check_bound, check_flag, check_number, check_word, check_words
from specnorm.errors import MethodError
from specnorm.methods import METHODS
from specnorm_train.keras.kernels import KernelLayer, LayerKind

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
    """A function from a kernel to its norm, for a layer's geometry; shared by the constraint and the regularizer.

    Parameters as in `SpectralNorm`.
    """

    def __init__(self, method: str, **layer: Any) -> None:
        if method not in _NORMS:
            raise MethodError(
                f"method={method!r} is not one of {', '.join(_NORMS)}: the methods that measure a layer's norm without "
                "an input size."
            )
        self.layer = KernelLayer(**layer)
        self.method = method

    def norm(self, kernel: Any) -> Any:
        """Return the norm of a kernel, a tensor of Keras's backend; NaN for a non-finite kernel."""
        ops = keras.ops
        # `measure` refuses values that are not finite where it sees them: the training loop would end with its error.
        finite = ops.where(ops.isfinite(kernel), kernel, ops.zeros_like(kernel))
        oriented, geometry = self.layer.oriented(finite)
        norm = specnorm.measure(oriented, METHODS[self.method](), **geometry).value
        # 0 times infinity or NaN is NaN.
        return norm + ops.cast(ops.sum(kernel * 0), norm.dtype)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for Keras's ``get_config()``."""
        return {**self.layer.config(), "method": self.method}


@keras.saving.register_keras_serializable(package="specnorm")
class SpectralNorm(keras.constraints.Constraint):  # type: ignore[misc] # Keras has no types
    """Constraint that sets a kernel's norm to ``bound`` after each step of the optimizer.

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
        "gram" is an upper bound: with it no norm exceeds ``bound``, up to the rounding of the division.

    Raises
    ------
    KernelError
        If ``bound`` is not positive and finite.
    GeometryError
        If ``layer`` is not one of these; at the first step, if the kind of the layer is ambiguous.
    MethodError
        If there is no such method.

    Notes
    -----
    Keras applies constraints after steps of the optimizer, so the initial kernel of a layer is not constrained. Keras's
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
        check_flag("only_shrink", only_shrink)
        self.bound = bound
        self.only_shrink = only_shrink
        self._norm = _KernelNorm(
            method,
            layer=layer,
            strides=strides,
            dilation_rate=dilation_rate,
            groups=groups,
            input_axes=input_axes,
        )

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
    """Regularizer: ``factor`` times a function of a kernel's norm.

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
        See `SpectralNorm`; also MethodError if ``form`` is not one of these.
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
        check_word("form", form, ("sum", "log", "hinge"))
        self.factor = check_number("factor", factor)
        self.form = form
        self.target = check_number("target", target)
        self._norm = _KernelNorm(
            method,
            layer=layer,
            strides=strides,
            dilation_rate=dilation_rate,
            groups=groups,
            input_axes=input_axes,
        )

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
