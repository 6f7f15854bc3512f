"""A circulant without its highest waves, and those by themselves: bounds of a layer against its dense matrix.

No bound below the norm is proven, and without one of the terms such bounds are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS
from helpers.oracle import dense_matrix
from numpy.typing import NDArray

from specnorm.at_size.circulants import DeflatedCirculant
from specnorm.at_size.proofs import deflation
from specnorm.at_size.proofs.circulant import shortest
from specnorm.at_size.proofs.deflation import SplitWaves, WaveGram
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs import norms
from specnorm.proofs.bound import finite, known
from specnorm.proofs.cells import Boxes, Circulant
from specnorm.supremum.branch_and_bound import Search
from specnorm.supremum.proof import Cover


@dataclass(frozen=True)
class Case:
    """A layer without stride and dilation, its circulant and its norm."""

    kernel: NDArray[np.float64]
    spec: ConvSpec
    circulant: Circulant
    matrix: NDArray[np.float64]
    norm: float

    def deflated_circulant(self) -> DeflatedCirculant:
        kernel: Any = self.kernel[None, ...]
        ops = OPS
        search = Search(kernel, ops=ops)
        whole = search.run(Boxes.torus(kernel.shape[3:]), rtol=1e-2, max_cells=10_000)
        return DeflatedCirculant(kernel, self.spec, self.circulant, known(whole.upper), ops=ops)


def cases(count: int, *, first: int = 0) -> Iterator[Case]:
    """Few pixels, any padding, more or fewer outputs than inputs, some transposed, smooth kernels among them."""
    for seed in range(first, first + count):
        random = np.random.RandomState(seed)
        ndim = 1 + seed % 2
        taps, sizes = random.randint(1, 5, size=ndim), random.randint(4, 9, size=ndim)
        pads = [tuple(random.randint(0, k + 1, size=2).tolist()) for k in taps]
        kernel = random.standard_normal((*random.randint(1, 4, size=2), *taps))
        kernel = np.abs(kernel) if seed % 3 == 0 else kernel
        kernel = kernel / np.abs(kernel).max()
        geometry: dict[str, Any] = {"padding_mode": "zeros", "padding": tuple(pads), "transposed": seed % 4 == 1}
        shape = tuple(int(n) for n in sizes)
        try:
            matrix = dense_matrix(kernel, shape, **geometry)
            spec = ConvSpec.of(kernel.shape, input_shape=shape, **geometry)
            points = tuple(int(n + random.randint(2)) for n in shortest(spec))
        except Exception:
            continue
        circulant = Circulant(points, tuple(bool(x) for x in random.randint(2, size=ndim)))
        yield Case(kernel, spec, circulant, matrix, float(np.linalg.svd(matrix, compute_uv=False)[0]))


def below_the_truth() -> list[str]:
    """The first bound that is proven and lower than the norm."""
    for case in cases(24, first=100):
        circulant = case.deflated_circulant()
        for part in (0.5, 0.8):
            split = circulant._deflate(part * case.norm)
            if split is None:
                continue
            for below in (1e-9, 1e-3, 1e-2, 0.1, 0.3):
                bound = case.norm * (1 - below)
                if circulant._proven(*split, bound) is not None:
                    return [f"{case.spec}, {case.circulant}: {bound} for {case.norm}, less waves above {part}"]
    return []


def test_no_bound_below_the_norm_is_proven() -> None:
    assert below_the_truth() == []


def test_bounds_are_closer_than_the_ring() -> None:
    """The check would also pass if nothing were ever proven."""
    close = total = 0
    for case in cases(24, first=100):
        circulant = case.deflated_circulant()
        total += 1
        close += finite(circulant.upper(case.norm * (1 - 1e-9), 0.01)) <= 1.0100001 * case.norm
    assert close > total / 4


# -- without one of the terms, false bounds are proven ----------------------------------------------------------------
_overlaps, _fathom, _gram = deflation._overlaps, Cover.fathom, WaveGram.__init__


def fewer_positions(numerators: Any, circulant: Any, axis: int, n: int, *rest: Any, **named: Any) -> Any:
    return _overlaps(numerators, circulant, axis, n - 1, *rest, **named)


def longer_ring(numerators: Any, circulant: Any, *rest: Any, **named: Any) -> Any:
    return _overlaps(numerators, replace(circulant, points=tuple(2 * n for n in circulant.points)), *rest, **named)


def nothing_left(self: Cover, formed: Any, threshold: float, **named: Any) -> Any:
    """Cells fathomed for a threshold as if they held nothing at all."""
    done = _fathom(self, formed, threshold, **named)
    self._largest_threshold = 0.0
    return done


def without_mirror_images(self: WaveGram, spec: Any, circulant: Any, highest: SplitWaves, *, ops: Any) -> None:
    _gram(self, spec, circulant, highest, ops=ops)
    count = len(highest.frequency_of_wave)
    self.matrix = self.matrix[:count, :count]


def halved(self: WaveGram, *given: Any, **named: Any) -> None:
    _gram(self, *given, **named)
    self.matrix = self.matrix / 2


MUTATIONS: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "a position": ((deflation, "_overlaps", fewer_positions),),
    "length of the circulant": ((deflation, "_overlaps", longer_ring),),
    "what is left": ((Cover, "fathom", nothing_left), (deflation, "rest_below", lambda *_, **__: True)),
    "mirror images": ((WaveGram, "__init__", without_mirror_images),),
    "both sides": ((WaveGram, "__init__", halved),),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_term_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, attribute, without in MUTATIONS[name]:
        monkeypatch.setattr(owner, attribute, without)
    assert below_the_truth(), "nothing was noticed"


def test_what_is_left_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not proven where too little is taken out, unless factorisations are believed."""
    given = []
    for case in cases(10, first=300):
        circulant = case.deflated_circulant()
        split = circulant._deflate(0.5 * case.norm)
        assert split is not None
        _, highest = split
        nothing = SplitWaves(highest.frequencies, highest.frequency_of_wave[:0], highest.x[:0], highest.y[:0])
        if len(highest.frequency_of_wave):
            given += [(circulant.kernel, nothing, 0.5 * case.norm), (circulant.kernel, highest, 0.499 * case.norm)]
    proven = [deflation.rest_below(*x, ops=OPS) for x in given]
    assert len(proven) > 4
    assert not any(proven)
    monkeypatch.setattr(norms, "gram_below", lambda gram, *_, **__: np.ones(gram.shape[:-2], dtype=bool))
    assert [x for x in given if not deflation.rest_below(*x, ops=OPS)] == []
