"""Methods by name: specnorm's, and those that other distributions register."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from specnorm import methods
from specnorm.backends import registry
from specnorm.errors import BackendConflict, BrokenBackend, MethodError
from specnorm.running.base import Method

GROUP = "specnorm.methods"
"""Group of the entry points by which other distributions register methods: the method's name, and its class."""


class Methods(Mapping[str, type[Method]]):
    """Mapping from names to classes: specnorm's methods, then those of other distributions, imported on first use."""

    def __init__(self, own_methods: Mapping[str, str]) -> None:
        self._own_methods = own_methods

    def __getitem__(self, name: str) -> type[Method]:
        """The class of this name.

        Raises
        ------
        BrokenBackend
            If a registered class cannot be imported, or is not a method of this name.
        BackendConflict
            If two distributions register the name.
        """
        entries = registry.registered(GROUP).get(name, ())
        origin = " and ".join(f"{registry.distribution(e)} ({e.value})" for e in entries)
        if name in self._own_methods:
            if entries:
                raise BackendConflict(
                    f"{name!r} is a method of specnorm, and {origin} registers it too. Rename the latter."
                )
            own_method: type[Method] = getattr(methods, self._own_methods[name])
            return own_method
        if not entries:
            raise KeyError(name)
        if len(entries) > 1:
            raise BackendConflict(f"two distributions register a method {name!r}: {origin}. Uninstall one of them.")
        try:
            cls = entries[0].load()
        except Exception as error:
            raise BrokenBackend(f"method {name!r} of {origin} cannot be imported: {error}.") from error
        if not (isinstance(cls, type) and issubclass(cls, Method) and getattr(cls, "name", None) == name):
            raise BrokenBackend(
                f"method {name!r} of {origin} is {cls!r}; expected a class derived from specnorm.methods.Method "
                f"whose `name` is {name!r}."
            )
        try:
            cls.check_class()
        except MethodError as error:
            raise BrokenBackend(f"method {name!r} of {origin}: {error}") from error
        return cls

    def __iter__(self) -> Iterator[str]:
        yield from self._own_methods
        yield from (name for name in registry.registered(GROUP) if name not in self._own_methods)

    def __len__(self) -> int:
        return len(list(iter(self)))


METHODS = Methods({
    "tn": "TensorNorm", "f4": "FantasticFour", "unfoldings": "Unfoldings", "gram": "Gram", "grid": "Grid",
    "fft": "ExactFFT", "power": "Power", "reshaped": "Reshaped", "enclose": "Enclose", "completion": "Completion",
    "symbol": "SymbolNorm", "smallest": "Smallest", "isometry": "Isometry",
})  # fmt: skip
"""Mapping from names to classes. The names are also fields in JSON, and words for the command line's ``--methods``.

`PowerTopK`, which returns several values, is the only other method. What other functions run are `Plan`s.
"""
