"""Refusals of arguments, in the words of who gave them."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends.registry import called_while_tracing
from specnorm.errors import BackendError, KernelError, MethodError
from specnorm.geometry.spec import TRACED
from specnorm.proofs import arithmetic, rounding
from specnorm.running.base import Method
from specnorm.running.result import NoNumber

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps, Backend

MOST_PRODUCTS = 1000
"""Most Gram products: each halves the distance from the norm, so that a hundred reach the last digit."""
MOST_ROUNDS = 10**6
"""Most rounds of an iteration."""


def count(name: str, value: object, least: int = 0, most: int | None = None) -> None:
    """Refuse a parameter that is not an integer of at least ``least``, and of at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MethodError(f"{name}={value!r} is not a count: give an integer of at least {least}.")
    if most is not None and value > most:
        raise MethodError(f"{name}={value!r} is above {most}: so many rounds would never end.")


def seed(value: int) -> None:
    """Refuse what seeds no `numpy.random.RandomState`."""
    count("seed", value)
    if value >= 2**32:
        raise MethodError(f"seed={value!r} is above {2**32 - 1}, the largest seed of NumPy's generator.")


def rtol(value: object, name: str = "rtol") -> None:
    """Refuse a relative tolerance outside (0, 1)."""
    if not isinstance(value, (int, float)):
        raise MethodError(
            f"{name}={value!r} is a {type(value).__name__}, no number: give a relative width such as 1e-3."
        )
    if not 0 < value < 1:
        raise MethodError(f"{name}={value!r} is not between 0 and 1: give a relative width such as 1e-3.")


def search_rtol(rtol: float, *, ops: ArrayOps) -> float:
    """The tolerance of a search, such that its lower bound is within ``rtol`` after the conversion to the answer.

    Raises `MethodError` if the numbers of the answer's dtype are too far apart.
    """
    loss = rounding.conversion_loss(ops.result_dtype)
    if not ops.traced and rtol < 2 * loss:
        finest = 2 * loss
        raise MethodError(
            f"rtol={rtol:g} is below the resolution of {ops.result_dtype}, the dtype of the result for this kernel: "
            f"give an rtol of at least {finest:.1g}" + (", or the kernel in float64." if finest > 1e-9 else ".")
        )
    return rtol - loss


def budget(value: object) -> None:
    """Refuse a budget that is neither None nor a positive number of seconds."""
    if value is None:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not value > 0
        or (isinstance(value, int) and value > sys.float_info.max)
    ):
        raise MethodError(f"budget={value!r} is not a time limit: give seconds, such as 10, or None for no limit.")


def number(name: str, value: object) -> float:
    """Convert a parameter, a Python number or a 0-d array, to a float; refuse everything else."""
    if isinstance(value, NoNumber):
        raise MethodError(f"{name} is {type(value).__name__}, {value.use_instead}.")
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        description = type(value).__name__
        is_array = getattr(value, "ndim", None) is not None
        if not is_array:
            description += f" {value!r}"
        raise MethodError(f"{name} must be a number, got {description}.")
    if getattr(value, "ndim", 0):
        shape = tuple(getattr(value, "shape", ()))
        raise MethodError(f"{name} is an array of shape {shape}; expected one number: call once for each.")
    try:
        return float(value)
    except OverflowError:
        raise MethodError(
            f"{name} is a number beyond {sys.float_info.max:.3g}, the largest of float64: give a smaller one."
        ) from None
    except Exception:
        raise MethodError(f"{name} is a {type(value).__name__}, whose value is not known.{TRACED}") from None


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise MethodError(f"{name}={value!r:.80} is not True or False.")


def pattern(name: str, value: object) -> None:
    """Refuse what is no shell pattern of layers' names."""
    if not isinstance(value, str):
        raise MethodError(f"{name}={value!r} is no shell pattern on names, such as 'encoder*'.")


def function(name: str, value: object, what: str) -> None:
    """Refuse a parameter that is no function, or a class; ``what`` says which function is expected."""
    if not callable(value) or isinstance(value, type):
        raise MethodError(f"{name}={value!r} is no function: give {what}.")


def values(kernels: Array, shape: tuple[int, ...], *, backend: Backend) -> None:
    """Refuse kernels (*batch, *shape) with known values that contain non-finite or, with flushing on, tiny numbers.

    Raises
    ------
    KernelError
        If a value is NaN or infinite.
    BackendError
        If the processor replaces subnormal numbers by zero, and that could change the norm.
    """
    finite(kernels, shape, backend=backend)
    if not rounding.flushes():
        return
    computes_on_this_processor = backend.numpy_view(kernels) or backend.host() is backend
    if computes_on_this_processor and arithmetic.too_small(backend.to_numpy(kernels).reshape(-1, math.prod(shape))):
        raise BackendError(
            f"kernel of shape {shape} is so small that subnormal numbers matter, and the processor treats them "
            "as zero in this thread (torch.set_flush_denormal(True), or a library compiled with -ffast-math). "
            "Switch that off before the call, or measure the kernel in a process without it."
        )


def finite(x: Array, shape: tuple[int, ...], *, what: str = "kernel", backend: Backend) -> None:
    """Refuse an array with known values that contains NaN or infinity; ``what`` it is and its shape are for the error.

    Raises `KernelError`.
    """
    with np.errstate(all="ignore"):
        xp = backend.namespace(x)
        is_finite = xp.isfinite(x)
        if not bool(xp.all(is_finite)):
            count = int(xp.sum(xp.astype(~is_finite, xp.int32)))
            raise KernelError(
                f"{what} of shape {shape} holds {count} non-finite value{'s' * (count > 1)} (NaN or infinity). "
                "Expected finite numbers: look where the training diverged, or at how the file was read."
            )


@called_while_tracing
def _check_class(cls: type[Method]) -> None:
    cls.check_class()


def method(value: object) -> None:
    """Refuse an argument ``method`` that is not a method, or that breaks a rule of methods."""
    if isinstance(value, Method):
        _check_class(type(value))
        return
    if isinstance(value, type):
        description = f", the class {value.__name__},"
    elif isinstance(value, (str, int, float, type(None))):
        description = f"={value!r}"
    else:
        description = f" of type {type(value).__name__}"
    order = "" if isinstance(value, str) else "; the kernel comes first"
    raise MethodError(
        f"method{description} is not a method. Give a value such as specnorm.methods.TensorNorm(){order}. "
        "specnorm.methods has them all."
    )
