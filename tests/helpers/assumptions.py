"""Claims that a test makes up: what a rule makes of them is looked at, not whether they are true."""

from __future__ import annotations

import numpy as np

from specnorm.proofs.bound import ALL_FREQUENCIES, Lower, Upper
from specnorm.proofs.interval import Interval, _interval


def assumed(value: float, what: object = ALL_FREQUENCIES, digest: str = "") -> Upper:
    return Upper._by_rule(value, what, "assumed", digest=digest)


def assumed_lower(value: float, what: object = ALL_FREQUENCIES, digest: str = "") -> Lower:
    return Lower._by_rule(value, what, "assumed", digest=digest)


def interval(low: np.ndarray, high: np.ndarray) -> Interval:
    return _interval(low, high)
