"""A layer with zero padding is a part of every skew-circulant that is long enough, whose norm bounds the layer's.

The library's circulants are as long as they must be, and without one of the conditions it bounds nothing.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("flint", reason="the layers' ball arithmetic: pip install python-flint")

from core.soundness.at_size import AtSize, by_circulants
from core.soundness.layers import Layer, layer

from specnorm.at_size.proofs import circulant as embedding
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.cells import Boxes
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


def test_circulants_alone_are_bounds() -> None:
    assert by_rings_alone() == []
