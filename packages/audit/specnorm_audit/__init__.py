"""Audit a model: measure its layers, and report a row for each, gates, and the network's bound.

`auditing` answers a question about a model. `readers` know the formats of files, `renderers` those of reports;
`measuring` measures.
"""

from __future__ import annotations

from specnorm.proof import door

__getattr__, __dir__, __all__ = door(__name__)
