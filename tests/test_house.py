"""The rules of the house: which way imports go, what an import costs, what is public."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_networks
import specnorm_networks.tools
from helpers.processes import python

import specnorm
import specnorm.proof

ROOT = Path(__file__).parent.parent
CORE = ROOT / "specnorm"
PLUGINS = ROOT / "plugins"

LEVELS = (
    "errors", "backends", "geometry", "proofs", "symbols robustness", "running", "unfoldings completion power probable",
    "grid", "supremum ball gram", "at_size spectrum tensor_norm", "enclosure", "ends projection training proof",
    "methods", "api", "plugin testing", "__init__ __main__",
)  # fmt: skip
"""Rooms of the core from the ground up. A file may import rooms below its own, and its own neighbours."""

ARRAYS = ("specnorm_cupy", "specnorm_jax", "specnorm_numpy", "specnorm_torch")
STREET = {
    **{name: {"specnorm"} for name in (*ARRAYS, "specnorm_keras")},
    "specnorm_networks": {"specnorm", *ARRAYS, "specnorm_check"},
    "specnorm_audit": {"specnorm", "specnorm_networks", "specnorm_check", "specnorm_torch"},
    "specnorm_check": set(),
}
"""Packages of ours that a package above the core may import. The core imports none of them."""

CORE_MAY_IMPORT = {"numpy", "array_api_compat", "specnorm"} | sys.stdlib_module_names
OPTIONAL = {
    "testing": {"pytest"},
    "specnorm_audit": {"torch", "safetensors", "h5py", "click", "matplotlib", "jinja2", "markupsafe"},
    "specnorm_networks": {"onnx", "google", "onnxscript", "torch", "jax", "jax2onnx", "flax", "equinox", "keras"},
    "specnorm_check": {"onnx", "safetensors"},
    "specnorm_cupy": {"cupy", "cupyx"},
    "specnorm_jax": {"jax", "jaxlib", "optax"},
    "specnorm_keras": {"keras"},
    "specnorm_numpy": {"threadpoolctl"},
    "specnorm_torch": {"torch"},
}
"""Packages of others that a room, or a package, may import besides."""


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def room(path: Path) -> str:
    """First part of a module's name below `specnorm`; of a plugin's module the package."""
    return path.relative_to(CORE if path.is_relative_to(CORE) else PLUGINS).with_suffix("").parts[0]


def makes_claims(path: Path) -> bool:
    """Whether a file may make claims: one called proof.py, or one in a folder ``proofs`` or ``certified``."""
    inside = path.relative_to(CORE if path.is_relative_to(CORE) else PLUGINS).parts
    return (inside[-1] == "proof.py" and len(inside) > 1) or not {"proofs", "certified"}.isdisjoint(inside[:-1])


def level(name: str) -> int:
    """The floor of a room; one that `LEVELS` does not name is a capability, right below the list of methods."""
    floors = {room: floor for floor, rooms in enumerate(LEVELS) for room in rooms.split()}
    return floors.get(name, floors["methods"] - 1)


def runtime_imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Modules imported at run time, and whether at the top of the module; ``if TYPE_CHECKING`` is left out."""

    def walk(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "relative imports are not used here"
                module = child.module or ""
                yield module, top
                if module == "specnorm":
                    yield from ((f"specnorm.{alias.name}", top) for alias in child.names)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, top and not inside)

    yield from walk(tree, True)


@functools.cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_imports_go_one_way() -> None:
    for path, module, _ in every_import():
        here = room(path)
        parts = module.split(".")
        if parts[0] != "specnorm" or len(parts) == 1:
            continue
        there = parts[1]
        if not (CORE / f"{there}.py").exists() and not (CORE / there).exists():
            continue  # a name that the package re-exports, not a module
        assert level(there) <= level(here), f"{here} imports {there}, which lies above it"


def test_the_core_imports_nothing_above_it() -> None:
    """Not for type checkers either."""
    for path in CORE.rglob("*.py"):
        for node in ast.walk(parsed(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("specnorm_") for name in names), f"{path.name} imports {names}"


def every_import() -> Iterator[tuple[Path, str, bool]]:
    """File of the core, module that it imports at run time, and whether at the top."""
    for path in core_files():
        yield from ((path, module, top) for module, top in runtime_imports(parsed(path)))


def test_import_check_can_fail() -> None:
    source = "if TYPE_CHECKING:\n    import torch\ndef f():\n    from specnorm.api.bounds import bounds as api\n"
    assert ("specnorm.api.bounds", False) in list(runtime_imports(ast.parse(source)))
    assert "torch" not in {m for m, _ in runtime_imports(ast.parse(source))}
    assert level("geometry") < level("proofs") < level("methods") < level("api") < level("__main__")


def names_imported(tree: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    """Modules of a package and what is taken from them, wherever in a file, under ``if TYPE_CHECKING`` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            yield node.module or "", [alias.name for alias in node.names]


def modules_imported(path: Path, package: Path) -> set[Path]:
    """Files of its package that a file imports; from a package inside, the modules named."""
    found = set()
    for module, names in names_imported(parsed(path), package.name):
        base = package.parent.joinpath(*module.split("."))
        inside = {base / f"{name}.py" for name in names} | {base / name / "__init__.py" for name in names}
        found |= {place for place in inside if place.exists()} or {base.with_suffix(".py"), base / "__init__.py"}
    return {place for place in found if place.exists()} - {path}


@pytest.mark.parametrize(
    "package", [CORE, *(path.parent for path in sorted(PLUGINS.glob("*/__init__.py")))], ids=lambda x: x.name
)
def test_no_module_imports_one_that_imports_it(package: Path) -> None:
    """However far round, and with imports for types counted."""
    imported = {path: modules_imported(path, package) for path in package.rglob("*.py")}
    imported.pop(CORE / "__init__.py", None)
    while leaves := {path for path, its in imported.items() if not its & imported.keys()}:
        imported = {path: its for path, its in imported.items() if path not in leaves}
    assert not imported, sorted(str(path.relative_to(ROOT)) for path in imported)


def test_the_check_for_circles_counts_types() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    from specnorm.plugin import Backend\n")
    assert list(names_imported(tree, "specnorm")) == [("specnorm.plugin", ["Backend"])]


def test_core_imports_no_framework() -> None:
    for path, module, top in every_import():
        name = module.split(".")[0]
        allowed = CORE_MAY_IMPORT if top else CORE_MAY_IMPORT | OPTIONAL.get(room(path), set())
        assert name in allowed, f"{path.name} imports {module}"


@pytest.mark.parametrize("package", [*STREET])
def test_packages_import_what_lies_below_them(package: str) -> None:
    """And of others' packages those that they serve or are built on."""
    folder = PLUGINS / package
    allowed = {package, "numpy", "array_api_compat"} | STREET[package] | OPTIONAL[package] | sys.stdlib_module_names
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for module, _ in runtime_imports(parsed(path)):
            assert module.split(".")[0] in allowed, f"{path} imports {module}"


DOORS = {
    **{name: {"plugin", "errors", "methods", "testing"} for name in ARRAYS},
    "specnorm_networks": {"errors", "methods", "proof"},
    "specnorm_audit": {"errors", "methods", "proof"},
}
"""Modules of the core that a package may name, besides what ``specnorm.__all__`` lists."""
DOORS_OF_NETWORKS = {"tools", "onnx"}
"""Modules of `specnorm_networks` that the audit may name, besides what its ``__all__`` lists."""


@pytest.mark.parametrize("package", [*DOORS])
def test_packages_see_the_core_through_its_doors(package: str) -> None:
    """For types too; audits see networks through ``specnorm_networks.__all__`` and its tools."""
    public = {"specnorm": specnorm.__all__, "specnorm_networks": specnorm_networks.__all__}
    for path in sorted((PLUGINS / package).rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (top := (node.module or "").split(".")[0]) in public:
                if top == package or (top == "specnorm_networks" and package not in DOORS):
                    continue
                inside = (node.module or "").partition(".")[2]
                doors = DOORS[package] if top == "specnorm" else DOORS_OF_NETWORKS
                assert inside in {"", *doors}, f"{path}: {node.module}"
                names = {alias.name for alias in node.names}
                assert inside or names <= {*public[top]}, f"{path}: {names - {*public[top]}} of {top}"
                if inside == "proof":
                    assert names <= {*specnorm.proof.__all__}


def test_packages_see_torch_through_its_door() -> None:
    """What reads whole models takes names of ``specnorm_torch.__all__`` and of ``specnorm_torch.modules.__all__``."""
    doors = {"specnorm_torch": "__init__.py", "specnorm_torch.modules": "modules.py"}
    names = {
        door: next(
            set(ast.literal_eval(each.value))
            for each in ast.walk(parsed(PLUGINS / "specnorm_torch" / file))
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__all__"
        )
        for door, file in doors.items()
    }
    for path in [*(PLUGINS / "specnorm_networks").rglob("*.py"), *(PLUGINS / "specnorm_audit").rglob("*.py")]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "specnorm_torch":
                assert node.module in names, f"{path}: {node.module}"
                assert {alias.name for alias in node.names} <= names[node.module], path


def test_the_door_is_narrow() -> None:
    """At most 50 names, each with a docstring but for types of words."""
    assert len(specnorm.proof.__all__) == len({*specnorm.proof.__all__}) <= 50
    for name in {*specnorm.proof.__all__} - {"AnyArray", "Layout"}:
        assert getattr(getattr(specnorm.proof, name), "__doc__", None), name


def test_every_package_has_a_place_in_the_street() -> None:
    assert {path.stem for path in PLUGINS.iterdir() if path.stem.startswith("specnorm")} == {*STREET}


FRAMEWORK = re.compile(r"\b(torch|jax|jaxlib|cupy|tensorflow|array_api_strict)\b", re.IGNORECASE)
NAMES_NO_FRAMEWORK = {room(path) for path in core_files()} - {"testing"}
"""Rooms whose code does the same for every library."""


def framework_names(tree: ast.AST) -> Iterator[str]:
    """Strings that name an array library, and tests of an array's class; left out: docstrings and errors' advice."""
    said = {id(x) for node in ast.walk(tree) if isinstance(node, ast.Raise) for x in ast.walk(node)}
    said |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EXTRAS":  # what to install
            said |= {id(x) for x in ast.walk(node)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            if FRAMEWORK.search(node.value):
                yield node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and "ndarray" in ast.unparse(node):
            yield ast.unparse(node)


def test_the_core_names_no_framework() -> None:
    named = {path: list(framework_names(parsed(path))) for path in core_files() if room(path) in NAMES_NO_FRAMEWORK}
    assert {str(path.relative_to(ROOT)): names for path, names in named.items() if names} == {}


def test_framework_check_can_fail() -> None:
    source = "def f(x):\n    '''As torch.'''\n    if n == 'torch' or isinstance(x, np.ndarray):\n        raise E('jax')"
    assert sorted(framework_names(ast.parse(source))) == ["isinstance(x, np.ndarray)", "torch"]


def test_import_loads_no_framework_and_scans_nothing() -> None:
    code = (
        "import sys, importlib.metadata as m\n"
        "def scanned(*a, **k): raise SystemExit('entry points were scanned at import')\n"
        "m.entry_points = m.distributions = m.distribution = m.version = scanned\n"
        "import specnorm\n"
        "print(' '.join(sorted({n.partition('.')[0] for n in sys.modules})))"
    )
    loaded = set(python(code).split())
    unwanted = {"torch", "jax", "jaxlib", "cupy", "array_api_strict", "scipy", "onnx", "h5py", "safetensors"}
    assert not loaded & (unwanted | {"hashlib"})  # hashlib brings OpenSSL, four megabytes
    assert not {name for name in loaded if name.startswith("specnorm_")}


MOST_MODULES = 150
"""A third more than the hundred that the import loads beyond NumPy: ten methods of a few files each."""


def test_import_is_cheap() -> None:
    """Modules, which no machine changes, in place of seconds; there is room for ten more methods."""
    count = "import sys, numpy; before = len(sys.modules); import specnorm; print(len(sys.modules) - before)"
    assert int(python(count)) < MOST_MODULES


def test_a_first_call_imports_what_it_computes_with() -> None:
    """NumPy's f2py and `testing`, which array-api-compat loads with it, take longer than NumPy."""
    code = (
        "import sys, numpy as np, specnorm\n"
        "specnorm.enclose(np.eye(3)[:, :, None]), specnorm.conv_norm(np.eye(3)[:, :, None], 8)\n"
        "print(' '.join(sorted(sys.modules)))"
    )
    loaded = set(python(code).split())
    assert "specnorm_numpy" in loaded
    assert not loaded & {"array_api_compat", "numpy.f2py", "numpy.testing"}


def test_an_audit_of_weights_loads_no_operators_of_networks(tmp_path: Path) -> None:
    """They take a tenth of a cold audit's time."""
    np.savez(tmp_path / "weights.npz", weight=np.eye(3)[:, :, None, None])
    code = (
        f"import sys, specnorm\nspecnorm.audit({str(tmp_path / 'weights.npz')!r})\nprint(' '.join(sorted(sys.modules)))"
    )
    loaded = set(python(code).split())
    assert "specnorm_audit.readers.npz" in loaded
    assert not {name for name in loaded if name.startswith(("specnorm_networks.certified.operators", "onnx"))}


@pytest.mark.parametrize("name", specnorm.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(specnorm, name) is not None


def test_all_has_no_duplicates_and_hides_nothing() -> None:
    assert len(set(specnorm.__all__)) == len(specnorm.__all__)
    public = {n for n, x in vars(specnorm).items() if not n.startswith("_") and not hasattr(x, "__path__")}
    modules = {p.stem for p in core_files()} | {"TYPE_CHECKING", "Any", "annotations"}
    assert public - modules <= set(specnorm.__all__)


def test_dir_shows_the_public_names() -> None:
    modules = ["errors", "methods", "robustness", "testing"]
    assert dir(specnorm) == sorted([*specnorm.__all__, *modules])
    assert all(getattr(specnorm, name).__name__ == f"specnorm.{name}" for name in modules)


@pytest.mark.parametrize(("package", "most"), [(specnorm, 46), (specnorm_networks, 15)], ids=["specnorm", "networks"])
def test_the_front_door_is_small(package: Any, most: int) -> None:
    assert len(package.__all__) == len({*package.__all__}) <= most
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    packages: tuple[Any, ...] = (specnorm, specnorm_networks, specnorm_networks.tools)
    for package in packages:
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing


def repository_texts() -> Iterator[tuple[str, str]]:
    """Every text file that is in git, or is about to be (untracked and not ignored)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        try:
            yield name, path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


# -- paths and names -----------------------------------------------------------------------------------------------
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home/\w+)/")
WRONG_INSTALL = re.compile(r"(?<!Once released: `)pip\s+install\s+(?:-\S+\s+)*[`'\"]?specnorm")


def test_no_text_holds_a_machine_path() -> None:
    found = [f"{name}: {m.group()}" for name, text in repository_texts() for m in MACHINE_PATH.finditer(text)]
    assert not found


def test_no_text_installs_from_an_index() -> None:
    """The name `specnorm` there is somebody else's, and `specnorm-bounds` on none yet: see `backends.text.SOURCE`."""
    found = [f"{name}: {m.group()}" for name, text in repository_texts() for m in WRONG_INSTALL.finditer(text)]
    assert not found


def test_text_checks_can_fail() -> None:
    assert MACHINE_PATH.search("see /" + "work/main")
    assert not MACHINE_PATH.search("a rate of work/" + "root/second")
    for wrong in ("specnorm", "specnorm[torch]", "'specnorm[cli]'", "-U specnorm", "'specnorm-bounds[cli]'"):
        assert WRONG_INSTALL.search("pip " + "install " + wrong), wrong
    for right in (".", "'.[torch]'", "./tests/thirdparty", "-e ."):
        assert not WRONG_INSTALL.search("pip " + "install " + right), right
    assert not WRONG_INSTALL.search("Once released: `pip " + "install specnorm-bounds`")


def test_sessions_name_files_that_are_there() -> None:
    named = re.findall(r"""["'](tests/[\w/]+\.py)""", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
