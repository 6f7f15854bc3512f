"""Claims of an audit that somebody else checks, of measured layers and the network; and the check of such a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from specnorm_check import Claim, Refused, Verdict, check, digest, plain, read_certificate
from specnorm_networks.tools import Certificate, ModelArrays, NetworkBound, certificate_of, certificate_of_network

from specnorm import SpecnormError
from specnorm.errors import CertificateError, ModelFileError
from specnorm.proof import backends, number
from specnorm_audit.layers import Layer
from specnorm_audit.readers import MAX_BYTES, open_model
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.rows import Row

CLOSE = 1.02
"""Of a network's constant, up to which the claim is called the same."""
Key = tuple[str, tuple[int, ...], str]
"""Precision, shape and digest of an array."""


def claims_of(
    model: ModelArrays,
    layers: Sequence[Layer],
    rows: Sequence[Row],
) -> tuple[Certificate, list[str]]:
    """A claim for each row that has a bound, and why others have none, one line each."""
    names: dict[Key, list[str]] | None = model.ask(None, stored_names)
    loads = {tensor.name: tensor.load for tensor in model.arrays}
    found, missing = Certificate(()), []
    for layer, row in zip(layers, rows, strict=True):
        if row.status != "ok" or row.spec is None:
            continue
        if loads.get(row.name) is not layer.tensor.load:
            missing.append(f"{row.name}: its weight is computed from others, and none that the file holds.")
            continue
        try:
            kernel = backends.backend_for(layer.tensor.load()).to_numpy(layer.tensor.load())
            found += certificate_of(kernel, row.spec, row.name, _stored(kernel, row.name, names))
        except SpecnormError as error:
            missing.append(f"{row.name}: {error}")
    return found, missing


def claim_of(
    model: ModelArrays,
    path: str,
    network: NetworkBound,
    seconds: float | None = GRAPH_SECONDS,
) -> tuple[Certificate, list[str]]:
    """The claim about the network of an ONNX file, and what of its bound it does not state."""
    if network.claim is None or any(network.input_ranges.values()):
        return Certificate(()), ["network: a claim is about a bound on all inputs."]
    try:
        found: Certificate = model.ask(seconds, _claimed, network, Path(path).read_bytes())
    except SpecnormError as error:
        return Certificate(()), [f"network: {error}"]
    stated, upper = float.fromhex(found.claims[0].statement["upper"]), network.claim.value
    ends = number(upper, "upper"), number(stated, "upper")
    looser = f"network: its constant {ends[0]}, whose rules the format lacks; {ends[1]} is."
    return found, [looser] if stated > upper * CLOSE else []


def _claimed(_model: ModelArrays, network: NetworkBound, content: bytes) -> Certificate:
    return certificate_of_network(network, content, "network")


def verify_file(
    certificate: str | os.PathLike[str],
    model: str | os.PathLike[str],
    max_bytes: int = MAX_BYTES,
    seconds: float | None = GRAPH_SECONDS,
) -> Iterator[Verdict]:
    """Prove the claims of a certificate about a model's file, by ``specnorm_check.check``, one after the other."""
    try:
        claims = read_certificate(os.fspath(certificate))
    except Refused as error:
        words = f"is no certificate ({error}): expected what 'specnorm audit --certificate' writes."
        raise CertificateError(f"{Path(certificate).name} {words}") from error
    with open_model(os.fspath(model), max_bytes) as found:
        for claim in claims:
            content = Path(model).read_bytes() if "parts" in claim.statement else b""
            yield found.ask(seconds, _checked, claim, content)


def _checked(model: ModelArrays, claim: Claim, content: bytes) -> Verdict:
    name = str(claim.statement.get("tensor"))
    try:
        arrays = {name: np.asarray(model.array(name))}
    except LookupError:
        arrays = {}  # which the check says
    except ModelFileError as error:
        return Verdict(plain(claim.statement.get("name")), "", f"its array cannot be read: {error}", 0.0)
    (verdict,) = check([claim], arrays, content)
    return verdict


def stored_names(model: ModelArrays) -> dict[Key, list[str]] | None:
    """Names of arrays in the file, by what they are; None: those of the rows."""
    if model.stored is None:
        return None
    found: dict[Key, list[str]] = {}
    for name, load in model.stored().items():
        found.setdefault(_key(np.asarray(load())), []).append(name)
    return found


def _key(array: np.ndarray) -> Key:
    return array.dtype.name, tuple(array.shape), digest(array)


def _stored(kernel: np.ndarray, name: str, names: dict[Key, list[str]] | None) -> str:
    if names is None:
        return name
    found = names.get(_key(kernel), [])
    if not found:
        raise CertificateError("its kernel is computed from others, and none that the file holds.")
    return name if name in found else found[0]
