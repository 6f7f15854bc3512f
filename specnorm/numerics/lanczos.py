"""Lanczos, twice: on stacks of matrices, in steps that are carried on; in blocks, on maps whose products are dear.

`Lanczos` has the matrix, keeps no orthogonality, and finds one value of each. `top_vectors` applies maps, finds several
vectors by thick restarts, and runs with static shapes where loops compile. Only estimates: quotients and factorisations
prove what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps


class LanczosTuning(NamedTuple):
    """How many steps are taken, and between which checks of convergence. It decides on time alone."""

    direct: int = 48
    """Rows or columns up to which an eigenvalue routine of the Gram matrix is faster than any iteration."""
    first: int = 4
    """Steps before the first check, enough to leave most unfoldings out."""
    more: int = 8
    """Steps before each further check at least; half as many as there were. A check is a transfer to the host."""
    limit: int = 160
    """Steps at most. Where the largest values are clustered that can be too few; then the proof takes longer."""
    basis: int = 24
    """Vectors of the block Krylov basis before a restart. The gap of eigenvalues that a restart resolves shrinks with
    its inverse square; orthogonalisation grows with its square."""


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
        self, matrix: Array, start: Array | None = None, *, gram: Array | None = None, tolerance: float, ops: ArrayOps
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


_LEFT = 1e-2
"""Part of a vector's length outside of the basis down to which it is orthogonal to it after two passes."""
_VECTORS, _VALUES = 1e-5, 0.1
"""How far off vectors may be by their residuals, and values in tolerances, where a run ends without another restart."""
State: TypeAlias = "tuple[Array, ...]"


@dataclass(frozen=True)
class Plan:
    """When to stop.

    Parameters
    ----------
    n_iter : int
        Blocks that the map is applied to at most.
    seed : int
        Of the start vectors.
    rtol : float
        Stop where a whole restart gained relatively less than this, or where the residuals tell that one would.
    basis : int, optional
        Vectors of the basis at most; None: as tuned.
    """

    n_iter: int
    seed: int
    rtol: float
    basis: int | None = None


@dataclass(frozen=True)
class Layout:
    """Sizes of a run, static and the same for every batch.

    Parameters
    ----------
    blocks : int
        Blocks of the basis.
    width : int
        Vectors a block.
    cycles : int
        Restarts, the first run among them.
    """

    blocks: int
    width: int
    cycles: int

    @classmethod
    def of(cls, size: int, k: int, n_iter: int, memory: int, basis: int | None = None) -> Layout:
        """For the k top eigenvectors of maps of so many dimensions, within so many bytes (three blocks at least)."""
        if size < 3 * k:
            return cls(1, size, 1)  # the whole space is the basis
        entries = memory // np.dtype("float64").itemsize
        blocks = min(max(3, (basis or TUNING.basis) // k), max(3, entries // (k * size)), size // k - 1, n_iter)
        blocks = max(1, blocks)
        later = blocks - max(1, blocks // 2)
        cycles = 1 + (-(-(n_iter - blocks) // later) if later else n_iter - blocks)
        return cls(blocks, k, cycles)

    @property
    def kept(self) -> int:
        """Blocks of Ritz vectors that a restart keeps."""
        return max(1, self.blocks // 2)

    @property
    def rows(self) -> int:
        """Vectors of the basis."""
        return self.blocks * self.width


def top_vectors(
    gram: Callable[[Array], Array],
    like: Array,
    size: int,
    k: int,
    plan: Plan,
    *,
    several: int = 1,
    start: Array | None = None,
    ops: ArrayOps,
) -> tuple[Array, Array]:
    """Vectors near the k top eigenvectors of symmetric positive semidefinite maps.

    Every vector is orthogonalised against the whole basis, so the projected matrix is made of true inner products and a
    restart keeps the leading Ritz vectors without special treatment. Nothing here has to be right for the quotients
    taken afterwards to be bounds.

    Parameters
    ----------
    gram : callable
        (b, k, size) -> (b, k, size).
    like : array, shape (b, ...)
        For batch, dtype and device.
    several : int
        How many vectors to return, if there are that many and it is more than k.
    start : array, shape (b, 1, size), optional
        For k = 1: where to start from; else random. Not used where the whole space is the basis.

    Returns
    -------
    vectors : array, shape (b, k or more, size)
        Orthonormal up to rounding, by descending Ritz value.
    products : integer array, shape (b,)
        Applications of the map and of its adjoint to one vector each.
    """
    xp = ops.xp
    layout = Layout.of(size, k, plan.n_iter, ops.memory, plan.basis)
    run = _Run(gram, like, size, k, layout, plan, max(k, several), ops=ops)
    state = ops.loop(lambda s: (s[0] < layout.cycles) & xp.any(s[6]), run.restart, run.start(start))
    return arrays.normalise(state[5], xp=xp)[0], state[7]


class _Run:
    def __init__(
        self,
        gram: Callable[[Array], Array],
        like: Array,
        size: int,
        k: int,
        layout: Layout,
        plan: Plan,
        several: int,
        *,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.gram, self.like, self.ops = gram, like, ops
        self.size, self.k, self.layout, self.plan = size, k, layout, plan
        self.b, self.device = like.shape[0], ops.device(like)
        self.several = min(several, layout.kept * layout.width)
        host = np.float64 if like.dtype == xp.float64 else np.float32
        random = np.real(arrays.random_vectors(plan.seed, (2, layout.width, size)))
        self._first = ops.from_numpy(np.ascontiguousarray(random[0].astype(host)), like)
        self._angles = ops.from_numpy(np.ascontiguousarray(random[1].astype(host)), like)
        block = xp.reshape(xp.arange(layout.blocks + 1, dtype=xp.int32, device=self.device), (-1, 1))
        block = xp.broadcast_to(block, (layout.blocks + 1, layout.width))
        self._block_of_row = xp.reshape(block, (-1,))[: layout.rows]

    def start(self, given: Array | None) -> State:
        """(cycle, block, basis, projected matrix, Ritz values, vectors, active, products)."""
        xp, b, rows, like = self.ops.xp, self.b, self.layout.rows, self.like
        first = xp.broadcast_to(self._first[None, ...], (b, self.layout.width, self.size))
        if given is not None and self.layout.width == 1:
            first = given
        first = self._orthonormal(first)
        counter = arrays.counter(like, ops=self.ops)
        return (
            counter,
            counter,
            xp.concat([first, self._zeros(b, rows, self.size)], axis=1),
            self._zeros(b, rows, rows),
            self._zeros(b, self.k),
            self._zeros(b, self.several, self.size),
            xp.ones((b,), dtype=xp.bool, device=self.device),
            xp.zeros((b,), dtype=xp.int32, device=self.device),
        )

    def restart(self, state: State) -> State:
        """Fill the basis, and keep its leading Ritz vectors."""
        xp, layout, rows = self.ops.xp, self.layout, self.layout.rows
        cycle, j, basis, projected, best, vectors, active, products = state
        begun = j
        one = self._step if self.ops.concrete else self._step_compiled
        j, basis, projected = self.ops.loop(lambda s: s[0] < layout.blocks, one, (j, basis, projected))
        products = products + xp.astype(active, products.dtype) * (2 * layout.width * (j - begun))
        upper = xp.triu(projected)
        values, small = xp.linalg.eigh(upper + xp.matrix_transpose(xp.triu(projected, k=1)))
        values, small = xp.flip(values, axis=-1), xp.flip(small, axis=-1)
        keep = layout.kept * layout.width
        ritz = xp.matmul(xp.matrix_transpose(small[:, :, :keep]), basis[:, :rows, :])
        vectors = xp.where(active[:, None, None], ritz[:, : self.several, :], vectors)
        found = values[:, : self.k]
        gained = xp.any(found - best > self.plan.rtol * found[:, :1], axis=-1)
        if self.ops.concrete and rows > self.k:
            gained = gained & ~self._close(values, small)
        basis = xp.concat([ritz, basis[:, rows:, :], self._zeros(self.b, rows - keep, self.size)], axis=1)
        eye = xp.eye(rows, dtype=self.like.dtype, device=self.device)
        leading = xp.where(self._block_of_row < layout.kept, values, xp.zeros_like(values))
        projected = eye * leading[:, None, :]
        return cycle + 1, j * 0 + layout.kept, basis, projected, found, vectors, active & gained, products

    def _close(self, values: Array, small: Array) -> Array:
        """Whether the values, and their vectors for a gradient, are as close as is asked for, going by residuals."""
        xp, rtol = self.ops.xp, self.plan.rtol
        residual = xp.linalg.vector_norm(xp.matmul(self._coupling, small[:, -self.layout.width :, : self.k]), axis=-2)
        # A vector is off by the residual over the gap below the values, a value by the residual times as much.
        gap = values[:, self.k - 1 : self.k] - values[:, self.k : self.k + 1]
        off = residual / xp.where(gap > 0, gap, xp.ones_like(gap))
        near = (off <= _VECTORS) & (off * residual <= _VALUES * rtol * values[:, :1])
        return xp.all(near & (gap > 0), axis=-1)

    def _step(self, state: State) -> State:
        """In place; nothing is met with vectors that are not there yet."""
        j, basis, projected = state
        here, there, width = j * self.layout.width, (j + 1) * self.layout.width, self.layout.width
        w, inner = self._next(basis[:, here:there, :], basis[:, :there, :], j)
        projected[:, :there, here:there] = inner
        basis[:, there : there + width, :] = w
        return j + 1, basis, projected

    def _step_compiled(self, state: State) -> State:
        """Shapes may not depend on the count: everything is masked."""
        xp, b, (blocks, width) = self.ops.xp, self.b, (self.layout.blocks, self.layout.width)
        rows = self.layout.rows
        j, basis, projected = state
        split = xp.reshape(basis, (b, blocks + 1, width, self.size))
        places = xp.reshape(xp.arange(blocks + 1, dtype=xp.int32, device=self.device), (1, -1, 1, 1))
        v = xp.sum(xp.where(places == j, split, xp.zeros_like(split)), axis=1)
        w, inner = self._next(v, basis, j)
        columns = xp.broadcast_to(inner[:, :rows, None, :], (b, rows, blocks, width))
        projected = xp.where(self._block_of_row == j, xp.reshape(columns, (b, rows, rows)), projected)
        split = xp.where(places == j + 1, w[:, None, :, :], split)
        return j + 1, xp.reshape(split, basis.shape), projected

    def _next(self, v: Array, basis: Array, j: Array) -> tuple[Array, Array]:
        """The next vectors of the basis, and inner products of H v with those before."""
        xp = self.ops.xp
        w = image = self.gram(v)
        norm = xp.linalg.vector_norm(w, axis=-1, keepdims=True)
        norm = xp.where(norm > 0, norm, xp.ones_like(norm))
        # But for rounding, a restart's first block meets all before it, and later ones the last two.
        local = slice(max(0, (j - 1) * self.layout.width), None) if self._meets_two(j) else slice(None)
        w, first = self._without(w, basis[:, local, :])
        # An invariant subspace is exhausted: go on with a direction that changes from step to step, at 64 roundings.
        rounding = 32 * float(xp.finfo(self.like.dtype).eps)
        w = w + norm * (rounding / self.size**0.5) * xp.cos(self._angles * (j + 1))
        w, inner = self._without(w, basis)
        if self._meets_two(j):
            inner[:, local, :] += first
        else:
            inner = inner + first
        if self._cancelled(w, norm):
            # Of a space that is nearly exhausted rounding is left, most of it in the basis: twice is not enough.
            for _ in range(2 if self.ops.concrete else 1):
                w, _ = self._without(self._orthonormal(w), basis)
        w = self._orthonormal(w)
        if self.ops.concrete:
            self._coupling = xp.matmul(w, xp.matrix_transpose(image))
        return w, inner

    def _meets_two(self, j: Any) -> bool:
        return self.ops.concrete and bool(j != self.layout.kept)

    def _cancelled(self, w: Array, norm: Array) -> bool:
        """Whether little may be left of some vectors; taken for so where to look would be to wait for a device."""
        if not (self.ops.concrete and self.ops.on_host and self.layout.width == 1):
            return True
        left = self.ops.xp.linalg.vector_norm(w, axis=-1, keepdims=True)
        return not bool(self.ops.xp.all(left > _LEFT * norm))

    def _orthonormal(self, w: Array) -> Array:
        xp = self.ops.xp
        if self.layout.width == 1:
            return arrays.normalise(w, xp=xp)[0]
        return xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(w))[0])

    def _without(self, w: Array, basis: Array) -> tuple[Array, Array]:
        """What is left of vectors outside a basis, and their inner products with it."""
        xp = self.ops.xp
        inner = xp.matmul(basis, xp.matrix_transpose(w))
        return w - xp.matmul(xp.matrix_transpose(inner), basis), inner

    def _zeros(self, *shape: int) -> Array:
        return self.ops.xp.zeros(shape, dtype=self.like.dtype, device=self.device)
