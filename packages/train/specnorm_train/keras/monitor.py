"""A monitor of the norms of a Keras model's layers, and a Keras callback from any monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from specnorm_keras.layers import READER

from specnorm_train.monitoring import ModelMonitor, Reading, read_model


def keras_callback(monitor: Callable[[int], dict[str, float]]) -> Any:
    """Make a Keras callback that adds the last report to the logs of each epoch."""
    progress: dict[str, Any] = {"step": 0, "last_report": {}}

    def on_train_batch_end(callback: Any, *_arguments: Any, **_keywords: Any) -> None:
        progress["step"] += 1
        # On JAX, Keras updates the model's variables during an epoch only when a callback reads its attribute `model`.
        _ = callback.model
        progress["last_report"] = monitor(progress["step"]) or progress["last_report"]

    def on_epoch_end(_callback: Any, _epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update(progress["last_report"])

    members = {"on_train_batch_end": on_train_batch_end, "on_epoch_end": on_epoch_end}
    return type("NormMonitorCallback", (keras.callbacks.Callback,), members)()


class NormMonitor(ModelMonitor):
    """Reports the norms of a model's layers in every so many steps, and proven upper bounds in some of the reports.

    ``monitor(step)`` returns a dictionary for any logger, which `specnorm_train.monitoring.Monitor` describes.
    ``callback()`` makes a Keras callback.

    Parameters
    ----------
    model : keras.Model
        Already built.
    every : int, default 100
        Number of steps between two reports.
    select : callable, optional
        ``select(name, layer)`` returns whether to measure a layer. None: all layers are measured.
    upper, budget
        See `specnorm_train.monitoring.Monitor`.
    """

    def read(self) -> Reading:
        """Return the model's layers."""
        return read_model(READER, self.model, self.select)

    def __getattr__(self, name: str) -> Any:
        """Refuse what Keras asks of a callback, in the user's words."""
        is_of_callbacks = name.startswith(("on_", "set_"))
        advice = "; Keras takes its callback: callbacks=[monitor.callback()]" if is_of_callbacks else ""
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{advice}")

    def callback(self) -> Any:
        """Make a Keras callback that adds the last report to the logs of each epoch."""
        return keras_callback(self)
