"""Linear operators from linear functions of tensors; the adjoint comes from autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from specnorm.errors import MethodError
from specnorm.plugin import LinearOperator, Vector


def linear_operator(function: Callable[[Tensor], Tensor], x: Tensor) -> LinearOperator:
    """Make an operator for `specnorm.operator_norm` from a linear function of a tensor.

    Parameters
    ----------
    function : callable
        A linear function from tensors like ``x`` to a tensor. `operator_norm` compares it with its adjoint for a random
        pair of vectors.
    x : Tensor
        Any tensor with the shape, real dtype and device that the function takes.

    Returns
    -------
    LinearOperator

    Raises
    ------
    MethodError
        If a dtype is not real, or autograd cannot differentiate the function.
    """
    zero = torch.zeros_like(x, requires_grad=x.is_floating_point())
    with torch.enable_grad():
        image = function(zero)
    if not (x.is_floating_point() and image.is_floating_point()):
        raise MethodError(f"the function takes {x.dtype} to {image.dtype}; both must be real floating point.")
    if not image.requires_grad:
        raise MethodError(
            "autograd does not follow the function (detach, no_grad or NumPy in it?). Write the adjoint "
            "yourself: specnorm.operator_norm(matvec, rmatvec=..., shape=...) takes both as functions of NumPy vectors."
        )

    def matvec(v: Vector) -> Vector:
        with torch.no_grad():
            return _vector(function(_tensor(v, x)))

    def rmatvec(u: Vector) -> Vector:
        (product,) = torch.autograd.grad(image, zero, _tensor(u, image), retain_graph=True)
        return _vector(product)

    return LinearOperator(matvec, rmatvec, (image.numel(), x.numel()))


def _tensor(v: Vector, like: Tensor) -> Tensor:
    """Convert a vector to a tensor with the shape, dtype and device of another one."""
    return torch.from_numpy(v).to(like.device, like.dtype).reshape(like.shape)


def _vector(x: Tensor) -> Vector:
    """Convert a tensor to a float64 NumPy vector."""
    vector: Vector = x.reshape(-1).to("cpu", torch.float64).numpy()
    return vector
