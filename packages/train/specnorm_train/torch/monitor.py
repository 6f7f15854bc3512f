"""A monitor of the norms of a model's layers during training, as numbers for any logger, and callbacks for trainers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from specnorm_torch.layers import at_inference, check_is_module, is_layer, is_matrix, name_of
from torch import Tensor

from specnorm.errors import MethodError, SpecnormError
from specnorm.plugin import LayerKernel, layer_kernel, reader_of
from specnorm_train.monitoring import ModelMonitor, Reading, read_model

_NO_LINEAR_MAP = ("Norm",)
"""Parts of the names of modules whose matrices are not linear maps of the module's input."""


class NormMonitor(ModelMonitor):
    """Report the spectral norms of a model's layers every few steps, with proven upper bounds in some of the reports.

    ``monitor(step)`` returns a dictionary for any logger, which `specnorm_train.monitoring.Monitor` describes. The
    measured weights are those that the model uses in ``eval()``; the model's mode is restored. `lightning`,
    `transformers` and `keras` make callbacks.

    Parameters
    ----------
    model : Module
        A torch model, or a Keras 3 model on torch.
    every : int, default 100
        Number of steps between two reports.
    select : callable, optional
        ``select(name, layer)`` returns whether to measure a layer. None: all layers are measured.
    upper, budget
        See `specnorm_train.monitoring.Monitor`.
    """

    def read(self) -> Reading:
        """Return the layers of the model in ``eval()``, with copies of their weights."""
        reader = reader_of(self.model)
        if reader is None:
            check_is_module(self.model)
        with at_inference(self.model):
            reading = self._read_torch() if reader is None else read_model(reader, self.model, self.select)
            return {name: _copy(layer) for name, layer in reading.items()}

    def _read_torch(self) -> Reading:
        """Return the layers of a torch model."""
        reading: dict[str, LayerKernel | str] = {}
        for name, module in self.model.named_modules():
            is_inside_of_parametrisation = "parametrizations" in name.split(".")
            is_selected = self.select is None or self.select(name, module)
            if is_inside_of_parametrisation or not is_selected:
                continue
            kind = name_of(module)
            holds_a_matrix = any(x.ndim > 1 for x in module.parameters(recurse=False))
            if is_layer(module) or is_matrix(module):
                try:
                    reading[name] = layer_kernel(module)
                except SpecnormError as error:
                    reading[name] = str(error)
            elif holds_a_matrix and not any(word in kind for word in _NO_LINEAR_MAP):
                reading[name or kind] = f"a {kind} is not measured"
        return reading

    def lightning(self) -> Any:
        """Make a Lightning callback, which calls the module's ``log_dict``.

        Lightning counts steps of optimizers: none in a batch whose gradients are accumulated, two where two optimizers
        step. There is one report for each ``every`` steps, after the batch that completes them.
        """
        base = _first_installed("lightning.pytorch", "pytorch_lightning").Callback
        last_report: int | None = None

        def on_train_batch_end(
            _: Any,
            trainer: Any,
            module: Any,
            *_arguments: Any,
            **_keywords: Any,
        ) -> None:
            nonlocal last_report
            if last_report is None:
                # The first call, perhaps of a resumed run: take the step before this one as the last that was seen.
                last_report = max(trainer.global_step - 1, 0) // self.every
            report = trainer.global_step // self.every
            if report > last_report:
                module.log_dict(self.norms())
            last_report = report

        return type("NormMonitorCallback", (base,), {"on_train_batch_end": on_train_batch_end})()

    def transformers(self, log: Callable[[dict[str, float]], object]) -> Any:
        """Make a Transformers callback: ``trainer.add_callback(monitor.transformers(trainer.log))``."""
        base = _first_installed("transformers").TrainerCallback

        def on_step_end(
            _self: Any,
            _args: Any,
            state: Any,
            _control: Any,
            **_keywords: Any,
        ) -> None:
            if values := self(state.global_step):
                log(values)

        return type("NormMonitorCallback", (base,), {"on_step_end": on_step_end})()

    def keras(self) -> Any:
        """Make a Keras 3 callback that adds the last report to the logs of each epoch."""
        _first_installed("keras")
        from specnorm_train.keras.monitor import keras_callback  # imported here: it imports Keras

        return keras_callback(self)


def _first_installed(*names: str) -> Any:
    """Import the first of some packages that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MethodError(f"{' or '.join(names)} is not installed here.")


def _copy(layer: LayerKernel | str) -> LayerKernel | str:
    """A layer with a copy of its kernel, since some models change their weights in place when they leave ``eval()``."""
    # A NumPy array was computed from several weights.
    if isinstance(layer, LayerKernel) and isinstance(layer.kernel, Tensor):
        return layer._replace(kernel=layer.kernel.clone())
    return layer
