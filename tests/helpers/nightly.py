"""What nightly runs go through in whole and CI takes a sample of: the session ``soundness`` sets the profile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

NIGHTLY = os.environ.get("SPECNORM_HYPOTHESIS_PROFILE") == "nightly"


def sample(items: Sequence[T], every: int) -> Sequence[T]:
    """Each of the items nightly, else one in so many, the first among them."""
    return items if NIGHTLY else items[::every]
