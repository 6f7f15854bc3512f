"""A value costs no gradient: the products of a forward pass, counted with and without one, for every method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from specnorm_numpy import BACKEND, NumpyBackend

from specnorm import methods
from specnorm.enclosure.norm_at_size import NormAtSize
from specnorm.gram.method import ChannelNorms
from specnorm.methods import METHODS
from specnorm.running.program import program_for
from specnorm.spectrum.determinant import LogDeterminant
from specnorm.spectrum.singular_values import SingularValues
from specnorm.unfoldings.matrix_stacks import MatrixGramIteration, MatrixNorm, MatrixPowerIteration

KERNEL = np.random.RandomState(0).standard_normal((6, 6, 3, 3))
MATRIX = KERNEL.reshape(18, 18)
CIRCULAR: dict[str, Any] = {"input_shape": 6, "padding_mode": "circular", "padding": "same"}
PADDED: dict[str, Any] = {"input_shape": 6, "padding_mode": "zeros", "padding": 1}


class Counting:
    """NumPy's namespace; counts the multiplications of products, and cubes of sides for factorisations."""

    def __init__(self, inner: Any, work: list[float]) -> None:
        self.inner, self.work = inner, work

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.inner, name)
        if name == "linalg":
            return Counting(member, self.work)
        if name not in ("matmul", "svd", "eigh", "eigvalsh", "inv", "slogdet", "qr", "svdvals", "cholesky"):
            return member

        def counted(*operands: Any, **keywords: Any) -> Any:
            columns = operands[1].shape[-1] if name == "matmul" else operands[0].shape[-1]
            self.work[0] += math.prod(operands[0].shape) * columns
            return member(*operands, **keywords)

        return counted


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    counter = [0.0]
    namespace = Counting(BACKEND.namespace(KERNEL), counter)
    monkeypatch.setattr(NumpyBackend, "namespace", lambda *_: namespace)
    return counter


# The most that the value alone may cost, as a part of what it costs with its gradient. 1: the gradient needs singular
# vectors alone, which the value needs anyway.
CASES = {
    "tn": (methods.TensorNorm(), KERNEL, {}, 1.0),
    "f4": (methods.FantasticFour(), KERNEL, {}, 1.0),
    "unfoldings": (methods.Unfoldings(), KERNEL, {}, 0.7),
    "gram": (methods.Gram(), KERNEL, {}, 0.999),
    "grid": (methods.Grid(), KERNEL, {}, 1.0),
    "exact_fft": (methods.ExactFFT(), KERNEL, CIRCULAR, 1.0),
    "power": (methods.Power(n_iter=5), KERNEL, PADDED, 0.99),
    "power_top_k": (methods.PowerTopK(n_iter=5, k=2), KERNEL, PADDED, 0.99),
    "reshaped": (methods.Reshaped(), KERNEL, {}, 1.0),
    "enclose": (methods.Enclose(), KERNEL, {}, 1.0),
    "completion": (methods.Completion(n_iter=5), KERNEL, {}, 1.0),
    "symbol": (methods.SymbolNorm(), KERNEL, {}, 1.0),
    "smallest": (methods.Smallest(), KERNEL[:2, :2], {}, 1.0),
    "isometry": (methods.Isometry(), KERNEL, {}, 0.8),
    "isometry, lags": (methods.Isometry(form="lags"), KERNEL, {}, 0.8),
    "at_size": (NormAtSize(rtol=1e-2), KERNEL[:2, :2], PADDED, 1.0),
    "channel_norms": (ChannelNorms(), KERNEL, {}, 1.0),
    "slogdet": (LogDeterminant(), KERNEL, CIRCULAR, 0.6),
    "singular_values": (SingularValues(), KERNEL, CIRCULAR, 1.0),
    "singular_values, padded": (SingularValues(), KERNEL[:2, :2], PADDED, 0.99),
    "matrix_norm": (MatrixNorm(), MATRIX, {}, 1.0),
    "power_iteration": (MatrixPowerIteration(n_iter=5), MATRIX, {}, 1.0),
    "gram_iteration": (MatrixGramIteration(), MATRIX, {}, 1.0),
}


def test_every_method_is_counted() -> None:
    assert {type(method) for method, *_ in CASES.values()} >= set(METHODS.values())


@pytest.mark.parametrize("name", CASES)
def test_a_value_costs_no_gradient(name: str, work: list[float]) -> None:
    method, kernel, geometry, most = CASES[name]
    program = program_for(method, kernel.shape, str(kernel.dtype), tuple(geometry.items()))
    costs = []
    for differentiated in (False, True):
        work[0] = 0.0
        ran = program.forward(kernel, backend=BACKEND, differentiated=differentiated)
        costs.append(work[0])
        assert bool(ran.residuals) == differentiated
    value_alone, with_gradient = costs
    assert 0 < value_alone <= most * with_gradient
