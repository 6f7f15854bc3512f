"""Modules whose names are imported when they are first asked for, as PEP 562 and SPEC 1 have it.

The stub beside such a module is the one table that says where each name is defined. A stub may name packages that are
built on the module's own; the module itself does not.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

_MODULES = ("specnorm_networks", "specnorm_torch", "specnorm_jax.training", "specnorm_keras", "specnorm_audit")
"""Public modules in which a name may be that a module lacks: an error names them."""
_OTHER_WORDS = {
    "lipschitz": "network_bound", "lipschitz_constant": "network_bound", "sigma_max": "conv_norm", "norm": "enclose",
    "power_iteration": "power_norm", "gram_iteration": "gram_bound",
}  # fmt: skip
"""What others call a function, and its name here."""


def door(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a module whose stub (`.pyi`) imports all of its names.

    Type checkers read the stub, too: it says ``from place import name as name``, or has an ``__all__``. A name whose
    package is not installed raises `ModuleNotFoundError`.
    """
    spec: Any = sys.modules[module].__spec__
    places = _places(spec.loader.get_data(spec.origin.rpartition(".")[0] + ".pyi"))

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}{_advice(name, places)}")
        place, own_name = places[name]
        try:
            home = None if place == module else import_module(place)
        except ModuleNotFoundError as error:
            package = place.partition(".")[0]
            if error.name != package:
                raise
            from specnorm.backends.text import install  # imported here: its package loads NumPy

            missing = f"{name} needs the package {package}, which is missing: {install('cli')}."
            raise ModuleNotFoundError(missing, name=package) from None
        try:
            value = getattr(home, own_name)
        except AttributeError:
            value = import_module(f"{place}.{own_name}")  # a module
        setattr(sys.modules[module], name, value)
        return value

    names = sorted(name for name, (place, _) in places.items() if place != module)
    return load, lambda: sorted(places), names


def _advice(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that a module lacks: where it is, or the name that is spelled most like it."""
    usual_name = _OTHER_WORDS.get(name, name)
    modules = _modules_with(usual_name)
    if modules:
        it = "it" if usual_name == name else usual_name
        return f": {it} is in {' and '.join(modules)}"
    near = difflib.get_close_matches(usual_name, [*names], 1, 0.75)
    return f". Did you mean {near[0]!r}?" if near else ""


def _modules_with(name: str) -> list[str]:
    """Those of the installed modules whose stubs have a name. None of them is imported."""
    found = []
    for module in _MODULES:
        package, _, rest = module.partition(".")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        stub = Path(spec.origin).with_name(f"{rest or '__init__'}.pyi")
        if stub.is_file() and name in _places(stub.read_bytes()):
            found.append(module)
    return found


def _places(stub: bytes) -> dict[str, tuple[str, str]]:
    """Module and name of the definition of each name that a stub imports."""
    places = {}
    for statement in ast.parse(stub).body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                places[alias.asname or alias.name] = (str(statement.module), alias.name)
    return places
