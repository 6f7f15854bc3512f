"""Functions of the proof of logits, each held against its formula, with errors that are large enough to be seen."""

# Results are arrays of NumPy, with more than the standard's.
# mypy: disable-error-code="attr-defined,operator"
from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from core.proof.formulas import Violations, gamma, normal
from helpers.libraries import NUMPY as np
from helpers.libraries import OPS

import specnorm
from specnorm.logits import proof
from specnorm.logits.proof import OffsetProof
from specnorm.proofs.norms import gram_norm_up

XP = OPS.xp
DOUBLE = 2.0**-53


def at_least(what: str, found: object, formula: object) -> Violations:
    """Numbers that are smaller than their formula; the formula itself rounds."""
    if not np.all(np.asarray(found) >= np.asarray(formula) * (1 - 1e-15)):
        yield f"{what}: {found} is below {formula}"


def length(x: Any) -> Any:
    return np.asarray(np.sqrt(np.sum(x * x, axis=(1, 2))))


def weights_of_logits() -> Violations:
    matrix, gain, shift, bias = normal(2, 4, 30), normal(2, 30), normal(2, 30), normal(2, 4)
    for centered in (False, True):
        for some in (None, shift):
            given = proof.weights(matrix, gain, some, bias, centered=centered, ops=OPS)
            size = 2.0**-given.exponent
            total = bias if some is None else bias + np.einsum("bij,bj->bi", matrix, shift)
            roundings = 35 if centered else 1
            formula = gamma(roundings, DOUBLE) * length(matrix * gain[:, None, :]) * size
            yield from at_least("error of a matrix", given.matrix_error, formula)
            formula = 0.0 if some is None else gamma(32, DOUBLE) * length(matrix) * length(shift[:, None, :])
            formula = (formula + gamma(2, DOUBLE) * length(total[:, None, :])) * size
            yield from at_least("error of a bias", given.bias_error, formula)
            given = given._replace(matrix_error=np.asarray([0.5, 2.0]))
            side = proof.Side.of(given, xp=XP)
            rest = length(given.matrix - side.basis @ side.root[:, :-1, :])
            yield from at_least("error of the factors", side.error, rest + given.matrix_error)
            yield from at_least("stretch", side.stretch, np.sqrt(gram_norm_up(side.basis, xp=XP)))
            yield from at_least("length", side.length, length(side.root) * side.stretch + side.error)
            yield from _weighted(side)


def _weighted(side: proof.Side) -> Violations:
    odds = np.asarray([0.25, 3.0])
    of_matrix, of_bias = side.factors(odds, xp=XP)
    yield from at_least("factor of the matrix", of_matrix, np.sqrt(30 * (1 + odds)))
    yield from at_least("factor of the bias", of_bias, np.sqrt((1 + odds) / odds))
    side = replace(
        side, error=np.asarray([0.3, 0.1]), bias_error=np.asarray([0.7, 0.2]), stretch=np.asarray([1.1, 2.0])
    )
    found = side.weighted(odds, xp=XP)
    yield from at_least("weighted error", found.error, of_matrix * side.error + of_bias * side.bias_error)
    yield from at_least("weighted length", found.length, length(found.root) * side.stretch + found.error)
    side = replace(side, error=np.zeros(2), bias_error=np.zeros(2))
    found = side.weighted(odds, xp=XP)
    yield from at_least("rounding of weights", found.error, length(found.root) * side.stretch * gamma(10, DOUBLE))


def products_of_logits() -> Violations:
    """What errors add to norms, at one offset, several and all."""
    given = proof.weights(normal(2, 4, 9), None, None, normal(2, 4, seed=1), centered=False, ops=OPS)
    side = proof.Side.of(given, xp=XP)
    a = replace(side, error=np.asarray([0.3, 0.1]), stretch=np.asarray([1.1, 1.2]), length=np.asarray([5.0, 7.0]))
    b = replace(side, error=np.asarray([0.2, 0.4]), stretch=np.asarray([1.3, 1.4]), length=np.asarray([2.0, 3.0]))
    norm = np.asarray([2.0, 1.0])
    formula = a.stretch * norm * b.stretch + a.error * b.length + (a.length + a.error) * b.error
    yield from at_least("with errors", proof.largest_up(norm, a, b, xp=XP), formula)
    turns = proof.Turns.of(np.asarray([1.0, 0.5]), np.asarray([0, 2**30]), side.root, ops=OPS)
    yield from at_least("error of angles", turns.error, 2**30 * DOUBLE)
    for error in (0.0, 0.1):
        turns = turns._replace(error=error)
        loss = 2 * gamma(4, DOUBLE) + 2 * error
        root = side.root[0]
        _, found = proof.products(root, root, turns, xp=XP)
        yield from at_least("error of products", found, np.sum(root**2) * (gamma(4, DOUBLE) + loss))
    plain = np.ones(2), np.asarray([0.5, 0.25])
    for value in plain:
        matrix = np.diag(np.repeat(value, 2))
        for rope in ((tuple(plain[1]), None), (tuple(plain[1]), 3), None):
            logit = specnorm.logit_bound(matrix, matrix, heads=1, rope=rope, scale=3.0)
            yield from at_least("diagonal matrices", logit, 12 * value.max() ** 2 * (1 - 1e-12))


def factorizations_of_logits() -> Violations:
    """The least limit whose factorization completes proves no less than the norm."""
    sides = []
    for seed in (0, 1):
        given = proof.weights(normal(1, 6, 9, seed=seed), None, None, None, centered=False, ops=OPS)
        sides.append(proof.Side.of(given, xp=XP).weighted(np.ones(1), xp=XP))
    root, right = (side.root[0] for side in sides)
    turns = proof.Turns.of(np.asarray([1.0, 0.2, 0.03]), np.arange(3), root, ops=OPS)
    product, _ = proof.products(root, right, turns, xp=XP)
    proofs = OffsetProof(*sides, ops=OPS)
    for n, norm in enumerate(np.linalg.norm(product, 2, axis=(1, 2))):
        low, high = 0.5 * norm**2, 2 * norm**2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if proofs.below(middle, turns)[n] else (middle, high)
        yield from at_least("least limit", proofs.bound_up(high, turns.error), norm * (1 - 1e-12))
    of_keys, of_queries = np.sum(right**2), np.linalg.norm(root, 2) ** 2
    formula = math.sqrt(2 * 2 * (2 * 0.1) * of_keys * of_queries)
    yield from at_least("large errors of turns", proofs.bound_up(0.0, 0.1), formula)
    inverse = np.linalg.inv(root.T @ root + OffsetProof.SHIFT * of_queries * np.eye(6))
    of_factorization = gamma(14, DOUBLE) * 1e30 * np.trace(inverse) * (1 - 1e-9)
    yield from at_least("loss", proofs._lost(1e30, 0.0), of_factorization)


CHECKS = {x.__name__: x for x in (weights_of_logits, products_of_logits, factorizations_of_logits)}
