"""PyTorch for specnorm: what torch does differently, and nothing of the mathematics.

A program runs inside one opaque custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors
see a single node; its pullback is attached by an ``autograd.Function`` made of ordinary operations.
"""

from specnorm_torch.accuracy import certified_accuracy
from specnorm_torch.auditing import audit
from specnorm_torch.backend import BACKEND, TorchBackend
from specnorm_torch.baking import bake_, baked
from specnorm_torch.certifying import certify_
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
    "audit",
    "bake_",
    "baked",
    "certified_accuracy",
    "certify_",
    "geometry_of",
    "network_bound",
    "network_graph",
    "nonexpansive",
    "spectral_norm",
    "spectral_rescaling",
]
