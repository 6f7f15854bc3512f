"""The methods: values that compute or bound the spectral norm of a layer, by name.

`specnorm.measure` takes one; what a method of one's own derives from and returns is in this module too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from specnorm import registry
from specnorm.errors import BackendConflict, BrokenBackend
from specnorm.methods.base import Evaluation, Method, Needs, Stepped
from specnorm.methods.completion import Completion
from specnorm.methods.enclosure import Enclose
from specnorm.methods.fft import ExactFFT
from specnorm.methods.gram import Gram
from specnorm.methods.grid import Grid
from specnorm.methods.isometry import Isometry
from specnorm.methods.power import Power, PowerTopK
from specnorm.methods.smallest import Smallest
from specnorm.methods.symbol import SymbolNorm
from specnorm.methods.tensor_norm import TensorNorm
from specnorm.methods.unfolding import FantasticFour, Reshaped, Unfoldings
from specnorm.result import Kind

GROUP = "specnorm.methods"
"""Entry points of methods that other distributions bring: the method's name, and its class."""


class Methods(Mapping[str, type[Method]]):
    """Name -> class: ours, then those of other distributions, each imported when it is asked for."""

    def __init__(self, ours: Iterable[type[Method]]) -> None:
        self._ours = {cls.name: cls for cls in ours}

    def __getitem__(self, name: str) -> type[Method]:
        """The class of this name.

        Raises
        ------
        BrokenBackend, BackendConflict
            If what is registered cannot be used, or twice.
        """
        if name in self._ours:
            return self._ours[name]
        entries = registry.registered(GROUP)[name]
        origin = " and ".join(f"{registry.distribution(e)} ({e.value})" for e in entries)
        if len(entries) > 1:
            raise BackendConflict(f"two distributions register a method {name!r}: {origin}. Uninstall one of them.")
        try:
            found = entries[0].load()
        except Exception as error:
            raise BrokenBackend(f"method {name!r} of {origin} cannot be imported: {error}.") from error
        if not (isinstance(found, type) and issubclass(found, Method) and getattr(found, "name", None) == name):
            raise BrokenBackend(
                f"method {name!r} of {origin} is {found!r}; expected a class derived from specnorm.methods.Method "
                f"whose `name` is {name!r}."
            )
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._ours
        yield from (name for name in registry.registered(GROUP) if name not in self._ours)

    def __len__(self) -> int:
        return len(list(iter(self)))


# fmt: off
METHODS = Methods((
    TensorNorm, FantasticFour, Unfoldings, Gram, Grid, ExactFFT, Power, Reshaped, Enclose, Completion,
    SymbolNorm, Smallest, Isometry,
))
# fmt: on
"""Name -> class: the registry's keys, JSON fields and ``--methods`` words."""

__all__ = [
    "METHODS",
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
