"""Sums of plane waves on a layer's pixels: inner products without a pass over them, and what they prove from below."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from helpers.libraries import OPS

from specnorm.at_size.proofs.waves import Waves, quotient_of_waves_down
from specnorm.geometry.spec import ConvSpec


# -- rounding: rational numbers ---------------------------------------------------------------------------------------
def cancelling(seed: int) -> tuple[Waves, Any, Fraction]:
    """Channels that cancel but for 2**-40, on constant waves; and the square of the quotient, exactly."""
    random = np.random.RandomState(seed)
    n, k = 4 + seed % 3, 3
    taps = random.standard_normal(k)
    kernel: Any = np.stack([taps, taps])[None]
    spec = ConvSpec.of(kernel.shape, input_shape=(n,), padding_mode="zeros", padding=((1, 1),))
    a = random.standard_normal()
    channels = np.asarray([[[a, -a * (1 + 2.0**-40)]]], dtype=np.complex128)
    left, right = (Fraction(float(x)) for x in channels[0, 0].real)
    fractions = [Fraction(float(x)) for x in taps]
    outputs = [sum((t for j, t in enumerate(fractions) if 0 <= m + j - 1 < n), Fraction(0)) for m in range(n)]
    square = sum((x * x for x in outputs), Fraction(0)) * (left + right) ** 2 / (n * (left**2 + right**2))
    return Waves(kernel[None], spec, [np.ones((1, n), dtype=np.complex128)], ops=OPS), channels, square


def above_the_quotient() -> list[str]:
    found = []
    for seed in range(40):
        waves, channels, square = cancelling(seed)
        value = quotient_of_waves_down(waves, channels, ops=OPS)
        if Fraction(value) ** 2 > square:
            found.append(f"{seed}: {value}, {math.sqrt(square)}")
    return found


def test_no_quotient_is_rounded_up() -> None:
    """Where channels cancel; `roundings` has the same without the allowance."""
    assert above_the_quotient() == []
