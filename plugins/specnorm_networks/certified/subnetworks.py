"""A graph cut into runs: links from one value to another, with nothing else reading between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specnorm.problem.spec import ConvSpec
from specnorm_networks.certified.affine_maps import AffineMap, Filter, Placed, Segment, Subnetwork, Term, phased
from specnorm_networks.certified.graph import Graph, Layer
from specnorm_networks.certified.linear_combinations import Value
from specnorm_networks.certified.reading import Reader

ENTRIES = 2**25
"""Most entries of a part's kernel."""
MOST_PHASES = 16
"""Of a pixel of the coarsest grid, where grids differ."""


def runs(graph: Graph) -> list[Subnetwork]:
    """All runs that one norm or several may bound better than the rules do, in the order of the graph."""
    reader = Reader(graph)
    values, found = reader.values, []
    done: set[int] = set()
    readers: list[set[int]] = [set() for _ in values]
    for at, value in enumerate(values):
        for source in () if value.link is None else value.link.sources:
            readers[source].add(at)
    for start in range(len(values)):
        for numbers, run in _joinable_parts(values, _longest(start, values, readers, reader.escaping, done)):
            if len(run.links) > 1 or len(run.links[0].terms) > 1:
                found.append(run._of(reader.scope.about))
                done.update(numbers[1:])
    return found


def _longest(
    start: int, values: Sequence[Value], readers: Sequence[set[int]], escaping: set[int], done: set[int]
) -> list[int]:
    """Numbers of the values from ``start`` to the last one that alone is read by others, those needed for it."""
    reached = {start}
    for at in range(start + 1, len(values)):
        link = values[at].link
        if link is not None and link.terms and at not in done and reached.issuperset(link.sources):
            reached.add(at)
    for end in sorted(reached - {start}, reverse=True):
        needed, waiting = {start, end}, [end]
        while waiting:
            sources = set(_link(values[waiting.pop()]).sources) - needed
            if any(at in escaping or max(readers[at]) > end for at in sources):
                break
            needed |= sources
            waiting += sources
        else:
            if all(readers[at] <= needed for at in needed - {start, end}):
                return sorted(needed)
    return [start]


def _joinable_parts(values: Sequence[Value], numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Subnetwork]]:
    """The values in a row, cut where no statement can speak of what lies between two cuts; and as runs."""
    place = {number: at for at, number in enumerate(numbers)}
    blocks = blocks_of([[place[s] for s in _link(values[number]).sources] for number in numbers[1:]])
    begin = 0
    for first, last in [*itertools.pairwise(blocks), (blocks[-1], None)]:
        block = None if last is None else run_of(values, numbers[first : last + 1])
        if block is not None and joinable(block.part(0, len(block.links)), math.inf):
            continue
        if first > begin:
            yield numbers[begin : first + 1], run_of(values, numbers[begin : first + 1])
        phased = None if block is None else by_phases(block)
        if phased is not None and last is not None and joinable(phased.part(0, len(phased.links)), math.inf):
            yield numbers[first : last + 1], phased
        begin = first if last is None else last


def _link(value: Value) -> AffineMap:
    assert value.link is not None  # for the type checker: those after the first have one
    return value.link


def run_of(values: Sequence[Value], numbers: Sequence[int]) -> Subnetwork:
    """Some values with what each reads, numbered from 0."""
    place = {number: at for at, number in enumerate(numbers)}
    links = [_link(values[number]) for number in numbers[1:]]
    own = [
        replace(x, terms=tuple(replace(t, source=place[t.source]) for t in x.terms), node=values[number].node)
        for x, number in zip(links, numbers[1:], strict=True)
    ]
    first = values[numbers[0]]
    width = first.width * (1 if first.link is None else first.link.repeat)
    start = first.node if first.link is None else first.link.end
    return Subnetwork(start, width, tuple(own), tuple(blocks_of([link.sources for link in own])))


def by_phases(run: Subnetwork) -> Subnetwork | None:
    """The same on one grid, where strides differ: pixels of finer grids are channels, one for each phase (polyphase).

    Sequences that are 0 outside a window are so phase by phase. None where grids do not fit, or borders are no zeros.
    """
    links, whole = run.links, run.part(0, len(run.links))
    inner = all(link.open and link.repeat == 1 for link in links[:-1]) and all(link.groups is None for link in links)
    grids = grids_of(run)
    if not whole.axes or not inner or whole.families - {"zeros"} or whole.computed or grids is None:
        return None
    if math.prod(grids[0]) > MOST_PHASES:
        return None
    made = []
    for at, link in enumerate(links, 1):
        count = math.prod(grids[at])
        terms = tuple(_by_phases(term, grids[at], grids[term.source], whole.axes) for term in link.terms)
        slopes = (np.repeat(link.slopes[0], count), np.repeat(link.slopes[1], count))
        made.append(replace(link, terms=terms, width=link.width * count, slopes=slopes))
    return replace(run, links=tuple(made))


def grids_of(run: Subnetwork) -> dict[int, tuple[int, ...]] | None:
    """How many pixels of each value's grid are one of the last value's, an axis; None where grids do not fit."""
    ones = (1,) * run.part(0, len(run.links)).axes
    grids = {len(run.links): ones}
    for at in range(len(run.links), 0, -1):
        for term in run.links[at - 1].terms:
            finer = tuple(a * b for a, b in zip(term.stride or ones, grids[at], strict=True))
            if grids.setdefault(term.source, finer) != finer:
                return None
    return grids


def _by_phases(term: Term, after: tuple[int, ...], before: tuple[int, ...], axes: int) -> Term:
    """A term from all phases of what it reads (of the run's input: from its pixels) to all phases of its link."""
    kernel, start = term.dense(axes, dilated=True)
    placed: list[Placed] = []
    for q in itertools.product(*map(range, after)):
        # Output r n + q reads s (r n + q) + start + t.
        there = tuple(a + s * p for a, s, p in zip(start, term.stride or (1,) * axes, q, strict=True))
        placed.append(phased(kernel, there, before) if term.source else (kernel, there))
    low = [min(0, *axis) for axis in zip(*(place for _, place in placed), strict=True)]
    ends = [[p + n for p, n in zip(place, k.shape[2:], strict=True)] for k, place in placed]
    size = [max(end) - a for end, a in zip(zip(*ends, strict=True), low, strict=True)]
    found = np.zeros((len(term.rows), len(placed), placed[0][0].shape[1], *size))
    for at, (each, place) in enumerate(placed):
        taps = [slice(p - a, p - a + n) for p, a, n in zip(place, low, each.shape[2:], strict=True)]
        of_phase = found[:, at]
        of_phase[(slice(None), slice(None), *taps)] = each
    whole: Any = found.reshape(-1, *found.shape[2:])
    stride = (1,) * axes if term.source else before
    geometry = {"stride": stride, "padding_mode": "zeros", "padding": tuple((-a, 0) for a in low)}
    name = "identity" if term.filter is None else term.filter.layer.name
    layer = Layer(name, lambda: whole, geometry, axes)
    several, times = len(placed), math.prod(before) if term.source else 1
    rows, reads = term.rows, term.reads
    return Term(
        term.source,
        range(reads.start * times, reads.stop * times),
        range(rows.start * several, rows.stop * several),
        stride,
        Filter(layer, geometry, ConvSpec.of(whole.shape, **geometry), None),
        range(whole.shape[1]),
    )


def blocks_of(sources: Sequence[Sequence[int]]) -> list[int]:
    """Values past which no link reads: link i, from 1, makes value i of those with the numbers given."""
    count = len(sources)
    earliest = [min(each, default=at) for at, each in enumerate(sources)]
    return [at for at in range(count + 1) if all(first >= at for first in earliest[at:])]


def joinable(part: Segment, widest: float) -> bool:
    """Whether links can be bounded together.

    Parameters
    ----------
    widest : float
        Channels on the smaller side of the kernel that the statement is about; one whole layer may have any.
    """
    if len(part.links) == 1 and part.links[0].alone is not None:
        return True
    if "alone" in part.families or len(part.families) > 1 or not part.agrees:
        return False
    rows, columns, taps = size_of(part)
    return min(rows, columns) <= widest and rows * columns * taps <= ENTRIES


def size_of(part: Segment) -> tuple[int, int, int]:
    """Rows, columns and taps of the kernel of the statement, at most."""
    widths, taps = part.widths, taps_of(part)
    leaves = [link.width if bool((link.slopes[0] < 0).any()) else 0 for link in part.links[:-1]]
    if not part.chain:
        return sum(widths) + sum(leaves), sum(widths) + sum(leaves), taps
    leaves.append(0)
    return sum(widths[1::2]) + sum(leaves[::2]), sum(widths[::2]) + sum(leaves[1::2]), taps


def taps_of(part: Segment) -> int:
    """Taps of a kernel that holds those of all layers."""
    specs = [term.filter.spec for link in part.links for term in link.terms if term.filter is not None]
    extents = [[r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)] for spec in specs]
    return math.prod(max(axis) for axis in zip(*extents, strict=True))
