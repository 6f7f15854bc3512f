"""The audit of a live model: geometry from its modules, input sizes from a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import specnorm
from specnorm.auditing.report import STANDARD, Report, Row, Value, least_upper
from specnorm.errors import MethodError, SpecnormError
from specnorm.methods import METHODS
from specnorm.spec import ConvSpec
from specnorm_torch.modules import Select, geometry_of, layers_of, weight_of

_AT_A_SIZE = ("power", "enclose", "fft")


def audit(
    model: nn.Module,
    input_shape: Sequence[int] | Tensor,
    *,
    methods: Sequence[str] = STANDARD,
    select: Select | None = None,
) -> Report:
    """Measure every convolution and linear layer of a model as the model uses it.

    Parameters
    ----------
    model : Module
        Run once on zeros in ``eval()``, without gradients; its state and mode are as before.
    input_shape : sequence of int, or Tensor
        One input without the batch axis, such as ``(3, 32, 32)``; or an input to run, with it.
    methods : sequence of str, default ("tn", "f4", "reshaped")
        Columns, by their names in ``specnorm.METHODS``. "power", "enclose" and "fft" answer at the layer's input size,
        the others for every size.
    select : callable, optional
        ``select(name, layer)``: whether a layer is measured.

    Returns
    -------
    Report
        As `specnorm.audit` returns, with nothing assumed; ``str(report)`` is a table. ``lower`` and ``upper`` are the
        proven ends of the layer's norm at its input size (of the first call, if it is called at several). A layer that
        was not called, or that a method cannot serve, is a row with ``status`` "error" and the reason.

    Raises
    ------
    MethodError
        If a method is unknown or the model has no layer.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise MethodError(f"methods={', '.join(map(repr, unknown))} unknown; expected some of {', '.join(METHODS)}.")
    layers = dict(layers_of(model, select))
    if not layers:
        raise MethodError("the model has no convolution or linear layer that is selected.")
    sizes = _input_sizes(model, layers, input_shape)
    rows = tuple(_row(name, layer, sizes.get(name), tuple(methods)) for name, layer in layers.items())
    return Report(specnorm.__version__, type(model).__name__, rows, 0)


def _input_sizes(
    model: nn.Module, layers: dict[str, nn.Module], given: Sequence[int] | Tensor
) -> dict[str, tuple[int, ...]]:
    """Spatial sizes of the input of each layer that a forward pass calls."""
    sizes: dict[str, tuple[int, ...]] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            spatial = weight_of(layer).ndim - 2
            shape = tuple(inputs[0].shape)
            sizes.setdefault(name, shape[len(shape) - spatial :])

        return layer.register_forward_pre_hook(hook)

    modes = {module: module.training for module in model.modules()}
    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        model.eval()
        like = next(iter(layers.values())).weight
        with torch.no_grad():
            model(given if isinstance(given, Tensor) else torch.zeros(1, *given).to(like))  # type: ignore[arg-type]
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return sizes


def _row(name: str, layer: nn.Module, size: tuple[int, ...] | None, methods: tuple[str, ...]) -> Row:
    """Measure one layer; whatever goes wrong becomes the row's reason, and what was measured before it is kept."""
    linear = isinstance(layer, nn.Linear)
    values: dict[str, Value] = dict.fromkeys(methods)
    promises: dict[str, Any] = {}
    shape: tuple[int, ...] = ()
    spec, lower, upper, reason = None, None, None, None
    try:
        with torch.no_grad():
            weight = weight_of(layer).detach()
        shape = tuple(weight.shape)
        if size is None:
            reason = "the forward pass did not call this layer: its input size is not known."
        every, here = geometry_of(layer), geometry_of(layer, size)
        spec = ConvSpec.of(shape, **here)
        found = specnorm.enclose(weight, **here)
        lower, upper = float(found.lower), float(found.upper)
        for method in methods:
            result = specnorm.measure(weight, METHODS[method](), **(here if method in _AT_A_SIZE else every))
            promises[method] = result.kind
            values[method] = float(result.value) if not result.value.ndim else tuple(result.value.tolist())
    except SpecnormError as error:
        reason = reason or str(error)
    except Exception as error:  # one bad layer must not lose the others
        reason = reason or f"{type(error).__name__}: {error}"
    kind: Any = "linear" if linear else "conv"
    title = f"{name}.weight" if name else "weight"
    return least_upper(Row(title, kind, shape, spec, (), lower, upper, values, promises, reason))
