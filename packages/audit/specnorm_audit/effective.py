"""Put the weights that layers use in place of the arrays that files, mappings and state dicts store.

Where a convention determines the weight that the layer uses at inference, the stored arrays are replaced by it, under
the name that the weight has in the model, and ``Tensor.assumed`` says so. Where something else stands beside a kernel,
its ``Tensor.doubt`` names it: the kernel is refused, unless the user says that it is used as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from specnorm_networks.model_arrays import Stated, Tensor

from specnorm.errors import ModelFileError
from specnorm.proof import AnyArray, backends
from specnorm_audit import world
from specnorm_audit.conventions import recipes
from specnorm_audit.conventions.gans import EQUALISED, is_of_stylegan
from specnorm_audit.conventions.own import SETTINGS, geometry_in
from specnorm_audit.conventions.recipe import AS_STORED, BAKE, Compute, Recipe
from specnorm_audit.leaves import ADDED, last_word, parts_of

FLOATING = ("float", "bfloat")
"""Beginnings of the names of dtypes of real floating numbers."""
_OF_MASKS = ("int", "uint", "bool")
"""Beginnings of the names of dtypes that masks, and settings in bytes, have besides."""
_COMPUTED_FROM = ("weight_", "kernel_", "original")
"""Beginnings of names of arrays from which a weight is computed."""


def effective(tensors: Iterable[Tensor], assume_stored: Sequence[str] = ()) -> list[Tensor]:
    """Return a model's arrays, in order, with weights in place of the first of the arrays that they are computed from.

    The other arrays of a weight stay, as arrays that are no layers (`Tensor.kind` "none"). What a file states of an
    array is not changed. A doubt (`Tensor.doubt`) refuses the array, unless its name matches a shell pattern in
    ``assume_stored``.
    """
    everything = list(tensors)
    by_name = {t.name: t for t in everything}
    stored = {name: t for name, t in by_name.items() if t.kind is None and _may_be_part(t)}
    weights: dict[str, Tensor] = {}
    explained: set[str] = set()
    for recipe in recipes(stored, by_name):
        weights[recipe.parts[0]] = _weight(recipe, [by_name[name] for name in recipe.parts])
        explained |= {*recipe.parts[1:], *recipe.others}
    in_use = [replace(t, kind="none") if t.name in explained else weights.get(t.name, t) for t in everything]
    found = world.judged(in_use, explained)
    is_equalised = is_of_stylegan(everything)
    answers = [_judged(t, found, is_equalised=is_equalised) for t in in_use]
    return [_with_users_word(t, assume_stored, is_layer=not _is_strange(t, found)) for t in answers]


def _is_strange(tensor: Tensor, found: world.Judged) -> bool:
    """Whether an array is no layer of its own, whatever it is."""
    return tensor.name in found.strangers or any(map(ADDED.fullmatch, parts_of(tensor.name)))


def _with_users_word(tensor: Tensor, patterns: Sequence[str], *, is_layer: bool) -> Tensor:
    """Return an array with its doubt as a refusal, or as an assumption if the user says that it is used as stored."""
    if tensor.doubt is None:
        return tensor
    pattern = next((pattern for pattern in patterns if fnmatchcase(tensor.name, pattern)), None)
    if pattern is not None:
        assumed = (*(text for text in tensor.assumed if text != AS_STORED), f"{BY_USER} {pattern}")
        return replace(tensor, doubt=None, assumed=assumed)
    kind = tensor.kind if is_layer else "none"
    return replace(tensor, kind=kind, refusal=tensor.refusal or tensor.doubt)


def _may_be_part(tensor: Tensor) -> bool:
    """Whether a weight may be computed from an array: from real numbers, masks, and settings."""
    is_mask = tensor.name.endswith(("mask", SETTINGS)) and tensor.dtype.startswith(_OF_MASKS)
    return is_mask or tensor.dtype.startswith(FLOATING)


def _weight(recipe: Recipe, parts: Sequence[Tensor]) -> Tensor:
    """Return the first part of a weight as the weight, computed when it is loaded; or refused, with the reason."""
    first = parts[0]
    refusals = [part.refusal for part in parts if part.refusal]
    settings = [geometry_in(part) for part in parts if part.name == recipe.settings]
    stated = settings[0] if settings else Stated()
    return replace(
        first,
        name=recipe.name,
        dtype="float64" if first.dtype == "float64" else "float32",
        load=partial(_computed, recipe.compute, tuple(part.load for part in parts)),
        geometry={**first.geometry, **stated},
        refusal=refusals[0] if refusals else None,
        assumed=(*first.assumed, recipe.assumption),
    )


def _judged(tensor: Tensor, found: world.Judged, *, is_equalised: bool) -> Tensor:
    """Return an array with what the closed world says of it; the kind "none" says that it is no kernel."""
    if tensor.kind is not None:
        return tensor
    stranger = found.doubts.get(tensor.name)
    if tensor.name in found.silent:
        return replace(tensor, kind="none", doubt=None)
    if tensor.name in found.strangers and tensor.dtype.startswith(FLOATING):
        return replace(tensor, doubt=_STRANGE)
    doubt = tensor.doubt if stranger is None else _STANDS.format(stranger)
    if doubt is None and is_equalised:
        doubt = EQUALISED
    if doubt is None:
        doubt = _computed_from(tensor)
    is_computed = any(text.partition("=")[0] == last_word(tensor.name) for text in tensor.assumed)
    assumed = tensor.assumed if is_computed else (*tensor.assumed, AS_STORED)
    return replace(tensor, doubt=doubt, assumed=assumed)


def _computed_from(tensor: Tensor) -> str | None:
    """Return a doubt about an array whose name says that a weight is computed from it; else None."""
    words = parts_of(tensor.name)
    if len(tensor.shape) < 2:
        return None
    if any(map(ADDED.fullmatch, words)):
        return "it is added to another layer's kernel. Merge it first (merge_and_unload())."
    is_parametrised = "parametrizations" in words or words[-1].startswith("original")
    is_recurrent = words[-1].startswith(("weight_ih", "weight_hh", "weight_hr"))
    if is_parametrised or (words[-1].startswith(_COMPUTED_FROM) and not is_recurrent):
        return f"the layer computes its weight from it, in a way that the file does not determine. {BAKE}"
    return None


BY_USER = "weight=as stored, by --assume-stored"
"""Beginning of the assumption about a kernel that the user says is used as it is stored."""
_STANDS = "{} stands beside it: the layer may use another weight."
_STRANGE = "its role is unknown: it may be a layer, or change the weight of a layer beside it."


def _computed(compute: Compute, loads: Sequence[Callable[[], AnyArray]]) -> AnyArray:
    """Load the parts and compute the weight, in the library of the first part and its precision (float32 at least)."""
    arrays = [load() for load in loads]
    if any(str(getattr(x, "device", "")) == "meta" for x in arrays):
        raise ModelFileError("it is computed from tensors that have no values, on the device 'meta'. Load them first.")
    parts = [backends.backend_for(x).to_numpy(x) for x in arrays]
    with np.errstate(all="ignore"):
        weight = compute(*(x.astype(np.float64) for x in parts))
    are_finite = all(np.isfinite(x).all() for x in parts)
    if are_finite and not np.isfinite(weight).all():
        raise ModelFileError("its weight at inference is not finite: its divisor is zero.")
    dtype = np.result_type(parts[0], np.float32)
    return backends.backend_for(arrays[0]).from_numpy(weight.astype(dtype), arrays[0])
