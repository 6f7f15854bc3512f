"""Read what a pickled module of torch says of its kernel: class, geometry, hooks. All of it is data; nothing is built.

A module of another class than torch's own computes what its code says: its kernel is in doubt.
"""

from __future__ import annotations

from typing import Any

from specnorm_networks.model_arrays import Stated

from specnorm_audit.readers.pickles import Inert

OF_TORCH = "torch.nn.modules."
_CONVOLUTIONS = {f"{OF_TORCH}conv.Conv{end}{d}d": end == "Transpose" for d in (1, 2, 3) for end in ("", "Transpose")}
"""Classes of convolutions, and whether they are transposed."""
_BILINEAR = f"{OF_TORCH}linear.Bilinear"
_MODES = ("zeros", "circular", "reflect", "replicate")
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_METHODS = ("forward", "_conv_forward", "_call_impl")
"""Methods of torch's layers that an attribute of one object may replace."""


def attributes_of(module: Inert) -> dict[str, Any]:
    """Return the attributes of a pickled object by name."""
    return {key: value for key, value in module.items if isinstance(key, str)}


def is_recomputed(module: Inert, name: str) -> bool:
    """Whether a hook computes an attribute anew at each call, from parameters beside it."""
    parameters = attributes_of(module).get("_parameters")
    return isinstance(parameters, dict) and any(f"{name}{end}" in parameters for end in ("_orig", "_v", "_g"))


def stated(module: Inert, leaf: str, axes: int) -> tuple[Stated, str | None]:
    """Return the geometry that a module states of its parameter, and why the layer may use another weight.

    Parameters
    ----------
    leaf : str
        Name of the parameter in the module.
    axes : int
        Number of axes of the parameter.
    """
    attributes = attributes_of(module)
    if axes < 2:
        return Stated(), None
    if not module.name.startswith(OF_TORCH):
        return Stated(), f"its module is of class {module.name}, whose code determines the weight."
    if module.name == _BILINEAR:
        return Stated(), "it is the weight of a Bilinear layer, which is not linear in its inputs."
    hooks = [name for name in _HOOKS if attributes.get(name)]
    if hooks and leaf == "weight":
        return Stated(), f"its module has hooks ({hooks[0]}), whose code may change it."
    replaced = [name for name in _METHODS if name in attributes]
    if replaced:
        return Stated(), f"its module has a {replaced[0]} of its own, whose code determines the weight."
    if module.name not in _CONVOLUTIONS:
        return Stated(), None
    geometry = _geometry(attributes, axes - 2, is_transposed=_CONVOLUTIONS[module.name])
    if geometry is None:
        return Stated(), f"its {module.name.rpartition('.')[2]} has a stride, padding or the like that is not read."
    return geometry, None


def _geometry(attributes: dict[str, Any], axes: int, *, is_transposed: bool) -> Stated | None:
    """Return the geometry of a convolution of torch; None if something in it is not read."""
    stride, dilation = (_numbers(attributes.get(word), axes) for word in ("stride", "dilation"))
    groups = attributes.get("groups")
    mode = attributes.get("padding_mode")
    padding = _padding(attributes, axes, is_transposed=is_transposed)
    if stride is None or dilation is None or padding is None or type(groups) is not int or mode not in _MODES:
        return None
    return Stated(
        stride=stride,
        dilation=dilation,
        groups=groups,
        transposed=is_transposed,
        layout=None,
        padding_mode=mode,
        padding=padding,
    )


def _padding(attributes: dict[str, Any], axes: int, *, is_transposed: bool) -> Any:
    """Return padding as `Stated` has it; of a transposed layer, what is cropped. None: it is not read."""
    amount = attributes.get("padding")
    if amount in ("same", "valid") and not is_transposed:
        return amount
    pixels = _numbers(amount, axes)
    if pixels is None or not is_transposed:
        return None if pixels is None else [(n, n) for n in pixels]
    extra = _numbers(attributes.get("output_padding"), axes)
    if extra is None or any(e > n for e, n in zip(extra, pixels, strict=True)):
        return None
    return [(n, n - e) for n, e in zip(pixels, extra, strict=True)]


def _numbers(value: Any, axes: int) -> tuple[int, ...] | None:
    """Return whole numbers, one for each axis; None: it is no such tuple."""
    is_one_each = isinstance(value, tuple) and len(value) == axes
    return value if is_one_each and all(type(n) is int and 0 <= n < 2**31 for n in value) else None


def hooks_of(module: Inert) -> tuple[str, ...]:
    """Return the names of the classes of a module's hooks, if they are all that it has."""
    attributes = attributes_of(module)
    entries = [attributes.get(name) for name in _HOOKS]
    hooks = [x for entry in entries if isinstance(entry, dict) for x in entry.values()]
    return tuple(x.name for x in hooks if isinstance(x, Inert)) if module.name.startswith(OF_TORCH) else ()
