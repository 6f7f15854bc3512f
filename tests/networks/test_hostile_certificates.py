"""A stranger's certificate may take neither all time nor all memory, nor prove what is not so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from specnorm.errors import CertificateError
from specnorm.networks import Certificate, certificate

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory as Linux has them")
def test_certificates_of_strangers(tmp_path: Path) -> None:
    """Nearly a hundred, within 10 s of processor time each and 1 GiB: refused, or proven where nothing is changed."""
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "networks.hostile_certificates", str(tmp_path)]
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "tally.json").read_text())["certificates"]
    proven = {name for name, (said, _) in found.items() if said != "refused"}
    assert len(found) > 90
    assert proven == {"upper: huge", "part: 0"}  # a larger number than was proven; nothing changed


def test_no_memory_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    (tmp_path / "c.json").write_text("{}")
    monkeypatch.setattr(certificate, "_text_of", none)
    with pytest.raises(CertificateError, match="MemoryError"):
        Certificate.load(tmp_path / "c.json")
