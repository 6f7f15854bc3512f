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
        factor, proven = xp.ones_like(value), xp.zeros(value.shape, dtype=xp.bool, device=ops.device(blocks))
        if self.needs(spec).searches and not ops.traced:
            layers = [
                self._prove(layer, [x[j : j + 1, ...] for x in (value, *residuals, group)], ops=ops)
                for j, layer in enumerate(polyphase.by_layers(blocks, spec.groups))
            ]
            value, *residuals, group, factor, proven = (xp.concat(list(x), axis=0) for x in zip(*layers, strict=True))
        count = xp.broadcast_to(count, value.shape)
        return Evaluation(value * factor, (count, factor, proven), (*residuals, factor, group))

    def _of_matrices(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation | None:
        """TN of kernels with one tap, their norm; None if that was to be proven and is not."""
        xp = ops.xp
        value, vectors, steps = norms_of_one_tap(blocks, ops=ops)
        group, best, *residuals = _largest([value, *vectors], spec.groups, xp=xp)
        factor, proven = xp.ones_like(best), xp.zeros(best.shape, dtype=xp.bool, device=ops.device(blocks))
        if self.needs(spec).searches:
            factor = norms.proven_factor(best, vectors[1], blocks, ops=ops)
            proven = factor <= LIFT
            if not xp.all(proven):
                return None
        count = xp.full(best.shape, steps, dtype=xp.int32, device=ops.device(blocks))
        return Evaluation(best * factor, (count, factor, proven), (*residuals, factor, group))

    def _prove(self, blocks: Array, found: list[Array], *, ops: ArrayOps) -> list[Array]:
        """Prove the value of one layer's blocks. Return value, u, v, weights, block, factor, proven; leading axis 1."""
        xp = ops.xp

        def again(block: Array, v: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
            return maximise(block, v, modes, self.max_iter, ops=ops)

        found, factor, proven = certified(blocks, found, again, seed=self.seed, clock=Clock.of(self.budget), ops=ops)
        if self.proven and not proven:
            limit = f"{TUNING.cells} cells" if self.budget is None else f"{TUNING.cells} cells and {self.budget:g} s"
            raise Undecided(
                f"tn_bound could not be proven within {limit}; grid_bound and f4_bound are proven bounds, and "
                "enclose(kernel) returns what is proven."
            )
        device = ops.device(blocks)
        flags = [
            xp.full((1,), factor, dtype=found[0].dtype, device=device),
            xp.full((1,), proven, dtype=xp.bool, device=device),
        ]
        return [*found, *flags]

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        """Envelope theorem: sqrt(taps) Re(u o v o a o b), the vectors held constant."""
        u, v, w, factor, group = residuals
        scaled = cotangent * factor * math.sqrt(math.prod(spec.block_kernel_shape))
        rows = arrays.real_pair(u * xp.astype(scaled, u.dtype)[:, None], xp=xp)
        columns = xp.reshape(v[:, :, None] * w[:, None, :], (v.shape[0], -1))
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
        """As many taps an axis: zero channels stay zero in every product."""
        return _sizes(spec)

    def with_channels(
        self,
        state: tuple[Array, ...],
        here: ConvSpec,
        there: ConvSpec,
        *,
        xp: Namespace,
    ) -> tuple[Array, ...]:
        """Zeros at the end of the left vectors, which come first."""
        (x,), channels, wider = state, here.block_shape[0], there.block_shape[0]
        kept, spatial = x[..., : min(channels, wider), :], x[..., channels:, :]
        more = xp.zeros_like(kept[..., :1, :])
        more = xp.broadcast_to(more, (*more.shape[:-2], max(0, wider - channels), 2))
        return (xp.concat([kept, more, spatial], axis=-2),)

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """Left and spatial vectors of the maximiser; where the kernel is zero, constant ones."""
        xp, form = ops.xp, Form(blocks, ops=ops)
        v, modes = starts(blocks, self.starts, self.random_starts, self.seed, ops=ops)
        _, value, v, modes, _ = alternate(blocks, v, modes, self.max_iter, ops=ops)
        value, v, modes = best(value, v, modes, 1, xp=xp)
        u, _ = form.left(v, form.weights(modes))
        found, usable = [u, *modes], (value > 0)[..., None]
        found = [xp.where(usable, x, xp.ones_like(x) / math.sqrt(x.shape[2])) for x in found]
        return (arrays.real_pair(xp.concat(found, axis=2)[:, 0, :], xp=xp),)

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        (vectors,), xp, m, sizes = state, ops.xp, spec.block_shape[0], _sizes(spec)
        ends = list(itertools.accumulate([m, *sizes]))
        x = ops.complex(vectors[..., 0], vectors[..., 1])
        modes = [x[:, first:end] for first, end in itertools.pairwise(ends)]
        flat = xp.reshape(blocks, (*blocks.shape[:2], -1))
        found = one_set.step(flat, vectors[:, :m, :], modes, sweeps, join=ops.complex, xp=xp)
        moved = xp.concat([found.rows, arrays.real_pair(xp.concat(found.modes, axis=-1), xp=xp)], axis=1)
        usable = (found.value > 0) & xp.isfinite(found.value)
        moved = xp.where(usable[:, None, None], moved, vectors)
        group, value, rows, columns = _largest([found.value, found.rows, found.columns], spec.groups, xp=xp)
        u = ops.complex(rows[..., 0], -rows[..., 1])
        x = ops.complex(columns[:, 0, :], -columns[:, 1, :])
        residuals = (u, x, xp.ones_like(x[:, :1]), xp.ones_like(value), group)
        return Evaluation(value * math.sqrt(math.prod(sizes)), (), residuals), (moved,)


def _largest(found: list[Array], groups: int, *, xp: Namespace) -> list[Array]:
    """Which group of each layer has the largest value, and what was found of it; values come first."""
    value, *others = (xp.reshape(x, (-1, groups, *x.shape[1:])) for x in found)
    group = xp.argmax(value, axis=1)
    return [group, *(arrays.pick(x, group, xp=xp) for x in (value, *others))]


def _sizes(spec: ConvSpec) -> tuple[int, ...]:
    return spec.block_kernel_shape or (1,)
