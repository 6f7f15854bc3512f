"""Claims that a test makes up: what a rule makes of them is looked at, not whether they are true."""

from __future__ import annotations

from specnorm.certified.bound import EVERYWHERE, Lower, Upper, _lower, _upper


def assumed(value: float, what: object = EVERYWHERE) -> Upper:
    """As if it were proven."""
    return _upper(value, what, "assumed")


def assumed_lower(value: float, what: object = EVERYWHERE) -> Lower:
    """As if it were proven."""
    return _lower(value, what, "assumed")
