"""Bounds on balls, and certificates: answers of other folders and packages, which are imported when they are asked for.

The stub beside this module says where each name is defined.
"""

from __future__ import annotations

from specnorm.proof import door

__getattr__, __dir__, __all__ = door(__name__)
