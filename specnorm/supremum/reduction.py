"""Which Gram polynomial a search works with: all directions, or those that matter. Any choice is sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.running.search import Clock
from specnorm.supremum import tuning
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.cells import Boxes
    from specnorm.symbols.proofs.polynomial import CentreValues, GramPolynomial


class Polynomials:
    """Gram polynomials of one stack of blocks, each made when it is first needed.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the widest dtype of the library, scaled to about 1; p <= m.

    Attributes
    ----------
    tolerance : float
        Relative tolerance to which norms are enclosed with polynomials that are made from now on; 0 if it is not known.
    """

    def __init__(self, blocks: Array, *, clock: Clock | None = None, ops: ArrayOps) -> None:
        self.blocks = blocks
        self.ops = ops
        self.clock = clock or Clock()
        self.tolerance = 0.0
        self._reduced: GramPolynomial | None = None
        self._reduced_in_float32: GramPolynomial | None = None
        self._whole: GramPolynomial | None = None

    @property
    def whole(self) -> GramPolynomial:
        """The polynomial of all directions."""
        if self._whole is None:
            polynomial = Polynomial(self.blocks, xp=self.ops.xp)
            self._whole = polynomial.gram(by_axis=self.is_by_axis, tick=self.clock.check, ops=self.ops)
        return self._whole

    @property
    def is_by_axis(self) -> bool:
        """Whether symbols are evaluated axis by axis: those with one column and many taps."""
        return self.blocks.shape[2] == 1 and math.prod(self.blocks.shape[3:]) >= tuning.SCALAR_TAPS

    def at_centres(self, boxes: Boxes) -> CentreValues | None:
        """Values of scalar symbols at the centres of a cover's boxes; None for other symbols, or without the memory."""
        return self.whole.at_centres(boxes) if self.has_values(len(boxes)) else None

    def has_values(self, centre_count: int) -> bool:
        """Whether the values at so many centres are computed at once: of scalar symbols, if they fit the memory."""
        bytes_of_values = 2 * 8 * self.blocks.shape[0] * centre_count
        if not self.is_by_axis or bytes_of_values > self.ops.memory:
            return False
        # The phases of very long kernels take seconds in which no clock is asked: such kernels are searched in parts.
        return 2 * 8 * centre_count * sum(self.blocks.shape[3:]) <= tuning.CACHE_BYTES

    def reduced(
        self,
        threshold: float,
        trial_vectors: Array | None,
        *,
        in_float32: bool = False,
    ) -> GramPolynomial:
        """The Gram polynomial with which cells are compared with a threshold: of fewer directions if that saves time.

        Of a polynomial that is reduced, the directions (combinations of channels) far below the threshold are left out,
        and bounded once for all frequencies.

        ``trial_vectors`` (g, h, p): directions to keep; None: no polynomial is reduced, but one that has been reduced
        is used. ``in_float32``: whether everything may be in float32.
        """
        if threshold <= 0:
            return self.whole
        if trial_vectors is None:
            return self.whole if self._reduced is None else self._reduced
        in_float32 = in_float32 and self.ops.exact_float32
        polynomial = self._reduced_in_float32 if in_float32 else self._reduced
        if polynomial is None or self.least_eigenvalue_limit(polynomial) > threshold**2:
            polynomial = self._reduce(threshold, trial_vectors, in_float32=in_float32)
        return polynomial

    def _reduce(
        self,
        threshold: float,
        trial_vectors: Array,
        *,
        in_float32: bool,
    ) -> GramPolynomial:
        """Leave out what is far below a threshold, if that is enough to save time."""
        self.clock.require(self.blocks.shape[0] * Clock.eigh_cost(self.blocks.shape[2]))
        rotated = choose_rotation(self.blocks, threshold, trial_vectors, in_float32=in_float32, ops=self.ops)
        polynomial = self.whole if rotated is None else rotated.gram(tick=self.clock.check, ops=self.ops)
        if in_float32:
            self._reduced_in_float32 = polynomial
        else:
            self._reduced = polynomial
        return polynomial

    def for_trial(
        self,
        polynomial: GramPolynomial,
        threshold: float,
        radius: np.ndarray,
    ) -> GramPolynomial:
        """The polynomial in float32 if that is precise enough for the smallest cell, else as it is.

        A float32 proof can only fail, never be false: its rounding is in its limits. A cell of radius phi leaves about
        phi**2 of the squared threshold for that rounding.

        ``radius`` (c,): radii of the cells.
        """
        if polynomial.rank < tuning.SMALLEST_REDUCED or not threshold > 0:
            return polynomial
        xp = self.ops.xp
        copy = polynomial.float32_copy()
        # Of this array, only the dtype and the device are used.
        like = xp.astype(self.blocks[:1, :1, :1, ...], arrays.complex_dtype(copy.dtype, xp=xp))
        float32_error = norms.likely_loss(polynomial.rank, like, ops=self.ops) + copy.error / threshold**2
        smallest_radius = float(radius.min(initial=math.inf))
        return copy if smallest_radius**2 > float32_error else polynomial

    def least_eigenvalue_limit(self, polynomial: GramPolynomial) -> float:
        """Smallest limit for which matrices are reduced: above the truncation bound, and above the rounding."""
        return max(tuning.LEAST_LIMIT_OVER_TRUNCATION * polynomial.truncation, polynomial.error)

    def parts(self, polynomial: GramPolynomial, count: int) -> Iterator[slice]:
        """Slices of cells that fit the memory budget. Raises `OutOfTime` before one if the time is up."""
        at_once = self._cells_at_once(polynomial)
        for first in range(0, count, at_once):
            self.clock.check()
            yield slice(first, min(first + at_once, count))

    def _cells_at_once(self, polynomial: GramPolynomial) -> int:
        """Cells at once within the memory budget: some complex matrices each, and the coefficients of many blocks."""
        if self.is_by_axis:
            # The taps, and about as much for their phases along the axes.
            return max(1, tuning.CACHE_BYTES // (2 * 8 * math.prod(self.blocks.shape[1:])))
        size, rank, lags = polynomial.size, polynomial.rank, len(polynomial.lags)
        coefficients = 2 * 8 * lags * size * rank if self.blocks.shape[0] > 1 else 0
        matrices = polynomial.itemsize * (3 * size * rank + 4 * rank**2)
        bytes_of_a_cell = matrices + 12 * 8 * lags + coefficients
        in_memory = max(1, polynomial.ops.memory // bytes_of_a_cell)
        if not polynomial.ops.on_host:
            return int(in_memory)
        # On the host as many as fit its cache, but at least 8: each part reads the coefficients of all lags.
        return int(min(max(8, tuning.CACHE_BYTES // bytes_of_a_cell), in_memory))


def choose_rotation(
    blocks: Array,
    threshold: float,
    trial_vectors: Array,
    *,
    in_float32: bool = False,
    ops: ArrayOps,
) -> Polynomial | None:
    """Blocks rotated to a basis with the large directions first, and how many of them to keep; None if too many matter.

    ``blocks`` is (g, m, p, *kernel_shape). ``trial_vectors`` (g, h, p): complex right vectors at frequencies where the
    norm is large: directions to keep. ``in_float32``: whether the basis is computed in float32.
    """
    xp = ops.xp
    p = blocks.shape[2]
    if p < tuning.SMALLEST_REDUCED:
        return None
    taps = math.prod(blocks.shape[3:])
    eigenvalues, basis, trial_count = _directions(blocks, threshold, trial_vectors, in_float32=in_float32, ops=ops)
    descending = ops.to_numpy(xp.max(eigenvalues, axis=0))[::-1]
    # ||G w||**2 <= taps sum_k ||K_k w||**2, as in `truncation_bound`.
    bounds = taps * descending[trial_count:]
    allowed = tuning.TRUNCATION * threshold**2
    # Less 2 % for the rounding in `truncation_bound`.
    rank = trial_count + int(np.count_nonzero(bounds > 0.98 * allowed))
    if 2 * rank**2 > p**2:
        # The reduced matrices would have more than half of the entries.
        return None
    rotated = Polynomial(blocks, xp=xp).rotated(xp.flip(basis, axis=-1), rank, ops=ops)
    # If the factorization was imprecise, the bound of the truncation or the basis is not good enough.
    is_usable = rotated.truncation <= 1.1 * allowed and rotated.shrink >= 0.999
    return rotated if is_usable else None


def _directions(
    blocks: Array,
    threshold: float,
    trial_vectors: Array,
    *,
    in_float32: bool,
    ops: ArrayOps,
) -> tuple[Array, Array, int]:
    """Eigenvalues of ``sum_k K_k^T K_k``, ascending, and an orthonormal basis; the trial vectors' directions are last.

    Returns ``eigenvalues`` (g, p): those of the trial vectors' directions are raised above all others; ``basis`` (g, p,
    p); ``trial_count``: how many directions the trial vectors have.
    """
    xp = ops.xp
    p = blocks.shape[2]
    # Single precision tells directions apart; the basis is orthogonal to the precision of its factorization.
    columns = Polynomial(xp.astype(blocks, xp.float32), xp=xp).stacked_taps
    gram = xp.astype(xp.matmul(xp.matrix_transpose(columns), columns), blocks.dtype)
    trial_span = xp.concat([xp.real(trial_vectors), xp.imag(trial_vectors)], axis=1)
    trial_span = trial_span[:, : min(p // 2, trial_span.shape[1]), :]
    trial, _ = xp.linalg.qr(xp.matrix_transpose(trial_span))
    transposed = xp.matrix_transpose(trial)
    # What is orthogonal to the trial directions, from both sides; then these with eigenvalues above all others.
    gram = gram - xp.matmul(xp.matmul(gram, trial), transposed)
    gram = gram - xp.matmul(trial, xp.matmul(transposed, gram))
    lift = 2 * xp.sum(xp.linalg.diagonal(gram), axis=-1) + threshold**2
    gram = gram + lift[:, None, None] * xp.matmul(trial, transposed)
    gram = (gram + xp.matrix_transpose(gram)) / 2
    eigenvalues, basis = xp.linalg.eigh(xp.astype(gram, xp.float32) if in_float32 else gram)
    return eigenvalues, basis, trial.shape[-1]
