"""Norms of the rows of linear operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import host
from specnorm_networks import operators as ops
from specnorm_networks.tools import FloatArray, LinearMap, Shape


def row_norms(operator: ops.Operator, linear: LinearMap, before: Shape) -> FloatArray:
    """Return upper bounds of the 2-norms of the rows of a linear operator, which broadcast against its value.

    They are infinite for operators whose rows are not known here. ``linear``: the operator's linear map. ``before``:
    shape of its first input.
    """
    if linear.only_moves_entries or isinstance(operator, ops.Centre):
        return np.ones(())
    match operator:
        case ops.Scale():
            return operator.factors_up()
        case ops.Matrix():
            norms = host.next_up(abs(operator.alpha) * host.norm_up(operator.layer.kernel()))
            return norms if operator.side == "right" else norms[:, None]
        case ops.Convolution():
            spatial_axes = (1,) * operator.layer.spatial
            norms = _of_channels(operator.layer.kernel(), operator.layer.geometry, before[2:])
            return norms.reshape(-1, *spatial_axes)
    return np.full((), np.inf)


def _of_channels(kernel: FloatArray, geometry: Mapping[str, Any], spatial: Shape) -> FloatArray:
    """Return for each output channel an upper bound of the norm of a row of the layer's matrix."""
    spec = ConvSpec.of(kernel.shape, **geometry)
    if spec.transposed:
        # A transposed kernel has the shape (cin, cout / groups, ...): output (group, o) reads the inputs of its group.
        inputs_of_group = spec.cin // spec.groups
        by_group = kernel.reshape(spec.groups, inputs_of_group, *kernel.shape[1:])
        kernel = np.moveaxis(by_group, 1, 2)
    taps_of_output = kernel.reshape(spec.cout, -1)
    extents = [r * (k - 1) + 1 for k, r in zip(spec.kernel_shape, spec.dilation, strict=True)]
    wraps_once = all(extent <= n for extent, n in zip(extents, spatial, strict=True))
    reads_each_pixel_once = spec.padding_mode == "circular" and wraps_once and not spec.transposed
    if spec.padding_mode == "zeros" or reads_each_pixel_once:
        return host.norm_up(taps_of_output)
    # Several taps may read one pixel.
    return host.inflate(abs(taps_of_output).sum(axis=1), taps_of_output.shape[1])
