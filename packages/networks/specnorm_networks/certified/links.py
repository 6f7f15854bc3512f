"""Pieces of a graph that are bounded together: linear terms, links, and runs of links.

A *value* is what a function, applied to each entry, makes of a sum of linear maps of earlier values. A `Link` is that
sum and its function; each linear map in it is a `Term`. Links in the order of computation that lead from one value to
another are a `Run`. Consecutive links of a run are a *part* if one norm, that of a kernel made of all of them, bounds
their constant: this is their *joint bound* (`parts`). In a run each value may be measured in a norm of its own, with
one weight a channel.

`reading` makes links from a graph, `runs` cuts them into runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Upper
from specnorm_networks.certified.graph import Layer
from specnorm_networks.certified.kernels import PlacedLayer, by_channel
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.placed_kernels import PlacedKernel, split_into_phases, window_of
from specnorm_networks.certified.subjects import Domain

Borders = Literal["zeros", "circular", "any", "none"]
"""Border treatment under which a bound for the whole grid, without borders, is valid for a term.

"any": it is valid for each treatment; "none": for none.
"""


@dataclass(frozen=True, eq=False)
class Term:
    """A linear map from some channels of one value to some channels of a link: a layer, or the identity."""

    source: int
    """Number of the value that the term reads: among the values of its run, or of the whole graph while it is read."""
    reads: range
    """Channels of that value that the term reads."""
    rows: range
    """Channels of the link that the term is added to."""
    stride: tuple[int, ...] = ()
    placed_layer: PlacedLayer | None = None
    """The layer; None: the identity, on every ``stride``-th pixel."""
    columns: range = range(0)
    """Input channels of the layer that ``reads`` are fed to, in this order."""
    scale: FloatArray | None = None
    """Factor of each row, shape (len(rows),), from batch normalization after the layer; `kernels.ROUNDINGS` cover its
    roundings."""
    alpha: Fraction = Fraction(1)
    """Exact factor of the whole term: 0, or of a magnitude among those of normal numbers."""

    @classmethod
    def of_matrix(cls, source: int, layer: Layer) -> Term:
        """Return a matrix from all channels of a value to all channels of the link."""
        placed_layer = PlacedLayer(layer, {})
        columns = range(placed_layer.spec.cin)
        return cls(source, columns, rows=range(placed_layer.spec.cout), placed_layer=placed_layer, columns=columns)

    @property
    def factor(self) -> float:
        """`alpha`, rounded once."""
        return float(self.alpha)

    @property
    def is_multiple_of_identity(self) -> bool:
        """Whether the term is a number (`alpha`) times the identity: no layer, no factors by row, no stride."""
        return self.placed_layer is None and self.scale is None and not self._is_strided

    @property
    def is_identity(self) -> bool:
        """Whether the term is the identity."""
        return self.is_multiple_of_identity and self.alpha == 1

    @property
    def _is_strided(self) -> bool:
        return max(self.stride, default=1) > 1

    @property
    def upsamples(self) -> bool:
        """Whether there are ``stride`` pixels of the link for each pixel that the term reads, and not the reverse."""
        spec = None if self.placed_layer is None else self.placed_layer.spec
        return spec is not None and spec.transposed and self._is_strided

    @property
    def borders(self) -> Borders:
        """Border treatment under which a bound for the whole grid is valid for this term."""
        if self.placed_layer is None:
            return "zeros" if self._is_strided else "any"
        spec = self.placed_layer.spec
        has_padding = any(before or after for before, after in spec.padding)
        has_one_tap = max(spec.kernel_shape, default=1) == 1
        if has_one_tap and not has_padding and not self._is_strided:
            return "any"
        has_stride = max(spec.stride) > 1
        if spec.padding_mode == "zeros":
            return "zeros"
        keeps_size = not any(spec.extra_outputs) and not has_stride
        if spec.padding_mode == "circular" and keeps_size and not spec.transposed:
            return "circular"
        return "none"

    def dense(self, axes: int) -> PlacedKernel:
        """Return the kernel as a plain correlation, ``y[m] = sum_t kernel[t] x[stride m + start + t]``.

        Groups and dilation are written out, and scale and alpha are multiplied in.

        ``axes``: spatial axes; an identity has one tap on each.
        """
        if self.placed_layer is None:
            return self._dense_identity(axes)
        spec = self.placed_layer.spec
        kernel = self.placed_layer.layer.kernel()
        if self.scale is not None:
            kernel = kernel * by_channel(self.scale, spec, outputs=True)
        dense = _without_groups(kernel * self.factor, self.placed_layer)
        start = tuple(-before for before, _ in spec.padding)
        if spec.transposed:
            # y[m + k - before] += K[i, o, k] x[m]: a correlation whose taps are in reverse order.
            dense = np.flip(dense.swapaxes(0, 1), axis=tuple(range(2, dense.ndim)))
            extents = self.placed_layer.extents
            start = tuple(before - n + 1 for (before, _), n in zip(spec.padding, extents, strict=True))
        return PlacedKernel(dense[:, self.columns.start : self.columns.stop], start)

    def magnitudes(self, axes: int) -> PlacedKernel:
        """Return the same with the absolute values to which errors of the entries are relative."""
        kernel, start = self.dense(axes)
        return PlacedKernel(abs(kernel), start)

    def _dense_identity(self, axes: int) -> PlacedKernel:
        one_tap = (1,) * axes
        scale = np.ones(len(self.rows)) if self.scale is None else self.scale
        identity = np.eye(len(self.rows)).reshape(len(self.rows), len(self.reads), *one_tap)
        return PlacedKernel(identity * (self.factor * scale).reshape(-1, 1, *one_tap), (0,) * axes)


def _without_groups(kernel: FloatArray, placed_layer: PlacedLayer) -> FloatArray:
    """Return the kernel with zeros between channels of different groups, and between dilated taps."""
    groups = placed_layer.spec.groups
    rows_of_group = kernel.shape[0] // groups
    columns_of_group = kernel.shape[1]
    taps = tuple(slice(None, None, r) for r in placed_layer.spec.dilation)
    dense = np.zeros((kernel.shape[0], columns_of_group * groups, *placed_layer.extents))
    for group in range(groups):
        rows = slice(group * rows_of_group, (group + 1) * rows_of_group)
        columns = slice(group * columns_of_group, (group + 1) * columns_of_group)
        dense[(rows, columns, *taps)] = kernel[rows]
    return dense


@dataclass(frozen=True, eq=False)
class Link:
    """A sum of terms, the function of each entry of the sum, and what may follow the function."""

    terms: tuple[Term, ...]
    """In a run, a term reads the run's input (`Term.source` 0) or the value of link i (`Term.source` i, from 1 on)."""
    width: int
    """Number of channels."""
    slopes: tuple[FloatArray, FloatArray]
    """Smallest and largest slope of the function in each channel, shape (width,); 1 if there is no function."""
    end: str
    """Name of the last node that was merged into this link, such as pooling, or fixed values that are added."""
    factors: tuple[Upper, ...] = ()
    """Constants of the operators that follow the function (pooling, resizing), which treat each channel by itself."""
    pixels: int = 0
    """Number of pixels of each channel that are flattened before the next links read them; 0: it is not flattened."""
    average: FloatArray | None = None
    """Weights of the averages of each channel's pixels that follow the function, shape (averages, *pixels); None unless
    they alone follow it."""
    groups: NDArray[np.intp] | None = None
    """Number of the group of each channel, if the function sorts, or reflects, channels of one group together. Such a
    function moves no two vectors further apart in a norm that has one weight for each group. None: each channel is
    treated by itself."""

    def fits_groups(self, weights: FloatArray) -> bool:
        """Whether all channels of a group have one weight."""
        if self.groups is None:
            return True
        first_channels = np.unique(self.groups, return_index=True)[1]
        return bool(np.all(weights == weights[first_channels][self.groups]))

    @property
    def repeat(self) -> int:
        """Number of features that the next links read of each channel."""
        return max(self.pixels, 1)

    @property
    def ends_with_function(self) -> bool:
        """Whether nothing follows the function: neither operators of `factors` nor flattening."""
        return not self.factors and not self.pixels

    @property
    def largest_slopes(self) -> FloatArray:
        """Largest absolute slope of each channel."""
        return np.asarray(np.maximum(abs(self.slopes[0]), abs(self.slopes[1])))

    @property
    def has_negative_slope(self) -> bool:
        """Whether a slope may be negative."""
        return bool((self.slopes[0] < 0).any())

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """Numbers of the values that the link reads, in order."""
        return tuple(sorted({term.source for term in self.terms}))

    @property
    def kernel_names(self) -> tuple[str, ...]:
        """Names of the kernels, without repetition."""
        return tuple(
            dict.fromkeys(term.placed_layer.layer.name for term in self.terms if term.placed_layer is not None)
        )

    @property
    def single_layer(self) -> Term | None:
        """The only term, if it is a whole layer, whose norm at its own size can be asked for."""
        if len(self.terms) != 1:
            return None
        (term,) = self.terms
        if term.placed_layer is None:
            return None
        is_whole = len(term.columns) == term.placed_layer.spec.cin and len(term.rows) == self.width
        return term if is_whole else None


@dataclass(frozen=True, eq=False)
class Run:
    """Links in the order of computation, from one value to another."""

    start: str
    """Name of the node that the first link reads (before any padding)."""
    width: int
    """Channels of that node's value."""
    links: tuple[Link, ...]
    _domain: Domain | None = field(default=None, init=False)

    @property
    def domain(self) -> Domain | None:
        """The network and region for which claims about this run hold; None if it was not read off a graph."""
        return self._domain

    def _with_domain(self, domain: Domain | None) -> Run:
        """State from which network this run was read, and return the run.

        Nothing checks the statement. So the name is private, and a test makes sure that only this package calls it.
        """
        object.__setattr__(self, "_domain", domain)
        return self

    @property
    def end(self) -> str:
        """Name of the last node."""
        return self.links[-1].end

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the first node, and of the last one of each link."""
        return (self.start, *(link.end for link in self.links))

    @cached_property
    def cut_points(self) -> tuple[int, ...]:
        """Numbers of the values, from 0 to ``len(links)``, at which the run may be cut.

        No link after such a value reads an earlier one.
        """
        cut_points = [len(self.links)]
        earliest_source = len(self.links)  # of the links after a value
        for number in reversed(range(len(self.links))):
            earliest_source = min((earliest_source, *self.links[number].sources))
            if earliest_source >= number:
                cut_points.append(number)
        return tuple(reversed(cut_points))

    def part(self, first: int, last: int) -> Run:
        """Return links ``first:last`` as a separate run, whose values are numbered from 0; both ends are cut points."""
        if not first:
            return Run(self.start, self.width, self.links[:last])._with_domain(self.domain)
        links = []
        for link in self.links[first:last]:
            terms = tuple(replace(term, source=term.source - first) for term in link.terms)
            links.append(replace(link, terms=terms))
        before = self.links[first - 1]
        return Run(before.end, before.width * before.repeat, tuple(links))._with_domain(self.domain)

    @property
    def factors(self) -> list[Upper]:
        """Constants of the operators that follow the functions (`Link.factors`)."""
        return [factor for link in self.links for factor in link.factors]

    @property
    def _terms(self) -> list[Term]:
        return [term for link in self.links for term in link.terms]

    @property
    def placed_layers(self) -> list[PlacedLayer]:
        """Layers of all terms."""
        return [term.placed_layer for term in self._terms if term.placed_layer is not None]

    @property
    def _dimensions(self) -> set[int]:
        """Numbers of spatial axes of the layers, and of what selects every n-th pixel."""
        of_strides = {len(term.stride) for term in self._terms if term.stride}
        return of_strides | {placed_layer.layer.spatial for placed_layer in self.placed_layers}

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return max(self._dimensions, default=0)

    @property
    def stride(self) -> tuple[int, ...]:
        """Stride of the terms that read the first value."""
        strides = (term.stride for term in self._terms if max(term.stride, default=1) > 1)
        return next(strides, (1,) * self.axes)

    @property
    def is_chain(self) -> bool:
        """Whether each link reads only the value before it."""
        return all(link.sources == (source,) for source, link in enumerate(self.links))

    @property
    def depth(self) -> int:
        """Number of links on the longest path."""
        depths = [0]
        for link in self.links:
            depths.append(1 + max(depths[source] for source in link.sources))
        return depths[-1]

    @property
    def widths(self) -> list[int]:
        """Channels of each value; those of the first value count once for each phase of the stride."""
        return [self.width * math.prod(self.stride), *(link.width for link in self.links)]

    @property
    def borders(self) -> set[Borders]:
        """Border treatments under which a bound for the whole grid is valid for the terms, without "any"."""
        return {term.borders for term in self._terms} - {"any"}

    @property
    def on_one_grid(self) -> bool:
        """Whether all values but the first are on one grid; only strided terms may read the first."""
        if len(self._dimensions) > 1 or any(not link.ends_with_function for link in self.links[:-1]):
            return False
        if any(term.upsamples for term in self._terms):
            return False
        ones = (1,) * self.axes
        strides_of_first = {term.stride or ones for term in self._terms if term.source == 0}
        strides_of_later = {term.stride or ones for term in self._terms if term.source > 0}
        return len(strides_of_first) == 1 and strides_of_later <= {ones}

    @property
    def kernels(self) -> list[dict[int, PlacedKernel]]:
        """For each link one kernel for each value that it reads, by the value's number.

        All are correlations of stride 1: the phases of the stride are channels of the first value.
        """
        return [self._kernels_of(link, Term.dense) for link in self.links]

    @property
    def magnitudes(self) -> list[dict[int, PlacedKernel]]:
        """The same sums of the terms' absolute values, which relative errors of the terms refer to."""
        return [self._kernels_of(link, Term.magnitudes) for link in self.links]

    def _kernels_of(self, link: Link, kernel_of: Callable[[Term, int], PlacedKernel]) -> dict[int, PlacedKernel]:
        widths = [self.width, *(link.width for link in self.links)]
        kernels: dict[int, PlacedKernel] = {}
        for source in link.sources:
            terms = [term for term in link.terms if term.source == source]
            stride = (1,) * self.axes if source else self.stride
            phases = math.prod(stride)
            placed = [split_into_phases(*kernel_of(term, self.axes), stride) for term in terms]
            window = window_of(placed)
            total = np.zeros((link.width, widths[source] * phases, *window.shape))
            for term, (kernel, _), taps in zip(terms, placed, window.taps, strict=True):
                rows = slice(term.rows.start, term.rows.stop)
                columns = slice(term.reads.start * phases, term.reads.stop * phases)
                total[(rows, columns, *taps)] += kernel
            kernels[source] = PlacedKernel(total, window.start)
        return kernels
