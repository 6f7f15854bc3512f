"""Padding along one axis: amounts of padding "same" in other frameworks, and how many copies of a pixel there are."""

from __future__ import annotations

from specnorm.backends.arrays import ceil_div
from specnorm.geometry.spec import PaddingMode, padding_count

__all__ = ["PaddingMode", "padding_count", "same_upper"]


def same_upper(n: int | None, k: int, s: int, r: int) -> tuple[int, int]:
    """Amounts (before, after) of padding "same" in TensorFlow, XLA and ONNX ("SAME_UPPER") along one axis.

    It is the least padding that gives ``ceil(n / s)`` outputs. If the total is odd, one pixel more is padded after.

    Parameters
    ----------
    n : int or None
        Pixels of the input; None: any number that the stride divides.
    k, s, r : int
        Kernel size, stride and dilation.
    """
    width = r * (k - 1) + 1
    if n is None:
        total = max(width - s, 0)
    else:
        outputs = ceil_div(n, s)
        total = max((outputs - 1) * s + width - n, 0)
    return total // 2, total - total // 2
