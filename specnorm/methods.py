"""The methods that compute or bound the spectral norm of a layer, and all that a method of your own needs.

`specnorm.measure` takes a method. `METHODS` finds its class by name. `Method`, `Needs`, `Evaluation` and `Stepped` are
for authors of methods; `Array`, `Namespace` and `ArrayOps` are for their annotations.
"""

from __future__ import annotations

from specnorm.doors import door

__getattr__, __dir__, __all__ = door(__name__)
