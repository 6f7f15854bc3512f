"""What torch and its programs store: spectral and weight normalization [1]_ [2]_, pruning [3]_, and networks' own.

BigGAN's layers take a step of the power iteration from ``u0`` at each call, torch-mimicry's from ``sn_u``: the kernel's
outputs are the rows of the matrix. With more steps the weight is smaller in norm, so upper bounds hold for any number.

.. [1] ``torch/nn/utils/spectral_norm.py``, ``weight_norm.py``: ``NAME_orig``, ``NAME_u``, ``NAME_v``; ``NAME_v``,
   ``NAME_g``.
.. [2] ``torch/nn/utils/parametrizations.py``: ``parametrizations.NAME.original``, ``parametrizations.NAME.0._u``.
.. [3] ``torch/nn/utils/prune.py``: ``NAME_orig``, ``NAME_mask``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import eq

import numpy as np
from specnorm_networks.model_arrays import Tensor

from specnorm.errors import ModelFileError
from specnorm_audit.accounts.conventions.recipe import (
    AS_STORED,
    BAKE,
    Convention,
    Numbers,
    Shape,
    after_step,
    is_vector,
)  # fmt: skip
from specnorm_audit.accounts.names import parts_of

_CLEARLY = 5.0
"""A kernel may be read as a matrix W in two ways. In training u becomes parallel to Wv, so the way is accepted for
which the distance of u from the direction of Wv is smaller by this factor."""


# -- spectral normalization --------------------------------------------------------------------------------------------
def _axes(shape: Shape, u: Shape, v: Shape) -> tuple[int, ...]:
    """Return the axes of a kernel whose entries may be the rows of the matrix W; () if u and v do not fit."""
    if len(u) != 1 or len(v) != 1 or math.prod(shape) != u[0] * v[0]:
        return ()
    return tuple(axis for axis, n in enumerate(shape) if n == u[0])


def _divided(weight: Numbers, u: Numbers, v: Numbers) -> Numbers:
    """Return W / (u·Wv), as torch does in ``eval()``, whether or not that is the norm of the matrix.

    If several axes may be the rows, u is parallel to Wv for the right one.
    """
    readings: list[tuple[float, float]] = []
    for axis in _axes(weight.shape, u.shape, v.shape):
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
                "its spectral normalization is of the matrix with the outputs as rows, or with the inputs (of a "
                f"transposed layer): shapes and vectors fit both. {BAKE}"
            )
    return sigma


def _after_step(weight: Numbers, u: Numbers) -> Numbers:
    return np.asarray(weight / after_step(weight.reshape(weight.shape[0], -1), u.reshape(-1)))


def _is_of_rows(weight: Shape, u: Shape) -> bool:
    return len(weight) > 1 and u == (1, weight[0])


# -- weight normalization ----------------------------------------------------------------------------------------------
def _is_length(direction: Shape, length: Shape) -> bool:
    """Return whether a shape is that of one length for all of a direction, or one for each entry of an axis."""
    if len(direction) < 2 or len(length) == 0:
        return len(direction) > 1
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


# -- masks -------------------------------------------------------------------------------------------------------------
def _with_mask(weight: Numbers, mask: Numbers) -> Numbers:
    if not np.isin(mask, (0.0, 1.0)).all():
        raise ModelFileError(f"the mask beside it has values other than 0 and 1. {BAKE}")
    return np.multiply(weight, mask)


def _pruned_shape(shape: Shape, mask: Shape) -> bool:
    return shape == mask and len(shape) > 1


def _in_use(_original: Numbers, weight: Numbers) -> Numbers:
    """Return the weight itself: torch 0.4 and RealSN store the one in use beside the one that is trained."""
    return weight


def _in_use_fits(original: Shape, weight: Shape) -> bool:
    return original == weight and not is_vector(weight)


_PARAMETRISED = r"(?P<owner>(.*\.)?)parametrizations\.(?P<name>[^.]+)\."
_OWNER = r"(?P<owner>(.*[./])?)"
_NAME = rf"{_OWNER}(?P<name>[^./]+?)"
_ONE_STEP = "{}=W/(u·Wv) of one step"
_SPECTRAL = "{}=W/(u·Wv) as in eval()"
_NORMALISED = "{}=g·v/|v|"
HOOK = "torch.nn.utils.spectral_norm.SpectralNorm"
_PARAMETRIZATION = "torch.nn.utils.parametrizations._SpectralNorm"
TORCH = (
    Convention(rf"{_NAME}_orig", ("{owner}{name}",), _in_use, _in_use_fits, AS_STORED, others=("{owner}{name}_[uv]",)),
    Convention(rf"{_NAME}_orig", ("{owner}{name}_u", "{owner}{name}_v"), _divided, _axes, _SPECTRAL, class_name=HOOK),
    Convention(rf"{_PARAMETRISED}original", tuple("{owner}parametrizations.{name}.0._" + x for x in "uv"),
               _divided, _axes, _SPECTRAL, class_name=_PARAMETRIZATION),
    Convention(rf"{_NAME}_orig", ("{owner}{name}_mask",), np.multiply, eq, "{}=W·mask"),
    Convention(rf"{_NAME}_v", ("{owner}{name}_g",), _scaled, _is_length, _NORMALISED),
    Convention(rf"{_PARAMETRISED}original1", ("{owner}parametrizations.{name}.original0",), _scaled, _is_length,
               _NORMALISED),
    Convention(r"(?P<owner>.*)\.original1", ("{owner}.original0",), _scaled, _is_length, _NORMALISED,
               "{owner}.weight"),
    *(Convention(rf"{_OWNER}(?P<name>weight|kernel|W|w)", (mask,), _with_mask, _pruned_shape, "{}=W·mask")
      for mask in ("{owner}mask", "{owner}{name}_mask")),
    *(Convention(rf"{_OWNER}(?P<name>weight)", (vector,), _after_step, _is_of_rows, _ONE_STEP, others=(other,))
      for vector, other in (("{owner}u0", r"{owner}(u|sv)\d+"), ("{owner}sn_u", "{owner}sn_sigma"))),
)  # fmt: skip
"""All rows; the first one whose pattern, names and shapes fit counts. Masks beside a kernel are of zeros and ones."""

EQUALISED = (
    f"the file is of a StyleGAN, whose layers multiply their weights by factors that are in the code alone. {BAKE}"
)


def is_of_stylegan(tensors: Iterable[Tensor]) -> bool:
    """Whether an array is StyleGAN's: the filter of a layer in a plane, or the style that modulates a kernel."""
    for tensor in tensors:
        words = parts_of(tensor.name)
        is_filter = words[-1:] == ("resample_filter",) and len(tensor.shape) == 2
        if is_filter or words[-1:] == ("up_filter",) or words[-2:] == ("modulation", "weight"):
            return True
    return False
