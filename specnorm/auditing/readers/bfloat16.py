"""bfloat16, for which NumPy has no type."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def in_float32(bits: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers as float32, exactly: a bfloat16 (a 16-bit integer, of either byte order) is half of one."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
