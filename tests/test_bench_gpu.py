"""What a GPU is measured with runs where there is none, and what fails, hangs or is missing hides nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the textbook methods are written in torch", exc_type=ImportError)

from bench import gpu, gpu_page, gpu_run
from bench.__main__ import main, read

from specnorm import testing

Row = dict[str, Any]
ABOUT = {"date": "2026-11-21", "commit": "abcdef0", "device": "cuda", "size": "full"}


def measured(part: str) -> list[Row]:
    return [{"part": part, "library": "torch", **row} for row in gpu.rows(part, "torch", "cpu", "smoke")]


@pytest.fixture(scope="module")
def every() -> list[Row]:
    """All parts but the tests, at the smallest size on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        few = {title: testing.CHECKS[title] for title in ("description", "ownership", "device")}
        patch.setattr(testing, "CHECKS", few)
        return [row for part in ("machine", "conformance", "shapes", "suite", "training") for row in measured(part)]


def test_each_part_runs_on_the_cpu(every: list[Row]) -> None:
    assert not [row for row in every if row.keys() & {"error", "missing"}]
    assert {row["what"] for row in every if row["part"] == "conformance"} == {"description", "ownership", "device"}
    whole = next(row for row in every if row["part"] == "shapes" and row["what"] == "all")
    assert whole["count"] == 4
    assert 0 < whole["gap"] <= gpu.RTOL * (1 + 1e-9)
    assert all(row["seconds"] > 0 for row in every if row["part"] in ("shapes", "suite"))
    assert {row["method"] for row in every if row["part"] == "training"} == {"tn", "f4"}


def test_a_part_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(library: str, device: str, size: str) -> Iterator[Row]:
        del library, device, size
        yield {"what": "first"}
        raise RuntimeError("an illegal address")

    monkeypatch.setitem(gpu.PARTS, "suite", breaks)
    first, second = measured("suite")
    assert first["what"] == "first"
    assert "RuntimeError: an illegal address" in second["error"]


def test_a_library_that_is_not_here_is_a_row() -> None:
    if not gpu.here("cupy", "cuda").missing:
        pytest.skip("CuPy is usable here")
    assert "CuPy" in next(gpu.rows("suite", "cupy", "cuda", "smoke"))["missing"]


def test_what_fails_or_hangs_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds each row as soon as it is measured, and one for each part that did not end well."""
    out = tmp_path / "gpu.jsonl"
    row = 'print(\'{"part": "PART", "library": "torch", "what": "measured", "seconds": 1}\', flush=True); '
    scripts = {
        "suite": row + "import time; time.sleep(60)",
        "shapes": row + "import os; os.abort()",
        "training": "print('noise'); " + row,
    }
    monkeypatch.setattr(gpu_run, "ROUNDS", tuple(((part, "torch", 3.0),) for part in ("suite", "shapes", "training")))
    begun: list[Row] = []

    def popen(command: list[str], *rest: Any, real: Any = subprocess.Popen, **more: Any) -> Any:
        if command[1:3] != ["-m", "bench.gpu"]:
            return real(command, *rest, **more)
        begun.append({"rows": len(read(out)) if out.exists() else 0})
        part = command[3]
        return real([sys.executable, "-c", scripts[part].replace("PART", part)], *rest, **more)

    monkeypatch.setattr(subprocess, "Popen", popen)
    begin = time.monotonic()
    gpu_run.run(out, "cpu", "smoke", 1.0)
    assert time.monotonic() - begin < 50
    found = [(row["part"], row.get("error", row["what"])) for row in read(out)]
    assert [part for part, _ in found] == ["suite", "suite", "shapes", "shapes", "training"]
    assert found[1][1] == "not done within 3 s"
    assert found[3][1].startswith("ended with code")
    assert [told["rows"] for told in begun] == [0, 2, 4]
    assert not out.with_suffix(".new").exists()


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert main(["gpu", "--device", "cpu", "--size", "smoke", "--minutes", "0", "--out", str(out)]) == 0
    rows = read(out)
    assert {(row["part"], row["library"]) for row in rows} == {it[:2] for every in gpu_run.ROUNDS for it in every}
    assert {row["error"] for row in rows} == {"not begun: the time was up"}


def test_the_page_has_every_part_and_what_failed(every: list[Row], tmp_path: Path) -> None:
    lost = {"part": "suite", "library": "cupy", "what": "all", "error": "cannot | divide"}
    rows = [{**row, **ABOUT} for row in (*every, lost)]
    gpu_page.write(rows, tmp_path / "gpu.jsonl")
    made = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for title in ("On a GPU", "ResNet-50", "Methods", "A training step", "Conformance", "What failed"):
        assert title in made
    assert "3 of 3" in made
    assert "cannot \\| divide" in made


def test_a_trial_makes_no_page(every: list[Row], tmp_path: Path) -> None:
    rows = [{**row, **ABOUT, "device": "cpu"} for row in every]
    with pytest.raises(ValueError, match="trial without a GPU"):
        gpu_page.write(rows, tmp_path / "gpu.jsonl")
    assert not (tmp_path / "gpu.md").exists()
