"""The front door of verdicts: whether a layer's norm is at most a bound, by proof."""

from __future__ import annotations

import math
from typing import Any, Unpack

from specnorm.errors import Undecided
from specnorm.layers import takes_layers
from specnorm.measuring import measure
from specnorm.methods.base import as_number
from specnorm.methods.certify import Certify
from specnorm.problem.spec import ConvSpec, Geometry
from specnorm.types import ArrayObject


@takes_layers
def certify(kernel: ArrayObject, bound: float, **geometry: Unpack[Geometry]) -> bool:
    """Decide whether the norm is at most a bound, by proof.

    Circular with a stride, and no ``input_shape``: at every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
    bound : float
        Non-negative.
    **geometry
        See `specnorm.problem.spec.Geometry`.

    Returns
    -------
    bool
        True only if ``norm <= bound`` is proven; False only if it is refuted.

    Raises
    ------
    Undecided
        If the norm is closer to the bound than rounding or the budget allows; or than the factor of padding that
        repeats pixels.
    """
    given: Any = kernel
    found = measure(given, Certify(bound=as_number("bound", bound)), **geometry).stats
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
