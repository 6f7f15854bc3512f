"""Array libraries behind one interface, found by entry point. This file names no framework and imports none.

A plugin is one object derived from `plugin.Backend`, registered in the entry-point group ``specnorm.backends`` under
the root package of the arrays it owns. Which plugin owns an array is read off the array's class alone
(`type(x).__mro__`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specnorm.errors import (
    BackendConflict,
    BackendVersion,
    BrokenBackend,
    MixedBackends,
    NoBackend,
    SpecnormError,
)
from specnorm.plugin import API_VERSION, Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "API_VERSION", "GROUP", "Backend", "Listing", "backend_for", "common_backend", "listing", "load", "refresh",
    "root_for_class",
]  # fmt: skip

GROUP = "specnorm.backends"

_EXTRAS = ("torch", "jax", "cupy")


@dataclass(frozen=True)
class Listing:
    """One registered plugin, as ``specnorm backends`` shows it."""

    name: str
    distribution: str
    version: str | None
    devices: tuple[str, ...]
    problem: str | None


# -- lookup ------------------------------------------------------------------------------------------------------
# The registries are caches of what is installed; `refresh` empties them.
_loaded: dict[str, Backend] = {}
_root_of_class: dict[type, str] = {}


def entry_points(*, group: str) -> Iterable[EntryPoint]:
    """Installed entry points of a group; their reader takes as long to import as all of specnorm."""
    from importlib import metadata

    return metadata.entry_points(group=group)


@functools.cache
def _registered() -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, [])
        if all((e.value, _distribution(e)) != (entry.value, _distribution(entry)) for e in known):
            known.append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def refresh() -> None:
    """Forget which plugins are installed, so that the next call looks again."""
    _registered.cache_clear()
    _loaded.clear()
    _root_of_class.clear()


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
    backend = _loaded[root_for_class(type(x))]
    if not backend.is_array(x):
        raise NoBackend(f"{_describe(type(x))} is not an array. {_held(x, backend)}{_pass_an_array()}")
    reason = backend.refusal(x)
    if reason is not None:
        raise NoBackend(reason)
    return backend


def root_for_class(cls: type) -> str:
    """Root package under which the owner of a class of arrays is registered; loads the plugin."""
    known = _root_of_class.get(cls)
    if known is not None and known in _loaded:
        return known
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        if root in _registered():
            load(root)
            _root_of_class[cls] = root
            return root
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__} - {"builtins"}
    if not roots:
        raise NoBackend(f"{_describe(cls)} is not an array. {_pass_an_array()}")
    extra = next((e for e in _EXTRAS if e in roots), None)
    advice = (
        f"Install one: pip install 'specnorm-bounds[{extra}]'."
        if extra
        else "Convert it to one of those, or write a plugin: see 'Backends' in the documentation."
    )
    raise NoBackend(
        f"No backend for {_describe(cls)}. Installed: {', '.join(sorted(_registered())) or 'none'}. {advice}"
    )


# Read by PyTorch's compiler: run this function while tracing instead of tracing into it.
root_for_class._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
    devices = [str(owners[0].device(x)) for x in arrays]
    if len(set(devices)) > 1:
        raise MixedBackends(f"arguments lie on different devices: {', '.join(devices)}. Move them to one first.")
    return owners[0]


def load(root: str) -> Backend:
    """Load the plugin registered for a root package.

    Raises
    ------
    NoBackend
        If nothing is registered under that name.
    BrokenBackend, BackendConflict, BackendVersion
        If what is registered cannot be used.
    """
    if root in _loaded:
        return _loaded[root]
    entries = _registered().get(root)
    if not entries:
        raise NoBackend(
            f"No backend is registered as {root!r}. Installed: {', '.join(sorted(_registered())) or 'none'}."
        )
    if len(entries) > 1:
        owners = " and ".join(f"{_distribution(e)} ({e.value})" for e in entries)
        raise BackendConflict(f"two distributions register a backend for {root!r}: {owners}. Uninstall one of them.")
    (entry,) = entries
    origin = f"backend {root!r} of {_distribution(entry)} ({entry.value})"
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""  # "torch" is not installed, "torch.something" is another version
        if missing == root or (missing in _EXTRAS and missing in entry.value):
            hint = f"pip install 'specnorm-bounds[{missing}]'" if missing in _EXTRAS else f"install {missing}"
            raise BrokenBackend(f"{origin} needs {missing}, which is not installed: {hint}.") from error
        raise BrokenBackend(f"{origin} cannot be imported: {error}. Reinstall it.") from error
    except Exception as error:
        raise BrokenBackend(f"{origin} fails on import: {type(error).__name__}: {error}.") from error
    try:
        backend: Any = functools.reduce(getattr, filter(None, (entry.attr or "").split(".")), module)
    except AttributeError as error:
        raise BrokenBackend(f"{origin} names an object that does not exist: {error}.") from error
    _check(backend, origin)
    return _loaded.setdefault(root, backend)


def _check(backend: Any, origin: str) -> None:
    version = getattr(backend, "api_version", None)
    if not isinstance(version, int):
        raise BrokenBackend(
            f"{origin} is a {type(backend).__name__} without an api_version; expected a Backend object."
        )
    if version != API_VERSION:
        newer = version > API_VERSION
        raise BackendVersion(
            f"{origin} was written for version {version} of the plugin interface; this specnorm has {API_VERSION}. "
            f"Upgrade {'specnorm-bounds' if newer else 'the plugin'}."
        )
    if not isinstance(backend, Backend):
        raise BrokenBackend(f"{origin} is a {type(backend).__name__}; expected an object derived from Backend.")


def listing() -> list[Listing]:
    """Every registered plugin with what it offers, or why it cannot be used."""
    rows = []
    for root, entries in sorted(_registered().items()):
        origin = " and ".join(_distribution(e) for e in entries)
        try:
            backend = load(root)
            rows.append(Listing(root, origin, backend.version(), tuple(backend.devices()), None))
        except Exception as error:
            kind = "" if isinstance(error, SpecnormError) else f"{type(error).__name__}: "
            rows.append(Listing(root, origin, None, (), kind + str(error)))
    return rows


def _distribution(entry: EntryPoint) -> str:
    return "an unnamed distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _describe(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _held(x: object, backend: Backend) -> str:
    """Advice for layers: the array that is meant is their weight."""
    if not backend.is_array(getattr(x, "weight", None)):
        return ""
    return "Its `.weight` is one: pass that, with the layer's geometry (stride, padding, groups ...). "


def _pass_an_array() -> str:
    return f"Pass an array of one of these libraries: {', '.join(sorted(_registered())) or 'none is installed'}."
