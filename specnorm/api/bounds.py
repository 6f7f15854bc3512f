"""Public functions: upper bounds by single methods, comparison of all methods, values with gradients."""

from __future__ import annotations

import warnings
from html import escape
from typing import Any, Unpack

from specnorm import methods
from specnorm.api.registered import METHODS
from specnorm.backends import backend_for, text
from specnorm.backends.array_types import ArrayObject
from specnorm.backends.registry import called_while_tracing
from specnorm.backends.types import ArrayT
from specnorm.errors import EstimateWarning, GeometryError, MethodError, SpecnormError, Undecided
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import Geometry, Layer
from specnorm.running import checks
from specnorm.running.base import Method
from specnorm.running.measuring import run_plan
from specnorm.running.program import program_for
from specnorm.running.result import Result

_BOUNDS_UNDER_TRACERS = (
    "completion_bound, grid_bound, gram_bound and f4_bound are proven upper bounds under jit, compile and vmap too"
)


class Comparison(dict[str, Result]):
    """A dictionary from names of methods to results, which prints as a table."""

    def __repr__(self) -> str:
        """A table with a row for each method, in aligned columns."""
        widths = [max(map(len, column)) for column in zip(*self._rows(), strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in self._rows())

    def _repr_html_(self) -> str:
        """The table in HTML, for a notebook."""
        head, *rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = [(name, result.kind, text.shown(result.value, result.kind)) for name, result in self.items()]
        return [("method", "promise", "value"), *rows]


@takes_layers
def compare(kernel: KernelOrLayer[ArrayObject], **geometry: Unpack[Geometry]) -> Comparison:
    """Measure a layer's spectral norm by every method that supports its geometry.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    dict of str to Result
        Maps each method's name to its result with default parameters, in the order of ``METHODS``. It prints as a
        table. Methods that do not support the geometry, or cannot decide within their budget, are omitted.

    Raises
    ------
    KernelError, BackendError
        If the kernel cannot be measured.
    SpecnormError
        If no method supports the geometry; the error is that of the last method.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> print(specnorm.compare(kernel, input_shape=8)["reshaped"])
    lower 10.3923 (reshaped, input size (8, 8))
    """
    results = Comparison()
    refusal: SpecnormError | None = None
    for name, cls in METHODS.items():
        if cls.quantity != "norm":
            continue
        try:
            results[name] = run_plan(kernel, cls(), **geometry)
        except (MethodError, GeometryError, Undecided) as error:
            refusal = error
    if not results and refusal is not None:
        raise refusal
    return results


@takes_layers
def value_and_grad(
    kernel: KernelOrLayer[ArrayT],
    method: Method,
    **geometry: Unpack[Geometry],
) -> tuple[ArrayT, ArrayT]:
    """Value of a method and its gradient with respect to the kernel, on every backend, including NumPy and CuPy.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    method : Method
        Such as ``specnorm.methods.Grid()``.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    value : 0-d array
    gradient : array of the kernel's shape and dtype
        Where the norm is not differentiable, a subgradient; 0 for the zero kernel.

    Raises
    ------
    MethodError
        If the method has several values (``Unfoldings``).

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> value, gradient = specnorm.value_and_grad(kernel, specnorm.methods.FantasticFour())
    >>> gradient.shape
    (4, 3, 3, 3)
    """
    checks.method(method)
    backend = backend_for(kernel)
    x: Any = kernel
    program = program_for(method, tuple(x.shape), str(x.dtype), tuple(geometry.items()))
    if program.value_shape:
        raise MethodError(
            f"{method!r} has several values; value_and_grad needs one. Use specnorm.methods.FantasticFour()."
        )
    value, gradient = backend.value_and_grad(program, x)
    return value, gradient


@takes_layers
def tn_bound(
    kernel: KernelOrLayer[ArrayT],
    *,
    proven: bool | None = None,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Tensor-norm bound: an upper bound on a layer's spectral norm at every input size (Grishina et al. 2024).

    With circular padding and a stride, it holds at every size that the stride divides.

    The bound is TN, ``sqrt(prod k_j)`` times the spectral norm of the kernel as a tensor. An iteration approaches TN
    from below. A search then proves that the value is an upper bound on the layer's norm. If TN is too close to the
    norm for this proof, the value is 1.001 times TN. The gradient is that of TN, times the same factor.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    proven : bool, optional
        None: prove ``sigma* <= value`` if possible, where sigma* is the supremum of the layer's norm over all sizes.
        Under jit, compile and vmap, or if the proof fails, the value is an estimate, and an `EstimateWarning` says so.
        True: raise an error instead of returning an estimate. False: return the estimate without a proof.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    MethodError
        If ``proven`` is True under a tracer.
    Undecided
        If ``proven`` is True and the proof fails.

    Notes
    -----
    TN is the maximum of ``sqrt(prod k_j) |sum K[o, i, k, l] u_o v_i a_k b_l|`` over complex unit vectors. It is at
    least the supremum sigma* of the norm over all sizes, and at most each of the `unfolding_bounds`. For 1x1 kernels
    and kernels of ones, it equals sigma*. The search is alternating maximization from 12 starts at once: Fourier
    vectors at the best frequencies of a coarse grid, and random vectors with a fixed seed. It takes tens of sweeps (a
    few products of the kernel with a vector), for any input size; the proof, by branch and bound as in `enclose`,
    follows. If it fails at some frequency, the search restarts from there.

    The vectors must be complex even though the kernel is real: for an identity tap and a quarter turn, real vectors
    reach 1.41 of 2. From random starts alone, the search can end below the norm: for some published layers, one of
    eight seeds did, with at worst 0.73 times the norm. For a proof under a tracer, use `completion_bound` or
    `grid_bound`.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.tn_bound(kernel, stride=2):.2f}"
    '18.14'
    """
    run = run_plan(kernel, methods.TensorNorm(proven=proven), **geometry)
    if proven is None and run.kind == "estimate":
        _warn_estimate()
    return run.value


@called_while_tracing
def _warn_estimate() -> None:
    warnings.warn(
        "tn_bound is an estimate here, not a proven bound: a proof needs concrete values and enough time. "
        f"To accept an estimate, pass proven=False. {_BOUNDS_UNDER_TRACERS}.",
        EstimateWarning,
        stacklevel=4,  # the caller of `tn_bound`: of `takes_layers`, that function, this one
    )


@takes_layers
def f4_bound(kernel: KernelOrLayer[ArrayT], **geometry: Unpack[Geometry]) -> ArrayT:
    """Smallest unfolding bound ("Fantastic Four"): a proven upper bound on the spectral norm at every input size.

    With circular padding and a stride, it holds at every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Notes
    -----
    The value is at most ``sqrt(prod k_j)`` times the supremum of the norm over all sizes. It takes tens of products of
    each unfolding with a vector, and one Cholesky factorization, for the unfolding of smallest norm; under a tracer or
    with JAX, one eigenvalue problem and one factorization per unfolding. The cost does not depend on the input size.
    `grid_bound` and `enclose` are tighter. The gradient jumps where another unfolding becomes the smallest.

    Power iteration that has not converged returns less than the norm of an unfolding, which proves nothing.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.f4_bound(kernel, stride=2):.2f}"
    '18.14'
    """
    return run_plan(kernel, methods.FantasticFour(), **geometry).value


@takes_layers
def unfolding_bounds(kernel: KernelOrLayer[ArrayT], **geometry: Unpack[Geometry]) -> ArrayT:
    """Bounds by all unfoldings of the kernel: proven upper bounds on the spectral norm at every input size.

    With circular padding and a stride, they hold at every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    array, shape (2**(d+1) - 1,)
        For d spatial axes. First the ``2**d`` unfoldings with output channels in the rows and input channels in the
        columns, then the others.

    Notes
    -----
    Divide the kernel's axes (cout, cin and d spatial ones) into rows and columns of a matrix. For each of the
    ``2**(d+1) - 1`` splits, ``sqrt(prod k_j)`` times the norm of the matrix is an upper bound. Without this factor, the
    norm of one unfolding is Miyato's heuristic, a lower bound (`reshaped_norm`).

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.unfolding_bounds(kernel).shape
    (7,)
    """
    return run_plan(kernel, methods.Unfoldings(), **geometry).value


@takes_layers
def gram_bound(
    kernel: KernelOrLayer[ArrayT],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    n_iter: int = 6,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Gram-iteration bound: a proven upper bound on the spectral norm for every ``n_iter`` (Delattre et al. 2023).

    With circular padding and an ``input_shape``, the bound holds at that size. Otherwise it holds at every size; with
    circular padding and a stride, at every size that the stride divides. With concrete values, `enclose` is tighter;
    from 128 channels on, it is also faster for a bound at every size.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        Spatial input sizes of a circular layer. None: every size at once.
    n_iter : int, default 6
        Number of Gram products. The bound is at most ``min(cin, cout)**(1 / 2**(n_iter + 1))`` times the norm. For a
        bound at every size, this is multiplied by the factor of `grid_bound`, at most 1.03 in 2-D.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    MethodError
        If ``n_iter`` is not a positive integer.

    Notes
    -----
    At every frequency, the matrix A = G(theta) is replaced ``n_iter`` times by A*A. Let P be the result, of size ``p =
    min(cout, cin)``, with trace t and Frobenius norm f. Its largest eigenvalue is at most ``t/p + sqrt((p-1)/p (f**2 -
    t**2/p))`` [1]_, and the ``2**n_iter``-th root of this number bounds ``||G(theta)||``. It is exact after one product
    if all singular values are equal, as for orthogonal layers; with the Frobenius norm alone, the bound for an
    orthogonal 64x64 matrix is 3.3 % too large after 6 products.

    **Cost.** Half of the frequencies are visited, each with ``n_iter + 1`` small products. Up to 24 channels, these use
    the kernel's precision. With more, one or two products in float32 exclude most frequencies. A 3x3 kernel with 64
    channels takes 9 ms with 3 products and 10 ms with 6. For twelve Gaussian kernels with 64 channels, and twelve with
    128, the relative error of the iteration is at most 4e-4 with 6 products, and at most 4e-3 with 5.

    For every size, Delattre et al., arXiv:2402.00240, sum all taps of the last product instead. After 3 products, their
    bound is 1 to 14 % larger for trained layers, and exact for an orthogonal matrix.

    References
    ----------
    .. [1] Wolkowicz, Styan, "Bounds for eigenvalues using traces", Linear Algebra Appl. 29, 1980.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.gram_bound(kernel, 32):.2f}, {specnorm.gram_bound(kernel, padding_mode='zeros'):.2f}"
    '31.18, 31.96'
    """
    return run_plan(kernel, methods.Gram(n_iter=n_iter), input_shape=input_shape, **layer).value


@takes_layers
def grid_bound(kernel: KernelOrLayer[ArrayT], *, n: int | None = None, **geometry: Unpack[Geometry]) -> ArrayT:
    """Frequency-grid bound: a proven upper bound on the spectral norm at every input size, close to the supremum.

    With circular padding and a stride, it holds at every size that the stride divides. With concrete values, `enclose`
    is tighter.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    n : int, optional
        Grid points along each axis; None: ``10 (k_j - 1)``, for a bound at most 3 % above the supremum in 2-D.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    MethodError
        If ``n`` points do not determine the symbol (``n < k_j``).

    Notes
    -----
    Between the points of a grid with N_j frequencies on axis j, a trigonometric polynomial with k_j coefficients is at
    most ``prod f_j`` times its largest value on the grid, where ``f_j = min(1/cos(pi (k_j-1)/(2 N_j)), (1 -
    (k_j-1)/N_j)**-0.5)``. By default, a 3x3 kernel has 20x20 points and the factor 1.025; with twice as many points per
    axis, the factor is 1.0062. ``measure(kernel, Grid()).stats["lower"]`` is a proven lower bound from the same grid.

    Half of the grid is visited. Gram iteration in float32 excludes most of its points; each other point takes one
    Cholesky factorization of ``min(cout, cin)`` rows. Large layers (from 128 channels for a 3x3 kernel) are instead
    searched as in `enclose`, to the relative width ``prod f_j - 1``, if values are concrete, no gradient is needed and
    ``n`` is not given.

    On a grid of at most ``k_j - 1`` points, the values do not bound the polynomial. Published factors divide by zero or
    become negative there; here, such a grid raises an error.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.grid_bound(kernel, groups=2):.2f}"
    '22.60'
    """
    return run_plan(kernel, methods.Grid(n=n), **geometry).value
