"""The file that somebody else checks: claims about layers, each with what proves it (`docs/certificate.schema.json`).

What a claim is proven on is searched for here, once; ``docs/check.py``, which shares no code with this package, proves
it. Nothing here is trusted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.certified.layer.circulant import shortest
from specnorm.certified.stated import digest
from specnorm.errors import CertificateError
from specnorm.problem import polyphase
from specnorm.problem.layer_map import sizes_of
from specnorm.problem.spec import ConvSpec
from specnorm.result import Certificate
from specnorm.search.tree import largest_at, tree_below
from specnorm.types import ArrayOps

MOST, FEWEST, WORK = 2**16, 2**12, 2**31
"""Boxes of a tree, by what each takes; where a bound needs more of them, a larger one is claimed."""
WIDER = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""By how much, one after the other."""
POINTS = 2**16
"""Frequencies of a circulant."""
ENTRIES = 2**22
"""Of a layer's own matrix."""
CLOSE = 1e-9
"""Relative distance of a bound from the largest norm at finitely many frequencies."""
FloatArray: TypeAlias = NDArray[np.float64]
Proof: TypeAlias = dict[str, Any]


def certificate_of(
    stored: NDArray[Any], spec: ConvSpec, upper: float, name: str, tensor: str | None = None, *, ops: ArrayOps
) -> Certificate:
    """The claim that a layer's norm is at most a number, or hardly more where that takes too much to check.

    Parameters
    ----------
    stored : array
        The kernel as it is stored, layout and precision included.
    spec : ConvSpec
        Of the kernel.
    upper : float
        A bound of its norm.
    name : str
        Of the claim.
    tensor : str, optional
        Of the kernel in the file of the model; None: as the claim.

    Raises
    ------
    CertificateError
        If the format has no proof for such a layer.
    """
    stored = np.ascontiguousarray(stored)
    if stored.dtype.name not in ("float16", "float32", "float64"):
        raise CertificateError(f"a kernel of {stored.dtype.name} numbers cannot be stated; give it in float32.")
    if spec.padding_gain_sq > 1 and spec.input_shape is None:
        raise CertificateError(
            f"padding_mode={spec.padding_mode!r} repeats pixels, for which there is no proof at every size: give an "
            "input_shape at which the layer has few entries."
        )
    if not math.isfinite(upper):
        raise CertificateError(f"upper={upper!r} claims nothing.")
    stride = max(spec.stride, default=1) > 1 and spec.padding_mode == "circular" and not spec.transposed
    claim = {
        "claim": "layer",
        "name": name,
        "kernel": {
            "tensor": name if tensor is None else tensor,
            "dtype": stored.dtype.name,
            "shape": list(stored.shape),
            "layout": "IO" if spec.layout is not None and spec.layout.endswith("IO") else "OI",
            "sha256": digest(stored),
        },
        "stride": list(spec.stride),
        "dilation": list(spec.dilation),
        "groups": spec.groups,
        "transposed": spec.transposed,
        "padding_mode": spec.padding_mode,
        "padding": [list(pair) for pair in spec.padding],
        "sizes": list(spec.input_shape) if spec.input_shape is not None else "divided" if stride else "every",
    }
    bound, proof = _proof(stored.astype(np.float64), spec, upper, ops)
    return Certificate(({**claim, "upper": bound.hex(), "proof": proof},))


def _proof(kernel: FloatArray, spec: ConvSpec, upper: float, ops: ArrayOps) -> tuple[float, Proof]:
    """The lowest bound that is no lower than ``upper`` and can be proven, and how."""
    array: Any = kernel[None]
    namespace: Any = np
    blocks = np.asarray(polyphase.to_blocks(array, spec, xp=namespace))
    if not blocks.any():
        return upper, {"grid": [1 if k == 1 else k for k in spec.block_kernel_shape]}
    exponent = math.frexp(max(upper, float(np.abs(blocks).max())))[1]
    scaled = np.ldexp(blocks, -exponent)
    found = list(_at_size(scaled, spec, upper, exponent, ops))
    best = min(found, key=lambda pair: pair[0], default=None)
    if best is not None and best[0] <= upper:
        return upper, best[1]
    g, m, p = blocks.shape[:3]
    most = min(MOST, max(FEWEST, WORK // (g * m * p * min(m, p))))
    for more in WIDER if spec.padding_gain_sq == 1 else ():
        bound = upper * (1 + more)
        if best is not None and best[0] <= bound:
            return best
        tree = tree_below(scaled, math.ldexp(bound, -exponent), most, ops=ops)
        if tree is not None:
            return bound, {"tree": tree}
    if best is not None:
        return best
    raise CertificateError(f"no proof of at most {most} cells was found for a norm of at most {upper!r}.")


def _at_size(
    blocks: FloatArray, spec: ConvSpec, upper: float, exponent: int, ops: ArrayOps
) -> Iterator[tuple[float, Proof]]:
    """Bounds of a layer at its size, with their proofs."""
    if not spec.ndim or spec.input_shape is None:
        return
    inputs, outputs = (math.prod(side) for side in sizes_of(spec))
    sides = (spec.cin // spec.groups * inputs, spec.cout // spec.groups * outputs)
    least = float(np.abs(blocks).max())  # where the norm is 0, rounding is not
    if spec.groups * math.prod(sides) <= ENTRIES and not (spec.transposed and spec.padding_mode == "circular"):
        yield math.ldexp(max(math.ldexp(upper, -exponent), least * CLOSE) * (1 + CLOSE), exponent), {"matrix": True}
    if spec.padding_mode == "circular":
        points = spec.grid_shape
        skews: Sequence[tuple[int, ...]] = [(0,) * spec.ndim]
    else:
        points, skews = shortest(spec), list(itertools.product((0, 1), repeat=spec.ndim))
    if spec.padding_gain_sq == 1 and spec.padding_mode in ("zeros", "circular") and math.prod(points) <= POINTS:
        for skew in skews:
            norm = largest_at(blocks, _frequencies(points, skew), math.ldexp(upper, -exponent), ops=ops)
            bound = math.ldexp(norm * (1 + CLOSE) + least * CLOSE, exponent)
            sharp = norm > least * CLOSE and math.ldexp(norm, exponent) <= upper
            yield upper if sharp else bound, {"circulant": list(points), "skew": list(skew)}
            if sharp:
                return


def _frequencies(points: Sequence[int], skew: Sequence[int]) -> FloatArray:
    """Of a circulant, half of them: a real kernel has the same norm at a frequency and at its negative."""
    few = [n // 2 + 1 if j == 0 else n for j, n in enumerate(points)]
    grid = np.indices(few).reshape(len(few), math.prod(few)).T
    return np.asarray(2 * math.pi * (grid + np.array(skew) / 2) / np.array(points))
