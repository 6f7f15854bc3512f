"""Loops: bounds for every length against ascent, block-Toeplitz matrices, and a cone solver's optimum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from specnorm.certified.network import loops as proof
from specnorm.errors import MethodError
from specnorm.networks import (
    Graph,
    Layer,
    Measure,
    Node,
    bound,
    equilibrium_bound,
    operators,
    recurrent_bound,
    state_space_bound,
)

Matrix = NDArray[np.float64]
STEPS = 50


def drawn(n: int, size: float, seed: int, inputs: int = 3, outputs: int = 2) -> tuple[Matrix, Matrix, Matrix]:
    """W of a norm, U and C."""
    rng = np.random.default_rng(seed)
    w, u, c = (rng.standard_normal(shape) for shape in ((n, n), (n, inputs), (outputs, n)))
    return w * (size / np.linalg.norm(w, 2)), u / 2, c / np.sqrt(n)


def unrolled(w: Matrix, u: Matrix, c: Matrix, slopes: Matrix) -> Matrix:
    """The block-Toeplitz matrix from all x_t to all y_t, for slopes (steps, n) of the function at each time."""
    steps = len(slopes)
    whole = np.zeros((steps, len(c), steps, u.shape[1]))
    for start in range(steps):
        state = slopes[start][:, None] * u
        for t in range(start, steps):
            whole[t, :, start] = c @ state
            state = slopes[(t + 1) % steps][:, None] * (w @ state)
    return whole.reshape(steps * len(c), -1)


def ascended(w: Matrix, u: Matrix, c: Matrix, rounds: int = 6, seed: int = 0, low: float = 0.0) -> float:
    """The largest norm of an unrolled loop found, whose ReLUs are on or off: power steps, and slopes that help.

    Each pattern of slopes is that of two runs that are close together, if biases may depend on time: a lower bound of
    what multipliers can show, for they know nothing of the biases.
    """
    rng, best = np.random.default_rng(seed), 0.0
    for start in range(3):
        slopes = np.ones((STEPS, len(w))) if not start else rng.choice([low, 1.0], (STEPS, len(w)), p=[0.3, 0.7])
        for _ in range(rounds):
            left, values, right = np.linalg.svd(unrolled(w, u, c, slopes), full_matrices=False)
            best = max(best, float(values[0]))
            x, y = right[0].reshape(STEPS, -1), left[:, 0].reshape(STEPS, -1)
            states, before = np.zeros((STEPS, len(w))), np.zeros(len(w))
            inner = np.zeros((STEPS, len(w)))
            for t in range(STEPS):
                inner[t] = w @ before + u @ x[t]
                before = states[t] = slopes[t] * inner[t]
            behind, pulled = np.zeros(len(w)), np.zeros((STEPS, len(w)))
            for t in reversed(range(STEPS)):
                pulled[t] = c.T @ y[t] + behind
                behind = w.T @ (slopes[t] * pulled[t])
            slopes = np.where(inner * pulled > 0, 1.0, low)
    return best


def reached(f: Callable[[Matrix], Matrix], shape: tuple[int, int], seed: int, tries: int = 200) -> float:
    """Ratios of runs themselves: random pairs, near and far."""
    rng, best = np.random.default_rng(seed), 0.0
    for _ in range(tries):
        x, away = (
            rng.standard_normal(shape) * rng.choice([0.1, 1, 10]),
            rng.standard_normal(shape) * rng.choice([1e-3, 1]),
        )
        best = max(best, float(np.linalg.norm(f(x + away) - f(x)) / np.linalg.norm(away)))
    return best


def layer_of(w: Matrix, u: Matrix, c: Matrix, phi: Callable[[Matrix], Matrix], b: Matrix) -> Callable[[Matrix], Matrix]:
    def run(x: Matrix) -> Matrix:
        h, found = np.zeros(len(w)), []
        for step in x:
            h = phi(w @ h + u @ step + b)
            found.append(c @ h)
        return np.stack(found)

    return run


RANDOM = [
    (8, 0.8, 0), (8, 1.1, 1), (12, 1.0, 2), (16, 0.9, 3), (16, 1.3, 4), (20, 1.2, 5), (24, 1.1, 6), (32, 1.3, 7),
    (64, 1.0, 8),
]  # fmt: skip
TRAINED = {"adding": "relu", "echo": "tanh", "waves": "relu"}
"""Files of tests/data/recurrent, and the function of each."""


@pytest.mark.parametrize(("n", "size", "seed"), RANDOM)
def test_recurrent_layers_from_both_sides(n: int, size: float, seed: int) -> None:
    """Never below what ascent over 50 steps reaches, and within 3 of it; the small-gain bound where there is one."""
    w, u, c = drawn(n, size, seed)
    found = recurrent_bound(w, u, c)
    assert found.upper is not None
    b = np.random.default_rng(seed).standard_normal(n)
    for phi in (np.tanh, lambda v: np.maximum(v, 0)):
        assert reached(layer_of(w, u, c, phi, b), (STEPS, u.shape[1]), seed) <= found.upper
    lower = ascended(w, u, c)
    assert lower <= found.upper <= 3 * lower
    norms = [float(np.linalg.norm(m, 2)) for m in (w, u, c)]
    if size < 1:
        assert found.product is not None
        assert found.product == pytest.approx(norms[1] * norms[2] / (1 - norms[0]), rel=1e-5)
        assert found.upper <= found.product
    else:
        assert found.product is None


def steepest(w: Matrix, u: Matrix, c: Matrix, b: Matrix, function: str, seed: int, rounds: int = 10) -> float:
    """The largest norm of a Jacobian of a layer over 50 steps at some inputs, each reached from the one before."""
    rng, most, m = np.random.default_rng(seed), 0.0, u.shape[1]
    for size in (0.3, 1.0, 3.0):
        x = size * rng.standard_normal((STEPS, m))
        for _ in range(rounds):
            h, state, rows = np.zeros(len(w)), np.zeros((len(w), STEPS * m)), []
            for t, step in enumerate(x):
                inner = w @ h + u @ step + b
                slope = 1 - np.tanh(inner) ** 2 if function == "tanh" else (inner > 0) * 1.0
                h = np.tanh(inner) if function == "tanh" else np.maximum(inner, 0)
                state = w @ state
                state[:, t * m : (t + 1) * m] += u
                state = slope[:, None] * state
                rows.append(c @ state)
            _, values, right = np.linalg.svd(np.concatenate(rows), full_matrices=False)
            most = max(most, float(values[0]))
            x = x + rng.choice([-1.0, 1.0]) * rng.choice([0.3, 1.0, 3.0]) * right[0].reshape(x.shape)
    return most


@pytest.mark.parametrize("name", TRAINED)
def test_trained_recurrent_layers(name: str) -> None:
    """Trained on three tasks: above Jacobians over 50 steps, and within 3 of slopes that help."""
    with np.load(Path(__file__).parents[1] / "data" / "recurrent" / f"{name}.npz") as file:
        w, u, c, b = (file[key].astype(np.float64) for key in "WUCb")
    found = recurrent_bound(w, u, c)
    assert found.upper is not None
    assert steepest(w, u, c, b, TRAINED[name], 0) <= found.upper
    lower = ascended(w, u, c)
    assert lower <= found.upper <= 3 * lower
    assert (found.product is None) == (name == "echo")
    assert found.product is None or found.upper < found.product / 5


def test_a_loop_of_one_unit_is_met() -> None:
    """u c / (1 - |w|), by inputs that are constant for w > 0, and alternate for w < 0, where all slopes are 1."""
    assert recurrent_bound([[0.5]], [[2.0]], [[3.0]]).upper == pytest.approx(12, rel=3e-3)
    turned = recurrent_bound([[-0.5]], [[1.0]])
    assert turned.upper == pytest.approx(2, rel=3e-3)
    assert recurrent_bound([[0.0]], [[2.0]]).upper == pytest.approx(2, rel=3e-3)
    assert recurrent_bound(np.zeros((2, 2)), np.zeros((2, 3))).upper == pytest.approx(0, abs=1e-300)


@pytest.mark.parametrize(("low", "high"), [(-0.2, 1.1), (0.0, 0.25), (-1.0, 1.0), (0.3, 1.0)])
def test_other_slopes(low: float, high: float) -> None:
    w, u, c = drawn(8, 0.75, 11)
    found = recurrent_bound(w, u, c, (low, high))
    assert found.upper is not None
    assert found.product is not None
    assert high * ascended(high * w, u, c, low=low / high) <= found.upper * (1 + 1e-9)
    assert found.upper <= found.product
    if low == -1.0:  # what small gain says of one unit holds for any sign
        assert recurrent_bound([[0.5]], [[1.0]], slopes=(-1, 1)).upper == pytest.approx(2, rel=3e-3)


def optimum(w: Matrix, u: Matrix, c: Matrix, lag: int = 1) -> float:
    """The least gain that multipliers prove on a grid of frequencies, by Clarabel; written apart from the search."""
    clarabel: Any = pytest.importorskip("clarabel", exc_type=ImportError)
    sparse: Any = pytest.importorskip("scipy.sparse", exc_type=ImportError)
    n, m = u.shape
    size, blocks, constants = 2 * (n + m), [], []
    for theta in np.linspace(0, np.pi, 25) if lag else [0.0]:
        turned, forms = np.exp(-1j * theta) * w, []
        for i in range(n):
            form = np.zeros((n + m, n + m), complex)
            form[i, i] = 2
            row = np.concatenate([turned[i], u[i]])
            form[i] -= row
            form[:, i] -= row.conj()
            forms.append(form)
        forms.append(np.diag([0.0] * n + [1.0] * m).astype(complex))
        whole = np.zeros((n + m, n + m), complex)
        whole[:n, :n] = c.T @ c
        columns, rows = np.tril_indices(size)
        scale = np.where(rows == columns, 1, np.sqrt(2))

        def flat(a: Any, at: Any = (rows, columns), by: Any = scale) -> Any:
            real = np.block([[a.real, -a.imag], [a.imag, a.real]])
            return real[at] * by

        blocks.append(-np.stack([flat(form) for form in forms], axis=1))
        constants.append(-flat(whole))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    cones = [clarabel.PSDTriangleConeT(size)] * len(blocks)
    a, b = np.concatenate(blocks), np.concatenate(constants)
    cost = np.append(np.zeros(n), 1.0)
    empty = sparse.csc_matrix((n + 1, n + 1))
    found = clarabel.DefaultSolver(empty, cost, sparse.csc_matrix(a), b, cones, settings).solve()
    assert "Solved" in str(found.status)
    return float(np.sqrt(found.x[n]))


@pytest.mark.parametrize(("n", "size", "seed"), [(4, 0.9, 0), (6, 1.1, 1), (8, 1.3, 2)])
def test_multipliers_are_the_best(n: int, size: float, seed: int) -> None:
    w, u, c = drawn(n, size, seed)
    best = optimum(w, u, c)
    found = recurrent_bound(w, u, c).upper
    assert found is not None
    assert best * (1 - 1e-4) <= found <= 1.01 * best


def test_what_diverges_has_no_bound() -> None:
    """The state of a ReLU loop that expands, and one that turns; nothing is claimed where multipliers are missing."""
    for w in (np.eye(2) * 1.01, np.array([[0.0, -1.2], [1.2, 0.0]]), np.array([[1.0]])):
        found = recurrent_bound(w, np.eye(len(w)))
        assert found.upper is None
        assert "spectral radius" in found.reason
        assert "No bound" in str(found)
    # W is stable, and with its second unit off it is not.
    split = np.array([[1.5, -4.0], [0.6, -1.0]])
    assert abs(np.linalg.eigvals(split)).max() < 1
    found = recurrent_bound(split, np.eye(2))
    assert found.upper is None
    assert "no multipliers" in found.reason


def test_a_proof_needs_its_gain() -> None:
    """The same multipliers prove nothing below what is reached, whatever is asked for."""
    w, u, c = drawn(8, 1.1, 1)
    found = recurrent_bound(w, u, c)
    assert found.upper is not None
    assert found.multipliers is not None
    from specnorm.backends import backend_for
    from specnorm.runtime.execution import Execution

    given: Any = w
    ops: Any = Execution.of(backend_for(given), given)
    loop = proof.Loop(w, u, c, (np.zeros(8), np.ones(8)))
    weights = np.sqrt(found.multipliers)
    assert proof.of_loop(loop, weights, found.upper, Measure(), 1e-6, ops=ops) is not None
    for share in (0.5, 0.9, 0.99 * ascended(w, u, c) / found.upper):
        for factor in (0.5, 1.0, 2.0):
            assert proof.of_loop(loop, weights * factor, share * found.upper, Measure(), 1e-6, ops=ops) is None


def solved(w: Matrix, u: Matrix, x: Matrix, b: Matrix) -> Matrix:
    """h = relu(w h + u x + b), by damped steps."""
    h = np.zeros(len(w))
    for _ in range(4000):
        h = h + 0.1 * (np.maximum(w @ h + u @ x + b, 0) - h)
    return h


def test_equilibrium_layers() -> None:
    """Solutions of pairs of inputs, Jacobians, and the optimum by a cone solver; -W large is no harm."""
    rng = np.random.default_rng(3)
    for shift in (0.0, 3.0, 30.0):
        w, u, c = drawn(6, 0.9, 5)
        w = w - shift * np.eye(6)
        found = equilibrium_bound(w, u, c)
        assert found.upper is not None
        assert found.upper <= 1.01 * optimum(w, u, c, lag=0)
        worst = 0.0
        for mask in rng.choice([0.0, 1.0], (200, 6)):
            jacobian = c @ np.linalg.solve(np.eye(6) - mask[:, None] * w, mask[:, None] * u)
            worst = max(worst, float(np.linalg.norm(jacobian, 2)))
        assert worst <= found.upper <= 3 * worst
        if shift < 10:
            b, x = rng.standard_normal(6), rng.standard_normal((2, 3))
            one, other = (c @ solved(w, u, each, b) for each in x)
            assert np.linalg.norm(one - other) <= found.upper * np.linalg.norm(x[0] - x[1]) * (1 + 1e-9)
    assert equilibrium_bound(np.eye(2), np.eye(2)).upper is None


def test_linear_state_spaces() -> None:
    """The supremum on a fine grid, and the norm of the block-Toeplitz matrix, to 0.2 %."""
    rng = np.random.default_rng(0)
    for n, radius in ((1, 0.9), (4, 0.6), (6, 0.95), (8, 0.99)):
        a = rng.standard_normal((n, n))
        a *= radius / abs(np.linalg.eigvals(a)).max()
        b, c, d = (rng.standard_normal(shape) for shape in ((n, 2), (3, n), (3, 2)))
        found = state_space_bound(a, b, c, d)
        assert found.upper is not None
        turns = np.concatenate([np.linspace(0, np.pi, 4001), abs(np.angle(np.linalg.eigvals(a)))])
        values = [c @ np.linalg.solve(np.exp(1j * t) * np.eye(n) - a, b + 0j) + d for t in turns]
        truth = max(float(np.linalg.norm(v, 2)) for v in values)
        assert truth * (1 - 1e-9) <= found.upper <= truth * 1.002
        if found.product is not None:
            assert found.upper <= found.product
        # A delay is no loss: the states one step later, and D at once.
        rolled = unrolled(a, b, c, np.ones((30, n)))
        whole = np.zeros_like(rolled)
        whole[3:] = rolled[:-3]
        whole += np.kron(np.eye(30), d)
        assert np.linalg.norm(whole, 2) <= found.upper
    assert state_space_bound(np.eye(1), np.eye(1)).upper is None
    assert "spectral radius" in state_space_bound(np.eye(1), np.eye(1)).reason
    assert state_space_bound(0.5 * np.eye(2), np.zeros((2, 1)), D=np.ones((2, 1))).upper == pytest.approx(np.sqrt(2))


def test_what_does_not_fit_is_named() -> None:
    wrong: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: recurrent_bound(np.ones((2, 3)), np.ones((2, 1))), "W has shape"),
        (lambda: recurrent_bound(np.eye(2), np.ones((3, 1))), "U has shape"),
        (lambda: recurrent_bound(np.eye(2), np.eye(2), np.ones((1, 3))), "C has shape"),
        (lambda: recurrent_bound(np.eye(2), np.full((2, 1), np.nan)), "not finite"),
        (lambda: recurrent_bound(np.eye(2), np.eye(2), slopes=(1, 0)), "slopes"),
        (lambda: state_space_bound(np.eye(2), np.eye(2), np.eye(2), np.eye(3)), "D has shape"),
    )
    for given, said in wrong:
        with pytest.raises(MethodError, match=said):
            given()


# -- in networks -------------------------------------------------------------------------------------------------------
def network(time: int = 0) -> tuple[Graph, Callable[[Matrix], Matrix], tuple[int, ...]]:
    w, u, _ = drawn(4, 0.8, 9)
    b = np.array([0.1, -0.2, 0.3, 0.0])
    one, other = Layer("w", lambda: w, {}, 0), Layer("u", lambda: u, {}, 0)
    operator = operators.Recurrent(one, other, operators.ReLU(), (lambda: (b, np.zeros(4)),), time=time)
    shape = (2, 5, 3) if time else (5, 2, 3)
    graph = Graph((Node("x", operators.Input(), (), shape), Node("h", operator, ("x",), (*shape[:2], 4))), ("h",))

    def f(x: Matrix) -> Matrix:
        alone = layer_of(w, u, np.eye(4), lambda v: np.maximum(v, 0), b)
        return np.stack([alone(each) for each in np.moveaxis(x, time, 1)], axis=1 - time)

    return graph, f, shape


@pytest.mark.parametrize("time", [0, 1])
def test_a_recurrent_layer_in_a_graph(time: int) -> None:
    graph, f, shape = network(time)
    found = bound(graph)
    w, u, _ = drawn(4, 0.8, 9)
    assert found.upper == recurrent_bound(w, u).upper
    x = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(graph.run({"x": x})["h"], f(x), rtol=1e-12, atol=1e-12)
    assert found.nodes[-1].layer == "w"
    near = bound(graph, radius=0.5, centre=x)
    assert near.upper is not None
    assert near.upper <= found.upper  # type: ignore[operator]


def test_a_layer_that_diverges_is_named() -> None:
    w = 1.5 * np.eye(2)
    one, other = (Layer(name, lambda: w, {}, 0) for name in "wu")
    node = Node("h", operators.Recurrent(one, other, operators.Tanh()), ("x",), (5, 1, 2))
    found = bound(Graph((Node("x", operators.Input(), (), (5, 1, 2)), node), ("h",)))
    assert found.upper is None
    assert "spectral radius" in found.unknown[0].reason
