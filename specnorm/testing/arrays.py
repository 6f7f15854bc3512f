"""Checks of a plugin by itself: what it says, moving arrays, arithmetic, loops, factorisations."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from specnorm import backends
from specnorm.backends import API_VERSION, Backend
from specnorm.errors import SpecnormError
from specnorm.testing.trial import DTYPES, FUNCTIONS, Trial, named, require, short


# -- what the plugin says of itself ------------------------------------------------------------------------------
def check_description(trial: Trial) -> None:
    """Name, framework, version, devices and the version of the interface."""
    backend = trial.backend
    require(isinstance(backend, Backend), f"{backend!r} is not an object derived from specnorm.backends.Backend")
    for attribute in ("name", "framework"):
        text = getattr(backend, attribute, None)
        require(named(text), f"{attribute} is {text!r}; expected a non-empty string")
    version = getattr(backend, "api_version", None)
    require(version == API_VERSION, f"api_version is {version!r}; this specnorm's is {API_VERSION}")
    require(backend.proofs in ("device", "host"), f"proofs is {backend.proofs!r}; expected 'device' or 'host'")
    text = backend.version()
    require(named(text), f"version() is {text!r}; expected a non-empty string")
    devices = tuple(backend.devices())
    require(devices and all(map(named, devices)), f"devices() is {devices!r}; expected names")
    require(trial.device is None or trial.device in devices, f"{trial.device!r} is not one of devices() {devices}")


def check_ownership(trial: Trial) -> None:
    """Arrays are recognised and found through the entry point; everything else is not an array."""
    backend = trial.backend
    for x in (trial.array(1.0), trial.array([[1.0, 2.0]]), trial.array(True, "bool"), trial.array(1, "int32")):
        require(backend.is_array(x), f"is_array is false for {x!r}, which asarray() made")
        reason = backend.refusal(x)
        require(reason is None, f"refusal() turns an ordinary array away: {reason}")
        try:
            owner = backends.backend_for(x)
        except SpecnormError as error:
            raise AssertionError(
                f"specnorm does not find this plugin for {type(x).__module__}.{type(x).__qualname__}: {error} Declare "
                f"an entry point in group {backends.GROUP!r} named after the root package of that class (or of one of "
                "its bases), and install the distribution."
            ) from error
        require(owner is backend, f"arrays of {type(x)} are found to belong to {owner!r}, not to this object")
    own = type(trial.array(1.0))
    others: list[Any] = [[1.0], (1.0,), 1.0, 1, True, "x", None, own, inspect.getmodule(type(backend))]
    if not issubclass(own, np.ndarray):
        others.append(np.ones(2))
    for other in others:
        require(not backend.is_array(other), f"is_array is true for {other!r}, which is no array of this library")


def check_namespace(trial: Trial) -> None:
    """The namespace holds every function and dtype that the core uses."""
    xp = trial.backend.namespace(trial.array(1.0))
    missing = []
    for name in FUNCTIONS:
        found: Any = xp
        for part in name.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            missing.append(name)
    missing += [name for name in DTYPES if not hasattr(xp, name)]
    require(
        not missing,
        f"namespace() lacks {', '.join(missing)}. specnorm needs the array API standard 2024.12 with its extension "
        "linalg; array-api-compat adds what several libraries lack",
    )


# -- moving arrays -----------------------------------------------------------------------------------------------
def check_host_copies(trial: Trial) -> None:
    """asarray, from_numpy and to_numpy keep values, dtype, shape and device."""
    backend, like = trial.backend, trial.array(0.0)
    narrow = ("bool", "int32", "float32", "complex64")
    for dtype in narrow + (("float64", "complex128") if trial.wide else ()):
        for shape in ((), (3,), (2, 0), (2, 3, 4)):
            values = (np.arange(np.prod(shape, dtype=int)).reshape(shape) - 1).astype(dtype)
            if dtype.startswith("complex"):
                values = values * np.asarray(1 + 2j, dtype=dtype)
            made = {"asarray": backend.asarray(values, trial.device), "from_numpy": backend.from_numpy(values, like)}
            for name, x in made.items():
                case = f"{name}() of a {dtype} array of shape {shape}"
                require(backend.is_array(x), f"{case} is no array of this library: {x!r}")
                require(tuple(x.shape) == shape, f"{case} has shape {tuple(x.shape)}")
                require(short(x.dtype) == dtype, f"{case} has dtype {x.dtype}")
                here, there = str(backend.device(like)), str(backend.device(x))
                require(here == there, f"{case} lies on {there} instead of {here}")
                back = backend.to_numpy(x)
                require(type(back) is np.ndarray, f"to_numpy() after {case} is a {type(back).__name__}, no np.ndarray")
                require(back.dtype == values.dtype, f"to_numpy() after {case} has dtype {back.dtype}")
                same = back.shape == shape and np.array_equal(back, values)
                require(same, f"to_numpy() after {case} has other values: {back!r}")
    readonly = np.arange(6.0, dtype="float32").reshape(2, 3)[::-1, ::2]
    readonly.flags.writeable = False
    for x in (backend.asarray(readonly, trial.device), backend.from_numpy(readonly, like)):
        same = np.array_equal(trial.host(x), readonly)
        require(same, "a read-only host array with negative strides comes out with other values")
    for name in backend.devices():
        try:
            moved = backend.asarray(np.ones(2, dtype="float32"), name)
        except Exception as error:
            raise AssertionError(f"asarray(x, {name!r}) fails, but devices() lists it: {error}") from error
        require(np.array_equal(trial.host(moved), np.ones(2)), f"asarray(x, {name!r}) comes back with other values")


def check_device(trial: Trial) -> None:
    """What device() returns is what the namespace's creation functions take."""
    like = trial.array(1.0)
    xp = trial.backend.namespace(like)
    made = xp.zeros((2,), dtype=xp.float32, device=trial.backend.device(like))
    here, there = str(trial.backend.device(like)), str(trial.backend.device(made))
    require(here == there, f"zeros(..., device=device(x)) lies on {there}, x on {here}")


# -- arithmetic --------------------------------------------------------------------------------------------------
def check_precision(trial: Trial) -> None:
    """Inside precise(), products have the full precision of their dtype; wide_dtype has the precision it claims."""
    backend, like = trial.backend, trial.array(1.0)
    require(not backend.is_traced(like), "is_traced is true for a concrete array")
    wide = backend.wide_dtype(like)
    require(wide in ("float32", "float64"), f"wide_dtype is {wide!r}; expected 'float32' or 'float64'")
    random = np.random.RandomState(0)
    left, right = random.standard_normal((2, 96, 96))
    for dtype in trial.dtypes:
        used = backend.working_dtype(like, dtype)
        require(used in (dtype, wide), f"working_dtype is {used!r} for {dtype}; expected that or {wide}")
        manager = backend.precise(like)
        entered = hasattr(manager, "__enter__") and hasattr(manager, "__exit__")
        require(entered, f"precise() returns {manager!r}; expected a context manager")
        for kind in (used, {"float32": "complex64", "float64": "complex128"}[used]):
            a, b = (left if kind == used else 1j * left).astype(kind), right.astype(kind)
            with backend.precise(like):
                product = backend.namespace(like).matmul(trial.array(a, a.dtype.name), trial.array(b, b.dtype.name))
            exact = a.astype(np.clongdouble) @ b.astype(np.clongdouble)
            unit = float(np.finfo(used).eps) / 2
            error = np.max(np.abs(trial.host(product) - exact) / (np.abs(a) @ np.abs(b)))
            require(
                error <= 3 * 96 * unit,
                f"inside precise() a product of {a.dtype} matrices has a relative error of {float(error):.1e}, above "
                f"{96 * unit:.1e}: the library lowers its precision (TF32, bfloat16?). Switch that off in precise(), "
                "or return 'float64' from working_dtype()",
            )


def _below(limit: int, state: Any) -> Any:
    return state[0] < limit


def check_loop(trial: Trial) -> None:
    """loop() is a while loop: any number of rounds, none included; the state keeps its shapes and dtypes."""
    backend = trial.backend
    for limit in (10, 0):
        count, total = trial.array(0, "int32"), trial.array([1.0, 2.0])
        found: Any = backend.loop(partial(_below, limit), lambda s: (s[0] + 1, s[1] * 2.0), (count, total))
        require(isinstance(found, tuple | list) and len(found) == 2, f"loop() returns {found!r}; expected the state")
        rounds = int(trial.host(found[0]))
        require(rounds == limit, f"loop() went {rounds} rounds; expected {limit}")
        grown = np.array_equal(trial.host(found[1]), np.asarray([1.0, 2.0]) * 2.0**limit)
        require(grown, "loop() loses a part of the state")
        kept = [short(x.dtype) for x in found]
        require(kept == ["int32", "float32"], f"loop() changes the dtypes of the state to {kept}")


def _cholesky_cases(dtype: str) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Name, Hermitian matrix, whether its factorisation completes."""
    nan, inf = float("nan"), float("inf")
    yield "the identity", np.eye(3), True
    yield "a positive definite matrix", np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]]), True
    yield "an indefinite matrix", np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), False
    yield "a negative last pivot", np.diag([1.0, 1, -1]), False
    yield "a negative first pivot", np.diag([-1.0, 1, 1]), False
    yield "the zero matrix", np.zeros((3, 3)), False
    yield "a singular matrix", np.ones((3, 3)), False
    yield "NaN on the diagonal", np.diag([1.0, nan, 1]), False
    yield "NaN below the diagonal", np.array([[1.0, 0, 0], [nan, 1, 0], [0, 0, 1]]), False
    yield "an infinity on the diagonal", np.diag([1.0, inf, 1]), False
    yield "an infinity below the diagonal", np.array([[1.0, 0, 0], [0, 1, 0], [inf, 0, 1]]), False
    yield "all NaN", np.full((3, 3), nan), False
    yield "junk above the diagonal, which is not to be read", np.eye(3) + np.triu(np.full((3, 3), 9.0), 1), True
    if dtype.startswith("complex"):
        yield "a complex definite matrix", np.array([[2, -1j, 0], [1j, 2, 0], [0, 0, 1]]), True
        yield "a complex indefinite matrix", np.array([[1, -2j, 0], [2j, 1, 0], [0, 0, 1]]), False


def check_cholesky(trial: Trial) -> None:
    """cholesky_ok() tells per matrix whether the factorisation completes, never raises, and is not fooled."""
    backend = trial.backend
    dtypes = ("float32", "complex64") + (("float64", "complex128") if trial.wide else ())
    for dtype in dtypes[::3] if trial.backend.static_shapes and trial.wide else dtypes:
        cases = list(_cholesky_cases(dtype))
        for title, matrix, expected in cases[:2] if backend.static_shapes else cases:
            verdict = bool(_verdicts(trial, matrix, dtype, title))
            require(verdict is expected, f"cholesky_ok() is {verdict} for {title} ({dtype}); expected {expected}")
        stack = np.stack([matrix for _, matrix, _ in cases]).astype(dtype)
        wanted = np.asarray([expected for *_, expected in cases])
        batches = (stack, stack[:12].reshape(2, 2, 3, 3, 3), stack[:0])
        for batch in batches[:1] if backend.static_shapes and dtype != dtypes[0] else batches:
            right = wanted[: int(np.prod(batch.shape[:-2], dtype=int))].reshape(batch.shape[:-2])
            found = _verdicts(trial, batch, dtype, f"a batch of shape {batch.shape}")
            wrong = [cases[i][0] for i in np.flatnonzero(found != right)]
            require(not wrong, f"cholesky_ok() of a batch of shape {batch.shape} ({dtype}) is wrong for {wrong}")
        if backend.has_factors:
            _check_factors(trial, stack, wanted, dtype)
        # Libraries factor large matrices in blocks: the verdict must not get lost between them.
        large = np.eye(150)
        for pivot in (0, 75, 149):
            broken = large.copy()
            broken[pivot, pivot] = -1e-3
            found = _verdicts(trial, np.stack([large, broken]), dtype, "150 x 150")
            require(found.tolist() == [True, False], f"cholesky_ok() misses a negative pivot {pivot} of 150 ({dtype})")
    require(short(backend.cholesky_ok(trial.array(np.eye(2))).dtype) == "bool", "cholesky_ok() is not of dtype bool")


def _check_factors(trial: Trial, stack: np.ndarray, wanted: np.ndarray, dtype: str) -> None:
    factors = trial.host(trial.backend.cholesky_factors(trial.array(stack, dtype)))
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.abs(factors).sum(axis=(-2, -1)))
        apart = np.tril(factors @ np.conj(np.swapaxes(factors, -2, -1)) - stack)[wanted]
    require(np.array_equal(finite, wanted), f"cholesky_factors() ({dtype}) are finite for {finite}; expected {wanted}")
    require(np.abs(apart).max() < 1e-5, f"cholesky_factors() ({dtype}) are no factors of their matrices")


def _verdicts(trial: Trial, matrices: np.ndarray, dtype: str, title: str) -> np.ndarray:
    """Verdicts on matrices whose upper triangle is what Hermitian symmetry asks for, unless it is junk on purpose."""
    a = matrices.astype(dtype)
    try:
        found = trial.backend.cholesky_ok(trial.array(a, dtype))
    except Exception as error:
        raise AssertionError(f"cholesky_ok() raises for {title} ({dtype}): {type(error).__name__}: {error}") from error
    host = trial.host(found)
    require(host.shape == a.shape[:-2], f"cholesky_ok() of shape {a.shape} has shape {host.shape}")
    return host
