"""Mistakes planted in the core's proofs, and checks of public functions against truths of their own.

``python -m core.proof.planted`` in the folder ``tests`` plants a mistake of each kind wherever it can be made, and
prints a row for each: what was changed, and the first check that notices, or "-". ``planted.md`` has all rows, and says
why a mistake that no check notices leaves what is claimed true; `test_planted` plants each of them again. What changes
a term of rounding alone is in `test_every_allowance`.

Kinds: the largest for the product, an axis forgotten, the wrong end of several numbers, a number on the wrong side by
what rounding could make of it (here visibly, by a thousandth), an epsilon left out.
"""

from __future__ import annotations

import ast
import functools
import gc
import math
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from core.proof import formulas, formulas_of_ends, formulas_of_layers, formulas_of_symbols
from helpers.assumptions import assumed
from helpers.libraries import OPS
from helpers.mutants import Function, certified, mutated
from helpers.oracle import dense_matrix
from numpy.typing import NDArray
from test_house import CORE

import specnorm
from specnorm.ball.proofs.multiples import norm_of_multiple, norm_of_neighbour
from specnorm.geometry.spec import ConvSpec
from specnorm.methods import Grid, PowerTopK
from specnorm.proof import proven
from specnorm.proofs.bound import digest_of
from specnorm.supremum import tuning
from specnorm.training.proof import attained_down

TOLERANCE = 1e-9
VISIBLE = 1e-3
LONGEST = 60
"""Seconds after which a search that does not end counts as noticed."""
Check = Callable[[], Iterator[str]]


# -- checks ------------------------------------------------------------------------------------------------------------
def wrong(what: str, value: Any, side: str, truth: float) -> Iterator[str]:
    """A number on the wrong side of the truth."""
    number = float(value)
    below = side == "upper" and not number >= truth * (1 - TOLERANCE)
    above = side == "lower" and not number <= truth * (1 + TOLERANCE) + 1e-13
    if below or above:
        yield f"{what}: {number!r} is no {side} bound of {truth!r}"


def alternating(*sizes: int) -> NDArray[Any]:
    """Signs that alternate along each axis: the norm is the number of taps, reached at the frequency pi alone."""
    return np.asarray((-1.0) ** np.indices(sizes).sum(axis=0))[None, None]


def delta(matrix: NDArray[Any], place: tuple[int, ...], sizes: tuple[int, ...]) -> NDArray[Any]:
    kernel: Any = np.zeros((*matrix.shape, *sizes))
    kernel[(..., *place)] = matrix
    return np.asarray(kernel)


def normal(*shape: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape)


def supremum(kernel: NDArray[Any], points: int = 0) -> float:
    """The largest norm of the symbol on a fine grid, which holds 0 and pi: no larger than the supremum."""
    d = kernel.ndim - 2
    count = points or (0, 4096, 96, 48)[d]
    symbol = np.moveaxis(np.fft.fftn(kernel, (count,) * d, axes=range(2, 2 + d)), (0, 1), (-2, -1))
    return float(np.linalg.norm(symbol, 2, axis=(-2, -1)).max()) if d else float(np.linalg.norm(kernel, 2))


KERNELS: dict[str, NDArray[Any]] = {
    "difference": alternating(2),
    "corner": alternating(2, 2),
    "long corner": alternating(2, 3),
    "cube": alternating(2, 2, 2),
    "one tap": delta(np.diag([2.0, 1.0]), (1, 0), (2, 3)),
    "wide": normal(2, 5, 3, 2),
    "tall": normal(5, 2, 2, 3, seed=1),
    "line": normal(3, 3, 4, seed=2),
    "box": normal(2, 2, 2, 3, 2, seed=3),
    "row": normal(1, 4, 2, 2, seed=4),
    "column": normal(4, 1, 3, 2, seed=5),
    "graded": normal(6, 6, 2, 2, seed=6) * 4.0 ** -np.arange(6)[:, None, None],
    "matrix": normal(4, 3, seed=7),
}


@functools.cache
def truth_of(name: str) -> float:
    return supremum(KERNELS[name])


def fixed_cost() -> Iterator[str]:
    """Bounds at a fixed cost, at all sizes."""
    for name, kernel in KERNELS.items():
        truth = truth_of(name)
        uppers = {
            "tn": specnorm.tn_bound(kernel),
            "f4": specnorm.f4_bound(kernel),
            "gram": specnorm.gram_bound(kernel, n_iter=6),
            "gram of one product": specnorm.gram_bound(kernel, n_iter=1),
            "completion": specnorm.completion_bound(kernel),
        }
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
            yield from wrong(f"grid {n} of {name}", found.stats["lower"], "lower", truth_of(name))


def searches() -> Iterator[str]:
    """Both ends by search, and verdicts just beside the norm."""
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
GEOMETRIES: list[tuple[str, NDArray[Any], Any, dict[str, Any]]] = [
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
def values_of(index: int) -> NDArray[Any]:
    _, kernel, size, geometry = GEOMETRIES[index]
    matrix = dense_matrix(kernel, size, **geometry)
    return np.asarray(np.linalg.svd(matrix, compute_uv=False))


def at_size() -> Iterator[str]:
    """Layers of every geometry at one size, against their matrices."""
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


def circular() -> Iterator[str]:
    """Circulants by all their frequencies."""
    for index, (name, kernel, size, geometry) in enumerate(GEOMETRIES):
        if geometry.get("padding_mode", "circular") == "circular" and "padding" not in geometry:
            (largest, *_) = values_of(index)
            for n_iter in (1, 6):
                bound = specnorm.gram_bound(kernel, size, n_iter=n_iter, **geometry)
                yield from wrong(f"gram {name}", bound, "upper", largest)
            yield from wrong(f"conv_norm {name}", specnorm.conv_norm(kernel, size, **geometry), "lower", largest)
            # Small grids are visited whole; this one is searched.
            with patch.object(tuning, "WORK_OF_VISITS", 0):
                for rtol in (1e-2, 1e-5):
                    lower, upper = specnorm.enclose(kernel, size, rtol=rtol, budget=0.5, **geometry)
                    yield from wrong(f"search of {name}", upper, "upper", largest)
                    yield from wrong(f"search of {name}", lower, "lower", largest)


def smallest() -> Iterator[str]:
    """The other end: at a size by the layer's matrix, of symbols by a fine grid."""
    for index in (0, 1, 3, 5, 9, 10, 13, 14):
        name, kernel, size, geometry = GEOMETRIES[index]
        lower, upper = specnorm.enclose_smallest(kernel, size, budget=0.5, **geometry)
        yield from wrong(f"smallest {name}", upper, "upper", values_of(index)[-1])
        yield from wrong(f"smallest {name}", lower, "lower", values_of(index)[-1])
    for seed in range(3):
        kernel = 0.2 * normal(3, 3, 3, seed=seed) + delta(np.diag([1.0, 2.0, 3.0]), (1,), (3,))
        symbols = np.moveaxis(np.fft.fft(kernel, 4096), -1, 0)
        values = np.linalg.svd(symbols, compute_uv=False)
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
            count = (0, 512, 32)[d]
            symbol = np.fft.fftn(kernel, (count,) * d, axes=range(2, 2 + d))
            values = np.linalg.svd(np.moveaxis(symbol, (0, 1), (-2, -1)), compute_uv=False)
            defect = float(np.abs(values**2 - 1).max())
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
    for n_iter in (1, 2):
        for name in ("one tap", "matrix", "wide"):
            rescaled = specnorm.gram_rescaling(KERNELS[name], n_iter=n_iter)
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
    yield from wrong("a multiple", norm_of_multiple(known, corner, 0.5, 0.5 * corner).value, "upper", 2.0)
    yield from wrong("a changed multiple", norm_of_multiple(known, corner, 0.5, 0.75 * corner).value, "upper", 3.0)
    yield from wrong("a neighbour", norm_of_neighbour(known, corner, 2 * corner).value, "upper", 8.0)
    two = np.concatenate([corner, corner])
    known_of_two = assumed(4.0, ConvSpec.of(two.shape, groups=2), digest_of(two))
    near = np.concatenate([2 * corner, 1.5 * corner])
    yield from wrong("a neighbour of groups", norm_of_neighbour(known_of_two, two, near).value, "upper", 8.0)
    padded = ConvSpec.of(corner.shape, padding_mode="reflect", padding=1)
    gain = float(padded.padding_gain_sq) ** 0.5
    known = assumed(4.0, padded, digest_of(corner))
    found = norm_of_neighbour(known, corner, 2 * corner).value
    yield from wrong("a neighbour, padded", found, "upper", 4.0 + 4.0 * gain)
    signs = np.asarray([[math.pi, math.pi]])
    for vector in (1.0, 0.5j):
        value, *_ = attained_down(corner[None], np.asarray([[vector]], complex), signs, ops=OPS)  # type: ignore[arg-type]
        yield from wrong("attained", value[0], "lower", 4.0)


def claims() -> Iterator[str]:
    """Claims of bounds by a grid, which are made apart from the values."""
    for name in ("difference", "corner", "long corner", "cube"):
        _, ((_, upper),) = proven(KERNELS[name], Grid(n=5))
        yield from wrong(f"claim of {name}", upper.value, "upper", truth_of(name))


def matrices() -> Iterator[str]:
    stack = normal(3, 4, 6, seed=20) * np.asarray([1.0, 3.0, 1e-3])[:, None, None]
    for matrix in (stack, np.swapaxes(stack, 1, 2), stack[:, :1], stack[:, :, :1]):
        truths = np.linalg.norm(matrix, 2, axis=(-2, -1))
        for name, side, values in (
            ("gram_iteration", "upper", specnorm.gram_iteration(matrix)),
            ("power_iteration", "lower", specnorm.power_iteration(matrix)),
            ("matrix_norm", "upper", specnorm.matrix_norm(matrix) * (1 + 1e-9)),
        ):
            for value, true in zip(values, truths, strict=True):
                yield from wrong(name, value, side, float(true))


def far_from_one() -> Iterator[str]:
    """Claims of kernels far from 1."""
    for exponent in (-1060, -300, 300):
        kernel = np.ldexp(KERNELS["line"], exponent)
        lower, upper = specnorm.enclose(kernel)
        true = math.ldexp(truth_of("line"), exponent)
        slack = 4 * 5e-324
        yield from wrong("enclose far from 1", upper + slack, "upper", true)
        yield from wrong("enclose far from 1", lower - slack, "lower", true * (1 + 1e-6))


def rules() -> Iterator[str]:
    """Rules of layers where the truth is known (`core.proof.rules`)."""
    from core.proof.rules import CHECKS, violations

    for check in dict.fromkeys(CHECKS.values()):
        if check.__module__ != "core.proof.network_rules" and check.__name__ != "deflated":
            yield from violations(check)


def of_arithmetic() -> Iterator[str]:
    from core.soundness.mutations import outward

    yield from outward()


FORMULAS: dict[str, Check] = (
    formulas.CHECKS | formulas_of_ends.CHECKS | formulas_of_symbols.CHECKS | formulas_of_layers.CHECKS
)
CHECKS: dict[str, Check] = FORMULAS | {
    x.__name__: x
    for x in (
        grids, claims, multiples, fixed_cost, circular, at_size, smallest, isometries, balls, matrices,
        far_from_one, rules, of_arithmetic, searches,
    )
}  # fmt: skip


# -- mutants -----------------------------------------------------------------------------------------------------------
def name_of(node: ast.expr) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def largest_for_product(node: ast.Call) -> ast.expr | None:
    if name_of(node) in ("math.prod", "np.prod"):
        return ast.parse(f"max({ast.unparse(node.args[0])}, default=1)", mode="eval").body
    return None


def axis_forgotten(node: ast.Call) -> ast.expr | None:
    if name_of(node) in ("math.prod", "np.prod"):
        return ast.parse(f"math.prod(tuple({ast.unparse(node.args[0])})[1:])", mode="eval").body
    return None


OTHER_END = {
    "max": "min", "min": "max", "xp.max": "xp.min", "xp.min": "xp.max", "np.max": "np.min",
    "xp.maximum": "xp.minimum", "xp.minimum": "xp.maximum", "np.maximum": "np.minimum", "np.minimum": "np.maximum",
}  # fmt: skip


def other_end(node: ast.Call) -> ast.expr | None:
    if name_of(node) in OTHER_END:
        keywords = [k for k in node.keywords if k.arg != "default" or name_of(node) == "max"]
        return ast.Call(ast.parse(OTHER_END[name_of(node)], mode="eval").body, node.args, keywords)
    return None


def rounded_inward(node: ast.Call) -> ast.expr | None:
    """The number that is rounded outward, off to the other side."""
    name = name_of(node)
    if name in ("rounding.up", "rounding.down"):
        return ast.BinOp(node.args[0], ast.Mult(), ast.Constant(1 - VISIBLE if name.endswith("up") else 1 + VISIBLE))
    if name.startswith("host.") and name.rpartition("_")[2] in ("up", "down"):
        return ast.BinOp(node, ast.Mult(), ast.Constant(1 - VISIBLE if name.endswith("up") else 1 + VISIBLE))
    if name == "host.inflate":
        return ast.BinOp(node.args[0], ast.Mult(), ast.Constant(1 - VISIBLE))
    return None


def term_left_out(node: ast.Call) -> ast.expr | None:
    """The last term of an outward sum or difference."""
    if name_of(node) in ("host.add_up", "host.sub_down") and len(node.args) > 1:
        return node.args[0]
    return None


EPSILON = re.compile("error|lost|loss|tiny|underflow|rounded|truncation")


def epsilon_left_out(node: ast.expr) -> ast.expr | None:
    """What a sum or a difference has beside what allows for errors."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)):
        return None
    if EPSILON.search(ast.unparse(node.right)):
        return node.left
    return node.right if isinstance(node.op, ast.Add) and EPSILON.search(ast.unparse(node.left)) else None


KINDS: dict[str, Callable[[Any], ast.expr | None]] = {
    "the largest for the product": largest_for_product,
    "an axis forgotten": axis_forgotten,
    "the other end": other_end,
    "on the wrong side": rounded_inward,
    "a term left out": term_left_out,
    "an epsilon left out": epsilon_left_out,
}


def sites(kind: str, tree: ast.AST) -> list[ast.expr]:
    """What a kind of mistake can change."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.expr) and KINDS[kind](node) is not None]


@functools.cache
def places(function: Function, kind: str) -> tuple[str, ...]:
    """What stands there, in a function."""
    return tuple(map(ast.unparse, sites(kind, function.tree())))


@dataclass(frozen=True)
class Mistake:
    """One place of a function, changed: the one with a number among those that its kind can change."""

    function: Function
    kind: str
    number: int

    @property
    def site(self) -> str:
        return places(self.function, self.kind)[self.number]

    def __str__(self) -> str:
        return f"{self.function} | {self.kind} | {self.site}"

    def change(self, tree: ast.AST) -> None:
        target = sites(self.kind, tree)[self.number]

        class Changed(ast.NodeTransformer):
            def visit(self, node: ast.AST) -> Any:
                return KINDS[kind](node) if node is target else self.generic_visit(node)

        kind = self.kind
        Changed().visit(tree)


def mistakes() -> Iterator[Mistake]:
    for function in certified():
        if function.path.is_relative_to(CORE):
            for kind in KINDS:
                yield from (Mistake(function, kind, number) for number in range(len(places(function, kind))))


@functools.cache
def caches() -> list[Any]:
    things = (x for x in gc.get_objects() if isinstance(x, functools._lru_cache_wrapper))
    return [x for x in things if x.__module__.startswith("specnorm")]


def forget() -> None:
    """What functions have remembered."""
    for cache in caches():
        cache.cache_clear()


@functools.cache
def runs(check: str) -> set[tuple[str, str]]:
    """Files and names of the functions that a check runs, as things are."""
    found = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            found.add((frame.f_code.co_filename, frame.f_code.co_qualname.partition(".<locals>")[0]))

    forget()
    sys.setprofile(note)
    try:
        list(CHECKS[check]())
    finally:
        sys.setprofile(None)
    return found


def noticed_by(mistake: Mistake, checks: dict[str, Check]) -> str:
    """The first check that finds a wrong number, or ends in an error."""
    forget()
    try:
        with mutated(mistake.function, mistake.change):
            for name, check in checks.items():
                try:
                    if next(check(), None):
                        return name
                except Exception:
                    return name  # a wrong number may end in an error
    finally:
        forget()
    return ""


TABLE = Path(__file__).with_suffix(".md")
HEAD = ("function", "mistake", "place", "noticed by")


def rows(part: int = 0) -> list[tuple[str, ...]]:
    """The rows of `TABLE`: of the mistakes that are noticed, or (1) of those that change nothing."""
    lines = TABLE.read_text(encoding="utf-8").split("## Equivalent")[part].splitlines()
    cells = [tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in lines if "|" in line]
    return cells[2:]


def main() -> None:
    """Write a row for each mistake in functions whose names hold one of the given words, by checks that run these."""
    words = sys.argv[1:] or [""]
    for mistake in mistakes():
        if not any(word in str(mistake.function) for word in words):
            continue
        place = (str(mistake.function.path), mistake.function.name)
        running = {name: check for name, check in CHECKS.items() if place in runs(name)}
        sys.stdout.flush()
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
            noticed = noticed_by(mistake, running)
            print(f"| `{mistake.function}` | {mistake.kind} | `{mistake.site}` | {noticed or '-'} |", flush=True)  # noqa: T201
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
