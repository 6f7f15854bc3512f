"""TN: the spectral norm of the kernel as a tensor, times the root of its number of taps (Grishina et al. 2024).

``TN(K) = sqrt(prod k_j) max |sum K[o,i,k,l] u_o v_i a_k b_l|`` over unit complex vectors; ``sigma* <= TN``. The maximum
is approached from below by alternating maximisation, so the computed value is an estimate of TN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from specnorm.errors import MethodError, Undecided
from specnorm.linalg import arrays, polyphase
from specnorm.linalg.frequencies import Frequencies
from specnorm.methods.base import Evaluation, Needs, Stepped, check_count
from specnorm.methods.enclosure import by_layers, top_at
from specnorm.proof.cells import torus
from specnorm.search.branch_and_bound import Found, Search
from specnorm.tensor.form import Form, best, extrapolated, starts, units, waves
from specnorm.tensor.tracking import begin, crew, follow

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps


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
    certified : bool or None
        None: prove ``sigma* <= value`` where values are known, else an estimate; True: prove or raise; False: the
        estimate.

    References
    ----------
    .. [1] Grishina, Gorbunov, Rakhuba, "Tight and Efficient Upper Bound on Spectral Norm of Convolutional Layers",
       ECCV 2024, arXiv:2409.11859.
    """

    starts: int = 12
    random_starts: int = 8
    max_iter: int = 200
    seed: int = 0
    certified: bool | None = None

    def __post_init__(self) -> None:
        check_count("starts", self.starts, least=1)
        check_count("random_starts", self.random_starts)
        check_count("max_iter", self.max_iter, least=1)
        check_count("seed", self.seed)

    name: ClassVar[str] = "tn"
    stats: ClassVar[Mapping[str, Rounds | None]] = {"iterations": None, "factor": None, "proven": None}

    def needs(self, spec: ConvSpec) -> Needs:
        """A proof for all groups, unless the estimate is accepted."""
        del spec
        return Needs(rounds="up", small_products=True, by_layer=True, searches=self.certified is not False)

    def kind(self, spec: ConvSpec) -> Kind:
        """Estimate by itself: a maximisation that stopped somewhere proves nothing. Upper once it is proven."""
        del spec
        return "estimate"

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """An estimate, unless the proof was insisted on."""
        if self.certified:
            super().refuse_tracer(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Maximise from all starts at once, keep the best of each layer, and prove it."""
        xp = ops.xp
        v, modes = starts(self, blocks, ops=ops)
        value, residuals, count = self._maximise(blocks, v, modes, ops=ops)
        value, *residuals = (xp.reshape(x, (-1, spec.groups, *x.shape[1:])) for x in (value, *residuals))
        owner = xp.argmax(value, axis=1)
        value, *residuals = (arrays.pick(x, owner, xp=xp) for x in (value, *residuals))
        factor, proven = xp.ones_like(value), xp.zeros(value.shape, dtype=xp.bool, device=ops.device(blocks))
        if self.needs(spec).searches and not ops.traced:
            certified = [
                self._certify(layer, [x[j : j + 1, ...] for x in (value, *residuals, owner)], ops=ops)
                for j, layer in enumerate(by_layers(blocks, spec.groups))
            ]
            value, *residuals, owner, factor, proven = (
                xp.concat(list(x), axis=0) for x in zip(*certified, strict=True)
            )
        count = xp.broadcast_to(count, value.shape)
        return Evaluation(value * factor, (count, factor, proven), (*residuals, factor, owner))

    def _climb(
        self, blocks: Array, v: Array, modes: list[Array], *, ops: ArrayOps
    ) -> tuple[Form, Array, Array, list[Array], Array]:
        """Alternate from starts (b, s, ...): the form, values and vectors of the finalists, and the sweeps.

        In rounds of three sweeps: alternation converges geometrically, so each round begins where the last changes
        point to, unless the value is lower there.
        """
        xp = ops.xp
        form = Form(blocks, ops=ops)
        tol = 2e-7 if blocks.dtype == xp.float32 else 1e-13
        value, count = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=ops.device(blocks)), 0
        for sweeps, kept in _HEATS:
            if v.shape[1] > kept:
                for _ in range(sweeps):
                    v, modes, value = form.sweep(v, modes)
                value, v, modes = best(value, v, modes, kept, xp=xp)
                count += sweeps

        def gain(new: Array, old: Array) -> Array:
            return (new - old) / xp.where(new > 0, new, xp.ones_like(new))

        def cond(state: tuple[Array, ...]) -> Array:
            count, change, _, value, *_ = state
            # The last climbers may be far behind, and come no nearer.
            reach = value * (1 + _PATIENCE * change)
            open_ = (change > tol) & (reach >= xp.max(value, axis=1, keepdims=True))
            return (count < self.max_iter) & xp.any(open_)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, _, ahead, value, *vectors = state
            now, before = vectors[: len(vectors) // 2], vectors[len(vectors) // 2 :]
            trial = [extrapolated(x, y, ahead, xp=xp) for x, y in zip(now, before, strict=True)]
            v, modes, new = form.sweep(trial[0], trial[1:])
            worse = (new < value)[..., None]
            v, *modes = (xp.where(worse, x, y) for x, y in zip(now, (v, *modes), strict=True))
            first = xp.maximum(new, value)
            v, modes, second = form.sweep(v, modes)
            before = [v, *modes]
            v, modes, value = form.sweep(v, modes)
            change, earlier = gain(value, second), gain(second, first)
            # Values converge at the square of the rate of the vectors.
            ratio = xp.sqrt(xp.clip(change / xp.where(earlier > 0, earlier, xp.ones_like(earlier)), 0.0, _SLOWEST**2))
            return (count + 3, change, ratio / (1 - ratio), value, v, *modes, *before)

        done = xp.full((), count, dtype=xp.int32, device=ops.device(blocks))
        here = (v, *modes)
        done, _, _, value, *vectors = ops.loop(cond, body, (done, value * 0 + 1, value * 0, value, *here, *here))
        v, *modes = vectors[: len(here)]
        return form, value, v, modes, done

    def _maximise(
        self, blocks: Array, v: Array, modes: list[Array], *, ops: ArrayOps
    ) -> tuple[Array, list[Array], Array]:
        """Alternate from starts (b, s, ...); the best value of each block, lifted by its rounding, and its vectors."""
        xp = ops.xp
        form, value, v, modes, count = self._climb(blocks, v, modes, ops=ops)
        value, v, modes = best(value, v, modes, 1, xp=xp)
        u, norm = form.left(v, form.weights(modes))
        # Lifted by the rounding of the last contraction: where TN equals sigma*, rounding alone would fall below it.
        lift = math.sqrt(form.taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps))
        residuals = [xp.conj(u[:, 0, :]), v[:, 0, :], form.weights(modes)[:, 0, :]]
        return norm[:, 0] * lift, residuals, count

    def _certify(self, blocks: Array, found: list[Array], *, ops: ArrayOps) -> list[Array]:
        """Prove ``sigma* <= value`` for the blocks of one layer, restarting from whatever refutes it.

        A value equal to sigma* cannot be certified by cells, which need a gap: then ``LIFT`` times it.

        Returns
        -------
        list of arrays
            value, u, v, weights, block, factor, proven; leading axis 1.
        """
        xp = ops.xp
        factor, proven = 1.0, True
        wide = xp.astype(blocks, xp.float64)
        cut = polyphase.support(wide, ops=ops)
        if float(found[0][0]) > 0:
            search = Search(cut, seed=self.seed, ops=ops)
            for _ in range(8):
                proof = prove(search, float(found[0][0]))
                if proof.refuted is None:
                    factor, proven = proof.factor, proof.proven
                    break
                block = blocks[proof.refuted.owner : proof.refuted.owner + 1, ...]
                start = _fourier_start(block, proof.refuted.frequency, ops=ops)
                value, residuals, _ = self._maximise(block, *start, ops=ops)
                if not float(value[0]) > float(found[0][0]):
                    # The refuting norm is within rounding of the value.
                    factor, proven = LIFT, prove(search, float(found[0][0]), plain=False).proven
                    break
                found = [value, *residuals, xp.full_like(found[-1], proof.refuted.owner)]
            else:
                # Refuted every time, and raised every time: the last value has not been looked at.
                factor, proven = LIFT, prove(search, float(found[0][0]), plain=False).proven
        if self.certified and not proven:
            raise Undecided(
                f"tn_bound could not be certified within {PROOF_CELLS} cells; grid_bound and f4_bound are proven "
                "bounds, and enclose(kernel) returns what is proven."
            )
        device = ops.device(blocks)
        flags = [
            xp.full((1,), factor, dtype=found[0].dtype, device=device),
            xp.full((1,), proven, dtype=xp.bool, device=device),
        ]
        return [*found, *flags]

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Envelope theorem: sqrt(taps) Re(u o v o a o b), the vectors held constant."""
        u, v, w, factor, owner = residuals
        scaled = cotangent * factor * math.sqrt(math.prod(spec.block_kernel_shape))
        rows = arrays.real_pair(u * xp.astype(scaled, u.dtype)[:, None], xp=xp)
        columns = arrays.real_pair(xp.reshape(v[:, :, None] * w[:, None, :], (v.shape[0], -1)), xp=xp)
        gradient = xp.matmul(rows, xp.matrix_transpose(columns))
        gradient = arrays.one_hot(gradient, owner, spec.groups, xp=xp)
        return xp.reshape(gradient, (-1, *spec.block_shape))

    # -- in training -----------------------------------------------------------------------------------------------
    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """Right vector and spatial vectors of scouts and climbers, one after the other, as (real, imaginary)."""
        if self.certified:
            raise MethodError("TensorNorm(certified=True) insists on a proof, which a step is not: leave it out.")
        p, *sizes = _parts(spec)
        team = crew(p, tuple(sizes))
        return {"climbers": (team.scouts + team.climbers, p + sum(sizes), 2)}

    def start(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[Array, ...]:
        """What scouts and climbers get to from the starts of a whole maximisation."""
        xp = ops.xp
        del spec
        form = Form(blocks, ops=ops)
        v, modes = starts(self, blocks, ops=ops)
        return (arrays.real_pair(begin(form, xp.concat([v, *modes], axis=2), self.seed), xp=xp),)

    def advance(
        self, blocks: Array, state: tuple[Array, ...], spec: ConvSpec, *, sweeps: int, ops: ArrayOps
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Every vector on; the value is the highest climber's."""
        xp = ops.xp
        form = Form(blocks, ops=ops)
        highest = ops.complex(state[0][..., 0], state[0][..., 1])
        if sweeps:
            vectors, highest = follow(form, highest, sweeps)
            state = (arrays.real_pair(vectors, xp=xp),)
        v, modes = form.split(highest)
        weights = form.weights(modes)
        u, value = form.left(v, weights)
        top = xp.argmax(value, axis=1)
        value, u, v, weights = (arrays.pick(x, top, xp=xp) for x in (value, u, v, weights))
        owner = xp.zeros_like(top)
        if spec.groups > 1:
            value, u, v, weights = (xp.reshape(x, (-1, spec.groups, *x.shape[1:])) for x in (value, u, v, weights))
            owner = xp.argmax(value, axis=1)
            value, u, v, weights = (arrays.pick(x, owner, xp=xp) for x in (value, u, v, weights))
        residuals = (xp.conj(u), v, weights, xp.ones_like(value), owner)
        return Evaluation(value * math.sqrt(form.taps), (), residuals), state


def _parts(spec: ConvSpec) -> tuple[int, ...]:
    """Lengths of a climber's vectors: v, and one an axis."""
    _, p, *sizes = spec.block_shape
    return (p, *(sizes or (1,)))


_HEATS = ((2, 8), (4, 4))
"""Sweeps that tell which climbers are worth going on with, and how many go on."""
_PATIENCE = 30
"""Sweeps within which a climber that gains as it last did must reach the highest, or is given up."""
_SLOWEST = 0.97
"""Largest rate of convergence that is believed when carrying on."""


LIFT = 1.001
"""The fixed factor of a value that cannot be proven by itself."""
PROOF_CELLS = 20_000
_PLAIN_CELLS, _PLAIN_LEVELS = 3_000, 24
"""Budget of the first attempt: where the gap is (nearly) nothing, cells would shrink for nothing."""


@dataclass(frozen=True, eq=False)
class Proof:
    """How an attempt to prove a value ended: by a factor, or refuted at a frequency."""

    factor: float
    proven: bool
    refuted: Found | None = None


def prove(search: Search, value: float, *, plain: bool = True) -> Proof:
    """Prove that a value, or else ``LIFT`` times it, bounds the norm at every frequency."""
    cover = torus(search.blocks.shape[3:])
    attempts = [(1.0, _PLAIN_CELLS, _PLAIN_LEVELS)] if plain else []
    for factor, cells, levels in [*attempts, (LIFT, PROOF_CELLS, None)]:
        found = search.run(cover, bound=value * factor, max_cells=cells, max_levels=levels)
        if math.isfinite(found.upper):
            return Proof(factor, True)
        if found.lower > value * factor:
            return Proof(factor, False, found)
    return Proof(LIFT, False)


def _fourier_start(block: Array, frequency: Frequencies, *, ops: ArrayOps) -> tuple[Array, list[Array]]:
    """Top right vector and Fourier vectors at one frequency, as one start."""
    xp = ops.xp
    _, v, _, _ = top_at(block, frequency, ops=ops)
    dtype = "complex128" if block.dtype == xp.float64 else "complex64"
    modes = units(waves(frequency.angles, tuple(block.shape[3:])), dtype)
    return v[:, None, :], [ops.from_numpy(x, block) for x in modes]
