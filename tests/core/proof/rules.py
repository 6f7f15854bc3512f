"""What each rule says where the truth is known, or what it rests on: the bounds that are on the wrong side of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from core.proof.defect_rules import DEFECT_CHECKS
from core.proof.network_rules import NETWORK_CHECKS
from core.proof.refusals import BALL, CIRCULAR, GROUPED, LINE, PATCH, STACK, waves
from core.proof.test_claims import DILATED, KERNEL, LAYER, PART, PARTS, REFLECT, RING, by_grid, by_unfolding, cover_of
from helpers.assumptions import assumed, assumed_lower, interval
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.oracle import dense_matrix, values_on_grid
from specnorm_networks.local.certified import margins

from specnorm.at_size.proofs.block_tridiagonal import plans
from specnorm.at_size.proofs.circulant import norm_by_circulant
from specnorm.at_size.proofs.components import norm_of_groups, norm_of_restriction, norms_of_parts, norms_of_patch
from specnorm.at_size.proofs.own_matrix import LayerGram
from specnorm.at_size.proofs.waves import norm_by_waves
from specnorm.ball.proofs.multiples import norm_of_multiple, norm_of_neighbour
from specnorm.completion.method import Completion
from specnorm.enclosure.frequency_grid import Grid
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.gram.method import Gram
from specnorm.power.proofs.ritz import quotients
from specnorm.proof import proven
from specnorm.proofs import bound, norms
from specnorm.proofs.bound import ALL_FREQUENCIES, Lower, Upper, Uppers, digest_of, of_kernel
from specnorm.proofs.cells import Boxes
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.base import Method
from specnorm.running.proofs.padding import bounds_by_blocks, largest_of_blocks, padded_norm
from specnorm.supremum.proof import largest_quotient, norm_by_magnitudes, norm_of_one_tap, supremum_on_grid
from specnorm.symbols.proofs.polynomial import Polynomial
from specnorm.tensor_norm.proof import proven_factor

Check = Callable[[], Iterator[tuple[Upper | Lower | None, float]]]
"""Claims, each beside the truth, or beside the number that it may not be on the wrong side of."""
MATRIX: Any = np.random.RandomState(0).standard_normal((1, 5, 3))
ZERO_PADDED = ConvSpec.of((2, 2, 3), input_shape=(5,), padding_mode="zeros", padding=1)
TAPS: Any = np.random.RandomState(1).standard_normal((1, 2, 2, 3))


def top(matrix: Any) -> tuple[float, Any]:
    _, s, v = np.linalg.svd(matrix)
    return float(s[0]), v[:1]


def layer(empty: float = 1.0) -> tuple[Convolution, float, Any]:
    kernel = empty * TAPS
    matrix = dense_matrix(kernel[0], (5,), padding_mode="zeros", padding=1)
    return Convolution(kernel, ZERO_PADDED, ops=OPS), *top(matrix)


def own_matrix() -> Iterator[tuple[Upper | Lower | None, float]]:
    found, norm, vector = layer()
    plan = min((p for p in plans(ZERO_PADDED) if p.blocks == 1), key=lambda p: p.work)
    gram = LayerGram(found, plan, ops=OPS)
    yield gram.norms_near(np.asarray([norm * (1 + 1e-9)]))[0], norm
    yield gram.with_zero_layers([None])[0], norm
    zero, _, _ = layer(0.0)
    yield LayerGram(zero, plan, ops=OPS).with_zero_layers([None])[0], 0.0
    yield quotients(found, vector[None], False, ops=OPS)[0][0], norm


def arrays_of_bounds() -> Iterator[tuple[Upper, float]]:
    """The claims that are read from arrays: of each block, of all, of two arrays; and with premises."""
    uppers = Uppers._by_rule(np.asarray([1.0, 3.0]), ALL_FREQUENCIES, "assumed")
    yield uppers.largest(ops=OPS), 3.0
    joined = Uppers.joined([uppers, uppers], xp=OPS.xp).claims(ops=OPS)
    yield from zip(joined, (1.0, 3.0, 1.0, 3.0), strict=True)
    derived = Uppers._by_rule(uppers.values, ALL_FREQUENCIES, "times 1", uppers)
    yield from zip(derived.claims(ops=OPS), (1.0, 3.0), strict=True)


def covered() -> Iterator[tuple[Upper, float]]:
    supremum = None
    grid = Boxes.dft((5,), (4,), by_point=True)
    for boxes, points, part in ((Boxes.torus((4,)), 4096, 1.5), (grid, 5, 1.2)):
        norm = float(values_on_grid(KERNEL[0], points).max())
        found = cover_of(part * norm, KERNEL, boxes, supremum).proven()
        yield found, norm
        supremum = supremum or found
    yield supremum_on_grid(assumed(2.0), grid), 2.0


def multiples() -> Iterator[tuple[Upper, float]]:
    kernel = np.zeros((2, 2, 3))
    kernel[..., 1] = np.diag([1.0, 0.5])
    known = assumed(1.0, ConvSpec.of(kernel.shape), digest_of(kernel))
    yield norm_of_multiple(known, kernel, 0.5, 0.5 * kernel), 0.5


def neighbours() -> Iterator[tuple[Upper, float]]:
    kernel = np.zeros((2, 2, 3))
    kernel[..., 1] = np.diag([1.0, 0.5])
    known = assumed(1.0, ConvSpec.of(kernel.shape), digest_of(kernel))
    yield norm_of_neighbour(known, kernel, kernel), 1.0


def one_tap() -> Iterator[tuple[Upper | Lower | None, float]]:
    norm, vector = top(MATRIX[0])
    proof = norms.GramProof(MATRIX, ops=OPS)
    yield proof.largest_up_near(vector), norm
    yield largest_quotient(MATRIX, vector, ops=OPS)[0], norm
    yield norm_of_one_tap(MATRIX[..., None], assumed(norm, norms.norm_of_stack((1, 5, 3)))), norm
    _, claims = proven_factor(MATRIX[:, 0, 0], vector, MATRIX[..., None], ops=OPS)
    yield from ((claim, norm) for claim in claims.claims(ops=OPS))
    entry: Any = 3.0 * np.eye(3, 4)[None, :, ::-1, None]
    for blocks, largest in ((entry, 3.0), (0 * KERNEL, 0.0)):
        yield from ((claim, largest) for claim in norms.norm_of_single_entries(blocks, ops=OPS) or ())
    point = Frequencies.half_grid((1,))
    yield Polynomial(MATRIX[..., None], xp=OPS.xp).at(point, ops=OPS).norm_down(0, vector), norm
    thin: Any = MATRIX[:, :, :1, None]
    yield norms.norm_by_frobenius(thin, ops=OPS), float(np.linalg.norm(thin))


def components() -> Iterator[tuple[Upper | Lower | None, float]]:
    parts = [(assumed_lower(1.0 + i, x), assumed(2.0 + i, x)) for i, x in enumerate(PARTS)]
    lower, upper = norms_of_parts(DILATED, parts)
    yield from ((lower, float(len(parts))), (upper, 1.0 + len(parts)))
    part = GROUPED.of_group
    for groups in ((3.0, 1.0), (1.0, 3.0)):
        yield norm_of_groups(GROUPED, [assumed(x, part) for x in groups]), 3.0
    yield from zip(norms_of_patch(PATCH, assumed_lower(2.0, STACK), assumed(2.0, STACK)), (2.0, 2.0), strict=True)
    restricted = PART.restricted(9)
    yield norm_of_restriction(PART, restricted, assumed_lower(2.0, restricted.spec.of_group)), 2.0


def fixed() -> Iterator[tuple[Upper | Lower | None, float]]:
    truth = float(np.abs(np.fft.fft(LINE[0, 0, 0], 4096)).max())
    yield by_grid(LINE, (60,)), truth
    yield by_unfolding(LINE), truth


def by_products() -> Iterator[tuple[Upper, float]]:
    """Of a column and of a matrix that are the same at every frequency."""
    for matrix in (MATRIX[:, :, :1], MATRIX):
        kernel = np.zeros((*matrix.shape, 2))
        kernel[..., 1] = matrix
        methods: list[tuple[Method, int | None]] = [(Gram(12), None), (Completion(), None)]
        for method, size in [*methods, (Gram(12), 4), (Grid(), None)]:
            _, ((_, upper),) = proven(kernel[0], method, input_shape=size)
            yield upper, top(matrix[0])[0]
    yield from ((upper, 3.0) for _, upper in bounds_by_blocks([assumed(3.0), assumed(1.0)], GROUPED))


def arithmetic() -> Iterator[tuple[Upper | Lower, float]]:
    yield bound.Lower.trivial(), 0.0
    yield from zip(of_kernel(assumed_lower(1.0), assumed(1.0), np.ones(3), 3), (8.0, 8.0), strict=True)
    yield from ((x.times_power_of_two(3), 8.0) for x in (assumed_lower(1.0), assumed(1.0)))
    for values in ((1.0, 3.0), (3.0, 1.0)):
        yield largest_of_blocks([assumed(x) for x in values], 2), 3.0


def circulants() -> Iterator[tuple[Upper, float]]:
    yield norm_by_circulant(assumed(2.0, RING), LAYER), 2.0
    yield padded_norm(assumed(2.0), CIRCULAR), 2.0
    yield padded_norm(assumed(2.0), REFLECT), 2.0 * math.sqrt(REFLECT.padding_gain_sq)
    symmetric = ConvSpec.of((1, 1, 3), padding_mode="symmetric")
    yield padded_norm(assumed(1.0), symmetric, np.array([[[[0.25, 0.5, 0.25]]]])), 1.0


def by_waves() -> Iterator[tuple[Lower, float]]:
    a: Any = np.ones((1, 1, 1), dtype=np.complex128)
    image = np.convolve(np.ones(9), np.ones(3), "same")
    yield norm_by_waves(waves(), a, ops=OPS), float(np.linalg.norm(image) / 3)


def scalars() -> Iterator[tuple[Upper | Lower, float]]:
    """3 + e^{i theta}, whose largest norm is 4; and a wrapped kernel that may be off by 1/2."""
    line: Any = np.asarray([[[[3.0, 1.0]]]])
    yield from ((claim, 4.0) for claim in Polynomial(line, xp=OPS.xp).largest_on_grid((4,), ops=OPS)[2].claims(ops=OPS))
    yield norm_by_magnitudes(line, ops=OPS), 4.0
    yield from zip(Polynomial.of_wrapped(assumed_lower(4.0), assumed(4.0), 0.5), (3.5, 4.5), strict=True)


def radii() -> Iterator[tuple[Lower | None, float]]:
    differences = interval(np.zeros((2, 2)), np.asarray([[0.0, 2.0], [2.0, 0.0]]))
    yield margins.radii(np.asarray([[3.0, 1.0]]), np.asarray([0]), differences)[0], 1.0
    yield margins.radii(np.asarray([[3.0, 1.0]]), np.asarray([0]), differences, 1.5)[0], 0.25
    bounds, above = BALL, interval(np.ones(1), np.ones(1))
    yield margins.radius_of_ball(bounds, above, 0.5), 1.0
    yield margins.radius_of_ball(bounds, above, 1.0), 0.0
    yield margins.radius_of_ball(bounds, above), 1.0
    yield margins.radius_of_ball(bounds, interval(np.zeros(1), np.ones(1))), 0.0


OF_RULES: dict[Check, tuple[str, ...]] = {
    radii: ("radii", "radius_of_ball"),
    arithmetic: (
        "Upper._largest", "Lower.trivial", "Lower.times_power_of_two", "Upper.times_power_of_two", "largest_of_blocks",
    ),
    multiples: ("norm_of_multiple",),
    neighbours: ("norm_of_neighbour",),
    circulants: ("norm_by_circulant", "padded_norm"),
    components: ("norms_of_parts", "norm_of_groups", "norms_of_patch", "norm_of_restriction"),
    own_matrix: ("quotients", "LayerGram.norms_near", "LayerGram.with_zero_layers"),
    by_waves: ("norm_by_waves",),
    one_tap: (
        "norm_by_frobenius", "norm_of_one_tap", "norm_of_single_entries", "Symbol.norm_down",
        "GramProof.largest_up_near", "largest_quotient", "proven_factor",
    ),
    fixed: ("UnfoldingProof.bounds", "norms_by_grid"),
    by_products: ("bounds_by_completions", "_on_grid"),
    covered: ("Cover.proven", "supremum_on_grid"),
    arrays_of_bounds: ("Uppers.claims", "Uppers.largest", "Uppers.joined"),
    scalars: ("Polynomial.largest_on_grid", "norm_by_magnitudes", "Polynomial.of_wrapped"),
}  # fmt: skip
CHECKS = NETWORK_CHECKS | DEFECT_CHECKS | {name: check for check, names in OF_RULES.items() for name in names}
"""Rule -> a check whose claims it makes, among others."""


def violations(check: Check) -> Iterator[str]:
    for claim, truth in check():
        if isinstance(claim, Upper) and claim.value < truth * (1 - 1e-12):
            yield f"{claim} below {truth}"
        if isinstance(claim, Lower) and claim.value > truth * (1 + 1e-12):
            yield f"{claim} above {truth}"
