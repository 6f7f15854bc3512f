"""Activations that are functions of several operators."""

from __future__ import annotations

import math

import numpy as np

from specnorm_networks.certified.curves.composite import Composite
from specnorm_networks.certified.operators.joins import Product
from specnorm_networks.certified.operators.linear import Add, Scale
from specnorm_networks.certified.operators.piecewise import HardTanh
from specnorm_networks.certified.operators.smooth import Erf, Sigmoid, Softplus, Tanh
from specnorm_networks.certified.operators.steep import Power


def _line(slope: float, shift: float = 0.0, *, exact: bool = False) -> Scale:
    return Scale(np.array(slope), lambda: (np.array(shift), np.zeros(())), exact=exact)


SILU = Composite(((Sigmoid(), (0,)), (Product(), (0, 1))))
"""``x sigmoid(x)``."""
GELU = Composite(
    (
        (_line(1 / math.sqrt(2)), (0,)),
        (Erf(), (1,)),
        (_line(0.5, 0.5, exact=True), (2,)),
        (Product(), (0, 3)),
    )
)
"""``x Phi(x)``, Phi the distribution of a normal number: ``(1 + erf(x / sqrt(2))) / 2``."""
TANH_GELU = Composite(
    (
        (Power(3), (0,)),
        (_line(0.044715), (1,)),
        (Add((1.0, 1.0)), (0, 2)),
        (_line(2 * math.sqrt(2 / math.pi)), (3,)),
        (Sigmoid(), (4,)),
        (Product(), (0, 5)),
    )
)
"""``x (1 + tanh(y / 2)) / 2 = x sigmoid(y)`` with ``y = 2 sqrt(2 / pi) (x + 0.044715 x^3)``, near to `GELU`."""
MISH = Composite(
    (
        (Softplus(), (0,)),
        (Tanh(), (1,)),
        (Product(), (0, 2)),
    )
)
"""``x tanh(softplus(x))``."""
HARD_SWISH = Composite(
    (
        (_line(1.0, 3.0, exact=True), (0,)),
        (HardTanh(0.0, 6.0), (1,)),
        (Product(), (0, 2)),
        (_line(1 / 6), (3,)),
    )
)
"""``x min(max(x + 3, 0), 6) / 6``."""
