"""All singular values of a layer at one input size: by its symbols, or by an SVD of the layer's own matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.backends.types import ArrayOps
from specnorm.errors import MethodError
from specnorm.geometry.layer_map import Convolution
from specnorm.proofs import norms
from specnorm.proofs.frequencies import Frequencies
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Plan
from specnorm.spectrum.proof import singular_values_down
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs import rounding

MOST_ROWS = 4096
"""Largest shorter side of a layer's own matrix: an SVD of that size takes a minute."""
_BYTES_OF_A_VALUE = 64
"""Bytes that each singular value of a circular layer takes, with its place in the order and the copies of both."""
_ENTRIES_A_CHUNK = 2**20
"""Entries of the symbols whose singular vectors are computed at once for a gradient."""
_MOST_PRODUCTS = 5
"""Most Gram products that leave frequencies out."""
_VISITED_AT_ONCE = 4
"""Least number of frequencies with the highest bounds that are visited after each product."""
_VALUES_A_VISIT = 4
"""Values asked for, for each frequency that is visited after a product."""


@dataclass(frozen=True)
class SingularValues(Plan):
    """All singular values of a layer at one input size, descending; or the k largest or smallest.

    Those of a circular layer are the values of its symbols. A layer without padding whose outputs read disjoint
    patches, such as a 1x1 layer, has those of one matrix, repeated. Another layer is applied to each unit vector of
    inputs, which gives its own matrix, for an SVD; so it must be small.

    The symbols of a real kernel at theta and -theta have the same values, so one of both is factorized. Singular
    vectors are computed for a gradient and for the k largest values, which they prove. For the k largest values of a
    layer without groups, frequencies whose norms are proven to be below the k-th largest so far are left out.

    Parameters
    ----------
    k : int or None
        Number of values; None: all, of which a layer without stride has ``prod(input_shape) * min(cin, cout)``. Each of
        the k largest, unless they are of the layer's own matrix, is a proven lower bound of the singular value of its
        rank.
    max_bytes : int, default 256 MiB
        Refuse computations that take more memory.
    smallest : bool
        Whether the k smallest are meant, not the k largest.
    """

    k: int | None = None
    max_bytes: int = ArrayOps.memory
    smallest: bool = False

    name: ClassVar = "singular_values"

    @property
    def _rounds_down(self) -> bool:
        """Whether each value of a symbol is a lower bound of the singular value of its rank: the k largest are."""
        return self.k is not None and not self.smallest

    def needs(self, spec: ConvSpec) -> Needs:
        by_symbols = not _has_own_matrix(spec)
        rounds: rounding.Rounds = "down" if self._rounds_down and by_symbols else "nearest"
        # Of the k largest, most frequencies are left out by products of small matrices.
        return Needs(
            precision="own" if self.k is None else "wide",
            rounds=rounds,
            small_products=self._rounds_down,
            blocks=by_symbols,
            value_shape=(self.k or spec.singular_value_count,),
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers without a size, too many values or too large a matrix, and a k beyond the layer's values."""
        own_matrix = _has_own_matrix(spec)
        if spec.input_shape is None or not (own_matrix or spec.repeats_a_matrix):
            spec.require_circular(
                "singular_values",
                at_every_size="conv_norm(kernel) and the bounds",
                for_other_padding="The largest values of a padded layer: singular_values(kernel, input_shape, k=...).",
            )
        total = spec.singular_value_count
        checks.count("max_bytes", self.max_bytes)
        if self.k is not None:
            checks.count("k", self.k, least=1)
            if self.k > total:
                raise MethodError(f"k={self.k!r} is not a number of singular values: this layer has {total}.")
        problem = f"{total} singular values"
        advice = (
            ". The largest of them take little: "
            "specnorm.measure(kernel, specnorm.methods.PowerTopK(k=10), input_shape=...), and conv_norm the first."
        )
        if own_matrix:
            outputs, inputs = _sides(spec)
            problem = (
                f"a layer whose borders cut off taps has the singular values of its own matrix, {outputs} x {inputs}"
            )
            advice = (
                ": give a smaller input_shape; or use singular_values(kernel, input_shape, k=...), which computes the "
                "k largest ones by Lanczos, or enclose_smallest(kernel, input_shape), which encloses the smallest one."
            )
            if total > MOST_ROWS:
                raise MethodError(f"{problem}, of which more than {MOST_ROWS} take too long{advice}")
        memory = self.memory(spec)
        if memory > self.max_bytes:
            raise MethodError(
                f"{problem}, some {memory / 2**30:.3g} GiB of memory{advice} max_bytes={memory} computes them all "
                "the same."
            )

    def memory(self, spec: ConvSpec) -> int:
        """Bytes of the values, their order and copies of both, besides a chunk of symbols; the same for every k.

        Of a layer's own matrix: bytes of it, its factors, and the gradient of each value that is asked for.
        """
        total = spec.singular_value_count
        if not _has_own_matrix(spec):
            return _BYTES_OF_A_VALUE * total
        outputs, inputs = _sides(spec)
        kernel_entries = math.prod(spec.kernel_shape) * math.prod(spec.stored_channels)
        return 8 * (2 * outputs * inputs + total * (outputs + inputs) + (self.k or total) * kernel_entries)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        if values.shape[1] == 1:
            return values[:, 0, :], xp.argmax(values[:, :, 0], axis=1)
        flat = xp.reshape(values, (values.shape[0], -1))
        order = self._order(flat, flat.shape[1], xp=xp)
        return xp.take_along_axis(flat, order[:, : self.k or flat.shape[1]], axis=1), order

    def _order(self, flat: Array, count: int, *, xp: Namespace) -> Array:
        """Indices that bring the k values that are asked for, descending, to the front; of the largest ``count``."""
        order = xp.argsort(flat, axis=1, descending=True)
        if self.k is None or not self.smallest:
            return order
        first = max(0, count - self.k)
        return xp.concat([order[:, first:], order[:, :first]], axis=1)

    def _sorted_on_host(self, values: Array, copies: np.ndarray, unread: int, *, ops: ArrayOps) -> Array:
        """The values (b, k) that are asked for, descending, by NumPy's sort: torch's takes ten times as long.

        ``values`` (b, f, r). ``copies`` (f,): how often each frequency counts. ``unread``: values of 0 besides.
        """
        of_layer = np.repeat(ops.to_numpy(values), copies, axis=1).reshape(values.shape[0], -1)
        ascending = np.sort(np.pad(of_layer, ((0, 0), (unread, 0))) if unread else of_layer, axis=1)
        count = ascending.shape[1]
        k = min(self.k or count, count)
        return ops.from_numpy((ascending[:, :k] if self.smallest else ascending[:, count - k :])[:, ::-1], values)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Undo the merge; values not asked for get 0."""
        if groups == 1:
            return cotangent[:, None, :]
        return xp.reshape(_unsorted(cotangent, chosen, xp=xp), (chosen.shape[0], groups, -1))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Values at frequencies without mirror images; axes with one tap repeat those of one frequency."""
        xp = ops.xp
        grid, multiplicities = Frequencies.distinct_grid(_grid_sizes(spec))
        repeats = _repeats(spec)
        if self.k is None or self.smallest or blocks.shape[0] > 1 or not ops.concrete:
            index, values = np.arange(len(grid)), _values_at(blocks, grid, self._rounds_down, ops=ops)
        else:
            index, values = _values_that_matter(blocks, grid, multiplicities * repeats, self.k, ops=ops)
        unread = spec.singular_value_count // spec.groups - int(multiplicities.sum()) * repeats * values.shape[2]
        if ops.concrete and ops.on_host and not ops.differentiated:
            return Evaluation(self._sorted_on_host(values, multiplicities[index] * repeats, unread, ops=ops), (), ())
        # A second copy for the mirror image; -1 for a frequency that is its own.
        is_mirrored = ops.from_numpy(multiplicities[index] == 2, values)[None, :, None]
        of_mirror = xp.where(is_mirrored, values, xp.full_like(values, -1.0))
        pair = xp.stack([values, of_mirror], axis=1)[:, None, ...]
        copies = xp.broadcast_to(pair, (pair.shape[0], repeats, *pair.shape[2:]))
        flat = xp.reshape(copies, (pair.shape[0], -1))
        count = int(multiplicities[index].sum()) * repeats * values.shape[2]
        if unread:
            # Pixels that no tap reads: no vectors, and values of 0 after all others.
            flat = xp.concat([flat, xp.broadcast_to(flat[:, :1] * 0, (flat.shape[0], unread))], axis=1)
            count += unread
        order = self._order(flat, count, xp=xp)
        chosen = xp.take_along_axis(flat, order[:, : min(self.k or count, count)], axis=1)
        if not ops.differentiated:
            return Evaluation(chosen, (), ())
        phase = Polynomial(blocks, xp=xp).at(grid[index], ops=ops).phase
        phases = xp.broadcast_to(phase[None, ...], (blocks.shape[0], *phase.shape))
        return Evaluation(chosen, (), (blocks, phases, order))

    def forward_kernels(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Values of the layer's own matrix."""
        xp = ops.xp
        layer = Convolution(kernels, spec, ops=ops)
        _, inputs = layer.shape
        unit_vectors = xp.eye(inputs, dtype=kernels.dtype, device=ops.device(kernels))
        # Row j is the image of input j: the transposed matrix.
        images = layer.apply(xp.broadcast_to(unit_vectors, (kernels.shape[0], inputs, inputs)))
        v, values, u = xp.linalg.svd(images, full_matrices=False)
        count = self.k or values.shape[-1]
        wanted = slice(values.shape[-1] - count, values.shape[-1]) if self.smallest else slice(0, count)
        right = xp.matrix_transpose(v)[:, wanted, :]
        # Of <u_j, A v_j>, with the vectors held fixed.
        gradients = (layer.kernel_gradient(u[:, wanted, :], right),) if ops.differentiated else ()
        return Evaluation(values[:, wanted], (), gradients)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Sum over the values of cotangent times Re(conj(u_o) v_i e^{i k.theta}), by SVDs of a chunk after another."""
        if _has_own_matrix(spec):
            return super().pullback(residuals, cotangent, spec, xp=xp)
        blocks, phase, order = residuals
        b, f, _ = phase.shape
        r = min(blocks.shape[1:3])
        weights = _unsorted(cotangent, order, xp=xp)
        copies = 2 * _repeats(spec)
        weights = xp.sum(xp.reshape(weights[:, : copies * f * r], (b, copies, f, r)), axis=1)
        weights = xp.astype(weights, phase.dtype)
        step = max(1, _ENTRIES_A_CHUNK // math.prod(blocks.shape[:3]))
        gradient = xp.zeros_like(blocks)
        for start in range(0, f, step):
            chunk = slice(start, start + step)
            u, _, vh = xp.linalg.svd(Polynomial(blocks, xp=xp).matrices_at(phase[:, chunk, :]), full_matrices=False)
            of_symbols = xp.matmul(u * weights[:, chunk, None, :], vh)
            gradient = gradient + Polynomial.matrices_gradient(
                of_symbols, phase[:, chunk, :], spec.block_kernel_shape, xp=xp
            )
        return gradient


def _values_at(blocks: Array, frequencies: Frequencies, rounds_down: bool, *, ops: ArrayOps) -> Array:
    """Singular values of the symbols at some frequencies, shape (b, f, r), within the memory budget.

    Lower bounds of them, if so asked, take the vectors.
    """
    xp = ops.xp
    polynomial = Polynomial(blocks, xp=xp)
    step = polynomial.frequencies_at_once(ops=ops)
    parts = []
    for start in range(0, len(frequencies), step):
        matrices = polynomial.at(frequencies[start : start + step], ops=ops).matrices()
        if rounds_down:
            factors = xp.linalg.svd(matrices, full_matrices=False)
            parts.append(singular_values_down(matrices, factors, polynomial.error[:, None], ops=ops))
        else:
            parts.append(xp.linalg.svdvals(matrices))
    return xp.concat(parts, axis=1)


def _values_that_matter(
    block: Array, grid: Frequencies, copies: np.ndarray, k: int, *, ops: ArrayOps
) -> tuple[np.ndarray, Array]:
    """Frequencies that may have one of the k largest values, by their numbers, and the values there, (1, f, r).

    Frequencies whose norms Gram iteration bounds by the k-th largest value found so far are left out, the others are
    visited: there all values are computed, to rounding. Only where one of the k largest is are they also proven.

    ``copies`` (f,): how often the layer has the values of each frequency.
    """
    tall = arrays.tall(block, xp=ops.xp)
    polynomial = Polynomial(tall, xp=ops.xp).gram(ops=ops).float32_copy()
    step = Polynomial(block, xp=ops.xp).frequencies_at_once(ops=ops)
    at_once = max(_VISITED_AT_ONCE, k // _VALUES_A_VISIT)
    found = _Found(block, grid, copies, k, ops=ops)
    for start in range(0, len(grid), step):
        index = np.arange(start, min(start + step, len(grid)))
        sums = polynomial.real_matrices_of(np.arange(1), grid[index])
        iterates = norms.GramIterates(sums, of_hermitian=True, in_cache=ops.on_host, xp=ops.xp)
        for product in range(_MOST_PRODUCTS):
            if product > 0:
                iterates.square()
            bounds = polynomial.norm_up_by(iterates.norms_up())
            order = np.argsort(-bounds)
            rest = order[at_once:]
            found.visit(index[order[:at_once]])
            rest = rest[~(bounds[rest] <= found.kth)]
            left = np.sort(rest)
            index = index[left]
            if len(index) <= at_once:
                break
            iterates.take(left, ops=ops)
        found.visit(index)
    numbers = found.numbers_of_largest()
    return numbers, _values_at(block, grid[numbers], True, ops=ops)


class _Found:
    """The values at the frequencies that `_values_that_matter`, whose parameters these are, has visited.

    ``copies`` (f,): how often the layer has the values of a frequency: its mirror image, and the repeats by axes with
    one tap.

    Attributes
    ----------
    kth : float
        The k-th largest of them, each as often as the layer has it; minus infinity while they are fewer.
    """

    def __init__(self, block: Array, grid: Frequencies, copies: np.ndarray, k: int, *, ops: ArrayOps) -> None:
        self._block = block
        self._grid = grid
        self._copies = copies
        self._k = k
        self._ops = ops
        self._numbers = np.zeros(0, dtype=np.int64)
        self._values = np.zeros((0, min(block.shape[1:3])))
        self.kth = -math.inf

    def visit(self, numbers: np.ndarray) -> None:
        """Compute the values at some frequencies, given by their numbers."""
        if not len(numbers):
            return
        values = _values_at(self._block, self._grid[numbers], False, ops=self._ops)
        self._numbers = np.concatenate([self._numbers, numbers])
        self._values = np.concatenate([self._values, np.asarray(self._ops.to_numpy(values))[0]])
        repeated = np.repeat(self._values, np.minimum(self._copies[self._numbers], self._k), axis=0).reshape(-1)
        if len(repeated) >= self._k:
            self.kth = float(np.partition(repeated, -self._k)[-self._k])

    def numbers_of_largest(self) -> np.ndarray:
        """The frequencies visited that have one of the k largest values; of equal ones, those of k frequencies."""
        largest = self._values[:, 0]
        order = np.argsort(-largest, kind="stable")[: self._k]
        return self._numbers[order[largest[order] >= self.kth]]


def _has_own_matrix(spec: ConvSpec) -> bool:
    """Whether the values are those of the layer's own matrix: borders cut taps off, and symbols do not tell."""
    return spec.input_shape is not None and not (spec.is_circulant or spec.repeats_a_matrix)


def _sides(spec: ConvSpec) -> tuple[int, int]:
    """Numbers of outputs and of inputs of a layer."""
    inputs, outputs = spec.shapes
    return math.prod(outputs), math.prod(inputs)


def _positions(spec: ConvSpec) -> int:
    """Number of positions on the small side of the convolution: of outputs, or of inputs of a transposed layer."""
    if spec.repeats_a_matrix:
        _, small = spec.sides
        return math.prod(small)
    return math.prod(spec.block_positions)


def _grid_sizes(spec: ConvSpec) -> tuple[int, ...]:
    """Sizes of the grid of frequencies; 1 along axes with one tap."""
    return spec.grid_sizes(spec.block_kernel_shape) if spec.ndim else ()


def _repeats(spec: ConvSpec) -> int:
    """How often the axes with one tap repeat the values of a frequency."""
    return _positions(spec) // math.prod(_grid_sizes(spec))


def _unsorted(values: Array, order: Array, *, xp: Namespace) -> Array:
    """Values at the places that ``order`` lists, and 0 at places beyond the end of the values."""
    ranks = xp.argsort(order, axis=1)
    has_value = ranks < values.shape[1]
    unsorted = xp.take_along_axis(values, xp.where(has_value, ranks, xp.zeros_like(ranks)), axis=1)
    return xp.where(has_value, unsorted, xp.zeros_like(unsorted))
