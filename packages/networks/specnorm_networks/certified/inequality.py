"""Proof: the constant of a whole network by one inequality, for any graph of linear maps and functions with slopes.

Let v be all units of a network (`units`), and write x, v and y for differences between two inputs. A unit with slopes
in [0, h] is h times one with slopes in [0, 1], so that

    v = phi(A v + B x),    y = C v + D x,    slopes of phi in [0, 1].

For multipliers L > 0, one a unit, each entry of v has ``2 L_i v_i ((A v + B x)_i - v_i) >= 0``. So |y| <= g |x| for
all x if the form

    g^2 |x|^2 - |C v + D x|^2 - 2 v^T L (A v + B x - v)

is nonnegative for all x and v (Fazlyab et al. [1]_, for chains). Branches and resolutions are blocks of A, B, C and D.

*The other way round.* A further variable u with |u|^2 - 2 u^T (C v + D x) replaces -|C v + D x|^2, its minimum over u.
Minimized over x instead of u, the form is that of the transposed matrices A^T, C^T, B^T, D^T with the multipliers
g^2 / L and the same g. So the smaller of the input and the output may be kept.

*Rounding.* The matrix M of the form is scaled on both sides by S, the roots of its diagonal. Then it is I - K for a
matrix K that is proven to have eigenvalues below 1 by more than the error of its entries.

.. [1] Fazlyab, Robey, Hassani, Morari, Pappas, "Efficient and Accurate Estimation of Lipschitz Constants for Deep
   Neural Networks", NeurIPS 2019.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import ArrayOps, HypothesisError, Upper, arithmetic, backends, host, make_upper, matrix_norms
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError
from specnorm_networks.certified.subjects import Map

ROUNDINGS = 16
"""Roundings that are counted for each entry of a scaled matrix: more than there can be."""
UNDERFLOW = 2.0**-600
"""Upper bound of what underflow can take from an entry."""
Blocks = tuple[FloatArray, FloatArray, FloatArray, FloatArray]
"""A, B, C and D."""


class Units(NamedTuple):
    """The units of one function that no earlier function has."""

    name: str
    """Name of the function's value."""
    channels: NDArray[np.intp]
    """Number of the channel of each unit."""


@dataclass(frozen=True, eq=False)
class Inequality:
    """A network as v = phi(A v + B x), y = C v + D x, with slopes of phi in [0, 1].

    Parameters
    ----------
    inputs : int
        Number m of entries of x.
    functions : tuple of Units
        The functions with n units v, in the order of computation.
    matrix : array, shape (n + outputs, m + n)
        The blocks ``[[B, A], [D, C]]``.
    error : array of the same shape
        Bounds of the errors of its entries.
    """

    inputs: int
    functions: tuple[Units, ...]
    matrix: FloatArray
    error: FloatArray
    _map: Map | None = field(default=None, init=False)

    def _of_map(self, what: Map) -> Inequality:
        """State of which map of a network this is, and return it; nothing checks the statement (`Run._with_domain`)."""
        object.__setattr__(self, "_map", what)
        return self

    @property
    def map(self) -> Map:
        """The map between values of a network that this describes."""
        if self._map is None:
            raise HypothesisError("an inequality that was not read off a graph")
        return self._map

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.matrix.shape[1]) - self.inputs

    @property
    def outputs(self) -> int:
        """Number of entries of the output."""
        return len(self.matrix) - self.units

    @property
    def values(self) -> list[slice]:
        """The units of each function."""
        ends = np.cumsum([0, *(len(function.channels) for function in self.functions)]).tolist()
        return [slice(first, last) for first, last in itertools.pairwise(ends)]

    @cached_property
    def channels(self) -> NDArray[np.intp]:
        """Number of the channel of each unit, among those of all functions."""
        numbers: list[NDArray[np.intp]] = [np.zeros(0, np.intp)]
        first = 0
        for function in self.functions:
            numbers.append(np.unique(function.channels, return_inverse=True)[1] + first)
            first = int(numbers[-1].max(initial=first - 1)) + 1
        return np.concatenate(numbers)

    @property
    def blocks(self) -> Blocks:
        """A, B, C and D, correct up to `errors`."""
        return self._blocks(self.matrix)

    @property
    def errors(self) -> Blocks:
        """Bounds of the errors of the entries of `blocks`."""
        return self._blocks(self.error)

    def _blocks(self, whole: FloatArray) -> Blocks:
        n, m = self.units, self.inputs
        return whole[:n, m:], whole[:n, :m], whole[n:, m:], whole[n:, :m]


def transposed(blocks: Blocks) -> Blocks:
    """Return the blocks of the transposed matrices, whose inequality is equivalent."""
    a, b, c, d = blocks
    return a.T, c.T, b.T, d.T


@arithmetic.on_host()
def constant_of_inequality(
    inequality: Inequality,
    multipliers: FloatArray,
    proposed: float,
    *,
    is_transposed: bool = False,
) -> Upper:
    """Prove a Lipschitz constant of a network by multipliers of its units.

    Parameters
    ----------
    multipliers : array, shape (units,)
        L; of the transposed matrices if ``is_transposed``.
    proposed : float
        The constant g.

    Raises
    ------
    NoBoundError
        If the constant is not proven, or the multipliers of a search are out of the range of a proof.
    HypothesisError
        If the multipliers cannot be such, or the inequality was not read off a graph.
    """
    if multipliers.shape != (inequality.units,) or not np.all(multipliers >= 0):
        raise HypothesisError(f"no multipliers of {inequality.units} units")
    if not _is_moderate(multipliers):
        raise NoBoundError("multipliers are too large or too small for a proof")
    blocks = inequality.blocks
    errors = inequality.errors
    if is_transposed:
        blocks, errors = transposed(blocks), transposed(errors)
    if not _is_positive(blocks, errors, multipliers, host.mul_down(proposed, proposed)):
        raise NoBoundError("the inequality is not proven")
    rule = f"LipSDP of {inequality.units} units together"
    return make_upper(proposed, inequality.map, rule)


def _is_positive(blocks: Blocks, errors: Blocks, multipliers: FloatArray, square: float) -> bool:
    """Whether the form with g^2 = ``square`` is proven to be positive definite."""
    a, b, c, d = blocks
    m = b.shape[1]
    n = len(a)
    p = len(c)
    # M is made of E = [D C] and F = [B A - I], by G = L F on the rows of the units: diag(g^2, 0) - E^T E - G - G^T.
    diagonal = np.concatenate([square - (d * d).sum(0), 2 * multipliers * (1 - np.diag(a)) - (c * c).sum(0)])
    if not np.all(diagonal > 0) or not np.isfinite(diagonal).all():
        return False
    scales = 1 / np.sqrt(diagonal)  # S: any positive numbers would do
    if not all(_is_moderate(numbers) for numbers in (scales, multipliers)):
        return False
    e = np.hstack([d, c]) * scales
    row_scales = (multipliers * scales[m:])[:, None]
    g = np.hstack([b, a]) * scales * row_scales
    form = -(e.T @ e)
    form[m:] -= g
    form[:, m:] -= g.T
    squares = scales * scales
    form[np.diag_indices(m + n)] += np.concatenate([square * squares[:m], 2 * multipliers * squares[m:]])

    # Each entry of e and g has few roundings, and the error of its block.
    e_size = _size(e)
    g_size = _size(g)
    of_units = float(np.max(multipliers * squares[m:], initial=0.0))
    diagonal_size = float(np.max(squares[:m], initial=0.0)) * square + 2 * of_units
    own = ROUNDINGS * 2.0**-53
    e_error = _size(np.hstack([errors[3], errors[2]]) * scales) + own * e_size
    g_error = _size(np.hstack([errors[1], errors[0]]) * scales * row_scales) + own * g_size
    # A product of p terms has p roundings; the sums of M have few more.
    product = e_error * (2 * e_size + e_error) + (p + ROUNDINGS) * 2.0**-52 * e_size**2
    sums = ROUNDINGS * 2.0**-53 * (e_size**2 + 2 * g_size + diagonal_size)
    k = np.eye(m + n) - form
    if not np.isfinite(k).all() or np.max(abs(np.diag(k)), initial=0.0) > 1:
        return False
    # The last terms: the rounding of the diagonal of K, and underflow.
    error = host.inflate(product + 2 * g_error + sums, 64) + 2.0**-50 + form.size * UNDERFLOW
    if not error < 0.5:
        return False
    matrices: Any = k[None]
    ops = ArrayOps.of(backends.backend_for(matrices), matrices)
    limits: Any = np.array([1 - host.inflate(error, 4)])
    return bool(np.asarray(matrix_norms.gram_below(matrices, limits, ops=ops))[0])


def _is_moderate(numbers: FloatArray) -> bool:
    """Whether products of three of some numbers with an entry lose less than `UNDERFLOW` to underflow."""
    return bool(np.all(numbers > 1e-60) and np.all(numbers < 1e60))


def _size(matrix: FloatArray) -> float:
    """Return the Frobenius norm, rounded up."""
    return float(host.norm_up(np.ascontiguousarray(matrix).reshape(-1)))
