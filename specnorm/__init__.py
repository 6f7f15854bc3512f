"""Spectral norms of convolution layers, bounded, computed and proved, on any array library.

Methods as values, such as ``Gram(n_iter=8)``, are in `specnorm.methods`, and errors in `specnorm.errors`.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
