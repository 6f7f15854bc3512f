"""No proven value is wrong: every claim of the library against ball arithmetic, on kernels made to break it.

``SPECNORM_SOUNDNESS_KERNELS`` sets how many kernels are drawn (the ``soundness`` session of nox: 100,000).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="ball arithmetic: pip install python-flint")

from core.soundness.claims import Claims, sample
from core.soundness.families import FAMILIES, Case, case
from core.soundness.truths import Truth, float_of
from flint import arb
from helpers.libraries import Lib
from specnorm_numpy import NumpyBackend

import specnorm

KERNELS = int(os.environ.get("SPECNORM_SOUNDNESS_KERNELS", "200"))
MORE = KERNELS >= 10_000
"""Nightly: the smaller tests take more kernels too."""
CHUNK = 1000 if MORE else 200
FIRST_OPEN = 1_000_000
"""Where the kernels of the smaller tests begin: none of the large sample."""

sampled = functools.cache(sample)


@pytest.mark.parametrize("first", range(0, KERNELS, CHUNK))
def test_bounds_of_sampled_kernels_are_true(first: int) -> None:
    tally = sampled(range(first, min(first + CHUNK, KERNELS)))
    print(tally.summary())  # noqa: T201 - shown by `pytest -rP`
    assert tally.violations == []


def test_most_questions_are_answered() -> None:
    """The sample would also pass if the library never proved anything."""
    tally = sampled(range(200))
    asked = sum(n for claim, n in tally.claims.items() if claim.startswith(("certify", "enclose", "conv_norm", "tn")))
    assert sum(tally.open.values()) < 0.25 * asked
    wide = Claims(case(3))
    wide.verdicts((1e-3, -1e-3, 1e-9, -1e-9), max_cells=5000)
    assert wide.tally.open == {"certify: undecided": 0}


@pytest.mark.sampled("rescale")
@pytest.mark.parametrize("project", [specnorm.rescale, specnorm.clip])
def test_projected_kernels_have_norm_at_most_the_bound(project: Callable[..., NDArray[Any]]) -> None:
    """What comes back, as rounded, has a norm of at most the bound."""
    done = 0
    for index in range(FIRST_OPEN, FIRST_OPEN + 3 * len(FAMILIES)):
        drawn = case(index, subnormal=False)
        if drawn.kernel.size > 2000 or min(drawn.kernel.shape[2:], default=1) > 3:
            continue
        bound = 0.7 * float_of(Truth(drawn).low()) or 1.0
        try:
            got = project(drawn.kernel, bound)
        except specnorm.Undecided:
            continue
        assert not arb(bound) < Truth(Case(index, "projected", got, None)).low(), drawn
        done += 1
    assert done > 30


def kernels_for(lib: Lib) -> list[Case]:
    """A few kernels of every family; where each shape costs a compilation, many of one shape.

    No subnormal numbers: XLA treats them as zero, and the bounds are those of what it computes (docs/guarantees.md).
    """
    dtypes = (lib.dtypes[-1],) if lib.compiles else lib.dtypes
    each = {"numpy": 6 if MORE else 2}.get(lib.name, 1)
    drawn = (
        case(index, family=family, dtypes=dtypes, subnormal=False)
        for index in range(FIRST_OPEN, FIRST_OPEN + (60 if lib.compiles else each))
        for family in sorted(FAMILIES)
    )
    return [c for c in drawn if c.kernel.shape == (2, 2, 3)][:20] if lib.compiles else list(drawn)


@pytest.mark.widths
@pytest.mark.libraries
@pytest.mark.sampled("torch", "default", "cupy")  # NumPy: `test_bounds_of_sampled_kernels_are_true`
def test_backends(xp: Lib) -> None:
    kernels = kernels_for(xp)
    assert len(kernels) >= 15
    found: list[str] = []
    for drawn in kernels:
        claims = Claims(drawn, asarray=xp.asarray, numpy=xp.to_numpy)
        sizes = (5,) * (drawn.kernel.ndim - 2)
        claims.grid()
        claims.unfoldings()
        claims.symbol()
        claims.gram(sizes, 3)
        claims.gram_everywhere(3)
        claims.layer(sizes, 30)
        claims.matrices()
        claims.enclosure(1e-3, max_cells=300)
        claims.enclosure(1e-2, sizes, max_cells=300)
        claims.verdicts((-1e-9, 1e-9), max_cells=300)
        claims.exact(1e-3, sizes)
        if xp.name != "strict":
            claims.tensor()
        found += claims.tally.violations
    assert found == []


def test_float32_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allowances of float32, as on plain JAX, where they are largest."""
    monkeypatch.setattr(NumpyBackend, "wide_dtype", lambda *_: "float32")
    found: list[str] = []
    for index in range(FIRST_OPEN, FIRST_OPEN + (20 if MORE else 4) * len(FAMILIES)):
        claims = Claims(case(index, dtypes=("float32", "float16")))
        sizes = (int(1 + index % 7),) * len(claims.truth.kernel_shape)
        claims.grid()
        claims.unfoldings()
        claims.symbol()
        claims.gram(sizes, 1 + index % 8)
        claims.gram_everywhere(1 + index % 4)
        claims.matrices()
        found += claims.tally.violations
    assert found == []


def test_half_precision(xp: Lib) -> None:
    """float16 and bfloat16 kernels are exact numbers too, and answered in float32."""
    names = [name for name in ("float16", "bfloat16") if hasattr(xp.xp, name)]
    if not names:
        pytest.skip(f"{xp.name} has no half precision")
    for index, name in enumerate(names):
        kernel = xp.asarray(np.random.RandomState(index).standard_normal((3, 2, 3, 3)).astype(np.float32))
        dtype = getattr(xp.xp, name)
        half = kernel.to(dtype) if xp.name == "torch" else kernel.astype(dtype)
        exact = xp.to_numpy(half.float() if xp.name == "torch" else half.astype("float32"))
        claims = Claims(Case(index, name, exact, None), numpy=xp.to_numpy)
        claims.kernel = half
        claims.enclosure(1e-3)
        claims.verdicts((-1e-9, 1e-9))
        claims.grid()
        claims.tensor()
        assert claims.tally.violations == []
        assert xp.dtype_name(specnorm.grid_bound(half)) == "float32"
