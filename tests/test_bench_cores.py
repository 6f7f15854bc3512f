"""What is measured beside busy processes and on few and many cores runs, ends in its time, and makes its page."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from bench import gpu_page, load, scaling
from bench.__main__ import read


def test_a_task_beside_busy_processes_is_timed_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and before, alone and beside; one that takes too long is given up, and no process is left."""
    monkeypatch.setattr(load, "BESIDE", (0, 1))
    monkeypatch.setattr(load, "IN_C", load.IN_C.replace("300000000L", "3000L"))
    monkeypatch.setattr(load, "IN_PYTHON", "pass")
    monkeypatch.setattr(load, "BEFORE", "import time\ntime.sleep(60)\n")
    monkeypatch.setattr(load, "TASKS", {"nothing": ("", "pass")})
    begin = time.monotonic()
    load.run(tmp_path / load.LINES, repeats=2, minutes=1, most=2)
    assert time.monotonic() - begin < 50
    rows = [json.loads(line) for line in (tmp_path / load.LINES).read_text(encoding="utf-8").splitlines()]
    found = [(row["task"], row["before"], row["busy"], row["repeats"], row["seconds"] is None) for row in rows]
    assert found == [
        (load.LOOP, False, 0, 2, False), (load.LOOP, False, 1, 2, False), ("nothing", False, 0, 2, False),
        ("nothing", False, 1, 2, False), ("nothing", True, 0, 0, True), ("nothing", True, 1, 0, True),
    ]  # fmt: skip
    load.write(tmp_path)
    page = (tmp_path / "load.md").read_text(encoding="utf-8")
    assert "| nothing, now |" in page
    assert "| nothing, before | more than 2 s | more than 2 s |" in page


def test_the_switch_back_to_before_is_there() -> None:
    """It is a name of NumPy's plugin; gone, both rows of the table would be the same."""
    specnorm_numpy = pytest.importorskip("specnorm_numpy")
    assert specnorm_numpy._SMALL > 0
    assert "specnorm_numpy._SMALL = 0" in load.BEFORE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells which cores a process has")
def test_a_layer_and_an_audit_are_measured_on_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("click", reason="for the command line")
    monkeypatch.setattr(scaling, "CORES", (1,))
    monkeypatch.setattr(scaling, "KERNELS", {"256, flat": 1})
    rows = scaling.run(tmp_path / scaling.LINES, smoke=True)
    assert [(row["task"], row["cores"]) for row in rows] == [("256, flat", 1), (scaling.AUDIT, 1)]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[1]["peak_bytes"] > 2**20
    pytest.importorskip("matplotlib", reason="for the plot")
    scaling.write(tmp_path)
    page = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert "`enclose`, 256 channels, flat" in page
    assert (tmp_path / "scaling.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("name", ["load", "scaling", "gpu"])
def test_a_committed_page_is_made_of_its_lines(name: str, tmp_path: Path) -> None:
    """And there is none where nothing was measured."""
    lines = load.FOLDER / f"{name}.jsonl"
    if not lines.exists():
        assert not (load.FOLDER / f"{name}.md").exists()
        return
    pytest.importorskip("matplotlib", reason="for the plot")
    (tmp_path / lines.name).write_bytes(lines.read_bytes())
    if name == "gpu":
        gpu_page.write(read(tmp_path / lines.name), tmp_path / lines.name)
    else:
        {"load": load, "scaling": scaling}[name].write(tmp_path)
    made = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    assert made == (load.FOLDER / f"{name}.md").read_text(encoding="utf-8")


def test_what_a_task_does_wrong_is_told() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        scaling.watched([sys.executable, "-c", "raise SystemExit('no such thing')"], 1)
