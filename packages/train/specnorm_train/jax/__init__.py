"""Training with JAX: constraints, penalties, optimizers for trees of parameters (Flax, Equinox, or any other pytree).

A rule of `kernels` decides which leaves are kernels, and with which geometry.
"""

from specnorm_jax.training.ball import BallState, muon_conv, spectral_ball
from specnorm_jax.training.constraint import init_spectral_norm, rescale, spectral_norm
from specnorm_jax.training.monitor import NormMonitor
from specnorm_jax.training.orthogonality import OrthogonalityPenalty
from specnorm_jax.training.penalty import SpectralPenalty
from specnorm_jax.training.projection import project_spectral_norm
from specnorm_jax.training.tracking import States
from specnorm_jax.training.trees import Kernel, Rule, equinox_layout, flax_layout, kernels, layout_of, with_geometry

__all__ = [
    "BallState", "Kernel", "NormMonitor", "OrthogonalityPenalty", "Rule", "SpectralPenalty",
    "States", "equinox_layout", "flax_layout", "init_spectral_norm", "kernels", "layout_of", "muon_conv",
    "project_spectral_norm", "rescale", "spectral_ball", "spectral_norm", "with_geometry",
]  # fmt: skip
