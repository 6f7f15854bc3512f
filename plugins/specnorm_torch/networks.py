"""A torch module -> the graph of its network, and a proven Lipschitz constant.

`torch.export` traces the module once in ``eval()``, through Python control flow, functional calls and in-place
operators (which it makes functional). What does not depend on the inputs is evaluated with the module's own tensors, so
that a parametrised weight is the weight that the module uses; `aten` translates the rest.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from specnorm_networks import Graph, Measure, Method, NetworkBound, Node, bound
from specnorm_networks.certified.operators import Held, Identity, Input, Operator, Random, Unknown
from specnorm_networks.certified.operators.registry import registered
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from specnorm.errors import MethodError
from specnorm_torch.aten import REASONS, piece
from specnorm_torch.baking import baked
from specnorm_torch.baking import computed as computed_of
from specnorm_torch.calls import (
    Call,
    Made,
    Pieces,
    Program,
    constant_of,
    first_of,
    is_value,
    numbers,
    shape_of,
    values_in,
)
from specnorm_torch.decisions import export
from specnorm_torch.functional import check_function
from specnorm_torch.modules import at_inference, check_module, check_values
from specnorm_torch.reference import TorchModel
from specnorm_torch.writing import RULES

BAKED = (
    "Its kernels are computed at each call, and move or cannot be traced: the bound is of a copy with the kernels of "
    "its next call."
)
"""What an answer says that is about a copy."""
_COMPLEX = "its values are complex, which have no rule here: compute with real and imaginary parts, or by convolutions"
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHAPED = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zero")
"""Operators that read the shape of a value and not what is in it."""
_ALIKE = {"expand_as": "self", "to": "self", "type_as": "self", "copy": "src", "fill": "value"}
"""Operators that do so with all but one argument."""
_COMPARISONS = ("gt", "ge", "lt", "le")


def network_bound(
    model: nn.Module,
    input_shape: Sequence[int] | Tensor | tuple[Tensor, ...],
    *,
    rtol: float = 1e-3,
    bake: bool = False,
    method: Method | None = None,
    radius: float | None = None,
    budget: float | None = 60.0,
) -> NetworkBound:
    """Bound the Lipschitz constant of a whole network: certified norms of layers, and of layers together.

    Parameters
    ----------
    model : Module
        Traced once in ``eval()``; its state and mode are as before.
    input_shape : sequence of int, Tensor, or tuple of Tensor
        One input without the batch axis, such as ``(3, 32, 32)``; or an input to trace with, with it; or several. The
        bound holds for inputs of these shapes: of a shape without batch axis in any number, as two and three samples
        are seen to give what each of them gives, or for one alone where the model does not run on several; of inputs
        for as many samples as they have.
    rtol : float, default 1e-3
        Of the enclosure of each layer, at its own input size where that is sharper.
    bake : bool, default False
        Trace a copy in which parametrisations and old-style hooks are plain weights (`specnorm_torch.baked`), which is
        faster. The bound is then of the copy: of the model with its kernels as they are now. Where kernels move from
        call to call, or cannot be traced, a copy is taken in any case, and ``note`` says so.
    method : Product, Scaled or Multipliers, optional
        Of `specnorm_networks`. Default: ``Multipliers()``, which is never above ``Product()``.
    radius : float, optional
        Bound the network near ``input_shape``, which is an input then (or a tuple of them), with its batch axis: for
        all inputs within that 2-norm distance of it, all entries together. Never more than without.
    budget : float, default 60
        Seconds for searches and proofs, without tracing and comparison; None: as long as they take. Where they end,
        the best proven by then is given, and ``status`` says so.

    Returns
    -------
    NetworkBound
        ``upper`` is proven, in real arithmetic, with respect to all floating inputs together; integer inputs are held.
        It is None where an operator has no rule, and `unknown` names it. ``str()`` shows each node.

    Raises
    ------
    MethodError
        If the module cannot be traced by ``torch.export``, has no floating input, or its output for one input changes
        from call to call; or if a radius is given without an input.
    """
    if isinstance(input_shape, int):
        raise MethodError(
            f"input_shape={input_shape} is one number; give one input's shape without the batch axis, such as "
            "(3, 32, 32), or an input."
        )
    given = (input_shape,) if isinstance(input_shape, Tensor) else tuple(input_shape)
    if radius is not None and not all(isinstance(x, Tensor) for x in given):
        raise MethodError(
            f"radius={radius!r} and the input shape {given}: a bound near an input needs the input. Give it, or a "
            "tuple of inputs, in place of the shape, with its batch axis."
        )
    graph = network_graph(baked(model) if bake else model, input_shape)
    if radius is None:
        return bound(graph, Measure(rtol), method=method, budget=budget)
    floating = [x for x in given if isinstance(x, Tensor) and x.is_floating_point()]
    centre = {name: x.detach().cpu().double().numpy() for name, x in zip(graph.inputs, floating, strict=True)}
    return bound(graph, Measure(rtol), method=method, radius=radius, centre=centre, budget=budget)


def network_graph(model: nn.Module, input_shape: Sequence[int] | Tensor | tuple[Tensor, ...]) -> Graph:
    """Graph of a module, as `specnorm_networks` reads it.

    Parameters
    ----------
    model : Module
    input_shape : sequence of int, Tensor, or tuple of Tensor
        As for `network_bound`.

    Returns
    -------
    Graph

    Raises
    ------
    MethodError
    """
    check_module(model)
    check_values(model)
    try:
        return _traced(model, input_shape)
    except MethodError as error:
        if not any(computed_of(module) for module in model.modules()):
            raise
        try:
            twin = baked(model)
        except Exception:  # it cannot be copied
            raise error from None
    return replace(_traced(twin, input_shape), note=BAKED)


def module_of(graph: Graph) -> nn.Module:
    """The module that a graph of `network_graph` is of: the one given, or its copy."""
    assert isinstance(graph.model, TorchModel)  # for the type checker
    assert isinstance(graph.model.module, nn.Module)  # for the type checker
    return graph.model.module


def _traced(model: nn.Module, input_shape: Any) -> Graph:
    """Graph of a module as it is."""
    try:
        with at_inference(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
            example = _example(model, input_shape)
            exported = export(model, example)
            # An empty table decomposes nothing; it makes in-place operators functional.
            program = exported.run_decompositions({})
            graph = _Walk(program).graph()
        check_function(model, program, example, random=any(isinstance(node.operator, Random) for node in graph.nodes))
        free = not isinstance(input_shape, Tensor) and example[0] is not input_shape[0]
        return replace(graph, model=TorchModel.of(model, program, example, free=free))
    except MethodError:
        raise
    except Exception as error:  # whatever the model's own code raises while it is traced
        first = str(error).strip().partition("\n")[0]
        raise MethodError(
            f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {first}. Its control flow may "
            "depend on values, or the shape not be one input's without the batch axis: give an input that it runs on."
        ) from error


def _example(model: nn.Module, given: Any) -> tuple[Tensor, ...]:
    if isinstance(given, Tensor):
        return (given,)
    if isinstance(given, tuple) and given and all(isinstance(x, Tensor) for x in given):
        return given
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return (torch.zeros(1, *given, dtype=like.dtype, device=like.device),)


class _Walk:
    """Turns an exported program into nodes, one after the other."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.known: dict[str, Any] = {}
        """Values that do not depend on the inputs, by fx name."""
        self.data: set[str] = set()
        """fx names of values that do."""
        self.held: set[str] = set()
        """Those of them that stay as they are while the floating inputs move."""
        self.pieces: dict[str, Pieces] = {}
        self.program = Program(
            lambda node, weight: _layer_name(node, exported, weight),
            lambda node: (_operator(node), _arguments(node, self.known)),
        )

    def graph(self) -> Graph:
        """The whole graph."""
        specs = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, specs.get(node.name))
            elif node.op == "get_attr":
                self.known[node.name] = getattr(self.exported.graph_module, str(node.target))
            elif node.op == "call_function" and not (node.meta.get("val") is None and not node.users):
                self._call(node)
        nodes = self.program.nodes
        if not any(isinstance(node.operator, Input) and node.operator.moves for node in nodes):
            raise MethodError("the model has no floating input: a Lipschitz constant is about such.")
        names = [
            spec.arg.name
            for spec in self.exported.graph_signature.output_specs
            if spec.kind == OutputKind.USER_OUTPUT and getattr(spec.arg, "name", None) in self.data
        ]
        if not names:
            raise MethodError("no output of the model depends on its floating inputs.")
        return Graph(tuple(nodes), tuple(names))

    def _placeholder(self, node: Any, spec: Any) -> None:
        constant = constant_of(self.exported, spec)
        if constant is not None:
            self.known[node.name] = constant
        elif spec is not None and isinstance(node.meta.get("val"), Tensor):
            made: Operator = Input(moves=node.meta["val"].is_floating_point())
            if _is_complex(node):
                made = Unknown(_COMPLEX)
            elif not node.meta["val"].is_floating_point():
                self.held.add(node.name)
            self._add(node, made, (), "input")
        else:
            self.known[node.name] = node.meta.get("val")

    def _add(self, node: Any, made: Operator, inputs: tuple[str, ...], label: str) -> None:
        shape = shape_of(node) if isinstance(first_of(node), Tensor) else None
        self.program.nodes.append(Node(node.name, made, inputs, shape, label))
        self.data.add(node.name)

    def _call(self, node: Any) -> None:
        sources = tuple(dict.fromkeys(source for source in node.all_input_nodes if source.name in self.data))
        names, label = tuple(source.name for source in sources), _operator(node)
        arguments = _arguments(node, self.known)
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if seeded and _is_drawing(label, arguments):
            self._add(node, Random(), names, label)
        elif not sources:
            values = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self.known[n.name])
            self.known[node.name] = node.target(*values[0], **values[1])
        elif label in _SHAPED or (label in _ALIKE and not is_value(arguments[_ALIKE[label]])):
            like = torch.fx.node.map_arg((node.args, node.kwargs), self._like)
            self.known[node.name] = node.target(*like[0], **like[1])
        elif self.held.issuperset(names):
            self.held.add(node.name)
            self._add(node, Held(), names, label)
        else:
            self._translate(node, Call(node, sources, self.program, label), arguments)

    def _translate(self, node: Any, call: Call, arguments: dict[Any, Any]) -> None:
        count = len(self.program.nodes)
        try:
            made = self._made(call, arguments)
            inputs = () if isinstance(made, Pieces) else call.names(made.inputs)
        except Exception as error:  # whatever an unusual call breaks: it is named, and the others are kept
            del self.program.nodes[count:]
            made = Made(Unknown(f"its arguments are not understood ({error!r})"), call.used)
            inputs = tuple(source.name for source in call.used)
        if isinstance(made, Pieces):
            self.pieces[node.name] = made
            self.data.add(node.name)
            return
        self._add(node, made.operator, inputs, "batch_norm" if "batch_norm" in call.label else call.label)

    def _like(self, node: Any) -> Any:
        """A value, or zeros of its shape."""
        value = node.meta.get("val")
        return (
            self.known[node.name]
            if node.name in self.known
            else torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        )

    def _made(self, call: Call, arguments: dict[Any, Any]) -> Made | Pieces:
        node = call.node
        if node.target is operator.getitem:
            source, number = node.args
            if source.name in self.pieces:
                return piece(call, self.pieces[source.name], number)
            # Only the first of several results is what is known of their operators.
            return Made(
                Unknown() if isinstance(source.meta.get("val"), tuple | list) and number else Identity(), (source,)
            )
        first, schema, used = first_of(node), getattr(node.target, "_schema", None), call.used
        if schema is None or "::" in call.label:
            return self._registered(call, arguments)
        if any(map(_is_complex, (node, *used))):
            return Made(Unknown(_COMPLEX), used)
        if not (first.dtype in _FLOATING or call.label in _COMPARISONS):
            return Made(Unknown(f"its values are {str(first.dtype).rpartition('.')[2]}: steps"), used)
        key = f"{call.label}.{schema.overload_name}".removesuffix(".")
        rule = RULES.get(key)
        return Made(_without_rule(key), used) if rule is None else rule.made(call, schema, arguments)

    def _registered(self, call: Call, arguments: dict[Any, Any]) -> Made:
        """An operator that is not torch's own, if the user has added it."""
        constants = {
            name: numbers(x) if isinstance(x, Tensor) else tuple(x) if isinstance(x, list) else x
            for name, x in arguments.items()
            if not any(True for _ in values_in(x))
        }
        values = tuple(x for argument in arguments.values() for x in values_in(argument))
        found = registered(call.label, constants)
        if found is None:
            return Made(Unknown(f"{call.label} is not torch's own, and was not added by register_operator"), call.used)
        return Made(found, values)


def _without_rule(key: str) -> Unknown:
    name = key.partition(".")[0]
    if name in REASONS:
        return Unknown(REASONS[name])
    overloads = any(known.partition(".")[0] == name for known in RULES)
    return Unknown(f"its overload {key} is not known here") if overloads else Unknown()


def _is_drawing(label: str, arguments: dict[Any, Any]) -> bool:
    """Whether an operator that torch says to be random draws, as its arguments have it."""
    if label in ("rnn_tanh", "rnn_relu", "lstm", "gru"):
        return bool(arguments.get("train", True)) and arguments.get("dropout", 1.0) != 0.0
    if label == "scaled_dot_product_attention":
        return bool(arguments.get("dropout_p", 0.0) != 0.0)
    return "dropout" not in label or "::" in label or arguments.get("train", True) is not False


def _operator(node: Any) -> str:
    """Name of an operator without overload; what is not torch's own has its namespace, and so no rule."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target))
    return str(schema.name).removeprefix("aten::")


def _arguments(node: Any, known: dict[str, Any]) -> dict[Any, Any]:
    """Arguments by name, defaults included; constants by value, what depends on the inputs as fx nodes."""
    schema = getattr(node.target, "_schema", None)
    given = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: known.get(n.name, n))
    if schema is None:
        return dict(enumerate(given[0])) | dict(given[1])
    names = [argument.name for argument in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return defaults | dict(zip(names, given[0], strict=False)) | dict(given[1])


def _is_complex(node: Any) -> bool:
    value = first_of(node)
    return isinstance(value, Tensor) and value.is_complex()


def _layer_name(node: Any, exported: ExportedProgram, weight: Tensor) -> str:
    """The parameter's name, or the module's where the weight is computed."""
    signature = exported.graph_signature
    for source in node.all_input_nodes:
        name = signature.inputs_to_parameters.get(source.name) or signature.inputs_to_buffers.get(source.name)
        if name is not None and exported.state_dict.get(name) is weight:
            return str(name)
    path = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    return f"{path[-1]}.weight" if path and path[-1] else str(node.name)
