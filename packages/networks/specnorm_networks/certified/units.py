"""A small network read unit by unit, for LipSDP: every unit that may switch is a channel of one run.

A function z of an entry v with slopes in [a, b] is ``z = a v + w``, where w is a function of v with slopes in [0, b -
a]. If a < b, w is called a *unit*; if a = b, w is 0. So each value is a sum of linear maps of the input and of units
before it, whose matrices are multiplied out. LipSDP's form is the same for z and for w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import arithmetic, host
from specnorm_networks.certified.graph import Graph, Layer, Node
from specnorm_networks.certified.links import Link, Run, Term
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
class _Sum:
    """A value as a linear map of the input's entries and of units, up to constants."""

    matrix: FloatArray
    """Coefficients, shape (count, *shape of the value): of each entry of the input, and then of each unit."""
    error: FloatArray
    """Bounds of the errors of the coefficients, of the same shape."""

    def depends(self) -> NDArray[np.bool_]:
        """Return for each entry of the input, and each unit, whether the value depends on it."""
        axes = tuple(range(1, self.matrix.ndim))
        may_differ_from_0 = (self.matrix != 0) | (self.error != 0)
        return np.asarray(may_differ_from_0.any(axis=axes))

    def rows(self, first: int, last: int) -> _Sum:
        """Return the coefficients of entries and units ``first:last``; those of units that were added later are 0."""
        matrix = self.matrix[first:last]
        error = self.error[first:last]
        missing = last - first - len(matrix)
        if not missing:
            return _Sum(matrix, error)
        zeros = np.zeros((missing, *self.matrix.shape[1:]))
        return _Sum(np.concatenate([matrix, zeros]), np.concatenate([error, zeros]))


class _Units:
    """Reads a graph as links in which each unit is a channel.

    The entries of the input, and then all units, are numbered consecutively.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.by_name
        self.sums: dict[str, _Sum] = {}
        """Values as sums, by name."""
        self.numbers: list[range] = []
        """Numbers of the input's entries, and then the numbers of the units of each link."""
        self.links: list[Link] = []
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

    def _sum(self, node: Node, shape: tuple[int, ...], before: Sequence[_Sum]) -> _Sum:
        """Return the value of a node of a known shape, from those that it reads."""
        if self.count * math.prod(shape) > MOST_COEFFICIENTS:
            raise NoBoundError(f"more than {MOST_COEFFICIENTS} coefficients")
        if node.is_constant:
            return _Sum(np.zeros((0, *shape)), np.zeros((0, *shape)))
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
        return self._linear(linear, before, shape)

    def _new_entries(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Return new numbers for the entries of a value."""
        first = self.entries_so_far + 1
        self.entries_so_far += math.prod(shape)
        return np.arange(first, self.entries_so_far + 1).reshape(shape)

    def start(self, node: Node) -> None:
        """Read the input: each of its entries is itself."""
        shape = node.shape or ()
        count = math.prod(shape)
        self.numbers.append(range(count))
        eye = np.eye(count).reshape(count, *shape)
        # `np.zeros` takes no memory until it is written.
        self.sums[node.name] = _Sum(eye, np.zeros(eye.shape))
        self.entries[node.name] = self._new_entries(shape)

    @property
    def count(self) -> int:
        """Number of the input's entries and of all units so far."""
        return self.numbers[-1].stop

    def _linear(self, linear: LinearMap, before: Sequence[_Sum], shape: tuple[int, ...]) -> _Sum:
        """Return a linear map of values, without the constants that it adds."""
        matrix = np.zeros((self.count, *shape))
        error = np.zeros((self.count, *shape))
        step = max(1, COEFFICIENTS_AT_ONCE // max(math.prod(shape), 1))
        for first in range(0, self.count, step):
            last = min(first + step, self.count)
            summands = [value.rows(first, last) for value in before]
            image = linear.apply([value.matrix for value in summands])
            if image.shape[1:] != shape:
                raise NoBoundError(f"a value of shape {image.shape[1:]}, not {shape}")
            error_of_inputs = linear.absolute([value.error for value in summands])
            error_of_map = linear.error_of_apply([abs(value.matrix) for value in summands])
            # Where no summand depends on an entry or unit, neither does their image. Its coefficients are 0 without an
            # error, since no product of 0 underflows.
            rows = np.flatnonzero(np.any([value.depends() for value in summands], axis=0))
            error_of_rows = host.inflate((error_of_inputs + error_of_map)[rows], 2 * linear.roundings + 8)
            matrix[first + rows] = image[rows]
            error[first + rows] = error_of_rows
        return _Sum(matrix, error)

    def _function(self, node: Node, before: _Sum, slopes: Slopes) -> _Sum:
        """Return a function of v as ``low v + w``, and add the link that makes its units w.

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
        linear_part = _Sum(matrix, np.where(factor_is_exact, error, host.inflate(error, 4)))
        entries = np.flatnonzero((high > low).reshape(-1))
        if not len(entries):
            return linear_part
        units = self._units(node, before, entries, low.reshape(-1)[entries], high.reshape(-1)[entries])
        function = linear_part.rows(0, self.count)
        function.matrix.reshape(self.count, -1)[units, entries] = 1.0
        return function

    def _units(
        self,
        node: Node,
        before: _Sum,
        entries: NDArray[np.intp],
        low: FloatArray,
        high: FloatArray,
    ) -> NDArray[np.intp]:
        """Return the numbers of the units of some entries, and add a link of those that are new.

        Branches may apply one function to the same entries, such as the blocks of a DenseNet: these are the same units.
        ``low`` and ``high``: slopes of the entries.
        """
        numbers = self.entries[node.inputs[0]].reshape(-1)[entries]
        keys = list(zip(numbers.tolist(), low.tolist(), high.tolist(), strict=True))
        function = _function_of_any_entry(node)
        units = np.full(len(entries), -1)
        if function is not None:
            units[:] = [self.known_units.get((function, *key), -1) for key in keys]
        is_new = units < 0
        if is_new.any():
            largest_slopes = np.where(low == 0, high, host.next_up(high - low))[is_new]
            channels = _channels_of(node.shape or ())[entries[is_new]]
            count = len(channels)
            self.append_link(node.name, before, entries[is_new], np.zeros(count), largest_slopes, channels)
            first = self.count
            self.numbers.append(range(first, first + count))
            units[is_new] = np.arange(first, first + count)
            if function is not None:
                # An entry without a number is 0, and may have been moved from several places.
                self.known_units |= {(function, *key): unit for key, unit in zip(keys, units, strict=True) if key[0]}
        return units

    def append_link(
        self,
        name: str,
        value: _Sum,
        entries: NDArray[np.intp],
        low: FloatArray,
        high: FloatArray,
        channels: NDArray[np.intp] | None = None,
    ) -> None:
        """Add the link of functions of some entries of a value, with slopes between ``low`` and ``high``.

        ``entries``: flat positions of these entries, which are the channels of the link. ``channels``: numbers of the
        channels of the value that they are in (`Link.channels`).
        """
        coefficients = value.matrix.reshape(len(value.matrix), -1)[:, entries]
        errors = value.error.reshape(len(value.error), -1)[:, entries]
        terms = []
        # One matrix for each value of the run that the link reads: the input, or the units of an earlier link.
        for source, numbers in enumerate(self.numbers):
            matrix = coefficients[numbers.start : numbers.stop].T
            error = errors[numbers.start : numbers.stop].T
            if not (matrix.any() or error.any()):
                continue
            layer = Layer(name, partial(np.array, matrix), {}, 0, error=partial(np.array, error))
            terms.append(Term.of_matrix(source, layer))
        self.links.append(Link(tuple(terms), len(entries), (low, high), name, channels=channels))


def _function_of_any_entry(node: Node) -> str | None:
    """Return the digest of a function that is the same at every entry; None if a field may differ between them."""
    fields = [value for name, value in vars(node.operator).items() if name != "slopes_on_range"]
    return digest_of_operator(node.operator) if all(isinstance(value, float | int) for value in fields) else None


def _channels_of(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the number of the channel of each entry: along the axis after the samples, if there are pixels."""
    pixels = math.prod(shape[2:]) if len(shape) > 2 else 1
    return np.arange(math.prod(shape)) // max(pixels, 1)


def _units_of(node: Node) -> int:
    """Return the number of units of a function: of its entries whose smallest and largest slope differ."""
    slopes = None if node.function is None else node.function.slopes_on_range
    return 0 if slopes is None else int(np.count_nonzero(slopes.high > slopes.low))


def units_of(graph: Graph) -> tuple[int, int]:
    """Return the number of a network's inputs and units, entry by entry. Branches may share some of these units.

    `NoBoundError` as for `unit_run`.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise NoBoundError("a network of several inputs or outputs")
    inputs = math.prod(graph.by_name[graph.inputs[0]].shape or (MOST_INPUTS + 1,))
    units = sum(map(_units_of, graph.pruned().nodes))
    if inputs > MOST_INPUTS or units > MOST_UNITS:
        raise NoBoundError(f"more than {MOST_INPUTS} inputs or {MOST_UNITS} units")
    return inputs, units


@arithmetic.on_host()
def unit_run(graph: Graph) -> Run:
    """Return a whole network as one run in which every unit is a channel.

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
    units_of(graph)
    (start,) = graph.inputs
    (end,) = graph.outputs
    units = _Units(graph)
    input_node = units.nodes[start]
    graph = graph.pruned()
    width = math.prod(input_node.shape or ())
    units.start(input_node)
    unread_after = graph.last_readers()
    for number, node in enumerate(graph.nodes):
        if not node.is_input:
            units.read(node)
        for name in unread_after.get(number, ()):
            if name != end:  # values that nothing reads any more are dropped, to save memory
                units.sums.pop(name, None)
    # The function of the last link is the identity.
    output = units.sums[end]
    count = output.matrix[0].size
    units.append_link(end, output, np.arange(count), np.ones(count), np.ones(count))
    links = tuple(units.links)
    if any(not link.terms for link in links):
        raise NoBoundError("a value that does not depend on the input: other rules prove the constant 0")
    return Run(start, width, links)._with_domain(Scope(graph).domain)
