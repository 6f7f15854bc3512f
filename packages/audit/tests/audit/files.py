"""Model files for the tests, the honest and the hostile, written byte by byte where a library would refuse to."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit import readers
from specnorm_networks.model_arrays import Tensor

from specnorm.errors import ModelFileError

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First pickle of the format that torch.save wrote before 1.6."""


def kernels(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """A small model: two convolutions, a linear layer, and what lies between them."""
    random = np.random.RandomState(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32)

    return {
        "conv1.weight": normal(4, 3, 3, 3), "bn1.weight": normal(4), "bn1.running_mean": normal(4),
        "conv2.weight": normal(2, 4, 5), "fc.weight": normal(3, 8), "fc.bias": normal(3),
    }  # fmt: skip


def unread(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    """An array whose numbers nobody may ask for: selecting layers must not load."""

    def load() -> None:
        raise AssertionError("selecting must not load")

    return Tensor(name, shape, dtype, load)


def read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every format in this process, whose modules a test has changed."""
    monkeypatch.setattr(readers, "_ISOLATED", frozenset())


def read(path: Path, max_bytes: int = 2**33) -> dict[str, Any]:
    with readers.open_model(str(path), max_bytes) as model:
        return {tensor.name: tensor.load() for tensor in model.arrays}


def refused(path: Path, max_bytes: int = 2**33) -> str:
    with pytest.raises(ModelFileError) as caught:
        read(path, max_bytes)
    return str(caught.value)


def save_npz(path: Path, arrays: Mapping[str, Any]) -> Path:
    """``numpy.savez`` that takes any name."""
    path.write_bytes(zipped({f"{name}.npy": npy(np.asarray(array)) for name, array in arrays.items()}))
    return path


def zipped(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return stream.getvalue()


def hdf5(arrays: Mapping[str, Any], packed: Sequence[str] = (), **attributes: str) -> bytes:
    """An HDF5 file of arrays by their paths, some of which are compressed."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs.update(attributes)
        for name, x in arrays.items():
            file.create_dataset(name, data=x, compression="gzip" if name in packed else None)
    return stream.getvalue()


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def safetensors_bytes(arrays: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    """A safetensors file of (dtype, shape, data), laid out in the order given."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, raw) in arrays.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def save_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    path.write_bytes(safetensors_bytes({n: ("F32", a.shape, a.astype("<f4").tobytes()) for n, a in arrays.items()}))
    return path


# -- pickles, opcode by opcode -------------------------------------------------------------------------------------
def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def integers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    """What a pickle imports."""
    return f"c{module}\n{attribute}\n".encode()


def storage(numel: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    """A persistent id, as torch.save writes it into zip archives."""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + integer(numel) + b"tQ"


def tensor(stored: bytes, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> bytes:
    """A call that rebuilds a tensor."""
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = stored + integer(offset) + integers(shape) + integers(strides) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def state_dict(items: Mapping[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def checkpoint(pickled: bytes, records: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive as torch.save writes it."""
    stored = {f"archive/data/{key}": data for key, data in records.items()}
    first = {"archive/data.pkl": pickled, "archive/byteorder": b"little"}
    return zipped({**first, **stored, "archive/version": b"3\n"}, compression)


# -- zip archives that two readers take for two --------------------------------------------------------------------
def two_pickles(shown: bytes, loaded: bytes, records: Mapping[str, bytes], game: str) -> bytes:
    """An archive with a pickle for Python's zipfile and another one for a reader of another mind.

    ``game``: "case", "NUL" (names that differ in that alone), "zip64" (a second directory, to which the locator points,
    before the one that zipfile takes), "header" (a header with another name than the directory) or "extra" (two zip64
    fields).
    """
    if game == "zip64":
        return _second_directory(checkpoint(shown, records), checkpoint(loaded, records))
    other = {"case": "archive/DATA.pkl", "NUL": "archive/data.pkl#x", "header": "archive/other"}.get(game, "archive/x")
    stored = {f"archive/data/{key}": data for key, data in records.items()}
    content = zipped({other: loaded, "archive/data.pkl": shown, **stored})
    if game == "NUL":
        return content.replace(b"data.pkl#x", b"data.pkl\0x")
    if game == "header":
        return content.replace(b"archive/other", b"archive/OTHER", 1)
    return _twice_wide(content) if game == "extra" else content


def _directory(content: bytes) -> tuple[int, int, int]:
    """Entries, bytes and place of the directory, by the end record of an archive without comment."""
    count, length, start = struct.unpack_from("<HII", content, len(content) - 12)
    return count, length, start


def _second_directory(shown: bytes, loaded: bytes) -> bytes:
    """Both archives in one file: the zip64 locator points to the second end, zipfile takes the record before it."""
    count, length, start = _directory(shown)
    front, directory = shown[:start], shown[start : start + length]
    count2, length2, start2 = _directory(loaded)
    inner = bytearray(loaded[start2 : start2 + length2])
    at = 0
    while at < len(inner):  # its entries lie behind the first archive's
        (offset,) = struct.unpack_from("<I", inner, at + 42)
        struct.pack_into("<I", inner, at + 42, offset + len(front))
        at += 46 + sum(struct.unpack_from("<3H", inner, at + 28))
    place2 = len(front) + start2
    whole = front + loaded[:start2] + bytes(inner)
    hidden = _end64(count2, length2, place2)
    place = len(whole) + len(hidden)
    whole += hidden + directory + _end64(count, length, place)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, place2 + length2, 1)
    return whole + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)


def _end64(count: int, length: int, start: int) -> bytes:
    return struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)


def _twice_wide(content: bytes) -> bytes:
    """The first entry's offset moved into zip64 fields, of which there are two: the first and the last differ."""
    count, length, start = _directory(content)
    entry = bytearray(content[start : start + length])
    (name,) = struct.unpack_from("<H", entry, 28)
    wide = b"".join(struct.pack("<HHQ", 1, 8, offset) for offset in (0, 1))
    struct.pack_into("<H", entry, 30, len(wide))
    struct.pack_into("<I", entry, 42, 2**32 - 1)
    directory = bytes(entry[: 46 + name]) + wide + bytes(entry[46 + name :])
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)
    return content[:start] + directory + end


def shell(marker: Path) -> bytes:
    """A pickled call of os.system that leaves a file behind if it runs."""
    return name("os", "system") + b"(" + text(f"touch '{marker}'") + b"tR"
