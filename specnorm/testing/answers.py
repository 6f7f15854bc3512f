"""Checks of whole answers on a plugin's arrays: values, gradients, stacks, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from specnorm import api, matrices
from specnorm.errors import GeometryError, KernelError, MethodError
from specnorm.measuring import measure
from specnorm.methods import METHODS, Method
from specnorm.result import Result
from specnorm.runtime.program import program_for
from specnorm.testing.trial import Trial, require, short
from specnorm.types import AnyArray


# -- whole answers -----------------------------------------------------------------------------------------------
def _kernels() -> dict[str, tuple[np.ndarray, str]]:
    random = np.random.RandomState(1)
    plane = random.standard_normal((4, 3, 3, 2))
    return {
        "a 1 x 1 kernel": (random.standard_normal((3, 2, 1, 1)), "float32"),
        "a matrix": (random.standard_normal((2, 4)), "float32"),
        "a 1-D kernel": (random.standard_normal((1, 2, 4)), "float32"),
        "a 2-D kernel": (plane, "float64"),
        "a 2-D kernel in single precision": (plane, "float32"),
        "a huge kernel": (plane * 1e30, "float64"),
        "a tiny kernel": (plane * 1e-30, "float32"),
        "a zero kernel": (plane * 0.0, "float64"),
        "a 3-D kernel": (random.standard_normal((2, 2, 2, 1, 3)), "float64"),
    }


def _cases(trial: Trial, *without: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each in one precision; where each shape costs a compilation, none that hardly differs from another."""
    if trial.backend.static_shapes:
        without = ("a 1 x 1 kernel", "a 1-D kernel", "a 2-D kernel in single precision", *without)
    for title, (kernel, dtype) in _kernels().items():
        if title not in without:
            dtype = dtype if dtype in trial.dtypes else "float32"
            yield f"{title} of {dtype}", kernel.astype(dtype)


def _geometry(method: Method, kernel: np.ndarray) -> Mapping[str, Any]:
    """Nothing where the method takes that, else an input size."""
    try:
        program_for(method, kernel.shape, str(kernel.dtype), ())
    except (GeometryError, MethodError):
        return {"input_shape": (5,) * (kernel.ndim - 2)}
    return {}


def _questions(trial: Trial, *without: str) -> Iterator[tuple[str, np.ndarray, AnyArray, Method, Mapping[str, Any]]]:
    """Every method on every kernel: title, kernel on the host and under test, method, geometry."""
    for title, kernel in _cases(trial, *without):
        x = trial.array(kernel, kernel.dtype.name)
        for name, cls in METHODS.items():
            yield f"{name} of {title}", kernel, x, cls(), _geometry(cls(), kernel)


def check_values(trial: Trial) -> None:
    """Every method gives the number that NumPy gives, as a 0-d array of the kernel's dtype on its device."""
    for case, kernel, x, method, geometry in _questions(trial):
        reference = measure(kernel, method, **geometry)
        found = measure(x, method, **geometry)
        require(found.kind == reference.kind, f"{case} is {found.kind!r}; with NumPy {reference.kind!r}")
        _belongs(trial, found.value, x, case)
        rtol = _tolerance(trial, kernel, reference.kind, searched_on_device=_is_searched_on_device(trial, x, reference))
        _close(trial.host(found.value), np.asarray(reference.value), rtol, f"value of {case}")
        for stat, expected in reference.stats.items():
            same = isinstance(expected, str | bool) or trial.backend.is_array(found.stats[stat])
            require(same, f"stats[{stat!r}] of {case} is {found.stats[stat]!r}, no array of this library")


def check_gradients(trial: Trial) -> None:
    """value_and_grad() gives the gradient that NumPy gives, in the kernel's shape, dtype and device."""
    without = ("a 3-D kernel", "a 1-D kernel", "a huge kernel", "a tiny kernel")
    for case, kernel, x, method, geometry in _questions(trial, *without):
        try:
            _, gradient = api.value_and_grad(kernel, method, **geometry)
        except MethodError:
            continue
        reference = measure(kernel, method, **geometry)
        value, slope = api.value_and_grad(x, method, **geometry)
        rtol = _tolerance(trial, kernel, reference.kind, searched_on_device=_is_searched_on_device(trial, x, reference))
        _belongs(trial, value, x, case)
        _close(trial.host(value), np.asarray(reference.value), rtol, f"value_and_grad's value of {case}")
        _belongs(trial, slope, x, f"gradient of {case}")
        # A gradient is less sharp than the value where the maximum is flat.
        _close(trial.host(slope), gradient, 100 * rtol**0.75, f"gradient of {case}")
        if method.quantity == "isometry defect":  # which does not grow as the kernel does
            continue
        # Singular values are homogeneous, so <gradient, kernel> is the value (Euler): between the proven bounds
        # where there are two. No plugin had a hand in this comparison.
        product = float(np.sum(trial.host(slope).astype(np.float64) * kernel))
        own = float(trial.host(value))
        ends = [own, *(float(reference.stats[end]) for end in ("lower", "upper") if end in reference.stats)]
        low, high = min(ends), max(ends)
        inside = low - 10 * rtol * high <= product <= high * (1 + 10 * rtol)
        require(inside, f"<gradient, kernel> of {case} is {product}, the {method.quantity} between {low} and {high}")


def _belongs(trial: Trial, value: AnyArray, x: AnyArray, case: str) -> None:
    backend = trial.backend
    require(backend.is_array(value), f"{case} is a {type(value)}, no array of this library")
    require(short(value.dtype) == short(x.dtype), f"{case} has dtype {value.dtype}; the kernel has {x.dtype}")
    here, there = str(backend.device(x)), str(backend.device(value))
    require(here == there, f"{case} lies on {there}; the kernel on {here}")


def _is_searched_on_device(trial: Trial, x: AnyArray, reference: Result) -> bool:
    """Whether the value is that of a search in which a device's own roundings have a part."""
    return trial.backend.asynchronous(x) and "converged" in reference.stats


def _tolerance(trial: Trial, kernel: np.ndarray, kind: str, *, searched_on_device: bool = False) -> float:
    """Relative distance that a value may have from NumPy's.

    A search on a device ends where its ascent gains less than a hundredth of its tolerance, which is 1e-3.
    """
    if not trial.wide:
        return 1e-3  # bounds proven in float32 are lifted by more
    if kernel.dtype == np.float32:
        return 1e-4 if kind == "estimate" else 1e-5
    if searched_on_device:
        return 1e-5
    return 1e-7 if kind == "estimate" else 1e-10


def _close(found: np.ndarray, expected: np.ndarray, rtol: float, case: str) -> None:
    require(found.shape == expected.shape, f"{case} has shape {found.shape}; with NumPy {expected.shape}")
    if np.array_equal(found, expected):  # infinities, where a number is beyond the dtype
        return
    scale = float(np.max(np.abs(expected), initial=0.0))
    wide = found.astype(np.float64)
    close = bool(np.isfinite(wide).all()) and float(np.max(np.abs(wide - expected), initial=0.0)) <= rtol * scale
    require(close, f"{case} differs from NumPy's by more than {rtol:.0e}, relatively: {found!r} and {expected!r}")


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
    values = []
    for kernels, lead in ((stack, (2,)), (stack[0], ())):
        ran = trial.backend.apply(plan, trial.array(kernels, stack.dtype.name))
        require(ran.known is True, f"apply() of a concrete kernel says that its values are not known: {ran.known!r}")
        for x in (ran.value, *ran.stats):
            shape = tuple(x.shape)
            require(shape == lead, f"apply() of kernels {kernels.shape} gives a value or stats of shape {shape}")
        values.append(trial.host(ran.value))
    _close(values[0][0], values[1], 1e-4, "apply() of one kernel instead of two")


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
