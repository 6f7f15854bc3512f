"""What programs for generative networks store: a step of the power iteration at inference, and factors in the code.

BigGAN's layers take a step from ``u0`` at each call, torch-mimicry's from ``sn_u``: the kernel's outputs are the rows
of the matrix. With more steps the weight is smaller in norm, so upper bounds hold for any number.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from specnorm_networks.model_arrays import Tensor

from specnorm_audit.conventions.recipe import BAKE, Convention, Numbers, Shape, after_step
from specnorm_audit.leaves import parts_of


def _divided(weight: Numbers, u: Numbers) -> Numbers:
    return np.asarray(weight / after_step(weight.reshape(weight.shape[0], -1), u.reshape(-1)))


def _is_of_rows(weight: Shape, u: Shape) -> bool:
    return len(weight) > 1 and tuple(u) == (1, weight[0])


_WEIGHT = r"(?P<owner>(.*[./])?)(?P<name>weight)"
_TEXT = "{}=W/(u·Wv) of one step"
GANS = (
    Convention(_WEIGHT, ("{owner}u0",), "{owner}{name}", _divided, _is_of_rows, _TEXT, (r"{owner}(u|sv)\d+",)),
    Convention(_WEIGHT, ("{owner}sn_u",), "{owner}{name}", _divided, _is_of_rows, _TEXT, (r"{owner}sn_sigma",)),
)
"""BigGAN's and torch-mimicry's spectral normalization."""

EQUALISED = (
    f"the file is of a StyleGAN, whose layers multiply their weights by factors that are in the code alone. {BAKE}"
)


def is_of_stylegan(tensors: Iterable[Tensor]) -> bool:
    """Whether an array is StyleGAN's: the filter of a layer in a plane, or the style that modulates a kernel."""
    for tensor in tensors:
        words = parts_of(tensor.name)
        is_filter = words[-1:] == ["resample_filter"] and len(tensor.shape) == 2
        if is_filter or words[-1:] == ["up_filter"] or words[-2:] == ["modulation", "weight"]:
            return True
    return False
