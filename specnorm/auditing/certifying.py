"""Claims of an audit that somebody else checks: of each layer that was measured, at its size or at every one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specnorm.auditing.layers import Layer
from specnorm.auditing.model_arrays import ModelArrays
from specnorm.auditing.rows import Row
from specnorm.backends import backend_for
from specnorm.certified.stated import digest
from specnorm.errors import CertificateError, SpecnormError
from specnorm.result import Certificate
from specnorm.runtime.execution import Execution
from specnorm.search.certificate import certificate_of

Key = tuple[str, tuple[int, ...], str]
"""Precision, shape and digest of an array."""


def claims_of(model: ModelArrays, layers: Sequence[Layer], rows: Sequence[Row]) -> tuple[Certificate, list[str]]:
    """A claim for each row that has a bound, and why others have none, one line each."""
    names: dict[Key, list[str]] | None = model.ask(None, stored_names)
    found, missing = Certificate(()), []
    for layer, row in zip(layers, rows, strict=True):
        if row.status != "ok" or row.spec is None or row.upper is None:
            continue
        try:
            if layer.tensor.dtype == "bfloat16":
                raise CertificateError("a kernel of bfloat16 numbers cannot be stated; store it in float32.")
            kernel = backend_for(layer.tensor.load()).to_numpy(layer.tensor.load())
            ops = Execution.of(backend_for(kernel), kernel)
            found += certificate_of(kernel, row.spec, row.upper, row.name, _stored(kernel, row.name, names), ops=ops)
        except SpecnormError as error:
            missing.append(f"{row.name}: {error}")
    return found, missing


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
