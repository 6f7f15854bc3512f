"""Types of a translation: a node of an ONNX graph as it is read, its inputs, and the operators that it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from specnorm.proof import counted
from specnorm_networks.certified.operators import Layer, NoBoundError, Operator
from specnorm_networks.certified.operators.base import FloatArray, Offset, Shape, multiplied
from specnorm_networks.onnx.tensors import Array, Constant

DOMAINS = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
FLOATING = ("float16", "bfloat16", "float32", "float64")
MAX_AMOUNT = 2**16
"""Largest stride, dilation, padding or group count of a file that is believed."""
MAX_FOLDED = 2**16
"""Largest number of entries of constants that are evaluated at once, since shapes may depend on them."""
MAX_KNOWN = 2**24
"""Largest number of entries of a constant that becomes a number, or table, of an operator."""

MAX_ENTRIES = 2**29
"""Largest number of entries of a value of a network. Segmentation networks of 256 x 256 x 256 voxels have less."""


def too_large(shape: Shape | None) -> str:
    """Return why a value of this shape is not bounded; empty if it is not too large."""
    entries = math.prod(shape or ())
    return f"its value has {entries} entries, more than {MAX_ENTRIES}" if entries > MAX_ENTRIES else ""


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
        Name of the value's node.
    shape : tuple of int, or None
        Shape of the value; None: it is not known.
    origins : frozenset of str
        Names of the network's inputs from which the value's numbers come; see `unread`.
    depends : bool
        Whether the value depends on an input in any way, be it by its shape alone.
    varies : bool
        Whether the value's numbers depend on numbers of an input in any way, be it that these choose them.
    """

    name: str
    shape: Shape | None
    origins: frozenset[str] = frozenset()
    depends: bool = False
    varies: bool = False


Value: TypeAlias = Constant | Data
Operands: TypeAlias = Sequence[Value | None]
"""Inputs of a node, in its order; None for one that is left out."""


@dataclass(frozen=True, eq=False)
class Output:
    """An output of an ONNX node, as an operator of the network and its inputs.

    Parameters
    ----------
    inputs : tuple
        Inputs in the operator's order. An input that is an `Output` itself becomes an inner node of the network.
    """

    operator: Operator
    inputs: tuple[Value | Output, ...]
    shape: Shape | None


def entrywise(operator: Operator, x: Data | Output) -> Output:
    """Return the output of an operator that keeps the shape of its only input."""
    return Output(operator, (x,), x.shape)


def with_size(shape: Shape, axis: int, *sizes: int) -> Shape:
    """Return a shape with other sizes in place of that of one axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


Result: TypeAlias = Constant | Output | tuple[Output | Constant, ...]
"""Translation of a node: a constant or an output, if only the first output is known; or a tuple of all outputs."""
Builder: TypeAlias = Callable[..., Result]
"""Function that translates a node from its arguments, and from its `Call` if it takes one: see `binding`."""


@dataclass(frozen=True)
class Call:
    """One node of an ONNX graph.

    Parameters
    ----------
    operator : str
        ONNX's name of the operator.
    outputs : int
        Number of the node's outputs.
    describe : callable
        ``describe(tensor)`` returns the constant for a tensor of an attribute.
    fold : callable
        ``fold(array)`` returns a constant for an array.
    use : callable
        ``use(kernel, geometry, sizes)`` adds a row for a kernel and returns the row's name.
    missed : callable
        Adds rows for the constants by which the node multiplies; they say that these are not read as layers.
    """

    operator: str
    opset: int
    inputs: Operands
    attributes: Mapping[str, Any]
    outputs: int
    describe: Callable[[Any], Constant]
    fold: Callable[[Array], Constant]
    use: Callable[[Constant, Mapping[str, Any], Shape | None], str]
    missed: Callable[[], None] = lambda: None
    domain: str = ""

    def layer(
        self,
        kernel: Constant,
        geometry: Mapping[str, Any],
        *,
        stated: Mapping[str, Any] | None = None,
        sizes: Shape | None = (),
        outputs_last: bool = False,
        row: Constant | None = None,
    ) -> Layer:
        """Return a layer for a kernel, and add a row for it.

        Parameters
        ----------
        geometry : mapping
            Geometry for specnorm's functions.
        stated : mapping, optional
            Geometry as the file states it, for the row. Default: ``geometry``.
        sizes : tuple of int, optional
            Spatial sizes of the layer's input.
        row : Constant, optional
            Constant that the row measures, if it is not the kernel.

        Raises
        ------
        NoBoundError
            If the kernel cannot be read.
        """
        name = self.use(row or kernel, geometry if stated is None else stated, sizes)
        if kernel.refusal is not None:
            raise NoBoundError(kernel.refusal)
        # Kernels are measured as they are stored, or in float64 if a reader computed them.
        return Layer(name, kernel.load, geometry, max(len(kernel.shape) - 2, 0), outputs_last)


@dataclass(frozen=True)
class OperatorRule:
    """The rule for an operator of ONNX.

    Parameters
    ----------
    since : int
        Oldest operator set whose definition was read.
    build : callable
        Function that translates a node.
    ignored : tuple of str
        Names of constant inputs and attributes that do not change the result.
    """

    since: int
    build: Builder
    ignored: tuple[str, ...] = ()


def has_graphs(proto: Any) -> bool:
    """Whether a node has sub-graphs: control flow."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in proto.attribute)


def offset_of(value: Constant | None, factor: float = 1.0, spatial: int = 0) -> Offset | None:
    """Return a constant times a number as an operator's offset, with ``spatial`` further axes at the end.

    The offset is nan if the constant cannot be read.
    """
    if value is None:
        return None

    def load() -> tuple[FloatArray, FloatArray]:
        if value.refusal is not None:
            return np.full((1,), np.nan), np.zeros(1)
        numbers = value.load().astype(np.float64)
        return multiplied(numbers.reshape((*numbers.shape, *(1,) * spatial)), factor)

    return load


def numbers_of(constant: Constant) -> FloatArray:
    """Return the numbers of a constant.

    Raises
    ------
    NoBoundError
        If they cannot be read, or are too many.
    """
    if constant.size > MAX_KNOWN or constant.refusal is not None:
        raise NoBoundError("one of its constants cannot be read")
    return constant.load().astype(np.float64)


def scalar(value: Value | None) -> float | None:
    """Return the number of a constant of one entry; None for any other value."""
    if not isinstance(value, Constant) or value.size != 1 or value.refusal is not None:
        return None
    return float(np.ravel(value.load())[0])


def shape_of(x: Value | Output) -> Shape:
    """Return the shape of a value.

    Raises
    ------
    UnsizedError
        If it is not known.
    """
    if x.shape is None:
        raise UnsizedError
    return x.shape


def on_axis(axis: int, shape: Shape) -> int:
    """Return the number of an axis, counted from the first one.

    Raises
    ------
    NoBoundError
        If there is none.
    """
    if not -len(shape) <= axis < len(shape):
        raise NoBoundError(f"axis {axis} of a value of {counted(len(shape), 'axis', 'axes')}")
    return axis % len(shape)
