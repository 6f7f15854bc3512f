"""Select a model's arrays that are layers, and the order of their axes, by names and shapes; no array is loaded.

If a file does not state the order of its kernels' axes, torch's (OIHW) or that of Flax and Keras (HWIO), the names and
shapes of all its arrays decide. If they leave it open, layers are read in both orders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Literal, TypeAlias

from specnorm_networks.model_arrays import Kind, Tensor

from specnorm.proof import AnyArray, backends, counted
from specnorm_audit.accounts import names
from specnorm_audit.accounts.accounting import FLOATING, accounted
from specnorm_audit.accounts.conventions.recipe import Shape
from specnorm_audit.accounts.names import BIASES, parts_of
from specnorm_audit.accounts.places import Words, has_one_output, stacked
from specnorm_audit.geometry import may_be_filters

Convention: TypeAlias = Literal["OIHW", "HWIO", "stack"]
Biases: TypeAlias = Mapping[Words, list[Shape]]
BOTH: tuple[Convention, Convention] = ("OIHW", "HWIO")

MIN_AXES = 2
MAX_AXES = 5
"""Numbers of axes of a layer's kernel."""
_ATTENTION = ("query", "key", "value", "out")
_PARTS = [(word,) for word in _ATTENTION]
"""Names of parts of attention in Flax, whose kernels of 3 axes are matrices."""
_FACTORS = ("scale", "gamma", "beta", "offset", "mean", "var")
"""Names of parameters of normalizations, which show how many outputs or members stand before them."""
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
class Selection:
    """The arrays of a model that are to be measured, in the model's order."""

    layers: list[Tensor]
    """Kernels, each with its kind."""
    unmeasured: list[Tensor]
    """Arrays of kind "none" that could be layers and are not measured, each with the reason."""
    skipped: list[str]
    """Names of all arrays that are not in ``layers``."""
    everything: list[Tensor]
    """All layers, also those that were not asked for."""
    are_filters: bool
    """Whether the layers may be filters instead (`geometry.may_be_filters`)."""

    @property
    def names(self) -> list[str]:
        """Names of all layers."""
        return [layer.name for layer in self.everything]

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Matrices of linear layers that are known to be used as they are, by name, of all layers."""
        return {layer.name: layer for layer in self.everything if layer.kind == "linear" and layer.refusal is None}


def select(
    tensors: Iterable[Tensor],
    patterns: Sequence[str] | None = None,
    *,
    arrays_are_the_callers: bool = False,
    written_in: Convention | None = None,
    assume_stored: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Selection:
    """Return the layers among a model's arrays.

    If the file states what an array is (`Tensor.kind`), that counts. Else a kernel by its name (`accounted`) with two
    axes is a linear layer, and one with three to five axes a convolution. Kernels with more axes or other numbers, and
    arrays that are not accounted for, are named with the reason.

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
    ignore : sequence of str
        Shell patterns on names of arrays that no layer uses.
    """
    everything = accounted(tensors, assume_stored, ignore)
    all_names = {t.name for t in everything}
    everything = [_of_attention(t, all_names) for t in everything]
    orders = conventions(everything, ("OIHW",) if arrays_are_the_callers else BOTH, written_in)
    biases = _biases(everything)
    everything = [_with_readings(t, orders[t.name], biases) if t.name in orders else t for t in everything]
    candidates = [layer for layer in map(_as_layer, everything) if layer is not None]
    all_layers = [layer for layer in candidates if layer.kind != "none"]
    if patterns is not None:
        candidates = [layer for layer in candidates if any(fnmatchcase(layer.name, p) for p in patterns)]
    layers = [layer for layer in candidates if layer.kind != "none"]
    unmeasured = [layer for layer in candidates if layer.kind == "none"]
    measured = {layer.name for layer in layers}
    skipped = [tensor.name for tensor in everything if tensor.name not in measured]
    are_filters = may_be_filters([tensor for tensor in everything if tensor.name in measured], frozenset(skipped))
    return Selection(layers, unmeasured, skipped, all_layers, are_filters)


def _as_layer(tensor: Tensor) -> Tensor | None:
    """Return a layer's kernel with its kind, "none" if it could be a kernel and is not measured; None: it is none."""
    leaf = parts_of(tensor.name)[-1:]
    if leaf and _FLAT.fullmatch(leaf[0]):
        return _refused(tensor, "none", _FLATTENED)
    unreadable = next((why for start, why in _UNREADABLE.items() if tensor.dtype.startswith(start)), None)
    if tensor.kind == "none":
        return _refused(tensor, "none", unreadable or tensor.refusal) if tensor.refusal else None
    if tensor.kind is not None:
        is_bias = tensor.kind == "unknown" and leaf[0] not in names.KERNELS and names.conditions_of(leaf)
        return replace(tensor, kind="none") if is_bias else tensor
    return _as_layer_by_name(tensor, unreadable)


def _as_layer_by_name(tensor: Tensor, unreadable: str | None) -> Tensor:
    """`_as_layer` for a kernel of which the file states nothing; ``unreadable`` is why its entries cannot be read."""
    axes = len(tensor.shape)
    is_quantised = tensor.dtype.startswith(("int", "uint"))
    if not MIN_AXES <= axes <= MAX_AXES:
        reason = f"it has {counted(axes, 'axis', 'axes')}, and a layer {MIN_AXES} to {MAX_AXES}."
        return _refused(tensor, "none", unreadable or reason)
    if unreadable is None and not is_quantised and not tensor.dtype.startswith(FLOATING):
        reason = f"its numbers are {tensor.dtype}, but a layer has real floating-point entries."
        return _refused(tensor, "none", reason)
    kind: Kind = "linear" if axes == MIN_AXES or tensor.conventions == ("stack",) else "conv"
    words = parts_of(tensor.name)
    if axes == 3 and words[-1] == "kernel" and words[-2:-1] and words[-2] in _ATTENTION:
        return _refused(tensor, kind, f"it is the {words[-2]} of an attention by its name, which is not measured.")
    if is_quantised:
        reason = f"its numbers are {tensor.dtype}: a quantized kernel is not measured. Apply its scale first."
        return _refused(tensor, kind, f"{reason} {tensor.refusal}" if tensor.refusal else reason)
    return replace(tensor, kind=kind, refusal=tensor.refusal or unreadable)


def _refused(tensor: Tensor, kind: Kind, reason: str | None) -> Tensor:
    return replace(tensor, kind=kind, refusal=reason, assumed=())


def _of_attention(tensor: Tensor, everything: Container[str]) -> Tensor:
    """Return a kernel of Flax's attention as a matrix: (in, heads, width), or (heads, width, out) of "out".

    Only beside the others: a convolution may be called "out", too.
    """
    words = parts_of(tensor.name)
    if tensor.kind is not None or len(tensor.shape) != 3 or words[-1] != "kernel" or words[-2:-1] not in _PARTS:
        return tensor
    before = tensor.name.removesuffix("kernel").rstrip("./").removesuffix(words[-2])
    separator = tensor.name[-len("kernel") - 1]
    if not all(f"{before}{part}{separator}kernel" in everything for part in _ATTENTION):
        return tensor
    first, middle, last = tensor.shape
    shape = (first * middle, last) if words[-2] == "out" else (first, middle * last)
    assumed = (*tensor.assumed, "kind=matrix of an attention")
    return replace(tensor, shape=shape, load=partial(_reshaped, tensor.load, shape), assumed=assumed)


def _reshaped(load: Callable[[], AnyArray], shape: Shape) -> AnyArray:
    kernel = load()
    return backends.backend_for(kernel).namespace(kernel).reshape(kernel, shape)


# -- stacks of matrices ------------------------------------------------------------------------------------------------
_TAPS = 15
"""Largest number of taps on an axis of a kernel that has no bias and is called no convolution."""


def _biases(tensors: Sequence[Tensor]) -> Biases:
    """Return the shapes of biases and scales by the names of their scopes, and of the scopes around these."""
    shapes: dict[Words, list[Shape]] = {}
    for tensor in tensors:
        words = parts_of(tensor.name)
        if words[-1].endswith(BIASES) or words[-1] in _FACTORS:
            shapes.setdefault(words[:-1], []).append(tensor.shape)
            shapes.setdefault((*words[:-2], "*"), []).append(tensor.shape)
    return shapes


def _with_readings(
    tensor: Tensor,
    orders: tuple[Convention, ...],
    biases: Biases,
) -> Tensor:
    """Return a kernel with the ways in which it may be read: orders of its axes, and a stack of matrices.

    A bias of shape (member, out) tells a stack, also those of the layers beside it; a bias with one axis, and a word in
    its name, a convolution. Where nothing tells, both readings count.
    """
    words = parts_of(tensor.name)
    of_layer = [shape for shape in biases.get(words[:-1], ()) if shape != tensor.shape]
    members = max((stacked(tensor.shape, shape) for shape in of_layer), default=0)
    beside = [shape for shape in biases.get((*words[:-2], "*"), ()) if shape != tensor.shape]
    if not of_layer and beside and all(len(shape) > 1 and shape[0] == tensor.shape[0] for shape in beside):
        members = 1
    if members:
        if len(tensor.shape) - members > 2:
            reason = "by its bias it is a stack of convolutions: give the kernel of each member."
            return tensor.refused(reason)
        return replace(tensor, conventions=("stack",))
    # In one of the orders of axes two or more have few taps.
    has_small_taps = len(tensor.shape) > 3 and min(max(tensor.shape[2:]), max(tensor.shape[:-2])) <= _TAPS
    has_one_each = any(has_one_output(tensor.shape, shape) for shape in of_layer)
    is_convolution = not has_one_each and (
        of_layer or "stride" in tensor.geometry or any("conv" in word.lower() for word in words) or has_small_taps
    )
    return replace(tensor, conventions=orders if is_convolution else (*orders, "stack"))


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
    vectors = {parts_of(t.name): t.shape[0] for t in tensors if len(t.shape) == 1}
    by_shape = {t.name: _by_bias(t, vectors) for t in kernels}
    by_name = {t.name: written_in or _by_name(parts_of(t.name)[-1]) for t in kernels}
    seen_in_shapes = {*by_shape.values(), _by_channels(kernels)} - {None}
    seen = seen_in_shapes | {*by_name.values()} - {None}
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


def _by_bias(tensor: Tensor, vectors: Mapping[Words, int]) -> Convention | None:
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
    fitting = [order for order, (i, j) in orders.items() if all(a.shape[i] == b.shape[j] for a, b in pairwise(kernels))]
    if len(fitting) != 1 or len(kernels) < 2:
        return None
    outputs, inputs = orders[fitting[0]]
    channels = {kernel.shape[outputs] for kernel in kernels} | {kernel.shape[inputs] for kernel in kernels}
    return fitting[0] if len(channels) > 1 else None
