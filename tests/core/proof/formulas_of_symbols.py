"""Functions of proofs about symbols, each alone, held against the formulas of their docstrings as in `formulas`."""

# Functions of modules are replaced, and what a function returns may be of a subclass.
# mypy: disable-error-code="assignment,attr-defined,call-arg,has-type,index,misc,arg-type"
from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any
from unittest.mock import patch

from core.proof.formulas import SINGLE, Violations, between, down, gamma, normal, up
from core.proof.formulas_of_ends import DOUBLE, OWN, absolute, lengths, stack
from helpers.assumptions import assumed, assumed_lower
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS

from specnorm.gram.proof import divisors, lag_norms
from specnorm.grid import proof as grid
from specnorm.grid.proof import largest_of_all, quotient_at_down, symbol_norms_up
from specnorm.proofs import host
from specnorm.proofs import norms as norm_rules
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Upper, Uppers
from specnorm.proofs.cells import Boxes
from specnorm.proofs.frequencies import Frequencies, phase_error
from specnorm.proofs.rounding import from_converted_up, to_dtype
from specnorm.spectrum.proof import singular_values_down
from specnorm.supremum.proof import (
    Cells,
    CentreMatrices,
    eigenvalue_limits,
    norm_by_magnitudes,
    norm_of_one_tap,
    proven_below,
)
from specnorm.symbols.proofs import lags as lag_rules
from specnorm.symbols.proofs.polynomial import Polynomial

XP = OPS.xp
ROOT2 = math.sqrt(2)


def on_grid(kernels: Any, sizes: tuple[int, ...]) -> Any:
    b, m, p = kernels.shape[:3]
    values = np.fft.fftn(kernels.astype(np.float64), sizes, axes=range(3, 3 + len(sizes)))
    return np.moveaxis(values.reshape(b, m, p, -1), 3, 1).conj()


KERNELS: tuple[Any, ...] = tuple(stack(*shape, seed=1) / 8 for shape in ((4, 3, 2, 3), (2, 3, 3), (2, 2, 2, 3, 2)))
SMALL = replace(OPS, memory=4000)
"""Of memory for a few frequencies, or columns, at a time."""


def contractions() -> Violations:
    kernels, shape = KERNELS[2], (2, 3, 2)
    steps = {tuple(map(int, lag)): j for j, lag in enumerate(lag_rules.Lags.points(shape))}
    slopes: Any = normal(2, len(steps), 2, 2, seed=4)
    found = lag_rules.Lags.vjp(kernels, slopes, xp=XP)
    exact = np.zeros_like(kernels)
    for y, z in itertools.product(np.ndindex(*shape), repeat=2):
        lag = tuple(b - a for a, b in zip(y, z, strict=True))
        slope = slopes[:, steps[lag]] if lag in steps else np.swapaxes(slopes[:, steps[tuple(-x for x in lag)]], 1, 2)
        exact[(..., *z)] += 2 * kernels[(..., *y)] @ slope
    if not np.allclose(found, exact, rtol=1e-12):
        yield "a gradient by lags"
    whole = lag_rules.Lags.products(kernels, kernels, ops=OPS)
    if not np.allclose(lag_rules.Lags.products(kernels, kernels, ops=replace(OPS, memory=1)), whole, rtol=1e-12):
        yield "lags in parts"


def phase() -> float:
    return phase_error(DOUBLE)


def norms_of_channels() -> Violations:
    tiny = 2.0**-1022
    norms, *_ = lag_norms(np.full((1, 2, 2, 3), 1e-170), ops=OPS)
    yield from up("lags that underflow", norms, math.sqrt(2 * 2 * 2 * 9 * tiny))
    rows: Any = np.ones((1, 10**5, 1, 1))
    norm, *_ = lag_norms(rows, ops=OPS)
    yield from up("lags of many rows", norm, math.sqrt(1e5 * (1 + gamma(10**5 + 1, DOUBLE))))
    with_zeros: Any = np.asarray([[[1.0, 0.0], [0.0, 2.0]]])[..., None]
    yield from up("lags with zeros", lag_norms(with_zeros, ops=OPS)[0], [[1.0, 2.0]])
    one: Any = np.ones(1)
    eps, tiny = 2.0**-20, 2.0**-40
    for shape in ((2, 5, 3, 4), (5, 2, 4, 3)):
        formula = 1 + 2 * eps * (math.sqrt(12 * 2) + 2) + tiny * 12 * math.sqrt(10)
        yield from up("divisors", divisors(one, shape, (eps, tiny), xp=XP), formula, 1e-14)


# -- symbols of one column, and Gram polynomials -----------------------------------------------------------------------
COLUMNS: Any = stack(4, 1, 2, 3, 2, seed=2)


def scalars() -> Violations:
    """Squares of symbols of one column, their error, and how far they move in a box."""
    found = Polynomial(COLUMNS, xp=OPS.xp).gram(by_axis=True, ops=OPS)
    delta = math.sqrt(2) * 1.001 * sum(gamma(2 * k + 2, DOUBLE) / 1.001 + phase() for k in (2, 3, 2))
    error = 1.001 * (gamma(2 * 4 + 2, DOUBLE) / 1.001 + 2 * delta + delta**2)
    yield from up("the error of a scalar", found.error, error * absolute(COLUMNS) ** 2)
    for columns in (COLUMNS, stack(4, 1, 2, 3, 2, 3, seed=2)):
        shape = columns.shape[3:]
        points = Frequencies(np.asarray([[1, 2, 3, 1], [2, 1, 0, 3]])[:, : len(shape)], (5, 7, 4, 9)[: len(shape)])
        planes, _ = Polynomial(columns, xp=OPS.xp).gram(by_axis=True, ops=OPS).planes_at(points, np.asarray([0, 1]))
        angles = 2 * math.pi * points.numerators / np.asarray(points.denominators)
        taps = np.indices(shape).reshape(len(shape), -1).T
        waves = np.exp(1j * np.stack([taps @ x for x in angles]))
        exact = (np.abs((columns.reshape(2, 4, -1) * waves[:, None, :]).sum(axis=2)) ** 2).sum(axis=1)
        yield from between("planes", np.abs(np.asarray(planes)[:, 0, 0] / exact - 1).max(), 0.0, 1e-12)
    sizes = (5, 6, 7)
    values = lengths(on_grid(COLUMNS, sizes)).max(axis=1)
    for ops in (OPS, SMALL):
        largest, places, _ = Polynomial(COLUMNS, xp=ops.xp).largest_on_grid(sizes, ops=ops)
        yield from up("largest on a grid", largest, values)
        if len(places) != 2:
            yield f"{len(places)} places of two blocks"
    faint: Any = np.full((1, 2, 1, 1, 2), 1e-170)
    yield from up("a norm that underflows", Polynomial(faint, xp=XP).norms_up(np.zeros(1)), 4 * 2.0**-511, 1e-3)
    boxes = Boxes.torus((2, 3, 2))
    bounds, kind = found.variation(boxes)
    sizes_of_taps = np.sqrt((COLUMNS**2).sum(axis=(1, 2))).reshape(2, -1)
    taps = np.indices((2, 3, 2)).reshape(3, -1).T
    away = taps[None] - taps[sizes_of_taps.argmax(axis=1)][:, None]
    moved = np.stack([np.minimum(2.0, boxes.largest_angle(x.astype(float))) for x in away])
    yield from up("a variation", bounds[:, kind], (moved * sizes_of_taps[:, None, :]).sum(axis=2))
    frame = np.asarray([[1, 1], [-1, 1]])
    flat = Boxes(np.asarray([[0, 0]]), np.asarray([[8, 0]]), (10, 10), np.ones(2), False, frame, np.zeros(2))
    allowed = 2 * math.pi * 4 * DOUBLE * 3 * 0.2
    yield from up("an angle that cancels", flat.largest_angle(np.ones((1, 2))), allowed)
    many: Any = np.ones((1, 1, 1, 100, 101))
    low, high = np.asarray([[0, 0]]), np.asarray([[20, 24]])
    turn = Boxes(low, high, (20, 24), np.asarray([49.5, 50.0]), False, np.eye(2, dtype=np.int64), np.zeros(2))
    bounds, _ = Polynomial(many, xp=OPS.xp).gram(by_axis=True, ops=OPS).variation(turn)
    yield from up("a variation of many taps", bounds, 2 * (many.size - 1) * (1 + many.size * 2.0**-52))


def polynomials() -> Violations:
    """Coefficients, limits and errors of Gram polynomials, in double precision and as copies in single precision."""
    kernels: Any = stack(4, 3, 2, 3, seed=3)
    found = Polynomial(kernels, xp=OPS.xp).gram(ops=OPS)
    lags = Polynomial(kernels, xp=XP).lags(ops=OPS)
    norms = lengths(lags.values)
    terms = lag_rules.Lags.roundings(kernels, xp=XP) + norms.shape[1] + 4
    relative = gamma(terms, DOUBLE) + 1.001 * math.sqrt(2) * phase()
    yield from up("error of a polynomial", found.error, absolute(kernels) ** 2 * relative)
    spread = np.abs(normal(5, norms.shape[1] - 1, seed=4)) * 2
    moved = 2 * np.minimum(2.0, spread) @ norms[:, 1:].max(axis=0)
    yield from up("variation of a polynomial", found.variation_sq(spread), moved)
    forward, backward = np.asarray(lags.values), np.swapaxes(lags.values, 2, 3)
    even, odd = np.abs(forward + backward), np.abs(forward - backward)
    even[:, 0], odd[:, 0] = np.abs(forward[:, 0]), 0.0
    sums = np.maximum(even, odd).sum(axis=(1, 3)).max()
    of_copy = sums * (gamma(norms.shape[1] + 2, SINGLE) + 1.001 * math.sqrt(2) * 1.01 * SINGLE)
    copy = found.float32_copy()
    yield from up("error of a copy", copy.error, found.error + of_copy)
    copy.error = 0.25
    copy._shrink, copy._lost = 0.75, 0.5
    limits = np.asarray([2.0, 3.0, 0.1])
    formula = np.maximum(limits * 0.75 - 0.5, 0.0) ** 2 - 0.25
    yield from down("limits of eigenvalues", copy.eigenvalue_limit_of_norm(limits), formula)
    yield from up("norms by bounds", copy.norm_up_by(np.asarray([2.0])), (math.sqrt(2.0 + 4 * 0.25) + 0.5) / 0.75)
    planes: tuple[Any, ...] = (normal(2, 3, 1), normal(2, 3, 1, seed=1))
    a, b = (planes[0] + 1j * planes[1])[:, :1], (planes[0] + 1j * planes[1])[:, 1:]
    copy.rank, copy.truncation = 1, 0.5
    matrices, _ = copy.reduced(*planes, np.asarray([1.5, 2.5]))
    exact = (a + np.conj(np.swapaxes(b, 1, 2)) @ b / np.asarray([1.0, 2.0])[:, None, None]).real
    yield from up("a reduced matrix", np.asarray(matrices).real - a.real, exact - a.real)


def limits_of_cells() -> Violations:
    """Limits by variation less the errors, and what a factorization proves beside a reduction's error."""
    scalar, boxes = Polynomial(COLUMNS, xp=OPS.xp).gram(by_axis=True, ops=OPS), Boxes.torus((2, 3, 2))
    few = boxes[np.arange(0, len(boxes), 7)]
    variation, kind = scalar.variation(few)
    threshold = float(2 * variation.max())
    limits, kinds = scalar.limits_of_kinds(few, threshold)
    yield from down("limits of scalars", limits, (threshold - variation) ** 2 - scalar.error)
    if (np.asarray(kinds) != np.asarray(kind)).any():
        yield "kinds of boxes"
    polynomial = Polynomial(stack(4, 3, 2, 3, seed=3), xp=OPS.xp).gram(ops=OPS)
    few = Boxes.torus((2, 3))[np.arange(0, 19, 4)]
    cells = Cells(few, np.zeros(len(few), dtype=np.int64), None, False)
    threshold = 1e3 * float(polynomial.norms.max())
    moved = polynomial.variation_sq(few.largest_angle(polynomial.lags[1:]))
    for error in (polynomial.error, 1e3 * threshold):
        polynomial.error = error
        by_variation = threshold**2 - 3 * error - moved
        by_lemma = np.maximum(np.cos(few.radius) * threshold, 0.0) ** 2 - error
        found = eigenvalue_limits(polynomial, cells, threshold)
        yield from down("limits of a polynomial", found, np.maximum(by_variation, by_lemma))
    for dtype in (np.complex128, np.complex64):
        matrices: Any = np.ones((2, 1, 1), dtype=dtype)
        formed = CentreMatrices._made(polynomial, cells, np.arange(2), np.zeros(2), matrices, np.asarray([0.25, 0.5]))
        for limits, proven in (([1.2499, 1.51], [False, True]), ([1.251, 1.4999], [True, False])):
            if proven_below(formed, np.asarray(limits), ops=OPS).tolist() != proven:
                yield f"limits {limits} of {dtype.__name__} matrices"


# -- many terms, whose number shows, and other norms -------------------------------------------------------------------
def many_terms() -> Violations:
    """Allowances for as many roundings as there are taps, or rows: of ones, whose sums are exact."""
    many: Any = np.ones((1, 1, 1, 100, 101))
    taps = many.size
    rows = 10**5
    column: Any = np.ones((1, rows, 1))
    vector: Any = np.ones((1, 1))
    kappa = gamma(1 + 8, DOUBLE) / 1.001
    error = rows * gamma(rows, DOUBLE)
    limit = rows * (1 + 2 * kappa + 48 * DOUBLE)
    found = norm_rules.GramProof(column, ops=OPS).norm_up_near(vector)
    yield from up("norm by a factorization", found, math.sqrt(limit + error * (1 + rows * DOUBLE)))
    orthogonal: Any = np.stack([np.ones(rows), (-1.0) ** np.arange(rows)], axis=1)[None]
    found = norm_rules.matrix_norm_up(orthogonal, ops=OPS)
    limit = rows * (1 + 4 * gamma(2 + 8, DOUBLE) / 1.001 + 16 * DOUBLE)
    yield from up("norm by an eigenvalue", found, math.sqrt(limit + 2 * error * (1 + 2 * rows * DOUBLE)))
    found = grid.gram_iteration_of_parts_up(orthogonal, 0 * orthogonal, 1, 0.0, xp=XP)
    formula = math.sqrt(rows * (1 + 2 * ROOT2 * gamma(rows + 2, DOUBLE)))
    yield from up("norm of parts by a product", found, formula)
    delta = ROOT2 * gamma(2 * taps + 2, DOUBLE)
    of_column = Polynomial(many.reshape(1, 1, 1, -1), xp=XP).norms_up(np.ones(1))
    yield from up("norm of a column", of_column, 1 + taps * delta, 1e-10)
    found = norm_rules.gram_iteration_up(column, 1, xp=XP)
    yield from up("norm by a product", found, math.sqrt(rows + error * (1 + 2 * rows * DOUBLE)))
    size = 300
    share = gamma(size + 8, DOUBLE) / 1.001
    share = share / (1 - share) * size * 1.001
    for beyond in (1e-4, 5e-4):
        shifted = -beyond * np.eye(size)[None]
        proven = norm_rules.gram_below(shifted, np.ones(1), ops=OPS)
        if bool(np.asarray(proven)[0]) is not (beyond * share < 4 * (size + 8) * DOUBLE * share + 22 * DOUBLE):
            yield f"a loss that is {beyond} above its room"


def norms_of_matrices() -> Violations:
    """Norms of matrices and of blocks where the formula is that of a few numbers."""
    blocks: Any = np.asarray([1.0, 3.0]).reshape(2, 1, 1, 1, 1) * np.ones((2, 1, 1, 2, 3))
    yield from up("by Frobenius", norm_rules.norm_by_frobenius(blocks, ops=OPS).value, 18.0)
    yield from up("by magnitudes", norm_by_magnitudes(-blocks, ops=OPS).value, 18.0)
    for shape in ((1, 1, 1, 2, 1), (1, 1, 1, 1, 2), (1, 1, 1, 2)):
        try:
            norm_of_one_tap(np.ones(shape), assumed(1.0, norm_rules.norm_of_stack((1, 1, 1))))
        except HypothesisError:
            continue
        yield f"one tap of {shape}"
    for zeros in ([[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [1, 1]], [[0, 1], [0, 1]]):
        several: Any = np.asarray([zeros, np.eye(2)], dtype=float)[..., None]
        if norm_rules._has_single_entries(several, ops=OPS):
            yield f"one entry of {zeros}"
    factors: Any = np.tril(np.abs(stack(5, 5, seed=5)))
    g = gamma(13, DOUBLE) / 1.001
    weighted = np.sqrt(g * np.arange(9, 14) / 13)[:, None] * factors
    x = weighted.sum(axis=2, keepdims=True)
    exact = (weighted @ (np.swapaxes(weighted, 1, 2) @ x) / x).max(axis=(1, 2))
    yield from up("the loss of a factor", norm_rules.factor_loss(factors, ops=OPS), exact)
    error: Any = np.full(2, 0.5)
    yield from up("a norm and an error", norm_rules.matrix_norm_up(blocks[:, :, :, 0, 0], error, ops=OPS), [1.5, 3.5])
    parts: Any = normal(2, 1, 2, 2, seed=9)
    exact = float(np.linalg.norm(parts[0, 0] + 1j * parts[1, 0], 2))
    yield from up("a norm of parts", grid.gram_iteration_of_parts_up(*parts, 4, 9.0, xp=XP), exact + 9.0, 0.05)
    u: Any = np.asarray([[[0.9, 0.0], [0.0, 1.1], [0.0, 0.0]]])
    vh: Any = np.asarray([[[1.0, 0.0], [0.1, 1.0]]])
    s: Any = np.asarray([[3.0, 2.0]])
    a: Any = u * s[:, None, :] @ vh + 0.01 * normal(1, 3, 2)
    defects = [np.linalg.norm(q - np.eye(2)) for q in (u[0].T @ u[0], vh[0] @ vh[0].T)]
    shrinkage = math.sqrt((1 - defects[0]) * (1 - defects[1]))
    distance = float(lengths(a - u * s[:, None, :] @ vh)[0]) + 0.02
    with patch.object(norm_rules.rounding, "product_error", lambda *_, xp: 0.01):  # noqa: ARG005
        found = singular_values_down(a, (u, s, vh), np.asarray([0.02]), ops=OPS)
        of_quotient = norm_rules.quotient_down(a, np.ones((1, 2)), xp=XP)
    defects = [x + 0.01001 * float(np.linalg.norm(q)) ** 2 for x, q in zip(defects, (u, vh), strict=True)]
    shrinkage = math.sqrt((1 - defects[0]) * (1 - defects[1]))
    distance += 0.01001 * float(np.linalg.norm(u * s[:, None, :]) * np.linalg.norm(vh))
    yield from down("singular values with errors", found, s * shrinkage - distance)
    quotient = np.linalg.norm(a[0] @ np.ones(2)) / ROOT2 - 0.01001 * np.linalg.norm(a)
    yield from down("a quotient with errors", of_quotient, quotient)
    close: Any = np.asarray([[[1.0, 0.0], [0.0, 1.0]]])
    with patch.object(norm_rules.rounding, "unit", lambda *_, xp: 1e-3):  # noqa: ARG005
        found = singular_values_down(close, (close, np.ones((1, 2)), close), np.zeros(1), ops=OPS)
    of_product = gamma(2, 1e-3)
    yield from between(
        "units of singular values", float(found[0, 0]), 0.0, 1 - 2 * of_product - 2 * (of_product + 4.004e-3)
    )


def claims_in_floats() -> Violations:
    """Claims of several blocks, in single precision, and times powers of two where these are subnormal."""
    first, second = assumed(1.0), assumed(2.0)
    yield from up("the least", Upper.least(first, second, None).value, 1.0)
    lowers = assumed_lower(1.0), assumed_lower(2.0)
    yield from down("the greatest", Lower.greatest(*lowers).value, 2.0)
    several: Any = np.asarray([3.0, 5.0])
    uppers = Uppers._by_rule(several, ALL_FREQUENCIES, "words")
    yield from up("claims of blocks", [x.value for x in uppers.claims(ops=OPS)], [3.0, 5.0])
    joined = Uppers.joined([uppers, uppers], xp=OPS.xp)
    yield from up("claims of some blocks and others", [x.value for x in joined.claims(ops=OPS)], [3.0, 5.0, 3.0, 5.0])
    narrow = replace(OPS, wide_dtype="float32")
    like: Any = np.ones(1)
    value = 1 + 2.0**-40
    what = "a claim in single precision"
    yield from up(what, Upper.as_array([assumed(value)], like, ops=narrow), value, 1e-6)
    yield from down(what, Lower.as_array([assumed_lower(value)], like, ops=narrow), value, 1e-6)
    smallest = 2.0**-149
    for value in (2.2 * smallest, 2.8 * smallest):
        for eager in (False, True):
            above, below = (to_dtype(np.float64(value), np.float32, x, eager=eager, xp=XP) for x in ("up", "down"))
            yield from between(
                "a conversion of a subnormal number", value / smallest, float(below) / smallest, float(above) / smallest
            )
    rounded: Any = np.asarray([5e-320])  # it may have lost half of the smallest number when it was unscaled
    above, below = (to_dtype(rounded, np.float64, x, eager=True, xp=XP) for x in ("up", "down"))
    yield from between(
        "an unscaled number", 0.0, float(below[0] - rounded[0]) + 5e-324, float(above[0] - rounded[0]) - 5e-324
    )
    distances = from_converted_up(np.asarray([1.0, 1e-44]), np.asarray([2.0, 1e-44]), "float32", eager=True, xp=XP)
    yield from up("a distance from a conversion", distances, [1 + 8 * 2.0**-23, 1e-44 + 6 * smallest], 1e-5)
    for odd in (2**30 + 1, 2**30 + 3):
        half, exact = math.ldexp(odd, -1074), math.ldexp(odd, -975)
        yield from up("scaled up", math.ldexp(host.scaled_up(half, -1), 100), exact, 1e-8)
        yield from down("scaled down", math.ldexp(host.scaled_down(half, -1), 100), exact, 1e-8)


def single_frequencies() -> Violations:
    """Quotients less the symbol's error, and kernels that wrap around, whose sums are rounded."""
    kernels: Any = (stack(4, 3, 2, 3, seed=3) / 8).astype(np.float32)
    point = Frequencies(np.asarray([[1, 2]]), (5, 7))
    vector: Any = np.ones((1, 3), dtype=np.complex64)
    both = Polynomial(kernels, xp=OPS.xp).at(point, ops=OPS)
    for block in (0, 1):
        one = kernels[block : block + 1]
        matrix = Polynomial(one, xp=OPS.xp).at(point, ops=OPS).matrices()[:, 0]
        quotient = float(norm_rules.quotient_down(matrix, vector, xp=XP)[0])
        error = absolute(one) * (gamma(7, SINGLE) + 1.001 * math.sqrt(2) * 1.01 * SINGLE)
        found = both.norm_down(block, vector).value
        yield from up("what is taken off a quotient", quotient - found, error, OWN)
        found = quotient_at_down(matrix, vector, Polynomial(one, xp=XP), xp=XP)
        yield from between("what is taken off at a frequency", quotient - float(found[0]), 0.9 * error, 1.1 * error)
    faint: Any = np.full((1, 2, 3, 2, 3), 1e-170)
    with patch.object(grid, "gram_iteration_of_parts_up", lambda *x, xp: x) as _:  # noqa: ARG005
        symbols = Polynomial(faint, xp=XP), faint[..., 0], faint[..., 0]
        *_, error_of_products = symbol_norms_up(*symbols, 2, ops=OPS)
    yield from up("what may underflow in products", error_of_products, 2 * ROOT2 * 2.0**-255.5)
    sizes = (2**31 - 1, 2**29)
    places = (2 * 10**9, 2**29 - 3)
    cos, _ = Frequencies(np.asarray([places]), sizes).cos_sin(np.asarray([[9, 0], [9, 8]]))
    turns = [Fraction(9 * places[0], sizes[0]), Fraction(9 * places[0], sizes[0]) + Fraction(8 * places[1], sizes[1])]
    exact = np.cos([2 * math.pi * float(x % 1) for x in turns])
    yield from between("phases of large denominators", float(np.abs(cos[0] - exact).max()), 0.0, 1e-12)
    small = 2.0**-60
    blocks: Any = np.asarray([[[[1.0, 3.0, small, 0.0, 0.0, 0.0]]], [[[1.0, 3.0, small, -small, small, 0.0]]]])
    sums, error = Polynomial(blocks, xp=XP).wrapped((2,), ops=OPS)
    if not np.array_equal(sums, blocks[..., :2]):
        yield "sums of taps that wrap around"
    yield from up("what wrapping loses", error, 3 * small)
    wide = normal(2, 3, 2, 2, 3, seed=6)
    for sizes in ((4, 5), (6, 3)):
        exact = lengths(on_grid(wide, sizes)).max(axis=1)
        found, *_ = largest_of_all(
            lambda _, real, imag, *, ops: XP.linalg.matrix_norm(ops.complex(real, imag)), wide, sizes, ops=SMALL
        )
        yield from between("largest over frequencies", float(np.abs(found / exact - 1).max()), 0.0, 1e-13)


CHECKS = {
    x.__name__: x
    for x in (
        norms_of_channels, contractions, scalars, polynomials, limits_of_cells, many_terms,
        norms_of_matrices, claims_in_floats, single_frequencies,
    )
}  # fmt: skip
