"""Public functions for completion: an upper bound of the norm by matrix products alone, and the H that proves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from specnorm.backends import arrays, backend_for, text
from specnorm.backends.types import ArrayT
from specnorm.completion.method import Completion
from specnorm.completion.search import completion_shape
from specnorm.errors import MethodError
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import Geometry
from specnorm.running import checks
from specnorm.running.base import Evaluation, Stepped
from specnorm.running.stepping import stepped_program

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec


class Completed(NamedTuple):
    """A completion of a layer's kernel, and the bound that it proves.

    Attributes
    ----------
    kernel : array, shape (groups, rows, c, *block_kernel_shape)
        H for the block of each group, with c the smaller number of the block's channels. `complete` can start from it.
        It is zero if zero proves the smallest bound.
    bound : 0-d array
        Upper bound on the layer's spectral norm.
    """

    kernel: Any
    bound: Any

    def __repr__(self) -> str:
        """The bound and the shape of H, in one line."""
        return f"Completed({text.shown(self.bound, 'upper')} is a bound, kernel of shape {tuple(self.kernel.shape)})"


@dataclass(frozen=True)
class CompletionFrom(Completion, Stepped):
    """The method behind `complete`: a search as one step, whose state is H in the scale of the kernel.

    A state of zeros stands for no H: the search then begins with random numbers.
    """

    def state_shapes(self, spec: ConvSpec) -> Mapping[str, tuple[int, ...]]:
        """The shape of H."""
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
        """Search for a better H, beginning with the given one."""
        xp = ops.xp
        (h,) = state
        scaled, exponent = arrays.scale(blocks, xp=xp)
        exponent_of_entries = xp.reshape(exponent, (-1,) + (1,) * (h.ndim - 1))
        new_h, bounds = self.search_from(arrays.unscale(h, -exponent_of_entries, xp=xp), scaled, exponent, ops=ops)
        return bounds, (arrays.unscale(new_h, exponent_of_entries, xp=xp),)


@takes_layers
def complete(
    kernel: KernelOrLayer[ArrayT],
    *,
    rtol: float = 1e-2,
    n_iter: int | None = None,
    start: ArrayT | None = None,
    **geometry: Unpack[Geometry],
) -> Completed:
    """Search for a kernel H with ``K*K + H*H`` close to a multiple of the identity, which bounds the norm of K.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    rtol : float, default 1e-2
        Relative distance of the bound from an estimate of the norm at which the search stops.
    n_iter : int, optional
        Largest number of products, also under a tracer; None: 700. 0: the bound by ``start``.
    start : array, optional
        The initial H, such as that of an earlier kernel. None: small random numbers.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    Completed
        ``bound`` is an upper bound on the spectral norm at every input size, for every H and after any number of
        products. In a library with automatic differentiation, its gradient is that of the norm, times bound / norm.

    Raises
    ------
    KernelError, GeometryError, BackendError
    MethodError
        If ``rtol`` or ``n_iter`` is not a valid number, or ``start`` does not have the shape of H.

    Notes
    -----
    H has the taps of K and 4c outputs for c inputs. It is found by Gauss-Newton steps with conjugate gradients on the
    lags, by matrix products only. Let M_t be the lags of ``K*K + H*H``. For *any* H and any number v, ``||K||**2 <= v +
    ||M_0 - v I||_F + sum over t != 0 of ||M_t||_F``, at every input size, with circular or zero padding: see the
    docstring of ``specnorm/completion/proof.py``.

    For ResNet-20's convolutions, 1 % accuracy takes 39 to 56 products, and 0.1 % takes 83 to 151. Some kernels do not
    reach ``rtol`` in 700 products. In float32, rounding adds up to 0.1 %. JAX compiles the search in 4 to 10 s per
    shape. To keep a bound in training, use `specnorm_torch.SpectralBall`.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.cos(numpy.arange(108.0) ** 2).reshape(4, 3, 3, 3)
    >>> completed = specnorm.complete(kernel, rtol=1e-3)
    >>> completed.kernel.shape  # (groups, rows of H, channels, taps)
    (1, 12, 3, 3, 3)
    >>> hostile = numpy.full((1, 12, 3, 3, 3), 7.0)  # no H makes the bound false
    >>> bool(specnorm.completion_bound(kernel, start=hostile, n_iter=0) >= completed.bound)
    True
    """
    return _completed(kernel, rtol, n_iter, start, geometry)


@takes_layers
def completion_bound(
    kernel: KernelOrLayer[ArrayT],
    *,
    rtol: float = 1e-2,
    n_iter: int | None = None,
    start: ArrayT | None = None,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Completion bound: a proven upper bound on the spectral norm at every input size, by matrix products only.

    It is also proven under jit, compile and vmap. With circular padding and a stride, it holds at every size that the
    stride divides. With concrete values on a CPU, `enclose` is tighter and takes a fraction of the time.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    rtol, n_iter, start
        See `complete`.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

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
    bound: ArrayT = _completed(kernel, rtol, n_iter, start, geometry).bound
    return bound


def _completed(kernel: Any, rtol: float, n_iter: int | None, start: Any, geometry: Geometry) -> Completed:
    """`complete` of an array."""
    backend = backend_for(kernel, *([] if start is None else [start]))
    method = CompletionFrom(rtol=rtol, n_iter=n_iter)
    plan = stepped_program(method, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))
    ((_, shape),) = plan.state_shapes().items()
    first_h: Any = start
    if start is None:
        xp: Any = backend.namespace(kernel)
        first_h = xp.zeros(shape, dtype=getattr(xp, plan.result_dtype), device=backend.device(kernel))
    elif tuple(start.shape) != shape:
        raise MethodError(f"start has the shape {tuple(start.shape)}; the H of this layer has {shape}.")
    if not backend.is_traced(kernel):
        checks.values(kernel, plan.shape, backend=backend)
    bound, (h,) = backend.step(plan, kernel, (first_h,), 1)
    return Completed(h, bound)
