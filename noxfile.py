"""Sessions, each named after what it checks. ``nox`` alone runs all that a CPU can do; CI and the README run that."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHON = "3.11"
OTHER_PYTHONS = ("3.12", "3.13")
BACKENDS = ("numpy", "strict", "torch", "jax")

ELSEWHERE = ("--ignore=tests/test_house.py", "--ignore=tests/test_docs.py")
"""Tests that have a session of their own."""
LONG = ("soundness", "test_comparison.py", "test_mutations.py", "test_real_weights.py")
NUMPY_ONLY = tuple(f"--ignore=tests/{name}" for name in LONG)
"""Long tests of what no library has a part in: once, with NumPy, is enough."""
TEST_TOOLS = ("hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3", "python-flint>=0.8")
JAX_LIBRARIES = ("equinox>=0.11", "flax>=0.10", "optax>=0.2")
"""What the training comforts for JAX serve; none is required."""
STRANGER = "./tests/thirdparty"
"""Installed after specnorm, on its own: older pips do not see that the one provides what the other requires."""
LINTERS = ("ruff>=0.11",)
OLDEST = ("numpy==2.0.0", "array-api-compat==1.11", "jax==0.6.0", "jaxlib==0.6.0")
"""What pyproject.toml promises to work with. Older torch is left out: its wheels bring CUDA packages."""

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
    prepare(session, "-e", ".[cli,torch,jax]", "mypy>=1.15", "nox", *TEST_TOOLS)
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
    extras = f"cli,keras,onnx,{backend}" if backend in ("torch", "jax") else "cli,keras,onnx"
    prepare(session, "-e", f".[{extras}]", *TEST_TOOLS)
    if backend == "strict":
        prepare(session, STRANGER)
    if backend == "jax":
        prepare(session, *JAX_LIBRARIES)
    if backend == "numpy":
        pytest(session, *ELSEWHERE, backends=backend)
    else:
        pytest(session, *ELSEWHERE, *NUMPY_ONLY, backends=backend)
        pytest(session, "tests/soundness", "-k", backend, backends=backend)


@nox.session(python=PYTHON)
def cross(session: nox.Session) -> None:
    """Several frameworks in one process: each array finds its own plugin, mixed ones are refused."""
    prepare(session, "-e", ".[cli,torch,jax]", *TEST_TOOLS)
    prepare(session, STRANGER)
    pytest(session, "tests/test_backends.py", "-k", "not conformance", backends="numpy,strict,torch,jax")


@nox.session(python=PYTHON)
def cupy(session: nox.Session) -> None:
    """CuPy, on a machine with an NVIDIA GPU."""
    try:
        subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
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
    """Nightly: every proven value against ball arithmetic, on 100,000 kernels; and mutations. An hour on one core."""
    prepare(session, "-e", ".[cli]", *TEST_TOOLS)
    session.env["SPECNORM_SOUNDNESS_KERNELS"] = "100000"
    session.env["SPECNORM_HYPOTHESIS_PROFILE"] = "nightly"
    pytest(session, "tests/soundness", "tests/test_mutations.py", backends="numpy")


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    """Every example in the README and the documentation, run."""
    prepare(session, "-e", ".[cli,torch,jax]", *TEST_TOOLS)
    pytest(session, "tests/test_docs.py", backends="numpy,torch,jax")


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
    folder = Path(session.create_tmp())
    prepare(session, "build")
    for old in folder.glob("*.*"):
        old.unlink()
    # The wheel is built from the source distribution, so both are checked.
    session.run("python", "-m", "build", "--outdir", str(folder), str(ROOT), silent=True)
    (built,) = folder.glob("*.whl")
    names = zipfile.ZipFile(built).namelist()
    packages = ("specnorm", "specnorm_numpy", "specnorm_torch", "specnorm_jax", "specnorm_cupy")
    for package in packages:
        if f"{package}/py.typed" not in names:
            session.error(f"{built.name} lacks {package}/py.typed")
    strangers = {name.partition("/")[0] for name in names} - set(packages)
    if any(not name.endswith(".dist-info") for name in strangers):
        session.error(f"{built.name} holds {', '.join(sorted(strangers))}")
    session.run("pip", "uninstall", "-q", "-y", "specnorm-bounds", silent=True, success_codes=[0, 1])
    prepare(session, "--no-cache-dir", "--force-reinstall", str(built))
    session.chdir(folder)
    use = "import numpy, specnorm; assert 3.9 < specnorm.f4_bound(numpy.ones((2, 2, 2, 2))) < 8.1; specnorm.__version__"
    session.run("python", "-W", "error", "-c", use)
    said = session.run("specnorm", "backends", success_codes=[2], silent=True)
    if "pip install 'specnorm-bounds[cli]'" not in str(said):
        session.error(f"without the extra, `specnorm` says: {said}")


@nox.session(python=PYTHON)
def audit(session: nox.Session) -> None:
    """The README's audit, from a clean environment."""
    prepare(session, ".[cli]")
    model = "docs/examples/resnet20/resnet20.safetensors"
    session.run("specnorm", "audit", model, "--input-shape", "32")
    session.run("specnorm", "backends")


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
