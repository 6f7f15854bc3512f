"""The norm of a symbol that changes: vectors at frequencies that move within the cells of a coarse grid.

A layer that is divided by its norm in training grows at the other local maxima of ``||G(theta)||``, until many of them
are equally high. So each point of a grid has a cell around it, and in the cell a frequency with two left vectors, which
climb to the cell's maximum. In a step, the frequency takes a Newton step, and the vectors take one step of the
recurrence of Chebyshev polynomials, which runs across the steps of a training (as in `matrix_vectors`):
``U_new = (4 / cut) G G* U - 2 U - U_before``. Before that, the two take their best combinations (Rayleigh-Ritz). A step
of all points is one product with the transposed kernel, and one with the kernel. Each point attains a lower bound.

Values are estimates: no proof rests on this file.

References
----------
.. [1] De Sa, He, Mitliagkas, Re, Xu, "Accelerated Stochastic Power Iteration", AISTATS 2018 (momentum in the power
   method). The symbol that moves, the cells and the two vectors are ours.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.geometry.spec import ConvSpec
from specnorm.symbols import ascent
from specnorm.training import matrix_vectors, sketches, taps
from specnorm.training.grids import Grid, placed
from specnorm.training.matrix_vectors import STEPS_OF_A_SWEEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_LONGEST_STEP = 0.3
"""Longest Newton step of a frequency along an axis, in radians."""
_RADIUS = 0.6
"""Largest distance of a frequency from the center of its cell, as a part of the distance of the centers. With 0.5, some
frequencies are in no cell, and a residual network reached 1.030. A frequency that stayed at the edge of its cell, in
place of beginning anew, left a maximum near the center unseen: a U-Net reached 1.018."""
_HOLE = 0.15
"""Distance from frequency 0 at which a frequency begins anew, too, as a part of the distance of the centers: there its
vectors become real, and do not follow a maximum that leaves 0. The last cell sees 0 itself. Without such holes, a
residual network reached 1.032."""
_CUT = 0.99
"""Squared singular values below this part of the smallest one of a cell are damped. With 0.97, a U-Net reached 1.019,
with 0.6 wide layers 1.012."""
_LEAST_CUT = 0.01
"""The cut is at least this part of the largest squared value of the cell: a symbol may have rank 1."""
_FRESH = 1e-4
"""Size of what each step adds to the entries of the right vectors, which are at least as long as the largest entry of
the kernel. Rows and columns may fall into parts that are not coupled, as in sparse kernels: products keep zeros, so
that vectors of one part would not see another one grow."""
_LEAST_SQUARE = 1e-4
"""Squared distance of two unit vectors from being parallel that is counted at least."""
_LEAST_WAY = 0.001
"""A kernel that has changed by less than this part of its length needs no step: the vectors attain what they attain."""
_WAY_OF_A_STEP = 0.01
"""A kernel that has changed by this part of its length needs one more step. With 0.0125, wide layers in JAX reached
1.016, with 0.01 1.010."""
_MOST_STEPS = 12
"""Most steps of a pass, as after a jump."""
_START_STEPS, _LAST_STEPS = 20, 30
"""Steps from random vectors, and of the highest point alone after them outside of training."""
_ZERO_SQUARINGS = 5
"""Squarings of the Gram matrix of the sum of the taps."""
_SQUARED = 128
"""Shorter side of this sum up to which its Gram matrix is squared."""


class Points(NamedTuple):
    """The points of each block.

    Parameters
    ----------
    vectors, before : array, shape (b, f, r, 2, m)
        Left vectors, as (real, imaginary), and those of the recurrence before them.
    angles : array, shape (b, f, d)
        Frequencies along the axes with more than one tap.
    """

    vectors: Array
    before: Array
    angles: Array


class Attained(NamedTuple):
    """What the first vectors of each point attain.

    Parameters
    ----------
    norms : array, shape (b, f)
    left : array, shape (b, f, 2, m)
        The products of the symbol with the right vectors.
    right : array, shape (b, f, 2, p)
        Of unit length, conjugated.
    """

    norms: Array
    left: Array
    right: Array


def shapes(m: int, p: int, grid: Grid, count: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the state's arrays for one block, by name.

    They are the vectors and those before, the frequencies, the sketch, and what follows the sum of the taps if that is
    large.
    """
    points, axes = len(grid) + 1, grid.used.shape[1]
    found = {"vectors": (m, 2, points, count, 2), "angles": (axes, points), "sketch": (m, sketches.SKETCHES)}
    if min(m, p) > _SQUARED:
        found |= {f"zero_{name}": shape for name, shape in matrix_vectors.shapes(max(m, p), min(m, p)).items()}
    return found


def start(blocks: Array, grid: Grid, count: int, *, ops: ArrayOps) -> tuple[Array, ...]:
    """The state after the first steps. A sketch of zeros is far from every kernel.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    """
    xp, (b, m) = ops.xp, blocks.shape[:2]
    cells = _Cells(*_by_taps_of_blocks(blocks, ops=ops), grid, ops=ops)
    random, zero = cells.with_zero(cells.random(count), (), 0)
    points, _ = cells.climbed(random, _START_STEPS)
    sketch = xp.zeros((b, m, sketches.SKETCHES), dtype=blocks.dtype, device=ops.device(blocks))
    return *cells.state(points), sketch, *zero


def highest(blocks: Array, grid: Grid, count: int, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Find the highest maximum of each block outside of training.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)

    Returns
    -------
    right : complex array, shape (b, p)
        Of unit length.
    angles : array, shape (b, d)
    """
    xp = ops.xp
    cells = _Cells(*_by_taps_of_blocks(blocks, ops=ops), grid, ops=ops)
    random, _ = cells.with_zero(cells.random(count), (), 0)
    points, attained = cells.climbed(random, _START_STEPS)
    alone, centers = cells.of_one(points, xp.argmax(attained.norms, axis=1))
    alone, (_, _, right) = cells.climbed(alone, _LAST_STEPS, centers=centers)
    # The right vectors of points are conjugated.
    return ops.complex(right[:, 0, 0, :], -right[:, 0, 1, :]), alone.angles[:, 0, :]


def follow(
    rows: Array, state: Sequence[Array], spec: ConvSpec, grid: Grid, *, sweeps: int | None, ops: ArrayOps
) -> tuple[Array, Array, Array, tuple[Array, ...]]:
    """Step all points as often as the kernels have changed, and take the highest.

    Parameters
    ----------
    rows : array, shape (b, m, n)
        The kernels' own entries, in any scale.
    state : sequence of arrays
        As of `shapes`.
    sweeps : int or None
        Number of times that `STEPS_OF_A_SWEEP` steps are taken; 0: one step. None: as many steps as the change of each
        kernel needs.

    Returns
    -------
    value : array, shape (b,)
    left : array, shape (b, m, 2)
    right : array, shape (b, 2, n)
        The factors of the gradient, in the order of the kernel.
    state : tuple of arrays
        After the steps. It is finite, whatever the kernels are.
    """
    xp = ops.xp
    size = arrays.largest(rows, axis=(1, 2), ops=ops) + arrays.TINY
    # The rows are the vectors whose entries are ordered here. No copy of the kernel but that of the cells stays.
    cells = _Cells(taps.of_taps((rows / size)[:, :, None, :], spec, ops=ops)[:, :, 0, ...], spec, grid, ops=ops)
    points, attained, new_state = _stepped(cells, rows, state, spec, sweeps=sweeps, ops=ops)
    best = xp.argmax(attained.norms, axis=1)
    left, right, angles = (arrays.pick(x, best, xp=xp) for x in (attained.left, attained.right, points.angles))
    turns = taps.turns(angles[:, None, :], cells.tables, ops=ops)
    columns = taps.to_taps(right[:, None, None, ...], turns, spec, ops=ops)
    value = xp.max(attained.norms, axis=1)
    left = xp.matrix_transpose(left) / (value + arrays.TINY)[:, None, None]
    return value * size[:, 0, 0], left, xp.reshape(columns, (rows.shape[0], 2, -1)), new_state


def _stepped(
    cells: _Cells, rows: Array, state: Sequence[Array], spec: ConvSpec, *, sweeps: int | None, ops: ArrayOps
) -> tuple[Points, Attained, tuple[Array, ...]]:
    """The points after the steps of `follow`, what they attain, and the state. What takes no step keeps its state."""
    xp = ops.xp
    vectors, angles, last, *block = state
    points = cells.points_of(vectors, angles)
    sketch = sketches.sketch(rows, last, spec, ops=ops)
    steps: Any = _steps_due(sketch, last, spec, ops=ops) if sweeps is None else max(1, STEPS_OF_A_SWEEP * sweeps)
    counts = ops.to_numpy(steps) if sweeps is None and ops.concrete else None
    may_stay = sweeps is None and (counts is None or not counts.all())
    attained = cells.attained(points) if may_stay else None
    if attained is not None and counts is not None and not counts.any():
        return points, attained, tuple(state)
    points, new_block = cells.with_zero(points, block, sweeps)
    points, attained = cells.climbed(points, steps, attained)
    # Sums that are not finite are far from every kernel, as zeros are.
    new_state = (*cells.state(points), xp.where(xp.isfinite(sketch), sketch, 0.0), *new_block)
    return points, attained, _where(steps > 0, new_state, state, xp=xp) if may_stay else new_state


def _where(is_new: Array, new: Sequence[Array], old: Sequence[Array], *, xp: Namespace) -> tuple[Array, ...]:
    """The new arrays of the blocks (b,) where that is true, and the old ones of the others."""
    by_array = (xp.reshape(is_new, (-1, *[1] * (x.ndim - 1))) for x in new)
    return tuple(xp.where(x, y, z) for x, y, z in zip(by_array, new, old, strict=True))


def _steps_due(sketch: Array, last: Array, spec: ConvSpec, *, ops: ArrayOps) -> Array:
    """Number of steps (b,) for the way between two sketches, as a real number."""
    way = sketches.distance(sketch, last, ops=ops) * sketches.reach(spec)
    steps = ops.xp.floor(way * (1 / _WAY_OF_A_STEP)) + 1.0
    steps = ops.xp.where(way < _LEAST_WAY, 0.0, steps)
    # What is not a number is far.
    return ops.xp.where(steps < _MOST_STEPS, steps, float(_MOST_STEPS))


def _by_taps_of_blocks(blocks: Array, *, ops: ArrayOps) -> tuple[Array, ConvSpec]:
    """Blocks as arrays (b, m, taps, p), and their geometry."""
    xp, (b, m, p, *kernel_shape) = ops.xp, blocks.shape
    return xp.matrix_transpose(xp.reshape(blocks, (b, m, p, -1))), ConvSpec(m, p, tuple(kernel_shape))


class _Cells:
    """The cells of the blocks of a stack, one about each point of a grid, and a last one about frequency 0.

    An optimizer that divides by the gradient's size moves all taps of a kernel alike at first. Then another singular
    value of their sum may become the largest in one step. Its vector is nearly orthogonal to those that were followed,
    so the last vector of the last cell is computed anew in each pass (`with_zero`).

    Parameters
    ----------
    by_taps : array, shape (b, m, taps, p)
        Blocks with entries of at most about 1.
    """

    def __init__(self, by_taps: Array, spec: ConvSpec, grid: Grid, *, ops: ArrayOps) -> None:
        self.ops, self.grid = ops, grid
        b, m, _, self.columns = by_taps.shape
        self.kernel = ops.xp.reshape(by_taps, (b, m, -1))
        by_column = ops.xp.reshape(self.kernel, (b, -1, self.columns))
        # In a stack that pads channels with zeros, a layer takes the steps that it takes alone.
        self.is_column = ops.xp.any(by_column != 0.0, axis=1)[:, None, None, None, :]
        key = "taps", spec.block_kernel_shape
        self.tables = placed(key, functools.partial(taps.tap_tables, spec), by_taps, ops=ops)

    def random(self, count: int) -> Points:
        """So many random vectors, the same in each cell, at the centers."""
        xp, b = self.ops.xp, self.kernel.shape[0]
        vectors, centers, _ = self._first(count)
        vectors = xp.broadcast_to(vectors, (b, centers.shape[1], *vectors.shape[2:]))
        return Points(vectors, xp.zeros_like(vectors), xp.broadcast_to(centers, (b, *centers.shape[1:])))

    def _first(self, count: int) -> tuple[Array, ...]:
        """Random unit vectors (1, 1, r, 2, m), the centers (1, f + 1, d) of all cells, and their holes (1, f + 1)."""
        m = self.kernel.shape[1]

        def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
            centers: Any = np.concatenate([self.grid.used, 0 * self.grid.used[:1]])
            holes: Any = (_HOLE * self.grid.spacing) ** 2 * centers.any(axis=1)
            return _random_pairs(m, count, dtype), centers[None].astype(dtype), holes[None].astype(dtype)

        return placed(("cells", m, count, self.grid.key), tables, self.kernel, ops=self.ops)

    def points_of(self, vectors: Array, angles: Array) -> Points:
        """The points of arrays of a state."""
        xp = self.ops.xp
        both = xp.permute_dims(vectors, (0, 2, 3, 4, 5, 1))
        return Points(both[:, 0, ...], both[:, 1, ...], xp.matrix_transpose(angles))

    def state(self, points: Points) -> tuple[Array, Array]:
        """The arrays of the points."""
        both = self.ops.xp.stack([points.vectors, points.before], axis=1)
        return self.ops.xp.permute_dims(both, (0, 5, 1, 2, 3, 4)), self.ops.xp.matrix_transpose(points.angles)

    def with_zero(self, points: Points, block: Sequence[Array], sweeps: int | None) -> tuple[Points, tuple[Array, ...]]:
        """The points, whose last one has the first vector of the sum of the taps as its last vector.

        Parameters
        ----------
        block : sequence of arrays
            What follows a large sum (`matrix_vectors.Block`); empty at first.
        sweeps : int or None
            Of a large sum.

        Returns
        -------
        points : Points
        block : tuple of arrays
        """
        xp = self.ops.xp
        total = xp.sum(xp.reshape(self.kernel, (*self.kernel.shape[:2], -1, self.columns)), axis=2)
        vector, block = _top_left_vector(total, block, sweeps, ops=self.ops)
        vector = xp.stack([vector, xp.zeros_like(vector)], axis=2)[:, None, ...]

        def replaced(x: Array, last: Array) -> Array:
            return xp.concat([x[:, :-1, ...], xp.concat([x[:, -1:, :-1, ...], last], axis=2)], axis=1)

        vectors, before, angles = points
        return Points(replaced(vectors, vector), replaced(before, 0.0 * vector), angles), tuple(block)

    def of_one(self, points: Points, number: Array) -> tuple[Points, Array]:
        """The point of each block with a number (b,), and the center of its cell (b, 1, d)."""
        xp, centers = self.ops.xp, self._first(points.vectors.shape[2])[1]
        centers = xp.broadcast_to(centers, points.angles.shape)
        *alone, center = (arrays.pick(x, number, xp=xp)[:, None, ...] for x in (*points, centers))
        return Points(*alone), center

    def attained(self, points: Points) -> Attained:
        """What the first vectors of the points attain, without a step."""
        ops, xp, (vectors, _, angles) = self.ops, self.ops.xp, points
        b, f, _, _, m = vectors.shape
        first = vectors[:, :, 0, ...]
        products = xp.matmul(xp.reshape(first, (b, 2 * f, m)), self.kernel)
        products = xp.reshape(products, (b, f, -1, self.columns))
        powers = taps.sums(products, taps.turns(angles, self.tables, ops=ops)[:, :, None, ...], ops=ops)
        norms = _lengths(powers[:, :, None, ...], ops=ops)[:, :, 0, ...]
        return Attained(norms[:, :, 0, 0], first * norms, powers / norms)

    def climbed(
        self, points: Points, steps: Any, attained: Attained | None = None, centers: Array | None = None
    ) -> tuple[Points, Attained]:
        """Points after some steps, and what they attain.

        Parameters
        ----------
        steps : int, or array, shape (b,)
            Of arrays, each block takes its own number, in whatever stack it is.
        attained : Attained, optional
            Before the steps. None: each block takes a step at least.
        centers : array, shape (b, f, d), optional
            Centers of single cells, whose vectors converge: nothing is added to them. None: of all cells.
        """
        ops, xp = self.ops, self.ops.xp
        first, *all_limits = self._first(points.vectors.shape[2])
        limits = (centers,) if centers is not None else tuple(all_limits)
        in_each = not isinstance(steps, int)
        remaining: tuple[Array, ...] = (steps,) if in_each and steps.shape[0] > 1 else ()

        def again(state: tuple[Array, ...]) -> tuple[Array, ...]:
            old, remaining = state[:6], state[6:]
            new, attained = self._moved_in_chunks(Points(*old[:3]), first, limits)
            if not remaining:
                return *new, *attained
            return *_where(remaining[0] > 0, (*new, *attained), old, xp=xp), remaining[0] - 1.0

        count: Any = xp.max(steps) if in_each else steps
        count = int(ops.to_numpy(count)) if in_each and ops.concrete else count
        if attained is None:
            b, f = points.angles.shape[:2]
            shapes = (b, f), (b, f, *points.vectors.shape[3:]), (b, f, 2, self.columns)
            dtype, device = points.angles.dtype, ops.device(points.angles)
            attained = Attained(*(xp.zeros(shape, dtype=dtype, device=device) for shape in shapes))
        found = arrays.repeated(again, count, (*points, *attained, *remaining), ops=ops)
        return Points(*found[:3]), Attained(*found[3:6])

    def _moved_in_chunks(self, points: Points, first: Array, limits: tuple[Array, ...]) -> tuple[Points, Attained]:
        """`_moved`, of so many points at once as memory allows."""
        b, f, r = points.vectors.shape[:3]
        bytes_of_one = 3 * 2 * r * b * self.kernel.shape[2] * 8
        at_once = max(1, self.ops.memory // bytes_of_one)
        if f <= at_once:
            return self._moved(points, first, limits)
        chunks = [slice(start, start + at_once) for start in range(0, f, at_once)]
        parts = [
            self._moved(Points(*(x[:, y, ...] for x in points)), first, tuple(x[:, y, ...] for x in limits))
            for y in chunks
        ]
        by_array = zip(*((*new, *attained) for new, attained in parts), strict=True)
        joined = [arrays.joined([*x], axis=1, xp=self.ops.xp) for x in by_array]
        return Points(*joined[:3]), Attained(*joined[3:])

    def _moved(self, points: Points, first: Array, limits: tuple[Array, ...]) -> tuple[Points, Attained]:
        """The points after a step. Those of a kernel that is not finite begin anew, with the vectors ``first``.

        Parameters
        ----------
        limits : tuple of arrays
            Centers of the cells, shape (1, f, d), and their holes, shape (1, f). Without holes, nothing is added to
            the vectors.
        """
        ops, xp, (vectors, before, angles) = self.ops, self.ops.xp, points
        b, f, r, _, m = vectors.shape
        # K_k^T times each vector at each tap: (b, f, r, 2 * taps, p).
        products = xp.matmul(xp.reshape(vectors, (b, -1, m)), self.kernel)
        products = xp.reshape(products, (b, f, r, -1, self.columns))
        angles = self._angles(products[:, :, 0, ...], angles, *limits)
        turns = xp.reshape(taps.turns(angles, self.tables, ops=ops), (b, f, 1, 2, -1))
        fresh, pairs, maps = _mixing_tables(products, r, ops=ops)
        powers = xp.matmul(turns, products)
        powers = powers if len(limits) == 1 else powers + xp.where(self.is_column, fresh, 0.0)
        both = xp.concat([vectors, before], axis=4)
        powers, both = _best_combinations(powers, both, pairs, maps, ops=ops)
        length = _lengths(powers, ops=ops) + arrays.TINY
        right = powers / length
        columns = xp.reshape(xp.matmul(xp.matrix_transpose(turns), right), (b, -1, self.kernel.shape[2]))
        images = xp.reshape(taps.images(self.kernel, columns, ops=ops), (b, f, r, 2, m))
        norms = _lengths(images, ops=ops)
        new, old = _recurred(both[..., :m], both[..., m:], images, length, norms, first, ops=ops)
        return Points(new, old, angles), Attained(norms[:, :, 0, 0, 0], images[:, :, 0, ...], right[:, :, 0, ...])

    def _angles(self, products: Array, angles: Array, centers: Array, holes: Array | None = None) -> Array:
        """Frequencies (b, f, d) after a Newton step, from the products (b, f, 2 * taps, p) of the first vectors."""
        xp, (b, f, d) = self.ops.xp, angles.shape
        _, _, powers, forms, signs = self.tables
        turns = taps.turns(angles, self.tables, ops=self.ops)[:, :, None, ...] * powers
        # The sums of the first vectors and, but for factors of i, their derivatives.
        derivatives = taps.sums(products, turns, ops=self.ops)
        inner = xp.matmul(derivatives[:, :, : 2 + 2 * d, :], xp.matrix_transpose(derivatives))
        forms = xp.matmul(xp.reshape(inner, (b, f, -1)), forms)
        moved = angles + ascent.uphill_by_forms(forms, signs, d, longest=_LONGEST_STEP, xp=xp)
        # One that leaves its cell follows a maximum of another cell. It begins anew, to see those of its own.
        is_inside = _square(moved - centers, xp=xp) < (_RADIUS * self.grid.spacing) ** 2
        if holes is not None:
            is_inside = is_inside & (_square(moved, xp=xp) >= holes)
        return xp.where(is_inside[..., None], moved, centers)


def _square(angles: Array, *, xp: Namespace) -> Array:
    """Squared lengths (b, f) of frequencies (b, f, d)."""
    return xp.vecdot(angles, angles, axis=-1)


def _recurred(
    vectors: Array, before: Array, images: Array, length: Array, norms: Array, first: Array, *, ops: ArrayOps
) -> tuple[Array, Array]:
    """Vectors after a step of Chebyshev's recurrence, and those before them, in the same scale.

    Parameters
    ----------
    vectors, before, images : array, shape (b, f, r, 2, m)
        U, the vectors before, and the images of the power steps ``G* U``, divided by their lengths.
    length, norms : array, shape (b, f, r, 1, 1)
        The lengths of the power steps, and of the images.
    first : array
        What stands in place of vectors that are not finite.
    """
    xp = ops.xp
    squares = norms * norms + arrays.TINY
    least, most = (of(squares, axis=2, keepdims=True) for of in (xp.min, xp.max))
    cut = xp.maximum(_CUT * least, _LEAST_CUT * most)
    moved = images * (4.0 * length / cut) - 2.0 * vectors - before
    size = _lengths(moved, ops=ops) + arrays.TINY
    # False for what is not a number, too.
    is_finite = size < math.inf
    return xp.where(is_finite, moved / size, first), xp.where(is_finite, vectors / size, 0.0)


def _top_left_vector(
    matrices: Array, block: Sequence[Array], sweeps: int | None, *, ops: ArrayOps
) -> tuple[Array, Sequence[Array]]:
    """The first left vector (b, 1, m) of matrices (b, m, p), and the block that follows it if they are large.

    The Gram matrix of small ones is squared five times: two products with the result turn random signs to the vector.
    """
    xp = ops.xp
    is_wide = matrices.shape[1] < matrices.shape[2]
    if min(matrices.shape[1:]) > _SQUARED:
        tall = xp.matrix_transpose(matrices) if is_wide else matrices
        if not block:
            block = matrix_vectors.start(tall, ops=ops)
        _, left, right, block = matrix_vectors.follow(tall, matrix_vectors.Block(*block), sweeps=sweeps, ops=ops)
        return xp.matrix_transpose(right if is_wide else left), block
    transposed = xp.matrix_transpose(matrices)
    gram = xp.matmul(matrices, transposed) if is_wide else xp.matmul(transposed, matrices)
    power = matrix_vectors.squared(gram, _ZERO_SQUARINGS, ops=ops)
    # A column may be orthogonal to the first vector.
    (signs,) = placed(("zero", power.shape[1]), functools.partial(_signs, power.shape[1]), power, ops=ops)
    vector = xp.matmul(power, xp.matmul(power, signs))
    vector = xp.matrix_transpose(vector if is_wide else xp.matmul(matrices, vector))
    return vector / (arrays.lengths(vector, axis=-1, ops=ops) + arrays.TINY), ()


def _lengths(x: Array, *, ops: ArrayOps) -> Array:
    """Lengths (b, f, r, 1, 1) of vectors (b, f, r, 2, m)."""
    return arrays.lengths(ops.xp.reshape(x, (*x.shape[:3], 1, -1)), ops=ops)


def _best_combinations(powers: Array, both: Array, pairs: Array, maps: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Combine the vectors of each point, so that they and their power steps are orthogonal (Rayleigh-Ritz).

    More than two take turns in pairs, which makes them orthogonal in the course of the steps.

    Parameters
    ----------
    powers : array, shape (b, f, r, 2, p)
        ``G* U``, conjugated.
    both : array, shape (b, f, r, 2, 2 * m)
        U, of unit length, and what is combined alike.
    pairs, maps : array
        `_mixing_tables`.
    """
    xp, r = ops.xp, powers.shape[2]
    if r == 2:
        return _best_of_pair(powers, both, pairs, maps, ops=ops)
    found = [[x[:, :, j : j + 1, ...] for j in range(r)] for x in (powers, both)]
    for i, j in itertools.combinations(range(r), 2):
        two_powers, two = (xp.concat([x[i], x[j]], axis=2) for x in found)
        new = _best_of_pair(two_powers, two, pairs, maps, ops=ops)
        for x, y in zip(found, new, strict=True):
            x[i], x[j] = y[:, :, :1, ...], y[:, :, 1:, ...]
    joined, both = (arrays.joined(x, axis=2, xp=xp) for x in found)
    return joined, both


def _best_of_pair(powers: Array, both: Array, pairs: Array, maps: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """`_best_combinations` of two vectors in closed form.

    Let c = x*y be the product of the vectors. Then x and (y - c x) / d are orthonormal, d^2 = 1 - |c|^2, and the
    rotation that makes their power steps orthogonal follows from the squared lengths a and e of these, and their
    product g. Both linear maps are one.
    """
    xp, (b, f, _, _, p), entries = ops.xp, powers.shape, both.shape[4]
    powers, both = xp.reshape(powers, (b, f, 4, p)), xp.reshape(both, (b, f, 4, entries))
    vectors = both[..., : entries // 2]
    of_vectors, of_powers = (
        xp.matmul(xp.reshape(xp.matmul(x, xp.matrix_transpose(x)), (b, f, 16)), pairs) for x in (vectors, powers)
    )
    c = ops.complex(of_vectors[..., 2], of_vectors[..., 3])
    a, e = of_powers[..., 0], of_powers[..., 1]
    g = ops.complex(of_powers[..., 2], -of_powers[..., 3])
    square = xp.real(c * xp.conj(c))
    # An entry of the table is 1, as an array.
    inverse = 1.0 / xp.sqrt(xp.maximum(1.0 - square, _LEAST_SQUARE * maps[0, 0]))
    e = (e - 2.0 * xp.real(xp.conj(c) * g) + square * a) * inverse * inverse
    g = (g - c * a) * inverse
    size = xp.abs(g)
    difference = a - e
    length = xp.hypot(2.0 * size, difference)
    # Of half the angle of (difference, 2 * size), which is between 0 and pi.
    half_ratio = 0.5 * ((difference + arrays.TINY) / (length + arrays.TINY))
    cos, sin = xp.sqrt(xp.abs(0.5 + half_ratio)), xp.sqrt(xp.abs(0.5 - half_ratio))
    sin = xp.conj(g) * (sin / (size + arrays.TINY))
    of_y, last = sin * inverse, cos * inverse
    first, of_x = cos - of_y * c, -last * c - xp.conj(sin)
    parts = [part(x) for x in (first, of_y, of_x) for part in (xp.real, xp.imag)]
    both_maps = xp.reshape(xp.matmul(xp.stack([*parts, last], axis=-1), maps), (b, f, 2, 4, 4))
    both = xp.matmul(both_maps[:, :, 0, ...], both)
    powers = xp.matmul(both_maps[:, :, 1, ...], powers)
    return xp.reshape(powers, (b, f, 2, 2, p)), xp.reshape(both, (b, f, 2, 2, entries))


def _mixing_tables(products: Array, count: int, *, ops: ArrayOps) -> tuple[Array, ...]:
    """Constants of a step for right vectors with p entries, the last axis of ``products``.

    Returns
    -------
    fresh : array, shape (1, 1, count, 2, p)
        What is added to power steps.
    pairs : array, shape (16, 4)
        From the real products of the four parts of two vectors x and y to ``x*x``, ``y*y`` and the parts of ``x*y``.
    maps : array, shape (7, 32)
        From the parts of three complex coefficients and a real one, ``[[0, 1], [2, 3]]``, to the real matrix of this
        map of two vectors, and that of its conjugate.
    """
    p = products.shape[-1]

    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        pairs = np.zeros((4, 4, 4))
        pairs[0, 0, 0] = pairs[1, 1, 0] = pairs[2, 2, 1] = pairs[3, 3, 1] = 1
        pairs[0, 2, 2] = pairs[1, 3, 2] = pairs[0, 3, 3] = 1
        pairs[1, 2, 3] = -1
        one, i = np.eye(2), np.array([[0, -1], [1, 0]])
        maps = np.zeros((7, 2, 4, 4))
        for conjugated, sign in enumerate((1, -1)):
            for place, (row, column) in enumerate(((0, 0), (0, 2), (2, 0))):
                maps[2 * place, conjugated, row : row + 2, column : column + 2] = one
                maps[2 * place + 1, conjugated, row : row + 2, column : column + 2] = sign * i
            maps[6, conjugated, 2:, 2:] = one
        # More channels leave the entries of the others as they are.
        entries = _FRESH * np.random.RandomState(0).standard_normal((p, count, 2))
        fresh = np.ascontiguousarray(entries.transpose(1, 2, 0)[None, None]).astype(dtype)
        return fresh, pairs.reshape(16, 4).astype(dtype), maps.reshape(7, 32).astype(dtype)

    return placed(("mixing", p, count), tables, products, ops=ops)


def _random_pairs(n: int, count: int, dtype: type[np.floating]) -> np.ndarray:
    """Random unit vectors (1, 1, count, 2, n), as (real, imaginary)."""
    vectors = arrays.random_vectors(0, (n, count))
    pairs = np.stack([vectors.real, vectors.imag]) / np.linalg.norm(vectors, axis=0)
    return np.ascontiguousarray(pairs.transpose(2, 0, 1)[None, None]).astype(dtype)


def _signs(rows: int, dtype: type[np.floating]) -> tuple[np.ndarray]:
    return (sketches.random_signs(rows)[None, :, :1].astype(dtype),)
