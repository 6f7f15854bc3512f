"""Shapes whose sizes may be open."""

from __future__ import annotations

from typing import TypeAlias

Size: TypeAlias = int | str
"""One axis: its size, or a symbol for it. Equal symbols are equal sizes; different ones may be anything."""
Shape: TypeAlias = tuple[Size, ...]


def concrete(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape if every size is known, else None."""
    if shape is None or any(isinstance(n, str) for n in shape):
        return None
    return tuple(int(n) for n in shape)
