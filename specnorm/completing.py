"""The front door of completion: an upper bound of the norm by products alone, and the kernel H that proves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from specnorm import arrays
from specnorm.backends import backend_for, common_backend
from specnorm.errors import MethodError
from specnorm.layers import takes_layers
from specnorm.methods import Completion
from specnorm.methods.base import Evaluation
from specnorm.problem.spec import Geometry
from specnorm.runtime.program import check_values
from specnorm.runtime.stepping import state_shapes, stepped_program
from specnorm.search.completion import completion_shape
from specnorm.types import ArrayT

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


class Completed(NamedTuple):
    """A completion of a layer's kernel, and the bound that it proves.

    Parameters
    ----------
    kernel : array, shape (groups, rows, c, *block_kernel_shape)
        H beside each group's block, c the smaller number of the block's channels: what `complete` can start from.
        Zeros where no H proves less than zeros do.
    bound : 0-d array
        Upper bound of the layer's norm.
    """

    kernel: Any
    bound: Any


@dataclass(frozen=True)
class CompletionFrom(Completion):
    """`Completion` as one step whose state is H in the kernel's own scale: what `complete` runs. Zeros: no H yet."""

    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """H alone."""
        return {"completion": completion_shape(spec.block_shape)}

    def advance(
        self,
        blocks: Array,
        state: tuple[Array, ...],
        spec: ConvSpec,
        *,
        sweeps: int,
        ops: ArrayOps,
    ) -> tuple[Evaluation, tuple[Array, ...]]:
        """Search from H."""
        xp, (h,) = ops.xp, state
        scaled, exponent = arrays.scale(blocks, xp=xp)
        wide = xp.reshape(exponent, (-1,) + (1,) * (h.ndim - 1))
        found = self.searched(scaled, arrays.unscale(h, -wide, xp=xp), ops=ops)
        after = xp.where(xp.reshape(found.helps, wide.shape), found.kernel, xp.zeros_like(found.kernel))
        value = self.evaluation(found.bound, found.products, found.gradient, exponent, ops=ops)
        return value, (arrays.unscale(after, wide, xp=xp),)


@takes_layers
def complete(
    kernel: ArrayT,
    *,
    rtol: float = 1e-2,
    n_iter: int | None = None,
    start: ArrayT | None = None,
    **geometry: Unpack[Geometry],
) -> Completed:
    """Search a kernel H with ``K*K + H*H`` close to a multiple of the identity, and the bound of K that it proves.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    rtol : float, default 1e-2
        Where to stop: relative distance of the bound from an estimate of the norm.
    n_iter : int, optional
        Products at most, under a tracer too; None: 700. 0: the bound that ``start`` proves.
    start : array, optional
        An H to begin from, such as the last one of a kernel that has moved since. None: small random numbers.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    Completed
        ``bound`` is an upper bound at every input size, whatever H is and however short the search was. Where the
        library differentiates, its gradient is that of the norm at its maximum, times bound over norm.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If ``rtol`` or ``n_iter`` is no such number, or ``start`` has another shape than H.
    """
    x: Any = kernel
    backend = backend_for(x) if start is None else common_backend([x, start])
    method = CompletionFrom(rtol=rtol, n_iter=n_iter)
    plan = stepped_program(method, tuple(x.shape), str(x.dtype), tuple(geometry.items()))
    ((_, shape),) = state_shapes(plan.key)
    begin: Any = start
    if start is None:
        xp: Any = backend.namespace(x)
        begin = xp.zeros(shape, dtype=getattr(xp, plan.result_dtype), device=backend.device(x))
    elif tuple(start.shape) != shape:
        raise MethodError(f"start has the shape {tuple(start.shape)}; the H of this layer has {shape}.")
    if not backend.is_traced(x):
        check_values(x, plan.shape, backend=backend)
    bound, after = backend.step(plan, x, (begin,), 1)
    return Completed(after[0], bound)


@takes_layers
def completion_bound(
    kernel: ArrayT,
    *,
    rtol: float = 1e-2,
    n_iter: int | None = None,
    start: ArrayT | None = None,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Completion bound: a proven upper bound at every input size, by products alone.

    So it is one under jit, compile and vmap too. Circular with a stride: every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    rtol, n_iter, start
        See `complete`.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    As `complete`.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.completion_bound(kernel, padding_mode='zeros'):.2f}"
    '31.18'
    """
    bound: ArrayT = complete(kernel, rtol=rtol, n_iter=n_iter, start=start, **geometry).bound
    return bound
