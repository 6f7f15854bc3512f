"""The answer of an adapter for a framework: an exported ONNX model, and functions that execute the original model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.model import Computed

Array: TypeAlias = NDArray[np.generic]
TRAINING = "The model was taken in eval(): as it was given, in train(), it computes something else."
"""Note of an answer about a model, with dropout for example, that was in its training mode."""


@dataclass(frozen=True, eq=False)
class Exported:
    """A framework's model, exported to ONNX.

    Parameters
    ----------
    model : onnx.ModelProto
        It has one graph input for each array that the original takes, and one graph output for each array that the
        original returns, in the same order.
    run : callable
        ``run(*arrays)`` calls the original as its user does, with one array for each graph input. It returns one
        `Computed` for each graph output, in order, and raises whatever the original raises.
    free : bool
        Whether the first axis of every input is the batch and may have any size.
    inner : callable, optional
        ``inner(*arrays)`` returns inner values, computed by the original's framework, by their names in the graph.
        None: the export names no inner values.
    note : str
        Sentence about the original for the answer.
    name : str
        Name of the original in messages.
    is_kept : bool
        Whether the graph was exported from another model of the same structure.
    """

    model: Any
    run: Callable[..., Sequence[Computed]]
    free: bool = False
    inner: Callable[..., Mapping[str, Computed]] | None = None
    note: str = ""
    name: str = "The network"
    is_kept: bool = False
