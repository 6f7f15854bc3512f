"""One node of an ONNX graph, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.auditing.readers.onnx.tensors import Constant
from specnorm.networks.graph import Offset, Shape

FLOATING = ("float16", "bfloat16", "float32", "float64")
MAX_AMOUNT = 2**16
"""Largest stride, dilation, padding or group count that is believed."""
PRODUCT = "it is a product of two values that depend on the input, which has no constant"


class UnreadError(Exception):
    """An operator that is not read; the message says why."""


@dataclass(frozen=True)
class Data:
    """A value that depends on the network's inputs.

    Parameters
    ----------
    name : str
    shape : tuple of Size or None
    held : bool
        Whether it depends on shapes and integers only: then it stays while floating inputs move.
    call : Call or None
        What made it.
    """

    name: str
    shape: Shape | None
    held: bool = False
    call: Call | None = None


Value: TypeAlias = Constant | Data


@dataclass(frozen=True)
class Translated:
    """What becomes of an operator.

    Parameters
    ----------
    rule, inputs, params
        Of its node.
    shapes : tuple
        Of its outputs, as far as they are known.
    kernel : Constant or None
        Of a layer, with its ``geometry`` for specnorm's functions, as the file ``stated`` it, and the spatial ``sizes``
        of its input. ``turned``: a matrix that is stored with its outputs last.
    pieces : bool
        Whether the rule holds for every output, not for the first alone.
    offset : callable or None
        What is added.
    """

    rule: str
    inputs: tuple[str, ...] = ()
    shapes: tuple[Shape | None, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    kernel: Constant | None = None
    geometry: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    sizes: Shape | None = None
    turned: bool = False
    pieces: bool = False
    offset: Offset | None = None


@dataclass(frozen=True)
class Call:
    """One node of an ONNX graph."""

    operator: str
    opset: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    outputs: int
    describe: Callable[[Any, str], Constant]
    label: str

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute: number, text, or list of numbers."""
        found = self.attributes.get(name)
        if found is None:
            return default
        kinds = {1: "f", 2: "i", 3: "s", 6: "floats", 7: "ints"}
        value = getattr(found, kinds[found.type])
        if found.type in (6, 7):
            return list(value)
        return value.decode("utf-8", "replace") if found.type == 3 else value

    def input(self, at: int) -> Value | None:
        """An input; None if it is left out."""
        return self.inputs[at] if at < len(self.inputs) else None

    def data(self, at: int = 0) -> Data:
        """An input that must depend on the network's inputs."""
        value = self.input(at)
        if not isinstance(value, Data):
            raise UnreadError(f"{self.operator} of constants is not evaluated")
        return value

    def constant(self, at: int, limit: int | None = None) -> Constant | None:
        """An input that must be constant, or left out.

        Raises
        ------
        UnreadError
            If it is data, or has more entries than the limit, or cannot be read.
        """
        value = self.input(at)
        if isinstance(value, Data):
            raise UnreadError(f"input {at} of {self.operator} is not constant")
        if value is not None and limit is not None and (value.size > limit or value.refusal is not None):
            raise UnreadError(f"input {at} of {self.operator} cannot be read")
        return value

    def numbers(self, name: str, at: int) -> list[Any] | None:
        """A list from an attribute or, in newer operator sets, a constant input; None if it is in neither."""
        found = self.attribute(name)
        if found is not None:
            return [found] if isinstance(found, int | float) else list(found)
        constant = self.constant(at, MAX_FOLDED)
        return None if constant is None else list(np.ravel(constant.load()).tolist())

    def only(self, *positions: int) -> None:
        """Refuse if other inputs move with the network's."""
        for at, value in enumerate(self.inputs):
            if at not in positions and isinstance(value, Data) and not value.held:
                raise UnreadError(f"input {at} of {self.operator} depends on the network's input")


Operator = Callable[[Call], Constant | Translated]
MAX_FOLDED = 2**16
"""Entries of constants that are evaluated to learn shapes."""


def names(call: Call) -> tuple[str, ...]:
    """Inputs that depend on the network's."""
    return tuple(value.name for value in call.inputs if isinstance(value, Data))


def one(call: Call, rule: str, shape: Shape | None, at: int = 0, **params: Any) -> Translated:
    """A rule with one input."""
    call.only(at)
    return Translated(rule, (call.data(at).name,), (shape,), params)


def offset_of(value: Value | None, factor: float = 1.0, spatial: int = 0) -> Offset | None:
    """What is added: a constant times a number; ``spatial``: axes behind its own. NaN where it is not known."""
    if value is None:
        return None

    def load() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not isinstance(value, Constant) or value.refusal is not None:
            return np.full((1,), np.nan), np.zeros(1)
        numbers = value.load().astype(np.float64) * factor
        numbers = numbers.reshape((*numbers.shape, *(1,) * spatial))
        return numbers, abs(numbers) * (0.0 if abs(factor) == 1 else 2.0**-50)

    return load


def scalar(value: Value | None) -> float | None:
    """A constant of one entry, as a number; None for anything else."""
    if not isinstance(value, Constant) or value.size != 1 or value.refusal is not None:
        return None
    return float(np.ravel(value.load())[0])
