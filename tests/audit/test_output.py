"""A report file holds its old content or all of the new one."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from specnorm_audit.output import replace_file


def test_new_files_and_replaced_ones(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    replace_file(path, "one\r\n")
    assert path.read_bytes() == b"one\r\n"
    path.chmod(0o640)
    replace_file(path, "two \udc80 é\n")
    assert path.read_bytes() == b"two \\udc80 \xc3\xa9\n"
    assert path.stat().st_mode & 0o777 == 0o640
    replace_file(path, b"\xff\x00\n")
    assert path.read_bytes() == b"\xff\x00\n"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "report", tmp_path / "link"
    link.symlink_to(path)
    replace_file(link, "text")
    assert link.is_symlink()
    assert path.read_text() == "text"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, Mock(side_effect=OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
