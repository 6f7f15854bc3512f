"""Questions that extensions answer, found by entry point: about balls, labels, and whatever else is installed."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from specnorm.errors import MethodError

GROUP = "specnorm_networks.extensions"
"""Group of the entry points."""


def extension(name: str) -> Any:
    """Return what an installed extension has registered under a name.

    Raises
    ------
    MethodError
        If nothing is registered under that name.
    """
    for entry in metadata.entry_points(group=GROUP, name=name):
        return entry.load()
    raise MethodError(f"no installed package provides this: there is no entry point {name!r} in the group {GROUP!r}.")


def __getattr__(name: str) -> Any:
    """Public names of this package that extensions define."""
    if name in ("certified_accuracy", "margins"):
        return extension(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
