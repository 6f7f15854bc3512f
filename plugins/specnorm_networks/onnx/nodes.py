"""One node of an ONNX graph, its inputs, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators import Layer, NoBoundError, Operator
from specnorm_networks.certified.operators.base import FloatArray, Offset, multiplied
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.onnx.tensors import Constant

FLOATING = ("float16", "bfloat16", "float32", "float64")
MAX_AMOUNT = 2**16
"""Largest stride, dilation, padding or group count that is believed."""
MAX_FOLDED = 2**16
"""Entries of constants that are evaluated to learn shapes."""
MAX_KNOWN = 2**24
"""Entries of constants that become numbers of an operator."""


class UnsizedError(NoBoundError):
    """The shape of an input is not known."""

    def __init__(self) -> None:
        super().__init__("the shape of its input is not known: give the input shape")


@dataclass(frozen=True, eq=False)
class Data:
    """A value that depends on the network's inputs.

    Parameters
    ----------
    name : str
        Of its node.
    origins : frozenset of str
        Inputs that its numbers come from; see `unread`.
    depends : bool
        Whether it depends on an input in any way.
    """

    name: str
    shape: Shape | None
    origins: frozenset[str] = frozenset()
    depends: bool = False


Value: TypeAlias = Constant | Data


@dataclass(frozen=True, eq=False)
class Made:
    """One output of an operator.

    Parameters
    ----------
    inputs : tuple
        Values, in the operator's order; one that is made itself becomes a node of its own.
    """

    operator: Operator
    inputs: tuple[Value | Made, ...]
    shape: Shape | None


Result: TypeAlias = Constant | Made | tuple[Made | Constant, ...]
"""A constant; the first output; or every output."""
Builder: TypeAlias = Callable[..., Result]
"""Makes an operator from its arguments, and its `Call` if it takes one: see `binding`."""


@dataclass(frozen=True)
class Call:
    """One node of an ONNX graph.

    Parameters
    ----------
    outputs : int
        How many it has.
    label : str
        What people call it.
    describe : callable
        Gives a tensor that an attribute holds.
    fold : callable
        Gives the constant that an array is.
    use : callable
        ``use(kernel, geometry, stated, sizes)``: the name of the row of a kernel.
    missed : callable
        Makes rows of the constants that it multiplies by, which say that they are not read as layers.
    """

    operator: str
    opset: int
    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    outputs: int
    label: str
    describe: Callable[[Any], Constant]
    fold: Callable[[NDArray[Any]], Constant]
    use: Callable[[Constant, Mapping[str, Any], Shape | None], str]
    missed: Callable[[], None] = lambda: None

    def layer(
        self,
        kernel: Constant,
        geometry: Mapping[str, Any],
        *,
        stated: Mapping[str, Any] | None = None,
        sizes: Shape | None = (),
        transposed: bool = False,
        row: Constant | None = None,
    ) -> Layer:
        """A kernel, which becomes a row, with its geometry for specnorm's functions, and as the file has it.

        ``sizes`` are the spatial ones of its input; ``row`` is what is measured, if it is another constant. Raises
        NoBoundError if the kernel cannot be read.
        """
        name = self.use(row or kernel, geometry if stated is None else stated, sizes)
        if kernel.refusal is not None:
            raise NoBoundError(kernel.refusal)
        # Kernels are measured as they are stored, or in float64 where a reader computed them.
        return Layer(name, kernel.load, geometry, max(len(kernel.shape) - 2, 0), transposed)


@dataclass(frozen=True)
class Known:
    """What is known of an operator.

    Parameters
    ----------
    since : int
        The first operator set whose meaning is known.
    build : callable or None
        Of moving values; None: of constants alone.
    ignored : tuple of str
        Names of constant inputs and attributes that change nothing here.
    """

    since: int
    build: Builder | None = None
    ignored: tuple[str, ...] = ()


def has_graphs(proto: Any) -> bool:
    """Whether a node has control flow."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in proto.attribute)


def offset_of(value: Constant | None, factor: float = 1.0, spatial: int = 0) -> Offset | None:
    """What is added: a constant times a number; ``spatial``: axes behind its own. NaN where it is not known."""
    if value is None:
        return None

    def load() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if value.refusal is not None:
            return np.full((1,), np.nan), np.zeros(1)
        numbers = value.load().astype(np.float64)
        return multiplied(numbers.reshape((*numbers.shape, *(1,) * spatial)), factor)

    return load


def numbers_of(constant: Constant) -> FloatArray:
    """All its numbers.

    Raises
    ------
    NoBoundError
        If they cannot be read, or are too many.
    """
    if constant.size > MAX_KNOWN or constant.refusal is not None:
        raise NoBoundError("one of its constants cannot be read")
    return constant.load().astype(np.float64)


def scalar(value: Value | None) -> float | None:
    """A constant of one entry, as a number; None for anything else."""
    if not isinstance(value, Constant) or value.size != 1 or value.refusal is not None:
        return None
    return float(np.ravel(value.load())[0])


def shape_of(x: Value | Made) -> Shape:
    """The shape.

    Raises
    ------
    UnsizedError
    """
    if x.shape is None:
        raise UnsizedError
    return x.shape


def on_axis(axis: int, shape: Shape) -> int:
    """A non-negative number of an axis.

    Raises
    ------
    NoBoundError
        If there is none.
    """
    if not -len(shape) <= axis < len(shape):
        raise NoBoundError(f"axis {axis} of a value of {len(shape)} axes")
    return axis % len(shape)
