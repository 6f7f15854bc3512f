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
from specnorm.numerics.costs import eigh_cost
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies, half_grid, mirror_index
from specnorm.problem.taps import shapes_of, sizes_of
from specnorm.search.constant import top_gradient, top_triples
from specnorm.search.enclosing import enclose_blocks, grid_sizes
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps

_FEW_FREQUENCIES = 24
"""Grids of at most this many frequencies are not worth a search."""


@dataclass(frozen=True)
class ExactFFT(Method):
    """Norm of a circular layer at one input size, or the supremum over all sizes, to a relative tolerance.

    Despite its name, the method uses no FFT. The symbols are matrix products with tables of cosines, so a kernel that
    is larger than the input needs no special case, and the symbols of all frequencies need not be stored at once. Large
    grids are searched by cells (`search`), so that the cost hardly grows with the input; small ones, and every grid
    under a tracer or where each new shape costs a compilation, are visited whole.

    Parameters
    ----------
    rtol : float
        The value is at most this far, relatively, below the norm.
    max_cells : int
        Budget of the search.
    budget : float, optional
        Seconds for the searches of all layers together; after them no further step begins.

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
        """What the method asks for. It must look at values for the supremum, which no fixed set of frequencies gives.

        At a size it can visit all frequencies instead.
        """
        return Needs(
            precision="wide",
            narrow_gradient=True,
            small_products=True,
            by_layer=True,
            searches=spec.input_shape is None,
        )

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers whose norm is not that of their symbols."""
        base.require_exact(spec, "conv_norm")

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        max_cells = self.max_cells
        grid: Frequencies | None = None
        if spec.input_shape is not None:
            grid = half_grid(grid_sizes(spec, spec.block_kernel_shape))
            # One eigenvalue costs as much as a few cells: beyond two cells for each frequency, visiting all is cheaper.
            max_cells = min(max_cells, 2 * len(grid))
            # A grid of one frequency is searched all the same: its norm is found sooner by Lanczos (`enclose_blocks`).
            if not ops.concrete or 1 < len(grid) <= _FEW_FREQUENCIES:
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
        work_of_a_frequency = eigh_cost(min(blocks.shape[1:3]), is_complex=True, vectors=False)
        if ops.concrete and not clock.affords(blocks.shape[0] * len(grid) * work_of_a_frequency):
            raise self._undecided()

        def norms(symbol: symbols.Symbol) -> Array:
            gram = arrays.gram_smaller(symbol.matrices(), xp=xp)
            top = xp.linalg.eigvalsh((gram + arrays.adjoint(gram, xp=xp)) / 2)[..., -1]
            return xp.sqrt(xp.maximum(top, xp.zeros_like(top)))

        _, phase = symbols.max_over_frequencies(norms, blocks, grid, ops=ops)
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

    It is not in ``METHODS``: `Enclose`, which is, returns both bounds of that norm.

    Parameters
    ----------
    rtol : float
        The value is proven to be at most this far, relatively, below the norm, and not above it.
    budget : float, optional
        Seconds for one layer; after them no further step begins.
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
        bounds = enclose_layers(blocks, spec, Enclose(rtol=self.rtol, budget=self.budget), ops=ops)
        if not all(x.within(self.rtol) for x in bounds):
            relative_width = max(finite(x.upper) / x.lower.value - 1 if x.lower > 0 else math.inf for x in bounds)
            raise Undecided(
                f"the norm at input_shape={spec.input_shape} is known to {relative_width:.1e} only, not to "
                f"rtol={self.rtol:g}: give a larger rtol or budget, or use enclose(kernel, input_shape), which returns "
                "what is proven."
            )
        lower = as_array([x.lower for x in bounds], blocks, ops=ops)
        upper = as_array([known(x.upper) for x in bounds], blocks, ops=ops)
        return Evaluation(lower, (upper,), (ops.xp.concat([x.gradient for x in bounds], axis=0),))

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

    A layer without padding whose outputs read disjoint patches, such as a 1x1 layer, is supported, too: its values are
    those of one matrix, repeated.

    Parameters
    ----------
    k : int or None
        Number of values; None: all, of which a layer without stride has ``prod(input_shape) * min(cin, cout)``.
    smallest : bool
        Whether the k smallest are meant, not the k largest.
    max_bytes : int, default 4 GiB
        Refuse computations that take more memory.
    """

    k: int | None = None
    max_bytes: int = 2**32
    smallest: bool = False

    name: ClassVar[str] = "singular_values"
    promise: ClassVar[Kind] = "exact"

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(precision="wide", value_shape=self._value_shape(spec))

    def check(self, spec: ConvSpec) -> None:
        """Refuse layers that are neither circular at a size nor a matrix for each patch, and a k that is too large."""
        if spec.input_shape is None or not spec.repeats_a_matrix:
            require_circular(
                spec,
                "singular_values",
                at_every_size="conv_norm(kernel) and the bounds",
                for_other_padding="The largest values of a padded layer: singular_values(kernel, input_shape, k=...).",
            )
            base.require_exact(spec, "singular_values")
        base.check_number_of_values(self.k, self._total(spec))
        memory = self.memory(spec)
        if memory > self.max_bytes:
            raise MethodError(
                f"{self.memory_in_words(spec)} of memory. The largest of them take little: "
                "specnorm.measure(kernel, specnorm.methods.PowerTopK(k=10), input_shape=...), and conv_norm the first. "
                f"max_bytes={memory} computes them all the same."
            )

    def _value_shape(self, spec: ConvSpec) -> tuple[int, ...]:
        return (self.k or self._total(spec),)

    @staticmethod
    def _per_group(spec: ConvSpec) -> int:
        """Number of singular values of one group; those of pixels that no tap reads are zero."""
        output_channels, input_channels = spec.group_channels
        positions = _positions(spec)
        pixels = positions * math.prod(spec.stride)
        if spec.repeats_a_matrix:
            large, _ = sizes_of(spec)
            pixels = math.prod(large)
        return min(output_channels * positions, input_channels * pixels)

    def _total(self, spec: ConvSpec) -> int:
        return spec.groups * self._per_group(spec)

    def memory_in_words(self, spec: ConvSpec) -> str:
        """The number of values and their memory, for the error message."""
        return f"{self._total(spec)} singular values, with their vectors some {self.memory(spec) / 2**30:.3g} GiB"

    def memory(self, spec: ConvSpec) -> int:
        """Bytes of the singular vectors at every frequency, and once more at half of them; the same for every k."""
        rows, columns = spec.block_shape[:2]
        frequencies = spec.groups * _positions(spec)
        # Complex numbers of 16 bytes, one and a half times.
        return 24 * frequencies * (rows + columns) * min(rows, columns)

    def over_groups(self, values: Array, *, xp: Namespace) -> tuple[Array, Array]:
        flat = xp.reshape(values, (values.shape[0], -1))
        order = self._order(flat, xp=xp)
        count = self.k or flat.shape[1]
        return xp.take_along_axis(flat, order[:, :count], axis=1), order

    def _order(self, flat: Array, *, xp: Namespace) -> Array:
        """Indices that bring the k values that are asked for, descending, to the front."""
        order = xp.argsort(flat, axis=1, descending=True)
        if self.k is None or not self.smallest:
            return order
        return xp.concat([order[:, -self.k :], order[:, : -self.k]], axis=1)

    def to_groups(self, cotangent: Array, chosen: Array, groups: int, *, xp: Namespace) -> Array:
        """Undo the merge; values not asked for get 0."""
        return xp.reshape(_unsorted(cotangent, chosen, xp=xp), (chosen.shape[0], groups, -1))

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """SVD at half the frequencies; the others are their mirror images or, for axes with one tap, repetitions."""
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
        order = self._order(flat, xp=xp)
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
    """Number of positions on the small side of the convolution: of outputs, or of inputs of a transposed layer."""
    if spec.repeats_a_matrix:
        _, small = sizes_of(spec)
        return math.prod(small)
    return math.prod(spec.block_positions)


def _unsorted(values: Array, order: Array, *, xp: Namespace) -> Array:
    """Values at the places that ``order`` lists, and 0 at places beyond the end of the values."""
    ranks = xp.argsort(order, axis=1)
    has_value = ranks < values.shape[1]
    unsorted = xp.take_along_axis(values, xp.where(has_value, ranks, xp.zeros_like(ranks)), axis=1)
    return xp.where(has_value, unsorted, xp.zeros_like(unsorted))


def require_circular(spec: ConvSpec, function: str, *, at_every_size: str, for_other_padding: str) -> None:
    """Refuse layers that are not circular at a given input size.

    Parameters
    ----------
    function : str
        Name of the function that refuses.
    at_every_size : str
        Functions to use without ``input_shape``.
    for_other_padding : str
        A sentence that says what to use for another padding mode.

    Raises
    ------
    GeometryError
    """
    if spec.padding_mode != "circular" and spec.ndim:
        raise GeometryError(f'{function} needs padding_mode="circular"; got "{spec.padding_mode}". {for_other_padding}')
    if spec.input_shape is None:
        raise GeometryError(
            f"{function} needs input_shape, the layer's spatial input sizes. For every size at once: {at_every_size}."
        )
