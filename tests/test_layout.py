"""The tree is what docs/design.md says: its rooms and their imports; files and functions stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from test_house import CORE, LEVELS, PLUGINS, ROOT, core_files, level, parsed, room, room_of, runtime_imports

import specnorm
from specnorm.numerics.power import composed

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
SOURCES = [*core_files(), *sorted(PLUGINS.rglob("*.py"))]
MOST_LINES, MOST_CODE = 400, 60
"""Of a file, and of a function without its docstring, comments and blank lines; ruff counts complexity (C901)."""


# -- docs/design.md ----------------------------------------------------------------------------------------------
def rows() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of the table of rooms: what a row is called in others' last column -> its rooms, and its last column."""
    found = {}
    table = DESIGN[DESIGN.index("| room | purpose | imports |") :].split("\n\n")[0].splitlines()[2:]
    for line in table:
        first, purpose, imports = (cell.strip() for cell in line.strip("|").split(" | "))
        rooms = tuple(name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([^`]+)`", first))
        named = purpose.partition(":")[0] if purpose.startswith("front door") else rooms[0]
        found[named] = rooms, tuple(word for word in imports.split(", ") if word != "nothing")
    return found


def reachable(name: str) -> set[str]:
    """Rooms of the row with that room or name, and those of all that it may import."""
    table = rows()
    ((rooms, imports),) = [row for named, row in table.items() if name == named or name in row[0]]
    return set(rooms).union(*(reachable(other) for other in imports))


def test_the_table_of_rooms_is_the_tree() -> None:
    listed = Counter(name for rooms, _ in rows().values() for name in rooms if not name.startswith("plugins"))
    assert set(listed.values()) == {1}
    assert set(listed) | {"__init__", "__main__"} == {name for names in LEVELS for name in names}
    files = {room(path).removesuffix(".py") for path in core_files()} - {"__init__", "__main__"}
    assert set(listed) == files


@pytest.mark.parametrize("name", [name for names in LEVELS[:-1] for name in names])
def test_a_room_imports_what_the_table_allows(name: str) -> None:
    """Its own row, and all that lies in the rows of its last column."""
    every = {name for names in LEVELS for name in names}
    for path in core_files():
        if room(path).removesuffix(".py") == name:
            imported = {room_of(m.split(".")[1:]) for m, _ in runtime_imports(parsed(path)) if "specnorm." in m}
            assert imported & every <= reachable(name), f"docs/design.md lets {name} import less than {path.name} does"


def sketched() -> list[str]:
    """Rooms of the sketch of a kernel's way, from the front door down."""
    sketch = DESIGN.partition("## A kernel's way from `enclose` to the answer\n\n")[2].partition("\n\nEach room")[0]
    return re.findall(r"^ {4}(\w+) {2,}\S", sketch, re.MULTILINE)


def test_the_sketch_of_a_kernels_way_goes_down() -> None:
    names = sketched()
    assert 0 < len(names) <= 8
    assert len(set(names)) == len(names)
    levels = [next(i for i, level in enumerate(LEVELS) if name in level) for name in names]
    assert levels == sorted(levels, reverse=True), "from the front door down"


# -- a kernel's way, as it is called -----------------------------------------------------------------------------
OPERATIONS = ("runtime/execution.py", "plugin.py")
"""The operations of the array library: an argument of every algorithm, called from all rooms; so are the plugins."""


class Way:
    """Rooms on the stack of calls of a function, and the calls of a room by one below it.

    Attributes
    ----------
    deepest : tuple of str
        The most rooms that lie on one stack.
    upward : set of str
    """

    def __init__(self) -> None:
        self.deepest: tuple[str, ...] = ()
        self.upward: set[str] = set()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Way:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        here = way_room(frame) if event == "call" else None
        if here is None:
            return
        self.calls[frame.f_code.co_qualname] += 1
        stack = [name for name in map(way_room, callers(frame)) if name is not None]
        above = next((name for name in stack if name != here), here)
        if level(here) > level(above):
            self.upward.add(f"{above} calls {frame.f_code.co_qualname} of {here}")
        rooms = tuple(dict.fromkeys(reversed([here, *stack])))
        self.deepest = max(self.deepest, rooms, key=len)


def callers(frame: FrameType) -> Iterator[FrameType]:
    """From the caller of a frame outwards."""
    while frame.f_back is not None:
        frame = frame.f_back
        yield frame


def way_room(frame: FrameType) -> str | None:
    """Room of the core that a call is in; none of the operations of the array library, and of other code."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(CORE):
        return None
    return None if path.relative_to(CORE).as_posix() in OPERATIONS else room(path).removesuffix(".py")


@pytest.mark.parametrize("at", [{}, {"input_shape": 16}, {"input_shape": 16, "padding_mode": "zeros"}], ids=str)
def test_a_kernel_passes_eight_rooms_and_never_upward(at: dict[str, Any]) -> None:
    """Also through Lanczos, circulants and the layer's own matrix; the plugin is looked up once."""
    kernel = np.random.RandomState(0).standard_normal((12, 12, 3, 3))
    specnorm.enclose(kernel[:2, :2], **at)
    with Way() as way:
        specnorm.enclose(kernel, **at)
        specnorm.enclose(kernel[:2, :3], **at, rtol=1e-6)
    assert way.upward == set()
    assert len(way.deepest) <= 8, way.deepest
    assert [name for name in way.deepest if name in sketched()] == [n for n in sketched() if n in way.deepest]
    assert way.calls["backend_for"] == 2, "once a call"


def test_a_call_upward_is_seen() -> None:
    with Way() as way:
        one: Any = np.ones(())
        composed(lambda x: float(specnorm.enclose(np.ones((1, 1, 1))).upper) * x, lambda x: x)(one)
    assert {"numerics calls enclose of proving"} <= way.upward


# -- pages -------------------------------------------------------------------------------------------------------
def test_no_page_is_twice_in_the_contents_of_the_site() -> None:
    pages = Counter(
        re.findall(r"^ *- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert len(pages) > 30
    assert [page for page, count in pages.items() if count > 1] == []


# -- stray files -------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout of git")
def test_git_tracks_no_stray_file() -> None:
    """What a command wrote by mistake has no suffix, or lies beside the folders; tests' data has folders of its own."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert list(strays(listed.stdout.split())) == []
    assert list(strays(["resnet20", "tests/dense", "out.json"])) == ["resnet20", "tests/dense", "out.json"]


def strays(names: Sequence[str]) -> Iterator[str]:
    """Tracked files without a suffix that nobody expects, or at the top and not of the project."""
    top = {"CITATION.cff", "LICENSE", "README.md", "constraints.txt", "mkdocs.yml", "noxfile.py", "pyproject.toml"}
    for name in names:
        folder, _, last = name.rpartition("/")
        unknown = not Path(last).suffix and last not in {"LICENSE", "run", ".gitignore"}
        if unknown or (not folder and name not in top | {".gitignore"}):
            yield name


# -- sizes -------------------------------------------------------------------------------------------------------
def code_lines(node: ast.AST, lines: Sequence[str]) -> int:
    """Lines of a function that hold code."""
    said: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
            said |= set(range(part.lineno, (part.end_lineno or 0) + 1))
    held = range(node.lineno, (node.end_lineno or 0) + 1)  # type: ignore[attr-defined] # of functions alone
    return sum(i not in said and not re.match(r"\s*(#|$)", lines[i - 1]) for i in held)


def long_functions(source: str) -> Iterator[str]:
    """Functions above the limit that do not begin with a comment on why: ``# Long, since ...``."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node, lines) > MOST_CODE:
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if not re.search(r"^ +# Long, since ", text, re.MULTILINE):
                yield node.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES, "split it along its subjects"
    assert list(long_functions(source)) == []


def test_tests_and_sessions_stay_short() -> None:
    """Files; a test may be one long function."""
    files = [ROOT / "noxfile.py", *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 150
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}, "split along their subjects"


def test_size_check_can_fail() -> None:
    body = "\n".join(f"    x = {i}" for i in range(MOST_CODE))
    assert list(long_functions(f"def f():\n{body}\n")) == ["f"]
    assert list(long_functions(f"def f():\n    # Long, since it counts.\n{body}\n")) == []
    assert list(long_functions(f"def f():\n{body[:-7]}\n    '''Of no account.'''\n")) == []


def test_complexity_is_checked() -> None:
    """By ruff, in the session `lint`."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^select = \[.*"C901".*\]$', settings, re.MULTILINE)
    assert "[tool.ruff.lint.mccabe]\nmax-complexity = 15\n" in settings


def plugin_imports(path: Path) -> set[Path]:
    """Modules of a plugin that one of its modules imports, wherever in it."""
    own = path.relative_to(PLUGINS).parts[0]
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == own:
            base = PLUGINS.joinpath(*(node.module or "").split("."))
            inside = {base / f"{alias.name}.py" for alias in node.names}
            found |= {place for place in inside if place.exists()} or {base.with_suffix(".py"), base / "__init__.py"}
    return {place for place in found if place.exists()} - {path}


@pytest.mark.parametrize("plugin", sorted(p.name for p in PLUGINS.iterdir() if (p / "__init__.py").exists()))
def test_modules_of_a_plugin_import_one_way(plugin: str) -> None:
    imported = {path: plugin_imports(path) for path in (PLUGINS / plugin).rglob("*.py")}
    while leaves := {path for path, its in imported.items() if not its & imported.keys()}:
        imported = {path: its for path, its in imported.items() if path not in leaves}
    assert not imported, sorted(path.name for path in imported)
