"""What `specnorm_torch.spectral_norm` stores: a state, and what else determines the weight as JSON in bytes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from specnorm_networks.model_arrays import Stated, Tensor, as_in_torch

from specnorm import track
from specnorm.errors import ModelFileError
from specnorm.methods import METHODS
from specnorm.proof import backends
from specnorm_audit.accounts.conventions.recipe import Numbers, Recipe, Stored

SETTINGS = "_extra_state"
"""Name of the array with the constraint's settings, as JSON in bytes."""
_LONGEST = 10_000
"""Largest number of bytes of the settings."""
_KEYS = ("bound", "eps", "only_shrink", "dim", "geometry", "method", "sweeps")
_LARGEST = 10_000
"""Largest number in the settings of the method: a search with numbers from a file must end."""


def geometry_in(settings: Tensor) -> Stated:
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
    arrays = zip(names, state, strict=True)
    stored_state = {name: x for name, x in arrays if not name.startswith("last_")}  # the others are for training alone
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
        raise ModelFileError(f"its constraint's settings are damaged: {error}.") from error


def _in_tuples(value: Any) -> Any:
    return tuple(map(_in_tuples, value)) if isinstance(value, list) else value


_ORIGINAL = re.compile(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<name>[^.]+)\.original")


def recipes(stored: Stored) -> Iterator[Recipe]:
    """Yield the weights of layers with this library's constraint."""
    for name in stored:
        match = _ORIGINAL.fullmatch(name)
        prefix = f"{name.removesuffix('original')}0."
        settings = f"{prefix}{SETTINGS}"
        if match is None or settings not in stored:
            continue
        leaves = (other.removeprefix(prefix) for other in stored if other.startswith(prefix))
        buffers = sorted(leaf for leaf in leaves if leaf != SETTINGS and "." not in leaf)
        parts = (name, settings, *(f"{prefix}{leaf}" for leaf in buffers))
        weight = f"{match['owner']}{match['name']}"
        text = f"{match['name']}=W·bound/norm as in eval()"
        yield Recipe(weight, parts, partial(_constrained, tuple(buffers)), text, settings=settings)
