"""A layer with zero padding is a part of every skew-circulant that is long enough, whose norm bounds the layer's.

The library's circulants are as long as they must be, and without one of the conditions it bounds nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="the layers' ball arithmetic: pip install python-flint")

from core.soundness.at_size import AtSize, by_circulants
from core.soundness.layers import Layer, layer

from specnorm.at_size.proofs import circulant as embedding
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.cells import Boxes, _covering
from specnorm.proofs.frequencies import Frequencies


# -- the library's circulants ----------------------------------------------------------------------------------------
def spec_of(drawn: Layer) -> ConvSpec:
    return ConvSpec.of(drawn.kernel.shape, input_shape=drawn.input_shape, **drawn.geometry)


def too_short() -> list[str]:
    """Circulants on which some entry of the layer has wrapped, or that are longer than the theorem asks."""
    found = []
    for index in range(400):
        drawn = layer(index)
        for axis, points in zip(drawn.axes, embedding.shortest(spec_of(drawn)), strict=True):
            if axis.wraps(points * axis.unit) or points * axis.unit > axis.shortest:
                found.append(f"{drawn}: {points} points")
    return found


def test_circulants_of_the_library_are_long_enough() -> None:
    assert too_short() == []


RINGS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((1,), (3,)), ((2,), (2,)), ((3,), (4,)), ((9,), (3,)), ((40,), (5,)), ((4, 7), (3, 2)), ((8, 8), (3, 3)),
    ((1, 12), (1, 4)), ((4, 3, 6), (2, 2, 2)),
]  # fmt: skip


def turns_of(boxes: Boxes) -> list[tuple[Fraction, ...]]:
    """Every frequency in some boxes of single points, exactly."""
    frequencies = boxes.centres
    pairs = (zip(row, frequencies.denominators, strict=True) for row in frequencies.numerators.tolist())
    return [tuple(Fraction(a, b) % 1 for a, b in pair) for pair in pairs]


def frequencies_of(sizes: tuple[int, ...], skew: tuple[bool, ...]) -> set[tuple[Fraction, ...]]:
    """``(j + 1/2) / M`` where an axis is skew, ``j / M`` where not."""
    axes = ([Fraction(2 * j + turned, 2 * n) for j in range(n)] for n, turned in zip(sizes, skew, strict=True))
    return set(itertools.product(*axes))


def to_points(boxes: Boxes) -> Boxes:
    while boxes.divisible.any():
        boxes, _ = boxes.split(np.full(len(boxes), 3))
    return boxes


@pytest.mark.parametrize(("sizes", "shape"), RINGS)
def test_every_frequency_of_a_ring_is_covered(sizes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """It or its mirror image, once, and nothing else; exact rationals."""
    for skew in itertools.product((False, True), repeat=len(sizes)):
        found = turns_of(to_points(Boxes.dft(sizes, shape, skew)))
        assert len(found) == len(set(found))
        mirrored = {tuple(-turn % 1 for turn in turns) for turns in found}
        assert set(found) | mirrored == frequencies_of(sizes, skew)


# -- without one of the conditions, the library's bounds are false ---------------------------------------------------
FIRST = 5_000_000
"""Where the layers of the mutations begin."""
PLAIN = {
    "stride": (1,), "dilation": (1,), "groups": 1, "transposed": False, "padding_mode": "zeros", "padding": "same",
}  # fmt: skip


def by_rings_alone() -> list[str]:
    """Upper bounds of circulants beside lower ones of half the norm: what is wrong with the first layer that is."""
    layers = [layer(index) for index in range(FIRST, FIRST + 30)]
    for seed in range(60):
        kernel = np.random.RandomState(seed).standard_normal((1, 1, 3))
        layers.append(Layer(seed, "normal", kernel, (4,), PLAIN))
    with by_circulants():
        for drawn in layers:
            claims = AtSize(drawn)
            claims.enclosure(1e-3)
            if claims.tally.violations:
                return claims.tally.violations
    return []


_fewest_points, _dft, _cos_sin_of = embedding._fewest_points, Boxes.dft, Frequencies._cos_sin_of


def one_point_fewer(*axis: Any) -> int:
    return max(1, _fewest_points(*axis) - 1)


def closed_on_the_product(*axis: Any) -> int:
    """Longer steps than the circulant has: of stride times dilation, where they share a factor."""
    with patch.object(math, "lcm", lambda s, r: s * r):
        return _fewest_points(*axis)


def half_less_a_point(sizes: tuple[int, ...], shape: tuple[int, ...], skew: tuple[bool, ...] = ()) -> Boxes:
    """The mirror image of a skew-circulant's frequency taken for that of the DFT's."""
    boxes = _dft(sizes, shape, skew)
    if not any(skew) or not sizes:
        return boxes
    axis = int(np.argmax(sizes))
    last = np.arange(len(sizes)) == axis
    high = np.minimum(boxes.high, np.where(last, max((sizes[axis] - 2) // 2 - 1, 0), boxes.high))
    kept = (boxes.low <= high).all(axis=1)
    return _covering(boxes.between(boxes.low[kept], high[kept]), boxes.covers)


def phase_forgotten(given: Frequencies, points: NDArray[Any]) -> Any:
    """At a skew-circulant's frequencies, the farthest tap turns as if the circulant were not skew."""
    cos, sin = _cos_sin_of(given, points)
    odd = np.asarray([n % 2 == 0 and n < 2**20 for n in given.denominators]) & (given.numerators % 2 == 1).all(axis=0)
    if odd.any() and len(points):
        far = int(np.argmax(np.abs(points).sum(axis=1)))
        plain = Frequencies(given.numerators - odd, given.denominators)
        c, s = _cos_sin_of(plain, points[far : far + 1])
        cos[:, [far]], sin[:, [far]] = c, s
    return cos, sin


@dataclass(frozen=True)
class Mutation:
    """One condition taken away: ``owner.name`` becomes something else; ``check`` must notice."""

    patches: tuple[tuple[Any, str, Any], ...]
    check: Callable[[], list[str]] = by_rings_alone


MUTATIONS = {
    "length": Mutation(((embedding, "_fewest_points", one_point_fewer),)),
    "stride and dilation with a common factor": Mutation(
        ((embedding, "_fewest_points", closed_on_the_product),), too_short
    ),
    "mirror images": Mutation(((Boxes, "dft", half_less_a_point),)),
    "phase of one tap": Mutation(((Frequencies, "_cos_sin_of", phase_forgotten),)),
}


def test_circulants_alone_are_bounds() -> None:
    assert by_rings_alone() == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_condition_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    for owner, attribute, without in mutation.patches:
        monkeypatch.setattr(owner, attribute, without)
    assert mutation.check(), "nothing was noticed"
