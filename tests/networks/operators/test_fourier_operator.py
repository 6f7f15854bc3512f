"""Fourier transforms against their sums, and their constants against dense matrices of real numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from networks.operators.dense import matrix_of, norm

from specnorm.certified.network.operators import ComplexPart, Fourier, NotRunError, Place

POWERS = {"backward": 0.0, "ortho": -0.5, "forward": -1.0}


def transformed(x: Any, axis: int, n: int, sign: int) -> Any:
    """The sum over an axis that is cut, or filled up with zeros, to n entries."""
    wide = np.moveaxis(np.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]), complex), axis, -1)
    part = np.moveaxis(x, axis, -1)[..., :n]
    wide[..., : part.shape[-1]] = part
    k = np.arange(n)
    return np.moveaxis(wide @ np.exp(sign * 2j * math.pi * np.outer(k, k) / n), -1, axis)


@pytest.mark.parametrize("forward", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("sizes", [(3, 4), (5, 2), (4, 7)])
def test_transforms_against_their_sums(forward: Any, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4)) + 1j * rng.normal(size=(2, 3, 4))
    count = math.prod(sizes)
    for kind, sign in (("fft", -1), ("ifft", 1), ("rfft", -1)):
        given = x.real if kind == "rfft" else x
        expected = transformed(transformed(given, 1, sizes[0], sign), 2, sizes[1], sign)
        scale = count ** (POWERS[forward] if sign < 0 else -1 - POWERS[forward])
        if kind == "rfft":
            expected = expected[..., : sizes[1] // 2 + 1]
        operator = Fourier(kind, (1, 2), sizes, forward, Fraction(1))  # type: ignore[arg-type]
        found = operator.run(given)
        allowed = operator.rounding([given], found, 2.0**-53)
        assert (abs(found - scale * expected) <= allowed).all()
        assert np.max(allowed) <= 1e-10
        single = operator.run(given.astype(np.complex64 if given.dtype.kind == "c" else np.float32))
        assert (abs(found - single) <= operator.rounding([given], found, 2.0**-24)).all()


@pytest.mark.parametrize("n", [4, 5])
def test_the_inverse_of_a_one_sided_spectrum(n: int) -> None:
    x = np.random.default_rng(1).normal(size=(2, n))
    forth, back = (Fourier(kind, (1,), (n,), "backward", Fraction(1)) for kind in ("rfft", "irfft"))
    assert back.run(forth.run(x)) == pytest.approx(x)
    # What stands for no mirror image is real.
    mirrored = np.array([[0, *[1j] * ((n - 1) // 2), *[0] * (1 - n % 2)]])
    assert back.run(np.full((1, n // 2 + 1), 1j)) == pytest.approx(back.run(mirrored))
    with pytest.raises(NotRunError):
        forth.run(x * 1j)


def test_constants() -> None:
    """Real numbers to real and imaginary parts: isometries times a number."""
    operator = Fourier("fft", (0,), (6,), "backward", Fraction(6))
    parts = ComplexPart(real=True)
    matrix, _ = matrix_of(lambda x: parts.run(operator.run(x)), (6,))
    assert norm(matrix) == pytest.approx(operator.lipschitz(Place(((6,),))))
    assert Fraction(operator.lipschitz(Place((None,)))) ** 2 >= 6
    assert parts.lipschitz(Place((None,))) == 1
    x = np.random.default_rng(2).normal(size=(3, 2))
    assert np.array_equal(parts.run(ComplexPart(real=False).run(x)), x)
    with pytest.raises(NotRunError):
        ComplexPart(real=False).run(np.zeros((2, 3)))
