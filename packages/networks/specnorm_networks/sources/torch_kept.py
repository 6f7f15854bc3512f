"""Keep exports of torch modules: a module of the same structure has the same graph, with other weights.

Most of an export's time passes in torch's exporter. Two modules are of the same structure if all their submodules have
the same classes, plain attributes and tensors of the same shapes. What else may differ, such as a global variable that
a module reads, the comparison of graph and model detects; then the module is exported anew (`live.network_bound`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from specnorm_networks.sources.base import Exported

Example: TypeAlias = tuple[Tensor, ...]
"""Inputs with which a module is traced."""
MOST = 4
"""Largest number of exports that are kept."""
LARGEST = 2**26
"""Largest number of bytes of a kept file."""
_TYPES = (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
"""Types of tensors that NumPy has, too."""
_OF_TORCH = {"_parameters", "_buffers", "_modules", "training"}
"""Attributes of a module that are compared otherwise, or are the same at inference."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, FunctionType)


@dataclass(frozen=True, eq=False)
class Kept:
    """An export whose file has the module's tensors under their own names."""

    exported: Exported
    program: GraphModule
    example: Example
    note: str

    def file_with(self, tensors: Mapping[str, Tensor]) -> Any:
        """Return the file with other tensors."""
        from onnx import numpy_helper

        model = type(self.exported.model)()
        model.CopyFrom(self.exported.model)
        for initializer in model.graph.initializer:
            if initializer.name in tensors:
                array = tensors[initializer.name].detach().cpu().numpy()
                initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        return model


_kept: OrderedDict[Hashable, Kept] = OrderedDict()


def find(structure: Hashable | None) -> Kept | None:
    """Return the export of a module of some structure."""
    return None if structure is None else _kept.get(structure)


def forget() -> None:
    """Forget all exports."""
    _kept.clear()


def keep(structure: Hashable | None, kept: Kept, model: nn.Module) -> None:
    """Keep an export, if each array of floats in its file is a number or one of the module's tensors."""
    from onnx import numpy_helper

    tensors = tensors_of(model)
    is_large = kept.exported.model.ByteSize() > LARGEST
    has_types_of_numpy = all(tensor.dtype in _TYPES for tensor in tensors.values())
    if structure is None or is_large or not has_types_of_numpy:
        return
    for initializer in kept.exported.model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        stated = tensors.get(initializer.name)
        if stated is None:
            if array.dtype.kind == "f" and (array.size > 1 or "computed" in initializer.name):
                return
        elif not _are_equal(array, stated.detach().cpu().numpy()):
            return
    _kept[structure] = kept
    while len(_kept) > MOST:
        _kept.popitem(last=False)


def _are_equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.dtype == second.dtype and np.array_equal(first, second)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module, by all their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def structure_of(model: nn.Module, inputs: tuple[Any, ...]) -> Hashable | None:
    """Return what two modules have in common if they have one graph; None if a module has attributes of other kinds.

    ``inputs``: sizes, or tensors.
    """
    parts: list[Hashable] = [tuple(_tensor(x) if isinstance(x, Tensor) else x for x in inputs)]
    try:
        hash(tuple(parts))
        for name, module in model.named_modules(remove_duplicate=False):
            attributes = {key: value for key, value in vars(module).items() if key not in _OF_TORCH}
            parts.append((name, type(module), _plain(attributes)))
    except TypeError:
        return None
    first_names: dict[int, str] = {}
    for name, tensor in tensors_of(model).items():
        parts.append((name, first_names.setdefault(id(tensor), name), _tensor(tensor)))
    return tuple(parts)


def _tensor(x: Tensor) -> Hashable:
    return (tuple(x.shape), x.dtype, str(x.device))


def _plain(value: Any) -> Hashable:
    """Return a value of numbers, texts and functions as one that can be compared; `TypeError` for others."""
    if isinstance(value, Mapping):
        return (type(value), tuple((key, _plain(part)) for key, part in value.items()))
    if isinstance(value, list | tuple | set | frozenset):
        return (type(value), tuple(map(_plain, value)))
    if isinstance(value, _PLAIN):
        return (type(value), value)
    raise TypeError(type(value).__name__)
