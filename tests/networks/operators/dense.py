"""What every linear operator must be: its own definition, written as a dense matrix here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from specnorm_networks.certified.linear_bounds import transposed
from specnorm_networks.certified.operators import NoBoundError, Operator, Place

Array = NDArray[Any]
Define = Callable[..., Array]


def matrix_of(define: Define, *shapes: tuple[int, ...]) -> tuple[Array, Array]:
    """The matrix of an affine function of arrays of these shapes, and what it adds."""
    zeros = [np.zeros(shape) for shape in shapes]
    added = np.asarray(define(*zeros))
    columns = []
    for at, shape in enumerate(shapes):
        for place in range(math.prod(shape)):
            x = [np.zeros(each) for each in shapes]
            x[at].reshape(-1)[place] = 1.0
            columns.append((np.asarray(define(*x)) - added).reshape(-1))
    return np.stack(columns, axis=1) if columns else np.zeros((added.size, 0)), added


def norm(a: Array) -> float:
    return float(np.linalg.norm(a, 2)) if a.size else 0.0


def check_linear(
    operator: Operator,
    define: Define,
    *shapes: tuple[int, ...],
    tight: float | None = 1e-8,
    close: float = 1e-9,
    seed: int = 0,
) -> None:
    """`run`, `linear_map` and the constant of an operator against its definition.

    ``tight``: by how much the constant of one input may exceed the norm; None: it is measured elsewhere, or not sharp.
    ``close``: what its rounding may be at most, relatively.
    """
    rng = np.random.default_rng(seed)
    matrix, added = matrix_of(define, *shapes)
    place = Place(shapes, added.shape)
    x = [rng.normal(size=(3, *shape)) for shape in shapes]
    for each in range(3):
        values = [one[each] for one in x]
        found, expected = operator.run(*values), define(*values)
        assert found.shape == expected.shape
        allowed = np.broadcast_to(operator.rounding(values, found, 2.0**-53), found.shape)
        assert (abs(found - expected) <= allowed + 1e-12 * (abs(matrix).sum() == 0)).all()
        assert (allowed <= close * (1 + abs(found).max(initial=0.0) + norm(matrix))).all()
    linear = operator.linear_map(place)
    assert linear is not None
    flat = np.concatenate([one.reshape(3, -1) for one in x], axis=1)
    # gamma(n) |A| |x| for the computed product, and as much for the one that it is compared with.
    room = 2 * (linear.roundings + flat.shape[1] + 4) * 2.0**-53 * (abs(flat) @ abs(matrix).T)
    # Entries of the matrix are differences to what is added.
    room += 2.0**-51 * abs(flat).sum(axis=1, keepdims=True) * abs(added).max(initial=0.0)
    assert (abs(linear.apply(x).reshape(3, -1) - flat @ matrix.T) <= room).all()
    adjoint, backward = transposed(linear, shapes)
    y = rng.normal(size=(3, *added.shape))
    back = np.concatenate([part.reshape(3, math.prod(part.shape[1:])) for part in adjoint(y)], axis=1)
    flat_y = y.reshape(3, added.size)
    room = 2 * (backward + flat_y.shape[1] + 4) * 2.0**-53 * (abs(flat_y) @ abs(matrix))
    room += 2.0**-51 * abs(flat_y).sum(axis=1, keepdims=True) * abs(added).max(initial=0.0)
    assert [part.shape for part in adjoint(y)] == [(3, *shape) for shape in shapes]
    assert (abs(back - flat_y @ matrix) <= room).all()
    sizes = linear.absolute([abs(one) for one in x]).reshape(3, -1)
    assert (sizes >= (abs(flat) @ abs(matrix).T) * (1 - 1e-12)).all()
    for copies in (0, 1):
        shape = (copies, *added.shape)
        assert (
            linear.apply([one[:copies] for one in x]).shape == linear.absolute([o[:copies] for o in x]).shape == shape
        )
    if linear.rows is not None:
        lengths = np.linalg.norm(matrix, axis=1).reshape(added.shape)
        assert (np.broadcast_to(linear.rows, added.shape) >= lengths * (1 - 1e-12)).all()
    if linear.offset is not None:
        assert np.array_equal(np.broadcast_to(linear.offset()[0], added.shape), added)
    assert operator.linear_map(Place(shapes, (*added.shape, 7))) is None
    assert operator.linear_map(Place(tuple(None for _ in shapes))) is None
    if len(shapes) == 1 and tight is not None:
        found_norm = operator.lipschitz(place)
        assert norm(matrix) * (1 - 1e-12) <= found_norm <= norm(matrix) * (1 + tight) + 1e-300


def refused(operator: Operator, place: Place) -> str:
    """Why an operator has no constant at a place."""
    try:
        found = operator.lipschitz(place)
    except NoBoundError as error:
        return str(error)
    raise AssertionError(f"{operator} has the constant {found}")
