"""Which versions an audit's numbers come from, and when."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime

from specnorm.proof import backends


def environment(used: Iterable[str] = ()) -> dict[str, str]:
    """Date, versions and platform of this run, by name; ``used`` are the libraries that measured."""
    found = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "Python": platform.python_version()}
    found |= {name: str(backends.load(name).version()) for name in sorted({"numpy", *used})}
    return found | {"platform": f"{platform.system()} {platform.machine()}"}


def own_version() -> str:
    """Of specnorm; "unknown" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # here, since help needs none of it

    try:
        return version("specnorm-bounds")
    except PackageNotFoundError:
        return "unknown"
