#!/usr/bin/env -S pipx run
# /// script
# dependencies = ["nox>=2026.10"]
# ///
"""Sessions, each named after what it checks.

``nox`` alone runs what a change can break, in 6 to 12 minutes on two cores; CI and the README run that. ``nox -s
quick -- PACKAGE`` is for the loop of whoever changes something, and ``nox && nox -t nightly`` runs everything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PYTHON = "3.11"
OTHER_PYTHONS = ("3.12", "3.13", "3.14", "3.14t")
BACKENDS = "numpy,strict,torch,jax"
_PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
TEST_TOOLS, LINTERS, TYPE_CHECKERS, SITE_TOOLS = (
    nox.project.dependency_groups(_PROJECT, group) for group in ("test", "lint", "types", "docs")
)
JAX_LIBRARIES = ("equinox>=0.11", "flax>=0.10", "optax>=0.2")
"""What the training comforts for JAX serve; none is required."""
DASK = "distributed>=2024.8"
"""An engine that audits can run on; not required."""
SECOND_OPINION = "onnxruntime>=1.20"
"""What our own evaluation of ONNX nodes is compared with."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
NIGHT = {"SPECNORM_HYPOTHESIS_PROFILE": "nightly", "SPECNORM_NIGHTLY": "1"}
"""Tests with the mark ``nightly`` run, of what else CI takes a sample all is looked at."""
QUICK: dict[str, dict[str, Any]] = tomllib.loads((ROOT / "tests" / "quick.toml").read_text(encoding="utf-8"))
"""Package -> what most mistakes in it break first, and with which array library."""
VERSIONS_MATTER = (
    "tests/core/test_conformance.py",
    "tests/core/test_value_and_grad.py::test_zero_kernel",
    "tests/core/methods/test_every_method.py::test_value_is_a_valid_and_tight_bound",
    "tests/core/methods/test_every_method.py::test_half_precision_is_measured_in_float32",
    "tests/core/methods/test_every_method.py::test_gradient_of_the_frameworks",
)  # fmt: skip
"""What an old array library could break: a function that it lacks, a value, a dtype, a gradient."""
NETWORKS = "packages/networks/tests/networks"
STRANGER = str(ROOT / "tests" / "thirdparty")
"""Installed after specnorm, on its own: older pips do not see that the one provides what the other requires."""
BROWSER = "PySide6>=6.8"
"""Qt, whose wheels bring a Chromium."""
OLDEST = ("numpy==2.0.0", "array-api-compat==1.11", "jax==0.6.0", "jaxlib==0.6.0")
"""What pyproject.toml promises to work with. Older torch is left out: its wheels bring CUDA packages."""
ZOO = ("orthogonium>=0.0.4,<0.1", "deel-torchlip>=1.0.5,<2", "timm>=1.0.20,<2", "transformers>=5,<6")
ZOO_NEEDS = (
    "einops", "huggingface_hub", "pillow", "pyyaml", "regex", "safetensors", "tokenizers>=0.23.1,<0.24", "tqdm", "typer"
)  # fmt: skip
"""What those import, besides torch and torchvision: CI asks some of their models and layers, the session `zoo` all."""
KERAS = "keras>=3.5"
"""Whose layers the front door takes; it computes with any of the libraries here."""
OPERATORS = ("pylops>=2.3", "linear_operator>=0.6,<0.7")
"""Whose operators `operator_norm` takes; the second is gpytorch's."""
CONES = "clarabel>=0.10,<0.12"
"""Solves what `tests/helpers/lipsdp.py` asks. It brings SciPy, whose LAPACK it calls."""
EXTRAS = ("cli", "jax", "onnx", "keras", "cupy")
"""Besides torch, which `audit` begins with."""
DIST = ROOT / "build" / "dist"
ROOMS = (
    "specnorm.methods", "specnorm.plugin", "specnorm.proof", "specnorm.testing", "specnorm_networks", "specnorm_torch",
    "specnorm_jax", "specnorm_jax.training", "specnorm_numpy", "specnorm_audit", "specnorm_check",
)  # fmt: skip
"""Public modules besides `specnorm` and `specnorm.errors`."""
_DEFINED = """
import sys
from importlib import import_module
exported = [getattr(room, name) for room in map(import_module, sys.argv[1:]) for name in room.__all__]
named = [x for x in exported if not getattr(x, "__qualname__", "_").startswith("_")]
print(*sorted({f"{x.__module__}.{x.__qualname__}" for x in named if x.__module__.startswith("specnorm")}))
"""
"""Prints where the names that modules export are defined."""
_COMPILES = "import jax; print(jax.jit(lambda x: x + 1)(1))"
SMOKE = str(ROOT / "tests" / "outside" / "smoke.py")
BARE = str(ROOT / "tests" / "outside" / "bare.py")
WRITE_PAGES = str(ROOT / "tests" / "outside" / "pages.py")
PAGES = ROOT / "build" / "pages"
"""Where it writes them."""

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "virtualenv"  # nox brings it; six times as fast as venv
nox.options.reuse_existing_virtualenvs = True
# With CI=true a missing Python would otherwise be an error; skipped sessions are listed at the end.
nox.options.error_on_missing_interpreters = False
# Two lanes: half of the sessions keep one core busy. nox prints a session's output in one piece, when it is done;
# until then, `report_progress` prints a line a minute.
nox.options.parallel = 2
nox.options.allow_parallel = True
CORES = os.cpu_count() or 1
SHARED = ROOT / ".nox" / "environment"
"""Where `environment` installs."""
PROGRESS = ROOT / ".nox" / "progress"
"""Where running tests write how many are done; a file for each run of pytest."""
MINUTE = float(os.environ.get("SPECNORM_HEARTBEAT", "60"))
"""Seconds between two lines of progress."""


def report_progress(begin: float) -> None:
    """Print a line a minute, with how far the tests are, to the output of nox: a pipe, a file or a socket."""
    while True:
        time.sleep(MINUTE)
        parts = [f"nox > {(time.time() - begin) / 60:.0f} min"]
        for file in sorted(PROGRESS.glob("*")):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if file.stat().st_mtime > begin:
                    parts.append(file.read_text(encoding="utf-8"))
        print("; ".join(filter(None, parts)), flush=True)


def follow_parent(parent: int) -> None:
    """End this session, with all its processes, when the nox that started it has ended, however that was."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGTERM)


def stop(_number: int, _frame: object) -> None:
    """Stop as by ctrl-C, at which nox stops the sessions that it runs in processes of their own."""
    raise KeyboardInterrupt


def watch() -> None:
    """Where nox runs sessions, report progress and stop them with it; in such a session, follow it."""
    if "--parallel-worker" in sys.argv:
        threading.Thread(target=follow_parent, args=(os.getppid(),), daemon=True).start()
        return
    if not sys.stdout.isatty():  # where it is, nox shows the last line of each session
        threading.Thread(target=report_progress, args=(time.time(),), daemon=True).start()
    signal.signal(signal.SIGTERM, stop)


if any(part.startswith("nox") for part in Path(sys.argv[0]).parts[-2:]) and os.name == "posix":
    watch()


def prepare(session: nox.Session, *packages: str) -> None:
    """Install into the session's environment, under the project's constraints."""
    session.env["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    session.env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    # What is imported is compiled then, and kept: of torch, JAX and SciPy that is a small part.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.install("-q", "--no-compile", *packages)


def pytest(
    session: nox.Session, *arguments: str, backends: str, words: Sequence[str] | None = None, **environment: str
) -> None:
    """Run tests on every core; a backend that is named must be usable. ``words``: by default those of the command."""
    environment |= {"SPECNORM_TEST_BACKENDS": backends, "PYTHONDONTWRITEBYTECODE": ""}
    PROGRESS.mkdir(parents=True, exist_ok=True)
    environment["SPECNORM_PROGRESS"] = str(PROGRESS / f"{session.name}-{os.getpid()}")
    python = "python" if session.virtualenv.bin_paths else str(SHARED / "bin" / "python")
    command = ("-m", "pytest", "-n", str(CORES), "--dist=worksteal", "--no-header", *arguments)
    session.run(python, *command, *(session.posargs if words is None else words), env=environment, external=True)


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU."""
    try:
        subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def skip(session: nox.Session, reason: str) -> None:
    """Skip, loudly."""
    session.warn(f"NOT RUN: {reason}")
    session.skip(reason)


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Style and formatting."""
    prepare(session, *LINTERS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    folders = (ROOT, ROOT / "plugins", *sorted((ROOT / "packages").iterdir()))
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": os.pathsep.join(map(str, folders))})


@nox.session(python=PYTHON, default=False)
def environment(session: nox.Session) -> None:
    """What the sessions of tests share: every framework, installed once."""
    everything = ".[cli,keras,onnx,torch,jax,networks,networks-jax]"
    prepare(session, "-e", everything, DASK, CONES, SECOND_OPINION, KERAS, *OPERATORS, *JAX_LIBRARIES, *ZOO_NEEDS)
    prepare(session, STRANGER, "nox", *TYPE_CHECKERS, *TEST_TOOLS)
    prepare(session, "--no-deps", *ZOO)  # what these require would bring another build of torch


in_shared_environment = nox.session(venv_backend="none", requires=["environment"])
nightly = nox.session(venv_backend="none", requires=["environment"], default=False, tags=["nightly"])
"""Sessions of tests: they run in the environment that `environment` made."""


@in_shared_environment
def tests(session: nox.Session) -> None:
    """What a change can break, with every array library; compiled by JAX with less optimisation."""
    pytest(session, backends=BACKENDS, **cheap_compilation())


@in_shared_environment
def types(session: nox.Session) -> None:
    """Static types of everything, and of the pages' blocks as a user's programs."""
    session.run(str(SHARED / "bin" / "python"), WRITE_PAGES, str(PAGES), external=True)
    folders = ("specnorm", "plugins", "packages", "benchmarks", "tests", "noxfile.py", "conftest.py", str(PAGES))
    session.run(str(SHARED / "bin" / "mypy"), *folders, external=True)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def quick(session: nox.Session) -> None:
    """A minute of processor time for each package that is named, ``-- core networks``; other words are for pytest."""
    words = [word for word in session.posargs if word not in QUICK]
    for package in [word for word in session.posargs if word in QUICK] or ["core"]:
        loop = QUICK[package]
        pytest(session, *loop["tests"], *words, backends=loop["backends"], words=())


def cheap_compilation() -> dict[str, str]:
    """Let JAX compile with its older emitters and optimise less: most of its tests' time is compilation."""
    words = ("backend_optimization_level=0", "cpu_use_fusion_emitters=false", "llvm_disable_expensive_passes=true")
    flags = " ".join(f"--xla_{word}" for word in words)
    # A JAX that knows a flag no more ends the process.
    return {"XLA_FLAGS": flags} if output(str(SHARED / "bin" / "python"), "-c", _COMPILES, XLA_FLAGS=flags) else {}


@nox.session(python=PYTHON)
def cupy(session: nox.Session) -> None:
    """CuPy, on a machine with an NVIDIA GPU."""
    if not has_gpu():
        skip(session, "no NVIDIA GPU here, so nothing was tested with CuPy")
    prepare(session, "-e", ".[cli,cupy]", *TEST_TOOLS)
    pytest(session, "-n0", "-k", "cupy", backends="cupy")


@nox.session(python=PYTHON, default=False, tags=["nightly"])
def oldest(session: nox.Session) -> None:
    """Nightly: the oldest versions that pyproject.toml promises: what can depend on them, as `VERSIONS_MATTER` says."""
    prepare(session, "-e", ".[cli,jax]", *OLDEST, *TEST_TOOLS)
    # As it comes: with less optimisation and the cache on disk, this JAX was seen to give a gradient of zero.
    # Whatever a method gives in JAX is compared with NumPy: only there is each held against the truth, too.
    pytest(
        session, *VERSIONS_MATTER, "-k", "not (test_value_is_a_valid_and_tight_bound and jax32)", backends="numpy,jax32"
    )
    transforms = "(compiled and (f4 or tn)) or (second and f4) or pytree"
    pytest(session, "tests/plugins/test_autodiff_jax.py", "-k", transforms, backends="jax")


@nightly
def slow(session: nox.Session) -> None:
    """Nightly: the tests with the mark ``nightly``, with every array library."""
    flags = cheap_compilation()
    pytest(session, "-m", "nightly", backends=BACKENDS, SPECNORM_NIGHTLY="1", **flags)


@nightly
def soundness(session: nox.Session) -> None:
    """Nightly: every proven value, on 100,000 kernels and 20,000 layers at a size; all published layers."""
    larger = {"SPECNORM_SOUNDNESS_KERNELS": "100000", "SPECNORM_SOUNDNESS_LAYERS": "20000"}
    files = ["tests/core/test_reference_cases.py::test_layers_as_they_are_used"]
    pytest(session, "tests/core/soundness", *files, backends="numpy", **NIGHT, **larger)
    pytest(session, "tests/core/soundness", "-k", "jax", backends="jax", **NIGHT)


@nightly
def operators(session: nox.Session) -> None:
    """Nightly: operators of ONNX, 120,000 calls at random; a million compositions; 26,000 damaged files."""
    larger = {"SPECNORM_ONNX_DRAWS": "60000", "SPECNORM_FUZZ": "26000"}
    files = [f"{NETWORKS}/test_every_onnx_operator.py", f"{NETWORKS}/test_onnxruntime.py"]
    pytest(session, *files, "packages/audit/tests/audit/test_fuzz.py", "-rP", backends="numpy,torch", **NIGHT, **larger)
    part = 1_000_000 // CORES  # CI draws 16

    def compositions(at: int) -> None:
        seeds = {"SPECNORM_COMPOSITIONS": str(part), "SPECNORM_COMPOSITIONS_SEED": str(at * part)}
        pytest(session, "-n0", "-rP", f"{NETWORKS}/test_compositions.py", backends="numpy,torch", **NIGHT, **seeds)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(compositions, range(CORES)))


@nightly
def zoo(session: nox.Session) -> None:
    """Nightly: all models of transformers and timm, layers of orthogonium and torchlip, and the table of a tutorial."""
    pytest(session, "-s", f"{NETWORKS}/zoo", backends="torch", SPECNORM_NIGHTLY="1")


@nox.session(python=PYTHON, requires=["environment"])
def site(session: nox.Session) -> None:
    """The documentation as a site, in build/site: every warning is an error, and nothing is loaded from elsewhere."""
    prepare(session, *SITE_TOOLS)
    kinds = (str(ROOT / "docs" / "_site" / "kinds.py"), str(ROOT / "build" / "kinds.md"))
    session.run(str(SHARED / "bin" / "python"), *kinds, env=ONE_THREAD, external=True)
    built = ROOT / "build" / "site"
    session.run("mkdocs", "build", "--strict", "--site-dir", str(built), env={"NO_MKDOCS_2_WARNING": "true"})
    for page in built.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8")):
            if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag) and 'rel="canonical"' not in tag:
                session.error(f"{page.relative_to(built)} loads from elsewhere: {tag}")


@nox.session(python=PYTHON, requires=["site"], default=False, tags=["nightly"])
def browser(session: nox.Session) -> None:
    """Nightly: the site in the Chromium of Qt, as a telephone and a desktop show it."""
    prepare(session, "-e", ".", *TEST_TOOLS, BROWSER)
    pytest(session, "-n0", "tests/test_browser.py", backends="numpy", **NIGHT)


@nox.session(python=PYTHON, reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """What users get: types, no tests, NumPy at once, advice where an extra is missing, the README's audit."""
    DIST.mkdir(parents=True, exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    prepare(session, "build")
    # The wheel is built from the source distribution, so both are checked.
    session.run("python", "-m", "build", "--outdir", str(DIST), str(ROOT), silent=True)
    check_contents(session)
    install_wheel(session)
    session.run("python", "-W", "error", SMOKE, "numpy")
    said = session.run("specnorm", "backends", success_codes=[2], silent=True)
    if "pip install '.[cli]'" not in str(said):
        session.error(f"without the extra, `specnorm` says: {said}")
    strangers_plugin(session)
    core_alone(session)
    install_wheel(session, "torch")
    session.run("python", SMOKE, "torch")
    install_wheel(session, "cli,torch,onnx,keras")
    model = ROOT / "docs" / "examples" / "resnet20" / "resnet20.safetensors"
    session.run("specnorm", "audit", str(model), "--input-shape", "32")
    session.run("specnorm", "audit", str(model), "--format", "html", "--output", "report.html")
    session.run("specnorm", "backends")


def strangers_plugin(session: nox.Session) -> None:
    """Install a backend of somebody else, and check it, where pytest and other frameworks are missing."""
    prepare(session, STRANGER)
    check = "import specnorm_strict, specnorm.testing as t; t.check_backend(specnorm_strict.BACKEND)"
    session.run("python", "-W", "error", "-c", check)
    alone = "import sys, specnorm.testing; assert not {'pytest', 'torch', 'jax'} & set(sys.modules)"
    session.run("python", "-c", alone)


def core_alone(session: nox.Session) -> None:
    """Layers are computed and proven without the packages above the core; what needs these names what is missing."""
    for package in ("specnorm_train", "specnorm_networks", "specnorm_audit"):
        (folder,) = Path(session.virtualenv.location).rglob(package)
        shutil.rmtree(folder)
    session.run("python", "-W", "error", SMOKE, "core")
    for call in ("audit({})", "enclose(numpy.ones((1, 1))).certificate()"):
        code = f"import numpy, specnorm; specnorm.{call}"
        said = session.run("python", "-c", code, success_codes=[1], silent=True)
        if "needs the package specnorm_audit" not in str(said):
            session.error(f"without the package above, `specnorm.{call}` says: {said}")


def check_contents(session: nox.Session) -> None:
    """The wheel holds the packages and their marks, the source distribution no test data."""
    (built,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    names = zipfile.ZipFile(built).namelist()
    arrays = ("specnorm_numpy", "specnorm_torch", "specnorm_jax", "specnorm_cupy")
    above = ("specnorm_train", "specnorm_networks", "specnorm_audit", "specnorm_check")
    packages = ("specnorm", *arrays, "specnorm_keras", *above)
    for package in packages:
        if f"{package}/py.typed" not in names:
            session.error(f"{built.name} lacks {package}/py.typed")
    if "specnorm_audit/renderers/page/report.html" not in names:
        session.error(f"{built.name} lacks the template of the HTML report")
    strangers = {name.partition("/")[0] for name in names} - {*packages}
    if any(not name.endswith(".dist-info") for name in strangers):
        session.error(f"{built.name} holds {', '.join(sorted(strangers))}")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    if unwanted := sorted(name for name in inside if {"tests", "build", ".nox", ".venv"} & set(Path(name).parts)):
        session.error(f"{source.name} holds {', '.join(unwanted[:5])}")
    if missing := {"README.md", "LICENSE", "docs/index.md", "docs/examples/resnet20/resnet20.safetensors"} - inside:
        session.error(f"{source.name} lacks {', '.join(sorted(missing))}")


def install_wheel(session: nox.Session, extra: str = "", *more: str) -> None:
    """Install what `wheel` built, in a folder from which the checkout is not seen."""
    (built,) = DIST.glob("*.whl")
    session.run("pip", "uninstall", "-q", "-y", "specnorm-bounds", silent=True, success_codes=[0, 1])
    prepare(session, f"{built}[{extra}]" if extra else str(built), *more)
    session.chdir(session.create_tmp())


@nox.session(python=PYTHON, requires=["wheel"], default=False, tags=["nightly"])
@nox.parametrize("name", EXTRAS, ids=EXTRAS)
def extra(session: nox.Session, name: str) -> None:
    """The wheel with one extra and nothing else: what a user does first."""
    if name == "cupy" and not has_gpu():
        skip(session, "no NVIDIA GPU here, so the extra cupy was not installed")
    install_wheel(session, name)
    session.run("python", SMOKE, name)


@nox.session(python=PYTHON, requires=["wheel", "environment"], default=False, tags=["nightly"])
def typing(session: nox.Session) -> None:
    """The wheel's types from outside: users' programs under mypy and pyright, and how complete the types are."""
    # basedpyright is pyright as a wheel that brings its own node.
    install_wheel(session, "", *TYPE_CHECKERS, "basedpyright>=1.30")
    shutil.copy(ROOT / "tests" / "outside" / "program.py", Path.cwd())
    rules = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": "error"}
    Path("pyrightconfig.json").write_text(json.dumps(rules))
    session.run("mypy", "--strict", "--no-incremental", "program.py")
    python = ("--pythonpath", str(Path(session.bin) / "python"))
    session.run("basedpyright", *python, "program.py")
    check_pages(session)
    check_exports(session)


def check_exports(session: nox.Session) -> None:
    """What public modules export is in pyright's reports, and its types are known; those of `specnorm` are stated."""
    python = SHARED / "bin" / "python"

    def defined(*rooms: str) -> set[str]:
        return set(str(session.run(str(python), "-c", _DEFINED, *rooms, external=True, silent=True)).split())

    stated = defined("specnorm", "specnorm.errors")
    exported = stated | defined(*ROOMS)
    # It looks for a package with the Python of the path, whatever `--pythonpath` says.
    pyright = ("env", f"PATH={python.parent}{os.pathsep}{os.environ['PATH']}", str(Path(session.bin) / "basedpyright"))
    symbols: dict[str, dict[str, object]] = {}
    for package in sorted({name.partition(".")[0] for name in exported}):
        verify = ("--verifytypes", package, "--ignoreexternal", "--outputjson")
        said = session.run(*pyright, *verify, external=True, silent=True, success_codes=[0, 1])
        found = json.loads(str(said))["typeCompleteness"]
        session.log(f"type completeness of {package}: {found['completenessScore']:.1%}")
        symbols |= {x["name"]: x for x in found["symbols"] if f"{x['name']}.".startswith(f"{package}.")}
    if missing := sorted(exported - symbols.keys()):
        session.error(f"pyright's reports lack {', '.join(missing[:5])}: they have {len(symbols)} symbols in all")
    for name, symbol in symbols.items():
        # Attributes in other rooms may leave their type to be inferred.
        names = stated if symbol["isTypeAmbiguous"] else exported
        if not symbol["isTypeKnown"] and any(f"{name}.".startswith(f"{it}.") for it in names):
            session.error(f"the type of {name} is not stated")


def check_pages(session: nox.Session) -> None:
    """The pages' blocks as a user's programs under pyright, where every framework is installed."""
    python = str(SHARED / "bin" / "python")
    session.run(python, WRITE_PAGES, "pages", external=True)
    # At a prompt, an expression prints its value. CuPy is installed nowhere here.
    rules = {"typeCheckingMode": "basic", "reportUnusedExpression": "none", "ignore": ["*_cupy.py"]}
    Path("pages/pyrightconfig.json").write_text(json.dumps(rules))
    session.run("basedpyright", "--pythonpath", python, "--project", "pages")


@nox.session(python=PYTHON, default=False)
def bench(session: nox.Session) -> None:
    """The benchmark suite, some six minutes on one thread; the differences of its page show what got slower."""
    prepare(session, "-e", ".[cli,torch,jax]", *TEST_TOOLS)
    out = "docs/benchmarks/suite.jsonl"
    session.run("python", "-m", "benchmarks", "run", *session.posargs, "--out", out, env=ONE_THREAD)


def interpreter(version: str) -> str | None:
    """A Python of this version that runs: of the path, of pyenv or of uv. Nothing is downloaded."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [f"python{version}", *map(str, pyenv.glob(f"{version}.*/bin/python{version}"))]
    found += output("uv", "python", "find", "--no-python-downloads", version).splitlines()
    # pyenv's stand-in on the path is found even where it runs nothing.
    return next((it for it in found if output(it, "-c", "import venv; print('runs')")), None)


def output(*command: str, **environment: str) -> str:
    """What a command prints, or nothing where it fails."""
    try:
        env = {**os.environ, **environment}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=env)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


@nox.session(venv_backend="none", requires=["wheel"], default=False, tags=["nightly"])
def bare(session: nox.Session) -> None:
    """Nightly, and before a release: wheel and source distribution in bare environments of every Python here."""
    pythons = {version: interpreter(version) for version in (PYTHON, *OTHER_PYTHONS)}
    for version, path in pythons.items():
        if path is None:
            session.warn(f"NOT RUN: Python {version} is not installed")
    built = [str(path) for path in (*DIST.glob("*.whl"), *DIST.glob("*.tar.gz"))]
    session.run("python3", BARE, *filter(None, pythons.values()), *built, external=True)


@nox.session(python=PYTHON, requires=["wheel"], default=False, tags=["nightly"])
def conda(session: nox.Session) -> None:
    """Nightly, and before a release: the conda recipe renders, and builds where conda-forge can be reached."""
    prepare(session, "py-rattler-build>=0.70,<1")
    session.run("python", str(ROOT / "tests" / "outside" / "recipe.py"), str(ROOT / "build" / "conda"))


def other_python(version: str) -> None:
    """Register a session for another Python; skipped, and saying so, where that is missing."""
    path = interpreter(version)
    backend = None if path else "none"

    @nox.session(python=path, venv_backend=backend, name=f"python-{version}", default=False, tags=["nightly"])
    def on_it(session: nox.Session) -> None:
        """Nightly: every test with NumPy alone, on this Python."""
        if path is None:
            skip(session, f"Python {version} is not installed")
        prepare(session, "-e", ".[cli]", *TEST_TOOLS)
        pytest(session, backends="numpy")


for _version in OTHER_PYTHONS:
    other_python(_version)

if __name__ == "__main__":
    nox.main()
