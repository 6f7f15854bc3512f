"""Checks of a plugin's members: description, ownership, copies, devices, precision, loops, places, Cholesky factors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from specnorm import backends
from specnorm.backends import API_VERSION, Backend
from specnorm.backends.types import AnyArray
from specnorm.errors import SpecnormError
from specnorm.testing.trial import DTYPES, FUNCTIONS, Trial, named, require, short


# -- description -------------------------------------------------------------------------------------------------
def check_description(trial: Trial) -> None:
    """Name, framework, version, devices and the version of the interface are valid."""
    backend = trial.backend
    require(isinstance(backend, Backend), f"{backend!r} is not an object derived from specnorm.plugin.Backend")
    missing = backends.registry.missing_members(backend)
    require(not missing, f"it does not define {', '.join(missing)}, which every plugin has to define")
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
    """Arrays are recognized, and specnorm finds the plugin for them; other objects are not taken for arrays."""
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
    array_type = type(trial.array(1.0))
    others: list[Any] = [[1.0], (1.0,), 1.0, 1, True, "x", None, array_type, inspect.getmodule(type(backend))]
    if not issubclass(array_type, np.ndarray):
        others.append(np.ones(2))
    for other in others:
        require(not backend.is_array(other), f"is_array is true for {other!r}, which is no array of this library")


def check_namespace(trial: Trial) -> None:
    """The namespace has all functions and dtypes that the core uses."""
    xp = trial.backend.namespace(trial.array(1.0))
    missing = []
    for name in FUNCTIONS:
        member: Any = xp
        for part in name.split("."):
            member = getattr(member, part, None)
        if not callable(member):
            missing.append(name)
    missing += [name for name in DTYPES if not hasattr(xp, name)]
    require(
        not missing,
        f"namespace() lacks {', '.join(missing)}. specnorm needs the array API standard 2024.12 with its extension "
        "linalg; array-api-compat adds what several libraries lack",
    )


# -- copies and devices ------------------------------------------------------------------------------------------
def check_host_copies(trial: Trial) -> None:
    """asarray, from_numpy and to_numpy keep values, dtype, shape and device."""
    backend = trial.backend
    like = trial.array(0.0)
    dtypes = ["bool", "int32", "float32", "complex64"]
    if trial.wide:
        dtypes += ["float64", "complex128"]
    for dtype in dtypes:
        for shape in ((), (3,), (2, 0), (2, 3, 4)):
            values = (np.arange(np.prod(shape, dtype=int)).reshape(shape) - 1).astype(dtype)
            if dtype.startswith("complex"):
                values = values * np.asarray(1 + 2j, dtype=dtype)
            _check_copy(trial, backend.asarray(values, trial.device), values, "asarray")
            _check_copy(trial, backend.from_numpy(values, like), values, "from_numpy")
    readonly = np.arange(6.0, dtype="float32").reshape(2, 3)[::-1, ::2]
    readonly.flags.writeable = False
    for x in (backend.asarray(readonly, trial.device), backend.from_numpy(readonly, like)):
        is_equal = np.array_equal(trial.host(x), readonly)
        require(is_equal, "a read-only host array with negative strides comes out with other values")
    for name in backend.devices():
        try:
            x = backend.asarray(np.ones(2, dtype="float32"), name)
        except Exception as error:
            raise AssertionError(f"asarray(x, {name!r}) fails, but devices() lists it: {error}") from error
        require(np.array_equal(trial.host(x), np.ones(2)), f"asarray(x, {name!r}) comes back with other values")


def _check_copy(trial: Trial, x: AnyArray, values: np.ndarray, function: str) -> None:
    """Check that x, which a function made from a NumPy array, equals it, and that to_numpy() returns it."""
    backend = trial.backend
    title = f"{function}() of a {values.dtype.name} array of shape {values.shape}"
    require(backend.is_array(x), f"{title} is not an array of this library: {x!r}")
    require(tuple(x.shape) == values.shape, f"{title} has shape {tuple(x.shape)}")
    require(short(x.dtype) == values.dtype.name, f"{title} has dtype {x.dtype}")
    device = str(backend.device(x))
    expected_device = str(backend.device(trial.array(0.0)))
    require(device == expected_device, f"{title} lies on {device} instead of {expected_device}")
    copy = backend.to_numpy(x)
    require(type(copy) is np.ndarray, f"to_numpy() after {title} is a {type(copy).__name__}, no np.ndarray")
    require(copy.dtype == values.dtype, f"to_numpy() after {title} has dtype {copy.dtype}")
    is_equal = copy.shape == values.shape and np.array_equal(copy, values)
    require(is_equal, f"to_numpy() after {title} has other values: {copy!r}")


def check_device(trial: Trial) -> None:
    """The namespace's creation functions take what device() returns."""
    like = trial.array(1.0)
    xp = trial.backend.namespace(like)
    zeros = xp.zeros((2,), dtype=xp.float32, device=trial.backend.device(like))
    device = str(trial.backend.device(zeros))
    expected_device = str(trial.backend.device(like))
    require(device == expected_device, f"zeros(..., device=device(x)) lies on {device}, x on {expected_device}")


# -- arithmetic --------------------------------------------------------------------------------------------------
def check_precision(trial: Trial) -> None:
    """Inside precise(), products have the full precision of their dtype; wide_dtype has the precision it claims."""
    backend = trial.backend
    like = trial.array(1.0)
    require(not backend.is_traced(like), "is_traced is true for a concrete array")
    wide = backend.wide_dtype(like)
    require(wide in ("float32", "float64"), f"wide_dtype is {wide!r}; expected 'float32' or 'float64'")
    random = np.random.RandomState(0)
    left, right = random.standard_normal((2, 96, 96))
    for dtype in trial.dtypes:
        working_dtype = backend.working_dtype(like, dtype)
        is_allowed = working_dtype in (dtype, wide)
        require(is_allowed, f"working_dtype is {working_dtype!r} for {dtype}; expected that or {wide}")
        manager = backend.precise(like)
        is_manager = hasattr(manager, "__enter__") and hasattr(manager, "__exit__")
        require(is_manager, f"precise() returns {manager!r}; expected a context manager")
        complex_dtype = {"float32": "complex64", "float64": "complex128"}[working_dtype]
        unit = float(np.finfo(working_dtype).eps) / 2
        for a, b in (
            (left.astype(working_dtype), right.astype(working_dtype)),
            ((1j * left).astype(complex_dtype), right.astype(complex_dtype)),
        ):
            with backend.precise(like):
                product = backend.namespace(like).matmul(trial.array(a, a.dtype.name), trial.array(b, b.dtype.name))
            exact = a.astype(np.clongdouble) @ b.astype(np.clongdouble)
            error = np.max(np.abs(trial.host(product) - exact) / (np.abs(a) @ np.abs(b)))
            require(
                error <= 3 * 96 * unit,
                f"inside precise() a product of {a.dtype} matrices has a relative error of {float(error):.1e}, above "
                f"{96 * unit:.1e}: the library lowers its precision (TF32, bfloat16?). Switch that off in precise(), "
                "or return 'float64' from working_dtype()",
            )


def check_complex(trial: Trial) -> None:
    """complex() joins two parts; real_columns() and complex_columns() undo each other, also around a real product."""
    backend = trial.backend
    random = np.random.RandomState(0)
    real, imag = random.standard_normal((2, 2, 4, 3))
    left = random.standard_normal((5, 4))
    for dtype in trial.dtypes:
        z = backend.complex(trial.array(real, dtype), trial.array(imag, dtype))
        values = real.astype(dtype) + 1j * imag.astype(dtype)
        require(np.array_equal(trial.host(z), values), f"complex() of two {dtype} arrays has other values")
        xp = backend.namespace(z)
        views = {
            "an array": (z, values),
            "a transposed array": (xp.matrix_transpose(z), values.swapaxes(-1, -2)),
            "every second column": (z[..., ::2], values[..., ::2]),
            "a conjugate": (xp.conj(z), values.conj()),
        }
        for name, (x, x_values) in views.items():
            columns = backend.real_columns(x)
            shape = (*x_values.shape[:-1], 2 * x_values.shape[-1])
            is_real = short(columns.dtype) == dtype and tuple(columns.shape) == shape
            require(is_real, f"real_columns() of {name} has dtype {columns.dtype} and shape {tuple(columns.shape)}")
            copy = trial.host(backend.complex_columns(columns))
            require(
                np.array_equal(copy, x_values), f"complex_columns() after real_columns() of {name} has other values"
            )
        product = trial.host(backend.complex_columns(xp.matmul(trial.array(left, dtype), backend.real_columns(z))))
        error = np.max(np.abs(product - left @ values))
        require(
            error <= 100 * np.finfo(dtype).eps,
            f"a real matrix times real_columns(), taken back by complex_columns(), is off by {float(error):.1e}",
        )


def _below(limit: int, state: Any) -> Any:
    return state[0] < limit


def check_loop(trial: Trial) -> None:
    """loop() is a while loop, also with 0 rounds, and keeps the shapes and dtypes of the state."""
    backend = trial.backend
    for limit in (10, 0):
        first_state = (trial.array(0, "int32"), trial.array([1.0, 2.0]))
        state: Any = backend.loop(partial(_below, limit), lambda s: (s[0] + 1, s[1] * 2.0), first_state)
        require(isinstance(state, tuple | list) and len(state) == 2, f"loop() returns {state!r}; expected the state")
        rounds = int(trial.host(state[0]))
        require(rounds == limit, f"loop() went {rounds} rounds; expected {limit}")
        is_doubled = np.array_equal(trial.host(state[1]), np.asarray([1.0, 2.0]) * 2.0**limit)
        require(is_doubled, "loop() loses a part of the state")
        dtypes = [short(x.dtype) for x in state]
        require(dtypes == ["int32", "float32"], f"loop() changes the dtypes of the state to {dtypes}")


def check_places(trial: Trial) -> None:
    """places_of_largest() and entries_at() find and take entries by their places."""
    backend = trial.backend
    values = np.asarray([[3.0, 1.0, 2.0], [4.0, 6.0, 5.0], [9.0, 7.0, 8.0]])
    x = trial.array(values)
    places = backend.places_of_largest(x, 2)
    expected = [[0, 2], [1, 2], [0, 2]]
    require(trial.host(places).tolist() == expected, f"places_of_largest() is {places!r}; expected {expected}")
    entries = trial.host(backend.entries_at(x, places[0, ...], 1))
    require(np.array_equal(entries, values[:, [0, 2]]), f"entries_at() [0, 2] of the last axis is {entries!r}")


def _cholesky_cases(dtype: str) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield descriptions, Hermitian matrices, and whether their Cholesky factorization completes."""
    nan = float("nan")
    inf = float("inf")
    yield "the identity", np.eye(3), True
    yield "a positive definite matrix", np.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]]), True
    yield "an indefinite matrix", np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), False
    yield "a negative last pivot", np.diag([1.0, 1, -1]), False
    yield "a negative first pivot", np.diag([-1.0, 1, 1]), False
    yield "the zero matrix", np.zeros((3, 3)), False
    yield "a singular matrix", np.ones((3, 3)), False
    yield "NaN on the diagonal", np.diag([1.0, nan, 1]), False
    yield "NaN beside the diagonal", np.array([[1.0, nan, 0], [nan, 1, 0], [0, 0, 1]]), False
    yield "an infinity on the diagonal", np.diag([1.0, inf, 1]), False
    yield "an infinity beside the diagonal", np.array([[1.0, 0, inf], [0, 1, 0], [inf, 0, 1]]), False
    yield "all NaN", np.full((3, 3), nan), False
    if dtype.startswith("complex"):
        yield "a complex definite matrix", np.array([[2, -1j, 0], [1j, 2, 0], [0, 0, 1]]), True
        yield "a complex indefinite matrix", np.array([[1, -2j, 0], [2j, 1, 0], [0, 0, 1]]), False


def check_cholesky(trial: Trial) -> None:
    """cholesky_ok() returns for each matrix whether the factorization completes, and never raises."""
    backend = trial.backend
    dtypes = ["float32", "complex64"]
    if trial.wide:
        dtypes += ["float64", "complex128"]
    # If each shape costs a compilation, fewer cases are tested.
    tested_dtypes = ["float32", "complex128"] if backend.static_shapes and trial.wide else dtypes
    for dtype in tested_dtypes:
        cases = list(_cholesky_cases(dtype))
        for title, matrix, expected in cases[:2] if backend.static_shapes else cases:
            verdict = bool(_verdicts(trial, matrix, dtype, title))
            require(verdict is expected, f"cholesky_ok() is {verdict} for {title} ({dtype}); expected {expected}")
        stack = np.stack([matrix for _, matrix, _ in cases]).astype(dtype)
        completes = np.asarray([expected for *_, expected in cases])
        batches = [stack]
        if not backend.static_shapes or dtype == "float32":
            batches += [stack[:12].reshape(2, 2, 3, 3, 3), stack[:0]]
        for batch in batches:
            count = int(np.prod(batch.shape[:-2], dtype=int))
            expected_verdicts = completes[:count].reshape(batch.shape[:-2])
            verdicts = _verdicts(trial, batch, dtype, f"a batch of shape {batch.shape}")
            wrong = [cases[i][0] for i in np.flatnonzero(verdicts != expected_verdicts)]
            require(not wrong, f"cholesky_ok() of a batch of shape {batch.shape} ({dtype}) is wrong for {wrong}")
        if backend.has_factors:
            _check_factors(trial, stack, completes, dtype)
        # Libraries factorise large matrices in blocks: a failure in any of them has to be reported.
        identity = np.eye(150)
        for pivot in (0, 75, 149):
            indefinite = identity.copy()
            indefinite[pivot, pivot] = -1e-3
            verdicts = _verdicts(trial, np.stack([identity, indefinite]), dtype, "150 x 150")
            is_right = verdicts.tolist() == [True, False]
            require(is_right, f"cholesky_ok() misses a negative pivot {pivot} of 150 ({dtype})")
    require(short(backend.cholesky_ok(trial.array(np.eye(2))).dtype) == "bool", "cholesky_ok() is not of dtype bool")


def _check_factors(trial: Trial, stack: np.ndarray, completes: np.ndarray, dtype: str) -> None:
    """Check that cholesky_factors() returns finite factors of exactly those matrices that have one."""
    factors = trial.host(trial.backend.cholesky_factors(trial.array(stack, dtype)))
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.abs(factors).sum(axis=(-2, -1)))
        residual = np.tril(factors @ np.conj(np.swapaxes(factors, -2, -1)) - stack)[completes]
    is_right = np.array_equal(finite, completes)
    require(is_right, f"cholesky_factors() ({dtype}) are finite for {finite}; expected {completes}")
    require(np.abs(residual).max() < 1e-5, f"cholesky_factors() ({dtype}) are no factors of their matrices")


def _verdicts(trial: Trial, matrices: np.ndarray, dtype: str, title: str) -> np.ndarray:
    """The results of cholesky_ok() for matrices (..., n, n), shape (...)."""
    a = matrices.astype(dtype)
    try:
        verdicts = trial.host(trial.backend.cholesky_ok(trial.array(a, dtype)))
    except Exception as error:
        raise AssertionError(f"cholesky_ok() raises for {title} ({dtype}): {type(error).__name__}: {error}") from error
    require(verdicts.shape == a.shape[:-2], f"cholesky_ok() of shape {a.shape} has shape {verdicts.shape}")
    return verdicts
