"""Linear operators from linear functions of tensors; the adjoint comes from autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specnorm._internal import LinearOperator, Vector, check_function
from specnorm.errors import MethodError


def linear_operator(function: Callable[[Any], Any], x: Any) -> LinearOperator:
    """Make an operator for `specnorm.operator_norm` from a linear function of tensors.

    Parameters
    ----------
    function : callable
        A linear function from what ``x`` is to a tensor, or to a tuple, list or dictionary of tensors, such as the
        differences along each axis. `operator_norm` compares it with its adjoint for a random pair of vectors.
    x : Tensor, or tuple, list or dict of tensors
        Any tensors with the shapes, real or complex dtypes and device that the function takes.

    Returns
    -------
    LinearOperator
        A complex number is two real ones, so that the norm is the same.

    Raises
    ------
    MethodError
        If a tensor has no floating dtype, or autograd cannot differentiate the function.
    """
    check_function("function", function, "a linear function of tensors like x")
    inputs = [_differentiable(leaf) for leaf in _tensors_of(x, "the argument x")]
    with torch.enable_grad():
        images = list(_tensors_of(function(_rebuilt(x, iter(inputs))), "the function's value"))
    followed = [image for image in images if image.requires_grad]
    if not followed:
        raise MethodError(
            "autograd does not follow the function (detach, no_grad or NumPy in it?). Write the adjoint "
            "yourself: specnorm.operator_norm(matvec, rmatvec=..., shape=...) takes both as functions of NumPy vectors."
        )

    def matvec(v: Vector) -> Vector:
        with torch.no_grad():
            image = function(_rebuilt(x, iter(_as_tensors(v, inputs))))
            return _as_vector(list(_tensors_of(image, "the function's value")))

    def rmatvec(u: Vector) -> Vector:
        # What does not depend on x is 0 for a linear function.
        pairs = zip(images, _as_tensors(u, images), strict=True)
        cotangents = [cotangent for image, cotangent in pairs if image.requires_grad]
        products: Any = torch.autograd.grad(followed, inputs, cotangents, retain_graph=True, allow_unused=True)
        return _as_vector([torch.zeros_like(y) if g is None else g for g, y in zip(products, inputs, strict=True)])

    return LinearOperator(matvec, rmatvec, (_size(images), _size(inputs)))


def _tensors_of(value: Any, words: str) -> Iterator[Tensor]:
    """Yield the tensors of a tensor, tuple, list or dictionary, in order.

    Raises
    ------
    MethodError
        If something else is in it, or a dtype is not floating.
    """
    if isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors_of(part, words)
        return
    if not isinstance(value, Tensor):
        raise MethodError(f"{words} has a {type(value).__name__}; expected tensors, or a tuple, list or dict of them.")
    if not (value.is_floating_point() or value.is_complex()):
        raise MethodError(f"{words} has the dtype {value.dtype}; expected a real or complex floating one.")
    yield value


def _rebuilt(like: Any, tensors: Iterator[Tensor]) -> Any:
    """Put tensors in the places of those of another value."""
    if isinstance(like, dict):
        return {name: _rebuilt(part, tensors) for name, part in like.items()}
    if isinstance(like, (tuple, list)):
        parts = [_rebuilt(part, tensors) for part in like]
        return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
    return next(tensors)


def _differentiable(x: Tensor) -> Tensor:
    return torch.zeros_like(x, requires_grad=True)


def _size(tensors: list[Tensor]) -> int:
    """Count real numbers; a complex one is two."""
    return sum(x.numel() * (2 if x.is_complex() else 1) for x in tensors)


def _as_tensors(v: Vector, likes: list[Tensor]) -> list[Tensor]:
    """Convert a vector to tensors with the shapes, dtypes and devices of others."""
    parts = np.split(v, np.cumsum([_size([like]) for like in likes])[:-1])
    tensors = []
    for part, like in zip(parts, likes, strict=True):
        real_dtype = like.real.dtype if like.is_complex() else like.dtype
        numbers = torch.from_numpy(np.ascontiguousarray(part)).to(like.device, real_dtype)
        if like.is_complex():
            numbers = torch.view_as_complex(numbers.reshape(*like.shape, 2))
        tensors.append(numbers.reshape(like.shape))
    return tensors


def _as_vector(tensors: list[Tensor]) -> Vector:
    """Convert tensors to one float64 NumPy vector."""
    parts = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors]
    return np.concatenate([part.reshape(-1).to("cpu", torch.float64).numpy() for part in parts])
