"""The front door: every public function, a few lines each. Shapes are checked here; values where they are known."""

from __future__ import annotations

import math
import warnings
from typing import Any, Unpack

from specnorm.backends import backend_for
from specnorm.errors import EstimateWarning, GeometryError, MethodError, SpecnormError, Undecided
from specnorm.methods import (
    METHODS,
    ExactFFT,
    FantasticFour,
    Gram,
    Grid,
    Method,
    Power,
    Reshaped,
    TensorNorm,
    Unfoldings,
)
from specnorm.methods.enclosure import Certify, Enclose
from specnorm.methods.fft import SingularValues
from specnorm.methods.matrix import GramIteration, MatrixNorm, PowerIteration
from specnorm.methods.rescaling import ChannelNorms, rescaled
from specnorm.result import Enclosure, Result
from specnorm.runtime.program import program_for
from specnorm.spec import Geometry, Layer
from specnorm.types import Array, ArrayT

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
        See `specnorm.spec.Geometry`.

    Returns
    -------
    Result
        ``value`` is an array of the kernel's library and device, differentiable where the library is.

    Raises
    ------
    KernelError, GeometryError, MethodError, BackendError
    """
    _check_method(method)
    backend = backend_for(kernel)
    plan = program_for(method, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))
    value, stats, known = backend.apply(plan, kernel)
    figures: dict[str, Any] = dict(zip(plan.method.stats, stats, strict=True))
    figures.update(backend=backend.name, device=str(backend.device(kernel)), traced=not known)
    figures["computed_in"] = plan.computed_in(kernel, backend=backend) if known else "unknown under a tracer"
    return Result(value, plan.method.kind_after(plan.spec, figures), plan.method, plan.spec, figures)


def compare(kernel: Array, **geometry: Unpack[Geometry]) -> dict[str, Result]:
    """Measure a layer by every method that serves its geometry.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.spec.Geometry`.

    Returns
    -------
    dict of str to Result
        By method name, in the order of ``METHODS``, each with its default parameters. Methods that refuse the geometry,
        or cannot decide within their budget, are left out.

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
        except (MethodError, GeometryError, Undecided) as error:
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
        See `specnorm.spec.Geometry`.

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
    _check_method(method)
    backend = backend_for(kernel)
    x: Any = kernel
    plan = program_for(method, tuple(x.shape), str(x.dtype), tuple(geometry.items()))
    if plan.value_shape:
        raise MethodError(f"{method!r} has several values; value_and_grad needs one. Use specnorm.FantasticFour().")
    value, gradient = backend.value_and_grad(plan, x)
    return value, gradient


def tn_bound(kernel: ArrayT, *, certified: bool | None = None, **geometry: Unpack[Geometry]) -> ArrayT:
    """Tensor-norm bound of a layer's spectral norm at every input size (Grishina et al. 2024).

    ``sqrt(prod k_j)`` times the spectral norm of the kernel as a tensor, found from below and then proven: the value
    is TN times 1 plus rounding, or times 1.001 where the gap above the norm is too small for the proof. Its gradient
    is that factor times TN's.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    certified : bool, optional
        None: proven (``sigma* <= value``) wherever values are known; an estimate under jit, compile and vmap, with an
        `EstimateWarning` when it is traced. True: proven, or an error. False: the estimate, everywhere.
    **geometry
        See `specnorm.spec.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    MethodError
        If ``certified`` is True under a tracer.
    Undecided
        If ``certified`` is True and the budget did not suffice.
    """
    result = measure(kernel, TensorNorm(certified=certified), **geometry)
    if certified is None and result.kind == "estimate":
        _warn_estimate()
    value: ArrayT = result.value
    return value


def _warn_estimate() -> None:
    warnings.warn(
        "tn_bound is an estimate here, not a proven bound: nothing can be proven under a tracer or beyond the budget. "
        f"certified=False accepts that; {_BOUNDS_HERE}.",
        EstimateWarning,
        stacklevel=3,
    )


# Read by PyTorch's compiler: warn once, while tracing.
_warn_estimate._dynamo_marked_constant = True  # type: ignore[attr-defined]


def f4_bound(kernel: ArrayT, **geometry: Unpack[Geometry]) -> ArrayT:
    """Smallest unfolding bound ("Fantastic Four"): a proven upper bound at every input size.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        See `specnorm.spec.Geometry`.

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
        See `specnorm.spec.Geometry`.

    Returns
    -------
    array, shape (2**(d+1) - 1,)
        First the ``2**d`` splits that separate the channels, then the others.
    """
    value: ArrayT = measure(kernel, Unfoldings(), **geometry).value
    return value


def gram_bound(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...] | None = None,
    *,
    n_iter: int | None = None,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Gram-iteration bound: a proven upper bound at every ``n_iter`` (Delattre et al. 2023, 2024).

    Of a circular layer at one input size; without ``input_shape``, and for zero padding, of the convolution itself, a
    bound at every size.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int, optional
        Spatial input sizes of a circular layer. None: every size at once.
    n_iter : int, optional
        Gram products. Circular: 6 unless given; the excess over the norm is at most
        ``min(cin, cout)**(1 / 2**(n_iter + 1))``. Else 3: the cost grows with ``prod(2**n_iter (k_j - 1) + 1)``, the
        number of taps after as many products.
    **layer
        See `specnorm.spec.Layer`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        For reflect and replicate padding.
    MethodError
        If ``n_iter`` is no count, or makes too many taps.
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
        See `specnorm.spec.Geometry`.

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


def spectral_rescaling(kernel: ArrayT, n_iter: int = 1, **geometry: Unpack[Geometry]) -> ArrayT:
    """Divide each channel by a number of its own, so that the layer has norm at most 1: a differentiable layer.

    ``n_iter=1`` is the almost-orthogonal layer (AOL) of Prach and Lampert, ECCV 2022; more Gram products are the
    spectral rescaling of Delattre et al., 2024, and come closer to 1. No search and no proof by cells: it holds by a
    diagonally dominant matrix, rounding included, also under jit, compile and vmap. Channels are those of the smaller
    side: inputs, or outputs where there are fewer.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        Transposed: (cin, cout // groups, *kernel_shape).
    n_iter : int, default 1
        Gram products, at least 1; the cost grows with ``prod(2**n_iter (k_j - 1) + 1)``.
    **geometry
        See `specnorm.spec.Geometry`. Every stride, dilation, zero or circular padding and input size is served by the
        same kernel; groups are rescaled one by one.

    Returns
    -------
    array of the kernel's library, shape, dtype and layout
        Its norm is at most 1, as rounded in its dtype (in half precision it is kept further below). Zero channels stay
        zero.

    Raises
    ------
    GeometryError
        For reflect and replicate padding.
    MethodError
        If ``n_iter`` is no count of at least 1, or makes too many taps.
    """
    found = measure(kernel, ChannelNorms(n_iter=n_iter), **geometry)
    given: Any = kernel
    result: ArrayT = rescaled(given, found.value, found.spec, xp=backend_for(given).namespace(given))
    return result


def conv_norm(
    kernel: ArrayT, input_shape: int | tuple[int, ...] | None = None, *, rtol: float = 1e-6, **layer: Unpack[Layer]
) -> ArrayT:
    """Exact norm of a circular layer at one input size, or its supremum over all sizes, to a relative tolerance.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int, optional
        Spatial input sizes. None: the supremum sigma* over all sizes, which also bounds zero padding.
    rtol : float, default 1e-6
        The value is at most this far, relatively, below the norm (or at the kernel's own precision).
    **layer
        See `specnorm.spec.Layer`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        At a size, for another padding.
    MethodError
        Without ``input_shape`` under a tracer.
    Undecided
        If the budget did not suffice for ``rtol``.
    """
    value: ArrayT = measure(kernel, ExactFFT(rtol=rtol), input_shape=input_shape, **layer).value
    return value


def power_norm(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...],
    *,
    n_iter: int = 100,
    seed: int = 0,
    rtol: float = 1e-6,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Norm of the layer itself at one input size, with its own padding and stride: a proven lower bound.

    Lanczos on A*A with the layer's own products, as power iteration in Ryu et al., ICML 2019, and Farnia et al., ICLR
    2019, in far fewer of them. The last quotient ``||A v|| / ||v||`` is rounded down with the rounding of the products
    counted, so the value is a bound wherever the iteration stopped.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        Transposed: (cin, cout // groups, *kernel_shape).
    input_shape : int or tuple of int
        The layer's own spatial input sizes.
    n_iter : int, default 100
        At most this many products with the layer and with its adjoint.
    seed : int, default 0
        Of the start vector: the same seed gives the same answer.
    rtol : float, default 1e-6
        Stop where a whole restart of the iteration gained relatively less than this.
    **layer
        See `specnorm.spec.Layer`: every stride, dilation, groups, padding mode and amount.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        If ``input_shape`` is None, or the layer has no output there.
    """
    value: ArrayT = measure(kernel, Power(n_iter=n_iter, seed=seed, rtol=rtol), input_shape=input_shape, **layer).value
    return value


def enclose(
    kernel: Array, input_shape: int | tuple[int, ...] | None = None, *, rtol: float = 1e-3, **layer: Unpack[Layer]
) -> Enclosure:
    """Enclose the norm between two proven numbers, rounding included.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int, optional
        The layer's own spatial input sizes. None: the supremum over all of them.
    rtol : float, default 1e-3
        Relative width asked for. At a size, with other padding than circular ``"same"``, it is reached where the
        smaller side of the layer's matrix (of one group) is at most 2048.
    **layer
        See `specnorm.spec.Layer`.

    Returns
    -------
    Enclosure
        ``status`` tells whether rtol was reached; where it was not the ends are wider, and as true. The witness of a
        layer enclosed by its matrix has no frequency; its vectors are an output and an input.

    Raises
    ------
    MethodError
        Under a tracer.
    """
    result = measure(kernel, Enclose(rtol=rtol), input_shape=input_shape, **layer)
    figures = result.stats
    if bool(figures["converged"]):
        status = f"converged: rtol={rtol:g}"
    elif not result.method.needs(result.spec).blocks:
        status = f"size: wider than rtol={rtol:g}, and proven; upper holds for larger inputs too"
    elif result.spec.copies > 1:
        status = f"padding: upper includes the factor {math.sqrt(result.spec.copies):.4g} of the padding; proven"
    else:
        status = f"budget: wider than rtol={rtol:g}, and proven"
    return Enclosure(
        lower=figures["lower"],
        upper=result.value,
        witness=(figures["frequency"], figures["u"], figures["v"]),
        cells=int(figures["cells"]),
        levels=int(figures["levels"]),
        proof_dtype=figures["computed_in"],
        status=status,
    )


def certify(kernel: Array, bound: float, **geometry: Unpack[Geometry]) -> bool:
    """Decide whether the norm is at most a bound, by proof.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    bound : float
        Non-negative.
    **geometry
        See `specnorm.spec.Geometry`.

    Returns
    -------
    bool
        True only if ``norm <= bound`` is proven; False only if it is refuted.

    Raises
    ------
    Undecided
        If the norm is closer to the bound than rounding or the budget allows.
    """
    found = measure(kernel, Certify(bound=float(bound)), **geometry).stats
    if bool(found["proven"]):
        return True
    if bool(found["refuted"]):
        return False
    raise Undecided(
        f"the norm is too close to {bound!r} to tell within rounding or the budget. enclose(kernel, rtol=1e-6) gives "
        "the proven interval; a bound outside it can be decided."
    )


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
        See `specnorm.spec.Layer`.

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
        See `specnorm.spec.Geometry`.

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


def _check_method(method: object) -> None:
    if not isinstance(method, Method):
        raise MethodError(
            f"method={method!r} is not a method. Give a value such as specnorm.TensorNorm() "
            f"(names for the command line: {', '.join(METHODS)})."
        )


def _stack(a: ArrayT, method: Method) -> ArrayT:
    """Run a matrix method on a stack: its leading axes are the program's batch."""
    backend = backend_for(a)
    x: Any = a
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise MethodError(f"array of shape {shape} is no matrix: expected (..., m, n).")
    value: ArrayT = backend.apply(program_for(method, shape[-2:], str(x.dtype), ()), x)[0]
    return value
