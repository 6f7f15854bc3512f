"""Bound a value in which branches of an earlier value meet again, by Lemma 5.

The steps A to D are those of the README of this folder, section Lemma 5. The earlier
value is called the start. Its entries have the numbers 1, 2, ..., and the entries of
*blocks*, values whose change is bounded as a whole, have the numbers after these. All
other values between only move entries, or apply functions of slopes up to 1 to them: each
has an array of the numbers of the entries that it reads, where 0 stands for a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from typing import NamedTuple

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require, root_up
from specnorm_check.graphs import Graph
from specnorm_check.moves import MOVES, moved, numbered
from specnorm_check.rules import ONE, SUMS, factor_of_operator, slopes_of

PARTIAL_MOVES = {"Concat", "Gather", "Slice", "Split"}
SORTED = ("Min", "Max")
MOST_STARTS = 3  # of one value
MOST_VALUES = 512  # between
MOST_NUMBERS = 2**24  # of all values between together
MOST_SETS = 64  # into which the entries of the start are divided
LEAST_WEIGHT = Fraction(1, 2**40)


class Link(NamedTuple):
    """|z - z'| <= ``factor`` |s - s'| for a value z and the value s called ``start``."""

    start: str
    factor: Fraction


class Block(NamedTuple):
    """A value whose change is at most ``factor`` times the sum of those of ``readings``.

    ``entries`` has the numbers of its own entries, each of ``readings`` those of a value.
    """

    entries: slice
    readings: list[Array]
    factor: Fraction


def links_by_branches(
    graph: Graph, end: str, links: Mapping[str, Link]
) -> Iterator[Link]:
    """Yield bounds of a value by values from which all of its branches come.

    ``links`` has bounds of values by earlier ones, for values that no other rule bounds.
    """

    def sources(name: str) -> Sequence[str]:
        return [links[name].start] if name in links else graph.changing_inputs(name)

    ways = starts_of(graph, end, sources)
    joined = (way for way in ways if PARTIAL_MOVES & {graph.nodes[x].op for x in way[1]})
    for start, between in islice(joined, MOST_STARTS):
        with suppress(Refused):
            yield Link(start, Branches(graph, start, between, links).constant())


def starts_of(
    graph: Graph, end: str, sources: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield values that all ways to an end come through, the nearest first.

    Each has with it the values between, in the order of the graph. ``sources`` are the
    values from whose changes that of a value follows.
    """
    positions = {name: index for index, name in enumerate(graph.nodes)}
    between: list[str] = []
    waiting = {end}
    while len(between) < MOST_VALUES:
        last = max(waiting, key=positions.__getitem__)
        before = sources(last)
        if not before:
            return
        between = [last, *between]
        waiting = waiting - {last} | {*before}
        if len(waiting) == 1:
            (start,) = waiting
            yield start, between


class Branches:
    """The values between a start and an end, in the order of the graph."""

    def __init__(
        self, graph: Graph, start: str, between: Sequence[str], links: Mapping[str, Link]
    ) -> None:
        self.graph = graph
        self.links = links
        shape = graph.shape_of(start)
        self.start_size = math.prod(shape)
        self.used = 1 + self.start_size  # the first number that is free
        self.blocks: list[Block] = []
        self.sorted: dict[frozenset[str], Array] = {}  # least and largest of some values
        self.numbers = {start: numbered(shape, 1)}
        for name in between:
            self.numbers[name] = self.numbers_of(name)
        self.last = self.numbers[between[-1]]

    # -- step A: entries and blocks ----------------------------------------------------
    def numbers_of(self, name: str) -> Array:
        """Return the numbers of the entries that a value reads; its own, of a block."""
        node = self.graph.nodes[name]
        if node.op in MOVES and name not in self.links:
            return moved(self.graph, name, self.numbers)
        shape = self.graph.shape_of(name)
        if name in self.links:
            link = self.links[name]
            return self.new_block(shape, [self.numbers[link.start]], link.factor)
        is_sum = node.op in (*SUMS, *SORTED)
        has_rule = is_sum or self.graph.has_fixed_inputs(node)
        require(has_rule, f"{node.op} stands in a branch")
        sources = self.graph.changing_inputs(name)
        readings = [self.numbers[source] for source in sources]
        if is_sum:
            has_shapes = self.graph.have_shape(sources, name)
            require(has_shapes, f"{node.op} broadcasts a value of a branch")
            if len(sources) == 1:
                return readings[0]
            if node.op in SUMS:
                return self.new_block(shape, readings, ONE)
            key = frozenset(sources)
            if key not in self.sorted:
                self.sorted[key] = self.new_block((2, *shape), [np.stack(readings)], ONE)
            return np.asarray(self.sorted[key][SORTED.index(node.op)])
        factor = factor_of_operator(self.graph, name)
        if factor is None:
            raise Refused(f"{node.op} stands in a branch")
        if slopes_of(node) is not None and factor <= 1:
            return readings[0]
        return self.new_block(shape, readings, factor)

    def new_block(
        self, shape: tuple[int, ...], readings: list[Array], factor: Fraction
    ) -> Array:
        """Add a block of entries of this shape, and return their numbers."""
        first = self.used
        self.used += math.prod(shape)
        require(self.used < MOST_NUMBERS, "branches have too many entries")
        self.blocks.append(Block(slice(first, self.used), readings, factor))
        return numbered(shape, first)

    # -- steps B and C: forms ----------------------------------------------------------
    def constant(self) -> Fraction:
        """Return a bound of the end's change for a change of the start of length 1."""
        sets = self.sets_of_start()
        forms: list[Array] = []
        for block in self.blocks:
            summands = [self.form(reading, sets, forms) for reading in block.readings]
            form = summands[0] if len(summands) == 1 else form_of_sum(summands)
            forms.append(block.factor**2 * form)
        return root_up(largest_eigenvalue(self.form(self.last, sets, forms)))

    def sets_of_start(self) -> Array:
        """Return for each entry of the start the number of its set (step B).

        Entries that the same values read are one set. All are one if there are too many.
        Any division proves a bound; this one makes it small.
        """
        sets = np.zeros(self.start_size, np.int64)
        readings = [reading for block in self.blocks for reading in block.readings]
        for reading in (*readings, self.last):
            is_read = np.isin(np.arange(1, 1 + self.start_size), reading)
            _, sets = np.unique(2 * sets + is_read, return_inverse=True)
            if sets.max() >= MOST_SETS:
                return np.zeros(self.start_size, np.int64)
        return sets

    def form(self, reading: Array, sets: Array, forms: Sequence[Array]) -> Array:
        """Return Q of a value by the numbers of what it reads (step C)."""
        copies = np.bincount(reading.reshape(-1), minlength=self.used)
        of_start = copies[1 : 1 + self.start_size]
        most = [int(of_start[sets == j].max()) for j in range(int(sets.max()) + 1)]
        q: Array = np.diag([Fraction(count) for count in most])
        for block, of_block in zip(self.blocks, forms, strict=False):
            q = q + Fraction(int(copies[block.entries].max())) * of_block
        return q


def form_of_sum(summands: Sequence[Array]) -> Array:
    """Return Q of a sum of values from theirs (step C)."""
    r = np.full(len(summands[0]), Fraction(0))
    for q in summands:
        r = r + np.array([root_up(x) for x in np.diag(q)])
    return np.outer(r, r)


# -- step D: the bound -----------------------------------------------------------------
def largest_eigenvalue(q: Array) -> Fraction:
    """Return a bound of the largest eigenvalue of Q, whose entries are not negative."""
    largest = q.max()
    if largest == 0:
        return Fraction(0)
    _, vectors = np.linalg.eigh((q / largest).astype(np.float64))
    p = np.array([max(Fraction(abs(x)), LEAST_WEIGHT) for x in vectors[:, -1].tolist()])
    ratio: Fraction = ((q @ p) / p).max()
    return ratio
