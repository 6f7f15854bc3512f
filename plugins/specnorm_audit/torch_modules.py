"""The audit of a live model: what its layers compute is seen in a forward pass; the core measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import index
from typing import Any

import torch
from specnorm_torch.models import (
    Select,
    at_inference,
    baked,
    check_module,
    check_values,
    computed,
    computes_as_torch,
    geometry_of,
    is_layer,
    is_lazy,
    is_quantised,
    layers_of,
    name_of,
    weight_of,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import specnorm
from specnorm import METHODS, ConvSpec, GeometryError, MethodError, SpecnormError
from specnorm_audit.measuring import BUDGET, Settings, fill
from specnorm_audit.report import Report
from specnorm_audit.rows import Row
from specnorm_audit.torch_maps import Map, map_of

_Call = tuple[tuple[Any, ...], dict[str, Any], tuple[str, torch.dtype, bool]]
"""Arguments by place and by name, and the autocast around them."""
_COMPUTED = ("", "_orig", "_g", "_v", "_u")
"""Ends of the names of the tensors that a hook of torch's computes a kernel from."""
_MATRIX = 2
_MOVING = "its kernel moves from call to call: measured is that of its next call"


def audit_module(
    model: nn.Module,
    input_shape: int | Sequence[int] | Tensor,
    *,
    methods: Sequence[str] = (),
    rtol: float = 1e-3,
    budget: float | None = BUDGET,
    select: Select | None = None,
) -> Report:
    """Measure every convolution and linear layer of a model as the model uses it.

    A layer is measured where its run is seen to be one convolution or matrix product of its input with a fixed kernel,
    whatever its class is called; with its parametrisations and hooks.

    Parameters
    ----------
    model : Module
        Run once on zeros in ``eval()``, without gradients, and each layer alone on random numbers; its state, buffers
        included, and mode are as before.
    input_shape : int, sequence of int, or Tensor
        One input without the batch axis, such as ``(3, 32, 32)``; an int for the size of every spatial axis, where the
        model starts with a convolution; or an input to run, with the batch axis.
    methods : sequence of str, default ()
        What else to measure, by the names in ``specnorm.METHODS``. "power", "enclose", "fft" and "gram" answer at the
        layer's input size, the others for every size.
    rtol, budget : floats
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
    if isinstance(methods, str):
        raise MethodError(f"methods={methods!r} is one name; expected a sequence of them: methods=[{methods!r}].")
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise MethodError(f"methods={', '.join(map(repr, unknown))} unknown; expected some of {', '.join(METHODS)}.")
    check_module(model)
    layers = dict(layers_of(model, select))
    others = {name: module for name, module in _others(model) if select is None or select(name, module)}
    if not layers and not others:
        raise MethodError("the model has no convolution or linear layer that is selected.")
    check_values(model)
    settings = Settings(tuple(dict.fromkeys(methods)), rtol=rtol, budget=budget)
    settings.method("enclose")  # refuses a tolerance or a budget that is none
    rows = []
    with at_inference(model):
        with at_inference(model):  # what moves at each call is as before for the layers
            calls = _calls(model, layers | others, _example(model, layers, input_shape))
        for name, module in model.named_modules():
            if name in layers:
                rows.append(_row(name, module, calls.get(name), settings))
            elif name in others:
                row = _row_of_another(name, module, calls.get(name), settings)
                rows += [] if row is None else [row]
    if not rows:
        raise MethodError(
            f"nothing of the model is seen to be one convolution or linear map; {', '.join(others)} "
            f"({', '.join(sorted({name_of(x) for x in others.values()}))}) hold matrices that are used otherwise."
        )
    skipped = _skipped(model, [row.name for row in rows])
    # What a measured module holds besides has been seen not to matter, or is what its kernel is computed from.
    told = tuple(row.name.rpartition(".")[0] + "." for row in rows if row.reason is None and "." in row.name)
    unmeasured = tuple(
        Row(name, "none", tuple(x.shape), None, reason="its module is not seen to be a product with it.")
        for name, x in skipped
        if x.ndim >= _MATRIX and isinstance(x, nn.Parameter) and not name.startswith(told)
    )
    return Report(
        specnorm.__version__,
        type(model).__name__,
        tuple(rows),
        tuple(name for name, _ in skipped),
        unmeasured=unmeasured,
    )


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


def _example(model: nn.Module, layers: dict[str, nn.Module], given: int | Sequence[int] | Tensor) -> Tensor:
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, Sequence) and _whole(given):
        first: Any = next(iter(layers.values()), None)
        if not isinstance(first, _ConvNd):
            raise MethodError(
                f"input_shape={given} is a spatial size, but the model's first layer is no convolution. Give one input "
                "without the batch axis, such as (3, 32, 32)."
            )
        given = (first.in_channels, *[given for _ in first.kernel_size])
    shape: tuple[Any, ...] = tuple(given) if isinstance(given, Sequence) else (given,)
    if not all(_whole(n) for n in shape):
        raise MethodError(
            f"input_shape={given!r} is no int, no sequence of positive ints such as (3, 32, 32), and no tensor."
        )
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


def _seen(module: nn.Module, call: _Call) -> tuple[Map, str | None]:
    """Map of a module, and what has to be said of it: a kernel that moves is held in a copy."""
    args, kwargs, casting = call
    with torch.autocast(*casting):
        try:
            with at_inference(module):
                return map_of(module, args, kwargs), None
        except GeometryError:
            if not any(map(computed, module.modules())):
                raise
        return map_of(baked(module), args, kwargs), _MOVING


def _row(name: str, layer: nn.Module, call: _Call | None, settings: Settings) -> Row:
    """Measure one layer; whatever goes wrong becomes the row's reason, and what was measured before it is kept."""
    named = f"{name}.weight" if name else "weight"
    kind: Any = "linear" if isinstance(layer, nn.Linear) else "conv"
    row = Row(named, kind, (), None, values=dict.fromkeys(settings.methods))
    try:
        if call is not None:
            seen, note = _seen(layer, call)
            weight, geometry, row = seen.weight, seen.geometry, replace(row, note=note)
        else:
            weight, geometry = weight_of(layer).detach(), {}
        row = replace(row, shape=tuple(weight.shape))
        if call is None:
            lost = (
                "the forward pass did not call this layer (its weight may be used without it): its input is not known."
            )
            row = replace(row, reason=lost)
            if not computes_as_torch(layer):
                return row
            geometry = geometry_of(layer)
        row = replace(row, spec=ConvSpec.of(row.shape, **geometry))
        return replace(fill(replace(row, reason=None), weight, settings), **_reason(row))
    except SpecnormError as error:
        return replace(row, reason=row.reason or str(error))
    except Exception as error:  # one bad layer must not lose the others
        return replace(row, reason=row.reason or f"{type(error).__name__}: {error}")


def _reason(row: Row) -> dict[str, Any]:
    return {} if row.reason is None else {"reason": row.reason}


def _row_of_another(name: str, module: nn.Module, call: _Call | None, settings: Settings) -> Row | None:
    kind = name_of(module)
    if is_quantised(module):
        reason = f"{kind} is quantised: its map has steps. Audit the model before it is quantised."
        return Row(f"{name}.weight", "linear", (), None, values=dict.fromkeys(settings.methods), reason=reason)
    try:
        if call is None:
            return None
        seen, note = _seen(module, call)
        spec = ConvSpec.of(tuple(seen.weight.shape), **seen.geometry)
    except Exception:  # it computes something else: its arrays are counted and named as skipped
        return None
    own = (n for n, x in module.named_parameters(prefix=name, recurse=False) if x is seen.given)
    named = next(own, f"{name}.weight" if hasattr(module, "weight") else f"{name} (its kernel)")
    what: Any = "conv" if spec.ndim else "linear"
    row = Row(named, what, tuple(seen.weight.shape), spec, values=dict.fromkeys(settings.methods), note=note)
    return fill(row, seen.weight, settings)


def _skipped(model: nn.Module, rows: Sequence[str]) -> list[tuple[str, Tensor]]:
    measured = {f"{name}{end}" for name in rows for end in _COMPUTED}
    parts = [name.rpartition(".") for name in rows]
    inside = tuple(f"{owner}{dot}parametrizations.{tensor}." for owner, dot, tensor in parts)
    return [
        (name, x)
        for name, x in [*model.named_parameters(), *model.named_buffers()]
        if name not in measured and not name.startswith(inside)
    ]
