"""The front door: every public function, a few lines each. Shapes are checked here; values where they are known."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack

from specnorm.backends import Array, backend_for
from specnorm.conv import Geometry, Layer
from specnorm.errors import GeometryError, MethodError, SpecnormError
from specnorm.methods import METHODS, ExactFFT, FantasticFour, Gram, Grid, Method, Reshaped, TensorNorm, Unfoldings
from specnorm.methods.fft import SingularValues
from specnorm.methods.matrix import GramIteration, MatrixNorm, PowerIteration
from specnorm.program import program_for
from specnorm.result import Result

ArrayT = TypeVar("ArrayT")
_BOUNDS_HERE = "grid_bound, gram_bound and f4_bound are proven upper bounds, also under jit, compile and vmap"


def measure(kernel: Array, method: Method, **geometry: Unpack[Geometry]) -> Result:
    """Measure a layer by one method, and return the whole answer.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        Real floating array of any supported library, 0 to 3 spatial axes; half precision is computed in float32.
    method : Method
        A value such as ``TensorNorm()`` or ``Gram(n_iter=8)``.
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    Result
        ``value`` is an array of the kernel's library and device, differentiable where the library is.

    Raises
    ------
    KernelError, GeometryError, MethodError, BackendError
    """
    if not isinstance(method, Method):
        raise MethodError(
            f"method={method!r} is not a method. Give a value such as specnorm.TensorNorm() "
            f"(names for the command line: {', '.join(METHODS)})."
        )
    backend = backend_for(kernel)
    plan = program_for(method, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))
    value, stats = backend.apply(plan, kernel)
    figures: dict[str, Any] = dict(zip(plan.method.stats, stats, strict=True))
    figures.update(backend=backend.name, device=str(backend.device(kernel)), traced=backend.is_traced(kernel))
    return Result(value, plan.method.kind(plan.spec), plan.method, plan.spec, figures)


def compare(kernel: Array, **geometry: Unpack[Geometry]) -> dict[str, Result]:
    """Measure a layer by every method that serves its geometry.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    dict of str to Result
        By method name, in the order of ``METHODS``; methods that refuse the geometry are left out.

    Raises
    ------
    KernelError, BackendError
        And the refusal of the last method, if every one refuses.
    """
    results: dict[str, Result] = {}
    refusal: SpecnormError | None = None
    for name, cls in METHODS.items():
        try:
            results[name] = measure(kernel, cls(), **geometry)
        except (MethodError, GeometryError) as error:
            refusal = error
    if not results and refusal is not None:
        raise refusal
    return results


def value_and_grad(kernel: ArrayT, method: Method, **geometry: Unpack[Geometry]) -> tuple[ArrayT, ArrayT]:
    """Value of a method and its gradient with respect to the kernel, on every backend (NumPy and CuPy too).

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    method : Method
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    value : 0-d array
    gradient : array of the kernel's shape and dtype
        Where the norm is not differentiable (ties, the zero kernel) one subgradient; zero for the zero kernel.

    Raises
    ------
    MethodError
        If the method has several values (``Unfoldings``).
    """
    backend = backend_for(kernel)
    x: Any = kernel
    plan = program_for(method, tuple(x.shape), str(x.dtype), tuple(geometry.items()))
    value, _, residuals = plan.forward(x, backend=backend)
    if plan.value_shape:
        raise MethodError(f"{method!r} has several values; value_and_grad needs one. Use specnorm.FantasticFour().")
    xp = backend.namespace(kernel)
    gradient = plan.pullback(residuals, xp.ones_like(value), backend=backend)
    return value, gradient


def tn_bound(kernel: ArrayT, *, certified: bool | None = None, **geometry: Unpack[Geometry]) -> ArrayT:
    """Tensor-norm bound of a layer's spectral norm at every input size.

    ``sqrt(prod k_j)`` times the spectral norm of the kernel as a tensor (Grishina et al. 2024). The tensor norm is
    approached from below, so this value is an *estimate* of a bound: from Fourier starts it has not been seen below
    the norm, but it is not yet proven. For a proven bound use `grid_bound` or `f4_bound`.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    certified : bool, optional
        None or False: the estimate. True asks for a proof, which this version cannot give for this method.
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    MethodError
        If ``certified`` is True.
    """
    if certified:
        raise MethodError(f"tn_bound cannot be certified yet; {_BOUNDS_HERE}.")
    value: ArrayT = measure(kernel, TensorNorm(), **geometry).value
    return value


def f4_bound(kernel: ArrayT, **geometry: Unpack[Geometry]) -> ArrayT:
    """Smallest unfolding bound ("Fantastic Four"): a proven upper bound at every input size.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.
    """
    value: ArrayT = measure(kernel, FantasticFour(), **geometry).value
    return value


def unfolding_bounds(kernel: ArrayT, **geometry: Unpack[Geometry]) -> ArrayT:
    """All unfolding bounds, each a proven upper bound at every input size.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    array, shape (2**(d+1) - 1,)
        First the ``2**d`` splits that separate the channels, then the others.
    """
    value: ArrayT = measure(kernel, Unfoldings(), **geometry).value
    return value


def gram_bound(
    kernel: ArrayT, input_shape: int | tuple[int, ...] | None = None, *, n_iter: int = 6, **layer: Unpack[Layer]
) -> ArrayT:
    """Gram-iteration bound of a circular layer at one input size: a proven upper bound at every ``n_iter``.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int
        Spatial input sizes. Required in this version.
    n_iter : int, default 6
        Gram products; the excess over the norm is at most ``min(cin, cout)**(1 / 2**(n_iter + 1))``.
    **layer
        See `specnorm.conv.Layer`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        Without ``input_shape``, or for another padding.
    """
    value: ArrayT = measure(kernel, Gram(n_iter=n_iter), input_shape=input_shape, **layer).value
    return value


def grid_bound(kernel: ArrayT, n: int | None = None, **geometry: Unpack[Geometry]) -> ArrayT:
    """Frequency-grid bound: a proven upper bound at every input size, close to the supremum.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    n : int, optional
        Grid points an axis; None: ``10 (k_j - 1)`` (at most 3 % above the supremum in 2-D).
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    MethodError
        If ``n`` points do not determine the symbol (``n < k_j``).
    """
    value: ArrayT = measure(kernel, Grid(n=n), **geometry).value
    return value


def conv_norm(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-6,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Exact norm of a circular layer at one input size, to a relative tolerance.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int
        Spatial input sizes. Required in this version.
    rtol : float, default 1e-6
        The value is at most this far, relatively, from the norm (or the kernel's own precision).
    **layer
        See `specnorm.conv.Layer`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        Without ``input_shape``, or for another padding.
    """
    value: ArrayT = measure(kernel, ExactFFT(rtol=rtol), input_shape=input_shape, **layer).value
    return value


def singular_values(
    kernel: ArrayT, input_shape: int | tuple[int, ...], *, k: int | None = None, **layer: Unpack[Layer]
) -> ArrayT:
    """Singular values of a circular layer at one input size, descending.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int
        Spatial input sizes.
    k : int, optional
        Only the k largest; None: all ``prod(input_shape) * min(cin, cout)``.
    **layer
        See `specnorm.conv.Layer`.

    Returns
    -------
    array, shape (k,)

    Raises
    ------
    GeometryError
        For another padding than circular.
    """
    value: ArrayT = measure(kernel, SingularValues(k=k), input_shape=input_shape, **layer).value
    return value


def reshaped_norm(kernel: ArrayT, **geometry: Unpack[Geometry]) -> ArrayT:
    """Norm of the kernel reshaped to (cout, cin * taps), Miyato's heuristic: a proven *lower* bound.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.conv.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.
    """
    value: ArrayT = measure(kernel, Reshaped(), **geometry).value
    return value


def matrix_norm(a: ArrayT) -> ArrayT:
    """Spectral norm of each matrix of a stack.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Real floating.

    Returns
    -------
    array, shape (...,)
        Exact to a few roundings; differentiable where the library is.
    """
    return _stack(a, MatrixNorm())


def power_iteration(a: ArrayT, n_iter: int = 100, *, seed: int = 0) -> ArrayT:
    """Power iteration: a proven lower bound of the spectral norm of each matrix of a stack, at every count.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Real floating.
    n_iter : int, default 100
        Products with ``a.T @ a``.
    seed : int, default 0
        Of the start vector.

    Returns
    -------
    array, shape (...,)
    """
    return _stack(a, PowerIteration(n_iter=n_iter, seed=seed))


def gram_iteration(a: ArrayT, n_iter: int = 6) -> ArrayT:
    """Gram iteration: a proven upper bound of the spectral norm of each matrix of a stack, at every count.

    Parameters
    ----------
    a : array, shape (..., m, n)
        Real floating.
    n_iter : int, default 6
        Gram products (Delattre et al., ICML 2023).

    Returns
    -------
    array, shape (...,)
    """
    return _stack(a, GramIteration(n_iter=n_iter))


def _stack(a: ArrayT, method: Method) -> ArrayT:
    """Run a matrix method on a stack: its leading axes are the program's batch."""
    backend = backend_for(a)
    x: Any = a
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise MethodError(f"array of shape {shape} is no matrix: expected (..., m, n).")
    value: ArrayT = backend.apply(program_for(method, shape[-2:], str(x.dtype), ()), x)[0]
    return value
