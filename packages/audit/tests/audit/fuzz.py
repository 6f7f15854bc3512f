"""Damaged model files, thousands of them, each audited in this process: ``python fuzz.py FOLDER SEED COUNT``.

Run by `test_fuzz.py` as a process of its own, with a limit on its memory, so that a crash, a hang or a blow-up ends
this process and no other. What is being read is the last line that it has said when that happens.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import random
import re
import resource
import signal
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.readers import isolated, safetensors

from audit import files
from specnorm.errors import SpecnormError

SECONDS = 10
"""Longest time for one file."""
LIMIT, ENDING = 2, 20
"""Processor time for a file that makes its reader loop, and how long it may be until its process has had that."""
CHILD = ("h5", "weights.h5", "keras", "onnx", "torch", "torch, old")
"""Read in a child process."""
MEMORY = 2**30
"""What the whole run may take beyond what the process has at its start."""


class TooLong(BaseException):
    """Nothing catches this by accident."""


# -- healthy files -------------------------------------------------------------------------------------------------
def _arrays() -> dict[str, NDArray[np.float32]]:
    random_state = np.random.RandomState(0)
    shapes = {"conv.weight": (2, 3, 3, 3), "conv.bias": (2,), "down.weight": (2, 2, 3), "fc.weight": (3, 4)}
    return {name: random_state.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {
        "class_name": kind, "name": name, "config": {"name": name} | config,
        "build_config": {"input_shape": [None, 9, 9, 3]},
    }  # fmt: skip


def _config(canary: Path) -> dict[str, Any]:
    code = {"class_name": "__lambda__", "config": {"code": f"__import__('pathlib').Path({str(canary)!r}).touch()"}}
    layers = [
        _layer("Conv2D", "conv", strides=[2, 2], padding="same", dilation_rate=[1, 1], groups=1),
        _layer("Lambda", "lambda", function=code),
        _layer("DepthwiseConv2D", "depth", strides=[1, 1], padding="valid", dilation_rate=[2, 2]),
        _layer("Dense", "dense", units=4),
    ]
    return {"class_name": "Functional", "config": {"name": "model", "layers": layers}}


def _onnx() -> bytes:
    from helpers.onnx_models import node, single

    conv = node("Conv", "x", "w", strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1])
    whole: bytes = single([conv], (1, 3, 9, 9), {"w": _arrays()["conv.weight"]}).SerializeToString()
    return whole


def healthy(canary: Path) -> dict[str, bytes]:
    """One file of every format whose libraries are here."""
    arrays = _arrays()
    stored = {name: ("F32", a.shape, a.tobytes()) for name, a in arrays.items()}
    npz = {f"{name}.npy": files.npy(a) for name, a in arrays.items()}
    found = {"npz": files.zipped(npz), "npz, packed": files.zipped(npz, zipfile.ZIP_DEFLATED)}
    if find_spec("safetensors"):
        found["safetensors"] = files.safetensors_bytes(stored)
    if find_spec("torch"):
        import torch

        state = {name: torch.from_numpy(a) for name, a in arrays.items()}
        for label, modern in (("torch", True), ("torch, old", False)):
            stream = io.BytesIO()
            torch.save({"state_dict": state, "epoch": 3}, stream, _use_new_zipfile_serialization=modern)
            found[label] = stream.getvalue()
        evil = files.state_dict({"w": files.shell(canary)})
        found["torch, evil"] = files.checkpoint(evil, {"0": bytes(64)})
        found["torch, old and evil"] = files.MAGIC + files.shell(canary) + b"."
    found["pickle"] = b"\x80\x02" + files.shell(canary) + b"."
    if find_spec("h5py"):
        kernel, matrix = arrays["conv.weight"].transpose(2, 3, 1, 0), arrays["fc.weight"]
        config, dense = json.dumps(_config(canary)), "model_weights/dense/dense/kernel:0"
        older = {
            "model_weights/conv/conv/kernel:0": kernel, "model_weights/depth/depth/depthwise_kernel:0": kernel,
            dense: matrix, "optimizer_weights/conv_kernel_m:0": kernel,
        }  # fmt: skip
        newer = {f"layers/{name}/vars/0": kernel for name in ("conv2d", "depthwise_conv2d")}
        newer |= {"layers/dense/vars/0": matrix, "optimizer/vars/3": kernel}
        found["h5"] = files.hdf5(older, [dense], model_config=config, keras_version="2.15.0")
        weights = found["weights.h5"] = files.hdf5(newer)
        entries = {"metadata.json": b"{}", "config.json": config.encode(), "model.weights.h5": weights}
        found["keras"] = files.zipped(entries)
    if find_spec("onnx"):
        found["onnx"] = _onnx()
    return found


# -- damage --------------------------------------------------------------------------------------------------------
def damaged(content: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Cut short, flipped, overwritten, shifted, or with numbers made huge: one to four of these."""
    if content.startswith(b"PK") and dice.random() < 0.8:
        return _damaged_within(content, others, dice) if dice.random() < 0.7 else _damaged_directory(content, dice)
    if content.startswith(b"\x89HDF") and dice.random() < 0.5:
        return _damaged_fields(content, dice)
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        where = _somewhere(data, dice)
        kind = dice.choice([0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 8, 8])
        if kind == 0:
            del data[dice.randrange(len(data) + 1) :]
        elif kind == 1 and data:
            data[where] ^= 1 << dice.randrange(8)
        elif kind == 2:
            for _ in range(dice.randrange(1, 9)):
                data[where : where + 1] = bytes([dice.randrange(256)])
                where = _somewhere(data, dice)
        elif kind == 3:
            width = dice.choice([1, 2, 4, 8])
            value = dice.choice([0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**64 - 1, 2**40, dice.getrandbits(64)])
            data[where : where + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        elif kind == 4:
            del data[where : where + dice.randrange(1, 64)]
        elif kind == 5:
            data[where:where] = dice.randbytes(dice.randrange(1, 64))
        elif kind == 6:
            other = dice.choice(others)
            start = dice.randrange(len(other))
            data[where : where + 64] = other[start : start + dice.randrange(1, 256)]
        elif kind == 7:
            data[where:where] = data[where : where + dice.randrange(1, 512)]
        else:
            digits = [i for i, byte in enumerate(data[:100_000]) if 48 <= byte <= 57]
            if digits:
                at = dice.choice(digits)
                data[at : at + 1] = dice.choice([b"-1", b"999999999", b"0", b"1e9", b"null", b"[", b"\x00"])
    return bytes(data)


def _damaged_within(content: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """A zip archive with one damaged entry, whose checksum is right again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
        compression = archive.infolist()[0].compress_type
    name = dice.choice(list(entries))
    entries[name] = damaged(entries[name], others, dice)
    return files.zipped(entries, compression)


def _damaged_directory(content: bytes, dice: random.Random) -> bytes:
    """A zip archive whose directory and headers contradict each other: names, places, sizes, a second directory."""
    data = bytearray(content)
    headers = [found.start() for found in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06|\x06\x06)", content)]
    at, to = dice.choice(headers), dice.choice(headers)
    kind = dice.randrange(3)
    if kind == 0:  # a name in other letters, or with an end inside
        name = dice.choice([*re.finditer(rb"/data|\.npy|\.json", content)]).start() + 1
        data[name : name + 1] = dice.choice([b"\0", data[name : name + 1].upper()])
    elif kind == 1:  # a field of a header or of an end of the directory
        field = at + dice.randrange(4, 56)
        data[field : field + 2] = dice.choice([b"\0\0", b"\xff\xff", b"\1\0", b"\x08\0"])
    else:  # an entry, an end of the directory, or all from there on once more
        data[to:to] = data[at : at + dice.choice([22, 56, 76, 98, len(data)])]
    return bytes(data)


def _damaged_fields(content: bytes, dice: random.Random) -> bytes:
    """HDF5 with one to three fields of its own structures changed: what makes its library loop."""
    data = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 3])):
        where, width = dice.randrange(len(data)), dice.choice([1, 1, 2, 4, 8])
        value = dice.choice([0, 1, 2, 8, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), dice.randrange(len(data))])
        data[where : where + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data)


def _somewhere(data: bytearray, dice: random.Random) -> int:
    """Half of the time near the front, where headers are."""
    return min(dice.randrange(dice.choice([64, 1024, len(data) + 1, len(data) + 1])), max(len(data) - 1, 0))


# -- the run -------------------------------------------------------------------------------------------------------
def outcome(path: Path, **limits: Any) -> str:
    """Audit one file: what became of it in a word. Anything but a report or a message of ours passes through."""
    try:
        report = audit(path, methods=(), **limits)
    except SpecnormError as error:
        return "refused" if str(error) else "refused without a word"
    json.dumps(report.to_dict(), allow_nan=False)
    assert [row for row in report.layers if not (row.status == "ok" or row.reason)] == []
    return "rows, some with errors" if any(row.status == "error" for row in report.layers) else "rows"


def sharded_index(dice: random.Random, folder: Path) -> Path:
    names = list(_arrays())
    text = json.dumps({"metadata": {"total_size": 400}, "weight_map": dict.fromkeys(names, "shard")}).encode()
    path = folder / f"m{safetensors.SUFFIX}"
    path.write_bytes(damaged(text, [text], dice))
    return path


def main(folder: Path, seed: int, count: int) -> None:
    """Audit so many damaged files and write what became of them."""
    faulthandler.enable()
    isolated.SECONDS, isolated.GRAPH_SECONDS = LIMIT, SECONDS
    # The same bytes in every run: the path is part of the files, and what is damaged follows from their lengths.
    os.chdir(folder)
    canary = Path("canary")
    originals = healthy(canary)
    labels, contents = list(originals), list(originals.values())
    has_shards = "safetensors" in originals
    if has_shards:
        (folder / "shard").write_bytes(originals["safetensors"])
    for label, content in originals.items():  # imports every library, and shows that healthy files are read
        (folder / "model").write_bytes(content)
        said = outcome(folder / "model", max_bytes=2**26)
        assert (said == "rows") == ("evil" not in label and label not in ("pickle", "onnx")) or label == "onnx", (
            label,
            said,
        )
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))

    def late(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, late)
    dice = random.Random(seed)
    tally: dict[str, dict[str, int]] = {}
    for number in range(count):
        which = number % (len(labels) + has_shards)
        label = "index" if which == len(labels) else labels[which]
        path = folder / "model"
        if which == len(labels):
            path = sharded_index(dice, folder)
        else:
            path.write_bytes(damaged(contents[which], contents, dice))
        print(f"seed {seed}, file {number}, {label}", file=sys.stderr)  # noqa: T201 - what is read when all ends
        signal.alarm(SECONDS + ENDING * (label in CHILD))
        said = outcome(path, max_bytes=2**26)
        signal.alarm(0)
        tally.setdefault(label, {}).setdefault(said, 0)
        tally[label][said] += 1
    assert not canary.exists(), "code in a file was run"
    isolated._end()  # what it took is known then
    write_tally(folder, tally)


def write_tally(folder: Path, files: Any) -> None:
    most = max(resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    (folder / "tally.json").write_text(json.dumps({"most MiB": most, "files": files}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
