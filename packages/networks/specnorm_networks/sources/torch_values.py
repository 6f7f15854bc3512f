"""Values of torch: as `Computed`, and as the fake tensors of traced programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from specnorm_networks.model import Computed


def first_of(node: Any) -> Any:
    """Return the fake tensor of an fx node's value, or of the first of its values."""
    value = node.meta.get("val")
    return value[0] if isinstance(value, tuple | list) and value else value


def computed(x: Tensor) -> Computed:
    """Return a tensor's numbers with their unit roundoff: that of the dtype, or of products in a smaller precision."""
    unit = torch.finfo(x.dtype).eps / 2 if x.is_floating_point() else 2.0**-53
    if x.dtype == torch.float32:
        try:
            is_full_precision = torch.get_float32_matmul_precision() == "highest"
        except RuntimeError:  # the precision was set by other switches of torch, and cannot be asked for
            is_full_precision = False
        if not is_full_precision:
            unit = 2.0**-8  # bfloat16
        elif x.is_cuda:
            unit = 2.0**-11  # TensorFloat-32 is on for cuDNN unless it is switched off
    return Computed(np.asarray(x.detach().cpu().to(torch.float64).numpy()), unit)


def in_double(value: Any) -> Any:
    """Return a tensor or data type of single precision in double precision; other objects as they are.

    Half precision stays: an exporter writes numbers like 0.1 in it, which are other numbers.
    """
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value


def in_single(value: Any) -> Any:
    """Return a tensor of double precision in single precision; other objects as they are."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float64 else value
