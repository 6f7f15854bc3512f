"""A layer with zero padding is a part of every twisted ring that is long enough, so the ring's norm bounds the layer's.

First the theorem by itself, written out in `soundness/twisted.py`: where it holds, and that each of its conditions is
needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="the layers' ball arithmetic: pip install python-flint")

from oracle import dense_matrix
from soundness.layers import Layer, layer
from soundness.twisted import Axis, Complex, part, ring_matrix, ring_norm, turned

Phases = tuple[float, ...]


def plain(count: int, largest: int = 400) -> Iterator[tuple[Layer, NDArray[np.float64], list[int]]]:
    """Layers without groups whose ring is small enough to be written out; the kernel scaled; lengths of the ring."""
    found, index = 0, 0
    while found < count:
        drawn = layer(index)
        index += 1
        lengths = [axis.shortest for axis in drawn.axes]
        top = float(np.max(np.abs(drawn.kernel)))
        small = math.prod(lengths) * max(drawn.kernel.shape[:2]) <= largest
        if drawn.geometry["groups"] == 1 and small and top > 0:
            found += 1
            yield drawn, np.asarray(drawn.kernel, dtype=np.float64) / top, lengths


def phases_of(index: int, ndim: int) -> Phases:
    """0, pi or anything, an axis."""
    random = np.random.RandomState(index)
    return tuple(float(random.choice([0.0, math.pi, random.uniform(0, 2 * math.pi)])) for _ in range(ndim))


def norm(matrix: NDArray[np.float64] | Complex) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def test_the_layer_is_a_part_of_the_ring() -> None:
    """Entry by entry, and the ring's norm is that of its symbol: so the symbol bounds the layer."""
    for drawn, kernel, lengths in plain(60):
        phases = phases_of(drawn.index, len(lengths))
        matrix = dense_matrix(kernel, drawn.input_shape, **drawn.geometry)
        # A transposed layer is the adjoint of the convolution on the ring.
        matrix = matrix.T if drawn.geometry["transposed"] else matrix
        kept = part(kernel, drawn.axes, lengths, phases)
        np.testing.assert_allclose(kept, matrix, rtol=0, atol=1e-15, err_msg=str(drawn))
        bound = ring_norm(kernel, drawn.axes, lengths, phases)
        assert abs(bound - norm(ring_matrix(kernel, drawn.axes, lengths, phases))) <= 1e-12 * max(bound, 1.0)
        assert norm(matrix) <= bound * (1 + 1e-12) + 1e-300, drawn


def test_every_longer_ring_will_do() -> None:
    for drawn, kernel, lengths in plain(25, largest=150):
        longer = [n + (1 + drawn.index % 3) * axis.unit for n, axis in zip(lengths, drawn.axes, strict=True)]
        truth = norm(dense_matrix(kernel, drawn.input_shape, **drawn.geometry))
        bound = ring_norm(kernel, drawn.axes, longer, phases_of(drawn.index, len(longer)))
        assert truth <= bound * (1 + 1e-12) + 1e-300, drawn


def test_where_the_ring_is_the_layer() -> None:
    """[1, 2, 1] with a pixel of padding a side: the norm is 2 + 2 cos(pi/(n+1)), and so is that of the twisted ring."""
    binomial = np.array([[[1.0, 2.0, 1.0]]])
    for n in (1, 2, 5, 40):
        axis = Axis(n, n, 3, 1, 1, 1)
        assert axis.shortest == n + 1
        exact = 2 + 2 * math.cos(math.pi / (n + 1))
        assert abs(ring_norm(binomial, [axis], [n + 1], [math.pi]) - exact) < 1e-14
        assert abs(norm(dense_matrix(binomial, n, padding_mode="zeros")) - exact) < 1e-14
        assert ring_norm(binomial, [axis], [n + 1], [0.0]) == 4.0


# -- every condition is needed ---------------------------------------------------------------------------------------
def every_axis() -> Iterator[Axis]:
    """Every axis of small numbers."""
    choices = itertools.product(range(1, 7), range(1, 5), range(1, 4), range(1, 4), range(4), range(4))
    for n, k, s, r, before, after in choices:
        outputs = (n + before + after - r * (k - 1) - 1) // s + 1
        if outputs > 0:
            yield Axis(n, outputs, k, s, r, before)


def test_the_length_is_the_least() -> None:
    """By looking at every tap: the theorem's ring never wraps, and one point fewer does where taps are close."""
    count = 0
    for axis in every_axis():
        assert not axis.wraps(axis.shortest), axis
        if axis.s == axis.r == 1 and axis.before < axis.k and axis.shortest > 1:
            count += 1
            assert axis.wraps(axis.shortest - 1), axis
    assert count > 200


def below(axes: list[Axis], lengths: list[int], kernels: int = 60, **options: object) -> bool:
    """Whether some kernel's layer has a larger norm than its ring."""
    for seed in range(kernels):
        random = np.random.RandomState(seed)
        kernel = random.standard_normal((1, 1, *(axis.k for axis in axes)))
        kernel = np.abs(kernel) if seed % 2 else kernel
        pads = [(a.before, a.s * (a.outputs - 1) + a.r * (a.k - 1) + 1 - a.n - a.before) for a in axes]
        truth = norm(
            dense_matrix(
                kernel, [a.n for a in axes], stride=[a.s for a in axes], dilation=[a.r for a in axes],
                padding_mode="zeros", padding=[(b, max(a, 0)) for b, a in pads],
            )
        )  # fmt: skip
        for phases in itertools.product((0.0, math.pi), repeat=len(axes)):
            if truth > ring_norm(kernel, axes, lengths, phases, **options) * (1 + 1e-9):  # type: ignore[arg-type]
                return True
    return False


NEEDED = [
    Axis(4, 4, 3, 1, 1, 1),
    Axis(5, 3, 3, 2, 1, 1),
    Axis(6, 6, 3, 1, 2, 2),
    Axis(3, 3, 5, 1, 1, 2),
    Axis(4, 7, 4, 1, 1, 3),
    Axis(6, 2, 2, 3, 2, 0),
    Axis(5, 3, 3, 2, 3, 3),
]


@pytest.mark.parametrize("axis", NEEDED, ids=str)
def test_a_shorter_ring_is_no_bound(axis: Axis) -> None:
    assert not below([axis], [axis.shortest], kernels=10)
    assert below([axis], [axis.shortest - axis.unit])


def forgotten(theta: float, length: int, k: int, r: int, phase: float) -> Complex:
    """The last tap turned as if there were no phase."""
    phases = turned(theta, length, k, r, phase)
    phases[-1] = np.exp(1j * (theta - phase / length) * r * (k - 1))
    return phases


TURNED = [*NEEDED[:1], *NEEDED[3:5], Axis(7, 7, 3, 1, 2, 2), Axis(13, 6, 6, 2, 1, 2), Axis(9, 5, 7, 2, 1, 3)]


@pytest.mark.parametrize("axis", TURNED, ids=str)
def test_a_phase_forgotten_in_one_tap_is_no_bound(axis: Axis) -> None:
    assert below([axis], [axis.shortest], tap_phases=forgotten)


@pytest.mark.parametrize("axis", [Axis(4, 2, 2, 2, 3, 1), Axis(5, 2, 3, 3, 2, 2), Axis(6, 3, 3, 2, 3, 3)], ids=str)
def test_a_ring_that_closes_on_the_dilation_alone_is_no_ring(axis: Axis) -> None:
    """Outputs must come back to themselves: with lcm(s, r) replaced by r, the folded symbol is of another layer."""
    least = max(axis.n + axis.before, axis.s * (axis.outputs - 1) + axis.r * (axis.k - 1) - axis.before + 1)
    shorter = [m for m in range(axis.r, 4 * least, axis.r) if m % axis.s]
    assert any(below([axis], [m]) for m in shorter)
