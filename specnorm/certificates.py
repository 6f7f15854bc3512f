"""The file that somebody else checks: claims about layers, each with the kernel H that proves it.

H is searched for here; ``specnorm_check.py``, which shares no code with this package, proves the claim from it by
products of whole numbers. Nothing here is trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import specnorm_check
from numpy.typing import NDArray
from specnorm_check import Claim, Refused

from specnorm.backends import backend_for
from specnorm.certified.completion import norms_up
from specnorm.errors import CertificateError
from specnorm.problem.spec import ConvSpec
from specnorm.result import Certificate
from specnorm.search.completion import complete, lags_of, largest_symbol, row_count
from specnorm.types import ArrayOps

AIM, ENOUGH = 0.008, 0.01
"""Relative distances from the norm: what is searched for, and what shall be proven after rounding."""
PRODUCTS, WORK = 200, 2.0**41
"""Of a search, and its multiplications, about: 50 products reach 1 %. Layers of 3x3 taps and more than 500 channels get
fewer, and what is proven of them is looser."""
COLUMNS, CLOSE = 1024, 5e-4
"""Of a layer's own matrix that is completed, at most, and its distance from the norm. Of more the claim is about every
size."""
WORTH = 0.05
"""What an H of a layer's own matrix, which is large, must gain in a network."""
FloatArray: TypeAlias = NDArray[np.float64]


class Proven(NamedTuple):
    """The number that an H proves, H times ``2**exponent``, the exponent, and whether it is about one size."""

    upper: float
    exponent: int
    completion: NDArray[Any]
    at_size: bool = False


def certificate_of(stored: NDArray[Any], spec: ConvSpec, name: str, tensor: str | None = None) -> Certificate:
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
            found = _at_size(stored, {**statement, "sizes": list(spec.input_shape)})
        if found is not None:
            statement["sizes"] = list(spec.input_shape or ())
        else:
            found = completed(stored, statement)
    except (Refused, OverflowError) as error:
        raise CertificateError(f"no claim about it can be made: {error}.") from error
    return Certificate(
        (Claim({**statement, "upper": found.upper.hex(), "exponent": found.exponent}, found.completion),)
    )


def completed(
    stored: NDArray[Any], statement: dict[str, Any], own: Sequence[int] = (), aim: float = AIM, off: float = 0.0
) -> Proven:
    """What H proves of a layer at every size: none where that is enough; else in 16 bits, or in 20.

    Parameters
    ----------
    stored : array
        The kernel.
    statement : dict
        Its geometry.
    own : sequence of int, optional
        The layer's input size, where its own matrix is completed if it is small and that gains 5 %.
    aim : float
        Relative distance from the norm.
    off : float
        What share of themselves entries of the kernel may be off.
    """
    blocks, lift = specnorm_check.blocks_of(stored.astype(np.float64), statement)
    groups, _, channels, *taps = blocks.shape
    nothing = np.zeros((groups, 0, channels, *taps))
    largest = float(np.abs(blocks).max())
    scale = math.frexp(largest)[1] if math.isfinite(largest) else 0
    scaled = np.ldexp(blocks, -scale)

    def proven(h: FloatArray, bits: int) -> Proven:
        return _rounded(stored, statement, h, scale, bits, off)

    best = proven(nothing, 20)
    near = math.ldexp(float(np.max(_norms(scaled))), scale)
    enough = near * float(lift) * (1 + ENOUGH * aim / AIM)
    if best.upper > enough:
        h = completions(scaled, aim)
        best = min(best, proven(h, 16), key=_upper)
        if best.upper > enough:
            best = min(best, proven(h, 20), key=_upper)
    if own and blocks.shape[2] * math.prod(own) <= COLUMNS:
        there = _at_size(stored, {**statement, "sizes": list(own)}, off)
        best = there if there is not None and there.upper < best.upper * (1 - WORTH) else best
    return best


def _rounded(
    stored: NDArray[Any], statement: dict[str, Any], h: FloatArray, scale: int, bits: int, off: float
) -> Proven:
    """What H times 2**scale proves in so many bits."""
    most = 2 ** (bits - 1) - 1
    exponent = bits - 1 - math.frexp(max(1.0, float(np.abs(h).max(initial=0.0))))[1]
    whole = np.clip(np.rint(np.ldexp(h, exponent)), -most, most).astype(np.int16 if bits <= 16 else np.int32)
    told = {**statement, "exponent": exponent - scale}
    upper = specnorm_check.at_least(specnorm_check.bound(stored, told, whole, off))
    return Proven(upper, exponent - scale, whole)


def _at_size(stored: NDArray[Any], statement: dict[str, Any], off: float = 0.0) -> Proven | None:
    """As `completed`, of the layer's own matrix at the statement's size; None: it is too large."""
    kernel = stored.astype(np.float64)
    if not np.isfinite(kernel).all():
        return None
    scale = math.frexp(float(np.abs(kernel).max()))[1]
    try:
        matrices, _ = specnorm_check.blocks_of(np.ldexp(kernel, -scale), statement)
    except Refused:
        return None
    some = [_root(one, CLOSE) if one.any() else np.zeros((one.shape[1],) * 2) for one in matrices]
    return _rounded(stored, statement, np.stack(some), scale, specnorm_check.BITS, off)._replace(at_size=True)


def _upper(found: Proven) -> float:
    return found.upper


def completions(blocks: FloatArray, aim: float = AIM) -> FloatArray:
    """H for each of some narrow blocks (groups, rows, channels, *taps), ``aim`` above the norm or more."""
    groups, rows, channels, *taps = blocks.shape
    scales = np.frexp(np.abs(blocks).max(axis=tuple(range(1, blocks.ndim))))[1].reshape(-1, *[1] * (blocks.ndim - 1))
    some = np.flatnonzero(blocks.any(axis=tuple(range(1, blocks.ndim))))
    own: Any = np.ldexp(blocks, -scales)[some].astype(np.float32)
    if math.prod(taps) == 1:
        found = np.stack([_root(one.reshape(rows, channels), aim) for one in own]).reshape(
            -1, channels, channels, *taps
        )
    else:
        points = math.prod(2 * k - 1 for k in taps) / 2
        both = row_count(channels)
        cost = len(some) * points * both * channels * (8 * channels + 6 * math.prod(taps))
        products = int(min(PRODUCTS if aim >= AIM else 2 * PRODUCTS, WORK / cost))
        with np.errstate(all="ignore"):  # whatever it comes to, the checker says what it proves
            found = np.asarray(complete(own, rtol=aim, products=products, ops=_ops(own)).kernel)
            found = np.where(np.isfinite(found), found, 0.0)
            # Where it proves no less than none does, there is none.
            beside: Any = found.astype(np.float32)
            helps: Any = norms_up(lags_of(own, ops=_ops(own)), lags_of(beside, ops=_ops(own)), ops=_ops(own))[1]
            found[~np.asarray(helps)] = 0.0
    h = np.zeros((groups, *found.shape[1:]))
    h[some] = found
    return np.asarray(np.ldexp(h, scales))


def _norms(blocks: FloatArray) -> FloatArray:
    """Estimates of the norms of blocks of numbers up to 1."""
    own: Any = blocks.astype(np.float32)
    lags = lags_of(own, ops=_ops(own)).values
    return np.asarray(largest_symbol(lags, own.shape[3:], ops=_ops(own)).norm, dtype=np.float64)


def _ops(like: Any) -> ArrayOps:
    return ArrayOps.of(backend_for(like), like, dtype="float32")


def _root(matrix: NDArray[Any], distance: float) -> FloatArray:
    """An upper triangle R with ``R^T R = t**2 I - M^T M``, t just above the norm of M."""
    own: Any = matrix[None]
    gram = matrix.T.astype(np.float64) @ matrix
    t = max(float(_norms(own)[0]), math.sqrt(float(gram.diagonal().max())))
    while True:
        t *= 1 + distance
        try:
            return np.asarray(np.linalg.cholesky(t**2 * np.eye(len(gram)) - gram).T)
        except np.linalg.LinAlgError:
            continue  # the estimate was too small
