"""The tensor-norm bound TN: the norm of the kernel as a tensor, times the root of the number of taps (Grishina 2024).

``TN(K) = sqrt(prod k_j) max |sum K[o,i,k,l] u_o v_i a_k b_l|`` over unit complex vectors u, v, a, b; ``sigma* <= TN``.
Alternating maximization approaches the maximum from below, so the computed value is an estimate of TN. That it bounds
sigma* is proven afterwards, by a search over frequencies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import MethodError, Undecided
from specnorm.proofs.bound import Lower
from specnorm.running import checks
from specnorm.running.base import Evaluation, Needs, Stepped
from specnorm.running.proofs import padding
from specnorm.running.search import Clock
from specnorm.symbols import triples
from specnorm.tensor_norm import one_set
from specnorm.tensor_norm.alternation import alternate, maximise
from specnorm.tensor_norm.form import Form, best_iterates, starts
from specnorm.tensor_norm.matrices import norms_of_matrices
from specnorm.tensor_norm.proof import proven_factor
from specnorm.tensor_norm.proving import CELLS, LIFT, Best, prove_or_restart

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper, Uppers


@dataclass(frozen=True)
class TensorNorm(Stepped):
    """Tensor-norm bound by alternating maximization from Fourier starts.

    Parameters
    ----------
    starts : int
        Number of Fourier starts: the best frequencies of a coarse grid.
    random_starts : int
        Number of complex Gaussian starts in addition.
    max_iter : int
        Largest number of sweeps over all vectors.
    seed : int
        Seed of the start vectors, which are the same on every backend.
    proven : bool or None
        True: prove ``sigma* <= value``, or raise `Undecided`. False: do not try, and return an estimate. None: try,
        except under a tracer; the figure ``proven`` says whether the proof succeeded.
    budget : float, optional
        Seconds for the proof; after them no further step of it begins.

    Notes
    -----
    Entries of ``stats``: ``proven``, whether the value is proven; ``factor``, 1 or 1.001; ``iterations``.

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

    def __post_init__(self) -> None:
        checks.count("starts", self.starts, least=1, most=checks.MOST_PRODUCTS)
        checks.count("random_starts", self.random_starts, most=checks.MOST_PRODUCTS)
        checks.count("max_iter", self.max_iter, least=1, most=checks.MOST_ROUNDS)
        checks.seed(self.seed)
        checks.budget(self.budget)
        if self.proven is not None:
            checks.flag("proven", self.proven)

    name: ClassVar = "tn"
    promise: ClassVar = "estimate"
    stats: ClassVar = {"iterations": "max", "factor": None, "proven": "all"}
    pullback = staticmethod(triples.top_gradient)

    def needs(self, spec: ConvSpec) -> Needs:
        return Needs(rounds="up", small_products=True, by_layer=True, searches=self.proven is not False)

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """Refuse tracers if a proof is asked for."""
        if self.proven:
            super().refuse_tracer(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Maximise from all starts at once, keep the best of each layer, and prove it."""
        xp = ops.xp
        if _is_matrix(spec) and ops.concrete:
            evaluation = self._of_matrix(blocks, spec, ops=ops)
            if evaluation is not None:
                return evaluation
        v, spatial_vectors = starts(blocks, self.starts, self.random_starts, self.seed, ops=ops)
        block_values, block_vectors, count = maximise(
            blocks, v, spatial_vectors, self.max_iter, groups=spec.groups, ops=ops
        )
        best = _of_best_group([block_values, *block_vectors], spec.groups, xp=xp)
        factor = xp.ones_like(best[0])
        proven = xp.zeros(factor.shape, dtype=xp.bool, device=ops.device(blocks))
        claims: Uppers | list[tuple[Lower, Upper]] | None = None
        if self.needs(spec).searches and not ops.traced:
            maximise_again = partial(maximise, max_iter=self.max_iter, ops=ops)
            best_of_layers = []
            factors, proven_uppers = [], []
            for j, layer in enumerate(arrays.by_layers(blocks, spec.groups)):
                of_layer = [x[j : j + 1, ...] for x in best]
                clock = Clock.of(self.budget)
                proven_best, factor_of_layer, upper = prove_or_restart(
                    layer, of_layer, maximise_again, seed=self.seed, clock=clock, ops=ops
                )
                if self.proven and upper is None:
                    raise self._undecided()
                best_of_layers.append(proven_best)
                factors.append(factor_of_layer)
                proven_uppers.append(upper)
            best = [xp.concat(list(x), axis=0) for x in zip(*best_of_layers, strict=True)]
            factor = xp.astype(ops.from_numpy(np.asarray(factors), factor), factor.dtype)
            uppers = [upper for upper in proven_uppers if upper is not None]
            proven = ops.from_numpy(np.asarray([upper is not None for upper in proven_uppers]), factor)
            if len(uppers) == len(proven_uppers):
                claims = [(Lower.trivial(), padding.padded_norm(supremum, spec)) for supremum in uppers]
        return self._evaluation(best, factor, proven, xp.broadcast_to(count, factor.shape), claims, xp=xp)

    def _undecided(self) -> Undecided:
        limit = f"{CELLS} cells" if self.budget is None else f"{CELLS} cells and {self.budget:g} s"
        return Undecided(
            f"tn_bound could not be proven within {limit}; grid_bound and f4_bound are proven bounds, and "
            "enclose(kernel) returns what is proven."
        )

    def _evaluation(
        self,
        best: Best,
        factor: Array,
        proven: Array,
        count: Array,
        claims: Uppers | list[tuple[Lower, Upper]] | None = None,
        *,
        xp: Namespace,
    ) -> Evaluation:
        """The answer of `forward`, with what `pullback` needs."""
        # TN is the form at its maximum times the root of the number of taps.
        value, u, v, tap_weights, group = best
        scale = xp.astype(factor * math.sqrt(tap_weights.shape[1]), u.dtype)
        residuals = (u * scale[:, None], v, tap_weights, group)
        return Evaluation(value * factor, (count, factor, proven), residuals, claims)

    def _of_matrix(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation | None:
        """The evaluation of blocks that are matrices, whose TN is the norm of these; None if its proof fails."""
        xp = ops.xp
        block_values, block_vectors, right_vectors, steps = norms_of_matrices(blocks, ops=ops)
        best = _of_best_group([block_values, *block_vectors], spec.groups, xp=xp)
        value = best[0]
        factor = xp.ones_like(value)
        proven = xp.zeros(value.shape, dtype=xp.bool, device=ops.device(blocks))
        claims = None
        if self.needs(spec).searches:
            factor, claims = proven_factor(value, right_vectors, blocks, ops=ops)
            # A larger factor would be proven, too. But it says that Lanczos has not converged: maximise instead.
            proven = factor <= LIFT
            if not xp.all(proven):
                return None
        count = xp.full(value.shape, steps, dtype=xp.int32, device=ops.device(blocks))
        return self._evaluation(best, factor, proven, count, claims, xp=xp)

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """One array: the left vector u and the spatial vectors, concatenated, as pairs (real, imaginary)."""
        if self.proven:
            raise MethodError(
                "TensorNorm(proven=True) asks for a proof, and a training step proves nothing: leave proven out."
            )
        return {"vectors": (spec.block_shape[0] + sum(_spatial_sizes(spec)), 2)}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """The left and spatial vectors that alternating maximization finds; constant vectors for a zero kernel."""
        xp = ops.xp
        form = Form(blocks, ops=ops)
        v, spatial_vectors = starts(blocks, self.starts, self.random_starts, self.seed, ops=ops)
        _, value, v, spatial_vectors, _ = alternate(blocks, v, spatial_vectors, self.max_iter, ops=ops)
        value, v, spatial_vectors = best_iterates(value, v, spatial_vectors, 1, xp=xp)
        u, _ = form.left(form.image(v, spatial_vectors))
        is_nonzero = (value > 0)[..., None]
        vectors = [xp.where(is_nonzero, x, xp.ones_like(x) / math.sqrt(x.shape[2])) for x in (u, *spatial_vectors)]
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
        """Sweep over one set of vectors for each block, and evaluate the form there: an estimate of TN."""
        xp = ops.xp
        (vectors,) = state
        m = spec.block_shape[0]
        sizes = _spatial_sizes(spec)
        ends = list(itertools.accumulate([m, *sizes]))
        complex_vectors = ops.complex(vectors[..., 0], vectors[..., 1])
        spatial_vectors = [complex_vectors[:, first:end] for first, end in itertools.pairwise(ends)]
        by_row = xp.reshape(blocks, (*blocks.shape[:2], -1))
        values, left_pairs, spatial_vectors, right_pairs = one_set.step(
            by_row, vectors[:, :m, :], spatial_vectors, sweeps, join=ops.complex, xp=xp
        )
        spatial_pairs = arrays.real_pair(xp.concat(spatial_vectors, axis=-1), xp=xp)
        new_vectors = xp.concat([left_pairs, spatial_pairs], axis=1)
        is_usable = (values > 0) & xp.isfinite(values)
        new_vectors = xp.where(is_usable[:, None, None], new_vectors, vectors)
        value, left_pair, right_pair, group = _of_best_group([values, left_pairs, right_pairs], spec.groups, xp=xp)
        # `pullback` takes the conjugate of the left vector.
        root = math.sqrt(math.prod(sizes))
        u = ops.complex(left_pair[..., 0], -left_pair[..., 1]) * root
        # The right pair is the conjugate of the product of the right vector and the spatial vectors. So `pullback` gets
        # that product as right vector, and 1 as tap weights.
        v = ops.complex(right_pair[:, 0, :], -right_pair[:, 1, :])
        return Evaluation(value * root, (), (u, v, xp.ones_like(v[:, :1]), group)), (new_vectors,)


def _of_best_group(of_blocks: list[Array], groups: int, *, xp: Namespace) -> list[Array]:
    """For each layer, the entries of the group with the largest value, and last the number of that group (layers,).

    ``of_blocks``: the first holds the values.
    """
    by_layer = [xp.reshape(x, (-1, groups, *x.shape[1:])) for x in of_blocks]
    group = xp.argmax(by_layer[0], axis=1)
    return [*(arrays.pick(x, group, xp=xp) for x in by_layer), group]


def _is_matrix(spec: ConvSpec) -> bool:
    """Whether blocks have one tap; or one channel on each side and at most two axes, as depthwise layers have."""
    if math.prod(spec.block_kernel_shape) == 1:
        return True
    return math.prod(spec.block_shape[:2]) == 1 and sum(size > 1 for size in spec.block_kernel_shape) <= 2


def _spatial_sizes(spec: ConvSpec) -> tuple[int, ...]:
    """Lengths of the spatial vectors; a matrix has one, of length 1."""
    return spec.block_kernel_shape or (1,)
