"""PyTorch for specnorm: what torch does differently, and nothing of the mathematics.

A program runs inside one opaque custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors
see a single node; its pullback is attached by an ``autograd.Function`` made of ordinary operations.
"""

from typing import Any

from specnorm.errors import renamed
from specnorm_torch.accuracy import certified_accuracy
from specnorm_torch.auditing import audit_module
from specnorm_torch.backend import BACKEND, TorchBackend
from specnorm_torch.baking import bake_, baked
from specnorm_torch.certifying import scale_down_
from specnorm_torch.constraint import SpectralNorm, SpectralRescaling, spectral_norm, spectral_rescaling
from specnorm_torch.modules import geometry_of
from specnorm_torch.networks import network_bound, network_graph
from specnorm_torch.nonexpansive import Nonexpansive, nonexpansive
from specnorm_torch.penalty import SpectralPenalty

__all__ = [
    "BACKEND",
    "Nonexpansive",
    "SpectralNorm",
    "SpectralPenalty",
    "SpectralRescaling",
    "TorchBackend",
    "audit_module",
    "bake_",
    "baked",
    "certified_accuracy",
    "geometry_of",
    "network_bound",
    "network_graph",
    "nonexpansive",
    "scale_down_",
    "spectral_norm",
    "spectral_rescaling",
]


def __getattr__(name: str) -> Any:
    """Names of before, for one release."""
    return globals()[renamed(__name__, name, {"audit": "audit_module", "certify_": "scale_down_"})]
