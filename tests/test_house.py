"""The rules of the house: which way imports go, what an import costs, what is public."""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
import subprocess
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
NETWORKS_TESTS = "packages/networks/tests/networks"
BESIDE = (ROOT / "plugins", *(ROOT / "packages").iterdir())
"""Folders that hold the import packages beside the core."""


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def other_files() -> list[Path]:
    return sorted(path for folder in BESIDE for path in folder.glob("specnorm_*/**/*.py"))


def import_root(path: Path) -> Path:
    """The folder that contains the import package of a file."""
    return next((folder for folder in BESIDE if path.is_relative_to(folder)), ROOT)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(import_root(path)).with_suffix("").parts)


def room(path: Path) -> str:
    """First part of a module's name below `specnorm`; of another package's module the package."""
    return module_of(path).removeprefix("specnorm.").partition(".")[0]


def is_proof(module: str) -> bool:
    """Whether a module may make claims: one called ``proof``, or one in a folder ``proofs`` or ``certified``."""
    _, *folders, name = module.split(".")
    return (name == "proof" and module != "specnorm.proof") or not {"proofs", "certified"}.isdisjoint(folders)


def makes_claims(path: Path) -> bool:
    """Whether a file may make claims."""
    return is_proof(module_of(path))


@functools.cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_the_door_is_narrow() -> None:
    """At most 50 names, each with a docstring but for types of words."""
    assert len(specnorm.proof.__all__) == len({*specnorm.proof.__all__}) <= 50
    for name in {*specnorm.proof.__all__} - {"AnyArray", "Layout"}:
        assert getattr(getattr(specnorm.proof, name), "__doc__", None), name


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


def test_import_loads_no_room() -> None:
    """Each public name loads its own modules, when it is first asked for: that took longer than NumPy's import."""
    loaded = "print(' '.join(name for name in sys.modules if name.split('.')[0] in ('specnorm', 'numpy')))"
    assert python(f"import sys, specnorm; {loaded}").split() == ["specnorm.doors", "specnorm"]
    assert "specnorm.enclosure.proving" in python(f"import sys, specnorm; specnorm.enclose; {loaded}").split()


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("import numpy, specnorm; specnorm.tn_bound(numpy.ones((4, 3, 3, 3)))", 75),
        ("import numpy, specnorm; specnorm.enclose(numpy.ones((4, 3, 3, 3)))", 75),
        ("import specnorm.methods, specnorm.plugin, specnorm.proof, specnorm_audit, specnorm_networks", 14),
        ("from specnorm_audit import cli; cli.run(['--help'])", 14),
    ],
    ids=["tn_bound", "enclose", "doors", "help"],
)
def test_first_calls_load_what_they_need(code: str, most: int) -> None:
    """Modules of ours, a tenth more than the calls load: no machine changes their number, unlike seconds."""
    count = "print(sum(name.startswith('specnorm') for name in sys.modules))"
    assert int(python(f"import sys; {code}; {count}").split()[-1]) <= most


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


@pytest.mark.parametrize(("module", "most"), [("specnorm_torch", 6), ("specnorm_jax", 5), ("specnorm_keras.layers", 2)])
def test_a_plugin_loads_no_training(module: str, most: int) -> None:
    """What the first call with an array of a library imports of its plugin, and that nothing above comes with it."""
    pytest.importorskip(module.partition(".")[0], exc_type=ImportError)
    loaded = python(f"import sys, {module}; print(*(n for n in sys.modules if n.startswith(('specnorm_', 'keras'))))")
    plugin = module.partition(".")[0]
    beside = {name for name in loaded.split() if name.partition(".")[0] not in (plugin, "specnorm_numpy")}
    assert not beside
    assert 1 < sum(name.startswith(plugin) for name in loaded.split()) <= most


DOORS = [
    "specnorm", "specnorm.methods", "specnorm.plugin", "specnorm._internal", "specnorm.above", "specnorm_audit",
    "specnorm_networks",
]  # fmt: skip
PLUGIN_DOORS = ["specnorm_torch", "specnorm_jax", "specnorm_jax.training", "specnorm_keras"]


@pytest.mark.parametrize("module", [*DOORS, *PLUGIN_DOORS])
def test_doors_have_the_names_of_their_stubs(module: str) -> None:
    door = pytest.importorskip(module, exc_type=ImportError)
    stub = parsed(Path(str(door.__file__)).with_suffix(".pyi"))
    imports = [node for node in ast.walk(stub) if isinstance(node, ast.ImportFrom)]
    places = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    assert set(dir(door)) == places.keys()
    assert set(door.__all__) == {name for name, place in places.items() if place != f"{module}.{name}"}
    if module != "specnorm_keras":  # importing Keras decides which library it computes with
        assert [
            (name, place) for name, place in places.items() if getattr(door, name) is not pkgutil.resolve_name(place)
        ] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = door.nothing


def test_a_checkout_on_the_path_has_its_names() -> None:
    """Without an installation there are no entry points: names are found by the stubs."""
    code = "import importlib.metadata as m; m.entry_points = lambda **_: (); import specnorm, specnorm_networks as n"
    assert "function" in python(f"{code}; print(specnorm.audit, n.network_bound, n.certified_accuracy)")


def test_messages_name_the_modules_that_users_import() -> None:
    """Users import the training of a plugin from the plugin: only docstrings name the package that defines it."""
    for path in sorted((ROOT / "packages" / "train" / "specnorm_train").rglob("*.py")):
        texts = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
        statements = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Expr)]
        said = [text.value for text in texts if text not in statements and isinstance(text.value, str)]
        assert not [text for text in said if "specnorm_train" in text], path


def test_a_star_import_brings_the_names_that_other_packages_define() -> None:
    pytest.importorskip("torch")
    found: dict[str, Any] = {}
    exec("from specnorm_torch import *", found)
    assert {"spectral_norm", "audit_module", "BACKEND"} <= found.keys()


def test_an_unknown_name_of_the_core_says_where_it_is() -> None:
    for name, modules in (("NormMonitor", "specnorm_torch"), ("network_bound", "specnorm_networks")):
        with pytest.raises(AttributeError, match=f"no attribute '{name}': it is in .*{modules}"):
            getattr(specnorm, name)
    for name, meant in (("encloses", "enclose"), ("norm", "enclose"), ("power_iteration", "power_norm")):
        with pytest.raises(AttributeError, match=f"Did you mean '{meant}'"):
            getattr(specnorm, name)


def test_networks_are_seen_by_three_kinds_of_operators() -> None:
    """Only what reads, rewrites or builds a graph names another class than `Affine`, `Function` and `Known`."""
    operators = specnorm_networks.operators
    classes = {name for name in operators.__all__ if issubclass(getattr(operators, name), operators.Operator)}
    classes -= {"Operator", "Affine", "Function", "Known"}
    rooms = ("certified/operators/", "certified/patterns/", "onnx/", "sources/")
    package = ROOT / "packages" / "networks" / "specnorm_networks"
    naming = set()
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        nodes = [*ast.walk(parsed(path))]
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and ".operators" in str(node.module)]
        names = {alias.name for node in imports for alias in node.names}
        names |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ops"}
        if names & classes and not place.startswith(rooms):
            naming.add(place)
    assert naming == {"certified/attention.py", "certified/graph.py", "certified/reading.py", "nonexpansiveness.py"}


@pytest.mark.parametrize(("package", "most"), [(specnorm, 46), (specnorm_networks, 15)], ids=["specnorm", "networks"])
def test_the_front_door_is_small(package: Any, most: int) -> None:
    assert len(package.__all__) <= most


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
    sessions = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    named = re.findall(r"""["']((?:packages/\w+/)?tests/[\w/]+\.py)""", sessions.replace("{NETWORKS}", NETWORKS_TESTS))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
