"""The audit of a live model: torch's own layers by their attributes, other modules by their exported graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import index
from typing import Any, NamedTuple

import torch
from specnorm_networks import Graph, Layer, Node, Product, network_graph
from specnorm_networks import operators as ops
from specnorm_networks.model_arrays import Kind
from specnorm_networks.tools import bound
from specnorm_torch import baked
from specnorm_torch.layers import (
    Select,
    at_inference,
    check_matrix,
    check_module,
    check_values,
    computes_as_torch,
    geometry_of,
    has_hooks,
    is_layer,
    is_lazy,
    is_matrix,
    is_quantised,
    kernel_if_used,
    layers_of,
    makers_of_tensors,
    name_of,
    weight_of,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import type_before_parametrizations

import specnorm
from specnorm import ConvSpec
from specnorm.errors import GeometryError, MethodError
from specnorm.methods import METHODS
from specnorm_audit.layers import MIN_AXES
from specnorm_audit.measuring import fill, in_words
from specnorm_audit.report import Report
from specnorm_audit.rows import SMALLEST_COLUMNS, Row
from specnorm_audit.settings import BUDGET, Settings, checked_names

_SOURCES = ("", "_orig", "_g", "_v", "_u")
"""Ends of the names of tensors from which torch's hooks compute a kernel."""
_NOT_CALLED = "the forward pass did not call this layer (its weight may be used without it): its input is not known."
_CHANGING_KERNEL = (
    "the layer changes its kernel at every call (power iteration); the kernel of the next call is measured"
)


class _Call(NamedTuple):
    """How a module was called first: its arguments, and torch's autocast at that time."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    autocast: tuple[str, torch.dtype, bool]
    """Arguments of ``torch.autocast``: device type, dtype, and whether it is on."""


class _Kernel(NamedTuple):
    """The kernel of a module and the geometry with which the module uses it."""

    weight: Any
    geometry: dict[str, Any]
    note: str | None
    """Remark for the row."""
    name: str
    """Name of the kernel in the module."""


def audit_module(
    model: nn.Module,
    input_shape: int | Sequence[int] | Tensor | tuple[Tensor, ...],
    *,
    methods: Sequence[str] = (),
    smallest: bool = False,
    rtol: float = 1e-3,
    budget: float | None = BUDGET,
    select: Select | None = None,
) -> Report:
    """Prove bounds on the spectral norm of every convolution and linear layer of a model, as the model uses it.

    A layer of torch is measured if it computes what its attributes say, which is tested bit for bit on random numbers.
    The weights of Embedding, EmbeddingBag and Bilinear are measured as matrices, with a row for each entry or output.
    Parametrizations and hooks that compute the weight are allowed. Layers with other hooks, and other modules, are
    exported alone (``specnorm-bounds[networks]``). They are measured if their graph is one convolution or matrix
    product with a fixed kernel.

    Parameters
    ----------
    model : Module
        The model. It is run once on zeros in ``eval()``, without gradients, and each layer alone on random numbers. Its
        state, buffers included, and its mode are not changed.
    input_shape : int, sequence of int, or Tensor
        Shape of one sample, without the batch axis, such as ``(3, 32, 32)``; an int, the size of every spatial axis, if
        the model starts with a convolution; or an input, with its batch axis; or a tuple of all inputs.
    methods : sequence of str, default ()
        Further methods, by their names in ``specnorm.methods.METHODS``. "power", "enclose", "fft" and "gram" hold at
        the layer's input size, the others at every size.
    smallest, rtol, budget
        As in `specnorm.audit`.
    select : callable, optional
        ``select(name, layer)`` returns whether a layer is measured.

    Returns
    -------
    Report
        As from `specnorm.audit`, without assumptions; ``str(report)`` is a table. ``lower`` and ``upper`` are
        proven bounds on the layer's norm at its input size (that of the first call, if it is called at several). A
        layer of torch is a row with ``status`` "error" and the reason in three cases: it was not called, it is not
        shown to be one convolution or matrix product, or a method cannot measure it. A module of another kind is a row
        if it is shown to be one convolution or matrix product. ``unmeasured`` names the parameters with two axes or
        more of the remaining modules.

    Raises
    ------
    MethodError
        If a method is unknown, or the model is not a module, has no layer, or does not run on the input.
    GeometryError
        If a layer has no values yet: it is lazy, or on the device "meta".
    """
    columns = checked_names(methods, (*METHODS, *SMALLEST_COLUMNS), SMALLEST_COLUMNS if smallest else ())
    settings = Settings(columns, rtol=rtol, budget=budget)
    check_module(model)
    layers = dict(layers_of(model, select))
    others = {name: module for name, module in _others(model) if select is None or select(name, module)}
    if not layers and not others:
        raise MethodError("the model has no convolution or linear layer, or none is selected.")
    check_values(model)
    settings.method("enclose")  # raises for an invalid tolerance or budget
    rows: list[Row] = []
    with at_inference(model):
        # The inner context restores kernels that the forward pass changes (power iteration): each layer is measured
        # as it was before that pass.
        with at_inference(model):
            calls = _calls(model, layers | others, _example(model, layers, input_shape))
        for name, module in model.named_modules():
            if name in layers or name in others:
                row = _row(name, module, calls.get(name), settings)
                if row is not None:
                    rows.append(row)
    if not rows:
        raise MethodError(f"of {', '.join(others)} none is shown to be one convolution or linear map.")
    skipped = _skipped(model, [row.name for row in rows])
    unmeasured = _unmeasured(skipped, rows)
    names = tuple(name for name, _ in skipped)
    return Report(specnorm.__version__, type(model).__name__, tuple(rows), names, unmeasured=unmeasured, live=True)


def _unmeasured(skipped: Sequence[tuple[str, Tensor]], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return rows of skipped parameters that may be kernels.

    Further parameters of a measured module are no kernels: the module was shown to be a product with the measured one.
    """
    measured_modules = [row.name.rpartition(".")[0] for row in rows if row.reason is None]
    prefixes = tuple(f"{name}." for name in measured_modules if name)
    reason = "its module was not found to be a product with this matrix."
    kernels = [(name, x) for name, x in skipped if x.ndim >= MIN_AXES and isinstance(x, nn.Parameter)]
    others = [(name, x) for name, x in kernels if not name.startswith(prefixes)]
    return tuple(Row(name, "none", tuple(x.shape), None, reason=reason) for name, x in others)


def _others(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are no layers of torch's but have matrices, parametrizations or quantized kernels."""
    inside_quantised: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if is_layer(module) or "parametrizations" in name.split(".") or name.startswith(inside_quantised):
            continue
        if is_quantised(module):
            inside_quantised += (f"{name}.",)
        parametrisations: Any = getattr(module, "parametrizations", {})
        parameters = [x for x in module._parameters.values() if x is not None]
        has_matrix = any(not is_lazy(x) and x.ndim >= MIN_AXES for x in parameters)
        if has_matrix or len(parametrisations) or is_quantised(module):
            yield name, module


def _example(
    model: nn.Module,
    layers: dict[str, nn.Module],
    input_shape: int | Sequence[int] | Tensor | tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Return the inputs for the forward pass: zeros of the shape that was given, or the given inputs."""
    inputs: tuple[Any, ...] = input_shape if isinstance(input_shape, tuple) else (input_shape,)
    if inputs and all(isinstance(x, Tensor) for x in inputs):
        return inputs
    shape: tuple[Any, ...] = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
    if not all(_is_positive_int(n) for n in shape):
        raise MethodError(
            f"input_shape={input_shape!r} is not an int, a sequence of positive ints such as (3, 32, 32), or a tensor."
        )
    if not isinstance(input_shape, Sequence):
        first: Any = next(iter(layers.values()), None)
        if not isinstance(first, _ConvNd):
            raise MethodError(
                f"input_shape={input_shape} is a spatial size, but the model's first layer is not a convolution. "
                "Give one input without the batch axis, such as (3, 32, 32)."
            )
        shape = (first.in_channels, *shape * len(first.kernel_size))
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    like = next(floating, torch.zeros(()))
    return (torch.zeros(1, *map(index, shape), dtype=like.dtype, device=like.device),)


def _is_positive_int(n: Any) -> bool:
    try:
        return not isinstance(n, bool) and 0 < index(n) < 2**31
    except TypeError:
        return False


def _calls(model: nn.Module, layers: dict[str, nn.Module], example: tuple[Tensor, ...]) -> dict[str, _Call]:
    """Run the model, and return the first call of each layer."""
    calls: dict[str, _Call] = {}

    def watch(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in calls:
                device_type = next((x.device.type for x in layer.parameters()), "cpu")
                dtype = torch.get_autocast_dtype(device_type)
                calls[name] = _Call(args, kwargs, (device_type, dtype, torch.is_autocast_enabled(device_type)))

        # It runs before the layer's own hooks, which may change the arguments: these hooks run again later.
        return layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        model(*example)
    except Exception as error:  # whatever the model's own code raises
        first_line = str(error).strip().partition("\n")[0]
        shapes = " and ".join(str(tuple(x.shape)) for x in example)
        raise MethodError(
            f"{type(model).__name__} does not run on an input of shape {shapes}: "
            f"{type(error).__name__}: {first_line}. Give one input's shape without the batch axis, such as (3, 32, "
            "32), or the tensor, or a tuple of the tensors, that it runs on."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _kernel_in_use(module: nn.Module, call: _Call) -> _Kernel:
    """Return the kernel that a module uses in a call, tested by executing the module.

    Raises
    ------
    GeometryError
        If the module is not shown to be one product with a kernel.
    """
    if is_matrix(module):
        check_matrix(module)
        return _Kernel(weight_of(module).detach().flatten(1), {}, None, "weight")
    with torch.autocast(*call.autocast):
        kernel = _kernel_of_layer(module, call)
        if kernel is not None:
            return kernel
        if call.kwargs or not all(isinstance(x, Tensor) for x in call.args):
            raise GeometryError(
                f"{name_of(module)} is called with arguments that are not tensors, so it is not examined alone."
            )
        graph = network_graph(module, call.args).pruned()
        weight, geometry, name = _one_layer(graph, name_of(module))
        # This executes the graph beside the module, and raises if they differ.
        bound(graph, method=Product())
    return _Kernel(weight, geometry, graph.note or None, name)


def _kernel_of_layer(module: nn.Module, call: _Call) -> _Kernel | None:
    """Return the kernel of a layer of torch's, if it computes what its attributes say; else None.

    Parametrizations and hooks that compute the weight are allowed. For a layer with any other hook None is returned.
    """
    if not is_layer(module) or has_hooks(module):
        return None
    if len(call.args) != 1 or call.kwargs or not isinstance(call.args[0], Tensor):
        return None
    x = call.args[0]
    if x.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(x.shape, generator=generator).to(x)
    candidates: list[tuple[nn.Module, str | None]] = [(module, None)]
    # A kernel that is computed at each call may differ at the next one: then the baked layer has that of the next call.
    if any(map(makers_of_tensors, module.modules())):
        candidates.append((baked(module), _CHANGING_KERNEL))
    for candidate, note in candidates:
        with at_inference(candidate):
            weight = kernel_if_used(candidate, x)
            if weight is not None:
                return _Kernel(weight, geometry_of(candidate, _size(candidate, x)), note, "weight")
    return None


def _size(layer: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Return the spatial sizes of a layer's input."""
    return tuple(x.shape[x.ndim - len(layer.kernel_size) :]) if isinstance(layer, _ConvNd) else ()


def _changes_no_norm(node: Node, graph: Graph) -> bool:
    """Whether a value has the entries of the value before it, in another order or with constants added."""
    computed_inputs = [graph.by_name[name] for name in node.inputs if name not in graph.fixed_values]
    if len(computed_inputs) != 1:
        return isinstance(node.operator, ops.Input)
    if isinstance(node.operator, ops.Add):
        # x or -x plus constants.
        only_changes_signs = {*map(abs, node.operator.weights)} == {1.0}
        return only_changes_signs and node.shape is not None and node.shape == computed_inputs[0].shape
    return isinstance(node.operator, ops.SameOrder | ops.Permute)


def _one_layer(graph: Graph, module_name: str) -> tuple[Any, dict[str, Any], str]:
    """Return kernel, geometry and name of the only layer of a graph, which computes nothing else but a bias.

    Raises
    ------
    GeometryError
        If the graph has another form.
    """
    depends_on_input = [node for node in graph.nodes if node.name not in graph.fixed_values]
    layers = [node for node in depends_on_input if _is_layer_node(node)]
    pads: list[Any] = [node for node in depends_on_input if isinstance(node.operator, ops.Pad)]
    others = [node for node in depends_on_input if node not in (*layers, *pads) and not _changes_no_norm(node, graph)]
    ends_with_layer = len(graph.inputs) == 1 and graph.outputs == (depends_on_input[-1].name,)
    before = graph.by_name[layers[0].inputs[0]] if len(layers) == 1 else None
    is_padded_before_layer = pads in ([], [before])  # by one Pad at most, whose value the layer reads
    if before is None or others or not is_padded_before_layer or not ends_with_layer:
        operators = ", ".join(node.label or node.rule for node in depends_on_input[1:7])
        raise GeometryError(
            f"{module_name} is not shown to be one convolution or linear map of a fixed kernel: its graph has "
            f"{operators}. Give its effective kernel and geometry, to specnorm.enclose, or the whole "
            "model to specnorm_networks.network_bound."
        )
    operator: Any = layers[0].operator
    layer: Layer = operator.layer
    kernel = layer.stored()
    geometry = dict(layer.geometry)
    unpadded = before
    if pads:
        spec = ConvSpec.of(tuple(kernel.shape), **geometry)
        pad = pads[0].operator
        if spec.transposed or any(map(any, spec.padding)) or len(pad.pads) != spec.ndim:
            raise GeometryError(
                f"{module_name} pads twice, or other axes than those of its kernel: no geometry states this."
            )
        geometry |= {"padding": pad.pads, "padding_mode": pad.mode}
        unpadded = graph.by_name[before.inputs[0]]
    size = tuple(unpadded.shape or ())[2:] if layer.spatial else ()
    return kernel, geometry | {"input_shape": size}, layer.name


def _is_layer_node(node: Node) -> bool:
    """Whether a node is a product with a kernel as it is stored."""
    operator = node.operator
    if isinstance(operator, ops.Convolution):
        return True
    return isinstance(operator, ops.Matrix) and operator.alpha == 1


def _row(name: str, module: nn.Module, call: _Call | None, settings: Settings) -> Row | None:
    """Measure one module; None: it is not a layer of torch's, and not shown to be a product with a kernel.

    An error of a layer becomes the row's reason; numbers that were measured before are kept.
    """
    row_name = f"{name}.weight" if name else "weight"
    kind: Kind = "conv" if isinstance(module, _ConvNd) else "linear"
    row = Row(row_name, kind, (), None, values=dict.fromkeys(settings.methods))
    if is_quantised(module):
        reason = f"{name_of(module)} is quantized: its map has steps. Audit the model before it is quantized."
        return replace(row, reason=reason)
    is_torch_layer = is_layer(module) or is_matrix(module)
    # Torch's other modules (recurrent layers, attention) are no single product.
    is_other_torch_module = type_before_parametrizations(module).__module__.startswith("torch.nn.modules.")
    if not is_torch_layer and (call is None or is_other_torch_module):
        return None
    not_called = _NOT_CALLED if call is None else None
    try:
        if call is None:
            # The layer is measured for every size, and the row gets the reason at the end.
            weight = weight_of(module).detach()
            row = replace(row, shape=tuple(weight.shape))
            if not computes_as_torch(module):
                return replace(row, reason=not_called)
            geometry = {} if is_matrix(module) else geometry_of(module)
            weight = weight.flatten(1) if is_matrix(module) else weight
        else:
            kernel = _kernel_in_use(module, call)
            weight = kernel.weight
            geometry = kernel.geometry
            row = replace(row, shape=tuple(weight.shape), note=kernel.note)
        spec = ConvSpec.of(row.shape, **geometry)
        row = replace(row, spec=spec)
        if call is not None and not is_torch_layer:
            parameter = kernel.name if kernel.name in module._parameters else "weight"
            row_name = f"{name}.{parameter}" if hasattr(module, parameter) else f"{name} (its kernel)"
            row = replace(row, name=row_name, kind="conv" if spec.ndim else "linear")
    except Exception as error:  # one bad layer must not lose the others
        if not is_torch_layer:
            return None
        return replace(row, reason=not_called if not_called and row.shape else in_words(error))
    measured = fill(row, weight, settings)
    return measured if not_called is None else replace(measured, reason=not_called)


def _skipped(model: nn.Module, row_names: Sequence[str]) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a model that are neither measured kernels nor their sources."""
    measured = set()
    prefixes = []
    for row_name in row_names:
        measured |= {f"{row_name}{end}" for end in _SOURCES}
        module_name, dot, tensor_name = row_name.rpartition(".")
        prefixes.append(f"{module_name}{dot}parametrizations.{tensor_name}.")
    everything = [*model.named_parameters(), *model.named_buffers()]
    return [(name, x) for name, x in everything if name not in measured and not name.startswith(tuple(prefixes))]
