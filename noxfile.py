"""Sessions, each named after what it checks. ``nox`` alone runs all that a CPU can do; CI and the README run that."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHON = "3.11"
OTHER_PYTHONS = ("3.12", "3.13")
BACKENDS = ("numpy", "strict", "torch", "jax")

ELSEWHERE = ("--ignore=tests/test_house.py", "--ignore=tests/test_docs.py")
"""Tests that have a session of their own."""
LONG = (
    "soundness", "auditing/test_executing.py", "test_comparison.py", "test_tracking.py", "test_mutations.py",
    "test_real_weights.py",
)  # fmt: skip
NUMPY_ONLY = tuple(f"--ignore=tests/{name}" for name in LONG)
"""Long tests of what no library has a part in: once, with NumPy, is enough."""
HOST = (
    "test_cli", "test_usage", "networks/test_rules", "auditing/test_browser", "auditing/test_geometry",
    "auditing/test_keras", "auditing/test_layers", "auditing/test_onnx", "auditing/test_output", "auditing/test_plots",
    "auditing/test_renderers", "auditing/test_renderers_html", "auditing/test_sharded",
)  # fmt: skip
HOST_ONLY = tuple(f"--ignore=tests/{name}.py" for name in HOST)
"""Tests of files and words, where no array library but NumPy is used: not in the sessions of the others."""
TEST_TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3", "python-flint>=0.8")
JAX_LIBRARIES = ("equinox>=0.11", "flax>=0.10", "optax>=0.2")
"""What the training comforts for JAX serve; none is required."""
DASK = "distributed>=2024.8"
"""An engine that audits can run on; not required."""
STRANGER = "./tests/thirdparty"
"""Installed after specnorm, on its own: older pips do not see that the one provides what the other requires."""
LINTERS = ("ruff>=0.11",)
SITE_TOOLS = ("mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1,<2")
OLDEST = ("numpy==2.0.0", "array-api-compat==1.11", "jax==0.6.0", "jaxlib==0.6.0")
"""What pyproject.toml promises to work with. Older torch is left out: its wheels bring CUDA packages."""
EXTRAS = ("cli", "torch", "jax", "onnx", "keras", "plot", "cupy")
DIST = ROOT / "build" / "dist"
FRONT = tuple(
    f"specnorm.{name}." for name in ("api", "conv", "errors", "projections", "result", "training", "backends")
)
"""Where the names that `specnorm` exports are defined. Inner modules may leave an attribute's type to be inferred."""
SMOKE = str(ROOT / "tests" / "outside" / "smoke.py")

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
# With CI=true a missing Python would otherwise be an error; skipped sessions are listed at the end.
nox.options.error_on_missing_interpreters = False


def prepare(session: nox.Session, *packages: str) -> None:
    """Install into the session's environment, under the project's constraints."""
    session.env["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    session.env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    session.install("-q", *packages)


def pytest(session: nox.Session, *arguments: str, backends: str) -> None:
    """Run tests on two cores; a backend that is named must be usable."""
    environment = {"SPECNORM_TEST_BACKENDS": backends}
    session.run("pytest", "-n", "2", "--no-header", *arguments, *session.posargs, env=environment)


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


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Static types of the package, the plugins, the tests and this file, with the frameworks at hand."""
    prepare(session, "-e", ".[cli,plot,torch,jax]", "mypy>=1.15", "nox", *TEST_TOOLS)
    session.run("mypy", "specnorm", "plugins", "tests", "noxfile.py")


@nox.session(python=PYTHON)
def house(session: nox.Session) -> None:
    """Which way imports go, what an import costs, what the texts may say."""
    prepare(session, "-e", ".[cli]", *TEST_TOOLS)
    session.run("pytest", "--no-header", "tests/test_house.py", *session.posargs)


@nox.session(python=PYTHON)
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """One array library alone: no other framework is installed."""
    extras = f"cli,keras,onnx,{backend}" if backend in ("torch", "jax") else "cli,keras,onnx,plot"
    prepare(session, "-e", f".[{extras}]", *TEST_TOOLS)
    if backend == "strict":
        prepare(session, STRANGER)
    if backend == "jax":
        prepare(session, *JAX_LIBRARIES)
    if backend == "numpy":
        prepare(session, DASK)
        pytest(session, *ELSEWHERE, backends=backend)
        return
    with faster_compilation(session) if backend == "jax" else nullcontext():
        pytest(session, *ELSEWHERE, *NUMPY_ONLY, *HOST_ONLY, backends=backend)
    # Soundness is checked of what users run: compiled with every optimisation.
    pytest(session, "tests/soundness", "-k", backend, backends=backend)
    pytest(session, "tests/auditing/test_executing.py", "-k", "plugin or state_dict", backends=backend)


@contextmanager
def faster_compilation(session: nox.Session) -> Iterator[None]:
    """Let JAX optimise less, and share what it compiles between workers: most of its tests' time is compilation."""
    settings = {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / "build" / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    before = dict(session.env)
    session.env.update(settings)
    yield
    session.env.clear()
    session.env.update(before)


@nox.session(python=PYTHON)
def cross(session: nox.Session) -> None:
    """Several frameworks in one process: each array finds its own plugin, mixed ones are refused."""
    prepare(session, "-e", ".[cli,torch,jax]", *TEST_TOOLS)
    prepare(session, STRANGER)
    pytest(session, "tests/test_backends.py", "-k", "not conformance", backends="numpy,strict,torch,jax")


@nox.session(python=PYTHON)
def cupy(session: nox.Session) -> None:
    """CuPy, on a machine with an NVIDIA GPU."""
    if not has_gpu():
        skip(session, "no NVIDIA GPU here, so nothing was tested with CuPy")
    prepare(session, "-e", ".[cli,cupy]", *TEST_TOOLS)
    session.run("pytest", "--no-header", "-k", "cupy", "tests", env={"SPECNORM_TEST_BACKENDS": "cupy"})


@nox.session(python=PYTHON)
def oldest(session: nox.Session) -> None:
    """The oldest versions that pyproject.toml promises."""
    prepare(session, "-e", ".[cli,jax]", *OLDEST, *TEST_TOOLS)
    files = ("tests/test_backends.py", "tests/test_value_and_grad.py", "tests/methods/test_every_method.py")
    pytest(session, *files, backends="numpy,jax32")
    pytest(session, "tests/test_autodiff_jax.py", "-k", "compiled or pytree or second", backends="jax")


@nox.session(python=PYTHON, default=False)
def soundness(session: nox.Session) -> None:
    """Nightly: every proven value against ball arithmetic, on 100,000 kernels; and mutations. Half an hour."""
    prepare(session, "-e", ".[cli]", *TEST_TOOLS)
    session.env["SPECNORM_SOUNDNESS_KERNELS"] = "100000"
    session.env["SPECNORM_HYPOTHESIS_PROFILE"] = "nightly"
    pytest(session, "tests/soundness", "tests/test_mutations.py", backends="numpy")


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Every example in the README and the documentation, run."""
    prepare(session, "-e", ".[cli,plot,torch,jax]", *TEST_TOOLS)
    pytest(session, "tests/test_docs.py", backends="numpy,torch,jax")


@nox.session(python=PYTHON)
def site(session: nox.Session) -> None:
    """The documentation as a site, in build/site: every warning is an error, and nothing is loaded from elsewhere."""
    prepare(session, *SITE_TOOLS)
    built = ROOT / "build" / "site"
    told = {"NO_MKDOCS_2_WARNING": "true"}
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(built), env=told)
    for page in built.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8")):
            if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag) and 'rel="canonical"' not in tag:
                session.error(f"{page.relative_to(built)} loads from elsewhere: {tag}")


@nox.session(python=PYTHON)
def thirdparty(session: nox.Session) -> None:
    """A stranger's plugin: built, installed and checked where nothing else is, pytest included."""
    prepare(session, ".")
    prepare(session, STRANGER)
    check = "import specnorm_strict, specnorm.testing as t; t.check_backend(specnorm_strict.BACKEND)"
    session.chdir(session.create_tmp())
    session.run("python", "-W", "error", "-c", check)
    alone = "import sys, specnorm.testing; assert not {'pytest', 'torch', 'jax'} & set(sys.modules)"
    session.run("python", "-c", alone)


@nox.session(python=PYTHON)
def wheel(session: nox.Session) -> None:
    """What users get: types, no tests, NumPy at once, and advice where an extra is missing."""
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
    if "pip install 'specnorm-bounds[cli]'" not in str(said):
        session.error(f"without the extra, `specnorm` says: {said}")


def check_contents(session: nox.Session) -> None:
    """The wheel holds the packages and their marks, the source distribution no test data."""
    (built,), (source,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    names = zipfile.ZipFile(built).namelist()
    packages = ("specnorm", "specnorm_numpy", "specnorm_torch", "specnorm_jax", "specnorm_cupy")
    for package in packages:
        if f"{package}/py.typed" not in names:
            session.error(f"{built.name} lacks {package}/py.typed")
    if "specnorm/auditing/renderers/page/report.html" not in names:
        session.error(f"{built.name} lacks the template of the HTML report")
    strangers = {name.partition("/")[0] for name in names} - set(packages)
    if any(not name.endswith(".dist-info") for name in strangers):
        session.error(f"{built.name} holds {', '.join(sorted(strangers))}")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    if unwanted := sorted(name for name in inside if name.startswith(("tests", "build", ".nox", ".venv"))):
        session.error(f"{source.name} holds {', '.join(unwanted[:5])}")
    if missing := {"README.md", "LICENSE", "docs/index.md", "docs/examples/resnet20/resnet20.safetensors"} - inside:
        session.error(f"{source.name} lacks {', '.join(sorted(missing))}")


def install_wheel(session: nox.Session, extra: str = "", *more: str) -> None:
    """Install what `wheel` built, in a folder from which the checkout is not seen."""
    (built,) = DIST.glob("*.whl")
    session.run("pip", "uninstall", "-q", "-y", "specnorm-bounds", silent=True, success_codes=[0, 1])
    prepare(session, f"{built}[{extra}]" if extra else str(built), *more)
    session.chdir(session.create_tmp())


@nox.session(python=PYTHON, requires=["wheel"])
@nox.parametrize("name", EXTRAS, ids=EXTRAS)
def extra(session: nox.Session, name: str) -> None:
    """The wheel with one extra and nothing else: what a user does first."""
    if name == "cupy" and not has_gpu():
        skip(session, "no NVIDIA GPU here, so the extra cupy was not installed")
    install_wheel(session, name)
    session.run("python", SMOKE, name)


@nox.session(python=PYTHON, requires=["wheel"])
def typing(session: nox.Session) -> None:
    """The wheel's types from outside: a user's program under mypy and pyright, and how complete the types are."""
    # basedpyright is pyright as a wheel that brings its own node.
    install_wheel(session, "", "mypy>=1.15", "basedpyright>=1.30")
    folder = Path.cwd()
    shutil.copy(ROOT / "tests" / "outside" / "program.py", folder)
    rules = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": "error"}
    (folder / "pyrightconfig.json").write_text(json.dumps(rules))
    session.run("mypy", "--strict", "--no-incremental", "program.py")
    python = ("--pythonpath", str(Path(session.bin) / "python"))
    session.run("basedpyright", *python, "program.py")
    verify = ("basedpyright", *python, "--verifytypes", "specnorm", "--ignoreexternal", "--outputjson")
    said = session.run(*verify, silent=True, success_codes=[0, 1])
    found = json.loads(str(said))["typeCompleteness"]
    session.log(f"type completeness of all modules: {found['completenessScore']:.1%}; {found['exportedSymbolCounts']}")
    unknown = [x for x in found["symbols"] if not x["isTypeKnown"] or x["isTypeAmbiguous"]]
    for name in (x["name"] for x in unknown if x["name"].startswith(FRONT)):
        session.error(f"the type of {name} is not stated")


@nox.session(python=PYTHON)
def audit(session: nox.Session) -> None:
    """The README's audit and those of seven published models, from the wheel in a clean environment."""
    prepare(session, ".[cli,torch,onnx,keras]")
    model = "docs/examples/resnet20/resnet20.safetensors"
    session.run("specnorm", "audit", model, "--input-shape", "32")
    session.run("specnorm", "audit", model, "--format", "html", "--output", f"{session.create_tmp()}/report.html")
    for weights in published():
        given = weights.with_name("geometry.json")
        options = ["--geometry", str(given)] if given.exists() else []
        session.run("specnorm", "audit", str(weights), *options)
    session.run("specnorm", "backends")


def published() -> list[Path]:
    """The published models of the test data: the folders whose `layers.json` names an original file."""
    known = {path: json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "data").glob("*/layers.json"))}
    return [path.with_name(told["file"]) for path, told in known.items() if "file" in told]


@nox.session(python=PYTHON, default=False)
def bench(session: nox.Session) -> None:
    """The benchmark suite, some fifteen minutes on one thread, and what got slower than the committed figures."""
    prepare(session, "-e", ".[cli,torch,jax,plot]", *TEST_TOOLS)
    out = Path(session.create_tmp()) / "suite.jsonl"
    session.chdir("tests")
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    words = session.posargs or ["--size", "full"]
    session.run("python", "-m", "bench", "run", *words, "--out", str(out.resolve()), env=one_thread)
    session.run("python", "-m", "bench", "page", str(out.resolve()))
    session.run("python", "-m", "bench", "compare", str(out.resolve()), success_codes=[0, 1])


def other_python(version: str) -> None:
    """Register a session for another Python; skipped, and saying so, where that is missing."""
    name = f"python-{version}"
    if usable(version):

        @nox.session(python=version, name=name)
        def present(session: nox.Session) -> None:
            """NumPy alone, on this Python."""
            prepare(session, "-e", ".[cli]", *TEST_TOOLS)
            pytest(session, *ELSEWHERE, *NUMPY_ONLY, backends="numpy")

    else:

        @nox.session(venv_backend="none", name=name)
        def missing(session: nox.Session) -> None:
            """NumPy alone, on this Python."""
            skip(session, f"Python {version} is not installed")


def usable(version: str) -> bool:
    """Whether that Python runs: a version manager's stand-in is found, but may fail."""
    try:
        done = subprocess.run([f"python{version}", "-c", "import venv"], check=False, capture_output=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0


for _version in OTHER_PYTHONS:
    other_python(_version)
