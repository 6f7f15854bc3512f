"""What specnorm's own plugins and packages share with the core. It may change in every version.

`specnorm.plugin` has what other distributions may import.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
