"""Thick-restart block Lanczos on symmetric positive semidefinite maps: estimates, and vectors to take quotients of.

`linalg.lanczos` is another algorithm: it has the matrix, keeps no orthogonality, and is carried on from outside. This
one applies maps whose products are dear, finds several vectors, and runs with static shapes where loops compile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from specnorm import arrays

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

_LEFT = 1e-2
"""Part of a vector's length outside of the basis down to which it is orthogonal to it after two passes."""
_VECTORS, _VALUES = 1e-5, 0.1
"""How far off vectors may be by their residuals, and values in tolerances, where a run ends without another restart."""

State: TypeAlias = "tuple[Array, ...]"


@dataclass(frozen=True, eq=False)
class BlockTuning:
    """How the basis is chosen: it decides on time and on how close the vectors come.

    Parameters
    ----------
    basis : int
        Vectors of the Krylov basis before a restart. The gap of eigenvalues that a restart resolves shrinks with its
        inverse square; orthogonalisation grows with its square.
    """

    basis: int = 24


TUNING = BlockTuning()


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
    """The steps and restarts of `top_vectors`."""

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
