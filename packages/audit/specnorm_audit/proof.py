"""Bounds that an audit derives from those of its rows."""

from __future__ import annotations

import math

from specnorm.proof import host


def condition_up(upper: float, smallest: float) -> float:
    """Upper bound of a condition number, from an upper bound of the norm and a lower one of the smallest value."""
    return host.div_up(upper, smallest) if smallest > 0 else math.inf
