"""Named arrays -> which of them are layers, as what they are read, and which are refused. Nothing is loaded here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from specnorm.backends import Array

Kind = Literal["conv", "linear"]

MIN_AXES, MAX_AXES = 2, 5
_SEPARATOR = re.compile(r"[./:]")
_FLOATING = ("float", "bfloat")
_UNREADABLE = {
    "object": "it holds Python objects, which are never unpickled. Save the kernel as a float32 array.",
    "void": "it holds raw bytes without a type (numpy.savez does that to bfloat16). Save the kernel as float32.",
}

# Exact last parts of names that are no kernels although their arrays may have the axes of one.
_NO_KERNEL = frozenset({
    "bias", "weight_u", "weight_v", "weight_g", "_u", "_v", "running_mean", "running_var", "moving_mean",
    "moving_variance", "num_batches_tracked", "cls_token", "class_token", "mask_token", "pos_embed", "pos_embedding",
    "position_embedding", "relative_position_bias_table", "max_exp_avg_sq", "momentum_buffer",
})  # fmt: skip
# Any part of a name: whatever lies below belongs to the training run, not to the model.
_TRAINING_STATE = re.compile(r"optim(izer)?(s|_states?|_state_dict)?|(lr_)?schedulers?|exp_avg(_sq)?")

_WEIGHT_NORM = (
    "weight normalisation stores a direction and a length, not the weight. Fold them first: "
    "torch.nn.utils.remove_weight_norm, or torch.nn.utils.parametrize.remove_parametrizations."
)
_RAW_PARAMETER = "weight as stored (a parametrisation computes the layer's weight from it)"


@dataclass(frozen=True)
class Tensor:
    """One array of a model file, not loaded yet.

    Parameters
    ----------
    name : str
        Its key in the file.
    shape : tuple of int
    dtype : str
        Short name, such as ``"float32"``.
    load : callable
        Reads the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], Array]


@dataclass(frozen=True)
class Layer:
    """An array that is read as a layer's kernel.

    Parameters
    ----------
    tensor : Tensor
    kind : {"conv", "linear"}
    refusal : str or None
        Why it cannot be measured.
    assumed : tuple of str
        What was taken for granted about this array beyond its geometry.
    """

    tensor: Tensor
    kind: Kind
    refusal: str | None = None
    assumed: tuple[str, ...] = ()


def select(tensors: Iterable[Tensor], patterns: Sequence[str] | None = None) -> tuple[list[Layer], int]:
    """Pick the layers among a model's arrays.

    Real floating arrays with two axes are linear layers, with three to five convolutions. Everything else is left out,
    and so are names that cannot be kernels: biases, running statistics, power-iteration vectors, optimizer state.

    Parameters
    ----------
    tensors : iterable of Tensor
    patterns : sequence of str, optional
        Shell patterns on names, case-sensitive; None: every layer.

    Returns
    -------
    layers : list of Layer
        In the model's order.
    skipped : int
        Arrays that are no layers or match no pattern.
    """
    everything = list(tensors)
    names = {tensor.name for tensor in everything}
    layers = []
    for tensor in everything:
        layer = _as_layer(tensor, names)
        if layer and (patterns is None or any(fnmatchcase(tensor.name, p) for p in patterns)):
            layers.append(layer)
    return layers, len(everything) - len(layers)


def _as_layer(tensor: Tensor, names: set[str]) -> Layer | None:
    if not MIN_AXES <= len(tensor.shape) <= MAX_AXES:
        return None
    kind: Kind = "linear" if len(tensor.shape) == MIN_AXES else "conv"
    parts = _SEPARATOR.split(tensor.name)
    if any(_TRAINING_STATE.fullmatch(part) for part in parts):
        return None
    unreadable = next((why for start, why in _UNREADABLE.items() if tensor.dtype.startswith(start)), None)
    if unreadable is not None:
        return Layer(tensor, kind, unreadable)
    if not tensor.dtype.startswith(_FLOATING):
        return None
    if _length_of(tensor.name) in names:
        return Layer(tensor, kind, _WEIGHT_NORM)
    if _is_no_kernel(tensor.name, parts[-1], names):
        return None
    if parts[-1] == "weight_orig" or (parts[-1] == "original" and "parametrizations" in parts):
        return Layer(tensor, kind, assumed=(_RAW_PARAMETER,))
    return Layer(tensor, kind)


def _length_of(name: str) -> str | None:
    """Name of the array with the lengths, if ``name`` were the directions of a weight normalisation."""
    if name.endswith("weight_v"):
        return name[:-1] + "g"
    return name[:-1] + "0" if name.endswith(".original1") else None


def _is_no_kernel(name: str, last: str, names: set[str]) -> bool:
    if last in _NO_KERNEL or last.startswith("bias_") or last.endswith("_bias"):
        return True
    return name.endswith(".original0") and name[:-1] + "1" in names
