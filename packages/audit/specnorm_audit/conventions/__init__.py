"""The table of conventions: forms in which frameworks store a layer's weight as several arrays.

A row is a framework's own documented form (`recipe.Convention`), in the room of its framework. Wrappers of Flax and
this library's constraint, whose names are paths and whose settings are text, have functions. A weight that no row
determines has the reason from `specnorm_audit.world`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from specnorm_networks.model_arrays import Tensor

from specnorm_audit.conventions import flax, own
from specnorm_audit.conventions.gans import GANS
from specnorm_audit.conventions.recipe import Convention, Recipe, Stored
from specnorm_audit.conventions.torch import TORCH

CONVENTIONS: tuple[Convention, ...] = (*TORCH, *GANS)
"""All rows. The first one whose pattern, names and shapes fit counts."""


def recipes(stored: Stored, everything: Mapping[str, Tensor]) -> Iterator[Recipe]:
    """Yield the form of every weight that a convention determines, each array in at most one.

    ``stored`` are the arrays of real numbers, ``everything`` all of them: a name that is taken, by whatever array, is
    not the name of a computed weight.
    """
    used: set[str] = set()
    for recipe in _candidates(stored):
        names = {*recipe.parts, *recipe.others}
        is_taken = recipe.name in everything and recipe.name not in names
        if is_taken or names & used:
            continue
        used |= names
        yield recipe


def _candidates(stored: Stored) -> Iterator[Recipe]:
    yield from own.recipes(stored)
    for convention in CONVENTIONS:
        for name in stored:
            recipe = convention.recipe(name, stored)
            if recipe is not None:
                yield recipe
    yield from flax.recipes(stored)
