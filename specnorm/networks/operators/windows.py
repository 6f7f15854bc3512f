"""Pooling and resizing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from specnorm.networks.operators.base import Linear, Operator


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a value.

    Parameters
    ----------
    kernel, stride, dilation : tuple of int
    padding : tuple of (int, int) or None
        None: "same" at sizes that are not known.
    ceil : bool
        Whether the last window may leave the padded input.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | None
    ceil: bool = False


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """The largest entry of each window; what pads is smaller than anything."""

    rule: ClassVar[str] = "max_pool"
    keeps_channels: ClassVar[bool] = True
    windows: Windows


@dataclass(frozen=True, eq=False)
class AveragePool(Linear):
    """The mean of each window.

    Parameters
    ----------
    count_padding : bool
        Whether padding counts.
    divisor : int or None
        Divide by this in place of the count.
    """

    rule: ClassVar[str] = "average_pool"
    keeps_channels: ClassVar[bool] = True
    windows: Windows
    count_padding: bool = True
    divisor: int | None = None


@dataclass(frozen=True, eq=False)
class L2Pool(Operator):
    """The root of ``times`` a mean of squares over each window; padding counts as zeros."""

    rule: ClassVar[str] = "l2_pool"
    keeps_channels: ClassVar[bool] = True
    windows: Windows
    times: float


@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(Operator):
    """Torch's adaptive pooling to sizes of the last axes."""

    rule: ClassVar[str] = "max_pool"
    keeps_channels: ClassVar[bool] = True
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Linear):
    """Torch's adaptive pooling to sizes of the last axes."""

    rule: ClassVar[str] = "average_pool"
    keeps_channels: ClassVar[bool] = True
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Resize(Linear):
    """Nearest or linear interpolation along axes.

    Parameters
    ----------
    mode : {"nearest", "linear"}
    sizes : tuple of int or None
        Of the value, all axes; None: floor(size * scale).
    scales : tuple of Fraction
        Outputs per input pixel, all axes, as the framework uses them for coordinates.
    coordinates : {"half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"}
    nearest : {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"}
    single : bool
        Whether coordinates may be computed in single precision: then a pixel that rounding can move counts where it
        can go.
    """

    rule: ClassVar[str] = "resize"
    keeps_channels: ClassVar[bool] = True
    mode: Literal["nearest", "linear"]
    sizes: tuple[int, ...] | None
    scales: tuple[Fraction, ...]
    coordinates: str
    nearest: str = "floor"
    single: bool = True
