"""Threads change no bit of an answer: one for small kernels, what is found for large ones, a pool for a large layer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_numpy.backend
from specnorm_numpy import threads
from specnorm_numpy.threads import one_thread
from threadpoolctl import ThreadpoolController, threadpool_limits

import specnorm

LIBRARIES = ThreadpoolController().select(user_api="blas")
pytestmark = pytest.mark.skipif(not LIBRARIES.info(), reason="NumPy's BLAS has no number of threads")


def now() -> set[int]:
    """Threads of NumPy's BLAS; SciPy has another, which it may have loaded meanwhile."""
    found = ThreadpoolController().select(user_api="blas").info()
    packages = Path(np.__file__).parents[1]
    own = [each for each in found if each["filepath"].startswith(str(packages / "numpy"))] or found
    return {each["num_threads"] for each in own}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = threadpool_limits(2, user_api="blas")
    give_up_control()
    yield
    before.restore_original_limits()
    give_up_control()


def give_up_control() -> None:
    """From threadpoolctl 3.7 on the thread that set a number is the only one that may, until it says so."""
    for library in LIBRARIES.lib_controllers:
        getattr(library, "clear_controlling_thread", lambda: None)()


def test_one_thread_inside_and_as_before_afterwards() -> None:
    with one_thread():
        assert now() == {1}
        with one_thread():
            assert now() == {1}
        assert now() == {1}
    assert now() == {2}


def test_an_error_gives_the_threads_back() -> None:
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert now() == {2}


@pytest.mark.parametrize(("small", "threads"), [(10**6, {1}), (10, {2})])
def test_a_call_decides_by_the_size_of_the_kernel(
    small: int, threads: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proofs of a small kernel run on one thread, those of a large one on what there is."""
    kernel = np.random.default_rng(0).standard_normal((4, 4, 3, 3))
    specnorm.enclose(kernel)  # tries factorisations once a process
    seen: list[set[int]] = []
    original = specnorm_numpy.NumpyBackend.cholesky_ok

    def watched(self: specnorm_numpy.NumpyBackend, a: np.ndarray) -> np.ndarray:
        seen.append(now())
        return np.asarray(original(self, a))

    monkeypatch.setattr(specnorm_numpy.backend, "_SMALL_KERNEL", small)
    monkeypatch.setattr(specnorm_numpy.NumpyBackend, "cholesky_ok", watched)
    specnorm.enclose(kernel)
    assert seen
    assert [each for each in seen if each != threads] == []
    assert now() == {2}


# -- a pool of threads over the matrices of one large layer ----------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3])
def test_answers_do_not_depend_on_the_number_of_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = np.random.RandomState(0).standard_normal((128, 128, 3)).astype(np.float32)
    took_part: set[int] = set()
    factorised = specnorm_numpy.backend._has_factor

    def noted(flat: Any) -> Any:
        took_part.add(threading.get_ident())
        return factorised(flat)

    monkeypatch.setattr(specnorm_numpy.backend, "_has_factor", noted)
    # How wide the matrices are depends on the processor.
    monkeypatch.setattr(specnorm_numpy.backend, "_LARGE_MATRIX", 40)
    monkeypatch.setattr(threads, "workers", lambda: 1)
    alone = specnorm.enclose(kernel, rtol=1e-3)
    assert took_part == {threading.get_ident()}
    monkeypatch.setattr(threads, "workers", lambda: count)
    shared = specnorm.enclose(kernel, rtol=1e-3)
    assert len(took_part) > 1, "other threads take part"
    assert (shared.lower, shared.upper, shared.cells) == (alone.lower, alone.upper, alone.cells)
    assert [(a, b) for a, b in zip(shared.witness, alone.witness, strict=True) if not np.array_equal(a, b)] == []


def test_matrices_without_a_factor_are_found_in_every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = np.stack([np.eye(130) * (-1 if j in (0, 3, 6) else 1) for j in range(7)])
    monkeypatch.setattr(threads, "workers", lambda: 3)
    with np.errstate(all="raise"):
        found = specnorm_numpy.BACKEND.cholesky_ok(matrices)
    assert found.tolist() == [j not in (0, 3, 6) for j in range(7)]


def test_what_fails_in_a_thread_is_raised_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "workers", lambda: 2)
    found = threads.in_order(lambda x: 1 / x, [1, 2, 0, 4])
    assert [next(found), next(found)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_threads_of_the_pool_do_not_wait_for_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """If each of two threads waited for work that only the two could do, the answer would never come."""
    monkeypatch.setattr(threads, "workers", lambda: 2)
    both_begun = threading.Barrier(2, timeout=20)

    def squares(x: int) -> list[int]:
        both_begun.wait()
        return list(threads.in_order(lambda y: y * y, [x, x + 1, x + 2]))

    answers: list[list[int]] = []
    asking = threading.Thread(target=lambda: answers.extend(threads.in_order(squares, [1, 5])), daemon=True)
    asking.start()
    asking.join(timeout=20)
    assert answers == [[1, 4, 9], [25, 36, 49]]


def test_a_search_whose_parts_are_shared_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its proofs share factorisations too, inside of the threads that share the parts."""
    kernel = np.random.RandomState(0).standard_normal((256, 256, 3, 3))
    monkeypatch.setattr(threads, "workers", lambda: 2)
    answers: list[specnorm.Enclosure] = []
    asking = threading.Thread(target=lambda: answers.append(specnorm.enclose(kernel, rtol=1e-4)), daemon=True)
    asking.start()
    asking.join(timeout=60)
    assert answers, "the search waits for itself"
    assert answers[0].upper <= answers[0].lower * 1.0001 * (1 + 1e-9)


def test_a_constant_tensor_is_rescaled_without_torchs_threads(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes two threads for 32,768 numbers, which wait for each other: 40 ms a product on a busy machine."""
    kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
    expected = specnorm.rescale(kernel)
    tensor = torch.from_numpy(kernel)
    monkeypatch.setattr(torch.Tensor, "__mul__", None)
    np.testing.assert_array_equal(specnorm.rescale(tensor).numpy(), expected)
