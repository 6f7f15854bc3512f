"""Names that the core offers and packages that are built on it define: audits, certificates, the command line.

The stub beside this module says where each is defined.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
