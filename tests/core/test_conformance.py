"""The conformance suite: every plugin that is installed passes, and a plugin that breaks a promise is noticed."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import specnorm_numpy.backend
from helpers.libraries import Lib

from specnorm import backends, testing
from specnorm.backends import Backend, registry

ROOT = Path(__file__).parents[2]


LONG = ("values", "gradients")
"""What takes long with strict and JAX."""
SHORT = [title for title in testing.CHECKS if title not in LONG]


@pytest.mark.libraries
@pytest.mark.widths
@pytest.mark.sampled("numpy", "torch", "jax32", "default", "cupy", "jax-gradients", *SHORT)  # strict: session `wheel`
@pytest.mark.parametrize("title", testing.CHECKS)
def test_conformance(xp: Lib, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch, *(testing.CHECKS.keys() - {title}))
    testing.check_backend(xp.backend)


def leave_out(monkeypatch: pytest.MonkeyPatch, *titles: str) -> None:
    monkeypatch.setattr(testing, "CHECKS", {title: it for title, it in testing.CHECKS.items() if title not in titles})


@pytest.mark.libraries
def test_conformance_on_another_device(xp: Lib, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(monkeypatch, "values")
    others = [d for d in xp.backend.devices()[1:] if "no_" not in d]
    if not others:
        pytest.skip(f"{xp.name} has one device here")
    testing.check_backend(xp.backend, device=others[0])


def test_conformance_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no float64 at all (as Apple's): array-api-strict pretends one, and raises where it is used."""
    plugin: Any = pytest.importorskip("specnorm_strict", reason="pip install ./tests/thirdparty")

    class Narrow(plugin.StrictBackend):  # type: ignore[misc]
        def wide_dtype(self, x: Any) -> str:
            del x
            return "float32"

    strict = Narrow()
    (device,) = [d for d in strict.devices() if "no_float64" in d]
    backends.load("array_api_strict")
    monkeypatch.setitem(registry.loaded, "array_api_strict", strict)
    leave_out(monkeypatch, "gradients")
    testing.check_backend(strict, device=device)


def test_conformance_without_lapacks_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NumPy hides what its Cholesky factorisation calls, the public one does: proofs alone call it."""
    leave_out(monkeypatch, "gradients")
    monkeypatch.setattr(specnorm_numpy.backend, "_LAPACK_CHOLESKY", None)
    testing.check_backend(specnorm_numpy.BACKEND)


def namespace_functions(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        if path.name == "testing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                last = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                owner = ast.unparse(node.value).removeprefix("self.") if last in ("xp", "linalg", "fft") else ""
                if owner in ("xp", "xp.linalg", "xp.fft"):
                    found.add(f"{owner}.{node.attr}".removeprefix("xp."))
    return found - {"linalg", "fft", "shape"} - set(testing.DTYPES)


def test_suite_asks_for_the_functions_that_the_core_uses() -> None:
    assert namespace_functions(ROOT / "specnorm") == set(testing.FUNCTIONS)


class Broken(Backend):
    name = "numpy"
    framework = "numpy"

    def __init__(self, **changes: Any) -> None:
        self._real = specnorm_numpy.BACKEND
        self._changes = changes

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        if name in self._changes:
            return self._changes[name]
        bound = getattr(self._real, name)
        function = getattr(bound, "__func__", None)
        return bound if function is None else function.__get__(self)


def doubled(program: Any, kernels: Any) -> Any:
    ran = specnorm_numpy.BACKEND.apply(program, kernels)
    return ran._replace(value=2 * ran.value)


def flat(program: Any, kernel: Any) -> Any:
    value, gradient = specnorm_numpy.BACKEND.value_and_grad(program, kernel)
    return value, 0 * gradient


def unclean(_: Any) -> Any:
    raise np.linalg.LinAlgError("not positive definite")


def always(value: Any) -> Callable[..., Any]:
    return lambda *_: value


class Poor:
    def __getattr__(self, name: str) -> Any:
        if name == "take_along_axis":
            raise AttributeError(name)
        return getattr(np, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name is ''"),
        ({"api_version": 7}, "api_version is 7"),
        ({"proofs": "nowhere"}, "proofs is 'nowhere'"),
        ({"devices": always(())}, r"devices\(\) is"),
        ({"version": always(None)}, r"version\(\) is None"),
        ({"is_array": always(True)}, "is_array is true for"),
        ({"is_array": always(False)}, "is_array is false for"),
        ({"refusal": always("no")}, "turns an ordinary array away: no"),
        ({"namespace": always(Poor())}, "lacks .*take_along_axis"),
        ({"to_numpy": Backend.to_numpy}, "does not define to_numpy, which every plugin"),
        ({"to_numpy": lambda x: np.asarray(x, dtype=np.float64)}, "has dtype float64"),
        ({"to_numpy": lambda x: x.tolist()}, r"is a (list|bool), no np\.ndarray"),
        ({"from_numpy": lambda x, _: np.zeros_like(x)}, "other values"),
        ({"asarray": lambda x, _: np.array(x, dtype=np.float32)}, "has dtype float32"),
        ({"precise": always(None)}, "expected a context manager"),
        ({"wide_dtype": always("float128")}, "wide_dtype is 'float128'"),
        ({"is_traced": always(True)}, "is_traced is true"),
        ({"loop": lambda _, body, state: body(state)}, "went 1 rounds; expected 10"),
        ({"places_of_largest": lambda x, count: np.argsort(x)[..., :count]}, "places_of_largest.. is"),
        ({"entries_at": lambda x, places, _: np.take(x, places, axis=0)}, "entries_at.. .0, 2. of the last axis is"),
        ({"cholesky_ok": unclean}, "cholesky_ok.. raises for the identity"),
        ({"cholesky_ok": lambda a: np.isfinite(a).all((-2, -1))}, "is True for an indefinite matrix"),
        ({"cholesky_ok": lambda a: np.zeros(a.shape[:-2], dtype=bool)}, "is False for the identity"),
        ({"apply": doubled}, "matrix_norm.. of a stack of 2 x 3 matrices differs from NumPy's"),
        ({"value_and_grad": lambda _, kernel: (kernel.sum(), kernel)}, "value_and_grad's value of tn of a 1 x 1"),
        ({"value_and_grad": flat}, "<gradient, kernel> of tn of a 1 x 1 kernel"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)  # fmt: skip
def test_suite_notices(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str) -> None:
    """A checker that cannot fail proves nothing. Left out: what is long and looks at something else."""
    leave_out(monkeypatch, *(LONG[:1] if "value_and_grad" in changes else LONG))
    broken = Broken(**changes)
    monkeypatch.setitem(registry.loaded, "numpy", broken)
    with pytest.raises(AssertionError, match=message):
        testing.check_backend(broken)


def test_suite_accepts_the_unbroken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapper above breaks nothing by itself."""
    leave_out(monkeypatch, *LONG)
    whole = Broken()
    monkeypatch.setitem(registry.loaded, "numpy", whole)
    testing.check_backend(whole)
