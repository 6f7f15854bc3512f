"""Recognise files and folders that are no readable model, and advise what to do instead."""

from __future__ import annotations

from pathlib import Path

_ADVISED_FORMATS = "safetensors (or .npz)"
_PAGE = (
    "it is a web page, not a model: an error message, or the page about the file. Download the file itself (on a hub "
    "its address has 'resolve' in place of 'blob')."
)
SAVED_MODEL = "it is a SavedModel. Give the Keras file (.keras) or an ONNX file (tf2onnx) of the model."
_PACKED = "it is a packed archive: unpack it, and name the model in it."
SIGNATURES = {
    b"version https://git-lfs.github.com/spec/":
        "it is a Git LFS pointer: the model itself was not fetched. Run 'git lfs pull' (in CI, check out with LFS).",
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"GGUF": "it is a GGUF file of quantized weights. Give the safetensors that it was converted from.",
    b"\x93NUMPY":
        "it is one array without a name (.npy). In Python: specnorm.enclose(numpy.load(path)); or name it by "
        "numpy.savez(path, weight=array).",
    b"\x1f\x8b": _PACKED,
    b"\x28\xb5\x2f\xfd": _PACKED,
}  # fmt: skip
"""What to do with a file that begins with these bytes."""
_FOLDERS = {
    "saved_model.pb": SAVED_MODEL,
    "_METADATA": "it is a checkpoint of Orbax. In Python, specnorm.audit takes the tree that "
    f"orbax.checkpoint.StandardCheckpointer().restore(path) gives; or save it as {_ADVISED_FORMATS}.",
    "checkpoint": f"it is a checkpoint of TensorFlow. Load it in Keras and save the model, or save it as "
    f"{_ADVISED_FORMATS}.",
}  # fmt: skip
"""What to do with a folder that has an entry of this name, itself or in a folder inside."""


def is_msgpack(head: bytes) -> bool:
    """Whether these are the first bytes of a msgpack map whose first key is text, as Flax writes it."""
    key = head[1:2] if 0x81 <= head[0] <= 0x8F else head[3:4] if head[:1] == b"\xde" else b""
    return bool(key) and (0xA0 <= key[0] <= 0xBF or key[0] == 0xD9)


def advice_for_name(path: str) -> str | None:
    """Return what to do with a path that names no file here, but a model elsewhere; None: it is a path like others."""
    if path.startswith(("http://", "https://", "s3://", "gs://", "hf://")):
        return "it is an address, and nothing is downloaded: fetch the file first, and give its path."
    is_hub = path.count("/") == 1 and not path.startswith((".", "/", "~")) and "." not in path.rpartition("/")[2]
    if is_hub:
        return (
            "there is no such file. If it is the name of a model on a hub, fetch it first, as by 'hf download "
            f"{path}', and give the path of its safetensors file."
        )
    return None


def advice_by_content(head: bytes) -> str | None:
    """Return what a file is, by its first 512 bytes or more, and what to do; None: it is unknown."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[4:8] == b"TFL3":
        return "it is a TensorFlow Lite file. Give the Keras file (.keras) or an ONNX file (tf2onnx) of the model."
    for start, advice in SIGNATURES.items():
        if (text if start.startswith(b"<") else head).startswith(start):
            return advice
    return None


def advice_by_entries(folder: Path) -> str | None:
    """Return what a folder is, by names in it and in its folders, and what to do; None: it is unknown."""
    for pattern in ("{}", "*/{}"):
        for name, advice in _FOLDERS.items():
            if any(folder.glob(pattern.format(name))):
                return advice
    return None
