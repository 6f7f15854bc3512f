"""The plugin for JAX: compilation, tracing, and gradients by the pullbacks of programs.

It is registered for ``jax`` and for ``jaxlib``, since the class of concrete arrays is defined in jaxlib, and that of
tracers in jax. Other names are found by entry point (`specnorm.plugin.names_of`).
"""

from specnorm.plugin import names_of
from specnorm_jax.backend import BACKEND as BACKEND

__getattr__, __dir__ = names_of(__name__, "BACKEND")
