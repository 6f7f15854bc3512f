"""What Flax's wrappers store: ``LAYER/kernel``, and its scale or vector under the wrapper's name; paths in NNX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from specnorm_audit.accounts.conventions.recipe import Numbers, Recipe, Stored, after_step, normalised
from specnorm_audit.accounts.names import last_word

_SPLIT = re.compile(r"[./]")
_NNX = re.compile(r"(?P<owner>(?:.*\.)?)(?P<kind>scales|batch_stats)\.\((?P<path>'[^()]*),?\)")


def recipes(stored: Stored) -> Iterator[Recipe]:
    """Yield the weights of kernels in Flax's WeightNorm and SpectralNorm."""
    by_parts = {tuple(_SPLIT.split(name)): name for name in stored}
    for name in stored:
        kernel, leaf = _wrapped(name, by_parts)
        recipe = None if kernel is None else _with_state(kernel, name, leaf, stored)
        if recipe is not None:
            yield recipe


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
    if leaf not in ("scale", "u"):
        return None, leaf
    scope_parts = tuple(filter(None, scope))
    collections: list[tuple[str, ...]] = [()]
    if scope_parts:  # the state may be in another collection than the kernel: batch_stats beside params
        collections += {parts[:1] for parts in by_parts}
    for collection in collections:
        # The kernel's collection takes the place of the first part of the scope.
        kernel_name = by_parts.get((*collection, *scope_parts[len(collection) :], layer, kernel))
        if kernel_name is not None and name != kernel_name:
            return kernel_name, leaf
    return None, leaf


def _with_state(name: str, state: str, leaf: str, stored: Stored) -> Recipe | None:
    """Return the weight of a kernel with its wrapper's state, if the shapes are those of Flax."""
    shape = stored[name].shape
    shape_of_state = stored[state].shape
    if len(shape) < 2:
        return None
    sigma = state.replace("'u'", "'sigma'") if state.endswith(")") else f"{state[: -len(leaf)]}sigma"
    others = tuple(other for other in stored if other == sigma and leaf == "u")
    if leaf == "scale" and shape_of_state in ((), shape[-1:]):
        return Recipe(name, (name, state), normalised, f"{last_word(name)}=W/|W|·scale")
    if leaf == "u" and shape_of_state == (1, shape[-1]):
        return Recipe(name, (name, state), _divided, f"{last_word(name)}=W/(u·Wv) of n_steps=1", others)
    return None


def _divided(kernel: Numbers, u: Numbers) -> Numbers:
    """Return the weight of Flax's SpectralNorm, which takes a step of the power iteration in evaluation, too."""
    sigma = after_step(kernel.reshape(-1, kernel.shape[-1]).T, u.reshape(-1))
    return np.asarray(kernel / sigma) if sigma else kernel
