"""Estimates of what searches and proofs cost, from the widths alone: no kernel is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from specnorm.proof import frequency_grids
from specnorm_networks.certified.links import Run
from specnorm_networks.descent.stages import Parts, frontiers, widths_of

RATE = 2**32
"""Products of real numbers in a second, about. Budgets of seconds are counted in products, so that a search ends at the
same step on every machine."""
PROOF_OF_CONVOLUTION = RATE / 100
"""Products made in a hundredth of a second: the least time that the proof of a convolution takes, about."""
VISITED = 30
"""Frequencies an axis that the proof of a kernel visits, about."""


class Cost(NamedTuple):
    """Cost of a step on a grid: products of real numbers, and bytes."""

    products: float
    memory: float


def cost(run: Run, parts: Parts, points: int) -> Cost:
    """Estimate a gradient step on a grid of ``points`` frequencies an axis."""
    return cost_at(run, parts, [frequencies(run.part(first, last), points) for first, last in parts])


def cost_at(run: Run, parts: Parts, counts: Sequence[int]) -> Cost:
    """Estimate a gradient step at so many frequencies of each part."""
    products = 0.0
    memory = 0.0
    for (first, last), count in zip(parts, counts, strict=True):
        part = run.part(first, last)
        widths = widths_of(part, reads_input=first == 0)
        complex_factor = 4.0 if count > 1 else 1.0
        for number, link, alive, staying in frontiers(part):
            p = sum(widths[value] for value in alive)
            n = sum(widths[value] for value in staying)
            m = link.width
            is_first_alone = number == 1 and n == 0  # F is a diagonal, and nothing is solved
            solution = 0.0 if is_first_alone else p**3 / 1.5 + 2.0 * p * p * m
            gram = 2.0 * m * m * p
            elimination = (n + m) ** 3 if n else 0
            products += complex_factor * count * (solution + gram + elimination)
            elimination_entries = p * (n + m) if n else 0
            memory += 16.0 * count * (2 * m * p + (n + m) ** 2 + elimination_entries)
    return Cost(products, memory)


def proof_products(run: Run, parts: Parts) -> float:
    """Estimate the proof of all parts, in products: a factorization at each of `VISITED` frequencies an axis."""
    products = 0.0
    for first, last in parts:
        part = run.part(first, last)
        if frequencies(part, 2) > 1:
            products += PROOF_OF_CONVOLUTION * (last - first)
        if last - first <= 1:
            continue
        if part.is_chain:
            side = min(sum(part.widths[::2]), sum(part.widths[1::2]))
        else:
            side = sum(part.widths)
        wide_axes = frequencies(part, 2).bit_length() - 1
        products += VISITED ** min(wide_axes, 2) * float(side) ** 3
    return products


def frequencies(part: Run, points: int) -> int:
    """Return the number of frequencies of a part's grid with ``points`` an axis."""
    sizes = []
    for axis in range(part.axes):
        has_taps = any(layer.spec.kernel_shape[axis] > 1 for layer in part.placed_layers)
        sizes.append(points if has_taps else 1)
    return len(frequency_grids.Frequencies.half_grid(sizes))
