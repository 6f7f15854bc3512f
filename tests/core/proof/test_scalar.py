"""Scalar symbols: what is evaluated, what it may be off, and which cells it leaves open."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.libraries import OPS
from helpers.oracle import sigma_star
from hypothesis import given
from hypothesis import strategies as st

import specnorm
from specnorm.proofs.cells import Boxes
from specnorm.supremum.proof import Cover
from specnorm.supremum.reduction import Polynomials
from specnorm.symbols.proofs.polynomial import CentreValues, Polynomial, ScalarGram

SHAPES = ((5,), (4, 5), (1, 6), (3, 1), (2, 3, 2))
families = st.sampled_from(("normal", "integer", "one_entry", "zero_mean", "corners", "spread", "ones"))


def exact_sq(block: np.ndarray, angles: np.ndarray) -> float:
    """``||G(theta)||**2`` of (m, 1, *kernel_shape), summed in extended precision."""
    taps = np.stack(np.meshgrid(*map(np.arange, block.shape[2:]), indexing="ij"), axis=-1)
    turned = (taps * angles).sum(axis=-1).astype(np.longdouble)
    parts = [
        (block[:, 0].astype(np.longdouble) * f(turned)).reshape(len(block), -1).sum(axis=1) for f in (np.cos, np.sin)
    ]
    return float(sum((part**2).sum() for part in parts))


def drawn(shape: tuple[int, ...], family: str, seed: int, groups: int, m: int) -> Any:
    blocks = np.stack([Recipe((m, 1, *shape), family, seed=seed + j).kernel for j in range(groups)])
    largest = float(np.abs(blocks).max())
    return blocks / largest if largest > 0 else blocks


def scalar_gram(blocks: Any) -> Any:
    """The Gram polynomial of columns, evaluated axis by axis."""
    return Polynomial(blocks, xp=OPS.xp).gram(by_axis=True, ops=OPS)


@given(shape=st.sampled_from(SHAPES), family=families, seed=st.integers(0, 99), grid=st.booleans())
def test_values_are_within_their_error(shape: tuple[int, ...], family: str, seed: int, grid: bool) -> None:
    blocks = drawn(shape, family, seed, 3, 2)
    scalar = scalar_gram(blocks)
    sizes = tuple(1 if k == 1 else k + 2 for k in shape)
    skew = tuple(k > 1 and j == 0 for j, k in enumerate(shape))
    boxes = Boxes.dft(sizes, shape, skew) if grid else Boxes.torus(shape)
    values = scalar.at_centres(boxes).values
    assert values.shape == (3, len(boxes))
    place = np.random.default_rng(seed).integers(0, len(boxes), 12)
    block = np.random.default_rng(seed).integers(0, 3, 12)
    one_by_one, none = scalar.planes_at(boxes.centres[place], block)
    assert not np.any(np.asarray(none))
    for j, (at, b) in enumerate(zip(place, block, strict=True)):
        true = exact_sq(blocks[b], boxes.centres.angles[at])
        assert abs(values[b, at] - true) <= scalar.error + 1e-13 * abs(true) + 1e-13
        assert abs(float(one_by_one[j, 0, 0]) - true) <= scalar.error + 1e-13 * abs(true) + 1e-13
    assert scalar.error <= 1e-12 * float(np.abs(blocks).sum()) ** 2


@given(shape=st.sampled_from(SHAPES), family=families, seed=st.integers(0, 99))
def test_no_norm_moves_farther_than_its_variation(shape: tuple[int, ...], family: str, seed: int) -> None:
    blocks = drawn(shape, family, seed, 2, 2)
    boxes = Boxes.torus(shape)[:40]
    bounds, which = scalar_gram(blocks).variation(boxes)
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(boxes), 8):
        lattice = boxes.low[at] + random.random(len(shape)) * (boxes.high[at] - boxes.low[at])
        there = 2 * math.pi * (lattice @ boxes.frame.T) / np.asarray(boxes.denominators)
        for b in range(2):
            moved = math.sqrt(exact_sq(blocks[b], there)) - math.sqrt(exact_sq(blocks[b], boxes.centres.angles[at]))
            assert abs(moved) <= bounds[b, which[at]] + 1e-12


@given(shape=st.sampled_from(SHAPES[:3]), family=families, seed=st.integers(0, 99), part=st.floats(0.5, 1.2))
def test_cells_that_are_left_out_hold_nothing_above_the_threshold(
    shape: tuple[int, ...], family: str, seed: int, part: float
) -> None:
    blocks = drawn(shape, family, seed, 3, 1)
    values = scalar_gram(blocks).at_centres(Boxes.torus(shape))
    threshold = part * math.sqrt(float(values.values.max()))
    cover = Cover(blocks, Boxes.torus(shape), values=values, threshold=threshold, ops=OPS)
    every = {(int(b), *row) for b in range(3) for row in values.boxes.low.tolist()}
    rest = {(int(b), *row) for b, row in zip(cover.open.block, cover.open.boxes.low.tolist(), strict=True)}
    assert rest <= every
    truth = [sigma_star(b, max_cells=2000).lo for b in blocks]
    for b in range(3):
        # A block above the threshold has an open cell: the best point is in one that is not fathomed.
        assert truth[b] <= threshold * (1 + 1e-12) or b in cover.open.block


def test_values_are_made_of_their_own_blocks() -> None:
    scalar = scalar_gram(drawn((4, 5), "normal", 0, 2, 1))
    values = scalar.at_centres(Boxes.torus((4, 5)))
    with pytest.raises(ValueError, match="read-only"):
        values.values[0, 0] = 0.0
    with pytest.raises(TypeError, match="made by the rules in files of proofs"):
        CentreValues(scalar, values.boxes, np.zeros((2, len(values.boxes))))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(20,), (5, 5), (7, 4), (3, 3, 3)])
@pytest.mark.parametrize("family", ["normal", "zero_mean", "nearly one tap", "spread"])
def test_the_same_norm_as_by_the_gram_polynomial(
    shape: tuple[int, ...], family: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = family == "nearly one tap"
    kernel: Any = Recipe((2 * groups, 1, *shape), "normal" if flat else family, seed=groups).kernel
    if flat:
        kernel *= 1e-2
        kernel[:, :, *[k // 2 for k in shape]] += 1.0
    taken: list[object] = []
    form = ScalarGram.at_centres

    def noted(self: ScalarGram, boxes: Boxes) -> CentreValues:
        taken.append(boxes)
        return form(self, boxes)

    monkeypatch.setattr(ScalarGram, "at_centres", noted)
    found = [specnorm.enclose(kernel, size, groups=groups) for size in (None, 11)]
    assert taken
    monkeypatch.setattr(Polynomials, "is_by_axis", False)
    taken.clear()
    for one, size in zip(found, (None, 11), strict=True):
        other = specnorm.enclose(kernel, size, groups=groups)
        assert max(one.lower, other.lower) <= min(one.upper, other.upper)
        assert one.upper <= one.lower * (1 + 1e-3) * (1 + 1e-12)
    assert not taken
