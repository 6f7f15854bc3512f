"""Public functions for smallest singular values, condition numbers and isometry defects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np

from specnorm.backends import backend_for, text
from specnorm.backends.types import ArrayT
from specnorm.enclosure.proving import enclose
from specnorm.ends import proof as defect
from specnorm.ends.figures import outcome_of
from specnorm.ends.isometry import Isometry, IsometryEnds
from specnorm.ends.smallest import Smallest
from specnorm.errors import MethodError, TracerError, Undecided
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import Geometry, Layer
from specnorm.proofs.found import Outcome
from specnorm.running import checks
from specnorm.running.measuring import run_plan
from specnorm.running.proofs.scaling import in_dtype_of
from specnorm.running.result import Enclosure, Result, converged, dtype_of

if TYPE_CHECKING:
    from specnorm.backends.array_types import ArrayObject


@takes_layers
def enclose_smallest(
    kernel: KernelOrLayer[ArrayObject],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-3,
    budget: float | None = 30.0,
    **layer: Unpack[Layer],
) -> Enclosure:
    """Prove lower and upper bounds on the smallest singular value of a layer, rounding included.

    A layer has ``min(outputs, inputs)`` singular values. If it has at least as many outputs as inputs, then
    ``||A x|| >= lower ||x||`` for all x. If it has fewer, it maps some inputs to 0, and the inequality holds for its
    adjoint.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        As for `enclose`. None: the infimum over all sizes.
    rtol : float, default 1e-3
        As for `enclose`. The time of the search grows with the square of the condition number.
    budget : float or None, default 30
        As for `enclose`.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`. If borders cut off taps, as with zero padding, ``input_shape`` is required, with so
        few pixels that the layer's own matrix can be formed.

    Returns
    -------
    Enclosure
        The witness (frequency, u, v) attains ``upper``. If the value cannot be proven to be positive, ``lower`` is 0
        and ``status`` begins with "zero".

    Raises
    ------
    GeometryError
        If borders cut taps off, and there is no ``input_shape`` or the layer's own matrix is too large.
    MethodError
        Under a tracer.

    Notes
    -----
    The upper bound is ``||G(theta) v||`` for a unit vector v. The lower bound follows from an upper bound on the norm
    of another kernel, with ``2k - 1`` taps per axis: the docstring of ``specnorm/ends/proof.py`` has the lemma.
    Matrices and circular layers with at most 2,048 frequencies do not use it: a factorization of ``G(theta)*G(theta) -
    x I`` at each frequency proves the bound.

    With circular padding, all layers are supported. With zero padding and no ``input_shape``, the borders must not cut
    off a tap. The layer must be padded by ``dilation * (k - 1)`` on both sides, with at least as many outputs as
    inputs; or not padded, with fewer outputs than inputs; or transposed and not cropped, with at least as many outputs
    as inputs. Otherwise, ``input_shape`` is required, and the layer's Gram matrix may have up to 2,048 rows.

    The symbol of a kernel with two spatial axes and equally many inputs and outputs is usually singular at some
    frequency. Then ``lower`` is 0.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.asarray([[[3.0, 1.0]]])  # |3 + e^{i theta}|
    >>> print(specnorm.enclose_smallest(kernel))
    1.99999 <= smallest singular value <= 2.00001 (converged: rtol=0.001; every input size)
    """
    run = run_plan(kernel, Smallest(rtol=rtol, budget=budget), input_shape=input_shape, **layer)
    figures = run.stats
    # The value of `Smallest` is its lower bound; the upper one is a figure. `IsometryEnds` has it the other way round.
    lower = backend_for(kernel).as_proven(run.value)
    witness = (figures["frequency"], figures["u"], figures["v"])
    return _enclosure(run, (lower, figures["upper"]), witness)


@takes_layers
def enclose_isometry(
    kernel: KernelOrLayer[ArrayObject],
    *,
    scale: float | Literal["best"] | None = None,
    rtol: float = 1e-3,
    budget: float | None = 30.0,
    **geometry: Unpack[Geometry],
) -> Enclosure:
    """Bound the isometry defect: the smallest eps with ``| ||K x||**2 - s**2 ||x||**2 | <= eps s**2 ||x||**2``.

    `isometry_bound` is an upper bound on it that needs only matrix products.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    scale : float, "best" or None
        As for `isometry_bound`.
    rtol : float, default 1e-3
        As for `enclose`.
    budget : float or None, default 30
        As for `enclose`.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    Enclosure
        The witness has a frequency and no vectors.

    Raises
    ------
    GeometryError
        As for `isometry_bound`.
    MethodError
        Under a tracer.

    Notes
    -----
    With circular padding and an ``input_shape``, the bounds hold for that size. Use this for Cayley layers, which are
    orthogonal at one size only.

    Examples
    --------
    >>> import numpy, specnorm
    >>> print(specnorm.enclose_isometry(numpy.asarray([[[1.0, 0.1]]])))  # 1.1**2 - 1
    0.209999 <= isometry defect <= 0.210189 (converged: rtol=0.001; every input size)
    """
    backend = backend_for(kernel)
    # A search has no gradient, so a trainable kernel is detached.
    run = run_plan(backend.detach(kernel), IsometryEnds(scale=scale, rtol=rtol, budget=budget), **geometry)
    figures = run.stats
    # The value of `IsometryEnds` is its upper bound; the lower one is a figure.
    return _enclosure(run, (figures["lower"], backend.as_proven(run.value)), (figures["frequency"], (), ()))


def _enclosure(run: Result, ends: tuple[Any, Any], witness: tuple[Any, Any, Any]) -> Enclosure:
    """The enclosure from the run of `Smallest` or `IsometryEnds`, with the lower and the upper bound."""
    figures, spec, plan = run.stats, run.spec, run.method
    outcome = outcome_of(figures)
    explanation = f"wider than rtol={plan.rtol:g}, and proven"
    if outcome is Outcome.CONVERGED:
        outcome, explanation = converged(float(ends[0]), float(ends[1]), plan.rtol, dtype_of(ends[0]))
    elif outcome is Outcome.ZERO:
        explanation = f"no proof tells it from 0 at rtol={plan.rtol:g}"
    elif outcome is Outcome.CELLS:
        explanation += f"; {Outcome.CELLS.advice}"
    words = spec.sizes_in_words if spec.input_shape is None and spec.ndim else spec.matrix_in_words
    sizes = f"; {words}" if words else ""
    enclosure = Enclosure(
        *ends,
        witness=witness,
        cells=int(figures["cells"]),
        levels=int(figures["levels"]),
        proof_dtype=figures["computed_in"],
        status=f"{outcome.value}: {explanation}{sizes}",
        quantity=plan.quantity,
    )
    return enclosure.proven_by(run.claims())


@takes_layers
def condition_number(
    kernel: KernelOrLayer[ArrayObject],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-3,
    budget: float | None = 30.0,
    **layer: Unpack[Layer],
) -> Enclosure:
    """Prove bounds on the condition number: a layer's spectral norm divided by its smallest singular value.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        As for `enclose`. None: the supremum of the norm over all sizes, divided by the infimum of the smallest
        singular value.
    rtol : float, default 1e-3
        As for `enclose`, half of it for each of the two values.
    budget : float or None, default 30
        As for `enclose`, half of it for each of the two values.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        as for `enclose_smallest`.

    Returns
    -------
    Enclosure
        ``upper`` is infinite if the smallest singular value cannot be proven to be positive.

    Raises
    ------
    GeometryError, MethodError
        As for `enclose_smallest`.
    Undecided
        If a compiler ran the search.

    Examples
    --------
    >>> import numpy, specnorm
    >>> print(specnorm.condition_number(numpy.asarray([[[3.0, 1.0]]])))
    1.99999 <= condition number <= 2.00001 (converged: rtol=0.001)
    """
    checks.rtol(rtol)
    checks.budget(budget)
    seconds = None if budget is None else budget / 2
    # The squared width of both is that of the quotient, but for its rounding.
    rtol_of_each = math.sqrt(1 + rtol) - 1 - 4 * float(np.finfo(np.float64).eps)
    smallest = enclose_smallest(kernel, input_shape, rtol=rtol_of_each, budget=seconds, **layer)
    norm = enclose(kernel, input_shape, rtol=rtol_of_each, budget=seconds, **layer)
    if norm.claim is None or smallest.claim is None:
        raise Undecided("a condition number needs the bounds of both ends as claims, which a compiler does not keep.")
    lower, upper = defect.condition(norm.claim, smallest.claim)
    backend: Any = backend_for(kernel)
    xp = backend.namespace(norm.lower)
    ends = in_dtype_of(lower, norm.lower, xp=xp), in_dtype_of(upper, norm.upper, xp=xp)
    outcome, explanation = converged(float(ends[0]), float(ends[1]), rtol, dtype_of(ends[0]))
    unconverged = [each.outcome for each in (smallest, norm) if each.outcome is not Outcome.CONVERGED]
    if unconverged and outcome is not Outcome.CONVERGED:
        outcome, explanation = unconverged[0], "wider, and proven"
    enclosure = Enclosure(
        *ends,
        witness=smallest.witness,
        cells=norm.cells + smallest.cells,
        levels=max(norm.levels, smallest.levels),
        proof_dtype=norm.proof_dtype,
        status=f"{outcome.value}: {explanation}",
        quantity="condition number",
    )
    return enclosure.proven_by([(lower, upper)])


@takes_layers
def isometry_bound(
    kernel: KernelOrLayer[ArrayT],
    *,
    scale: float | Literal["best"] | None = None,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Bound how far a layer is from an isometry: eps with ``| ||K x||**2 - s**2 ||x||**2 | <= eps s**2 ||x||**2``.

    All singular values lie between ``s sqrt(1 - eps)`` and ``s sqrt(1 + eps)``. The bound needs only matrix products
    and no search, so it is also proven under jit, compile and vmap. If the layer has fewer outputs than inputs, the
    bound is for its adjoint; then ``measure(kernel, Isometry()).stats["adjoint"]`` is True.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    scale : float, "best" or None
        The number s. None: 1. "best": the root mean square of the singular values over all frequencies, without input
        pixels that no output reads.
    **geometry
        ``input_shape`` (with circular padding, eps is that of the layer at this size; otherwise, of all sizes),
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``: see
        `specnorm.Geometry`.

    Returns
    -------
    0-d array of the kernel's library, differentiable if the library is.

    Raises
    ------
    GeometryError
        If borders cut off taps: such a layer is not an isometry.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.eye(4)[:, :, None] * numpy.asarray([1.0, 0.1])
    >>> f"{specnorm.isometry_bound(kernel):.4f}, {specnorm.isometry_bound(kernel, scale='best'):.4f}"
    '0.4100, 0.3960'
    """
    return run_plan(kernel, Isometry(scale=scale), **geometry).value


@takes_layers
def is_isometry(
    kernel: KernelOrLayer[ArrayObject],
    tolerance: float,
    *,
    scale: float | Literal["best"] | None = None,
    budget: float | None = 30.0,
    **geometry: Unpack[Geometry],
) -> bool:
    """Decide by proof whether a layer is an isometry up to a tolerance of the squared norms.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    tolerance : float
        Largest eps, defined as for `isometry_bound`, with which the layer still counts as an isometry.
    scale : float, "best" or None
        As for `isometry_bound`.
    budget : float or None, default 30
        As for `enclose`.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    bool
        True only if ``eps <= tolerance`` is proven; False only if it is refuted.

    Raises
    ------
    MethodError
        For a negative tolerance.
    Undecided
        If eps is closer to the tolerance than rounding or the budget allows.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.asarray([[[1.0, 0.1]]])
    >>> specnorm.is_isometry(kernel, 0.22), specnorm.is_isometry(kernel, 0.2)
    (True, False)
    """
    largest_defect = checks.number("tolerance", tolerance)
    if not largest_defect >= 0:
        raise MethodError(f"tolerance={tolerance!r} is not a tolerance: give a number of at least 0.")
    backend = backend_for(kernel)
    if backend.is_traced(kernel):
        raise TracerError(is_isometry.__name__)
    # The answer is True or False and has no gradient, so a trainable kernel is detached.
    kernel = backend.detach(kernel)
    bound_without_search: Any = isometry_bound(kernel, scale=scale, **geometry)
    if float(bound_without_search) <= largest_defect:
        return True
    for rtol in (1e-2, 1e-4, 1e-7):
        enclosure = enclose_isometry(kernel, scale=scale, rtol=rtol, budget=budget, **geometry)
        lower = float(enclosure.lower)
        upper = float(enclosure.upper)
        if upper <= largest_defect:
            return True
        if lower > largest_defect:
            return False
        if enclosure.outcome is not Outcome.CONVERGED:
            break
    raise Undecided(
        f"the isometry defect is proven to lie between {text.number(lower, 'lower')} and "
        f"{text.number(upper, 'upper')}, which is too close to {largest_defect!r} to tell. "
        "Give a tolerance outside of that, or a larger budget."
    )
