"""Norms of a model's layers while it is trained, as numbers for any logger."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import specnorm
from specnorm.errors import MethodError
from specnorm.plugin import layer_kernel
from specnorm_torch.modules import Select, at_inference, layers_of

_BOUND = specnorm.Completion(every=1)
_SWEEPS = 4
"""A kernel has moved by many steps between two measurements."""


class NormMonitor:
    """Norms of a model's layers, their product, and upper bounds, every so many steps.

    ``monitor(step)`` returns a dictionary for any logger: ``norm/NAME``, an estimate at every input size that is the
    layer's norm or somewhat above it (`TensorNorm`); ``upper/NAME``, a proven upper bound of the norm (`Completion`,
    followed from the time before); and ``norm/product`` and ``upper/product``, the products over all layers, up to
    their rounding. Weights are those that the model uses in ``eval()``; the model is as before. `lightning`,
    `transformers` and `keras` make callbacks.

    Parameters
    ----------
    model : Module
        Of torch, or of Keras 3 on torch.
    every : int, default 100
        Steps between measurements.
    select : callable, optional
        ``select(name, layer)``: whether a layer counts; None: every convolution and linear layer.
    upper : bool, default True
        Whether to bound from above too, for some ten times the time of the estimates.

    Raises
    ------
    MethodError
        If no layer is selected.
    GeometryError
        If a layer has a ``forward`` of its own.
    """

    def __init__(self, model: nn.Module, every: int = 100, *, select: Select | None = None, upper: bool = True) -> None:
        if every < 1:
            raise MethodError(f"every={every!r} must be a positive number of steps.")
        self.model, self.every, self.upper = model, every, upper
        keras = hasattr(model, "layers") and hasattr(model, "fit")
        layers = _keras_layers(model) if keras else dict(layers_of(model))
        self._layers = {name: x for name, x in layers.items() if select is None or select(name, x)}
        with at_inference(model):
            for layer in self._layers.values():
                layer_kernel(layer)  # refuses one with a forward of its own
        if not self._layers:
            raise MethodError("the model has no convolution or linear layer that is selected.")
        self._states: dict[str, dict[str, Tensor]] = {}

    def __call__(self, step: int) -> dict[str, float]:
        """Return the norms at steps that ``every`` divides, else an empty dictionary."""
        return {} if step % self.every else self.norms()

    def norms(self) -> dict[str, float]:
        """Return the norms now."""
        found: dict[str, dict[str, float]] = {"norm": {}, "upper": {}}
        with at_inference(self.model):
            for name, layer in self._layers.items():
                kernel, geometry, _ = layer_kernel(layer)
                kernel = kernel.detach()
                found["norm"][name] = float(specnorm.tn_bound(kernel, certified=False, **geometry))
                if self.upper:
                    if name not in self._states:
                        self._states[name] = specnorm.init_tracking(kernel, _BOUND, **geometry)
                    value, self._states[name] = specnorm.track(
                        kernel, _BOUND, self._states[name], sweeps=_SWEEPS, **geometry
                    )
                    found["upper"][name] = float(value)
        for values in found.values():
            if values:
                values["product"] = math.prod(values.values())
        return {f"{kind}/{name}": x for kind, values in found.items() for name, x in values.items()}

    def lightning(self) -> Any:
        """Make a Lightning callback, which calls ``log_dict`` of the module."""
        base = _first("lightning.pytorch", "pytorch_lightning").Callback

        def on_train_batch_end(_: Any, trainer: Any, module: Any, *_arguments: Any, **_keywords: Any) -> None:
            if values := self(trainer.global_step):
                module.log_dict(values)

        return type("NormMonitorCallback", (base,), {"on_train_batch_end": on_train_batch_end})()

    def transformers(self, log: Callable[[dict[str, float]], object]) -> Any:
        """Make a callback of Transformers: ``trainer.add_callback(monitor.transformers(trainer.log))``."""
        base = _first("transformers").TrainerCallback

        def on_step_end(_self: Any, _args: Any, state: Any, _control: Any, **_keywords: Any) -> None:
            if values := self(state.global_step):
                log(values)

        return type("NormMonitorCallback", (base,), {"on_step_end": on_step_end})()

    def keras(self) -> Any:
        """Make a callback of Keras 3: the last norms join the logs of each epoch."""
        base = _first("keras").callbacks.Callback
        seen: dict[str, Any] = {"step": 0, "values": {}}

        def on_train_batch_end(*_arguments: Any, **_keywords: Any) -> None:
            seen["step"] += 1
            seen["values"] = self(seen["step"]) or seen["values"]

        def on_epoch_end(_self: Any, _epoch: int, logs: dict[str, Any] | None = None) -> None:
            if logs is not None:
                logs.update(seen["values"])

        members = {"on_train_batch_end": on_train_batch_end, "on_epoch_end": on_epoch_end}
        return type("NormMonitorCallback", (base,), members)()


def _first(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MethodError(f"{' or '.join(names)} is not installed here.")


def _keras_layers(model: Any) -> dict[str, Any]:
    """Keras's dense and plain convolution layers; those that are neither do not count, as in torch."""
    plain = ("Dense", "Conv1D", "Conv2D", "Conv3D")
    return {x.name: x for x in model._flatten_layers(include_self=False) if type(x).__name__ in plain}
