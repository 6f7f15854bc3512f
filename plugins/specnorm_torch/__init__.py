"""The plugin for PyTorch: running programs, their gradients, and conveniences for modules and training.

A program runs inside of one custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors see a
single node. An ``autograd.Function``, or an ordinary product with the gradient, adds the derivative.
"""

from typing import Any

from specnorm_torch.backend import BACKEND, TorchBackend
from specnorm_torch.baking import bake_, baked
from specnorm_torch.linear import linear_operator
from specnorm_torch.modules import geometry_of
from specnorm_torch.training.ball import MuonConv, SpectralBall
from specnorm_torch.training.certifying import rescale_
from specnorm_torch.training.constraint import GramRescaling, SpectralNorm, gram_rescaling, spectral_norm
from specnorm_torch.training.monitor import NormMonitor
from specnorm_torch.training.orthogonality import OrthogonalityPenalty
from specnorm_torch.training.penalty import SpectralPenalty

__all__ = [
    "BACKEND",
    "GramRescaling",
    "MuonConv",
    "NormMonitor",
    "OrthogonalityPenalty",
    "SpectralBall",
    "SpectralNorm",
    "SpectralPenalty",
    "TorchBackend",
    "audit_module",
    "bake_",
    "baked",
    "geometry_of",
    "gram_rescaling",
    "linear_operator",
    "rescale_",
    "spectral_norm",
]


def __getattr__(name: str) -> Any:
    if name == "audit_module":
        # It belongs to another package, which imports this one.
        from specnorm.plugin import function

        return function(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
