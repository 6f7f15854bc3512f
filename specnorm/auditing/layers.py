"""Named arrays -> which of them are layers, as what they are read, and which are refused. Nothing is loaded here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from specnorm.auditing.geometry import Stated
from specnorm.types import AnyArray

Kind = Literal["conv", "linear", "unknown"]
"""What a layer is; "unknown" where not even its shape can be read."""

MIN_AXES, MAX_AXES = 2, 5
_SEPARATOR = re.compile(r"[./:]")
_COUNTER = re.compile(r":\d+$")
"""What TensorFlow writes after a variable's name."""
_FLOATING = ("float", "bfloat")
_UNREADABLE = {
    "object": "it holds Python objects, which are never unpickled. Save the kernel as a float32 array.",
    "void": "it holds raw bytes without a type (numpy.savez does that to bfloat16). Save the kernel as float32.",
}

# Exact last parts of names that are no kernels although their arrays may have the axes of one.
_NO_KERNEL = frozenset({
    "bias", "weight_u", "weight_v", "weight_g", "_u", "_v", "running_mean", "running_var", "moving_mean",
    "moving_variance", "num_batches_tracked", "cls_token", "class_token", "mask_token", "pos_embed", "pos_embedding",
    "position_embedding", "vector_u", "sn_u", "relative_position_bias_table", "weight_mask", "attn_mask",
    "anchors", "anchor_grid", "max_exp_avg_sq", "momentum_buffer", "exp_inf", "square_avg", "grad_avg", "acc_delta",
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
    """One array of a model file, not loaded yet, and what the file says of it.

    Parameters
    ----------
    name : str
        Its key in the file.
    shape : tuple of int
        Of what ``load`` returns.
    dtype : str
        Short name, such as ``"float32"``.
    load : callable
        Reads the array.
    kind : {"conv", "linear", "none", "unknown"} or None
        A kernel for certain, by what the file says and whatever its name is; "none": certainly no kernel. None: the
        file does not say, so name and shape decide.
    geometry : Stated
        What the file says for certain of the layer: a missing key is assumed, and the row lists it.
    input_shape : tuple of int or None
        Spatial sizes of the layer's input, if the file says so.
    refusal : str or None
        Why it cannot be measured, though it may be a kernel: a row with that reason.
    assumed : tuple of str
        What the reader took for granted beyond the geometry.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], AnyArray]
    kind: Literal["conv", "linear", "none", "unknown"] | None = None
    geometry: Stated = field(default_factory=Stated)
    input_shape: tuple[int, ...] | None = None
    refusal: str | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """An array that is read as a layer's kernel.

    Parameters
    ----------
    kind : {"conv", "linear", "unknown"}
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
    and so are names that cannot be kernels: biases, running statistics, power-iteration vectors, optimizer state. What
    the file says for certain (`Tensor.kind`) comes first.

    Parameters
    ----------
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
    layers = all_layers(everything)
    if patterns is not None:
        layers = [layer for layer in layers if any(fnmatchcase(layer.tensor.name, p) for p in patterns)]
    return layers, len(everything) - len(layers)


def all_layers(tensors: Sequence[Tensor]) -> list[Layer]:
    """Every layer among a model's arrays, in the model's order."""
    names = {tensor.name for tensor in tensors}
    found = (_as_layer(tensor, names) for tensor in tensors)
    return [layer for layer in found if layer is not None]


def _as_layer(tensor: Tensor, names: set[str]) -> Layer | None:
    if tensor.kind == "none":
        return None
    if tensor.kind in ("conv", "linear"):
        return Layer(tensor, tensor.kind, tensor.refusal, tensor.assumed)
    parts = _SEPARATOR.split(_COUNTER.sub("", tensor.name))
    if tensor.kind == "unknown":
        return None if _is_no_kernel(parts) else Layer(tensor, "unknown", tensor.refusal, tensor.assumed)
    if not MIN_AXES <= len(tensor.shape) <= MAX_AXES or any(_TRAINING_STATE.fullmatch(part) for part in parts):
        return None
    kind: Kind = "linear" if len(tensor.shape) == MIN_AXES else "conv"
    unreadable = next((why for start, why in _UNREADABLE.items() if tensor.dtype.startswith(start)), None)
    if unreadable is not None:
        return Layer(tensor, kind, tensor.refusal or unreadable, tensor.assumed)
    if not tensor.dtype.startswith(_FLOATING):
        return None
    if _length_of(tensor.name) in names:
        return Layer(tensor, kind, _WEIGHT_NORM)
    if _is_no_kernel(parts) or (tensor.name.endswith(".original0") and tensor.name[:-1] + "1" in names):
        return None
    if parts[-1] == "weight_orig" and tensor.name[: -len("_orig")] in names:
        return None  # the weight that the layer uses stands beside it
    if parts[-1] == "weight_orig" or (parts[-1].startswith("original") and "parametrizations" in parts):
        return Layer(tensor, kind, tensor.refusal, (*tensor.assumed, _RAW_PARAMETER))
    return Layer(tensor, kind, tensor.refusal, tensor.assumed)


def _length_of(name: str) -> str | None:
    """Name of the array with the lengths, if ``name`` were the directions of a weight normalisation."""
    if name.endswith("weight_v"):
        return name[:-1] + "g"
    return name[:-1] + "0" if name.endswith(".original1") else None


def _is_no_kernel(parts: Sequence[str]) -> bool:
    """Whether a name, in its parts, is one that no kernel has."""
    last = parts[-1]
    if any(_TRAINING_STATE.fullmatch(part) for part in parts):
        return True
    if "parametrizations" in parts and not last.startswith("original"):
        return True  # buffers of the parametrisation: vectors of a power iteration, the base of an orthogonal one
    return last in _NO_KERNEL or last.startswith("bias_") or last.endswith("_bias")
