"""Write certificates of layers: claims about their norms, each with the kernel H that proves it.

This file searches for H. ``specnorm_check``, which shares no code with these packages, proves the claim from H by
products of whole numbers. Nothing in this file is trusted.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import specnorm_check
from numpy.typing import NDArray
from specnorm_check import Claim, Layer, Refused, read_layer
from specnorm_networks.tools import aligned, html_table, shortened

from specnorm import ConvSpec, complete, power_norm
from specnorm.errors import CertificateError
from specnorm.proof import number, visible
from specnorm_audit.rows import GEOMETRY, in_lists

AIM = 0.008
"""Relative distance of the bound from the norm with which H is searched."""
SPARE = 0.25
"""Part of this distance by which rounding H to 16 bits may raise the bound; else 20 bits are tried."""
PRODUCTS = 200
"""Largest number of matrix products of a search; 50 of them reach a distance of 1 %."""
WORK = 2.0**41
"""Largest number of multiplications of a search, about. Layers of 3x3 taps with more than 500 channels get fewer
products, and looser claims."""
COLUMNS = 1024
"""Largest number of columns of a layer's matrix at its input size for which H is computed. Larger layers have claims
about every size."""
MATRIX_AIM = 2.5e-4
"""Relative distance of the bound from the norm of such a matrix."""
WORTH = 0.002
"""Smallest relative gain in a network for which the H of a layer's matrix at its input size, a large array, is used."""
FloatArray: TypeAlias = NDArray[np.float64]
Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Certificate:
    """Claims, each with the arrays that prove it.

    Parameters
    ----------
    claims : tuple of Claim
        Claims in the form that ``specnorm_check.check`` takes.
    model : bytes
        The ONNX file that was exported from a live model, and which the claims are about; empty for other models.
    note : str
        The rules that the checker lacks, if a claim about a network is more than 1 % above its bound.
    """

    claims: tuple[Claim, ...]
    model: bytes = b""
    note: str = ""

    def __add__(self, other: Certificate) -> Certificate:
        return Certificate(self.claims + other.claims, self.model or other.model, self.note or other.note)

    def __repr__(self) -> str:
        return "\n".join([*aligned(shortened(self._rows())), self._advice()])

    def _repr_html_(self) -> str:
        return html_table(shortened(self._rows())) + f"<p>{self._advice()}</p>"

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the claims as a table: name, number, input sizes."""
        rows: list[tuple[str, ...]] = [("claim", "at most", "input sizes")]
        for claim in self.claims:
            statement = claim.statement
            is_network = "parts" in statement
            sizes = statement["input_shape"] if is_network else statement["sizes"]
            upper = number(float.fromhex(statement["upper"]), "upper")
            words = sizes if isinstance(sizes, str) else "x".join(map(str, sizes))
            rows.append((visible(str(statement["name"])), upper, words))
        return rows

    def _advice(self) -> str:
        count = "1 claim" if len(self.claims) == 1 else f"{len(self.claims)} claims"
        note = f" {self.note}" if self.note else ""
        return f"{count}.{note} After save(path), others check: python -m specnorm_check path MODEL"

    def dumps(self) -> bytes:
        """Return the content of the file that ``python -m specnorm_check`` reads."""
        statements: list[dict[str, Any]] = []
        arrays: dict[str, Any] = {}

        def with_array(statement: dict[str, Any], completion: Any) -> dict[str, Any]:
            """Add the array to the file; return the statement with the array's name."""
            name = f"H{len(arrays)}"
            arrays[name] = completion
            return {**statement, "completion": name}

        for statement, completion in self.claims:
            if "parts" in statement:
                parts = [with_array(part, array) for part, array in zip(statement["parts"], completion, strict=True)]
                statements.append({**statement, "parts": parts})
            else:
                statements.append(with_array(statement, completion))
        certificate = {"specnorm_certificate": specnorm_check.VERSION, "claims": statements}
        text = json.dumps(certificate, allow_nan=False).encode()
        file = io.BytesIO()
        np.savez(file, claims=np.frombuffer(text, np.uint8), **arrays)
        return file.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the certificate, and beside it the ONNX file, if one was exported from a live model."""
        Path(path).write_bytes(self.dumps())
        if self.model:
            Path(path).with_suffix(".onnx").write_bytes(self.model)


class Completion(NamedTuple):
    """An array H, rounded to whole numbers, and the bound that it proves."""

    upper: float
    """Bound of the layer's norm that H proves."""
    exponent: int
    completion: Array
    """The whole numbers ``2**exponent H``."""
    at_size: bool = False
    """Whether the bound is for one input size; else it is for every size."""


def certificate_of(
    stored: Array,
    spec: ConvSpec,
    name: str,
    tensor: str | None = None,
) -> Certificate:
    """Return a certificate that a layer's norm is at most a number.

    If the spec has an input size with at most `COLUMNS` numbers in a group, the claim is about this size, and the
    number is less than 0.1 % above the norm. Else the claim is about every size, and the number is about 1 % above.

    Parameters
    ----------
    stored : array
        The kernel as it is stored, in its own layout and precision.
    spec : ConvSpec
        Geometry of the layer.
    name : str
        Name of the claim.
    tensor : str, optional
        Name of the kernel in the model's file; None: ``name``.

    Raises
    ------
    CertificateError
        If the format has no claim about such a kernel.
    """
    stored = np.ascontiguousarray(stored)
    if stored.dtype.name not in specnorm_check.FLOATING:
        raise CertificateError(f"a kernel of {stored.dtype.name} numbers cannot be stated; give it in float32.")
    statement = {
        "name": name,
        "tensor": name if tensor is None else tensor,
        "dtype": stored.dtype.name,
        "shape": list(stored.shape),
        "layout": "IO" if spec.layout is not None and spec.layout.endswith("IO") else "OI",
        "sha256": specnorm_check.digest(stored),
        **{fact: in_lists(getattr(spec, fact)) for fact in GEOMETRY if fact != "input_shape"},
        "sizes": "every",
        "completion": f"H of {name}",
    }
    try:
        proof = None
        if spec.input_shape and spec.cin // spec.groups * math.prod(spec.input_shape) <= COLUMNS:
            statement_at_size = {**statement, "sizes": list(spec.input_shape)}
            with contextlib.suppress(Refused):  # the matrix has too many rows
                proof = search_completion(*read_layer(stored, statement_at_size), aim=MATRIX_AIM)
                statement = statement_at_size
        if proof is None:
            proof = search_completion(*read_layer(stored, statement))
    except (Refused, OverflowError) as error:
        raise CertificateError(f"no claim about it can be made: {error}.") from error
    statement["upper"] = proof.upper.hex()
    statement["exponent"] = proof.exponent
    return Certificate((Claim(statement, proof.completion),))


def search_completion(
    kernel: Array,
    layer: Layer,
    own_size: Sequence[int] = (),
    aim: float = AIM,
    errors: Array | float = 0.0,
) -> Completion:
    """Search for an H that proves a bound of a layer's norm, and round it to whole numbers.

    An H without rows is tried first, then the searched one in 16 bits, and in 20 bits if 16 lose too much.

    Parameters
    ----------
    kernel : array
        Kernel of the layer, its taps last.
    layer : Layer
        Geometry of the layer, with the sizes that the bound is for.
    own_size : sequence of int, optional
        The layer's input size. If its matrix at this size is small, and gains at least `WORTH`, the bound is for this
        size alone.
    aim : float
        Relative distance of the bound from the norm.
    errors : array or float
        Bound of the error of each of the kernel's entries.
    """
    blocks = specnorm_check.stride_one_kernels(kernel.astype(np.float64), layer)
    factor = float(specnorm_check.padding_factor(layer))
    groups, _, channels, *taps = blocks.shape
    largest = float(np.abs(kernel).max())
    scale = math.frexp(largest)[1] if math.isfinite(largest) else 0  # the entries of kernel / 2**scale are at most 1

    def in_bits(h: FloatArray, bits: int) -> Completion:
        return _round(kernel, layer, h, scale, bits, errors)

    best = in_bits(np.zeros((groups, 0, channels, *taps)), 20)
    h, bound_of_search = _search(np.ldexp(blocks, -scale), aim)
    if h.any():
        best = min(best, in_bits(h, 16), key=_upper)
        unrounded_bound = math.ldexp(bound_of_search, scale) * factor
        if best.upper > unrounded_bound * (1 + SPARE * aim):
            best = min(best, in_bits(h, 20), key=_upper)
    if own_size and kernel.shape[1] * math.prod(own_size) <= COLUMNS:
        layer_at_size = replace(layer, sizes=tuple(own_size))
        with contextlib.suppress(Refused):  # the matrix has too many rows
            at_size = search_completion(kernel, layer_at_size, aim=MATRIX_AIM, errors=errors)
            if at_size.upper < best.upper * (1 - WORTH):
                return at_size
    return best


def _round(
    kernel: Array,
    layer: Layer,
    h: FloatArray,
    scale: int,
    bits: int,
    errors: Array | float,
) -> Completion:
    """Round an H, which completes the kernel / 2**scale, to whole numbers of so many bits; return what it proves."""
    largest_number = 2 ** (bits - 1) - 1
    largest_entry = max(1.0, float(np.abs(h).max(initial=0.0)))
    exponent = bits - 1 - math.frexp(largest_entry)[1]
    numbers = np.clip(np.rint(np.ldexp(h, exponent)), -largest_number, largest_number)
    completion = numbers.astype(np.int16 if bits <= 16 else np.int32)
    exponent -= scale
    norm = specnorm_check.proven_norm(kernel, layer, completion, exponent, errors)
    return Completion(specnorm_check.float_up(norm), exponent, completion, layer.sizes is not None)


def _upper(completion: Completion) -> float:
    return completion.upper


def _search(blocks: FloatArray, aim: float) -> tuple[FloatArray, float]:
    """Search for H in floating point.

    Parameters
    ----------
    blocks : array, shape (groups, rows, channels, *taps)
        Kernels of stride 1, with at least as many rows as channels and entries up to 1.
    aim : float
        Relative distance of the bound from the norm. If it needs more than `WORK`, the distance is larger.

    Returns
    -------
    h : array, shape (groups, rows of H, channels, *taps)
    bound : float
        Bound of the largest norm that H proves, without rounding.
    """
    groups, rows, channels, *taps = blocks.shape
    if math.prod(taps) == 1:
        roots, bounds = zip(*(_root(block.reshape(rows, channels), aim) for block in blocks), strict=True)
        return np.stack(roots).reshape(-1, channels, channels, *taps), max(bounds)
    points = math.prod(2 * k - 1 for k in taps) / 2
    work_of_product = groups * points * max(4 * channels, 8) * channels * (8 * channels + 6 * math.prod(taps))
    products = int(min(PRODUCTS if aim >= AIM else 2 * PRODUCTS, WORK / work_of_product))
    kernel: Any = blocks.reshape(-1, channels, *taps).astype(np.float32)
    completed = complete(kernel, groups=groups, rtol=aim, n_iter=products)
    return np.asarray(completed.kernel, dtype=np.float64), float(completed.bound)


def _root(matrix: Array, distance: float) -> tuple[FloatArray, float]:
    """Return an upper triangle R with ``R^T R = t**2 I - M^T M``, and t.

    t is above the norm of M by about the relative ``distance``.
    """
    gram: Any = matrix.T.astype(np.float64) @ matrix
    t = math.sqrt(max(float(power_norm(gram, layout="OI")), float(gram.diagonal().max())))
    if t == 0:
        return np.zeros_like(gram), 0.0
    while True:
        t *= 1 + distance
        try:
            return np.asarray(np.linalg.cholesky(t**2 * np.eye(len(gram)) - gram).T), t
        except np.linalg.LinAlgError:
            continue  # the estimate was too small
