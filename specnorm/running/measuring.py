"""Run a plan on a kernel: `measure`, and `run_plan`, by which nearly all public functions compute."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from specnorm.backends import backend_for
from specnorm.backends.types import ArrayT
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import Geometry
from specnorm.running import checks
from specnorm.running.base import Method, Plan
from specnorm.running.program import program_for
from specnorm.running.result import Result

if TYPE_CHECKING:
    from specnorm.backends.array_types import ArrayObject
    from specnorm.backends.types import Backend
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper


@takes_layers
def measure(kernel: KernelOrLayer[ArrayObject], method: Method, **geometry: Unpack[Geometry]) -> Result:
    """Measure a layer by one method; return the value with its kind and the method's additional results.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        A real floating array of any supported library, with 0 to 3 spatial axes; or a convolution or linear layer of a
        framework. Half precision is computed in float32.
    method : Method
        Such as ``TensorNorm()`` or ``Gram(n_iter=8)``.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    Result
        ``value`` is an array of the kernel's library and device, differentiable if the library is.

    Raises
    ------
    KernelError, GeometryError, MethodError, BackendError

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> print(specnorm.measure(kernel, specnorm.methods.Gram(n_iter=8), input_shape=8))
    upper 31.1770 (gram, input size (8, 8))
    """
    checks.method(method)
    return run_plan(kernel, method, **geometry)


def proven(
    kernel: ArrayObject,
    method: Method,
    **geometry: Unpack[Geometry],
) -> tuple[Result, Sequence[tuple[Lower, Upper]]]:
    """`measure`, and its bounds as claims, if the method makes claims and no compiler ran it; else an empty tuple."""
    result = run_plan(kernel, method, **geometry)
    return result, result.claims()


def run_plan(given: KernelOrLayer[ArrayT], plan: Plan, **geometry: Unpack[Geometry]) -> Result[ArrayT]:
    """Run a plan, for public functions that have read a layer and made the plan themselves.

    A method whose figure ``proven`` is true has the kind "upper".
    """
    kernel: Any = given
    backend = backend_for(kernel)
    program = program_for(plan, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))
    if not program.spec.ndim and geometry.get("layout") is None and not backend.is_traced(kernel):
        _warn_of_filter(kernel, program.spec, backend)
    ran = backend.apply(program, kernel)
    figures: dict[str, Any] = dict(zip(plan.stats, ran.stats, strict=True))
    figures.update(backend=backend.name, device=str(backend.device(kernel)), traced=ran.computed_in is None)
    figures["computed_in"] = ran.computed_in or "unknown under a tracer"
    kind = program.plan.kind(program.spec)
    if "proven" in plan.stats and isinstance(plan, Method) and not figures["traced"] and bool(figures["proven"]):
        kind = "upper"
    return Result(ran.value, kind, program.plan, program.spec, figures, ran.claims or tuple)


_SMALLEST_FILTER = 5
_LARGEST_FILTER = 129
"""Sides of matrices that are looked at: point-spread functions alone have such shapes."""


def _warn_of_filter(kernel: ArrayObject, spec: ConvSpec, backend: Backend) -> None:
    """Warn of a matrix that looks like one filter: odd sides, no negative entry, and the largest in the middle."""
    rows, columns = spec.stored_channels
    has_odd_sides = rows % 2 and columns % 2 and min(rows, columns) >= _SMALLEST_FILTER
    if not has_odd_sides or max(rows, columns) > _LARGEST_FILTER:
        return
    entries = backend.to_numpy(backend.detach(kernel))
    middle = entries[rows // 2, columns // 2]
    if entries.min() >= 0 and middle == entries.max() > 0 and np.count_nonzero(entries) > max(rows, columns):
        warnings.warn(
            f"the array of shape {(rows, columns)} was taken for {spec.matrix_in_words}, that of a linear layer. It "
            "looks like one filter, such as a point-spread function psf: give psf[None, None] for the norm of the "
            'convolution, or layout="OI" if it is a matrix.',
            stacklevel=5,  # the caller of the public function: of `takes_layers`, that function, `run_plan`, this one
        )
