"""Which Gram polynomial a search works with: all directions, or those that matter. Any choice is sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.matrices import norms
from specnorm.certified.symbol.cells import torus, torus_size
from specnorm.certified.symbol.cover import Cover, truncated
from specnorm.certified.symbol.gram_polynomial import GramPolynomial, Rotation, rotate
from specnorm.certified.symbol.scalar import ScalarGram
from specnorm.certified.symbol.symbols import taps_below
from specnorm.clock import Clock
from specnorm.numerics.costs import eigh_work
from specnorm.numerics.power import largest_eigenvalues

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.symbol.cells import Boxes
    from specnorm.certified.symbol.scalar import CentreValues
    from specnorm.search.tuning import Tuning
    from specnorm.types import ArrayOps

_DEGREE = 8
"""Of the estimates of what is left out."""
_RAISED = 1.03
"""Over a threshold that failed; the truncation bound before is three to five times as high."""


_PHASES = 2**22
"""Phases of taps at centres that are computed at once."""


class Polynomials:
    """Gram polynomials of one stack of blocks, each made when it is first needed.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1; p <= m.
    """

    def __init__(self, blocks: Array, tuning: Tuning, *, clock: Clock | None = None, ops: ArrayOps) -> None:
        self.blocks, self.tuning, self.ops, self.clock = blocks, tuning, ops, clock or Clock()
        self._reduced: GramPolynomial | None = None
        self._narrow: GramPolynomial | None = None
        self._whole: GramPolynomial | None = None
        self._closer: GramPolynomial | None = None

    @property
    def whole(self) -> GramPolynomial:
        """Nothing left out."""
        if self._whole is None:
            kind = ScalarGram if self.is_scalar else GramPolynomial
            self._whole = kind(self.blocks, tick=self.clock.check, ops=self.ops)
        return self._whole

    @property
    def is_scalar(self) -> bool:
        """Whether the symbols have one column, and so many taps that a Gram polynomial takes longer than they do."""
        return self.blocks.shape[2] == 1 and math.prod(self.blocks.shape[3:]) >= self.tuning.scalar_taps

    def at_centres(self, boxes: Boxes) -> CentreValues | None:
        """Values of scalar symbols at the centres of a cover's boxes, where there is memory for them."""
        if not self.is_scalar or 2 * 8 * self.blocks.shape[0] * len(boxes) > self.ops.memory:
            return None
        # The phases of long kernels take seconds, in which no clock is asked: these are searched in parts.
        if len(boxes) * sum(self.blocks.shape[3:]) > _PHASES:
            return None
        whole = self.whole
        return whole.at_centres(boxes) if isinstance(whole, ScalarGram) else None

    def near(self, threshold: float, trial_vectors: Array | None, *, narrow: bool = False) -> GramPolynomial:
        """For norms around a threshold; trial vectors are directions to keep. ``narrow``: in float32 throughout."""
        if threshold <= 0 or trial_vectors is None:
            return self.whole if threshold <= 0 or self._reduced is None else self._reduced
        narrow = narrow and self.ops.exact_float32
        known = self._narrow if narrow else self._reduced
        if known is None or known.truncation > 0.6 * threshold**2:
            self.clock.require(self.blocks.shape[0] * eigh_work(self.blocks.shape[2]))
            rotation = choose_rotation(self.blocks, threshold, trial_vectors, self.tuning, narrow=narrow, ops=self.ops)
            if rotation is None:
                known = self.whole
            else:
                known = GramPolynomial(self.blocks, rotation, tick=self.clock.check, ops=self.ops)
            if narrow:
                self._narrow = known
            else:
                self._reduced = known
        return known

    def closer(self, polynomial: GramPolynomial, cover: Cover) -> GramPolynomial:
        """The one in use, once with a closer bound of what it leaves out, where enough open cells repay that."""
        if polynomial is not self._reduced or polynomial is self._closer:
            return polynomial
        g, _, p, *shape = self.blocks.shape
        large, cells = g == 1 and p >= self.tuning.smallest_shared, np.count_nonzero(~cover.done)
        if large and cells >= self.tuning.covered * torus_size(tuple(shape)):
            self._reduced = self._closer = sharpened(polynomial, self.parts, ops=self.ops)
        return self._reduced

    def for_trial(self, polynomial: GramPolynomial, threshold: float, radius: np.ndarray) -> GramPolynomial:
        """Its copy in float32 where that is enough for most cells of such radii: large ones have limits far below."""
        if polynomial.rank < self.tuning.smallest_float32 or not threshold > 0:
            return polynomial
        copied, xp = polynomial.float32_copy(), self.ops.xp
        like = xp.astype(copied.even[:1, :1, :1], arrays.complex_dtype(copied.even.dtype, xp=xp))
        lost = norms.likely_loss(polynomial.rank, like, ops=self.ops) + copied.error / threshold**2
        return copied if float(radius.min(initial=math.inf)) ** 2 > self.tuning.margin_float32 * lost else polynomial

    def least_limit_sq(self, polynomial: GramPolynomial) -> float:
        """Limit below which matrices are not reduced; above the truncation bound."""
        return max(self.tuning.clear * polynomial.truncation, polynomial.error)

    def parts(self, polynomial: GramPolynomial, count: int) -> Iterator[slice]:
        """Slices of so many cells that fit the memory budget, as long as there is time."""
        chunk = self._chunk(polynomial)
        for first in range(0, count, chunk):
            self.clock.check()
            yield slice(first, min(first + chunk, count))

    def _chunk(self, polynomial: GramPolynomial) -> int:
        """Cells at once within the memory budget: some complex matrices each, and the coefficients of many blocks."""
        size, rank, lags = polynomial.size, polynomial.rank, len(polynomial.lags)
        if isinstance(polynomial, ScalarGram):
            # The taps, and about as much for their phases along the axes.
            return max(1, self.tuning.cache // (2 * 8 * math.prod(self.blocks.shape[1:])))
        gathered = 2 * 8 * lags * size * rank if self.blocks.shape[0] > 1 else 0
        each = polynomial.itemsize * (3 * size * rank + 4 * rank**2) + 12 * 8 * lags + gathered
        # On the host in the cache, but enough cells to read the coefficients only now and then.
        few = max(8, self.tuning.cache // each) if polynomial.ops.on_host else math.inf
        return int(min(few, max(1, polynomial.ops.memory // each)))


def choose_rotation(
    blocks: Array, threshold: float, trial_vectors: Array, tuning: Tuning, *, narrow: bool = False, ops: ArrayOps
) -> Rotation | None:
    """A basis with the large directions first, and how many of them to keep; None where too many matter.

    ``narrow``: in float32.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
    trial_vectors : array, shape (g, h, p)
        Complex right vectors at frequencies where the norm is large: directions to keep.
    """
    xp, p = ops.xp, blocks.shape[2]
    if p < tuning.smallest_reduced:
        return None
    taps = math.prod(blocks.shape[3:])
    # Single precision tells directions apart; the basis is orthogonal to the precision of its factorisation.
    low = taps_below(xp.astype(blocks, xp.float32), xp=xp)
    gram = xp.astype(xp.matmul(xp.matrix_transpose(low), low), blocks.dtype)
    # The trial vectors first, then the large directions of what is orthogonal to them.
    span = xp.concat([xp.real(trial_vectors), xp.imag(trial_vectors)], axis=1)
    span = span[:, : min(p // 2, span.shape[1]), :]
    first, _ = xp.linalg.qr(xp.matrix_transpose(span))
    kept = first.shape[-1]
    across, turned = xp.matmul(gram, first), xp.matrix_transpose(first)
    gram = gram - xp.matmul(across, turned)
    gram = gram - xp.matmul(first, xp.matmul(turned, gram))
    lift = 2 * xp.sum(xp.linalg.diagonal(gram), axis=-1) + threshold**2
    gram = gram + lift[:, None, None] * xp.matmul(first, turned)
    gram = (gram + xp.matrix_transpose(gram)) / 2
    values, basis = xp.linalg.eigh(xp.astype(gram, xp.float32) if narrow else gram)
    largest = ops.to_numpy(xp.max(values, axis=0))[::-1]
    allowed = tuning.truncation * threshold**2
    # ||G w||**2 <= taps sum_k ||K_k w||**2, as in `truncation_bound`; a little less, for its allowance.
    rank = kept + int(np.count_nonzero(taps * largest[kept:] > 0.98 * allowed))
    if rank > min(tuning.widest_reduced * p, p - 1):
        return None
    rotation = rotate(blocks, xp.flip(basis, axis=-1), rank, ops=ops)
    # Otherwise the factorisation was not good enough to be of use.
    return rotation if rotation.truncation <= 1.1 * allowed and rotation.shrink >= 0.999 else None


def sharpened(
    polynomial: GramPolynomial, parts: Callable[[GramPolynomial, int], Iterator[slice]], *, ops: ArrayOps
) -> GramPolynomial:
    """The polynomial with a truncation bound within 1.4 of the square of the norm that is left out, more or less.

    By a cover of what is left out with the first cells alone.

    Parameters
    ----------
    parts : callable
        Slices of so many cells that fit the memory budget.
    """
    rest = polynomial.left_out
    whole = GramPolynomial(rest, tick=polynomial.tick, ops=ops).float32_copy()
    # Far below what can be proven, but not 0.
    cover, threshold = Cover(rest, torus(rest.shape[3:]), ops=ops), 1e-3 * math.sqrt(polynomial.truncation)
    radius, size = cover.open.boxes.radius, rest.shape[2]
    drawn = ops.from_numpy(arrays.random_vectors(0, (1, size)), rest)
    for part in parts(whole, len(cover)):
        index = np.arange(part.start, part.stop)
        formed, _ = cover.form(whole, index, np.zeros(len(index)))
        vectors = ops.xp.astype(ops.xp.broadcast_to(drawn, (len(formed), size)), formed.matrices.dtype)
        found, _ = largest_eigenvalues(formed.matrices, vectors, np.zeros(len(formed)), _DEGREE, rest, ops=ops)
        threshold = max(threshold, float((np.sqrt(found) / np.cos(radius[index])).max()))
        passed = cover.fathom(formed, threshold)
        while not passed.all():
            formed, threshold = formed.take(np.flatnonzero(~passed), ops=ops), _RAISED * threshold
            passed = cover.fathom(formed, threshold)
    cover.prune()
    return truncated(polynomial, cover)
