"""A small network read unit by unit, for LipSDP's inequality (`inequality`).

A function z of an entry v with slopes in [a, b] is ``z = a v + w``, where w is a function of v with slopes in [0, b -
a]. If a < b, w is called a *unit*; if a = b, w is 0. So each value is a sum of linear maps of the input and of units
before it, whose matrices are multiplied out. LipSDP's form is the same for z and for w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import arithmetic, host
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.inequality import Inequality, Units
from specnorm_networks.certified.operators.base import (
    FloatArray,
    LinearMap,
    NoBoundError,
    Place,
    Slopes,
)
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.subjects import digest_of_operator

MOST_UNITS = 3072
"""Largest number of units: a search of more seldom fits into a minute."""
MOST_INPUTS = 4096
"""Largest number of entries of the input."""
MOST_COEFFICIENTS = 2**24
"""Largest number of coefficients of a value."""
COEFFICIENTS_AT_ONCE = 2**20
"""Number of coefficients, at most, that a linear map makes at once: 8 MB, and several arrays of this size."""


@dataclass(frozen=True, eq=False)
class Sum:
    """A value as a linear map of those entries of the input, and those units, that it depends on, up to constants."""

    numbers: NDArray[np.intp]
    """Numbers of these entries and units, ascending."""
    matrix: FloatArray
    """Coefficients of each of them, shape (numbers, *shape of the value)."""
    error: FloatArray
    """Bounds of the errors of the coefficients, of the same shape."""

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Sum:
        """Return a value of this shape whose entries are the first ones."""
        count = math.prod(shape)
        eye = np.eye(count).reshape(count, *shape)
        return cls(np.arange(count), eye, np.zeros(eye.shape))  # `np.zeros` takes no memory until it is written

    @classmethod
    def constant(cls, shape: tuple[int, ...]) -> Sum:
        """Return a value that depends on nothing."""
        return cls(np.zeros(0, np.intp), np.zeros((0, *shape)), np.zeros((0, *shape)))

    @classmethod
    def of(cls, numbers: NDArray[np.intp], matrix: FloatArray, error: FloatArray) -> Sum:
        """Return the sum without those entries and units whose coefficients are all 0, without an error."""
        axes = tuple(range(1, matrix.ndim))
        depends = matrix.any(axis=axes) | error.any(axis=axes)
        return cls(numbers, matrix, error) if depends.all() else cls(numbers[depends], matrix[depends], error[depends])

    def rows(self, numbers: NDArray[np.intp]) -> Sum:
        """Return the coefficients of some entries and units; those on which the value does not depend are 0."""
        if np.array_equal(numbers, self.numbers):
            return self
        shape = (len(numbers), *self.matrix.shape[1:])
        rows = Sum(numbers, np.zeros(shape), np.zeros(shape))
        to = np.flatnonzero(np.isin(numbers, self.numbers, assume_unique=True))
        of = np.searchsorted(self.numbers, numbers[to])
        rows.matrix[to] = self.matrix[of]
        rows.error[to] = self.error[of]
        return rows


class _Reader:
    """Reads a graph as sums of the entries of the input and of units, which are numbered consecutively."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.by_name
        self.sums: dict[str, Sum] = {}
        """Values as sums, by name."""
        self.count = 0
        """Number of the input's entries and of all units so far."""
        self.functions: list[Units] = []
        self.rows: list[Sum] = []
        """Rows of the inequality: for the units of each function, and for the output."""
        self.entries: dict[str, NDArray[np.intp]] = {}
        """Numbers of a value's entries, counted from 1. Entries that were only moved keep their numbers."""
        self.entries_so_far = 0
        self.known_units: dict[tuple[object, ...], int] = {}
        """Numbers of units, by function, slopes and the number of the entry that the function is applied to."""

    def read(self, node: Node) -> None:
        """Read a node; `NoBoundError` if its value is no such sum, or has too many coefficients."""
        shape = node.shape
        if shape is None or any(name not in self.sums for name in node.inputs):
            raise NoBoundError("values of unknown size")
        before = [self.sums[name] for name in node.inputs]
        value = self._sum(node, shape, before)
        if node.name not in self.entries:
            self.entries[node.name] = self._new_entries(shape)
        if value.matrix.size > MOST_COEFFICIENTS or value.matrix.shape[1:] != shape:
            raise NoBoundError(f"more than {MOST_COEFFICIENTS} coefficients, or a value of another shape")
        self.sums[node.name] = value

    def _sum(self, node: Node, shape: tuple[int, ...], before: Sequence[Sum]) -> Sum:
        """Return the value of a node of a known shape, from those that it reads."""
        if _union(before).size * math.prod(shape) > MOST_COEFFICIENTS:
            raise NoBoundError(f"more than {MOST_COEFFICIENTS} coefficients")
        if node.is_constant:
            return Sum.constant(shape)
        slopes = None if node.function is None else node.function.slopes_on_range
        if slopes is not None:
            return self._function(node, before[0], slopes)
        place = Place(tuple(a_sum.matrix.shape[1:] for a_sum in before), shape)
        linear = None if node.affine is None else node.affine.linear_map(place)
        if linear is None:
            raise NoBoundError("an operator that is neither linear nor a function with slopes")
        if linear.only_moves_entries and linear.offset is None:
            numbers = [self.entries[name][None].astype(np.float64) for name in node.inputs]
            self.entries[node.name] = linear.apply(numbers)[0].astype(np.intp)
        return image_of(linear, before, shape)

    def _new_entries(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Return new numbers for the entries of a value."""
        first = self.entries_so_far + 1
        self.entries_so_far += math.prod(shape)
        return np.arange(first, self.entries_so_far + 1).reshape(shape)

    def start(self, node: Node) -> None:
        """Read the input: each of its entries is itself."""
        shape = node.shape or ()
        self.count = math.prod(shape)
        self.sums[node.name] = Sum.identity(shape)
        self.entries[node.name] = self._new_entries(shape)

    def _function(self, node: Node, before: Sum, slopes: Slopes) -> Sum:
        """Return a function of v as ``low v + w``, with the units w.

        ``before``: v. ``slopes``: smallest slope ``low`` and largest slope of each entry.
        """
        low, high = slopes.ends
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            raise NoBoundError("slopes that are not finite")
        factor_is_exact = (low == 0) | (low == 1)
        product_is_exact = factor_is_exact | (before.matrix == 0)
        matrix = low * before.matrix
        rounding = np.where(product_is_exact, 0.0, abs(matrix) * 2.0**-52 + 2.0**-1000)
        error = abs(low) * before.error + rounding
        linear_part = Sum.of(before.numbers, matrix, np.where(factor_is_exact, error, host.inflate(error, 4)))
        entries = np.flatnonzero((high > low).reshape(-1))
        if not len(entries):
            return linear_part
        units = self._units(node, before, entries, low.reshape(-1)[entries], high.reshape(-1)[entries])
        function = linear_part.rows(np.union1d(linear_part.numbers, units))
        function.matrix.reshape(len(function.numbers), -1)[np.searchsorted(function.numbers, units), entries] = 1.0
        return function

    def _units(
        self,
        node: Node,
        before: Sum,
        entries: NDArray[np.intp],
        low: FloatArray,
        high: FloatArray,
    ) -> NDArray[np.intp]:
        """Return the numbers of the units of some entries, and add those that are new.

        Branches may apply one function to the same entries, such as the blocks of a DenseNet: these are the same units.
        ``low`` and ``high``: slopes of the entries.
        """
        numbers = self.entries[node.inputs[0]].reshape(-1)[entries]
        keys = list(zip(numbers.tolist(), low.tolist(), high.tolist(), strict=True))
        # The digest of a function that is the same at every entry; None if a field may differ between them.
        fields = [value for name, value in vars(node.operator).items() if name != "slopes_on_range"]
        is_alike = all(isinstance(value, float | int) for value in fields)
        function = digest_of_operator(node.operator) if is_alike else None
        units = np.full(len(entries), -1)
        if function is not None:
            units[:] = [self.known_units.get((function, *key), -1) for key in keys]
        is_new = units < 0
        if is_new.any():
            widths = np.where(low == 0, high, host.next_up(high - low))[is_new]
            self.append_rows(before, entries[is_new], widths)
            first = self.count
            self.count += int(is_new.sum())
            pixels = math.prod((node.shape or ())[2:])  # channels are along the axis after the samples
            channels = entries[is_new] // max(pixels, 1)
            self.functions.append(Units(node.name, channels))
            units[is_new] = np.arange(first, self.count)
            if function is not None:
                # An entry without a number is 0, and may have been moved from several places.
                self.known_units |= {(function, *key): unit for key, unit in zip(keys, units, strict=True) if key[0]}
        return units

    def append_rows(self, value: Sum, entries: NDArray[np.intp], widths: FloatArray | None = None) -> None:
        """Add rows of some entries of a value, multiplied by the widths of their slopes (None: 1).

        ``entries``: flat positions.
        """
        matrix = value.matrix.reshape(len(value.matrix), math.prod(value.matrix.shape[1:]))[:, entries]
        error = value.error.reshape(len(value.error), math.prod(value.error.shape[1:]))[:, entries]
        if widths is not None:
            rounding = np.where(widths == 1, 0.0, abs(widths * matrix) * 2.0**-52 + 2.0**-1000)
            error = host.inflate(widths * error + rounding, 4)
            matrix = widths * matrix
        self.rows.append(Sum(value.numbers, matrix, error))

    def gathered(self, *, of_errors: bool) -> FloatArray:
        """Return the matrix of all rows, or bounds of the errors of its entries."""
        parts = []
        for row in self.rows:
            part = np.zeros((row.matrix.shape[1], self.count))
            part[:, row.numbers] = (row.error if of_errors else row.matrix).T
            parts.append(part)
        return np.concatenate(parts)


def image_of(linear: LinearMap, before: Sequence[Sum], shape: tuple[int, ...]) -> Sum:
    """Return a linear map of values, without the constants that it adds."""
    numbers = _union(before)
    matrix = np.zeros((len(numbers), *shape))
    error = np.zeros((len(numbers), *shape))
    step = max(1, COEFFICIENTS_AT_ONCE // max(math.prod(shape), 1))
    for first in range(0, len(numbers), step):
        chunk = slice(first, first + step)
        summands = [value.rows(numbers[chunk]) for value in before]
        image = linear.apply([value.matrix for value in summands])
        if image.shape[1:] != shape:
            raise NoBoundError(f"a value of shape {image.shape[1:]}, not {shape}")
        matrix[chunk] = image
        error[chunk] = _error_of_image(linear, summands)
    return Sum.of(numbers, matrix, error)


def _union(values: Sequence[Sum]) -> NDArray[np.intp]:
    """Return the numbers of the entries of the input, and of the units, that some values depend on, ascending."""
    return np.unique(np.concatenate([np.zeros(0, np.intp), *(value.numbers for value in values)]))


def _error_of_image(linear: LinearMap, values: Sequence[Sum]) -> FloatArray:
    """Bound the errors of the coefficients of a linear map of values: those of the values, and the map's rounding."""
    if not linear.roundings:
        return host.inflate(linear.absolute([value.error for value in values]), 8)
    # An error e of a coefficient x does what the map's rounding would do to one of size |x| + e / unit.
    unit = (linear.roundings + 4) * 2.0**-52
    sizes = [host.inflate(abs(value.matrix) + value.error / unit, 2) for value in values]
    return linear.error_of_apply(sizes)


def _units_of(node: Node) -> int:
    """Return the number of units of a function: of its entries whose smallest and largest slope differ."""
    slopes = None if node.function is None else node.function.slopes_on_range
    return 0 if slopes is None else int(np.count_nonzero(slopes.high > slopes.low))


def entries_of_input(graph: Graph) -> int:
    """Return the number of entries of a network's input; `NoBoundError` if they are too many, or there are several."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise NoBoundError("a network of several inputs or outputs")
    inputs = math.prod(graph.by_name[graph.inputs[0]].shape or (MOST_INPUTS + 1,))
    if inputs > MOST_INPUTS:
        raise NoBoundError(f"more than {MOST_INPUTS} inputs")
    return inputs


def coefficients_of(graph: Graph) -> int:
    """Return the number of coefficients, at most, of all values of a network as sums of its entries and units.

    Raises
    ------
    NoBoundError
        If the network has several inputs or outputs, or too many entries or units.
    """
    inputs = entries_of_input(graph)
    graph = graph.pruned()
    units = {node.name: _units_of(node) for node in graph.nodes}
    if sum(units.values()) > MOST_UNITS:
        raise NoBoundError(f"more than {MOST_UNITS} units")
    counts = units | {graph.inputs[0]: inputs}
    read: dict[str, set[str]] = {}
    """For each value, the functions, and the input, whose units or entries it depends on."""
    coefficients = 0
    for node in graph.nodes:
        slopes = None if node.function is None else node.function.slopes_on_range
        is_plain = slopes is not None and not slopes.low.any()
        earlier = set() if is_plain else {name for operand in node.inputs for name in read[operand]}
        read[node.name] = earlier | {node.name} if counts[node.name] else earlier
        coefficients += sum(counts[name] for name in read[node.name]) * math.prod(node.shape or ())
    return coefficients


@arithmetic.on_host()
def inequality_of(graph: Graph) -> Inequality:
    """Return a whole network as the inequality of its units.

    Parameters
    ----------
    graph : Graph
        A network that was written out (`linear_bounds.written_out`) and has slopes on ranges (`with_slopes_on`).

    Raises
    ------
    NoBoundError
        If the network is too large, or has several inputs or outputs, or an operator that is neither linear nor a
        function with slopes.
    """
    coefficients_of(graph)
    (start,) = graph.inputs
    (end,) = graph.outputs
    reader = _Reader(graph)
    input_node = reader.nodes[start]
    graph = graph.pruned()
    reader.start(input_node)
    unread_after = graph.last_readers()
    for number, node in enumerate(graph.nodes):
        if not node.is_input:
            reader.read(node)
        for name in unread_after.get(number, ()):
            if name != end:  # values that nothing reads any more are dropped, to save memory
                reader.sums.pop(name, None)
    output = reader.sums[end]
    reader.append_rows(output, np.arange(math.prod(output.matrix.shape[1:])))
    if any(not (row.matrix.any() or row.error.any()) for row in reader.rows):
        raise NoBoundError("a value that does not depend on the input: other rules prove the constant 0")
    whole, errors = reader.gathered(of_errors=False), reader.gathered(of_errors=True)
    inequality = Inequality(math.prod(input_node.shape or ()), tuple(reader.functions), whole, errors)
    return inequality._of_map(Scope(graph).map(start, end))
