"""In which order a file's kernels have their axes, where it does not say: torch's (OIHW), or Flax's and Keras's (HWIO).

Names and shapes of the whole file decide. Where they cannot, a layer is read both ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

from specnorm_networks import Tensor

Convention: TypeAlias = Literal["OIHW", "HWIO"]
_SEPARATOR = re.compile(r"[./:]")
_COUNTER = re.compile(r":\d+$")
"""What TensorFlow writes after a variable's name."""
_BIASES = ("bias", "biases", "b")
BOTH: tuple[Convention, Convention] = ("OIHW", "HWIO")


def parts_of(name: str) -> list[str]:
    """The words of an array's name, outermost first."""
    return _SEPARATOR.split(_COUNTER.sub("", name))


def conventions(tensors: Sequence[Tensor], silent: tuple[Convention, ...] = BOTH) -> dict[str, tuple[Convention, ...]]:
    """How each kernel of 3 to 5 axes may be read, by its name.

    A bias beside a kernel has as many entries as the kernel has outputs, which may fit one order alone. Outputs of each
    kernel are inputs of the next one, which may hold in one order alone. ``weight`` is torch's name; ``kernel`` is
    Flax's and Keras's, but others use it too: it does not decide alone. ``silent`` is for what says nothing at all.
    """
    kernels = [t for t in tensors if t.kind is None and 3 <= len(t.shape) <= 5 and "float" in t.dtype]
    vectors = {tuple(parts_of(t.name)): t.shape[0] for t in tensors if len(t.shape) == 1}
    by_shape = {t.name: _by_bias(t, vectors) for t in kernels}
    by_name = {t.name: _by_name(parts_of(t.name)[-1]) for t in kernels}
    proven = {*by_shape.values(), _by_channels(kernels)} - {None}
    voices = proven | {*by_name.values()} - {None}
    if not voices:
        return dict.fromkeys(by_name, silent)
    if voices == {"OIHW"} or (voices == {"HWIO"} and proven):
        return {t.name: (voice,) for t in kernels for voice in voices if voice is not None}
    return {t.name: _alone(by_shape[t.name], by_name[t.name]) for t in kernels}


def _alone(by_shape: Convention | None, by_name: Convention | None) -> tuple[Convention, ...]:
    """What a kernel says of itself, in a file whose kernels disagree."""
    if by_shape is None:
        return ("OIHW",) if by_name == "OIHW" else BOTH
    return (by_shape,) if by_name in (None, by_shape) else BOTH


def _by_name(leaf: str) -> Convention | None:
    return (
        "HWIO"
        if leaf == "kernel"
        else "OIHW"
        if leaf.startswith(("weight", "original")) and leaf != "weights"
        else None
    )


def _by_bias(tensor: Tensor, vectors: Mapping[tuple[str, ...], int]) -> Convention | None:
    before = parts_of(tensor.name)[:-1]
    count = next((vectors[(*before, leaf)] for leaf in _BIASES if (*before, leaf) in vectors), None)
    # Torch's transposed convolutions have their outputs in the second place.
    torch, flax = count in tensor.shape[:2], count == tensor.shape[-1]
    return None if torch == flax else "OIHW" if torch else "HWIO"


def _by_channels(kernels: Sequence[Tensor]) -> Convention | None:
    """The only order in which every kernel takes what the one before it gives, and not all channels are as many."""
    orders: dict[Convention, tuple[int, int]] = {"OIHW": (0, 1), "HWIO": (-1, -2)}
    fitting: list[Convention] = [
        order
        for order, (outputs, inputs) in orders.items()
        if all(a.shape[outputs] == b.shape[inputs] for a, b in pairwise(kernels))
    ]
    channels = {kernel.shape[at] for order in fitting for at in orders[order] for kernel in kernels}
    return fitting[0] if len(fitting) == 1 and len(kernels) > 1 and len(channels) > 1 else None
