"""The answer of an adapter for a framework: an exported ONNX model, and functions that execute the original model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm_networks.model import Computed

OTHERWISE = (
    "If the shape is the cause, give one input's shape without the batch axis, or an input that the model runs on. "
    "Otherwise write this part by other operations, or give an ONNX file of the model."
)
"""What to do about a model that cannot be exported."""
_VALUES = (
    "It asks for the values of an array, as in `if x.sum() > 0` or numpy.asarray(x): write it by jax.numpy and "
    "jax.lax, such as jax.numpy.where."
)
_BY_NAME = "jax2onnx takes some arguments only by name: write cumsum(x, axis=...), and others alike."
_ADVICE = {
    "TraceContextError": "It writes into a module of Flax that was made outside of it, as normalizations of weights "
    "do: give the module itself, or call a copy, nnx.clone(module), inside.",
    "ModifyScopeVariableError": "It is in training mode: apply the module with use_running_average=True.",
    "ConcretizationTypeError": _VALUES,
    "TracerArrayConversionError": _VALUES,
    "TracerBoolConversionError": _VALUES,
    "TracerIntegerConversionError": _VALUES,
}
"""What to do, by the class of the error that a model raises while it is traced."""
Array: TypeAlias = NDArray[np.generic]
TRAINING = "The model was taken in eval(): as it was given, in train(), it computes something else."
"""Note of an answer about a model, with dropout for example, that was in its training mode."""


def no_export(exporter: str, name: str, error: BaseException, otherwise: str = OTHERWISE) -> MethodError:
    """Return the error for a model that an exporter does not export, whatever it raised."""
    return MethodError(f"{exporter} cannot export {name}: {in_words(error, otherwise)}")


def in_words(error: BaseException, otherwise: str = OTHERWISE) -> str:
    """Return what a model or an exporter raised, with what to do about it; ``otherwise``: about any other error."""
    name = type(error).__name__
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    advice = _ADVICE.get(name, otherwise)
    if advice is OTHERWISE and "positional argument" in first_line and "missing" not in first_line:
        advice = _BY_NAME
    return f"{name}: {first_line}. {advice}"


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
    again : callable, optional
        Exports the original in another way, or raises MethodError: for graphs with constants that cannot be read.
    """

    model: Any
    run: Callable[..., Sequence[Computed]]
    free: bool = False
    inner: Callable[..., Mapping[str, Computed]] | None = None
    note: str = ""
    name: str = "The network"
    is_kept: bool = False
    again: Callable[[], Exported] | None = None
