"""The documentation runs: examples, links, commands. Pages are found by walking the tree."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import inspect
import io
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import ran

import specnorm
from specnorm.geometry.spec import Geometry, Layer

ROOT = Path(__file__).parent.parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
FRAMEWORKS = ("torch", "jax", "keras", "cupy")
NEEDED = {"check-it-yourself": "onnx"}
"""What else examples of a page import."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """First line (from 0) and source of each fenced block in a language."""
    found = [(text[: m.start(2)].count("\n"), m.group(1), m.group(2)) for m in FENCE.finditer(text)]
    return [(line, source) for line, word, source in found if word == language]


def framework(source: str) -> str:
    """Library that a block imports besides NumPy, or ""."""
    imported = re.findall(r"^(?:>>> )?(?:import|from) (?:specnorm_)?(\w+)", source, re.MULTILINE)
    return next((name for name in imported if name in FRAMEWORKS), "")


def run_blocks(examples: list[tuple[int, str]], name: str) -> tuple[int, str]:
    """Run blocks in one namespace; the number of failures, and what the checker says of them."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    runner, said, failed = doctest.DocTestRunner(optionflags=FLAGS), list[str](), 0
    for line, source in examples:
        if is_script(source):
            wrong = run_script(source, namespace)
            failed += bool(wrong)
            said += [f"{name}:{line + 1} prints\n{wrong}"] if wrong else []
            continue
        test = doctest.DocTestParser().get_doctest(source, namespace, name, name, line)
        runner.run(test, out=said.append, clear_globs=False)
        namespace = test.globs
    return failed + runner.summarize(verbose=False).failed, "".join(said)


def is_script(source: str) -> bool:
    """Without prompts, to be pasted as it stands: what it prints stands in comments ``# > ...``."""
    return not source.startswith(">>> ")


def run_script(source: str, namespace: dict[str, Any]) -> str:
    """What a script prints, or the end of its traceback, where that is not what its comments say."""
    expected = "".join(f"{line}\n" for line in re.findall(r"^# > (.*)$", source, re.MULTILINE))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "a page", "exec"), namespace)
    except Exception:
        return traceback.format_exc(limit=-2)
    right = doctest.OutputChecker().check_output(expected, printed.getvalue(), FLAGS)
    return "" if right else printed.getvalue() or "nothing\n"


def examples_of(path: Path) -> list[tuple[str, int, str]]:
    """Library, first line and source of each python block; a tutorial is one session, named after its library."""
    parts = blocks(path.read_text(encoding="utf-8"), "python")
    whole = path.stem if path.parent.name == "tutorials" and path.stem in FRAMEWORKS else ""
    return [(whole or framework(source), line, source) for line, source in parts]


LONG = ("networks", "recipes")
"""Pages whose examples take long; those of the tutorials do too."""


def late(path: Path) -> list[Any]:
    return [pytest.mark.nightly] * (path.parent.name == "tutorials" or path.stem in LONG)


def examples_to_run() -> list[Any]:
    """Each page, and each library that some of its blocks need: one missing library skips those blocks alone."""
    found = []
    for path in pages():
        for library in sorted({library for library, _, _ in examples_of(path)}):
            found.append(pytest.param(path, library, id=f"{name_of(path)}-{library or 'numpy'}", marks=late(path)))
    return found


# -- examples ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("path", "library"), examples_to_run())
def test_examples_print_what_they_say(path: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # where it is not loaded yet
    for needed in filter(None, (library, NEEDED.get(path.stem))):
        pytest.importorskip(needed, exc_type=ImportError)
    mine = [(line, source) for name, line, source in examples_of(path) if name == library]
    failed, said = run_blocks(mine, name_of(path))
    assert failed == 0, said


NOTEBOOKS: dict[Path, str] = runpy.run_path(str(ROOT / "docs" / "tutorials" / "notebook.py"))["notebooks"]()


def test_notebooks_are_their_pages_and_scripts() -> None:
    assert {*NOTEBOOKS} == {*(ROOT / "docs").rglob("*.ipynb")}
    for path, made in NOTEBOOKS.items():
        assert path.read_text(encoding="utf-8") == made, "python docs/tutorials/notebook.py"


@pytest.mark.sampled("deconvolution", "heuristic", "orthogonal")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run as one script, without Jupyter."""
    for needed in ("torch", "onnxscript") if path.stem == "torch" else ("matplotlib", "safetensors"):
        pytest.importorskip(needed, exc_type=ImportError)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(path.parent)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 1
    for cell in cells:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), namespace)
        shown = "".join(line for output in cell["outputs"] for line in output.get("text", []))
        assert same(printed.getvalue(), shown, 2e-3), printed.getvalue()


def test_every_python_block_is_an_example() -> None:
    """Examples or a script. A block in another form (a file to copy) is marked ``py``: it is not run."""
    for path in pages():
        for line, source in blocks(path.read_text(encoding="utf-8"), "python"):
            if is_script(source):
                ast.parse(source, f"{name_of(path)}:{line + 1}")
                assert ">>> " not in source, f"{name_of(path)}:{line + 1} begins without a prompt"
        for line, source in blocks(path.read_text(encoding="utf-8"), "py"):
            ast.parse(source, f"{name_of(path)}:{line + 1}")


ASIDE = "docs/CONTRIBUTING.md", "docs/design.md"
"""Pages that are for contributors alone."""


def test_the_pages_stay_short() -> None:
    """At most 28 pages in docs and, with README, 30,000 words for users, as ``wc -w`` counts, which counts bars too."""
    texts = {name_of(path): path.read_text(encoding="utf-8") for path in pages()}
    assert len(texts) - 1 <= 28
    words = {name: len(text.split()) for name, text in texts.items() if name not in ASIDE}
    assert sum(words.values()) <= 30_000, words


# -- links -------------------------------------------------------------------------------------------------------
def targets(text: str) -> list[str]:
    """Relative links outside of code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [t for t in LINK.findall(prose) if not re.match(r"[a-z]+:|#", t)]


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_relative_links_lead_somewhere(path: Path) -> None:
    for target in targets(path.read_text(encoding="utf-8")):
        assert (path.parent / target.partition("#")[0]).exists(), f"{name_of(path)} links to {target}"


# -- README ------------------------------------------------------------------------------------------------------
README = (ROOT / "README.md").read_text(encoding="utf-8")


def setup_commands(text: str) -> list[str]:
    return [source for word in ("sh", "bash", "shell", "console") for _, source in blocks(text, word)]


def test_readme_has_two_commands_of_one_line() -> None:
    commands = setup_commands(README)
    assert len(commands) == 2
    assert [command for command in commands if command.count("\n") != 1] == []
    audit, tests = commands
    assert ".venv-audit/bin/specnorm audit" in audit
    assert tests.rstrip().endswith(".venv/bin/nox")


def measured(*names: str) -> list[dict[str, Any]]:
    """The committed lines of benchmarks."""
    files = [ROOT / "docs" / "benchmarks" / f"{name}.jsonl" for name in names]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def up(value: float, digits: int) -> str:
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"


def down(value: float, digits: int) -> str:
    return f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"


def test_figures_of_readme_and_home_are_those_of_the_benchmark() -> None:
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    runs = [run for run in measured("constraint", "constraint-long") if "skipped" not in run]
    ours = up(max(run["worst_upper"] for run in runs if run["method"] == "default"), 3)
    theirs = [run["worst"] for run in runs if run["method"] == "torch"]
    for page in (README, home):
        words = " ".join(page.split())
        assert f"norms reached [at most {ours}](" in words
        assert re.search(rf"{max(theirs):.1f}\b", words)
    assert f"in every run some layer reached a norm of at least {down(min(theirs), 1)}," in " ".join(home.split())
    over_plain: dict[str, list[float]] = {"torch": [], "default": []}
    for row in measured("constraint-cost"):
        if row["section"] == "step" and row["contestant"] in over_plain:
            over_plain[row["contestant"]].append(row["over_plain"])
    gpu = {row["contestant"]: 1 / row["faster"] for row in measured("constraint-gpu")}
    for name, contestant in (("`specnorm_torch.spectral_norm`", "default"), ("torch's `spectral_norm`", "torch")):
        least, most = min(over_plain[contestant]), max(over_plain[contestant])
        assert f"| {name} | {least:.1f} to {most:.1f} | {gpu[contestant]:.1f} |\n" in README


def same(found: str, expected: str, rtol: float) -> bool:
    """Equal word by word; numbers to a tolerance, since libraries round differently."""

    def close(a: str, b: str) -> bool:
        if a == b:
            return True
        try:
            return math.isclose(float(a), float(b), rel_tol=rtol)
        except ValueError:
            return False

    word = re.compile(r"[\w./=]*\w|-+|\S")
    one, other = word.findall(found), word.findall(expected)
    return len(one) == len(other) and all(map(close, one, other))


def test_readme_shows_what_the_audit_prints() -> None:
    for name in ("click", "safetensors"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[cli]'")
    command = setup_commands(README)[0]
    words = shlex.split(command)
    arguments = words[words.index("audit") :]
    printed = ran("-m", "specnorm", *arguments, cwd=ROOT, COLUMNS="110")
    ((_, shown),) = blocks(README, "text")
    beginning, end = shown.split("...\n")
    lines = printed.splitlines(keepends=True)
    assert same("".join(lines[: beginning.count("\n")]), beginning, 1e-4), printed
    assert same("".join(lines[-end.count("\n") :]), end, 1e-4), printed


# -- commands ----------------------------------------------------------------------------------------------------
def transcript(block: str, folder: Path) -> str:
    """What a terminal shows of the commands after ``$`` in a block, run by bash in a folder."""
    lines = ['specnorm() { "$PYTHON" -m specnorm "$@"; }']
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        lines += [f"printf '%s\\n' {shlex.quote(f'$ {command}')}", command]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder, env={**os.environ, "COLUMNS": "110", "PYTHON": sys.executable},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.stdout


def consoles() -> list[Any]:
    found = [(path, blocks(path.read_text(encoding="utf-8"), "console")) for path in pages()]
    return [pytest.param(parts, id=name_of(path), marks=late(path)) for path, parts in found if parts]


@pytest.mark.parametrize("parts", consoles())
def test_commands_print_what_they_say(parts: list[tuple[int, str]], tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="pip install '.[cli]'")
    shutil.copy(ROOT / "docs/examples/resnet20/resnet20.safetensors", tmp_path)
    for line, block in parts:
        printed = transcript(block, tmp_path)
        assert same(printed, block, 1e-4), f"line {line + 1}: {printed}"


# -- docstrings --------------------------------------------------------------------------------------------------
MAIN = (
    "tn_bound", "f4_bound", "unfolding_bounds", "gram_bound", "grid_bound", "completion_bound", "conv_norm",
    "power_norm", "singular_values", "reshaped_norm", "enclose", "certify", "measure", "compare", "value_and_grad",
    "rescale", "clip", "audit", "operator_norm",
)  # fmt: skip


def functions() -> list[str]:
    return [name for name in specnorm.__all__ if inspect.isfunction(getattr(specnorm, name))]


@pytest.mark.parametrize("name", functions())
def test_docstrings_have_examples_and_name_the_geometry(name: str) -> None:
    function = getattr(specnorm, name)
    text = inspect.getdoc(function) or ""
    keywords = Geometry.__annotations__ if "**geometry" in text else Layer.__annotations__ if "**layer" in text else ()
    assert [word for word in keywords if f"``{word}``" not in text] == []
    (examples,) = doctest.DocTestFinder().find(function, name, module=False)
    if not examples.examples:
        assert name not in MAIN, "it has no example"
        return
    said = list[str]()
    assert doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=said.append).failed == 0, "".join(said)


# -- the pages of functions --------------------------------------------------------------------------------------
API = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "api").glob("*.md")))


def documented() -> list[str]:
    """Dotted names whose docstrings the pages show."""
    return re.findall(r"^::: ([\w.]+)$", API, re.MULTILINE)


def test_every_public_name_stands_once() -> None:
    types_of_errors = {"SpecnormError", "Undecided", "EstimateWarning"}
    of_the_core = [name.removeprefix("specnorm.") for name in documented() if re.match(r"specnorm\.\w+$", name)]
    shown = {*of_the_core, *(n.rpartition(".")[2] for n in documented() if n.startswith("specnorm_audit."))}
    assert {*specnorm.__all__} - types_of_errors - {"__version__"} <= shown
    assert len(documented()) == len({*documented()})


def test_a_page_lists_the_names_of_networks() -> None:
    """Whoever renders the page sees no names of a module that imports them when they are asked for."""
    networks = pytest.importorskip("specnorm_networks")
    of_a_module = {
        name for names in re.findall(r"^ +members: \[(.*)\]$", API, re.MULTILINE) for name in names.split(", ")
    }
    shown = of_a_module | {name.rpartition(".")[2] for name in documented()}
    assert {*networks.__all__} - {"operators"} <= shown


# -- adding a method -------------------------------------------------------------------------------------------------
def put_after(path: Path, anchor: str, text: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count(anchor) == 1, f"{path.name} has no single {anchor!r} any more"
    path.write_text(source.replace(anchor, anchor + text), encoding="utf-8")


def source_of(example: str) -> str:
    """The code of an example with prompts."""
    return "".join(part.source for part in doctest.DocTestParser().get_examples(example))


def inside(source: str) -> str:
    """The source without the imports from specnorm that a package of its own has."""
    return re.sub(r"^from specnorm.*\n", "", source, flags=re.MULTILINE)


def test_the_guides_for_authors_import_stable_names_alone() -> None:
    """What another distribution's plugin or method imports: the public modules, and what they list."""
    stable = {
        "specnorm", "specnorm.plugin", "specnorm.methods", "specnorm.proof", "specnorm.errors", "specnorm.testing",
    }  # fmt: skip
    backends = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    methods = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8").partition("\n## Make it part")[0]
    example = (ROOT / "tests" / "thirdparty" / "specnorm_strict" / "__init__.py").read_text(encoding="utf-8")
    imports = re.findall(r"^(?:>>> )?from (specnorm[\w.]*) import (.*)$", backends + methods + example, re.MULTILINE)
    assert len(imports) > 5
    for module, names in imports:
        if not module.startswith(("specnorm_", "specnorm.testing")):
            assert module in stable
            listed = importlib.import_module(module).__all__
            assert {name.strip() for name in names.split(",")} <= {*listed}, module
    explained = re.findall(r"`(\w+)", "".join(re.findall(r"^(\| `.*?\|)", backends, re.MULTILINE)))
    assert {*importlib.import_module("specnorm.plugin").__all__} - {*explained} == set()


@pytest.mark.nightly
def test_the_second_method_of_the_page_keeps_its_promises(tmp_path: Path) -> None:
    """docs/adding-a-method.md, followed to the letter: its method joins a copy of specnorm."""
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    (_, bound), (_, method), *_ = blocks(page, "python")
    for name in ("specnorm", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "data", "outside"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "packages").mkdir()  # where tests look for claims, too
    room = tmp_path / "specnorm" / "frobenius"
    room.mkdir()
    rooms, imported, promise = (source for _, source in blocks(page, "py"))
    (room / "proof.py").write_text(f'"""Frobenius."""\n\n{rooms}{inside(source_of(bound))}')
    door = "from specnorm.frobenius.proof import bound_up\n"
    (room / "__init__.py").write_text(f'"""Frobenius."""\n\n{rooms}{door}{inside(source_of(method))}')
    put_after(tmp_path / "specnorm" / "methods.pyi", "import ExactFFT as ExactFFT\n", imported)
    put_after(tmp_path / "specnorm" / "api" / "registered.py", '"fft": "ExactFFT", ', '"frobenius": "Frobenius", ')
    with (tmp_path / "tests" / "helpers" / "promises.py").open("a", encoding="utf-8") as file:
        file.write(promise)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "tests/core/methods/test_every_method.py", "tests/core/proof/test_claims.py",
         "-k", "frobenius or promise or orders or claims_are_made"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SPECNORM_TEST_BACKENDS": "numpy"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None, run.stdout
    assert int(passed[1]) > 12, run.stdout


# -- the map of two calls ------------------------------------------------------------------------------------------
def test_the_map_of_two_calls_names_what_is_there() -> None:
    """A frame that is gone is noticed; `docs/_site/calls.py` writes the map anew."""
    page = (ROOT / "docs" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    frames = re.findall(r"^ *([\w.]+)(?:  .*)?  \[([\w/]+)\]$", page, re.MULTILINE)
    assert len(frames) > 40
    gone = []
    for name, place in frames:
        source = (ROOT / "specnorm" / f"{place}.py").read_text(encoding="utf-8")
        if not re.search(rf"^ *def {name.rpartition('.')[2]}\(", source, re.MULTILINE):
            gone.append(f"{name} in {place}")
    assert not gone
