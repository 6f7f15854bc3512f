"""Which geometries a method serves: refusals that name what to use instead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.errors import GeometryError, MethodError
from specnorm.problem.frequencies import tap_grid

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec


LARGEST_GRID = 2**22
"""Frequencies; beyond, the taps of the last product would not fit any memory."""


def require_circular(spec: ConvSpec, function: str, otherwise: str) -> None:
    """Refuse what is not a circular layer at a given input size.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    if spec.padding_mode != "circular" and spec.ndim:
        raise GeometryError(
            f'{function} needs padding_mode="circular" for all values; got "{spec.padding_mode}". Give k for the '
            f"largest ones. The supremum over all sizes bounds zero padding too: use {otherwise}."
        )
    if spec.input_shape is None:
        raise GeometryError(
            f"{function} needs input_shape, the layer's spatial input sizes. For every size at once: {otherwise}."
        )


def require_exact(spec: ConvSpec, function: str) -> None:
    """Refuse layers whose norm is not that of the symbols: padding that repeats pixels or drops outputs.

    Raises
    ------
    GeometryError
        Naming what to use instead.
    """
    here = f"padding_mode={spec.padding_mode!r} with padding={spec.padding}"
    if spec.input_shape is None and spec.padding_gain_sq > 1:
        raise GeometryError(
            f"{function} is not known for {here}, which may lift the norm by as much as "
            f"{math.sqrt(spec.padding_gain_sq):.4g}. Use enclose(kernel) or grid_bound(kernel), whose upper bounds "
            "include that factor; power_norm(kernel, input_shape) is a lower bound at one size."
        )
    if spec.input_shape is not None and not spec.periodic:
        raise GeometryError(
            f"{function} at input_shape is not known for {here}, only for circular padding that gives one output a "
            "stride, such as padding='same'. Use grid_bound(kernel) for an upper bound, power_norm(kernel, "
            "input_shape) for a lower one, or enclose for both."
        )


def require_countable_taps(n_iter: int, kernel_shape: tuple[int, ...]) -> None:
    """Refuse a number of products whose taps fit no memory.

    Raises
    ------
    MethodError
    """
    points = math.prod(tap_grid(kernel_shape, n_iter))
    if points > LARGEST_GRID:
        raise MethodError(
            f"n_iter={n_iter} makes {points} taps out of a kernel {kernel_shape}: each product doubles their "
            "number on every axis. Use fewer (3 is the default), or grid_bound(kernel)."
        )
