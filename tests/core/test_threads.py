"""One BLAS thread where kernels are small, as many as before afterwards; large kernels take what they find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import specnorm_numpy
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

    monkeypatch.setattr(specnorm_numpy, "_SMALL", small)
    monkeypatch.setattr(specnorm_numpy.NumpyBackend, "cholesky_ok", watched)
    specnorm.enclose(kernel)
    assert seen
    assert all(each == threads for each in seen)
    assert now() == {2}
