"""Norms of constant matrices, where no torus is searched: blocks with one tap, symbols at one frequency, unfoldings.

The symbol of a block with one tap is constant, but for a phase. Lanczos estimates a norm; if a proof is asked for, one
factorisation gives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import UnfoldingProof
from specnorm.certified.symbol import symbols
from specnorm.numerics import gradients
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem import unfoldings
from specnorm.problem.frequencies import Frequencies
from specnorm.search.result import Bounds, SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.bound import Upper
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


_LARGE = 64
"""Size of a symbol's smaller side above which Lanczos takes a fraction of an eigenvalue routine's time."""
_PRECISE_RESIDUAL = 1e-12
"""Residual of a symbol's singular vectors by Lanczos in float64: gradients are formed from them."""
LANCZOS_SIDE = 64
"""Smaller side of matrices around which Lanczos begins to take less time than a search or an eigenvalue routine."""
_RESIDUAL_SHARE = 0.25
"""Residual at which Lanczos stops, as a part of the tolerance. The proof raises the squared norm by no more than the
residual."""
_FLOAT32_RESIDUAL = 2e-6
"""Smallest residual that Lanczos in float32 reaches."""
_FLOAT64_RESIDUAL = 1e-9
"""Residual with which the error of the norm, about its square over the gap to the next value, is usually a rounding in
float64."""

_FEW_ROUNDINGS = 4
"""Likely error of a norm, in units of its precision's epsilon, up to which it is returned."""


@dataclass(frozen=True, eq=False)
class MatrixBounds(Bounds):
    """Two proven bounds of the largest norm of some matrices.

    Parameters
    ----------
    index : int
        Number of the matrix that has the lower bound.
    u, v : arrays, shapes (1, m) and (1, n)
        Singular vectors of that matrix.
    steps : int
        Number of Lanczos steps.
    """

    index: int
    u: Array
    v: Array
    steps: int


def enclose_matrices(
    matrix: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> MatrixBounds:
    """Enclose the largest norm of a stack of matrices, as closely as a factorisation can.

    Parameters
    ----------
    matrix : array, shape (g, m, n)
        In the widest dtype of the library, scaled to about 1.
    rtol : float
        Relative width asked for.
    precise_vectors : bool
        Whether the vectors have to be as precise as the kernel's own dtype, since they are returned.
    """
    xp = ops.xp
    m, n = matrix.shape[1:]
    residual = max(_RESIDUAL_SHARE * rtol, _FLOAT64_RESIDUAL)
    if precise_vectors:
        residual = min(residual, vector_tolerance(getattr(xp, ops.own_dtype), xp=xp))
    proof, lanczos = _gram_and_vectors(matrix, residual, ops=ops)
    tall = xp.matrix_transpose(matrix) if m < n else matrix
    vectors = lanczos.short_side_vectors()
    lower, best = norms.largest_quotient(tall, vectors, ops=ops)
    upper = proof.largest_up_near(vectors)
    is_close = upper is not None and upper <= lower.value * (1 + rtol)
    if not is_close or (precise_vectors and not lanczos.converged.all()):
        # If many values are next to the largest, Lanczos does not converge to its vector, or the proof near it fails.
        _, vectors = arrays.top_eigenpair(proof.gram, xp=xp)
        lower, best = norms.largest_quotient(tall, vectors, ops=ops)
        upper = _smaller(upper, proof.largest_up_near(vectors))
    small = vectors[best : best + 1, :]
    large, _ = arrays.normalise(xp.matmul(tall[best : best + 1, ...], small[:, :, None])[:, :, 0], xp=xp)
    if m < n:
        u, v = small, large
    else:
        u, v = large, small
    return MatrixBounds(lower, upper, best, u, v, lanczos.steps)


def _smaller(first: Upper | None, second: Upper | None) -> Upper | None:
    """The smaller of two bounds, of which either may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second, key=finite)


def enclose_each(matrix: Array, *, ops: ArrayOps) -> tuple[tuple[Array, Array], Array, Array] | None:
    """Norms of each matrix of a stack to a few roundings of its own precision, if Lanczos reaches that.

    Parameters
    ----------
    matrix : array, shape (b, m, n)
        In the widest dtype of the library, scaled to about 1.

    Returns
    -------
    vectors : pair of arrays, shapes (b, m) and (b, n)
        Singular vectors; zero for a zero matrix.
    lower, upper : arrays, shape (b,)
        Proven bounds. None in the place of all three if the matrices are small, or if the bounds or the vectors are not
        close enough.
    """
    xp = ops.xp
    if not ops.concrete or not matrix.shape[0] or min(matrix.shape[1:]) <= LANCZOS_SIDE:
        return None
    dtype = getattr(xp, ops.own_dtype)
    residual = _FLOAT32_RESIDUAL if dtype == xp.float32 else _FLOAT64_RESIDUAL
    proof, lanczos = _gram_and_vectors(matrix, residual, ops=ops)
    is_close = lanczos.converged & (lanczos.likely_error <= _FEW_ROUNDINGS * float(xp.finfo(dtype).eps))
    if not np.all(is_close):
        return None
    upper = proof.norm_up_near(lanczos.short_side_vectors())
    if not bool(xp.all(xp.isfinite(upper))):
        return None
    u, v = lanczos.vectors()
    return (u, v), norms.quotient_down(matrix, v, xp=xp), upper


def _gram_and_vectors(matrix: Array, residual: float, *, ops: ArrayOps) -> tuple[norms.GramProof, Lanczos]:
    """The smaller Gram matrices of a stack, and Lanczos with them to a residual; in float32 if that reaches it."""
    proof = norms.GramProof(matrix, ops=ops)
    gram = proof.gram
    if residual >= _FLOAT32_RESIDUAL and ops.exact_float32:
        gram = ops.xp.astype(gram, ops.xp.float32)
    return proof, Lanczos(matrix, gram=gram, tolerance=residual, ops=ops).finish()


def enclose_constant(
    blocks: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> SearchResult | None:
    """Enclose the largest norm of blocks with one tap.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the widest dtype of the library, scaled to about 1.
    precise_vectors : bool
        As in `enclose_matrices`.

    Returns
    -------
    SearchResult or None
        None if there are more taps, if the blocks are small, or if the bounds are wider than rtol.
    """
    count, m, p, *taps = blocks.shape
    if math.prod(taps) > 1 or min(m, p) < LANCZOS_SIDE:
        return None
    result = enclose_matrices(ops.xp.reshape(blocks, (count, m, p)), rtol, precise_vectors=precise_vectors, ops=ops)
    if result.upper is None or not result.within(rtol):
        return None
    return SearchResult(
        lower=result.lower,
        upper=norms.norm_of_one_tap(blocks, result.upper),
        frequency=Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps)),
        block=result.index,
        cells=count,
        levels=1,
        vectors=(result.u, result.v),
    )


def top_triple_at(
    block: Array,
    frequency: Frequencies,
    vectors: tuple[Array, Array] | None = None,
    *,
    ops: ArrayOps,
) -> tuple[Array, Array, Array, Array]:
    """Top singular triple (u, v, sigma) of one block at one frequency, and the phases of its taps there.

    Parameters
    ----------
    vectors : pair of real arrays, optional
        u and v, if they are known already.
    """
    xp = ops.xp
    symbol = symbols.Symbol(block, frequency, ops=ops)
    if vectors is not None:
        u, v = (vector + 0j for vector in vectors)
        sigma = xp.linalg.vector_norm(symbol.apply(v[:, None, :])[:, 0, :], axis=-1)
        return u, v, sigma, symbol.phase
    matrix = symbols.matrix_at(block, symbol.phase, xp=xp)
    is_large = ops.concrete and min(matrix.shape[1:]) > _LARGE
    triple = _top_triple_of_large(matrix, ops=ops) if is_large else None
    if triple is None:
        triple = symbols.top_triple(matrix, xp=xp)
    return *triple, symbol.phase


def _top_triple_of_large(matrix: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array] | None:
    """Top singular triple by Lanczos, of the real matrix [[Re, -Im], [Im, Re]]; None if it does not converge."""
    xp = ops.xp
    rows, columns = matrix.shape[1:]
    real = xp.real(matrix)
    imag = xp.imag(matrix)
    doubled = xp.concat([xp.concat([real, -imag], axis=2), xp.concat([imag, real], axis=2)], axis=1)
    is_float64 = doubled.dtype == xp.float64
    tolerance = _PRECISE_RESIDUAL if is_float64 else vector_tolerance(doubled.dtype, xp=xp)
    run = Lanczos(doubled, tolerance=tolerance, ops=ops).finish()
    if not run.converged.all():
        return None
    u, v = run.vectors()
    u = u[:, :rows] + 1j * u[:, rows:]
    v = v[:, :columns] + 1j * v[:, columns:]
    sigma = xp.linalg.vector_norm(xp.matmul(matrix, v[:, :, None])[:, :, 0], axis=-1)
    return u, v, sigma


def top_triples(
    layers: list[Array], at: list[tuple[int, Frequencies, tuple[Array, Array] | None]], *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array, Array]:
    """Top singular triple of one block of each layer at one frequency: u, v, sigma, phases and the block's index.

    Parameters
    ----------
    layers : list of arrays, shape (g, m, p, *kernel_shape)
        Blocks of each layer.
    at : list of (block's index, frequency, vectors as of `top_triple_at`)
        One entry for each layer.
    """
    triples = []
    for blocks, (index, frequency, vectors) in zip(layers, at, strict=True):
        triples.append(top_triple_at(blocks[index : index + 1, ...], frequency, vectors, ops=ops))
    u, v, sigma, phase = (ops.xp.concat(list(column), axis=0) for column in zip(*triples, strict=True))
    indices = np.asarray([index for index, _, _ in at], dtype=np.int64)
    return u, v, sigma, phase, ops.from_numpy(indices, layers[0])


def top_gradient(
    saved: tuple[Array, ...],
    cotangent: Array,
    spec: ConvSpec,
    *,
    xp: Namespace,
) -> Array:
    """Gradient of a singular value with respect to all blocks of its layer, from the saved u, v, phases and group."""
    u, v, phase, group = saved
    of_block = gradients.singular_value_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)
    of_groups = arrays.one_hot(of_block, group, spec.groups, xp=xp)
    return xp.reshape(of_groups, (-1, *of_groups.shape[2:]))


def norms_of_one_tap(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
    """Norms of blocks with one tap, which are their tensor norms: the form is that of `tensor.alternation.maximise`.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)

    Returns
    -------
    value : array, shape (b,)
        Norms, raised by an allowance for rounding.
    vectors : list of arrays
        u, v and a vector of ones for the spatial axes, each of shape (b, n).
    steps : int
        Number of Lanczos steps.
    """
    xp = ops.xp
    matrix = xp.reshape(blocks, blocks.shape[:3])
    lanczos = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops).finish()
    u, v = lanczos.vectors()
    images = xp.matmul(matrix, v[:, :, None])[:, :, 0]
    value = xp.linalg.vector_norm(images, axis=1) * (1 + 8 * float(xp.finfo(matrix.dtype).eps))
    return value, [u + 0j, v + 0j, xp.ones_like(v[:, :1]) + 0j], lanczos.steps


def norms_of_one_channel(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
    """Tensor norms (TN) of blocks with one input and one output channel and at most two axes with several taps.

    The form is that of a matrix then, and its maximum over complex vectors is the norm of the matrix.

    Parameters
    ----------
    blocks : array, shape (b, 1, 1, *kernel_shape)

    Returns
    -------
    value, vectors, steps
        As of `norms_of_one_tap`; the spatial vectors are the singular vectors of the matrix of taps.
    """
    xp = ops.xp
    count, _, _, *sizes = blocks.shape
    rows, columns = [1, 1, *(size for size in sizes if size > 1)][-2:]
    matrices = xp.reshape(blocks, (count, rows, columns))
    value, (u, v, one), steps = norms_of_one_tap(matrices, ops=ops)
    weights = xp.reshape(u[:, :, None] * v[:, None, :], (count, -1))
    return value * math.sqrt(rows * columns), [one, one, weights], steps


class UnfoldingTuning(NamedTuple):
    """Precision of the search. It decides on time, and on which of two nearly equal unfoldings is proven."""

    float32_from: int = 2**17
    """Entries of a kernel from which the smallest norm is searched in float32, in half the time."""
    steps: int = 12
    """Lanczos steps on one unfolding after which the Gram matrix of its proof is formed: a step takes half as long
    with it."""


TUNING = UnfoldingTuning()


def smallest_unfoldings(blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[list[Upper], tuple[Array, ...]]:
    """The smallest unfolding bound of each block: the unfolding is chosen by a search, and it alone is proven.

    Returns
    -------
    bounds : list of Upper
        One bound for each block.
    saved : tuple of arrays
        Arrays for the gradient: (u_1, v_1, u_2, v_2, ..., chosen). u and v of an unfolding that no block chose have the
        length 0; ``chosen`` has the number of each block's unfolding.
    """
    xp = ops.xp
    count = int(blocks.shape[0])
    tolerance = vector_tolerance(blocks.dtype, xp=xp)
    if math.prod(spec.block_shape) < TUNING.float32_from:
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
    search = _SmallestUnfolding(blocks, spec, tolerance, ops=ops)
    chosen = search.run()
    bounds: list[Upper | None] = [None] * count
    saved: list[Array] = []
    for split, rows in enumerate(unfoldings.unfolding_splits(spec.ndim)):
        members = np.flatnonzero(chosen == split)
        if not len(members):
            saved += [no_vectors(blocks, ops=ops)] * 2
            continue
        chosen_by_all = len(members) == count
        part = blocks if chosen_by_all else xp.take(blocks, ops.from_numpy(members, blocks), axis=0)
        proof = search.proofs.pop(split, None) or UnfoldingProof(part, rows, ops=ops)
        lanczos = _finished(search.runs.pop(split), members, part, rows, proof.gram, tolerance, ops=ops)
        for member, bound in zip(members.tolist(), proof.bounds(lanczos.short_side_vectors()), strict=True):
            bounds[member] = bound
        u, v = lanczos.vectors()
        v = _in_unfolding_order(v, rows, spec, xp=xp)
        if not chosen_by_all:
            among_blocks = ops.from_numpy(np.eye(count)[:, members].astype(lanczos.host_dtype), blocks)
            u, v = xp.matmul(among_blocks, u), xp.matmul(among_blocks, v)
        saved += [u, v]
    return [bound for bound in bounds if bound is not None], (*saved, ops.from_numpy(chosen, blocks))


def no_vectors(blocks: Array, *, ops: ArrayOps) -> Array:
    """Empty vectors, in the place of those of an unfolding that no block chose."""
    xp = ops.xp
    return xp.zeros((blocks.shape[0], 0), dtype=blocks.dtype, device=ops.device(blocks))


class _Unfoldings:
    """Unfoldings of blocks with cin last among the columns, so that several are views of one copy."""

    def __init__(self, blocks: Array, *, xp: Namespace) -> None:
        self.xp = xp
        self.blocks = blocks
        self._copies: dict[tuple[int, ...], Array] = {}

    def unfold(self, rows: tuple[int, ...]) -> Array:
        """Return the unfolding of `unfoldings.unfold`, with its columns in another order."""
        xp = self.xp
        shape = self.blocks.shape
        columns = unfoldings.cin_last(rows, len(shape) - 1)
        order = tuple(axis + 1 for axis in (*rows, *columns))
        if order not in self._copies:
            self._copies[order] = xp.reshape(xp.permute_dims(self.blocks, (0, *order)), (shape[0], -1))
        row_count = math.prod(shape[axis + 1] for axis in rows)
        return xp.reshape(self._copies[order], (shape[0], row_count, -1))


def _in_unfolding_order(
    v: Array,
    rows: tuple[int, ...],
    spec: ConvSpec,
    *,
    xp: Namespace,
) -> Array:
    """Vectors of the columns of `_Unfoldings`, in the order of `unfoldings.unfold`: ascending axes."""
    columns = unfoldings.cin_last(rows, spec.ndim + 2)
    by_axis = xp.reshape(v, (v.shape[0], *(spec.block_shape[axis] for axis in columns)))
    places = [sorted(columns).index(axis) for axis in columns]
    order = tuple(1 + j for j in arrays.inverse_permutation(places))
    return xp.reshape(xp.permute_dims(by_axis, (0, *order)), v.shape)


class _SmallestUnfolding:
    """Search for the unfolding of each block with the smallest norm, up to 1e-6.

    Every unfolding has a lower bound of its norm, which Lanczos raises. The lowest is raised until it has converged and
    is the lowest still: then no unfolding has a smaller norm.

    Attributes
    ----------
    runs : dict
        Lanczos on an unfolding of all blocks, by the number of the split; at the end only for unfoldings that a block
        chose.
    proofs : dict
        Proofs made early, because Lanczos is faster with their Gram matrix, by the number of the split.
    """

    def __init__(
        self,
        blocks: Array,
        spec: ConvSpec,
        tolerance: float,
        *,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.runs: dict[int, Lanczos] = {}
        self.proofs: dict[int, UnfoldingProof] = {}
        self._blocks = blocks
        self._ops = ops
        self._splits = unfoldings.unfolding_splits(spec.ndim)
        self._count = int(blocks.shape[0])
        if math.prod(spec.block_shape) >= TUNING.float32_from:
            self._searched = xp.astype(blocks, xp.float32, copy=False)
        else:
            self._searched = blocks
        self._unfoldings = _Unfoldings(self._searched, xp=xp)
        self._tolerance = max(tolerance, vector_tolerance(self._searched.dtype, xp=xp))
        frobenius = ops.to_numpy(xp.linalg.vector_norm(xp.reshape(blocks, (self._count, -1)), axis=1))
        squares = frobenius.astype(np.float64) ** 2
        # ||A||_F**2 is at most the number of singular values times ||A||**2.
        self._lower_sq = np.stack([squares / _rank(spec.block_shape, rows) for rows in self._splits])
        self._done = np.zeros(self._lower_sq.shape, dtype=bool)

    def run(self) -> np.ndarray:
        """Return the number of the split with the smallest norm, for each block."""
        every_block = np.arange(self._count)
        while True:
            lowest = np.asarray(np.argmin(self._lower_sq, axis=0))
            unfinished = lowest[~self._done[lowest, every_block]]
            if not len(unfinished):
                self.runs = {split: self.runs[split] for split in set(lowest.tolist())}
                return lowest
            most_frequent = int(np.bincount(unfinished).argmax())
            self._advance(most_frequent)

    def _advance(self, split: int) -> None:
        """Take some Lanczos steps on one unfolding of all blocks."""
        if split not in self.runs:
            matrix = self._unfoldings.unfold(self._splits[split])
            self.runs[split] = Lanczos(matrix, tolerance=self._tolerance, ops=self._ops)
        lanczos = self.runs[split]
        in_float32 = self._searched.dtype == self._ops.xp.float32
        if self._count == 1 and not self.proofs and lanczos.steps >= TUNING.steps and in_float32:
            self.proofs[split] = UnfoldingProof(self._blocks, self._splits[split], ops=self._ops)
            lanczos.use_gram(self.proofs[split].gram)
        lanczos.advance()
        self._lower_sq[split] = np.maximum(self._lower_sq[split], lanczos.squares)
        self._done[split] = lanczos.done


def _finished(
    lanczos: Lanczos,
    members: np.ndarray,
    blocks: Array,
    rows: tuple[int, ...],
    gram: Array,
    tolerance: float,
    *,
    ops: ArrayOps,
) -> Lanczos:
    """A finished run on the unfolding of some blocks, in their own precision, from a run on all blocks.

    Parameters
    ----------
    members : integer array
        Numbers of these blocks among all.
    blocks, gram : arrays
        These blocks alone, and the smaller Gram matrices of their unfoldings.
    """
    xp = ops.xp
    is_all = len(members) == lanczos.matrix.shape[0]
    if is_all and lanczos.matrix.dtype == blocks.dtype:
        return lanczos
    start = lanczos.short_side_vectors()
    if not is_all:
        start = xp.take(start, ops.from_numpy(members, blocks), axis=0)
    return Lanczos(
        _Unfoldings(blocks, xp=xp).unfold(rows),
        xp.astype(start, blocks.dtype),
        gram=xp.astype(gram, blocks.dtype, copy=False),
        tolerance=tolerance,
        ops=ops,
    ).finish()


def _rank(shape: tuple[int, ...], rows: tuple[int, ...]) -> int:
    """Largest rank of an unfolding: its shorter side."""
    row_count = math.prod(shape[axis] for axis in rows)
    return min(row_count, math.prod(shape) // row_count)
