"""Compute the weights that layers use from the arrays that files, mappings and state dicts store.

Spectral and weight normalisation, pruning and parametrisations store what a weight is computed from. Where the stored
arrays determine the weight that the layer uses at inference, they are replaced by it, under the name that the weight
has in the model, and ``Tensor.assumed`` says so. Where they do not, the array is refused with the reason. Only the
settings of this library's constraints are loaded here, which state the layers' geometry.

`_READERS` lists the conventions that rename the kernel (``weight_orig``), `BESIDE` those that leave its name and store
something beside it (``u0``, ``gain``). An array beside a kernel that neither explains is a reason to refuse, too: plain
layers have a bias alone.
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
from specnorm_networks.model_arrays import Stated, Tensor, as_in_torch

from specnorm import track
from specnorm.errors import ModelFileError
from specnorm.methods import METHODS
from specnorm.proof import AnyArray, backends

Numbers: TypeAlias = NDArray[np.float64]
Compute: TypeAlias = Callable[..., Numbers]
"""Function that computes a weight, in float64, from arrays in the order of `Recipe.parts`."""
Stored: TypeAlias = Mapping[str, Tensor]
"""Arrays of real floating numbers by name."""

FLOATING = ("float", "bfloat")
"""Beginnings of the names of dtypes of real floating numbers."""
_SEPARATOR = re.compile(r"[./:]")
COUNTER = re.compile(r":\d+$")
"""The counter that TensorFlow writes after a variable's name."""
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
"""Smallest squared norm by which Flax and TensorFlow divide."""


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
    settings : str or None
        Name of the part that states the layer's geometry.
    """

    name: str
    parts: tuple[str, ...]
    compute: Compute | None
    assumption: str = ""
    others: tuple[str, ...] = ()
    refusal: str | None = None
    settings: str | None = None

    @classmethod
    def refused(cls, name: str, reason: str, others: Iterable[str] = ()) -> Recipe:
        """Return the recipe of an array from which a layer computes its weight in a way that is not known."""
        return cls(name, (name,), None, others=tuple(others), refusal=reason)


def effective(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return a model's arrays, in order, with weights in place of the first of the arrays that they are computed from.

    The other arrays of a weight stay, as arrays that are no layers (`Tensor.kind` "none"). Arrays whose kind is not
    None, since the file states it, are not changed.
    """
    everything = list(tensors)
    by_name = {t.name: t for t in everything}
    stored = {name: t for name, t in by_name.items() if t.kind is None and t.dtype.startswith(FLOATING)}
    weights: dict[str, Tensor] = {}
    explained: dict[str, str | None] = {}
    for recipe in _recipes(stored, by_name):
        parts = [by_name[name] for name in recipe.parts]
        stated = _geometry_in(by_name[recipe.settings]) if recipe.settings else Stated()
        weights[recipe.parts[0]] = _weight(recipe, parts, stated)
        reason = None if recipe.compute else f"it stands beside {recipe.name}, of a weight that is not determined."
        explained |= dict.fromkeys((*recipe.parts[1:], *recipe.others), reason)
    return [weights.get(t.name) or _without_recipe(t, explained) for t in everything]


def _weight(recipe: Recipe, parts: Sequence[Tensor], stated: Stated) -> Tensor:
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
        geometry={**first.geometry, **stated},
        refusal=refusals[0] if refusals else None,
        assumed=(*first.assumed, recipe.assumption),
    )


def _without_recipe(tensor: Tensor, explained: Mapping[str, str | None]) -> Tensor:
    """Return an array from which no weight is computed: as no layer if a recipe explains it, else as it is stored.

    The kind "none" says that it is no kernel. The kind None says that the file does not tell. ``explained`` has the
    reasons why matrices of weights that are not determined are named in the report.
    """
    if tensor.name in explained:
        refusal = explained[tensor.name] if len(tensor.shape) > 1 else None
        return replace(tensor, kind="none", refusal=refusal)
    is_stated = tensor.kind is not None
    return tensor if is_stated else replace(tensor, assumed=(*tensor.assumed, AS_STORED))


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
        raise ModelFileError("its weight at inference is not finite: what it is divided by is zero.")
    dtype = np.result_type(parts[0], np.float32)
    return backends.backend_for(arrays[0]).from_numpy(weight.astype(dtype), arrays[0])


def _recipes(stored: Stored, everything: Stored) -> Iterator[Recipe]:
    """Yield the form of every weight that names show to be computed from stored arrays."""
    names = set(everything)
    used: set[str] = set()
    for name in stored:
        for ending, read in _READERS.items():
            if not name.endswith(ending):
                continue
            recipe = read(name, name.removesuffix(ending), stored, names)
            if recipe is not None:
                used.update((recipe.name, *recipe.parts, *recipe.others))
                yield recipe
    for recipe in _of_flax(stored):
        used.update((*recipe.parts, *recipe.others))
        yield recipe
    yield from _of_neighbours(stored, everything, used)


# -- torch's hooks: NAME_orig beside NAME_u and NAME_v, or a mask; NAME_v beside NAME_g ------------------------------
def _of_hook(name: str, base: str, stored: Stored, names: set[str]) -> Recipe | None:
    """Read NAME_orig: a hook of torch's, or of others, computes NAME from it."""
    mask = f"{base}_mask"
    u = f"{base}_u"
    v = f"{base}_v"
    if base in stored and stored[base].shape == stored[name].shape:
        # The layer uses NAME itself: torch 0.4 and RealSN store it. The states of the latter are images.
        states = [x for x in (u, v) if x in stored and (is_vector(stored[x].shape) or stored[x].shape[:1] == (1,))]
        return Recipe(base, (base,), _identity, AS_STORED, (name, *states))
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
    return other != word and "_" not in word and is_vector(stored[other].shape)


def is_vector(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape is a number, or a vector along one of its axes."""
    return sum(n != 1 for n in shape) < 2


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
    """Return the axes of a kernel whose entries may be the rows of the matrix W; () if u and v do not fit."""
    if len(u) != 1 or len(v) != 1 or math.prod(shape) != u[0] * v[0]:
        return ()
    return tuple(axis for axis, n in enumerate(shape) if n == u[0])


def _divided(axes: Sequence[int], weight: Numbers, u: Numbers, v: Numbers) -> Numbers:
    """Return W / (u·Wv). If several axes may be the rows, u is parallel to Wv for the right one."""
    readings: list[tuple[float, float]] = []
    for axis in axes:
        image = np.moveaxis(weight, axis, 0).reshape(u.size, v.size) @ v
        readings.append((_angle(u, image), float(u @ image)))
    if weight.ndim == 2:  # torch's linear layers have outputs as rows, those of Paddle inputs
        readings = readings[:1] if readings[0][0] < _CLEARLY * readings[-1][0] else readings[-1:]
    return np.asarray(weight / _clearest(readings))


def _angle(u: Numbers, image: Numbers) -> float:
    """Return the sine of the angle between two vectors; 1 if it is not defined."""
    perpendicular = image - u * ((u @ image) / (u @ u))
    distance = float(np.linalg.norm(perpendicular) / np.linalg.norm(image))
    return distance if math.isfinite(distance) else 1.0


def _clearest(readings: Sequence[tuple[float, float]]) -> float:
    """Return the norm by which a kernel is divided, of the way to read it that fits clearly best.

    ``readings`` are pairs of the angle between a stored vector and what it should be, and the norm.
    """
    (nearest, sigma), *others = sorted(readings)
    for distance, other in others:
        is_near = distance < _CLEARLY * nearest
        if is_near and not math.isclose(sigma, other, rel_tol=1e-6):
            raise ModelFileError(
                "its spectral normalisation is of the matrix with the outputs as rows, or with the inputs (of a "
                f"transposed layer): shapes and vectors fit both. {_BAKE}"
            )
    return sigma


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
        settings = f"{prefix}{_SETTINGS}"
        parts = (name, settings, *(f"{prefix}{leaf}" for leaf in buffers))
        compute = partial(_constrained, tuple(buffers))
        return Recipe(weight, parts, compute, f"{_last(weight)}=W·bound/norm as in eval()", settings=settings)
    return Recipe.refused(name, _NOT_KNOWN)


# -- this library's own parametrisation: a state, and what else determines the weight as JSON in bytes -----------------
_SETTINGS = "_extra_state"
"""Name of the array with the constraint's settings, as JSON in bytes."""
_LONGEST = 10_000
"""Largest number of bytes of the settings."""
_KEYS = ("bound", "eps", "only_shrink", "dim", "geometry", "method", "sweeps")
_LARGEST = 10_000
"""Largest number in the settings of the method: a search with numbers from a file must end."""


def _geometry_in(settings: Tensor) -> Stated:
    """Return the geometry that a constraint's settings state; nothing of a matrix."""
    if math.prod(settings.shape) > _LONGEST:
        return Stated()
    try:
        stored = settings.load()
        parsed = _parsed(backends.backend_for(stored).to_numpy(stored))
        geometry = {key: _in_tuples(value) for key, value in parsed["geometry"].items()}
    except Exception:  # of damaged settings; the load of the weight says why
        return Stated()
    is_of_layer = parsed["dim"] is None and geometry.keys() <= Stated.__annotations__.keys()
    return as_in_torch(geometry) if is_of_layer else Stated()


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
    # As in eval(): sweeps move the state until it fits the weight.
    value, _ = track(kernel, method, stored_state, sweeps=int(settings["sweeps"]), **geometry)
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
        # In an average of state dicts they are floats.
        settings = json.loads(bytes(np.rint(settings_bytes).astype(np.uint8).tolist()))
        for x in (settings["sweeps"], *settings["method"].values()):
            if isinstance(x, int | float) and not abs(x) <= _LARGEST:
                raise ValueError("a number of its method is too large")
        return {key: settings[key] for key in _KEYS}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"what its constraint says of itself is damaged: {error}.") from error


def _in_tuples(value: Any) -> Any:
    return tuple(map(_in_tuples, value)) if isinstance(value, list) else value


# -- weights of several arrays, none of which is the kernel ------------------------------------------------------------
def _of_distribution(name: str, base: str, stored: Stored, _names: set[str]) -> Recipe | None:
    """Read NAME_mu: noisy and Bayesian layers."""
    states = [f"{base}_{word}" for word in ("sigma", "rho", "epsilon", "log_sigma", "logvar", "log_alpha")]
    others = [other for other in states if other in stored and stored[other].shape == stored[name].shape]
    if not others:
        return None
    reason = f"the layer draws its weight around it, with the spread {_last(others[0])}: no file determines it."
    return Recipe.refused(name, reason, others)


def _of_complex(name: str, base: str, stored: Stored, _names: set[str]) -> Recipe | None:
    """Read NAME_real beside NAME_imag: complex layers."""
    return _of_components(name, (f"{base}_imag",), "complex", stored)


def _of_quaternion(name: str, base: str, stored: Stored, _names: set[str]) -> Recipe | None:
    """Read r_weight beside i_weight, j_weight and k_weight: quaternion layers."""
    return _of_components(name, tuple(f"{base}{word}_weight" for word in "ijk"), "quaternion", stored)


def _of_components(name: str, others: tuple[str, ...], kind: str, stored: Stored) -> Recipe | None:
    if not all(other in stored and stored[other].shape == stored[name].shape for other in others):
        return None
    reason = f"it is a part of a {kind} kernel, with {_last(others[0])} beside it. Give the real kernel of all parts."
    return Recipe.refused(name, reason, others)


_READERS: Mapping[str, Callable[[str, str, Stored, set[str]], Recipe | None]] = {
    "_orig": _of_hook, "weight_bar": _of_bar, "_v": _of_direction, ".original": _of_original, ".original1": _of_pair,
    "_mu": _of_distribution, "_real": _of_complex, "r_weight": _of_quaternion,
}  # fmt: skip
"""Readers of arrays from which a weight of another name is computed, by the ends of their names."""


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
        yield Recipe(name, (name, state), normalised, f"{_last(name)}=W/|W|·scale")
    elif leaf == "u" and shape_of_state == (1, shape[-1]):
        yield Recipe(name, (name, state), _divided_by_flax, f"{_last(name)}=W/(u·Wv) of n_steps=1")


def normalised(kernel: Numbers, scale: Numbers) -> Numbers:
    """Return the weight of Flax's WeightNorm and of TensorFlow's, of the last axis or of all."""
    axes = tuple(range(kernel.ndim - scale.ndim))
    squares = np.sum(kernel**2, axis=axes, keepdims=True)
    return np.asarray(kernel / np.sqrt(np.maximum(squares, _EPSILON)) * scale)


def _divided_by_flax(kernel: Numbers, u: Numbers) -> Numbers:
    """Return the weight of Flax's SpectralNorm, which takes a step of the power iteration in evaluation, too."""
    sigma = _after_step(kernel.reshape(-1, kernel.shape[-1]).T, u.reshape(-1))
    return kernel / sigma if sigma else kernel


# -- what stands beside a kernel that keeps its name -------------------------------------------------------------------
_KERNELS = ("weight", "kernel", "W", "w", "weights")
"""Names that layers' kernels have, as the last word of a name, or (``conv0_weight``) as the end of it."""
BIASES = ("bias", "biases", "b")
"""Names of a layer's bias."""
_PLAIN = re.compile(rf"(.*_)?({'|'.join(BIASES)})(_.*)?")
"""Names of what plain layers have beside their kernel."""
_Rest: TypeAlias = Mapping[str, str]
"""Names of the arrays beside a kernel, by what follows the layer's name in them."""


@dataclass(frozen=True)
class Beside:
    """A convention: names of arrays that stand beside a kernel, and what the layer computes from both.

    Parameters
    ----------
    words : str
        Pattern of the word that follows the layer's name.
    read : callable
        ``read(kernel, rest, everything)`` returns the recipe; a text is the reason why there is none.
    """

    words: str
    read: Callable[[str, _Rest, Stored], Recipe] | str


def _of_power_iteration(kernel: str, rest: _Rest, everything: Stored) -> Recipe:
    """Read the vector u of a normalisation that takes one step of the power iteration at inference, too.

    The convention is BigGAN's and torch-mimicry's: the kernel's outputs are the rows of the matrix. With more steps the
    weight is smaller in norm, so that upper bounds hold for any number. Other normalisations are refused.
    """
    leaves = {re.split(r"[./]", words)[-1]: name for words, name in rest.items()}
    vector = leaves.get("u0") or leaves.get("sn_u")
    is_known = any(all(re.fullmatch(names, leaf) for leaf in leaves) for names in _POWER_ITERATIONS)
    rows = everything[kernel].shape[0]
    if not is_known or vector is None or everything[vector].shape != (1, rows):
        return Recipe.refused(kernel, f"{_listed(rest)} beside it: {_OTHER}", rest.values())
    others = tuple(name for name in rest.values() if name != vector)
    return Recipe(kernel, (kernel, vector), _divided_after_step, f"{_last(kernel)}=W/(u·Wv) of one step", others)


_POWER_ITERATIONS = (r"u\d|sv\d", r"sn_u|sn_sigma")
"""Names of all states of a convention. Of several vectors, only u0 counts."""
_OTHER = f"the layer divides its weight by a norm, and these do not say by which. {_BAKE}"


def _divided_after_step(weight: Numbers, u: Numbers) -> Numbers:
    """Return the weight divided by its norm by one step from u."""
    return np.asarray(weight / _after_step(weight.reshape(weight.shape[0], -1), u.reshape(-1)))


def _after_step(matrix: Numbers, u: Numbers) -> float:
    """Return the norm of a matrix by one step of the power iteration from u."""
    v = _unit(u @ matrix)
    image = matrix @ v
    return float(image @ _unit(image))


def _unit(x: Numbers) -> Numbers:
    """Return a vector divided by its length."""
    return np.asarray(x / np.sqrt(max(float(np.sum(x**2)), _EPSILON)))


def _masked(kernel: str, rest: _Rest, everything: Stored) -> Recipe:
    """Multiply by a mask of zeros and ones: masked convolutions, MADE, pruning."""
    names = list(rest.values())
    if len(names) != 1 or everything[names[0]].shape != everything[kernel].shape:
        return Recipe.refused(kernel, f"{_listed(rest)} beside it does not fit its shape. {_BAKE}", rest.values())
    return Recipe(kernel, (kernel, names[0]), _with_mask, f"{_last(kernel)}=W·mask")


def _with_mask(weight: Numbers, mask: Numbers) -> Numbers:
    if not np.isin(mask, (0.0, 1.0)).all():
        raise ModelFileError(f"the mask beside it has other numbers than 0 and 1. {_BAKE}")
    return np.multiply(weight, mask)


BESIDE: tuple[Beside, ...] = (
    Beside(r"u\d*|sv\d+|sn|sn_u|sn_sigma|u_var|sigma|spectral_norm(alization)?(_\d+)?", _of_power_iteration),
    Beside(r"((weight|kernel)_)?mask", _masked),
    # Reasons why a weight is not determined.
    Beside(r"gain", "the layer standardises its weight and multiplies it by the gain and by a factor that is in its "
           "code alone (NFNet)."),
    Beside(r"modulation|affine|to_style", "each input has a kernel of its own (StyleGAN's modulation)."),
    Beside(r"resample_filter|up_filter|down_filter", "the layer also filters its signal, and may multiply its weight "
           "by a factor that is in its code alone (StyleGAN)."),
    Beside(r"lora(_.*)?|hada_.*|ia3_.*|dora_.*", "the layer adds it to the weight, by a factor that is in its code. "
           "Merge it first (merge_and_unload())."),
    Beside(r"weight_fake_quant|weight_quantizer", "the layer rounds its weight to a grid."),
    Beside(r"conv_offset|offset_conv", "the layer is a deformable convolution, whose taps move with the input."),
    Beside(r"(weight|kernel|W|w)_.*|v\d*|sn_v", _OTHER),
)  # fmt: skip
"""What may stand beside a kernel, and how the layer uses both. The first row whose pattern fits counts."""
_ANY = re.compile("|".join(f"(?P<row{i}>{row.words})" for i, row in enumerate(BESIDE)))
_UNKNOWN = (
    "{} beside it: a layer with a kernel and a bias alone has no such array, so this one may use another weight. "
    "{} If it does not count, leave it out of the arrays."
)
_EQUALISED = (
    "the file is of a StyleGAN, whose layers multiply their weights by factors that are in the code alone. " + _BAKE
)


def _of_neighbours(stored: Stored, everything: Stored, used: set[str]) -> Iterator[Recipe]:
    """Yield the weights of kernels beside which something else stands than a bias."""
    kernels = _Kernels(name for name, x in stored.items() if len(x.shape) > 1)
    found: dict[str, dict[int, dict[str, str]]] = {}
    for name, tensor in everything.items():
        if name in used or tensor.kind is not None:
            continue
        neighbour = kernels.listed_beside(name) or kernels.unknown_beside(name, tensor)
        if neighbour is not None and neighbour.kernel not in used:
            rows = found.setdefault(neighbour.kernel, {})
            rows.setdefault(neighbour.row, {})[neighbour.rest] = name
    is_equalised = any(_is_of_stylegan(rest, everything) for rows in found.values() for rest in rows.values())
    for kernel, rows in found.items():
        rest = {words: name for names in rows.values() for words, name in names.items()}
        (row,) = rows if len(rows) == 1 else (-1,)
        read = None if row < 0 else BESIDE[row].read
        if callable(read):
            yield read(kernel, rest, everything)
            continue
        states = [name for words, name in rest.items() if "." not in words]  # others are arrays of layers inside
        reason = f"{_listed(rest)} beside it: {read}" if read else _UNKNOWN.format(_listed(rest), _BAKE)
        yield Recipe.refused(kernel, reason, states)
    if is_equalised:
        for kernel in kernels.names:
            if kernel not in found and kernel not in used:
                yield Recipe.refused(kernel, _EQUALISED)


def _is_of_stylegan(rest: _Rest, everything: Stored) -> bool:
    """Return whether an array beside a kernel is StyleGAN's: the filter in a plane, or the style of a modulation."""
    return any(
        words.startswith(("modulation.weight", "up_filter"))
        or (words == "resample_filter" and len(everything[name].shape) == 2)
        for words, name in rest.items()
    )


@dataclass(frozen=True)
class _Neighbour:
    """An array beside a kernel: the row of `BESIDE` that it fits (-1: none), and its name after the layer's."""

    kernel: str
    row: int
    rest: str


class _Kernels:
    """The kernels of a file, by the words of their names."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names: list[str] = []
        self.by_words: dict[tuple[str, ...], str] = {}
        self.by_prefix: dict[str, str] = {}
        """Kernels by the part of their names before the last word, ``weight``."""
        for name in names:
            bare = COUNTER.sub("", name)
            ending = next((word for word in _KERNELS if re.search(rf"(^|[./:_]){word}$", bare)), None)
            if ending is None or ("parametrizations" in bare):
                continue
            self.names.append(name)
            self.by_words[tuple(parts_of(name))] = name
            self.by_prefix.setdefault(bare.removesuffix(ending), name)
        self.collections = {words[:1] for words in self.by_words if len(words) > 1}
        """First words of kernels' names, such as ``params``."""

    def listed_beside(self, name: str) -> _Neighbour | None:
        """Return the kernel beside which an array stands whose name is in `BESIDE`; None: there is none."""
        words = parts_of(name)
        for place in range(len(words)):
            match = _ANY.fullmatch(words[place])
            if match is None and "__" not in words[place]:
                continue
            kernel = self._of_owner(tuple(words[:place])) if match else self._of_haiku(words[place])
            if kernel is None or kernel == name:
                continue
            row = 0 if match is None else int(str(match.lastgroup).removeprefix("row"))
            return _Neighbour(kernel, row, ".".join(words[place:]))
        return self._after_underscore(name)

    def _after_underscore(self, name: str) -> _Neighbour | None:
        """Return the kernel ``conv0_weight`` of an array such as ``conv0_u``."""
        prefix, separator, word = COUNTER.sub("", name).rpartition("_")
        kernel = self.by_prefix.get(f"{prefix}{separator}") if separator else None
        match = _ANY.fullmatch(word)
        if kernel is None or match is None or kernel == name:
            return None
        return _Neighbour(kernel, int(str(match.lastgroup).removeprefix("row")), word)

    def _of_owner(self, owner: tuple[str, ...]) -> str | None:
        """Return the kernel of a layer, or the kernel of this name.

        A collection without kernels, such as Haiku's state, has the names of another one, such as its parameters.
        """
        scopes = [owner]
        if len(owner) > 1 and owner[:1] not in self.collections:
            scopes += [owner[1:], *(collection + owner[1:] for collection in self.collections)]
        for scope in scopes:
            for ending in (*((word,) for word in _KERNELS), ("base_layer", "weight"), ()):
                kernel = self.by_words.get((*scope, *ending))
                if kernel is not None:
                    return kernel
        return None

    def _of_haiku(self, word: str) -> str | None:
        """Return the kernel ``mlp/~/linear_0/w``, whose state Haiku keeps under ``mlp___tilde__linear_0__w``."""
        words = tuple(word.replace("_tilde", "~").replace("__", "/").split("/"))
        for collection in ((), *self.collections):
            kernel = self.by_words.get((*collection, *words))
            if kernel is not None:
                return kernel
        return None

    def unknown_beside(self, name: str, tensor: Tensor) -> _Neighbour | None:
        """Return the kernel beside which a vector or number stands that plain layers do not have."""
        bare = COUNTER.sub("", name)
        is_plain = _PLAIN.fullmatch(parts_of(name)[-1]) is not None
        if is_plain or not tensor.dtype.startswith(FLOATING) or not is_vector(tensor.shape):
            return None
        for separators in ("./:", "_"):
            place = max(bare.rfind(separator) for separator in separators) + 1
            kernel = self.by_prefix.get(bare[:place])
            if kernel is not None and (place or separators != "_") and kernel != name:
                return _Neighbour(kernel, -1, bare[place:])
        return None


def _listed(rest: _Rest) -> str:
    """Return the first of the names beside a kernel, in words."""
    first, *others = rest
    verb = "stand" if others else "stands"
    return f"{first} and {others[0]} {verb}" if others else f"{first} {verb}"


def _identity(weight: Numbers) -> Numbers:
    return weight


def parts_of(name: str) -> list[str]:
    """Return the words of an array's name, outermost first."""
    return _SEPARATOR.split(COUNTER.sub("", name))


def _last(name: str) -> str:
    """Return the last word of a name."""
    return parts_of(name)[-1]
