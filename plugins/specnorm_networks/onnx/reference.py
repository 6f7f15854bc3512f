"""An ONNX model executed by onnx's own reference evaluator, apart from how it is read here.

Node by node, so that what the evaluator does not know leaves the other values. A file is not trusted: nothing is
executed whose size is not known beforehand, no loop, and external data come from the model's folder alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from specnorm_networks.certified.operators.formats import UNITS
from specnorm_networks.certified.shapes import Shape
from specnorm_networks.model import Computed, NotExecutedError, Trial
from specnorm_networks.onnx.evaluator import cost, evaluate
from specnorm_networks.onnx.nodes import has_graphs
from specnorm_networks.onnx.operators import OPERATORS
from specnorm_networks.onnx.tensors import EXTERNAL, Tensors

ENTRIES = 2**27
"""Entries of all values together; half as many in double precision."""
WORK = 2**35
"""Multiplications of all nodes together."""
PATCHES = 2**24
"""Numbers that the windows of one of a convolution's channels hold together."""
_SINGLE = ("Erf", "Gelu")
"""Operators that the evaluator computes in single precision, whatever it is given."""
_DOMAINS = ("", "ai.onnx")


def arrays_for_inputs(graph: Any, inputs: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
    """Inputs of a GraphProto in its types, in order; those that are held are 0.

    Raises
    ------
    NotExecutedError
        If a type is not known.
    """
    stored = {each.name for each in graph.initializer}
    found: dict[str, NDArray[Any]] = {}
    for each in graph.input:
        tensor = each.type.tensor_type
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except (KeyError, TypeError, ValueError) as error:
            raise NotExecutedError(f"the type of its input {each.name[:40]!r} is not known") from error
        shape = tuple(int(dim.dim_value) or 1 for dim in tensor.shape.dim)
        if each.name in inputs:
            with np.errstate(all="ignore"):
                found[each.name] = np.asarray(inputs[each.name]).astype(dtype)
        elif each.name not in stored and dtype.kind in "iub" and 0 <= math.prod(shape) <= ENTRIES:
            found[each.name] = np.zeros(shape, dtype)
    return found


class OnnxModel:
    """The original of a graph; see `specnorm_networks.model.Model`.

    Parameters
    ----------
    reader : Tensors
        Gives external data.
    shapes : callable
        Gives the shapes of all values from those of the inputs.
    """

    file: bytes | None = None

    def __init__(
        self,
        model: Any,
        reader: Tensors,
        opset: int,
        shapes: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, Shape | None]],
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._functions = len(model.functions)
        self._reader = reader
        self.opset = opset
        self._shapes = shapes

    def values(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed]:
        """Values by name, in the file's precision; see `specnorm_networks.model.Model`.

        Raises
        ------
        NotExecutedError
            If the model has control flow or functions, or is too large.
        """
        if self._functions or any(has_graphs(node) for node in self._graph.node):
            raise NotExecutedError("it has control flow or functions, which are not executed")
        given = arrays_for_inputs(self._graph, inputs)
        shapes = self._shapes({name: array.shape for name, array in given.items()})
        wide = any(array.dtype == np.float64 for array in given.values())
        self._limit(shapes, ENTRIES // (1 + wide))
        found = self._constants | given
        made = dict(given)
        single: set[str] = set()
        for node in self._graph.node:
            if any(name and name not in found for name in node.input) or not self._is_sized(node, shapes):
                continue
            # What is computed of such a value may be compared with what is computed without it (a gate, say).
            if node.op_type in _SINGLE or not single.isdisjoint(node.input):
                single.update(node.output)
            for name, array in self._node(node, found):
                found[name] = made[name] = array
        least = dict.fromkeys(single, UNITS["float32"])
        return {
            name: Computed(a, max(unit_of(a), least.get(name, 0.0)))
            for name, a in made.items()
            if a.dtype.name in UNITS or a.dtype.kind in "iub"
        }

    def alone(self, inputs: Mapping[str, NDArray[np.float64]], trial: Trial) -> None:
        """Nothing: values are in the file's precision."""

    def several(self, inputs: Mapping[str, NDArray[np.float64]]) -> Mapping[str, Computed] | None:
        """Outputs for several samples, where the first axis of every input is open."""
        for each in self._graph.input:
            dims = each.type.tensor_type.shape.dim
            if each.name in inputs and (len(dims) < 2 or dims[0].dim_value > 0):
                return None
        try:
            found = self.values(inputs)
        except NotExecutedError:
            return None
        return {each.name: found[each.name] for each in self._graph.output if each.name in found}

    @cached_property
    def _constants(self) -> dict[str, NDArray[Any]]:
        found = {}
        for proto in self._graph.initializer:
            try:
                outside = proto.data_location == EXTERNAL
                found[proto.name] = self._reader.outside(proto) if outside else numpy_helper.to_array(proto)
            except Exception as error:  # whatever a damaged tensor raises
                raise NotExecutedError(f"its tensor {proto.name[:40]!r} cannot be read: {error}") from error
        return found

    def _limit(self, shapes: Mapping[str, Shape | None], most: int) -> None:
        entries = work = patches = 0
        for node in self._graph.node:
            known = [shapes.get(name) for name in node.output]
            size = sum(math.prod(shape) for shape in known if shape is not None)
            entries += size
            work += size * cost(node, [shapes.get(name) or () for name in node.input])
            if node.op_type == "Conv" and len(node.input) > 1:
                window = math.prod((shapes.get(node.input[1]) or ())[2:])
                patches = max([patches, *(window * math.prod(shape[2:]) for shape in known if shape is not None)])
        if entries > most or work > WORK or patches > PATCHES:
            raise NotExecutedError(f"its {entries} values take {work} multiplications: too many")

    def _is_sized(self, node: Any, shapes: Mapping[str, Shape | None]) -> bool:
        """Whether the first value of a node that has a name cannot be larger than expected."""
        known = node.op_type in OPERATORS and node.domain in _DOMAINS
        return known and shapes.get(next(filter(None, node.output), "")) is not None

    def _node(
        self,
        node: Any,
        values: Mapping[str, NDArray[Any]],
    ) -> list[tuple[str, NDArray[Any]]]:
        """Values of a node that the evaluator knows."""
        try:
            with np.errstate(all="ignore"):
                found = evaluate(node, self.opset, [values[name] if name else None for name in node.input])
        except Exception:  # whatever the evaluator raises for what it does not support
            return []
        named = zip([name for name in node.output if name], found, strict=False)
        return [(name, np.asarray(each)) for name, each in named if isinstance(each, np.ndarray | np.generic)]


def unit_of(x: NDArray[Any]) -> float:
    """Unit roundoff of an array's type; that of float64 for whole numbers."""
    return UNITS.get(x.dtype.name, UNITS["float64"])
