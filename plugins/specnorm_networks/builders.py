"""From arguments to operators, where several formats mean the same by them."""

from __future__ import annotations

from specnorm_networks.certified.operators import Operator, Pad, Power, Reciprocal, Rsqrt, Slice, Sqrt
from specnorm_networks.certified.operators.linear import PadMode
from specnorm_networks.certified.operators.pointwise import MOST


def power(exponent: float) -> Operator | None:
    """A power of each entry: whole exponents, roots and inverses; None for others."""
    if 1 <= exponent <= MOST and exponent == int(exponent):
        return Power(int(exponent))
    return {0.5: Sqrt(), -0.5: Rsqrt(), -1.0: Reciprocal()}.get(exponent)


def padding(mode: PadMode, pads: tuple[tuple[int, int], ...], ndim: int, value: float = 0.0) -> tuple[Operator, ...]:
    """Padding of the last axes; negative amounts of a constant padding cut off.

    Parameters
    ----------
    mode, pads, value
        As `Pad` has them, but for negative amounts.
    ndim : int
        Of the value.

    Returns
    -------
    tuple of Operator
        One after the other; none where nothing is padded, nor cut off.

    Raises
    ------
    ValueError
        If another padding than a constant one is negative.
    """
    first = ndim - len(pads)
    cut = tuple((first + j, max(-a, 0), min(b, 0) or None, 1) for j, (a, b) in enumerate(pads) if min(a, b) < 0)
    if cut and mode != "zeros":
        raise ValueError(f"padding by {mode} with negative amounts")
    added = tuple((max(a, 0), max(b, 0)) for a, b in pads)
    found: list[Operator] = [Slice(cut)] if cut else []
    return (*found, *([Pad(mode, added, value)] if any(map(any, added)) else []))
