"""How an audit's numbers came about: which method gave which, computed in what, by which versions, when."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from datetime import UTC, datetime

from specnorm import backends
from specnorm.errors import BackendError
from specnorm.problem.spec import ConvSpec
from specnorm.result import Result
from specnorm_audit.rows import Origin, Row


def origin(result: Result) -> Origin:
    """What a report says of one result.

    Parameters
    ----------
    result : Result
        Of a layer with known values.
    """
    stats = result.stats
    words = []
    if "proven" in stats:
        words.append("proven" if bool(stats["proven"]) else "not proven within the budget")
    if "converged" in stats and not bool(stats["converged"]):
        words.append("wider than rtol asks")
    if result.kind == "upper" and result.spec.padding_gain_sq > 1:
        words.append("times the factor of the padding")
    return Origin(
        method=repr(result.method),
        promise=result.kind,
        about=_about(result.spec),
        computed_in=str(stats["computed_in"]),
        place=f"{stats['backend']}, {stats['device']}",
        detail="; ".join(words),
    )


def _about(spec: ConvSpec) -> str:
    if not spec.ndim:
        return "the matrix"
    if spec.input_shape is None:
        return spec.sizes
    kind = "the circular layer" if spec.padding_mode == "circular" else "the layer"
    return f"{kind} at {'x'.join(map(str, spec.input_shape))}"


def environment(rows: Iterable[Row]) -> dict[str, str]:
    """Date, versions and platform of this run, by name.

    Parameters
    ----------
    rows : iterable of Row
        What was measured: the libraries that took part are named.
    """
    used = {origin.place.partition(",")[0] for row in rows for origin in row.origins.values()}
    found = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "Python": platform.python_version()}
    found |= {name: _version_of(name) for name in ("numpy", *sorted(used - {"numpy"}))}
    return found | {"platform": f"{platform.system()} {platform.machine()}"}


def _version_of(backend: str) -> str:
    try:
        return str(backends.load(backend).version())
    except BackendError:  # registered under another name than its own
        return "unknown"


def own_version() -> str:
    """Of specnorm; "unknown" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # here, since help needs none of it

    try:
        return version("specnorm-bounds")
    except PackageNotFoundError:
        return "unknown"
