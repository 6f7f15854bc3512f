"""Along one axis of a layer: which pixel each tap reads, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from specnorm.backends.types import ArrayOps
from specnorm.errors import GeometryError

PART = 2**14
"""Outputs of a part of an axis's table."""


def in_parts(count: int) -> Iterator[tuple[int, int]]:
    """Yield the first number of each part of a long axis, and the end of the part."""
    for first in range(0, count, PART):
        yield first, min(first + PART, count)


class Axis(NamedTuple):
    """One axis of the convolution behind a layer: pixels are on its large side, outputs on its small side.

    Tap t of output m reads position ``stride * m + dilation * t - before``. ``mode`` is the padding mode, which maps
    positions outside of the axis to pixels. Of a part of a layer, ``before`` may be negative: so many pixels in front
    are not read. ``pixel_positions`` and ``output_positions`` (first, step) say where the part lies in the whole layer:
    its pixel i is the pixel ``first + step i`` there; likewise for outputs.
    """

    pixels: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    before: int
    mode: str = "zeros"
    pixel_positions: tuple[int, int] = (0, 1)
    output_positions: tuple[int, int] = (0, 1)

    @property
    def table(self) -> np.ndarray:
        """The pixel that each tap reads for each output, shape (taps, outputs); ``pixels`` stands for a zero.

        Raises `GeometryError` if the table takes more memory than one chunk.
        """
        memory = 8 * self.taps * self.outputs
        if memory > ArrayOps.memory:
            raise GeometryError(
                f"an axis of {self.taps} taps and {self.outputs} outputs: the table of what each tap reads takes "
                f"{memory / 2**30:.3g} GiB, more than {ArrayOps.memory / 2**30:g} GiB. Without input_shape, every size "
                "at once is bounded, and no table is needed."
            )
        return self._reads(np.arange(self.outputs))

    @property
    def reads_pixel(self) -> np.ndarray:
        """Whether each tap reads a pixel for some output, shape (taps,), with zeros as padding."""
        firsts = self.dilation * np.arange(self.taps) - self.before
        output = np.maximum(0, -(firsts // self.stride))  # the first one for which the tap reads no padding in front
        return np.asarray((output < self.outputs) & (firsts + self.stride * output < self.pixels))

    def parts_of_table(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of an output, and the columns of the table from there on, part by part in little memory."""
        for first, end in in_parts(self.outputs):
            yield first, self._reads(np.arange(first, end))

    def _reads(self, outputs: np.ndarray) -> np.ndarray:
        """The columns of the table for some outputs."""
        n = self.pixels
        firsts = self.dilation * np.arange(self.taps) - self.before
        position = firsts[:, None] + self.stride * outputs[None, :]
        is_inside = (position >= 0) & (position < n)
        if self.mode == "circular":
            return np.asarray(position % n)
        if self.mode == "zeros":
            return np.where(is_inside, position, n)
        if self.mode == "replicate":
            return np.asarray(np.clip(position, 0, n - 1))
        # "symmetric" repeats the pixel at which it mirrors.
        repeated = 1 if self.mode == "symmetric" else 0
        mirrored_at_end = 2 * (n - 1) + repeated - position
        return np.asarray(np.where(position < 0, -repeated - position, np.where(is_inside, position, mirrored_at_end)))


def readers_of(table: np.ndarray, size: int) -> np.ndarray:
    """Invert a table of positions: for each position, the indices of the table's entries that read it.

    ``table`` (l,): positions 0 to size - 1; larger numbers stand for padding. Returns (most readers of a position,
    size): filled up with l for positions that have fewer readers.
    """
    order = np.argsort(table, kind="stable")
    entries = order[table[order] < size]
    positions = table[entries]
    counts = np.bincount(positions, minlength=size)
    first_of_position = np.cumsum(counts) - counts
    place_among_readers = np.arange(len(positions)) - first_of_position[positions]
    readers = np.full((max(1, int(counts.max())), size), len(table))
    readers[place_among_readers, positions] = entries
    return readers
