"""Which plugins are installed, and which owns an array: found by entry point, read off the array's class alone.

A plugin is one object derived from `plugin.Backend`, registered in the entry-point group ``specnorm.backends`` under
the root package of the arrays it owns (`type(x).__mro__`). This file names no framework and imports none.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from specnorm.errors import BackendConflict, BackendVersion, BrokenBackend, NoBackend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


GROUP = "specnorm.backends"
FUNCTIONS = "specnorm.functions"
"""Functions that packages above the core give it: ``audit``, and ``main``, the command."""
API_VERSION = 2
"""Version of the plugin interface. A plugin states the one it was written for."""

DEFAULT = "array-api"
"""Under this name stands what serves the arrays of the standard that no plugin owns."""
_EXTRAS = ("torch", "jax", "cupy")

# The registries are caches of what is installed; `refresh` empties them.
loaded: dict[str, Any] = {}
"""Plugins by root package, once each has been asked for."""
_root_of_class: dict[type, str] = {}


def entry_points(*, group: str) -> Iterable[EntryPoint]:
    """Installed entry points of a group; their reader takes as long to import as all of specnorm."""
    from importlib import metadata

    return metadata.entry_points(group=group)


@functools.cache
def registered(group: str = GROUP) -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points by name, of plugins the root package; those of one distribution once."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        known = found.setdefault(entry.name, [])
        if all((e.value, distribution(e)) != (entry.value, distribution(entry)) for e in known):
            known.append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def function(name: str) -> Any:
    """A function that a package above the core registers in the group ``specnorm.functions``.

    Raises
    ------
    ModuleNotFoundError
        Naming the package that is missing.
    """
    from specnorm.text import install

    entry = next((entry for entry in entry_points(group=FUNCTIONS) if entry.name == name), None)
    package = None if entry is None else entry.module.partition(".")[0]
    try:
        if entry is not None:
            return entry.load()
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
    missing = f"the package {package}, which is missing" if package else "a package that is not installed"
    raise ModuleNotFoundError(f"specnorm.{name} needs {missing}: {install('cli')}.", name=package)


def refresh() -> None:
    """Forget which plugins are installed, so that the next call looks again."""
    registered.cache_clear()
    loaded.clear()
    _root_of_class.clear()


_MIXIN = "NDArrayOperatorsMixin"
"""NumPy's class of operators, which other libraries' arrays derive from: they are not NumPy's for that."""


def owner_of(cls: type) -> str | None:
    """Root package under which the owner of a class of arrays is registered, if one is; loads the plugin."""
    known = _root_of_class.get(cls)
    if known is not None and known in loaded:
        return known
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        if root in registered() and base.__name__ != _MIXIN:
            load(root)
            _root_of_class[cls] = root
            return root
    if hasattr(cls, "__array_namespace__") and DEFAULT in registered():
        root = cls.__module__.partition(".")[0]
        default: Any = load(DEFAULT)
        loaded.setdefault(root, default.serving(root))
        _root_of_class[cls] = root
        return root
    return None


def root_for_class(cls: type) -> str:
    """`owner_of`, or an error that says what is missing."""
    owner = owner_of(cls)
    if owner is not None:
        return owner
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__} - {"builtins"}
    if not roots:
        raise NoBackend(f"{describe(cls)} is not an array. {pass_an_array()}")
    from specnorm.text import install  # for errors alone

    extra = next((e for e in _EXTRAS if e in roots), None)
    advice = (
        f"Install one: {install(extra)}."
        if extra
        else "Convert it to one of those, or write a plugin: see 'Backends' in the documentation."
    )
    if hasattr(cls, "compute"):
        advice = f"If it is lazy, call its compute() first. {advice}"
    raise NoBackend(f"No backend for {describe(cls)}. Installed: {', '.join(sorted(registered())) or 'none'}. {advice}")


# Read by PyTorch's compiler: run these functions while tracing instead of tracing into them.
owner_of._dynamo_marked_constant = True  # type: ignore[attr-defined]
root_for_class._dynamo_marked_constant = True  # type: ignore[attr-defined]


def load(root: str) -> Any:
    """Load the plugin registered for a root package.

    Raises
    ------
    NoBackend
        If nothing is registered under that name.
    BrokenBackend, BackendConflict, BackendVersion
        If what is registered cannot be used.
    """
    if root in loaded:
        return loaded[root]
    entries = registered().get(root)
    if not entries:
        raise NoBackend(
            f"No backend is registered as {root!r}. Installed: {', '.join(sorted(registered())) or 'none'}."
        )
    if len(entries) > 1:
        owners = " and ".join(f"{distribution(e)} ({e.value})" for e in entries)
        raise BackendConflict(f"two distributions register a backend for {root!r}: {owners}. Uninstall one of them.")
    (entry,) = entries
    origin = f"backend {root!r} of {distribution(entry)} ({entry.value})"
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        from specnorm.text import install

        missing = error.name or ""  # "torch" is not installed, "torch.something" is another version
        if missing == root or (missing in _EXTRAS and missing in entry.value):
            hint = install(missing) if missing in _EXTRAS else f"install {missing}"
            raise BrokenBackend(f"{origin} needs {missing}, which is not installed: {hint}.") from error
        raise BrokenBackend(f"{origin} cannot be imported: {error}. Reinstall it.") from error
    except Exception as error:
        raise BrokenBackend(f"{origin} fails on import: {type(error).__name__}: {error}.") from error
    try:
        backend: Any = functools.reduce(getattr, filter(None, (entry.attr or "").split(".")), module)
    except AttributeError as error:
        raise BrokenBackend(f"{origin} names an object that does not exist: {error}.") from error
    _check(backend, origin)
    return loaded.setdefault(root, backend)


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
    # By name: the interface lies in a room above.
    if ("specnorm.types", "Backend") not in {(base.__module__, base.__qualname__) for base in type(backend).__mro__}:
        raise BrokenBackend(f"{origin} is a {type(backend).__name__}; expected an object derived from Backend.")


def distribution(entry: EntryPoint) -> str:
    """Whose an entry point is, in words."""
    return "an unnamed distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def describe(cls: type) -> str:
    """A class, in words."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def pass_an_array() -> str:
    """Advice for what is no array."""
    return f"Pass an array of one of these libraries: {', '.join(sorted(registered())) or 'none is installed'}."
