"""`logit_bound`: no token exceeds it, tokens attain it, and its gradient is the slope, in every library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib
from numpy.typing import NDArray

import specnorm
from specnorm import SpecnormError
from specnorm.logits import proof as typed_proof
from specnorm.methods import LogitBound

Floats = NDArray[np.float64]
ANGLES = (1.0, 0.3, 0.01)
proof: Any = typed_proof
"""With NumPy's arrays in place of the protocol's."""


@dataclass(frozen=True)
class Problem:
    """Arrays by their names in `logit_bound`, the norm layer's kind, and the offsets of `rope`."""

    heads: int
    kv_heads: int
    query: Floats
    key: Floats
    gain: Floats | None = None
    shift: Floats | None = None
    query_bias: Floats | None = None
    key_bias: Floats | None = None
    is_layer_norm: bool = False
    offsets: tuple[int, ...] | None = ()
    pairs: int = 0
    is_interleaved: bool = False

    def bound(self, xp: Lib | None = None) -> Any:
        def array(x: Floats | None) -> Any:
            return x if x is None or xp is None else xp.asarray(x)

        gain, bias = array(self.gain), (array(self.query_bias), array(self.key_bias))
        rope: Any = (ANGLES[: self.pairs], self.offsets)
        return specnorm.logit_bound(
            array(self.query), array(self.key), heads=self.heads, kv_heads=self.kv_heads,
            gain=(gain, array(self.shift)) if self.is_layer_norm else gain,
            bias=None if bias[0] is None and bias[1] is None else bias,
            rope=((*rope, "interleaved") if self.is_interleaved else rope) if self.pairs else None,
        )  # fmt: skip

    def attacked(self) -> list[float]:
        rng = np.random.RandomState(0)
        size, d = len(self.query) // self.heads, self.query.shape[1]
        gain = np.ones(d) if self.gain is None else self.gain
        shift = np.zeros(d) if self.shift is None else self.shift

        def image(z: Floats, matrix: Floats, bias: Floats | None) -> Floats:
            return np.asarray((z * gain + shift) @ matrix.T + (0.0 if bias is None else bias))

        def token(direction: Floats) -> Floats:
            if self.is_layer_norm:
                direction = direction - direction.mean()
            return np.asarray(direction * math.sqrt(d) / max(float(np.linalg.norm(direction)), 1e-300))

        def turn(x: Floats, angle: float) -> Floats:
            y, n = x.copy(), self.pairs
            for j in range(n):
                a, b = (2 * j, 2 * j + 1) if self.is_interleaved else (j, j + n)
                c, s = math.cos(angle * ANGLES[j]), math.sin(angle * ANGLES[j])
                y[a], y[b] = c * x[a] - s * x[b], s * x[a] + c * x[b]
            return y

        found = []
        for head in range(self.heads):
            rows = slice(head * size, (head + 1) * size)
            shared = head // (self.heads // self.kv_heads)
            others = slice(shared * size, (shared + 1) * size)
            query, key = self.query[rows], self.key[others]
            query_bias = None if self.query_bias is None else self.query_bias[rows]
            key_bias = None if self.key_bias is None else self.key_bias[others]
            best = 0.0
            for offset, sign, _ in itertools.product(self.offsets or (0,), (1.0, -1.0), range(4)):
                x = token(np.asarray(rng.standard_normal(d)))
                for _ in range(40):
                    at_query = turn(image(x, query, query_bias), offset)  # as the key sees it, turned back
                    y = token(np.asarray(sign * (at_query @ key) * gain))
                    at_key = turn(image(y, key, key_bias), -offset)
                    x = token(np.asarray(sign * (at_key @ query) * gain))
                logit = turn(image(x, query, query_bias), offset) @ image(y, key, key_bias)
                best = max(best, abs(float(logit)) / math.sqrt(size))
            found.append(best)
        return found


def problems() -> Iterator[tuple[str, Problem]]:
    rng = np.random.RandomState(3)

    def normal(*shape: int) -> Floats:
        return np.asarray(rng.standard_normal(shape))

    plain = Problem(2, 2, normal(12, 8), normal(12, 8))
    yield "no gain", plain
    yield "shared keys", Problem(4, 2, normal(24, 8), normal(12, 8), gain=normal(8))
    yield "head larger than tokens", Problem(1, 1, normal(6, 3), normal(6, 3), gain=normal(3))
    yield "rank one", replace(plain, query=np.outer(normal(12), normal(8)))
    yield "rotary", replace(plain, gain=normal(8), offsets=(0, 1, 2, 5, 40), pairs=3)
    yield "some pairs, interleaved", replace(plain, offsets=(-3, 7), pairs=2, is_interleaved=True)
    layer_norm = replace(plain, is_layer_norm=True, gain=normal(8))
    yield "layer norm", layer_norm
    yield "layer norm with bias", replace(layer_norm, shift=normal(8), query_bias=5 * normal(12))
    yield "biases", replace(plain, query_bias=normal(12), key_bias=10 * normal(12))
    yield "biases, rotary", replace(plain, query_bias=9 * normal(12), key_bias=normal(12), pairs=3, offsets=(0, 3, 50))


PROBLEMS = dict(problems())


@pytest.mark.parametrize("name", PROBLEMS)
def test_is_attained_and_never_exceeded(xp: Lib, name: str) -> None:
    """The ascent rounds by less than 1e-12; biases at several offsets leave a gap of less than 1e-3."""
    problem = PROBLEMS[name]
    bound = xp.to_numpy(problem.bound(xp)).astype(np.float64)
    gap = 1e-3 if name == "biases, rotary" else 1e-9
    for value, reached in zip(bound, problem.attacked(), strict=True):
        rounding = 1e-12 if xp.has_float64 else 1e-6  # of the arrays
        assert reached * (1 - rounding) <= value <= reached * (1 + max(gap, 8 * rounding))


@pytest.mark.parametrize("seed", range(3))
def test_many_offsets_are_each_below_the_bound(seed: int) -> None:
    """Enough offsets for the proofs by one factorization each; the truth is a dense norm at each."""
    rng = np.random.RandomState(seed)
    query, key = rng.standard_normal((2, 8, 12)) * np.exp(-rng.uniform(0, 3 * seed, (2, 8, 1)))
    angles = rng.uniform(0, 2, 4)
    norms = []
    for offset in range(-150, 150):
        c, s = np.diag(np.cos(offset * angles)), np.diag(np.sin(offset * angles))
        norms.append(np.linalg.norm(query.T @ np.block([[c, s], [-s, c]]) @ key, 2) * 12 / math.sqrt(8))
    bound = float(specnorm.logit_bound(query, key, heads=1, rope=(angles, range(-150, 150)))[0])
    assert max(norms) * (1 - 1e-13) <= bound <= max(norms) * (1 + 1e-10)
    for some in (angles, [*angles[:2], 0.0, 0.0]):
        every = float(specnorm.logit_bound(query, key, heads=1, rope=(some, None))[0])
        assert every >= float(specnorm.logit_bound(query, key, heads=1, rope=(some, range(-150, 150)))[0])


@pytest.mark.parametrize("seed", range(40))
def test_one_number_against_fractions(seed: int) -> None:
    """Heads and tokens of one number: with fractions the largest logit is exact, whatever the sizes."""
    rng = np.random.RandomState(seed)
    query, key, gain, query_bias, key_bias = rng.standard_normal(5) * 2.0 ** rng.randint(-40, 40, 5)
    q, k, g, b, c = (abs(Fraction(float(x))) for x in (query, key, gain, query_bias, key_bias))
    one = np.ones((1, 1))
    found = [
        specnorm.logit_bound(query * one, key * one, heads=1, gain=np.array([gain]), scale=1.0, bias=bias)
        for bias in (None, (np.array([query_bias]), np.array([key_bias])))
    ]
    for value, exact in zip(found, (q * k * g * g, (q * g + b) * (k * g + c)), strict=True):
        assert exact <= Fraction(float(value[0])) <= exact * Fraction(1 + 1e-9)


def test_sizes_are_no_matter() -> None:
    """Weights, gains and biases of any size; zero weights have no logits, zero queries with biases have some."""
    problem = PROBLEMS["shared keys"]
    assert problem.gain is not None
    for power in (-300, 300):
        moved = replace(problem, query=problem.query * 2.0**power, key=problem.key * 2.0**-power)
        np.testing.assert_allclose(moved.bound(), problem.bound(), rtol=1e-12)
        moved = replace(problem, gain=problem.gain * 2.0**power, key=problem.key * 2.0 ** (-2 * power))
        np.testing.assert_allclose(moved.bound(), problem.bound(), rtol=1e-12)
    assert not replace(problem, key=0 * problem.key).bound().any()
    halves = replace(problem, query=problem.query.astype(np.float16), key=problem.key.astype(np.float16))
    assert halves.bound().dtype == np.float64  # that of the gain
    for name in ("biases", "biases, rotary"):
        assert (replace(PROBLEMS[name], query=0 * PROBLEMS[name].query).bound() > 0).all()


@pytest.mark.parametrize("name", ["shared keys", "layer norm with bias", "biases, rotary", "some pairs, interleaved"])
def test_gradient_is_the_slope(xp: Lib, name: str) -> None:
    """Against central differences, by what the library's users call; NumPy's by `value_and_grad` of the rows."""
    if not xp.has_float64 or xp.name not in ("numpy", "torch", "jax"):
        pytest.skip("no derivatives in float64")
    problem = PROBLEMS[name]
    names = [n for n in ("query", "key", "gain", "shift", "query_bias", "key_bias") if getattr(problem, n) is not None]
    if xp.name == "numpy":
        rows = np.concatenate([problem.query, problem.key])
        angles, turned = ANGLES[: problem.pairs], problem.is_interleaved
        method = LogitBound(problem.heads, problem.kv_heads, interleaved=turned, angles=angles, offsets=problem.offsets)
        value, gradient = specnorm.value_and_grad(rows, method)
        others = dict.fromkeys(("gain", "shift", "query_bias", "key_bias"))
        plain = replace(problem, is_layer_norm=False, **others)  # type: ignore[arg-type]
        assert value == max(plain.bound())
        change = np.random.RandomState(1).standard_normal(rows.shape)
        ends = [specnorm.measure(rows + step * change, method).value for step in (1e-6, -1e-6)]
        assert np.sum(gradient * change) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
        return
    weights = np.linspace(0.5, 1.5, problem.heads)

    def total(values: dict[str, Any]) -> Any:
        return (replace(problem, **values).bound() * xp.asarray(weights)).sum()

    arrays = {n: xp.asarray(getattr(problem, n)) for n in names}
    if xp.name == "torch":
        leaves = {n: x.clone().requires_grad_() for n, x in arrays.items()}
        total(leaves).backward()
        gradients = {n: x.grad.numpy() for n, x in leaves.items()}
    else:
        import jax

        gradients = {n: np.asarray(x) for n, x in jax.grad(total)(arrays).items()}
    for n in names:
        change = np.random.RandomState(1).standard_normal(getattr(problem, n).shape)
        ends = [
            replace(problem, **{n: getattr(problem, n) + step * change}).bound() @ weights for step in (1e-6, -1e-6)
        ]
        assert np.sum(gradients[n] * change) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_under_a_compiler(jax: Any) -> None:
    """JAX: the same without rotations, the bound for every offset with them."""
    for name, offsets in (("shared keys", ()), ("rotary", None)):
        problem = replace(PROBLEMS[name], offsets=offsets)
        single = [x.astype(np.float32) for x in (problem.query, problem.key, problem.gain) if x is not None]
        traced = jax.jit(lambda q, k, g, p=problem: replace(p, query=q, key=k, gain=g).bound())(*single)
        np.testing.assert_allclose(np.asarray(traced), problem.bound(), rtol=1e-4)
        assert (np.asarray(traced) >= problem.bound() * (1 - 1e-6)).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"heads": 5}, "query has the shape .* a multiple of 5 rows"),
        ({"kv_heads": 3}, "heads=2 is not a multiple of kv_heads=3"),
        ({"kv_heads": 1}, "key has the shape .*; expected"),
        ({"gain": np.ones(3)}, r"gain has the shape \(3,\); expected \(8,\)"),
        ({"gain": (np.ones(8), np.ones(8), 1)}, "expected a pair, the weight and bias of a layer norm"),
        ({"bias": np.ones(12)}, "expected a pair, the biases of queries and of keys"),
        ({"bias": (None, np.ones(8))}, "bias of the keys has the shape"),
        ({"rope": (np.ones(4), 3)}, "4 angles: heads of size 6 have at most 3"),
        ({"rope": ((1.0,), 0.5)}, "expected a number of positions, integers, or None"),
        ({"rope": ((1.0,), 3, "other")}, "layout of rope is 'other'"),
        ({"rope": 10000.0}, r"expected \(angles, offsets\)"),
        ({"gain": np.full(8, np.nan)}, "gain of shape .* holds 8 non-finite"),
        ({"scale": math.inf}, "scale=inf"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], words: str) -> None:
    plain = PROBLEMS["no gain"]
    with pytest.raises(SpecnormError, match=words):
        specnorm.logit_bound(plain.query, plain.key, **{"heads": 2, **wrong})
