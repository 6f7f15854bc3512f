"""PyTorch for specnorm: what torch does differently, and nothing of the mathematics.

A program runs inside one opaque custom operator, so that ``torch.compile(fullgraph=True)``, ``vmap`` and fake tensors
see a single node; its pullback is attached by an ``autograd.Function`` made of ordinary operations.
"""

from specnorm_torch.accuracy import certified_accuracy
from specnorm_torch.auditing import audit_module
from specnorm_torch.backend import BACKEND, TorchBackend
from specnorm_torch.baking import bake_, baked
from specnorm_torch.certifying import rescale_
from specnorm_torch.constraint import GramRescaling, SpectralNorm, gram_rescaling, spectral_norm
from specnorm_torch.linear import linear_operator
from specnorm_torch.modules import geometry_of
from specnorm_torch.monitor import NormMonitor
from specnorm_torch.networks import network_bound, network_graph
from specnorm_torch.nonexpansive import Nonexpansive, nonexpansive
from specnorm_torch.penalty import SpectralPenalty
from specnorm_torch.together import step_together

__all__ = [
    "BACKEND",
    "GramRescaling",
    "Nonexpansive",
    "NormMonitor",
    "SpectralNorm",
    "SpectralPenalty",
    "TorchBackend",
    "audit_module",
    "bake_",
    "baked",
    "certified_accuracy",
    "geometry_of",
    "gram_rescaling",
    "linear_operator",
    "network_bound",
    "network_graph",
    "nonexpansive",
    "rescale_",
    "spectral_norm",
    "step_together",
]
