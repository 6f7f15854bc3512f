"""What padding repeats: how many copies of one pixel it makes."""

from __future__ import annotations

from collections import Counter
from typing import Literal

PaddingMode = Literal["circular", "zeros", "reflect", "replicate"]


def same_upper(n: int | None, k: int, s: int, r: int) -> tuple[int, int]:
    """Padding "same" as TensorFlow, XLA and ONNX know it: as little as gives n / s outputs, the odd pixel after.

    None: of sizes that the stride divides.
    """
    reach = r * (k - 1) + 1
    total = max(reach - s if n is None else (-(-n // s) - 1) * s + reach - n, 0)
    return total // 2, total - total // 2


def padding_count(before: int, after: int, n: int | None, mode: PaddingMode) -> int:
    """Largest number of copies of one pixel that padding makes of an axis of n pixels; None: of any size."""
    if mode == "circular":
        return 1 + -(-(before + after) // (n or 1))
    if mode == "replicate":
        return 1 + (max(before, after) if n is not None and n > 1 else before + after)
    if mode == "reflect":
        if n is not None and max(before, after) >= n:
            # Back and forth, as often as it takes.
            turn = max(2 * (n - 1), 1)
            counts = Counter(min(p % turn, turn - p % turn) for p in range(-before, n + after))
            return max(counts.values(), default=1)
        both = before > 0 and after > 0
        # One pixel lies in both borders: 1 <= i <= before and n - 1 - after <= i <= n - 2.
        overlap = n is None or max(1, n - 1 - after) <= min(before, n - 2)
        return 3 if both and overlap else 2 if before or after else 1
    return 1
