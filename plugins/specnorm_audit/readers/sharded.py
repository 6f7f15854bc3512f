"""Sharded safetensors: the index, and the files beside it that it names. None of them may lie elsewhere."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from specnorm_networks import ModelArrays, Tensor

from specnorm import ModelFileError
from specnorm_audit.readers import safetensors

SUFFIX = ".safetensors.index.json"
MAX_INDEX = 100_000_000
"""Longest index that is read, in bytes; the format's own limit on a header."""


def index_of(folder: Path) -> Path:
    """Find the index in a folder, or the one file that needs none."""
    inside = sorted(folder.iterdir())
    found = [path for path in inside if path.name.endswith(SUFFIX)]
    found = found or [path for path in inside if path.name.endswith(".safetensors")]
    if len(found) != 1:
        named = ", ".join(path.name for path in found[:3]) + (", …" if len(found) > 3 else "")
        raise ModelFileError(
            "it is not a regular file but a folder, "
            + (f"which holds {named}. Name one of them." if found else "without safetensors. Name the model's file.")
        )
    return found[0]


def files_of(path: Path) -> list[Path]:
    """List the files that a model consists of: itself, or the index of a folder, and what an index names."""
    with suppress(ModelFileError, OSError):
        index = index_of(path) if path.is_dir() else path
        if index.is_file():  # a pipe would block
            with index.open("rb") as file:
                shards = dict.fromkeys(_weight_map(file).values()) if file.read(1) == b"{" else ()
                return [index, *(index.parent / shard for shard in shards if "\0" not in shard)]
    return [path]


def read(file: BinaryIO, path: str, max_bytes: int) -> ModelArrays:
    """List the arrays of an index's shards. What a missing or damaged one should hold is listed with the reason."""
    owner = _weight_map(file)
    tensors: list[Tensor] = []
    left = max_bytes
    for shard in dict.fromkeys(owner.values()):
        place = _beside(Path(path), shard)
        promised = [name for name, its in owner.items() if its == shard]
        try:
            with place.open("rb") as opened:
                found = safetensors.listing(opened, str(place), left, partial(_open, place))
            left -= place.stat().st_size
        except (ModelFileError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            tensors += [_lost(name, f"its shard {shard} cannot be read: {reason}") for name in promised]
            continue
        there = {tensor.name: tensor for tensor in found if owner.get(tensor.name, shard) == shard}
        tensors += there.values()
        tensors += [_lost(name, f"it is not in its shard {shard}.") for name in promised if name not in there]
    return ModelArrays(tensors)


def _weight_map(file: BinaryIO) -> dict[str, str]:
    if file.seek(0, 2) > MAX_INDEX:
        raise ModelFileError(f"it is text, and longer than {MAX_INDEX} bytes.")
    file.seek(0)
    try:
        index: Any = json.loads(file.read())
        found = index.get("weight_map")
        if found is None:
            raise ValueError("it has no such entry")
        if not found or not all(isinstance(word, str) for pair in found.items() for word in pair):
            raise ValueError("it names no files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(
            f"it is text, but no index of sharded safetensors ({SUFFIX}), which maps arrays to files under "
            f"'weight_map': {error}."
        ) from error
    return dict(found)


def _beside(index: Path, shard: str) -> Path:
    """Path of a shard, which may not leave the folder that the index lies in, by its name or by a link."""
    place = index.parent / shard
    if "/" in shard or "\\" in shard or "\0" in shard or Path(shard).name != shard:
        raise ModelFileError(f"it names the shard {shard!r}, which is no plain name of a file beside it: not opened.")
    # A cache of links keeps the index and its shards in one other folder.
    homes = {index.parent.resolve(), index.resolve().parent}
    if place.resolve().parent not in homes:
        raise ModelFileError(f"its shard {shard!r} is a link that leaves the model's folder: not opened.")
    if place.exists() and not place.is_file():
        raise ModelFileError(f"its shard {shard!r} is not a regular file.")
    return place


def _open(place: Path) -> BinaryIO:
    return place.open("rb")


def _lost(name: str, reason: str) -> Tensor:
    return Tensor(name, (), "void", _nothing, kind="unknown", refusal=reason)


def _nothing() -> NoReturn:
    raise ModelFileError("it is not there.")
