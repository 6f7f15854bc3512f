"""What makes it fast, looked at where it happens: which products, how many frequencies, how much at once. No clocks."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest
from bench.kernels import like_trained
from bench.memory import kernels_of_memory
from real_weights import real_kernel
from specnorm_numpy import NumpyBackend
from specnorm_numpy.namespace import NAMESPACE
from strategies import Recipe

import specnorm
from specnorm import arrays
from specnorm.certified.matrices import norms
from specnorm.certified.matrices import stacks as stacks_of_matrices
from specnorm.certified.symbol import lags, symbols
from specnorm.methods.gram_iteration import GramIteration
from specnorm.methods.matrix_norm import MatrixNorm
from specnorm.methods.power_iteration import PowerIteration
from specnorm.runtime import execution
from specnorm.runtime.execution import Execution
from specnorm.runtime.program import Program

CIRCULAR: dict[str, Any] = {"padding_mode": "circular"}
CALLS = 5300
"""Most calls of a search with 16 channels; NumPy's versions differ by some."""


class Namespace:
    """NumPy, with the products that are asked of it noted."""

    def __init__(self) -> None:
        self.products: list[tuple[Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(xp, name)

    def matmul(self, a: Any, b: Any) -> Any:
        self.products.append((a, b))
        return np.matmul(a, b)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Namespace:
    namespace = Namespace()
    monkeypatch.setattr(NumpyBackend, "namespace", lambda *_: namespace)
    return namespace


def test_symbols_of_real_kernels_are_real_products(noted: Namespace) -> None:
    """Two products with the tables of cosines and sines: a complex one would be twice the work."""
    kernel: Any = Recipe((6, 4, 3, 3), seed=0).kernel
    symbols.Symbol(
        kernel[None], specnorm.problem.frequencies.half_grid((8, 8)), ops=Execution(NumpyBackend(), noted)
    ).matrices()
    assert len(noted.products) == 2
    assert not any(np.iscomplexobj(factor) for product in noted.products for factor in product)


@pytest.mark.parametrize("shape", [(12, 5, 3, 3), (5, 12, 3, 3)])
def test_gram_matrices_are_of_the_smaller_side(shape: tuple[int, ...], noted: Namespace) -> None:
    """Gram iteration, the grid, the circular norm: squares of 5 rows, never of 12."""
    kernel = Recipe(shape, seed=1).kernel
    specnorm.gram_bound(kernel, 6, **CIRCULAR)
    specnorm.gram_bound(kernel)
    specnorm.grid_bound(kernel)
    specnorm.conv_norm(kernel, 6)
    results = {
        (a.shape[-2], b.shape[-1]) for a, b in noted.products if np.iscomplexobj(a) and a.shape[-2] == b.shape[-1]
    }
    assert (5, 5) in results
    assert (12, 12) not in results


@pytest.mark.parametrize("n", [8, 9])
def test_half_of_the_frequencies_are_looked_at(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real kernel's symbols come in conjugate pairs."""
    seen: list[int] = []
    prepare = symbols.Symbol.__init__

    def counted(self: Any, blocks: Any, frequencies: Any, **given: Any) -> None:
        seen.append(len(frequencies))
        prepare(self, blocks, frequencies, **given)

    monkeypatch.setattr(symbols.Symbol, "__init__", counted)
    kernel = Recipe((3, 2, 3, 3), seed=2).kernel
    specnorm.singular_values(kernel, n)
    specnorm.gram_bound(kernel, n, **CIRCULAR)
    specnorm.grid_bound(kernel, n=n)
    assert seen == [n * (n // 2 + 1)] * 3


def test_few_frequencies_of_three_axes_are_looked_at() -> None:
    """At 32 pixels an axis 17,408 were, one by one, and as many again for a tolerance of 1e-6."""
    kernel = np.random.RandomState(0).randn(6, 6, 3, 3, 3)
    found = specnorm.measure(kernel, specnorm.ExactFFT(), input_shape=32, **CIRCULAR)
    assert int(found.stats["frequencies"]) < 8000


def test_factorisations_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One stack for all frequencies that fit the memory budget, and one for all unfoldings of a shape's groups."""
    stacks: list[int] = []
    below = norms.gram_below

    def counted(gram: Any, *given: Any, **named: Any) -> Any:
        stacks.append(int(np.prod(gram.shape[:-2])))
        return below(gram, *given, **named)

    for module in (norms, stacks_of_matrices):
        monkeypatch.setattr(module, "gram_below", counted)
    specnorm.grid_bound(Recipe((3, 2, 3, 3), seed=3).kernel, n=12)
    assert stacks == [12 * 7]
    stacks.clear()
    specnorm.f4_bound(np.tile(Recipe((3, 2, 3, 3), seed=3).kernel, (5, 1, 1, 1)), groups=5)
    assert stacks == [5]


def test_layers_of_equal_shape_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    step = Program.step

    def counted(self: Program, kernels: Any, *given: Any, **named: Any) -> Any:
        sizes.append(kernels.shape[0] if kernels.ndim > len(self.shape) else 1)
        return step(self, kernels, *given, **named)

    kernels = [Recipe((4, 3, 3, 3), seed=j).kernel for j in range(3)] + [Recipe((2, 3, 3, 3), seed=9).kernel]
    method = specnorm.FantasticFour()
    states = [specnorm.init_tracking(kernel, method) for kernel in kernels]
    monkeypatch.setattr(Program, "step", counted)
    specnorm.track_many(kernels, method, states)
    assert sorted(sizes) == [1, 3]


def peak(run: Callable[[], object]) -> int:
    tracemalloc.start()
    run()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_follows_the_budget_and_not_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """At n = 1024 all symbols of this kernel would take 134 MB; a chunk keeps to its budget, whatever that is."""
    kernel, budget = Recipe((4, 4, 3, 3), seed=4).kernel, 2**22
    monkeypatch.setattr(execution, "MEMORY", budget)
    frequencies = 1024 * 513
    found = peak(lambda: specnorm.gram_bound(kernel, 1024, n_iter=1, **CIRCULAR))
    # Two integers for each frequency, and copies while they are made.
    assert found < 3 * 16 * frequencies + budget
    assert found < 16 * kernel[..., 0, 0].size * frequencies / 4


def test_gram_iteration_at_every_size_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Recipe((8, 8, 3, 3), seed=5).kernel
    whole = peak(lambda: specnorm.gram_bound(kernel, n_iter=4))
    monkeypatch.setattr(execution, "MEMORY", execution.MEMORY // 1000)
    assert peak(lambda: specnorm.gram_bound(kernel, n_iter=4)) < whole


BACKWARDS: dict[str, tuple[specnorm.methods.Method, dict[str, Any]]] = {
    "grid": (specnorm.Grid(n=5), {}),
    "gram, circular": (specnorm.Gram(), {"input_shape": 8, **CIRCULAR}),
    "gram": (specnorm.Gram(), {}),
    "gram, two products": (specnorm.Gram(n_iter=2), {}),
    "fft": (specnorm.ExactFFT(), {"input_shape": 8, **CIRCULAR}),
    "power": (specnorm.Power(n_iter=4), {"input_shape": 8, **CIRCULAR}),
    "matrix norm": (MatrixNorm(), {}),
    "power iteration": (PowerIteration(n_iter=4), {}),
    "Gram iteration of a matrix": (GramIteration(), {}),
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_the_backward_of_a_bound_needs_the_memory_of_three_kernels(name: str) -> None:
    """The gradient included, which is one; and not more than that is kept for it."""
    method, geometry = BACKWARDS[name]
    shape = (64, 64, 3, 3) if name in specnorm.METHODS or "," in name else (400, 400)
    kernel = Recipe(shape, dtype="float32", seed=6).kernel
    backward, held = kernels_of_memory(method, kernel, tuple(geometry.items()))
    assert backward < 3.01
    assert held < 2


@pytest.mark.parametrize("method", [specnorm.TensorNorm(), specnorm.FantasticFour()], ids=["tn", "f4"])
def test_memory_of_gradients(method: specnorm.Method) -> None:
    """Differentiating through 100 sweeps held 200 times the kernel; an envelope needs the vectors of the last one.

    The budget of a search is 256 MiB whatever the kernel, so the kernel is large enough to tell the two apart.
    """
    kernel = Recipe((256, 256, 3, 3), "rank_one", seed=1).kernel
    assert 200 * kernel.nbytes > 2 * 300 * 2**20
    assert peak(lambda: specnorm.value_and_grad(kernel, method)) < 300 * 2**20


@pytest.mark.parametrize("method", [specnorm.ExactFFT(), specnorm.Gram(n_iter=2)], ids=["fft", "gram"])
def test_memory_of_frequencies(method: specnorm.Method) -> None:
    """The FFT grid of one layer held 2.8 to 4.8 GB; frequencies are taken in chunks of at most 256 MiB."""
    kernel = Recipe((64, 48, 3, 3), dtype="float32", seed=1).kernel
    assert peak(lambda: specnorm.measure(kernel, method, input_shape=32)) < 300 * 2**20


def test_memory_of_the_layer_and_of_doubling_kernels() -> None:
    """Patches, a Krylov basis, the taps of three products: each is made in parts."""
    kernel = Recipe((64, 48, 3, 3), dtype="float32", seed=1).kernel
    assert peak(lambda: specnorm.gram_bound(kernel)) < 300 * 2**20
    assert peak(lambda: specnorm.power_norm(kernel, 24, padding_mode="zeros", n_iter=6)) < 300 * 2**20


def test_counting_does_not_wait_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops of a fixed number of rounds count in Python: reading a count from a GPU would wait for everything else."""
    read: Counter[str] = Counter()

    def loop(self: Any, cond: Callable[[Any], Any], body: Callable[[Any], Any], state: Any) -> Any:
        del self
        while True:
            more = cond(state)
            read[type(more).__name__] += 1
            if not more:
                return state
            state = body(state)

    monkeypatch.setattr(NumpyBackend, "loop", loop)
    specnorm.measure(Recipe((5, 4), seed=6).kernel, PowerIteration(n_iter=7))
    assert read == {"bool": 8}
    read.clear()
    specnorm.power_norm(Recipe((3, 2, 3, 3), seed=7).kernel, 12)
    # Restarts look whether anything was gained; the steps between them do not.
    assert read["bool"] > 3 * sum(count for name, count in read.items() if name != "bool")


def test_a_search_of_a_small_kernel_makes_few_calls() -> None:
    """Of functions, Python's and C's: with 16 channels they are what it takes; 7,250 before."""
    kernel, counts = real_kernel("resnet20", "layer1.0.conv1"), Counter[str]()
    specnorm.enclose(kernel)
    sys.setprofile(lambda _frame, event, _argument: counts.update([event]))
    try:
        specnorm.enclose(kernel)
    finally:
        sys.setprofile(None)
    assert 1000 < counts["call"] + counts["c_call"] < CALLS


def test_a_few_cells_of_a_large_kernel_make_no_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too much was left out for four cells of 90: all coefficients were two fifths of a search."""
    kernel, ranks = like_trained((256, 256, 3, 3), 1), list[int]()

    def watched(taps: Any, rank: int, *given: Any, **how: Any) -> Any:
        ranks.append(rank)
        return lags.autocorrelations(taps, rank, *given, **how)

    monkeypatch.setattr("specnorm.certified.symbol.gram_polynomial.autocorrelations", watched)
    found = specnorm.enclose(kernel)
    assert found.upper <= found.lower * 1.001
    assert len(ranks) == 1
    assert ranks[0] < 128


def _computed(xp: Any, a: Any) -> Iterator[Any]:
    """What functions of a namespace make of an array with four axes."""
    yield from (getattr(xp.linalg, name)(a) for name in ("diagonal", "trace"))
    yield from (getattr(xp, name)(a) for name in ("real", "imag", "matrix_transpose", "zeros_like"))
    for given in itertools.product((None, 0, -1, (0, 2)), (False, True)):
        axes = dict(zip(("axis", "keepdims"), given, strict=True))
        yield from (function(a, **axes) for function in (xp.sum, xp.max, xp.min, xp.linalg.vector_norm))
    yield xp.take(a, np.asarray([2, 0]), axis=0)
    yield xp.reshape(a, (a.shape[0], -1))
    yield xp.permute_dims(a, (1, 0, 3, 2))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_what_numpy_s_functions_come_to(dtype: str) -> None:
    """Bit for bit, whichever way the entries lie."""
    random = np.random.RandomState(0)
    x: Any = random.standard_normal((3, 4, 5, 5)).astype(dtype)
    x = x + (0.5j * x[::-1]).astype(dtype) if np.iscomplexobj(x) else x
    for a in (x, x[:, ::2], np.swapaxes(x, -1, -2)):
        for ours, numpy in zip(_computed(NAMESPACE, a), _computed(np, a), strict=True):
            assert (ours.dtype, ours.shape) == (numpy.dtype, numpy.shape)
            np.testing.assert_array_equal(ours, numpy)
    numbers: Any = np.arange(3)
    assert NAMESPACE.linalg.vector_norm(numbers, axis=0) == np.linalg.vector_norm(numbers, axis=0)


def test_lanczos_looks_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest unfolding is found in more than 40 steps, with one transfer for a stretch of them."""
    transfers = 0
    to_numpy = NumpyBackend.to_numpy

    def counted(self: Any, x: Any) -> Any:
        nonlocal transfers
        transfers += 1
        return to_numpy(self, x)

    monkeypatch.setattr(NumpyBackend, "to_numpy", counted)
    specnorm.f4_bound(Recipe((96, 96, 3, 3), seed=8).kernel)
    assert 0 < transfers < 30


def test_a_shape_is_traced_once_by_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """New values, and another array of the same shape, run what was compiled before; another shape does not."""
    jnp = pytest.importorskip("jax.numpy")
    traced: Counter[str] = Counter()
    for cls in (specnorm.FantasticFour, specnorm.Grid, specnorm.ExactFFT):

        def counted(self: Any, *given: Any, forward: Any = cls.forward, **named: Any) -> Any:
            traced[self.name] += 1
            return forward(self, *given, **named)

        monkeypatch.setattr(cls, "forward", counted)

    def run(shape: tuple[int, ...], seed: int) -> None:
        kernel = jnp.asarray(Recipe(shape, seed=seed, dtype="float32").kernel)
        specnorm.f4_bound(kernel)
        specnorm.grid_bound(kernel)
        specnorm.conv_norm(kernel, 5)

    run((3, 2, 3, 2), 10)
    first = dict(traced)
    assert len(first) == 3
    run((3, 2, 3, 2), 11)
    assert traced == first
    run((2, 3, 3, 2), 12)
    assert all(traced[name] > count for name, count in first.items())


def test_the_counter_of_a_loop_is_an_array_where_it_compiles() -> None:
    jnp = pytest.importorskip("jax.numpy")
    backend = specnorm.backends.load("jax")
    assert backend.is_array(arrays.counter(jnp.zeros(2), ops=Execution(backend, jnp)))
    host = NumpyBackend()
    assert arrays.counter(host.asarray(np.zeros(2)), ops=Execution(host, host.namespace(None))) == 0
