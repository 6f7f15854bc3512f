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
        stacklevel=3,
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

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.grid_bound(kernel, groups=2):.2f}"
    '22.60'
    """
    return run_plan(kernel, methods.Grid(n=n), **geometry).value
