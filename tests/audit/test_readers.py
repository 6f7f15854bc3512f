"""Files are told apart by content; what they claim is checked before it is believed; nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from audit import files

# -- what kind of file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello world, this is no model", "no known kind"),
        (b"\x93NUMPY\x01\x00v\x00{}", "numpy.savez"),
        (bytes(257) + b"ustar\x0000" + bytes(300), "tar archive"),
        (pickle.dumps({"w": [1.0]}), "not one that torch.save wrote"),
        (b"PK\x03\x04 cut short", "damaged"),
        (b"PK\x05\x06" + bytes(18), "zip archive of no known kind"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = files.refused(path)
    assert word in message
    assert str(path) in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in files.refused(tmp_path / "pipe")


# -- safetensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}',
        b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,8]}}',
        b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"v":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]}}',
        b'{"w":{"dtype":"F99","shape":[2,2],"data_offsets":[0,16]}}',
        b'{"w":[1,2,3]}',
        b'{"w":' + b"[" * 100_000,
    ],
)
def test_safetensors_headers_are_not_believed(tmp_path: Path, header: bytes) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "model"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    files.refused(path)


# -- npz -----------------------------------------------------------------------------------------------------------


def test_npz_objects_are_never_unpickled(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "model.npz"
    pickled = b"\x80\x02" + files.shell(marker) + b"."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00v\x00" + header + pickled)
    assert "cannot be read" in files.refused(path)
    assert not marker.exists()


def test_npz_bombs_are_refused_before_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, w=np.zeros((1000, 1000)))
    assert path.stat().st_size < 100_000
    assert "more than the limit" in files.refused(path, 1_000_000)
    files.read(path, 9_000_000)
