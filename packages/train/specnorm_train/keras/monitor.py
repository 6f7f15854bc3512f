"""A Keras callback from any monitor. Keras is imported here, since `specnorm_torch` makes such callbacks too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


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
