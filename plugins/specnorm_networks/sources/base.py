"""What an adapter makes of a framework's own model: an ONNX model, and the original to compare it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.model import Computed

Array: TypeAlias = NDArray[np.generic]
TRAINING = "The model was taken in eval(): as it was given, in train(), it computes something else."
"""What an answer says of a model with dropout, say, that was given in its training mode."""


@dataclass(frozen=True, eq=False)
class Exported:
    """A framework's model, exported to ONNX.

    Parameters
    ----------
    model : onnx.ModelProto
        One graph input for each array that the original takes, in its order; likewise its outputs.
    run : callable
        ``run(*arrays)``: the original, called as its user calls it, with one array for each graph input. Returns one
        `Computed` for each graph output, in order. Raises whatever the original raises.
    free : bool
        Whether the first axis of every input is the batch, so that other numbers of samples are spoken of.
    inner : callable, optional
        ``inner(*arrays)``: values as the original's framework computes them, by their names in the graph. None: the
        export names no inner values.
    alone : callable, optional
        ``alone(trial, *arrays)``: shows operators one by one; see `specnorm_networks.model.Model`.
    note : str
        What an answer has to say of the original, in a sentence.
    name : str
        What messages call the original.
    """

    model: Any
    run: Callable[..., Sequence[Computed]]
    free: bool = False
    inner: Callable[..., Mapping[str, Computed]] | None = None
    alone: Callable[..., None] | None = None
    note: str = ""
    name: str = "The network"
