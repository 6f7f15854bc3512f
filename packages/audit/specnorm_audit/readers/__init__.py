"""Open model files, and list their arrays without reading them. A file's format is decided by its content alone.

Model files may be hostile: nothing in them is executed, and each size that they claim is checked against the file and a
limit before memory is allocated for it.
"""

from __future__ import annotations

import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from specnorm_networks.model_arrays import ModelArrays

from specnorm.errors import ModelFileError
from specnorm_audit.readers import keras, msgpack, npz, pytorch, safetensors, signatures
from specnorm_audit.readers.common import DAMAGE
from specnorm_audit.readers.isolated import Reader, in_child

MAX_BYTES = 8 * 2**30
"""Default limit on what a file's arrays may take in memory."""


def _read_onnx(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    from specnorm_networks.tools import read_onnx  # with all operators, which few files need

    return read_onnx(file, path, max_bytes)


_READERS: dict[str, Reader] = {
    "safetensors": safetensors.read,
    "safetensors-index": safetensors.read_sharded,
    "npz": npz.read,
    "pytorch": pytorch.read,
    "onnx": _read_onnx,
    "hdf5": keras.read_hdf5,
    "keras": keras.read_archive,
    "msgpack": msgpack.read,
}
_ISOLATED = frozenset({"hdf5", "keras", "msgpack", "onnx", "pytorch"})
"""Formats that are read in a child process: a hostile file can make their library loop for ever, or work for long."""
_PACKED = frozenset({"hdf5", "keras"})
"""Formats with compression: a small file may have large arrays, so memory is not limited by the file's size."""
_ONNX_TAGS = bytes([0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72])
"""Possible first bytes of the second field of a serialised ModelProto; the first field is its format's version."""
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of what torch.save wrote before 1.6: a pickle of its magic number."""
_KNOWN = (
    "Readable are safetensors (also sharded), .npz, PyTorch state dicts, ONNX, Keras (.h5, .keras) and Flax's msgpack"
)


@contextmanager
def open_model(path: str, max_bytes: int = MAX_BYTES) -> Iterator[ModelArrays]:
    """Open a model file and list its arrays."""
    with ExitStack() as stack:
        try:
            model_path = Path(path)
            advice = None if model_path.exists() else signatures.advice_for_name(path)
            if advice is not None:
                raise ModelFileError(advice)
            if model_path.is_dir():
                model_path = _model_in_folder(model_path)
            if model_path.name == "saved_model.pb":
                raise ModelFileError(signatures.SAVED_MODEL)
            # A named pipe would block, a device never end.
            if not stat.S_ISREG(model_path.stat().st_mode):
                raise ModelFileError("it is not a regular file.")
            file = stack.enter_context(model_path.open("rb"))
            model = _list_arrays(stack, file, str(model_path), max_bytes)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        except DAMAGE as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ModelFileError(f"{path} cannot be read: {reason}.") from error
        yield model


def _model_in_folder(folder: Path) -> Path:
    """Return the model's file in a folder; an error says what to do if the folder is of a kind that is not read."""
    try:
        return safetensors.index_of(folder)
    except ModelFileError as error:
        advice = signatures.advice_by_entries(folder)
        if advice is None:
            raise
        raise ModelFileError(advice) from error


def _list_arrays(stack: ExitStack, file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """Let the reader of the file's format list its arrays, in a child process if the format is in `_ISOLATED`."""
    file_format = sniff(file)
    users_operators: tuple[str, ...] = ()
    if file_format == "onnx":
        from specnorm_networks.tools import registered_operators  # this imports all operators

        users_operators = registered_operators()  # a child process would not have them
    if file_format in _ISOLATED and not users_operators:
        child = in_child(_READERS[file_format], path, max_bytes, packed=file_format in _PACKED)
        return stack.enter_context(child)
    with warnings.catch_warnings():  # libraries warn of the version that wrote a file, which changes no number
        warnings.simplefilter("ignore")
        return _READERS[file_format](file, path, max_bytes)


def sniff(file: BinaryIO) -> str:
    """Return a model file's format, by its content."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    # A safetensors file begins with the length of a header in JSON, in eight bytes. Text and ONNX files have no four
    # zeros there, and begin with other bytes than most lengths do.
    has_json_after_length = len(head) > 8 and head[8:9] == b"{"
    is_short_length = head[4:8] == bytes(4)
    is_no_text_or_onnx = head[:1] not in b"{\x08"
    if has_json_after_length and (is_short_length or is_no_text_or_onnx):
        return "safetensors"
    if head[:1] == b"{":
        return "safetensors-index"
    if head[:1] == b"\x08" and 0 < head[1] < 64 and head[2:3] in _ONNX_TAGS:
        return "onnx"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _sniff_zip(file)
    if head.startswith(_LEGACY_TORCH):
        return "pytorch"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        raise ModelFileError(
            "it is a pickle, but not one that torch.save wrote; pickles can run code, so it is not opened. "
            f"{_KNOWN}: save the weights as one of those."
        )
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if size == 0:
        raise ModelFileError("it is empty.")
    if signatures.is_msgpack(head):
        return "msgpack"
    advice = signatures.advice_by_content(head)
    if advice is not None:
        raise ModelFileError(advice)
    raise ModelFileError(f"its content is of no known kind. {_KNOWN}, whatever the file is called.")


def _sniff_zip(file: BinaryIO) -> str:
    """Return the format of a zip archive, by the names of its entries."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise ModelFileError(f"it starts as a zip archive, but is damaged or cut short: {error}.") from error
    finally:
        file.seek(0)
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ModelFileError("it is a TorchScript archive, which holds code: not opened. Save model.state_dict().")
    if any(
        name.endswith((".pt2", "archive_format", "serialized_exported_program.json")) for name in inner | set(names)
    ):
        raise ModelFileError(
            "it is an exported program of torch (.pt2), which holds a graph of torch's own: not opened. Export the "
            "model to ONNX (torch.onnx.export), or save model.state_dict()."
        )
    if "data.pkl" in inner:
        return "pytorch"
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise ModelFileError(f"it is a zip archive of no known kind. {_KNOWN}.")
