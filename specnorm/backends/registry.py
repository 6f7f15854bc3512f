"""Find the installed plugins by their entry points, and the plugin of an array by its class.

A plugin is an object derived from `plugin.Backend`. It is registered in the entry-point group ``specnorm.backends``,
under the root package of its arrays' classes. Frameworks are named here only for advice on what to install.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from specnorm.backends.text import install
from specnorm.errors import BackendConflict, BackendVersion, BrokenBackend, NoBackend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


GROUP = "specnorm.backends"
"""Group of the entry points of plugins."""
READERS = "specnorm.layers"
"""Group of the entry points of `LayerReader`, by the root package of the layers' classes."""
API_VERSION = 2
"""Version of the plugin interface. A plugin states the version for which it was written."""

_REQUIRED = (
    "name", "framework", "api_version", "is_array", "namespace", "version", "asarray", "to_numpy", "cholesky_ok",
)  # fmt: skip
"""The members of `Backend` without a default."""
DEFAULT = "array-api"
"""Name of the plugin for arrays that follow the array API standard and have no plugin of their own."""
_EXTRAS = ("torch", "jax", "cupy")
"""Frameworks that can be installed as extras of this distribution."""

# Caches; `refresh` empties them.
loaded: dict[str, Any] = {}
"""The plugins that have been loaded, by the root package of their arrays."""
_root_of_class: dict[type, str] = {}
"""The root package of the plugin for each class of arrays that has been looked up."""


def entry_points(*, group: str) -> Iterable[EntryPoint]:
    """The installed entry points of a group."""
    from importlib import metadata  # imported here: it takes as long as all of specnorm

    return metadata.entry_points(group=group)


@functools.cache
def registered(group: str = GROUP) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name, which is the root package for plugins.

    An entry point that is found twice, for example in an editable installation, is listed once.
    """
    entries_of_name: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        entries = entries_of_name.setdefault(entry.name, [])
        if all((e.value, distribution(e)) != (entry.value, distribution(entry)) for e in entries):
            entries.append(entry)
    return {name: tuple(entries) for name, entries in entries_of_name.items()}


def refresh() -> None:
    """Empty the caches, so that the next call looks for installed plugins again."""
    registered.cache_clear()
    load_reader.cache_clear()
    loaded.clear()
    _root_of_class.clear()


_MIXIN = "NDArrayOperatorsMixin"
"""A class of NumPy from which arrays of other libraries derive; it does not make them NumPy's."""


Function = TypeVar("Function", bound=Callable[..., Any])


def called_while_tracing(function: Function) -> Function:
    """Mark a function that compilers call once, while they trace, instead of tracing into it.

    The function's arguments and result are plain values. PyTorch's compiler reads the mark, before its plugin is
    loaded.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@called_while_tracing
def owner_of(cls: type) -> str | None:
    """Load the plugin for a class of arrays, and return the root package under which it is registered; None without."""
    cached_root = _root_of_class.get(cls)
    if cached_root is not None and cached_root in loaded:
        return cached_root
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


@called_while_tracing
def root_for_class(cls: type) -> str:
    """As `owner_of`, but raise a `NoBackend` with advice if there is no plugin."""
    owner = owner_of(cls)
    if owner is not None:
        return owner
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__} - {"builtins"}
    if not roots:
        raise NoBackend(f"{describe(cls)} is not an array. {pass_an_array()}")
    extra = next((e for e in _EXTRAS if e in roots), None)
    if hasattr(cls, "tocsr") or hasattr(cls, "matvec"):
        advice = "For the norm of a sparse matrix or of an operator, use specnorm.operator_norm."
    elif extra:
        advice = f"Install one: {install(extra)}."
    else:
        advice = "Convert it to one of those, or write a plugin: see 'Backends' in the documentation."
    if hasattr(cls, "compute"):
        advice = f"If it is lazy, call its compute() first. {advice}"
    raise NoBackend(f"No backend for {describe(cls)}. Installed: {_installed() or 'none'}. {advice}")


def _installed() -> str:
    """The libraries that have a plugin and can be imported, for a message."""
    return ", ".join(root for root in sorted(registered()) if root in sys.modules or importlib.util.find_spec(root))


def load(root: str) -> Any:
    """Load the plugin registered for a root package.

    Raises
    ------
    NoBackend
        If nothing is registered under that name.
    BrokenBackend
        If the registered plugin cannot be imported, or is not a `Backend`.
    BackendConflict
        If two distributions register a plugin under that name.
    BackendVersion
        If the plugin was written for another version of the interface.
    """
    if root in loaded:
        return loaded[root]
    entries = registered().get(root)
    if not entries:
        raise NoBackend(f"No backend is registered as {root!r}. Installed: {_installed() or 'none'}.")
    if len(entries) > 1:
        owners = " and ".join(f"{distribution(e)} ({e.value})" for e in entries)
        raise BackendConflict(f"two distributions register a backend for {root!r}: {owners}. Uninstall one of them.")
    (entry,) = entries
    origin = f"backend {root!r} of {distribution(entry)} ({entry.value})"
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        # If "torch" is missing, it is not installed; if "torch.something" is missing, another version is installed.
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
    """Refuse an object that is not a `Backend`, or one for another version of the interface."""
    version = getattr(backend, "api_version", None)
    if not isinstance(version, int):
        raise BrokenBackend(
            f"{origin} is a {type(backend).__name__} without an api_version; expected a Backend object."
        )
    if version != API_VERSION:
        older_distribution = "specnorm-bounds" if version > API_VERSION else "the plugin"
        raise BackendVersion(
            f"{origin} was written for version {version} of the plugin interface; this specnorm has {API_VERSION}. "
            f"Upgrade {older_distribution}."
        )
    # By name, since `specnorm.backends.types` imports this module.
    bases = {(base.__module__, base.__qualname__) for base in type(backend).__mro__}
    if ("specnorm.backends.types", "Backend") not in bases:
        raise BrokenBackend(f"{origin} is a {type(backend).__name__}; expected an object derived from Backend.")
    missing = missing_members(backend)
    if missing:
        raise BrokenBackend(f"{origin} does not define {', '.join(missing)}, which every plugin has to define.")


def missing_members(backend: Any) -> list[str]:
    """The names of the members that every plugin has to define and that an object derived from `Backend` lacks."""
    base = next(base for base in type(backend).__mro__ if base.__qualname__ == "Backend")
    members = {name: getattr(backend, name, None) for name in _REQUIRED}
    return [name for name, x in members.items() if getattr(x, "__func__", x) is getattr(base, name, None)]


@functools.cache
def load_reader(root: str) -> Any:
    """Load the `LayerReader` that is registered for the layers of a root package.

    Raises
    ------
    BrokenBackend
        If the registered object cannot be imported.
    BackendConflict
        If two distributions register one for the package.
    """
    entries = registered(READERS)[root]
    origin = " and ".join(f"{distribution(entry)} ({entry.value})" for entry in entries)
    if len(entries) > 1:
        raise BackendConflict(f"two distributions read the layers of {root!r}: {origin}. Uninstall one of them.")
    try:
        return entries[0].load()
    except Exception as error:
        raise BrokenBackend(f"the reader of layers of {root!r}, {origin}, cannot be imported: {error}.") from error


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that an entry point belongs to."""
    return "an unnamed distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def describe(cls: type) -> str:
    """The name of a class with its module."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def pass_an_array() -> str:
    """Advice for the end of an error message about an object that is not an array."""
    return f"Pass an array of one of these libraries: {_installed() or 'none is installed'}."
