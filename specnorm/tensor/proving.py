"""Proof that a value of TN bounds the norm at every frequency, or a frequency that refutes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from specnorm.certified.symbol.cells import torus
from specnorm.problem import polyphase
from specnorm.search.branch_and_bound import Search
from specnorm.search.constant import top_triple_at
from specnorm.search.result import SearchResult
from specnorm.tensor.form import units, waves

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.clock import Clock
    from specnorm.problem.frequencies import Frequencies
    from specnorm.types import ArrayOps

LIFT = 1.001
"""The fixed factor of a value that cannot be proven by itself: the contract's."""


class ProvingTuning(NamedTuple):
    """Budgets of the proof: they decide on time, and on which values are proven at all."""

    cells: int = 20_000
    """Cells of the search for ``LIFT`` times a value."""
    plain_cells: int = 3_000
    plain_levels: int = 24
    """Both of the search for the value itself, cells and rounds: where the gap is (nearly) nothing, cells would shrink
    for nothing."""
    restarts: int = 8
    """How often the maximisation restarts from a frequency that refutes its value."""


TUNING = ProvingTuning()


@dataclass(frozen=True, eq=False)
class Proof:
    """How an attempt to prove a value ended: by a factor, or refuted at a frequency."""

    factor: float
    proven: bool
    refuted: SearchResult | None = None


Maximise: TypeAlias = "Callable[[Array, Array, list[Array]], tuple[Array, list[Array], Array]]"
"""Blocks, and starts for them, to value, vectors and sweeps: `alternation.maximise` with its budget."""


def prove(search: Search, value: float, *, plain: bool = True) -> Proof:
    """Prove that a value, or else ``LIFT`` times it, bounds the norm at every frequency."""
    cover = torus(search.blocks.shape[3:])
    attempts = [(1.0, TUNING.plain_cells, TUNING.plain_levels)] if plain else []
    for factor, cells, levels in [*attempts, (LIFT, TUNING.cells, None)]:
        found = search.run(cover, bound=value * factor, max_cells=cells, max_levels=levels)
        if found.upper is not None:
            return Proof(factor, True)
        if found.lower > value * factor:
            return Proof(factor, False, found)
    return Proof(LIFT, False)


def certified(
    blocks: Array,
    found: list[Array],
    maximise: Maximise,
    *,
    seed: int,
    clock: Clock,
    ops: ArrayOps,
) -> tuple[list[Array], float, bool]:
    """Prove ``sigma* <= value`` for the blocks of one layer, restarting the maximisation from whatever refutes it.

    A value equal to sigma* cannot be certified by cells, which need a gap: then ``LIFT`` times it.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
    found : list of arrays
        Value, u, v, weights and block index; leading axis 1.
    seed : int
        Of the search.
    clock : Clock
        Ends the search.

    Returns
    -------
    found : list of arrays
        As given, or of the last restart.
    factor : float
    proven : bool
    """
    xp = ops.xp
    if not float(found[0][0]) > 0:
        return found, 1.0, True
    wide = xp.astype(polyphase.support(blocks, ops=ops), xp.float64)
    search = Search(wide, seed=seed, clock=clock, ops=ops)
    for _ in range(TUNING.restarts):
        proof = prove(search, float(found[0][0]))
        if proof.refuted is None:
            return found, proof.factor, proof.proven
        block = blocks[proof.refuted.block : proof.refuted.block + 1, ...]
        value, vectors, _ = maximise(block, *_fourier_start(block, proof.refuted.frequency, ops=ops))
        if not float(value[0]) > float(found[0][0]):
            # The refuting norm is within rounding of the value.
            break
        found = [value, *vectors, xp.full_like(found[-1], proof.refuted.block)]
    # Refuted every time: the last value has not been looked at, or is no more than rounding below the norm.
    return found, LIFT, prove(search, float(found[0][0]), plain=False).proven


def _fourier_start(block: Array, frequency: Frequencies, *, ops: ArrayOps) -> tuple[Array, list[Array]]:
    """Top right vector and Fourier vectors at one frequency, as one start."""
    xp = ops.xp
    _, v, _, _ = top_triple_at(block, frequency, ops=ops)
    dtype = "complex128" if block.dtype == xp.float64 else "complex64"
    modes = units(waves(frequency.angles, tuple(block.shape[3:])), dtype)
    return v[:, None, :], [ops.from_numpy(x, block) for x in modes]
