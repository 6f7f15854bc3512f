"""Arithmetic that proves: exact integers, and bounds that are rounded up.

A function names the step of the section Arithmetic, on the README of this folder,
that it computes. What cannot be proven is refused. The file needs Python and NumPy.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EXACT = 2**53  # float64 holds every whole number up to this one
UNDERFLOW = Fraction(1, 2**60)  # far above what underflow takes from a sum of entries


class Refused(Exception):
    """A claim is not proven, or a file is not read; the message says why."""


def require(condition: object, reason: str) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise Refused(reason)


def entries_at(array: Array, *places: Any) -> Array:
    """Return the entries of an array at some places; refuse places that it has not."""
    try:
        return np.asarray(array[places])
    except IndexError as error:
        raise Refused(f"entries are read that are not there: {error}") from None


# -- integers --------------------------------------------------------------------------
def exact_products(left: Array, right: Array) -> Array:
    """Return left right^T for whole numbers, exactly (Arithmetic, step 3).

    A matrix product sums only so many products that the sum stays below 2^53.
    """
    groups, channels, length = left.shape
    largest = max(largest_entry(left), largest_entry(right))
    largest_product = max(largest**2, 1)
    # In `layers.matrix_at_size` an entry is the sum of the taps that read one pixel.
    require(largest_product < EXACT, "an entry of its matrix is 2^26.5 or more")
    largest_sum = length * largest_product
    require(largest_sum < 2**62, "a sum of its products may reach 2^62")
    at_once = (EXACT - 1) // largest_product
    total = np.zeros((groups, channels, channels), np.int64)
    for first in range(0, length, at_once):
        part = slice(first, first + at_once)
        sums = np.matmul(left[:, :, part], right[:, :, part].swapaxes(1, 2))
        total += sums.astype(np.int64)
    return total


def largest_entry(a: Array) -> int:
    """Return the largest absolute value of whole numbers."""
    return int(np.abs(a).max(initial=0))


# -- rounding --------------------------------------------------------------------------
def frobenius_norms(matrices: Array) -> Array:
    """Return the Frobenius norm of each matrix."""
    squares = matrices.astype(np.float64) ** 2
    return np.asarray(np.sqrt(squares.sum(axis=(1, 2))))


def frobenius_up(a: Array) -> Fraction:
    """Return an upper bound of the Frobenius norm of one matrix (step 3)."""
    norm = Fraction(float(np.sqrt(np.square(a).sum())))
    return norm * inflation(a.size) + UNDERFLOW


def schur_bounds(kernels: Array, roundings: int) -> list[Fraction]:
    """Return a bound of the norm of each kernel with entries that are not negative.

    An entry is a sum with so many roundings at most (Arithmetic, step 4).
    """
    taps = tuple(range(3, kernels.ndim))
    s = kernels.sum(axis=taps)  # S of step 4, for each group
    largest_rows = s.sum(axis=2).max(axis=1).tolist()
    largest_columns = s.sum(axis=1).max(axis=1).tolist()
    factor = inflation(kernels.size + roundings)
    pairs = zip(largest_rows, largest_columns, strict=True)
    return [factor * root_up(Fraction(row) * Fraction(x)) + UNDERFLOW for row, x in pairs]


def inflation(roundings: int) -> Fraction:
    """Return f with: true sum < f * sum after so many roundings (Arithmetic, step 3).

    Eight more are counted for the roundings of single entries, their squares and the
    root. A rounding changes a number by a factor of at most 1 + 2^-53; 2^-52 is twice
    that, for the products of such factors.
    """
    require(roundings < 2**48, "the kernel is too large")
    return 1 + Fraction(roundings + 8, 2**52)


def root_up(x: Fraction) -> Fraction:
    """Return a multiple of 2^-60 just above the square root."""
    scaled = math.ceil(x * 4**60)
    return Fraction(math.isqrt(scaled) + 1, 2**60)
