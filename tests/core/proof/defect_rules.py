"""Rules of the other end of the spectrum: what each says where the truth is known, and what each refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from helpers.assumptions import assumed, assumed_lower
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.oracle import dense_matrix

from specnorm.at_size.proofs.block_tridiagonal import BlockPlan, plans
from specnorm.at_size.proofs.own_matrix import LayerGram, smallest_of_groups, smallest_quotients
from specnorm.at_size.proofs.uncut import SMALLEST
from specnorm.ends import proof as defect
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs.bound import Lower, Upper
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.proofs.frequencies import Frequencies
from specnorm.supremum import proof as cover
from specnorm.supremum.proof import Nonnegative

Claims = Iterator[tuple[Upper | Lower | None, float]]
LINE: Any = np.asarray([[[[3.0, 1.0]]]])
"""``|3 + e^{i theta}|``: singular values from 2 to 4."""
TAPS: Any = np.random.RandomState(1).standard_normal((1, 3, 2, 3))
PADDED = ConvSpec.of((3, 2, 3), input_shape=(6,), padding_mode="zeros")
GROUPED = ConvSpec.of((4, 2, 3), input_shape=(6,), padding_mode="zeros", groups=2)
PART = (SMALLEST, GROUPED.of_group)
ELSEWHERE = Circulant((9,), (False,))
SQUARE: Any = np.asarray([[[[[3.0, 1.0], [0.5, 0.25]]]]])
VECTOR: Any = np.ones((1, 1))
WIDE: Any = np.ones((1, 1, 2, 2))
DIFFERENCE: Any = np.asarray([[1.0, -1.0]])


def plan(*, wide: bool = False, blocks: int = 1) -> BlockPlan:
    """A way to cut the Gram matrix of `PADDED`, whose outputs are more than its inputs."""
    return next(x for x in plans(PADDED) if x.rows_are_outputs is wide and min(x.blocks, 2) == blocks)


def padded() -> Convolution:
    return Convolution(TAPS, PADDED, ops=OPS)


def of_line() -> Claims:
    """With c = 16, the square of the norm, the norm of the defect is 16 - 4."""
    of = line()
    scale = 2.0**of.exponent
    yield defect.smallest_down(of, assumed(12.0 / scale)), 2.0
    yield defect.smallest_at(LINE, 0, Frequencies.half_grid((2,))[1:], VECTOR, ops=OPS), 2.0
    on_grid = defect.smallest_on_grid(LINE, (2,), 2.0, 4.0, ops=OPS)
    assert on_grid is not None
    yield on_grid, 2.0
    yield defect.norm_by_taps(of, ops=OPS), 12.0 / scale
    unit = plain(LINE / 4, 1.0)
    ends = (assumed_lower(0.75 / 2.0**unit.exponent), assumed(0.75 / 2.0**unit.exponent))
    yield from ((x, 0.75) for x in defect.isometry_ends(unit, *ends, unread_pixels=False, scale_exponent=0))
    yield from far_from_an_isometry()
    yield from ((x, 0.0) for x in defect.no_smallest("words"))
    parts = [(assumed_lower(x, PART), assumed(x, PART)) for x in (3.0, 2.0)]
    yield from ((x, 2.0) for x in defect.smallest_of_parts(parts))
    norm = assumed_lower(4.0, digest="k"), assumed(4.0, digest="k")
    smallest = assumed_lower(2.0, digest="k"), assumed(2.0, digest="k")
    yield from ((x, 2.0) for x in defect.condition(norm, smallest))


def far_from_an_isometry() -> Claims:
    """Defects ``|K*K - s**2| / s**2`` of kernels with one entry, whose centre is a power of two apart from s**2."""
    ordinary = ((2.0, 1.0, 1), (1.0, 2.0, -1), (1.0, 2.0, 3), (0.0, 1.0, 2), (8.0, 1.0, -1))
    rounded = (2.3, 1.0, 52)
    for square, centre, exponent in (*ordinary, rounded):
        of = plain(np.full((1, 1, 1, 1), square**0.5), centre)
        norm = (abs(square - centre)) / 2.0**of.exponent
        ends = defect.isometry_ends(
            of, assumed_lower(norm), assumed(norm), unread_pixels=False, scale_exponent=exponent
        )
        scale = centre * 2.0**exponent
        yield from ((x, abs(square - scale) / scale) for x in ends)


def of_layer() -> Claims:
    _, s, v = np.linalg.svd(dense_matrix(TAPS[0], (6,), padding_mode="zeros"))
    truth, top = float(s[-1]), float(s[0]) ** 2
    yield LayerGram(padded(), plan(), ops=OPS).smallest_near(np.asarray([truth**2]), top)[0], truth
    vector: Any = v[None, -1:, :]
    yield smallest_quotients(padded(), vector, ops=OPS)[0][0], truth
    pairs = [(assumed_lower(x, PART), assumed(x, PART)) for x in (3.0, 1.0)]
    for order in (pairs, pairs[::-1]):
        yield from ((x, 1.0) for x in smallest_of_groups(GROUPED, order))


DEFECT_CHECKS: dict[str, Callable[[], Claims]] = {
    **dict.fromkeys(
        (
            "smallest_down", "smallest_at", "smallest_on_grid", "smallest_of_parts", "norm_by_taps", "no_smallest",
            "condition", "isometry_ends",
        ),
        of_line,
    ),
    **dict.fromkeys(("LayerGram.smallest_near", "smallest_quotients", "smallest_of_groups"), of_layer),
}  # fmt: skip


def plain(blocks: Any, centre: float) -> defect.Defect:
    return defect.defect(defect.in_basis(blocks, ops=OPS), centre, ops=OPS)


def token(centre: float) -> Nonnegative | None:
    return defect.nowhere_negative(plain(LINE, centre), defect.in_basis(LINE, ops=OPS), assumed(4.0))


def pair(what: object = PART) -> tuple[Lower, Upper]:
    return assumed_lower(1.0, what), assumed(1.0, what)


def line() -> defect.Defect:
    return plain(LINE, 16.0)


def folded(kernel: Any = LINE, sizes: tuple[int, ...] = (2,)) -> defect.Defect:
    """The defect of a kernel, by default `LINE`, at the frequencies of some pixels."""
    return defect.defect(defect.in_basis(kernel, ops=OPS), 16.0, sizes=sizes, ops=OPS)


def isometry(of: defect.Defect, lower: Lower, *, scale_exponent: int = 0) -> tuple[Lower, Upper]:
    return defect.isometry_ends(of, lower, assumed(1.0), unread_pixels=False, scale_exponent=scale_exponent)


DEFECT_REFUSED: dict[str, Callable[[], object]] = {
    "a circulant's norm that is skew along one axis": lambda: defect.smallest_down(
        folded(SQUARE, (2, 3)), assumed(1.0, Circulant((2, 3), (False, True)))
    ),
    "a circulant's norm of other points along one axis": lambda: defect.smallest_down(
        folded(SQUARE, (2, 3)), assumed(1.0, Circulant((2, 4), (False, False)))
    ),
    "parts one of whose bounds is of norms": lambda: defect.smallest_of_parts(
        [(assumed_lower(1.0, SMALLEST), assumed(1.0))]
    ),
    "a kernel with one entry that is not 0": lambda: defect.smallest_of_zero(WIDE * np.eye(2), ops=OPS),
    "a circulant's norm as that of every frequency": lambda: defect.least_centre(
        defect.in_basis(LINE, ops=OPS), assumed(4.0, ELSEWHERE), 0.0
    ),
    "a matrix that has no inverse": lambda: defect.basis(0 * VECTOR[None], VECTOR[None], ops=OPS),
    "blocks in another basis": lambda: defect.nowhere_negative(
        line(), defect.in_basis(LINE, defect.basis(VECTOR[None], VECTOR[None], ops=OPS), ops=OPS), assumed(4.0)
    ),
    "a floor without a basis": lambda: defect.defect(defect.in_basis(LINE, ops=OPS), 1.0, floor=1.0, ops=OPS),
    "a vector that every wide matrix maps to 0": lambda: defect.smallest_at(
        WIDE, 0, Frequencies.half_grid((1,)), DIFFERENCE, ops=OPS
    ),
    "Gram matrices of columns that are more than rows": lambda: defect.smallest_on_grid(WIDE, (2,), 0.1, 1.0, ops=OPS),
    "no vector": lambda: defect.smallest_at(LINE, 0, Frequencies.half_grid((1,)), 0 * VECTOR, ops=OPS),
    "pixels that are read": lambda: defect.smallest_with_unread_pixels(ConvSpec.of((3, 2, 2))),
    "ends of two kernels": lambda: defect.condition(
        (assumed_lower(4.0, digest="a"), assumed(4.0, digest="a")),
        (assumed_lower(2.0, digest="b"), assumed(2.0, digest="b")),
    ),
    "the norm at every frequency as what a circulant's is at least": lambda: isometry(folded(), assumed_lower(1.0)),
    "another circulant's norm as what the defect's is at least": lambda: isometry(
        folded(), assumed_lower(1.0, ELSEWHERE)
    ),
    "a defect in a basis as that of an isometry": lambda: isometry(
        defect.defect(defect.in_basis(LINE, defect.basis(VECTOR[None], VECTOR[None], ops=OPS), ops=OPS), 4.0, ops=OPS),
        assumed_lower(1.0),
    ),
    "a scale that is not large": lambda: defect.isometry_ends(
        line(), assumed_lower(1.0), assumed(100.0), unread_pixels=False, scale_exponent=3
    ),
    "a block of a matrix": lambda: LayerGram(padded(), plan(blocks=2), ops=OPS).smallest_near(np.zeros(1), 1.0),
    "no input": lambda: smallest_quotients(padded(), np.zeros((1, 1, 12)), ops=OPS),
    "one group of two": lambda: smallest_of_groups(GROUPED, [pair()]),
    "another layer's group": lambda: smallest_of_groups(GROUPED, [pair(), pair("words")]),
    "a circulant for grid points of a nonnegative symbol": lambda: cover.nonnegative_grid_lemma(
        1.0, assumed(2.0, ELSEWHERE), np.zeros(1)
    ),
    "another nonnegative symbol": lambda: cover.Cover(
        plain(LINE, 15.0).kernel, Boxes.torus((3,)), nonnegative=token(17.0), ops=OPS
    ),
}
