"""What a network is cut into: links, each a sum of linear maps and the function of each entry after it.

A *value* is what an entry-wise function makes of a sum of linear maps of earlier values; a *link* is that map and
function. Links in the order of computation, from one value to another that alone is read further, are a *run*. Along a
run each value may be measured in a norm of its own, with one weight a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.bound import Upper
from specnorm.problem.spec import ConvSpec
from specnorm_networks.certified.graph import Layer
from specnorm_networks.certified.kernels import ROUNDINGS, Sizes, by_output
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.rules import NOTHING, Average
from specnorm_networks.certified.scope import About

Placed = tuple[FloatArray, tuple[int, ...]]
"""A kernel, and the place of its first tap."""


@dataclass(frozen=True, eq=False)
class Filter:
    """A layer as it stands in a network.

    Parameters
    ----------
    geometry : dict
        Of the layer, with the padding before it.
    spec : ConvSpec
        The same with the kernel's shape.
    sizes : pair of tuple of int, or None
        Spatial sizes before and after.
    """

    layer: Layer
    geometry: dict[str, Any]
    spec: ConvSpec
    sizes: Sizes | None


@dataclass(frozen=True, eq=False)
class Term:
    """A linear map from some channels of one value to some channels of a link: a layer, or the identity.

    Parameters
    ----------
    source : int
        Number of the value that it reads.
    reads : range
        Channels of that value.
    rows : range
        Channels of the link that it is added to.
    filter : Filter or None
        None: the identity, on every ``stride``-th pixel.
    columns : range
        Channels of the layer that those of ``reads`` are.
    scale : array, shape (len(rows),), or None
        Batch normalisation behind it; correct to a few roundings.
    alpha : float
        A number that it is multiplied by.
    """

    source: int
    reads: range
    rows: range
    stride: tuple[int, ...] = ()
    filter: Filter | None = None
    columns: range = range(0)
    scale: FloatArray | None = None
    alpha: float = 1.0

    @property
    def plain(self) -> bool:
        """Whether it is the identity, and neither scaled nor strided."""
        return self.filter is None and self.scale is None and self.alpha == 1 and max(self.stride, default=1) == 1

    @property
    def lost(self) -> FloatArray | float:
        """What `ROUNDINGS` roundings of would be as much as the kernel's entries may be off, in its shape."""
        if self.filter is None or self.filter.layer.error is None:
            return 0.0
        error = np.asarray(self.filter.layer.error(), np.float64)[:, self.columns.start : self.columns.stop]
        if self.scale is not None:
            error = error * abs(self.scale)[:, None]
        return host.inflate(abs(error) * (abs(self.alpha) * 2.0**53 / ROUNDINGS), ROUNDINGS)

    @property
    def family(self) -> str:
        """Which borders a statement about the whole grid is about: "zeros", "circular", "any"; "alone": none."""
        if self.filter is None:
            return "any" if max(self.stride, default=1) == 1 else "zeros"
        spec = self.filter.spec
        if (
            max(spec.kernel_shape, default=1) == 1
            and not any(map(sum, spec.padding))
            and max(self.stride, default=1) == 1
        ):
            return "any"
        if spec.padding_mode == "zeros" and not (spec.transposed and max(spec.stride) > 1):
            return "zeros"
        periodic = spec.padding_mode == "circular" and not any(spec.extra_outputs) and max(spec.stride) == 1
        return "circular" if periodic and not spec.transposed else "alone"

    def dense(self, axes: int, *, dilated: bool) -> Placed:
        """Kernel as a plain correlation, ``y[m] = sum_t kernel[t] x[stride m + start + t]``: no groups, scaled.

        Parameters
        ----------
        axes : int
            Spatial axes; an identity has one tap on each.
        dilated : bool
            Whether zeros are put between the taps; if not, positions are in units of the dilation.

        Returns
        -------
        kernel : array, shape (len(rows), len(reads), *taps)
        start : tuple of int
        """
        ones = (1,) * axes
        if self.filter is None:
            kernel = np.eye(len(self.rows)).reshape(len(self.rows), len(self.reads), *ones)
            scale = np.ones(len(self.rows)) if self.scale is None else self.scale
            return kernel * (self.alpha * scale).reshape(-1, 1, *ones), (0,) * axes
        spec, kernel = self.filter.spec, self.filter.layer.kernel()
        if self.scale is not None:
            kernel = kernel * by_output(self.scale, spec)
        whole = _ungrouped(kernel * self.alpha, spec, spec.dilation if dilated else (1,) * spec.ndim)
        # A transposed layer has y[m + k - before] += K[i, o, k] x[m]: a correlation with the taps in reverse.
        start = tuple(
            before - r * (k - 1) if spec.transposed else -before
            for k, r, (before, _) in zip(spec.kernel_shape, spec.dilation, spec.padding, strict=True)
        )
        if spec.transposed:
            whole = np.flip(whole.swapaxes(0, 1), axis=tuple(range(2, whole.ndim)))
        return whole[:, self.columns.start : self.columns.stop], start


def _ungrouped(kernel: FloatArray, spec: ConvSpec, dilation: Sequence[int]) -> FloatArray:
    """A grouped, dilated kernel with the zeros that these stand for."""
    g = spec.groups
    first, second = kernel.shape[0] // g, kernel.shape[1]
    extent = [r * (k - 1) + 1 for r, k in zip(dilation, spec.kernel_shape, strict=True)]
    whole = np.zeros((kernel.shape[0], second * g, *extent))
    taps = tuple(slice(None, None, r) for r in dilation)
    for at in range(g):
        rows, columns = slice(at * first, (at + 1) * first), slice(at * second, (at + 1) * second)
        whole[(rows, columns, *taps)] = kernel[rows]
    return whole


@dataclass(frozen=True, eq=False)
class AffineMap:
    """A sum of linear maps, the function of each entry after it, and what may follow.

    Parameters
    ----------
    terms : tuple of Term
        Those of a run number its values: 0 is its input, i the value of its i-th link.
    width : int
        Channels.
    slopes : pair of array, shape (width,)
        Smallest and largest slope of the function; 1 where there is none.
    factor : Upper
        Of what follows the function: pooling, resizing. It keeps the channels.
    repeat : int
        Features that each channel becomes before the next layer (flattening).
    open : bool
        Whether nothing but the function lies between this sum and the next.
    average : Average or None
        What alone lies between, where ``factor`` is its own.
    end : str
        Name of the last node.
    node : str
        Name of the function's own; "" where nothing asks for it.
    """

    terms: tuple[Term, ...]
    width: int
    slopes: tuple[FloatArray, FloatArray]
    end: str
    node: str = ""
    factor: Upper = NOTHING
    repeat: int = 1
    open: bool = True
    average: Average | None = None
    groups: NDArray[np.intp] | None = None
    """Number of the group of each channel, where the function sorts entries of channels of one group: it moves no two
    vectors apart in any norm whose weights are one number a group. None: each channel by itself."""

    def fits(self, weights: FloatArray) -> bool:
        """Whether weights are one number a group."""
        if self.groups is None:
            return True
        first = np.unique(self.groups, return_index=True)[1]
        return bool(np.all(weights == weights[first][self.groups]))

    @property
    def steepest(self) -> FloatArray:
        """Largest absolute slope of each channel."""
        return np.asarray(np.maximum(abs(self.slopes[0]), abs(self.slopes[1])))

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Values that it reads, in order."""
        return tuple(sorted({term.source for term in self.terms}))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the kernels."""
        return tuple(dict.fromkeys(term.filter.layer.name for term in self.terms if term.filter is not None))

    @property
    def alone(self) -> Term | None:
        """The only term, if that is a whole layer, as it is given: its norm at its own size is known."""
        (first, *others) = self.terms
        whole = (
            first.filter is not None
            and first.filter.layer.error is None
            and len(first.columns) == first.filter.spec.cin
            and len(first.rows) == self.width
        )
        return first if whole and not others else None


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """Links from one value to another.

    Parameters
    ----------
    start : str
        Name of the node that is read first (before any padding).
    width : int
        Its channels.
    blocks : tuple of int
        Numbers of values, from 0 to ``len(links)``, past which no later link reads: where the run may be cut.
    """

    start: str
    width: int
    links: tuple[AffineMap, ...]
    blocks: tuple[int, ...]
    _about: About | None = field(default=None, init=False)

    @property
    def about(self) -> About | None:
        """Of whose values it is, where its links are said to be these by the rooms that read a graph."""
        return self._about

    def _of(self, about: About | None) -> Subnetwork:
        """The same, read off a graph. For the modules of the trusted room."""
        object.__setattr__(self, "_about", about)
        return self

    @property
    def end(self) -> str:
        """Name of the last node."""
        return self.links[-1].end

    def part(self, first: int, last: int) -> Segment:
        """Links ``first:last``."""
        before = self.links[first - 1] if first else None
        return Segment(self.links[first:last], first, self.width if before is None else before.width * before.repeat)


@dataclass(frozen=True, eq=False)
class Segment:
    """Links of a run that are bounded together.

    Parameters
    ----------
    first : int
        Number of the value that they begin with.
    width : int
        Channels of that value.
    placed : bool
        Whether taps stand at their places, although another shift or spacing says the same.
    """

    links: tuple[AffineMap, ...]
    first: int
    width: int
    placed: bool = False

    @property
    def axes(self) -> int:
        """Spatial axes."""
        return max((t.filter.layer.spatial for t in self._terms if t.filter is not None), default=0)

    @property
    def stride(self) -> tuple[int, ...]:
        """Of whatever reads the first value."""
        found = (term.stride for term in self._terms if max(term.stride, default=1) > 1)
        return next(found, (1,) * self.axes)

    @property
    def chain(self) -> bool:
        """Whether each link reads one value, the one before."""
        return all(link.sources == (at,) for at, link in enumerate(self.links, self.first))

    @property
    def depth(self) -> int:
        """Links on the longest way."""
        depth = {self.first: 0}
        for at, link in enumerate(self.links, self.first + 1):
            depth[at] = 1 + max(depth[source] for source in link.sources)
        return depth[self.first + len(self.links)]

    @property
    def widths(self) -> list[int]:
        """Channels of each value, those of the first for each phase of the stride."""
        return [self.width * math.prod(self.stride), *(link.width for link in self.links)]

    @property
    def _terms(self) -> list[Term]:
        return [term for link in self.links for term in link.terms]

    @property
    def computed(self) -> bool:
        """Whether entries of a kernel may be off."""
        return any(term.filter is not None and term.filter.layer.error is not None for term in self._terms)

    @property
    def families(self) -> set[str]:
        """Of all terms, without "any"."""
        return {term.family for term in self._terms} - {"any"}

    @property
    def agrees(self) -> bool:
        """Whether all values but the first, which only strided terms may read, are on one grid."""
        wide = {t.filter.layer.spatial for t in self._terms if t.filter is not None}
        if len(wide) > 1 or any(not link.open or link.repeat > 1 for link in self.links[:-1]):
            return False
        ones = (1,) * self.axes
        first = {term.stride or ones for term in self._terms if term.source == self.first}
        later = {term.stride or ones for term in self._terms if term.source != self.first}
        return len(first) == 1 and later <= {ones}

    @property
    def undilated(self) -> bool:
        """Whether dilation need not be looked at: a chain, dilated alike, has the plain one's symbols at r theta."""
        strided = max(self.stride, default=1) > 1
        if self.placed or strided or not self.chain or any(len(link.terms) > 1 for link in self.links):
            return False
        specs = [term.filter.spec for term in self._terms if term.filter is not None]
        return all(len({s.dilation[j] for s in specs if s.kernel_shape[j] > 1}) <= 1 for j in range(self.axes))

    def kernels(self, *, absolute: bool = False) -> list[dict[int, Placed]]:
        """For each link: the number of a value it reads -> kernel on that value's channels, and the first tap's place.

        The first value's channels come with the phases of the stride, so that every kernel is a correlation of stride
        1. Where dilation is not looked at, places are 0.

        Parameters
        ----------
        absolute : bool
            Sums of the terms' absolute values: what relative errors of the terms refer to.
        """
        return [self._joined(link, absolute) for link in self.links]

    def _joined(self, link: AffineMap, absolute: bool) -> dict[int, Placed]:
        widths = dict(enumerate([self.width, *(each.width for each in self.links)], self.first))
        found: dict[int, Placed] = {}
        for source in link.sources:
            terms = [term for term in link.terms if term.source == source]
            stride = self.stride if source == self.first else (1,) * self.axes
            placed = [self._placed(term, stride, absolute) for term in terms]
            low = [min(start) for start in zip(*(start for _, start in placed), strict=True)]
            ends = [[s + n for s, n in zip(start, k.shape[2:], strict=True)] for k, start in placed]
            size = [max(e) - a for e, a in zip(zip(*ends, strict=True), low, strict=True)]
            whole = np.zeros((link.width, widths[source] * math.prod(stride), *size))
            for term, (kernel, start) in zip(terms, placed, strict=True):
                taps = [slice(s - a, s - a + n) for s, a, n in zip(start, low, kernel.shape[2:], strict=True)]
                columns = slice(term.reads.start * math.prod(stride), term.reads.stop * math.prod(stride))
                whole[(slice(term.rows.start, term.rows.stop), columns, *taps)] += kernel
            found[source] = (whole, tuple(low))
        return found

    def _placed(self, term: Term, stride: tuple[int, ...], absolute: bool) -> Placed:
        kernel, start = term.dense(self.axes, dilated=not self.undilated)
        kernel = abs(kernel) + term.lost if absolute else kernel
        return phased(kernel, (0,) * self.axes if self.undilated else start, stride)


def phased(kernel: FloatArray, start: tuple[int, ...], stride: tuple[int, ...]) -> Placed:
    """A strided kernel on the phases of its input, which are channels then (polyphase).

    Position ``s m + start + t`` is phase ``(start + t) mod s`` of coarse pixel ``m + floor((start + t) / s)``.
    """
    if all(s == 1 for s in stride):
        return kernel, start
    before = [a % s for a, s in zip(start, stride, strict=True)]
    whole = [-(-(b + k) // s) for b, k, s in zip(before, kernel.shape[2:], stride, strict=True)]
    wide = np.zeros((*kernel.shape[:2], *(q * s for q, s in zip(whole, stride, strict=True))))
    taps = [slice(b, b + k) for b, k in zip(before, kernel.shape[2:], strict=True)]
    wide[(slice(None), slice(None), *taps)] = kernel
    split = wide.reshape(*kernel.shape[:2], *(n for pair in zip(whole, stride, strict=True) for n in pair))
    d = len(stride)
    order = (0, 1, *range(3, 2 + 2 * d, 2), *range(2, 2 + 2 * d, 2))
    places = tuple(a // s for a, s in zip(start, stride, strict=True))
    return split.transpose(order).reshape(kernel.shape[0], -1, *whole), places
