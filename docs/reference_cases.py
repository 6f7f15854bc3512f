"""Check any implementation of a convolution's spectral norm against reference-cases.json. Needs NumPy and PyTorch.

    python reference_cases.py                                 # PyTorch's own operators, applied to a basis
    python reference_cases.py package.module:function upper   # yours: exact (default), upper or lower

The function is called as ``norm(kernel, input_shape, *, stride, dilation, groups, transposed, padding_mode, padding)``
and returns a number; ``input_shape=None`` asks for the supremum over all sizes. NotImplementedError skips a case.
"""

import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def check(norm: Callable[..., Any], kind: str = "exact", rtol: float = 1e-6) -> tuple[int, list[str], list[str]]:
    """Return how many cases are right, the wrong ones in words, and the names of the skipped ones."""
    right, wrong, skipped = 0, [], []
    for case in json.loads(Path(__file__).with_name("reference-cases.json").read_text(encoding="utf-8"))["cases"]:
        name, low, high, _ = (case.pop(key) for key in ("name", "lower", "upper", "closed_form"))
        try:
            value = float(norm(np.asarray(case.pop("kernel"), dtype=np.float64), case.pop("input_shape"), **case))
        except NotImplementedError:
            skipped.append(name)
            continue
        below, above = value < low * (1 - rtol) - rtol, value > high * (1 + rtol) + rtol
        if math.isnan(value) or (below and kind != "lower") or (above and kind != "upper"):
            wrong.append(f"{name}: {value!r}, but the norm is in [{low!r}, {high!r}]")
        else:
            right += 1
    return right, wrong, skipped


def torch_norm(
    kernel: Any, input_shape: Sequence[int] | None, *, stride: Sequence[int], dilation: Sequence[int], groups: int,
    transposed: bool, padding_mode: str, padding: Sequence[Sequence[int]],
) -> float:  # fmt: skip
    """Largest singular value of the matrix whose columns are the layer's answers to a basis."""
    if input_shape is None:
        raise NotImplementedError("a matrix exists at one size only")
    weight, ndim = torch.tensor(kernel), len(input_shape)
    if ndim == 0:
        return float(torch.linalg.matrix_norm(weight, 2))
    if transposed and padding_mode == "circular":  # the adjoint of a convolution on the larger circle: the same norm
        transposed, input_shape = False, [n * s for n, s in zip(input_shape, stride, strict=True)]
    channels = len(weight) if transposed else weight.shape[1] * groups
    size = channels * math.prod(input_shape)
    x = torch.eye(size, dtype=weight.dtype).reshape(size, channels, *input_shape)
    pads = [p for pair in reversed(padding) for p in pair]  # F.pad begins with the last axis
    if transposed:
        operator: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[ndim - 1]
        y = F.pad(
            operator(x, weight, stride=tuple(stride), dilation=tuple(dilation), groups=groups), [-p for p in pads]
        )
    else:
        if padding_mode == "circular":  # F.pad refuses to go round more than once
            for axis, ((before, after), n) in enumerate(zip(padding, input_shape, strict=True)):
                x = x.index_select(axis + 2, torch.arange(-before, n + after) % n)
        else:
            x = F.pad(x, pads, mode="constant" if padding_mode == "zeros" else padding_mode)
        operator = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
        y = operator(x, weight, stride=tuple(stride), dilation=tuple(dilation), groups=groups)
    return float(torch.linalg.matrix_norm(y.reshape(size, -1), 2))


if __name__ == "__main__":
    function = torch_norm
    if len(sys.argv) > 1:
        module, _, name = sys.argv[1].partition(":")
        sys.path.insert(0, "")
        function = getattr(importlib.import_module(module), name)
    right, wrong, skipped = check(function, *sys.argv[2:3])
    print(*wrong, f"{right} right, {len(wrong)} wrong, {len(skipped)} skipped", sep="\n")
    sys.exit(bool(wrong))
