"""Recognise files that are no readable model, by their first bytes, entries or names, and advise what to do instead."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_PLACE_OF_TAR_SIGNATURE = 257
"""Position of a tape archive's signature."""
_ADVISED_FORMATS = "safetensors (or .npz)"


@dataclass(frozen=True)
class Signature:
    """A kind of file that is no readable model.

    A file is of this kind if it has the bytes ``start`` at position ``place``; ``advice`` is the message about it.
    """

    start: bytes
    advice: str
    place: int = 0

    def fits(self, head: bytes) -> bool:
        """Whether a file with these first bytes is of this kind."""
        return head[self.place :].startswith(self.start)


_PACKED = "it is a {} archive: unpack it, and name the model in it."
_PAGE = (
    "it is a web page, not a model: an error, or the page that shows the file. Download the file itself (on a hub its "
    "address has 'resolve' in the place of 'blob')."
)
SIGNATURES = (
    Signature(
        b"version https://git-lfs.github.com/spec/",
        "it is a Git LFS pointer: the model itself was not fetched. Run 'git lfs pull' (in CI, check out with LFS).",
    ),
    Signature(b"<!doctype html", _PAGE),
    Signature(b"<html", _PAGE),
    Signature(b"<?xml", "it is XML: what a server says instead of a file, or a format that is not read."),
    Signature(b"GGUF", "it is a GGUF file of quantised weights. Give the safetensors that it was converted from."),
    Signature(
        b"\x93NUMPY",
        "it is one array without a name (.npy). In Python: specnorm.enclose(numpy.load(path)); or name it by "
        "numpy.savez(path, weight=array).",
    ),
    Signature(b"TFL3", "it is a TFLite model. Give the Keras or ONNX model that it was converted from.", 4),
    Signature(b"ET12", "it is an ExecuTorch program. Save the state dict of the module that it was made from.", 4),
    Signature(b"\x1f\x8b", _PACKED.format("gzip")),
    Signature(b"BZh", _PACKED.format("bzip2")),
    Signature(b"\xfd7zXZ\0", _PACKED.format("xz")),
    Signature(b"\x28\xb5\x2f\xfd", _PACKED.format("zstd")),
    Signature(b"7z\xbc\xaf\x27\x1c", _PACKED.format("7z")),
    Signature(b"ustar", _PACKED.format("tar"), _PLACE_OF_TAR_SIGNATURE),
)
_MSGPACK = (
    "it is msgpack, as Flax's to_bytes writes it. In Python: specnorm.audit(flax.serialization.msgpack_restore(data)), "
    f"which takes the tree as it is; or save it as {_ADVISED_FORMATS}."
)


def advice_by_content(head: bytes) -> str | None:
    """Return what a file is, by its first 512 bytes or more, and what to do; None: it is unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lowered = text[:20].lower()
    for signature in SIGNATURES:
        if signature.fits(head) or (signature.start.startswith(b"<") and signature.fits(lowered)):
            return signature.advice
    # A map of 1 to 15 entries, whose first key is text.
    if len(head) > 1 and 0x81 <= head[0] <= 0x8F and (0xA0 <= head[1] <= 0xBF or head[1] == 0xD9):
        return _MSGPACK
    return None


class _FolderKind(NamedTuple):
    """A kind of folder that is no readable model, known by the name of an entry."""

    names: tuple[str, ...]
    advice: str
    is_nested: bool = False
    """Whether the entry may also be in a folder inside."""


_FOLDERS = (
    _FolderKind(
        ("saved_model.pb",), "it is a SavedModel. Give the Keras file (.keras) or an ONNX file (tf2onnx) of the model."
    ),
    _FolderKind(
        ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"),
        "it is a checkpoint of Orbax. In Python, specnorm.audit takes the tree that "
        f"orbax.checkpoint.StandardCheckpointer().restore(path) gives; or save it as {_ADVISED_FORMATS}.",
        is_nested=True,
    ),
    _FolderKind(
        ("checkpoint",),
        f"it is a checkpoint of TensorFlow. Load it in Keras and save the model, or save it as {_ADVISED_FORMATS}.",
    ),
    _FolderKind(("data.mdb",), f"it is a database. Save its arrays as {_ADVISED_FORMATS}."),
    _FolderKind(("snapshots",), "it is a hub's cache. Name the model's file below its 'snapshots'."),
)


def advice_by_entries(folder: Path) -> str | None:
    """Return what a folder is, by names in it and in its folders, and what to do; None: it is unknown."""
    names_in_folder = set()
    names_below = set()
    for path in folder.iterdir():
        names_in_folder.add(path.name)
        if path.is_dir():
            names_below |= {inner.name for inner in path.iterdir()}
    for kind in _FOLDERS:
        if names_in_folder.intersection(kind.names):
            return kind.advice
        if kind.is_nested and names_below.intersection(kind.names):
            return kind.advice
    return None


def advice_by_zip(names: Collection[str]) -> str | None:
    """Return what a zip archive is, by its entries, and what to do; None: it is unknown."""
    leaves = {name.rpartition("/")[2] for name in names}
    if leaves & {"archive_format", "serialized_exported_program.json"}:
        return (
            "it is a program that torch.export wrote (.pt2). In Python: torch.save(torch.export.load(path).state_dict, "
            "other), and audit that."
        )
    return None


_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ADDRESS = re.compile(r"\w+://")


def advice_by_name(path: str) -> str | None:
    """Return what the path of a missing file may mean, and what to do; None: it is unknown."""
    if _ADDRESS.match(path):
        return "it is an address: download the file, and give its path."
    if _HUB.fullmatch(path) and not Path(path).parent.exists():
        return (
            f"there is no such file. If it is a model's name on a hub, download it first: hf download {path} "
            "--local-dir FOLDER, and give the folder."
        )
    return None
