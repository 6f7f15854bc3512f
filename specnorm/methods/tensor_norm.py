"""TN: the spectral norm of the kernel as a tensor, times the root of its number of taps (Grishina et al. 2024).

``TN(K) = sqrt(prod k_j) max |sum K[o,i,k,l] u_o v_i a_k b_l|`` over unit complex vectors; ``sigma* <= TN``. The maximum
is approached from below by alternating maximisation, so the computed value is an estimate of TN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, ClassVar

from specnorm import arrays
from specnorm.certified.matrices import norms
from specnorm.clock import Clock
from specnorm.errors import MethodError, Undecided
from specnorm.methods.base import Evaluation, Needs, Stepped, check_budget, check_count
from specnorm.problem import polyphase
from specnorm.search.constant import norms_of_one_tap
from specnorm.tensor import one_set
from specnorm.tensor.alternation import alternate, maximise
from specnorm.tensor.form import Form, best, starts
from specnorm.tensor.proving import LIFT, TUNING, certified
from specnorm.words import warn_of_former_keyword

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class TensorNorm(Stepped):
    """Tensor-norm bound by alternating maximisation from Fourier starts.

    Parameters
    ----------
    starts : int
        Fourier starts: the best frequencies of a coarse grid.
    random_starts : int
        Further complex Gaussian starts, seeded.
    max_iter : int
        Most sweeps over all vectors.
    seed : int
        Of the start vectors; the same on every backend.
    proven : bool or None
        None: prove ``sigma* <= value`` where values are known, else an estimate; True: prove or raise; False: the
        estimate.
    budget : float, optional
        Seconds for the proof; what has not begun by then is not tried.
    certified : bool or None
        The former name of ``proven``, with a `DeprecationWarning`.

    References
    ----------
    .. [1] Grishina, Gorbunov, Rakhuba, "Tight and Efficient Upper Bound on Spectral Norm of Convolutional Layers",
       ECCV 2024, arXiv:2409.11859.
    """

    starts: int = 12
    random_starts: int = 8
    max_iter: int = 200
    seed: int = 0
    proven: bool | None = None
    budget: float | None = None
    certified: InitVar[bool | None] = None

    def __post_init__(self, certified: bool | None) -> None:
        if certified is not None:
            warn_of_former_keyword("certified", "proven")
            object.__setattr__(self, "proven", certified)
        check_count("starts", self.starts, least=1)
        check_count("random_starts", self.random_starts)
        check_count("max_iter", self.max_iter, least=1)
        check_count("seed", self.seed)
        check_budget(self.budget)

    name: ClassVar[str] = "tn"
    promise: ClassVar[Kind] = "estimate"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"iterations": None, "factor": None, "proven": None}

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(rounds="up", small_products=True, by_layer=True, searches=self.proven is not False)

    def refuse_tracer(self, spec: ConvSpec) -> None:
        if self.proven:
            super().refuse_tracer(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Maximise from all starts at once, keep the best of each layer, and prove it."""
        xp = ops.xp
        if math.prod(spec.block_kernel_shape) == 1 and ops.concrete:
            matrices = self._of_matrices(blocks, spec, ops=ops)
            if matrices is not None:
                return matrices
        v, modes = starts(blocks, self.starts, self.random_starts, self.seed, ops=ops)
        value, residuals, count = maximise(blocks, v, modes, self.max_iter, ops=ops)
        group, value, *residuals = _largest([value, *residuals], spec.groups, xp=xp)
        factor = xp.ones_like(value)
        proven = xp.zeros(value.shape, dtype=xp.bool, device=ops.device(blocks))
        if self.needs(spec).searches and not ops.traced:
            layers = []
            for j, layer in enumerate(polyphase.by_layers(blocks, spec.groups)):
                of_layer = [x[j : j + 1, ...] for x in (value, *residuals, group)]
                layers.append(self._prove(layer, of_layer, ops=ops))
            columns = zip(*layers, strict=True)
            value, *residuals, group, factor, proven = (xp.concat(list(column), axis=0) for column in columns)
        count = xp.broadcast_to(count, value.shape)
        return Evaluation(value * factor, (count, factor, proven), (*residuals, factor, group))

    def _of_matrices(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation | None:
        """TN of kernels with one tap, their norm; None if that was to be proven and is not."""
        xp = ops.xp
        value, vectors, steps = norms_of_one_tap(blocks, ops=ops)
        group, best, *residuals = _largest([value, *vectors], spec.groups, xp=xp)
        factor = xp.ones_like(best)
        proven = xp.zeros(best.shape, dtype=xp.bool, device=ops.device(blocks))
        if self.needs(spec).searches:
            factor = norms.proven_factor(best, vectors[1], blocks, ops=ops)
            proven = factor <= LIFT
            if not xp.all(proven):
                return None
        count = xp.full(best.shape, steps, dtype=xp.int32, device=ops.device(blocks))
        return Evaluation(best * factor, (count, factor, proven), (*residuals, factor, group))

    def _prove(self, blocks: Array, maximiser: list[Array], *, ops: ArrayOps) -> list[Array]:
        """Prove the value of one layer's blocks. Return value, u, v, weights, block, factor, proven; leading axis 1."""
        xp = ops.xp

        def maximise_again(block: Array, v: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
            return maximise(block, v, modes, self.max_iter, ops=ops)

        clock = Clock.of(self.budget)
        maximiser, factor, proven = certified(blocks, maximiser, maximise_again, seed=self.seed, clock=clock, ops=ops)
        if self.proven and not proven:
            limit = f"{TUNING.cells} cells" if self.budget is None else f"{TUNING.cells} cells and {self.budget:g} s"
            raise Undecided(
                f"tn_bound could not be proven within {limit}; grid_bound and f4_bound are proven bounds, and "
                "enclose(kernel) returns what is proven."
            )
        device = ops.device(blocks)
        return [
            *maximiser,
            xp.full((1,), factor, dtype=maximiser[0].dtype, device=device),
            xp.full((1,), proven, dtype=xp.bool, device=device),
        ]

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Envelope theorem: sqrt(taps) Re(u o v o a o b), the vectors held constant."""
        u, v, weights, factor, group = residuals
        scale = cotangent * factor * math.sqrt(math.prod(spec.block_kernel_shape))
        rows = arrays.real_pair(u * xp.astype(scale, u.dtype)[:, None], xp=xp)
        columns = xp.reshape(v[:, :, None] * weights[:, None, :], (v.shape[0], -1))
        gradient = xp.matmul(rows, xp.stack([xp.real(columns), xp.imag(columns)], axis=1))
        gradient = arrays.one_hot(gradient, group, spec.groups, xp=xp)
        return xp.reshape(gradient, (-1, *spec.block_shape))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """Left and spatial vectors, one after the other, as (real, imaginary)."""
        if self.proven:
            raise MethodError("TensorNorm(proven=True) insists on a proof, which a step is not: leave it out.")
        return {"vectors": (spec.block_shape[0] + sum(_sizes(spec)), 2)}

    def state_class(self, spec: ConvSpec) -> Hashable:
        """Layers with as many taps an axis go together: zero channels stay zero in every product."""
        return _sizes(spec)

    def with_channels(
        self,
        state: tuple[Array, ...],
        here: ConvSpec,
        there: ConvSpec,
        *,
        xp: Namespace,
    ) -> tuple[Array, ...]:
        """The state with zeros at the end of the left vectors, which come first, or with fewer of their entries."""
        (vectors,) = state
        channels, new_channels = here.block_shape[0], there.block_shape[0]
        left = vectors[..., : min(channels, new_channels), :]
        spatial = vectors[..., channels:, :]
        zero = xp.zeros_like(left[..., :1, :])
        zeros = xp.broadcast_to(zero, (*zero.shape[:-2], max(0, new_channels - channels), 2))
        return (xp.concat([left, zeros, spatial], axis=-2),)

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Left and spatial vectors of the maximiser; where the kernel is zero, constant ones."""
        xp = ops.xp
        form = Form(blocks, ops=ops)
        v, modes = starts(blocks, self.starts, self.random_starts, self.seed, ops=ops)
        _, value, v, modes, _ = alternate(blocks, v, modes, self.max_iter, ops=ops)
        value, v, modes = best(value, v, modes, 1, xp=xp)
        u, _ = form.left(v, form.weights(modes))
        is_nonzero = (value > 0)[..., None]
        vectors = [xp.where(is_nonzero, x, xp.ones_like(x) / math.sqrt(x.shape[2])) for x in (u, *modes)]
        return (arrays.real_pair(xp.concat(vectors, axis=2)[:, 0, :], xp=xp),)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        xp = ops.xp
        (vectors,) = state
        m, sizes = spec.block_shape[0], _sizes(spec)
        ends = list(itertools.accumulate([m, *sizes]))
        complex_vectors = ops.complex(vectors[..., 0], vectors[..., 1])
        modes = [complex_vectors[:, first:end] for first, end in itertools.pairwise(ends)]
        by_row = xp.reshape(blocks, (*blocks.shape[:2], -1))
        step = one_set.step(by_row, vectors[:, :m, :], modes, sweeps, join=ops.complex, xp=xp)
        moved = xp.concat([step.rows, arrays.real_pair(xp.concat(step.modes, axis=-1), xp=xp)], axis=1)
        is_usable = (step.value > 0) & xp.isfinite(step.value)
        moved = xp.where(is_usable[:, None, None], moved, vectors)
        group, value, rows, columns = _largest([step.value, step.rows, step.columns], spec.groups, xp=xp)
        u = ops.complex(rows[..., 0], -rows[..., 1])
        # The right vector and the spatial vectors in one: the weights of `pullback` are 1.
        v = ops.complex(columns[:, 0, :], -columns[:, 1, :])
        residuals = (u, v, xp.ones_like(v[:, :1]), xp.ones_like(value), group)
        return Evaluation(value * math.sqrt(math.prod(sizes)), (), residuals), (moved,)


def _largest(of_blocks: list[Array], groups: int, *, xp: Namespace) -> list[Array]:
    """The group of each layer with the largest value, and its entries of some arrays; the values come first."""
    by_layer = [xp.reshape(x, (-1, groups, *x.shape[1:])) for x in of_blocks]
    group = xp.argmax(by_layer[0], axis=1)
    return [group, *(arrays.pick(x, group, xp=xp) for x in by_layer)]


def _sizes(spec: ConvSpec) -> tuple[int, ...]:
    """Lengths of the spatial vectors."""
    return spec.block_kernel_shape or (1,)
