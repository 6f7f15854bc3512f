"""Layers: convolutions and products with constant matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from specnorm.networks.operators.base import FloatArray, Linear, LinearMap, Offset, Operator, Place
from specnorm.types import AnyArray


@dataclass(frozen=True, eq=False)
class Layer:
    """A kernel in a network.

    Parameters
    ----------
    name : str
        Of the kernel, as a user knows it. Nothing is known by it.
    load : callable
        Gives the kernel, in torch's order.
    geometry : mapping
        Keywords of specnorm's functions, with padding and without ``input_shape``.
    spatial : int
        Number of the kernel's spatial axes.
    turned : bool
        Whether a matrix is stored with its outputs last.
    error : callable or None
        Of a matrix that was computed: gives by how much each entry may be off.
    """

    name: str
    load: Callable[[], AnyArray]
    geometry: Mapping[str, Any]
    spatial: int
    turned: bool = False
    error: Callable[[], AnyArray] | None = None


@dataclass(frozen=True, eq=False)
class Convolution(Linear):
    """Convolution or transposed convolution of a value of shape (samples, channels, *spatial) with a constant kernel.

    Parameters
    ----------
    layer : Layer
        With one spatial axis or more.
    bias : callable or None
        What is added.
    """

    rule: ClassVar[str] = "layer"
    layer: Layer
    bias: Offset | None = None


@dataclass(frozen=True, eq=False)
class Matrix(Linear):
    """Product with a constant matrix K of shape (out, in), `Layer.turned` taken into account.

    Parameters
    ----------
    layer : Layer
        Without spatial axes.
    bias : callable or None
        What is added.
    alpha : float
        A number that the product is multiplied by.
    side : {"right", "left"}
        "right": ``alpha * x @ K.T`` along the last axis; "left": ``alpha * K @ x`` along the last but one.
    """

    rule: ClassVar[str] = "layer"
    layer: Layer
    bias: Offset | None = None
    alpha: float = 1.0
    side: Literal["right", "left"] = "right"


@dataclass(frozen=True, eq=False)
class Matrices(Operator):
    """Product with a stack of constant matrices, each of which reads entries of its own: at most the largest norm.

    Parameters
    ----------
    layer : Layer
        A stack (b, m, n), of complex numbers (b, m, n, 2) with real and imaginary parts.
    equation : str
        Of `numpy.einsum`, for the value and `constant`.
    constant : callable
        The constants in the order that the equation has.
    """

    rule: ClassVar[str] = "matrices"
    layer: Layer
    equation: str
    constant: Callable[[], FloatArray]
