"""ONNX models: kernels with the geometry that their operators state, and the graph of the network.

The file is parsed as data by protobuf; onnx's checker, shape inference and runtimes are never called on it. What an
operator does is in `operators`; here the graph is walked once, in its own order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from specnorm.auditing.geometry import Stated
from specnorm.auditing.layers import Tensor
from specnorm.auditing.readers.onnx.calls import FLOATING, Call, Data, Translated, UnreadError, Value
from specnorm.auditing.readers.onnx.operators import OPERATORS
from specnorm.auditing.readers.onnx.recurrent import GATES, WEIGHTS, gates
from specnorm.auditing.readers.onnx.shapes import symbol
from specnorm.auditing.readers.onnx.signatures import RANDOM, refusal
from specnorm.auditing.readers.onnx.tensors import Constant, Tensors
from specnorm.errors import ModelFileError
from specnorm.networks import Graph, Layer, Node
from specnorm.networks.graph import Shape, Size, concrete

_DEPTH = 16
"""Sub-graphs in sub-graphs that are looked into."""
_DOMAINS = ("", "ai.onnx")
_FLOATS = (1, 10, 11, 16)
_INTEGERS = (2, 3, 4, 5, 6, 7, 8, 9, 12, 13)
"""Element types of inputs: those that move, and those that are held (text, too)."""


class OnnxTensors(list[Tensor]):
    """The arrays of an ONNX model; `graph` gives its network."""

    def __init__(self, tensors: list[Tensor], network: Callable[[int | tuple[int, ...] | None], Graph]) -> None:
        super().__init__(tensors)
        self.graph = network


def read(file: BinaryIO, path: str, max_bytes: int) -> OnnxTensors:
    """List the kernels and other tensors of an ONNX model.

    Parameters
    ----------
    file : binary file
    path : str
        Its folder holds external data.
    max_bytes : int
        Most bytes of the file, and of all tensors.

    Returns
    -------
    OnnxTensors
        A kernel that is used with several geometries is listed once for each. Weights of operators that are not read
        have a refusal.

    Raises
    ------
    ModelFileError
    """
    try:
        from google.protobuf.message import DecodeError
        from onnx import ModelProto
    except ModuleNotFoundError as error:
        raise ModelFileError("ONNX models need the package onnx: pip install 'specnorm-bounds[onnx]'.") from error
    size = file.seek(0, 2)
    file.seek(0)
    if size > max_bytes:
        raise ModelFileError(
            f"it has {size} bytes, more than the limit of {max_bytes}. Raise max_bytes if you trust it."
        )
    try:
        model = ModelProto.FromString(file.read())
    except (DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ModelFileError(f"it is damaged, or no ONNX model: {error}.") from error
    if not _is_text(model):
        raise ModelFileError("it is damaged: one of its names is no text.")
    if not model.HasField("graph") or not (model.graph.node or model.graph.initializer):
        raise ModelFileError("it holds no graph: it is damaged, or no ONNX model.")
    walk = _Walk(model, Tensors(Path(path).parent, max_bytes), None)
    return OnnxTensors(walk.tensors(), lambda sizes: (walk if sizes is None else walk.again(sizes)).graph())


def _is_text(message: Any) -> bool:
    """Whether every string below a message is one: protobuf hands out bytes for what is no UTF-8."""
    waiting = [message]
    while waiting:
        for place, value in waiting.pop().ListFields():
            if place.type not in (place.TYPE_STRING, place.TYPE_MESSAGE):
                continue
            values = [value] if hasattr(value, "ListFields") or isinstance(value, str | bytes) else list(value)
            if place.type == place.TYPE_MESSAGE:
                waiting += values
            elif not all(isinstance(word, str) for word in values):
                return False
    return True


@dataclass(frozen=True)
class _Use:
    """A kernel in one operator."""

    constant: Constant
    geometry: Mapping[str, Any]
    sizes: tuple[int, ...] | None
    where: str

    def is_of(self, other: _Use) -> bool:
        """Whether the other one is the same numbers in the same geometry, at whatever size."""
        one, two = ((c.name, c.shape, c.dtype, c.steps, c.refusal) for c in (self.constant, other.constant))
        return one == two and self.geometry == other.geometry


class _Walk:
    """Goes through a model once.

    Parameters
    ----------
    model : ModelProto
    reader : Tensors
    sizes : int or tuple of int, optional
        Spatial sizes of inputs where the file leaves them open.
    rows : mapping of str to _Use, optional
        Of a walk without these sizes: a kernel keeps the name of its row, and no other one gets it.
    """

    def __init__(
        self, model: Any, reader: Tensors, sizes: int | tuple[int, ...] | None, rows: Mapping[str, _Use] | None = None
    ) -> None:
        self.model = model
        self.reader = reader
        self.sizes = sizes
        self.rows = rows or {}
        opsets = {o.version for o in model.opset_import if o.domain in _DOMAINS}
        self.opset = max(opsets, default=1)
        self.nodes: list[Node] = []
        self.uses: dict[str, _Use] = {}
        """Kernels by the name of their row."""
        self.constants: dict[str, Constant] = {}
        """Every initialiser."""
        self.taken: set[str] = set()
        """Names of constants, and of nodes, whose names constants get that are computed: no two are alike."""
        self.unread: dict[str, str] = {}
        """Initialisers of operators that are not read, with the operator."""
        self.recurrent: dict[str, tuple[str, int, Constant]] = {}
        """Initialisers of recurrent operators: the operator, and which input it is."""
        self.broken: str | None = None
        """Why the graph makes no sense; its kernels are rows all the same."""
        scope = self._scope(model.graph, {}, top=True)
        self.values = self._walk(model.graph, scope, 0, self.nodes)
        if any(function.domain in _DOMAINS for function in model.functions):
            self.broken = "it defines operators of ONNX anew"
        if len(opsets) > 1:
            self.broken = f"it imports the operator sets {', '.join(map(str, sorted(opsets)[:4]))} of ONNX at once"
        if any(output.name not in self.values for output in model.graph.output):
            self.broken = self.broken or "nothing makes one of its outputs"

    def again(self, sizes: int | tuple[int, ...]) -> _Walk:
        """The same model with sizes for what it leaves open."""
        return _Walk(self.model, Tensors(self.reader.folder, self.reader.limit), sizes, self.uses)

    def tensors(self) -> list[Tensor]:
        """Rows and skipped tensors, kernels first in the graph's order."""
        found, used = [], set()
        for name, use in self.uses.items():
            c = use.constant
            used.add(c.name)
            kind: Any = "linear" if len(c.shape) == 2 else "conv"
            stated = Stated(**use.geometry, layout=None)  # type: ignore[typeddict-item]
            found.append(Tensor(name, c.shape, c.dtype, c.load, kind, stated, use.sizes, c.refusal))
        for name, c in self.constants.items():
            if name in used:
                continue
            if name in self.recurrent and name not in self.unread:
                operator, at, value = self.recurrent[name]
                rows = list(gates(value, operator, name, self.taken | self.uses.keys())) if at in WEIGHTS else []
                if rows or at not in WEIGHTS:
                    found += rows or [Tensor(name, c.shape, c.dtype, c.load, "none")]
                    continue
            where = self.unread.get(name)
            if where is not None and c.dtype.startswith(FLOATING) and 2 <= len(c.shape) <= 5:
                reason = f"it is a weight of {where}, which is not read as a layer."
                found.append(Tensor(name, c.shape, c.dtype, c.load, "unknown", refusal=c.refusal or reason))
            else:
                found.append(Tensor(name, c.shape, c.dtype, c.load, "none"))
        return found

    def graph(self) -> Graph:
        """The network; values that no output needs are left out."""
        if self.broken is not None:
            raise ModelFileError(f"{self.broken}: the graph is damaged.")
        outputs = [self.values.get(o.name) for o in self.model.graph.output]
        return Graph(tuple(self.nodes), tuple(value.name for value in outputs if isinstance(value, Data)))

    def _scope(self, graph: Any, outer: dict[str, Value], *, top: bool) -> dict[str, Value]:
        scope = dict(outer)
        for proto in graph.initializer:
            scope[proto.name] = self._constant(proto, self._alone(proto.name))
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            refused = Constant(self._alone(name), tuple(sparse.dims), "float32", lambda: np.zeros(0))
            scope[name] = refused.refused("it is stored as a sparse tensor.")
        for given in graph.input:
            if given.name in scope and given.name not in outer:
                continue  # before version 4 of the format, initialisers are inputs with a default
            tensor = given.type.tensor_type
            rule = "input" if tensor.elem_type in _FLOATS else "held" if tensor.elem_type in _INTEGERS else "unknown"
            shape = self._input_shape(given.name, tensor) if top else None
            scope[given.name] = Data(given.name, shape, held=rule == "held")
            if top:
                self.nodes.append(Node(given.name, rule, "input", (), shape))
        return scope

    def _alone(self, name: str) -> str:
        """A name that no constant and no node had until now; the same one whatever sizes are known."""
        while name in self.taken:
            name = f"{name}'"
        self.taken.add(name)
        return name

    def _constant(self, proto: Any, name: str) -> Constant:
        self.constants[name] = self.reader.describe(proto, name)
        return self.constants[name]

    def _input_shape(self, name: str, tensor: Any) -> Shape | None:
        """Sizes of an input: the file's, one sample, the spatial sizes asked for, else symbols."""
        if not tensor.HasField("shape"):
            return None
        dims = tensor.shape.dim
        ndim = max(len(dims) - 2, 0)
        asked = (self.sizes,) * ndim if self.sizes is None or isinstance(self.sizes, int) else self.sizes
        spatial = asked if len(asked) == ndim else (None,) * ndim
        sizes: list[Size] = []
        for axis, dim in enumerate(dims):
            wanted = spatial[axis - 2] if axis >= 2 else None
            if dim.HasField("dim_value") and dim.dim_value > 0:
                sizes.append(int(dim.dim_value))
            elif axis == 0 and len(dims) > 1:
                sizes.append(1)  # one sample; the entries of a vector are none
            else:
                own = symbol(dim.dim_param) if dim.dim_param else f"{name}.{axis}"
                sizes.append(own if wanted is None else wanted)
        return tuple(sizes)

    def _walk(self, graph: Any, scope: dict[str, Value], depth: int, nodes: list[Node]) -> dict[str, Value]:
        names = {node.name for node in self.nodes} if depth == 0 else set()
        for position, proto in enumerate(graph.node):
            label = self._alone(proto.name or f"{proto.op_type}_{position}")
            missing = next((name for name in proto.input if name and name not in scope), None)
            if missing is not None:
                self.broken = self.broken or f"{label[:80]} uses {missing[:80]!r}, which nothing before it makes"
            inputs = [scope.get(name) if name else None for name in proto.input]
            attributes = {a.name: a for a in proto.attribute}
            for inner in _graphs(proto):
                if depth < _DEPTH:
                    # For the kernels; its values are unknown here.
                    self._walk(inner, self._scope(inner, scope, top=False), depth + 1, [])
                # It may use any value that is in sight.
                inputs += [scope[name] for name in sorted(_mentioned(inner, _DEPTH)) if name in scope]
            call = Call(proto.op_type, self.opset, inputs, attributes, len(proto.output), self._constant, label)
            found = self._translate(proto, call)
            if isinstance(found, Translated) and found.rule == "unknown" and _is_random(proto, _DEPTH):
                found = replace(found, rule="random")
            elif isinstance(found, Translated) and not found.inputs and proto.domain in _DOMAINS:
                # Constant, or made of shapes and integers; a broken graph gives no bound.
                shapes = tuple(value.name for value in inputs if isinstance(value, Data))
                found = replace(found, rule="held", inputs=shapes, kernel=None)
            # An output that is left out has an empty name, and keeps its place.
            outputs = [(at, name) for at, name in enumerate(proto.output) if name]
            if isinstance(found, Constant):
                scope.update({name: found for at, name in outputs if at == 0})
                continue
            ours = proto.domain in _DOMAINS
            # The namespace is a part of the name.
            operator = proto.op_type if ours else f"{proto.domain}.{proto.op_type}"
            for at, name in outputs:
                node = self._node(name, operator, label, found, at)
                if node.name in names:
                    self.broken = self.broken or f"two of its values are called {name[:80]!r}"
                    node = replace(node, name=f"{name} ({len(nodes)})")
                names.add(node.name)
                nodes.append(node)
                held = bool(found.inputs or found.rule == "held") and found.rule != "random"
                held = held and all(value.held for value in inputs if isinstance(value, Data))
                # Patterns look back at what made a value: only at what is understood.
                known = ours and found.rule != "unknown" and at == 0
                scope[name] = Data(node.name, node.shape, held, call if known else None)
        return scope

    def _node(self, name: str, operator: str, label: str, found: Translated, at: int) -> Node:
        layer = None
        if found.kernel is not None:
            row = self._use(found, label)
            # Kernels are measured as they are stored, or in float64 where a reader computed them.
            spatial = max(len(found.kernel.shape) - 2, 0)
            layer = Layer(row, found.kernel.load, found.geometry, spatial, found.turned)
            if found.kernel.refusal is not None:
                found = replace(found, rule="unknown", params={"reason": found.kernel.refusal})
        rule = found.rule if at == 0 or found.pieces else "unknown"
        shape = found.shapes[at] if at < len(found.shapes) else None
        # Pieces are told apart by where they begin.
        params = {**found.params, "piece": at} if found.pieces and "pieces" in found.params else found.params
        return Node(name, rule, operator, found.inputs, shape, params, layer, found.offset if at == 0 else None)

    def _use(self, found: Translated, label: str) -> str:
        """Name of the row of a kernel with this geometry."""
        kernel = found.kernel
        assert kernel is not None  # for the type checker; the caller looked
        sizes = concrete(found.sizes)
        name = kernel.name
        use = _Use(kernel, found.stated, sizes, label)
        while (old := self.uses.get(name, self.rows.get(name))) is None or not old.is_of(use):
            if old is None and (name == kernel.name or name not in self.taken):
                break
            name = f"{name} ({label})"
        here = self.uses.get(name, use)
        self.uses[name] = here if here.sizes == sizes else replace(here, sizes=None)
        return name

    def _translate(self, proto: Any, call: Call) -> Constant | Translated:
        ours = proto.domain in _DOMAINS
        operator = OPERATORS.get(proto.op_type) if ours else None
        reason = f"{proto.op_type[:40]}{'' if ours else f' of {proto.domain[:40]}'} has no rule here"
        if operator is not None:
            try:
                strange = refusal(call.operator, call.opset, call.inputs, call.attributes)
                if strange is not None:
                    raise UnreadError(strange)
                return operator(call)
            except UnreadError as error:
                reason = str(error)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
                reason = f"its attributes are not understood ({type(error).__name__})"
        for at, value in enumerate(call.inputs):
            if isinstance(value, Constant) and ours and proto.op_type in GATES:
                self.recurrent.setdefault(value.name, (proto.op_type, at, value))
            elif isinstance(value, Constant):
                self.unread.setdefault(value.name, f"{proto.op_type[:40]} ({call.label[:80]})")
        data = tuple(dict.fromkeys(value.name for value in call.inputs if isinstance(value, Data)))
        return Translated("unknown", data, (), {"reason": reason})


def _graphs(proto: Any) -> list[Any]:
    """Sub-graphs of a node."""
    found = []
    for attribute in proto.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += list(attribute.graphs)
    return found


def _is_random(proto: Any, depth: int) -> bool:
    """Whether an operator that is not read draws random numbers, as dropout in training does."""
    if proto.op_type in RANDOM or proto.op_type == "Dropout":
        return True
    return depth > 0 and any(_is_random(node, depth - 1) for inner in _graphs(proto) for node in inner.node)


def _mentioned(graph: Any, depth: int) -> set[str]:
    """Names that a sub-graph reads, its own included."""
    names = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    if depth:
        for node in graph.node:
            for inner in _graphs(node):
                names |= _mentioned(inner, depth - 1)
    return names
