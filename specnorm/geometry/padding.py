"""Padding along one axis: amounts of padding "same" in other frameworks, and how many copies of a pixel there are."""

from __future__ import annotations

from specnorm.geometry.spec import PaddingMode, padding_count, same_lower, same_upper

__all__ = ["PaddingMode", "padding_count", "same_lower", "same_upper"]
