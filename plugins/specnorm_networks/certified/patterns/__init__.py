"""Operators that networks write out by several nodes, recognised by structure alone and put in their place.

A pattern asks for the same values by name, the same axis and slices that cover it exactly. The node that it makes
computes the same value from the same values, and is executed and compared as any other.
"""

from specnorm_networks.certified.patterns.recognition import prepare, recognise_patterns, without_sorting

__all__ = ["prepare", "recognise_patterns", "without_sorting"]
