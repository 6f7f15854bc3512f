"""How closely a state follows TN while a kernel moves as in training: NumPy, which runs the same code as the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest

import specnorm

TN = specnorm.TensorNorm(certified=False)
FIRST_STEPS = Path(__file__).parents[1] / "data" / "first_steps" / "kernels.npz"


def normal(*shape: int, seed: int) -> Any:
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


def test_a_new_direction_is_found_in_some_steps() -> None:
    """As in the first steps of training at a high rate: one direction grows in a kernel of noise, and overtakes it.

    The maximiser alone would stay at the noise's maximum, half as high in the end.
    """
    for seed in range(6):
        (noise, before), *grown = growing(seed)
        state = specnorm.init_tracking(noise, TN)
        values = []
        for kernel, anew in grown:
            value, state = specnorm.track(kernel, TN, state)
            values.append(float(value) / anew)
        assert min(values) > 0.75
        assert values[-1] > 0.999
        assert float(value) > 1.5 * before


def growing(seed: int) -> list[tuple[Any, float]]:
    """Noise and then kernels in which a direction grows, with TN of each computed anew."""
    noise = normal(64, 64, 3, 3, seed=seed)
    u, v, where = (normal(*n, seed=10 * (j + 1) + seed) for j, n in enumerate(((64,), (64,), (3, 3))))
    direction = np.einsum("o,i,kl->oikl", u, v, 1 + 0.25 * where)
    direction /= np.linalg.norm(direction)
    before = float(specnorm.tn_bound(noise, certified=False))
    sizes = np.linspace(0, 0.7, 15, dtype="float32")
    kernels = [noise, *(noise + size * np.float32(before) * direction for size in sizes)]
    return [(kernel, float(specnorm.tn_bound(kernel, certified=False))) for kernel in kernels]


@pytest.mark.parametrize("layer", ["3.body.3", "8.body.0", "11.body.3"])
@pytest.mark.sampled("8.body", "3.body.3]")
def test_the_first_steps_of_a_real_run_are_caught_up_with(layer: str) -> None:
    """16, 32 and 64 channels of a ResNet-20, SGD at rate 0.1: noise in which a maximum overtakes the others.

    Two sweeps a step: within one percent at the last of these ten steps, and 29 % below in between.
    """
    first, *moved = np.load(FIRST_STEPS)[layer].astype("float32")
    state = specnorm.init_tracking(first, TN)
    for kernel in moved:
        value, state = specnorm.track(kernel, TN, state, sweeps=2)
        best = float(oracle.tensor_norm_best(kernel.astype("float64"), starts=20, sweeps=80).max())
        assert 0.7 * best < float(value) < 1.01 * best
    assert float(value) > 0.99 * best
