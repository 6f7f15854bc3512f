"""Execute an ONNX model in double precision by `evaluator`, independently of how this package reads the model.

Nodes are executed one by one: if the evaluator does not know an operator, other values are still computed. A file is
not trusted: no node is executed whose size is not known beforehand, and no loop; external data are read from the
model's folder alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from onnx import helper, numpy_helper

from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.model import UNITS, Computed, Inputs, NotExecutedError
from specnorm_networks.onnx import learned
from specnorm_networks.onnx.evaluator import cost, evaluate
from specnorm_networks.onnx.nodes import DOMAINS, has_graphs
from specnorm_networks.onnx.operators import OPERATORS
from specnorm_networks.onnx.tensors import EXTERNAL, Array, Tensors

ENTRIES = 2**27
"""Largest number of entries of all values together."""
WORK = 2**35
"""Largest number of multiplications of all nodes together."""
_CASTS = ("Cast", "CastLike")


Shapes: TypeAlias = Mapping[str, Shape | None]
"""Shapes of values by name; None: not known."""


def arrays_for_inputs(graph: Any, inputs: Inputs) -> dict[str, Array]:
    """Return the inputs of a GraphProto in the file's types and order; integer inputs that are not given are 0.

    Raises
    ------
    NotExecutedError
        If a type is not known.
    """
    initialisers = {tensor.name for tensor in graph.initializer}
    arrays: dict[str, Array] = {}
    for graph_input in graph.input:
        name = graph_input.name
        tensor_type = graph_input.type.tensor_type
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor_type.elem_type))
        except (KeyError, TypeError, ValueError) as error:
            raise NotExecutedError(f"the type of its input {name[:40]!r} is not known") from error
        shape = tuple(max(int(dim.dim_value), 1) for dim in tensor_type.shape.dim)
        if name in inputs:
            with np.errstate(all="ignore"):
                arrays[name] = np.asarray(inputs[name]).astype(dtype)
        elif name not in initialisers and dtype.kind in "iub" and 0 <= math.prod(shape) <= ENTRIES:
            arrays[name] = np.zeros(shape, dtype)
    return arrays


@dataclass(eq=False)
class OnnxModel:
    """An ONNX file as the model of a graph; see `specnorm_networks.model.Model`.

    Parameters
    ----------
    proto : ModelProto
        The model.
    reader : Tensors
        Reader of external data.
    shapes : callable
        Returns the shapes of all values, by name, for shapes of the inputs.
    """

    proto: Any
    reader: Tensors
    opset: int
    shapes: Callable[[Mapping[str, Shape]], Shapes]
    file: bytes | None = None
    _last: tuple[Mapping[str, Shape], Shapes] | None = field(default=None, init=False)

    def values(self, inputs: Inputs) -> Mapping[str, Computed]:
        """Return values by name, in double precision; see `specnorm_networks.model.Model`.

        Values that depend on no input are computed in the file's precision, as runtimes and the reader of files do.

        Raises
        ------
        NotExecutedError
            If the model has control flow or functions, or is too large.
        """
        graph = self.proto.graph
        if self.proto.functions or any(map(has_graphs, graph.node)):
            raise NotExecutedError("it has control flow or functions, which are not executed")
        input_arrays = arrays_for_inputs(graph, inputs)
        shapes = self._shapes_for({name: array.shape for name, array in input_arrays.items()})
        self._require_moderate_size(shapes)
        values = {name: _in_double(array) for name, array in input_arrays.items()}
        fixed = {name: array for name, array in self._constants.items() if name not in input_arrays}
        for node in graph.node:
            names = [name for name in node.input if name]
            is_fixed = all(name in fixed for name in names)
            has_inputs = is_fixed or all(name in fixed or name in values for name in names)
            if not has_inputs or not self._has_known_size(node, shapes, is_fixed):
                continue
            if is_fixed:
                outputs = self._execute(node, fixed)
                fixed.update(outputs)
            else:
                inputs = {name: values[name] if name in values else _in_double(fixed[name]) for name in names}
                outputs = self._execute(node, inputs)
                if node.op_type in _CASTS and inputs[names[0]].dtype.name in UNITS:
                    # A value that is cast from one precision to another stays in double precision.
                    outputs = {name: inputs[names[0]] if x.dtype.name in UNITS else x for name, x in outputs.items()}
            values.update({name: _in_double(array) for name, array in outputs.items()})
        numbers = {name: array for name, array in values.items() if array.dtype.kind in "fiub"}
        return {name: Computed(array, UNITS["float64"]) for name, array in numbers.items()}

    def several(self, inputs: Inputs) -> Mapping[str, Computed] | None:
        """Return the outputs for several samples; None if the file fixes the first axis of an input."""
        graph = self.proto.graph
        for graph_input in graph.input:
            dims = graph_input.type.tensor_type.shape.dim
            if graph_input.name in inputs and (len(dims) < 2 or dims[0].dim_value > 0):
                return None
        try:
            values = self.values(inputs)
        except NotExecutedError:
            return None
        return {output.name: values[output.name] for output in graph.output if output.name in values}

    def _shapes_for(self, inputs: Mapping[str, Shape]) -> Shapes:
        """Return the shapes of all values; kept for the last inputs' shapes, which many samples have in common."""
        if self._last is None or self._last[0] != inputs:
            self._last = inputs, self.shapes(inputs)
        return self._last[1]

    @cached_property
    def _constants(self) -> dict[str, Array]:
        constants = {}
        for proto in self.proto.graph.initializer:
            try:
                is_external = proto.data_location == EXTERNAL
                constants[proto.name] = self.reader.outside(proto) if is_external else numpy_helper.to_array(proto)
            except Exception as error:  # damaged tensors raise many kinds
                raise NotExecutedError(f"its tensor {proto.name[:40]!r} cannot be read: {error}") from error
        return constants

    def _require_moderate_size(self, shapes: Shapes) -> None:
        """Refuse a model with too many entries of values, or multiplications."""
        entries = 0
        work = 0
        for node in self.proto.graph.node:
            output_shapes = [shapes.get(name) for name in node.output]
            size = sum(math.prod(shape) for shape in output_shapes if shape is not None)
            entries += size
            work += size * cost(node, [shapes.get(name) or () for name in node.input])
        if entries > ENTRIES or work > WORK:
            raise NotExecutedError(f"its {entries} values take {work} multiplications: too many")

    def _has_known_size(self, node: Any, shapes: Shapes, is_fixed: bool) -> bool:
        """Whether a node is of a known operator, or ``is_fixed``, and the shape of its first named output is known."""
        is_known = (node.op_type in OPERATORS or is_fixed) and node.domain in DOMAINS
        is_known |= node.domain == learned.DOMAIN and node.op_type in learned.OPERATORS
        first_name = next(filter(None, node.output), "")
        return is_known and shapes.get(first_name) is not None

    def _execute(
        self,
        node: Any,
        values: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Return a node's outputs by their names; none if the evaluator does not know the node."""
        try:
            with np.errstate(all="ignore"):
                outputs = evaluate(node, self.opset, [values[name] if name else None for name in node.input])
        except Exception:  # the evaluator raises many kinds for nodes that it does not support
            return {}
        names = filter(None, node.output)
        pairs = zip(names, outputs, strict=False)
        return {name: np.asarray(value) for name, value in pairs if isinstance(value, np.ndarray | np.generic)}


def _in_double(x: Array) -> Array:
    """Return floating numbers in double precision; other arrays as they are."""
    return x.astype(np.float64, copy=False) if x.dtype.name in UNITS else x
