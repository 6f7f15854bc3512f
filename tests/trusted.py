"""What has to be right for an answer to be right: the table of docs/guarantees.md, made of what the modules import.

``python tests/trusted.py`` writes the table anew; `proof/test_trusted.py` fails where the page holds another one.

The rule. All that a claim's entry imports, at run time and in any function, is followed. A module of a room that
`PROPOSES` is followed too, since it calls rules, and not counted: it holds claims and can make none (`test_claims.py`,
`test_outward.py`). Every other module is counted. Lists of alternatives are not followed: of these one is run.
"""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from marks import put
from test_house import CORE, PLUGINS, ROOT, parsed

PAGE = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- trusted: made by `python tests/trusted.py` -->\n", "<!-- end of trusted -->"

PROPOSES = (
    "search", "numerics", "tensor",
    *(f"specnorm_networks.{name}" for name in ("attack", "bounding", "descent", "methods")),
    *(f"specnorm_networks.{name}" for name in ("table",)),
)  # fmt: skip
"""Rooms and modules that can only cost time or closeness."""
LISTS = {"specnorm", "specnorm.methods"}
"""Packages whose own file lists alternatives: a name taken from one leads to where it is defined."""
WRITERS = {"specnorm_networks.layer_certificates", "specnorm_networks.certificates", "specnorm_check"}
"""What writes the file of a certificate, and checks it: no other answer is made of it."""
AT_A_SIZE = "specnorm.search.layer"
"""What encloses a layer at its size; without one it is not run."""

ENTRIES: dict[str, tuple[tuple[str, ...], str]] = {
    "`enclose`": (("specnorm.proving", "specnorm_numpy"), AT_A_SIZE),
    "`enclose` at a size": (("specnorm.proving", "specnorm_numpy"), ""),
    "`network_bound` (torch)": (
        ("specnorm_networks.live", "specnorm_networks.sources.torch_module", "specnorm_numpy"),
        "",
    ),
    "a certificate": (("specnorm_check",), ""),
}
"""Claim -> the modules that give it, and what it does not run."""

GROUPS = {
    "claims, outward arithmetic": ("certified.bound", "certified.host", "certified.rounding", "certified.arithmetic"),
    "matrices": ("certified.matrices",),
    "symbols, cells": ("certified.symbol",),
    "a layer at its size": ("certified.layer",),
    "rules of networks": ("plugins.specnorm_networks.certified", "certified.interval"),
    "networks: statements of bounds": ("plugins.specnorm_networks",),
    "the problem: layers, arrays": ("problem", "arrays", "types", "errors"),
    "reader of model files": ("plugins.specnorm_audit",),
    "the checker of certificates": ("plugins.specnorm_check",),
    "plugin of the array library": ("plugins",),
    "front door: the kernel in, the number out": ("",),
}
"""Row -> its rooms; the last takes what is in none."""


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the core and of the plugins, by name."""
    found = {}
    for base, top in ((CORE, ROOT), (PLUGINS, PLUGINS)):
        for path in base.rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, *, types: bool = False) -> Iterator[str]:
    """Names that are imported at run time, or for types too: ``from a import b`` is ``a.b``."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.expr) or (for_types and not types):
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
        else:
            yield from imported(node, types=types)


@functools.cache
def imports(module: str) -> frozenset[str]:
    return frozenset(filter(None, map(defining, imported(parsed(modules()[module])))))


@functools.cache
def defining(name: str) -> str:
    """The module that a name is, or is defined in; empty if it is none of ours."""
    package, _, last = name.rpartition(".")
    if name in modules() or package not in modules():
        return name if name in modules() else ""
    # A door that loads its names when they are asked for imports them for types.
    is_door = package == "specnorm_networks.tools" or modules()[package].name == "__init__.py"
    taken = imported(parsed(modules()[package]), types=is_door)
    return next((defining(other) for other in taken if other.endswith(f".{last}") and other != name), package)


def closure(entries: tuple[str, ...], without: str = "") -> set[str]:
    """All that some modules import, and what these import, but for one that is not run."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in LISTS | (WRITERS - {*entries}) and module != without:
            found.add(module)
            waiting += imports(module)
    return found


def proposes(module: str) -> bool:
    return any(f"{module.removeprefix('specnorm.')}.".startswith(f"{name}.") for name in PROPOSES)


def group(module: str) -> str:
    """The row of a module that is counted."""
    name = module.removeprefix("specnorm.") if module.startswith("specnorm.") else f"plugins.{module}"
    inside = (row for row, rooms in GROUPS.items() if any(f"{name}.".startswith(f"{room}.") for room in rooms if room))
    return next(inside, list(GROUPS)[-1])


def lines(module: str) -> int:
    return len(modules()[module].read_text(encoding="utf-8").splitlines())


def counted(claim: str) -> tuple[Counter[str], int]:
    """Lines of each row, and how many besides can only cost time or closeness."""
    entries, without = ENTRIES[claim]
    rows: Counter[str] = Counter()
    idle = 0
    for module in closure(entries, without):
        if proposes(module):
            idle += lines(module)
        else:
            rows[group(module)] += lines(module)
    return rows, idle


def table() -> str:
    """Markdown: one column a claim."""
    columns = {claim: counted(claim) for claim in ENTRIES}

    def row(name: str, numbers: list[int]) -> str:
        return f"| {name} | {' | '.join(f'{n:,}' if n else '' for n in numbers)} |"

    return "\n".join(
        [
            f"| | {' | '.join(ENTRIES)} |",
            "|---|" + "---:|" * len(ENTRIES),
            *(row(name, numbers) for name in GROUPS if any(numbers := [rows[name] for rows, _ in columns.values()])),
            row("**together**", [sum(rows.values()) for rows, _ in columns.values()]),
            row("can only cost time or closeness", [idle for _, idle in columns.values()]),
        ]
    )


def replaced(page: str) -> str:
    """The page with this table between its two marks."""
    return put(page, BEGIN, END, f"{table()}\n")


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
