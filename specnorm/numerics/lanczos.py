"""Lanczos iterations, of two kinds: for the norms of stacks of matrices, and for several vectors of linear maps.

`Lanczos` has the matrices, keeps no orthogonality, and computes one singular value of each; it can stop and go on.
`top_vectors` applies maps whose products are dear, computes several vectors by blocks and thick restarts, and runs with
static shapes where loops compile. Both return estimates; quotients and factorisations prove bounds from them.
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
    """Steps before the first check of convergence, enough to leave most unfoldings out."""
    more: int = 8
    """Least number of steps before each further check; otherwise half of those taken. A check is a transfer to the
    host."""
    limit: int = 160
    """Most steps. Where the largest values are clustered that can be too few; then the proof takes longer."""
    basis: int = 24
    """Vectors of the block Krylov basis before a restart. The gap of eigenvalues that a restart resolves shrinks with
    its inverse square; orthogonalisation grows with its square."""


TUNING = LanczosTuning()


def vector_tolerance(dtype: Any, *, xp: Namespace) -> float:
    """Tolerance for the residual of singular vectors that make up gradients, in the precision of the matrix."""
    return 1e-8 if dtype == xp.float64 else 2e-6


class Lanczos:
    """The largest singular value of each matrix of a stack, in steps.

    Three-term recurrence on the smaller Gram matrix, formed or not. Vectors lose their orthogonality, which
    repeats values that have converged and spoils none.

    Parameters
    ----------
    matrix : array, shape (b, m, n)
    start : array, shape (b, min(m, n)), optional
        Vectors of another run; random without.
    gram : array, shape (b, min(m, n), min(m, n)), optional
        Of the shorter side, where it is formed anyway: a step is one product with it, in its precision, instead of two.
    tolerance : float
        For the residual, relative to the squared norm. The error of a value is the residual squared over the gap to the
        next one, that of a vector the residual over the gap.

    Attributes
    ----------
    squares : host array, shape (b,)
        Squared norms from below.
    likely_error : host array, shape (b,)
        Relative error of the squared norms, as the residual and the gap to the next value let expect.
    converged : bool host array, shape (b,)
        Where the residual is within the tolerance.
    done : bool host array, shape (b,)
        Where it is, or the last step was taken.
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
        self.xp = xp
        self.ops = ops
        self.matrix = matrix
        self.tolerance = tolerance
        self.wide = matrix.shape[-1] > matrix.shape[-2]
        self.tall = xp.matrix_transpose(matrix) if self.wide else matrix
        self.size = int(self.tall.shape[-1])
        self._gram = gram
        # The array whose precision and device the steps have.
        self._like = matrix if gram is None else gram
        self.host = np.float64 if self._like.dtype == xp.float64 else np.float32
        count = int(matrix.shape[0])
        self.squares = np.zeros(count)
        self.likely_error = np.zeros(count)
        self.converged = np.zeros(count, dtype=bool)
        self.done = self.converged
        self._vectors: Array | None = None
        if not self._is_direct:
            if start is None:
                drawn = np.real(arrays.start_vector(0, self.size)).astype(self.host)
                start = ops.from_numpy(np.repeat(drawn, count, axis=0), self._like)
            first, _ = arrays.normalise(xp.astype(start, self._like.dtype, copy=False), xp=xp)
            self._transposed = xp.matrix_transpose(self.tall)
            self._tiny = float(xp.finfo(self._like.dtype).smallest_normal)
            self._basis = [first[:, :, None]]
            # Diagonal and off-diagonal entries of the projected matrix.
            self._alpha: list[Array] = []
            self._beta: list[Array] = []

    @property
    def _is_direct(self) -> bool:
        """Whether an eigenvalue routine takes the place of the iteration."""
        return self.size <= TUNING.direct

    @property
    def steps(self) -> int:
        """Steps taken so far; none where an eigenvalue routine is faster."""
        return 0 if self._is_direct else len(self._alpha)

    def advance(self) -> None:
        """Take some steps, and check the convergence: one transfer to the host."""
        self._vectors = None
        if self._is_direct:
            gram = arrays.gram_smaller(self.matrix, xp=self.xp)
            values = self.xp.linalg.eigvalsh((gram + self.xp.matrix_transpose(gram)) / 2)[:, -1]
            self.squares = np.maximum(self.ops.to_numpy(values).astype(np.float64), 0.0)
            self.converged = np.ones_like(self.done)
            self.done = self.converged
            return
        for _ in range(self._next_steps()):
            self._step()
        self._check()

    def _next_steps(self) -> int:
        """How many steps are taken before the next check."""
        taken = len(self._alpha)
        if not taken:
            return TUNING.first
        return max(TUNING.more, min(taken // 2, TUNING.limit - taken))

    def _check(self) -> None:
        """Compute the largest Ritz values on the host, and their errors."""
        values, vectors = np.linalg.eigh(self._projected())
        self.squares = np.maximum(values[:, -1], 0.0)
        self._ritz_vectors = vectors[:, :, -1]
        last_beta = self.ops.to_numpy(self._beta[-1])[:, 0, 0]
        residual = last_beta * np.abs(self._ritz_vectors[:, -1])
        self.converged = residual <= self.tolerance * self.squares
        self.done = self.converged | (len(self._alpha) >= TUNING.limit)
        scale = np.maximum(self.squares, self._tiny)
        # After one step nothing is known about a next value: the gap is 0.
        next_value = values[:, max(0, len(self._alpha) - 2)]
        relative_gap = (values[:, -1] - next_value) / scale
        relative_residual = residual / scale
        self.likely_error = relative_residual * np.minimum(
            1.0, relative_residual / np.maximum(relative_gap, self._tiny)
        )

    def use(self, gram: Array) -> None:
        """Go on with the Gram matrix of the shorter side, formed since: a step is one product from now on."""
        self._gram = self.xp.astype(gram, self._like.dtype, copy=False)

    def finish(self) -> Lanczos:
        """Take all steps that are left, and return the run itself."""
        while not self.done.all():
            self.advance()
        return self

    def _step(self) -> None:
        transpose = self.xp.matrix_transpose
        v = self._basis[-1]
        if self._gram is None:
            w = self._transposed @ (self.tall @ v)
        else:
            w = self._gram @ v
        alpha = transpose(v) @ w
        w -= alpha * v
        if self._beta:
            w -= self._beta[-1] * self._basis[-2]
        beta = (transpose(w) @ w) ** 0.5
        w /= beta + self._tiny
        self._basis.append(w)
        self._alpha.append(alpha)
        self._beta.append(beta)

    def _projected(self) -> np.ndarray:
        """Tridiagonal matrices (b, steps, steps), the upper triangle left at 0."""
        steps = len(self._alpha)
        entries = self.ops.to_numpy(self.xp.concat([*self._alpha, *self._beta], axis=1))[:, :, 0]
        projected = np.zeros((len(entries), steps, steps))
        index = np.arange(steps)
        projected[:, index, index] = entries[:, :steps]
        # The last beta belongs to the next step.
        projected[:, index[1:], index[:-1]] = entries[:, steps:-1]
        return projected

    def small_side(self) -> Array:
        """Singular vectors of the shorter side, (b, min(m, n)), as of the last check."""
        if self._vectors is None:
            xp = self.xp
            if self._is_direct:
                _, self._vectors = arrays.top_eigenpair(arrays.gram_smaller(self.tall, xp=xp), xp=xp)
            else:
                weights = self.ops.from_numpy(self._ritz_vectors[:, :, None].astype(self.host), self._like)
                combined = xp.matmul(xp.concat(self._basis[:-1], axis=2), weights)[:, :, 0]
                self._vectors, _ = arrays.normalise(xp.astype(combined, self.matrix.dtype, copy=False), xp=xp)
        return self._vectors

    def vectors(self) -> tuple[Array, Array]:
        """Singular vectors (u, v); zero for a zero matrix."""
        xp = self.xp
        small = self.small_side()
        large, norm = arrays.normalise(xp.matmul(self.tall, small[:, :, None])[:, :, 0], xp=xp)
        small = xp.where(norm > 0, small, xp.zeros_like(small))
        return (small, large) if self.wide else (large, small)


_LEAST_LEFT = 1e-2
"""Part of a vector's length outside of the basis down to which two passes make it orthogonal to the basis."""
_VECTOR_RESIDUAL = 1e-5
"""Error of the vectors, by their residuals, up to which a run ends without another restart."""
_VALUE_RESIDUAL = 0.1
"""Error of the values, in tolerances, up to which it does."""
State: TypeAlias = "tuple[Array, ...]"


@dataclass(frozen=True)
class Plan:
    """When to stop.

    Parameters
    ----------
    n_iter : int
        Most blocks that the map is applied to.
    seed : int
        Seed of the start vectors.
    rtol : float
        Stop where a whole restart gained relatively less than this, or where the residuals tell that one would.
    basis : int, optional
        Most vectors of the basis; None: as tuned.
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
    def of(
        cls,
        size: int,
        k: int,
        n_iter: int,
        memory: int,
        basis: int | None = None,
    ) -> Layout:
        """For the k top eigenvectors of maps of so many dimensions, within so many bytes (three blocks at least)."""
        if size < 3 * k:
            return cls(1, size, 1)  # the whole space is the basis
        wanted = max(3, (basis or TUNING.basis) // k)
        in_memory = max(3, memory // np.dtype("float64").itemsize // (k * size))
        in_space = size // k - 1
        blocks = max(1, min(wanted, in_memory, in_space, n_iter))
        products_of_a_restart = blocks - max(1, blocks // 2)
        products_left = n_iter - blocks
        if products_of_a_restart:
            restarts = -(-products_left // products_of_a_restart)
        else:
            restarts = products_left
        return cls(blocks, k, 1 + restarts)

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
    restart keeps the leading Ritz vectors without special treatment. The quotients taken afterwards are bounds,
    whatever vectors are returned.

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

    def continues(state: State) -> Any:
        cycle, _, _, _, _, _, active, _ = state
        return (cycle < layout.cycles) & xp.any(active)

    _, _, _, _, _, vectors, _, products = ops.loop(continues, run.restart, run.start(start))
    return arrays.normalise(vectors, xp=xp)[0], products


class _Run:
    """Block Lanczos with thick restarts, on a state of static shapes.

    The state: cycle, blocks of the basis so far, basis, projected matrix, Ritz values, vectors, which maps of the batch
    are active, products.
    """

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
        self.gram = gram
        self.like = like
        self.ops = ops
        self.size = size
        self.k = k
        self.layout = layout
        self.plan = plan
        self.b = like.shape[0]
        self.device = ops.device(like)
        self.several = min(several, layout.kept * layout.width)
        host = np.float64 if like.dtype == xp.float64 else np.float32
        first, angles = np.real(arrays.random_vectors(plan.seed, (2, layout.width, size)))
        self._first = ops.from_numpy(np.ascontiguousarray(first.astype(host)), like)
        self._angles = ops.from_numpy(np.ascontiguousarray(angles.astype(host)), like)
        block = xp.reshape(xp.arange(layout.blocks + 1, dtype=xp.int32, device=self.device), (-1, 1))
        block = xp.broadcast_to(block, (layout.blocks + 1, layout.width))
        self._block_of_row = xp.reshape(block, (-1,))[: layout.rows]

    def start(self, start: Array | None) -> State:
        """The state before the first run, with given start vectors if a block has one vector."""
        xp = self.ops.xp
        b, rows = self.b, self.layout.rows
        if start is not None and self.layout.width == 1:
            first = start
        else:
            first = xp.broadcast_to(self._first[None, ...], (b, self.layout.width, self.size))
        counter = arrays.counter(self.like, ops=self.ops)
        return (
            counter,
            counter,
            xp.concat([self._orthonormal(first), self._zeros(b, rows, self.size)], axis=1),
            self._zeros(b, rows, rows),
            self._zeros(b, self.k),
            self._zeros(b, self.several, self.size),
            xp.ones((b,), dtype=xp.bool, device=self.device),
            xp.zeros((b,), dtype=xp.int32, device=self.device),
        )

    def restart(self, state: State) -> State:
        """Fill the basis, and keep its leading Ritz vectors."""
        xp = self.ops.xp
        layout, rows = self.layout, self.layout.rows
        cycle, first_block, basis, projected, best, vectors, active, products = state
        step = self._step if self.ops.concrete else self._step_compiled
        block, basis, projected = self.ops.loop(
            lambda inner: inner[0] < layout.blocks, step, (first_block, basis, projected)
        )
        products = products + xp.astype(active, products.dtype) * (2 * layout.width * (block - first_block))
        upper = xp.triu(projected)
        values, small = xp.linalg.eigh(upper + xp.matrix_transpose(xp.triu(projected, k=1)))
        values, small = xp.flip(values, axis=-1), xp.flip(small, axis=-1)
        keep = layout.kept * layout.width
        ritz = xp.matmul(xp.matrix_transpose(small[:, :, :keep]), basis[:, :rows, :])
        vectors = xp.where(active[:, None, None], ritz[:, : self.several, :], vectors)
        top_values = values[:, : self.k]
        gained = xp.any(top_values - best > self.plan.rtol * top_values[:, :1], axis=-1)
        if self.ops.concrete and rows > self.k:
            gained = gained & ~self._is_close(values, small)
        basis = xp.concat([ritz, basis[:, rows:, :], self._zeros(self.b, rows - keep, self.size)], axis=1)
        eye = xp.eye(rows, dtype=self.like.dtype, device=self.device)
        leading = xp.where(self._block_of_row < layout.kept, values, xp.zeros_like(values))
        projected = eye * leading[:, None, :]
        next_block = block * 0 + layout.kept
        return cycle + 1, next_block, basis, projected, top_values, vectors, active & gained, products

    def _is_close(self, values: Array, small: Array) -> Array:
        """Whether the values, and their vectors for a gradient, are as close as is asked for, going by residuals."""
        xp = self.ops.xp
        last_block = small[:, -self.layout.width :, : self.k]
        residual = xp.linalg.vector_norm(xp.matmul(self._coupling, last_block), axis=-2)
        # The error of a vector is the residual over the gap below the values, that of a value the residual times it.
        gap = values[:, self.k - 1 : self.k] - values[:, self.k : self.k + 1]
        vector_error = residual / xp.where(gap > 0, gap, xp.ones_like(gap))
        value_error = vector_error * residual
        most_value_error = _VALUE_RESIDUAL * self.plan.rtol * values[:, :1]
        close = (vector_error <= _VECTOR_RESIDUAL) & (value_error <= most_value_error)
        return xp.all(close & (gap > 0), axis=-1)

    def _step(self, state: State) -> State:
        """Add a block to the basis in place, by products with the vectors that are there."""
        block, basis, projected = state
        width = self.layout.width
        start, stop = block * width, (block + 1) * width
        w, inner = self._next(basis[:, start:stop, :], basis[:, :stop, :], block)
        projected[:, :stop, start:stop] = inner
        basis[:, stop : stop + width, :] = w
        return block + 1, basis, projected

    def _step_compiled(self, state: State) -> State:
        """Add a block to the basis where shapes may not depend on the count: everything is masked."""
        xp = self.ops.xp
        b, rows = self.b, self.layout.rows
        blocks, width = self.layout.blocks, self.layout.width
        block, basis, projected = state
        by_block = xp.reshape(basis, (b, blocks + 1, width, self.size))
        number = xp.reshape(xp.arange(blocks + 1, dtype=xp.int32, device=self.device), (1, -1, 1, 1))
        v = xp.sum(xp.where(number == block, by_block, xp.zeros_like(by_block)), axis=1)
        w, inner = self._next(v, basis, block)
        columns = xp.broadcast_to(inner[:, :rows, None, :], (b, rows, blocks, width))
        projected = xp.where(self._block_of_row == block, xp.reshape(columns, (b, rows, rows)), projected)
        by_block = xp.where(number == block + 1, w[:, None, :, :], by_block)
        return block + 1, xp.reshape(by_block, basis.shape), projected

    def _next(self, v: Array, basis: Array, block: Array) -> tuple[Array, Array]:
        """The next vectors of the basis, and inner products of H v with those before."""
        xp = self.ops.xp
        image = self.gram(v)
        norm = xp.linalg.vector_norm(image, axis=-1, keepdims=True)
        norm = xp.where(norm > 0, norm, xp.ones_like(norm))
        # But for rounding, the first block of a restart meets all before it, and later ones the last two.
        if self._meets_two(block):
            local = slice(max(0, (block - 1) * self.layout.width), None)
        else:
            local = slice(None)
        w, first_inner = self._orthogonal_part(image, basis[:, local, :])
        # An invariant subspace is exhausted: go on with a direction that changes from step to step, at 64 roundings.
        rounding = 32 * float(xp.finfo(self.like.dtype).eps)
        w = w + norm * (rounding / self.size**0.5) * xp.cos(self._angles * (block + 1))
        w, inner = self._orthogonal_part(w, basis)
        if self._meets_two(block):
            inner[:, local, :] += first_inner
        else:
            inner = inner + first_inner
        if self._cancelled(w, norm):
            # Of a space that is nearly exhausted rounding is left, most of it in the basis: twice is not enough.
            for _ in range(2 if self.ops.concrete else 1):
                w, _ = self._orthogonal_part(self._orthonormal(w), basis)
        w = self._orthonormal(w)
        if self.ops.concrete:
            self._coupling = xp.matmul(w, xp.matrix_transpose(image))
        return w, inner

    def _meets_two(self, block: Any) -> bool:
        """Whether H v of a block has inner products, but for rounding, with the last two blocks alone."""
        return self.ops.concrete and bool(block != self.layout.kept)

    def _cancelled(self, w: Array, norm: Array) -> bool:
        """Whether little may be left of some vectors; assumed where to look would be to wait for a device."""
        if not (self.ops.concrete and self.ops.on_host and self.layout.width == 1):
            return True
        left = self.ops.xp.linalg.vector_norm(w, axis=-1, keepdims=True)
        return not bool(self.ops.xp.all(left > _LEAST_LEFT * norm))

    def _orthonormal(self, w: Array) -> Array:
        """An orthonormal basis of what the vectors of each block span."""
        xp = self.ops.xp
        if self.layout.width == 1:
            return arrays.normalise(w, xp=xp)[0]
        return xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(w))[0])

    def _orthogonal_part(self, w: Array, basis: Array) -> tuple[Array, Array]:
        """The parts of vectors that are orthogonal to a basis, and their inner products with it."""
        xp = self.ops.xp
        inner = xp.matmul(basis, xp.matrix_transpose(w))
        return w - xp.matmul(xp.matrix_transpose(inner), basis), inner

    def _zeros(self, *shape: int) -> Array:
        return self.ops.xp.zeros(shape, dtype=self.like.dtype, device=self.device)
