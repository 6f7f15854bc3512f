"""What a GPU is measured with runs where there is none, and what fails, hangs or is missing hides nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the textbook methods are written in torch", exc_type=ImportError)

from bench import facts, gpu, page
from bench.__main__ import main
from bench.facts import Row, read


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Two parts at the smallest size on the CPU."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "ROUNDS", ((("network", "torch", 200.0), ("training step", "torch", 200.0)),))
        assert main(["gpu", "--device", "cpu", "--size", "smoke", "--out", str(out)]) == 0
    return read(out)


@pytest.mark.nightly
def test_each_part_runs_on_the_cpu(every: list[Row]) -> None:
    assert not [row for row in every if "error" in row]
    assert {row["section"] for row in every} == {"network", "training step"}
    whole = next(row for row in every if row["contestant"] == "enclose 1e-3" and row["section"] == "network")
    assert 0 < whole["value"] <= 1e-3 * (1 + 1e-9)
    assert all(row["seconds"] > 0 for row in every)
    assert {row["device"] for row in every} == {"cpu"}


@pytest.mark.nightly
def test_without_a_gpu_it_says_so_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not gpu.missing():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        main(["gpu", "--out", str(tmp_path / "gpu.jsonl")])
    assert "there is no GPU to measure on" in (said := capsys.readouterr().err)
    assert "torch cuda: no NVIDIA GPU here" in said
    assert "--device cpu" in said
    assert not (tmp_path / "gpu.jsonl").exists()


def test_tests_are_counted_and_one_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With xdist's words and without; a process that ends with code 1 has failed tests, and no more."""
    lines = "tests/a.py::one[x] PASSED [ 10%]", "[gw0] [ 20%] FAILED tests/a.py::two[x]", "tests/a.py::three SKIPPED"
    script = "; ".join(f"print({line!r}, flush=True)" for line in lines) + "; raise SystemExit(1)"
    monkeypatch.setattr(gpu, "ROUNDS", ((("tests", "torch", 20.0),),))
    monkeypatch.setattr(gpu, "command", lambda *_: ["-c", script])
    failed, counts = gpu.run(tmp_path / "gpu.jsonl", "cpu", "smoke", 1.0)
    assert failed["error"] == "failed"
    assert "tests/a.py::two[x]" in failed["contestant"]
    assert [counts[key] for key in ("passed", "failed", "skipped tests")] == [1, 1, 1]


def test_what_fails_or_hangs_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds each row as soon as it is measured, and one for each part that did not end well."""
    out = tmp_path / "gpu.jsonl"
    row = 'print(\'{"section": "PART", "library": "torch", "contestant": "measured"}\', flush=True); '
    scripts = {
        "libraries": row + "import time; time.sleep(60)",
        "network": row + "import os; os.abort()",
        "training step": "print('noise'); " + row,
    }
    monkeypatch.setattr(gpu, "ROUNDS", tuple(((part, "torch", 3.0),) for part in scripts))
    begun: list[int] = []

    def command(part: str, *_: Any) -> list[str]:
        begun.append(len(read(out)))
        return ["-c", scripts[part].replace("PART", part)]

    monkeypatch.setattr(gpu, "command", command)
    begin = time.monotonic()
    gpu.run(out, "cpu", "smoke", 1.0)
    assert time.monotonic() - begin < 50
    found = [(row["section"], row.get("error", row["contestant"])) for row in read(out)]
    assert [part for part, _ in found] == ["libraries", "libraries", "network", "network", "training step"]
    assert found[1][1] == "not done within 3 s"
    assert str(found[3][1]).startswith("ended with code")
    assert begun == [0, 2, 4]
    assert not out.with_suffix(".new").exists()


def test_nothing_begins_when_the_time_is_up(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    assert main(["gpu", "--device", "cpu", "--size", "smoke", "--minutes", "0", "--out", str(out)]) == 0
    rows = read(out)
    assert {(row["section"], row["library"]) for row in rows} == {it[:2] for parallel in gpu.ROUNDS for it in parallel}
    assert {row["error"] for row in rows} == {"not begun: the time was up"}


def test_every_part_is_a_command() -> None:
    """A section of the suite on the device, or tests that are there."""
    for part, library, _ in (it for parallel in gpu.ROUNDS for it in parallel):
        words = gpu.command(part, library, "cuda", "full")
        if words[1] == "bench":
            assert {"cupy", f"{library} cuda"} & set(words)
        else:
            files = [facts.TESTS / word for word in words if word in gpu.CHECKED]
            assert files
            assert all(file.exists() for file in files)


def test_the_page_has_every_part_and_what_failed(every: list[Row], tmp_path: Path) -> None:
    checks = {"section": "conformance", "library": "torch", "contestant": "every one", "passed": 3, "failed": 0}
    lost = {"section": "libraries", "library": "cupy", "contestant": "every one", "error": "cannot | divide"}
    rows = [*every, {**every[0], **checks, "skipped tests": 7}, {**every[0], **lost}]
    facts.write(tmp_path / "gpu.jsonl", [{**row, "device": "cuda", "size": "full", "gpu": "H100"} for row in rows])
    page.write(tmp_path / "gpu.jsonl")
    made = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for title in ("On a GPU", "H100", "## Network", "## Training step", "## Tests", "## Not measured"):
        assert title in made
    assert "| conformance | torch | 3 | 0 | 7 |" in made
    assert "cannot \\| divide" in made


def test_a_trial_makes_no_page(every: list[Row], tmp_path: Path) -> None:
    facts.write(tmp_path / "gpu.jsonl", every)
    with pytest.raises(ValueError, match="trial without a GPU"):
        page.write(tmp_path / "gpu.jsonl")
    assert not (tmp_path / "gpu.md").exists()


@pytest.mark.parametrize("name", ["gpu", "networks"])
def test_a_page_has_its_lines(name: str) -> None:
    """And there is none where nothing was measured."""
    assert (facts.FOLDER / f"{name}.md").exists() == any(facts.FOLDER.glob(f"{name}*.jsonl"))
