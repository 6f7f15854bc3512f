"""A file of samples and labels, checked."""

from __future__ import annotations

import math

import numpy as np

from specnorm.errors import MethodError, ModelFileError
from specnorm.types import AnyArray
from specnorm_audit.readers import MAX_BYTES, open_model

SAMPLE_SECONDS = 60.0
"""Processor time that a sample may take at each radius, unless a budget is given; in a process that reads the file."""


def samples_of(
    path: str, max_bytes: int = MAX_BYTES, input_range: tuple[float, float] | None = None
) -> tuple[AnyArray, AnyArray]:
    """The arrays x (samples, ...) and y (labels).

    Raises
    ------
    ModelFileError
        If the file cannot be read or holds something else.
    MethodError
        If a sample lies outside of the range.
    """
    with open_model(path, max_bytes) as found:
        try:
            x, y = (np.asarray(found.array(name)) for name in ("x", "y"))
        except LookupError as error:
            names = ", ".join(tensor.name for tensor in found.arrays[:8]) or "no array"
            raise ModelFileError(f"{path} holds {names}; expected the arrays x (samples) and y (labels).") from error
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise ModelFileError(f"{path}: y has shape {y.shape} of {y.dtype}; expected one whole number a sample.")
    if x.ndim < 2 or len(x) != len(y):
        raise ModelFileError(f"{path}: x has shape {x.shape} and y {y.shape}; expected (samples, ...) and (samples,).")
    if not x.size:
        raise ModelFileError(f"{path}: x of shape {x.shape} has no entries.")
    if x.dtype.kind not in "fiu" or (x.dtype.kind == "f" and x.dtype.itemsize > np.dtype(np.float64).itemsize):
        raise ModelFileError(f"{path}: x is of {x.dtype}; expected float16, float32, float64 or integers.")
    if not (np.isfinite(x).all() and (x.dtype.kind == "f" or -(2**53) <= x.min() <= x.max() <= 2**53)):
        raise ModelFileError(f"{path}: x holds NaN, infinity, or integers beyond 2**53; expected numbers of float64.")
    low, high = (-math.inf, math.inf) if input_range is None else input_range
    flat = x.reshape(len(x), -1)
    outside = np.flatnonzero((flat.min(axis=1) < low) | (flat.max(axis=1) > high))
    if len(outside):
        raise MethodError(
            f"{path}: sample {outside[0]} has entries from {flat[outside[0]].min():g} to {flat[outside[0]].max():g}, "
            f"outside of the input range {low:g} to {high:g}: give the range of the data as the network takes it."
        )
    return x, y
