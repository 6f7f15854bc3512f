"""The front door of norms: exact at a size or over all of them, from below, and whole spectra."""

from __future__ import annotations

import math
from typing import Any, Literal, Unpack

from specnorm.array_types import ArrayObject
from specnorm.backends import backend_for
from specnorm.clock import BUDGET
from specnorm.errors import MethodError, Undecided
from specnorm.layers import takes_layers
from specnorm.measuring import measure
from specnorm.methods import ExactFFT, Power, PowerTopK, Reshaped, SymbolNorm
from specnorm.methods.base import Method, as_number
from specnorm.methods.certify import Certify
from specnorm.methods.determinant import LogDeterminant
from specnorm.methods.fft import NormAtSize, SingularValues
from specnorm.problem.spec import ConvSpec, Geometry, Layer
from specnorm.types import ArrayT


@takes_layers
def conv_norm(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-6,
    budget: float | None = BUDGET,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Exact norm of a layer at one input size, or its supremum over all sizes, to a relative tolerance.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int, optional
        Spatial input sizes. None: the supremum sigma* over all sizes, which also bounds zero padding. Circular with a
        stride: every size that the stride divides.
    rtol : float, default 1e-6
        The value is at most this far, relatively, below the norm (or at the kernel's own precision).
    budget : float or None, default 60
        Seconds; what has not begun by then is not tried. None: no limit.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        Without a size, for padding that repeats pixels.
    MethodError
        Under a tracer, without ``input_shape`` or with other padding than circular.
    Undecided
        If ``rtol`` was not reached within the budget: large layers with other padding than circular are known to 1e-3
        or so, the default is for those whose own matrix is small.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.conv_norm(kernel, 32):.4f}, {specnorm.conv_norm(kernel):.4f}"  # 9 sqrt(12)
    '31.1769, 31.1769'
    """
    own = _is_no_circle(kernel, input_shape, layer)
    method: Method = NormAtSize(rtol=rtol, budget=budget) if own else ExactFFT(rtol=rtol, budget=budget)
    value: ArrayT = measure(kernel, method, input_shape=input_shape, **layer).value
    return value


def _is_no_circle(
    kernel: ArrayObject,
    input_shape: int | tuple[int, ...] | None,
    layer: Layer,
) -> bool:
    """Whether a layer at a size has another norm than its symbols; what is no kernel is left to `measure` to refuse."""
    shape = getattr(kernel, "shape", None)
    if shape is None or input_shape is None:
        return False
    return not ConvSpec.of(tuple(shape), input_shape=input_shape, **layer).periodic


def _has_a_border(
    kernel: ArrayObject,
    input_shape: int | tuple[int, ...] | None,
    layer: Layer,
) -> bool:
    """Whether padding, or outputs that it takes away, make a layer at a size another map than its symbols'."""
    if not _is_no_circle(kernel, input_shape, layer):
        return False
    shape: Any = getattr(kernel, "shape", ())
    return not ConvSpec.of(tuple(shape), input_shape=input_shape, **layer).repeats_a_matrix


@takes_layers
def symbol_norm(
    kernel: ArrayT,
    *,
    points: int | None = None,
    vectors: int = 2,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Supremum of a layer's norm over all input sizes, from below: within 1 to 2 % of it, and attained by a plane wave.

    What training follows: it runs under jit, compile and vmap, costs a few products of the kernel, and is
    differentiable. Right singular vectors at every frequency of a coarse grid are iterated at once, and the best points
    are refined. `enclose` proves both ends where values are known.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    points : int, optional
        Points of the grid an axis. None: from the taps and channels.
    vectors : int, default 2
        Vectors at each point, at least: see `specnorm.methods.SymbolNorm`.
    **geometry
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``: see
        `specnorm.Geometry`. ``input_shape`` is refused.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is: a lower bound, its rounding included.

    Raises
    ------
    GeometryError
        With ``input_shape``: at a size use `power_norm` or `conv_norm`.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.symbol_norm(kernel):.4f}"  # 9 sqrt(12)
    '31.1769'
    """
    value: ArrayT = measure(kernel, SymbolNorm(points=points, vectors=vectors), **geometry).value
    return value


@takes_layers
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
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`: every stride, dilation, groups, padding mode and amount.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Raises
    ------
    GeometryError
        If ``input_shape`` is None, or the layer has no output there.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.power_norm(kernel, 8, padding_mode='zeros', stride=2):.4f}"
    '15.6996'
    """
    value: ArrayT = measure(kernel, Power(n_iter=n_iter, seed=seed, rtol=rtol), input_shape=input_shape, **layer).value
    return value


@takes_layers
def singular_values(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...],
    *,
    k: int | None = None,
    which: Literal["all", "largest", "smallest"] = "all",
    max_bytes: int = 2**32,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Singular values of a layer at one input size, descending.

    For circular padding, and where each output reads a patch of its own and no padding, whatever the mode (1x1 layers,
    and those whose kernel is their stride), by one SVD a frequency or one in all; else by an SVD of the layer's own
    matrix, of small layers.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    input_shape : int or tuple of int
        Spatial input sizes.
    k : int, optional
        Only so many; None: all, of which a circular layer has ``prod(input_shape) * min(cin, cout)``. Where other
        padding than circular is met, the largest come from block Lanczos (`PowerTopK`), each a proven lower bound of
        the value of its rank.
    which : {"all", "largest", "smallest"}, default "all"
        Which k: the largest, unless the smallest are asked for. With "largest" or "smallest" and no ``k``: one.
    max_bytes : int, default 4 GiB
        Refuse what takes more memory.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    array, shape (k,)

    Raises
    ------
    GeometryError
        If ``input_shape`` is None, or the layer has no output there.
    MethodError
        If it takes more than ``max_bytes``, or ``which`` is no such word.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.singular_values(kernel, 8, k=3).round(4)
    array([31.1769, 25.0892, 25.0892])
    """
    if which not in ("all", "largest", "smallest"):
        raise MethodError(f'which={which!r} is not "all", "largest" or "smallest".')
    if which != "all" and k is None:
        k = 1
    smallest = which == "smallest"
    method: Method
    if not _has_a_border(kernel, input_shape, layer):
        method = SingularValues(k=k, max_bytes=max_bytes, smallest=smallest)
    elif k is None or smallest:
        from specnorm.methods.own_values import OwnSingularValues  # for few

        method = OwnSingularValues(k=k, max_bytes=max_bytes, smallest=smallest)
    else:
        method = PowerTopK(k=k, n_iter=1000, rtol=1e-9)
    value: ArrayT = measure(kernel, method, input_shape=input_shape, **layer).value
    return value


@takes_layers
def slogdet(
    kernel: ArrayT,
    input_shape: int | tuple[int, ...],
    **layer: Unpack[Layer],
) -> tuple[ArrayT, ArrayT]:
    """Sign and logarithm of the determinant of a square circular layer at one input size, as invertible flows need it.

    Parameters
    ----------
    kernel : array, shape (channels, channels // groups, *kernel_shape)
    input_shape : int or tuple of int
        Spatial input sizes.
    **layer
        ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``, ``stride`` (1):
        see `specnorm.Geometry`.

    Returns
    -------
    sign : 0-d array
        1 or -1; 0 of a singular layer.
    logabsdet : 0-d array
        Exact up to rounding, differentiable where the library is; minus infinity of a singular layer.

    Raises
    ------
    GeometryError
        If the layer is not square, or not circular.

    Examples
    --------
    >>> import numpy, specnorm
    >>> sign, value = specnorm.slogdet(numpy.asarray([[[2.0, 1.0]]]), 3)  # circulant of 2, 1, 0
    >>> f"{float(sign * numpy.exp(value)):.4f}"
    '9.0000'
    """
    found = measure(kernel, LogDeterminant(), input_shape=input_shape, **layer)
    xp: Any = backend_for(kernel).namespace(found.value)
    return xp.astype(found.stats["sign"], found.value.dtype), found.value


@takes_layers
def reshaped_norm(kernel: ArrayT, **geometry: Unpack[Geometry]) -> ArrayT:
    """Norm of the kernel reshaped to (cout, cin * taps), Miyato's heuristic: a proven *lower* bound.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable where it is.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.reshaped_norm(kernel):.2f}"  # a third of the norm
    '10.39'
    """
    value: ArrayT = measure(kernel, Reshaped(), **geometry).value
    return value


@takes_layers
def certify(
    kernel: ArrayObject,
    bound: float,
    *,
    budget: float | None = BUDGET,
    **geometry: Unpack[Geometry],
) -> bool:
    """Decide whether the norm is at most a bound, by proof.

    Circular with a stride, and no ``input_shape``: at every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    bound : float
        Non-negative.
    budget : float or None, default 60
        Seconds; what has not begun by then is not tried. None: no limit.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    bool
        True only if ``norm <= bound`` is proven; False only if it is refuted.

    Raises
    ------
    Undecided
        If the norm is closer to the bound than rounding or the budget allows; or than the factor of padding that
        repeats pixels.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.certify(kernel, 31.2), specnorm.certify(kernel, 31.1)
    (True, False)
    """
    given: Any = kernel
    found = measure(given, Certify(bound=as_number("bound", bound), budget=budget), **geometry).stats
    if bool(found["proven"]):
        return True
    if bool(found["refuted"]):
        return False
    spec = ConvSpec.of(tuple(given.shape), **geometry)
    if spec.padding_gain_sq > 1:
        factor = math.sqrt(spec.padding_gain_sq)
        raise Undecided(
            f"neither proven nor refuted: padding_mode={spec.padding_mode!r} repeats pixels and may lift the norm by "
            f"the factor {factor:.4g}, which a proof has to include; without it, no norm above {bound!r} was found. "
            "Give input_shape, at which a small layer is enclosed itself, or a bound of at least "
            "enclose(kernel, ...).upper, which is proven."
        )
    raise Undecided(
        f"the norm is too close to {bound!r} to tell within rounding or the budget. enclose(kernel, rtol=1e-6) gives "
        "the proven interval; a bound outside it can be decided."
    )
