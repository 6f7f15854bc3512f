"""Conformance suite for plugin authors: ``check_backend(BACKEND)`` in a test of your own. Needs no test framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from specnorm import api, backends, matrices
from specnorm.backends import API_VERSION, Backend
from specnorm.errors import GeometryError, KernelError, MethodError, SpecnormError
from specnorm.methods import METHODS, Method
from specnorm.runtime.table import program_for
from specnorm.types import Array

FUNCTIONS = (
    "abs", "all", "any", "arange", "argmax", "argmin", "argsort", "asarray", "astype", "broadcast_to", "clip",
    "concat", "conj", "cos", "cumulative_sum", "eye", "finfo", "flip", "floor", "full", "full_like", "imag",
    "isfinite", "isnan", "log2", "matmul", "matrix_transpose", "max", "maximum", "min", "minimum",
    "moveaxis", "ones", "ones_like", "permute_dims", "pow", "real", "reshape", "sign", "sort", "sqrt", "stack", "sum",
    "take", "take_along_axis", "triu", "vecdot", "where", "zeros", "zeros_like",
    "linalg.diagonal", "linalg.eigh", "linalg.eigvalsh", "linalg.qr", "linalg.solve", "linalg.svd", "linalg.trace",
    "linalg.vector_norm",
)  # fmt: skip
"""Every array API function that the core calls (standard 2024.12)."""

DTYPES = ("bool", "int32", "int64", "float32", "float64", "complex64", "complex128")
"""Every dtype that the core names; those of 64-bit parts may be missing on a device (`Backend.wide_dtype`)."""


def check_backend(backend: Backend, *, device: str | None = None) -> None:
    """Check that a plugin keeps what `specnorm.backends.Backend` promises.

    Parameters
    ----------
    backend : Backend
        The registered object itself; its distribution must be installed, so that its arrays are found.
    device : str, optional
        One of ``backend.devices()`` to run on; None: the library's default device.

    Raises
    ------
    AssertionError
        Listing every promise that is broken, in the order of `CHECKS`.

    Examples
    --------
    >>> import specnorm_numpy
    >>> check_backend(specnorm_numpy.BACKEND)
    """
    trial = Trial(backend, device)
    problems: list[str] = []
    cause: Exception | None = None
    for title, check in CHECKS.items():
        try:
            check(trial)
        except AssertionError as error:
            problems.append(f"{title}: {error}")
        except Exception as error:
            problems.append(f"{title}: {type(error).__name__}: {error}")
            cause = cause or error
        if problems and check in _FOUNDATIONS:
            problems.append("the other checks were left out: they build on this one")
            break
    if problems:
        name = getattr(backend, "name", type(backend).__name__)
        raise AssertionError("\n  - ".join([f"backend {name!r} breaks its promises:", *problems])) from cause


@dataclass(frozen=True)
class Trial:
    """A backend under test and the device to test it on."""

    backend: Backend
    device: str | None = None

    def array(self, x: Any, dtype: str = "float32") -> Array:
        """Array under test from anything NumPy takes."""
        return self.backend.asarray(np.asarray(x, dtype=dtype), self.device)

    def host(self, x: Array) -> np.ndarray:
        """Bring it back."""
        return self.backend.to_numpy(x)

    @property
    def wide(self) -> bool:
        """Whether the device has float64."""
        return self.backend.wide_dtype(self.array(0.0)) == "float64"

    @property
    def dtypes(self) -> tuple[Literal["float32", "float64"], ...]:
        """Kernel dtypes to test."""
        return ("float32", "float64") if self.wide else ("float32",)


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _named(x: object) -> bool:
    return isinstance(x, str) and bool(x)


def _short(dtype: object) -> str:
    return str(dtype).rpartition(".")[2]


# -- what the plugin says of itself ------------------------------------------------------------------------------
def check_description(trial: Trial) -> None:
    """Name, framework, version, devices and the version of the interface."""
    backend = trial.backend
    _require(isinstance(backend, Backend), f"{backend!r} is not an object derived from specnorm.backends.Backend")
    for attribute in ("name", "framework"):
        text = getattr(backend, attribute, None)
        _require(_named(text), f"{attribute} is {text!r}; expected a non-empty string")
    version = getattr(backend, "api_version", None)
    _require(version == API_VERSION, f"api_version is {version!r}; this specnorm's is {API_VERSION}")
    _require(backend.proofs in ("device", "host"), f"proofs is {backend.proofs!r}; expected 'device' or 'host'")
    text = backend.version()
    _require(_named(text), f"version() is {text!r}; expected a non-empty string")
    devices = tuple(backend.devices())
    _require(devices and all(map(_named, devices)), f"devices() is {devices!r}; expected names")
    _require(trial.device is None or trial.device in devices, f"{trial.device!r} is not one of devices() {devices}")
    formats = backend.model_formats
    missing = [m for m in formats.values() if not callable(getattr(backend, m, None))]
    _require(not missing, f"model_formats names methods that do not exist: {missing}")


def check_ownership(trial: Trial) -> None:
    """Arrays are recognised and found through the entry point; everything else is not an array."""
    backend = trial.backend
    for x in (trial.array(1.0), trial.array([[1.0, 2.0]]), trial.array(True, "bool"), trial.array(1, "int32")):
        _require(backend.is_array(x), f"is_array is false for {x!r}, which asarray() made")
        reason = backend.refusal(x)
        _require(reason is None, f"refusal() turns an ordinary array away: {reason}")
        try:
            owner = backends.backend_for(x)
        except SpecnormError as error:
            raise AssertionError(
                f"specnorm does not find this plugin for {type(x).__module__}.{type(x).__qualname__}: {error} Declare "
                f"an entry point in group {backends.GROUP!r} named after the root package of that class (or of one of "
                "its bases), and install the distribution."
            ) from error
        _require(owner is backend, f"arrays of {type(x)} are found to belong to {owner!r}, not to this object")
    others: list[Any] = [
        [1.0],
        (1.0,),
        1.0,
        1,
        True,
        "x",
        None,
        type(trial.array(1.0)),
        inspect.getmodule(type(backend)),
    ]
    if not isinstance(trial.array(1.0), np.ndarray):
        others.append(np.ones(2))
    for other in others:
        _require(not backend.is_array(other), f"is_array is true for {other!r}, which is no array of this library")


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
    _require(
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
                _require(backend.is_array(x), f"{case} is no array of this library: {x!r}")
                _require(tuple(x.shape) == shape, f"{case} has shape {tuple(x.shape)}")
                _require(_short(x.dtype) == dtype, f"{case} has dtype {x.dtype}")
                here, there = str(backend.device(like)), str(backend.device(x))
                _require(here == there, f"{case} lies on {there} instead of {here}")
                back = backend.to_numpy(x)
                _require(type(back) is np.ndarray, f"to_numpy() after {case} is a {type(back).__name__}, no np.ndarray")
                _require(back.dtype == values.dtype, f"to_numpy() after {case} has dtype {back.dtype}")
                same = back.shape == shape and np.array_equal(back, values)
                _require(same, f"to_numpy() after {case} has other values: {back!r}")
    readonly = np.arange(6.0, dtype="float32").reshape(2, 3)[::-1, ::2]
    readonly.flags.writeable = False
    for x in (backend.asarray(readonly, trial.device), backend.from_numpy(readonly, like)):
        same = np.array_equal(trial.host(x), readonly)
        _require(same, "a read-only host array with negative strides comes out with other values")
    for name in backend.devices():
        try:
            moved = backend.asarray(np.ones(2, dtype="float32"), name)
        except Exception as error:
            raise AssertionError(f"asarray(x, {name!r}) fails, but devices() lists it: {error}") from error
        _require(np.array_equal(trial.host(moved), np.ones(2)), f"asarray(x, {name!r}) comes back with other values")


def check_device(trial: Trial) -> None:
    """What device() returns is what the namespace's creation functions take."""
    like = trial.array(1.0)
    xp = trial.backend.namespace(like)
    made = xp.zeros((2,), dtype=xp.float32, device=trial.backend.device(like))
    here, there = str(trial.backend.device(like)), str(trial.backend.device(made))
    _require(here == there, f"zeros(..., device=device(x)) lies on {there}, x on {here}")


# -- arithmetic --------------------------------------------------------------------------------------------------
def check_precision(trial: Trial) -> None:
    """Inside precise(), products have the full precision of their dtype; wide_dtype has the precision it claims."""
    backend, like = trial.backend, trial.array(1.0)
    _require(not backend.is_traced(like), "is_traced is true for a concrete array")
    wide = backend.wide_dtype(like)
    _require(wide in ("float32", "float64"), f"wide_dtype is {wide!r}; expected 'float32' or 'float64'")
    random = np.random.RandomState(0)
    left, right = random.standard_normal((2, 96, 96))
    for dtype in trial.dtypes:
        used = backend.working_dtype(like, dtype)
        _require(used in (dtype, wide), f"working_dtype is {used!r} for {dtype}; expected that or {wide}")
        manager = backend.precise(like)
        entered = hasattr(manager, "__enter__") and hasattr(manager, "__exit__")
        _require(entered, f"precise() returns {manager!r}; expected a context manager")
        for factor in (1, 1j):
            a, b = (factor * left).astype(_like(used, factor)), right.astype(_like(used, factor))
            with backend.precise(like):
                product = backend.namespace(like).matmul(trial.array(a, a.dtype.name), trial.array(b, b.dtype.name))
            exact = a.astype(np.clongdouble) @ b.astype(np.clongdouble)
            unit = float(np.finfo(used).eps) / 2
            error = np.max(np.abs(trial.host(product) - exact) / (np.abs(a) @ np.abs(b)))
            _require(
                error <= 3 * 96 * unit,
                f"inside precise() a product of {a.dtype} matrices has a relative error of {float(error):.1e}, above "
                f"{96 * unit:.1e}: the library lowers its precision (TF32, bfloat16?). Switch that off in precise(), "
                "or return 'float64' from working_dtype()",
            )


def _like(dtype: str, factor: complex) -> str:
    return dtype if factor == 1 else {"float32": "complex64", "float64": "complex128"}[dtype]


def _below(limit: int, state: Any) -> Array:
    return state[0] < limit


def check_loop(trial: Trial) -> None:
    """loop() is a while loop: any number of rounds, none included; the state keeps its shapes and dtypes."""
    backend = trial.backend
    for limit in (10, 0):
        count, total = trial.array(0, "int32"), trial.array([1.0, 2.0])
        found: Any = backend.loop(partial(_below, limit), lambda s: (s[0] + 1, s[1] * 2.0), (count, total))
        _require(isinstance(found, tuple | list) and len(found) == 2, f"loop() returns {found!r}; expected the state")
        rounds = int(trial.host(found[0]))
        _require(rounds == limit, f"loop() went {rounds} rounds; expected {limit}")
        grown = np.array_equal(trial.host(found[1]), np.asarray([1.0, 2.0]) * 2.0**limit)
        _require(grown, "loop() loses a part of the state")
        kept = [_short(x.dtype) for x in found]
        _require(kept == ["int32", "float32"], f"loop() changes the dtypes of the state to {kept}")


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
            _require(verdict is expected, f"cholesky_ok() is {verdict} for {title} ({dtype}); expected {expected}")
        stack = np.stack([matrix for _, matrix, _ in cases]).astype(dtype)
        wanted = np.asarray([expected for *_, expected in cases])
        batches = (stack, stack[:12].reshape(2, 2, 3, 3, 3), stack[:0])
        for batch in batches[:1] if backend.static_shapes and dtype != dtypes[0] else batches:
            right = wanted[: int(np.prod(batch.shape[:-2], dtype=int))].reshape(batch.shape[:-2])
            found = _verdicts(trial, batch, dtype, f"a batch of shape {batch.shape}")
            wrong = [cases[i][0] for i in np.flatnonzero(found != right)]
            _require(not wrong, f"cholesky_ok() of a batch of shape {batch.shape} ({dtype}) is wrong for {wrong}")
        # Libraries factor large matrices in blocks: the verdict must not get lost between them.
        large = np.eye(150)
        for pivot in (0, 75, 149):
            broken = large.copy()
            broken[pivot, pivot] = -1e-3
            found = _verdicts(trial, np.stack([large, broken]), dtype, "150 x 150")
            _require(found.tolist() == [True, False], f"cholesky_ok() misses a negative pivot {pivot} of 150 ({dtype})")
    _require(_short(backend.cholesky_ok(trial.array(np.eye(2))).dtype) == "bool", "cholesky_ok() is not of dtype bool")


def _verdicts(trial: Trial, matrices: np.ndarray, dtype: str, title: str) -> np.ndarray:
    """Verdicts on matrices whose upper triangle is what Hermitian symmetry asks for, unless it is junk on purpose."""
    a = matrices.astype(dtype)
    try:
        found = trial.backend.cholesky_ok(trial.array(a, dtype))
    except Exception as error:
        raise AssertionError(f"cholesky_ok() raises for {title} ({dtype}): {type(error).__name__}: {error}") from error
    host = trial.host(found)
    _require(host.shape == a.shape[:-2], f"cholesky_ok() of shape {a.shape} has shape {host.shape}")
    return host


# -- whole answers -----------------------------------------------------------------------------------------------
def _kernels() -> dict[str, np.ndarray]:
    random = np.random.RandomState(1)
    plane = random.standard_normal((4, 3, 3, 2))
    return {
        "a 1 x 1 kernel": random.standard_normal((3, 2, 1, 1)),
        "a matrix": random.standard_normal((2, 4)),
        "a 1-D kernel": random.standard_normal((1, 2, 4)),
        "a 2-D kernel": plane,
        "a huge kernel": plane * 1e30,
        "a tiny kernel": plane * 1e-30,
        "a zero kernel": plane * 0.0,
        "a 3-D kernel": random.standard_normal((2, 2, 2, 1, 3)),
    }


def _cases(trial: Trial, *without: str) -> Iterator[tuple[str, np.ndarray]]:
    for title, kernel in _kernels().items():
        dtypes = trial.dtypes
        if trial.backend.static_shapes:
            # Each shape costs a compilation: one dtype each, and none for what hardly differs.
            skipped = ("a 1 x 1 kernel", "a 1-D kernel", *without)
            dtypes = () if title in skipped else dtypes[:1] if title == "a matrix" else dtypes[-1:]
        for dtype in dtypes:
            yield f"{title} of {dtype}", kernel.astype(dtype)


def _geometry(method: Method, kernel: np.ndarray) -> Mapping[str, Any]:
    """Nothing where the method takes that, else an input size."""
    try:
        program_for(method, kernel.shape, str(kernel.dtype), ())
    except (GeometryError, MethodError):
        return {"input_shape": 5}
    return {}


def check_values(trial: Trial) -> None:
    """Every method gives the number that NumPy gives, as a 0-d array of the kernel's dtype on its device."""
    for title, kernel in _cases(trial):
        x = trial.array(kernel, kernel.dtype.name)
        for name, cls in METHODS.items():
            method, geometry = cls(), _geometry(cls(), kernel)
            reference = api.measure(kernel, method, **geometry)
            found = api.measure(x, method, **geometry)
            case = f"{name} of {title}"
            _require(found.kind == reference.kind, f"{case} is {found.kind!r}; with NumPy {reference.kind!r}")
            _belongs(trial, found.value, x, case)
            rtol = _tolerance(trial, kernel, reference.kind)
            _close(trial.host(found.value), np.asarray(reference.value), rtol, f"value of {case}")
            for stat, expected in reference.stats.items():
                same = isinstance(expected, str | bool) or trial.backend.is_array(found.stats[stat])
                _require(same, f"stats[{stat!r}] of {case} is {found.stats[stat]!r}, no array of this library")


def check_gradients(trial: Trial) -> None:
    """value_and_grad() gives the gradient that NumPy gives, in the kernel's shape, dtype and device."""
    for title, kernel in _cases(trial, "a 3-D kernel"):
        x = trial.array(kernel, kernel.dtype.name)
        for name, cls in METHODS.items():
            method, geometry = cls(), _geometry(cls(), kernel)
            try:
                _, gradient = api.value_and_grad(kernel, method, **geometry)
            except MethodError:
                continue
            reference = api.measure(kernel, method, **geometry)
            value, slope = api.value_and_grad(x, method, **geometry)
            case = f"{name} of {title}"
            rtol = _tolerance(trial, kernel, reference.kind)
            _belongs(trial, value, x, case)
            _close(trial.host(value), np.asarray(reference.value), rtol, f"value_and_grad's value of {case}")
            _require(tuple(slope.shape) == kernel.shape, f"gradient of {case} has shape {tuple(slope.shape)}")
            _belongs(trial, slope, x, f"gradient of {case}")
            # A gradient is less sharp than the value where the maximum is flat.
            _close(trial.host(slope), gradient, 100 * rtol**0.75, f"gradient of {case}")
            # Norms are homogeneous, so <gradient, kernel> is the norm (Euler): between the value and, where there is
            # one, the proven lower bound. No plugin had a hand in this comparison.
            product = float(np.sum(trial.host(slope).astype(np.float64) * kernel))
            high = float(trial.host(value))
            low = float(reference.stats.get("lower", high))
            inside = low - 10 * rtol * high <= product <= high * (1 + 10 * rtol)
            _require(inside, f"<gradient, kernel> of {case} is {product}, the norm between {low} and {high}")


def _belongs(trial: Trial, value: Array, x: Array, case: str) -> None:
    backend = trial.backend
    _require(backend.is_array(value), f"{case} is a {type(value)}, no array of this library")
    _require(_short(value.dtype) == _short(x.dtype), f"{case} has dtype {value.dtype}; the kernel has {x.dtype}")
    here, there = str(backend.device(x)), str(backend.device(value))
    _require(here == there, f"{case} lies on {there}; the kernel on {here}")


def _tolerance(trial: Trial, kernel: np.ndarray, kind: str) -> float:
    if not trial.wide:
        return 1e-3  # bounds proven in float32 are lifted by more
    if kernel.dtype == np.float32:
        return 1e-4 if kind == "estimate" else 1e-5
    return 1e-7 if kind == "estimate" else 1e-10


def _close(found: np.ndarray, expected: np.ndarray, rtol: float, case: str) -> None:
    _require(found.shape == expected.shape, f"{case} has shape {found.shape}; with NumPy {expected.shape}")
    scale = float(np.max(np.abs(expected), initial=0.0))
    wide = found.astype(np.float64)
    close = bool(np.isfinite(wide).all()) and float(np.max(np.abs(wide - expected), initial=0.0)) <= rtol * scale
    _require(close, f"{case} differs from NumPy's by more than {rtol:.0e}, relatively: {found!r} and {expected!r}")


def check_stacks(trial: Trial) -> None:
    """Matrices and kernels in stacks get one answer each, in the shape of the stack: `apply` keeps leading axes."""
    stack = np.random.RandomState(2).standard_normal((2, 3, 4, 5)).astype(trial.dtypes[-1])
    x = trial.array(stack, stack.dtype.name)
    rtol = _tolerance(trial, stack, "exact")
    # The one comparison with a number that no plugin had a hand in: NumPy's own singular values.
    references: dict[Callable[[Any], Any], Any] = {
        matrices.matrix_norm: np.linalg.svd(stack, compute_uv=False)[..., 0],
        matrices.gram_iteration: matrices.gram_iteration(stack),
        matrices.power_iteration: matrices.power_iteration(stack),
    }
    for function, reference in references.items():
        found = function(x)
        case = f"{function.__name__}() of a stack of 2 x 3 matrices"
        _belongs(trial, found, x, case)
        _close(trial.host(found), np.asarray(reference), rtol, case)
    plan = program_for(METHODS["tn"](), stack.shape[1:], str(stack.dtype), ())
    value, stats, known = trial.backend.apply(plan, x)
    _require(known is True, f"apply() of a concrete kernel says that its values are not known: {known!r}")
    _require(tuple(value.shape) == (2,), f"apply() of 2 kernels gives a value of shape {tuple(value.shape)}")
    _require(all(tuple(s.shape) == (2,) for s in stats), "apply() of 2 kernels gives stats of another shape than (2,)")
    one, figures, _ = trial.backend.apply(plan, trial.array(stack[0], stack.dtype.name))
    _require(tuple(one.shape) == (), f"apply() of one kernel gives a value of shape {tuple(one.shape)}, not 0-d")
    _require(all(tuple(s.shape) == () for s in figures), "apply() of one kernel gives stats that are not 0-d")
    _close(trial.host(value)[0], trial.host(one), 1e-4, "apply() of one kernel instead of two")


def check_refusals(trial: Trial) -> None:
    """Kernels that are no kernels are refused before anything is computed."""
    for bad in (float("nan"), float("inf"), -float("inf")):
        kernel = np.ones((2, 2, 3, 3), dtype=np.float32)
        kernel[1, 0, 2, 1] = bad
        _refused(trial, kernel, f"a kernel with the value {bad}")
    _refused(trial, np.ones((2, 2, 3), dtype=np.int32), "a kernel of integers")
    _refused(trial, np.ones((2, 2, 3), dtype=np.complex64), "a complex kernel")
    _refused(trial, np.ones((2, 0, 3), dtype=np.float32), "a kernel with an empty axis")


def _refused(trial: Trial, kernel: np.ndarray, title: str) -> None:
    try:
        found = api.f4_bound(trial.array(kernel, kernel.dtype.name))
    except KernelError:
        return
    raise AssertionError(f"{title} is not refused: f4_bound() gives {found!r}")


CHECKS: Mapping[str, Callable[[Trial], None]] = {
    "description": check_description,
    "ownership": check_ownership,
    "namespace": check_namespace,
    "host copies": check_host_copies,
    "device": check_device,
    "precision": check_precision,
    "loop": check_loop,
    "cholesky_ok": check_cholesky,
    "values": check_values,
    "gradients": check_gradients,
    "stacks": check_stacks,
    "refusals": check_refusals,
}
"""What is checked, in order."""

_FOUNDATIONS = (check_description, check_ownership, check_namespace, check_host_copies)
