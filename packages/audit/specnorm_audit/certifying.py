"""Write certificates of an audit's layers and network, which others can check, and check such a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from specnorm_check import (
    Claim,
    Refused,
    Verdict,
    check,
    digest,
    plain,
    read_certificate,
    read_content,
    without_claim,
)
from specnorm_networks.model_arrays import ModelArrays, Tensor
from specnorm_networks.tools import NetworkBound

from specnorm import SpecnormError
from specnorm.errors import CertificateError, ModelFileError
from specnorm.proof import number
from specnorm_audit.layer_certificates import Certificate, certificate_of
from specnorm_audit.measuring import on_host
from specnorm_audit.network_certificates import certificate_of_network
from specnorm_audit.readers import MAX_BYTES, open_model
from specnorm_audit.readers.isolated import GRAPH_SECONDS
from specnorm_audit.report import Report
from specnorm_audit.rows import Row

NETWORK = "network"
"""Name of the claim about a model's network."""
Key = tuple[str, tuple[int, ...], str]
"""Dtype, shape and digest of an array."""


def claims_of(
    model: ModelArrays,
    layers: Sequence[Tensor],
    rows: Sequence[Row],
    path: str | None,
    network: NetworkBound | None,
    seconds: float | None,
) -> tuple[Certificate, list[str]]:
    """Return claims for the rows with a bound and for the network of a file, and a line with the reason for each other.

    ``seconds`` limits the processor time for the network, in a process that reads files.
    """
    certificate, missing = _claims_of_layers(model, layers, rows)
    if network is None or path is None:
        return certificate, missing
    claim, reasons = _claim_of_network(model, path, network, seconds)
    return certificate + claim, missing + reasons


def _claims_of_layers(
    model: ModelArrays, layers: Sequence[Tensor], rows: Sequence[Row]
) -> tuple[Certificate, list[str]]:
    names = model.ask(None, stored_names)
    loads = {tensor.name: tensor.load for tensor in model.arrays}
    certificate = Certificate(())
    missing = []
    for layer, row in zip(layers, rows, strict=True):
        if row.status != "ok":
            continue
        if not row.spec.ndim and len(layer.shape) > 2:
            missing.append(f"{row.name}: it is read as a stack of matrices, which certificates do not support.")
            continue
        if loads.get(row.name) is not layer.load:
            missing.append(f"{row.name}: its weight is computed from others, and none that the file holds.")
            continue
        try:
            kernel = on_host(layer.load())
            certificate += certificate_of(kernel, row.spec, row.name, _name_in_file(kernel, row.name, names))
        except SpecnormError as error:
            missing.append(f"{row.name}: {error}")
    return certificate, missing


def are_all_claimed(certificate: Certificate, report: Report) -> bool:
    """Return whether a certificate has a claim for each layer of a report, and for its network if there is one."""
    wanted = {row.name for row in report.layers}
    if report.network is not None:
        wanted.add(NETWORK)
    return wanted <= {str(claim.statement["name"]) for claim in certificate.claims}


def _claim_of_network(
    model: ModelArrays, path: str, network: NetworkBound, seconds: float | None
) -> tuple[Certificate, list[str]]:
    """Return the claim about the network of an ONNX file, and a line if it is missing or weaker than the bound."""
    if network.claim is None:
        return Certificate(()), ["network: there is no proven bound that could be claimed."]
    if any(network.input_ranges.values()):
        return Certificate(()), ["network: a certificate covers all inputs; the bound holds on a range of inputs only."]
    try:
        certificate: Certificate = model.ask(seconds, _claimed, network, path)
    except SpecnormError as error:
        return Certificate(()), [f"network: {error}"]
    if not certificate.note:
        return certificate, []
    certified = number(float.fromhex(certificate.claims[0].statement["upper"]), "upper")
    proven = number(network.claim.value, "upper")
    line = f"network: the certified bound is {certified}, the proven one {proven}. {certificate.note}"
    return certificate, [line]


def _claimed(_model: ModelArrays, network: NetworkBound, path: str) -> Certificate:
    return certificate_of_network(network, _content(path), NETWORK)


def _content(path: str) -> bytes:
    """Return the bytes of an ONNX file, with its numbers, that a claim about its network is about."""
    try:
        return read_content(path)
    except Refused as error:
        raise CertificateError(f"{error}.") from error


def verify_file(
    certificate: str | os.PathLike[str],
    model: str | os.PathLike[str],
    max_bytes: int = MAX_BYTES,
) -> Iterator[Verdict | str]:
    """Prove the claims of a certificate about a model's file, by ``specnorm_check.check``, one after the other.

    Last comes a line of text on arrays that may be layers and have no claim, if there are some.
    """
    try:
        claims = read_certificate(os.fspath(certificate))
    except Refused as error:
        raise CertificateError(
            f"{Path(certificate).name} is not a certificate ({error}): expected what 'specnorm audit --certificate' "
            "writes."
        ) from error
    with open_model(os.fspath(model), max_bytes) as arrays:
        for claim in claims:
            yield arrays.ask(GRAPH_SECONDS, _checked, claim, os.fspath(model))
        may_be_kernels = [tensor for tensor in arrays.arrays if tensor.kind != "none" and "float" in tensor.dtype]
        shapes = {tensor.name: tensor.shape for tensor in may_be_kernels}
        rest = without_claim(claims, shapes, arrays.network is not None)
        if rest:
            yield rest


def _checked(model: ModelArrays, claim: Claim, path: str) -> Verdict:
    """Check one claim, in the process that has the model's file open."""
    content = _content(path) if "parts" in claim.statement else b""
    name = str(claim.statement.get("tensor"))
    try:
        arrays = {name: np.asarray(model.array(name))}
    except LookupError:
        arrays = {}  # the checker's verdict names the missing array
    except ModelFileError as error:
        name_of_claim = plain(claim.statement.get("name"))
        return Verdict(name=name_of_claim, statement="", reason=f"its array cannot be read: {error}", seconds=0.0)
    (verdict,) = check([claim], arrays, content)
    return verdict


def stored_names(model: ModelArrays) -> dict[Key, list[str]] | None:
    """Return the names of a file's arrays by their keys; None: arrays have the names of their rows."""
    if model.stored is None:
        return None
    names: dict[Key, list[str]] = {}
    for name, load in model.stored().items():
        names.setdefault(_key(np.asarray(load())), []).append(name)
    return names


def _key(array: np.ndarray) -> Key:
    return array.dtype.name, tuple(array.shape), digest(array)


def _name_in_file(kernel: np.ndarray, name: str, names: dict[Key, list[str]] | None) -> str:
    """Return the name of a kernel in the file: the row's ``name``, if the file has the kernel under it."""
    if names is None:
        return name
    names_of_kernel = names.get(_key(kernel), [])
    if not names_of_kernel:
        raise CertificateError("its kernel is computed from others, and none that the file holds.")
    return name if name in names_of_kernel else names_of_kernel[0]
