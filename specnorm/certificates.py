"""The file that somebody else checks: claims about layers, each with what proves it (`docs/certificate.schema.json`).

What a claim is proven on is searched for here, once; ``docs/check.py``, which shares no code with this package, proves
it. Nothing here is trusted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.certified.layer.circulant import shortest
from specnorm.errors import CertificateError
from specnorm.problem import polyphase
from specnorm.problem.layer_map import sizes_of
from specnorm.problem.spec import ConvSpec
from specnorm.search.tree import norms_at, tree_below
from specnorm.types import ArrayObject

FORMAT = 3
MOST = 2**16
"""Boxes of a tree; where a bound needs more, a larger one is claimed."""
WIDER = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""By how much, one after the other."""
POINTS = 2**16
"""Frequencies of a circulant."""
ENTRIES = 2**22
"""Of a layer's own matrix."""
CLOSE = 1e-9
"""Relative distance of a bound from the largest norm at finitely many frequencies."""
FloatArray: TypeAlias = NDArray[np.float64]
Proof: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Certificate:
    """Claims, and what proves them.

    Parameters
    ----------
    claims : tuple of dict
        Plain data, as in the file.
    """

    claims: tuple[dict[str, Any], ...]

    def __add__(self, other: Certificate) -> Certificate:
        return Certificate(self.claims + other.claims)

    def dumps(self) -> str:
        """The file's text."""
        return json.dumps({"specnorm_certificate": FORMAT, "claims": list(self.claims)}, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write a file that ``docs/check.py`` reads."""
        Path(path).write_text(self.dumps(), encoding="utf-8")


def certificate_of(kernel: ArrayObject, spec: ConvSpec, upper: float, name: str) -> Certificate:
    """The claim that a layer's norm is at most a number, or hardly more where that takes too much to check.

    Parameters
    ----------
    kernel : array
    spec : ConvSpec
        Of the kernel.
    upper : float
        A bound of its norm.
    name : str
        Of the kernel in the file of the model.

    Raises
    ------
    CertificateError
        If the format has no proof for such a layer.
    """
    stored = np.ascontiguousarray(backend_for(kernel).to_numpy(kernel))
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
            "tensor": name,
            "dtype": stored.dtype.name,
            "shape": list(stored.shape),
            "layout": "IO" if spec.layout is not None and spec.layout.endswith("IO") else "OI",
            "sha256": hashlib.sha256(stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest(),
        },
        "stride": list(spec.stride),
        "dilation": list(spec.dilation),
        "groups": spec.groups,
        "transposed": spec.transposed,
        "padding_mode": spec.padding_mode,
        "padding": [list(pair) for pair in spec.padding],
        "sizes": list(spec.input_shape) if spec.input_shape is not None else "divided" if stride else "every",
    }
    bound, proof = _proof(stored.astype(np.float64), spec, upper)
    return Certificate(({**claim, "upper": bound.hex(), "proof": proof},))


def _proof(kernel: FloatArray, spec: ConvSpec, upper: float) -> tuple[float, Proof]:
    """The lowest bound that is no lower than ``upper`` and can be proven, and how."""
    array: Any = kernel[None]
    xp: Any = np
    blocks = np.asarray(polyphase.to_blocks(array, spec, xp=xp))
    if not blocks.any():
        return upper, {"grid": [1 if k == 1 else k for k in spec.block_kernel_shape]}
    exponent = math.frexp(max(upper, float(np.abs(blocks).max())))[1]
    scaled = np.ldexp(blocks, -exponent)
    found = list(_at_size(scaled, spec, upper, exponent))
    best = min(found, key=lambda pair: pair[0], default=None)
    if best is not None and best[0] <= upper:
        return upper, best[1]
    for more in WIDER:
        bound = upper * (1 + more)
        if best is not None and best[0] <= bound:
            return best
        tree = tree_below(scaled, math.ldexp(bound, -exponent), MOST) if spec.padding_gain_sq == 1 else None
        if tree is not None:
            return bound, {"tree": tree}
    if best is not None:
        return best
    raise CertificateError(f"no proof of at most {MOST} cells was found for a norm of at most {upper!r}.")


def _at_size(blocks: FloatArray, spec: ConvSpec, upper: float, exponent: int) -> Iterator[tuple[float, Proof]]:
    """Bounds of a layer at its size, with their proofs."""
    if not spec.ndim or spec.input_shape is None:
        return
    inputs, outputs = (math.prod(side) for side in sizes_of(spec))
    sides = (spec.cin // spec.groups * inputs, spec.cout // spec.groups * outputs)
    if spec.groups * math.prod(sides) <= ENTRIES and not (spec.transposed and spec.padding_mode == "circular"):
        least = float(np.abs(blocks).max())
        yield math.ldexp(max(math.ldexp(upper, -exponent), least * CLOSE) * (1 + CLOSE), exponent), {"matrix": True}
    if spec.padding_mode == "circular":
        points = spec.grid_shape
        skews: Sequence[tuple[int, ...]] = [(0,) * spec.ndim]
    else:
        points, skews = shortest(spec), list(itertools.product((0, 1), repeat=spec.ndim))
    if spec.padding_gain_sq == 1 and spec.padding_mode in ("zeros", "circular") and math.prod(points) <= POINTS:
        for skew in skews:
            norm = float(norms_at(blocks, _frequencies(points, skew)).max())
            yield math.ldexp(norm * (1 + CLOSE), exponent), {"circulant": list(points), "skew": list(skew)}


def _frequencies(points: Sequence[int], skew: Sequence[int]) -> FloatArray:
    """Of a circulant, half of them: a real kernel has the same norm at a frequency and at its negative."""
    few = [n // 2 + 1 if j == 0 else n for j, n in enumerate(points)]
    grid = np.indices(few).reshape(len(few), math.prod(few)).T
    return np.asarray(2 * math.pi * (grid + np.array(skew) / 2) / np.array(points))
