"""Merge a convolution and a batch normalization into one kernel, so that the norm of both together can be measured."""

from __future__ import annotations

import math
from typing import Any, Unpack

from specnorm.backends import Backend, backend_for
from specnorm.backends.array_types import Array, Namespace
from specnorm.backends.types import AnyArray, ArrayT
from specnorm.errors import KernelError
from specnorm.geometry.layers import KernelOrLayer, takes_layers, unwrapped
from specnorm.geometry.spec import ConvSpec, Layer, dtype_to_compute_in
from specnorm.proofs import arithmetic
from specnorm.running import checks


@takes_layers
def fold_batch_norm(
    kernel: KernelOrLayer[ArrayT],
    gamma: ArrayT | None,
    running_var: ArrayT,
    eps: float,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Merge a convolution and the batch normalization after it (at inference) into one kernel.

    Every output channel is multiplied by ``gamma / sqrt(running_var + eps)``; mean and bias do not affect the norm.
    The norm of the merged kernel is often far below the product of the two norms.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape); transposed: (cin, cout // groups, *kernel_shape)
    gamma : array, shape (cout,), or None
        The normalization's scale (torch: ``weight``). None: all ones.
    running_var : array, shape (cout,)
        The normalization's variances, not negative.
    eps : float
        The number that the normalization adds to the variances.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`. ``groups``, ``transposed`` and ``layout`` determine the axis of the output channels.

    Returns
    -------
    array of the kernel's library, shape, dtype and layout
        Differentiable with respect to all three arrays if the library is.

    Raises
    ------
    KernelError
        If the shapes do not fit; with concrete values, also for negative variances and non-finite numbers.
    MixedBackends
        If the arrays are of different libraries or devices.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> folded = specnorm.fold_batch_norm(kernel, None, numpy.full(4, 4.0), 0.0)  # half the kernel
    >>> print(specnorm.enclose(folded))
    15.5884 <= norm <= 15.5885 (converged: rtol=0.001)
    """
    array: Any = kernel
    number: Any = eps
    statistics: dict[str, Any] = {"running_var": unwrapped(running_var)}
    if gamma is not None:
        statistics["gamma"] = unwrapped(gamma)
    backend = backend_for(array, *statistics.values())
    spec = ConvSpec.of(tuple(array.shape), **layer)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
        raise KernelError(f"eps={eps!r} is not a finite number of at least 0: give the normalization's, often 1e-5.")
    for name, x in statistics.items():
        if tuple(x.shape) != (spec.cout,):
            raise KernelError(
                f"{name} has shape {tuple(x.shape)}; expected ({spec.cout},), one number for each output channel of a "
                f"kernel of shape {tuple(array.shape)} with groups={spec.groups}, transposed={spec.transposed}, "
                f"layout={spec.layout!r}. Check these, or give the statistics of the normalization after this layer."
            )
        _check_values(name, x, eps, backend)
    gammas = None if gamma is None else statistics["gamma"][None, :]
    folded: ArrayT = fold_stack(array[None, ...], gammas, statistics["running_var"][None, :], eps, **layer)[0, ...]
    return folded


def fold_stack(
    kernels: AnyArray,
    gamma: AnyArray | None,
    running_var: AnyArray,
    eps: float,
    **layer: Unpack[Layer],
) -> AnyArray:
    """`fold_batch_norm` for a stack of kernels (n, *shape) with statistics (n, cout), without checks."""
    backend = backend_for(kernels)
    xp = backend.namespace(kernels)
    spec = ConvSpec.of(tuple(kernels.shape[1:]), **layer)
    working_dtype = getattr(xp, dtype_to_compute_in(str(kernels.dtype), tuple(kernels.shape[1:])))
    with arithmetic.exact(kernels, backend=backend):
        scale = 1 / xp.sqrt(xp.astype(running_var, working_dtype) + eps)
        if gamma is not None:
            scale = xp.astype(gamma, working_dtype) * scale
        folded = xp.astype(kernels, working_dtype) * _broadcastable(scale, spec, xp=xp)
        return xp.astype(folded, kernels.dtype)


def _broadcastable(scale: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Reshape numbers of output channels (n, cout) so that they broadcast with stored kernels (n, *shape)."""
    count = scale.shape[0]
    if spec.transposed:
        # Entry (i, j) of a kernel belongs to output j of the group that input i belongs to.
        by_group = xp.reshape(scale, (count, spec.groups, 1, -1))
        shape = (count, spec.groups, spec.cin // spec.groups, spec.cout // spec.groups)
        channels = xp.reshape(xp.broadcast_to(by_group, shape), (count, *spec.stored_channels))
    else:
        channels = xp.reshape(scale, (count, -1, 1))
    ones = (1,) * spec.ndim
    if spec.layout is not None and spec.layout.endswith("IO"):
        channels = xp.matrix_transpose(channels)
        return xp.reshape(channels, (count, *ones, *channels.shape[1:]))
    return xp.reshape(channels, (*channels.shape, *ones))


def _check_values(name: str, x: Array, eps: float, backend: Backend) -> None:
    """Refuse statistics that are not finite floats, and variances below 0, or 0 with ``eps=0``; tracers pass."""
    shape = tuple(x.shape)
    dtype_to_compute_in(str(x.dtype), shape, name)
    if backend.is_traced(x):
        return
    checks.finite(x, shape, what=name, backend=backend)
    xp = backend.namespace(x)
    if name == "running_var" and bool(xp.any(x < 0 if eps else x <= 0)):
        raise KernelError(
            f"running_var holds values below 0, or 0 with eps={eps!r}: expected variances. Check that it is not the "
            "running mean."
        )
