"""Prove that a computed value of TN bounds the norm at every frequency, or find a frequency that refutes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.proofs.cells import Boxes
from specnorm.supremum.branch_and_bound import Search
from specnorm.symbols import triples
from specnorm.tensor_norm.form import unit_rows, waves

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.found import Found, Witness
    from specnorm.running.search import Clock

LIFT = 1.001
"""Factor by which a value is multiplied if it cannot be proven as it is; documented in the API."""

CELLS = 20_000
"""Largest number of cells of the search that proves ``LIFT`` times a value."""
PLAIN_CELLS = 3_000
"""Largest number of cells of the search that proves the value itself: it fails if the value equals the norm."""
RESTARTS = 8
"""Largest number of restarts of the maximization from a frequency that refutes its value."""


Best: TypeAlias = "list[Array]"
"""For some layers, with a leading axis of layers: the best value of the form (l,), the vectors u (l, m), v (l, p) and
tap weights (l, taps) there, as `alternation.maximise` returns them, and the group (l,) that attains it."""
Maximise: TypeAlias = "Callable[[Array, Array, list[Array]], tuple[Array, list[Array], Array]]"
"""Maps blocks, right vectors and spatial vectors to value, vectors and number of sweeps: `alternation.maximise` with a
fixed largest number of sweeps."""


def prove(search: Search, value: float, *, try_value_itself: bool = True) -> tuple[float, Found]:
    """Prove that a value, or else ``LIFT`` times it, bounds the norm at every frequency.

    ``try_value_itself``: whether to try the value itself first. Returns ``factor``: what was proven, or tried, is that
    so many times the value bounds the norm; ``found``: the upper bound, if one was proven, or a frequency at which the
    norm is larger, or neither.
    """
    cover = Boxes.torus(search.blocks.shape[3:])
    attempts = [(1.0, PLAIN_CELLS)] if try_value_itself else []
    for factor, cells in [*attempts, (LIFT, CELLS)]:
        result = search.run(cover, bound=value * factor, max_cells=cells)
        if result.upper is not None or result.lower > value * factor:
            break
    return factor, result


def prove_or_restart(
    blocks: Array,
    best: Best,
    maximise: Maximise,
    *,
    seed: int,
    clock: Clock,
    ops: ArrayOps,
) -> tuple[Best, float, Upper | None]:
    """Prove ``sigma* <= factor * value`` for the blocks of one layer.

    If a frequency refutes the value, the maximization restarts from there and reaches a larger value. A value equal to
    sigma* cannot be proven by a search over cells, which needs a gap; then the factor is ``LIFT``.

    ``blocks`` is (g, m, p, *kernel_shape). ``best``: of this one layer. ``maximise``: used for restarts. ``seed``: seed
    of the search. ``clock``: deadline of the search. Returns ``best``: the argument, or that of the last restart;
    ``factor``: 1 or ``LIFT``; ``upper``: the bound that was proven, no larger than ``factor`` times the value, if any.
    """
    xp = ops.xp
    number = float(best[0][0])
    if not number > 0:
        bounds = norms.norm_of_single_entries(blocks, ops=ops)
        if bounds is not None and bounds[1] <= 0:
            return best, 1.0, bounds[1]
    trimmed = arrays.without_zero_borders(blocks, ops=ops)
    search = Search(xp.astype(trimmed, xp.float64), seed=seed, clock=clock, ops=ops)
    for _ in range(RESTARTS):
        factor, found = prove(search, number)
        if not found.lower > factor * number:
            return best, factor, found.upper
        group = found.witness.block
        start = _fourier_start(blocks, found.witness, ops=ops)
        value, vectors, _ = maximise(blocks[group : group + 1, ...], *start)
        if not float(value[0]) > number:
            # The norm that refutes the value exceeds it by no more than rounding. So ``LIFT`` times it may be proven.
            break
        best, number = [value, *vectors, xp.full_like(best[-1], group)], float(value[0])
    # If the loop ended without a break, the value of the last restart has not been tried. Of either value, only
    # ``LIFT`` times it is tried now.
    factor, found = prove(search, number, try_value_itself=False)
    return best, factor, found.upper


def _fourier_start(blocks: Array, witness: Witness, *, ops: ArrayOps) -> tuple[Array, list[Array]]:
    """One start of the maximization: the top right singular vector and the Fourier vectors at one frequency."""
    xp = ops.xp
    _, v, *_ = triples.top_vectors([blocks], [witness], ops=ops)
    dtype = "complex128" if blocks.dtype == xp.float64 else "complex64"
    spatial_vectors = unit_rows(waves(witness.frequency.angles, tuple(blocks.shape[3:])), dtype)
    return v[:, None, :], [ops.from_numpy(x, blocks) for x in spatial_vectors]
