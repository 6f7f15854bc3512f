"""Find the backend (plugin) of an array, and list the installed ones. No framework is imported or named here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specnorm.backends import registry
from specnorm.backends.registry import (
    API_VERSION,
    GROUP,
    describe,
    distribution,
    load,
    pass_an_array,
    refresh,
    root_for_class,
)
from specnorm.backends.types import Backend
from specnorm.errors import MixedBackends, NoBackend, SpecnormError

__all__ = [
    "API_VERSION", "GROUP", "Backend", "Listing", "backend_for", "is_array", "listing", "load", "refresh",
    "root_for_class",
]  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """A registered plugin, as ``specnorm backends`` lists it.

    Parameters
    ----------
    name : str
        Root package of its arrays.
    distribution : str
        Name and version of the distribution that registers it.
    version : str or None
        Version of the array library; None if the plugin cannot be used.
    devices : tuple of str
    problem : str or None
        The reason why the plugin cannot be used.
    """

    name: str
    distribution: str
    version: str | None
    devices: tuple[str, ...]
    problem: str | None


def backend_for(x: object, *others: object) -> Backend:
    """Return the backend of an array, or the one of all arrays of a call.

    Raises
    ------
    NoBackend
        If no plugin is registered for the array's library, or the object is not an array.
    BrokenBackend, BackendConflict, BackendVersion
        If the registered plugin cannot be used.
    MixedBackends
        If the arrays are of different libraries or on different devices.
    """
    # `root_for_class` loads the plugin and returns a string. PyTorch's compiler calls it while tracing, since it is
    # marked as constant, and then traces this lookup, but no import.
    backend: Backend = registry.loaded[root_for_class(type(x))]
    if not backend.is_array(x):
        raise NoBackend(f"{describe(type(x))} is not an array. {_advice_for_layer(x, backend)}{pass_an_array()}")
    reason = backend.refusal(x)
    if reason is not None:
        raise NoBackend(reason)
    if others:
        _refuse_mixed((x, *others))
    return backend


def is_array(x: object) -> bool:
    """Whether an object is an array of a library with a plugin."""
    root = registry.owner_of(type(x))
    return root is not None and bool(registry.loaded[root].is_array(x))


def _refuse_mixed(arrays: Sequence[object]) -> None:
    """Refuse arrays of different libraries or on different devices."""
    owners = [backend_for(x) for x in arrays]
    if len({b.name for b in owners}) > 1:
        raise MixedBackends(
            f"arguments come from different array libraries: {', '.join(b.name for b in owners)}. "
            "Convert them to one library first."
        )
    devices = [owners[0].device(x) for x in arrays]
    # The device of a tracer may be unknown (None).
    device_names = [str(device) for device in devices if device is not None]
    if len(set(device_names)) > 1:
        raise MixedBackends(f"arguments are on different devices: {', '.join(device_names)}. Move them to one first.")


def listing() -> list[Listing]:
    """List all registered plugins, also those that cannot be used."""
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


def _advice_for_layer(x: object, backend: Backend) -> str:
    """Advice to pass the weight instead of an object that has one; empty for other objects."""
    if not backend.is_array(getattr(x, "weight", None)):
        return ""
    return "Its `.weight` is one: pass that, with the layer's geometry (stride, padding, groups ...). "
