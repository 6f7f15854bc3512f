"""What is no model file that can be read is told by name, with what to do; and words of the command line are helped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from specnorm_audit import audit
from specnorm_audit.readers import signatures, sniff
from specnorm_audit.report import gate_layers

from audit import files
from specnorm.errors import ModelFileError

CONTENT: list[tuple[bytes, str]] = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n", "git lfs pull"),
    (b"<!DOCTYPE html>\n<html lang='en'>", "web page"), (b"\n\n  <html><head>", "web page"),
    (b"\xef\xbb\xbf<!doctype HTML>", "web page"), (b"GGUF\x03\x00\x00\x00", "quantized weights"),
    (b"\x1f\x8b\x08\x00", "unpack it"), (b"\x28\xb5\x2f\xfd\x04", "unpack it"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), CONTENT)
def test_content_tells_what_to_do(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert words in files.refused(path)


def test_other_files_and_names_are_refused_with_advice(torch: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "kernel.npy", np.ones((3, 3)))
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "m.pt2")
    for path, words in (
        (tmp_path / "kernel.npy", "numpy.savez"),
        (tmp_path / "m.pt2", "exported program of torch"),
        ("https://a.b/model.safetensors", "nothing is downloaded"),
        ("google/vit-base-patch16", "model on a hub"),
        (tmp_path / "m.pt", "No such file"),
    ):
        with pytest.raises(ModelFileError, match=words):
            audit(path)


@given(content=st.binary(max_size=300), kind=st.sampled_from([content for content, _ in CONTENT]))
def test_signatures_are_no_readable_kind(content: bytes, kind: bytes) -> None:
    """Nothing that a reader takes is told to be something else, whatever follows; and the reverse."""
    try:
        readable = sniff(io.BytesIO(content)) is not None
    except ModelFileError:
        readable = False
    if readable:
        assert signatures.advice_by_content(content) is None or content[:1] == b"{"
    with pytest.raises(ModelFileError):
        sniff(io.BytesIO(kind + content))


@pytest.mark.parametrize(("inside", "words"), [("default/_METADATA", "Orbax"), ("saved_model.pb", "SavedModel")])
def test_folders_of_known_kinds_are_refused_with_advice(inside: str, words: str, tmp_path: Path) -> None:
    (tmp_path / inside).parent.mkdir(exist_ok=True)
    (tmp_path / inside).touch()
    assert words in files.refused(tmp_path)


def test_sparse_tensors_decide_no_gate(torch: Any, tmp_path: Path) -> None:
    torch.save({"a.weight": 900 * torch.eye(4).to_sparse(), "b.weight": torch.eye(3) / 2}, tmp_path / "m.pt")
    report = audit(tmp_path / "m.pt")
    assert [row.status for row in report.layers] == ["error", "ok"]
    assert ".to_dense()" in str(report.layers[0].reason)
    assert gate_layers(report, 1.0).outcome == "undecided"


@pytest.mark.parametrize("name", ["_flat_param", "_fsdp_wrapped_module.flat_param_0", "a.1._flat_param"])
def test_a_flat_vector_of_parameters_decides_no_gate(name: str, tmp_path: Path) -> None:
    path = files.save_npz(tmp_path / "m.npz", {name: np.full(100, 9.0), "b.weight": np.eye(3) / 2})
    report = audit(path)
    assert gate_layers(report, 1.0).outcome == "undecided"
    assert "FSDP" in str(report.unmeasured[0].reason)
