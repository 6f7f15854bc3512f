"""The public function `enclose`: two proven bounds of a layer's norm."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import specnorm.above as above
from specnorm.backends import backend_for
from specnorm.enclosure.method import Enclose
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import ConvSpec, Layer
from specnorm.proofs.found import BoundSource, Outcome
from specnorm.running.measuring import run_plan
from specnorm.running.result import Enclosure, Result, converged, dtype_of
from specnorm.running.search import Clock

if TYPE_CHECKING:
    from specnorm.backends.array_types import ArrayObject


@takes_layers
def enclose(
    kernel: KernelOrLayer[ArrayObject],
    input_shape: int | tuple[int, ...] | None = None,
    *,
    rtol: float = 1e-3,
    budget: float | None = Clock.BUDGET,
    **layer: Unpack[Layer],
) -> Enclosure:
    """Prove lower and upper bounds on the spectral norm of a layer, rounding included.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    input_shape : int or tuple of int, optional
        The layer's spatial input sizes. None: bound the supremum over all sizes. For a circular layer with a stride,
        these are the sizes that the stride divides.
    rtol : float, default 1e-3
        Relative distance of the bounds at which the search stops. At one size, unless the padding is circular
        ``"same"``, the bounds may stay farther apart: see `docs/methods.md#enclosure`.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further proof is begun; the bounds are farther apart, but still
        proven. None: no limit.
    **layer
        ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``, ``padding``:
        see `specnorm.Geometry`.

    Returns
    -------
    Enclosure
        ``lower, upper = enclose(kernel)`` unpacks it. ``status`` says whether ``rtol`` was reached, and ``explain()``
        returns the proof as text. The bounds of a torch tensor have no gradient; ``measure(kernel, Enclose()).value``
        has one.

    Raises
    ------
    MethodError
        Under a tracer.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> print(specnorm.enclose(kernel))
    31.1769 <= norm <= 31.1770 (converged: rtol=0.001)
    >>> print(specnorm.enclose(kernel, 8, padding_mode="zeros", stride=2, padding=1))
    15.6996 <= norm <= 15.7075 (converged: rtol=0.001, by the layer's own matrix)
    """
    run = run_plan(kernel, Enclose(rtol=rtol, budget=budget), input_shape=input_shape, **layer)
    figures = run.stats
    upper = backend_for(kernel).as_proven(run.value)
    enclosure = Enclosure(
        lower=figures["lower"],
        upper=upper,
        witness=(figures["frequency"], figures["u"], figures["v"]),
        cells=int(figures["cells"]),
        levels=int(figures["levels"]),
        proof_dtype=figures["computed_in"],
        status=status_of(replace(run, value=upper)),
    )
    return enclosure.stated_by(partial(_certificate, kernel, run.spec)).proven_by(run.claims())


def _certificate(kernel: object, spec: ConvSpec, name: str) -> Any:
    """`Enclosure.certificate` for this kernel, by the package above the core that makes certificates."""
    return above.certificate_of(backend_for(kernel).to_numpy(kernel), spec, name)


def status_of(result: Result) -> str:
    """The text `Enclosure.status` for a result of `Enclose`: outcome and explanation."""
    spec = result.spec
    rtol = result.method.rtol
    source = BoundSource(int(result.stats["bound_source"]))
    is_own_search = not spec.symbols_suffice
    by_source = f", by {source.words}" if is_own_search else ""
    padding_factor = math.sqrt(spec.padding_gain_sq)
    lower = float(result.stats["lower"])
    upper = float(result.value)
    if bool(result.stats["converged"]):
        outcome, explanation = converged(lower, upper, rtol, dtype_of(result.value))
        explanation += by_source if outcome is Outcome.CONVERGED else ""
    elif padding_factor > 1 and source is BoundSource.SUPREMUM:
        outcome = Outcome.PADDING
        explanation = (
            f"upper includes the factor {padding_factor:.4g} of the padding, and may be as much too large; proven"
        )
    else:
        outcome = Outcome.SIZE if is_own_search else Outcome.BUDGET
        explanation = f"wider than rtol={rtol:g}{by_source}, and proven"
    sizes = f"; {spec.sizes_in_words}" if spec.input_shape is None and spec.needs_divisible_sizes else ""
    matrix = f"; {spec.matrix_in_words}" if spec.matrix_in_words else ""
    if lower <= 1 < upper:
        explanation += "; 1 is not refuted, see certify"
    same = f"; {spec.same_in_words}" if spec.same_in_words else ""
    return f"{outcome.value}: {explanation}{sizes}{matrix}{same}"
