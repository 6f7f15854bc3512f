"""No test is lost: the rule that says which session runs an item."""

from __future__ import annotations

import sys
from pathlib import Path

import parts
import pytest

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent

SAMPLE = """
import pytest
from strategies import something_that_torch_has_no_part_in

SIZES = {"a": 1}
MAKERS = {"one": lambda: __import__("jax")}


def helper():
    pytest.importorskip("torch")


@pytest.fixture
def made():
    return helper()


def test_nothing():
    assert SIZES


def test_itself():
    import jax.numpy as jnp


def test_helper():
    helper()


def test_fixture(made):
    pass


@pytest.mark.usefixtures("made")
def test_fixture_by_name():
    pass


@pytest.mark.parametrize("name", MAKERS)
def test_table(name):
    pass


class TestBoth:
    def test_one(self, made):
        assert MAKERS
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test_nothing", set()),
        ("test_itself", {"jax"}),
        ("test_helper", {"torch"}),
        ("test_fixture", {"torch"}),
        ("test_fixture_by_name", {"torch"}),
        ("test_table", {"jax"}),
        ("TestBoth", {"torch", "jax"}),
    ],
)
def test_a_test_has_a_part_in_what_it_reaches(tmp_path: Path, name: str, expected: set[str]) -> None:
    path = tmp_path / "test_sample.py"
    path.write_text(SAMPLE)
    assert parts.named(path, name) == expected


@pytest.mark.parametrize(
    "line", ['torch: Any = pytest.importorskip("torch")', "import torch", "from torch import nn", "import torch as t"]
)
def test_a_module_that_needs_a_library_is_its_own(tmp_path: Path, line: str) -> None:
    path = tmp_path / "test_sample.py"
    path.write_text(f"{line}\n\n\ndef test_nothing():\n    pass\n")
    assert parts.named(path, "test_nothing") == {"torch"}


def test_a_library_as_a_parameter_stands_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "test_sample.py"
    path.write_text(SAMPLE)
    assert parts.libraries(path, "TestBoth", ["jax32", 3]) == {"jax"}
    assert parts.libraries(path, "TestBoth", ["numpy"]) == set()
    assert parts.libraries(path, "TestBoth", ["array_api_strict", "torch"]) == {"strict", "torch"}
    assert parts.libraries(path, "TestBoth", ["f4"]) == {"torch", "jax"}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("Skipped: could not import 'torch': No module named 'torch'", {"torch"}),
        ("Skipped: array_api_strict is not installed", {"strict"}),
        ("Skipped: no plugin for jax: pip install -e .", {"jax"}),
        ("Skipped: torch has one device here", set()),
        ("Skipped: could not import 'h5py'", set()),
    ],
)
def test_what_is_missing_is_read_from_the_reason(reason: str, expected: set[str]) -> None:
    assert parts.missing(reason) == expected


def test_sessions_choose_by_mark_and_what_none_would_run_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the suite's own conftest: each library's items, and an item that hides what it needs."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{':'.join(sys.path)}")
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(
        test_sample="""
        import pytest

        def test_plain():
            pass

        def test_of_every_library(xp):
            pass

        def test_of_one():
            pytest.skip("torch is not installed")

        def test_that_hides_it():
            pytest.skip("to" "rch is not installed")
        """
    )
    monkeypatch.setenv("SPECNORM_TEST_BACKENDS", "numpy")
    everything = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist")
    everything.assert_outcomes(passed=2, skipped=1, failed=1)
    everything.stdout.fnmatch_lines(["*no session runs this: mark it with torch*"])
    monkeypatch.setenv("SPECNORM_TEST_BACKENDS", "strict,torch")
    chosen = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "no:xdist", "--collect-only", "-q", "-m", "torch"
    )
    found = {line.partition("::")[2] for line in chosen.outlines if "::" in line}
    assert found == {"test_of_every_library[torch]", "test_of_one"}
