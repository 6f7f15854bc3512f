"""Compute the weights that layers use from the arrays that files, mappings and state dicts store.

Spectral and weight normalisation, pruning and parametrisations store what a weight is computed from. Where the stored
arrays determine the weight that the layer uses at inference, they are replaced by it, under the name that the weight
has in the model, and ``Tensor.assumed`` says so. Where they do not, the array is refused with the reason. Nothing is
loaded here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.tools import Tensor

from specnorm import track
from specnorm.errors import ModelFileError
from specnorm.methods import METHODS
from specnorm.proof import AnyArray, backends

Numbers: TypeAlias = NDArray[np.float64]
Compute: TypeAlias = Callable[..., Numbers]
"""Function that computes a weight, in float64, from arrays in the order of `Recipe.parts`."""
Stored: TypeAlias = Mapping[str, Tensor]
"""Arrays of real floating numbers by name."""

_FLOATING = ("float", "bfloat")
_BAKE = (
    "Where the model's code is there, make it a plain parameter: specnorm_torch.bake_(model), and save the state dict."
)
AS_STORED = "weight=as stored"
"""Assumption about an array that no other array explains: that the layer uses it as it is. A factor in the model's code
would not be seen."""
_CLEARLY = 5.0
"""A kernel may be read as a matrix W in two ways. In training u becomes parallel to Wv, so the way is accepted for
which the distance of u from the direction of Wv is smaller by this factor."""
_EPSILON = 1e-12
"""Smallest squared norm by which Flax divides."""


@dataclass(frozen=True)
class Recipe:
    """How a weight is computed from stored arrays, or the reason why these do not determine it.

    Parameters
    ----------
    name : str
        Name of the weight in the model; if it is not determined, name of the first part.
    parts : tuple of str
        Names of the arrays from which the weight is computed. The first one has the weight's shape.
    compute : callable or None
        Function that computes the weight; None: it is not determined.
    assumption : str
        Text of the row under ``assumed``; empty if the weight is not determined.
    refusal : str or None
        Reason why the stored arrays do not determine the weight.
    others : tuple of str
        Names of arrays that belong to the parametrisation and do not enter the weight.
    """

    name: str
    parts: tuple[str, ...]
    compute: Compute | None
    assumption: str = ""
    others: tuple[str, ...] = ()
    refusal: str | None = None

    @classmethod
    def refused(cls, name: str, reason: str) -> Recipe:
        """Return the recipe of an array from which a layer computes its weight in a way that is not known."""
        return cls(name, (name,), None, refusal=reason)


def effective(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return a model's arrays, in order, with weights in place of the first of the arrays that they are computed from.

    The other arrays of a weight stay, as arrays that are no layers (`Tensor.kind` "none"). Arrays whose kind is not
    None, since the file states it, are not changed.
    """
    everything = list(tensors)
    by_name = {t.name: t for t in everything}
    stored = {name: t for name, t in by_name.items() if t.kind is None and t.dtype.startswith(_FLOATING)}
    weights: dict[str, Tensor] = {}
    explained: set[str] = set()
    for recipe in _recipes(stored, set(by_name)):
        parts = [by_name[name] for name in recipe.parts]
        weights[recipe.parts[0]] = _weight(recipe, parts)
        if recipe.compute is not None:
            explained.update(recipe.parts[1:], recipe.others)
    return [weights.get(t.name) or _without_recipe(t, t.name in explained) for t in everything]


def _weight(recipe: Recipe, parts: Sequence[Tensor]) -> Tensor:
    """Return the first part of a weight as the weight, computed when it is loaded; or refused, with the reason."""
    first = parts[0]
    if recipe.compute is None:
        return replace(first, refusal=first.refusal or recipe.refusal)
    refusals = [part.refusal for part in parts if part.refusal]
    return replace(
        first,
        name=recipe.name,
        dtype="float64" if first.dtype == "float64" else "float32",
        load=partial(_computed, recipe.compute, tuple(part.load for part in parts)),
        refusal=refusals[0] if refusals else None,
        assumed=(*first.assumed, recipe.assumption),
    )


def _without_recipe(tensor: Tensor, is_explained: bool) -> Tensor:
    """Return an array from which no weight is computed: as no layer if a recipe explains it, else as it is stored.

    The kind "none" says that it is no kernel. The kind None says that the file does not tell.
    """
    if is_explained:
        return replace(tensor, kind="none", refusal=None)
    is_stated = tensor.kind is not None
    return tensor if is_stated else replace(tensor, assumed=(*tensor.assumed, AS_STORED))


def _computed(compute: Compute, loads: Sequence[Callable[[], AnyArray]]) -> AnyArray:
    """Load the parts and compute the weight, in the library of the first part and its precision (float32 at least)."""
    arrays = [load() for load in loads]
    parts = [backends.backend_for(x).to_numpy(x) for x in arrays]
    with np.errstate(all="ignore"):
        weight = compute(*(x.astype(np.float64) for x in parts))
    are_finite = all(np.isfinite(x).all() for x in parts)
    if are_finite and not np.isfinite(weight).all():
        raise ModelFileError("its weight at inference is not finite: what it is divided by is zero.")
    dtype = np.result_type(parts[0], np.float32)
    return backends.backend_for(arrays[0]).from_numpy(weight.astype(dtype), arrays[0])


def _recipes(stored: Stored, names: set[str]) -> Iterator[Recipe]:
    """Yield the form of every weight that names show to be computed from stored arrays."""
    for name in stored:
        for ending, read in _READERS.items():
            if not name.endswith(ending):
                continue
            recipe = read(name, name.removesuffix(ending), stored, names)
            if recipe is not None:
                yield recipe
    yield from _of_flax(stored)


# -- torch's hooks: NAME_orig beside NAME_u and NAME_v, or a mask; NAME_v beside NAME_g ------------------------------
def _of_hook(name: str, base: str, stored: Stored, names: set[str]) -> Recipe | None:
    """Read NAME_orig: a hook of torch's, or of others, computes NAME from it."""
    if base in stored and stored[base].shape == stored[name].shape:
        return Recipe(base, (base,), _identity, AS_STORED, (name,))  # the layer uses NAME itself
    mask = f"{base}_mask"
    u = f"{base}_u"
    v = f"{base}_v"
    if mask in names:
        return _pruned(name, base, mask, stored)
    if u not in names and v not in names and not name.endswith("weight_orig"):
        return None  # nothing shows that a hook computes NAME
    beside = [other for other in stored if _belongs(other, base, stored) and other not in (name, u, v)]
    if base in names or u not in stored or v not in stored:
        reason = f"the layer computes its weight from it, and the arrays beside it do not say by which factor. {_BAKE}"
        return Recipe.refused(name, reason)
    if beside:
        reason = f"{_last(beside[0])} beside it is of a normalisation whose factor is not known. {_BAKE}"
        return Recipe.refused(name, reason)
    return _spectral(name, base, u, v, stored)


def _belongs(other: str, base: str, stored: Stored) -> bool:
    """Return whether an array is a number or vector with a name of the form NAME_word, where NAME is ``base``."""
    word = other.removeprefix(f"{base}_")
    return other != word and "_" not in word and len(stored[other].shape) < 2


def _of_bar(name: str, _base: str, _stored: Stored, _names: set[str]) -> Recipe:
    """Read weight_bar, which many copies of one old spectral normalisation have."""
    reason = (
        "an old spectral normalisation computes the layer's weight from it anew at each call, and moves its vectors: "
        f"the file does not determine it. {_BAKE}"
    )
    return Recipe.refused(name, reason)


def _of_direction(name: str, base: str, stored: Stored, names: set[str]) -> Recipe | None:
    """Read NAME_v beside NAME_g: torch's old weight normalisation."""
    length = f"{base}_g"
    if length not in names or base in names or f"{base}_orig" in names:
        return None
    return _weight_norm(name, base, length, stored)


def _pruned(name: str, base: str, mask: str, stored: Stored) -> Recipe:
    """Multiply by a mask, as torch's pruning does."""
    if mask not in stored or stored[mask].shape != stored[name].shape or base in stored:
        return Recipe.refused(name, f"the layer computes its weight from it and {_last(mask)}, which does not fit.")
    return Recipe(base, (name, mask), np.multiply, f"{_last(base)}=W·mask")


def _spectral(name: str, weight: str, u: str, v: str, stored: Stored, others: tuple[str, ...] = ()) -> Recipe:
    """Divide by u·Wv, as torch does in ``eval()``, whether or not that is the norm of the matrix."""
    axes = _axes(stored[name].shape, stored[u].shape, stored[v].shape)
    if not axes:
        reason = f"{_last(u)} and {_last(v)} do not fit its shape: it is another normalisation than torch's. {_BAKE}"
        return Recipe.refused(name, reason)
    return Recipe(weight, (name, u, v), partial(_divided, axes), f"{_last(weight)}=W/(u·Wv) as in eval()", others)


def _axes(shape: Sequence[int], u: Sequence[int], v: Sequence[int]) -> tuple[int, ...]:
    """Return the axes of a kernel whose entries may be the rows of the matrix W; () if u and v do not fit.

    Of a linear layer it is the first axis, if it fits.
    """
    if len(u) != 1 or len(v) != 1 or math.prod(shape) != u[0] * v[0]:
        return ()
    axes = tuple(axis for axis, n in enumerate(shape) if n == u[0])
    return axes[:1] if len(shape) == 2 else axes


def _divided(axes: Sequence[int], weight: Numbers, u: Numbers, v: Numbers) -> Numbers:
    """Return W / (u·Wv). If several axes may be the rows, u is parallel to Wv for the right one."""
    readings: list[tuple[float, float]] = []
    for axis in axes:
        image = np.moveaxis(weight, axis, 0).reshape(u.size, v.size) @ v
        sigma = float(u @ image)
        perpendicular = image - u * (np.float64(sigma) / (u @ u))
        distance = float(np.linalg.norm(perpendicular) / np.linalg.norm(image))
        readings.append((distance if math.isfinite(distance) else 1.0, sigma))
    readings.sort()
    nearest, sigma = readings[0]
    for distance, other in readings[1:]:
        is_near = distance < _CLEARLY * nearest
        if is_near and not math.isclose(sigma, other, rel_tol=1e-6):
            raise ModelFileError(
                "its spectral normalisation is of the matrix with the outputs as rows, or with the inputs (of a "
                f"transposed layer): shapes and vectors fit both. {_BAKE}"
            )
    return np.asarray(weight / sigma)


def _weight_norm(name: str, weight: str, length: str, stored: Stored, others: tuple[str, ...] = ()) -> Recipe:
    """Compute g·v/‖v‖, with a norm for each entry of g."""
    direction = stored[name]
    shape = stored[length].shape if length in stored else None
    if shape is None or not _is_length(shape, direction.shape):
        return Recipe.refused(name, f"the layer computes its weight from it and {_last(length)}, which does not fit.")
    return Recipe(weight, (name, length), _scaled, f"{_last(weight)}=g·v/|v|", others)


def _is_length(length: Sequence[int], direction: Sequence[int]) -> bool:
    """Return whether a shape is that of one length for all of a direction, or one for each entry of an axis."""
    if len(length) == 0:
        return True
    if len(length) != len(direction):
        return False
    fits = all(n in (1, m) for n, m in zip(length, direction, strict=True))
    axes_of_lengths = sum(n > 1 for n in length)
    return fits and axes_of_lengths < 2


def _scaled(direction: Numbers, length: Numbers) -> Numbers:
    """Return g·v/‖v‖; each norm is taken over the axes along which there is one length."""
    axes = tuple(a for a in range(direction.ndim) if length.ndim == 0 or length.shape[a] == 1)
    norms = np.sqrt(np.sum(direction**2, axis=axes, keepdims=True))
    return np.asarray(length * (direction / norms))


# -- torch's parametrisations: parametrizations.NAME.original, and what each keeps under its number -------------------
_PARAMETRISED = re.compile(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)")
_NOT_KNOWN = (
    "the layer computes its weight from it by a parametrisation that the file does not name, or does not determine. "
    + _BAKE
)


def _of_original(name: str, base: str, stored: Stored, names: set[str]) -> Recipe | None:
    """Read NAME.original: one parametrisation with stored arrays is applied.

    Several parametrisations, and those that store nothing, are refused: the file does not name them.
    """
    match = _PARAMETRISED.fullmatch(base)
    if match is None:
        return None
    state_names = _state_names(base, names)
    weight = f"{match['owner']}{match['name']}"
    if list(state_names) != [0] or weight in names:
        return Recipe.refused(name, _NOT_KNOWN)
    return _of_state(name, weight, f"{base}.0.", state_names[0], stored)


def _of_pair(name: str, base: str, stored: Stored, names: set[str]) -> Recipe | None:
    """Read NAME.original1, the direction of a weight normalisation, and NAME.original0, its length.

    Another parametrisation after the normalisation is refused.
    """
    length = f"{base}.original0"
    match = _PARAMETRISED.fullmatch(base)
    if length not in names:
        return None if match is None else Recipe.refused(name, _NOT_KNOWN)
    weight = f"{base}.weight" if match is None else f"{match['owner']}{match['name']}"
    if _state_names(base, names) or weight in names or f"{base}.original2" in names:
        return Recipe.refused(name, _NOT_KNOWN)
    return _weight_norm(name, weight, length, stored)


def _state_names(base: str, names: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """Return the names of the arrays that each parametrisation stores, without their prefix, by its number."""
    prefix = f"{base}."
    leaves: dict[int, tuple[str, ...]] = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        number, _, leaf = name.removeprefix(prefix).partition(".")
        if number.isdigit() and leaf:
            leaves[int(number)] = (*leaves.get(int(number), ()), leaf)
    return dict(sorted(leaves.items()))


def _of_state(name: str, weight: str, prefix: str, state_names: Sequence[str], stored: Stored) -> Recipe:
    """Return the form of a weight with one parametrisation, torch's or this library's, known by its arrays."""
    if set(state_names) == {"_u", "_v"} and all(f"{prefix}{leaf}" in stored for leaf in state_names):
        return _spectral(name, weight, f"{prefix}_u", f"{prefix}_v", stored)
    buffers = sorted(set(state_names) - {_SETTINGS})
    if _SETTINGS in state_names and all(f"{prefix}{leaf}" in stored for leaf in buffers):
        parts = (name, f"{prefix}{_SETTINGS}", *(f"{prefix}{leaf}" for leaf in buffers))
        return Recipe(
            weight, parts, partial(_constrained, tuple(buffers)), f"{_last(weight)}=W·bound/norm as in eval()"
        )
    return Recipe.refused(name, _NOT_KNOWN)


# -- this library's own parametrisation: a state, and what else determines the weight as JSON in bytes -----------------
_SETTINGS = "_extra_state"
"""Name of the array with the constraint's settings, as JSON in bytes."""
_LONGEST = 10_000
"""Largest number of bytes of the settings."""
_KEYS = ("bound", "eps", "only_shrink", "dim", "geometry", "method", "sweeps")
_LARGEST = 10_000
"""Largest number in the settings of the method: a search with numbers from a file must end."""


def _constrained(names: Sequence[str], weight: Numbers, settings_bytes: Numbers, *state: Numbers) -> Numbers:
    """Return the weight of `specnorm_torch.spectral_norm` in ``eval()``; ``names`` are those of the state's arrays."""
    settings = _parsed(settings_bytes)
    method_fields = settings["method"]
    method = METHODS[str(method_fields.pop("name"))](**method_fields)
    geometry = {key: _in_tuples(value) for key, value in settings["geometry"].items()}
    row_axis = settings["dim"]
    kernel = weight
    if row_axis is not None:
        kernel = np.moveaxis(weight, row_axis, 0).reshape(weight.shape[row_axis], -1)
    stored_state = dict(zip(names, state, strict=True))
    # As in eval(): sweeps move the state until it fits the weight, and the norm is that of the moved state.
    _, moved_state = track(kernel, method, stored_state, sweeps=int(settings["sweeps"]), **geometry)
    value, _ = track(kernel, method, moved_state, sweeps=0, **geometry)
    norm = float(value)
    bound = float(settings["bound"])
    is_within_bound = settings["only_shrink"] and norm <= bound
    if norm <= settings["eps"] or is_within_bound:
        return weight
    return np.asarray(weight * (bound / norm))


def _parsed(settings_bytes: Numbers) -> dict[str, Any]:
    """Return the settings of a constraint; refuse numbers with which a search would not end."""
    if settings_bytes.ndim != 1 or settings_bytes.size > _LONGEST:
        raise ModelFileError(
            "it was saved by an earlier version of specnorm_torch.spectral_norm, which did not store the bound. Load "
            "the file into the model, and save it again."
        )
    try:
        settings = json.loads(bytes(settings_bytes.astype(np.uint8).tolist()))
        for x in (settings["sweeps"], *settings["method"].values()):
            if isinstance(x, int | float) and not abs(x) <= _LARGEST:
                raise ValueError("a number of its method is too large")
        return {key: settings[key] for key in _KEYS}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"what its constraint says of itself is damaged: {error}.") from error


def _in_tuples(value: Any) -> Any:
    return tuple(map(_in_tuples, value)) if isinstance(value, list) else value


_READERS: Mapping[str, Callable[[str, str, Stored, set[str]], Recipe | None]] = {
    "_orig": _of_hook, "weight_bar": _of_bar, "_v": _of_direction, ".original": _of_original, ".original1": _of_pair,
}  # fmt: skip


# -- Flax's wrappers: LAYER/kernel, and WRAPPER/LAYER/kernel/scale (or /u) beside it; NNX has paths in its names -------
_SPLIT = re.compile(r"[./]")
_NNX = re.compile(r"(?P<owner>(?:.*\.)?)(?P<kind>scales|batch_stats)\.\((?P<path>'[^()]*),?\)")


def _of_flax(stored: Stored) -> Iterator[Recipe]:
    """Yield the weights of kernels whose wrapper stores a scale, or a vector of a power iteration."""
    by_parts = {tuple(_SPLIT.split(name)): name for name in stored}
    for name in stored:
        kernel, leaf = _wrapped(name, by_parts)
        if kernel is not None:
            yield from _with_state(kernel, name, leaf, stored)


def _wrapped(name: str, by_parts: Mapping[tuple[str, ...], str]) -> tuple[str | None, str]:
    """Return the name of the kernel to which an array is the state (None: it is no state), and its name's last word."""
    # NNX: "normed.scales.('kernel',)" is the state of "normed.layer_instance.kernel".
    match = _NNX.fullmatch(name)
    if match is not None:
        path = [word.strip(" '") for word in match["path"].split(",") if word.strip()]
        leaf = "scale" if match["kind"] == "scales" else path.pop()
        kernel_parts = tuple(_SPLIT.split(f"{match['owner']}layer_instance." + ".".join(path)))
        return by_parts.get(kernel_parts), leaf
    # Linen: "batch_stats/block/SpectralNorm_0/Dense_0/kernel/u" is the state of "params/block/Dense_0/kernel". A short
    # name gets empty words in front.
    *scope, _wrapper, layer, kernel, leaf = ("", "", "", *_SPLIT.split(name))
    scope_parts = tuple(part for part in scope if part)
    collections: list[tuple[str, ...]] = [()]
    if scope_parts:  # the state may be in another collection than the kernel: batch_stats beside params
        collections += {parts[:1] for parts in by_parts}
    for collection in collections:
        # The kernel's collection takes the place of the first part of the scope.
        kernel_name = by_parts.get((*collection, *scope_parts[len(collection) :], layer, kernel))
        if kernel_name is not None and leaf in ("scale", "u") and name != kernel_name:
            return kernel_name, leaf
    return None, leaf


def _with_state(name: str, state: str, leaf: str, stored: Stored) -> Iterator[Recipe]:
    """Yield the weight of a kernel with its wrapper's state, if the shapes are those of Flax."""
    shape = stored[name].shape
    shape_of_state = stored[state].shape
    if len(shape) < 2:
        return
    if leaf == "scale" and shape_of_state in ((), shape[-1:]):
        yield Recipe(name, (name, state), _scaled_by_flax, f"{_last(name)}=W/|W|·scale")
    elif leaf == "u" and shape_of_state == (1, shape[-1]):
        yield Recipe(name, (name, state), _divided_by_flax, f"{_last(name)}=W/(u·Wv) of n_steps=1")


def _scaled_by_flax(kernel: Numbers, scale: Numbers) -> Numbers:
    """Return the weight of Flax's WeightNorm, of the last axis or of all."""
    axes = tuple(range(kernel.ndim - scale.ndim))
    squares = np.sum(kernel**2, axis=axes, keepdims=True)
    return np.asarray(kernel / np.sqrt(np.maximum(squares, _EPSILON)) * scale)


def _divided_by_flax(kernel: Numbers, u: Numbers) -> Numbers:
    """Return the weight of Flax's SpectralNorm, which takes a step of the power iteration in evaluation, too."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    v = _unit(u @ matrix.T)
    next_u = _unit(v @ matrix)
    sigma = float((v @ matrix @ next_u.T)[0, 0])
    return kernel / sigma if sigma else kernel


def _unit(x: Numbers) -> Numbers:
    """Return a vector divided by its length."""
    squares = max(float(np.sum(x**2)), _EPSILON)
    return np.asarray(x / np.sqrt(squares))


def _identity(weight: Numbers) -> Numbers:
    return weight


def _last(name: str) -> str:
    """Return the last word of a name."""
    return re.split(r"[./]", name)[-1]
