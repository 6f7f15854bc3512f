"""The norm of a black box: below with no larger probability than stated, and refused where it is none."""

from __future__ import annotations

import math
import re
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.errors import MethodError
from specnorm.power import inexact_adjoint, probable


def of(matrix: Any, **options: Any) -> Any:
    return specnorm.operator_norm(lambda v: matrix @ v, lambda u: matrix.T @ u, matrix.shape, **options)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (200, 200), (1, 7), (3, 3)])
def test_encloses_the_norm(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    norm = float(np.linalg.norm(matrix, 2))
    for seed in range(10):
        found = of(matrix, seed=seed)
        assert found.lower <= norm * (1 + 1e-12)
        assert norm <= found.upper <= 1.011 * norm
        assert found.kind == "probable"


@pytest.mark.parametrize("scale", [1e-310, 1e-250, 1e-170, 1e160, 1e300])
def test_no_square_underflows(scale: float) -> None:
    a = scale * np.array([[1.0], [0.1]])
    found = specnorm.operator_norm(lambda v: a @ v, lambda u: a.T @ u, (2, 1))
    assert found.lower * 0.999 <= scale * math.hypot(1, 0.1) <= found.upper


def test_falls_below_no_more_often_than_stated() -> None:
    """Of the spectrum that Lanczos is slowest on, and with few steps: the share of failures is at most delta."""
    values = (1 + np.cos(np.pi * np.arange(1, 401) / 400)) / 2
    values[0] = 1.0
    matrix = np.diag(np.sqrt(values))
    below = [of(matrix, delta=0.5, rtol=0.2, seed=seed).upper < 1.0 for seed in range(300)]
    assert np.mean(below) <= 0.5
    least = min(of(matrix, delta=0.5, rtol=0.2, seed=seed).lower for seed in range(100))
    assert least < 0.99  # the test can fail: few steps are not enough to meet the norm


def test_products_are_as_many_as_the_theorem_asks_for() -> None:
    size, calls = 10**4, list[None]()

    def product(v: Any) -> Any:
        calls.append(None)
        return np.linspace(0, 1, size) * v

    found = specnorm.operator_norm(product, product, (size, size), rtol=5e-3, seed=0)
    eps = 1 - 1.005**-2
    assert len(calls) == found.products == 2 + 2 * math.ceil((math.log(1.648e2 / 1e-9) / math.sqrt(eps) + 1) / 2)
    assert 0.999 <= found.lower <= 1 <= found.upper
    assert "probability" in str(found)


def test_a_wrong_adjoint_that_a_random_pair_does_not_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blur of an image is not its own adjoint where its border repeats pixels: here is one row of it.

    Of its norm 1.0119 an upper bound of 1.01001 was stated: by chance the random pair did not see the border.
    """
    size, half = 400, 3
    taps = np.exp(-(np.arange(-half, half + 1.0) ** 2) / 4)
    matrix = np.zeros((size, size))
    rows = np.arange(size)
    for offset, tap in zip(range(-half, half + 1), taps / taps.sum(), strict=True):
        # A mirror about the first and the last pixel.
        columns = size - 1 - abs(size - 1 - abs(rows + offset))
        np.add.at(matrix, (rows, columns), tap)
    assert of(matrix).upper >= np.linalg.norm(matrix, 2)
    monkeypatch.setattr(probable, "_tested_scale", lambda *_: 1.0)
    assert of(matrix).upper >= np.linalg.norm(matrix, 2)
    for seed in range(20):
        with pytest.raises(MethodError, match=r"not the adjoint of matvec: in \d+ steps.* repeats pixels"):
            specnorm.operator_norm(lambda v: matrix @ v, lambda u: matrix @ u, matrix.shape, seed=seed)


MATRIX = np.random.default_rng(1).standard_normal((40, 60))
NORM = float(np.linalg.norm(MATRIX, 2))


def assert_bounds(operator: Any, norm: float, *more: Any) -> None:
    found = specnorm.operator_norm(operator, *more)
    assert found.kind == "probable"
    assert found.lower <= norm * (1 + 1e-5)
    assert norm <= found.upper <= 1.011 * norm


COMPLEX = MATRIX[:5, :4] + 1j * MATRIX[5:10, :4]


def products(matrix: Any, *names: str, **more: Any) -> Any:
    """An object that holds products alone, as of CIL, ODL and imaging, by their names."""
    both = (lambda v: matrix @ v, lambda u: matrix.conj().T @ u)
    return SimpleNamespace(shape=matrix.shape, **dict(zip(names, both, strict=False)), **more)


def test_matrices_and_objects_with_products() -> None:
    assert_bounds(MATRIX, NORM)
    assert_bounds(COMPLEX, float(np.linalg.norm(COMPLEX, 2)))
    assert_bounds(products(MATRIX, "matvec", "rmatvec"), NORM)
    assert_bounds(products(MATRIX, "op", "adj_op"), NORM)
    assert_bounds(products(COMPLEX, "op", "adj_op", dtype=COMPLEX.dtype), float(np.linalg.norm(COMPLEX, 2)))
    with pytest.raises(MethodError, match="has no rmatvec"):
        specnorm.operator_norm(products(MATRIX, "matvec"))
    shapeless = SimpleNamespace(op=None, adj_op=None)
    with pytest.raises(MethodError, match=r"no shape: give operator_norm\(operator\.op, operator\.adj_op, shape\)"):
        specnorm.operator_norm(shapeless)
    with pytest.raises(specnorm.errors.NoBackend, match=r"operator_norm\(operator\)"):
        specnorm.enclose(products(MATRIX, "op", "adj_op"))


def test_the_answer_is_two_numbers_as_an_enclosure_is() -> None:
    found = specnorm.operator_norm(MATRIX)
    assert tuple(found) == tuple(specnorm.operator_norm(MATRIX))
    lower, upper = found
    assert (lower, upper) == (found.lower, found.upper)
    assert lower.ndim == upper.ndim == 0
    assert repr(found) == str(found)
    with pytest.raises(TypeError, match=r"float\(\) of ProbableBound, .*\.upper .*\.lower"):
        float(found)
    with pytest.raises(TypeError, match=r"comparison of ProbableBound, .*\.upper .*\.lower"):
        _ = found <= 1.0


def test_of_scipy() -> None:
    linalg, sparse = pytest.importorskip("scipy.sparse.linalg"), pytest.importorskip("scipy.sparse")
    for given in (linalg.aslinearoperator(MATRIX), sparse.csr_array(MATRIX), 2 * linalg.aslinearoperator(MATRIX) / 2):
        assert_bounds(given, NORM)
    complex_matrix = MATRIX * (1 + 1j)
    assert_bounds(linalg.aslinearoperator(complex_matrix), NORM * math.sqrt(2))
    with pytest.raises(MethodError, match="does not implement rmatvec"):
        specnorm.operator_norm(linalg.LinearOperator(MATRIX.shape, matvec=lambda v: MATRIX @ v))


def test_of_pylops() -> None:
    pylops = pytest.importorskip("pylops")
    found = [
        pylops.MatrixMult(MATRIX),
        pylops.FirstDerivative((8, 9), axis=1),
        pylops.signalprocessing.Convolve2D((6, 7), np.outer([1.0, 2, 1], [1.0, 0, -1]), offset=(1, 1)),
        pylops.VStack([pylops.Identity(12), 2 * pylops.SecondDerivative(12)]),
        pylops.signalprocessing.FFT(16, dtype="complex128"),
    ]
    for given in found:
        assert_bounds(given, float(np.linalg.norm(given.todense(), 2)))


def test_of_torch() -> None:
    torch, plugin = pytest.importorskip("torch"), pytest.importorskip("specnorm_torch")
    conv = torch.nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False)
    x = torch.zeros(1, 2, 6, 5)
    dense = torch.func.jacrev(conv)(x).detach().reshape(-1, x.numel()).double()
    norm = float(torch.linalg.matrix_norm(dense, 2))
    assert_bounds(plugin.linear_operator(conv, x), norm)
    for wrong in (torch.nn.Conv2d(2, 3, 3, padding=1), lambda v: v.abs(), lambda v: conv(v).relu()):
        with pytest.raises(MethodError, match="offset or a nonlinearity"):
            specnorm.operator_norm(plugin.linear_operator(wrong, x))
    with pytest.raises(MethodError, match="autograd does not follow"):
        plugin.linear_operator(lambda v: v.detach(), x)
    with pytest.raises(MethodError, match=r"dtype torch\.int64; expected a real or complex floating one"):
        plugin.linear_operator(conv, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(MethodError, match="the function's value has a str"):
        plugin.linear_operator(lambda v: (v, "x"), x)


OF_NUMBERS: dict[str, tuple[Any, Any, float]] = {
    "a tuple, as a discrete gradient": (
        lambda v: (v[1:] - v[:-1], 2 * v),
        4,
        float(np.linalg.norm(np.vstack([np.diff(np.eye(4), axis=0), 2 * np.eye(4)]), 2)),
    ),
    "a tuple for a tuple, as its adjoint": (lambda pair: pair[0] + 2 * pair[1], (4, 4), 5**0.5),
    "a dictionary": (lambda v: {"a": v, "b": [3 * v]}, 4, 10**0.5),
    "real to complex": (lambda v: 1j * v, 4, 1.0),
}


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_functions_of_several_arrays(library: str, name: str) -> None:
    plugin = pytest.importorskip(f"specnorm_{library}")
    zeros: Any = pytest.importorskip("torch" if library == "torch" else "jax.numpy").zeros
    function, sizes, norm = OF_NUMBERS[name]
    x = tuple(map(zeros, sizes)) if isinstance(sizes, tuple) else zeros(sizes)
    assert_bounds(plugin.linear_operator(function, x), norm)


@pytest.mark.parametrize("part", [lambda y: y, lambda y: y.real, lambda y: (y, y.imag)], ids=["all", "real", "both"])
def test_functions_of_complex_tensors(part: Any) -> None:
    torch, plugin = pytest.importorskip("torch"), pytest.importorskip("specnorm_torch")
    jnp, of_jax = pytest.importorskip("jax.numpy"), pytest.importorskip("specnorm_jax")
    real, imag = COMPLEX.real, COMPLEX.imag
    rows = {"real": np.hstack([real, -imag]), "imag": np.hstack([imag, real])}
    matrix = np.vstack([rows["real"], rows["imag"], rows["imag"]])
    if not isinstance(part(COMPLEX), tuple):
        matrix = matrix[: 10 if np.iscomplexobj(part(COMPLEX)) else 5]
    norm = float(np.linalg.norm(matrix, 2))
    a = torch.from_numpy(COMPLEX)
    assert_bounds(plugin.linear_operator(lambda v: part(a @ v), torch.zeros_like(a[0])), norm)
    b = jnp.asarray(COMPLEX, "complex64")
    assert_bounds(of_jax.linear_operator(lambda v: part(b @ v), jnp.zeros_like(b[0])), norm)


class Between:
    """An operator between arrays of two axes, as SigPy, SCICO and ODL have them, by the names of its attributes."""

    def __init__(self, matrix: Any, names: tuple[str, ...], adjoint: str = "H") -> None:
        self.matrix = matrix
        for name, shape in zip(names, ((2, matrix.shape[1] // 2), (1, matrix.shape[0])), strict=True):
            holder, _, last = name.rpartition(".")
            setattr(self, holder or last, SimpleNamespace(**{last: shape}) if holder else shape)
        if adjoint:
            setattr(self, adjoint, lambda u: (matrix.conj().T @ u.reshape(-1)).reshape(2, -1))

    def __call__(self, v: Any) -> Any:
        return (self.matrix @ v.reshape(-1)).reshape(1, -1)


@pytest.mark.parametrize("matrix", [MATRIX[:5, :4], COMPLEX], ids=["real", "complex"])
def test_operators_between_arrays(matrix: Any) -> None:
    norm = float(np.linalg.norm(matrix, 2))
    for names, adjoint in (
        (("ishape", "oshape"), "H"),
        (("input_shape", "output_shape"), "H"),
        (("domain.shape", "range.shape"), "adjoint"),
    ):
        assert_bounds(Between(matrix, names, adjoint), norm)
    with pytest.raises(MethodError, match="needs its adjoint"):
        specnorm.operator_norm(Between(matrix, ("ishape", "oshape"), ""))
    with pytest.raises(MethodError, match=r"specnorm_torch\.linear_operator\(operator\.A, x\)"):
        specnorm.operator_norm(SimpleNamespace(A=None, A_adjoint=None))


def test_of_jax() -> None:
    jax, plugin = pytest.importorskip("jax"), pytest.importorskip("specnorm_jax")
    kernel = jax.numpy.asarray(MATRIX[0, :54].reshape(3, 2, 3, 3), "float32")

    def blur(x: Any) -> Any:
        return jax.lax.conv_general_dilated(x, kernel, (1, 2), "SAME")

    x = jax.numpy.zeros((1, 2, 5, 6), "float32")
    dense = np.asarray(jax.jacobian(blur)(x)).reshape(-1, x.size).astype(np.float64)
    assert_bounds(plugin.linear_operator(blur, x), float(np.linalg.norm(dense, 2)))
    with pytest.raises(MethodError, match="offset or a nonlinearity"):
        specnorm.operator_norm(plugin.linear_operator(lambda v: blur(v) + 1, x))
    with pytest.raises(MethodError, match="dtype int32; expected arrays, real or complex floating"):
        plugin.linear_operator(blur, x.astype("int32"))


# -- many steps, and the user's words ----------------------------------------------------------------------------
def test_progress_is_told_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = iter(np.arange(0.0, 1e6, 0.4)), list[tuple[int, int]]()
    monkeypatch.setattr("specnorm.power.probable.time", SimpleNamespace(monotonic=lambda: next(clock)))
    specnorm.operator_norm(np.diag(np.linspace(1, 2, 500)), progress=lambda *both: told.append(both))
    assert len(told) > 10
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1


def test_a_generator_takes_the_place_of_the_seed() -> None:
    matrix = np.cos(np.arange(2500.0) ** 2).reshape(50, 50)

    def found(**options: Any) -> tuple[float, float]:
        lower, upper = specnorm.operator_norm(matrix, rtol=0.2, delta=0.1, **options)
        return float(lower), float(upper)

    assert found(rng=3) == found(seed=3) == found(rng=np.random.default_rng(3))
    assert found(rng=3) != found(rng=4)


# -- matrices and operators of other libraries -----------------------------------------------------------------------
def test_matrices_of_torch(torch: Any) -> None:
    matrix = torch.tensor(np.random.default_rng(0).standard_normal((30, 20)))
    true = float(np.linalg.norm(matrix.numpy(), 2))
    sparse = (matrix.to_sparse(), matrix.to_sparse_csr(), matrix.to_sparse_csc(), matrix.float().to_sparse_csr())
    for x in (matrix, matrix.float(), *sparse, matrix.requires_grad_()):
        assert_bounds(x, true)
    twice = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (3, 4))
    assert_bounds(twice, 3.0)
    rows = torch.complex(matrix.detach()[:15], matrix.detach()[15:])
    for x in (rows, rows.to_sparse_csr()):
        assert_bounds(x, float(np.linalg.norm(rows.numpy(), 2)))
    with pytest.raises(MethodError, match=r"not multiplied with vectors of its library.*another format"):
        specnorm.operator_norm(matrix.detach().to_sparse_bsr((2, 2)))
    with pytest.raises(MethodError, match="matrix_norm takes stacks"):
        specnorm.operator_norm(torch.ones(2, 3, 3))


@pytest.mark.sampled("BCOO")
@pytest.mark.parametrize("kind", ["array", "BCOO", "COO", "CSR", "CSC"])
def test_matrices_of_jax(jax: Any, kind: str) -> None:
    sparse: Any = pytest.importorskip("jax.experimental.sparse")
    matrix = jax.numpy.asarray(np.random.default_rng(0).standard_normal((30, 20)))
    true = float(np.linalg.norm(matrix, 2))
    assert_bounds(matrix if kind == "array" else getattr(sparse, kind).fromdense(matrix), true)
    one_entry = jax.numpy.zeros((3, 2)).at[1, 0].set(2.0)
    if kind == "BCOO":
        assert_bounds(sparse.BCOO.fromdense(one_entry * (1 + 1j)), 8**0.5)
    with pytest.raises(MethodError, match=r"BCSR is not transposed by its library .*another format"):
        specnorm.operator_norm(sparse.BCSR.fromdense(one_entry))


def test_operators_of_gpytorch() -> None:
    """Its package linear_operator: sums, products and structured matrices, none of them formed."""
    torch, of = pytest.importorskip("torch"), pytest.importorskip("linear_operator").operators
    dense = of.DenseLinearOperator
    rows: Any = torch.tensor(MATRIX[:6, :4])
    square = rows @ rows.T
    cases = {
        dense(rows): rows,
        dense(rows.float()): rows,
        dense(square) + of.DiagLinearOperator(torch.arange(6.0, dtype=torch.float64)): square
        + torch.arange(6.0).diag(),
        dense(rows) @ dense(rows.T): square,
        of.KroneckerProductLinearOperator(dense(rows), dense(square)): torch.kron(rows, square),
        of.ToeplitzLinearOperator(torch.tensor([4.0, 1.0])): torch.tensor([[4.0, 1.0], [1.0, 4.0]]),
        of.RootLinearOperator(rows.clone().requires_grad_()): square,
        of.IdentityLinearOperator(3, dtype=torch.float64): torch.eye(3),
    }
    for operator, matrix in cases.items():
        assert_bounds(operator, float(np.linalg.norm(matrix, 2)))
    with pytest.raises(MethodError, match="takes one matrix"):
        specnorm.operator_norm(dense(torch.stack([square, square])))


def test_functions_of_images_and_of_several_arrays() -> None:
    """The differences of an image along both axes, and their adjoint."""
    n = 8
    d = np.diff(np.eye(n), axis=0)
    true = float(np.linalg.norm(np.vstack([np.kron(d, np.eye(n)), np.kron(np.eye(n), d)]), 2))

    def divergence(parts: Any) -> Any:
        rows, columns = parts
        return d.T @ rows + columns @ d

    differences: Any = lambda x: (d @ x, x @ d.T)  # noqa: E731
    assert_bounds(differences, true, divergence, (((n - 1, n), (n, n - 1)), (n, n)))
    assert_bounds(lambda x: d @ x, float(np.linalg.norm(d, 2)), lambda y: d.T @ y, ((n - 1, n), (n, n)))
    assert_bounds(lambda x: x.sum(axis=(0, 1)), 8.0, lambda y: np.ones((8, 8, 1)) * y, ((3,), (8, 8, 3)))
    both: Any = lambda pair: 2 * pair[0] + pair[1]  # noqa: E731 - of two images, and its adjoint
    assert_bounds(both, 5**0.5, lambda y: (2 * y, y), ((n, n), ((n, n), (n, n))))
    with pytest.raises(MethodError, match="neither the shape of an array"):
        specnorm.operator_norm(lambda x: x, lambda x: x, ((0, 4), (4, 4)))


@pytest.mark.parametrize("shape", [(2**18, 2**18), (2**18, 2**10), (2**10, 2**18)])
def test_vectors_take_no_more_memory_than_is_stated(shape: tuple[int, int]) -> None:
    """Ten vectors of 2**28 numbers were taken: 20 GiB."""
    m, n = shape

    def padded(size: int) -> Any:
        return lambda v: np.concatenate([v, np.zeros(size)])[:size]

    def measured(max_bytes: int) -> Any:
        return specnorm.operator_norm(padded(m), padded(n), shape, rtol=0.5, delta=0.5, max_bytes=max_bytes)

    with pytest.raises(MethodError, match=f"{n} inputs and {m} outputs takes some .* GiB.*max_bytes=1000") as refused:
        measured(1000)
    stated = int(re.findall(r"max_bytes=(\d+) computes", str(refused.value))[0])
    tracemalloc.start()
    try:
        measured(stated)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    inside_of_a_product = 16 * max(m, n) + 8 * (m + n)
    assert peak <= stated + inside_of_a_product


# -- an adjoint that is known up to an error ---------------------------------------------------------------------------
def toeplitz(k: int, *, is_skew: bool) -> Any:
    """Entries 1/(i - j), in both triangles or in the lower one: eigenvalues move most by it, as log(k) (Kahan 1975)."""
    difference = np.subtract.outer(np.arange(k), np.arange(k))
    inside = difference != 0 if is_skew else difference > 0
    return np.where(inside, 1.0 / np.where(difference == 0, 1, difference), 0.0)


ERRORS: dict[str, Any] = {
    "at random": lambda u, v, rng: rng.standard_normal((len(v), len(u))),
    "shrinks all": lambda u, v, _: -v @ u.T,
    "shrinks the largest": lambda u, v, _: -np.outer(v[:, 0], u[:, 0]),
    "triangular": lambda u, v, _: v @ toeplitz(u.shape[1], is_skew=False) @ u.T,
    "skew": lambda u, v, _: v @ toeplitz(u.shape[1], is_skew=True) @ u.T,
}
"""Errors of an adjoint, as functions of singular vectors u and v."""
SPECTRA: dict[str, Any] = {
    "equal": np.ones(40), "even": np.linspace(1, 0.01, 40), "one above": np.r_[1.0, np.full(39, 0.5)],
    "crowded": 1 - 1e-4 * np.arange(40), "two": np.ones(2),
}  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_an_inexact_adjoint_widens_the_bound_by_what_it_costs(error: str) -> None:
    """The adjoint is wrong by exactly the stated amount; the true norms are those of dense matrices."""
    rng = np.random.default_rng(0)
    for values in SPECTRA.values():
        k = len(values)
        for m, n in ((k, k), (k + 9, k), (k, k + 9)):
            u, v = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (m, n))
            a = (u * values) @ v.T
            norm = float(np.linalg.norm(a, 2))
            change = ERRORS[error](u, v, rng)
            for tolerance in (1e-4, 1e-2):
                b = a.T + change * (tolerance * norm / np.linalg.norm(change, 2))
                found = specnorm.operator_norm(a.__matmul__, b.__matmul__, (m, n), adjoint_rtol=tolerance)
                assert found.lower <= norm * (1 + 1e-12)
                assert norm <= found.upper
                assert found.upper <= norm * (1.011 + 24 * tolerance)
                assert found.lower >= 0.98 * norm


def test_with_an_inexact_adjoint_it_falls_below_no_more_often_than_stated() -> None:
    """One large value in a thousand, on which the theorem is nearly sharp: the share of failures is delta."""
    values = np.r_[1.0, np.full(999, 0.09)]
    delta = 0.3

    def bound(start: Any, chance: float) -> float:
        _, logarithm = inexact_adjoint.filtered(lambda v: values * v, 0.09, 3, start)
        return inexact_adjoint.squared_norm_up(0.09, logarithm, 3, 1e-12, chance, 1000)

    starts = np.random.default_rng(0).standard_normal((1000, 1000))
    shares = [np.mean([bound(start, chance) < 1 for start in starts]) for chance in (delta, 2 * delta)]
    allowed = delta + 3 * math.sqrt(delta * (1 - delta) / len(starts))
    assert shares[0] <= allowed < shares[1]


def test_what_contradicts_the_stated_error_of_the_adjoint_is_refused() -> None:
    wrong = (lambda v: v, lambda u: 0.9 * u, (40, 40))
    with pytest.raises(MethodError, match=r"is not the adjoint of matvec.*give adjoint_rtol"):
        specnorm.operator_norm(*wrong)
    with pytest.raises(MethodError, match="is not the adjoint of matvec"):
        specnorm.operator_norm(*wrong, adjoint_rtol=1e-3)
    with pytest.raises(MethodError, match=r"adjoint_rtol=0\.2 is too large for an operator with 40"):
        specnorm.operator_norm(*wrong, adjoint_rtol=0.2)
    with pytest.raises(MethodError, match="adjoint_rtol=-1 is not a number between 0 and 1"):
        specnorm.operator_norm(*wrong, adjoint_rtol=-1)
    zero = specnorm.operator_norm(lambda v: 0 * v, lambda u: 0 * u, (3, 3), adjoint_rtol=1e-3)
    assert float(zero.lower) == float(zero.upper) == 0
