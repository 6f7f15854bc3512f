"""Patterns: several nodes that together compute one operator are recognized, and replaced by that operator.

Nodes are compared by structure alone: a pattern requires that its nodes read the same values, by name, along the same
axes, and that slices cover an axis exactly. The node that replaces a pattern computes the same value from the same
values. Like other nodes, it is executed and compared with the model.
"""

from specnorm_networks.certified.patterns.recognition import prepare, recognise_patterns, without_sorting

__all__ = ["prepare", "recognise_patterns", "without_sorting"]
