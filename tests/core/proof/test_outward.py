"""Outward rounding happens in the proof kernel alone, and that is small enough to be read."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from test_house import CORE, PLUGINS, ROOT, core_files, makes_claims, parsed, room

import specnorm
from specnorm.proofs import host

ARITHMETIC = {
    "host": {name for name, x in vars(host).items() if getattr(x, "__module__", "") == host.__name__} - {"Real"},
    "rounding": {"up", "down", "unit", "gamma", "product_error", "SLACK"},
}
"""Functions that round outward, by module. `rounding.to_dtype` is for whoever gives an answer."""


def inflated(tree: ast.AST) -> Iterator[str]:
    """Outward rounding by hand: a neighbour of a number, or 1 and a constant too small to mean anything else."""
    for node in ast.walk(tree):
        named = getattr(node, "attr", getattr(node, "id", ""))
        if isinstance(node, ast.Attribute | ast.Name) and named == "nextafter":
            yield f"line {node.lineno}: nextafter"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            terms = [number for number in map(constant, summands(node)) if number is not None]
            if 1 in terms and any(0 < abs(term) < 1e-3 for term in terms):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < abs(node.value - 1) < 9e-4:
            yield f"line {node.lineno}: {node.value}"


def outward(tree: ast.AST) -> Iterator[str]:
    """`inflated`, a power of two that small, and what calls or takes the room's own outward arithmetic."""
    yield from inflated(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and 0 < (constant(node) or 0) < 1e-3:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and node.attr in ARITHMETIC.get(ast.unparse(node.value), ()):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.ImportFrom) and (node.module or "").removeprefix("specnorm.proofs.") in ARITHMETIC:
            taken = ARITHMETIC[(node.module or "").rpartition(".")[2]]
            yield from (f"line {node.lineno}: {name.name}" for name in node.names if name.name in taken)


def summands(node: ast.expr) -> Iterator[ast.expr]:
    """Terms of a sum, its brackets opened."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        yield from summands(node.left)
        yield from summands(node.right)
    else:
        yield node


def constant(node: ast.expr) -> float | None:
    """Value of an expression of numbers alone, such as ``2.0**-50``."""
    if any(isinstance(part, ast.Name | ast.Attribute | ast.Call | ast.Subscript) for part in ast.walk(node)):
        return None
    try:
        value = eval(compile(ast.Expression(node), "constant", "eval"))  # numbers alone, as was just seen
    except (ArithmeticError, TypeError):
        return None
    return float(value) if isinstance(value, int | float) else None


def rounds(path: Path) -> bool:
    """Whether a file may round outward: a proof, or the checker of certificates, which imports nothing of ours."""
    return makes_claims(path) or room(path) == "specnorm_check"


def is_proof(module: str) -> bool:
    """Whether a module, by its name, may make claims."""
    package, *inside = module.split(".")
    folder = CORE if package == "specnorm" else PLUGINS / package
    return makes_claims(folder.joinpath(*inside).with_suffix(".py"))


def test_only_the_proof_kernel_rounds_outwards() -> None:
    """A search may have tolerances of its own, by name in its record of tuning; a bound is made in a proof."""
    files = [path for path in (*core_files(), *sorted(PLUGINS.rglob("*.py"))) if not rounds(path)]
    found = {str(path.relative_to(ROOT)): list(inflated(parsed(path))) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "x * (1 + 1e-12)",
        "1 - 1e-14",
        "1 + a + 1e-9",
        "x * (1 + 2.0**-50)",
        "1.0000001",
        "math.nextafter(x, 1)",
        "nextafter",
    ],
)
def test_inflation_check_can_fail(source: str) -> None:
    assert list(inflated(ast.parse(source)))


def test_inflation_check_lets_tolerances_be() -> None:
    for source in ("1 + self.rtol", "1 + tuning.angle", "1e-6", "LIFT = 1.001", "n + 1", "x + 1e-3 * y"):
        assert not list(inflated(ast.parse(source)))


CORE_OF_PROOFS = (
    *(f"proofs/{name}" for name in ("arithmetic", "bound", "cells", "host", "norms", "padding", "rounding")),
    *(f"symbols/proofs/{name}" for name in ("gram_polynomial", "quotients", "symbols")), "supremum/proof",
)  # fmt: skip
"""What an enclosure at every size trusts of the room: to be read in one evening."""


def test_an_enclosure_at_every_size_calls_the_core_of_proofs_alone() -> None:
    files = {CORE / f"{name}.py" for name in CORE_OF_PROOFS}
    called: set[Path] = set()

    def noted(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(CORE) and makes_claims(path):
            called.add(path)

    kernel = np.random.RandomState(0).standard_normal((64, 64, 3, 3))
    specnorm.enclose(kernel[:2, :2])
    for part in (kernel, kernel[:8, :3], kernel[:, :, :1, :1], kernel[:6, :6, :, 0]):
        sys.setprofile(noted)
        try:
            specnorm.enclose(part)
        finally:
            sys.setprofile(None)
    assert called == files


def bases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Classes of a module, each with a module of ours that it takes a base from."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    origins = {alias.asname or alias.name: node.module or "" for node in imports for alias in node.names}
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)):
        for base in node.bases:
            origin = origins.get(ast.unparse(base).split(".")[0].split("[")[0], "")
            if origin.startswith("specnorm") and not origin.startswith("specnorm.errors"):
                yield node.name, origin


def test_no_class_is_half_trusted() -> None:
    """None of the room derives from one outside it, and none outside from one in it but for users' operators."""
    for path in core_files():
        for name, origin in bases(parsed(path)):
            assert is_proof(origin) == makes_claims(path), f"{path.name}: {name} of {origin}"


# -- arithmetic, against rational numbers --------------------------------------------------------------------------


def test_rounding_is_upward() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        x = [float(v) for v in np.exp(rng.normal(size=4) * 30)]
        exact = [Fraction(v) for v in x]
        assert math.prod(exact) <= Fraction(host.mul_up(*x)) <= math.prod(exact) * (1 + Fraction(1, 2**48))
        assert sum(exact) <= Fraction(host.add_up(*x)) <= sum(exact) * (1 + Fraction(1, 2**48))
        squares = sum(v * v for v in exact)
        assert squares <= Fraction(host.hypot_up(*x)) ** 2 <= squares * (1 + Fraction(1, 2**45))
        assert exact[0] / 3 <= Fraction(host.float_up(exact[0] / 3)) <= exact[0] / 3 * (1 + Fraction(1, 2**51))
        assert exact[1] / 7 <= Fraction(host.root_up(exact[1] / 7)) ** 2
    assert host.mul_up(2.0, 0.0, math.inf) == 0
    assert host.mul_up(5e-324, 5e-324) > 0
    assert host.hypot_up() == 0
    assert host.mul_up(1e300, 1e300) == math.inf


@pytest.mark.parametrize("power", [-4000, -2149, -2148, -2100, -1075, -1022, 0, 1023, 2046, 2048, 5000])
@pytest.mark.parametrize("factor", [1, 2, 3, Fraction(1, 7), 2**53 + 1])
def test_roots_of_any_size_are_found_at_once(power: int, factor: Fraction) -> None:
    """Where the number itself vanishes as a float, or overflows: from 0, one float at a time, no root is found."""
    x = Fraction(factor) * Fraction(2) ** power
    root = host.root_up(x)
    if root == math.inf:
        assert x > Fraction(host.next_down(math.inf)) ** 2
        return
    assert Fraction(root) ** 2 >= x
    below = Fraction(host.next_down(host.next_down(root)))
    assert below < 0 or below**2 < x
