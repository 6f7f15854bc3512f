"""The proof kernel is small enough to be read, and its arithmetic rounds outward."""

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
from test_house import CORE, ROOT, core_files, is_proof, makes_claims, other_files, parsed

import specnorm
from specnorm.proofs import host

CORE_OF_PROOFS = (
    *(f"proofs/{name}" for name in ("arithmetic", "bound", "cells", "found", "frequencies")),
    *(f"proofs/{name}" for name in ("host", "norms", "rounding")),
    *(f"symbols/proofs/{name}" for name in ("lags", "polynomial")), "supremum/proof",
    "running/proofs/padding", "running/proofs/scaling",
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


def test_outward_rounding_stands_in_proof_files_alone() -> None:
    """Bounds are scaled, padded and rounded by functions of proof files alone."""
    no_bounds = {"Rounds", "conversion_loss", "flushes", "gamma", "unit"}
    found = []
    for path in (*core_files(), *other_files()):
        if makes_claims(path) or path.parent.name == "specnorm_check":
            continue
        for node in ast.walk(parsed(path)):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("rounding", "host"):
                found += [f"{place} {name}" for name in {node.attr} - no_bounds]
            if isinstance(node, ast.ImportFrom) and str(node.module).endswith(("proofs.rounding", "proofs.host")):
                names = {alias.name for alias in node.names} - no_bounds
                found += [f"{place} {name}" for name in names]
    assert not found, "\n".join(found)
