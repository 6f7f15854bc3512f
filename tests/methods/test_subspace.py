"""Few vectors and what a circulant says of all others: bounds of a layer against its dense matrix.

First what the circulant says, with explicit waves; then what the library proves with it, and that it proves false
bounds without one of the terms. Strides are among the layers: waves stand on the outputs, whose blocks are those of the
circulant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checks import assert_encloses
from numpy.typing import NDArray
from oracle import dense_matrix, dense_norm
from specnorm_numpy import NumpyBackend

import specnorm
from specnorm.certified import host, rounding
from specnorm.certified.bound import known
from specnorm.certified.layer import lehmann_maehly
from specnorm.certified.layer.circulant import Embedding, shortest
from specnorm.certified.layer.lehmann_maehly import Compression
from specnorm.certified.symbol.cells import torus
from specnorm.problem import polyphase
from specnorm.problem.layer_map import Convolution
from specnorm.problem.spec import ConvSpec
from specnorm.runtime.execution import Execution
from specnorm.search import layer as layer_search
from specnorm.search.branch_and_bound import Search
from specnorm.search.compression import orthonormal
from specnorm.search.deflated import DeflatedCirculant
from specnorm.search.layer_bounds import LayerTuning

Matrix = NDArray[np.float64]


def execution() -> Any:
    backend = NumpyBackend()
    return Execution(backend, backend.namespace(None))


@dataclass(frozen=True)
class Case:
    """A layer, the circulant of its blocks, and its matrix from the small side to the large one."""

    kernel: Any
    spec: ConvSpec
    circulant: DeflatedCirculant
    matrix: Matrix
    norm: float

    def layer(self) -> Convolution:
        return Convolution(self.kernel, self.spec, ops=execution())

    def subspace(self, part: float, *more: Any) -> tuple[Any, Any] | None:
        """Waves above a part of the norm with some other vectors, and what is off them."""
        found = self.circulant._split(part * self.norm)
        if found is None or not len(found[1].at):
            return None
        waves, _ = lehmann_maehly.waves_on_outputs(self.spec, self.circulant.circulant, found[1], ops=execution())
        every: Any = np.concatenate([waves, *more], axis=1)
        basis = orthonormal(every, ops=execution())
        off = lehmann_maehly.complement_bound(
            self.circulant.kernel, self.spec, self.circulant.circulant, *found, basis, ops=execution()
        )
        # Where every frequency of the circulant is above the part, nothing is known of what is left.
        return (basis, off) if off < math.inf else None


def cases(count: int, *, first: int = 0) -> Iterator[Case]:
    """Few pixels, any padding and stride, more or fewer outputs than inputs, some transposed, some smooth."""
    for seed in range(first, first + count):
        random = np.random.RandomState(seed)
        ndim = 1 + seed % 2
        taps, sizes = random.randint(2, 5, size=ndim), random.randint(4, 9, size=ndim)
        pads = [tuple(random.randint(0, k + 1, size=2).tolist()) for k in taps]
        stride = tuple(int(random.randint(1, min(k, 4))) for k in taps)
        kernel: Any = random.standard_normal((*random.randint(1, 4, size=2), *taps))
        kernel = np.abs(kernel) if seed % 3 == 0 else kernel
        kernel = kernel / np.abs(kernel).max()
        shape = tuple(int(n) for n in sizes)
        geometry: dict[str, Any] = {"padding_mode": "zeros", "padding": tuple(pads), "stride": stride}
        geometry["transposed"] = seed % 4 == 1
        try:
            matrix = dense_matrix(kernel, shape, **geometry)
            spec = ConvSpec.of(kernel.shape, input_shape=shape, **geometry)
        except Exception:
            continue
        points = tuple(int(n + random.randint(2)) for n in shortest(spec))
        ops, circulant = execution(), Embedding(points, tuple(bool(x) for x in random.randint(2, size=ndim)))
        blocks: Any = polyphase.to_blocks(kernel[None], spec, xp=ops.xp)
        if any(k == 1 for k in blocks.shape[3:]):
            continue
        whole = Search(blocks, ops=ops).run(torus(blocks.shape[3:]), rtol=1e-2, max_cells=10_000)
        matrix = matrix if spec.transposed else matrix.T
        norm = float(np.linalg.svd(matrix, compute_uv=False)[0])
        yield Case(
            kernel[None], spec, DeflatedCirculant(blocks, spec, circulant, known(whole.upper), ops=ops), matrix, norm
        )


def top(case: Case, count: int) -> Any:
    """Vectors near the top ones of the small side, shape (1, count, size)."""
    return np.linalg.svd(case.matrix)[2][None, :count]


def test_off_the_waves_a_layer_is_below_what_is_left_of_the_ring() -> None:
    """The theorem by itself: what is orthogonal to the waves on the outputs meets no more than t."""
    count = 0
    for case, part in itertools.product(cases(24), (0.5, 0.8)):
        found = case.subspace(part)
        if found is None:
            continue
        basis, off = found
        count += 1
        assert off <= part * case.norm * (1 + 1e-4)
        rest = case.matrix - case.matrix @ basis[0].T @ basis[0]
        assert np.linalg.norm(rest, 2) <= off
    assert count > 10


def below_the_truth() -> list[str]:
    """The first bound that is proven and lower than the norm."""
    for case, part in itertools.product(cases(20, first=100), (0.5, 0.8)):
        for more in ((), (top(case, 1),), (np.ones_like(top(case, 1)),)):
            found = case.subspace(part, *more)
            on = Compression(case.layer(), found[0], ops=execution()) if found is not None else None
            for below in (1e-9, 1e-3, 1e-2, 0.1, 0.3):
                bound = case.norm * (1 - below)
                if found is not None and on is not None and on.norm_below(found[1], bound):
                    return [f"{case.spec}, {case.circulant.circulant}: {bound} for {case.norm}, waves above {part}"]
    return []


def test_no_bound_below_the_norm_is_proven() -> None:
    assert below_the_truth() == []


def test_with_the_top_vectors_the_bound_is_the_norm() -> None:
    """The check would also pass if nothing were ever proven."""
    close = total = 0
    for case in cases(30, first=100):
        found = case.subspace(0.5, top(case, 2))
        if found is not None:
            total += 1
            half = found[0].shape[1] // 2
            first = Compression(case.layer(), found[0][:, :half], ops=execution())
            on = Compression(case.layer(), found[0][:, half:], first, ops=execution())
            close += on.norm_below(found[1], case.norm * (1 + 1e-9))
    assert close > total / 2 > 5


def test_a_basis_without_the_waves_says_less() -> None:
    """What a basis lacks of the waves is added to what is left of the circulant."""
    count = 0
    for case in cases(24, first=200):
        found = case.circulant._split(0.6 * case.norm)
        if found is None or len(found[1].at) < 2:
            continue
        count += 1
        waves, _ = lehmann_maehly.waves_on_outputs(case.spec, case.circulant.circulant, found[1], ops=execution())
        basis: Any = orthonormal(waves, ops=execution())[:, 1:, :]
        off = lehmann_maehly.complement_bound(
            case.circulant.kernel, case.spec, case.circulant.circulant, *found, basis, ops=execution()
        )
        rest = case.matrix - case.matrix @ basis[0].T @ basis[0]
        assert np.linalg.norm(rest, 2) <= off
    assert count > 5


# -- without one of the terms, false bounds are proven ----------------------------------------------------------------
_pencil, _waves, _off = Compression.pencil, lehmann_maehly.waves_on_outputs, lehmann_maehly.complement_bound


def without_rest(self: Compression, gap: float, lam: float) -> Any:
    del gap
    return _pencil(self, math.inf, lam)


def real_parts(*given: Any, **named: Any) -> Any:
    waves, error = _waves(*given, **named)
    return waves[:, : waves.shape[1] // 2], error


def shorter(*given: Any, **named: Any) -> float:
    return 0.5 * _off(*given, **named)


MUTATIONS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "what leaves the subspace": ((Compression, "pencil", without_rest),),
    "imaginary parts": ((lehmann_maehly, "waves_on_outputs", real_parts),),
    "what is off it": ((lehmann_maehly, "complement_bound", shorter),),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_term_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute, without in MUTATIONS[name]:
        monkeypatch.setattr(owner, attribute, without)
    assert below_the_truth(), "nothing was noticed"


def test_what_a_basis_lacks_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lehmann_maehly, "host", SimpleNamespace(**{**vars(host), "add_up": lambda limit, _: limit}))
    with pytest.raises(AssertionError, match="<="):
        test_a_basis_without_the_waves_says_less()


# -- roundings: long sums of one number in single precision, whose errors have one sign -------------------------------
def constant(value: float, shape: tuple[int, int]) -> tuple[Convolution, Fraction]:
    """A layer of one pixel whose matrix holds one number, and the square of its norm."""
    kernel: Any = np.full((1, *shape, 1), value, dtype=np.float32)
    spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
    return Convolution(kernel, spec, ops=execution()), shape[0] * shape[1] * Fraction(float(np.float32(value))) ** 2


def one_output(value: float, count: int) -> tuple[Compression, float, Fraction]:
    """A product as small as its roundings may make it: how far a library's own goes depends on the processor."""
    layer, square = constant(value, (1, count))
    basis: Any = np.ones((1, 1, 1), dtype=np.float32)
    on = Compression(layer, basis, ops=execution())
    on.gram = on.gram * (1 - 0.9 * rounding.gamma(count, 2.0**-24))
    return on, 0.0, square


def many_outputs(value: float, count: int) -> tuple[Compression, float, Fraction]:
    layer, square = constant(value, (count, 1))
    basis: Any = np.full((1, 1, count), 1 / math.sqrt(count), dtype=np.float32)
    return Compression(layer, basis, ops=execution()), 0.0, square


def two_outputs(value: float, count: int) -> tuple[Compression, float, Fraction]:
    """Products as small as their roundings may make them; off the first output the layer is the second one."""
    layer, square = constant(value, (2, count))
    apply: Any = layer.apply
    adjoint: Any = layer.adjoint
    small = [1 - 0.9 * rounding.gamma(n, 2.0**-24) for n in layer.roundings]
    layer.apply = lambda x: small[0] * apply(x)  # type: ignore[method-assign]
    layer.adjoint = lambda y: small[1] * adjoint(y)  # type: ignore[method-assign]
    basis: Any = np.asarray([[[1, 0]]], dtype=np.float32)
    on = Compression(layer, basis, ops=execution())
    return on, math.sqrt(square / 2) * (1 + 1e-12), square


def too_low(build: Callable[..., tuple[Compression, float, Fraction]], *without: str) -> bool:
    """Whether a bound below the norm is proven, with some allowances left out."""
    for count, value in itertools.product((20_000, 60_000), np.random.RandomState(0).uniform(0.1, 1, 60)):
        on, off, square = build(float(value), count)
        for name in without:
            setattr(on, name, 0.0)
        if on.norm_below(off, math.sqrt(square) * (1 - 2e-7)):
            return True
    return False


ROUNDINGS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "products on the subspace": (one_output, ("_of_gram",)),
    # Either of the two covers usual errors of the other.
    "lengths of the basis": (many_outputs, ("_of_gram", "_of_lengths")),
    "products off the subspace": (two_outputs, ("_of_rest",)),
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_every_rounding_is_counted(name: str) -> None:
    build, without = ROUNDINGS[name]
    assert not too_low(build)
    assert too_low(build, *without), "nothing was noticed"


# -- the whole way ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_on_few_pixels_is_enclosed_without_its_matrix(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a circulant nor its waves alone come close enough; the layer's matrix is not made."""
    monkeypatch.setattr(layer_search, "TUNING", LayerTuning(at_once=0, soon=0, work=0, deflated_from=0))
    kernel: Any = np.random.RandomState(3).standard_normal((6, 6, 3, 3)) + 0.3
    found = specnorm.enclose(kernel, 8, padding_mode="zeros", padding=1, stride=stride, rtol=1e-3)
    truth = dense_norm(kernel, 8, padding_mode="zeros", padding=1, stride=stride)
    assert_encloses(float(found.lower), float(found.upper), truth)
    assert found.upper <= found.lower * 1.001
    assert "circulant" in found.status
