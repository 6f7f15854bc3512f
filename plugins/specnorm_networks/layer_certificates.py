"""The file that somebody else checks: claims about layers, each with the kernel H that proves it.

H is searched for here; ``specnorm_check``, which shares no code with these packages, proves the claim from it by
products of whole numbers. Nothing here is trusted.
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

from specnorm import ConvSpec, complete, power_iteration
from specnorm.errors import CertificateError

AIM = 0.008
SPARE = 0.25
"""Relative distance from the norm that is searched for, and the part of it that rounding H may add."""
PRODUCTS = 200
"""Largest number of products of a search; 50 reach 1 %."""
WORK = 2.0**41
"""Largest number of multiplications of a search, about. Layers of 3x3 taps with more than 500 channels get fewer
products, and looser claims."""
COLUMNS = 1024
"""Largest number of columns of a layer's own matrix that is completed; larger layers are claimed at every size."""
CLOSE = 2.5e-4
"""Relative distance of the completion of such a matrix from its norm."""
WORTH = 0.05
"""Smallest gain in a network for which an H of a layer's own matrix, which is large, is written."""
FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Certificate:
    """Claims, and what proves them.

    Parameters
    ----------
    claims : tuple of Claim
        As ``specnorm_check.check`` takes them.
    model : bytes
        Of the ONNX file that they are about, where a model that is no file was exported to one.
    """

    claims: tuple[Claim, ...]
    model: bytes = b""

    def __add__(self, other: Certificate) -> Certificate:
        return Certificate(self.claims + other.claims, self.model or other.model)

    def dumps(self) -> bytes:
        """The file's content, which ``python -m specnorm_check`` reads."""
        statements = list[Any]()
        arrays = dict[str, Any]()

        def named(statement: Any, completion: Any) -> dict[str, Any]:
            arrays[f"H{len(arrays)}"] = completion
            return {**statement, "completion": f"H{len(arrays) - 1}"}

        for statement, found in self.claims:
            if "parts" in statement:
                parts = [named(part, h) for part, h in zip(statement["parts"], found, strict=True)]
                statements.append({**statement, "parts": parts})
            else:
                statements.append(named(statement, found))
        whole = {"specnorm_certificate": specnorm_check.VERSION, "claims": statements}
        text = json.dumps(whole, allow_nan=False).encode()
        file = io.BytesIO()
        np.savez(file, claims=np.frombuffer(text, np.uint8), **arrays)
        return file.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the file, and beside it the ONNX file of a model that had none."""
        Path(path).write_bytes(self.dumps())
        if self.model:
            Path(path).with_suffix(".onnx").write_bytes(self.model)


class Proven(NamedTuple):
    """The number that an H proves, H times ``2**exponent``, the exponent, and whether it is about one size."""

    upper: float
    exponent: int
    completion: NDArray[Any]
    at_size: bool = False


def certificate_of(
    stored: NDArray[Any],
    spec: ConvSpec,
    name: str,
    tensor: str | None = None,
) -> Certificate:
    """The claim that a layer's norm is at most a number, some 1 % above the norm at every input size.

    At the spec's input size alone, and within 0.1 %, where the input has at most `COLUMNS` numbers a group.

    Parameters
    ----------
    stored : array
        The kernel as it is stored, layout and precision included.
    spec : ConvSpec
        Of the kernel.
    name : str
        Of the claim.
    tensor : str, optional
        Of the kernel in the file of the model; None: as the claim.

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
        "stride": list(spec.stride),
        "dilation": list(spec.dilation),
        "groups": spec.groups,
        "transposed": spec.transposed,
        "padding_mode": spec.padding_mode,
        "padding": [list(pair) for pair in spec.padding],
        "sizes": "every",
        "completion": f"H of {name}",
    }
    try:
        found = None
        if spec.input_shape and spec.cin // spec.groups * math.prod(spec.input_shape) <= COLUMNS:
            there = {**statement, "sizes": list(spec.input_shape)}
            with contextlib.suppress(Refused):  # it is too large
                found = completed(*read_layer(stored, there), aim=CLOSE)
                statement = there
        found = found or completed(*read_layer(stored, statement))
    except (Refused, OverflowError) as error:
        raise CertificateError(f"no claim about it can be made: {error}.") from error
    return Certificate(
        (Claim({**statement, "upper": found.upper.hex(), "exponent": found.exponent}, found.completion),)
    )


def completed(
    kernel: NDArray[Any],
    layer: Layer,
    own: Sequence[int] = (),
    aim: float = AIM,
    entry_error: float = 0.0,
) -> Proven:
    """Search for an H of a layer at its sizes: none where that is enough; else in 16 bits, or in 20.

    Parameters
    ----------
    kernel : array
        Of the layer, its taps last.
    layer : Layer
        Its geometry.
    own : sequence of int, optional
        The layer's input size, where its own matrix is completed if it is small and that gains 5 %.
    aim : float
        Relative distance from the norm.
    entry_error : float
        Relative error of the kernel's entries.
    """
    blocks = specnorm_check.stride_one_kernels(kernel.astype(np.float64), layer)
    factor = float(specnorm_check.padding_factor(layer))
    groups, _, channels, *taps = blocks.shape
    largest = float(np.abs(kernel).max())
    scale = math.frexp(largest)[1] if math.isfinite(largest) else 0

    def proven(h: FloatArray, bits: int) -> Proven:
        return _rounded(kernel, layer, h, scale, bits, entry_error)

    best = proven(np.zeros((groups, 0, channels, *taps)), 20)
    h, near = _completions(np.ldexp(blocks, -scale), aim)
    if h.any():
        best = min(best, proven(h, 16), key=_upper)
        if best.upper > math.ldexp(near, scale) * factor * (1 + SPARE * aim):
            best = min(best, proven(h, 20), key=_upper)
    if own and blocks.shape[2] * math.prod(own) <= COLUMNS:
        with contextlib.suppress(Refused):
            there = completed(kernel, replace(layer, sizes=tuple(own)), aim=CLOSE, entry_error=entry_error)
            return there if there.upper < best.upper * (1 - WORTH) else best
    return best


def _rounded(
    kernel: NDArray[Any],
    layer: Layer,
    h: FloatArray,
    scale: int,
    bits: int,
    entry_error: float,
) -> Proven:
    """Return what H times 2**scale proves in so many bits."""
    most = 2 ** (bits - 1) - 1
    exponent = bits - 1 - math.frexp(max(1.0, float(np.abs(h).max(initial=0.0))))[1]
    whole = np.clip(np.rint(np.ldexp(h, exponent)), -most, most).astype(np.int16 if bits <= 16 else np.int32)
    exponent -= scale
    norm = specnorm_check.proven_norm(kernel, layer, whole, exponent, entry_error)
    return Proven(specnorm_check.float_up(norm), exponent, whole, layer.sizes is not None)


def _upper(found: Proven) -> float:
    return found.upper


def _completions(blocks: FloatArray, aim: float) -> tuple[FloatArray, float]:
    """H for each of some narrow blocks (groups, rows, channels, *taps) of numbers up to 1, and the bound aimed at.

    ``aim`` above the norm, or more where that takes too long.
    """
    groups, rows, channels, *taps = blocks.shape
    if math.prod(taps) == 1:
        roots = [_root(one.reshape(rows, channels), aim) for one in blocks]
        found = np.stack([root for root, _ in roots]).reshape(-1, channels, channels, *taps)
        return found, max(bound for _, bound in roots)
    points = math.prod(2 * k - 1 for k in taps) / 2
    cost = groups * points * max(4 * channels, 8) * channels * (8 * channels + 6 * math.prod(taps))
    products = int(min(PRODUCTS if aim >= AIM else 2 * PRODUCTS, WORK / cost))
    kernel: Any = blocks.reshape(-1, channels, *taps).astype(np.float32)
    searched = complete(kernel, groups=groups, rtol=aim, n_iter=products)
    return np.asarray(searched.kernel, dtype=np.float64), float(searched.bound)


def _root(matrix: NDArray[Any], distance: float) -> tuple[FloatArray, float]:
    """An upper triangle R with ``R^T R = t**2 I - M^T M``, t just above the norm of M; and t."""
    gram: Any = matrix.T.astype(np.float64) @ matrix
    t = math.sqrt(max(float(power_iteration(gram)), float(gram.diagonal().max())))
    if t == 0:
        return np.zeros_like(gram), 0.0
    while True:
        t *= 1 + distance
        try:
            return np.asarray(np.linalg.cholesky(t**2 * np.eye(len(gram)) - gram).T), t
        except np.linalg.LinAlgError:
            continue  # the estimate was too small
