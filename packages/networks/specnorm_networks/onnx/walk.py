"""Translate an ONNX graph, node by node: a node of the network for each value, a row of the audit for each kernel."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specnorm.errors import MethodError, ModelFileError
from specnorm_networks.certified.graph import Graph, Node, fresh_name
from specnorm_networks.certified.operators import (
    Concat,
    Convolution,
    Held,
    Input,
    Matrix,
    NoBoundError,
    Random,
    Unknown,
    Unsqueeze,
)
from specnorm_networks.certified.operators import Constant as ConstantOperator
from specnorm_networks.certified.operators.base import Shape
from specnorm_networks.certified.operators.registry import registered
from specnorm_networks.certified.operators.sources import NO_LOOPS
from specnorm_networks.model_arrays import Kind, Stated, Tensor
from specnorm_networks.onnx import learned
from specnorm_networks.onnx.binding import bind
from specnorm_networks.onnx.constants import OLDEST, RANDOM, computed
from specnorm_networks.onnx.evaluator import plain
from specnorm_networks.onnx.nodes import (
    DOMAINS,
    MAX_KNOWN,
    Call,
    Data,
    Operands,
    Output,
    Result,
    UnsizedError,
    Value,
    has_graphs,
    too_large,
)
from specnorm_networks.onnx.operators import OPERATORS
from specnorm_networks.onnx.reference import OnnxModel
from specnorm_networks.onnx.sizes import stated_size
from specnorm_networks.onnx.tensors import Constant, Tensors
from specnorm_networks.onnx.unread import LAYER, PRODUCTS, Hidden, origins, unread, varies

_FLOATS = (1, 10, 11, 16)
"""Element types of floating inputs, with respect to which a bound holds."""
_INTEGERS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 13)
"""Element types of inputs that are held constant: integers and text."""
_LOOPS = ("RNN", "GRU", "LSTM")
_WITHOUT_KERNELS = (("ai.onnx.ml", "ZipMap"), ("ai.onnx.ml", "ArrayFeatureExtractor"))
"""Operators of other domains that have no kernel, by domain and name."""
_MISUNDERSTOOD = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError)
"""Errors of builders for nodes that a file states in a way that they do not expect."""
_SUBGRAPH = "it has a subgraph, which is not supported"
COMPUTED = "kernel as onnx's reference evaluator computes it from the file's constants"
"""Assumption about a kernel that the file does not store."""


@dataclass(frozen=True)
class _Use:
    """A kernel in one operator."""

    constant: Constant
    geometry: Mapping[str, Any]
    sizes: Shape | None


def _row(name: str, constant: Constant, kind: Kind, refusal: str | None = None) -> Tensor:
    return Tensor(name, constant.shape, constant.dtype, constant.load, kind, refusal=refusal)


def _needs_own_row(hidden: Hidden, constant: Constant, used_names: Collection[str]) -> bool:
    """Whether an array that is not read, and is no row's kernel, gets a row.

    If a row has its name already, it gets one only if an operator multiplies by it, or if it is computed: an array that
    is computed from the named one has another norm.
    """
    return constant.name not in used_names or hidden.multiplied or bool(constant.steps)


class Walk:
    """Translation of one model, which is made when the object is created.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shapes of inputs by name (`sizes.input_shapes`). Others have the sizes that the file states.
    """

    def __init__(self, model: Any, reader: Tensors, shapes: Mapping[str, Shape]) -> None:
        self.model = model
        self.reader = reader
        self.shapes = shapes
        opsets = {o.version for o in model.opset_import if o.domain in DOMAINS}
        self.opset = max(opsets, default=1)
        self.learned_opset = max((o.version for o in model.opset_import if o.domain == learned.DOMAIN), default=1)
        self.nodes: list[Node] = []
        self.names = {stored.name for stored in (*model.graph.input, *model.graph.initializer)}
        """Names of all values of the graph, and of the inner nodes that operators become."""
        for proto in model.graph.node:
            self.names.update(proto.output)
        self.uses: dict[str, _Use] = {}
        """Kernels by the name of their row."""
        self.constants: dict[str, Constant] = {}
        """Initialisers by name."""
        self.constant_names: set[str] = set()
        self.constant_nodes: dict[str, str] = {}
        """Names of the nodes of constants, by the names of their values."""
        self.inner: dict[int, tuple[Output, str]] = {}
        """Inner values of operators that become several nodes, with the names of these nodes."""
        self.unsqueezed: dict[str, tuple[int, str]] = {}
        """Nodes that insert one axis of size 1: the axis, and the name of the value that gets it."""
        self.hidden: dict[object, Hidden] = {}
        """Arrays that may be kernels and are not read: by the keys of constants, or by names and reasons."""
        self.functions = {(f.domain.replace("ai.onnx", ""), f.name) for f in model.functions}
        """Operators that the model defines itself."""
        self.broken: str | None = None
        """Reason why the graph is invalid, or None; kernels of an invalid graph are rows, too."""
        self.too_large = ""
        """Reason why an input is too large; empty if none is."""
        self.values = self._scope(model.graph)
        self._walk(model.graph)
        if any(function.domain in DOMAINS for function in model.functions):
            self.broken = "it redefines operators of ONNX"
        if len(opsets) > 1:
            self.broken = f"it imports the operator sets {', '.join(map(str, sorted(opsets)[:4]))} of ONNX at once"
        if any(output.name not in self.values for output in model.graph.output):
            self.broken = self.broken or "no node computes one of its outputs"

    def tensors(self) -> list[Tensor]:
        """Return rows and skipped tensors, kernels first in the graph's order."""
        tensors = []
        used_names = set()
        for name, use in self.uses.items():
            kernel = use.constant
            used_names.add(kernel.name)
            row = _row(name, kernel, "linear" if len(kernel.shape) == 2 else "conv", kernel.refusal)
            geometry = Stated(**use.geometry, layout=None)  # type: ignore[typeddict-item]
            assumed = (COMPUTED,) if kernel.steps else ()
            tensors.append(replace(row, geometry=geometry, input_shape=use.sizes, assumed=assumed))
        initialiser_keys = {constant.key for constant in self.constants.values()}
        row_keys = {use.constant.key for use in self.uses.values()}
        if self.broken is not None:
            self._hide(Hidden("graph", "unknown", f"{self.broken}: the graph is damaged."))
        for hidden in self.hidden.values():
            constant = hidden.constant
            if constant is None or constant.key in row_keys:  # a node, or the kernel of a row
                continue
            if _needs_own_row(hidden, constant, used_names):
                used_names.add(constant.name)
                keeps_name = constant.key in initialiser_keys and constant.name not in self.uses
                name = constant.name if keeps_name else self._fresh_constant_name(constant.name)
                tensors.append(_row(name, constant, hidden.kind, constant.refusal or hidden.reason))
        for name, constant in self.constants.items():
            if name not in used_names:
                tensors.append(_row(name, constant, "none"))
        for hidden in self.hidden.values():
            if hidden.constant is None:  # a node: its row has no array
                name = self._fresh_constant_name(hidden.name)
                tensors.append(Tensor(name, (), "unknown", list, hidden.kind, refusal=hidden.reason))
        return tensors

    def graph(self) -> Graph:
        """Return the network, with all values of the file."""
        if self.broken is not None:
            raise ModelFileError(f"{self.broken}: the graph is damaged.")
        if self.too_large:
            raise MethodError(self.too_large)
        outputs = [self.values.get(output.name) for output in self.model.graph.output]
        computed_outputs = tuple(value.name for value in outputs if isinstance(value, Data))
        # A reader of its own: the graph may be executed after this translation is dropped.
        model = OnnxModel(self.model, self.reader.again(), self.opset, self._shapes)
        return Graph(tuple(self.nodes), computed_outputs, model)

    def _shapes(self, inputs: Mapping[str, Shape]) -> dict[str, Shape | None]:
        is_own = all(name in self.values and self.values[name].shape == shape for name, shape in inputs.items())
        walk = self if is_own else Walk(self.model, self.reader.again(), {**self.shapes, **inputs})
        return {name: value.shape for name, value in walk.values.items()}

    def _scope(self, graph: Any) -> dict[str, Value]:
        scope: dict[str, Value] = {}
        for proto in graph.initializer:
            scope[proto.name] = replace(self._constant(proto, proto.name), value=proto.name)
        for graph_input in graph.input:
            name = graph_input.name
            if name in scope:
                continue  # before version 4 of the format, initialisers are inputs with a default
            tensor = graph_input.type.tensor_type
            shape = self._input_shape(name, tensor)
            operator: Input | Unknown = Input(may_change=True)
            origin = frozenset((name,))
            if tensor.elem_type in _INTEGERS:
                operator = Input(may_change=False)
                origin = frozenset()
            elif tensor.elem_type not in _FLOATS:
                operator = Unknown("its type is not supported")
            if too_large(shape):
                self.too_large = self.too_large or f"input {name[:80]}: {too_large(shape)}."
                operator, shape = Unknown(too_large(shape)), None
            scope[name] = Data(name, shape, origin, depends=True, varies=True)
            self.nodes.append(Node(name, operator, (), shape, "input"))
        return scope

    def _fresh_constant_name(self, name: str) -> str:
        """Return a name that no constant has, and take it."""
        while name in self.constant_names:
            name = f"{name}'"
        self.constant_names.add(name)
        return name

    def _constant(self, proto: Any, name: str) -> Constant:
        name = self._fresh_constant_name(name)
        self.constants[name] = self.reader.describe(proto, name)
        return self.constants[name]

    def _input_shape(self, name: str, tensor: Any) -> Shape | None:
        """Return the shape of an input, with one sample; None if a size is open."""
        if name in self.shapes:
            return self.shapes[name]
        if not tensor.HasField("shape"):
            return None
        sizes = [stated_size(dim) for dim in tensor.shape.dim]
        if len(sizes) > 1 and sizes[0] is None:
            sizes[0] = 1
        known = tuple(n for n in sizes if n is not None)
        return known if len(known) == len(sizes) else None

    def _walk(self, graph: Any) -> None:
        scope = self.values
        value_names = {stored.name for stored in (*graph.input, *graph.initializer)}
        for position, proto in enumerate(graph.node):
            label = proto.name or f"{proto.op_type}_{position}"
            missing = next((name for name in proto.input if name and name not in scope), None)
            if missing is not None:
                self.broken = self.broken or f"{label[:80]} uses {missing[:80]!r}, which nothing before it makes"
            inputs = [scope.get(name) if name else None for name in proto.input]
            if has_graphs(proto):
                self._hide(Hidden(label, "none", f"{_SUBGRAPH}."))
            results = self._translate(proto, inputs, label)
            for output_number, name in enumerate(proto.output):
                if not name:
                    continue
                if name in value_names:
                    self.broken = self.broken or f"two of its values are called {name[:80]!r}"
                value_names.add(name)
                if output_number < len(results):
                    result = results[output_number]
                else:
                    result = self._unknown(proto, inputs, "it is a further output")
                if isinstance(result, Constant):
                    scope[name] = replace(result, value=name)
                    continue
                data = [value for value in inputs if isinstance(value, Data)]
                sources = origins(proto, self.opset, output_number, inputs)
                if too_large(result.shape):
                    result = self._unknown(proto, inputs, too_large(result.shape))
                # A sub-graph may read any value of the graph.
                depends = has_graphs(proto) or any(value.depends for value in data)
                is_layer = isinstance(result.operator, Convolution | Matrix) or proto.op_type in _LOOPS
                if is_layer and depends:
                    sources |= {LAYER}
                scope[name] = Data(name, result.shape, sources, depends, varies(proto, inputs))
                self._node(name, result, proto.op_type)

    def _node(self, name: str, translation: Output, label: str) -> str:
        """Put the translation of a value into the graph, after those of its inputs; return its name."""
        inputs = []
        for value in translation.inputs:
            if isinstance(value, Output):
                # A value that is used twice is one node. It is kept, so that no other object has its id.
                if too_large(value.shape):
                    value = Output(Unknown(too_large(value.shape)), value.inputs, None)
                if id(value) not in self.inner:
                    self.inner[id(value)] = value, self._node(self._fresh(f"{name}.in"), value, label)
                inputs.append(self.inner[id(value)][1])
            else:
                inputs.append(value.name if isinstance(value, Data) else self._node_of_constant(value))
        node = Node(name, translation.operator, tuple(inputs), translation.shape, label)
        self.nodes.append(self._without_unsqueezes(node))
        return name

    def _without_unsqueezes(self, node: Node) -> Node:
        """Return a Concat along a new axis in place of one whose inputs all get this axis by an Unsqueeze."""
        if isinstance(node.operator, Concat):
            axis = node.operator.axis
            inputs = [self.unsqueezed[name] for name in node.inputs if name in self.unsqueezed]
            if len(inputs) == len(node.inputs) and all(at == axis for at, _ in inputs):
                return replace(node, operator=Concat(axis, new=True), inputs=tuple(name for _, name in inputs))
        elif isinstance(node.operator, Unsqueeze) and len(node.operator.axes) == 1:
            self.unsqueezed[node.name] = (node.operator.axes[0], node.inputs[0])
        return node

    def _fresh(self, name: str) -> str:
        """Return a name that no value has, and take it."""
        name = fresh_name(name, self.names)
        self.names.add(name)
        return name

    def _node_of_constant(self, constant: Constant) -> str:
        """Return the name of a constant's node, which is that of its value."""
        name = self.constant_nodes.get(constant.value)
        if name is None or not constant.value:
            name = constant.value or self._fresh("constant")
            self.constant_nodes[constant.value] = name
            load = constant.load
            readable = constant.refusal is None  # else it is a value that does not change, with unknown numbers
            operator = ConstantOperator(lambda: load().astype(np.float64)) if readable else Held(constant.refusal or "")
            self.nodes.append(Node(name, operator, (), constant.shape, "Constant"))
        return name

    def _use(
        self,
        kernel: Constant,
        stated: Mapping[str, Any],
        shape: Shape | None,
        label: str,
    ) -> str:
        """Return the name of the row of a kernel with this geometry; a kernel and a geometry have one row.

        If they are used at several input sizes, the row states none. Kernels are compared by `Constant.key`.
        """
        name = kernel.name
        number = 1
        while True:
            old = self.uses.get(name)
            if old is None and (number == 1 or name not in self.constant_names):
                break
            if old is not None and old.constant.key is kernel.key and old.geometry == stated:
                if old.sizes != shape:
                    self.uses[name] = replace(old, sizes=None)
                return name
            name = f"{kernel.name} ({label}{f' {number}' if number > 1 else ''})"
            number += 1
        self.uses[name] = _Use(kernel, stated, shape)
        return name

    def _translate(
        self,
        proto: Any,
        inputs: Operands,
        label: str,
    ) -> tuple[Constant | Output, ...]:
        """Return the translations of a node's outputs; further outputs may have none."""
        is_standard = proto.domain in DOMAINS
        data = [value for value in inputs if isinstance(value, Data)]
        try:
            is_learned = (
                proto.domain == learned.DOMAIN
                and proto.op_type in learned.OPERATORS
                and (proto.domain, proto.op_type) not in self.functions
            )
            if is_standard or is_learned:
                result = self._build(proto, inputs, label)
            else:
                result = self._registered(proto, inputs)
            if isinstance(result, Output) and not data and is_standard and not isinstance(result.operator, Held):
                # All inputs of the node are constants, but its value was not computed: it is constant, though unknown.
                result = Output(Held("a constant"), (), result.shape)
            return result if isinstance(result, tuple) else (result,)
        except UnsizedError as error:
            reason = str(error)
            # The operator has a rule, but a size is open. Unless it is a product, no kernel of it is missed.
            if proto.op_type not in PRODUCTS and all(value.depends for value in data):
                return (self._unknown(proto, inputs, reason),) * len(proto.output)
        except NoBoundError as error:
            reason = str(error)
        except _MISUNDERSTOOD as error:
            reason = f"its attributes are not understood ({type(error).__name__})"
        self._missed(proto, inputs, label)
        return (self._unknown(proto, inputs, reason),) * len(proto.output)

    def _missed(self, proto: Any, inputs: Operands, label: str) -> None:
        name = (proto.domain.replace("ai.onnx", ""), proto.op_type)
        reason = ""
        if name in self.functions:
            reason = "it is a function that the model defines: inline it (onnx.inliner)."
        elif name[0] and name not in _WITHOUT_KERNELS:
            reason = (
                f"it is an operator of {proto.domain[:40]}, which is not supported: register it, or export without it."
            )
        if reason:
            self._hide(Hidden(proto.op_type[:80], "none", reason))
        for missed in unread(proto, inputs, label):
            self._hide(missed)

    def _hide(self, hidden: Hidden) -> None:
        key = (hidden.name, hidden.reason) if hidden.constant is None else hidden.constant.key
        self.hidden.setdefault(key, hidden)

    def _build(self, proto: Any, inputs: Operands, label: str) -> Result:
        """Return the translation of an operator of ONNX; if all its inputs are constants, its value is computed.

        ``label``: name of the node in messages. `NoBoundError` if there is no rule for the operator.
        """
        is_learned = proto.domain == learned.DOMAIN
        rule = (learned.OPERATORS if is_learned else OPERATORS).get(proto.op_type)
        moving = any(isinstance(value, Data) for value in inputs)
        if rule is None and moving:
            if proto.op_type == "ArgMax":
                raise NoBoundError(
                    "it returns a label, which is discontinuous: export the network without it, with its logits"
                )
            raise NoBoundError(NO_LOOPS if proto.op_type in _LOOPS else f"{proto.op_type[:40]} is not supported")
        call = Call(
            proto.op_type,
            self.learned_opset if is_learned else self.opset,
            inputs,
            {attribute.name: attribute for attribute in proto.attribute},
            len(proto.output),
            describe=lambda tensor: self._constant(tensor, label),
            fold=lambda array: Constant(
                self._fresh_constant_name(label),
                array.shape,
                array.dtype.name,
                lambda: array,
            ),
            use=lambda kernel, stated, sizes: self._use(kernel, stated, sizes, label),
            missed=lambda: self._missed(proto, inputs, label),
            domain=learned.DOMAIN if is_learned else "",
        )
        try:
            if rule is not None:
                result = bind(call, rule, rule.build)()
                has_constants = any(isinstance(value, Constant) for value in inputs)
                if moving or isinstance(result, Constant) or not has_constants:
                    return result
        except (NoBoundError, *_MISUNDERSTOOD):
            if moving:
                raise
        # All inputs are constants, and the rule does not give the value: onnx's reference evaluator computes it.
        return computed(proto, call, OLDEST if rule is None else rule.since, self.reader)

    def _registered(self, proto: Any, inputs: Operands) -> Output:
        """Return the operator that a user registered for one of another domain."""
        name = f"{proto.domain}::{proto.op_type}"
        try:
            attributes: dict[str, Any] = {}
            for attribute in proto.attribute:
                value = plain(attribute)
                attributes[attribute.name] = value if isinstance(value, int | float | str | tuple) else None
            operator = registered(name, attributes)
        except MethodError as error:
            raise NoBoundError(str(error)) from error
        if operator is None:
            raise NoBoundError(f"{proto.op_type[:40]} of {proto.domain[:40]} is not supported")
        values = tuple(value for value in inputs if value is not None)
        shape = None
        shapes = [value.shape for value in values if value.shape is not None]
        if len(shapes) == len(values) and sum(map(math.prod, shapes)) <= MAX_KNOWN:
            with suppress(Exception):  # whatever a user's code raises
                shape = np.shape(operator.run(*map(np.zeros, shapes)))
        return Output(operator, values, shape)

    def _unknown(self, proto: Any, inputs: Operands, reason: str) -> Output:
        data = tuple(dict.fromkeys(value for value in inputs if isinstance(value, Data)))
        if has_graphs(proto):
            return Output(Unknown(_SUBGRAPH), data, None)
        if proto.op_type in RANDOM:
            return Output(Random(), data, None)
        is_constant = not data and proto.domain in DOMAINS
        return Output(Held(reason) if is_constant else Unknown(reason), data, None)
