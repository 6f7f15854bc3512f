"""Unfolding bounds and Fantastic Four: norms of the kernel reshaped into matrices (Singla and Feizi 2019, 2021).

For every split of the axes (cout, cin, *spatial) into rows and columns, ``sqrt(prod k_j) ||unfolding|| >= sigma*``.
Each norm is proven, not iterated: an unconverged power iteration would be below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.linalg import arrays, symbols, unfoldings
from specnorm.linalg.lanczos import Lanczos
from specnorm.methods.base import Evaluation, Method, Needs, Stepped
from specnorm.proof import rounding

if TYPE_CHECKING:
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True)
class Unfoldings(Method):
    """All ``2**(d+1) - 1`` unfolding bounds, as one 1-d value; each is an upper bound on its own.

    The first ``2**d`` separate the channels (in 2-D: R, S, T, U of the papers in some order), the others do not.

    References
    ----------
    .. [1] Singla, Feizi, "Bounding Singular Values of Convolution Layers", arXiv:1911.10258v1, 2019 (two of them).
    .. [2] Singla, Feizi, "Fantastic Four", ICLR 2021, theorem 1 (four of them).
    """

    name: ClassVar[str] = "unfoldings"

    def needs(self, spec: ConvSpec) -> Needs:
        """Upper bounds."""
        return Needs(rounds="up", precision="wide", narrow_gradient=True, value_shape=self._value_shape(spec))

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size: the bound is on sigma*, the supremum over sizes."""
        del spec
        return "upper"

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        """One value a split."""
        return (2 ** (spec.ndim + 1) - 1,)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Prove every unfolding's norm."""
        xp = ops.xp
        bounds, residuals = [], []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            bounds.append(rounding.matrix_norm_up(matrix, ops=ops))
            residuals += list(symbols.top_triple(matrix, xp=xp)[:2])
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        return Evaluation(rounding.up(xp.stack(bounds, axis=1) * root, 3, xp=xp), (), tuple(residuals))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """sqrt(taps) u v^T of each unfolding, folded back and weighted by its cotangent."""
        root = math.sqrt(math.prod(spec.block_kernel_shape))
        total: Array = None
        for j, rows in enumerate(unfoldings.unfolding_splits(spec.ndim)):
            u, v = residuals[2 * j], residuals[2 * j + 1]
            if not u.shape[1]:
                continue  # left out: no block's smallest
            part = unfoldings.folded_outer(u * (root * cotangent[:, j])[:, None], v, rows, spec.block_shape, xp=xp)
            if total is None:
                total = part
            else:
                total += part
            del part
        return total


@dataclass(frozen=True)
class FantasticFour(Stepped):
    """The minimum of the unfolding bounds; differentiated through the active one.

    The papers take four (2-D, the channels on different sides); all ``2**(d+1) - 1`` are bounds, and the others win
    for few channels and large kernels, so the minimum here is over all of them.
    """

    name: ClassVar[str] = "f4"

    def needs(self, spec: ConvSpec) -> Needs:
        """An upper bound; what is proven is widened here."""
        del spec
        return Needs(rounds="up", precision="mixed", narrow_gradient=True, small_products=True)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper at every input size."""
        del spec
        return "upper"

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Take the smallest unfolding bound."""
        xp = ops.xp
        if ops.may_branch:
            return _smallest(blocks, spec, ops=ops)
        blocks = arrays.widened(blocks, ops=ops)
        every = Unfoldings().forward(blocks, spec, ops=ops)
        active = xp.argmin(every.value, axis=1)
        return Evaluation(xp.min(every.value, axis=1), (), (*every.residuals, active))

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """The active unfolding's gradient."""
        *vectors, active = residuals
        columns = arrays.one_hot(cotangent, active, len(vectors) // 2, xp=xp)
        return Unfoldings().pullback(tuple(vectors), columns, spec, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """A right vector of each unfolding."""
        shape = spec.block_shape
        splits = unfoldings.unfolding_splits(spec.ndim)
        return {
            f"v{j}": (math.prod(shape) // math.prod(shape[axis] for axis in rows),) for j, rows in enumerate(splits)
        }

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Top right singular vectors; constant ones for a zero block."""
        xp = ops.xp
        found = []
        for rows in unfoldings.unfolding_splits(spec.ndim):
            matrix = unfoldings.unfold(blocks, rows, xp=xp)
            v = _leading(matrix, ops=ops) if ops.may_branch else symbols.top_triple(matrix, xp=xp)[1]
            del matrix
            found.append(arrays.normalise_or_keep(v, xp.ones_like(v) / math.sqrt(v.shape[-1]), xp=xp)[0])
        return tuple(found)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, ops: ArrayOps
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Power steps on each unfolding: an estimate, as each is below its norm."""
        xp = ops.xp
        splits, looks = unfoldings.unfolding_splits(spec.ndim), ops.may_branch
        nothing = _nothing(blocks, ops=ops)
        values, residuals, after = [], [], []
        for v, rows in zip(state, splits, strict=True):
            u, v, value = follow_matrix(unfoldings.unfold(blocks, rows, xp=xp), v, sweeps, xp=xp)
            # The rows of some unfoldings are a third of the kernel: found again if that is the one.
            residuals += [nothing if looks and 8 * u.shape[1] > math.prod(spec.block_shape) else u, v]
            after.append(v)
            values.append(value)
            del u
        every = xp.stack(values, axis=1) * math.sqrt(math.prod(spec.block_kernel_shape))
        active = xp.argmin(every, axis=1)
        if looks:
            kept = set(ops.to_numpy(active).tolist())
            for j, rows in enumerate(splits):
                if j not in kept:
                    residuals[2 * j : 2 * j + 2] = [nothing, nothing]
                elif not residuals[2 * j].shape[1]:
                    residuals[2 * j] = follow_matrix(unfoldings.unfold(blocks, rows, xp=xp), state[j], sweeps, xp=xp)[0]
        return Evaluation(xp.min(every, axis=1), (), (*residuals, active)), tuple(after)


def _leading(matrix: Array, *, ops: ArrayOps) -> Array:
    """Right singular vectors to start a training state from: a few looks, as steps go on where they end."""
    xp = ops.xp
    run = Lanczos(matrix, tolerance=_tolerance(matrix, xp=xp), ops=ops)
    for _ in range(_LOOKS):
        run.advance()
        if run.done.all():
            break
    return run.vectors()[1]


def _nothing(blocks: Array, *, ops: ArrayOps) -> Array:
    """In the place of the vectors of an unfolding that is no block's smallest."""
    xp = ops.xp
    return xp.zeros((blocks.shape[0], 0), dtype=blocks.dtype, device=ops.device(blocks))


def follow_matrix(a: Array, v: Array, sweeps: int, *, xp: Any) -> tuple[Array, Array, Array]:
    """Power steps on matrices (b, m, n) from vectors (b, n): (u, v, u a v)."""
    u, norm = arrays.unit(xp.matmul(a, v[..., None])[..., 0], xp=xp)
    for j in range(sweeps):
        if j:
            u, _ = arrays.unit(xp.matmul(a, v[..., None])[..., 0], xp=xp)
        moved, norm = arrays.unit(xp.matmul(xp.matrix_transpose(a), u[..., None])[..., 0], xp=xp)
        v = xp.where(((norm > 0) & xp.isfinite(norm))[..., None], moved, v)
    return u, v, norm


_LOOKS = 4
"""Looks at a Lanczos run that starts a training state: 28 steps, whose basis is smaller than the kernel."""
NARROW = 2**17
"""Entries from which the smallest norm is looked for in float32, in half the time."""


def _smallest(blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
    """The smallest unfolding bound of each block: the smallest norm is looked for, and that unfolding alone proven."""
    xp = ops.xp
    splits, count = unfoldings.unfolding_splits(spec.ndim), int(blocks.shape[0])
    tolerance = _tolerance(blocks, xp=xp)
    if math.prod(spec.block_shape) < NARROW:
        blocks = arrays.widened(blocks, ops=ops)
    active, runs = _search(blocks, spec, tolerance, ops=ops)
    best = np.zeros(count)
    residuals: list[Array] = []
    for j, rows in enumerate(splits):
        mine = np.flatnonzero(active == j)
        if not len(mine):
            residuals += [_nothing(blocks, ops=ops)] * 2
            continue
        run = _finished(runs.pop(j), mine, blocks, rows, tolerance, ops=ops)
        place = ops.from_numpy(np.eye(count)[:, mine].astype(run.host), blocks)
        u, v = run.vectors()
        v = _in_order(v, rows, spec, xp=xp)
        residuals += [x if len(mine) == count else xp.matmul(place, x) for x in (u, v)]
        best[mine] = _proven(run, ops=ops)
    root = math.sqrt(math.prod(spec.block_kernel_shape))
    # Proven in the widest precision, so nothing is lost.
    host = np.float64 if ops.wide_dtype == "float64" else np.float32
    value = rounding.up(ops.from_numpy(best.astype(host), blocks) * root, 3, xp=xp)
    return Evaluation(value, (), (*residuals, ops.from_numpy(active, blocks)))


class _Matrices:
    """Unfoldings of blocks with cin last among the columns, so that several are views of one copy."""

    def __init__(self, blocks: Array, *, xp: Any) -> None:
        self.xp, self.blocks = xp, blocks
        self._copies: dict[tuple[int, ...], Array] = {}

    def unfold(self, rows: tuple[int, ...]) -> Array:
        """As `unfoldings.unfold`, but for the order of the columns."""
        xp, shape = self.xp, self.blocks.shape
        order = tuple(axis + 1 for axis in (*rows, *_columns(rows, len(shape) - 1)))
        if order not in self._copies:
            self._copies[order] = xp.reshape(xp.permute_dims(self.blocks, (0, *order)), (shape[0], -1))
        return xp.reshape(self._copies[order], (shape[0], math.prod(shape[axis + 1] for axis in rows), -1))


def _columns(rows: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The other axes, cin last."""
    return tuple(sorted((axis for axis in range(ndim) if axis not in rows), key=lambda axis: (axis == 1, axis)))


def _in_order(v: Array, rows: tuple[int, ...], spec: ConvSpec, *, xp: Any) -> Array:
    """Vectors of such columns, as `unfoldings.unfold` orders them."""
    columns = _columns(rows, spec.ndim + 2)
    split = xp.reshape(v, (v.shape[0], *(spec.block_shape[axis] for axis in columns)))
    back = tuple(1 + j for j in arrays.inverse_permutation([sorted(columns).index(axis) for axis in columns]))
    return xp.reshape(xp.permute_dims(split, (0, *back)), v.shape)


def _tolerance(blocks: Array, *, xp: Any) -> float:
    """Of the residual of singular vectors: they make up the gradient, in the precision of the blocks."""
    return 1e-8 if blocks.dtype == xp.float64 else 2e-6


def _search(blocks: Array, spec: ConvSpec, tolerance: float, *, ops: ArrayOps) -> tuple[np.ndarray, dict[int, Lanczos]]:
    """Which unfolding of each block has the smallest norm, up to 1e-6, and the runs that found them.

    Every unfolding has a lower bound of its norm, which Lanczos raises. The lowest is raised until it has converged and
    is the lowest still: then no unfolding has a smaller norm.
    """
    xp = ops.xp
    splits, count = unfoldings.unfolding_splits(spec.ndim), int(blocks.shape[0])
    total = ops.to_numpy(xp.linalg.vector_norm(xp.reshape(blocks, (count, -1)), axis=1)).astype(np.float64) ** 2
    # ||A||_F**2 is at most the number of singular values times ||A||**2.
    least = np.stack([total / _rank(spec.block_shape, rows) for rows in splits])
    done = np.zeros(least.shape, dtype=bool)
    narrow = xp.astype(blocks, xp.float32, copy=False) if math.prod(spec.block_shape) >= NARROW else blocks
    matrices = _Matrices(narrow, xp=xp)
    runs: dict[int, Lanczos] = {}
    while True:
        active = np.argmin(least, axis=0)
        waiting = active[~done[active, np.arange(count)]]
        if not len(waiting):
            return active, {j: runs[j] for j in set(active.tolist())}
        j = int(np.bincount(waiting).argmax())
        if j not in runs:
            within = max(tolerance, _tolerance(narrow, xp=xp))
            runs[j] = Lanczos(matrices.unfold(splits[j]), tolerance=within, ops=ops)
        runs[j].advance()
        least[j], done[j] = np.maximum(least[j], runs[j].squares), runs[j].done


def _finished(
    run: Lanczos,
    mine: np.ndarray,
    blocks: Array,
    rows: tuple[int, ...],
    tolerance: float,
    *,
    ops: ArrayOps,
) -> Lanczos:
    """The run for some of the blocks alone, in their own precision."""
    xp = ops.xp
    if len(mine) == blocks.shape[0] and run.matrix.dtype == blocks.dtype:
        return run
    start = run.small_side()
    if len(mine) < blocks.shape[0]:
        index = ops.from_numpy(mine, blocks)
        blocks, start = xp.take(blocks, index, axis=0), xp.take(start, index, axis=0)
    matrix = _Matrices(blocks, xp=xp).unfold(rows)
    run = Lanczos(matrix, xp.astype(start, blocks.dtype), tolerance=tolerance, ops=ops)
    while not run.done.all():
        run.advance()
    return run


def _rank(shape: tuple[int, ...], rows: tuple[int, ...]) -> int:
    """The shorter side of an unfolding."""
    count = math.prod(shape[axis] for axis in rows)
    return min(count, math.prod(shape) // count)


def _proven(run: Lanczos, *, ops: ArrayOps) -> np.ndarray:
    """Norms of the matrices of a run from above: just above the value found, else as `Unfoldings` has it."""
    matrix, v = (arrays.widened(x, ops=ops) for x in (run.matrix, run.small_side()))
    found = ops.to_numpy(rounding.norm_near(matrix, v, ops=ops))
    if not np.isfinite(found).all():
        found = np.minimum(found, ops.to_numpy(rounding.matrix_norm_up(matrix, ops=ops)))
    return np.asarray(found, dtype=np.float64)
