"""Gram iteration of the convolution on an endless input: a bound at every size (Delattre et al. 2024).

The Gram matrix of a convolution is a convolution: ``R_1[i, j, m] = sum_{o,k} K[o,i,k] K[o,j,k+m]`` with 2 k - 1 taps an
axis, and each further product doubles the degree. By the Schur test every channel's sum of absolute values counts:
``sigma*^(2^t) <= max_i sum_{j,m} |R_t[i,j,m]|``.

R_t is the inverse Fourier transform of ``H_t = (G* G)^(2^(t-1))`` on a grid of ``2^t (k_j - 1) + 1`` points an axis,
where nothing aliases. So the products are products of small matrices, one for each frequency, and not of taps with
taps, whose cost grows with the square of their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.errors import MethodError
from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import cos_sin, half_grid
from specnorm.methods.base import Evaluation, Method, check_count
from specnorm.proof import matrices, rounding, trigonometric

if TYPE_CHECKING:
    from specnorm.proof.rounding import Rounds
    from specnorm.result import Kind
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

BUDGET = 256 * 2**20
LEAN = {"host": 2**18, "device": 2**24}
"""Bytes that a chunk of frequencies may take in the backward even if the kernel is smaller; BUDGET where it compiles,
since every chunk is compiled by itself, and a GPU is slow with small ones."""
LARGEST_GRID = 2**22
"""Frequencies; beyond, the taps of the last product would not fit any memory."""


@dataclass(frozen=True)
class ZeroPaddedGram(Method):
    """Gram iteration of the convolution itself, a bound of sigma* and so of every input size and zero padding.

    Parameters
    ----------
    n_iter : int
        Gram products; 0 is the root of the largest row sum times the largest column sum. The bound exceeds sigma* by
        at most ``(min(cin, cout) prod_j (2**n_iter (k_j - 1) + 1))**(1 / 2**(n_iter + 1))``.

    References
    ----------
    .. [1] Delattre, Barthelemy, Allauzen, "Spectral Norm of Convolutional Layers with Circular and Zero Paddings",
       2024, arXiv:2402.00240. Ours: products at the frequencies of the last kernel's own grid, power-of-two scales,
       rounding counted.
    """

    n_iter: int = 3

    name: ClassVar[str] = "gram_zero"
    rounds: ClassVar[Rounds] = "up"
    wide: ClassVar[bool] = True
    widens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter)

    def kind(self, spec: ConvSpec) -> Kind:
        """Upper."""
        del spec
        return "upper"

    def check(self, spec: ConvSpec) -> None:
        """Every size at once, as long as the taps can be counted."""
        super().check(spec)
        check_grid(self.n_iter, spec.block_kernel_shape)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        """Largest channel norm, with the signs of that channel's taps for the gradient."""
        xp = ops.xp
        del spec
        if self.n_iter == 0:
            wide = arrays.widened(blocks, ops=ops)
            return Evaluation(trigonometric.absolute_norm_up(wide, xp=xp), (), (blocks,))
        work = Powers(blocks, self.n_iter, ops=ops)
        norms, sums, kept = work.channel_norms()
        index = xp.argmax(norms, axis=1)
        one_hot = arrays.one_hot(xp.ones_like(norms[:, 0]), index, norms.shape[1], xp=xp)
        column = work.taps(one_hot[:, :, None]) if kept is None else xp.matmul(kept, one_hot[:, None, :, None])
        found = work.residuals(column, one_hot[:, :, None], sums)
        return Evaluation(xp.max(norms, axis=1), (), found)

    def pullback(self, residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Any) -> Array:
        """Gradient of the largest channel's sum, taps' signs held fixed, through the squarings."""
        del spec
        if self.n_iter == 0:
            return _sums_gradient(residuals[0], cotangent, xp=xp)
        blocks, *_ = residuals
        weights = xp.broadcast_to(cotangent[:, None], (blocks.shape[0], min(blocks.shape[1:3])))
        return pull(residuals, weights, self.n_iter, xp=xp)


def check_grid(n_iter: int, kernel_shape: tuple[int, ...]) -> None:
    """Refuse a number of products whose taps fit no memory.

    Raises
    ------
    MethodError
    """
    points = math.prod(_grid(kernel_shape, n_iter))
    if points > LARGEST_GRID:
        raise MethodError(
            f"n_iter={n_iter} makes {points} taps out of a kernel {kernel_shape}: each product doubles their "
            "number on every axis. Use fewer (3 is the default), or grid_bound(kernel)."
        )


def _grid(kernel_shape: tuple[int, ...], n_iter: int) -> tuple[int, ...]:
    return tuple(2**n_iter * (k - 1) + 1 for k in kernel_shape)


def _tall(blocks: Array, *, xp: Any) -> Array:
    """Swap the channels where there are fewer outputs: conj(G G*) instead of G* G, the same norm."""
    return _swapped(blocks, xp=xp) if blocks.shape[1] < blocks.shape[2] else blocks


def _swapped(blocks: Array, *, xp: Any) -> Array:
    return xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))


class Powers:
    """``H_t = (G* G)**(2**(t-1))`` of a stack of blocks on the grid of its own taps, and those taps.

    Parameters
    ----------
    blocks : array, shape (b, cout, cin, *kernel_shape)
        In the kernel's precision; all is computed in the widest. With fewer outputs than inputs, G G* takes the place
        of G* G.
    n_iter : int
        t >= 1.
    """

    def __init__(self, blocks: Array, n_iter: int, *, ops: ArrayOps) -> None:
        xp = ops.xp
        self.n_iter, self.xp, self.ops = n_iter, ops.xp, ops
        given, blocks = blocks, arrays.widened(_tall(blocks, xp=xp), ops=ops)
        self.grid = _grid(tuple(blocks.shape[3:]), n_iter)
        self.points = half_grid(self.grid)

        def frobenius(symbol: symbols.Symbol) -> Array:
            return matrices.frobenius_up(symbol.matrices(), xp=xp)

        # Powers of matrices with a Frobenius norm of at most 1 stay so.
        largest, _ = symbols.largest(frobenius, blocks, self.points, ops=ops)
        self.exponent = xp.floor(xp.log2(xp.where(largest > 0, largest, xp.ones_like(largest)))) + 1
        factor = arrays.power_of_two(-self.exponent, xp=xp)
        factor = xp.reshape(factor, (-1,) + (1,) * (blocks.ndim - 1))
        self.blocks, self.narrow = blocks * factor, given * xp.astype(factor, given.dtype)
        host = np.float64 if blocks.dtype == xp.float64 else np.float32
        weights, tables = _tables(self.grid)
        self.weights = ops.from_numpy(weights.astype(host), blocks)
        self.tables = [
            ops.complex(*(ops.from_numpy(np.ascontiguousarray(part.astype(host)), blocks) for part in table))
            for table in tables
        ]

    def chunks(self) -> Iterator[tuple[slice, symbols.Symbol]]:
        """Frequencies within the memory budget, with their place among all."""
        step = symbols.chunk_length(self.blocks)
        for start in range(0, len(self.points), step):
            part = slice(start, min(start + step, len(self.points)))
            yield part, symbols.Symbol(self.blocks, self.points[part], ops=self.ops)

    def channel_norms(self) -> tuple[Array, Array, Array | None]:
        """Norms d_i rounded up (b, p), the scaled sums they come from (b, p), and the taps if they fit the budget."""
        xp, (b, _, p) = self.xp, self.blocks.shape[:3]
        width = max(1, min(p, BUDGET // (64 * b * math.prod(self.grid) * p)))
        rows: Array = 0.0
        columns, kept = [], None
        error: Array = 0.0
        for start in range(0, p, width):
            taps, error = self._taps(slice(start, min(start + width, p)))
            magnitude = xp.sum(xp.abs(taps), axis=1)
            rows = rows + xp.sum(magnitude, axis=2)
            columns.append(xp.sum(magnitude, axis=1))
            kept = taps if width == p else None
        sums = (rows + xp.concat(columns, axis=1)) / 2
        norms = rounding.up(sums, math.prod(self.grid) + p + 2, xp=xp) + error[:, None]
        # Sums of rounding errors alone have no gradient.
        sums = xp.where(sums > error[:, None], sums, xp.zeros_like(sums))
        for _ in range(self.n_iter):
            norms = rounding.up(xp.sqrt(rounding.up(norms, 1, xp=xp)), 1, xp=xp)
        # A zero block needs no allowance.
        norms = xp.where(
            xp.any(self.blocks != 0, axis=tuple(range(1, self.blocks.ndim)))[:, None], norms, xp.zeros_like(norms)
        )
        return arrays.unscale(norms, self.exponent[:, None], xp=xp), sums, kept

    def taps(self, selector: Array) -> Array:
        """Columns ``R_t s`` for vectors s as the columns of (b, p, r): (b, grid, p, r)."""
        return self._taps(selector)[0]

    def _taps(self, columns: slice | Array) -> tuple[Array, Array]:
        """Columns of the taps, and a bound on what all rounding errors together add to the norm at a frequency."""
        xp, (m, p) = self.xp, self.blocks.shape[1:3]
        u = rounding.unit(self.blocks, xp=xp)
        total = math.prod(self.grid)
        start = math.sqrt(p) * trigonometric.symbol_error(self.blocks, xp=xp)[:, None]
        parts, spread, mass = [], 0.0, 0.0
        for part, symbol in self.chunks():
            current, error, length = symbol.matrices(), start, m
            for t in range(self.n_iter):
                squares = rounding.up(matrices.frobenius_up(current, xp=xp) ** 2, 2, xp=xp)
                lost = squares * (rounding.SLACK * rounding.product_error(length, current, xp=xp))
                error = rounding.up(2 * _norm_up(current, xp=xp) * error + error**2 + lost, 6, xp=xp)
                right = current
                if t == self.n_iter - 1:
                    right = _columns(current, columns, xp=xp)
                current, length = xp.matmul(arrays.adjoint(current, xp=xp), right), p
            weights = self.weights[part]
            spread = spread + xp.sum(error**2 * weights, axis=1)
            # Without all columns at hand: ||X* X||_F <= ||X||_F**2.
            whole = squares if current.shape[-1] < p else matrices.frobenius_up(current, xp=xp)
            mass = mass + xp.sum(whole**2 * weights, axis=1)
            parts.append(current * xp.astype(weights, current.dtype)[None, :, None, None])
        x = xp.concat(parts, axis=1)
        taps = xp.real(self._transform(x)) / total
        # Parseval for the errors of the products; for the transform, the sum over taps of its error in each.
        c = sum(math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + trigonometric.phase_error(u)) for n in self.grid) + 4 * u
        lost = rounding.up(xp.sqrt(rounding.up(spread, len(self.points) + 2, xp=xp)), 2, xp=xp)
        lost = lost + rounding.up(xp.sqrt(mass), len(self.points) + 4, xp=xp) * (rounding.SLACK * c * math.sqrt(total))
        tiny = 4.0**self.n_iter * m * p * total * float(xp.finfo(self.blocks.dtype).smallest_normal)
        return taps, rounding.up(lost, 4, xp=xp) + tiny

    def _transform(self, x: Array) -> Array:
        """Sum over the (half) grid with ``e^{-i m.theta}``, axis by axis: (b, f, p, r) -> (b, taps, p, r)."""
        shape = [table.shape[1] for table in self.tables]
        return _contract(x, self.tables, shape, xp=self.xp)

    def residuals(self, columns: Array, selector: Array, sums: Array) -> tuple[Array, ...]:
        """What `pull` needs; every array with the leading axis b, and the frequencies in the chunks of the backward."""
        xp, b = self.xp, columns.shape[0]
        compiles = self.ops.static_shapes or self.ops.is_traced(columns)
        step = symbols.chunk_length(self.blocks) if compiles else self._lean_step()
        chunks = -(-len(self.points) // step)
        step = -(-len(self.points) // chunks)
        phase = xp.concat([symbol.phase for _, symbol in self.chunks()], axis=0)
        back = [xp.conj(xp.matrix_transpose(table)) for table in self.tables]
        signs = xp.astype(xp.sign(columns), phase.dtype)
        hats = _contract(signs, back, [table.shape[1] for table in back], xp=xp)
        hats = hats * xp.astype(self.weights, phase.dtype)[None, :, None, None]
        dtype = arrays.complex_dtype(self.narrow.dtype, xp=xp)

        def chunked(x: Array) -> Array:
            missing = chunks * step - x.shape[1]
            if missing:
                zeros = xp.zeros((b, missing, *x.shape[2:]), dtype=x.dtype, device=self.ops.device(x))
                x = xp.concat([x, zeros], axis=1)
            return xp.reshape(x, (b, chunks, step, *x.shape[2:]))

        phase = xp.broadcast_to(phase, (b, *phase.shape))
        return self.narrow, chunked(xp.astype(hats, dtype, copy=False)), selector, sums, chunked(phase)

    def _lean_step(self) -> int:
        """Frequencies whose matrices, five at a time, take what the kernel takes."""
        b, m, p = self.blocks.shape[:3]
        on_host = self.ops.on_host(self.blocks)
        matrices = 5 * 16 * b * m * p
        return int(max(1, max(8 * math.prod(self.narrow.shape), LEAN["host" if on_host else "device"]) // matrices))


def _norm_up(a: Array, *, xp: Any) -> Array:
    """Cheap upper bound of each matrix's norm: Frobenius, or the root of the row and column sums, the smaller one."""
    magnitude = xp.abs(a)
    rows = xp.max(xp.sum(magnitude, axis=-1), axis=-1)
    columns = xp.max(xp.sum(magnitude, axis=-2), axis=-1)
    schur = rounding.up(xp.sqrt(rows * columns), a.shape[-1] + a.shape[-2] + 8, xp=xp)
    return xp.minimum(schur, matrices.frobenius_up(a, xp=xp))


def _columns(a: Array, columns: slice | Array, *, xp: Any) -> Array:
    if isinstance(columns, slice):
        return a[:, :, :, columns]
    return xp.matmul(a, xp.astype(columns, a.dtype)[:, None, :, :])


def _tables(grid: tuple[int, ...]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Multiplicity of each frequency of the half grid; for each axis ``e^{-2 pi i m j / N}``, taps m by points j."""
    if not grid:
        return np.ones(1), []
    halved = int(np.argmax(grid))
    counts = [n // 2 + 1 if axis == halved else n for axis, n in enumerate(grid)]
    place = np.indices(counts)[halved].reshape(-1)
    tables = []
    for n, count in zip(grid, counts, strict=True):
        cos, sin = cos_sin(np.arange(n)[:, None] * np.arange(count)[None, :], n)
        tables.append((cos, -sin))
    # Every axis is odd: off zero on the halved axis, a frequency stands for its mirror image too.
    return np.where(place > 0, 2.0, 1.0), tables


def _contract(x: Array, tables: list[Array], shape: list[int], *, xp: Any) -> Array:
    """Multiply a table onto each axis of (b, prod(shape), p, r)."""
    b, _, p, r = x.shape
    sizes = list(shape)
    for axis, table in enumerate(tables):
        before, after = math.prod(sizes[:axis]), math.prod(sizes[axis + 1 :])
        x = xp.matmul(table, xp.reshape(x, (b, before, sizes[axis], after * p * r)))
        sizes[axis] = table.shape[0]
    return xp.reshape(x, (b, math.prod(sizes), p, r))


def pull(residuals: tuple[Array, ...], cotangent: Array, n_iter: int, *, xp: Any) -> Array:
    """Gradient with respect to the blocks of ``sum_i c_i (sum |R_t[:, i, :]|)**(1 / 2**t)`` over the selected channels.

    Signs held fixed, the sum is linear in R_t, that is in H_t at every frequency; each squaring H -> H**2 pulls a
    gradient Gamma back to Gamma H + H Gamma, and G -> G* G to G (Gamma + Gamma*). That sum is Hermitian from the start,
    so one product serves both terms. Few frequencies at a time: a matrix of one is half as large as a 3x3 kernel.

    Parameters
    ----------
    residuals : tuple of arrays
        From `Powers.residuals`.
    cotangent : array, shape (b, p)
    """
    blocks, hats, selector, sums, phase = residuals
    wide = blocks.shape[1] < blocks.shape[2]
    blocks = _tall(blocks, xp=xp)
    b, m, p = blocks.shape[:3]
    kernel_shape = tuple(blocks.shape[3:])
    narrow, broad = arrays.complex_dtype(blocks.dtype, xp=xp), phase.dtype
    root = 2.0**-n_iter
    safe = xp.where(sums > 0, sums, xp.ones_like(sums))
    slope = xp.astype(cotangent, sums.dtype) * root * xp.pow(safe, xp.full_like(safe, root - 1))
    slope = xp.where(sums > 0, slope, xp.zeros_like(sums)) / math.prod(_grid(kernel_shape, n_iter))
    right = xp.astype(xp.matrix_transpose(selector * slope[:, :, None]), broad)[:, None, :, :]
    flat = xp.permute_dims(xp.reshape(blocks, (b, m * p, -1)), (0, 2, 1))

    def symbol(phases: Array) -> Array:
        g = xp.matmul(xp.real(phases), flat) + 1j * xp.matmul(xp.imag(phases), flat)
        return xp.reshape(xp.astype(g, broad, copy=False), (b, -1, m, p))

    gradient: Array = None
    for chunk in range(phase.shape[1]):
        here = xp.astype(phase[:, chunk, :, :], narrow, copy=False)
        g = symbol(here)
        powers = [xp.matmul(arrays.adjoint(g, xp=xp), g)] if n_iter > 1 else []
        del g
        for _ in range(n_iter - 2):
            powers.append(xp.matmul(powers[-1], powers[-1]))
        left = xp.astype(hats[:, chunk, ...], broad, copy=False)
        gamma = xp.matmul(left, right)
        gamma += xp.matmul(arrays.adjoint(right, xp=xp), arrays.adjoint(left, xp=xp))
        while powers:
            gamma = xp.matmul(gamma, powers.pop())
            gamma += arrays.adjoint(gamma, xp=xp)
        gamma = xp.astype(xp.matmul(symbol(here), gamma), narrow, copy=False)
        part = symbols.matrices_gradient(gamma, here, kernel_shape, xp=xp)
        del gamma
        if gradient is None:
            gradient = part
        else:
            gradient += part
        del part
    return _swapped(gradient, xp=xp) if wide else gradient


def _sums_gradient(blocks: Array, cotangent: Array, *, xp: Any) -> Array:
    """Gradient of ``sqrt(largest row sum * largest column sum)`` of sum_k |K_k|."""
    b, m, p = blocks.shape[:3]
    sums = xp.sum(xp.reshape(xp.abs(blocks), (b, m, p, -1)), axis=-1)
    rows, columns = xp.sum(sums, axis=2), xp.sum(sums, axis=1)
    row, column = xp.max(rows, axis=1, keepdims=True), xp.max(columns, axis=1, keepdims=True)
    safe = xp.where(row > 0, row * column, xp.ones_like(row))
    first = xp.astype(rows == row, blocks.dtype)
    second = xp.astype(columns == column, blocks.dtype)
    first = first / xp.sum(first, axis=1, keepdims=True)
    second = second / xp.sum(second, axis=1, keepdims=True)
    slope = (first * column)[:, :, None] + (second * row)[:, None, :]
    slope = slope * (cotangent[:, None] / (2 * xp.sqrt(safe)))[:, :, None]
    return xp.sign(blocks) * xp.reshape(slope, (b, m, p) + (1,) * (blocks.ndim - 3))
