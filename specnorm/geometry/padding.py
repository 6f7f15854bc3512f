"""Padding along one axis: amounts of padding "same" in other frameworks, and how many copies of a pixel there are."""

from __future__ import annotations

from collections import Counter
from typing import Literal

PaddingMode = Literal["circular", "zeros", "reflect", "replicate"]


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
        outputs = -(-n // s)
        total = max((outputs - 1) * s + width - n, 0)
    return total // 2, total - total // 2


def padding_count(before: int, after: int, n: int | None, mode: PaddingMode) -> int:
    """Largest number of positions of the padded axis that hold the same pixel, the pixel's own position included.

    Parameters
    ----------
    before, after : int
        Amounts of padding.
    n : int or None
        Pixels of the axis; None: the largest count over all sizes.
    """
    if mode == "circular":
        return 1 + -(-(before + after) // (n or 1))
    if mode == "replicate":
        # The padding copies the first pixel in front and the last one behind: a single pixel at both ends.
        has_two_ends = n is not None and n > 1
        return 1 + (max(before, after) if has_two_ends else before + after)
    if mode == "reflect":
        if n is not None and max(before, after) >= n:
            # The padding is longer than the axis: it reflects back and forth, with this period.
            period = max(2 * (n - 1), 1)
            counts = Counter(min(p % period, period - p % period) for p in range(-before, n + after))
            return max(counts.values(), default=1)
        if before == 0 and after == 0:
            return 1
        # Pixel i is copied in front if 1 <= i <= before, and behind if n - 1 - after <= i <= n - 2.
        copied_twice = n is None or max(1, n - 1 - after) <= min(before, n - 2)
        return 3 if before > 0 and after > 0 and copied_twice else 2
    return 1
