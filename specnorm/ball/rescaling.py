"""Kernels changed so that their norm is proven to be at most a bound: by one factor, or by clipping the spectrum.

What is proven is the returned array, as rounded in its own dtype. `rescale` is differentiable; `clip` is not, and a
derivative through it raises.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from specnorm.backends import Backend, arrays, backend_for
from specnorm.backends.array_types import Array
from specnorm.backends.types import ArrayOps, ArrayT
from specnorm.ball.proofs.multiples import norm_of_multiple
from specnorm.enclosure.method import Enclose
from specnorm.errors import KernelError, Undecided
from specnorm.geometry import polyphase
from specnorm.geometry.layers import KernelOrLayer, takes_layers
from specnorm.geometry.spec import ConvSpec, Geometry
from specnorm.gram.method import ChannelNorms, rescaled
from specnorm.proofs import arithmetic
from specnorm.proofs.frequencies import Frequencies
from specnorm.running import checks
from specnorm.running.measuring import run_plan
from specnorm.running.program import program_for
from specnorm.running.search import Clock
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.proofs.bound import Upper
    from specnorm.running.result import Result

_CLOSE = 1e-5
"""Relative width of the interval that a kernel is scaled by, if the symbols tell its norm and few cells are enough.
Otherwise it is the default of `Enclose`. The bound of a product's rounding may add as much: in single precision it is a
few times 1e-6."""
_CHEAP = 1000
"""Cells of that search."""
_CLIPPED = 1e-4
"""Width of the interval of a clipped kernel, whose spectrum is flat: a closer one can take many more cells."""
_EXCESS = 5e-3
"""Rounds of clipping end if no singular value on the grid is above the bound by more than this, relatively. Between the
frequencies of the grid, the norm is several percent above it."""
_UNRELAXED = 2
"""Rounds with plain steps: longer ones would move the kernel further than needed."""
_RELAXATION = 1.6
"""Factor of the steps in later rounds. With any factor below 2 the rounds converge, since they are steps of gradient
descent on half the squared distance to the clipped symbols, whose gradient has Lipschitz constant 1."""
_LAST = 0.5
"""Part of the time that rounds of clipping leave to the proof."""
_PROOF = 0.8
"""Part of what is left that an enclosure gets: the product and the proof of its rounding follow."""
_OVERFLOWN = 1 / 16
"""Factor of a kernel whose norm, or the factor for the bound, is no normal number; it is taken until they are."""
_LEAST = 0.02
"""Part of the time that a proof gets when all of it is over."""
_NO_DERIVATIVE = (
    "a derivative through clip was asked for, which has none here. Clip outside of the differentiated function, or use "
    "rescale, which is differentiable."
)


@takes_layers
def rescale(
    kernel: KernelOrLayer[ArrayT],
    bound: float = 1.0,
    *,
    only_shrink: bool = True,
    budget: float | None = Clock.BUDGET,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Scale a kernel by one factor so that its spectral norm is proven to be at most ``bound``.

    The result is differentiable. The factor is ``bound / upper``; the gradient of ``upper`` is taken at its witness.

    With circular padding, a stride and no ``input_shape``, this holds at every size that the stride divides.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    bound : float, default 1
        Positive.
    only_shrink : bool, default True
        True: a kernel whose norm is within the bound is returned unchanged. False: it is enlarged to a norm below the
        bound by 1e-5 to 1e-3 of it.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further proof is begun, and the kernel is scaled by the best bound
        so far. None: no limit.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    array of the kernel's library, shape, dtype and layout
        The kernel itself if it is zero, or if ``only_shrink`` and its norm is proven to be at most the bound. The proof
        is about the returned array, rounded to its dtype.

    Raises
    ------
    KernelError
        If the dtype cannot represent a multiple of the kernel with such a norm.
    MethodError
        Under a tracer: a proof needs values.
    Undecided
        If no bound on the norm could be proven within the budget.

    Notes
    -----
    One call of `enclose`, usually to ``rtol=1e-5``, bounds the norm.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.certify(specnorm.rescale(kernel, 1.0), 1.0)
    True
    """
    given: Any = kernel
    bound, backend = check_bound(bound), backend_for(given)
    checks.flag("only_shrink", only_shrink)
    checks.budget(budget)
    clock = Clock.of(budget)
    result, upper = _enclosed_closely(given, clock, backend, geometry)
    scaled: ArrayT = _rescaled(given, result.value, upper, bound, clock, backend, geometry, only_shrink=only_shrink)
    return scaled


def _rescaled(
    kernel: ArrayT,
    measured: Any,
    upper: Upper,
    bound: float,
    clock: Clock,
    backend: Backend,
    geometry: Geometry,
    *,
    only_shrink: bool = True,
) -> ArrayT:
    """The multiple of a kernel that `rescale` returns.

    Parameters
    ----------
    measured : array
        Upper bound of the kernel's norm, from which gradients flow.
    upper : Upper
        The same bound, as a claim.
    """
    given: Any = backend.detach(kernel)
    if upper <= bound and (only_shrink or upper.value == 0):
        return kernel
    xp = backend.namespace(given)
    working = xp.finfo(xp.float64 if given.dtype == xp.float64 else xp.float32)
    is_overflown = not math.isfinite(float(backend.detach(measured)))
    is_too_small = bound / float(working.max) > upper.value
    if is_overflown or is_too_small or bound / upper.value < working.smallest_normal:
        # The norm and its gradient are no numbers of this dtype; or the factor is infinite, or subnormal, which XLA
        # takes for 0.
        with arithmetic.exact(given, backend=backend):
            closer: ArrayT = _times(kernel, 1 / _OVERFLOWN if is_too_small else _OVERFLOWN, backend)
        _entries_in_range(closer, bound, backend)
        result, upper = _enclosed_closely(closer, clock, backend, geometry)
        return _rescaled(closer, result.value, upper, bound, clock, backend, geometry, only_shrink=only_shrink)
    host: Any = np.asarray(backend.to_numpy(given), dtype=np.float64)
    eps, _ = arrays.precision(given.dtype, xp=xp)
    factor = bound / upper.value
    for attempt in range(20):
        with arithmetic.exact(given, backend=backend):
            shrunk: Any = _times(given, factor, backend)
        claim = norm_of_multiple(upper, host, factor, _entries_in_range(shrunk, bound, backend))
        # In half precision the bound of the rounding is far above what it does: measured again, it loses less.
        if claim > bound * (1 + _CLOSE) and not clock.expired:
            _, claim = _enclosed_closely(shrunk, clock, backend, geometry)
        if claim <= bound:
            if given is kernel:
                constant: ArrayT = shrunk
                return constant
            with arithmetic.exact(given, backend=backend):
                # The quotient is exactly 1: it carries the gradient of the factor, and no value.
                multiple: ArrayT = _times(kernel, factor * (backend.detach(measured) / measured), backend)
            return multiple
        # The rounding of the product may lift the norm again, most in half precision: a little more each round.
        factor *= bound / claim.value * (1 - 2**attempt * eps / 64)
    raise Undecided(f"no multiple of the kernel was proven to be at most {bound!r} in {shrunk.dtype}.")


def _entries_in_range(multiple: Any, bound: float, backend: Backend) -> np.ndarray:
    """Return the entries, in float64, of a multiple of a nonzero kernel; refuse those beyond the range of its dtype."""
    entries = np.asarray(backend.to_numpy(backend.detach(multiple)), dtype=np.float64)
    is_finite = bool(np.isfinite(entries).all())
    if not is_finite or not entries.any():
        word, entry = ("small", "0") if is_finite else ("large", "infinite")
        raise KernelError(
            f"bound={bound!r} is too {word} for a kernel in {multiple.dtype}: entries of the scaled kernel would be "
            f"{entry}. Give another bound, or the kernel in a wider dtype."
        )
    return entries


@takes_layers
def clip(
    kernel: KernelOrLayer[ArrayT],
    bound: float = 1.0,
    *,
    n_iter: int = 20,
    budget: float | None = Clock.BUDGET,
    **geometry: Unpack[Geometry],
) -> ArrayT:
    """Clip a kernel's singular values so that its spectral norm is proven to be at most ``bound``.

    With circular padding, a stride and no ``input_shape``, this holds at every size that the stride divides.

    Clipping on a frequency grid and cropping to the kernel's size alternate. (Sedghi, Gupta and Long 2019, section 3,
    do each once, after which the norm exceeds the bound again.) A last factor near 1 guarantees the bound.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        The layer's kernel, in torch's order of axes; or a convolution or linear layer of a framework.
    bound : float, default 1
        Positive.
    n_iter : int, default 20
        Largest number of rounds of clipping and cropping. 0: the result of `rescale`. The rounds end when no singular
        value on the grid exceeds the bound by more than 0.5 %.
    budget : float or None, default 60
        Time limit in seconds. When it is reached, no further proof is begun, and the kernel is scaled by the best bound
        so far. None: no limit.
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`.

    Returns
    -------
    array of the kernel's library, shape, dtype and layout
        Closer to the kernel (in Frobenius norm) than the result of `rescale`, or equal to it.

    Raises
    ------
    MethodError
        Under a tracer; if ``n_iter`` is not an integer of at least 0; or if a derivative with respect to the kernel is
        requested.
    Undecided
        If no bound on the norm could be proven within the budget.

    Notes
    -----
    In each round, the singular values of the symbol are computed at each frequency of a grid of ``2k`` points per axis,
    those above the bound are replaced by the bound, the result is transformed back, and it is cropped to the kernel's
    size. The crop can raise the norm again, so rounds are repeated, typically 5 to 10 times. (After one round, an
    8x8x3x3 kernel clipped to 1 at 16 pixels had norm 1.28. A kernel clipped at one size can exceed the bound at
    others.) For strided kernels, the blocks are clipped. The cost is two calls of `enclose`, and eigenvalues of Gram
    matrices at half of the frequencies in each round.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> specnorm.certify(specnorm.clip(kernel, 1.0), 1.0)
    True
    """
    backend = backend_for(kernel)
    checks.count("n_iter", n_iter, most=checks.MOST_ROUNDS)
    checks.budget(budget)
    check_bound(bound)
    given: Any = backend.detach(kernel)
    in_numpy = _numpy_suffices(given, backend)
    # JAX would compile each operation by itself.
    array, library = (backend.to_numpy(given), backend.host()) if in_numpy else (given, backend)
    nearest: Any = _clipped(array, library, float(bound), n_iter, Clock.of(budget), geometry)
    if in_numpy:
        nearest = given if nearest is array else backend.share_numpy(nearest, given)
    result: ArrayT = backend.without_derivative(nearest, kernel, _NO_DERIVATIVE)
    return result


def _clipped(
    given: Any,
    backend: Backend,
    bound: float,
    n_iter: int,
    clock: Clock,
    geometry: Geometry,
) -> Any:
    first_clock = clock.before(0.75 * clock.left)
    first, upper = _enclosed(given, _enclose(first_clock), backend, geometry)
    if upper <= bound:
        return given
    xp = backend.namespace(given)
    nearest, rounds = _with_clipped_symbol(given, backend, bound, n_iter, clock, geometry)
    if rounds:
        found, upper = _enclosed(nearest, _enclose(clock, rtol=_CLIPPED), backend, geometry)
        shrunk: Any = _rescaled(nearest, found.value, upper, bound, clock, backend, geometry)
        with arithmetic.exact(given, backend=backend):
            distance = _relative_distance(shrunk, given, backend)
        # A multiple of norm at most `bound` is at least at the distance 1 - bound / norm, but for its rounding.
        eps, _ = arrays.precision(given.dtype, xp=xp)
        if (1 - distance - eps) * float(first.stats["lower"]) > bound:
            return shrunk
    found, upper = _enclosed_closely(given, clock, backend, geometry)
    scaled: Any = _rescaled(given, found.value, upper, bound, clock, backend, geometry)
    if not rounds:
        return scaled
    with arithmetic.exact(given, backend=backend):
        return shrunk if distance < _relative_distance(scaled, given, backend) else scaled


def _relative_distance(x: Array, kernel: Array, backend: Backend) -> float:
    """Frobenius norm of the difference of two kernels, over that of the second."""
    xp = backend.namespace(kernel)
    wide_dtype = getattr(xp, backend.wide_dtype(kernel))
    wide = xp.astype(kernel, wide_dtype)
    # In units of the largest entry: squares of the entries themselves may overflow.
    largest = xp.max(xp.abs(wide))
    difference = xp.reshape((xp.astype(x, wide_dtype) - wide) / largest, (-1,))
    return float(xp.linalg.vector_norm(difference) / xp.linalg.vector_norm(xp.reshape(wide / largest, (-1,))))


def _with_clipped_symbol(
    given: Any,
    backend: Backend,
    bound: float,
    n_iter: int,
    clock: Clock,
    geometry: Geometry,
) -> tuple[Any, int]:
    """A kernel whose norm at the frequencies of a grid is hardly above the bound, and the number of rounds."""
    xp = backend.namespace(given)
    spec = ConvSpec.of(tuple(given.shape), **geometry)
    wide = xp.astype(given[None, ...], getattr(xp, backend.wide_dtype(given)))
    ops = ArrayOps.of(backend, given)
    in_time = clock.before(_LAST * clock.seconds)
    rounds = 0
    with arithmetic.exact(given, backend=backend):
        blocks, exponent = arrays.scale(polyphase.to_blocks(wide, spec, xp=xp), xp=xp)
        limit = arrays.unscale(xp.full_like(exponent, bound / math.sqrt(spec.padding_gain_sq)), -exponent, xp=xp)
        while rounds < n_iter and not in_time.expired and in_time.affords(_work_of_clipping(blocks)):
            excess, norm = _excess_on_grid(blocks, limit, ops=ops)
            if bool(xp.all(norm <= (1 + _EXCESS) * limit)):
                break
            clipped = blocks - excess * (1.0 if rounds < _UNRELAXED else _RELAXATION)
            # Where the stride does not divide the kernel, some taps of the blocks are none of the kernel's.
            blocks = polyphase.to_blocks(polyphase.from_blocks(clipped, spec, xp=xp), spec, xp=xp)
            rounds += 1
        blocks = arrays.unscale_blocks(blocks, exponent, xp=xp)
        return xp.astype(polyphase.from_blocks(blocks, spec, xp=xp)[0, ...], given.dtype), rounds


def _work_of_clipping(blocks: Array) -> float:
    """Multiplications of one round: the eigenvalues of a Gram matrix at half of the frequencies."""
    groups, rows, columns, *shape = blocks.shape
    points, _ = Frequencies.distinct_grid(_clipping_sizes(tuple(shape)))
    return groups * len(points) * Clock.eigh_cost(min(rows, columns), is_complex=True)


def _clipping_sizes(kernel_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Points of the grid, twice the kernel's size."""
    return tuple(1 if k == 1 else 2 * k for k in kernel_shape)


def _excess_on_grid(blocks: Array, limit: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
    """The part of the kernel that belongs to singular values above a limit, on a grid of twice the kernel's size.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    limit : array, shape (b,)

    Returns
    -------
    excess : array, shape (b, m, p, *kernel_shape)
        Inverse transform of G - clip(G), cropped to the kernel's size.
    norm : array, shape (b,)
        Largest singular value on the grid.
    """
    xp = ops.xp
    # The singular values above the limit are accurate from the Gram matrix of the shorter side, whose eigenvalues take
    # half the time of an SVD.
    tall = arrays.tall(blocks, xp=xp)
    shape = tuple(blocks.shape[3:])
    sizes = _clipping_sizes(shape)
    points, multiplicities = Frequencies.distinct_grid(sizes)
    excess = tall * 0.0
    norm_sq = limit * 0.0
    smallest = float(xp.finfo(blocks.dtype).smallest_normal)
    polynomial = Polynomial(tall, xp=xp)
    step = polynomial.frequencies_at_once(ops=ops)
    for start in range(0, len(points), step):
        chunk = slice(start, start + step)
        symbol = polynomial.at(points[chunk], ops=ops)
        g = symbol.matrices()
        squares, v = xp.linalg.eigh(xp.matmul(arrays.adjoint(g, xp=xp), g))
        norm_sq = xp.maximum(norm_sq, xp.max(squares, axis=(1, 2)))
        # The square of a small limit underflows, and so may the limit of a kernel that is far above it.
        least = xp.maximum(limit, limit * 0.0 + smallest)[:, None, None]
        s = xp.maximum(xp.sqrt(xp.maximum(squares, squares * 0.0)), least)
        parts = ops.from_numpy(multiplicities[chunk] / math.prod(sizes), blocks)
        weights = (1 - limit[:, None, None] / s) * xp.astype(parts, s.dtype)[None, :, None]
        weighted = xp.matmul(v * xp.astype(weights, v.dtype)[:, :, None, :], arrays.adjoint(v, xp=xp))
        phase = xp.broadcast_to(symbol.phase[None, ...], (blocks.shape[0], *symbol.phase.shape))
        excess = excess + Polynomial.matrices_gradient(xp.matmul(g, weighted), phase, shape, xp=xp)
    return arrays.from_tall(excess, blocks, xp=xp), xp.sqrt(norm_sq)


def _numpy_suffices(x: Any, backend: Backend) -> bool:
    """Whether NumPy can read and return an array that nothing differentiates."""
    xp = backend.namespace(x)
    is_constant = backend.detach(x) is x and not backend.is_traced(x)
    return is_constant and backend.numpy_view(x) and x.dtype in (xp.float32, xp.float64)


def _times(x: Any, factor: Any, backend: Backend) -> Any:
    """Multiply in at least float32, and round once to the dtype of x.

    A constant is multiplied in NumPy if that can read it. torch would take two threads for 32,768 numbers: on a busy
    machine they wait for each other, a thousand times as long as the product takes.
    """
    xp = backend.namespace(x)
    if isinstance(factor, float) and _numpy_suffices(x, backend):
        return backend.share_numpy(backend.to_numpy(x) * factor, x)
    wide = x if x.dtype in (xp.float32, xp.float64) else xp.astype(x, xp.float32)
    return xp.astype(wide * factor, x.dtype)


def _enclosed(x: ArrayT, method: Enclose, backend: Backend, geometry: Geometry) -> tuple[Result, Upper]:
    """An enclosure, whose upper bound is a differentiable array, and the bound as a claim about the array's numbers."""
    run = run_plan(x, method, **geometry)
    ((_, upper),) = run.claims() or run_plan(backend.to_numpy(backend.detach(x)), method, **geometry).claims()
    return run, upper


def _enclosed_closely(x: ArrayT, clock: Clock, backend: Backend, geometry: Geometry) -> tuple[Result, Upper]:
    """An enclosure to 1e-5, if few cells suffice for it; to 1e-3 where they bring less, and where borders cut taps off.

    There, 1e-5 takes a proof of the layer's own matrix, in 4 to 70 times the time.
    """
    if not ConvSpec.of(tuple(x.shape), **geometry).symbols_suffice:
        return _enclosed(x, _enclose(clock), backend, geometry)
    result, upper = _enclosed(x, _enclose(clock, rtol=_CLOSE, max_cells=_CHEAP), backend, geometry)
    is_close = result.stats["converged"] or upper <= (1 + Enclose.rtol) * float(result.stats["lower"])
    if not is_close and not clock.expired:
        wide_result, wide_upper = _enclosed(x, _enclose(clock), backend, geometry)
        if wide_upper < upper:
            return wide_result, wide_upper
    return result, upper


def _enclose(clock: Clock, rtol: float = Enclose.rtol, max_cells: int = Enclose.max_cells) -> Enclose:
    """Within what is left; at the end, what is proven in no time."""
    budget = None if math.isinf(clock.seconds) else max(_PROOF * clock.left, _LEAST * clock.seconds)
    return Enclose(rtol=rtol, max_cells=max_cells, budget=budget)


def check_bound(bound: object) -> float:
    """A bound as float; refused unless it is one positive finite number."""
    number = checks.number("bound", bound)
    if not 0 < number < math.inf:
        raise KernelError(f"bound={number!r} is not a positive finite number.")
    return number


@takes_layers
def gram_rescaling(kernel: KernelOrLayer[ArrayT], **geometry: Unpack[Geometry]) -> ArrayT:
    """Scale each channel so that the layer's spectral norm is proven to be at most 1, differentiably.

    This is the almost-orthogonal layer (AOL) of Prach and Lampert, ECCV 2022. The proof rests on a diagonally dominant
    matrix and needs no search, so it also holds under jit, compile and vmap, rounding included. The scaled channels are
    the inputs, or the outputs if these are fewer. The norm is 0.4 to 0.6 for trained layers. Dividing by `gram_bound`
    of the result brings it to 1.

    Parameters
    ----------
    kernel : array, shape (cout, cin // groups, *kernel_shape)
        Transposed: (cin, cout // groups, *kernel_shape).
    **geometry
        ``input_shape``, ``stride``, ``dilation``, ``groups``, ``transposed``, ``layout``, ``padding_mode``,
        ``padding``: see `specnorm.Geometry`. The same kernel is valid for every input size, stride and dilation, with
        zero or circular padding. Groups are rescaled one by one.

    Returns
    -------
    array of the kernel's library, shape, dtype and layout
        After rounding to its dtype, its norm is at most 1 (in half precision, somewhat farther below). Zero channels
        stay zero.

    Raises
    ------
    GeometryError
        For reflect or replicate padding.

    Notes
    -----
    Channel i is divided by ``sqrt(sum |R[i, j, m]| over j, m)``, where R is the kernel of the Gram matrix ``G*G``. Let
    D be the diagonal matrix of these sums. At every frequency, ``D - G*G`` is Hermitian and diagonally dominant, so
    ``G*G <= D``. Hence ``G D**(-1/2)`` has norm at most 1. Channels whose divisor is below 1 are enlarged.

    Examples
    --------
    >>> import numpy, specnorm
    >>> kernel = numpy.ones((4, 3, 3, 3))
    >>> print(specnorm.enclose(specnorm.gram_rescaling(kernel), 8))
    0.999999 <= norm <= 1.00001 (converged: rtol=0.001; 1 is not refuted, see certify)
    """
    backend = backend_for(kernel)
    plan = ChannelNorms()
    given: Any = kernel
    # Refuse what is no kernel before arithmetic is done with it.
    program_for(plan, tuple(given.shape), str(given.dtype), tuple(geometry.items()))
    if _numpy_suffices(given, backend):
        # JAX would compile each operation outside of the plan by itself.
        on_host: Any = gram_rescaling(backend.to_numpy(given), **geometry)
        shared: ArrayT = backend.share_numpy(on_host, given)
        return shared
    with arithmetic.exact(given, backend=backend):
        # The result does not depend on the kernel's scale; near the ends of its dtype's range, the norms would.
        scaled: Any = _with_largest_entry_about_one(given, backend)
    norms = run_plan(scaled, plan, **geometry)
    with arithmetic.exact(given, backend=backend):
        xp = backend.namespace(given)
        divided: Any = rescaled(scaled, norms.value, norms.spec, given.dtype, xp=xp)
    result: ArrayT = divided
    return result


def _with_largest_entry_about_one(kernel: Any, backend: Backend) -> Any:
    """A kernel times a power of two, in at least float32; exact, except where entries become subnormal.

    Derivatives take the power for a constant. A zero or non-finite kernel is not scaled.
    """
    xp = backend.namespace(kernel)
    wide = kernel if kernel.dtype in (xp.float32, xp.float64) else xp.astype(kernel, xp.float32)
    exponents = arrays.exponents(xp.reshape(backend.detach(wide), (1, -1)), xp=xp)
    exponents = xp.where(xp.isfinite(exponents), exponents, xp.zeros_like(exponents))
    return arrays.unscale(wide, -xp.reshape(exponents, ()), xp=xp)
