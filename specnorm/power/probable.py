"""Bound the norm of a linear operator that is given by its products, with a stated probability.

Such a bound has a kind of its own, "probable"; it is never called proven.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm import backends
from specnorm.backends import text
from specnorm.backends.types import ArrayOps
from specnorm.errors import MethodError
from specnorm.power import inexact_adjoint
from specnorm.running import checks
from specnorm.running.result import TwoSided

Vector = NDArray[np.float64]
Product = Callable[[Vector], Vector]
_ADJOINT_TOLERANCE = 1e-5
"""Largest relative difference of <A v, u> and <v, A* u> that is accepted; products in float32 differ by less."""
_ADVICE_ON_ADJOINTS = (
    "A map with an offset or a nonlinearity has no adjoint. A convolution whose border repeats pixels is not its own "
    "adjoint, even if its kernel is symmetric. If the adjoint is right up to an error that you can bound, give "
    "adjoint_rtol, such as 1e-4."
)
_LEEWAY = 10.0
"""A stated error of the adjoint is contradicted by differences so many times as large, in random and Krylov vectors."""
_MOST_LOSS = 0.5
"""Largest part of the squared norm by which an inexact adjoint may widen the bound."""
_CHANCE_OF_ESTIMATE = 1e-2
_INNER_PART = 0.9
"""End of the interval, relative to the estimated squared norm, above which the vector of a lower bound is enlarged."""
_VECTORS = 4
"""At most so many vectors of outputs, and of inputs, are kept at once; those inside of the products are not counted."""


@dataclass(frozen=True, eq=False)
class ProbableBound(TwoSided[np.float64]):
    """Bounds on an operator's spectral norm; the upper one holds with a stated probability.

    ``lower, upper = operator_norm(...)`` unpacks it. ``float()``, ``bool()`` and comparisons raise an error,
    since it holds two numbers.

    Parameters
    ----------
    lower : NumPy scalar
        Attained by a vector, up to rounding.
    upper : NumPy scalar
        At least the norm with probability ``1 - delta`` over the random start, up to rounding.
    delta : float
        Largest probability that ``upper`` is below the norm.
    products : int
        Number of products with the operator and its adjoint, together.
    """

    delta: float
    products: int

    kind = "probable"

    def __repr__(self) -> str:
        """Both bounds, and the probability of the upper one, in one line."""
        return f"{self._shown_ends()} with probability 1 - {self.delta:g} ({self.products} products)"


@dataclass(frozen=True)
class LinearOperator:
    """A linear map A, given by its products with float64 NumPy vectors.

    Parameters
    ----------
    matvec : callable
        ``v -> A v``, from arrays of shape (n,) to (m,).
    rmatvec : callable
        ``u -> A* u``, from arrays of shape (m,) to (n,).
    shape : (m, n)
    """

    matvec: Product
    rmatvec: Product
    shape: tuple[int, int]


def operator_norm(
    operator: Any,
    rmatvec: Product | None = None,
    shape: tuple[Any, Any] | None = None,
    *,
    rtol: float = 1e-2,
    delta: float = 1e-9,
    seed: int | None = 0,
    rng: np.random.Generator | int | None = None,
    adjoint_rtol: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int = ArrayOps.memory,
) -> ProbableBound:
    """Bound the spectral norm of a linear operator that is available only through products, with a stated probability.

    Products alone cannot prove an upper bound. But for every operator, the probability that the Lanczos method ends far
    below the norm from a random start has a known bound.

    Parameters
    ----------
    operator : callable, or object with shapes and an adjoint
        A function ``v -> A v`` from float64 arrays of shape (n,) to (m,), together with the next two arguments. Or
        whatever SciPy's ``aslinearoperator`` accepts: operators of SciPy and pylops, sparse and dense matrices, real or
        complex. Or matrices of torch and JAX, also sparse ones; linear operators of gpytorch; objects with ``op``,
        ``adj_op`` and ``shape``. Or a callable object with ``H`` or ``adjoint`` and the shapes of its inputs and
        outputs: linear operators of SigPy, SCICO and ODL. For functions of tensors, see
        `specnorm_torch.linear_operator` and
        `specnorm_jax.linear_operator`.
    rmatvec : callable, optional
        The adjoint ``u -> A* u``, if ``operator`` is a function. It is tested with a random pair of vectors, and in
        each step.
    shape : (m, n), optional
        The numbers of outputs and inputs, if ``operator`` is a function. For functions of arrays, or of tuples of
        arrays: the shapes of both, such as ``((64, 64), (64, 64))``.
    rtol : float, default 1e-2
        ``upper`` is ``(1 + rtol) * lower``. The number of products grows as ``log(n / delta**2) / sqrt(2 rtol)``.
    delta : float, default 1e-9
        Largest probability that ``upper`` is below the norm.
    seed : int or None, default 0
        Seed of the random start; None: a new one in each call. The operator must not depend on the seed.
    rng : numpy.random.Generator or int, optional
        Generator of the random start, or an argument of `numpy.random.default_rng` (SPEC 7); replaces ``seed``.
    adjoint_rtol : float, optional
        If ``rmatvec`` is a linear map that differs from the adjoint, such as a projector's backprojection on a GPU: an
        upper bound on the norm of the difference, relative to the operator's norm, such as 1e-4. ``upper`` is then
        larger by a factor of ``1 / sqrt(1 - (log2(n) + 2.038) adjoint_rtol)``, and more if the product of both maps has
        eigenvalues that are not real: for the worst matrices tried, it was 1.01, 1.04 and 1.25 times the norm for 1e-4,
        1e-3 and 1e-2. There are about twice as many products. The map must be the same in every call.
    progress : callable, optional
        Called about once a second with the number of steps so far and the maximum number of steps.
    max_bytes : int
        Operators whose vectors take more memory are refused: 32 bytes for each input and each output.

    Returns
    -------
    ProbableBound

    Raises
    ------
    MethodError
        If the adjoint is missing, or ``rmatvec`` is not the adjoint; if a product is not finite or has a wrong shape;
        or if an argument is invalid.

    Notes
    -----
    Kuczyński, Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start"
    (SIAM J. Matrix Anal. Appl. 13, 1992), theorem 4.1: after k steps with ``A* A``, of order n, the largest Ritz value
    is below ``(1 - eps) |A|**2`` with a probability of at most ``1.648 sqrt(n) exp(-sqrt(eps) (2 k - 1))``. No such
    probability is known for the common practice of ten power steps times 1.05. A complex operator is treated as a real
    one of twice the order. Rounding errors are not bounded. With ``adjoint_rtol``, one Chebyshev
    polynomial of the product of both maps is applied to a random vector, and the bound rests on Kahan's theorem (1975)
    on the spectra of nearly Hermitian matrices (`specnorm/power/inexact_adjoint.py`).

    Examples
    --------
    >>> import numpy, specnorm
    >>> a = numpy.diag([3.0, 2.0, 1.0])
    >>> lower, upper = specnorm.operator_norm(lambda v: a @ v, lambda u: a.T @ u, (3, 3))
    >>> print(f"{lower:.3f} <= norm <= {upper:.3f}")
    3.000 <= norm <= 3.030
    """
    _check_fraction("rtol", rtol, "a relative width such as 1e-2: the number of products grows as 1 / sqrt(rtol)")
    _check_fraction("delta", delta, "a probability such as 1e-9: without chance nothing is known of a black box")
    if adjoint_rtol is not None:
        _check_fraction("adjoint_rtol", adjoint_rtol, "the relative error of rmatvec, such as 1e-4")
    checks.count("max_bytes", max_bytes)
    linear = _linear_operator(operator, rmatvec, shape)
    m, n = linear.shape
    memory = 8 * _VECTORS * (m + n)
    if memory > max_bytes:
        raise MethodError(
            f"operator_norm of an operator with {n} inputs and {m} outputs takes some {memory / 2**30:.3g} GiB for its "
            f"vectors, and max_bytes={max_bytes}. max_bytes={memory} computes it all the same."
        )
    _check_order_of_shape(linear)
    name, start = ("seed", seed) if rng is None else ("rng", rng)
    try:
        random = np.random.default_rng(start)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name}={start!r} seeds no generator ({error}): give an integer of at least 0.") from None
    apply = _checked(linear.matvec, "matvec", m)
    apply_adjoint = _checked(linear.rmatvec, "rmatvec", n)
    tolerance = max(_ADJOINT_TOLERANCE, _LEEWAY * (adjoint_rtol or 0.0))
    scale = _tested_scale(apply, apply_adjoint, random.standard_normal(n), random.standard_normal(m), tolerance)
    # Iterate on the smaller of A* A and A A*.
    is_swapped = m < n
    if is_swapped:
        apply, apply_adjoint = apply_adjoint, apply
        n = m
    if adjoint_rtol is not None:
        scaled = _Scaled(apply, apply_adjoint, scale, n, is_swapped)
        return _bound_with_inexact_adjoint(scaled, adjoint_rtol, rtol, delta, random, progress)
    eps = 1 - (1 + rtol) ** -2
    steps = min(n, math.ceil((math.log(1.648 * math.sqrt(n) / delta) / math.sqrt(eps) + 1) / 2))
    largest, steps_taken = _lanczos(
        lambda x: apply(x) / scale,
        lambda y: apply_adjoint(y) / scale,
        random.standard_normal(n),
        steps,
        progress,
        tolerance,
    )
    lower = scale * math.sqrt(max(largest, 0.0))
    return ProbableBound(np.float64(lower), np.float64(lower * (1 + rtol)), delta, 2 + 2 * steps_taken)


@dataclass(frozen=True)
class _Scaled:
    """The products whose composition M is iterated on, and a power of two by which each is divided."""

    apply: Product
    apply_adjoint: Product
    scale: float
    n: int
    is_swapped: bool
    """Whether ``apply`` is the adjoint, and may be inexact, instead of ``apply_adjoint``."""

    def first(self, x: Vector) -> Vector:
        return self.apply(x) / self.scale

    def second(self, y: Vector) -> Vector:
        return self.apply_adjoint(y) / self.scale

    def composition(self, x: Vector) -> Vector:
        return self.second(self.first(x))

    def norm_down(self, x: Vector) -> float:
        """A lower bound on the scaled norm, by the operator alone: at x, or at the image of x by its adjoint."""
        y = self.first(x)
        if self.is_swapped:
            x, y = y, self.second(y)
        size = float(np.linalg.norm(x))
        return float(np.linalg.norm(y)) / size if size > 0 else 0.0


def _bound_with_inexact_adjoint(
    scaled: _Scaled,
    adjoint_rtol: float,
    rtol: float,
    delta: float,
    random: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> ProbableBound:
    """The bounds of `inexact_adjoint`; ``delta`` is the chance of its random vector."""
    n = scaled.n
    loss_per_error = inexact_adjoint.loss_of_adjoint(1.0, n)
    if adjoint_rtol * loss_per_error >= _MOST_LOSS:
        raise MethodError(
            f"adjoint_rtol={adjoint_rtol!r} is too large for an operator with {n} inputs or outputs: expected less "
            f"than {_MOST_LOSS / loss_per_error:.2g}."
        )
    # The interval is an estimate, whose chance need not be small.
    eps = 1 - (1 + rtol) ** -2
    steps = min(n, math.ceil((math.log(1.648 * math.sqrt(n) / _CHANCE_OF_ESTIMATE) / math.sqrt(eps) + 1) / 2))
    tolerance = max(_ADJOINT_TOLERANCE, _LEEWAY * adjoint_rtol)
    start, other_start = random.standard_normal((2, n))
    length, steps = _lanczos(scaled.first, scaled.second, start, steps, progress, tolerance)
    if length <= 0:
        return ProbableBound(np.float64(0.0), np.float64(0.0), delta, 2 + 2 * steps)
    degree = inexact_adjoint.degree_for(rtol, delta, n)
    vector, logarithm = inexact_adjoint.filtered(scaled.composition, length, degree, other_start)
    upper_sq = inexact_adjoint.squared_norm_up(length, logarithm, degree, adjoint_rtol, delta, n)
    # Of the vector for the lower bound, what belongs to large singular values is enlarged further.
    shorter = math.ceil(degree / 3)
    vector, _ = inexact_adjoint.filtered(scaled.composition, _INNER_PART * length, shorter, vector)
    lower = scaled.scale * scaled.norm_down(vector)
    upper = max(scaled.scale * math.sqrt(upper_sq), lower)
    products = 2 + 2 * (steps + degree + shorter) + (2 if scaled.is_swapped else 1)
    return ProbableBound(np.float64(lower), np.float64(upper), delta, products)


def _check_fraction(name: str, value: object, advice: str) -> None:
    """Refuse an argument that is not a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value < 1:
        raise MethodError(f"{name}={value!r} is not a number between 0 and 1: give {advice}.")


def _tested_scale(apply: Product, apply_adjoint: Product, v: Vector, u: Vector, tolerance: float) -> float:
    """A power of two of about the size of A's entries; refuse an operator with ``<A v, u> != <v, A* u>``."""
    image = apply(v)
    adjoint_image = apply_adjoint(u)
    largest_entry = float(np.max(np.abs(image)) + np.max(np.abs(adjoint_image)))
    scale = 2.0 ** min(math.frexp(largest_entry)[1], 1023)
    image /= scale
    adjoint_image /= scale
    size = float(np.linalg.norm(image) * np.linalg.norm(u) + np.linalg.norm(v) * np.linalg.norm(adjoint_image))
    if abs(float(image @ u) - float(v @ adjoint_image)) > tolerance * size:
        raise MethodError(
            f"rmatvec is not the adjoint of matvec: <A v, u> is {scale * float(image @ u):.6g} and <v, A* u> is "
            f"{scale * float(v @ adjoint_image):.6g} for a random pair. {_ADVICE_ON_ADJOINTS}"
        )
    return scale


def _check_order_of_shape(linear: LinearOperator) -> None:
    """Refuse a shape (inputs, outputs) instead of (outputs, inputs), by testing which vectors ``matvec`` accepts."""
    m, n = linear.shape
    if m == n or _size_of_image(linear.matvec, n) == m:
        return
    if _size_of_image(linear.matvec, m) == n:
        raise MethodError(
            f"shape=({m}, {n}) is the wrong way round: matvec takes {m} numbers and returns {n}. Give ({n}, {m}), "
            "(outputs, inputs)."
        )


def _size_of_image(product: Product, size: int) -> int | None:
    """Number of entries that a product returns for a vector of ``size`` zeros; None if it raises an error."""
    try:
        return int(np.asarray(product(np.zeros(size))).size)
    except Exception:
        return None


def _linear_operator(
    operator: Any,
    rmatvec: Product | None,
    shape: tuple[Any, Any] | None,
) -> LinearOperator:
    """The real linear operator that the arguments of `operator_norm` describe.

    Objects are interpreted as in SciPy's ``aslinearoperator``, without importing SciPy.
    """
    if isinstance(operator, str | bytes):
        raise MethodError(f"{operator!r} is text; expected a matrix, an operator, or a function with its adjoint.")
    array_shape = getattr(operator, "shape", None)
    if isinstance(array_shape, tuple) and len(array_shape) > 3:
        raise MethodError(
            f"an array of shape {tuple(array_shape)} is no matrix. If it is the kernel of a convolution, use "
            "specnorm.enclose(kernel), or specnorm.power_norm(kernel, input_shape)."
        )
    between_arrays = None if rmatvec is not None or shape is not None else _operator_between_arrays(operator)
    if between_arrays is not None:
        return between_arrays
    if shape is not None and rmatvec is not None:
        if not callable(operator) or not callable(rmatvec):
            kinds = f"{type(operator).__name__} and {type(rmatvec).__name__}"
            raise MethodError(f"with a shape, operator_norm takes two functions, matvec and rmatvec; got {kinds}.")
        if _is_of_arrays(shape):
            return _between_shapes(operator, rmatvec, shape)
        linear = LinearOperator(operator, rmatvec, shape)
    elif hasattr(operator, "op") and hasattr(operator, "adj_op"):
        if not hasattr(operator, "shape"):
            raise MethodError(
                f"{type(operator).__name__} has op and adj_op, and no shape: give operator_norm(operator.op, "
                "operator.adj_op, shape), with the shapes of its outputs and inputs."
            )
        linear = LinearOperator(operator.op, operator.adj_op, operator.shape)
    elif hasattr(operator, "A_adjoint"):
        raise MethodError(
            f"{type(operator).__name__} has A and A_adjoint, and no shapes: give "
            "specnorm_torch.linear_operator(operator.A, x), with x an input."
        )
    elif rmatvec is not None or shape is not None or not hasattr(operator, "shape"):
        raise MethodError(
            f"a function needs its adjoint and its shape, operator_norm(matvec, rmatvec, (m, n)); got "
            f"rmatvec={rmatvec} and shape={shape}. For a function of tensors, specnorm_torch.linear_operator(function, "
            "x) or specnorm_jax.linear_operator(function, x) finds them."
        )
    elif hasattr(operator, "matvec"):
        if not hasattr(operator, "rmatvec"):
            raise MethodError(f"{type(operator).__name__} has no rmatvec: its adjoint is needed beside matvec.")
        linear = LinearOperator(operator.matvec, operator.rmatvec, operator.shape)
    elif (owner := _owner_of(operator)) is not None:
        return _of_library(operator, backends.load(owner))
    else:
        with _refusing(type(operator).__name__, "not transposed by its library"):
            adjoint = operator.conj().T
        linear = LinearOperator(lambda v: operator @ v, lambda u: adjoint @ u, operator.shape)
    given_shape: Any = linear.shape
    sizes = tuple(given_shape) if isinstance(given_shape, Iterable) else (given_shape,)
    if len(sizes) != 2 or not all(isinstance(k, (int, np.integer)) and k > 0 for k in sizes):
        raise MethodError(f"shape={linear.shape!r} must be two positive whole numbers (m, n), the outputs and inputs.")
    linear = LinearOperator(linear.matvec, linear.rmatvec, (int(sizes[0]), int(sizes[1])))
    is_complex = getattr(getattr(operator, "dtype", None), "kind", "") == "c"
    return _as_real(linear) if is_complex else linear


def _is_of_arrays(shape: Any) -> bool:
    """Whether a shape is a pair of shapes of arrays, not of two numbers."""
    is_pair = isinstance(shape, (tuple, list)) and len(shape) == 2
    return is_pair and any(isinstance(part, (tuple, list)) for part in shape)


def _between_shapes(function: Any, adjoint: Any, shape: Any) -> LinearOperator:
    """An operator from functions of arrays, or of tuples of arrays, whose shapes are given."""
    outputs, inputs = (_shapes_of_arrays(part) for part in shape)

    def on_vectors(product: Any, shapes: list[tuple[int, ...]], is_single: bool) -> Product:
        ends = np.cumsum([math.prod(s) for s in shapes])[:-1]

        def apply(v: Vector) -> Vector:
            parts = [part.reshape(s) for part, s in zip(np.split(v, ends), shapes, strict=True)]
            image = product(parts[0] if is_single else tuple(parts))
            images = image if isinstance(image, (tuple, list)) else [image]
            return np.concatenate([np.asarray(x).reshape(-1) for x in images])

        return apply

    of_outputs, of_inputs = (sum(map(math.prod, shapes)) for shapes, _ in (outputs, inputs))
    return LinearOperator(on_vectors(function, *inputs), on_vectors(adjoint, *outputs), (of_outputs, of_inputs))


def _shapes_of_arrays(part: Any) -> tuple[list[tuple[int, ...]], bool]:
    """The shapes of one array or of several, and whether there is one."""
    if isinstance(part, (int, np.integer)):
        part = (part,)
    several = [x for x in part if isinstance(x, (tuple, list))]
    shapes = [tuple(x) for x in part] if several and len(several) == len(part) else [tuple(part)]
    if not shapes[0] or not all(isinstance(n, (int, np.integer)) and n > 0 for s in shapes for n in s):
        raise MethodError(
            f"shape: {part!r} is neither the shape of an array nor a tuple of such shapes. Give (outputs, inputs), "
            "such as ((64, 64), (64, 64)) for a map of images, or (((63, 64), (64, 63)), (64, 64)) for two outputs."
        )
    return shapes, not several


def _owner_of(operator: Any) -> str | None:
    """The library of a matrix that is multiplied with vectors of the library's own, by its class or its dtype."""
    if isinstance(operator, np.ndarray):
        return None
    classes = (type(operator), type(getattr(operator, "dtype", None)))
    owners = (backends.registry.owner_of(cls) for cls in classes)
    return next((owner for owner in owners if owner not in (None, "numpy")), None)


def _of_library(operator: Any, backend: Any) -> LinearOperator:
    """The operator of a dense, sparse or structured matrix of another library, with vectors of its dtype and device."""
    kind = type(operator).__name__
    matrix = operator.detach() if hasattr(operator, "detach") else operator
    name = str(operator.dtype).rpartition(".")[2]
    is_read = name in ("float32", "float64", "complex64", "complex128")
    if not is_read or len(operator.shape) != 2 or 0 in operator.shape:
        raise MethodError(
            f"{kind} of shape {tuple(operator.shape)} and dtype {name}: operator_norm takes one matrix, not "
            "empty, of real or complex floating numbers of at least 32 bits. Convert it; matrix_norm takes stacks of "
            "dense matrices."
        )
    dtype = np.dtype(name)
    device = getattr(operator, "device", None)
    place = None if device is None or callable(device) else str(device)

    with _refusing(kind, "not transposed by its library"):
        transposed = matrix.mT if hasattr(matrix, "mT") else matrix.T

    def times(factor: Any, v: Any) -> Any:
        with _refusing(kind, "not multiplied with vectors of its library"):
            image = factor @ backend.asarray(np.ascontiguousarray(v, dtype=dtype), place)
            return np.asarray(backend.to_numpy(image.detach() if hasattr(image, "detach") else image))

    rows, columns = (int(n) for n in operator.shape)
    linear = LinearOperator(
        lambda v: times(matrix, v), lambda u: np.conj(times(transposed, np.conj(u))), (rows, columns)
    )
    return _as_real(linear) if dtype.kind == "c" else linear


@contextmanager
def _refusing(kind: str, refused: str) -> Iterator[None]:
    """Name what a library does not do with a matrix of its own, with advice."""
    try:
        yield
    except MethodError:
        raise
    except Exception as error:
        raise MethodError(
            f"{kind} is {refused} ({type(error).__name__}: {error}). Convert the matrix to another format; or give "
            "operator_norm(matvec, rmatvec, (m, n)), with functions of NumPy vectors."
        ) from error


_SHAPES = (("ishape", "oshape"), ("input_shape", "output_shape"), ("domain.shape", "range.shape"))
"""Names of the shapes of an operator's inputs and outputs: SigPy's; SCICO's; ODL's."""


def _operator_between_arrays(operator: Any) -> LinearOperator | None:
    """An operator that is called on arrays of any shape, with an adjoint of its own kind; None for another object.

    Its ``adjoint`` or ``H`` is an operator too. A result for real numbers that is complex makes it one between complex
    arrays; a complex number is two real ones here.
    """
    if not callable(operator) or hasattr(operator, "matvec"):
        return None
    adjoint = getattr(operator, "H", None) or getattr(operator, "adjoint", None)
    if not callable(adjoint):
        return None
    for names in _SHAPES:
        shapes = [_attribute(operator, name) for name in names]
        if all(isinstance(shape, tuple) and all(isinstance(n, (int, np.integer)) for n in shape) for shape in shapes):
            break
    else:
        return None
    dtypes = [_attribute(operator, name) for name in ("dtype", "input_dtype", "domain.dtype")]
    dtype = next((np.dtype(given) for given in dtypes if given is not None), np.dtype(np.float64))
    is_complex = dtype.kind == "c" or np.iscomplexobj(np.asarray(operator(np.zeros(shapes[0], dtype))))
    input_dtype = np.result_type(dtype, np.complex64) if is_complex else dtype

    def on_vectors(product: Any, shape: tuple[int, ...]) -> Product:
        def apply(v: Vector) -> Any:
            numbers = np.ascontiguousarray(v).view(np.complex128) if is_complex else v
            image = np.asarray(product(numbers.reshape(shape).astype(input_dtype)))
            if not is_complex:
                return image.reshape(-1)
            return np.ascontiguousarray(image, np.complex128).reshape(-1).view(np.float64)

        return apply

    of_input, of_output = (math.prod(shape) * (2 if is_complex else 1) for shape in shapes)
    return LinearOperator(on_vectors(operator, shapes[0]), on_vectors(adjoint, shapes[1]), (of_output, of_input))


def _attribute(x: Any, path: str) -> Any:
    """An attribute of an attribute, such as ``domain.shape``; None if there is none."""
    for name in path.split("."):
        x = getattr(x, name, None)
    return x


def _as_real(linear: LinearOperator) -> LinearOperator:
    """The real operator that acts on the concatenated real and imaginary parts of vectors; its norm is the same."""

    def on_parts(product: Any) -> Product:
        def apply(x: Vector) -> Vector:
            half = x.size // 2
            image = np.asarray(product(x[:half] + 1j * x[half:])).reshape(-1)
            return np.concatenate([image.real, image.imag])

        return apply

    m, n = linear.shape
    return LinearOperator(on_parts(linear.matvec), on_parts(linear.rmatvec), (2 * m, 2 * n))


def _checked(product: Product, name: str, size: int) -> Product:
    """Wrap a product so that it returns finite float64 arrays of shape (size,), or raises a `MethodError`."""

    def apply(x: Vector) -> Vector:
        try:
            image = np.asarray(product(x))
        except NotImplementedError as error:
            raise MethodError(f"the operator does not implement {name}: the norm needs A and its adjoint.") from error
        if image.dtype.kind == "c":
            raise MethodError(f"{name} returned complex numbers for real ones: give an operator of a complex dtype.")
        if image.size != size:
            raise MethodError(f"{name} returned an array of shape {image.shape}; expected ({size},).")
        not_finite = image.size - int(np.isfinite(image).sum())
        if not_finite:
            raise MethodError(
                f"{name} returned NaN or infinity in {not_finite} of {text.counted(size, 'number')} for finite ones: "
                "an operator with such entries has no norm. Look for them in its matrix, or where it divides or "
                "overflows."
            )
        return image.reshape(size).astype(np.float64)

    return apply


def _lanczos(
    apply: Product,
    apply_adjoint: Product,
    start: Vector,
    steps: int,
    progress: Callable[[int, int], None] | None,
    tolerance: float,
) -> tuple[float, int]:
    """The largest Ritz value of A* A after at most ``steps`` Lanczos steps, and the number of steps taken.

    Vectors are not reorthogonalised. That duplicates converged Ritz values, but makes none of them wrong. The entries
    of the tridiagonal matrix are also ``<A v, A w>`` for the steps' vectors v and w. That tests the adjoint in each
    step, without a product.
    """
    vector: Vector = start / np.linalg.norm(start)
    previous = np.zeros_like(vector)
    beta = 0.0
    largest_difference = 0.0
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    last_report = time.monotonic()
    for step in range(steps):
        if progress is not None and time.monotonic() > last_report + 1:
            progress(step, steps)
            last_report = time.monotonic()
        image = apply(vector)
        if not step:
            previous_image = np.zeros_like(image)
        residual = apply_adjoint(image)
        differences = [image @ image - vector @ residual, previous_image @ image - previous @ residual]
        largest_difference = max(largest_difference, *(abs(float(each)) for each in differences))
        residual -= beta * previous
        alpha = float(vector @ residual)
        residual -= alpha * vector
        beta = float(np.linalg.norm(residual))
        diagonal.append(alpha)
        off_diagonal.append(beta)
        if beta <= 1e-300:
            break
        previous, previous_image = vector, image
        vector = residual / beta
    # The last off-diagonal entry couples a vector that the projection does not contain.
    largest = _largest_eigenvalue(np.asarray(diagonal), np.asarray(off_diagonal[:-1]))
    if largest_difference > tolerance * largest:
        raise MethodError(
            f"rmatvec is not the adjoint of matvec: in {text.counted(len(diagonal), 'step')}, <A v, A w> and "
            f"<v, A* A w> differ by up to {largest_difference / largest:.1e} of the norm's square. "
            f"{_ADVICE_ON_ADJOINTS}"
        )
    return largest, len(diagonal)


_SHIFTS = 64
"""Number of shifts in a round of `_largest_eigenvalue`, by which the interval becomes about so many times shorter."""


def _largest_eigenvalue(diagonal: Vector, off_diagonal: Vector) -> float:
    """Largest eigenvalue of a symmetric tridiagonal matrix, from below, by Sturm sequences of many shifts at once.

    A dense eigenvalue routine would take far longer than all products, if there are many steps.
    """
    radii = np.abs(np.concatenate([[0.0], off_diagonal, [0.0]]))
    low = float(diagonal.max())
    high = float((diagonal + radii[:-1] + radii[1:]).max())
    squares = off_diagonal**2
    while high - low > np.finfo(np.float64).eps * abs(high):
        shifts = np.linspace(low, high, _SHIFTS)[1:-1]
        # An eigenvalue is above a shift if a pivot of the matrix minus the shift is positive.
        pivot = diagonal[0] - shifts
        has_eigenvalue_above = pivot > 0
        for entry, square in zip(diagonal[1:], squares, strict=True):
            pivot = entry - shifts - square / np.where(pivot == 0, -1e-300, pivot)
            has_eigenvalue_above |= pivot > 0
        count = int(np.count_nonzero(has_eigenvalue_above))
        points = [low, *shifts.tolist(), high]
        low = points[count]
        high = points[count + 1]
    return low
