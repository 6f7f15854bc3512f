"""Account for every array of a file: what it is, or that it is not known.

Where a convention determines the weight that a layer uses at inference, the stored arrays are replaced by it, under the
name that the weight has in the model, and ``Tensor.assumed`` says so. A kernel by its name stays. What the table of
names and shapes knows is no layer. Any other array is listed, with the option that settles it; the kernels near it are
refused, unless the user says that they are used as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from specnorm_networks.model_arrays import Stated, Tensor

from specnorm.errors import ModelFileError
from specnorm.proof import AnyArray, backends
from specnorm_audit.accounts.conventions import flax, own
from specnorm_audit.accounts.conventions.own import SETTINGS, geometry_in
from specnorm_audit.accounts.conventions.recipe import AS_STORED, BAKE, Compute, Recipe
from specnorm_audit.accounts.conventions.torch import EQUALISED, TORCH, is_of_stylegan
from specnorm_audit.accounts.names import ADDED, last_word, parts_of
from specnorm_audit.accounts.places import Array, File, is_part, role_of

FLOATING = ("float", "bfloat")
"""Beginnings of the names of dtypes of real floating numbers."""
_OF_PARTS = (*FLOATING, "int", "uint", "bool")
"""The same of masks, and of settings in bytes."""
BY_USER = "weight=as stored, as the user says of"
"""Beginning of the assumption about a kernel that the user says is used as it is stored."""
BY_USER_AS_TORCH = "weight=as torch's own class computes it, as the user says of"
"""The same of a weight that a convention computes."""
_STANDS = "{} stands beside it: the layer may use another weight. ignore= or assume_stored= settles it."
_ADDED = "it is added to another layer's kernel. Merge it first (merge_and_unload())."
_PART = f"the layer computes its weight from it, in a way that the file does not determine. {BAKE}"
_UNKNOWN = (
    "it is not known what it is for, and it may change a layer's weight. Name it in ignore= if no layer uses it, in "
    "assume_stored= if a layer uses it as its kernel."
)
_OF_SUBCLASS = (
    "torch's own class would use this weight; a subclass with a bound of its own stores the same arrays. Gates pass "
    "only if assume_stored= names it"
)


def accounted(tensors: Iterable[Tensor], assume_stored: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Tensor]:
    """Return a model's arrays, in order, with weights in place of the first of the arrays that they are computed from.

    An array that is no layer has the `Tensor.kind` "none", and a ``refusal`` if it is not known what it is for. A
    kernel that may not be what its layer uses has a ``refusal``, too. What a file states of an array is not changed.

    Parameters
    ----------
    assume_stored : sequence of str
        Shell patterns on names of kernels that the layers use as they are stored: what stands in their scopes does not
        change them.
    ignore : sequence of str
        Shell patterns on names of arrays that no layer uses.
    """
    everything = [replace(t, kind="none", refusal=None, doubt=None) if _pattern(t.name, ignore) else t for t in tensors]
    by_name = {t.name: t for t in everything}
    # A weight may be computed from real numbers, masks, and settings.
    dtypes = {name: _OF_PARTS if name.endswith(("mask", SETTINGS)) else FLOATING for name in by_name}
    stored = {name: t for name, t in by_name.items() if t.kind is None and t.dtype.startswith(dtypes[name])}
    weights: dict[str, Tensor] = {}
    explained: set[str] = set()
    rows = (convention.recipe(name, stored) for convention in TORCH for name in stored)
    for recipe in (*own.recipes(stored), *filter(None, rows), *flax.recipes(stored)):
        names = {*recipe.parts, *recipe.others}
        is_taken = recipe.name in by_name and recipe.name not in names
        if is_taken or names & (explained | weights.keys()):
            continue  # each array is in one weight at most
        weights[recipe.parts[0]] = _weight(recipe, [by_name[name] for name in recipe.parts])
        explained |= names - {recipe.parts[0]}
    in_use = [replace(t, kind="none") if t.name in explained else weights.get(t.name, t) for t in everything]
    layers, unknown = _judged(_file_of(in_use), assume_stored)
    answers = [_answer(t, layers, unknown) for t in in_use]
    if is_of_stylegan(everything):
        answers = [replace(t, doubt=t.doubt or EQUALISED) if t.kind is None else t for t in answers]
    return [_with_users_word(t, assume_stored) for t in answers]


def _file_of(tensors: Sequence[Tensor]) -> File:
    words_of = [parts_of(t.name) or (t.name,) for t in tensors]
    # Somebody's list of kernels has names of one word, which say nothing, and no vectors.
    is_list = all(len(words) == 1 and len(t.shape) > 1 for t, words in zip(tensors, words_of, strict=True))
    is_list = is_list and not any(ADDED.fullmatch(words[0]) for words in words_of)
    arrays = []
    for tensor, words in zip(tensors, words_of, strict=True):
        role = role_of(tensor, words, has_names=not is_list)
        arrays.append(Array(tensor.name, words, tensor.shape, tensor.dtype, role, _is_computed(tensor)))
    return File(arrays)


def _judged(file: File, assume_stored: Sequence[str]) -> tuple[dict[str, str | None], set[str]]:
    """Return the layers by name, each with its doubt if there is one, and the names of unknown arrays."""
    said = {x.name for x in file.arrays if _pattern(x.name, assume_stored)}
    layers: dict[str, str | None] = {x.name: None for x in file.kernels}
    unknown: set[str] = set()
    with_own_reason: set[str] = set()
    for array in file.arrays:
        if array.is_kernel or file.is_known(array):
            continue
        near = list(file.near(array))
        if any(x.name in said and (x.scope or array.scope) == array.scope[: len(x.scope)] for x in near):
            continue  # in the scope of a kernel that is used as it is stored
        for kernel in near:
            # The reason names the array of the kernel's own scope, if there is one.
            is_nearest = kernel.name not in with_own_reason and array.scope == kernel.scope
            if is_nearest or layers[kernel.name] is None:
                layers[kernel.name] = _STANDS.format(array.name)
            if is_nearest:
                with_own_reason.add(kernel.name)
        if is_part(array):
            layers[array.name] = _ADDED if any(map(ADDED.fullmatch, array.words)) else _PART
        elif array.name in said and len(array.shape) > 1:
            layers[array.name] = None
        else:
            unknown.add(array.name)
    for kernel, other in file.doubtful():
        layers[kernel.name] = layers[kernel.name] or _STANDS.format(other.name)
        if other.is_kernel:  # which of two the layer uses is not known
            layers[other.name] = layers[other.name] or _STANDS.format(kernel.name)
        elif other.name not in said:
            unknown.add(other.name)
    return layers, unknown


def _answer(tensor: Tensor, layers: Mapping[str, str | None], unknown: Container[str]) -> Tensor:
    """Return an array with what the accounts say of it; the kind "none" says that it is no layer."""
    if tensor.kind is not None:
        return tensor
    if tensor.name not in layers:
        return replace(tensor, kind="none", doubt=None, refusal=_UNKNOWN if tensor.name in unknown else None)
    doubt = layers[tensor.name] or tensor.doubt
    assumed = tensor.assumed if _is_computed(tensor) else (*tensor.assumed, AS_STORED)
    return replace(tensor, doubt=doubt, assumed=assumed)


def _is_computed(tensor: Tensor) -> bool:
    """Whether a convention computes an array from others, under the name of the weight."""
    return any(text.partition("=")[0] == last_word(tensor.name) for text in tensor.assumed)


def _with_users_word(tensor: Tensor, patterns: Sequence[str]) -> Tensor:
    """Return an array with its doubt as a refusal, or as an assumption if the user says that it is used as stored."""
    pattern = _pattern(tensor.name, patterns)
    if pattern is None or tensor.kind == "none":
        return tensor if tensor.doubt is None else tensor.refused(tensor.doubt)
    assumed = tuple(text for text in tensor.assumed if text != AS_STORED)
    answer = replace(tensor, doubt=None, unsettled=None, assumed=assumed)
    return replace(answer, assumed=(*assumed, f"{BY_USER_AS_TORCH if _is_computed(answer) else BY_USER} {pattern}"))


def _pattern(name: str, patterns: Sequence[str]) -> str | None:
    """Return the first shell pattern that a name matches; None: it matches none."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _weight(recipe: Recipe, parts: Sequence[Tensor]) -> Tensor:
    """Return the first part of a weight as the weight, computed when it is loaded; or refused, with the reason."""
    first = parts[0]
    refusals = [part.refusal for part in parts if part.refusal]
    settings = [geometry_in(part) for part in parts if part.name == recipe.settings]
    stated = settings[0] if settings else Stated()
    is_open = recipe.class_name is not None and recipe.class_name not in first.hooks
    return replace(
        first,
        name=recipe.name,
        dtype="float64" if first.dtype == "float64" else "float32",
        load=partial(_computed, recipe.compute, tuple(part.load for part in parts)),
        geometry={**first.geometry, **stated},
        refusal=refusals[0] if refusals else None,
        assumed=(*first.assumed, recipe.assumption),
        unsettled=_OF_SUBCLASS if is_open else None,
    )


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
