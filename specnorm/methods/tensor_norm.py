"""TN: the spectral norm of the kernel as a tensor, times the root of its number of taps (Grishina et al. 2024).

``TN(K) = sqrt(prod k_j) max |sum K[o,i,k,l] u_o v_i a_k b_l|`` over unit complex vectors; ``sigma* <= TN``. The maximum
is approached from below by alternating maximisation, so the computed value is an estimate of TN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm import arrays, operators
from specnorm.cells import torus
from specnorm.errors import Undecided
from specnorm.frequencies import Frequencies, coarse_grid
from specnorm.methods.base import Evaluation, Method, check_count
from specnorm.methods.enclosure import by_layers, top_at
from specnorm.methods.search import Found, Search

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend
    from specnorm.conv import ConvSpec
    from specnorm.result import Kind
    from specnorm.rounding import Rounds


@dataclass(frozen=True)
class TensorNorm(Method):
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

    starts: int = 4
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
    rounds: ClassVar[Rounds] = "up"
    small_steps: ClassVar[bool] = True

    def kind(self, spec: ConvSpec) -> Kind:
        """Estimate by itself: a maximisation that stopped somewhere proves nothing. Upper once it is proven."""
        del spec
        return "estimate"

    def searches(self, spec: ConvSpec) -> bool:
        """Unless the estimate is accepted."""
        del spec
        return self.certified is not False

    def refuse_tracer(self, spec: ConvSpec) -> None:
        """An estimate, unless the proof was insisted on."""
        if self.certified:
            super().refuse_tracer(spec)

    def by_layer(self, spec: ConvSpec) -> bool:
        """One proof for all groups."""
        del spec
        return True

    def forward(self, blocks: Array, spec: ConvSpec, *, xp: Any, backend: Backend) -> Evaluation:
        """Maximise from all starts at once, keep the best of each layer, and prove it."""
        v, modes = _starts(self, blocks, xp=xp, backend=backend)
        value, residuals, count = self._maximise(blocks, v, modes, xp=xp, backend=backend)
        value, *residuals = (xp.reshape(x, (-1, spec.groups, *x.shape[1:])) for x in (value, *residuals))
        owner = xp.argmax(value, axis=1)
        value, *residuals = (arrays.pick(x, owner, xp=xp) for x in (value, *residuals))
        factor, proven = xp.ones_like(value), xp.zeros(value.shape, dtype=xp.bool, device=backend.device(blocks))
        if self.searches(spec) and not backend.is_traced(blocks):
            certified = [
                self._certify(layer, [x[j : j + 1, ...] for x in (value, *residuals, owner)], xp=xp, backend=backend)
                for j, layer in enumerate(by_layers(blocks, spec.groups))
            ]
            value, *residuals, owner, factor, proven = (
                xp.concat(list(x), axis=0) for x in zip(*certified, strict=True)
            )
        count = xp.broadcast_to(count, value.shape)
        return Evaluation(value * factor, (count, factor, proven), (*residuals, factor, owner))

    def _maximise(
        self, blocks: Array, v: Array, modes: list[Array], *, xp: Any, backend: Backend
    ) -> tuple[Array, list[Array], Array]:
        """Alternate from starts (b, s, ...); the best value of each block, lifted by its rounding, and its vectors."""
        form = _Form(blocks, xp=xp)
        tol = 2e-7 if blocks.dtype == xp.float32 else 1e-13

        def cond(state: tuple[Array, ...]) -> Array:
            return (state[0] < self.max_iter) & (xp.max(state[1]) > tol)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            count, _, value, v, *modes = state
            v, modes, new = form.sweep(v, modes)
            gain = xp.where(new > 0, (new - value) / xp.where(new > 0, new, xp.ones_like(new)), xp.zeros_like(new))
            return (count + 1, gain, new, v, *modes)

        value = xp.zeros(v.shape[:2], dtype=blocks.dtype, device=backend.device(blocks))
        # A few sweeps tell which starts are worth going on with.
        if v.shape[1] > _FINALISTS:
            for _ in range(_HEATS):
                v, modes, value = form.sweep(v, modes)
            value, v, modes = _best(value, v, modes, _FINALISTS, xp=xp)
        count = xp.full((), _HEATS, dtype=xp.int32, device=backend.device(blocks))
        count, _, value, v, *modes = backend.loop(cond, body, (count, value * 0 + 1, value, v, *modes))
        value, v, modes = _best(value, v, modes, 1, xp=xp)
        u, norm = form.left(v, form.weights(modes))
        # Lifted by the rounding of the last contraction: where TN equals sigma*, rounding alone would fall below it.
        lift = math.sqrt(form.taps) * (1 + 8 * float(xp.finfo(blocks.dtype).eps))
        residuals = [xp.conj(u[:, 0, :]), v[:, 0, :], form.weights(modes)[:, 0, :]]
        return norm[:, 0, 0] * lift, residuals, count

    def _certify(self, blocks: Array, found: list[Array], *, xp: Any, backend: Backend) -> list[Array]:
        """Prove ``sigma* <= value`` for the blocks of one layer, restarting from whatever refutes it.

        A value equal to sigma* cannot be certified by cells, which need a gap: then ``LIFT`` times it.

        Returns
        -------
        list of arrays
            value, u, v, weights, block, factor, proven; leading axis 1.
        """
        factor, proven = 1.0, True
        wide = xp.astype(blocks, xp.float64)
        cut = operators.support(wide, backend=backend)
        if float(found[0][0]) > 0:
            search = Search(cut, seed=self.seed, xp=xp, backend=backend)
            for _ in range(8):
                proof = prove(search, float(found[0][0]))
                if proof.refuted is None:
                    factor, proven = proof.factor, proof.proven
                    break
                block = blocks[proof.refuted.owner : proof.refuted.owner + 1, ...]
                start = _fourier_start(block, proof.refuted.frequency, xp=xp, backend=backend)
                value, residuals, _ = self._maximise(block, *start, xp=xp, backend=backend)
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
        device = backend.device(blocks)
        flags = [
            xp.full((1,), factor, dtype=found[0].dtype, device=device),
            xp.full((1,), proven, dtype=xp.bool, device=device),
        ]
        return [*found, *flags]

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Envelope theorem: sqrt(taps) Re(u o v o a o b), the vectors held constant."""
        u, v, w, factor, owner = residuals
        scaled = cotangent * factor * math.sqrt(math.prod(spec.block_kernel_shape))
        gradient = operators.triple_gradient(u, v, w, scaled, spec.block_kernel_shape, xp=xp)
        gradient = arrays.one_hot(gradient, owner, spec.groups, xp=xp)
        return xp.reshape(gradient, (-1, *gradient.shape[2:]))


_HEATS, _FINALISTS = 10, 4
"""Sweeps that all starts get, and how many go on."""


def _best(value: Array, v: Array, modes: list[Array], count: int, *, xp: Any) -> tuple[Array, Array, list[Array]]:
    """The starts with the largest values, of each block."""
    order = xp.argsort(value, axis=1, descending=True)[:, :count]

    def taken(x: Array) -> Array:
        index = xp.broadcast_to(order[:, :, None], (x.shape[0], count, x.shape[2]))
        return xp.take_along_axis(x, index, axis=1)

    return xp.take_along_axis(value, order, axis=1), taken(v), [taken(x) for x in modes]


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


def _fourier_start(block: Array, frequency: Frequencies, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
    """Top right vector and Fourier vectors at one frequency, as one start."""
    _, v, _, _ = top_at(block, frequency, xp=xp, backend=backend)
    sizes = block.shape[3:]
    dtype = np.complex128 if block.dtype == xp.float64 else np.complex64
    angles = frequency.angles[0]
    modes = [(np.exp(1j * angles[j] * np.arange(k)) / math.sqrt(k))[None, None] for j, k in enumerate(sizes)]
    return v[:, None, :], [backend.from_numpy(x.astype(dtype), block) for x in modes or [np.ones((1, 1, 1))]]


class _Form:
    """The multilinear form f(u, v, modes) = sum K u v (x)modes of a stack of blocks, for s starts each."""

    def __init__(self, blocks: Array, *, xp: Any) -> None:
        self.xp = xp
        self.b, self.m, self.p, *self.sizes = blocks.shape
        self.taps = math.prod(self.sizes)
        flat = xp.reshape(blocks, (self.b, self.m * self.p, self.taps))
        self.by_tap = xp.permute_dims(flat, (0, 2, 1))
        self.by_row = xp.reshape(blocks, (self.b, self.m, self.p * self.taps))

    def weights(self, modes: list[Array]) -> Array:
        """Outer product of the spatial vectors, shape (b, s, taps)."""
        xp = self.xp
        out = modes[0]
        for mode in modes[1:]:
            out = xp.reshape(out[:, :, :, None] * mode[:, :, None, :], (*out.shape[:2], -1))
        return out

    def matrix(self, weights: Array) -> Array:
        """Contract the taps, shape (b, s, m, p)."""
        xp = self.xp
        mixed = xp.matmul(xp.real(weights), self.by_tap) + 1j * xp.matmul(xp.imag(weights), self.by_tap)
        return xp.reshape(mixed, (self.b, -1, self.m, self.p))

    def left(self, v: Array, weights: Array) -> tuple[Array, Array]:
        """Best u for the other vectors, and the form's value there."""
        xp = self.xp
        return arrays.normalise(xp.conj(xp.matmul(self.matrix(weights), v[..., None])[..., 0]), xp=xp)

    def sweep(self, v: Array, modes: list[Array]) -> tuple[Array, list[Array], Array]:
        """Update u, v (two power steps on their matrix), then the spatial vectors. Never decreases the form."""
        xp = self.xp
        mixed = self.matrix(self.weights(modes))
        for _ in range(2):
            u, _ = arrays.normalise(xp.conj(xp.matmul(mixed, v[..., None])[..., 0]), xp=xp)
            v, _ = arrays.normalise(xp.conj(xp.matmul(u[..., None, :], mixed)[..., 0, :]), xp=xp)
        rows = xp.matmul(xp.real(u), self.by_row) + 1j * xp.matmul(xp.imag(u), self.by_row)
        rows = xp.reshape(rows, (self.b, -1, self.p, self.taps))
        spatial = xp.matmul(v[..., None, :], rows)[..., 0, :]
        modes, value = self._spatial(xp.reshape(spatial, (*spatial.shape[:2], *self.sizes)), modes)
        return v, modes, value

    def _spatial(self, c: Array, modes: list[Array]) -> tuple[list[Array], Array]:
        xp = self.xp
        if len(self.sizes) <= 1:
            flat = xp.reshape(c, (*c.shape[:2], -1))
            unit, norm = arrays.normalise(xp.conj(flat), xp=xp)
            return [unit], norm[..., 0]
        if len(self.sizes) == 2:
            left, values, right = xp.linalg.svd(c, full_matrices=False)
            return [xp.conj(left[..., :, 0]), xp.conj(right[..., 0, :])], values[..., 0]
        modes = list(modes)
        for _ in range(2):
            for axis in range(3):
                rest = c
                for other in (2, 1, 0):
                    if other != axis:
                        shape = (*c.shape[:2], *(self.sizes[j] if j == other else 1 for j in range(3)))
                        rest = xp.sum(rest * xp.reshape(modes[other], shape), axis=2 + other, keepdims=True)
                modes[axis], norm = arrays.normalise(xp.conj(xp.reshape(rest, (*c.shape[:2], -1))), xp=xp)
        return modes, norm[..., 0]


def _starts(method: TensorNorm, blocks: Array, *, xp: Any, backend: Backend) -> tuple[Array, list[Array]]:
    """Right vectors and spatial vectors to start from: the best coarse frequencies, then random ones."""
    b, _, p, *sizes = blocks.shape
    frequencies = coarse_grid(tuple(sizes))
    symbol = operators.Symbol(blocks, frequencies, xp=xp, backend=backend)
    kind = arrays.complex_dtype(blocks.dtype, xp=xp)

    def constant(x: np.ndarray) -> Array:
        dtype = np.complex128 if kind == xp.complex128 else np.complex64
        return backend.from_numpy(x.astype(dtype), blocks)

    def per_block(x: Array) -> Array:
        return xp.broadcast_to(x, (b, *x.shape[1:]))

    v = per_block(constant(arrays.random_vectors(method.seed, (1, len(frequencies), p))))
    for _ in range(4):
        v, _ = arrays.normalise(symbol.apply_adjoint(symbol.apply(v)), xp=xp)
    norms = xp.linalg.vector_norm(symbol.apply(v), axis=-1)
    count = min(method.starts, len(frequencies))
    best = xp.argsort(norms, axis=1, descending=True)[:, :count]
    v = xp.take_along_axis(v, xp.broadcast_to(best[:, :, None], (b, count, p)), axis=1)
    waves = [
        np.exp(1j * np.outer(frequencies.angles[:, j], np.arange(k))) / math.sqrt(k) for j, k in enumerate(sizes)
    ] or [np.ones((len(frequencies), 1))]
    modes = [
        xp.take_along_axis(
            per_block(constant(wave[None])), xp.broadcast_to(best[:, :, None], (b, count, wave.shape[1])), axis=1
        )
        for wave in waves
    ]
    if sizes and method.random_starts:
        extra = [
            arrays.random_vectors(method.seed + 1 + j, (1, method.random_starts, k)) for j, k in enumerate([p, *sizes])
        ]
        units = [per_block(constant(x / np.linalg.norm(x, axis=-1, keepdims=True))) for x in extra]
        v = xp.concat([v, units[0]], axis=1)
        modes = [xp.concat([mode, unit], axis=1) for mode, unit in zip(modes, units[1:], strict=True)]
    return v, modes
