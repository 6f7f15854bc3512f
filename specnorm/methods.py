"""The methods that compute or bound the spectral norm of a layer, and all that a method of your own needs.

`specnorm.measure` takes a method. `METHODS` finds its class by name. `Method`, `Needs`, `Evaluation` and `Stepped` are
for authors of methods; `Array`, `Namespace` and `ArrayOps` are for their annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from specnorm.backends import registry
from specnorm.backends.array_types import Array, Namespace
from specnorm.backends.types import ArrayOps
from specnorm.completion.method import Completion
from specnorm.enclosure.frequency_grid import Grid
from specnorm.enclosure.method import Enclose
from specnorm.ends.isometry import Isometry
from specnorm.ends.smallest import Smallest
from specnorm.errors import BackendConflict, BrokenBackend, MethodError
from specnorm.gram.method import Gram
from specnorm.power.method import Power, PowerTopK
from specnorm.running.base import Evaluation, Kind, Method, Needs, Stepped
from specnorm.spectrum.fft import ExactFFT
from specnorm.tensor_norm.method import TensorNorm
from specnorm.training.symbol_norm import SymbolNorm
from specnorm.unfoldings.method import FantasticFour, Reshaped, Unfoldings

GROUP = "specnorm.methods"
"""Group of the entry points by which other distributions register methods: the method's name, and its class."""


class Methods(Mapping[str, type[Method]]):
    """Mapping from names to classes: specnorm's methods, then those of other distributions, imported on first use."""

    def __init__(self, own_methods: Iterable[type[Method]]) -> None:
        self._own_methods = {cls.name: cls for cls in own_methods}

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
            return self._own_methods[name]
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


# fmt: off
METHODS = Methods((
    TensorNorm, FantasticFour, Unfoldings, Gram, Grid, ExactFFT, Power, Reshaped, Enclose, Completion,
    SymbolNorm, Smallest, Isometry,
))
# fmt: on
"""Mapping from names to classes. The names are also fields in JSON, and words for the command line's ``--methods``.

`PowerTopK`, which returns several values, is the only other method. What other functions run are `Plan`s.
"""

__all__ = [
    "METHODS",
    "Array",
    "ArrayOps",
    "Completion",
    "Enclose",
    "Evaluation",
    "ExactFFT",
    "FantasticFour",
    "Gram",
    "Grid",
    "Isometry",
    "Kind",
    "Method",
    "Namespace",
    "Needs",
    "Power",
    "PowerTopK",
    "Reshaped",
    "Smallest",
    "Stepped",
    "SymbolNorm",
    "TensorNorm",
    "Unfoldings",
]
