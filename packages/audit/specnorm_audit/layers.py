"""Select a model's arrays that are layers, and the order of their axes, by names and shapes; no array is loaded.

If a file does not state the order of its kernels' axes, torch's (OIHW) or that of Flax and Keras (HWIO), the names and
shapes of all its arrays decide. If they leave it open, layers are read in both orders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, TypeAlias

from specnorm_networks.model_arrays import Kind, Tensor

from specnorm.proof import counted
from specnorm_audit import leaves
from specnorm_audit.effective import FLOATING, effective
from specnorm_audit.leaves import BIASES, parts_of
from specnorm_audit.world import stacked

Convention: TypeAlias = Literal["OIHW", "HWIO", "stack"]
BOTH: tuple[Convention, Convention] = ("OIHW", "HWIO")

MIN_AXES = 2
MAX_AXES = 5
"""Numbers of axes of a layer's kernel."""
_NO_NUMBERS = ("bool", "datetime", "timedelta")
"""Beginnings of the names of dtypes that no kernel has."""
_INDEX_DTYPES = ("int32", "int64", "uint32", "uint64")
"""Dtypes that are mostly positions; integers of fewer bits are mostly quantized weights."""
_ATTENTION = ("query", "key", "value", "out")
"""Names of parts of attention in Flax, whose kernels of 3 axes are matrices."""
_ONE_NUMBER = re.compile(r"void(8|16|32|64)")
"""Dtypes of single raw numbers, such as the bfloat16 of NumPy's files."""
_UNREADABLE = {
    "object": "it holds Python objects, which are never unpickled. Save the kernel as a float32 array.",
    "list": "it is a list of lists of numbers, no array. Give numpy.array(..., dtype=float) of it.",
    "structured": "it holds records. Save each field as an array of its own.",
    "void": "it holds raw bytes without a type (numpy.savez does that to bfloat16). Save the kernel as float32.",
}

_FLAT = re.compile(r"_?flat_param(_\d+)?")
_FLATTENED = (
    "it is a flat vector of many parameters, as FSDP keeps them. Gather them first: "
    "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True."
)


@dataclass(frozen=True)
class Layer:
    """An array that is read as a layer's kernel, or (kind "none") that could be one and is not measured."""

    tensor: Tensor
    kind: Kind
    refusal: str | None = None
    assumed: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class Selection:
    """The arrays of a model that are to be measured, in the model's order."""

    layers: list[Layer]
    unmeasured: list[Layer]
    """Arrays that could be layers and are not measured, each with the reason."""
    skipped: list[str]
    """Names of all arrays that are not in ``layers``."""
    names: list[str]
    """Names of all layers, also of those that were not asked for."""


def select(
    tensors: Iterable[Tensor],
    patterns: Sequence[str] | None = None,
    *,
    arrays_are_the_callers: bool = False,
    written_in: Convention | None = None,
    assume_stored: Sequence[str] = (),
) -> Selection:
    """Return the layers among a model's arrays.

    If the file states what an array is (`Tensor.kind`), that counts. Else a real floating array with two axes is a
    linear layer, and one with three to five axes a convolution. Vectors, integers, and arrays from which a weight is
    computed are no layers. The remaining arrays could be layers: those with more axes, other numbers, or names that no
    kernel has.

    Parameters
    ----------
    patterns : sequence of str, optional
        Shell patterns on names, case-sensitive; None: every layer.
    arrays_are_the_callers : bool
        Whether the arrays were given by the caller. They are in torch's order unless a name is Flax's.
    written_in : str, optional
        Order of axes of the library that wrote the file; it counts like the name of each kernel.
    assume_stored : sequence of str
        Shell patterns on names of arrays that the layers use as they are stored, whatever stands beside them.
    """
    everything = effective(tensors, assume_stored)
    orders = conventions(everything, ("OIHW",) if arrays_are_the_callers else BOTH, written_in)
    biases = _biases(everything)
    everything = [_with_readings(t, orders[t.name], biases) if t.name in orders else t for t in everything]
    candidates = [layer for layer in map(_as_layer, everything) if layer is not None]
    names = [layer.tensor.name for layer in candidates if layer.kind != "none"]
    if patterns is not None:
        candidates = [layer for layer in candidates if any(fnmatchcase(layer.tensor.name, p) for p in patterns)]
    layers = [layer for layer in candidates if layer.kind != "none"]
    unmeasured = [layer for layer in candidates if layer.kind == "none"]
    measured = {layer.tensor.name for layer in layers}
    skipped = [tensor.name for tensor in everything if tensor.name not in measured]
    return Selection(layers, unmeasured, skipped, names)


def _as_layer(tensor: Tensor) -> Layer | None:
    """Return an array as a layer, or as a layer of kind "none" if it could be one and is not measured.

    None: it is no layer.
    """
    if tensor.kind is None:
        return _as_layer_by_name(tensor)
    if tensor.kind == "none":
        return Layer(tensor, "none", tensor.refusal) if tensor.refusal else None
    kind: Kind = tensor.kind
    if tensor.kind == "unknown" and why_not_a_kernel(parts_of(tensor.name)):
        kind = "none"
    return Layer(tensor, kind, tensor.refusal, tensor.assumed)


def _as_layer_by_name(tensor: Tensor) -> Layer | None:
    """`_as_layer` for an array about which the file states nothing: by its name, shape and dtype."""
    axes = len(tensor.shape)
    parts = parts_of(tensor.name)
    if _FLAT.fullmatch(parts[-1]):
        return Layer(tensor, "none", _FLATTENED)
    unreadable = next((why for start, why in _UNREADABLE.items() if tensor.dtype.startswith(start)), None)
    has_plain_entries = unreadable is None or _ONE_NUMBER.fullmatch(tensor.dtype)
    if (axes < MIN_AXES and has_plain_entries) or _is_position(tensor, parts[-1]):
        return None
    reason = _why_no_kernel(tensor, parts, unreadable)
    if reason is not None:
        return Layer(tensor, "none", reason)
    is_matrix = axes == MIN_AXES or tensor.conventions == ("stack",)
    kind: Kind = "linear" if is_matrix else "conv"
    if axes == 3 and parts[-1] == "kernel" and parts[-2:-1] and parts[-2] in _ATTENTION:
        return Layer(tensor, kind, f"it is the {parts[-2]} of an attention by its name, which is not measured.")
    if _is_quantised(tensor, parts[-1]):
        reason = f"its numbers are {tensor.dtype}: a quantized kernel is not measured. Apply its scale first."
        reason += f" {tensor.refusal}" if tensor.refusal else ""
        return Layer(tensor, kind, reason)
    return Layer(tensor, kind, tensor.refusal or unreadable, tensor.assumed)


def _why_no_kernel(tensor: Tensor, parts: Sequence[str], unreadable: str | None) -> str | None:
    """Return the reason why an array that could be a layer is probably none, or None.

    ``unreadable`` is the reason why its entries cannot be read, if that is so.
    """
    axes = len(tensor.shape)
    if not MIN_AXES <= axes <= MAX_AXES:
        return unreadable or f"it has {counted(axes, 'axis', 'axes')}, and a layer {MIN_AXES} to {MAX_AXES}."
    if unreadable is None and not tensor.dtype.startswith(FLOATING) and not _is_quantised(tensor, parts[-1]):
        return f"its numbers are {tensor.dtype}, but a layer has real floating-point entries."
    # An array that cannot be read stays a layer with an error: only a readable one is left out by its name.
    return None if unreadable or tensor.refusal else why_not_a_kernel(parts)


def _is_quantised(tensor: Tensor, leaf: str) -> bool:
    """Return whether an array is a kernel by its name, and its numbers are integers or packed ones."""
    return leaves.is_quantised(leaf) and tensor.dtype.startswith(("int", "uint"))


def _is_position(tensor: Tensor, leaf: str) -> bool:
    """Return whether an array's dtype shows that it is no kernel, but truth values, times or indices."""
    is_named_a_kernel = "weight" in leaf or "kernel" in leaf
    is_index = tensor.dtype in _INDEX_DTYPES and len(tensor.shape) <= MIN_AXES and not is_named_a_kernel
    return is_index or tensor.dtype.startswith(_NO_NUMBERS)


def why_not_a_kernel(parts: Sequence[str]) -> str | None:
    """Return the reason why an array of this name, in its parts, cannot be a layer's kernel, or None."""
    for part in parts:
        if leaves.TRAINING_STATE.fullmatch(part):
            return f"it lies under {part!r}, where training runs keep their state."
    last = parts[-1]
    is_bias = leaves.is_bias(last) and not leaves.is_short_bias(last)
    if is_bias or leaves.is_statistic(last) or leaves.is_moment(last):
        return f"it is called {last!r}, which is not a kernel's name."
    return None


# -- stacks of matrices ------------------------------------------------------------------------------------------------
_TAPS = 15
"""Largest number of taps on an axis of a kernel that has no bias and is called no convolution."""


def _biases(tensors: Sequence[Tensor]) -> Mapping[tuple[str, ...], list[tuple[int, ...]]]:
    """Return the shapes of biases and scales by the names of their scopes, and of the scopes around these."""
    shapes: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
    for tensor in tensors:
        words = tuple(parts_of(tensor.name))
        if leaves.is_bias(words[-1]) or (leaves.is_leaf_of_norm(words[-1]) and not leaves.is_kernel(words[-1])):
            shapes.setdefault(words[:-1], []).append(tensor.shape)
            shapes.setdefault((*words[:-2], "*"), []).append(tensor.shape)
    return shapes


def _with_readings(
    tensor: Tensor,
    orders: tuple[Convention, ...],
    biases: Mapping[tuple[str, ...], list[tuple[int, ...]]],
) -> Tensor:
    """Return a kernel with the ways in which it may be read: orders of its axes, and a stack of matrices.

    A bias of shape (member, out) tells a stack, also those of the layers beside it; a bias with one axis, and a word in
    its name, a convolution. Where nothing tells, both readings count.
    """
    words = tuple(parts_of(tensor.name))
    of_layer = [shape for shape in biases.get(words[:-1], ()) if shape != tensor.shape]
    members = max((stacked(tensor.shape, shape) for shape in of_layer), default=0)
    beside = [shape for shape in biases.get((*words[:-2], "*"), ()) if shape != tensor.shape]
    if not of_layer and beside and all(len(shape) > 1 and shape[0] == tensor.shape[0] for shape in beside):
        members = 1
    if members:
        if len(tensor.shape) - members > 2:
            reason = "by its bias it is a stack of convolutions: give the kernel of each member."
            return replace(tensor, refusal=tensor.refusal or reason)
        return replace(tensor, conventions=("stack",))
    is_convolution = (
        of_layer
        or "stride" in tensor.geometry
        or any("conv" in word.lower() for word in words)
        or _has_small_taps(tensor.shape)
    )
    return replace(tensor, conventions=orders if is_convolution else (*orders, "stack"))


def _has_small_taps(shape: Sequence[int]) -> bool:
    """Whether an array has two axes or more of few taps, in one of the orders of axes."""
    return len(shape) > 3 and (max(shape[2:]) <= _TAPS or max(shape[:-2]) <= _TAPS)


# -- the order of the axes ---------------------------------------------------------------------------------------------
def conventions(
    tensors: Sequence[Tensor], silent: tuple[Convention, ...] = BOTH, written_in: Convention | None = None
) -> dict[str, tuple[Convention, ...]]:
    """Return in which orders each kernel of 3 to 5 axes may be read, by its name.

    A bias beside a kernel has as many entries as the kernel has outputs, which may fit one order alone. Outputs of each
    kernel are inputs of the next one, which may hold in one order alone. ``weight`` is torch's name; ``kernel`` is
    Flax's and Keras's, but others use it too: it does not decide alone. ``silent`` is returned if neither shapes nor
    names suggest an order. ``written_in`` counts in place of all names.
    """
    kernels = [t for t in tensors if t.kind is None and 3 <= len(t.shape) <= 5 and "float" in t.dtype]
    kernels = [t for t in kernels if not leaves.is_bias(parts_of(t.name)[-1])]
    vectors = {tuple(parts_of(t.name)): t.shape[0] for t in tensors if len(t.shape) == 1}
    by_shape = {t.name: _by_bias(t, vectors) for t in kernels}
    by_name = {t.name: written_in or _by_name(parts_of(t.name)[-1]) for t in kernels}
    seen_in_shapes: set[Convention | None] = {*by_shape.values(), _by_channels(kernels)}
    seen_in_shapes.discard(None)
    seen = seen_in_shapes | set(by_name.values())
    seen.discard(None)
    if not seen:
        return dict.fromkeys(by_name, silent)
    if seen == {"OIHW"}:
        return dict.fromkeys(by_name, ("OIHW",))
    if seen == {"HWIO"} and seen_in_shapes:
        return dict.fromkeys(by_name, ("HWIO",))
    return {t.name: _by_itself(by_shape[t.name], by_name[t.name]) for t in kernels}


def _by_itself(by_shape: Convention | None, by_name: Convention | None) -> tuple[Convention, ...]:
    """Return the orders of one kernel by its own shape and name, in a file whose kernels disagree."""
    if by_shape is None:
        return ("OIHW",) if by_name == "OIHW" else BOTH
    return (by_shape,) if by_name in (None, by_shape) else BOTH


def _by_name(leaf: str) -> Convention | None:
    """Return the order that a kernel's own name suggests; None: none."""
    if leaf == "kernel":
        return "HWIO"
    is_of_torch = leaf.startswith(("weight", "original")) and leaf != "weights"
    return "OIHW" if is_of_torch else None


def _by_bias(tensor: Tensor, vectors: Mapping[tuple[str, ...], int]) -> Convention | None:
    """Return the only order in which a kernel has as many outputs as the bias beside it has entries; None: none."""
    before = parts_of(tensor.name)[:-1]
    counts = [vectors[(*before, leaf)] for leaf in BIASES if (*before, leaf) in vectors]
    if not counts:
        return None
    # Torch's transposed convolutions have their outputs in the second place.
    fits_torch = counts[0] in tensor.shape[:2]
    fits_flax = counts[0] == tensor.shape[-1]
    if fits_torch == fits_flax:
        return None
    return "OIHW" if fits_torch else "HWIO"


def _by_channels(kernels: Sequence[Tensor]) -> Convention | None:
    """Return the only order in which every kernel has as many inputs as the one before has outputs; None: none.

    Nothing is said by one kernel alone, or if all numbers of channels are the same.
    """
    orders: dict[Convention, tuple[int, int]] = {"OIHW": (0, 1), "HWIO": (-1, -2)}
    fitting: list[Convention] = []
    for order, (outputs, inputs) in orders.items():
        if all(a.shape[outputs] == b.shape[inputs] for a, b in pairwise(kernels)):
            fitting.append(order)
    if len(fitting) != 1 or len(kernels) < 2:
        return None
    outputs, inputs = orders[fitting[0]]
    channels = {kernel.shape[outputs] for kernel in kernels} | {kernel.shape[inputs] for kernel in kernels}
    return fitting[0] if len(channels) > 1 else None
