"""The methods: values that compute or bound the spectral norm of a layer, by name."""

from __future__ import annotations

from specnorm.methods.base import Evaluation, Method, Needs, Stepped
from specnorm.methods.completion import Completion
from specnorm.methods.enclosure import Enclose
from specnorm.methods.fft import ExactFFT
from specnorm.methods.gram import Gram
from specnorm.methods.grid import Grid
from specnorm.methods.power import Power, PowerTopK
from specnorm.methods.tensor_norm import TensorNorm
from specnorm.methods.unfolding import FantasticFour, Reshaped, Unfoldings

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (TensorNorm, FantasticFour, Unfoldings, Gram, Grid, ExactFFT, Power, Reshaped, Enclose, Completion)
}
"""Name -> class: the registry's keys, JSON fields and ``--methods`` words."""

__all__ = [
    "METHODS",
    "Completion",
    "Enclose",
    "Evaluation",
    "ExactFFT",
    "FantasticFour",
    "Gram",
    "Grid",
    "Method",
    "Needs",
    "Power",
    "PowerTopK",
    "Reshaped",
    "Stepped",
    "TensorNorm",
    "Unfoldings",
]
