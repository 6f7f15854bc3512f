"""Read layers, kernels and geometry of torch modules. Other packages of specnorm read models by these functions."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from specnorm._internal import check_function
from specnorm.errors import GeometryError, MethodError
from specnorm.plugin import per_axis

__all__ = [
    "Select", "at_inference", "check_is_module", "check_matrix", "check_module", "check_used", "check_values",
    "computes_as_torch", "geometry_of", "has_hooks", "is_layer", "is_lazy", "is_matrix", "is_quantised",
    "kernel_if_used", "layers_of", "makers_of_tensors", "name_of", "normalised_layers", "parametrisations",
    "version_of", "weight_of",
]  # fmt: skip

_ComputingHooks: TypeAlias = WeightNorm | OldSpectralNorm | prune.BasePruningMethod
Select: TypeAlias = Callable[[str, nn.Module], bool]
"""A function of a layer's name and the layer, which returns whether to include it."""


def name_of(module: nn.Module) -> str:
    """Return the name of a module's class, before parametrizations replaced the class."""
    return str(parametrize.type_before_parametrizations(module).__name__)


def version_of(x: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for tensors of the inference mode, which do not count it."""
    return 0 if x.is_inference() else x._version


def is_layer(module: nn.Module) -> bool:
    """Return whether a module's class derives from torch's convolutions, transposed convolutions or linear layers."""
    return isinstance(module, (_ConvNd, nn.Linear))


def is_matrix(module: nn.Module) -> bool:
    """Return whether a module's weight is a matrix: embeddings, or a bilinear layer's with a row for each output."""
    return isinstance(module, _MATRICES)


_MATRICES: tuple[Any, ...] = (nn.Embedding, nn.EmbeddingBag, nn.Bilinear)
_LAYERS: tuple[Any, ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear
)  # fmt: skip
_COMPUTING_METHODS = ("forward", "_conv_forward", "_output_padding", "__call__")
"""Methods of torch's layers that decide what a layer computes."""


def computes_as_torch(module: nn.Module) -> bool:
    """Return whether a layer has torch's forward: its attributes then determine what it computes (hooks aside)."""
    for cls in (*_LAYERS, *_MATRICES):
        if isinstance(module, cls):
            methods = [name for name in _COMPUTING_METHODS if hasattr(cls, name)]
            return all(_has_method_of(module, cls, name) for name in methods)
    return False


def _has_method_of(module: nn.Module, cls: type, name: str) -> bool:
    """Return whether a module has the method of a class: no subclass and no attribute of the module replaces it."""
    is_inherited = getattr(type(module), name) is getattr(cls, name)
    return is_inherited and name not in vars(module)


def check_matrix(module: nn.Module) -> None:
    """Refuse a module of `is_matrix` whose output is not the product of an input with its weight."""
    reason = ""
    if not computes_as_torch(module):
        reason = "has a forward of its own"
    elif has_hooks(module):
        reason = "has hooks that may change its input or output"
    elif getattr(module, "mode", None) == "max":
        reason = "with mode='max' is no linear map"
    elif getattr(module, "max_norm", None) is not None:
        reason = "with max_norm changes its weight when it is called"
    if reason:
        matrix = "module.weight.flatten(1)" if isinstance(module, nn.Bilinear) else "module.weight"
        raise GeometryError(
            f"{name_of(module)} {reason}: its norm does not follow from its weight. specnorm.enclose({matrix}) bounds "
            "the norm of the stored matrix."
        )


@torch.no_grad()
def kernel_if_used(layer: nn.Module, x: Tensor) -> Tensor | None:
    """Return the kernel of a layer if, at the input x, the layer with its hooks computes what torch's forward does.

    The outputs are compared bit for bit. The layer's call runs first, with its hooks; then the forward of its class
    runs on the kernel that the call left, without hooks. None: the layer computes something else, or changes its kernel
    or its input.
    """
    if not computes_as_torch(layer):
        return None
    argument = x.clone()
    output = layer(argument)
    weight = weight_of(layer).detach().clone()
    with torch.autocast(x.device.type, enabled=False):
        expected: Any = type(layer).forward(layer, x)
    if not isinstance(output, Tensor) or output.dtype != expected.dtype:
        return None
    is_output_equal = torch.equal(output, expected)
    is_unchanged = torch.equal(argument, x) and torch.equal(weight, weight_of(layer))
    return weight if is_output_equal and is_unchanged else None


def geometry_of(module: nn.Module, input_shape: int | tuple[int, ...] | None = None) -> dict[str, Any]:
    """Return the geometry keywords of a layer, from its attributes.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    input_shape : int or tuple of int, optional
        Spatial input sizes, or one for all axes; None: every input size; for circular padding and a stride, every
        size that the stride divides.

    Returns
    -------
    dict
        Keywords for functions of `specnorm` that take ``**geometry``.

    Raises
    ------
    GeometryError
        For other modules, for subclasses with a ``forward`` of their own, and for an ``output_padding`` beyond the
        padding at a given size.
    """
    if is_layer(module) and not computes_as_torch(module):
        export = ""
        if hasattr(module, "vanilla_export"):
            export = "Replace it by the result of its vanilla_export(); or "
        advice = (
            "specnorm_torch.audit_module tries it at one input size; or pass its effective kernel and geometry to "
            "specnorm's functions, and exclude the layer from functions that take all layers of a model."
        )
        raise GeometryError(
            f"{name_of(module)} has a forward of its own: its attributes do not say what it computes at every size. "
            f"{export}{advice}"
        )
    if isinstance(module, nn.Linear):
        return {} if input_shape is None else {"input_shape": ()}
    if not isinstance(module, _ConvNd):
        advice = "For others give the kernel and its geometry to specnorm's functions."
        if is_matrix(module):
            advice = "specnorm.enclose(module) bounds the norm of its weight as a matrix, which has no geometry."
        raise GeometryError(
            f"{name_of(module)} is no convolution or linear layer; expected Conv1d to Conv3d, ConvTranspose1d to "
            f"ConvTranspose3d or Linear. {advice}"
        )
    geometry: dict[str, Any] = {
        "stride": tuple(module.stride),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
        "padding_mode": module.padding_mode,
    }
    axes = len(module.kernel_size)
    padding: Any = module.padding
    if isinstance(module, _ConvTransposeNd):
        # output_padding e means that e fewer rows are cropped behind. Without input_shape it is left out: it does not
        # change the supremum over all sizes.
        extra = (0,) * axes if input_shape is None else tuple(module.output_padding)
        crops = checked_crops([(p, p - e) for p, e in zip(padding, extra, strict=True)])
        geometry |= {"transposed": True, "padding": crops}
    elif padding == "valid":
        geometry["padding"] = [(0, 0)] * axes
    elif padding == "same":
        geometry["padding"] = "same"
    else:
        geometry["padding"] = [(p, p) for p in padding]
    if input_shape is not None:
        geometry["input_shape"] = per_axis("input_shape", input_shape, axes)
    return geometry


def checked_crops(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return pairs of croppings before and after, one for each axis of a transposed layer; refuse negative ones.

    In torch's words, the pairs are ``padding`` and ``padding - output_padding``.
    """
    if any(after < 0 for _, after in pairs):
        raise GeometryError(
            f"output_padding={tuple(p - q for p, q in pairs)} exceeds padding={tuple(p for p, _ in pairs)}: rows of "
            "zeros are added to the output, which no geometry of specnorm describes. Leave input_shape out: the bound "
            "at every size holds for this layer."
        )
    return pairs


def layers_of(model: nn.Module, select: Select | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Yield names and layers of a model, in its order.

    A shared layer is yielded once. Layers inside of a parametrization compute a weight and are left out.
    """
    check_is_module(model)
    if select is not None:
        check_function("layers", select, "a function of a layer's name and the layer, which says whether to include it")
    for name, module in model.named_modules():
        is_inside_of_parametrisation = "parametrizations" in name.split(".")
        if not is_layer(module) or is_inside_of_parametrisation:
            continue
        if select is None or select(name, module):
            yield name, module


def makers_of_tensors(module: nn.Module) -> dict[str, str]:
    """Return what computes the tensors of a module that are computed before each call, by the tensors' names."""
    makers = dict.fromkeys(getattr(module, "parametrizations", {}), "a parametrization")
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            makers[hook.name] = "an old-style weight_norm hook"
        elif isinstance(hook, OldSpectralNorm):
            makers[hook.name] = "an old-style spectral_norm hook"
        elif isinstance(hook, prune.BasePruningMethod):
            makers[hook._tensor_name] = "a pruning hook"
    return makers


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks on its input or output, besides those of `makers_of_tensors`."""
    compute_tensors = all(isinstance(x, _ComputingHooks) for x in module._forward_pre_hooks.values())
    return bool(module._forward_hooks) or not compute_tensors


@contextlib.contextmanager
def at_inference(model: nn.Module) -> Iterator[None]:
    """Context manager with the model in ``eval()`` and without gradients; it restores modes, tensors and attributes."""
    modes = {module: module.training for module in model.modules()}
    # Parameters are restored too: some models merge them in `eval()`, or set them at their first call.
    tensors = [(x, x.detach().clone()) for x in (*model.parameters(), *model.buffers()) if not is_lazy(x)]
    # Old-style hooks store what they compute in attributes. A first call may add attributes, parameters or buffers.
    saved_tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in modes:
        tables: list[Any] = [vars(module), module._parameters, module._buffers]
        saved_tables += [(table, dict(table)) for table in tables]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for table, content in saved_tables:
            for name in table.keys() - content.keys():
                del table[name]
            table.update(content)
        for x, values in tensors:
            if not (x.is_meta or torch.equal(x, values)):
                with torch.no_grad():
                    x.copy_(values)
        for module, mode in modes.items():
            module.training = mode


def check_used(module: nn.Module) -> Tensor:
    """Return the kernel that a layer uses, tested on a random input; refuse a layer that does not use its weight."""
    if not torch.isfinite(weight_of(module)).all():
        raise MethodError("its weight contains NaN or infinity: training may have diverged.")
    # In units of the largest entry: outputs that overflow cannot be compared.
    largest = max(1.0, float(weight_of(module).abs().max()))
    x = torch.randn(_input_of(module), generator=torch.Generator().manual_seed(0)).to(weight_of(module)) / largest
    weight = kernel_if_used(module, x)
    if weight is None:
        raise MethodError(f"{name_of(module)} does not use its weight as it is stored.")
    return weight


def _input_of(module: Any) -> tuple[int, ...]:
    """Return the shape of a small input for a layer.

    Its sizes are larger than the padding, for reflection, divisible by the stride, for circular padding, and so large
    that a transposed layer does not crop all of its output.
    """
    if isinstance(module, nn.Linear):
        return 1, module.in_features
    padding = 2 * max(module._reversed_padding_repeated_twice)
    sizes = []
    for d, k, s in zip(module.dilation, module.kernel_size, module.stride, strict=True):
        least_size = max(d * (k - 1) + 1, padding)
        sizes.append(s * (least_size // s + 1))
    return (1, module.in_channels, *sizes)


def is_quantised(module: nn.Module) -> bool:
    """Return whether a module has quantized weights, packed as integers."""
    return hasattr(module, "_packed_params") or ".quantized." in type(module).__module__


def is_lazy(x: object) -> bool:
    """Return whether a parameter or buffer is uninitialised, and has no shape yet."""
    return isinstance(x, nn.UninitializedParameter | nn.UninitializedBuffer)


def check_is_module(model: object) -> None:
    """Refuse objects that are not modules."""
    if not isinstance(model, nn.Module):
        raise MethodError(
            f"{type(model).__name__} is not a torch.nn.Module: give the model itself. specnorm.audit reads files, and "
            "mappings of names to arrays such as a state dict."
        )


def check_module(model: Any) -> None:
    """Refuse objects that are not modules, and modules made by torch.jit or torch.export, which hide their layers."""
    check_is_module(model)
    inner = next((name for name, x in model.named_modules() if isinstance(x, torch.jit.ScriptModule)), None)
    if inner is not None or "eval" in vars(model):
        maker = "torch.export"
        if inner is not None:
            maker = f"torch.jit ({inner})" if inner else "torch.jit"
        raise MethodError(
            f"{type(model).__name__} was made by {maker}, which hides its layers. Give the model that it was made of."
        )


def check_values(model: nn.Module, prefix: str = "") -> None:
    """Refuse tensors without values: of lazy layers, which a first call initialises, and on the device "meta".

    Parameters
    ----------
    prefix : str
        Name of the model inside of a larger one, for the error.
    """
    for name, x in [*model.named_parameters(prefix), *model.named_buffers(prefix)]:
        _check_values(name, x)


def _check_values(name: str, x: Tensor) -> None:
    if is_lazy(x):
        raise GeometryError(
            f"{name} has no shape yet: run the model once on an input, so that its lazy layers are initialized."
        )
    if x.is_meta:
        raise GeometryError(f"{name} has no values: it is on the device 'meta'. Load the model's weights first.")


def weight_of(module: nn.Module) -> Tensor:
    """Return the kernel that the next call of a layer will use."""
    # In eval(), since reading a parametrized weight in training may change the state of the parametrization.
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        for hook in module._forward_pre_hooks.values():
            # An old-style hook computes the weight before each call; after loading or a step the stored one is
            # outdated.
            if isinstance(hook, _ComputingHooks):
                hook(module, ())
        weight: Any = module.weight
    finally:
        for part, mode in modes.items():
            part.training = mode
    if not isinstance(weight, Tensor):
        raise GeometryError(f"{name_of(module)}.weight is a {type(weight).__name__}, not a tensor.")
    _check_values(f"{name_of(module)}.weight", weight)
    return weight


def normalised_layers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of layers and of the batch normalizations that directly follow them in a ``Sequential``."""
    for name, module in model.named_modules():
        if not isinstance(module, nn.Sequential):
            continue
        prefix = f"{name}." if name else ""
        for (first, layer), (second, norm) in itertools.pairwise(module.named_children()):
            if is_layer(layer) and isinstance(norm, _BatchNorm) and norm.running_var is not None:
                yield prefix + first, prefix + second


def parametrisations(module: nn.Module, name: str, kind: type[nn.Module]) -> list[Any]:
    """Return the parametrizations of a class on a tensor of a module."""
    if not parametrize.is_parametrized(module, name):
        return []
    parameters: Any = module.parametrizations
    return [p for p in parameters[name] if isinstance(p, kind)]
