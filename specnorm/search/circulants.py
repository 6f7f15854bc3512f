"""Upper bounds of a zero-padded layer at one size: by a circulant (`certified.layer.circulant`), or without its waves.

The fewer waves stay in, the closer is the bound; what is taken out makes a matrix to be factorised
(`certified.layer.deflation`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified.layer.circulant import Embedding, norm_by_circulant
from specnorm.certified.layer.deflation import DeflatedModes, first_of_mirrored, norm_by_deflation
from specnorm.certified.symbol.cells import dft
from specnorm.certified.symbol.cover import Cover
from specnorm.certified.symbol.symbols import Symbol
from specnorm.clock import Clock, OutOfTime
from specnorm.numerics.power import top_eigenvectors
from specnorm.problem.taps import sizes_of
from specnorm.search import tuning as knobs
from specnorm.search.reduction import Polynomials

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.certified.layer.circulant import Embedding
    from specnorm.certified.symbol.gram_polynomial import GramPolynomial
    from specnorm.problem.frequencies import Frequencies
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import SearchResult
    from specnorm.types import ArrayOps


_LONGER = 0.125
"""Part of the shortest circulant's points by which others are longer. The bound's excess grows with the square of the
distance of the maximum from the circulant's frequencies, which is at most half a step."""
_SHARE = 0.25
"""Part of the tolerance that says how close the circulant's own norm comes, where it is not close enough."""


def bound_by_circulant(
    spec: ConvSpec,
    search: Search,
    torus: SearchResult,
    fewest: tuple[int, ...],
    *,
    lower: float,
    rtol: float,
    max_cells: int,
    only_one: bool = False,
) -> tuple[Upper | None, int, int]:
    """Prove that the layer's norm is below a lower bound raised by rtol, or by how little it is not, by a circulant.

    Parameters
    ----------
    spec : ConvSpec
        The layer.
    search : Search
        Of the layer's blocks.
    torus : SearchResult
        Of its last search of the torus.
    fewest : tuple of int
        `shortest` of the layer; 1 on axes with one tap.
    lower : float
        Of the layer's norm.
    only_one : bool
        Whether something else will come close enough if this does not.

    Returns
    -------
    upper : Upper or None
        Of the layer; None where no circulant was searched to its end.
    cells, levels : int
        Of all searches.
    """
    target = lower * (1 + search.tuning.share * rtol)
    cells = levels = 0
    if torus.upper is None or torus.upper <= target:
        return None, cells, levels
    kernel_shape = tuple(search.blocks.shape[3:])
    circulant = away_from(torus, fewest, kernel_shape)
    boxes = dft(circulant.points, kernel_shape, circulant.skew)
    nearest = search.at_nearest(torus, circulant.points, circulant.skew)
    if target > 0 and nearest.lower <= target:
        found = search.run(boxes, bound=target, supremum=torus.upper, start=nearest, max_cells=max_cells)
        cells, levels = cells + found.cells, levels + found.levels
        if found.upper is not None:
            return norm_by_circulant(spec, found.upper), cells, levels
    if only_one or not target > 0:
        return None, cells, levels
    # By how little it is not: as close as the circulant's own norm.
    nearest = search.at_nearest(torus, circulant.points, circulant.skew)
    tolerance = _SHARE * rtol
    found = search.run(boxes, rtol=tolerance, supremum=torus.upper, start=nearest, max_cells=max_cells)
    upper = None if found.upper is None else norm_by_circulant(spec, found.upper)
    return upper, cells + found.cells, levels + found.levels


def away_from(torus: SearchResult, fewest: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Embedding:
    """The circulant whose frequencies are farthest from the maximum: the norm falls off by the distance squared."""
    chosen = []
    for angle, least, k in zip(torus.frequency.angles[0], fewest, kernel_shape, strict=True):
        choices = _choices(least, k)
        apart = np.asarray([_distance(angle, *choice) for choice in choices])
        chosen.append(choices[int(np.argmax(apart))])
    return Embedding(tuple(points for points, _ in chosen), tuple(skew for _, skew in chosen))


def _choices(least: int, k: int) -> list[tuple[int, bool]]:
    if k == 1:
        return [(1, False)]
    longest = least + max(1, math.ceil(_LONGER * least))
    return [(points, skew) for points in range(least, longest + 1) for skew in (False, True)]


def _distance(angle: float, points: int, skew: bool) -> float:
    """From an angle to the nearest frequency of an axis of a circulant, in radians."""
    at = angle / (2 * math.pi) * points - skew / 2
    return abs(at - round(at)) * 2 * math.pi / points


class DeflationTuning(NamedTuple):
    """How many waves are taken out. It decides on time and on how close the bound comes."""

    parts: tuple[float, ...] = (0.96, 0.9, 0.8, 0.68)
    """Of the norm: waves above are taken out."""
    deeper: tuple[float, ...] = (0.92, 0.82, 0.7, 0.6)
    """The same on fewer pixels, where the border takes more off each wave."""
    pixels: int = 24
    """Of an axis, down to which the first are right."""
    first: int = 1
    """How many of these are tried before the lower bound is raised."""
    waves: int = 1000
    """Most that are taken out, mirror images included."""
    together: int = 8
    """Waves of one frequency that are looked for before all are."""
    wider: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0)
    """Tolerances, in those asked for, that are tried where none of them is enough."""


DEFLATION = DeflationTuning()


class DeflatedCirculant:
    """One circulant of a layer of one group without stride and dilation.

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        In torch's order, scaled to about 1.
    spec : ConvSpec
        With ``input_shape``.
    supremum : Upper
        Over all frequencies.
    search : Search, optional
        Of the kernel among others, for what it has computed already.
    group : int
        Which of its blocks the kernel is.
    clock : Clock, optional
        Ends the choice of the waves.
    """

    def __init__(
        self,
        kernel: Array,
        spec: ConvSpec,
        circulant: Embedding,
        supremum: Upper,
        search: Search | None = None,
        group: int = 0,
        *,
        clock: Clock | None = None,
        ops: ArrayOps,
    ) -> None:
        self.clock = clock or Clock()
        self.kernel, self.spec, self.circulant, self.supremum = kernel, spec, circulant, supremum
        self.ops, self.xp = ops, ops.xp
        # The transposed symbol has the same norms.
        wide = kernel.shape[1] < kernel.shape[2]
        self.blocks = ops.xp.permute_dims(kernel, (0, 2, 1, *range(3, kernel.ndim))) if wide else kernel
        moving = [n for n, k in zip(sizes_of(spec)[0], spec.kernel_shape, strict=True) if k > 1]
        self.parts = DEFLATION.parts if min(moving, default=0) >= DEFLATION.pixels else DEFLATION.deeper
        self._splits: dict[float, tuple[Cover, DeflatedModes] | None] = {}
        self._failed: dict[float, float] = {}
        self._polynomials = Polynomials(self.blocks, knobs.TUNING, clock=self.clock, ops=ops)
        self._trial_vectors = None
        trial = None if search is None else search.incumbent.trial_vectors
        if trial is not None and trial.shape[-1] == self.blocks.shape[2]:
            self._trial_vectors = trial[group : group + 1, ...]
        alike = search is not None and search.blocks.shape == self.blocks.shape
        if search is not None and alike and bool(ops.xp.all(search.blocks == self.blocks)):
            self.blocks, self._polynomials = search.blocks, search.polynomials

    def upper(self, lower: float, rtol: float, clock: Clock | None = None, *, first: bool = False) -> Upper | None:
        """A bound of the norm, ``lower * (1 + rtol)`` if enough waves taken out allow it; None if there is no proof.

        Nothing is begun after the clock's end. At first few are taken out, and nothing wider is tried.
        """
        for part in self.parts[: DEFLATION.first] if first else self.parts:
            if clock is not None and clock.expired:
                return None
            try:
                found = self.split(part, lower)
            except OutOfTime:
                return None
            if self.clock.expired:
                return None
            if found is None:
                break
            # What has failed once is not tried again.
            bound = lower * (1 + rtol)
            if self._failed.get(part, 0.0) < bound:
                upper = self._proven(found, bound)
                if upper is not None:
                    return upper
                self._failed[part] = bound
        known = [] if first else [split for split in self._splits.values() if split is not None]
        for wider in DEFLATION.wider if known else ():
            if self.clock.expired:
                return None
            upper = self._proven(known[-1], lower * (1 + wider * rtol))
            if upper is not None:
                return upper
        return None

    def split(self, part: float, norm: float) -> tuple[Cover, DeflatedModes] | None:
        """Take out the waves above a part of the norm, as first given; None where they are too many."""
        if part not in self._splits:
            self._splits[part] = self._split(part * norm)
        return self._splits[part]

    def _proven(self, found: tuple[Cover, DeflatedModes], bound: float) -> Upper | None:
        cover, highest = found
        return norm_by_deflation(self.kernel, self.spec, self.circulant, cover, highest, bound, ops=self.ops)

    def _split(self, part: float) -> tuple[Cover, DeflatedModes] | None:
        cover = self._cover(part)
        if cover is None:
            return None
        self.clock.check()
        points = first_of_mirrored(cover.open.boxes.centres)
        highest = self._highest(points, part)
        return None if highest is None else (cover, highest)

    def _cover(self, part: float) -> Cover | None:
        """A cover of the circulant of which single frequencies are left; None where those are too many."""
        boxes = dft(self.circulant.points, tuple(self.blocks.shape[3:]), self.circulant.skew)
        cover = Cover(self.blocks, boxes, self.supremum, ops=self.ops)
        polynomial = self._polynomials.near(part, self._trial_vectors).float32_copy()
        tried = np.zeros(len(cover), dtype=bool)
        while True:
            self.clock.check()
            self._fathom(cover, polynomial, np.flatnonzero(~tried), part)
            cover.prune()
            divisible = cover.open.boxes.divisible
            if not divisible.any():
                break
            if len(cover) > 8 * DEFLATION.waves:
                return None
            parent = cover.split(np.full(len(cover), 2))
            tried = ~divisible[parent]
        if polynomial.truncation > 0:
            self._fathom(cover, self._polynomials.whole.float32_copy(), np.arange(len(cover)), part)
            cover.prune()
        return cover if len(cover) <= DEFLATION.waves else None

    def _fathom(self, cover: Cover, polynomial: GramPolynomial, index: np.ndarray, part: float) -> None:
        limit_sq = cover.limits_sq(polynomial, part)[index]
        index = index[limit_sq > self._polynomials.least_limit_sq(polynomial)]
        for few in self._polynomials.parts(polynomial, len(index)):
            chosen = index[few]
            formed, _ = cover.form(polynomial, chosen, cover.limits_sq(polynomial, part)[chosen])
            cover.fathom(formed, part)

    def _highest(self, points: Frequencies, part: float) -> DeflatedModes | None:
        """Singular triples above a norm, with what they are above it; None where they are too many."""
        xp, ops = self.xp, self.ops
        g = Symbol(self.kernel, points, ops=ops).matrices()[0, ...]
        wide = g.shape[-1] > g.shape[-2]
        tall = arrays.adjoint(g, xp=xp) if wide else g
        gram = arrays.gram_smaller(tall, xp=xp)
        vectors = self._top(xp.astype(gram, xp.complex64) if ops.exact_float32 else gram, part)
        right = xp.matrix_transpose(xp.astype(vectors, g.dtype))
        # Rows: the vectors, and their images.
        image = xp.matmul(right, xp.matrix_transpose(tall))
        norms = np.asarray(ops.to_numpy(xp.linalg.vector_norm(image, axis=-1)))
        at, which = np.nonzero(norms > part)
        if 2 * len(at) > DEFLATION.waves:
            return None
        flat = at * norms.shape[1] + which
        v, u = (arrays.rows(xp.reshape(z, (-1, z.shape[-1])), flat, ops=ops) for z in (right, image))
        above = norms[at, which]
        root = ops.from_numpy(np.sqrt(above - part), self.kernel)
        other = ops.from_numpy(np.sqrt(above - part) / above, self.kernel)
        x, y = u * xp.astype(other, u.dtype)[:, None], v * xp.astype(root, v.dtype)[:, None]
        # G = sum s u v*; of its adjoint, G* = sum s u v*.
        return DeflatedModes(points, at, y, x) if wide else DeflatedModes(points, at, x, y)

    def _top(self, gram: Array, part: float) -> Array:
        """Eigenvectors of Gram matrices (f, p, p), shape (f, p, k): all those with a value above a part squared."""
        xp, few = self.xp, DEFLATION.together
        if gram.shape[-1] >= 4 * few:
            cut = np.full(gram.shape[0], part**2 / 2)
            values, vectors = top_eigenvectors(gram, few, cut, ops=self.ops)
            if float(xp.max(values[:, 0])) <= part**2 / 2:
                return vectors
        if gram.shape[0] <= few:
            return self._eigenvectors(gram)
        return xp.concat([self._eigenvectors(gram[at : at + few, ...]) for at in range(0, gram.shape[0], few)], axis=0)

    def _eigenvectors(self, gram: Array) -> Array:
        self.clock.check()
        return self.xp.linalg.eigh(gram)[1]
