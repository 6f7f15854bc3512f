"""The plugin for JAX: compilation, tracing, and gradients by the pullbacks of programs.

It is registered for ``jax`` and for ``jaxlib``, since the class of concrete arrays is defined in jaxlib, and that of
tracers in jax. The stub beside this file says where each name is defined.
"""

from specnorm._internal import door
from specnorm_jax.backend import BACKEND as BACKEND

__getattr__, __dir__, __all__ = door(__name__)
