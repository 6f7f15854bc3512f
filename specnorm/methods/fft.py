"""Exact norms: over the DFT frequencies of a circular layer (Sedghi, Gupta and Long 2019), or over all frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import as_array, finite, known
from specnorm.certified.symbol import symbols
from specnorm.clock import Clock
from specnorm.errors import GeometryError, MethodError, Undecided
from specnorm.methods import base
from specnorm.methods.base import Evaluation, Method, Needs, check_budget, check_count, check_rtol, weighted
from specnorm.methods.enclosure import Enclose, enclose_layers
from specnorm.numerics import gradients
from specnorm.numerics.costs import eigh_work
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies, half_grid, mirror_index
from specnorm.problem.taps import shapes_of
from specnorm.search.constant import top_gradient, top_triples
from specnorm.search.enclosing import enclose_blocks, grid_sizes
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps

_FEW = 24
"""Grids of at most this many frequencies are not worth a search."""


@dataclass(frozen=True)
class ExactFFT(Method):
    """Norm of a circular layer at one input size, or the supremum over all sizes, to a relative tolerance.

    The symbols are matrix products with tables of cosines, not an FFT: a kernel larger than the input wraps by itself,
    and no frequency is stored. Large grids are searched by cells (`search`), so that the cost hardly grows with
    the input; small ones, and every grid under a tracer or where each new shape costs a compilation, are visited whole.

    Parameters
    ----------
    rtol : float
        The value is at most this far, relatively, below the norm.
    max_cells : int
        Budget of the search.
    budget : float, optional
        Seconds for the search; what has not begun by then is not tried.

    References
    ----------
    .. [1] Sedghi, Gupta, Long, "The Singular Values of Convolutional Layers", ICLR 2019, theorem 6.
    """

    rtol: float = 1e-6
    max_cells: int = 100_000
    budget: float | None = None

    name: ClassVar[str] = "fft"
    promise: ClassVar[Kind] = "exact"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"frequencies": None}

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)
        check_budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        """One search for all groups, for the supremum: no fixed set of frequencies gives that."""
        return Needs(
            precision="wide",
            narrow_gradient=True,
            small_products=True,
            by_layer=True,
            searches=spec.input_shape is None,
        )

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size, or every size at once."""
        base.require_exact(spec, "conv_norm")

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        max_cells = self.max_cells
        grid: Frequencies | None = None
        if spec.input_shape is not None:
            grid = half_grid(grid_sizes(spec, spec.block_kernel_shape))
            # An eigenvalue takes as long as some proofs: a search with many more cells than frequencies has lost.
            max_cells = min(max_cells, 2 * len(grid))
            # Of a matrix there is one frequency, whose norm Lanczos finds sooner.
            if not ops.concrete or 1 < len(grid) <= _FEW:
                return self._visit_all(blocks, spec.groups, grid, Clock.of(self.budget), ops=ops)
        layers = polyphase.by_layers(blocks, spec.groups)
        clock = Clock.of(self.budget)
        results = []
        all_converged = True
        for layer in layers:
            result, converged = enclose_blocks(Problem(layer, spec, self.rtol, max_cells, clock), ops=ops)
            results.append(result)
            all_converged = all_converged and converged
        if not all_converged:
            if grid is not None and len(grid) <= self.max_cells and not clock.expired:
                return self._visit_all(blocks, spec.groups, grid, clock, ops=ops)
            raise self._undecided()
        maxima = [(result.block, result.frequency, result.vectors) for result in results]
        u, v, value, phase, group = top_triples(layers, maxima, ops=ops)
        cells = np.asarray([result.cells for result in results], dtype=np.int32)
        return Evaluation(value, (ops.from_numpy(cells, blocks),), (u, v, phase, group))

    def _undecided(self) -> Undecided:
        seconds = "" if self.budget is None else f"{self.budget:g} s and "
        limit = f"{seconds}{self.max_cells} cells"
        return Undecided(
            f"the norm is not known to rtol={self.rtol:g} within {limit} (many are needed where it is nearly "
            "constant). enclose(kernel) returns what is proven; or give a larger rtol, or a larger budget."
        )

    def _visit_all(
        self,
        blocks: Array,
        groups: int,
        grid: Frequencies,
        clock: Clock,
        *,
        ops: ArrayOps,
    ) -> Evaluation:
        """Compute the norm at every frequency of a grid."""
        xp = ops.xp
        work_of_a_frequency = eigh_work(min(blocks.shape[1:3]), is_complex=True, vectors=False)
        if ops.concrete and not clock.affords(blocks.shape[0] * len(grid) * work_of_a_frequency):
            raise self._undecided()

        def norms(symbol: symbols.Symbol) -> Array:
            gram = arrays.gram_smaller(symbol.matrices(), xp=xp)
            top = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
            return xp.sqrt(xp.maximum(top, xp.zeros_like(top)))

        _, phase = symbols.largest(norms, blocks, grid, ops=ops)
        u, v, value = symbols.top_triple(symbols.matrix_at(blocks, phase, xp=xp), xp=xp)
        by_layer = [xp.reshape(x, (-1, groups, *x.shape[1:])) for x in (u, v, value, phase)]
        group = xp.argmax(by_layer[2], axis=1)
        u, v, value, phase = (arrays.pick(x, group, xp=xp) for x in by_layer)
        visited = xp.full(value.shape, groups * len(grid), dtype=xp.int32, device=ops.device(blocks))
        return Evaluation(value, (visited,), (u, v, phase, group))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Re(conj(u_o) v_i e^{i k.theta}) at the arg-max frequency of the arg-max group."""
        return top_gradient(residuals, cotangent, spec, xp=xp)


@dataclass(frozen=True)
class NormAtSize(Method):
    """Norm of the layer itself at ``input_shape``, to a relative tolerance.

    It is not in ``METHODS``: an audit has both bounds.

    Parameters
    ----------
    rtol : float
        The value is proven to be at most this far, relatively, below the norm, and not above it.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried.
    """

    rtol: float = 1e-6
    budget: float | None = None

    name: ClassVar[str] = "at_size"
    promise: ClassVar[Kind] = "exact"
    asks: ClassVar[Needs] = Needs(precision="wide", narrow_gradient=True, blocks=False, searches=True)
    stats: ClassVar[Mapping[str, Rounds | None]] = {"upper": "up"}

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_budget(self.budget)

    def check(self, spec: ConvSpec) -> None:
        if spec.input_shape is None:
            raise GeometryError("the layer itself has a norm at one size only: give input_shape.")
        shapes_of(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        found = enclose_layers(blocks, spec, Enclose(rtol=self.rtol, budget=self.budget), ops=ops)
        if not all(x.within(self.rtol) for x in found):
            apart = max(finite(x.upper) / x.lower.value - 1 if x.lower > 0 else math.inf for x in found)
            raise Undecided(
                f"the norm at input_shape={spec.input_shape} is known to {apart:.1e} only, not to rtol={self.rtol:g}: "
                "give a larger rtol or budget, or use enclose(kernel, input_shape), which returns what is proven."
            )
        lower = as_array([x.lower for x in found], blocks, ops=ops)
        upper = as_array([known(x.upper) for x in found], blocks, ops=ops)
        return Evaluation(lower, (upper,), (ops.xp.concat([x.gradient for x in found], axis=0),))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        return weighted(residuals, cotangent, xp=xp)


@dataclass(frozen=True)
class SingularValues(Method):
    """All singular values of a circular layer at one input size, descending; or the k largest or smallest.

    And of a layer without padding whose outputs read a patch each, such as a 1x1 layer: those of one matrix, repeated.

    Parameters
    ----------
    k : int or None
        How many; None: all ``prod(input_shape) * min(cin, cout)``.
    smallest : bool
        Whether the k smallest are meant, not the k largest.
    max_bytes : int, default 4 GiB
        Refuse what takes more memory.
    """

    k: int | None = None
    max_bytes: int = 2**32
    smallest: bool = False

    name: ClassVar[str] = "singular_values"
    promise: ClassVar[Kind] = "exact"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", value_shape=self._value_shape(spec))

    def check(self, spec: ConvSpec) -> None:
        """Circular at a given size, or one matrix for each patch, and no more values than there are."""
        if spec.input_shape is None or not spec.repeats_a_matrix:
            require_circular(spec, "singular_values", "conv_norm and the bounds")
            base.require_exact(spec, "singular_values")
        base.check_number_of_values(self.k, self._total(spec))
        if self.bytes(spec) > self.max_bytes:
            raise MethodError(
                f"{self.cost(spec)} of memory. The largest of them take little: "
                "specnorm.measure(kernel, specnorm.methods.PowerTopK(k=10), input_shape=...), and conv_norm the first. "
                f"max_bytes={self.bytes(spec)} computes them all the same."
            )

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        return (self.k or self._total(spec),)

    @staticmethod
    def _per_group(spec: ConvSpec) -> int:
        """Singular values of one group; those of pixels that no tap reads are zero."""
        first, second = spec.stored_channels
        positions = _positions(spec)
        pixels = positions * math.prod(spec.stride)
        if spec.repeats_a_matrix:
            pixels = math.prod(shapes_of(spec)[spec.transposed][1:])
        return min(first // spec.groups * positions, second * pixels)

    def _total(self, spec: ConvSpec) -> int:
        return spec.groups * self._per_group(spec)

    def cost(self, spec: ConvSpec) -> str:
        """What is computed, in words: its memory decides whether it can be."""
        return f"{self._total(spec)} singular values, with their vectors some {self.bytes(spec) / 2**30:.3g} GiB"

    def bytes(self, spec: ConvSpec) -> int:
        """Memory of the singular vectors at every frequency, and once more at half of them; the same for every k."""
        rows, columns = spec.block_shape[:2]
        frequencies = spec.groups * _positions(spec)
        return 24 * frequencies * (rows + columns) * min(rows, columns)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        flat = xp.reshape(values, (values.shape[0], -1))
        order = self._ordered(flat, xp=xp)
        count = self.k or flat.shape[1]
        return xp.take_along_axis(flat, order[:, :count], axis=1), order

    def _ordered(self, flat: Array, *, xp: Namespace) -> Array:
        """Places of the values wanted, the largest first, in the first k columns; the others behind."""
        order = xp.argsort(flat, axis=1, descending=True)
        if self.k is None or not self.smallest:
            return order
        return xp.concat([order[:, -self.k :], order[:, : -self.k]], axis=1)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Undo the merge; values not asked for get 0."""
        return xp.reshape(_unsorted(cotangent, chosen, xp=xp), (chosen.shape[0], groups, -1))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """SVD at half the frequencies; the others are their mirror images, or the same once more."""
        xp = ops.xp
        # Axes with one tap need one frequency.
        sizes = grid_sizes(spec, spec.block_kernel_shape) if spec.ndim else ()
        half = half_grid(sizes)
        repeats = _positions(spec) // math.prod(sizes)
        mirror = ops.from_numpy(np.tile(mirror_index(sizes), repeats), blocks)
        parts = []
        step = symbols.chunk_length(blocks, ops=ops)
        for start in range(0, len(half), step):
            symbol = symbols.Symbol(blocks, half[start : start + step], ops=ops)
            u, s, vh = xp.linalg.svd(symbol.matrices(), full_matrices=False)
            phase = xp.broadcast_to(symbol.phase[None, ...], (blocks.shape[0], *symbol.phase.shape))
            parts.append((u, s, vh, phase))
        half_factors = (xp.concat(list(chunks), axis=1) for chunks in zip(*parts, strict=True))
        u, s, vh, phase = (xp.take(factor, mirror, axis=1) for factor in half_factors)
        flat = xp.reshape(s, (s.shape[0], -1))
        unread = self._per_group(spec) - flat.shape[1]
        if unread:
            # Pixels that no tap reads: no vectors, and values of 0 after all others.
            flat = xp.concat([flat, xp.broadcast_to(flat[:, :1] * 0, (flat.shape[0], unread))], axis=1)
        order = self._ordered(flat, xp=xp)
        count = min(self.k or flat.shape[1], flat.shape[1])
        return Evaluation(xp.take_along_axis(flat, order[:, :count], axis=1), (), (u, vh, phase, order))

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Sum over the values of cotangent times Re(conj(u_o) v_i e^{i k.theta})."""
        u, vh, phase, order = residuals
        b, f, _, r = u.shape
        weights = xp.reshape(_unsorted(cotangent, order, xp=xp)[:, : f * r], (b, f, 1, r))
        weights = xp.astype(weights, u.dtype)
        return gradients.matrices_gradient(xp.matmul(u * weights, vh), phase, spec.block_kernel_shape, xp=xp)


def _positions(spec: ConvSpec) -> int:
    """Pixels of the small side: outputs; inputs of a transposed layer."""
    if spec.repeats_a_matrix:
        return math.prod(shapes_of(spec)[not spec.transposed][1:])
    return math.prod(spec.block_positions)


def _unsorted(values: Array, order: Array, *, xp: Namespace) -> Array:
    """Values at the places that ``order`` lists, and 0 at places beyond the end of the values."""
    ranks = xp.argsort(order, axis=1)
    has_value = ranks < values.shape[1]
    unsorted = xp.take_along_axis(values, xp.where(has_value, ranks, xp.zeros_like(ranks)), axis=1)
    return xp.where(has_value, unsorted, xp.zeros_like(unsorted))


def require_circular(spec: ConvSpec, function: str, otherwise: str) -> None:
    """Refuse what is not a circular layer at a given input size.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    if spec.padding_mode != "circular" and spec.ndim:
        raise GeometryError(
            f'{function} needs padding_mode="circular" for all values; got "{spec.padding_mode}". Give k for the '
            f"largest ones. The supremum over all sizes bounds zero padding too: use {otherwise}."
        )
    if spec.input_shape is None:
        raise GeometryError(
            f"{function} needs input_shape, the layer's spatial input sizes. For every size at once: {otherwise}."
        )
