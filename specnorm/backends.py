"""Array libraries behind one interface: which plugin owns an array. It names no framework and imports none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specnorm import registry
from specnorm.errors import MixedBackends, NoBackend, SpecnormError
from specnorm.registry import API_VERSION, GROUP, describe, distribution, load, pass_an_array, refresh, root_for_class
from specnorm.types import Backend

__all__ = [
    "API_VERSION", "GROUP", "Backend", "Listing", "backend_for", "common_backend", "is_array", "listing", "load",
    "refresh", "root_for_class",
]  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """One registered plugin, as ``specnorm backends`` shows it."""

    name: str
    distribution: str
    version: str | None
    devices: tuple[str, ...]
    problem: str | None


def backend_for(x: object) -> Backend:
    """Return the plugin that owns an array.

    Raises
    ------
    NoBackend
        If no plugin claims the array's library, or the object is no array.
    BrokenBackend, BackendConflict, BackendVersion
        If the plugin that claims it cannot be used.
    """
    # The key goes through a function that returns a plain string, so that a compiler tracing this call (which runs
    # functions marked as constant once, for real) needs no call of importlib.
    backend: Backend = registry.loaded[root_for_class(type(x))]
    if not backend.is_array(x):
        raise NoBackend(f"{describe(type(x))} is not an array. {_held(x, backend)}{pass_an_array()}")
    reason = backend.refusal(x)
    if reason is not None:
        raise NoBackend(reason)
    return backend


def is_array(x: object) -> bool:
    """Whether some plugin calls an object an array of its own."""
    root = registry.owner_of(type(x))
    return root is not None and bool(registry.loaded[root].is_array(x))


def common_backend(arrays: Sequence[object]) -> Backend:
    """Return the one plugin that owns all arrays of a call.

    Raises
    ------
    MixedBackends
        If they belong to different libraries or lie on different devices.
    """
    owners = [backend_for(x) for x in arrays]
    if len({b.name for b in owners}) > 1:
        raise MixedBackends(
            f"arguments come from different array libraries: {', '.join(b.name for b in owners)}. "
            "Convert them to one library first."
        )
    # A tracer has no device yet.
    devices = [str(place) for x in arrays if (place := owners[0].device(x)) is not None]
    if len(set(devices)) > 1:
        raise MixedBackends(f"arguments lie on different devices: {', '.join(devices)}. Move them to one first.")
    return owners[0]


def listing() -> list[Listing]:
    """Every registered plugin with what it offers, or why it cannot be used."""
    rows = []
    for root, entries in sorted(registry.registered().items()):
        origin = " and ".join(distribution(e) for e in entries)
        try:
            backend = load(root)
            rows.append(Listing(root, origin, backend.version(), tuple(backend.devices()), None))
        except Exception as error:
            kind = "" if isinstance(error, SpecnormError) else f"{type(error).__name__}: "
            rows.append(Listing(root, origin, None, (), kind + str(error)))
    return rows


def _held(x: object, backend: Backend) -> str:
    """Advice for layers: the array that is meant is their weight."""
    if not backend.is_array(getattr(x, "weight", None)):
        return ""
    return "Its `.weight` is one: pass that, with the layer's geometry (stride, padding, groups ...). "
