"""Training with JAX. The stub beside this file says where each name is defined."""

from specnorm._internal import door

__getattr__, __dir__, __all__ = door(__name__)
