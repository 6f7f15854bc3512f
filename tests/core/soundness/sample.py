"""Which claims are checked on which kernel: every family meets every claim, one expensive one a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from soundness.claims import Claims, Tally
from soundness.families import FAMILIES, case
from specnorm.search import tuning

OFFSETS = (1e-3, -1e-3, 1e-6, -1e-6, 1e-9, -1e-9, 1e-12, -1e-12, 1e-14, -1e-14, 0.0, 1.0, -0.5)
"""Where certificates are asked for, relative to the truth."""


@contextmanager
def as_if_large(index: int) -> Iterator[None]:
    """Seven in eight kernels as if they were large, in one way or several.

    Directions are left out, matrices are proven as soon as they are looked at, and in single precision first, however
    small the cells.
    """
    few, now, float32 = (bool(x) for x in np.random.RandomState(index + 2**21).randint(2, size=3))
    changed: dict[str, Any] = {"smallest_reduced": 12} if few else {}
    changed |= {"kept": 0} if now else {}
    changed |= {"smallest_float32": 1, "margin_float32": -1.0} if float32 else {}
    with (
        np.errstate(invalid="raise", divide="raise"),
        patch.object(tuning, "TUNING", tuning.TUNING._replace(**changed)),
    ):
        yield


def check(index: int, **options: Any) -> Tally:
    """Check the kernel of a number."""
    with as_if_large(index):
        return _check(index, **options)


def _check(index: int, **options: Any) -> Tally:
    claims = Claims(case(index), **options)
    random = np.random.RandomState(index + 2**20)
    ndim = len(claims.truth.kernel_shape)

    def sizes() -> tuple[int, ...]:
        if ndim == 1 and random.randint(6) == 0:
            return (257,)
        if ndim == 2 and random.randint(6) == 0:
            return int(random.randint(10, 26)), int(random.randint(10, 26))
        return tuple(int(n) for n in random.randint(1, 10 if ndim < 3 else 5, size=ndim))

    tight = float(random.choice([1e-6, 1e-9, 1e-12]))
    turn = index // len(FAMILIES) % 8
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
    elif random.randint(2):
        claims.enclosure(float(random.choice([1e-1, 1e-3])), max_cells=int(random.randint(1, 40)))
    else:
        claims.again()
    cheap = random.randint(3)
    if cheap == 0:
        extra = int(random.randint(0, 6))
        claims.grid(max((k for k in claims.truth.kernel_shape), default=1) + extra if random.randint(2) else None)
        claims.unfoldings()
    elif cheap == 1:
        claims.gram(sizes(), int(random.randint(0, 9)))
        claims.gram_everywhere(int(random.randint(0, 4)))
    else:
        claims.matrices(int(random.choice([0, 1, 2, 6, 30])), int(random.randint(8)))
    return claims.tally


def sample(indices: Iterable[int], **options: Any) -> Tally:
    """Check many kernels."""
    total = Tally()
    for index in indices:
        total.add(check(index, **options))
    return total
