"""Names that the core offers and packages that are built on it define: audits, certificates, the command line.

The stub beside this module says where each is defined.
"""

from __future__ import annotations

from specnorm.backends.doors import door

__getattr__, __dir__, __all__ = door(__name__)

OTHER_MODULES = ("specnorm_networks", "specnorm_torch", "specnorm_jax.training", "specnorm_keras", "specnorm_audit")
"""Public modules in which a name may be that `specnorm` lacks: an error names them."""
OTHER_WORDS = {"lipschitz": "network_bound", "lipschitz_constant": "network_bound", "sigma_max": "conv_norm"}
"""What others call a function, and its name here."""
