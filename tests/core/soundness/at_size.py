"""What the library says about a layer at its size, held against its dense matrix, or against ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from core.soundness.claims import Tally, as_if_large
from core.soundness.layers import LARGEST, Layer, layer
from flint import arb
from helpers import plans
from helpers.assumptions import assumed_lower
from helpers.oracle import PaddingMode
from numpy.typing import NDArray

import specnorm
from specnorm.at_size import component, layer_tuning
from specnorm.enclosure.certify import Certify
from specnorm.enclosure.method import Enclose
from specnorm.power.method import PowerTopK
from specnorm.power.proofs.ritz import quotients

RTOLS = (1e-1, 1e-3, 1e-6)
OFFSETS = (1e-2, -1e-2, 1e-3, -1e-3, 1e-6, -1e-6, 1e-9, -1e-9, 0.5, -0.5)
RINGS: dict[str, Any] = {"IMMEDIATE_WORK": -1.0, "LATE_WORK": -1.0}
WAYS: tuple[dict[str, Any], ...] = (
    {"IMMEDIATE_WORK": layer_tuning.IMMEDIATE_WORK}, {"IMMEDIATE_WORK": -1.0}, {"IMMEDIATE_WORK": math.inf},
    RINGS, RINGS | {"WITNESS_ENTRIES": -1},
)  # fmt: skip
"""As users have it; as if the layer were large; by its own matrix; by circulants alone, and with lower
bounds by waves too, as if the layer were very large."""
SMALL = 26
"""Sides of the matrices that are eliminated in ball arithmetic: a third of a cube of slow operations."""


@contextmanager
def by_circulants() -> Iterator[None]:
    """Upper bounds by circulants alone, beside lower bounds of half the norm, since good ones would hide wrong ones."""

    def lowered(*given: Any, **named: Any) -> Any:
        found, images = quotients(*given, **named)
        return [assumed_lower(0.5 * x.value, x.what) for x in found], images

    with patch.multiple(layer_tuning, **RINGS), patch.object(component, "quotients", lowered):
        yield


class AtSize:
    """The claims about one layer.

    Parameters
    ----------
    drawn : Layer
    rigorous : bool
        Compare with ball arithmetic, not with LAPACK's norm and its allowance.
    """

    def __init__(self, drawn: Layer, *, rigorous: bool = False) -> None:
        self.drawn, self.tally = drawn, Tally(kernels=1)
        self.low: arb | float
        self.high: arb | float
        if rigorous:
            ends = drawn.proven()
            self.low, self.high = ends.low, ends.high
        else:
            truth = drawn.truth()
            self.low, self.high = truth.lo, truth.hi
        self.keywords: dict[str, Any] = {"input_shape": drawn.input_shape, **drawn.geometry}

    def wrong(self, claim: str, detail: str) -> None:
        self.tally.violations.append(f"{self.drawn}: {claim}: {detail}")

    def upper(self, claim: str, value: Any) -> None:
        number = float(value)
        self.tally.claims[claim] += 1
        if not math.isfinite(number) or number < 0 or number < self.low:
            self.wrong(claim, f"upper value {number!r}, the norm is {self.low}")

    def lower(self, claim: str, value: Any) -> None:
        number = float(value)
        self.tally.claims[claim] += 1
        if not math.isfinite(number) or number < 0 or number > self.high:
            self.wrong(claim, f"lower value {number!r}, the norm is {self.high}")

    def enclosure(self, rtol: float, **options: Any) -> None:
        claim = f"enclose(rtol={rtol:g})"
        result = specnorm.measure(self.drawn.kernel, Enclose(rtol=rtol, **options), **self.keywords)
        lower, upper = float(result.stats["lower"]), float(result.value)
        self.lower(claim, lower)
        self.upper(claim, upper)
        if not lower <= upper:
            self.wrong(claim, f"crossed ends {lower!r}, {upper!r}")
        converged = bool(result.stats["converged"])
        self.tally.open[f"{claim}: wider"] += not converged
        info = np.finfo(np.asarray(result.value).dtype)
        if converged and upper > lower * (1 + rtol) * (1 + 8 * float(info.eps)) + 4 * float(info.smallest_normal):
            self.wrong(claim, f"said to have converged, but {lower!r}, {upper!r}")

    def verdicts(self, offsets: Sequence[float]) -> None:
        """Certificates near the truth: never True below it, never False above it."""
        for offset in offsets:
            bound = float(self.low if isinstance(self.low, float) else self.low.mid()) * (1 + offset)
            stats = plans.run(self.drawn.kernel, Certify(bound=bound), **self.keywords).stats
            proven, refuted = bool(stats["proven"]), bool(stats["refuted"])
            self.tally.claims["certify"] += 1
            self.tally.open["certify: undecided"] += not (proven or refuted)
            if (proven and bound < self.low) or (refuted and bound >= self.high):
                self.wrong("certify", f"{proven} at {bound!r} (offset {offset:g}), the norm is {self.low}")

    def exact(self) -> None:
        self.tally.claims["conv_norm"] += 1
        try:
            value = float(specnorm.conv_norm(self.drawn.kernel, **self.keywords))
        except specnorm.Undecided:
            self.tally.open["conv_norm: undecided"] += 1
            return
        if not float(self.low) <= value * (1 + 1e-6) or value > float(self.high):
            self.wrong("conv_norm", f"{value!r}, the norm is {self.low}")

    def largest_singular_values(self) -> None:
        """`PowerTopK`: none above the one of its rank, and each as near to some as it says."""
        true = self.drawn.singular_values()
        result = specnorm.measure(self.drawn.kernel, PowerTopK(k=min(3, len(true))), **self.keywords)
        values, near = (np.asarray(x, dtype=np.float64) for x in (result.value, result.stats["residuals"]))
        self.tally.claims["singular_values"] += 1
        slack = 1e-14 * len(true) * true[0]  # of the dense SVD
        if (values > true[: len(values)] + slack).any():
            self.wrong("singular_values", f"{values}, they are {true[:3]}")
        # A matrix that is not square has zeros besides.
        gaps = np.abs(np.append(true, 0.0)[None, :] - values[:, None]).min(axis=1)
        if (gaps > near + slack).any():
            self.wrong("singular_values", f"{values} within {near}, they are {true[:3]}")

    def projection(self) -> None:
        """What comes back, as rounded, has a norm of at most the bound."""
        at = 0.7 * float(self.low if isinstance(self.low, float) else self.low.mid())
        if at == 0:
            return
        self.tally.claims["rescale"] += 1
        got: NDArray[Any] = specnorm.rescale(self.drawn.kernel, at, **self.keywords)
        norm = Layer(self.drawn.index, "rescaled", got, self.drawn.input_shape, self.drawn.geometry).truth()
        if norm.lo > at:
            self.wrong("rescale", f"{norm.lo!r} for {at!r}")


@contextmanager
def in_a_way(way: int) -> Iterator[None]:
    """One of the ways to an upper bound, whatever the layer's size."""
    if way >= len(WAYS):
        with by_circulants():
            yield
    else:
        with patch.multiple(layer_tuning, **WAYS[way]):
            yield


def check(index: int, modes: Sequence[PaddingMode] = ("zeros",), *, rigorous: bool = False) -> Tally:
    drawn = layer(index, modes, SMALL if rigorous else LARGEST)
    claims, random = AtSize(drawn, rigorous=rigorous), np.random.RandomState(index + 2**20)
    with as_if_large(index), in_a_way(int(random.randint(len(WAYS) + 1))):
        claims.enclosure(float(random.choice(RTOLS)))
        if random.randint(16) == 0:
            claims.enclosure(1e-3, max_cells=int(random.randint(1, 30)))
        if random.randint(4) == 0:
            claims.verdicts([float(random.choice(OFFSETS))])
        if random.randint(8) == 0:
            claims.lower("power_norm", specnorm.power_norm(drawn.kernel, n_iter=20, **claims.keywords))
        if random.randint(16) == 0:
            claims.projection()
        if random.randint(8) == 0:
            claims.exact()
        if random.randint(8) == 0:
            claims.largest_singular_values()
    return claims.tally


def sample(indices: Iterable[int], modes: Sequence[PaddingMode] = ("zeros",), *, rigorous: bool = False) -> Tally:
    total = Tally()
    for index in indices:
        total.add(check(index, modes, rigorous=rigorous))
    return total
