"""What the library says about a kernel, held against the truth. Every function returns the violations it found.

A value is *wrong* if ball arithmetic proves that it is on the wrong side; a lower value or a refutation that cannot be
proven right is reported too, since the truth here is sharper than any rounding allowance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
from core.soundness import balls
from core.soundness.families import FAMILIES, Case, case
from core.soundness.truths import Truth, float_of
from flint import arb
from helpers import plans
from numpy.typing import NDArray

import specnorm
from specnorm.enclosure.certify import Certify
from specnorm.enclosure.method import Enclose
from specnorm.methods import FantasticFour, Gram, Grid, Power, Reshaped, SymbolNorm, TensorNorm, Unfoldings
from specnorm.spectrum.fft import ExactFFT
from specnorm.supremum import tuning
from specnorm.supremum.reduction import Polynomials
from specnorm.unfoldings.matrices import MatrixNorm

Shape = tuple[int, ...] | None


@dataclass
class Tally:
    """What was checked, and what was wrong."""

    kernels: int = 0
    claims: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.kernels += other.kernels
        self.claims += other.claims
        self.open += other.open
        self.violations += other.violations

    def summary(self) -> str:
        claims, undecided = sum(self.claims.values()), sum(self.open.values())
        wrong = len(self.violations)
        return f"{self.kernels} kernels, {claims} claims, {undecided} undecided or beyond the budget, {wrong} wrong"


class Claims:
    """The claims about one kernel.

    Parameters
    ----------
    case : Case
    asarray, numpy : callable
        Into and out of the array library under test.
    """

    def __init__(
        self,
        case: Case,
        *,
        asarray: Callable[[NDArray[Any]], Any] = np.asarray,
        numpy: Callable[[Any], NDArray[Any]] = np.asarray,
    ) -> None:
        self.case, self.truth, self.tally = case, Truth(case), Tally(kernels=1)
        self._asarray, self._numpy = asarray, numpy
        self.kernel = asarray(case.kernel)

    # -- one value against one truth ------------------------------------------------------------------------------
    def wrong(self, claim: str, detail: str) -> None:
        self.tally.violations.append(f"{self.case}: {claim}: {detail}")

    def number(self, x: Any) -> float:
        return float(self._numpy(x))

    def upper(self, claim: str, value: Any, low: arb) -> None:
        number = self.number(value)
        self.tally.claims[claim] += 1
        # A norm beyond the largest number of the answer's precision has no other upper bound than infinity.
        beyond = number == math.inf and float_of(low) > 0.9 * float(np.finfo(self._numpy(value).dtype).max)
        if not (math.isfinite(number) or beyond) or number < 0:
            self.wrong(claim, f"upper value {number!r}")
        elif math.isfinite(number) and arb(number) < low:
            self.wrong(claim, f"upper value {number!r} is below {_digits(low)}: {_ratio(number, low)}")

    def lower(
        self, claim: str, value: Any, low: arb, high: arb | None = None, harder: Callable[[], arb] | None = None
    ) -> None:
        """A lower value is not above the truth, and ball arithmetic can tell: perhaps after a longer search."""
        number = self.number(value)
        self.tally.claims[claim] += 1
        if not math.isfinite(number) or number < 0:
            self.wrong(claim, f"lower value {number!r}")
        elif number > 0 and not arb(number) <= low and not (harder and arb(number) <= harder()):
            surely = high is not None and arb(number) > high
            relation = "above" if surely else "not proven to be at most"
            self.wrong(claim, f"lower value {number!r} is {relation} {_digits(low)}: {_ratio(number, low)}")

    # -- claims -----------------------------------------------------------------------------------------------------
    def enclosure(self, rtol: float, sizes: Shape = None, max_cells: int = 3000) -> None:
        claim = f"enclose(rtol={rtol:g}{'' if sizes is None else ', circular'})"
        result = specnorm.measure(self.kernel, Enclose(rtol=rtol, max_cells=max_cells), input_shape=sizes)
        lower, upper = self.number(result.stats["lower"]), self.number(result.value)
        there = self.truth.witnessed(self._numpy(result.stats["frequency"]).tolist(), sizes)
        low = self.truth.low(sizes)
        if arb(lower) > there:
            self.wrong(claim, f"the witness does not attain {lower!r}, only {_digits(there)}")
        self.upper(claim, result.value, low)
        self.lower(claim, result.stats["lower"], low, self._high(sizes), lambda: self.truth.harder(sizes))
        converged = bool(result.stats["converged"])
        self.tally.open[f"{claim}: budget"] += not converged
        info = np.finfo(self._numpy(result.value).dtype)
        width = lower * (1 + rtol) * (1 + 8 * float(info.eps)) + 4 * float(info.smallest_normal)
        if not lower <= upper:
            self.wrong(claim, f"crossed bounds {lower!r}, {upper!r}")
        if converged and math.isfinite(upper) and upper > width:
            self.wrong(claim, f"said to have converged, but {lower!r}, {upper!r}")

    def verdicts(self, offsets: Sequence[float], sizes: Shape = None, max_cells: int = 1500) -> None:
        """Certificates at bounds near the truth: never True below it, never False at or above it."""
        claim = f"certify{'' if sizes is None else '(circular)'}"
        low = self.truth.low(sizes)
        for offset in offsets:
            bound = float_of(low) * (1 + offset)
            if not math.isfinite(bound):
                continue
            found = plans.run(self.kernel, Certify(bound=bound, max_cells=max_cells), input_shape=sizes).stats
            proven, refuted = bool(found["proven"]), bool(found["refuted"])
            self.tally.claims[claim] += 1
            self.tally.open[f"{claim}: undecided"] += not (proven or refuted)
            if proven and arb(bound) < low:
                self.wrong(claim, f"True at {bound!r} below {_digits(low)} (offset {offset:g})")
            if refuted and not arb(bound) < low and not arb(bound) < self.truth.harder(sizes):
                self.wrong(claim, f"False at {bound!r}, {_digits(low)} (offset {offset:g})")

    def exact(self, rtol: float, sizes: Shape = None, max_cells: int = 3000) -> None:
        """`conv_norm` within its tolerance, or within rounding of the symbols it is made of."""
        claim = f"conv_norm(rtol={rtol:g}{'' if sizes is None else ', circular'})"
        try:
            value = specnorm.measure(self.kernel, ExactFFT(rtol=rtol, max_cells=max_cells), input_shape=sizes).value
        except specnorm.Undecided:
            self.tally.open[f"{claim}: undecided"] += 1
            return
        number, truth = self.number(value), float_of(self.truth.low(sizes))
        if number > truth * (1 + rtol) and self.truth.high is None:
            # The search in floats may have missed the peak. Balls look at the frequency that the library means.
            witness = specnorm.measure(self.kernel, Enclose(rtol=rtol, max_cells=max_cells), input_shape=sizes)
            self.truth.witnessed([float(a) for a in self._numpy(witness.stats["frequency"])], sizes)
            truth = float_of(self.truth.low(sizes))
        self.tally.claims[claim] += 1
        info = np.finfo(self._numpy(value).dtype)
        values = np.abs(self.case.kernel.astype(float))
        top = float(np.max(values, initial=0.0)) or 1.0
        size = top * float(np.linalg.norm(values / top)) * math.sqrt(math.prod(self.truth.kernel_shape))
        slack = 4 * float(info.eps) * truth + 1e-13 * size + 2 * float(info.tiny)
        if truth > 0.99 * float(info.max):
            return  # rounded to infinity or to the largest number
        if not truth * (1 - rtol) - slack <= number <= truth * (1 + rtol) + slack:
            self.wrong(claim, f"{number!r} for {truth!r}")

    def tensor(self, seed: int = 0) -> None:
        """`tn_bound` where it says that it is proven."""
        result = specnorm.measure(self.kernel, TensorNorm(seed=seed))
        if result.kind != "upper":
            self.tally.open["tn_bound: estimate"] += 1
            return
        self.upper("tn_bound", result.value, self.truth.low())

    def grid(self, n: int | None = None) -> None:
        result = specnorm.measure(self.kernel, Grid(n=n))
        self.upper("grid_bound", result.value, self.truth.low())
        self.lower(
            "grid_bound: lower", result.stats["lower"], self.truth.low(), self.truth.high, lambda: self.truth.harder()
        )

    def unfoldings(self) -> None:
        for value in self._numpy(specnorm.measure(self.kernel, Unfoldings()).value):
            self.upper("unfolding_bounds", self._asarray(np.asarray(value)), self.truth.low())
        self.upper("f4_bound", specnorm.measure(self.kernel, FantasticFour()).value, self.truth.low())

    def gram(self, sizes: tuple[int, ...], n_iter: int) -> None:
        value = specnorm.measure(self.kernel, Gram(n_iter=n_iter), input_shape=sizes).value
        self.upper(f"gram_bound(n_iter={n_iter})", value, self.truth.low(sizes))

    def gram_everywhere(self, n_iter: int) -> None:
        value = specnorm.measure(self.kernel, Gram(n_iter=n_iter)).value
        self.upper(f"gram_bound(n_iter={n_iter}), every size", value, self.truth.low())

    def symbol(self) -> None:
        value = specnorm.measure(self.kernel, SymbolNorm()).value
        self.lower("symbol_norm", value, self.truth.low(), self.truth.high, lambda: self.truth.harder())

    def layer(self, sizes: tuple[int, ...], n_iter: int, seed: int = 0) -> None:
        value = specnorm.measure(self.kernel, Power(n_iter=n_iter, seed=seed), input_shape=sizes).value
        self.lower("power_norm", value, self.truth.low(sizes), self._high(sizes), lambda: self.truth.harder(sizes))

    def matrices(self) -> None:
        a = self.case.kernel.reshape(self.case.kernel.shape[0], -1)
        truth = balls.norm(balls.matrix(a), balls.exponent_of(a))
        array = self._asarray(a)
        exact = plans.run(array, MatrixNorm())
        self.upper("matrix_norm: upper", exact.stats["upper"], truth.low)
        self.lower("matrix_norm: lower", exact.stats["lower"], truth.high)
        # The reshape's norm is what the heuristic is, and that is at most the supremum.
        self.lower("reshaped_norm", specnorm.measure(self.kernel, Reshaped()).value, truth.high)

    def _high(self, sizes: Shape) -> arb | None:
        return self.truth.high if sizes is None else self.truth.above_grid(sizes)


def _digits(x: arb) -> str:
    return x.str(25)


def _ratio(number: float, x: arb) -> str:
    return f"off by {float_of(arb(number) / x - 1) if x > 0 else math.nan:.3g}"


OFFSETS = (1e-3, -1e-3, 1e-6, -1e-6, 1e-9, -1e-9, 1e-12, -1e-12, 1e-14, -1e-14, 0.0, 1.0, -0.5)
"""Where certificates are asked for, relative to the truth."""


@contextmanager
def as_if_large(index: int) -> Iterator[None]:
    """Seven in eight kernels as if they were large, in one way or several.

    Directions are left out, matrices are proven as soon as they are looked at, and in single precision first, however
    small the cells.
    """
    few, now, float32 = (bool(x) for x in np.random.RandomState(index + 2**21).randint(2, size=3))
    changed: dict[str, Any] = {"CACHE_BYTES": 0 if now else tuning.CACHE_BYTES}
    changed |= {"SMALLEST_REDUCED": 12} if few else {}
    for_trial = (lambda _, polynomial, *__: polynomial.float32_copy()) if float32 else Polynomials.for_trial
    with (
        np.errstate(invalid="raise", divide="raise"),
        patch.multiple(tuning, **changed),
        patch.object(Polynomials, "for_trial", for_trial),
    ):
        yield


def check(index: int, **options: Any) -> Tally:
    with as_if_large(index):
        return _check(index, **options)


def _check(index: int, **options: Any) -> Tally:
    """One search, and something cheap, of a drawn layer."""
    claims = Claims(case(index), **options)
    random = np.random.RandomState(index + 2**20)
    ndim = len(claims.truth.kernel_shape)

    def sizes() -> tuple[int, ...]:
        if ndim == 1 and random.randint(6) == 0:
            return (257,)
        if ndim == 2 and random.randint(6) == 0:
            return int(random.randint(10, 26)), int(random.randint(10, 26))
        return tuple(int(n) for n in random.randint(1, 10 if ndim < 3 else 5, size=ndim))

    _search(claims, random, sizes, turn=index // len(FAMILIES) % 8)
    cheap = random.randint(3)
    if cheap == 0:
        extra = int(random.randint(0, 6))
        claims.grid(max((k for k in claims.truth.kernel_shape), default=1) + extra if random.randint(2) else None)
        claims.unfoldings()
        claims.symbol()
    elif cheap == 1:
        claims.gram(sizes(), int(random.randint(1, 9)))
        claims.gram_everywhere(int(random.randint(1, 4)))
    else:
        claims.matrices()
    return claims.tally


def _search(claims: Claims, random: np.random.RandomState, sizes: Callable[[], tuple[int, ...]], *, turn: int) -> None:
    """An enclosure, a verdict, a tensor norm or an exact norm, in turn."""
    tight = float(random.choice([1e-6, 1e-9, 1e-12]))
    if turn == 0:
        claims.enclosure(1e-3)
    elif turn == 1:
        claims.enclosure(tight, max_cells=1000)
    elif turn == 2:
        claims.enclosure(float(random.choice([1e-1, 1e-3, 1e-6])), sizes(), max_cells=1000)
    elif turn == 3:
        claims.verdicts(random.choice(OFFSETS, size=2, replace=False).tolist())
    elif turn == 4:
        claims.verdicts(random.choice(OFFSETS, size=1).tolist(), sizes())
    elif turn == 5:
        claims.tensor(int(random.randint(8)))
    elif turn == 6:
        claims.exact(float(random.choice([1e-1, 1e-3, 1e-6])), sizes() if random.randint(2) else None, max_cells=1000)
    else:
        claims.enclosure(float(random.choice([1e-1, 1e-3])), max_cells=int(random.randint(1, 40)))


def sample(indices: Iterable[int], **options: Any) -> Tally:
    total = Tally()
    for index in indices:
        total.add(check(index, **options))
    return total
