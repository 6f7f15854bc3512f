"""Upper bounds of a zero-padded layer at one size: by a circulant, or by a deflated circulant.

The layer is a compression of a circulant (`at_size.proofs.circulant`), whose norm can be larger. A *wave* is a pair of
singular vectors of the circulant: plane waves of one frequency, whose channels are a singular pair of the symbol there.
The waves with the largest singular values can be taken out and bounded on the layer's own pixels, by the factorization
of a matrix (`at_size.proofs.deflation`): the more waves are taken out, the closer is the bound, and the larger the
matrix.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size import layer_tuning
from specnorm.at_size.proofs.circulant import norm_by_circulant
from specnorm.at_size.proofs.deflation import SplitWaves, first_of_mirrored, norm_by_deflation
from specnorm.backends import arrays
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.running.search import Clock, OutOfTime
from specnorm.supremum import tuning
from specnorm.supremum.proof import Cover
from specnorm.supremum.reduction import Polynomials
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.found import Found
    from specnorm.proofs.frequencies import Frequencies
    from specnorm.supremum.branch_and_bound import Search
    from specnorm.symbols.proofs.polynomial import GramPolynomial


PARTS_OF_NORM: tuple[float, ...] = (0.95, 0.85, 0.7, 0.55)
"""Parts of the norm, tried one after the other: all waves with larger singular values are taken out."""
MOST_WAVES = 1000
"""Most waves that are taken out, mirror images included, and most open cells of the search for them."""
_SHARE = 0.25
"""If the circulant's norm is above the target, it is computed to this part of the tolerance."""


def bound_by_circulant(
    spec: ConvSpec,
    search: Search,
    torus_result: Found,
    least_points: tuple[int, ...],
    *,
    lower: float,
    rtol: float,
    max_cells: int,
    target_only: bool,
) -> tuple[Upper | None, int, int]:
    """Bound the layer's norm by a circulant.

    The bound is about ``lower * (1 + rtol)`` if the circulant's norm is at most that, otherwise (unless
    ``target_only``) the circulant's own norm.

    ``spec``: the layer. ``search``: search of the layer's blocks. ``torus_result``: result of its last search of the
    torus. ``least_points``: points of the `shortest` circulant of the layer; 1 on axes with one tap. ``lower``: lower
    bound of the layer's norm. ``target_only``: whether the raised lower bound is the only bound to prove. If that proof
    fails, the norm of the circulant is not computed, since another attempt will come closer. Returns ``upper``: upper
    bound of the layer. None if no search of a circulant finished, or if none was made: the supremum is not bounded, or
    is below the target already. Returns ``cells``, ``levels``: totals of all searches.
    """
    target = lower * (1 + tuning.PROOF_SHARE * rtol)
    supremum = torus_result.upper
    if supremum is None or supremum <= target:
        return None, 0, 0
    kernel_shape = tuple(search.blocks.shape[3:])
    circulant = farthest_circulant(torus_result, least_points, kernel_shape)
    boxes = Boxes.dft(circulant.points, kernel_shape, circulant.skew)
    nearest = search.lower_bound_on_circulant(torus_result, circulant.points, circulant.skew)
    cells = levels = 0
    if target > 0 and nearest.lower <= target:
        result = search.run(boxes, bound=target, supremum=supremum, start=nearest, max_cells=max_cells)
        cells, levels = result.cells, result.levels
        if result.upper is not None:
            return norm_by_circulant(result.upper, spec), cells, levels
    if target_only or not target > 0:
        return None, cells, levels
    # The target is not proven: compute the circulant's own norm. The incumbent begins anew beside the maximum of the
    # torus, since the failed search may have left its vector at another frequency.
    nearest = search.lower_bound_on_circulant(torus_result, circulant.points, circulant.skew)
    result = search.run(boxes, rtol=_SHARE * rtol, supremum=supremum, start=nearest, max_cells=max_cells)
    upper = None if result.upper is None else norm_by_circulant(result.upper, spec)
    return upper, cells + result.cells, levels + result.levels


def farthest_circulant(torus_result: Found, least_points: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Circulant:
    """The circulant, of those compared, whose frequencies are farthest from the maximum of the torus.

    The distance is maximized on each axis by itself, since the norm falls off with its square.
    """
    points, skew = [], []
    for angle, least, taps in zip(torus_result.witness.frequency.angles[0], least_points, kernel_shape, strict=True):
        choices = _choices(least, taps)
        distances = [_distance(angle, *choice) for choice in choices]
        axis_points, axis_skew = choices[int(np.argmax(distances))]
        points.append(axis_points)
        skew.append(axis_skew)
    return Circulant(tuple(points), tuple(skew))


def _choices(least_points: int, taps: int) -> list[tuple[int, bool]]:
    """The numbers of points of an axis that are compared, and whether it is skew.

    On a skew axis, a pixel that is read past the end is multiplied by -1.
    """
    if taps == 1:
        return [(1, False)]
    return list(itertools.product((least_points, least_points + 1), (False, True)))


def _distance(angle: float, points: int, skew: bool) -> float:
    """Distance of an angle from the nearest frequency of an axis of a circulant, in radians."""
    offset = 0.5 if skew else 0.0  # the frequencies of a skew axis lie half a step farther
    place = angle / (2 * math.pi) * points - offset
    return abs(place - round(place)) * 2 * math.pi / points


class DeflatedCirculant:
    """One circulant of a layer of one group without stride and dilation (polyphase components have no dilation).

    Parameters
    ----------
    kernel : array, shape (1, first, second, *kernel_shape)
        In torch's order, scaled to about 1.
    spec : ConvSpec
        Geometry of the group, with ``input_shape``.
    supremum : Upper
        Bound of the kernel's norm over all frequencies.
    clock : Clock, optional
        Deadline: no threshold is begun after it, and it ends the choice of the waves.
    """

    def __init__(
        self,
        kernel: Array,
        spec: ConvSpec,
        circulant: Circulant,
        supremum: Upper,
        *,
        clock: Clock | None = None,
        ops: ArrayOps,
    ) -> None:
        self.clock = clock or Clock()
        self.kernel = kernel
        self.spec = spec
        self.circulant = circulant
        self.supremum = supremum
        self.ops = ops
        self.xp = ops.xp
        self.blocks = arrays.tall(kernel, xp=ops.xp)
        self._deflations: dict[float, tuple[Cover, SplitWaves] | None] = {}
        self._failed_bounds: dict[float, float] = {}
        self._polynomials = Polynomials(self.blocks, clock=self.clock, ops=ops)

    def upper(self, lower: float, rtol: float, *, few: bool = False) -> Upper | None:
        """The bound ``lower * (1 + rtol)`` of the norm, if enough waves can be taken out; None if it is not proven.

        ``few``: whether to try the highest threshold alone, before the lower bound is raised.
        """
        for part in PARTS_OF_NORM[:1] if few else PARTS_OF_NORM:
            try:
                self.clock.check()
                deflation = self.deflated(part, lower)
            except OutOfTime:
                return None
            if self.clock.expired:
                return None
            if deflation is None:
                # A lower threshold leaves more waves still.
                break
            bound = lower * (1 + rtol)
            # A bound that is no larger than one that failed would fail, too.
            if self._failed_bounds.get(part, 0.0) < bound:
                upper = self._proven(*deflation, bound)
                if upper is not None:
                    return upper
                self._failed_bounds[part] = bound
        return None

    def wider_upper(self, lower: float, rtol: float) -> Upper | None:
        """The closest bound that the deflation with the most waves proves with a wider tolerance, if `upper` fails."""
        upper = self.upper(lower, rtol)
        if upper is not None:
            return upper
        deflations = [deflation for deflation in self._deflations.values() if deflation is not None]
        if not deflations:
            return None
        for multiple in layer_tuning.WIDER_MULTIPLES:
            if self.clock.expired:
                return None
            upper = self._proven(*deflations[-1], lower * (1 + multiple * rtol))
            if upper is not None:
                return upper
        return None

    def deflated(self, part: float, norm: float) -> tuple[Cover, SplitWaves] | None:
        """Take out the waves with singular values above ``part * norm``; None if they are too many.

        Returns ``cover``: that proves the rest of the circulant; ``waves``.

        The waves of a part are chosen once, for the norm of the first call.
        """
        if part not in self._deflations:
            self._deflations[part] = self._deflate(part * norm)
        return self._deflations[part]

    def _proven(self, cover: Cover, waves: SplitWaves, bound: float) -> Upper | None:
        return norm_by_deflation(self.kernel, self.spec, self.circulant, cover, waves, bound, ops=self.ops)

    def _deflate(self, threshold: float) -> tuple[Cover, SplitWaves] | None:
        """Take out the waves with norms above a threshold; None if they are too many."""
        cover = self._cover(threshold)
        if cover is None:
            return None
        self.clock.check()
        points = first_of_mirrored(cover.open.boxes.centres)
        waves = self._waves_above(points, threshold)
        return None if waves is None else (cover, waves)

    def _cover(self, threshold: float) -> Cover | None:
        """A cover of the circulant that leaves single frequencies open; None if those are too many."""
        boxes = Boxes.dft(self.circulant.points, tuple(self.blocks.shape[3:]), self.circulant.skew)
        cover = Cover(self.blocks, boxes, self.supremum, ops=self.ops)
        polynomial = self._polynomials.whole.float32_copy()
        was_tried = np.zeros(len(cover), dtype=bool)
        while True:
            self.clock.check()
            self._fathom(cover, polynomial, np.flatnonzero(~was_tried), threshold)
            cover.prune()
            if len(cover) > MOST_WAVES:
                return None
            divisible = cover.open.boxes.divisible
            if not divisible.any():
                return cover
            parent = cover.split(np.full(len(cover), 2))
            # A piece whose parent could not be cut is that parent, a single frequency, which was tried.
            was_tried = ~divisible[parent]

    def _fathom(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        index: np.ndarray,
        threshold: float,
    ) -> None:
        """Try to prove that no norm in some cells is above a threshold."""
        eigenvalue_limit = cover.eigenvalue_limits(polynomial, threshold)[index]
        index = index[eigenvalue_limit > self._polynomials.least_eigenvalue_limit(polynomial)]
        for part in self._polynomials.parts(polynomial, len(index)):
            chosen = index[part]
            matrices, _ = cover.form(polynomial, chosen, cover.eigenvalue_limits(polynomial, threshold)[chosen])
            cover.fathom(matrices, threshold)

    def _waves_above(self, points: Frequencies, threshold: float) -> SplitWaves | None:
        """Singular triples above a threshold, scaled to take off what is above it; None if they are too many."""
        xp, ops = self.xp, self.ops
        first, second = self.kernel.shape[1:3]
        self.clock.require(len(points) * first * second * min(first, second))
        symbol = Polynomial(self.kernel, xp=xp).at(points, ops=ops).matrices()[0, ...]
        is_wide = symbol.shape[-1] > symbol.shape[-2]
        tall = arrays.adjoint(symbol, xp=xp) if is_wide else symbol
        gram = arrays.gram_smaller(tall, xp=xp)
        if ops.exact_float32:
            gram = xp.astype(gram, xp.complex64)
        self.clock.require(len(points) * Clock.eigh_cost(gram.shape[-1], is_complex=True))
        _, eigenvectors = xp.linalg.eigh(gram)
        # Right singular vectors as rows, and their images.
        right = xp.matrix_transpose(xp.astype(eigenvectors, symbol.dtype))
        images = xp.matmul(right, xp.matrix_transpose(tall))
        norms = np.asarray(ops.to_numpy(xp.linalg.vector_norm(images, axis=-1)))
        point, which = np.nonzero(norms > threshold)
        if 2 * len(point) > MOST_WAVES:
            return None
        rows = point * norms.shape[1] + which
        v = arrays.rows(xp.reshape(right, (-1, right.shape[-1])), rows, ops=ops)
        u = arrays.rows(xp.reshape(images, (-1, images.shape[-1])), rows, ops=ops)
        norms_above = norms[point, which]
        root = np.sqrt(norms_above - threshold)
        # G v is the norm times a unit vector, so that x y* is u v* times what is above the threshold.
        x = u * xp.astype(ops.from_numpy(root / norms_above, self.kernel), u.dtype)[:, None]
        y = v * xp.astype(ops.from_numpy(root, self.kernel), v.dtype)[:, None]
        if is_wide:
            # u and v are those of the adjoint: G = sum s v u* where G* = sum s u v*.
            x, y = y, x
        return SplitWaves(points, point, x, y)
