"""The types of the table of conventions, and the formulas that several frameworks share.

A convention is a framework's own form of storing a weight as several arrays. Its pattern names the first array, its
templates the others, by the groups of the pattern. What no convention explains is left to `specnorm_audit.accounts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.model_arrays import Tensor

from specnorm_audit.accounts.names import last_word

Numbers: TypeAlias = NDArray[np.float64]
Compute: TypeAlias = Callable[..., Numbers]
"""Function that computes a weight, in float64, from arrays in the order of `Recipe.parts`."""
Stored: TypeAlias = Mapping[str, Tensor]
"""Arrays by name."""
Shape: TypeAlias = tuple[int, ...]
_EPSILON = 1e-12
"""Smallest squared norm by which Flax, TensorFlow and BigGAN divide."""
BAKE = (
    "Where the model's code is there, make it a plain parameter: specnorm_torch.bake_(model), and save the state dict."
)
AS_STORED = "weight=as stored"
"""Assumption about an array that no other array explains: that the layer uses it as it is. A factor in the model's code
would not be seen."""


@dataclass(frozen=True)
class Recipe:
    """How a weight is computed from stored arrays.

    Parameters
    ----------
    name : str
        Name of the weight in the model.
    parts : tuple of str
        Names of the arrays from which the weight is computed. The first one has the weight's shape.
    compute : callable
    assumption : str
        Text of the row under ``assumed``.
    others : tuple of str
        Names of arrays that belong to the convention and do not enter the weight.
    settings : str or None
        Name of the part that states the layer's geometry.
    class_name : str or None
        Name of the class that computes this weight, if subclasses that compute another one store the same arrays.
    """

    name: str
    parts: tuple[str, ...]
    compute: Compute
    assumption: str
    others: tuple[str, ...] = ()
    settings: str | None = None
    class_name: str | None = None


@dataclass(frozen=True)
class Convention:
    """A row of the table: what a framework stores in place of a weight, and what the layer computes.

    Parameters
    ----------
    first : str
        Pattern of the whole name of the array that has the weight's shape.
    beside : tuple of str
        Templates of the names of the other arrays that enter the weight.
    compute : callable
        ``compute(first, *beside)``.
    fits : callable
        ``fits(shape of the first, *shapes of the others)``: true if the shapes are the convention's.
    text : str
        What the row says: ``{}`` is the last word of the weight's name.
    weight : str
        Template of the weight's name in the model.
    others : tuple of str
        Patterns of names, after the owner's, of arrays that belong to the convention and do not enter the weight.
    class_name : str or None
        As in `Recipe`.
    """

    first: str
    beside: tuple[str, ...]
    compute: Compute
    fits: Callable[..., object]
    text: str
    weight: str = "{owner}{name}"
    others: tuple[str, ...] = ()
    class_name: str | None = None

    def recipe(self, name: str, stored: Stored) -> Recipe | None:
        """Return the recipe of the array ``name``; None if it does not begin this convention."""
        match = re.fullmatch(self.first, name)
        if match is None:
            return None
        groups = match.groupdict("")
        parts = tuple(template.format(**groups) for template in self.beside)
        is_whole = all(part in stored for part in parts)
        if not is_whole or not self.fits(stored[name].shape, *(stored[part].shape for part in parts)):
            return None
        weight = self.weight.format(**groups)
        escaped = {key: re.escape(text) for key, text in groups.items()}
        patterns = [template.format(**escaped) for template in self.others]
        others = [x for x in stored if x not in parts and any(re.fullmatch(pattern, x) for pattern in patterns)]
        text = self.text.format(last_word(weight))
        return Recipe(weight, (name, *parts), self.compute, text, tuple(others), class_name=self.class_name)


def is_vector(shape: Shape) -> bool:
    """Return whether an array of this shape is a number, or a vector along one of its axes."""
    return sum(n != 1 for n in shape) < 2


def unit(x: Numbers) -> Numbers:
    """Return a vector divided by its length."""
    return np.asarray(x / np.sqrt(max(float(np.sum(x**2)), _EPSILON)))


def after_step(matrix: Numbers, u: Numbers) -> float:
    """Return the norm of a matrix by one step of the power iteration from u."""
    v = unit(u @ matrix)
    image = matrix @ v
    return float(image @ unit(image))


def normalised(kernel: Numbers, scale: Numbers) -> Numbers:
    """Return the weight of Flax's WeightNorm and of TensorFlow's, of the last axis or of all."""
    axes = tuple(range(kernel.ndim - scale.ndim))
    squares = np.sum(kernel**2, axis=axes, keepdims=True)
    return np.asarray(kernel / np.sqrt(np.maximum(squares, _EPSILON)) * scale)
