"""Correlation kernels with a position for their first tap: common windows, phases of strided kernels, symbols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified.operators.base import FloatArray

Slices = tuple[slice, ...]


class PlacedKernel(NamedTuple):
    """A correlation with stride 1: ``y[m] = sum_t kernel[:, :, t] x[m + start + t]``."""

    kernel: FloatArray
    """Shape (outputs, inputs, *taps)."""
    start: tuple[int, ...]
    """Place of the first tap, one number an axis."""


@dataclass(frozen=True)
class Window:
    """The smallest box of positions that contains all taps of several kernels."""

    start: tuple[int, ...]
    """First position, one number an axis."""
    shape: tuple[int, ...]
    """Number of positions, one number an axis."""
    taps: tuple[Slices, ...]
    """For each kernel: where its taps stand in the window."""


def window_of(kernels: Sequence[PlacedKernel]) -> Window:
    """Return the smallest window of several kernels."""
    starts = [start for _, start in kernels]
    first = tuple(min(positions) for positions in zip(*starts, strict=True))
    taps = []
    for kernel, start in kernels:
        offsets = [position - origin for position, origin in zip(start, first, strict=True)]
        lengths = kernel.shape[2:]
        taps.append(tuple(slice(offset, offset + n) for offset, n in zip(offsets, lengths, strict=True)))
    shape = tuple(max(part.stop for part in axis) for axis in zip(*taps, strict=True))
    return Window(first, shape, tuple(taps))


def split_into_phases(
    kernel: FloatArray,
    start: tuple[int, ...],
    stride: tuple[int, ...],
) -> PlacedKernel:
    """Return a strided kernel as one of stride 1 whose input channels are the phases of the input (polyphase).

    Position ``s m + start + t`` is phase ``(start + t) mod s`` of coarse pixel ``m + floor((start + t) / s)``.
    """
    if all(s == 1 for s in stride):
        return PlacedKernel(kernel, start)
    axes = len(stride)
    channels = kernel.shape[:2]
    phase_of_start = [position % s for position, s in zip(start, stride, strict=True)]
    ends = [phase + n for phase, n in zip(phase_of_start, kernel.shape[2:], strict=True)]
    coarse = [-(-end // s) for end, s in zip(ends, stride, strict=True)]

    # Pad with zeros, so that the first tap has phase 0 and the last one phase s - 1.
    padded = np.zeros((*channels, *(n * s for n, s in zip(coarse, stride, strict=True))))
    taps = [slice(first, end) for first, end in zip(phase_of_start, ends, strict=True)]
    padded[(slice(None), slice(None), *taps)] = kernel

    # Split each axis into (coarse pixel, phase), and put all phases after the input channels.
    split_shape = list(channels)
    for n, s in zip(coarse, stride, strict=True):
        split_shape += [n, s]
    coarse_axes = range(2, 2 + 2 * axes, 2)
    phase_axes = range(3, 3 + 2 * axes, 2)
    phases = padded.reshape(split_shape).transpose(0, 1, *phase_axes, *coarse_axes)
    positions = tuple(position // s for position, s in zip(start, stride, strict=True))
    return PlacedKernel(phases.reshape(channels[0], -1, *coarse), positions)


def symbols_of(kernel: FloatArray, cos: FloatArray, sin: FloatArray) -> NDArray[np.complex128]:
    """Return the symbols of a kernel, one matrix a frequency.

    ``cos``, ``sin``: of the angles by which each frequency turns each tap, shape (frequencies, taps).
    """
    taps = kernel.reshape(math.prod(kernel.shape[:2]), -1).T
    symbols = cos @ taps + 1j * (sin @ taps)
    return np.asarray(symbols.reshape(-1, *kernel.shape[:2]))
