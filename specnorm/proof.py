"""The names for packages that build proofs on layers: claims, intervals, outward arithmetic, norms, running a method.

Proven statements are of the types `Upper`, `Lower` and `Interval`. Only files called ``proof.py`` and
folders ``proofs`` and ``certified`` may call ``make_upper``, ``make_lower`` and ``make_interval``, and each call names
its rule. Everything else that a package
needs from the core is in ``specnorm.__all__``.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
