"""Cut a graph into runs: links that joint bounds can bound better than the product of their constants.

`reading` makes values and links from the graph. Here links are gathered into runs, of which nothing outside reads an
inner value. Runs are cut where links have no joint bound (`parts`).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from heapq import heappop, heappush

import numpy as np

from specnorm_networks.certified.graph import Graph, Layer
from specnorm_networks.certified.kernels import PlacedLayer
from specnorm_networks.certified.links import Link, Run, Term
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError
from specnorm_networks.certified.placed_kernels import PlacedKernel, split_into_phases, window_of
from specnorm_networks.certified.reading import Reader, Value

MOST_KERNEL_ENTRIES = 2**25
"""Largest number of entries of the kernel of a joint bound."""
MOST_PHASES = 16
"""Where grids differ: largest number of pixels of the run's input for one pixel of the coarsest grid."""


def runs(graph: Graph) -> list[Run]:
    """Return all runs of a graph that are more than a single term, in the order of the graph."""
    reader = Reader(graph)
    values = reader.values
    readers: list[set[int]] = [set() for _ in values]
    for number, value in enumerate(values):
        for source in value.link.sources if value.link else ():
            readers[source].add(number)
    all_runs: list[Run] = []
    computed: set[int] = set()
    for start in range(len(values)):
        numbers = _longest_run(start, values, readers, reader.escaping, computed)
        for first, run in _joinable_runs(_run_of(values, numbers)):
            if len(run.links) > 1 or len(run.links[0].terms) > 1:
                all_runs.append(run._with_domain(reader.scope.domain))
                computed.update(numbers[first + 1 : first + 1 + len(run.links)])
    return all_runs


def _longest_run(
    start: int,
    values: Sequence[Value],
    readers: Sequence[set[int]],
    escaping: set[int],
    computed: set[int],
) -> list[int]:
    """Return the numbers of the values of the longest run that begins with a value; ``[start]`` if there is none.

    A run ends with a value that is computed from ``start`` alone, and nothing outside of it reads its inner values.

    ``readers``: for each value the numbers of the values whose links read it. ``escaping``: values that something other
    than a link reads. ``computed``: values of earlier runs, but for their first ones.
    """
    reached = {start}
    waiting = sorted(readers[start])  # a heap: each value after those that it reads
    while waiting:
        number = heappop(waiting)
        link = _link(values[number])
        if number in reached or number in computed or not link.terms or not reached.issuperset(link.sources):
            continue
        reached.add(number)
        # What reads an escaping value does not belong to the run, so that nothing is gone through for each start.
        for reader in () if number in escaping else readers[number]:
            heappush(waiting, reader)
    for end in sorted(reached - {start}, reverse=True):
        needed, waiting = {start, end}, [end]
        while waiting:
            sources = {*_link(values[waiting.pop()]).sources} - needed
            if any(number in escaping or max(readers[number]) > end for number in sources):
                break  # a value between them is read elsewhere
            needed |= sources
            waiting += sources
        else:
            if all(readers[number] <= needed for number in needed - {start, end}):
                return sorted(needed)
    return [start]


def _joinable_runs(run: Run) -> Iterator[tuple[int, Run]]:
    """Yield the runs that are left of a run if the links without a joint bound are taken out.

    The links between two neighboring cut points are a *block*. A block without a joint bound is written by phases
    (`by_phases`), and is a run of its own if it has a joint bound then. Each run is yielded together with the number of
    its first value in the whole run.
    """
    begin = 0
    for first, last in itertools.pairwise(run.cut_points):
        if joinable(run.part(first, last), math.inf):
            continue
        if first > begin:
            yield begin, run.part(begin, first)
        with suppress(NoBoundError):
            polyphase = by_phases(run.part(first, last))
            if joinable(polyphase, math.inf):
                yield first, polyphase
        begin = last
    if run.cut_points[-1] > begin:
        yield begin, run.part(begin, run.cut_points[-1])


def _link(value: Value) -> Link:
    assert value.link is not None  # for the type checker: all values of a run but the first have one
    return value.link


def _run_of(values: Sequence[Value], numbers: Sequence[int]) -> Run:
    """Return some values and their links as a run, in which the values are numbered from 0.

    ``numbers``: of the values in the graph.
    """
    position = {number: index for index, number in enumerate(numbers)}
    links = []
    for number in numbers[1:]:
        link = _link(values[number])
        terms = tuple(replace(term, source=position[term.source]) for term in link.terms)
        links.append(replace(link, terms=terms))
    first = values[numbers[0]]
    width = first.width
    start = first.node
    if first.link is not None:
        width *= first.link.repeat
        start = first.link.end
    return Run(start, width, tuple(links))


# -- several grids -----------------------------------------------------------------------------------------------------
def by_phases(run: Run) -> Run:
    """Return a run with several grids on the coarsest of them: pixels of finer grids become channels, one a phase.

    Zero padding stays zero padding: each phase of a sequence that is 0 outside a window is 0 outside a window, too.
    `NoBoundError` if the grids do not fit, or borders are not zeros.
    """
    links = run.links
    if not all(link.ends_with_function for link in links[:-1]) or any(link.groups is not None for link in links):
        raise NoBoundError("operators on several channels or pixels between the layers")
    if not run.axes or run.borders - {"zeros"}:
        raise NoBoundError("layers without pixels, or with borders that are not zeros")
    grids = grids_of(run)
    if max(map(math.prod, grids.values())) > MOST_PHASES:
        raise NoBoundError("too many phases")
    polyphase_links = []
    for number, link in enumerate(links, 1):
        phases = math.prod(grids[number])
        terms = tuple(_term_by_phases(term, grids[number], grids[term.source], run.axes) for term in link.terms)
        low, high = link.slopes
        slopes = (np.repeat(low, phases), np.repeat(high, phases))
        polyphase_links.append(replace(link, terms=terms, width=link.width * phases, slopes=slopes))
    return replace(run, links=tuple(polyphase_links))


def grids_of(run: Run) -> dict[int, tuple[int, ...]]:
    """Return for each value how many of its pixels correspond to one pixel of the coarsest grid, one number an axis.

    `NoBoundError` if two paths to the last value disagree.
    """
    ones = (1,) * run.axes
    count = len(run.links)
    shares = {count: tuple(map(Fraction, ones))}
    """Pixels for one pixel of the last value."""
    for number in range(count, 0, -1):
        for term in run.links[number - 1].terms:
            strides = zip(term.stride or ones, shares[number], strict=True)
            share = tuple(pixels / stride if term.upsamples else pixels * stride for stride, pixels in strides)
            if shares.setdefault(term.source, share) != share:
                raise NoBoundError("two paths to the last value disagree")
    coarsest = [math.lcm(*(pixels.denominator for pixels in axis)) for axis in zip(*shares.values(), strict=True)]
    return {value: tuple(map(int, map(operator.mul, share, coarsest))) for value, share in shares.items()}


def _term_by_phases(term: Term, after: tuple[int, ...], before: tuple[int, ...], axes: int) -> Term:
    """Return a term between values whose phases are channels.

    The run's input keeps its pixels: terms that read it have a stride in place of phases.

    ``after``, ``before``: grids of the link's value and of the value that it reads, as `grids_of` has them.
    """
    reads_input = term.source == 0
    kernel, first_tap = term.dense(axes)
    strides = term.stride or (1,) * axes
    placed: list[PlacedKernel] = []
    for phases in itertools.product(*map(range, after)):
        # On an axis whose grid has r pixels, output r n + phase is that phase at n. With tap t it reads the position
        # stride (r n + phase) + first_tap + t, unless it upsamples.
        starts = [tap + stride * phase for tap, stride, phase in zip(first_tap, strides, phases, strict=True)]
        read = PlacedKernel(kernel, tuple(starts))
        if term.upsamples:
            read = _taps_of_phase(kernel, first_tap, strides, phases)
        placed.append(read if reads_input else split_into_phases(*read, before))
    columns = placed[0].kernel.shape[1]
    # The window begins at position 0 or before, since a convolution has no negative padding.
    at_0 = PlacedKernel(np.zeros((1, columns, *(1,) * axes)), (0,) * axes)
    window = window_of([*placed, at_0])
    whole = np.zeros((len(term.rows), len(placed), columns, *window.shape))
    for phase_number, ((part, _), taps) in enumerate(zip(placed, window.taps, strict=False)):
        of_phase = whole[:, phase_number]
        of_phase[(slice(None), slice(None), *taps)] = part
    stride_of_term = before if reads_input else (1,) * axes
    phases_read = 1 if reads_input else math.prod(before)
    dense = whole.reshape(-1, *whole.shape[2:])
    geometry = {"stride": stride_of_term, "padding_mode": "zeros", "padding": tuple((-p, 0) for p in window.start)}
    name = "identity" if term.placed_layer is None else term.placed_layer.layer.name
    layer = Layer(name, lambda: dense, geometry, axes)
    return Term(
        term.source,
        reads=range(term.reads.start * phases_read, term.reads.stop * phases_read),
        rows=range(term.rows.start * len(placed), term.rows.stop * len(placed)),
        stride=stride_of_term,
        placed_layer=PlacedLayer(layer, geometry),
        columns=range(columns),
    )


def _taps_of_phase(
    kernel: FloatArray, first_tap: Sequence[int], strides: Sequence[int], phases: Sequence[int]
) -> PlacedKernel:
    """Return the taps by which one phase of the outputs reads, of a kernel with ``stride`` outputs for each pixel.

    Output ``o`` has between its pixels zeros that its taps at ``o + first_tap + t`` read, but where that is a multiple
    of the stride.
    """
    taps, starts = [slice(None), slice(None)], []
    for tap, stride, phase in zip(first_tap, strides, phases, strict=True):
        skipped = -(tap + phase) % stride
        taps.append(slice(skipped, None, stride))
        starts.append((tap + phase + skipped) // stride)
    missing = [(0, max(stride - n, 0)) for stride, n in zip(strides, kernel.shape[2:], strict=True)]
    return PlacedKernel(np.pad(kernel, [(0, 0), (0, 0), *missing])[tuple(taps)], tuple(starts))


# -- which links have a joint bound ------------------------------------------------------------------------------------
def joinable(part: Run, widest: float) -> bool:
    """Whether links have a joint bound.

    ``widest``: largest number of channels on the smaller side of the joint kernel; a single whole layer may have any
    number.
    """
    if len(part.links) == 1 and part.links[0].single_layer is not None:
        return True
    if "none" in part.borders or len(part.borders) > 1 or not part.on_one_grid:
        return False
    rows, columns, taps = size_of_joint_kernel(part)
    return min(rows, columns) <= widest and rows * columns * taps <= MOST_KERNEL_ENTRIES


def size_of_joint_kernel(part: Run) -> tuple[int, int, int]:
    """Return upper limits of the rows, columns and taps of the kernel T or K that bounds a part (`parts`)."""
    widths = part.widths
    taps = taps_of(part)
    # A link whose function has a negative slope needs a further vertex in K, its leaf. The last link needs none.
    leaves = [link.width if link.has_negative_slope else 0 for link in part.links[:-1]]
    if not part.is_chain:
        side = sum(widths) + sum(leaves)
        return side, side, taps
    # In a chain, values at odd distance from the input are rows of T. So are leaves of links that read values at even
    # distance.
    leaves.append(0)
    rows = sum(widths[1::2]) + sum(leaves[::2])
    columns = sum(widths[::2]) + sum(leaves[1::2])
    return rows, columns, taps


def taps_of(part: Run) -> int:
    """Return the number of taps of a kernel that has room for those of all layers."""
    extents = [placed_layer.extents for placed_layer in part.placed_layers]
    return math.prod(max(axis) for axis in zip(*extents, strict=True))
