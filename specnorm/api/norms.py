"""Public functions for norms: exact ones, lower bounds, decisions, singular values, determinants."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, Unpack

from specnorm import methods
from specnorm.backends import backend_for
from specnorm.backends.array_types import ArrayObject
from specnorm.backends.types import ArrayOps, ArrayT
from specnorm.enclosure.certify import Certify
from specnorm.enclosure.norm_at_size import NormAtSize
from specnorm.errors import EstimateWarning, Undecided
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import ConvSpec, Geometry, Layer
from specnorm.running import checks
from specnorm.running.base import Plan, check_word
from specnorm.running.measuring import run_plan
from specnorm.running.search import Clock
from specnorm.spectrum.determinant import LogDeterminant
from specnorm.spectrum.singular_values import SingularValues


@takes_layers
def conv_norm(
    kernel: KernelOrLayer[ArrayT],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-6,
    budget: float | None = Clock.BUDGET,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Spectral norm of a layer at one input size, or its supremum over all sizes, to a relative tolerance.

    `enclose` with the same ``rtol`` takes about as long, proves an upper bound too, and returns what is proven where
    this function raises `Undecided`.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        Spatial input sizes. None: the supremum sigma* over all sizes, which also bounds the norm with zero padding.
        With circular padding and a stride, these are the sizes that the stride divides.
    rtol : float, default 1e-6
        The value is at most the norm, and below it by at most this relative distance, after the conversion to the
        kernel's dtype. With float32, 1e-6 is the smallest possible.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further step of the search begins. None: no limit.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    GeometryError
        If padding repeats pixels and ``input_shape`` is None.
    MethodError
        Under a tracer, if ``input_shape`` is None or the padding is not circular. If ``rtol`` is below the resolution
        of the kernel's dtype.
    Undecided
        If ``rtol`` was not reached within the budget; the text states the bounds that were proven. With non-circular
        padding, the norm of a large layer can be computed only to about 1e-3; the default ``rtol`` suits layers whose
        matrix is small.

    Notes
    -----
    In the Fourier basis, a circular convolution is block-diagonal, with the blocks G(theta) at the frequencies of the
    input size. Whole cells of frequencies are excluded as in `enclose`, so large inputs take little more time than
    small ones. Under a tracer, or where it is cheaper, all frequencies are visited, or those that Gram iteration cannot
    exclude.

    The circular norm depends on the size: for one 7x7 kernel, it was 0.88 times the supremum at 7 pixels. The same
    layer with zero padding on a larger input can have a larger norm. If the input is smaller than the kernel, the
    kernel wraps around, as in the layer.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.conv_norm(kernel, 32):.4f}, {specnorm.conv_norm(kernel):.4f}"  # 9 sqrt(12)
    '31.1769, 31.1769'
    >>> difference = numpy.array([[[1.0, -1.0]]])
    >>> [f"{specnorm.conv_norm(difference, size):.4f}" for size in (1, 2, 3, None)]
    ['0.0000', '2.0000', '1.7321', '2.0000']
    """
    spec = _spec_at_size(kernel, input_shape, layer)
    plan: Plan
    if spec is not None and not spec.is_circulant:
        plan = NormAtSize(rtol=rtol, budget=budget)
    else:
        plan = methods.ExactFFT(rtol=rtol, budget=budget)
    return run_plan(kernel, plan, input_shape=input_shape, **layer).value


def _spec_at_size(
    kernel: object,
    input_shape: int | tuple[int, ...] | None,
    layer: Layer,
) -> ConvSpec | None:
    """The geometry of a layer at a size; None without a size, or for an object that `measure` will refuse."""
    shape = getattr(kernel, "shape", None)
    if shape is None or input_shape is None:
        return None
    return ConvSpec.of(tuple(shape), input_shape=input_shape, **layer)


@takes_layers
def symbol_norm(
    kernel: KernelOrLayer[ArrayT],
    *,
    points: int | None = None,
    vectors: int = 2,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Lower bound on the supremum of a layer's spectral norm over all input sizes, usually within 1 to 2 % of it.

    It is meant for training: it runs under jit, compile and vmap, costs a few products with the kernel, and is
    differentiable. Power iteration runs at every frequency of a coarse grid at once, and the best points are refined. A
    plane wave attains the value. With concrete values, `enclose` also proves an upper bound.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    points : int, optional
        Points of the grid along each axis. None: chosen from the numbers of taps and channels.
    vectors : int, default 2
        Least number of vectors at each point: see `specnorm.methods.SymbolNorm`.
    **geometry
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``: see
        `specnorm.Geometry`. ``input_shape`` raises an error.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is: a proven lower bound, rounding included.

    Raises
    ------
    GeometryError
        If ``input_shape`` is given. At one size, use `power_norm` or `conv_norm`.

    Notes
    -----
    The state of the iteration, which training keeps from step to step, holds a frequency and two left singular vectors
    in every cell of a coarse grid. A *step* moves all frequencies by a Newton step, and all vectors by the recurrence
    of Chebyshev polynomials (power iteration with momentum). In a training step, a constraint takes one step, another
    one for each 1 % by which the kernel has changed, at most 12, and none if it has changed by less than 0.1 %. A
    *sweep* of `track` is four steps, of a matrix, too. There, the value is an ``estimate``: rounding is not included.

    A grid is needed because one set of vectors converges to one local maximum. If training divides a layer by its norm,
    its other local maxima grow until many are equally high.

    A matrix has one frequency, but training makes its largest singular values nearly equal. Its state is sixteen real
    vectors and those of the step before, moved by the recurrence of Chebyshev polynomials. A pass takes one step for
    each 0.6 % by which the matrix has changed, at most 64. With at most 32 rows or columns, the norm is computed by
    squaring the Gram matrix.

    The gradient with respect to entry (i, j) at tap k is ``Re(conj(u_i) v_j exp(i k.theta))``, with u, v and theta held
    fixed. Dividing a kernel by a lower bound on its norm leaves a norm above 1.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.symbol_norm(kernel):.4f}"  # 9 sqrt(12)
    '31.1769'
    """
    return run_plan(kernel, methods.SymbolNorm(points=points, vectors=vectors), **geometry).value


@takes_layers
def power_norm(
    kernel: KernelOrLayer[ArrayT],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    n_iter: int = 100,
    seed: int = 0,
    least_gain: float = 1e-6,
    budget: float | None = Clock.BUDGET,
    max_bytes: int = ArrayOps.memory,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Proven lower bound on a layer's spectral norm at one input size, by iteration, for any padding and stride.

    A block Lanczos method for A*A applies the layer A and its adjoint. It needs far fewer products than the power
    iteration of Ryu et al., ICML 2019, and Farnia et al., ICLR 2019. The value is the last quotient
    ``||A v|| / ||v||``, minus an allowance for rounding, so it is a lower bound wherever the iteration stops.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        Transposed: (cin, cout // groups, *kernel_shape).
    input_shape : int or tuple of int
        The layer's own spatial input sizes.
    n_iter : int, default 100
        Largest number of products with the layer and with its adjoint.
    seed : int, default 0
        Seed of the start vector. The same seed gives the same result.
    least_gain : float, default 1e-6
        Stop if a restart of the iteration increases the value by less than this relative amount. The norm may be
        farther above the value if several singular values are close to the largest; ``enclose`` bounds the distance.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further restart begins. None, and under a tracer: no limit.
    max_bytes : int, default 256 MiB
        Raise an error if the vectors of the iteration would take more memory.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`. All values are supported.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    GeometryError
        If ``input_shape`` is None, or the layer has no output there.
    MethodError
        If the iteration would take more memory than ``max_bytes``.

    Notes
    -----
    Each product costs one forward pass with one input; most layers need 50 to 200. The basis has at most 24 vectors and
    is restarted from its best half. ``measure(kernel, PowerTopK(k=3), input_shape=n)`` iterates with blocks of vectors
    and returns lower bounds on the k largest singular values. The result does not apply to other input sizes.

    The adjoint of a layer is in general not a convolution with another padding: an implementation that always pads by 1
    returned 0.6 times the norm of a 7x7 layer.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.power_norm(kernel, 8, padding_mode='zeros', stride=2):.4f}"
    '15.6996'
    >>> ones = numpy.ones((1, 1, 3, 3))
    >>> for mode in ("circular", "zeros", "reflect", "replicate"):
    ...     print(mode, f"{specnorm.power_norm(ones, 8, padding_mode=mode):.4f}")
    circular 9.0000
    zeros 8.2909
    reflect 9.5346
    replicate 9.0000
    """
    plan = methods.Power(n_iter=n_iter, seed=seed, least_gain=least_gain, budget=budget, max_bytes=max_bytes)
    return run_plan(kernel, plan, input_shape=input_shape, **layer).value


@takes_layers
def singular_values(
    kernel: KernelOrLayer[ArrayT],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    k: int | None = None,
    which: Literal["all", "largest", "smallest"] = "all",
    budget: float | None = Clock.BUDGET,
    max_bytes: int = ArrayOps.memory,
    **layer: Unpack[Layer],
) -> ArrayT:
    """Singular values of a layer at one input size, in descending order.

    Circular layers need one SVD per frequency. Layers whose outputs read disjoint patches and no padding (1x1 layers,
    and layers whose stride is their kernel's size) need one SVD. Other small layers need an SVD of the layer's matrix.
    Without k, they are computed in the kernel's precision: each is exact up to roundings of the largest value. The
    layer's matrix may then have at most 4,096 singular values.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int
        Spatial input sizes.
    k : int, optional
        Number of values. None: all; a circular layer has ``prod(input_shape) * min(cin, cout)``. The j-th of the k
        largest is a proven lower bound on the j-th singular value. For other small layers, block Lanczos
        (`PowerTopK`) computes the k largest.
    which : {"all", "largest", "smallest"}, default "all"
        Whether the k values are the smallest or the largest; "all" with k means the largest. With "largest" or
        "smallest", the default k is 1.
    budget : float or None, default 60
        Time limit of block Lanczos in seconds. When it is reached, no further restart begins, and an
        `EstimateWarning` says that the values are lower bounds. None: no limit.
    max_bytes : int, default 256 MiB
        Raise an error if the computation would take more memory.
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
        If the computation would take more memory than ``max_bytes``, or ``which`` is invalid.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.singular_values(kernel, 8, k=3).round(4)
    array([31.1769, 25.0892, 25.0892])
    """
    check_word("which", which, ("all", "largest", "smallest"))
    if which != "all" and k is None:
        k = 1
    smallest = which == "smallest"
    plan: Plan = SingularValues(k=k, max_bytes=max_bytes, smallest=smallest)
    spec = _spec_at_size(kernel, input_shape, layer)
    if k is not None and not smallest and spec is not None and not (spec.is_circulant or spec.repeats_a_matrix):
        plan = methods.PowerTopK(k=k, n_iter=1000, least_gain=1e-9, budget=budget, max_bytes=max_bytes)
    run = run_plan(kernel, plan, input_shape=input_shape, **layer)
    if not run.stats["traced"] and not run.stats.get("converged", True):
        warnings.warn(
            f"singular_values ended before its {k} values had converged (budget={budget!r} seconds): they are proven "
            "lower bounds. Give a larger budget; enclose(kernel, input_shape) bounds the first one from above, too.",
            EstimateWarning,
            stacklevel=3,
        )
    return run.value


@takes_layers
def slogdet(
    kernel: KernelOrLayer[ArrayT],
    input_shape: int | tuple[int, ...] | None = None,
    **layer: Unpack[Layer],
) -> tuple[ArrayT, ArrayT]:
    """Sign and logarithm of the determinant of a square circular layer at one input size, for normalizing flows.

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
        1 or -1; 0 for a singular layer.
    logabsdet : 0-d array
        Exact up to rounding, differentiable if the library is; minus infinity for a singular layer.

    Raises
    ------
    GeometryError
        If the layer is not square, or not circular.

    Notes
    -----
    As invertible flows need it (Hoogeboom, van den Berg, Welling, ICML 2019).

    Examples
    --------
    >>> import numpy, specnorm
    >>> sign, value = specnorm.slogdet(numpy.asarray([[[2.0, 1.0]]]), 3)  # circulant of 2, 1, 0
    >>> f"{float(sign * numpy.exp(value)):.4f}"
    '9.0000'
    """
    run = run_plan(kernel, LogDeterminant(), input_shape=input_shape, **layer)
    xp: Any = backend_for(kernel).namespace(run.value)
    return xp.astype(run.stats["sign"], run.value.dtype), run.value


@takes_layers
def reshaped_norm(kernel: KernelOrLayer[ArrayT], **geometry: Unpack[Geometry]) -> ArrayT:
    """Norm of the kernel reshaped to (cout, cin * taps), Miyato's heuristic: a *lower* bound on the spectral norm.

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
    ``torch.nn.utils.spectral_norm`` and many papers use this number as the norm of the layer [1]_. In general, the
    layer's norm is larger, so a layer divided by it need not be 1-Lipschitz. Its square is the norm of the mean of
    ``G(theta) G(theta)*`` over all frequencies. At an input size where some output reads a whole patch of pixels, it
    also bounds the layer's norm from below, for any padding; smaller inputs raise an error. For a transposed layer, the
    first axis of the stored kernel gives the rows. Multiplied by ``sqrt(prod k_j)``, it is an upper bound
    (`unfolding_bounds`).

    References
    ----------
    .. [1] Miyato, Kataoka, Koyama, Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> f"{specnorm.reshaped_norm(kernel):.2f}"  # a third of the norm
    '10.39'
    >>> f"{specnorm.reshaped_norm(numpy.ones((1, 1, 3, 3)) / 9):.4f}"  # a mean filter, whose norm is 1
    '0.3333'
    """
    return run_plan(kernel, methods.Reshaped(), **geometry).value


@takes_layers
def certify(
    kernel: KernelOrLayer[ArrayObject],
    bound: float,
    *,
    budget: float | None = Clock.BUDGET,
    **geometry: Unpack[Geometry],
) -> bool:
    """Decide by proof whether a layer's spectral norm is at most a bound.

    Without ``input_shape``, this is the supremum over all sizes; with circular padding and a stride, over all sizes
    that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    bound : float
        Non-negative.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further step of the search begins. None: no limit.
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
        If the norm is too close to the bound for the budget, for rounding or, with padding that repeats pixels, for the
        factor of the padding.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.certify(kernel, 31.2), specnorm.certify(kernel, 31.1)
    (True, False)
    """
    # A verdict has no gradient.
    array: Any = backend_for(kernel).detach(kernel)
    figures = run_plan(array, Certify(bound=checks.number("bound", bound), budget=budget), **geometry).stats
    if bool(figures["proven"]):
        return True
    if bool(figures["refuted"]):
        return False
    spec = ConvSpec.of(tuple(array.shape), **geometry)
    if spec.padding_gain_sq > 1:
        factor = math.sqrt(spec.padding_gain_sq)
        raise Undecided(
            f"neither proven nor refuted: padding_mode={spec.padding_mode!r} repeats pixels and may raise the norm by "
            f"the factor {factor:.4g}, which a proof has to include; without it, no norm above {bound!r} was found. "
            "Give input_shape, at which a small layer is enclosed itself, or a bound of at least "
            "enclose(kernel, ...).upper, which is proven."
        )
    of_matrix = f" of {spec.matrix_in_words}" if spec.matrix_in_words else ""
    raise Undecided(
        f"the norm{of_matrix} is too close to {bound!r} to tell within rounding or the budget. "
        "enclose(kernel, rtol=1e-6) gives the proven interval; a bound outside it can be decided."
    )
