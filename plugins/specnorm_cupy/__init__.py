"""The plugin for CuPy. CuPy has no automatic differentiation: use `specnorm.value_and_grad`."""

from specnorm_cupy.backend import BACKEND

__all__ = ["BACKEND"]
