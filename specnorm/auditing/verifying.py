"""A certificate's claims, each proven from what its file says: by rules of `specnorm.certified`, without a search."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specnorm import backends
from specnorm.auditing.layers import ModelArrays
from specnorm.auditing.readers import MAX_BYTES, open_model
from specnorm.auditing.readers.isolated import GRAPH_SECONDS
from specnorm.certified.bound import Upper
from specnorm.certified.network.checking import check
from specnorm.certified.network.patterns import recognised
from specnorm.certified.network.stated import Part, constant_by_parts, digests_of, statement_of
from specnorm.certified.stated import digest, norm_of_layer
from specnorm.errors import CertificateError, SpecnormError
from specnorm.problem.spec import ConvSpec
from specnorm.result import FORMAT
from specnorm.runtime.execution import Execution
from specnorm.text import number, visible

LONGEST, MOST_PARTS = 2**26, 2**20
"""Bytes of a file that are read at most; and lists, objects and strings: empty ones take 20 times their text."""
LAYER = {
    "claim", "name", "kernel", "stride", "dilation", "groups", "transposed", "padding_mode", "padding", "sizes",
    "upper", "proof",
}  # fmt: skip
NETWORK = {"claim", "name", "of", "input_shape", "tensors", "parts", "upper"}
PART = {"start", "values", "units", "weights", "upper", "proof"}
FLOATING = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Verdict:
    """What became of one claim.

    Parameters
    ----------
    name, claim : str
        As the file has them.
    upper : float or None
        What is proven: the number that is claimed. None: it is not proven.
    reason : str
        Why not.
    seconds : float
    """

    name: str
    claim: str
    upper: float | None
    reason: str
    seconds: float

    def __str__(self) -> str:
        """One line."""
        what, time_taken = visible(self.name)[:80], f"{self.seconds:.2f} s"
        if self.upper is None:
            return f"FAILED {what}: {visible(self.reason)[:300]}; {time_taken}"
        return f"proven {what}: {self.claim}, at most {number(self.upper, 'upper')}; {time_taken}"


def verify_file(
    certificate: str | os.PathLike[str],
    model: str | os.PathLike[str],
    max_bytes: int = MAX_BYTES,
    seconds: float | None = GRAPH_SECONDS,
) -> Iterator[Verdict]:
    """Prove the claims of a certificate about a model's file, one after the other.

    Parameters
    ----------
    certificate : path
        As ``specnorm audit --certificate``, `Enclosure.certificate` or `NetworkBound.certificate` wrote it.
    model : path
        Of the file whose arrays it names.
    max_bytes : int, default 8 GiB
        Refuse files whose arrays claim more than that in all.
    seconds : float or None, default 600
        Of processor time for each claim, in a process that reads a graph; None: as long as they take.

    Raises
    ------
    CertificateError
        If the certificate cannot be read.
    ModelFileError
        If the model cannot be read.
    """
    claims = read_certificate(Path(certificate))
    with open_model(os.fspath(model), max_bytes) as found:
        for at, claim in enumerate(claims):
            begin, reason = time.perf_counter(), ""
            upper: float | None = None
            try:
                upper = found.ask(seconds, _proven, claim)
            except Exception as error:  # what is damaged proves nothing
                words = str(error) if isinstance(error, SpecnormError) else repr(error)
                reason = words or type(error).__name__
            kind, name = (str(claim.get(key, at)) for key in ("claim", "name"))
            yield Verdict(name, kind, upper, reason, time.perf_counter() - begin)


def read_certificate(path: Path) -> list[dict[str, Any]]:
    """Claims of a file of JSON, which has whole numbers alone and no two entries of one name.

    Raises
    ------
    CertificateError
        If it is none, or not to be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a named pipe would block, a device never end
            raise ValueError("it is not a regular file")
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST or sum(map(content.count, (b"[", b"{", b'"'))) > MOST_PARTS:
            raise ValueError(f"it has more than {LONGEST} bytes, or {MOST_PARTS} lists, objects and strings")
        hooks: Any = dict.fromkeys(("parse_float", "parse_constant", "parse_int"), _whole)
        data = json.loads(content, object_pairs_hook=_entries, **hooks)
        if data["specnorm_certificate"] != FORMAT:
            raise ValueError(f"format {str(data['specnorm_certificate'])[:20]}, expected {FORMAT}: make it anew")
        claims = data["claims"]
        if set(data) != {"specnorm_certificate", "claims"} or not claims or not all(type(x) is dict for x in claims):
            raise ValueError("it is no list of claims")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        words = getattr(error, "strerror", None) or f"{type(error).__name__}: {str(error)[:80]}"
        raise CertificateError(
            f"{path.name} is no certificate ({words}): expected the JSON that 'specnorm audit --certificate' writes."
        ) from error
    return list(claims)


def _entries(found: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(found)) != len(found):
        raise ValueError("an entry is given twice")
    return dict(found)


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,16}", text):
        raise ValueError(f"{text[:20]} is no whole number; others are hexadecimal text")
    return int(text)


# -- where the model's file is open ----------------------------------------------------------------------------------
def _proven(model: ModelArrays, claim: Mapping[str, Any]) -> float:
    """The number of a claim, once it is proven."""
    known = {"layer": (LAYER, _layer), "network": (NETWORK, _network)}.get(str(claim.get("claim")))
    if known is None or set(claim) != known[0] or type(claim["name"]) is not str:
        raise CertificateError("it is no claim about a layer or a network that this version knows")
    upper = _number(claim["upper"])
    proven = known[1](model, claim, upper)
    if not proven <= upper:
        raise CertificateError(f"it claims {upper!r}, and its parts make up {proven.value!r}")
    return upper


def _number(text: Any) -> float:
    if type(text) is not str or not re.fullmatch(r"0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}", text):
        raise CertificateError("a number is not hexadecimal, or negative")
    found = float.fromhex(text)
    if not math.isfinite(found):
        raise CertificateError("a number is infinite")
    return found


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise CertificateError("a list was expected")
    return value


def _layer(model: ModelArrays, claim: Mapping[str, Any], upper: float) -> Upper:
    said = claim["kernel"]
    try:
        array: Any = np.asarray(model.array(said["tensor"]))
    except LookupError as error:
        raise CertificateError("the model's file has no such array") from error
    same = (said["dtype"], said["shape"], said["sha256"]) == (array.dtype.name, list(array.shape), digest(array))
    if not same or said["layout"] not in ("OI", "IO") or array.dtype.name not in FLOATING:
        raise CertificateError("the kernel is another one, bit for bit")
    axes = range(array.ndim)
    kernel = array.astype(np.float64).transpose(axes if said["layout"] == "OI" else (*axes[:-3:-1], *axes[:-2]))
    words = {name: tuple(_list(claim[name])) for name in ("stride", "dilation")}
    padding = tuple(tuple(_list(pair)) for pair in _list(claim["padding"]))
    sizes = claim["sizes"]
    spec = ConvSpec.of(
        kernel.shape, **words, padding=padding, groups=claim["groups"], transposed=claim["transposed"],
        padding_mode=claim["padding_mode"], input_shape=None if sizes in ("every", "divided") else tuple(_list(sizes)),
    )  # fmt: skip
    if sizes == "every" and spec.padding_mode == "circular" and not spec.transposed and max(spec.stride, default=1) > 1:
        raise CertificateError("its stride does not divide every size: the border is met at another phase")
    return norm_of_layer(kernel, spec, claim["proof"], upper, ops=_ops())


def _ops() -> Execution:
    return Execution.of(backends.load("numpy"), np.empty(0))


def _network(model: ModelArrays, claim: Mapping[str, Any], upper: float) -> Upper:
    del upper
    if model.network is None:
        raise CertificateError("the model's file holds weights and no graph: give the ONNX file of the network")
    shape = _list(claim["input_shape"])
    sizes: Any = tuple(n if type(n) is int else None for n in shape[2:]) or None
    if all(type(n) is int for n in shape):
        sizes = dict.fromkeys(model.graph(None).inputs, tuple(shape))
    graph = model.graph(sizes)
    own = [graph.by_name[name].shape for name in graph.inputs]
    fits = len(own) == 1 and own[0] is not None and len(own[0]) == len(shape)
    if not fits or any(type(n) is not str and n != m for n, m in zip(shape, own[0] or (), strict=True)):
        raise CertificateError(f"the model's input has another shape: {own}")
    if claim["tensors"] != digests_of(graph):
        raise CertificateError("a tensor has other bits")
    whole = statement_of(graph, claim["of"]).pruned()
    check(whole, recognised(whole).pruned(), None)
    found = constant_by_parts(whole, [_part(part) for part in _list(claim["parts"])], ops=_ops())
    if found is None:
        raise CertificateError("an output has no bound: no part bounds a layer, or an operator is not known")
    return found


def _part(part: Mapping[str, Any]) -> Part:
    if set(part) != PART or type(part["units"]) is not bool:
        raise CertificateError("a part has other entries than this version knows")
    names = [part["start"], *_list(part["values"])]
    if any(type(name) is not str for name in names) or len(_list(part["weights"])) != len(names):
        raise CertificateError("a part has a list of weights for each of its values")
    weights = tuple(np.array([_number(x) for x in _list(each)]) for each in part["weights"])
    return Part(names[0], tuple(names[1:]), weights, _number(part["upper"]), part["proof"], part["units"])
