"""Read certificates and models: nothing in a file is believed or executed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from specnorm_check.arithmetic import Array, Refused, require
from specnorm_check.claims import Claim
from specnorm_check.graphs import fixed_arrays_of, tensors_of
from specnorm_check.statements import plain

VERSION = 5  # of the certificates' format
LARGEST_ARRAYS = 2**32  # bytes of a certificate's arrays together
LARGEST_TEXT = 2**26  # bytes of the claims, as text
MODEL_SUFFIXES = (".npz", ".safetensors", ".onnx")
DTYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2"}
"""NumPy's names of the dtypes in safetensors files; bfloat16 is read as its bits."""


# -- certificates ----------------------------------------------------------------------
def read_certificate(path: str | Path) -> list[Claim]:
    """Return the claims of a file. Raises `Refused` if it is no certificate."""
    arrays = archive_of(Path(path))
    message = "the file has no claims: it is not a certificate"
    require("claims" in arrays, message)
    text = arrays.pop("claims")
    require(text.dtype == np.uint8 and text.size < LARGEST_TEXT, message)
    claims = []
    for statement in statements_of(text.tobytes()):
        claims.append(with_completions(statement, arrays))
    require(not arrays, "the certificate has arrays that no claim names")
    return claims


def statements_of(text: bytes) -> list[dict[str, Any]]:
    """Return what a certificate's claims state."""
    try:
        certificate = json.loads(
            text.decode(),
            object_pairs_hook=object_of,
            parse_float=refuse_number,
            parse_constant=refuse_number,
        )
    except (ValueError, RecursionError) as error:
        message = f"its claims cannot be read ({error})"
        raise Refused(message[:200]) from None
    message = f"the certificate's format is not version {VERSION}: make it again"
    require(type(certificate) is dict, message)
    require(set(certificate) == {"specnorm_certificate", "claims"}, message)
    require(certificate["specnorm_certificate"] == VERSION, message)
    statements = certificate["claims"]
    is_list = type(statements) is list and statements
    are_claims = is_list and all(type(statement) is dict for statement in statements)
    require(are_claims, "it is not a list of claims")
    return list(statements)


def with_completions(statement: dict[str, Any], arrays: dict[str, Array]) -> Claim:
    """Return the claim with its arrays, which are taken out of ``arrays``.

    So two claims cannot name one array, and the caller sees arrays that no claim names.
    """
    parts = statement.get("parts", [statement])
    is_list = type(parts) is list and all(type(part) is dict for part in parts)
    require(is_list, "it is not a list of parts")
    completions = []
    for part in parts:
        name = part.get("completion")
        is_array = type(name) is str and name in arrays
        cause = "the certificate lacks it, or an earlier claim has taken it"
        require(is_array, f"a claim names the array {plain(name)}, but {cause}")
        completions.append(arrays.pop(name))
    return Claim(statement, completions if "parts" in statement else completions[0])


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; refuse one in which a name is repeated."""
    entries = dict(pairs)
    require(len(entries) == len(pairs), "an entry of its claims is repeated")
    return entries


def refuse_number(text: str) -> None:
    """Refuse what JSON has besides whole numbers: fractions, infinity and nan."""
    number = plain(text)[:20]
    raise Refused(f"{number} is not a whole number; write others as hexadecimal text")


def archive_of(path: Path) -> dict[str, Array]:
    """Return the arrays of a NumPy archive.

    Objects are never unpickled. The sizes that the archive states are limited, and no
    member is unpacked beyond its stated size.
    """
    require(path.is_file(), f"{path.name}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        names = [member.filename for member in members]
        require(len(set(names)) == len(names), "a name in the archive is repeated")
        size = sum(member.file_size for member in members)
        require(
            size <= LARGEST_ARRAYS,
            f"its arrays unpack to more than {LARGEST_ARRAYS} bytes",
        )
        with np.load(path, allow_pickle=False) as archive_of_arrays:
            arrays = dict(archive_of_arrays)
    except Refused:
        raise
    except Exception as error:  # BadZipFile, zlib.error, MemoryError, OSError
        raise Refused(unreadable(path, error)) from None
    for name in names:
        require(name.endswith(".npy"), f"{plain(name)} in it is not an array")
    return arrays


def unreadable(path: Path, error: Exception) -> str:
    """Return the message that a file cannot be read."""
    message = f"{path.name} cannot be read ({type(error).__name__}: {error})"
    return message[:300]


# -- models ----------------------------------------------------------------------------
def read_model(path: str | Path) -> Mapping[str, Array]:
    """Return the arrays of a model's file by their names."""
    path = Path(path)
    suffixes = ", ".join(MODEL_SUFFIXES)
    require(path.suffix in MODEL_SUFFIXES, f"{path.name}: expected a model in {suffixes}")
    require(path.is_file(), f"{path.name}: there is no such file")
    try:
        if path.suffix == ".npz":
            arrays: Mapping[str, Array] = np.load(path, allow_pickle=False)
            return arrays  # `check` reads each of them; errors of the file appear there
        if path.suffix == ".safetensors":
            return safetensors_of(path)
        import onnx

        return fixed_arrays_of(onnx.load(path).graph)
    except Exception as error:
        raise Refused(unreadable(path, error)) from None


def shapes_of(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's arrays, without those that cannot be read."""
    shapes = {}
    for name in arrays:
        with suppress(Exception):  # damaged arrays raise many kinds
            shapes[name] = arrays[name].shape
    return shapes


def read_content(path: str | Path) -> bytes:
    """Return the bytes of an ONNX file that claims about its network are about.

    Numbers that lie in other files beside it are put into it.
    """
    import onnx

    path = Path(path)
    require(path.is_file(), f"{path.name}: there is no such file")
    try:
        content = path.read_bytes()
        model = onnx.ModelProto.FromString(content)
        is_whole = not any(tensor.external_data for tensor in tensors_of(model.graph))
        if not is_whole:  # onnx refuses files outside of the model's folder
            content = onnx.load(path).SerializeToString(deterministic=True)
    except Exception as error:
        raise Refused(unreadable(path, error)) from None
    return content


def safetensors_of(path: Path) -> dict[str, Array]:
    """Return the floating arrays of a safetensors file; no claim is about others."""
    import safetensors

    content = path.read_bytes()
    arrays: dict[str, Array] = {}
    for name, entry in safetensors.deserialize(content):  # type: ignore[no-untyped-call]
        dtype = entry["dtype"]
        if dtype not in DTYPES:
            continue
        numbers = np.frombuffer(entry["data"], DTYPES[dtype])
        array = numbers.reshape(entry["shape"])
        if dtype == "BF16":  # the upper half of a float32
            bits = array.astype(np.uint32) << np.uint32(16)
            array = bits.view(np.float32)
        arrays[name] = array
    return arrays
