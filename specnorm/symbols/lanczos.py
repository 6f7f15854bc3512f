"""Two Lanczos iterations: `Lanczos` for stacks of explicit matrices, `top_vectors` for maps given by their action.

`Lanczos` computes the largest singular value of each matrix, without reorthogonalisation; the caller decides after each
check whether to go on. `top_vectors` computes several singular vectors of a map whose products are expensive, by blocks
with full orthogonalisation and thick restarts; under compilers it runs with static shapes. Both return estimates, from
which quotients and factorizations elsewhere prove bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from specnorm.backends import arrays

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

DIRECT_SIZE = 64
"""Size of the Gram matrix up to which an eigenvalue routine is faster than the iteration."""
STEPS_BEFORE_FIRST_CHECK = 4
"""Steps before the first check of convergence. Four steps rule out most unfoldings of a kernel where the smallest
norm of all unfoldings is wanted."""
STEPS_BETWEEN_CHECKS = 8
"""Least number of steps between later checks, each of which transfers data to the host. After t steps, the next
check comes after ``max(STEPS_BETWEEN_CHECKS, min(t // 2, MOST_STEPS - t))`` more."""
MOST_STEPS = 160
"""Number of steps after which no more are begun; the last ones may pass it. It can be too small if the largest
singular values are clustered; then the bound's proof takes longer."""
BASIS_SIZE = 24
"""Number n of basis vectors before a restart of `top_vectors`. A restart resolves gaps of eigenvalues of relative
size 1 / n**2; the cost of orthogonalisation grows as n**2."""


class Lanczos:
    """Lanczos iteration for the largest singular value of each matrix of a stack, some steps at a time.

    It is the three-term recurrence on the smaller Gram matrix, which need not be formed. The vectors lose their
    orthogonality; that duplicates converged Ritz values, but makes none of them wrong.

    Parameters
    ----------
    matrix : array, shape (b, m, n)
    start : array, shape (b, min(m, n)), optional
        Start vectors, such as those of an earlier run; default random.
    gram : array, shape (b, min(m, n), min(m, n)), optional
        The smaller Gram matrices, if they are formed anyway: a step is then one product in their precision, instead of
        two products with ``matrix``.
    tolerance : float
        For the residual of the Gram matrix, relative to the squared norm. The error of a Ritz value is the squared
        residual over the gap to the next eigenvalue, that of a Ritz vector the residual over the gap.

    Attributes
    ----------
    squares : host array, shape (b,)
        Estimates of the squared norms, from below.
    likely_error : host array, shape (b,)
        Estimated relative errors of ``squares``, from residuals and gaps.
    converged : bool host array, shape (b,)
        Whether the residual is within the tolerance.
    done : bool host array, shape (b,)
        Whether to stop: converged, or all steps are taken.
    has_more_columns : bool
        Whether the matrices have more columns than rows.
    tall : array
        The matrices, transposed if they have more columns than rows.
    size : int
        Rows of the smaller Gram matrix.
    host_dtype : type
        The NumPy dtype in which host arrays are passed to the iteration.
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
        self.has_more_columns = matrix.shape[-1] > matrix.shape[-2]
        self.tall = xp.matrix_transpose(matrix) if self.has_more_columns else matrix
        self.size = int(self.tall.shape[-1])
        self._gram = gram
        # An array with the dtype and device of the iteration.
        self._like = matrix if gram is None else gram
        self.host_dtype = np.float64 if self._like.dtype == xp.float64 else np.float32
        count = int(matrix.shape[0])
        self.squares = np.zeros(count)
        self.likely_error = np.zeros(count)
        self.converged = np.zeros(count, dtype=bool)
        self.done = self.converged
        self._vectors: Array | None = None
        if not self._is_direct:
            if start is None:
                drawn = np.real(arrays.start_vector(0, self.size)).astype(self.host_dtype)
                start = ops.from_numpy(np.repeat(drawn, count, axis=0), self._like)
            first, _ = arrays.normalise(xp.astype(start, self._like.dtype, copy=False), xp=xp)
            self._transposed = xp.matrix_transpose(self.tall)
            self._tiny = float(xp.finfo(self._like.dtype).smallest_normal)
            self._rounding = 8 * math.sqrt(self.size) * float(xp.finfo(self._like.dtype).eps)
            self._basis = [first[:, :, None]]
            # Diagonal and off-diagonal entries of the tridiagonal projected matrix, one of each for a step.
            self._alpha: list[Array] = []
            self._beta: list[Array] = []

    @property
    def _is_direct(self) -> bool:
        """Whether the matrices are so small that an eigenvalue routine replaces the iteration."""
        return self.size <= DIRECT_SIZE

    @property
    def steps(self) -> int:
        """Number of steps so far; 0 if an eigenvalue routine replaces the iteration."""
        return 0 if self._is_direct else len(self._alpha)

    def advance(self) -> None:
        """Take the steps up to the next check, and check the convergence, which transfers data to the host."""
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
        """Number of steps before the next check."""
        taken = len(self._alpha)
        if not taken:
            return STEPS_BEFORE_FIRST_CHECK
        return max(STEPS_BETWEEN_CHECKS, min(taken // 2, MOST_STEPS - taken))

    def _check(self) -> None:
        """Compute the largest Ritz values and their likely errors on the host."""
        values, vectors = np.linalg.eigh(self._projected())
        self.squares = np.maximum(values[:, -1], 0.0)
        self._ritz_vectors = vectors[:, :, -1]
        last_beta = self.ops.to_numpy(self._beta[-1])[:, 0, 0]
        residual = last_beta * np.abs(self._ritz_vectors[:, -1])
        self.converged = residual <= self.tolerance * self.squares
        self.done = self.converged | (len(self._alpha) >= MOST_STEPS)
        scale = np.maximum(self.squares, self._tiny)
        # After the first step there is no second Ritz value: the gap is taken as 0.
        second_value = values[:, max(0, len(self._alpha) - 2)]
        relative_gap = (values[:, -1] - second_value) / scale
        relative_residual = residual / scale
        self.likely_error = relative_residual * np.minimum(
            1.0, relative_residual / np.maximum(relative_gap, self._tiny)
        )

    @staticmethod
    def vector_tolerance(dtype: Any, *, xp: Namespace) -> float:
        """Tolerance for singular vectors from which a gradient is formed; by the dtype of the matrix.

        The error of a vector is this number over the relative gap to the next eigenvalue. That of the norm, its square
        over the gap, is usually a rounding.
        """
        return 1e-8 if dtype == xp.float64 else 2e-6

    def finish(self) -> Lanczos:
        """Advance until all matrices are done, and return self."""
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
        removed = self.xp.abs(alpha)
        if self._beta:
            w -= self._beta[-1] * self._basis[-2]
            removed = removed + self._beta[-1]
        beta = (transpose(w) @ w) ** 0.5
        # Where nothing but rounding is left of H v, the basis spans an invariant space: a vector of rounding errors
        # would be one of those that it has, again.
        w = self.xp.where(beta > self._rounding * removed, w / (beta + self._tiny), self.xp.zeros_like(w))
        self._basis.append(w)
        self._alpha.append(alpha)
        self._beta.append(beta)

    def _projected(self) -> np.ndarray:
        """Projected tridiagonal matrices (b, steps, steps) on the host; the upper triangle is not filled."""
        steps = len(self._alpha)
        entries = self.ops.to_numpy(self.xp.concat([*self._alpha, *self._beta], axis=1))[:, :, 0]
        projected = np.zeros((len(entries), steps, steps))
        index = np.arange(steps)
        projected[:, index, index] = entries[:, :steps]
        # The last beta couples the next vector, which the projection does not contain.
        projected[:, index[1:], index[:-1]] = entries[:, steps:-1]
        return projected

    def short_side_vectors(self) -> Array:
        """Approximate singular vectors of the shorter side, (b, min(m, n)), from the last check."""
        if self._vectors is None:
            xp = self.xp
            if self._is_direct:
                _, self._vectors = arrays.top_eigenpair(arrays.gram_smaller(self.tall, xp=xp), xp=xp)
            else:
                weights = self.ops.from_numpy(self._ritz_vectors[:, :, None].astype(self.host_dtype), self._like)
                combined = xp.matmul(xp.concat(self._basis[:-1], axis=2), weights)[:, :, 0]
                self._vectors, _ = arrays.normalise(xp.astype(combined, self.matrix.dtype, copy=False), xp=xp)
        return self._vectors

    def vectors(self) -> tuple[Array, Array]:
        """Approximate singular vectors u (b, m) and v (b, n), from the last check; zeros for a zero matrix."""
        xp = self.xp
        small = self.short_side_vectors()
        large, norm = arrays.normalise(xp.matmul(self.tall, small[:, :, None])[:, :, 0], xp=xp)
        small = xp.where(norm > 0, small, xp.zeros_like(small))
        return (small, large) if self.has_more_columns else (large, small)


_LEAST_ORTHOGONAL_SHARE = 1e-2
"""Share of the length of H v: if the part of H v that is orthogonal to the basis is longer than that, two passes of
Gram-Schmidt are enough."""
_VECTOR_ERROR = 1e-5
"""Error of the vectors, estimated from residuals, up to which a run may end without another restart: gradients are
formed from them."""
_VALUE_ERROR = 0.1
"""Relative error of the values, as a multiple of the tolerance, up to which a run may end without another restart."""
State: TypeAlias = "tuple[Array, ...]"


def _layout(size: int, k: int, n_iter: int, memory: int, basis_size: int | None = None) -> tuple[int, int, int]:
    """Numbers of blocks in the basis, of vectors in a block, and of times that the basis is filled.

    The last is 1 plus the number of restarts. All are known without looking at values.

    ``size``: dimension of the space on which the maps act. ``n_iter``, ``basis_size``: as in `top_vectors`. ``memory``:
    bytes for the basis; it has at least three blocks all the same, if space and ``n_iter`` allow.
    """
    if size < 3 * k:
        # The basis is the whole space.
        return 1, size, 1
    wanted = max(3, (basis_size or BASIS_SIZE) // k)
    in_memory = max(3, memory // np.dtype("float64").itemsize // (k * size))
    in_space = size // k - 1
    blocks = max(1, min(wanted, in_memory, in_space, n_iter))
    products_of_a_restart = blocks - _kept(blocks)
    products_left = n_iter - blocks
    if products_of_a_restart:
        restarts = arrays.ceil_div(products_left, products_of_a_restart)
    else:
        restarts = products_left
    return blocks, k, 1 + restarts


def _kept(blocks: int) -> int:
    """Number of blocks of Ritz vectors with which a restart begins."""
    return max(1, blocks // 2)


def top_vectors(
    gram: Callable[[Array], Array],
    like: Array,
    size: int,
    k: int,
    *,
    n_iter: int,
    least_gain: float,
    seed: int = 0,
    basis_size: int | None = None,
    guards: int = 0,
    start: Array | None = None,
    is_over: Callable[[], bool] | None = None,
    ops: ArrayOps,
) -> TopVectors:
    """Approximate the k top eigenvectors of b symmetric positive semidefinite maps H = A*A.

    Every new vector is orthogonalized against the whole basis, and the projected matrix is formed from the inner
    products, so a restart can keep the leading Ritz vectors as they are. Quotients with the vectors are lower bounds of
    the norm, however accurate the vectors are.

    ``gram``: applies H: (b, n, size) -> (b, n, size), with n the `_Run.width`: k, or ``size`` if the basis is the
    whole space. ``like`` (b, ...): sets b, the dtype and the device. ``n_iter``: largest number of products of the map
    with a block of vectors. ``least_gain``: stop after a restart that increased the values by less than this,
    relatively, or if the residuals are so small that the next restart would gain less. ``seed``: of the start vectors.
    ``basis_size``: largest number of basis vectors; None: ``BASIS_SIZE``. ``guards``: number of vectors of a
    block beside the k: if the next eigenvalues are close to the last of these, a run without guards may end before that
    one has converged. ``start`` (b, 1, size): start vectors for k = 1; default
    random. Ignored if the basis is the whole space. ``is_over``: whether the time is up: then no cycle begins; None, as
    under a tracer: never.
    """
    xp = ops.xp
    blocks, width, cycles = _layout(size, min(k + guards, size), n_iter, ops.memory, basis_size)
    run = _Run(gram, like, size, k, blocks, width, seed=seed, least_gain=least_gain, ops=ops)

    def continues(arrays_of_state: State) -> Any:
        state = _RunState(*arrays_of_state)
        if is_over is not None and is_over():
            return False
        return (state.cycle < cycles) & xp.any(state.is_active)

    last_state = _RunState(*ops.loop(continues, run.cycle, run.first_state(start)))
    vectors = arrays.normalise(last_state.vectors, xp=xp)[0]
    is_whole_space = (last_state.cycle > 0) & (width == size)
    return TopVectors(vectors, last_state.products, ~last_state.is_active | is_whole_space)


class TopVectors(NamedTuple):
    """The result of `top_vectors`.

    Parameters
    ----------
    vectors : array, shape (b, k, size)
        Orthonormal up to rounding, by descending Ritz value; start vectors if the time was up before the first cycle.
    products : integer array, shape (b,)
        Number of products with one vector, those of A and those of A* together.
    converged : array of bool, shape (b,)
        Whether the iteration ended by its tolerance, not by ``n_iter`` or the time.
    """

    vectors: Array
    products: Array
    converged: Array


class _RunState(NamedTuple):
    """The state between two cycles of a `_Run`.

    Parameters
    ----------
    cycle : integer
        Number of cycles so far.
    block : integer
        Number of blocks in the basis so far.
    basis : array, shape (b, rows + width, size)
        The basis, filled up with zeros.
    projected : array, shape (b, rows, rows)
        The projected matrix.
    values : array, shape (b, k)
        The largest Ritz values.
    vectors : array, shape (b, k, size)
        Their vectors.
    is_active : array of bool, shape (b,)
        Whether each map is still active.
    products : integer array, shape (b,)
        Number of products.
    """

    cycle: Array
    block: Array
    basis: Array
    projected: Array
    values: Array
    vectors: Array
    is_active: Array
    products: Array


class _Run:
    """Block Lanczos with thick restarts, as functions of a `_RunState`, whose arrays have fixed shapes.

    Loops get and return the state as a plain tuple, since compilers know no other.
    """

    def __init__(
        self,
        gram: Callable[[Array], Array],
        like: Array,
        size: int,
        k: int,
        blocks: int,
        width: int,
        *,
        seed: int,
        least_gain: float,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.gram = gram
        self.like = like
        self.ops = ops
        self.size = size
        self.k = k
        self.blocks = blocks
        self.width = width
        self.rows = blocks * width
        self.kept = _kept(blocks)
        self.least_gain = least_gain
        self.b = like.shape[0]
        self.device = ops.device(like)
        host_dtype = np.float64 if like.dtype == xp.float64 else np.float32
        # The start vectors, and random numbers, from whose cosines `_next` takes directions.
        first, angles = arrays.real_vectors(seed, (2, width, size))
        self._first = ops.from_numpy(first.astype(host_dtype), like)
        self._angles = ops.from_numpy(angles.astype(host_dtype), like)
        block = xp.reshape(xp.arange(blocks + 1, dtype=xp.int32, device=self.device), (-1, 1))
        block = xp.broadcast_to(block, (blocks + 1, width))
        self._block_of_row = xp.reshape(block, (-1,))[: self.rows]

    def first_state(self, start: Array | None) -> State:
        """The state before the first cycle; ``start`` (b, 1, size) is used only if blocks have one vector."""
        xp = self.ops.xp
        b, rows = self.b, self.rows
        if start is not None and self.width == 1:
            first = start
        else:
            first = xp.broadcast_to(self._first[None, ...], (b, self.width, self.size))
        counter = arrays.counter(self.like, ops=self.ops)
        block = self._orthonormal(first)
        state = _RunState(
            cycle=counter,
            block=counter,
            basis=xp.concat([block, self._zeros(b, rows, self.size)], axis=1),
            projected=self._zeros(b, rows, rows),
            values=self._zeros(b, self.k),
            vectors=block[:, : self.k, :],
            is_active=xp.ones((b,), dtype=xp.bool, device=self.device),
            products=xp.zeros((b,), dtype=xp.int32, device=self.device),
        )
        return tuple(state)

    def cycle(self, arrays_of_state: State) -> State:
        """Fill the basis, compute Ritz vectors, and begin a new basis with the leading ones."""
        xp = self.ops.xp
        rows = self.rows
        before = _RunState(*arrays_of_state)
        is_active = before.is_active
        step = self._step if self.ops.concrete else self._step_compiled
        block, basis, projected = self.ops.loop(
            lambda inner: inner[0] < self.blocks, step, (before.block, before.basis, before.projected)
        )
        new_products = 2 * self.width * (block - before.block)
        products = before.products + xp.astype(is_active, before.products.dtype) * new_products
        # Only the upper triangle of the projected matrix was filled.
        upper = xp.triu(projected)
        ascending_values, ascending_vectors = xp.linalg.eigh(upper + xp.matrix_transpose(xp.triu(projected, k=1)))
        values = xp.flip(ascending_values, axis=-1)
        small_vectors = xp.flip(ascending_vectors, axis=-1)
        kept_rows = self.kept * self.width
        ritz_vectors = xp.matmul(xp.matrix_transpose(small_vectors[:, :, :kept_rows]), basis[:, :rows, :])
        vectors = xp.where(is_active[:, None, None], ritz_vectors[:, : self.k, :], before.vectors)
        top_values = values[:, : self.k]
        has_gained = xp.any(top_values - before.values > self.least_gain * top_values[:, :1], axis=-1)
        if self.ops.concrete and rows > self.k:
            has_gained = has_gained & ~self._is_close(values, small_vectors)
        empty_rows = self._zeros(self.b, rows - kept_rows, self.size)
        basis = xp.concat([ritz_vectors, basis[:, rows:, :], empty_rows], axis=1)
        eye = xp.eye(rows, dtype=self.like.dtype, device=self.device)
        kept_values = xp.where(self._block_of_row < self.kept, values, xp.zeros_like(values))
        projected = eye * kept_values[:, None, :]
        after = _RunState(
            cycle=before.cycle + 1,
            # Computed from `block`, so that it has its type: a compiled state keeps its types.
            block=block * 0 + self.kept,
            basis=basis,
            projected=projected,
            values=top_values,
            vectors=vectors,
            is_active=is_active & has_gained,
            products=products,
        )
        return tuple(after)

    def _is_close(self, values: Array, small_vectors: Array) -> Array:
        """Whether the k top values meet the tolerance, and their vectors suffice for a gradient, judged by residuals.

        ``values``, ``small_vectors`` (b, rows) and (b, rows, rows): eigenvalues, descending, and eigenvectors of the
        projected matrix.
        """
        xp = self.ops.xp
        # The coupling of the last block with the next: a run on values, without a compiler, keeps both.
        unit, image = self._last_step
        coupling = xp.matmul(unit, xp.matrix_transpose(image))
        last_block = small_vectors[:, -self.width :, : self.k]
        residual = xp.linalg.vector_norm(xp.matmul(coupling, last_block), axis=-2)
        # The error of a vector is the residual over the gap below the top values; that of a value is the squared
        # residual over the gap.
        gap = values[:, self.k - 1 : self.k] - values[:, self.k : self.k + 1]
        vector_error = residual / xp.where(gap > 0, gap, xp.ones_like(gap))
        value_error = vector_error * residual
        largest_value_error = _VALUE_ERROR * self.least_gain * values[:, :1]
        is_close = (vector_error <= _VECTOR_ERROR) & (value_error <= largest_value_error)
        return xp.all(is_close & (gap > 0), axis=-1)

    def _step(self, state: State) -> State:
        """Append a block to the basis, in place, and its inner products to the projected matrix.

        The state of a step is (number of blocks so far, basis, projected matrix).
        """
        block, basis, projected = state
        width = self.width
        start = block * width
        stop = start + width
        w, inner = self._next(basis[:, start:stop, :], basis[:, :stop, :], block)
        projected[:, :stop, start:stop] = inner
        basis[:, stop : stop + width, :] = w
        return block + 1, basis, projected

    def _step_compiled(self, state: State) -> State:
        """As `_step`, for compilers: no writing in place, and no shape depends on the number of blocks."""
        xp = self.ops.xp
        b, rows = self.b, self.rows
        blocks, width = self.blocks, self.width
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
        """The next block of the basis, from H v for the last block v.

        ``v`` (b, width, size): the last block of the basis. ``basis`` (b, n, size): all vectors so far; zeros stand for
        vectors to come. ``block``: number of the block v. Returns ``w`` (b, width, size): an orthonormal block,
        orthogonal to the basis; ``inner`` (b, n, width): inner products of H v with the basis.
        """
        xp = self.ops.xp
        image = self.gram(v)
        # In exact arithmetic, H v is orthogonal to all blocks but the last two, except in the first step of a restart.
        has_short_recurrence = self._has_short_recurrence(block)
        if has_short_recurrence:
            coupled_rows = slice(max(0, (block - 1) * self.width), None)
        else:
            coupled_rows = slice(None)
        w, first_inner = self._orthogonal_part(image, basis[:, coupled_rows, :])
        unit = None
        if self.ops.concrete and self.ops.on_host and self.width == 1:
            # Elsewhere the check would wait for a device; and a block has to be factorized anyway.
            once_more, inner = self._orthogonal_part(w, basis)
            unit = self._unit_unless_cancelled(once_more, image)
        if unit is None:
            norm = xp.linalg.vector_norm(image, axis=-1, keepdims=True)
            norm = xp.where(norm > 0, norm, xp.ones_like(norm))
            # If the Krylov space is exhausted, w is zero: go on with a direction that changes from step to step, and
            # whose size is 32 eps, that is, 64 unit roundoffs.
            perturbation = 32 * float(xp.finfo(self.like.dtype).eps)
            w = w + norm * (perturbation / self.size**0.5) * xp.cos(self._angles * (block + 1))
            w, inner = self._orthogonal_part(w, basis)
            # If the space is nearly exhausted, w is mostly rounding error, which lies in the span of the basis: two
            # passes are not enough.
            for _ in range(2 if self.ops.concrete else 1):
                w, _ = self._orthogonal_part(self._orthonormal(w), basis)
            unit = self._orthonormal(w)
        if has_short_recurrence:
            inner[:, coupled_rows, :] += first_inner
        else:
            inner = inner + first_inner
        if self.ops.concrete:
            self._last_step = unit, image
        return unit, inner

    def _has_short_recurrence(self, block: Any) -> bool:
        """Whether H v for this block has inner products, but for rounding, with the last two blocks alone.

        The block behind the kept ones is coupled with all of those. In the first cycle, which kept none, that block is
        treated alike, which costs time only.
        """
        return self.ops.concrete and bool(block != self.kept)

    def _unit_unless_cancelled(self, w: Array, image: Array) -> Array | None:
        """The vectors w, the orthogonal parts of images, with length 1; None if one is much shorter than its image."""
        xp = self.ops.xp
        length_sq, image_sq = xp.vecdot(w, w), xp.vecdot(image, image)
        if not bool(xp.all(length_sq > _LEAST_ORTHOGONAL_SHARE**2 * image_sq)):
            return None
        return w / xp.sqrt(length_sq)[..., None]

    def _orthonormal(self, w: Array) -> Array:
        """Orthonormal bases of the spans of the vectors w (b, width, size), in the same shape."""
        xp = self.ops.xp
        if self.width == 1:
            return arrays.normalise(w, xp=xp)[0]
        return xp.matrix_transpose(xp.linalg.qr(xp.matrix_transpose(w))[0])

    def _orthogonal_part(self, w: Array, basis: Array) -> tuple[Array, Array]:
        """The parts of vectors w that are orthogonal to a basis, and inner products (b, n, width) with the basis."""
        xp = self.ops.xp
        inner = xp.matmul(basis, xp.matrix_transpose(w))
        return w - xp.matmul(xp.matrix_transpose(inner), basis), inner

    def _zeros(self, *shape: int) -> Array:
        return self.ops.xp.zeros(shape, dtype=self.like.dtype, device=self.device)
