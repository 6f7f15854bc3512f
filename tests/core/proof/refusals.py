"""Rules applied where what they suppose does not hold: each case is refused. Those of `test_claims.py`, and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.proof import test_claims
from core.proof.defect_rules import DEFECT_REFUSED
from core.proof.network_rules import FAR, NETWORK_REFUSED
from core.proof.test_claims import KERNEL
from helpers.assumptions import assumed, assumed_lower, interval
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators import Input, ReLU
from specnorm_networks.local.certified import margins
from specnorm_networks.local.certified.linear_bounds import LinearBounds, Network

from specnorm.at_size.proofs.block_tridiagonal import plans
from specnorm.at_size.proofs.components import norm_of_groups, norms_of_patch, polyphase_components
from specnorm.at_size.proofs.own_matrix import LayerGram
from specnorm.at_size.proofs.waves import Waves
from specnorm.ball.proofs.multiples import norm_of_multiple, norm_of_neighbour
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.grid.proof import LargestBound, norms_by_grid, symbol_norms_up
from specnorm.proofs import norms
from specnorm.proofs.bound import ALL_FREQUENCIES, Upper, Uppers, digest_of
from specnorm.proofs.cells import Boxes, Circulant, Grid
from specnorm.running.proofs.padding import largest_of_blocks, other_parts_up, padded_norm
from specnorm.supremum import proof as cover
from specnorm.supremum.proof import Cells, Cover, eigenvalue_limits, supremum_on_grid
from specnorm.symbols.proofs.polynomial import Polynomial

OWN = Circulant((9,), (False,))
SHORT = Circulant((8,), (False,))
CIRCULAR = ConvSpec.of((3, 3, 4), input_shape=9)
POLYNOMIAL = Polynomial(KERNEL, xp=OPS.xp).gram(ops=OPS)
GROUPED = ConvSpec.of((4, 2, 3), input_shape=9, groups=2)
ONE_OUTPUT = ConvSpec.of((2, 3, 2), input_shape=2, padding_mode="zeros", padding=0)
(PATCH,) = polyphase_components(ONE_OUTPUT)
STACK = norms.norm_of_stack((1, 2, 6))
ZEROS: dict[str, Any] = {"input_shape": 9, "padding_mode": "zeros", "padding": 1}
LINE: Any = np.ones((1, 1, 1, 3))
ONE_LAYER: Any = np.random.RandomState(2).standard_normal((2, 2, 3))
ONE_SPEC = ConvSpec.of((2, 2, 3))


LINES = Graph((Node("x", Input(), (), (1, 2)), Node("y", ReLU(), ("x",), (1, 2))), ("y",))


def ball() -> LinearBounds:
    """Around a first entry that may have either sign, and a second one that is above 0."""
    found = LinearBounds(Network(LINES), np.array([0.0, 2.0]), 1.0)
    found.to_the_end()
    return found


BALL = ball()


def cover_in_part() -> cover.Cover:
    found = Cover(KERNEL, Boxes.torus((4,)), ops=OPS)
    formed, _ = found.form(POLYNOMIAL, np.arange(1), np.zeros(1))
    found.fathom(formed, 100.0)
    return found


def formed_before() -> object:
    found = Cover(KERNEL, Boxes.torus((4,)), ops=OPS)
    formed, _ = found.form(POLYNOMIAL, np.arange(len(found)), np.zeros(len(found)))
    found.split(np.full(len(found), 2))
    return found.fathom(formed, 100.0)


def left_open(blocks: Any, boxes: Boxes, others: Any) -> Cover:
    """A cover by the values of some blocks' polynomial at the centres of the torus' boxes."""
    polynomial = Polynomial(others, xp=OPS.xp).gram(by_axis=True, ops=OPS)
    return Cover(
        blocks, boxes, assumed(200.0), values=polynomial.at_centres(Boxes.torus((3,))), threshold=100.0, ops=OPS
    )


def waves(**layer: Any) -> Waves:
    return Waves(LINE, ConvSpec.of((1, 1, 3), **{**ZEROS, **layer}), [np.ones((1, 9), dtype=np.complex128)], ops=OPS)


def by_grid(what: object) -> Uppers:
    return norms_by_grid(Uppers._by_rule(np.ones(1), what, "assumed"), xp=OPS.xp)


def grouped() -> LayerGram:
    spec = ConvSpec.of((2, 1, 3), groups=2, **ZEROS)
    plan = next(p for p in plans(spec) if p.blocks == 1)
    return LayerGram(Convolution(np.ones((1, 2, 1, 3)), spec, ops=OPS), plan, ops=OPS)


def some_frequencies(count: int) -> object:
    largest = LargestBound(symbol_norms_up, KERNEL, (20,), ops=OPS)
    largest.visit(np.arange(count))
    return largest.result()


def below_truncation() -> object:
    polynomial = Polynomial(KERNEL, xp=OPS.xp).rotated(np.eye(3)[None], 1, ops=OPS).gram(ops=OPS)
    planes = polynomial.planes_at(Boxes.torus((4,)).centres, np.zeros(len(Boxes.torus((4,))), dtype=np.int64))
    limits = np.full(planes[0].shape[0], 2 * polynomial.truncation)
    limits[0] = polynomial.truncation / 2
    return polynomial.reduced(*planes, limits)


def without_supremum() -> object:
    boxes = Boxes.dft((9,), (4,))
    return eigenvalue_limits(POLYNOMIAL, Cells(boxes, np.zeros(len(boxes), dtype=np.int64), None), 1.0)


def multiple_of(
    norm: Upper | None = None, factor: float = 0.5, shape: tuple[int, ...] = (2, 2, 3)
) -> Callable[[], object]:
    half = (0.5 * ONE_LAYER).reshape(shape)
    return lambda: norm_of_multiple(norm or assumed(1.0, ONE_SPEC, digest_of(ONE_LAYER)), ONE_LAYER, factor, half)


def neighbour_of(norm: Upper | None = None, shape: tuple[int, ...] = (2, 2, 3)) -> Callable[[], object]:
    near = (1.001 * ONE_LAYER).reshape(shape)
    return lambda: norm_of_neighbour(norm or assumed(1.0, ONE_SPEC, digest_of(ONE_LAYER)), ONE_LAYER, near)


REFUSED: dict[str, Callable[[], object]] = {
    **test_claims.REFUSED,
    **NETWORK_REFUSED,
    **DEFECT_REFUSED,
    "a multiple of something else than a layer": multiple_of(assumed(1.0, ALL_FREQUENCIES, digest_of(ONE_LAYER))),
    "a multiple of another kernel": multiple_of(assumed(1.0, ONE_SPEC, digest_of(2 * ONE_LAYER))),
    "a negative multiple": multiple_of(factor=-0.5),
    "a multiple of another shape": multiple_of(shape=(2, 3, 2)),
    "a kernel near something else than a layer": neighbour_of(assumed(1.0, ALL_FREQUENCIES, digest_of(ONE_LAYER))),
    "a kernel near another kernel": neighbour_of(assumed(1.0, ONE_SPEC, digest_of(2 * ONE_LAYER))),
    "a kernel near one of another shape": neighbour_of(shape=(2, 3, 2)),
    "a negative bound": lambda: assumed(-1.0),
    "a layer as a block": lambda: largest_of_blocks([assumed(1.0, GROUPED)], 1),
    "a block at all frequencies, another at some": lambda: largest_of_blocks([assumed(1.0), assumed(1.0, OWN)], 2),
    "parts of a layer that is padded with zeros": lambda: other_parts_up(
        np.ones((1, 1, 1, 3)), ConvSpec.of((1, 1, 3), padding_mode="zeros")
    ),
    "parts of another kernel shape": lambda: other_parts_up(
        np.ones((1, 1, 1, 5)), ConvSpec.of((1, 1, 3), padding_mode="symmetric")
    ),
    "parts of some of the groups": lambda: other_parts_up(
        np.ones((1, 1, 1, 3)), ConvSpec.of((2, 1, 3), groups=2, padding_mode="symmetric")
    ),
    "words for a circular layer": lambda: padded_norm(assumed(1.0, "words"), CIRCULAR),
    "a circulant for every size": lambda: padded_norm(assumed(1.0, OWN), ConvSpec.of((3, 3, 4))),
    "a circulant for the other groups": lambda: norm_of_groups(
        GROUPED, [assumed(1.0, GROUPED.of_group)], assumed(1.0, OWN)
    ),
    "another lower bound of a patch": lambda: norms_of_patch(PATCH, assumed_lower(1.0, "words"), assumed(1.0, STACK)),
    "another upper bound of a patch": lambda: norms_of_patch(PATCH, assumed_lower(1.0, STACK), assumed(1.0, "words")),
    "the matrix of one group": grouped,
    "waves of two groups": lambda: Waves(
        LINE, ConvSpec.of((2, 1, 3), groups=2, **ZEROS), [np.ones((1, 9), dtype=np.complex128)], ops=OPS
    ),
    "waves with a dilation": lambda: waves(dilation=2),
    "waves that read copies": lambda: waves(padding_mode="reflect"),
    "grid points without a supremum": without_supremum,
    "a grid without a supremum": lambda: Cover(KERNEL, Boxes.dft((9,), (4,)), ops=OPS),
    "boxes of another degree": lambda: Cover(KERNEL, Boxes.torus((3,)), ops=OPS),
    "a polynomial of other blocks": lambda: Cover(KERNEL, Boxes.torus((4,)), ops=OPS).form(
        Polynomial(KERNEL / 2, xp=OPS.xp).gram(ops=OPS), np.arange(1), np.zeros(1)
    ),
    "matrices of cells that have changed": formed_before,
    "values of other blocks": lambda: left_open(LINE, Boxes.torus((3,)), LINE / 2),
    "values at other boxes": lambda: left_open(LINE, Boxes.dft((9,), (3,)), LINE),
    "cells that are fathomed, cut": lambda: cover_in_part().split(np.full(len(cover_in_part()), 2)),
    "a circulant for grid points": lambda: supremum_on_grid(assumed(1.0, OWN), Boxes.dft((9,), (4,), by_point=True)),
    "a limit below the truncation": below_truncation,
    "a circulant as a grid": lambda: by_grid(OWN),
    "a grid of too few points": lambda: by_grid(Grid.of_sizes((3,), (4,))),
    "ends of two shapes": lambda: interval(np.zeros(2), np.ones(1)),
    "ends in single precision": lambda: interval(np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.float32)),
    "a weight that is not positive": lambda: margins.constants_of_differences(
        np.eye(2), np.array([1.0, 0.0]), assumed(1.0)
    ),
    "a constant of another network, for linear bounds": lambda: Network(LINES, [FAR]),
    "a norm as a constant between values": lambda: Network(LINES, [assumed(1.0)]),
    "slopes of other rows": lambda: BALL.lower("y", np.ones((1, 1, 2)), lambda *_: (np.ones((2, 1)), np.ones(1))),
    "a negative multiplier": lambda: BALL.lower(
        "y", np.ones((2, 1, 2)), lambda *told: (told[1], np.array([1.0, -1.0]))
    ),
    "some frequencies": lambda: some_frequencies(3),
}
