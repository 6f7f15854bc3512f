"""A certificate's claims, each proven from what its file says: by rules of `specnorm.certified`, without a search."""

from __future__ import annotations

import base64
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
from specnorm.auditing.model_arrays import ModelArrays
from specnorm.auditing.readers import MAX_BYTES, open_model
from specnorm.auditing.readers.isolated import GRAPH_SECONDS
from specnorm.auditing.samples import SAMPLE_SECONDS, samples_of
from specnorm.certified.bound import Upper
from specnorm.certified.network.checking import check
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.labels import Lines, Stated, digest_of, network_of, radius_as_stated
from specnorm.certified.network.linear_bounds import Cut
from specnorm.certified.network.patterns import recognised
from specnorm.certified.network.stated import Part, constant_by_parts, digests_of, statement_of
from specnorm.certified.stated import digest, norm_of_layer
from specnorm.errors import CertificateError, SpecnormError
from specnorm.problem.spec import ConvSpec
from specnorm.result import FORMAT
from specnorm.runtime.execution import Execution
from specnorm.text import number, visible
from specnorm.types import AnyArray

LONGEST, MOST_PARTS = 2**26, 2**20
"""Bytes of a file that are read at most; and lists, objects and strings: empty ones take 20 times their text."""
LAYER = {
    "claim", "name", "kernel", "stride", "dilation", "groups", "transposed", "padding_mode", "padding", "sizes",
    "upper", "proof",
}  # fmt: skip
NETWORK = {"claim", "name", "of", "input_shape", "tensors", "parts", "upper"}
LABELS = {"claim", "name", "input_shape", "input_range", "tensors", "parts", "samples"}
SAMPLE, PROOF = {"sha256", "label", "radius", "anew", "proof"}, {"cuts", "others", "lines"}
LINES = {"value", "at", "shares", "multipliers"}
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
        What is proven: the number that is claimed. None: it is not proven, or the claim is about labels.
    reason : str
        Why it is not proven; empty: it is.
    seconds : float
    labels : str
        Of a claim about labels: how many samples of the data keep theirs.
    """

    name: str
    claim: str
    upper: float | None
    reason: str
    seconds: float
    labels: str = ""

    def __str__(self) -> str:
        """One line."""
        what, time_taken = visible(self.name)[:80], f"{self.seconds:.2f} s"
        if self.reason or (self.upper is None and not self.labels):
            return f"FAILED {what}: {visible(self.reason)[:300]}; {time_taken}"
        if self.upper is None:
            return f"proven {what}: {self.labels}; {time_taken}"
        return f"proven {what}: {self.claim}, at most {number(self.upper, 'upper')}; {time_taken}"


def verify_file(
    certificate: str | os.PathLike[str],
    model: str | os.PathLike[str],
    max_bytes: int = MAX_BYTES,
    seconds: float | None = GRAPH_SECONDS,
    data: str | os.PathLike[str] | None = None,
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
        Of processor time for each claim, in a process that reads a graph, and a minute for each sample; None: as long
        as they take.
    data : path, optional
        Of the file with the samples x and labels y that a claim about labels speaks of.

    Raises
    ------
    CertificateError
        If the certificate cannot be read.
    ModelFileError
        If the model or the data cannot be read.
    """
    claims = read_certificate(Path(certificate))
    samples = None if data is None else samples_of(os.fspath(data), max_bytes)
    if samples is not None and seconds is not None:
        seconds += SAMPLE_SECONDS * len(samples[0])
    with open_model(os.fspath(model), max_bytes) as found:
        for at, claim in enumerate(claims):
            begin, reason = time.perf_counter(), ""
            upper, labels = None, ""
            try:
                upper, labels = found.ask(seconds, _proven, claim, samples)
            except Exception as error:  # what is damaged proves nothing
                words = str(error) if isinstance(error, SpecnormError) else repr(error)
                reason = words or type(error).__name__
            kind, name = (str(claim.get(key, at)) for key in ("claim", "name"))
            yield Verdict(name, kind, upper, reason, time.perf_counter() - begin, labels)


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
def _proven(
    model: ModelArrays, claim: Mapping[str, Any], samples: tuple[AnyArray, AnyArray] | None = None
) -> tuple[float | None, str]:
    """The number of a claim, or what it says of labels, once it is proven."""
    known = {"layer": LAYER, "network": NETWORK, "labels": LABELS}.get(str(claim.get("claim")))
    if known is None or set(claim) != known or type(claim["name"]) is not str:
        raise CertificateError("it is no claim about a layer, a network or labels that this version knows")
    if known is LABELS:
        return None, _labels(model, claim, samples)
    upper = _number(claim["upper"])
    proven = _layer(model, claim, upper) if known is LAYER else _network(model, claim)
    if not proven <= upper:
        raise CertificateError(f"it claims {upper!r}, and its parts make up {proven.value!r}")
    return upper, ""


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


def _network(model: ModelArrays, claim: Mapping[str, Any]) -> Upper:
    whole = statement_of(_graph(model, claim), claim["of"]).pruned()
    check(whole, recognised(whole).pruned(), None)
    found = constant_by_parts(whole, [_part(part) for part in _list(claim["parts"])], ops=_ops())
    if found is None:
        raise CertificateError("an output has no bound: no part bounds a layer, or an operator is not known")
    return found


def _graph(model: ModelArrays, claim: Mapping[str, Any]) -> Graph:
    """The network that a claim speaks of, its arrays bit for bit."""
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
    return graph


def _part(part: Mapping[str, Any]) -> Part:
    if set(part) != PART or type(part["units"]) is not bool:
        raise CertificateError("a part has other entries than this version knows")
    names = [part["start"], *_list(part["values"])]
    if any(type(name) is not str for name in names) or len(_list(part["weights"])) != len(names):
        raise CertificateError("a part has a list of weights for each of its values")
    weights = tuple(np.array([_number(x) for x in _list(each)]) for each in part["weights"])
    return Part(names[0], tuple(names[1:]), weights, _number(part["upper"]), part["proof"], part["units"])


# -- labels ------------------------------------------------------------------------------------------------------------
def _labels(model: ModelArrays, claim: Mapping[str, Any], samples: tuple[AnyArray, AnyArray] | None) -> str:
    if samples is None:
        raise CertificateError("it is about labels: give the file of the samples as --data")
    between = None if claim["input_range"] is None else tuple(map(_signed, _list(claim["input_range"])))
    if between is not None and (len(between) != 2 or not between[0] <= between[1]):
        raise CertificateError("a range is not two numbers, the smaller one first")
    graph = _graph(model, claim).pruned()
    check(graph, recognised(graph).pruned(), None)
    ends = [graph.by_name[name].shape for name in (*graph.inputs, *graph.outputs)]
    if len(ends) != 2 or any(type(n) is not int for end in ends for n in end or ("",)) or (ends[1] or ())[:-1] != (1,):
        raise CertificateError("labels are of a network with one input and one output of shape (1, classes)")
    network = network_of(graph, [_part(part) for part in _list(claim["parts"])], between, ops=_ops())
    places: dict[str, list[int]] = {}
    for at, sample in enumerate(samples[0]):
        places.setdefault(digest_of(sample), []).append(at)
    kept: dict[int, float] = {}
    for said in _list(claim["samples"]):
        if type(said) is not dict or set(said) != SAMPLE or type(said["label"]) is not int:
            raise CertificateError("a sample has other entries than this version knows")
        found = [at for at in places.get(str(said["sha256"]), []) if int(samples[1][at]) == said["label"]]
        if not found or found[0] in kept or type(said["anew"]) is not bool:
            raise CertificateError("a sample is stated twice, is not in the data, or has another label there")
        stated = [_stated(each) for each in _list(said["proof"])]
        centre, radius = np.asarray(samples[0][found[0]], dtype=np.float64), _number(said["radius"])
        radius_as_stated(network, centre, said["label"], radius, stated, anew=said["anew"])
        kept.update(dict.fromkeys(found, radius))
    radii = sorted(set(kept.values()))
    counts = [f"{sum(kept[at] >= radius for at in kept)} stay within {radius:.6g}" for radius in radii]
    where = "" if between is None else f", for inputs from {between[0]:g} to {between[1]:g}"
    return f"of {len(samples[0])} labels {', '.join(counts)}{where}"


def _signed(text: Any) -> float:
    negative = type(text) is str and text.startswith("-")
    return -_number(text[1:]) if negative else _number(text)


def _stated(said: Any) -> Stated:
    """A statement about a ball or a part of one."""
    if type(said) is not dict or set(said) != PROOF:
        raise CertificateError("a proof has other entries than this version knows")
    others = np.array(_wholes(said["others"]), dtype=np.intp)
    cuts = list[Cut]()
    for cut in map(_list, _list(said["cuts"])):
        if len(cut) != 3 or type(cut[0]) is not str or cut[2] not in (0, 1):
            raise CertificateError("a cut is a value, a position, and 0 or 1")
        cuts.append((cut[0], _wholes(cut[1:2])[0], bool(cut[2])))
    lines = {}
    for each in _list(said["lines"]):
        if type(each) is not dict or set(each) != LINES or type(each["value"]) is not str:
            raise CertificateError("slopes have other entries than this version knows")
        at = np.array(_wholes(each["at"]), dtype=np.intp)
        content = np.frombuffer(base64.b64decode(each["shares"], validate=True), dtype=np.uint8)
        if (np.diff(at) <= 0).any() or content.size != 3 * len(others) * at.size:
            raise CertificateError("slopes are not three bytes for each row and position, which ascend")
        digits = content.reshape(len(others), at.size, 3).astype(np.int64)
        multipliers = np.array([_number(number) for number in _list(each["multipliers"])])
        lines[each["value"]] = Lines(at, digits @ np.array([2**16, 2**8, 1]), multipliers)
    return Stated(tuple(cuts), others, lines)


def _wholes(value: Any) -> list[int]:
    if any(type(n) is not int or n < 0 for n in _list(value)):
        raise CertificateError("positions are whole numbers from 0 on")
    return list(value)
