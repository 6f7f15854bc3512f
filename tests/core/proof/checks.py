"""Checks of the proofs that notice planted mistakes: of public functions against truths of their own, and others."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from core.proof import borders, formulas, formulas_of_ends, formulas_of_layers, formulas_of_logits, formulas_of_symbols
from helpers.assumptions import assumed
from helpers.libraries import NUMPY as np
from helpers.mutants import Check
from helpers.oracle import dense_matrix, values_on_grid

import specnorm
from specnorm.ball.proofs.multiples import norm_of_multiple, norm_of_neighbour
from specnorm.geometry.spec import ConvSpec
from specnorm.methods import Grid, PowerTopK
from specnorm.proofs.bound import HypothesisError, digest_of

TOLERANCE = 1e-9


# -- checks ------------------------------------------------------------------------------------------------------------
def wrong(what: str, value: Any, side: str, truth: float) -> Iterator[str]:
    number = float(value)
    below = side == "upper" and not number >= truth * (1 - TOLERANCE)
    above = side == "lower" and not number <= truth * (1 + TOLERANCE) + 1e-13
    if below or above:
        yield f"{what}: {number!r} is no {side} bound of {truth!r}"


def alternating(*sizes: int) -> Any:
    """Signs that alternate along each axis: the norm is the number of taps, reached at the frequency pi alone."""
    return np.asarray((-1.0) ** np.indices(sizes).sum(axis=0))[None, None]


def delta(matrix: Any, place: tuple[int, ...], sizes: tuple[int, ...]) -> Any:
    kernel: Any = np.zeros((*matrix.shape, *sizes))
    kernel[(..., *place)] = matrix
    return np.asarray(kernel)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def supremum(kernel: Any) -> float:
    """The largest norm of the symbol on a fine grid, which holds 0 and pi: no larger than the supremum."""
    return float(values_on_grid(kernel, (0, 4096, 96, 48)[kernel.ndim - 2]).max())


KERNELS: dict[str, Any] = {
    "difference": alternating(2), "corner": alternating(2, 2), "long corner": alternating(2, 3),
    "cube": alternating(2, 2, 2), "one tap": delta(np.diag([2.0, 1.0]), (1, 0), (2, 3)), "wide": normal(2, 5, 3, 2),
    "tall": normal(5, 2, 2, 3, seed=1), "line": normal(3, 3, 4, seed=2), "box": normal(2, 2, 2, 3, 2, seed=3),
    "row": normal(1, 4, 2, 2, seed=4), "column": normal(4, 1, 3, 2, seed=5),
    "graded": normal(6, 6, 2, 2, seed=6) * 4.0 ** -np.arange(6)[:, None, None], "matrix": normal(4, 3, seed=7),
}  # fmt: skip


@functools.cache
def truth_of(name: str) -> float:
    return supremum(KERNELS[name])


def fixed_cost() -> Iterator[str]:
    for name, kernel in KERNELS.items():
        truth = truth_of(name)
        uppers = {
            "tn": specnorm.tn_bound(kernel), "f4": specnorm.f4_bound(kernel),
            "gram": specnorm.gram_bound(kernel, n_iter=6), "gram of one product": specnorm.gram_bound(kernel, n_iter=1),
            "completion": specnorm.completion_bound(kernel),
        }  # fmt: skip
        for label, value in uppers.items():
            yield from wrong(f"{label} of {name}", value, "upper", truth)
        for value in np.atleast_1d(specnorm.unfolding_bounds(kernel)):
            yield from wrong(f"unfoldings of {name}", value, "upper", truth)
        yield from wrong(f"symbol of {name}", specnorm.symbol_norm(kernel), "lower", truth * (1 + 2e-3))
        yield from wrong(f"reshaped of {name}", specnorm.reshaped_norm(kernel), "lower", truth)


def grids() -> Iterator[str]:
    """Odd grids, which do not hold the frequency of alternating signs; one of a size of its own along each axis."""
    for name in ("difference", "corner", "long corner", "cube", "wide", "row", "column", "matrix"):
        kernel = KERNELS[name]
        for n in (5, 7) if kernel.ndim > 2 else (None,):
            found = specnorm.measure(kernel, Grid(n=n))
            yield from wrong(f"grid {n} of {name}", found.value, "upper", truth_of(name))


def searches() -> Iterator[str]:
    for name, kernel in KERNELS.items():
        lower, upper = specnorm.enclose(kernel, rtol=1e-4)
        truth = truth_of(name)
        yield from wrong(f"enclose {name}", upper, "upper", truth)
        yield from wrong(f"enclose {name}", lower, "lower", truth * (1, 1 + 1e-6, 1 + 1e-3, 1 + 2e-3)[kernel.ndim - 2])
        value = specnorm.conv_norm(kernel, rtol=1e-4)
        yield from wrong(f"conv_norm {name}", value * (1 + 1e-4), "upper", truth)
        try:
            if specnorm.certify(kernel, truth * (1 - 1e-3)):
                yield f"certify {name}: below the norm"
        except specnorm.Undecided:
            pass


UNEQUAL = np.asarray([1.0, 1.0, 2.0, 2.0])[:, None, None]
TRANSPOSED: dict[str, Any] = {"transposed": True, "stride": 2}
GEOMETRIES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("zeros", normal(2, 3, 3, seed=1), 9, {"padding_mode": "zeros"}),
    ("zeros 2-D", normal(2, 2, 3, 2, seed=2), (4, 5), {"padding_mode": "zeros"}),
    ("strided", normal(2, 2, 3, seed=3), 9, {"padding_mode": "zeros", "stride": 2, "padding": 1}),
    ("dilated", normal(2, 2, 3, seed=4), 10, {"padding_mode": "zeros", "dilation": 2}),
    ("strides", normal(2, 2, 3, seed=5), 12, {"padding_mode": "zeros", "dilation": 2, "stride": 3, "padding": 2}),
    ("groups", normal(4, 2, 3, seed=6) * UNEQUAL, 6, {"groups": 2, "padding_mode": "zeros"}),
    ("transposed", normal(2, 3, 3, seed=8), 5, {**TRANSPOSED, "padding_mode": "zeros", "padding": 1}),
    ("reflect", alternating(3, 3), (6, 5), {"padding_mode": "reflect"}),
    ("replicate", np.ones((1, 1, 3, 3)), (4, 5), {"padding_mode": "replicate"}),
    ("circular", normal(3, 2, 3, 3, seed=9), (5, 4), {}),
    ("circular strided", normal(2, 2, 3, seed=10), 8, {"stride": 2}),
    ("circular and wider", normal(2, 2, 3, seed=11), 5, {"padding": 3}),
    ("wrapped", normal(2, 2, 7, seed=12), 4, {}),
    ("patches", normal(4, 2, 2, 2, seed=13), (4, 6), {"padding_mode": "zeros", "padding": 0, "stride": 2}),
    ("one output", normal(2, 3, 4, seed=14), 4, {"padding_mode": "zeros", "padding": 0}),
    ("long", normal(1, 1, 3, seed=15), 60, {"padding_mode": "zeros"}),
    ("one column", normal(3, 1, 3, 3, seed=16), (7, 6), {"padding_mode": "zeros"}),
]  # fmt: skip


@functools.cache
def values_of(index: int) -> Any:
    _, kernel, size, geometry = GEOMETRIES[index]
    matrix = dense_matrix(kernel, size, **geometry)
    return np.asarray(np.linalg.svd(matrix, compute_uv=False))


def at_size() -> Iterator[str]:
    for index, (name, kernel, size, geometry) in enumerate(GEOMETRIES):
        values = values_of(index)
        for rtol in (1e-2, 1e-5):
            lower, upper = specnorm.enclose(kernel, size, rtol=rtol, budget=0.5, **geometry)
            yield from wrong(f"enclose {name}", upper, "upper", values[0])
            yield from wrong(f"enclose {name}", lower, "lower", values[0])
        yield from wrong(f"power {name}", specnorm.power_norm(kernel, size, **geometry), "lower", values[0])
        found = specnorm.measure(kernel, PowerTopK(k=3), input_shape=size, **geometry)
        for rank, value in enumerate(found.value):
            yield from wrong(f"power of rank {rank}, {name}", value, "lower", values[rank])
        everywhere = specnorm.enclose(kernel, **geometry).upper, specnorm.grid_bound(kernel, **geometry)
        for value in everywhere:
            yield from wrong(f"{name} at every size", value, "upper", values[0])


def smallest() -> Iterator[str]:
    """The other end: at a size by the layer's matrix, of symbols by a fine grid."""
    for index in (0, 1, 3, 5, 9, 10, 13, 14):
        name, kernel, size, geometry = GEOMETRIES[index]
        lower, upper = specnorm.enclose_smallest(kernel, size, budget=0.5, **geometry)
        yield from wrong(f"smallest {name}", upper, "upper", values_of(index)[-1])
        yield from wrong(f"smallest {name}", lower, "lower", values_of(index)[-1])
    for seed in range(3):
        kernel = 0.2 * normal(3, 3, 3, seed=seed) + delta(np.diag([1.0, 2.0, 3.0]), (1,), (3,))
        values = values_on_grid(kernel, 4096)
        lower, upper = specnorm.enclose_smallest(kernel, budget=1.0)
        yield from wrong("smallest", lower, "lower", float(values.min()))
        yield from wrong("smallest", upper * (1 + 1e-5), "upper", float(values.min()))
        lower, upper = specnorm.condition_number(kernel, budget=1.0)
        ratio = float(values.max() / values.min())
        yield from wrong("condition", lower, "lower", ratio * (1 + 1e-5))
        yield from wrong("condition", upper, "upper", ratio)


def isometries() -> Iterator[str]:
    """Defects of nearly orthogonal kernels, of both kinds."""
    for d, sizes in ((1, (2,)), (2, (2, 2)), (2, (1, 3))):
        for rows, columns in ((3, 3), (4, 2), (2, 4)):
            eye = np.eye(rows, columns)
            kernel = delta(eye, (0,) * d, sizes) + 0.02 * normal(rows, columns, *sizes, seed=d)
            defect = float(np.abs(values_on_grid(kernel, (0, 512, 32)[d]) ** 2 - 1).max())
            found = specnorm.isometry_bound(kernel, scale=1.0)
            yield from wrong(f"isometry {rows} x {columns} {sizes}", found, "upper", defect)
            if specnorm.is_isometry(kernel, defect * 0.99):
                yield "is_isometry: below its defect"


def balls() -> Iterator[str]:
    """Kernels that are said to be within a bound."""
    for name, kernel in KERNELS.items():
        for bound in (1.0, 0.7):
            functions: dict[str, Any] = {"rescale": specnorm.rescale, "lmo": specnorm.lmo, "clip": specnorm.clip}
            for label, function in functions.items():
                if label == "clip" and (kernel.ndim > 4 or bound < 1):
                    continue
                yield from wrong(f"{label} {name}", bound, "upper", supremum(np.asarray(function(kernel, bound=bound))))
    for name in ("one tap", "matrix", "wide"):
        rescaled = specnorm.gram_rescaling(KERNELS[name])
        yield from wrong(f"gram_rescaling {name}", 1.0, "upper", supremum(np.asarray(rescaled)))
    for _, kernel, size, geometry in GEOMETRIES[4:9]:
        scaled = np.asarray(specnorm.rescale(kernel, 1.0, input_shape=size, **geometry))
        true = float(np.linalg.norm(dense_matrix(scaled, size, **geometry), 2))
        yield from wrong("rescale at a size", 1.0, "upper", true)


def multiples() -> Iterator[str]:
    """A corner, and the same with another corner added, whose norm is the root of the taps times Frobenius'.

    The symbol of a corner attains its norm at the frequency pi.
    """
    corner = KERNELS["corner"]
    spec = ConvSpec.of(corner.shape)
    known = assumed(4.0, spec, digest_of(corner))
    yield from wrong("a changed multiple", norm_of_multiple(known, corner, 0.5, 0.75 * corner).value, "upper", 3.0)
    two = np.concatenate([corner, corner])
    known_of_two = assumed(4.0, ConvSpec.of(two.shape, groups=2), digest_of(two))
    near = np.concatenate([2 * corner, 1.5 * corner])
    yield from wrong("a neighbour of groups", norm_of_neighbour(known_of_two, two, near).value, "upper", 8.0)


def rules() -> Iterator[str]:
    from core.proof.rules import CHECKS, violations

    for check in dict.fromkeys(CHECKS.values()):
        if check.__module__ != "core.proof.network_rules":
            yield from violations(check)


def rules_of_networks() -> Iterator[str]:
    from core.proof.network_rules import NETWORK_CHECKS
    from core.proof.rules import violations

    for check in dict.fromkeys(NETWORK_CHECKS.values()):
        yield from violations(check)


def refused() -> Iterator[str]:
    """Rules applied where what they suppose does not hold: cases that are not refused (`core.proof.refusals`)."""
    from core.proof.refusals import REFUSED

    for name, case in REFUSED.items():
        try:
            case()
        except HypothesisError:
            continue
        except Exception:  # an error of another kind is noticed, too
            pass
        yield f"not refused: {name}"


FORMULAS: dict[str, Check] = (
    formulas.CHECKS
    | formulas_of_ends.CHECKS
    | formulas_of_symbols.CHECKS
    | formulas_of_layers.CHECKS
    | borders.CHECKS
    | formulas_of_logits.CHECKS
)
CHECKS: dict[str, Check] = FORMULAS | {
    x.__name__: x
    for x in (
        grids, multiples, fixed_cost, at_size, smallest, isometries, balls, refused, rules, rules_of_networks, searches,
    )
}  # fmt: skip
