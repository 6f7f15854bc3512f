"""Functions of `specnorm.ends.proof`, each alone, held against the formulas of their docstrings as in `formulas`.

Sums of several terms are made of terms of about one size, and stacks of blocks of different sizes, so that each term
and each block shows.
"""

from __future__ import annotations

import math
from typing import Any

from core.proof.formulas import SINGLE, Violations, between, down, gamma, normal, up
from helpers.assumptions import assumed, assumed_lower
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS

from specnorm.ends import proof as ends
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.proofs.polynomial import Polynomial

XP = OPS.xp
DOUBLE = 2.0**-53
OWN = 1e-4
"""What frobenius norms in single precision allow for their own roundings, and sums of them."""
SIZES: Any = np.asarray([1.0, 3.0])


def stack(*shape: int, seed: int) -> Any:
    return np.asarray(normal(2, *shape, seed=seed) * SIZES.reshape(2, *(1 for _ in shape)))


def lengths(x: Any) -> Any:
    return np.asarray(np.sqrt((np.abs(x).astype(np.float64) ** 2).sum(axis=(-2, -1))))


def basis_of(matrix: Any, inverse_norm_sq: float = 1.0) -> ends.Basis:
    return ends.Basis._made(matrix, 1.0, inverse_norm_sq)


def inverses() -> Violations:
    """The squared norms of B, and of its inverse by that of T and the distance of T B from I."""
    matrix: Any = np.asarray([np.diag([2.0, 1.0]), np.diag([0.5, 0.25])])
    inverse: Any = np.asarray([np.diag([0.5, 0.75]), np.diag([1.9, 4.0])])  # T B - I: -1/4 and -1/20 in one place
    found = ends.basis(matrix, inverse, ops=OPS)
    yield from up("norm of a basis", found.norm_sq, 4.0)
    yield from up("norm of its inverse", found.inverse_norm_sq, 16 / 0.75**2)
    eye: Any = np.eye(300, dtype=np.float32)[None]
    found = ends.basis(2 * eye, eye / 2, ops=OPS)
    g = gamma(300, SINGLE)
    yield from up("norm of an inverse", found.inverse_norm_sq, (0.25 + 75 * g) / (1 - math.sqrt(300) * g) ** 2, 1e-3)


def in_bases() -> Violations:
    """The error of the Gram matrix of a product with a basis: with a usual product, and with one that cancels."""
    blocks: Any = stack(4, 3, 2, 3, seed=1).astype(np.float32)
    matrix: Any = stack(3, 3, seed=2).astype(np.float32)
    cancelling: Any = np.ones((1, 2, 1, 2, 3), dtype=np.float32) * np.float32(1)
    cancelling = np.concatenate([cancelling, -cancelling], axis=2)
    ones: Any = np.ones((1, 2, 2), dtype=np.float32)
    for x, b in ((blocks, matrix), (cancelling, ones)):
        p = x.shape[2]
        rows = np.moveaxis(x.reshape(*x.shape[:3], 6), 3, 1).reshape(len(x), -1, p).astype(np.float64)
        allowed = gamma(p, SINGLE) * math.sqrt(6) * lengths(np.abs(rows) @ np.abs(b)).max()
        norm = math.sqrt(6) * lengths(rows @ b).max()
        found = ends.in_basis(x, basis_of(b), ops=OPS)
        yield from up("a product with a basis", found.error, allowed * (2 * norm + allowed), OWN)
    wide: Any = np.swapaxes(blocks, 1, 2)
    if ends.in_basis(wide, ops=OPS).kernel.shape != blocks.shape:
        yield "wide blocks are not transposed"


def defects() -> Violations:
    """The error of a defect's kernel, with a basis and without, on a circulant and everywhere, term by term."""
    kernel: Any = stack(4, 3, 2, 3, seed=3)
    matrix: Any = stack(3, 3, seed=4)
    for basis, floor, sizes in (
        (None, 0.0, None),
        (basis_of(matrix), 0.7, None),
        (None, 0.0, (2, 5)),
        (None, 0.0, (2, 3)),
    ):
        of_blocks = 40 * DOUBLE
        blocks = ends.InBasis._made(kernel, basis, of_blocks)
        found = ends.defect(blocks, 5.0, floor=floor, sizes=sizes, ops=OPS)
        lags = Polynomial(kernel, xp=OPS.xp).lags(ops=OPS)
        zero: Any = lags.values[:, 0]
        difference = 5.0 * np.eye(3) - (zero + np.swapaxes(zero, 1, 2)) / 2
        formula = float(np.max(lags.error)) + of_blocks + DOUBLE * lengths(difference).max()
        if basis is not None:
            square = np.swapaxes(matrix, 1, 2) @ matrix
            magnitudes = np.swapaxes(np.abs(matrix), 1, 2) @ np.abs(matrix)
            formula += floor * lengths(magnitudes).max() * gamma(3 + 2, DOUBLE)
            formula += DOUBLE * lengths(difference + floor * square).max()
        if sizes is not None:
            full = np.concatenate(
                [lags.values[:, 1:], np.swapaxes(lags.values[:, 1:], 2, 3), difference[:, None]], axis=1
            )
            terms = math.prod(math.ceil(k / n) for k, n in zip((3, 5), sizes, strict=True))
            formula += terms * DOUBLE * lengths(full).sum(axis=1).max()
        yield from up(f"the error of a defect, {floor}, {sizes}", found.error, formula)


def ends_of_defects() -> Violations:
    """What the norm of a defect's kernel says of the defect, and of an isometry."""
    kernel: Any = np.ones((1, 1, 1, 1))
    found = ends.Defect._made(kernel, 3, 4.0, 0.0, 0.5)
    yield from up("norm of a defect", found.norm_up(assumed(1.0)), 8.5)
    yield from down("norm of a defect", found.norm_down(assumed_lower(1.0)), 7.5)
    exact = ends.Defect._made(kernel, 0, 4.0, 0.0, 0.0)
    nothing = (assumed_lower(0.0), assumed(0.0))
    _, upper = ends.isometry_ends(exact, *nothing, unread_pixels=False, scale_exponent=0)
    yield from up("rounding of the centre", upper.value, 2.0**-51)
    basis = basis_of(kernel[..., 0], 5.0)
    below = ends.Defect._made(kernel, 0, 4.0, 9.0, 0.0, basis)
    yield from down("a defect above the centre", ends.smallest_down(below, assumed(4.5)).value, math.sqrt(9 - 0.5 * 5))
    blocks = ends.InBasis._made(kernel, basis, 0.25)
    yield from up("least centre", ends.least_centre(blocks, assumed(3.0), 10.0), 9.25 - 10 / 5)
    for centre in (9.7499, 9.7501):
        near = ends.Defect._made(kernel, 0, centre, 0.0, 0.5, basis)
        if (ends.nowhere_negative(near, blocks, assumed(3.0)) is None) is not (centre < 9.25 + 0.5):
            yield f"a defect with the centre {centre}"
    many: Any = np.ones((1, 1, 1, 100, 101))
    yield from up("sum of many taps", ends._sum_of_taps(many, xp=XP), many.size * (1 + many.size * 2.0**-52))


def sums_of_lags() -> Violations:
    """The distance from a multiple of the identity by the norms of lags, and lags that are added up."""
    scalar: Any = np.eye(3)[None, None] * np.asarray([1.5, 0.25, 4.0]).reshape(3, 1, 1, 1)
    others = normal(3, 4, 3, 3, seed=6) / 16
    values: Any = np.concatenate(
        [scalar + normal(3, 1, 3, 3, seed=7) * np.asarray([0, 0.01, 9]).reshape(3, 1, 1, 1), others], axis=1
    )
    error, target = np.asarray([1e-3, 0.0, 0.0]), np.asarray([1.0, 1.0, 2.0])
    shifted = values[:, 0] - target[:, None, None] * np.eye(3)
    mean = np.trace(shifted, axis1=1, axis2=2) / 3
    by_mean = np.abs(mean) + lengths(shifted - mean[:, None, None] * np.eye(3))
    formula = np.minimum(lengths(shifted), by_mean) + 2 * lengths(values[:, 1:]).sum(axis=1) + error
    yield from up("distance from an isometry", ends.isometry_up(values, error, target, ops=OPS), formula)
    multiple: Any = np.asarray([7.0 * np.eye(3)])[None]
    found = ends.isometry_up(multiple, 0 * error[:1], np.full(1, 7.0), ops=OPS)
    yield from up("distance of a multiple", found, 2 * DOUBLE * 7 * (math.sqrt(3) + 3))
    tables = ends.wrapping((3, 2), (4, 3))
    assert tables is not None
    lags = Polynomial(stack(4, 3, 3, 2, seed=8), xp=OPS.xp).lags(ops=OPS)
    n = lags.values.shape[1]
    formula = lags.error + 4 * lengths(lags.values).sum(axis=1) * gamma(2 * n + 1, DOUBLE)
    yield from up("error of wrapped lags", ends.wrapped(lags, tables, ops=OPS).error, formula)


def smallest_values() -> Violations:
    """What is taken off the smallest singular values on a grid, and added to one, in single precision."""
    blocks: Any = (stack(4, 3, 2, 3, seed=5) / 8).astype(np.float32)
    sizes = (4, 5)
    symbol = np.fft.fftn(blocks.astype(np.float64), sizes, axes=(3, 4))
    symbol = np.moveaxis(symbol, (1, 2), (3, 4)).reshape(2, -1, 4, 3)
    values = np.linalg.svd(symbol, compute_uv=False)
    top, value = float(values.max()) ** 2, float(values.min()) / 2
    found = ends.smallest_on_grid(blocks, sizes, value, math.sqrt(top), ops=OPS)
    assert found is not None
    top = math.sqrt(top) ** 2
    g = math.sqrt(2) * gamma(2 * 3 + 8, SINGLE) / 1.001
    limit = (top - value**2) * (1 + 6 * g / (1 - g) + 48 * SINGLE)
    norm_sq = float(lengths(symbol).max()) ** 2
    error = norm_sq * math.sqrt(2) * gamma(2 * 4, SINGLE) + 4 * SINGLE * (top + limit + norm_sq)
    of_symbol = (gamma(7, SINGLE) + 1.001 * math.sqrt(2) * 1.01 * SINGLE) * absolute(blocks)
    taken_off = top - limit - (found.value + of_symbol * (1 + OWN / 2)) ** 2
    yield from between("what is taken off on a grid", taken_off, error * (1 - OWN), error * (1 + OWN))
    sums: Any = np.concatenate([np.ones((1, 2, 1, 2, 3)), -np.ones((1, 2, 1, 2, 3))], axis=2).astype(np.float32)
    for first in (1.0, 2.0):
        vector: Any = np.full((1, 2), first, dtype=np.float32)
        found_at = ends.smallest_at(sums, 0, Frequencies(np.asarray([[1, 2]]), sizes), vector, ops=OPS)
        matrix = np.fft.fftn(sums[0], sizes, axes=(2, 3))[..., 1, 2]
        allowed = math.sqrt(2) * gamma(2 * 2, SINGLE) * float(lengths(matrix))
        allowed += (gamma(7, SINGLE) + 1.001 * math.sqrt(2) * 1.01 * SINGLE) * 12
        yield from up("a vector that is mapped to 0", found_at.value, allowed, OWN)
    tiny: Any = np.full((1, 2, 1), 5 * 2.0**-1074)
    found_at = ends.smallest_at(tiny, 0, Frequencies.half_grid(()), np.ones((1, 1)), ops=OPS)
    if found_at.value != 8 * 2.0**-1074:
        yield f"5 sqrt(2) times the least number: {found_at.value}"


def absolute(blocks: Any) -> float:
    """The root of the largest row sum times the largest column sum of the taps' magnitudes."""
    sums = np.abs(blocks).astype(np.float64).reshape(*blocks.shape[:3], -1).sum(axis=3)
    return float(np.sqrt(sums.sum(axis=2).max(axis=1) * sums.sum(axis=1).max(axis=1)).max())


CHECKS = {x.__name__: x for x in (inverses, in_bases, defects, ends_of_defects, sums_of_lags, smallest_values)}
