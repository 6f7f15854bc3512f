"""What torch's modules say about themselves, in specnorm's words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from specnorm.errors import GeometryError

Select: TypeAlias = Callable[[str, nn.Module], bool]
"""Told a layer's name and the layer: whether it counts."""


def is_layer(module: nn.Module) -> bool:
    """Convolutions, transposed ones and linear layers, of any class derived from torch's."""
    return isinstance(module, (_ConvNd, nn.Linear))


def geometry_of(module: nn.Module, input_shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Geometry keywords of a layer, read from its own attributes.

    Parameters
    ----------
    module : Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, or Linear
    input_shape : tuple of int, optional
        Spatial input sizes; None: every input size (circular with a stride: every size that the stride divides).

    Returns
    -------
    dict
        For any function of `specnorm` that takes ``**geometry``.

    Raises
    ------
    GeometryError
        For other modules, and for an ``output_padding`` beyond the padding at a given size.
    """
    if isinstance(module, nn.Linear):
        return {} if input_shape is None else {"input_shape": ()}
    if not isinstance(module, _ConvNd):
        raise GeometryError(
            f"{type(module).__name__} is no layer that is read here: expected Conv1d to Conv3d, ConvTranspose1d to "
            "ConvTranspose3d or Linear. For others give the kernel and its geometry to specnorm's functions."
        )
    geometry: dict[str, Any] = {
        "stride": tuple(module.stride),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
        "padding_mode": module.padding_mode,
    }
    amounts = [(0, 0)] * len(module.kernel_size) if module.padding == "valid" else module.padding
    if isinstance(module, _ConvTransposeNd):
        # More output on one side is less cropping; it cannot matter over all sizes.
        extra = tuple(module.output_padding) if input_shape is not None else (0,) * len(module.kernel_size)
        crop: Any = module.padding
        pads = [(p, p - more) for p, more in zip(crop, extra, strict=True)]
        if any(after < 0 for _, after in pads):
            raise GeometryError(
                f"output_padding={extra} exceeds padding={module.padding}: rows of zeros are added to the output, "
                "which has no words here. Leave input_shape out: the bound at every size holds for it."
            )
        geometry |= {"transposed": True, "padding": pads}
    else:
        geometry["padding"] = "same" if amounts == "same" else [p if isinstance(p, tuple) else (p, p) for p in amounts]
    if input_shape is not None:
        geometry["input_shape"] = tuple(input_shape)
    return geometry


def layers_of(model: nn.Module, select: Select | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Names and layers of a model in its order, a shared layer once, parametrisations' insides left out."""
    for name, module in model.named_modules():
        if is_layer(module) and (select is None or select(name, module)):
            yield name, module


def weight_of(module: nn.Module) -> Tensor:
    """The kernel, of which torch's types say only that it is a tensor or a module."""
    weight: Any = module.weight
    if not isinstance(weight, Tensor):
        raise GeometryError(f"{type(module).__name__}.weight is a {type(weight).__name__}, not a tensor.")
    if isinstance(weight, nn.UninitializedParameter):
        raise GeometryError(
            f"{type(module).__name__} has no weight yet: run the model once on an input, so that its lazy layers are "
            "initialised."
        )
    return weight


def normalised_layers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the layers in a Sequential that a batch normalisation follows at once, with the normalisation's."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            children = [(f"{name}.{child}" if name else child, x) for child, x in module.named_children()]
            for (first, layer), (second, norm) in itertools.pairwise(children):
                if is_layer(layer) and isinstance(norm, _BatchNorm) and norm.running_var is not None:
                    yield first, second


def parametrisations(module: nn.Module, name: str, kind: type[nn.Module]) -> list[Any]:
    """Parametrisations of one class on one tensor."""
    if not parametrize.is_parametrized(module, name):
        return []
    parameters: Any = module.parametrizations
    return [p for p in parameters[name] if isinstance(p, kind)]
