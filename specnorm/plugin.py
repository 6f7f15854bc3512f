"""The names that plugins for array libraries may import.

A plugin registers one object derived from `Backend`. Besides this module, plugins may use ``specnorm.__all__``,
`specnorm.errors`, `specnorm.methods` and `specnorm.testing`.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
