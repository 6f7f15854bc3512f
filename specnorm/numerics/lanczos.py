"""Lanczos on stacks of real matrices, carried on where it stopped: their norms from below, and their vectors.

Only estimates: `rounding` proves what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True, eq=False)
class LanczosTuning:
    """How many steps are taken, and between which checks of convergence. It decides on time alone.

    Parameters
    ----------
    direct : int
        Rows or columns up to which an eigenvalue routine of the Gram matrix is faster than any iteration.
    first : int
        Steps before the first check, enough to leave most unfoldings out.
    more : int
        Steps before each further check at least; half as many as there were. A check is a transfer to the host.
    limit : int
        Steps at most. Where the largest values are clustered that can be too few; then the proof takes longer.
    """

    direct: int = 48
    first: int = 4
    more: int = 8
    limit: int = 160


TUNING = LanczosTuning()


def vector_tolerance(dtype: Any, *, xp: Namespace) -> float:
    """Of the residual of singular vectors: they make up gradients, in the precision of the matrix."""
    return 1e-8 if dtype == xp.float64 else 2e-6


class Lanczos:
    """The largest singular value of each matrix of a stack, in steps.

    Three-term recurrence on the smaller Gram matrix, formed or not. Vectors lose their orthogonality, which
    repeats values that have converged and spoils none.

    Parameters
    ----------
    matrix : array, shape (b, m, n)
    start : array, shape (b, min(m, n)), optional
        From another run; random without.
    gram : array, shape (b, min(m, n), min(m, n)), optional
        Of the shorter side, where it is formed anyway: a step is one product with it, in its precision, instead of two.
    tolerance : float
        Of the residual. A value is off by its square over the gap to the next one, a vector by the residual over it.

    Attributes
    ----------
    squares : host array, shape (b,)
        Squared norms from below.
    off : host array, shape (b,)
        What they are off by, relatively, as the residual and the gap to the next value let expect.
    converged, done : host arrays, shape (b,)
        Where they have converged, and where that or the last step has come.
    """

    def __init__(
        self,
        matrix: Array,
        start: Array | None = None,
        *,
        gram: Array | None = None,
        tolerance: float,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.xp, self.ops, self.matrix = xp, ops, matrix
        self.wide = matrix.shape[-1] > matrix.shape[-2]
        self.tall = xp.matrix_transpose(matrix) if self.wide else matrix
        self.size = int(self.tall.shape[-1])
        self._gram, self._like = gram, matrix if gram is None else gram
        self.host = np.float64 if self._like.dtype == xp.float64 else np.float32
        self.tolerance = tolerance
        count = int(matrix.shape[0])
        self.squares, self.off = np.zeros(count), np.zeros(count)
        self.converged = self.done = np.zeros(count, dtype=bool)
        self._vectors: Array | None = None
        if self.size > TUNING.direct:
            if start is None:
                drawn = np.real(arrays.start_vector(0, self.size)).astype(self.host)
                start = ops.from_numpy(np.repeat(drawn, count, axis=0), self._like)
            self._back = xp.matrix_transpose(self.tall)
            self._tiny = float(xp.finfo(self._like.dtype).smallest_normal)
            self._basis = [arrays.normalise(xp.astype(start, self._like.dtype, copy=False), xp=xp)[0][:, :, None]]
            self._alpha: list[Array] = []
            self._beta: list[Array] = []

    @property
    def steps(self) -> int:
        """Taken so far; none where an eigenvalue routine is faster."""
        return len(self._alpha) if self.size > TUNING.direct else 0

    def advance(self) -> None:
        """Some steps; one transfer to the host."""
        self._vectors = None
        if self.size <= TUNING.direct:
            gram = arrays.gram_smaller(self.matrix, xp=self.xp)
            values = self.xp.linalg.eigvalsh((gram + self.xp.matrix_transpose(gram)) / 2)[:, -1]
            self.squares = np.maximum(self.ops.to_numpy(values).astype(np.float64), 0.0)
            self.converged = self.done = np.ones_like(self.done)
            return
        taken = len(self._alpha)
        for _ in range(max(TUNING.more, min(taken // 2, TUNING.limit - taken)) if taken else TUNING.first):
            self._step()
        squares, vectors = np.linalg.eigh(self._projected())
        self.squares, self._small = np.maximum(squares[:, -1], 0.0), vectors[:, :, -1]
        last = self.ops.to_numpy(self._beta[-1])[:, 0, 0]
        residual = last * np.abs(self._small[:, -1])
        self.converged = residual <= self.tolerance * self.squares
        share = residual / np.maximum(self.squares, self._tiny)
        # Of one step nothing is known about a next value.
        gap = (squares[:, -1] - squares[:, max(0, len(self._alpha) - 2)]) / np.maximum(self.squares, self._tiny)
        self.off = share * np.minimum(1.0, share / np.maximum(gap, self._tiny))
        self.done = self.converged | (len(self._alpha) >= TUNING.limit)

    def use(self, gram: Array) -> None:
        """Go on with the Gram matrix of the shorter side, formed since: a step is one product from here on."""
        self._gram = self.xp.astype(gram, self._like.dtype, copy=False)

    def finish(self) -> Lanczos:
        """All steps that are left; the run itself."""
        while not self.done.all():
            self.advance()
        return self

    def _step(self) -> None:
        v, turned = self._basis[-1], self.xp.matrix_transpose
        w = self._back @ (self.tall @ v) if self._gram is None else self._gram @ v
        alpha = turned(v) @ w
        w -= alpha * v
        if self._beta:
            w -= self._beta[-1] * self._basis[-2]
        beta = (turned(w) @ w) ** 0.5
        w /= beta + self._tiny
        self._basis.append(w)
        self._alpha.append(alpha)
        self._beta.append(beta)

    def _projected(self) -> np.ndarray:
        """The tridiagonal matrices, lower triangle."""
        found = self.ops.to_numpy(self.xp.concat([*self._alpha, *self._beta], axis=1))[:, :, 0]
        steps = len(self._alpha)
        out = np.zeros((len(found), steps, steps))
        every = np.arange(steps)
        out[:, every, every] = found[:, :steps]
        out[:, every[1:], every[:-1]] = found[:, steps:-1]
        return out

    def small_side(self) -> Array:
        """Singular vectors of the shorter side, (b, min(m, n)), where the last check found them."""
        if self._vectors is None:
            xp = self.xp
            if self.size <= TUNING.direct:
                self._vectors = arrays.top_eigenpair(arrays.gram_smaller(self.tall, xp=xp), xp=xp)[1]
            else:
                weights = self.ops.from_numpy(self._small[:, :, None].astype(self.host), self._like)
                combined = xp.matmul(xp.concat(self._basis[:-1], axis=2), weights)[:, :, 0]
                self._vectors = arrays.normalise(xp.astype(combined, self.matrix.dtype, copy=False), xp=xp)[0]
        return self._vectors

    def vectors(self) -> tuple[Array, Array]:
        """Singular vectors (u, v); zero for a zero matrix."""
        xp, small = self.xp, self.small_side()
        large, norm = arrays.normalise(xp.matmul(self.tall, small[:, :, None])[:, :, 0], xp=xp)
        small = xp.where(norm > 0, small, xp.zeros_like(small))
        return (small, large) if self.wide else (large, small)
