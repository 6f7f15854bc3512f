"""A graph cut into runs: links from one value to another, with nothing else reading between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from specnorm.certified.network.affine_maps import AffineMap, Segment, Subnetwork
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.linear_combinations import Value
from specnorm.certified.network.reading import Reader

ENTRIES = 2**25
"""Most entries of a part's kernel."""


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
        for numbers in _joinable_parts(values, _longest(start, values, readers, reader.escaping, done)):
            run = run_of(values, numbers)
            if len(run.links) > 1 or len(run.links[0].terms) > 1:
                found.append(run)
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


def _joinable_parts(values: Sequence[Value], numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """The values in a row, cut where no statement can speak of what lies between two cuts."""
    place = {number: at for at, number in enumerate(numbers)}
    blocks = blocks_of([[place[s] for s in _link(values[number]).sources] for number in numbers[1:]])
    begin = 0
    for first, last in [*itertools.pairwise(blocks), (blocks[-1], None)]:
        if last is not None and joinable(run_of(values, numbers[first : last + 1]).part(0, last - first), math.inf):
            continue
        if first > begin:
            yield numbers[begin : first + 1]
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
    widths = part.widths
    leaves = [link.width if bool((link.slopes[0] < 0).any()) else 0 for link in part.links[:-1]]
    specs = [term.filter.spec for link in part.links for term in link.terms if term.filter is not None]
    extents = [[r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)] for spec in specs]
    taps = math.prod(max(axis) for axis in zip(*extents, strict=True))
    if not part.chain:
        return sum(widths) + sum(leaves), sum(widths) + sum(leaves), taps
    leaves.append(0)
    return sum(widths[1::2]) + sum(leaves[::2]), sum(widths[::2]) + sum(leaves[1::2]), taps
