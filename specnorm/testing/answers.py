"""Checks that specnorm's functions return the same on a plugin's arrays as in NumPy: values, gradients, errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from specnorm.api import bounds as api
from specnorm.backends.types import AnyArray
from specnorm.errors import GeometryError, KernelError, MethodError
from specnorm.methods import METHODS, Method
from specnorm.running.measuring import measure
from specnorm.running.program import Program, program_for
from specnorm.running.result import Result
from specnorm.testing.trial import Trial, require, short
from specnorm.unfoldings.matrices import matrix_norm


class _Case(NamedTuple):
    """A method and a kernel.

    Parameters
    ----------
    title : str
        Description for messages.
    kernel : NumPy array
    x : array
        The kernel as an array under test.
    method : Method
    geometry : mapping
    """

    title: str
    kernel: np.ndarray
    x: AnyArray
    method: Method
    geometry: Mapping[str, Any]


def _kernels() -> dict[str, tuple[np.ndarray, str]]:
    """Kernels, and the dtypes in which they are tested, by a description."""
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


def _kernels_for(trial: Trial, *without: str) -> Iterator[tuple[str, np.ndarray]]:
    """Descriptions and kernels for a backend; fewer kernels if each shape costs a compilation."""
    if trial.backend.static_shapes:
        without = ("a 1 x 1 kernel", "a 1-D kernel", "a 2-D kernel in single precision", *without)
    for title, (kernel, dtype) in _kernels().items():
        if title not in without:
            supported_dtype = dtype if dtype in trial.dtypes else "float32"
            yield f"{title} of {supported_dtype}", kernel.astype(supported_dtype)


def _geometry(method: Method, kernel: np.ndarray) -> Mapping[str, Any]:
    """An empty geometry, or an input size if the method needs one."""
    try:
        program_for(method, kernel.shape, str(kernel.dtype), ())
    except (GeometryError, MethodError):
        return {"input_shape": (5,) * (kernel.ndim - 2)}
    return {}


def _cases(trial: Trial, *without: str) -> Iterator[_Case]:
    """Every method on every kernel but those named."""
    for title, kernel in _kernels_for(trial, *without):
        x = trial.array(kernel, kernel.dtype.name)
        for name, cls in METHODS.items():
            yield _Case(f"{name} of {title}", kernel, x, cls(), _geometry(cls(), kernel))


def check_values(trial: Trial) -> None:
    """Every method returns NumPy's value, as a 0-d array in the kernel's dtype on the kernel's device."""
    for case in _cases(trial):
        reference = measure(case.kernel, case.method, **case.geometry)
        result = measure(case.x, case.method, **case.geometry)
        require(result.kind == reference.kind, f"{case.title} is {result.kind!r}; with NumPy {reference.kind!r}")
        _check_array(trial, result.value, case.x, case.title)
        is_searched = _is_searched_on_device(trial, case.x, reference)
        rtol = _tolerance(trial, case.kernel, reference.kind, searched_on_device=is_searched)
        _check_close(trial.host(result.value), np.asarray(reference.value), rtol, f"value of {case.title}")
        for stat, expected in reference.stats.items():
            figure = result.stats[stat]
            is_array_or_word = isinstance(expected, str | bool) or trial.backend.is_array(figure)
            require(is_array_or_word, f"stats[{stat!r}] of {case.title} is {figure!r}, no array of this library")


def check_gradients(trial: Trial) -> None:
    """value_and_grad() returns NumPy's gradient, in the kernel's shape and dtype on the kernel's device."""
    without = ("a 3-D kernel", "a 1-D kernel", "a huge kernel", "a tiny kernel")
    for case in _cases(trial, *without):
        try:
            _, expected_gradient = api.value_and_grad(case.kernel, case.method, **case.geometry)
        except MethodError:
            continue
        reference = measure(case.kernel, case.method, **case.geometry)
        value, gradient = api.value_and_grad(case.x, case.method, **case.geometry)
        is_searched = _is_searched_on_device(trial, case.x, reference)
        rtol = _tolerance(trial, case.kernel, reference.kind, searched_on_device=is_searched)
        _check_array(trial, value, case.x, case.title)
        _check_close(trial.host(value), np.asarray(reference.value), rtol, f"value_and_grad's value of {case.title}")
        _check_array(trial, gradient, case.x, f"gradient of {case.title}")
        # Where the maximum is flat, the gradient is less accurate than the value.
        _check_close(trial.host(gradient), expected_gradient, 100 * rtol**0.75, f"gradient of {case.title}")
        if case.method.quantity != "isometry defect":
            _check_euler(trial, case, gradient, value, reference, rtol)


def _check_euler(
    trial: Trial, case: _Case, gradient: AnyArray, value: AnyArray, reference: Result, rtol: float
) -> None:
    """Check that <gradient, kernel> is the value, as Euler's theorem says of singular values.

    They are homogeneous functions of the kernel. If the method returns two bounds, the product must lie between them.
    This check does not depend on NumPy's gradient.
    """
    product = float(np.sum(trial.host(gradient).astype(np.float64) * case.kernel))
    bounds = [float(reference.stats[end]) for end in ("lower", "upper") if end in reference.stats]
    low = min([float(trial.host(value)), *bounds])
    high = max([float(trial.host(value)), *bounds])
    is_between = low - 10 * rtol * high <= product <= high * (1 + 10 * rtol)
    require(
        is_between,
        f"<gradient, kernel> of {case.title} is {product}, the {case.method.quantity} between {low} and {high}",
    )


def _check_array(trial: Trial, value: AnyArray, x: AnyArray, title: str) -> None:
    """Check that a value is an array of the library, with the dtype and device of the kernel x."""
    backend = trial.backend
    require(backend.is_array(value), f"{title} is a {type(value)}, no array of this library")
    require(short(value.dtype) == short(x.dtype), f"{title} has dtype {value.dtype}; the kernel has {x.dtype}")
    device = str(backend.device(value))
    kernel_device = str(backend.device(x))
    require(device == kernel_device, f"{title} lies on {device}; the kernel on {kernel_device}")


def _is_searched_on_device(trial: Trial, x: AnyArray, reference: Result) -> bool:
    """Whether the value comes from a search whose path depends on the rounding errors of a device."""
    return trial.backend.asynchronous(x) and "converged" in reference.stats


def _tolerance(trial: Trial, kernel: np.ndarray, kind: str, *, searched_on_device: bool = False) -> float:
    """Largest relative distance of a value from NumPy's."""
    if not trial.wide:
        # Bounds that are proven in float32 have larger allowances.
        return 1e-3
    if kernel.dtype == np.float32:
        return 1e-4 if kind == "estimate" else 1e-5
    if searched_on_device:
        # A search ends when an ascent gains less than a hundredth of its tolerance, which is 1e-3.
        return 1e-5
    return 1e-7 if kind == "estimate" else 1e-10


def _check_close(values: np.ndarray, expected: np.ndarray, rtol: float, title: str) -> None:
    """Check shape and values against NumPy's; distances are relative to the largest expected entry."""
    require(values.shape == expected.shape, f"{title} has shape {values.shape}; with NumPy {expected.shape}")
    if np.array_equal(values, expected):
        # Also true for infinities, which the distance below could not compare.
        return
    scale = float(np.max(np.abs(expected), initial=0.0))
    wide = values.astype(np.float64)
    distance = float(np.max(np.abs(wide - expected), initial=0.0))
    is_close = bool(np.isfinite(wide).all()) and distance <= rtol * scale
    require(is_close, f"{title} differs from NumPy's by more than {rtol:.0e}, relatively: {values!r} and {expected!r}")


def check_stacks(trial: Trial) -> None:
    """Functions of matrices, and `apply`, return one value for each matrix or kernel, in the shape of the stack."""
    stack = np.random.RandomState(2).standard_normal((2, 3, 4, 5)).astype(trial.dtypes[-1])
    x = trial.array(stack, stack.dtype.name)
    rtol = _tolerance(trial, stack, "exact")
    # The reference is NumPy's SVD, which shares no code with specnorm.
    values = matrix_norm(x)
    title = "matrix_norm() of a stack of 2 x 3 matrices"
    _check_array(trial, values, x, title)
    _check_close(trial.host(values), np.linalg.svd(stack, compute_uv=False)[..., 0], rtol, title)
    plan = program_for(METHODS["tn"](), stack.shape[1:], str(stack.dtype), ())
    value_of_two = _applied(trial, plan, stack, (2,))
    value_of_one = _applied(trial, plan, stack[0], ())
    _check_close(value_of_two[0], value_of_one, 1e-4, "apply() of one kernel instead of two")


def _applied(trial: Trial, plan: Program, kernels: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    """The value of a program by the plugin's `apply`, whose results must have the shape of the batch."""
    ran = trial.backend.apply(plan, trial.array(kernels, kernels.dtype.name))
    require(ran.computed_in is not None, "apply() of a concrete kernel says that its values are not known")
    for x in (ran.value, *ran.stats):
        shape = tuple(x.shape)
        require(shape == batch, f"apply() of kernels {kernels.shape} gives a value or stats of shape {shape}")
    return trial.host(ran.value)


def check_complex_kernels(trial: Trial) -> None:
    """The bound on a complex kernel is that on its real form."""
    kernel = np.asarray([[[1, 2j, 1 + 1j]], [[-1j, 2, 1]]], dtype=np.complex64)
    real, imaginary = kernel.real, kernel.imag
    form = np.concatenate([np.concatenate([real, -imaginary], axis=1), np.concatenate([imaginary, real], axis=1)])
    value = trial.host(api.f4_bound(trial.array(kernel, "complex64")))
    _check_close(value, np.asarray(api.f4_bound(form)), 1e-5, "f4_bound() of a complex kernel")


def check_refusals(trial: Trial) -> None:
    """Arrays that are not valid kernels are refused."""
    for number in (float("nan"), float("inf"), -float("inf")):
        kernel = np.ones((2, 2, 3, 3), dtype=np.float32)
        kernel[1, 0, 2, 1] = number
        _check_refused(trial, kernel, f"a kernel with the value {number}")
    _check_refused(trial, np.ones((2, 2, 3), dtype=np.int32), "a kernel of integers")
    _check_refused(trial, np.ones((2, 0, 3), dtype=np.float32), "a kernel with an empty axis")


def _check_refused(trial: Trial, kernel: np.ndarray, title: str) -> None:
    try:
        value = api.f4_bound(trial.array(kernel, kernel.dtype.name))
    except KernelError:
        return
    raise AssertionError(f"{title} is not refused: f4_bound() gives {value!r}")
