"""The plugin for NumPy, the reference backend. For gradients, which NumPy lacks, use `specnorm.value_and_grad`."""

from specnorm_numpy.backend import BACKEND, NumpyBackend

__all__ = ["BACKEND", "NumpyBackend"]
