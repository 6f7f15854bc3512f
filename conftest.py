"""The `xp` fixture: one array library at a time; what is left to the night; the hypothesis profiles.

``SPECNORM_TEST_BACKENDS=numpy,torch`` restricts the libraries; one that is named there must be usable, or its tests
fail instead of being skipped. Tests with the mark ``nightly`` run where ``SPECNORM_NIGHTLY`` is set.
``SPECNORM_HYPOTHESIS_PROFILE`` is ``ci`` (default) or ``nightly``.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

# Before any test module can import an array library. The matrices here are small: threads would only fight for cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Before any test module can import JAX: float64 everywhere but under `jax32`, which is plain JAX.
os.environ.setdefault("JAX_ENABLE_X64", "1")

from helpers.libraries import LIBRARIES, Lib, Unusable, opened  # noqa: E402 - imports NumPy, after the lines above
from helpers.torch_exports import keep_tables  # noqa: E402

_ASKED = [name for name in os.environ.get("SPECNORM_TEST_BACKENDS", "").replace(" ", "").split(",") if name]
_UNKNOWN = sorted(set(_ASKED) - set(LIBRARIES) - set(LIBRARIES.values()))
if _UNKNOWN:
    raise pytest.UsageError(f"SPECNORM_TEST_BACKENDS names {', '.join(_UNKNOWN)}; known: {', '.join(LIBRARIES)}")
_PARAMS = [name for name, family in LIBRARIES.items() if not _ASKED or name in _ASKED or family in _ASKED]
if "default" not in _ASKED and "default" in _PARAMS:
    _PARAMS.remove("default")  # it has a file of its own; all tests with it by SPECNORM_TEST_BACKENDS=default

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
if "SPECNORM_NIGHTLY" not in os.environ and "jax32" not in _ASKED and "jax" in _PARAMS:
    _PARAMS.remove("jax32")  # JAX as it comes: nightly, and with the oldest versions

settings.register_profile("ci", derandomize=True, max_examples=30, database=None, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("nightly", max_examples=1000, print_blob=True, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("SPECNORM_HYPOTHESIS_PROFILE", "ci"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give ``xp`` each library: JAX once, and as it comes too where the mark says that the width of floats matters."""
    if "xp" in metafunc.fixturenames:
        once = "jax" in _PARAMS and metafunc.definition.get_closest_marker("widths") is None
        metafunc.parametrize("xp", [name for name in _PARAMS if not (once and name == "jax32")], indirect=True)


@pytest.fixture
def xp(request: pytest.FixtureRequest) -> Iterator[Lib]:
    """One array library, ready to make arrays; see `libraries.Lib`."""
    try:
        manager = opened(request.param)
        lib = manager.__enter__()
    except Unusable as reason:
        if _ASKED:
            pytest.fail(f"{request.param} was asked for, but: {reason}")
        pytest.skip(str(reason))
    try:
        yield lib
    finally:
        manager.__exit__(None, None, None)


@pytest.fixture
def torch() -> Any:
    """Torch; where it is missing, the test is skipped."""
    return pytest.importorskip("torch", exc_type=ImportError)


@pytest.fixture
def jax() -> Any:
    """JAX, likewise."""
    return pytest.importorskip("jax", exc_type=ImportError)


@pytest.fixture
def nnx() -> Any:
    """Flax's modules, likewise."""
    return pytest.importorskip("flax.nnx", exc_type=ImportError)


@pytest.fixture
def seeded_torch() -> None:
    """Torch's generator, seeded."""
    pytest.importorskip("torch", exc_type=ImportError).manual_seed(0)


@pytest.fixture
def fresh_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch with its generator seeded, nothing compiled, and compiled code of its own.

    Another process may be writing to the common cache, or may have died there.
    """
    import torch

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def jax32() -> Iterator[None]:
    """JAX as it comes: in float32."""
    try:
        with opened("jax32"):
            yield
    except Unusable as reason:
        pytest.skip(str(reason))


def pytest_runtest_setup() -> None:
    """Exports of torch are many, and share what depends on no module."""
    keep_tables()


class Progress:
    """How many tests are done, in the file that ``SPECNORM_PROGRESS`` names, while they run."""

    file = Path(os.environ.get("SPECNORM_PROGRESS", os.devnull))
    done = 0

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session
        self.file.write_text("collecting tests", encoding="utf-8")

    def pytest_runtest_logfinish(self) -> None:
        self.done += 1
        total = self.session.testscollected
        self.file.write_text(f"{self.done:,} of {total:,} tests", encoding="utf-8")

    def pytest_sessionfinish(self) -> None:
        self.file.unlink(missing_ok=True)


def pytest_configure(config: pytest.Config) -> None:
    """Show progress, of all workers together; plant the mistake that ``SPECNORM_MISTAKE`` has (`test_quick`)."""
    if "SPECNORM_MISTAKE" in os.environ:
        from helpers.mutants import rewritten

        folder, right, wrong = json.loads(os.environ["SPECNORM_MISTAKE"])
        planted = ExitStack()
        planted.enter_context(rewritten(Path(__file__).parent / folder, right, wrong))
        config.add_cleanup(planted.close)
    if "SPECNORM_PROGRESS" in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress())


WHOLE = {"numpy", "strict", "torch", "jax"} <= set(_ASKED)
"""Whether every library is there, so that no test may be skipped for want of one: no other session would run it."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as nightly what `is_late`, and leave out what is nightly, unless it is night."""
    cases: Counter[tuple[str, str]] = Counter()
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            test = f"{item.path.name} {item.originalname}"
            case = (test, str(item.callspec.params.get("xp", "")))
            cases[case] += 1
            if is_late(item, crc32(test.encode()) + cases[case]):
                item.add_marker("nightly")
    if "SPECNORM_NIGHTLY" not in os.environ:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("nightly")])
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


def is_late(item: pytest.Function, turn: int) -> bool:
    """Whether CI leaves out this case of a test.

    Of a test with the mark ``sampled`` CI takes the cases that the mark names, or one in so many. Without the mark
    ``libraries`` it takes NumPy, and of the other libraries each in turn: a mistake in one shows in many tests.
    """
    sampled = item.get_closest_marker("sampled")
    if sampled and not any(turn % by == 0 if isinstance(by, int) else by in item.callspec.id for by in sampled.args):
        return True
    first, *others = [name for name in _PARAMS if name != "jax32"] or [""]
    name = item.callspec.params.get("xp", first)
    if name == first or len(others) < 2 or item.get_closest_marker("libraries"):
        return False
    return name != others[turn % len(others)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what is skipped for want of a library where all are asked for."""
    report = yield
    if WHOLE and report.skipped and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if re.search(r"could not import|No module named|not installed|no plugin for", reason) and "cupy" not in reason:
            report.outcome = "failed"
            report.longrepr = f"{reason}; no session runs this: install it in `environment` (noxfile.py)"
    return report
