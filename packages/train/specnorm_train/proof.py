"""Bounds that a monitor derives from those of the layers."""

from __future__ import annotations

from collections.abc import Iterable

from specnorm.proof import host


def product_up(uppers: Iterable[float]) -> float:
    """Upper bound of the product of norms, from upper bounds of the norms."""
    return host.mul_up(*uppers)
