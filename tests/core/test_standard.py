"""The default backend: arrays of a library that nobody has written a plugin for, or a refusal that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib, opened

import specnorm
from specnorm import backends, testing
from specnorm.backends import registry
from specnorm.errors import MixedBackends, NoBackend
from specnorm.methods import Grid

KERNEL = np.cos(np.arange(108.0)).reshape(4, 3, 3, 3).astype(np.float32)


@pytest.fixture
def default() -> Iterator[Lib]:
    pytest.importorskip("array_api_strict")
    with opened("default") as lib:
        yield lib


def test_conformance(default: Lib) -> None:
    testing.check_backend(default.backend)


def test_methods_compute_in_the_librarys_namespace(default: Lib) -> None:
    """What is rounded to a side, on the host; values are looked at by `check_backend`."""
    for name, result in specnorm.compare(default.asarray(KERNEL), input_shape=6).items():
        assert result.stats["backend"] == "array_api_strict (array-api)"
        rounded_to_a_side = result.kind in ("upper", "lower") or name in ("enclose", "fft")
        assert (result.stats["computed_in"] == "float64 on the host") == rounded_to_a_side, name


def test_kernels_come_back_as_they_went(default: Lib) -> None:
    x = default.asarray(KERNEL)
    for shrunk in (specnorm.rescale(x), specnorm.clip(x, n_iter=2)):
        assert (type(shrunk), shrunk.dtype, shrunk.device) == (type(x), x.dtype, x.device)
        assert specnorm.certify(shrunk, 1.0)
    _, gradient = specnorm.value_and_grad(x, Grid())
    assert gradient.shape == x.shape


def test_the_list_of_backends_tells_it_apart(default: Lib) -> None:
    rows = {row.name: row for row in backends.listing()}
    assert "array_api_strict" not in rows
    assert rows["array-api"].problem is None
    with pytest.raises(MixedBackends, match=r"array_api_strict \(array-api\), numpy"):
        backends.backend_for(default.asarray(KERNEL), KERNEL)


# -- refusals -------------------------------------------------------------------------------------------------------
class Fake:
    def __init__(self, shape: tuple[Any, ...], **changes: Any) -> None:
        self.shape, self.dtype, self.device, self._changes = shape, np.dtype("float32"), "cpu", changes

    def __array_namespace__(self) -> Any:
        names = ("float32", "float64", "complex64", "complex128", "linalg", "asarray", "matmul")
        given = {name: getattr(np, name) for name in names}
        return SimpleNamespace(
            **{name: x for name, x in {**given, **self._changes}.items() if x is not None},
            __array_namespace_info__=np.__array_namespace_info__,
        )

    def __getitem__(self, index: Any) -> Any:
        if "read" in self._changes:
            raise RuntimeError("still a graph")
        return np.zeros(1, dtype=np.float32)


def coarse(a: Any, b: Any) -> Any:
    return (a.astype(np.float16) @ b.astype(np.float16)).astype(a.dtype)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Fake((None, 3)), r"Fake is lazy: its shape \(None, 3\) is not known"),
        (Fake((2, 3), linalg=None, complex64=None), "Fake has no complex64, no linalg in its namespace"),
        (Fake((1,), read=True), r"Fake gives no values \(RuntimeError: still a graph\)\. Compute it first"),
        (Fake((1,), matmul=coarse), "Fake: its products are less precise than its dtype"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, fake: Fake, words: str) -> None:
    registry.refresh()
    monkeypatch.setattr("array_api_compat.array_namespace", lambda x: x.__array_namespace__())
    with pytest.raises(NoBackend, match=words):
        specnorm.enclose(fake)  # type: ignore[arg-type]
    registry.refresh()


def test_a_function_that_is_missing_is_named(default: Lib) -> None:
    xp: Any = default.backend.namespace(default.asarray(KERNEL))
    with pytest.raises(NoBackend, match="array_api_strict lacks einsum, which this method needs"):
        xp.einsum  # noqa: B018
    with pytest.raises(NoBackend, match=r"array_api_strict\.linalg lacks lstsq"):
        xp.linalg.lstsq  # noqa: B018


def test_what_the_library_does_otherwise_is_told_of_it(default: Lib, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(*_: Any) -> Any:
        raise ValueError("reshape only works when src.shape is 1-dimensional")

    monkeypatch.setattr("array_api_strict.reshape", flat)
    words = (
        r"array_api_strict does not follow the array API standard in what this method needs \(ValueError: reshape only"
    )
    with pytest.raises(NoBackend, match=words):
        specnorm.singular_values(default.asarray(KERNEL), 8)


def test_arrays_with_numpys_operators_are_their_own_librarys() -> None:
    """As those of sparse: NumPy's mixin makes them no array of NumPy's."""
    names = {"__module__": "somelib", "__array_namespace__": lambda _: SimpleNamespace(), "shape": (2, 3)}
    kind = type("COO", (np.lib.mixins.NDArrayOperatorsMixin,), names)
    with pytest.raises(NoBackend, match=r"somelib\.COO has no float64, .*linalg in its namespace"):
        specnorm.enclose(kind())


def test_what_says_that_it_is_lazy_is_told_to_compute() -> None:
    lazy = type("Array", (), {"__module__": "somelib", "compute": lambda self: self})()
    with pytest.raises(NoBackend, match=r"No backend for somelib\.Array.*call its compute\(\) first"):
        specnorm.enclose(lazy)
