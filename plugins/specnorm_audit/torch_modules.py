"""The audit of a live model: torch's own layers by their attributes, other modules by their exported graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import torch
from specnorm_networks import Graph, Layer, Node, Product, network_graph
from specnorm_networks import operators as ops
from specnorm_networks.tools import Kind, bound
from specnorm_torch import baked
from specnorm_torch.modules import (
    Select,
    at_inference,
    check_module,
    check_values,
    computed,
    computes_as_torch,
    computes_with,
    geometry_of,
    has_hooks,
    is_layer,
    is_lazy,
    is_quantised,
    layers_of,
    name_of,
    weight_of,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations

import specnorm
from specnorm import ConvSpec, SpecnormError
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import METHODS
from specnorm_audit.measuring import BUDGET, Settings, checked_names, fill
from specnorm_audit.report import Report
from specnorm_audit.rows import OTHER_END, Row

_Call = tuple[tuple[Any, ...], dict[str, Any], tuple[str, torch.dtype, bool]]
"""Arguments by place and by name, and the autocast around them."""
_COMPUTED = ("", "_orig", "_g", "_v", "_u")
"""Ends of the names of the tensors that a hook of torch's computes a kernel from."""
_MATRIX = 2
_NOT_CALLED = "the forward pass did not call this layer (its weight may be used without it): its input is not known."
_MOVING = "its kernel moves from call to call: measured is that of its next call"


def audit_module(
    model: nn.Module,
    input_shape: int | Sequence[int] | Tensor,
    *,
    methods: Sequence[str] = (),
    smallest: bool = False,
    rtol: float = 1e-3,
    budget: float | None = BUDGET,
    select: Select | None = None,
) -> Report:
    """Measure every convolution and linear layer of a model as the model uses it.

    A layer of torch's is measured where it computes, with its parametrisations and hooks, what its attributes say: bit
    for bit, on random numbers. Any other module is exported alone (``specnorm-bounds[networks]``), and measured where
    its graph is one convolution or matrix product with a fixed kernel.

    Parameters
    ----------
    model : Module
        Run once on zeros in ``eval()``, without gradients, and each layer alone on random numbers; its state, buffers
        included, and mode are as before.
    input_shape : int, sequence of int, or Tensor
        One input without the batch axis, such as ``(3, 32, 32)``; an int for the size of every spatial axis, where the
        model starts with a convolution; or an input to run, with the batch axis.
    methods : sequence of str, default ()
        What else to measure, by the names in ``specnorm.methods.METHODS``. "power", "enclose", "fft" and "gram" answer
        at the layer's input size, the others for every size.
    smallest, rtol, budget
        As in `specnorm.audit`.
    select : callable, optional
        ``select(name, layer)``: whether a layer is measured.

    Returns
    -------
    Report
        As `specnorm.audit` returns, with nothing assumed; ``str(report)`` is a table. ``lower`` and ``upper`` are
        proven bounds of the layer's norm at its input size (of the first call, if it is called at several). A layer
        that was not called, that is not seen to be such a product, or that a method cannot serve, is a row with
        ``status`` "error" and the reason. Other modules are rows where they are seen to be such a product;
        ``unmeasured`` names the other parameters with two axes or more.

    Raises
    ------
    MethodError
        If a method is unknown, the model is no module or has no layer, or does not run on the input.
    GeometryError
        If a layer has no values yet: a lazy one, or one on the device "meta".
    """
    columns = checked_names(methods, (*METHODS, *OTHER_END), OTHER_END if smallest else ())
    settings = Settings(columns, rtol=rtol, budget=budget)
    check_module(model)
    layers = dict(layers_of(model, select))
    others = {name: module for name, module in _others(model) if select is None or select(name, module)}
    if not layers and not others:
        raise MethodError("the model has no convolution or linear layer that is selected.")
    check_values(model)
    settings.method("enclose")  # refuses a tolerance or a budget that is none
    rows = []
    with at_inference(model):
        with at_inference(model):  # what moves at each call is as before for the layers
            calls = _calls(model, layers | others, _example(model, layers, input_shape))
        for name, module in model.named_modules():
            if name in layers or name in others:
                row = _row(name, module, calls.get(name), settings)
                rows += [] if row is None else [row]
    if not rows:
        raise MethodError(f"of {', '.join(others)} none is seen to be one convolution or linear map.")
    skipped = _skipped(model, [row.name for row in rows])
    # What a measured module holds besides has been seen not to matter, or is what its kernel is computed from.
    told = tuple(row.name.rpartition(".")[0] + "." for row in rows if row.reason is None and "." in row.name)
    unmeasured = tuple(
        Row(name, "none", tuple(x.shape), None, reason="its module is not seen to be a product with it.")
        for name, x in skipped
        if x.ndim >= _MATRIX and isinstance(x, nn.Parameter) and not name.startswith(told)
    )
    names = tuple(name for name, _ in skipped)
    return Report(specnorm.__version__, type(model).__name__, tuple(rows), names, unmeasured=unmeasured, live=True)


def _others(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that are no layers of torch's but hold matrices, or kernels that are packed: quantised ones."""
    packed: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if is_layer(module) or "parametrizations" in name.split(".") or name.startswith(packed):
            continue
        if is_quantised(module):
            packed += (f"{name}.",)
        held = [x for x in module._parameters.values() if x is not None]
        parametrised: Any = getattr(module, "parametrizations", {})
        if any(x.ndim >= _MATRIX for x in held if not is_lazy(x)) or len(parametrised) or is_quantised(module):
            yield name, module


def _example(
    model: nn.Module,
    layers: dict[str, nn.Module],
    given: int | Sequence[int] | Tensor,
) -> Tensor:
    if isinstance(given, Tensor):
        return given
    shape: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) else (given,)
    if not all(_whole(n) for n in shape):
        raise MethodError(
            f"input_shape={given!r} is no int, no sequence of positive ints such as (3, 32, 32), and no tensor."
        )
    if not isinstance(given, Sequence):
        first: Any = next(iter(layers.values()), None)
        if not isinstance(first, _ConvNd):
            raise MethodError(
                f"input_shape={given} is a spatial size, but the model's first layer is no convolution. Give one input "
                "without the batch axis, such as (3, 32, 32)."
            )
        shape = (first.in_channels, *shape * len(first.kernel_size))
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(1, *map(index, shape), dtype=like.dtype, device=like.device)


def _whole(n: Any) -> bool:
    return hasattr(n, "__index__") and not isinstance(n, bool) and getattr(n, "ndim", 0) == 0 and index(n) > 0


def _calls(model: nn.Module, layers: dict[str, nn.Module], example: Tensor) -> dict[str, _Call]:
    """Arguments of the first call of each layer in a forward pass."""
    calls: dict[str, _Call] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in calls:
                on = next((x.device.type for x in layer.parameters()), "cpu")
                calls[name] = (args, kwargs, (on, torch.get_autocast_dtype(on), torch.is_autocast_enabled(on)))

        # Before the layer's own hooks, which run again where it is watched.
        return layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        model(example)
    except Exception as error:  # whatever the model's own code raises
        first = str(error).strip().partition("\n")[0]
        raise MethodError(
            f"{type(model).__name__} does not run on an input of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {first}. Give one input's shape without the batch axis, such as (3, 32, 32), or "
            "a tensor that it runs on."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _seen(module: nn.Module, call: _Call) -> tuple[Any, dict[str, Any], str | None, str]:
    """Kernel and geometry of a module, what has to be said of it, and the kernel's name in the module."""
    args, kwargs, casting = call
    with torch.autocast(*casting):
        plain = is_layer(module) and not has_hooks(module)
        if plain and len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(args[0].shape, generator=generator).to(args[0]) if args[0].is_floating_point() else args[0]
            copies = [(module, None), *([(baked(module), _MOVING)] if any(map(computed, module.modules())) else [])]
            for each, note in copies:
                with at_inference(each):
                    weight = computes_with(each, x)
                    if weight is not None:
                        return weight, geometry_of(each, _size(each, x)), note, "weight"
        if kwargs or not all(isinstance(x, Tensor) for x in args):
            raise GeometryError(f"{name_of(module)} is called with more than tensors: it is not tried alone.")
        graph = network_graph(module, args).pruned()
        kernel, geometry, name = _one_layer(graph, name_of(module))
        # Executed beside the module, and refused where they differ.
        bound(graph, method=Product())
    return kernel, geometry, graph.note or None, name


def _size(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Spatial sizes of a layer's input."""
    return tuple(x.shape[x.ndim - len(layer.kernel_size) :]) if isinstance(layer, _ConvNd) else ()


def _changes_no_norm(node: Node, graph: Graph) -> bool:
    """Whether a value is the entries of the one before it, in another order or with constants added."""
    operator, moving = node.operator, [graph.by_name[name] for name in node.inputs if name not in graph.constants]
    if len(moving) != 1:
        return isinstance(operator, ops.Input)
    if isinstance(operator, ops.Add):
        plain = operator.over == 1 and {*map(abs, operator.weights)} == {1.0}
        return plain and node.shape is not None and node.shape == moving[0].shape
    return isinstance(operator, ops.SameOrder | ops.Permute)


def _one_layer(graph: Graph, of: str) -> tuple[Any, dict[str, Any], str]:
    """Kernel, geometry and name of the only layer of a graph, which is all that it computes but for a bias."""
    moving = [node for node in graph.nodes if node.name not in graph.constants]
    node, *more = _layers(moving) or [None]
    pads: list[Any] = [x for x in moving if isinstance(x.operator, ops.Pad)]
    others = [x for x in moving if x not in (node, *more, *pads) and not _changes_no_norm(x, graph)]
    before = None if node is None else graph.by_name[node.inputs[0]]
    whole = len(graph.inputs) == 1 and graph.outputs == (moving[-1].name,)
    if node is None or before is None or more or others or pads not in ([], [before]) or not whole:
        found = ", ".join(x.label or x.rule for x in moving[1:7])
        raise GeometryError(
            f"{of} is not shown to be one convolution or linear map of a fixed kernel: its graph has {found}. Give "
            "the kernel that it amounts to, with its geometry, to specnorm.enclose, or the whole model to "
            "specnorm_networks.network_bound."
        )
    layer: Layer = node.operator.layer
    kernel, geometry = layer.stored(), dict(layer.geometry)
    if pads:
        spec, pad = ConvSpec.of(tuple(kernel.shape), **geometry), pads[0].operator
        if spec.transposed or any(map(any, spec.padding)) or len(pad.pads) != spec.ndim:
            raise GeometryError(f"{of} pads twice, or other axes than those of its kernel: that has no words here.")
        geometry |= {"padding": pad.pads, "padding_mode": pad.mode}
        before = graph.by_name[before.inputs[0]]
    size = tuple(before.shape or ())[2:] if layer.spatial else ()
    return kernel, geometry | {"input_shape": size}, layer.name


def _layers(nodes: Sequence[Node]) -> list[Any]:
    """Products with kernels, as they stand."""
    return [
        node
        for node in nodes
        if isinstance(node.operator, ops.Convolution)
        or (isinstance(node.operator, ops.Matrix) and node.operator.alpha == 1 and node.operator.layer.error is None)
    ]


def _row(name: str, module: nn.Module, call: _Call | None, settings: Settings) -> Row | None:
    """Measure one module; None: it is no layer of torch's, and not seen to be one.

    Whatever goes wrong with a layer becomes the row's reason, and what was measured before it is kept.
    """
    named = f"{name}.weight" if name else "weight"
    kind: Kind = "conv" if isinstance(module, _ConvNd) else "linear"
    row = Row(named, kind, (), None, values=dict.fromkeys(settings.methods))
    if is_quantised(module):
        reason = f"{name_of(module)} is quantised: its map has steps. Audit the model before it is quantised."
        return replace(row, reason=reason)
    ours = is_layer(module)
    # Torch's own that are no layers (recurrent ones, attention, tables) are no single product.
    if not ours and (call is None or type_before_parametrizations(module).__module__.startswith("torch.nn.modules.")):
        return None
    try:
        if call is None:
            weight, geometry = weight_of(module).detach(), geometry_of(module) if computes_as_torch(module) else None
            row = replace(row, shape=tuple(weight.shape), reason=_NOT_CALLED)
        else:
            weight, geometry, note, own = _seen(module, call)
            row = replace(row, shape=tuple(weight.shape), note=note)
        if geometry is None:
            return row
        spec = ConvSpec.of(row.shape, **geometry)
        row = replace(row, spec=spec)
        if not ours:
            own = own if own in module._parameters else "weight"
            named = f"{name}.{own}" if hasattr(module, own) else f"{name} (its kernel)"
            row = replace(row, name=named, kind="conv" if spec.ndim else "linear")
    except Exception as error:  # one bad layer must not lose the others; what another module computes is its own affair
        said = str(error) if isinstance(error, SpecnormError) else f"{type(error).__name__}: {error}"
        return replace(row, reason=row.reason or said) if ours else None
    found = fill(replace(row, reason=None), weight, settings)
    return found if row.reason is None else replace(found, reason=row.reason)


def _skipped(model: nn.Module, rows: Sequence[str]) -> list[tuple[str, Tensor]]:
    measured = {f"{name}{end}" for name in rows for end in _COMPUTED}
    parts = [name.rpartition(".") for name in rows]
    inside = tuple(f"{owner}{dot}parametrizations.{tensor}." for owner, dot, tensor in parts)
    return [
        (name, x)
        for name, x in [*model.named_parameters(), *model.named_buffers()]
        if name not in measured and not name.startswith(inside)
    ]
