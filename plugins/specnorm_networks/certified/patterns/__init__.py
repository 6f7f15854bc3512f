"""Patterns: operators that networks write out by several nodes, recognised by structure and put in place of these.

A pattern requires that values have the same names, that axes are the same, and that slices cover an axis exactly. The
node that replaces it computes the same value from the same values, and is executed and compared with the model as
others.
"""

from specnorm_networks.certified.patterns.recognition import prepare, recognise_patterns, without_sorting

__all__ = ["prepare", "recognise_patterns", "without_sorting"]
