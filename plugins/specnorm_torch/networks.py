"""A torch module -> the graph of its network, and a proven Lipschitz constant.

`torch.export` traces the module once in ``eval()``, through Python control flow, functional calls and in-place
operators (which it makes functional). What does not depend on the inputs is evaluated with the module's own tensors, so
that a parametrised weight is the weight that the module uses; `aten` translates the rest.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from specnorm.errors import MethodError
from specnorm.networks import Graph, Layer, Measure, Method, NetworkBound, Node, bound
from specnorm.networks.bounding import prepared
from specnorm_torch.aten import REASONS, RULES
from specnorm_torch.baking import baked
from specnorm_torch.calls import Call, Translation
from specnorm_torch.fourier import COMPLEX
from specnorm_torch.modules import at_inference, check_module, check_values
from specnorm_torch.running import check_repeats, check_samples, refuse_first_call, tensor_names
from specnorm_torch.signatures import name_of, refusal

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHAPED = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
"""Operators that read the shape of a value and not what is in it."""
_ALIKE = ("expand_as", "to", "type_as")
"""Operators that do so with all but the first."""


def network_bound(
    model: nn.Module,
    input_shape: Sequence[int] | Tensor | tuple[Tensor, ...],
    *,
    rtol: float = 1e-3,
    bake: bool = False,
    method: Method | None = None,
    radius: float | None = None,
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
        Trace a copy in which parametrisations and old-style hooks are plain weights (`specnorm_torch.baked`): they are
        faster to trace, and those that move buffers in ``eval()`` cannot be traced. The bound is then of the copy: of
        the model with its kernels as they are now.
    method : Product, Scaled or Multipliers, optional
        Of `specnorm.networks`. Default: ``Multipliers()``, which is never above ``Product()``.
    radius : float, optional
        Bound the network near ``input_shape``, which is an input then (or a tuple of them), with its batch axis: for
        all inputs within that 2-norm distance of it, all entries together. Never more than without.

    Returns
    -------
    NetworkBound
        ``upper`` is proven, in real arithmetic, with respect to all floating inputs together; integer inputs are held.
        It is None where an operator has no rule, and `unknown` names it. ``str()`` shows each node.

    Raises
    ------
    MethodError
        If the module cannot be traced by ``torch.export``, has no floating input, its output for one input changes
        from call to call, or for a sample with others beside it; or if a radius is given without an input.
    """
    given = (input_shape,) if isinstance(input_shape, Tensor) else tuple(input_shape)
    if radius is not None and not all(isinstance(x, Tensor) for x in given):
        raise MethodError(
            f"radius={radius!r} and the input shape {given}: a bound near an input needs the input. Give it, or a "
            "tuple of inputs, in place of the shape, with its batch axis."
        )
    graph = network_graph(baked(model) if bake else model, input_shape)
    if radius is None:
        return bound(graph, Measure(rtol), method=method)
    floating = [x for x in given if isinstance(x, Tensor) and x.is_floating_point()]
    centre = {name: x.detach().cpu().double().numpy() for name, x in zip(graph.inputs, floating, strict=True)}
    return bound(graph, Measure(rtol), method=method, radius=radius, centre=centre)


def network_graph(model: nn.Module, input_shape: Sequence[int] | Tensor | tuple[Tensor, ...]) -> Graph:
    """Graph of a module, as `specnorm.networks` reads it.

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
        with at_inference(model), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
            example, known = _example(model, input_shape), tensor_names(model)
            try:
                exported = torch.export.export(model, example, strict=False)
            finally:
                refuse_first_call(model, known)
            # An empty table decomposes nothing; it makes in-place operators functional.
            graph = _Walk(exported.run_decompositions({})).graph()
        if not any(node.rule == "random" for node in graph.nodes):
            check_repeats(model, example)
            # What is refused by name has no bound, for samples together or apart.
            if not (_are_inputs(input_shape) or any(node.rule == "unknown" for node in prepared(graph).nodes)):
                check_samples(model, example[0])
        return graph
    except MethodError:
        raise
    except Exception as error:  # whatever the model's own code raises while it is traced
        first = str(error).strip().partition("\n")[0]
        raise MethodError(
            f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {first}. Its control flow may "
            "depend on values, or the input shape not fit: give an input that it runs on. Parametrisations "
            "and hooks that cannot be traced are made plain weights by bake=True."
        ) from error


def _are_inputs(given: Any) -> bool:
    return isinstance(given, Tensor) or (
        isinstance(given, tuple) and bool(given) and all(isinstance(x, Tensor) for x in given)
    )


def _example(model: nn.Module, given: Any) -> tuple[Tensor, ...]:
    if _are_inputs(given):
        return (given,) if isinstance(given, Tensor) else given
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return (torch.zeros(1, *given, dtype=like.dtype, device=like.device),)


class _Walk:
    """Turns an exported program into nodes, one after the other."""

    def __init__(self, exported: ExportedProgram) -> None:
        self.exported = exported
        self.known: dict[str, Any] = {}
        """Values that do not depend on the inputs, by fx name."""
        self.data: set[str] = set()
        """fx names of values that do, each the name of a node."""
        self.nodes: list[Node] = []
        self.kernels: dict[str, Tensor | None] = {}
        self.weights: dict[str, Tensor] = {}
        """Of the entries of complex values, by fx name; see `fourier`."""

    def graph(self) -> Graph:
        """The whole graph."""
        held = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, held.get(node.name))
            elif node.op == "get_attr":
                self.known[node.name] = getattr(self.exported.graph_module, str(node.target))
            elif node.op == "call_function":
                self._call(node)
        if not any(node.rule == "input" for node in self.nodes):
            raise MethodError("the model has no floating input: a Lipschitz constant is about such.")
        names = [
            spec.arg.name
            for spec in self.exported.graph_signature.output_specs
            if spec.kind == OutputKind.USER_OUTPUT and getattr(spec.arg, "name", None) in self.data
        ]
        if not names:
            raise MethodError("no output of the model depends on its floating inputs.")
        return Graph(tuple(self.nodes), tuple(names))

    def _placeholder(self, node: Any, spec: Any) -> None:
        if spec is not None and spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            state: Any = self.exported.state_dict
            self.known[node.name] = state[spec.target] if spec.target in state else self.exported.constants[spec.target]
        elif spec is not None and spec.kind == InputKind.CONSTANT_TENSOR:
            self.known[node.name] = self.exported.constants[spec.target]
        elif spec is not None and isinstance(node.meta.get("val"), Tensor):
            rule = "input" if node.meta["val"].is_floating_point() else "unknown" if _is_complex(node) else "held"
            told = {"reason": "it is complex: make its real and imaginary parts the input"} if rule == "unknown" else {}
            self._add(Node(node.name, rule, "input", (), _shape(node), told))
        else:
            self.known[node.name] = node.meta.get("val")

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        self.data.add(node.name)

    def _call(self, node: Any) -> None:
        used = [source.name for source in node.all_input_nodes]
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not _is_idle(node):
            inputs = tuple(name for name in used if name in self.data)
            self._add(Node(node.name, "random", _operator(node), inputs, _shape(node)))
            return
        if not any(name in self.data for name in used):
            values = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self.known[n.name])
            self.known[node.name] = node.target(*values[0], **values[1])
            return
        name = _operator(node)
        if name in _SHAPED or (name in _ALIKE and _arguments(node, self.known)["self"] not in node.all_input_nodes):
            like = torch.fx.node.map_arg((node.args, node.kwargs), self._like)
            self.known[node.name] = node.target(*like[0], **like[1])
            return
        call = Call(node, name, _arguments(node, self.known), self.data, _shape, self.weights)
        found = self._translated(node, call)
        if found.weights is not None:
            self.weights[node.name] = found.weights
        inputs = tuple(found.inputs or dict.fromkeys(n for n in used if n in self.data))
        for extra in found.before:
            self._add(extra)
        layer = None
        if found.kernel is not None:
            layer = Layer(self._named(node, found), found.kernel, found.geometry, found.spatial, found.turned)
        shown = "batch_norm" if "batch_norm" in name else name
        self._add(Node(node.name, found.rule, shown, inputs, _shape(node), found.params, layer, found.offset))

    def _named(self, node: Any, found: Translation) -> str:
        """Name of a kernel, which no other kernel has."""
        name = _layer_name(node, self.exported, found)
        if self.kernels.setdefault(name, found.weight) is not found.weight:
            name = f"{name} ({node.name})"
        return name

    def _like(self, node: Any) -> Any:
        """A value, or zeros of its shape."""
        value = node.meta.get("val")
        return (
            self.known[node.name]
            if node.name in self.known
            else torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        )

    def _translated(self, node: Any, call: Call) -> Translation:
        if node.target is operator.getitem:
            # Only the first of several results is what the rules speak of, unless all are pieces of the input.
            source = node.args[0]
            whole = not isinstance(source.meta.get("val"), tuple | list) or node.args[1] == 0
            pieces = _operator(source) in ("split", "split_with_sizes", "chunk", "unbind", "tensor_split")
            same = whole and not pieces and _shape(source) == _shape(node)
            params: dict[str, Any] = (
                _piece(source, node.args[1]) if pieces and node.args[1] >= 0 else {"shift": True} if same else {}
            )
            return Translation("select" if whole or pieces else "unknown", params)
        first = _first(node)
        if isinstance(first, Tensor) and first.dtype not in _FLOATING and not first.is_complex():
            what = str(first.dtype).rpartition(".")[2]
            return Translation("unknown", {"reason": f"its values are {what}: steps"} | _compared(call))
        is_complex = any(_is_complex(n) for n in (node, *(n for n in node.all_input_nodes if n.name in self.data)))
        rule = (COMPLEX if is_complex else RULES).get(call.name)
        if is_complex and rule is None:
            return Translation("unknown", {"reason": f"its values are complex: {call.name} has no rule for such"})
        try:
            reason = REASONS.get(call.name) if rule is None else refusal(node.target._schema, call.arguments)
            if rule is None or reason is not None:
                return Translation("unknown", {} if reason is None else {"reason": reason})
            return rule(call)
        except Exception as error:  # whatever an unusual call breaks: it is named, and the others are kept
            return Translation("unknown", {"reason": f"its arguments are not understood ({error!r})"})


def _compared(call: Call) -> dict[str, Any]:
    """Which comparison with a number it is."""
    other = call.arguments.get("other")
    number = isinstance(other, int | float) or (isinstance(other, Tensor) and other.numel() == 1)
    known = call.name in ("le", "lt", "ge", "gt") and number and call.is_data("self")
    return {"compare": call.name, "with": float(other)} if known and other is not None else {}


def _piece(source: Any, number: int) -> dict[str, Any]:
    """Which piece of a value it is, and where the pieces of a split begin."""
    whole, parts = _shape(source.all_input_nodes[0]), [tuple(part.shape) for part in source.meta["val"]]
    found: dict[str, Any] = {"piece": number}
    if whole is not None and all(len(part) == len(whole) for part in parts):
        wide = [axis for axis, n in enumerate(whole) if parts[0][axis] != n] or [0]
        sizes = [part[wide[0]] for part in parts]
        if sum(sizes) == whole[wide[0]]:
            found["pieces"] = (wide[0], tuple(sum(sizes[:at]) for at in range(len(sizes))))
    return found


def _is_idle(node: Any) -> bool:
    """Whether it is dropout that is off."""
    return "dropout" in _operator(node) and not _arguments(node, {}).get("train", True)


def _operator(node: Any) -> str:
    """Name of an operator without overload; what is not torch's own has its namespace, and so no rule."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return "getitem" if node.target is operator.getitem else str(node.target)
    return name_of(schema)


def _arguments(node: Any, known: dict[str, Any]) -> dict[Any, Any]:
    """Arguments by name, defaults included; constants by value, what depends on the inputs as fx nodes."""
    schema = getattr(node.target, "_schema", None)
    given = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: known.get(n.name, n))
    if schema is None:
        return dict(enumerate(given[0])) | dict(given[1])
    names = [argument.name for argument in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return {"overload": schema.overload_name} | defaults | dict(zip(names, given[0], strict=False)) | dict(given[1])


def _first(node: Any) -> Any:
    """The value of an fx node, or the first of several."""
    value = node.meta.get("val")
    return value[0] if isinstance(value, tuple | list) and value else value


def _is_complex(node: Any) -> bool:
    value = _first(node)
    return isinstance(value, Tensor) and value.is_complex()


def _shape(node: Any) -> tuple[int, ...] | None:
    value = _first(node)
    return tuple(int(n) for n in value.shape) if isinstance(value, Tensor) else None


def _layer_name(node: Any, exported: ExportedProgram, found: Translation) -> str:
    """The parameter's name, or the module's where the weight is computed."""
    signature = exported.graph_signature
    for source in node.all_input_nodes:
        name = signature.inputs_to_parameters.get(source.name) or signature.inputs_to_buffers.get(source.name)
        if name is not None and found.weight is not None and exported.state_dict.get(name) is found.weight:
            return str(name)
    path = [entry[0] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    return f"{path[-1]}.weight" if path and path[-1] else str(node.name)
