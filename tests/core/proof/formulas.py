"""Functions of proofs, each alone: what they return is no smaller, and hardly larger, than its formula says.

The formulas are those of the docstrings, in plain float64 or rational arithmetic. Allowances show where units are those
of single precision, and where the number that they are added to is 0. `core.proof.checks` has these checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any
from unittest.mock import patch

from helpers.assumptions import assumed
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS
from helpers.oracle import dense_matrix
from specnorm_numpy import BACKEND

from specnorm.ball.proofs.multiples import norm_of_multiple
from specnorm.ends.proof import relative_up
from specnorm.errors import MethodError
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.power.proofs import ritz
from specnorm.proofs import arithmetic, frequencies, host
from specnorm.proofs.bound import ALL_FREQUENCIES, digest_of
from specnorm.proofs.cells import Boxes
from specnorm.proofs.interval import _interval
from specnorm.robustness.proof import curvature_up, radius_down
from specnorm.supremum.proof import (
    Cover,
    _by_lemma,
    _nowhere_negative,
    grid_lemma,
    nonnegative_cell_lemma,
    nonnegative_grid_lemma,
    proven_below,
)
from specnorm.symbols.proofs import lags as lag_rules
from specnorm.symbols.proofs import polynomial

XP = OPS.xp
CLOSE = 1e-11
SINGLE = 2.0**-24
Violations = Iterator[str]


def up(what: str, value: Any, formula: Any, close: float = CLOSE) -> Violations:
    """Numbers that are below their formula, or far above it."""
    values, formulas = np.broadcast_arrays(np.asarray(value, dtype=float), np.asarray(formula, dtype=float))
    for x, y in zip(values.reshape(-1), formulas.reshape(-1), strict=True):
        if x != y and not y - 1e-15 * abs(y) <= x <= y + close * abs(y) + 5e-323:
            yield f"{what}: {x!r} for {y!r}"


def down(what: str, value: Any, formula: Any, close: float = CLOSE) -> Violations:
    """Numbers that are above their formula, or far below it."""
    yield from up(what, -np.asarray(value, dtype=float), -np.asarray(formula, dtype=float), close)


def gamma(n: int, u: float) -> float:
    return 1.001 * n * u / (1 - n * u)


# -- intervals ---------------------------------------------------------------------------------------------------------
LOW = np.asarray([-3.3, -2.2, 0.1, 0.7, -0.6, 0.0])
HIGH = np.asarray([-1.7, 0.3, 0.3, 2.9, -0.5, 0.9])
OTHER_LOW = np.asarray([-2.1, -4.4, 0.2, -1.3, -0.55, 0.1])
OTHER_HIGH = np.asarray([-1.1, 0.2, 5.7, 0.9, 0.4, 0.3])


def ends(what: str, found: Any, exact: list[tuple[Fraction, Fraction]]) -> Violations:
    """An interval contains the exact ends, and ends hardly beyond them."""
    for low, high, (least, most) in zip(found.low, found.high, exact, strict=True):
        if not Fraction(low) <= least or not most <= Fraction(high):
            yield f"{what}: [{low!r}, {high!r}] for [{float(least)!r}, {float(most)!r}]"
        yield from down(f"{what}: lower end", low, float(least))
        yield from up(f"{what}: upper end", high, float(most))


def intervals() -> Violations:
    x, y = _interval(LOW, HIGH), _interval(OTHER_LOW, OTHER_HIGH)
    pairs = [tuple(map(Fraction, each)) for each in zip(LOW, HIGH, OTHER_LOW, OTHER_HIGH, strict=True)]
    yield from ends("and", x & y, [(max(a, c), min(b, d)) for a, b, c, d in pairs])
    yield from ends("or", x | y, [(min(a, c), max(b, d)) for a, b, c, d in pairs])
    yield from ends("sum", x + y, [(a + c, b + d) for a, b, c, d in pairs])
    products = [[p * q for p in each[:2] for q in each[2:]] for each in pairs]
    yield from ends("product", x * y, [(min(each), max(each)) for each in products])
    nonzero = _interval(LOW[[0, 2, 3, 4]], HIGH[[0, 2, 3, 4]])
    yield from ends("inverse", nonzero.inverse(), [(1 / pairs[j][1], 1 / pairs[j][0]) for j in (0, 2, 3, 4)])
    if not np.isinf([x.inverse().low[1], x.inverse().high[1]]).all():
        yield "inverse of an interval with 0"
    for factor in (1.7, -1.7):
        for slack in (0.0, 0.25):
            found = x.scaled(factor, slack)
            parts = [sorted((Fraction(factor) * a, Fraction(factor) * b)) for a, b, _, _ in pairs]
            widened = [(p - abs(p) * Fraction(slack), q + abs(q) * Fraction(slack)) for p, q in parts]
            yield from ends(f"scaled by {factor} with {slack}", found, widened)
    with np.errstate(invalid="ignore"):  # where a mistake is planted
        root = _interval(np.maximum(LOW, -1), np.maximum(HIGH, 0.5)).root()
    for low, high, (a, b, _, _) in zip(root.low, root.high, pairs, strict=True):
        least, most = max(a, Fraction(0)), max(b, Fraction(0.5))
        if not Fraction(low) ** 2 <= least or not most <= Fraction(high) ** 2:
            yield f"root: [{low!r}, {high!r}]"
    yield from up("magnitude", x.magnitude(), [float(max(abs(a), abs(b))) for a, b, _, _ in pairs])
    least_sizes = [0.0 if a <= 0 <= b else float(min(abs(a), abs(b))) for a, b, _, _ in pairs]
    yield from down("mignitude", x.mignitude(), least_sizes)
    centre, radius = x.middle()
    for c, r, (a, b, _, _) in zip(centre, radius, pairs, strict=True):
        farther = max(b - Fraction(c), Fraction(c) - a)
        if not farther <= Fraction(r):
            yield f"middle: {r!r} from {c!r}"


# -- radii by the curvature --------------------------------------------------------------------------------------------
def curvatures() -> Violations:
    rows: Any = np.asarray([[1.0, -2.0, 0.5], [0.5, 1.5, 0.25]])
    yield from up("curvature", curvature_up(rows, 3.0, 0.25, backend=BACKEND), 0.25 * 9 * 3.5)
    for scale in (1.0, 1e-3, 1e-140):
        for margin, slope, curvature in ((2.0, 3.0, 0.5), (0.5, 0.1, 4.0), (1.0, 0.0, 2.0), (3.0, 1.5, 0.0)):
            gradient: Any = np.asarray([[[0.6, 0.8]]]) * slope * scale
            found = radius_down(margin * scale, gradient, curvature * scale, backend=BACKEND)
            mean = (slope + math.sqrt(slope**2 + 2 * curvature * margin)) / 2
            yield from down(f"radius {margin} {slope} {curvature}", found, margin / mean)


# -- lemmas of cells ---------------------------------------------------------------------------------------------------
RADII = np.asarray([0.0, 0.05, 0.3, 0.9, 1.5, 1.6, 3.0, 6.0, 7.0])


def lemmas() -> Violations:
    near = math.pi / 2 > RADII
    supremum = assumed(3.0, ALL_FREQUENCIES)
    for threshold in (2.5, 2.9):
        cosine = np.where(near, np.cos(RADII), 0.0)
        limits = np.where(near, threshold / 2 * (1 + np.cos(RADII)), 0.0)
        yield from down("nonnegative cell", nonnegative_cell_lemma(threshold, RADII), limits)
        lost = np.sin(RADII) * math.sqrt(9.0 - threshold**2)
        on_grid = np.where(near, np.maximum(threshold * cosine - lost, 0.0), 0.0)
        yield from down("grid", grid_lemma(threshold, supremum, RADII), on_grid)
        lost = np.sin(RADII) * math.sqrt(threshold * (3.0 - threshold))
        on_grid = np.where(near, np.maximum(1.5 + (threshold - 1.5) * np.cos(RADII) - lost, 0.0), 0.0)
        yield from down("nonnegative grid", nonnegative_grid_lemma(threshold, supremum, RADII), on_grid)
    line: Any = np.ones((1, 1, 1, 2))
    on_grid = Boxes.dft((9,), (3,))
    for nonnegative, lemma in ((False, grid_lemma), (True, nonnegative_grid_lemma)):
        found = _by_lemma(on_grid, supremum, 2.5, nonnegative=nonnegative)
        yield from down("cells of a grid", found, lemma(2.5, supremum, on_grid.radius))
    open_cells = Cover(line, Boxes.dft((9,), (2,), by_point=True), supremum, ops=OPS)
    if open_cells.fathom_by_supremum(2.5) or not open_cells.fathom_by_supremum(3.0):
        yield "fathomed by the supremum"
    if _nowhere_negative(np.ones((1, 1, 1, 1))).is_of(np.ones((1, 1, 1, 3)), ops=OPS):
        yield "a symbol of another shape that is nowhere negative"


# -- rotated channels --------------------------------------------------------------------------------------------------
def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def rotations() -> Violations:
    taps, size = 3, 5
    columns = np.stack([normal(12, size), 3 * normal(12, size, seed=1)]).astype(np.float32)
    exact_basis = np.stack([np.linalg.qr(normal(size, size, seed=s))[0] for s in (2, 3)])
    basis = (exact_basis + 1e-3 * normal(2, size, size, seed=4)).astype(np.float32)
    length = float(np.linalg.norm(basis.astype(float), axis=(1, 2)).max())
    gram = np.matmul(np.swapaxes(basis, 1, 2), basis)
    apart = float(np.linalg.norm((gram - np.eye(size, dtype=np.float32)).astype(float), axis=(1, 2)).max())
    shrink, lost = polynomial.rotation_loss(columns, basis, taps, ops=OPS)
    allowed = gamma(size + 2, SINGLE)
    of_columns = float(np.linalg.norm(columns.astype(float), axis=(1, 2)).max())
    own = 1e-5  # the Frobenius norms have allowances of their own, of their roundings in single precision
    e = apart * (1 + 4 * SINGLE) + allowed * (length**2 + size)
    most = apart * (1 + 4 * SINGLE) * (1 + own) + allowed * (length**2 * (1 + own) ** 2 + size)
    yield from between("shrink", 1 - shrink**2, e, most)
    formula = allowed * math.sqrt(taps) * of_columns * length
    yield from between("lost", lost, formula, formula * (1 + own) ** 2)
    # Without a deviation of the basis, what is allowed for its Gram matrix is all.
    shrink, _ = polynomial.rotation_loss(columns, np.eye(size, dtype=np.float32)[None], taps, ops=OPS)
    yield from between("shrink of the identity", 1 - shrink**2, allowed * 2 * size, allowed * 2 * size * (1 + 3 * own))
    blocks: Any = np.moveaxis(columns.reshape(2, 6, 2, size), 1, -1).reshape(2, 2, size, 2, 3)
    rotated = polynomial.Polynomial(blocks, xp=XP).rotated(basis, 4, ops=OPS)
    norm_sq = float((np.linalg.norm(rotated.stacked_taps[..., 4:].astype(float), 2, axis=(1, 2)) ** 2).max())  # type: ignore[attr-defined]
    yield from between("truncation of a rotation", rotated.truncation, 6 * norm_sq, 6 * norm_sq * 1.0003)


def between(what: str, value: float, least: float, most: float) -> Violations:
    if not least * (1 - 1e-12) <= value <= most * (1 + 1e-9):
        yield f"{what}: {value!r} is not in [{least!r}, {most!r}]"


def reductions() -> Violations:
    """The error of ``A + b* b``: units of single precision, and A far larger or smaller than b."""
    for scale in (1e-3, 1.0, 1e3):
        a: Any = tuple(np.float32(scale) * normal(2, 3, 3, seed=s).astype(np.float32) for s in (0, 1))
        b: Any = tuple(normal(2, 4, 3, seed=s).astype(np.float32) for s in (2, 3))
        a_sq, b_sq = (sum(np.sum(part.astype(float) ** 2, axis=(1, 2)) for part in each) for each in (a, b))
        formula = 1.001 * math.sqrt(2) * (gamma(16, SINGLE) / 1.001 * b_sq + 2 * SINGLE * (np.sqrt(a_sq) + b_sq))
        yield from up("reduced", polynomial.reduced_error(a, b, xp=XP), formula, 2e-5)


def higher_limits() -> Violations:
    """Limits just below the norm at the frequency 0, tried with matrices that were reduced for ten times as much."""
    for seed in range(20):
        blocks: Any = normal(1, 6, 6, 2, seed=seed) * 4.0 ** -np.arange(6)[:, None]
        reduced = polynomial.Polynomial(blocks, xp=XP).rotated(np.eye(6)[None], 1, ops=OPS).gram(ops=OPS)
        limit = np.asarray([(np.linalg.norm(blocks[0].sum(axis=-1), 2) * (1 - 1e-6)) ** 2])
        if limit[0] > reduced.truncation:
            at_zero = Cover(blocks, Boxes.dft((1,), (2,)), assumed(1e9), ops=OPS)
            formed, _ = at_zero.form(reduced, np.arange(1), 10 * limit)
            if proven_below(formed, limit, ops=OPS)[0]:
                yield f"{seed}: proven"


# -- multiples ---------------------------------------------------------------------------------------------------------
def nothing_but_rounding() -> Violations:
    """The bound of a multiple of a kernel whose norm is said to be 0: the distance, for all taps and the padding."""
    spec = ConvSpec.of((2, 3, 2, 3), input_shape=(5, 6), padding_mode="replicate")
    factor = math.sqrt(6 * spec.padding_gain_sq)
    kernel = normal(2, 3, 2, 3)
    known = assumed(0.0, spec, digest_of(kernel))
    length = float(np.linalg.norm(kernel))
    doubled = norm_of_multiple(known, kernel, 2.0, 2 * kernel)
    yield from up("a rounding", doubled.value, factor * 2 * length * 2.0**-52)


# -- frequencies and boxes ---------------------------------------------------------------------------------------------
GRIDS = ((5,), (6,), (4, 7), (5, 3), (6, 6), (3, 4, 5))


def mirrored(points: set[tuple[int, ...]], sizes: tuple[int, ...]) -> set[tuple[int, ...]]:
    return points | {tuple(-x % n for x, n in zip(point, sizes, strict=True)) for point in points}


def grids_of_frequencies() -> Violations:
    for sizes in GRIDS:
        everything = set(np.ndindex(*sizes))
        half = {tuple(map(int, x)) for x in frequencies.Frequencies.half_grid(sizes).numerators}
        if mirrored(half, sizes) != everything or len(half) > len(everything) // 2 * 1.5 + 1:
            yield f"half of {sizes}"
        if len(half) != math.prod(sizes) // max(sizes) * (max(sizes) // 2 + 1):
            yield f"half of {sizes} has {len(half)} points"
        points, multiplicities = frequencies.Frequencies.distinct_grid(sizes)
        distinct = [tuple(map(int, x)) for x in points.numerators]
        if mirrored({*distinct}, sizes) != everything or multiplicities.sum() != len(everything):
            yield f"distinct points of {sizes}"
        if any(len(mirrored({x}, sizes)) != n for x, n in zip(distinct, multiplicities, strict=True)):
            yield f"multiplicities of {sizes}"
        boxes = Boxes.dft(sizes, (3,) * len(sizes))
        inside = [x for low, high in zip(boxes.low, boxes.high, strict=True) for x in points_of(low, high)]
        if mirrored({*inside}, sizes) != everything or len({*inside}) != len(inside):
            yield f"boxes of {sizes}"
    for many in ((2**13, 2**13), (3, 2**25)):
        try:
            frequencies._require_few(many)
        except MethodError:
            continue
        yield f"{many} frequencies"
    for kernel_shape in ((3, 1), (40, 50), (2, 9, 9)):
        found = frequencies.Frequencies.coarse_grid(kernel_shape)
        full = math.prod(found.denominators)
        if not full <= 512 or full < min(512 // 2, math.prod(2 * k for k in kernel_shape if k > 1)):
            yield f"coarse grid of {kernel_shape}: {found.denominators}"
    for axes in (1, 2, 3):
        expected = {(1, *rest) for rest in itertools.product((1, -1), repeat=axes - 1)}
        if {tuple(map(int, x)) for x in frequencies.signs(axes)} != expected:
            yield f"signs of {axes}"


def points_of(low: Any, high: Any) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))))


def boxes_cover() -> Violations:
    """Each frequency of a fine grid lies in a box of the torus, or its mirror image does; so after a cut."""
    for kernel_shape in ((4,), (1, 3), (2, 2), (3, 2)):
        whole = Boxes.torus(kernel_shape)
        if not 0 < Boxes.torus_size(kernel_shape) <= len(whole):
            yield f"size of the torus of {kernel_shape}"
        if whole.radius.max() > 1.5:
            yield f"radius of the torus of {kernel_shape}"
        pieces, parent = whole.split(np.full(len(whole), 2.5))
        if (pieces.radius > whole.radius[parent] / 2 * (1 + 1e-9)).any() or len(pieces) <= len(whole):
            yield f"pieces of {kernel_shape}"
        for boxes in (whole, pieces):
            if not covered(boxes, 5):
                yield f"torus of {kernel_shape}: {len(boxes)} boxes leave a frequency out"
    uneven = Boxes(
        np.asarray([[0, 3]]), np.asarray([[5, 4]]), (12, 20), np.ones(2), False, np.eye(2, dtype=np.int64), np.zeros(2)
    )
    yield from up("an odd width", uneven.largest_angle(np.asarray([[1.0, 1.0]])), 2 * math.pi * (3 / 12 + 1 / 20))


def covered(boxes: Any, count: int) -> bool:
    d = len(boxes.denominators)
    inverse = np.linalg.inv(boxes.frame.astype(float))
    for index in np.ndindex(*(1 if n == 1 else count for n in boxes.denominators)):
        theta = np.asarray(
            [(x + 0.3) / count * n if n > 1 else 0.0 for x, n in zip(index, boxes.denominators, strict=True)]
        )
        turns = np.asarray(list(itertools.product((-1, 0, 1), repeat=d))) * np.asarray(boxes.denominators)
        images = np.concatenate([theta + turns, -theta + turns]) - boxes.offset
        places = images @ inverse.T
        inside = (places[:, None, :] >= boxes.low - 1e-9) & (places[:, None, :] <= boxes.high + 1e-9)
        if not inside.all(axis=2).any():
            return False
    return True


# -- layers ------------------------------------------------------------------------------------------------------------
def residuals() -> Violations:
    kernel: Any = np.stack([normal(2, 3, 3), 2 * normal(2, 3, 3, seed=1)])
    spec = ConvSpec.of((2, 3, 3), input_shape=(7,), padding_mode="zeros")
    small = dense_matrix(kernel[0], 7, padding_mode="zeros")
    narrow = Convolution(kernel.astype(np.float32)[:1], spec, ops=OPS)
    error, is_zero = ritz.gram_error(narrow, 100, 50, ops=OPS)
    product = np.abs(small).sum(1).max() * np.abs(small).sum(0).max()
    yield from up("error of a Gram matrix", error, product * gamma(100, SINGLE), 1e-4)
    if np.asarray(is_zero).any():
        yield "a zero layer"


def lags() -> Violations:
    x: Any = np.stack([normal(4, 3, 2, 2), 5 * normal(4, 3, 2, 2, seed=1)]).astype(np.float32)
    sizes = np.abs(x.astype(float)).reshape(2, 4, 3, 4)
    largest_row = sizes.sum(axis=(2, 3)).max(axis=1)
    largest_column = sizes.sum(axis=(1, 3)).max(axis=1)
    allowed = gamma(lag_rules.Lags.roundings(x, xp=XP), SINGLE)
    found = polynomial.Polynomial(x, xp=XP).lags(ops=OPS)
    yield from up("lags", found.error, largest_row * largest_column * allowed, 1e-4)
    for rows, at_once in ((13, 4), (9, 4), (4, 4), (100, 7)):
        parts, roundings = [(rows, 0)], 0
        while parts:
            part, depth = parts.pop()
            half = lag_rules._first_half(part, at_once) if part > at_once else 0
            parts += [(half, depth + 1), (part - half, depth + 1)] if half else []
            roundings = max(roundings, 0 if half else part + depth)
        yield from between(f"roundings of {rows}", lag_rules._additions(rows, at_once), roundings, roundings)
    tiny = polynomial.Polynomial(x * np.float32(1e-30), xp=XP).lags(ops=OPS).error
    yield from up("lags that underflow", tiny, 2.0**-126 * 4 * 16 * 3, 1e-4)


# -- numbers -----------------------------------------------------------------------------------------------------------
def comparisons() -> Violations:
    for a, b in itertools.product((1.0, 1.5, 2.0), repeat=2):
        claim = assumed(a)
        if (claim < b, claim <= b, claim > b, claim >= b) != (a < b, a <= b, a > b, a >= b):
            yield f"{a} and {b}"


def cosine(x: Fraction) -> Fraction:
    """By its series in rationals, for |x| <= 2."""
    total = term = Fraction(1)
    for j in range(1, 20):
        term *= -x * x / ((2 * j - 1) * (2 * j))
        total += term
    return total


def outward() -> Violations:
    """Outward arithmetic on the host, of numbers about 1 and of any size, against rational arithmetic."""
    rng = np.random.default_rng(2)
    for a, b in np.concatenate([rng.uniform(0.5, 1.5, (200, 2)), np.exp(30 * rng.normal(size=(200, 2)))]).tolist():
        x, y = Fraction(a), Fraction(b)
        held = {
            "mul_up": 0 <= Fraction(host.mul_up(a, b)) / (x * y) - 1 <= Fraction(1, 2**48),
            "add_up": 0 <= Fraction(host.add_up(a, b)) / (x + y) - 1 <= Fraction(1, 2**48),
            "hypot_up": 0 <= Fraction(host.hypot_up(a, b)) ** 2 / (x * x + y * y) - 1 <= Fraction(1, 2**45),
            "float_up": 0 <= Fraction(host.float_up(x / 3)) / (x / 3) - 1 <= Fraction(1, 2**51),
            "root_up": Fraction(host.root_up(y / 7)) ** 2 >= y / 7, "div_up": Fraction(host.div_up(a, b)) >= x / y,
            "sqrt_up": Fraction(host.sqrt_up(a)) ** 2 >= x, "mul_down": Fraction(host.mul_down(a, b)) <= x * y,
            "sub_down": Fraction(host.sub_down(a, b)) <= x - y, "div_down": Fraction(host.div_down(a, b)) <= x / y,
            "sqrt_down": Fraction(host.sqrt_down(a)) ** 2 <= x,
            "cos_down": a > 2 or Fraction(float(host.cos_down(a))) <= cosine(x),
            "sin_up": a > 2 or Fraction(float(host.sin_up(a))) ** 2 >= 1 - cosine(x) ** 2,
            "raised": not 0.5 < b < 1.5 or Fraction(host.inflate(a * b * b * b, 3)) >= x * y**3,
        }  # fmt: skip
        yield from (f"{name} of {a} and {b}" for name, holds in held.items() if not holds)
    extremes = {
        "a product with 0": host.mul_up(2.0, 0.0, math.inf) == 0, "an underflow": host.mul_up(5e-324, 5e-324) > 0,
        "an overflow": host.mul_up(1e300, 1e300) == math.inf, "no length": host.hypot_up() == 0,
    }  # fmt: skip
    yield from (name for name, holds in extremes.items() if not holds)


def relative_defects() -> Violations:
    found = relative_up(np.asarray([1.0, 30.0]), np.asarray([4.0, 8.0]), xp=XP)
    yield from up("a relative defect", found, [0.25, 3.75], 1e-9)


def processors() -> Violations:
    for above, below in ((2.0**-52, 0.0), (0.0, 2.0**-52)):
        with patch.object(arithmetic, "_ROUNDING_TEST", (1.0, above, below)):
            if arithmetic.rounds_to_nearest():
                yield "a processor that does not round to nearest"
    small = np.finfo(np.float64).smallest_normal
    for largest, expected in ((0.0, False), (small, True), (2.0**50 * small, True), (2.0**70 * small, False)):
        if arithmetic.too_small(np.asarray([[1.0, 0.0], [largest, 0.0]])) is not expected:
            yield f"too small: {largest}"


CHECKS: dict[str, Callable[[], Violations]] = {
    x.__name__: x
    for x in (
        intervals, curvatures, lemmas, rotations, reductions, higher_limits, nothing_but_rounding,
        grids_of_frequencies, boxes_cover, residuals, lags, comparisons, outward, processors, relative_defects,
    )
}  # fmt: skip
