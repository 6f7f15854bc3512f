"""The interface of plugins (`Backend`) and the operations that algorithms get from it (`ArrayOps`).

No framework is imported or named here.
"""

# ruff: noqa: D102 - `Backend` says what the functions of `ArrayOps` do.

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from specnorm.backends.registry import load
from specnorm.errors import BackendError

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, ArrayObject, Namespace

AnyArray: TypeAlias = Any
"""An array, in plugins and where they are called. Not a protocol: no protocol matches the libraries' operators."""
Dtype: TypeAlias = Literal["float32", "float64"]

ArrayT = TypeVar("ArrayT", bound="ArrayObject")
"""Type of an array that a function takes and returns: both are of one library."""


class LayerKernel(NamedTuple):
    """Kernel and geometry of a framework's layer, without its bias and activation.

    Parameters
    ----------
    kernel : array
    geometry : mapping
        Keyword arguments as in `specnorm.geometry.spec.Layer`.
    as_stored : bool
        Whether the kernel's axes are in the order in which the layer stores them, so that the layer's weight could be
        replaced by another kernel like this one.
    stored_shape : tuple of int, optional
        The shape in which the layer stores the same numbers in the same order, if it is not the kernel's.
    """

    kernel: AnyArray
    geometry: Mapping[str, Any]
    as_stored: bool = True
    stored_shape: tuple[int, ...] | None = None


class LayerReader:
    """Reads the layers of a framework whose arrays are those of several libraries, such as Keras.

    A package registers one in the entry-point group ``specnorm.layers``, under the root package of the layers' classes.
    """

    without_map: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of layers whose matrices are not linear maps of the layer's input."""

    def layer(self, x: Any, input_shape: Any = None) -> LayerKernel | None:
        """Kernel and geometry of a layer, as `Backend.layer`; None for other objects."""
        return None

    def array_in(self, x: Any) -> AnyArray | None:
        """The array in a variable, as `Backend.array_in`; None for other objects."""
        return None

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        """Sublayers and own variables of a layer or model, by their names; None for other objects."""
        return None


_has_sound_cholesky: set[tuple[type[Backend], str, Any]] = set()
"""Libraries, devices and dtypes for which `Backend.check_cholesky` has passed."""


class Backend:
    """Everything that differs between array libraries. A plugin derives from this class and overrides what it needs.

    A plugin has to define `name`, `framework`, `api_version`, `is_array`, `namespace`, `version`, `asarray`, `to_numpy`
    and `cholesky_ok`. The defaults of the other members suit an eager library without automatic differentiation.
    `specnorm.testing.check_backend` tests a plugin against this interface.
    """

    name: ClassVar[str]
    """Short name, as ``specnorm backends`` lists it."""
    framework: ClassVar[str]
    """Root package of the library, to tell a missing library from a broken plugin."""
    api_version: ClassVar[int]
    """The `API_VERSION` for which the plugin was written, as a number."""
    arithmetic_known: ClassVar[bool] = True
    """Whether the library's rounding errors satisfy the usual bounds. If not, bounds are computed in NumPy."""
    proofs: ClassVar[Literal["device", "host"]] = "device"
    """Whether proofs run on the array's device, or in NumPy on the host. Every result records it."""
    has_factors: ClassVar[bool] = False
    """Whether `cholesky_factors` is defined, which makes bounds in float32 sharper."""
    static_shapes: ClassVar[bool] = False
    """Whether each new array shape costs a compilation. Then values are computed in NumPy where it can view the arrays,
    and elsewhere without a search over frequencies."""

    # -- which objects the plugin is for ------------------------------------------------------------------------
    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array, not another object of the library."""
        raise NotImplementedError

    def refusal(self, x: AnyArray) -> str | None:
        """The reason why an array of this library is not supported (masked, sparse, distributed ...), or None."""
        return None

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        """Kernel and geometry of a layer of a framework built on this library; None if ``x`` is not such a layer.

        Parameters
        ----------
        x : object
        input_shape : int or sequence of int, optional
            Spatial input sizes, for layers whose padding depends on them.

        Raises
        ------
        GeometryError
            If ``x`` is a layer that no `LayerKernel` describes.
        """
        return None

    def array_in(self, x: Any) -> AnyArray | None:
        """The array in a parameter object of a framework built on this library; None if ``x`` is not such an object."""
        return None

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        """The submodules and arrays of a model, or of a part of one, by name; None: take its public attributes."""
        return None

    def with_state(self, model: Any, state: Any) -> Any:
        """A model with the state put back that its framework keeps beside it; None: these are no such pair."""
        return None

    # -- where and how to compute -------------------------------------------------------------------------------
    def namespace(self, x: AnyArray) -> Namespace:
        """The array API namespace of ``x``, as array-api-compat gives it."""
        raise NotImplementedError

    def device(self, x: AnyArray) -> Any:
        """Device of ``x``, in the form that the namespace's creation functions take."""
        return x.device

    def is_traced(self, x: AnyArray) -> bool:
        """Whether ``x`` is a tracer, whose values are not known (jit, compile, vmap)."""
        return False

    def wide_dtype(self, x: AnyArray) -> Dtype:
        """The widest real dtype that the device of ``x`` supports; proofs are computed in it."""
        return "float64"

    def asynchronous(self, x: AnyArray) -> bool:
        """Whether operations are queued, as on a GPU, so that reading a value waits for all of them."""
        return False

    def numpy_view(self, x: AnyArray) -> bool:
        """Whether NumPy can read the array without a copy. Then searches run there; with `static_shapes`, all does."""
        return False

    def working_dtype(self, x: AnyArray, dtype: Dtype) -> Dtype:
        """The dtype in which to compute for results of the given dtype; wider if the library would lose precision."""
        return dtype

    def precise(self, x: AnyArray) -> contextlib.AbstractContextManager[object]:
        """Context manager in which the library's products have full precision for arrays like ``x``."""
        return contextlib.nullcontext()

    def devices(self) -> Sequence[str]:
        """Names of the available devices, for ``specnorm backends``."""
        return ("cpu",)

    def version(self) -> str:
        """Version of the library."""
        raise NotImplementedError

    # -- operations that the array API lacks ----------------------------------------------------------------------
    def loop(
        self, cond: Callable[[Any], AnyArray], body: Callable[[Any], Any], state: tuple[AnyArray, ...]
    ) -> tuple[AnyArray, ...]:
        """Run ``while cond(state): state = body(state)``; shapes and dtypes of the state never change."""
        while bool(cond(state)):
            state = body(state)
        return state

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """As Python's ``map``, for the parts of one large layer; a library may compute them in parallel."""
        return map(function, items)

    def cholesky_ok(self, a: AnyArray) -> AnyArray:
        """Whether the Cholesky factorization of each matrix of a Hermitian stack (..., n, n) completes, shape (...).

        False for matrices with an entry that is not finite. Never raises; may read one triangle only, either one.
        """
        raise NotImplementedError

    def cholesky_factors(self, a: AnyArray) -> AnyArray:
        """The lower Cholesky factors of a Hermitian stack; with NaN or infinities where the factorization fails.

        Required if `has_factors` is True. The caller checks that the whole factor is finite.
        """
        raise NotImplementedError

    def inverse_factors(self, a: AnyArray) -> AnyArray:
        """The inverses of the lower Cholesky factors of a stack of positive definite matrices, which are small."""
        xp = self.namespace(a)
        return xp.linalg.inv(xp.linalg.cholesky(a))

    def check_cholesky(self, like: AnyArray) -> None:
        """Refuse a library whose Cholesky factorization succeeds for matrices that have none.

        Under a compiler that assumes that there is no NaN (XLA's fast-math flags), every proof would succeed. The test
        runs once for each device and dtype.

        Parameters
        ----------
        like : array
            Any array of the dtype and device.

        Raises
        ------
        BackendError
        """
        key = (type(self), str(self.device(like)), like.dtype)
        if key in _has_sound_cholesky:
            return
        dtype = str(like.dtype).rpartition(".")[2]
        # An indefinite matrix, a negative one, two with NaN and one with infinity.
        matrices = np.zeros((5, 4, 4), dtype=dtype) + np.eye(4, dtype=dtype)
        matrices[0, 3, 2] = 2
        matrices[0, 2, 3] = 2
        matrices[1] *= -1
        matrices[2, 3, 0] = math.nan
        matrices[2, 0, 3] = math.nan
        matrices[3, 3, 3] = math.nan
        matrices[4, 2, 2] = math.inf
        succeeds, factors = self.factorized(matrices, like)
        if succeeds.any() or (self.has_factors and np.isfinite(np.abs(factors).sum(axis=(-2, -1))).any()):
            raise BackendError(
                f"{self.name}'s Cholesky factorization ({dtype}) succeeds for matrices that have none, so every proof "
                "by it would succeed. Arithmetic without NaN does that: remove fast-math flags (XLA_FLAGS, compilers' "
                "-ffast-math), or convert the kernel to NumPy."
            )
        _has_sound_cholesky.add(key)

    def factorized(self, matrices: np.ndarray, like: AnyArray) -> tuple[np.ndarray, np.ndarray]:
        """What `cholesky_ok` says of matrices, and their factors if there are any, computed by the library."""
        given = self.from_numpy(matrices, like)
        factors = self.cholesky_factors(given) if self.has_factors else given
        return self.to_numpy(self.cholesky_ok(given)), self.to_numpy(factors)

    def complex(self, real: AnyArray, imag: AnyArray) -> AnyArray:
        """Complex array from real and imaginary part; a library's own function for it saves two passes over memory."""
        return real + 1j * imag

    def real_columns(self, z: AnyArray) -> AnyArray:
        """Complex matrices (..., n) as real ones (..., 2 n), in an order of columns that `complex_columns` undoes.

        A library that can see complex numbers as pairs of real ones saves the copy.
        """
        xp = self.namespace(z)
        return xp.concat([xp.real(z), xp.imag(z)], axis=-1)

    def complex_columns(self, x: AnyArray) -> AnyArray:
        """Real matrices (..., 2 n), with columns in the order of `real_columns`, as complex ones (..., n)."""
        count = x.shape[-1] // 2
        return self.complex(x[..., :count], x[..., count:])

    def places_of_largest(self, x: AnyArray, count: int) -> AnyArray:
        """Indices of the ``count`` largest entries along the last axis, the largest first."""
        return self.namespace(x).argsort(x, axis=-1, descending=True)[..., :count]

    def entries_at(self, x: AnyArray, places: AnyArray, axis: int) -> AnyArray:
        """Entries of an axis at integers (k,), none of which is negative."""
        return self.namespace(x).take(x, places, axis=axis)

    # -- host ----------------------------------------------------------------------------------------------------
    def asarray(self, x: np.ndarray, device: str | None = None) -> AnyArray:
        """Copy a NumPy array to one of `devices`, or to the default one; in the same dtype if the library has it."""
        raise NotImplementedError

    def host(self) -> Backend:
        """The backend that computes on the host, which is NumPy's."""
        numpy_backend: Backend = load("numpy")
        return numpy_backend

    def as_proven(self, x: AnyArray) -> AnyArray:
        """Prepare a proven bound for the caller: detached, if the library would warn when a float is made of it."""
        return x

    def to_numpy(self, x: AnyArray) -> np.ndarray:
        """Copy an array to the host, as a NumPy array."""
        raise NotImplementedError

    def from_numpy(self, x: np.ndarray, like: AnyArray) -> AnyArray:
        """Copy a NumPy array to the device of ``like``, in the same dtype."""
        xp = self.namespace(like)
        return xp.asarray(x, dtype=getattr(xp, x.dtype.name), device=self.device(like))

    def share_numpy(self, x: np.ndarray, like: AnyArray) -> AnyArray:
        """`from_numpy` for an array to which nothing else refers: its memory may be shared instead of copied."""
        return self.from_numpy(x, like)

    def detach(self, x: AnyArray) -> AnyArray:
        """The same values as constants for automatic differentiation; ``x`` itself if it is one."""
        return x

    # -- differentiation -------------------------------------------------------------------------------------------
    def apply(self, program: Any, kernels: AnyArray) -> Any:
        """Run a program and register its pullback where the library differentiates.

        For NumPy this calls `Program.forward`.

        Parameters
        ----------
        program : `running.program.Program`
        kernels : array, shape (*batch, *shape)

        Returns
        -------
        `running.base.Evaluation`
            Without usable residuals; without claims if a compiler ran the program.
        """
        return program.forward(kernels, backend=self, differentiated=False)

    def value_and_grad(self, program: Any, kernel: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Value and gradient of a program with a single value, by its pullback instead of automatic differentiation.

        Parameters
        ----------
        program : Program
        kernel : array, shape (*shape)

        Returns
        -------
        value : 0-d array
        gradient : array, shape (*shape)
        """
        ran = program.forward(kernel, backend=self)
        ones = self.namespace(kernel).ones_like(ran.value)
        return ran.value, program.pullback(ran.residuals, ones, backend=self)

    def init(self, program: Any, kernels: AnyArray) -> tuple[AnyArray, ...]:
        """The first training state of a program for kernels (*batch, *shape), as constants."""
        state: tuple[AnyArray, ...] = program.init(self.detach(kernels), backend=self)
        return state

    def step(
        self, program: Any, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Take a training step of a program, and attach its gradient where the library differentiates.

        Parameters
        ----------
        program : `running.stepping.SteppedProgram`
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            With leading axes batch.
        sweeps : int

        Returns
        -------
        value : array, shape batch
        state : tuple of arrays
            As constants.
        """
        constant_state = tuple(self.detach(x) for x in state)
        value, gradient, state = program.step(self.detach(kernels), constant_state, sweeps=sweeps, backend=self)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), state

    def without_derivative(self, value: AnyArray, x: AnyArray, reason: str) -> AnyArray:
        """Return ``value``, which was computed from ``x``, such that differentiating it raises a `MethodError`.

        The reason becomes the message.
        """
        return value

    def first_order(self, x: AnyArray) -> AnyArray:
        """Return ``x`` such that a second derivative with respect to it raises an error instead of being zero."""
        return x


@dataclass(frozen=True, eq=False)
class ArrayOps:
    """The operations of a library, and all decisions about how one call runs; passed to the algorithms as ``ops``.

    The defaults describe arrays on the host, in an eager library with float64. `of` makes the decisions for a call.

    Parameters
    ----------
    backend : Backend
    xp : namespace
        The array API namespace of the arrays.
    traced : bool
        Whether the arrays are tracers, whose values are not known.
    on_host : bool
        Whether the arrays are in the host's memory.
    asynchronous : bool
        Whether operations are queued, so that reading a value waits for all of them.
    dtype : {"float64", "float32"}
        Dtype of the blocks that the method gets.
    result_dtype : {"float64", "float32"}
        Dtype of the answer.
    own_dtype : {"float64", "float32"}
        Dtype of gradients and training steps: that of the kernel, or a wider one if the library would lose precision.
    wide_dtype : {"float64", "float32"}
        The widest real dtype of the device, in which proofs are computed.
    exact_float32 : bool
        Whether products of float32 arrays have the full precision of float32.
    memory : int
        Bytes that the intermediate arrays of one step may take.
    in_numpy : bool
        Whether the call has to run in NumPy on the host instead, with operations of its own.
    too_wide : bool
        Whether the kernels are float64 although the library computes in float32.
    differentiated : bool
        Whether a gradient may follow, so that `Method.forward` has to return residuals.
    computed_in : str or None
        See `running.base.Evaluation`.
    """

    backend: Backend
    xp: Namespace
    traced: bool = False
    on_host: bool = True
    asynchronous: bool = False
    dtype: Dtype = "float64"
    result_dtype: Dtype = "float64"
    own_dtype: Dtype = "float64"
    wide_dtype: Dtype = "float64"
    exact_float32: bool = True
    memory: int = 256 * 2**20
    in_numpy: bool = False
    too_wide: bool = False
    differentiated: bool = True
    computed_in: str | None = "float64"

    @classmethod
    def of(
        cls,
        backend: Backend,
        like: AnyArray,
        needs: Any = None,
        dtype: Dtype = "float64",
        *,
        training: bool = False,
        differentiated: bool = True,
        memory: int | None = None,
    ) -> ArrayOps:
        """Decide how a method runs on arrays of a library and device.

        Parameters
        ----------
        like : array
            The caller's kernels.
        needs : Needs, optional
            What the method asks for.
        dtype : {"float64", "float32"}
            Dtype of the result.
        training : bool
            Whether a training step is taken, which proves nothing.
        differentiated : bool
            Whether a gradient may follow.
        memory : int, optional
            Bytes for intermediate arrays; None: 256 MiB.
        """
        rounds = needs.rounds if needs else "nearest"
        precision = needs.precision if needs else "own"
        traced = backend.is_traced(like)
        wide_dtype = backend.wide_dtype(like)
        has_numpy_view = backend.numpy_view(like)
        own_dtype = backend.working_dtype(like, dtype)
        proof_dtype = own_dtype if precision == "own" else backend.working_dtype(like, wide_dtype)
        # Rounding a float64 kernel to the library's float32 would change the kernel.
        too_wide = dtype == "float64" and wide_dtype != "float64" and not training
        bounds_unknown_arithmetic = rounds != "nearest" and not backend.arithmetic_known
        is_search = (needs is not None and needs.searches) or bounds_unknown_arithmetic
        runs_search = is_search and not training and not traced
        if runs_search or (too_wide and not traced):
            # Searches need float64. And if NumPy can view the arrays, it is faster for many small matrices.
            must_leave_device = too_wide or backend.proofs == "host" or wide_dtype != "float64"
            in_numpy = must_leave_device or has_numpy_view
            computed_in = "float64 on the host" if must_leave_device and not has_numpy_view else "float64"
        else:
            prefers_numpy = needs is not None and (needs.small_products or backend.static_shapes)
            in_numpy = prefers_numpy and has_numpy_view and not traced
            computed_in = "float64" if in_numpy and precision != "own" else proof_dtype
        return cls(
            backend,
            backend.namespace(like),
            traced=traced,
            on_host=has_numpy_view or backend.host().name == backend.name,
            asynchronous=backend.asynchronous(like),
            dtype=proof_dtype if precision == "wide" else own_dtype,
            result_dtype=dtype,
            own_dtype=own_dtype,
            wide_dtype=wide_dtype,
            exact_float32=backend.working_dtype(like, "float32") == "float32",
            in_numpy=in_numpy,
            too_wide=too_wide,
            differentiated=differentiated,
            computed_in=None if traced else computed_in,
            memory=cls.memory if memory is None else memory,
        )

    @property
    def concrete(self) -> bool:
        """Whether control flow and shapes may depend on values: these can be read, and new shapes cost no compilation.

        So it is False under a tracer (`traced`), and also for a library that compiles a program for each shape, outside
        of any tracer.
        """
        return not (self.traced or self.backend.static_shapes)

    @property
    def has_factors(self) -> bool:
        return self.backend.has_factors

    def device(self, x: Array) -> Any:
        return self.backend.device(x)

    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        return self.backend.loop(cond, body, state)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return self.backend.map(function, items)

    def cholesky_ok(self, a: Array) -> Array:
        is_complete: Array = self.backend.cholesky_ok(a)
        return is_complete

    def cholesky_factors(self, a: Array) -> Array:
        factors: Array = self.backend.cholesky_factors(a)
        return factors

    def inverse_factors(self, a: Array) -> Array:
        inverses: Array = self.backend.inverse_factors(a)
        return inverses

    def check_cholesky(self, a: Array) -> None:
        self.backend.check_cholesky(a)

    def complex(self, real: Array, imag: Array) -> Array:
        result: Array = self.backend.complex(real, imag)
        return result

    def real_columns(self, z: Array) -> Array:
        columns: Array = self.backend.real_columns(z)
        return columns

    def complex_columns(self, x: Array) -> Array:
        columns: Array = self.backend.complex_columns(x)
        return columns

    def places_of_largest(self, x: Array, count: int) -> Array:
        places: Array = self.backend.places_of_largest(x, count)
        return places

    def entries_at(self, x: Array, places: Array, axis: int) -> Array:
        entries: Array = self.backend.entries_at(x, places, axis)
        return entries

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        copy: Array = self.backend.from_numpy(x, like)
        return copy

    def to_numpy(self, x: Array) -> np.ndarray:
        return self.backend.to_numpy(x)
