"""What the algorithms work with: a plugin's interface, and its operations. It names no framework and imports none."""

# ruff: noqa: D102 - `Backend` says what the functions of `ArrayOps` do.

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np

from specnorm.errors import BackendError
from specnorm.registry import load

if TYPE_CHECKING:
    from specnorm.array_types import Array, ArrayObject, Namespace

AnyArray: TypeAlias = Any
"""An array as its library annotates it, in plugins and where they are called: it matches no protocol with operators."""
Dtype: TypeAlias = Literal["float32", "float64"]

MEMORY = 256 * 2**20
"""Bytes that the intermediate arrays of one step may take (symbols, patches, cells): 256 MiB."""


ArrayT = TypeVar("ArrayT", bound="ArrayObject")
"""An array that a function takes and returns: of one library."""


class LayerKernel(NamedTuple):
    """What a framework's own layer computes, bias and activation apart.

    Parameters
    ----------
    kernel : array
    geometry : mapping
        Keyword arguments, see `specnorm.problem.spec.Layer`.
    as_stored : bool
        Whether the kernel's axes are in the layer's own order, so that another kernel could be put in its place.
    """

    kernel: AnyArray
    geometry: Mapping[str, Any]
    as_stored: bool = True


_factorises: set[tuple[type[Backend], str, Any]] = set()
"""Libraries, devices and dtypes whose Cholesky factorisation has been seen to fail where it must."""


class Backend:
    """What one array library does differently. Plugins derive from it and override what applies.

    Only `name`, `framework`, `is_array`, `namespace`, `version`, `asarray`, `to_numpy` and `cholesky_ok` must be given:
    the rest has defaults that suit an eager library without automatic differentiation. `specnorm.testing.check_backend`
    tells whether a plugin keeps what this interface promises.
    """

    name: ClassVar[str]
    """Short name, as in ``specnorm backends``."""
    framework: ClassVar[str]
    """Root module the plugin needs, to tell a missing framework from a broken plugin."""
    api_version: ClassVar[int]
    """The `API_VERSION` the plugin was written for: state the number."""
    arithmetic_known: ClassVar[bool] = True
    """Whether bounds may count on the library's rounding; else they are computed in NumPy on the host."""
    proofs: ClassVar[Literal["device", "host"]] = "device"
    """Where rounding-rigorous work runs; recorded in every result."""
    has_factors: ClassVar[bool] = False
    """Whether `cholesky_factors` gives factors, by which proofs in single precision are sharper."""
    static_shapes: ClassVar[bool] = False
    """True where each new array shape costs a compilation, so that searches over frequencies do not pay."""

    # -- which arrays are ours ----------------------------------------------------------------------------------
    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array (not merely an object defined in the framework)."""
        raise NotImplementedError

    def refusal(self, x: AnyArray) -> str | None:
        """Why an array of this library cannot be used (masked, sparse, distributed...), or None."""
        return None

    def layer(self, x: Any, input_shape: int | Sequence[int] | None = None) -> LayerKernel | None:
        """Kernel and geometry of a layer of the frameworks built on this library; None: it is none.

        Parameters
        ----------
        x : object
        input_shape : int or sequence of int, optional
            Spatial input sizes, where they decide the padding.

        Raises
        ------
        GeometryError
            If it is a layer that cannot be put in such words.
        """
        return None

    def array_in(self, x: Any) -> AnyArray | None:
        """Array in what the frameworks built on this library wrap their parameters in; None: ``x`` is none of these."""
        return None

    def parts(self, x: Any) -> Mapping[str, Any] | None:
        """What a model, or a part of one, is made of, by name: parts and arrays; None: its public attributes."""
        return None

    def with_state(self, model: Any, state: Any) -> Any:
        """A model with the state put back that its framework keeps beside it; None: these are no such pair."""
        return None

    # -- where and how to compute -------------------------------------------------------------------------------
    def namespace(self, x: AnyArray) -> Namespace:
        """Return the array API namespace (array-api-compat's)."""
        raise NotImplementedError

    def device(self, x: AnyArray) -> Any:
        """Device of ``x``, as the namespace's creation functions take it."""
        return x.device

    def is_traced(self, x: AnyArray) -> bool:
        """Whether ``x`` stands for values not known yet (jit, compile, vmap)."""
        return False

    def wide_dtype(self, x: AnyArray) -> Dtype:
        """Widest real dtype that works on the device of ``x``: the one proofs are computed in."""
        return "float64"

    def asynchronous(self, x: AnyArray) -> bool:
        """Whether work is queued on a device, so that reading a value waits for all of it: a GPU driven from Python."""
        return False

    def numpy_view(self, x: AnyArray) -> bool:
        """Whether NumPy reads the array where it is: proofs by search then run in NumPy, which is no copy to a host."""
        return False

    def working_dtype(self, x: AnyArray, dtype: Dtype) -> Dtype:
        """Dtype to compute in when ``dtype`` was asked for; wider where the library would lower precision."""
        return dtype

    def precise(self, x: AnyArray) -> contextlib.AbstractContextManager[object]:
        """Context in which the library's arithmetic has full precision for arrays like ``x``."""
        return contextlib.nullcontext()

    def devices(self) -> Sequence[str]:
        """Names of the devices present, for ``specnorm backends``."""
        return ("cpu",)

    def version(self) -> str:
        """Version of the framework."""
        raise NotImplementedError

    # -- what the algorithms need beyond the array API ------------------------------------------------------------
    def loop(
        self, cond: Callable[[Any], AnyArray], body: Callable[[Any], Any], state: tuple[AnyArray, ...]
    ) -> tuple[AnyArray, ...]:
        """``while cond(state): state = body(state)``; shapes and dtypes of the state never change."""
        while bool(cond(state)):
            state = body(state)
        return state

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """``map``: of parts of one large layer, which a library may compute at once."""
        return map(function, items)

    def cholesky_ok(self, a: AnyArray) -> AnyArray:
        """Whether the lower Cholesky factorisation of each matrix (..., n, n) of a Hermitian stack ran to completion.

        False wherever an entry is not finite. Never raises; reads the lower triangle only.
        """
        raise NotImplementedError

    def cholesky_factors(self, a: AnyArray) -> AnyArray:
        """The lower factors that `cholesky_ok` tells of; NaN or infinities on the diagonal where there is none.

        Needed where `has_factors`, as infinities may reach the factor: what is no finite number proves nothing.
        """
        raise NotImplementedError

    def check_cholesky(self, like: AnyArray) -> None:
        """Refuse a library whose `cholesky_ok` lets pass what has no factor; tried once a device and dtype.

        A compiler that takes NaN for impossible (XLA's fast-math flags) makes every proof succeed.

        Parameters
        ----------
        like : array
            For dtype and device; its values do not matter.

        Raises
        ------
        BackendError
        """
        key = (type(self), str(self.device(like)), like.dtype)
        if key in _factorises:
            return
        dtype = str(like.dtype).rpartition(".")[2]
        bad = np.zeros((5, 4, 4), dtype=dtype) + np.eye(4, dtype=dtype)
        bad[0, 3, 2] = bad[0, 2, 3] = 2
        bad[1] *= -1
        bad[2, 3, 0] = bad[3, 3, 3] = math.nan
        bad[4, 2, 2] = math.inf
        passed = self.to_numpy(self.cholesky_ok(self.from_numpy(bad, like)))
        if self.has_factors:
            factors = np.abs(self.to_numpy(self.cholesky_factors(self.from_numpy(bad, like))))
            passed = passed | np.isfinite(factors.sum(axis=(-2, -1)))
        if passed.any():
            raise BackendError(
                f"{self.name}'s Cholesky factorisation ({dtype}) succeeds for matrices that have none, so every proof "
                "by it would succeed. Arithmetic without NaN does that: remove fast-math flags (XLA_FLAGS, compilers' "
                "-ffast-math), or convert the kernel to NumPy."
            )
        _factorises.add(key)

    def complex(self, real: AnyArray, imag: AnyArray) -> AnyArray:
        """Complex array from its parts; a library's own constructor saves two passes over memory."""
        return real + 1j * imag

    # -- host ----------------------------------------------------------------------------------------------------
    def asarray(self, x: np.ndarray, device: str | None = None) -> AnyArray:
        """Copy a host array to one of `devices`, or to the default one; dtype kept where the library has it."""
        raise NotImplementedError

    def host(self) -> Backend:
        """Backend that computes on the host: NumPy's."""
        found: Backend = load("numpy")
        return found

    def as_proven(self, x: AnyArray) -> AnyArray:
        """A bound as a proof returns it; without a gradient where the library warns of reading a value that has one."""
        return x

    def to_numpy(self, x: AnyArray) -> np.ndarray:
        """Copy to the host."""
        raise NotImplementedError

    def from_numpy(self, x: np.ndarray, like: AnyArray) -> AnyArray:
        """Copy a host array to the device of ``like``, dtype kept."""
        xp = self.namespace(like)
        return xp.asarray(x, dtype=getattr(xp, x.dtype.name), device=self.device(like))

    def share_numpy(self, x: np.ndarray, like: AnyArray) -> AnyArray:
        """`from_numpy` for an array that nothing else refers to: its memory may be shared instead of copied."""
        return self.from_numpy(x, like)

    def detach(self, x: AnyArray) -> AnyArray:
        """Same values, cut off from differentiation."""
        return x

    # -- differentiation -------------------------------------------------------------------------------------------
    def apply(self, program: Any, kernels: AnyArray) -> Any:
        """Run a program and register its pullback where the library differentiates.

        Parameters
        ----------
        program : `runtime.program.Program`
        kernels : array, shape (*batch, *shape)

        Returns
        -------
        `runtime.program.Ran`
            Of which the residuals are nobody's; without claims where a compiler runs the program.
        """
        return program.forward(kernels, backend=self)

    def value_and_grad(self, program: Any, kernel: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Value of a program with one value and its gradient, without the library's own differentiation.

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
        """Training state of a program for kernels (*batch, *shape), not differentiated."""
        state: tuple[AnyArray, ...] = program.init(self.detach(kernels), backend=self)
        return state

    def step(
        self, program: Any, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Take a training step of a program, and attach its gradient where the library differentiates.

        Parameters
        ----------
        program : `runtime.program.Program`
        kernels : array, shape (*batch, *shape)
        state : tuple of arrays
            With leading axes batch.
        sweeps : int

        Returns
        -------
        value : array, shape batch
        state : tuple of arrays
            Not differentiated.
        """
        still = tuple(self.detach(x) for x in state)
        value, gradient, state = program.step(self.detach(kernels), still, sweeps=sweeps, backend=self)
        return program.attached(self.first_order(kernels), value, gradient, backend=self), state

    def without_derivative(self, value: AnyArray, x: AnyArray, reason: str) -> AnyArray:
        """Return ``value``, computed of ``x``; differentiating it raises `MethodError` with this reason."""
        return value

    def first_order(self, x: AnyArray) -> AnyArray:
        """Return ``x``, differentiable once: a second derivative raises instead of being zero."""
        return x


@dataclass(frozen=True, eq=False)
class ArrayOps:
    """A library's operations, and every decision about where and how one call runs: carried through the algorithms.

    The defaults are true of arrays on the host, of an eager library with float64; `of` decides.

    Parameters
    ----------
    xp : namespace
        The array API namespace of the arrays at hand.
    traced : bool
        Whether the arrays stand for values not known yet.
    on_host : bool
        Whether they lie in the host's memory, where NumPy or the like computes with them.
    asynchronous : bool
        Whether work is queued on a device, so that reading a value waits for all of it.
    dtype : {"float64", "float32"}
        What the method's blocks come in.
    own_dtype : {"float64", "float32"}
        The kernel's own precision, or a wider one where the library would lower it: of gradients and training steps.
    wide_dtype : {"float64", "float32"}
        Widest real dtype of the device: what proofs are computed in.
    exact_float32 : bool
        Whether products of float32 numbers have float32's precision.
    memory : int
        Bytes that the intermediate arrays of one step may take.
    in_numpy : bool
        Whether this call runs in NumPy on the host instead, with other operations.
    too_wide : bool
        Whether the kernels are float64 and the library computes in float32.
    computed_in : str
        What a result is told to be computed in, and where.
    """

    backend: Backend
    xp: Namespace
    traced: bool = False
    on_host: bool = True
    asynchronous: bool = False
    dtype: Dtype = "float64"
    own_dtype: Dtype = "float64"
    wide_dtype: Dtype = "float64"
    exact_float32: bool = True
    memory: int = MEMORY
    in_numpy: bool = False
    too_wide: bool = False
    computed_in: str = "float64"

    @classmethod
    def of(
        cls,
        backend: Backend,
        like: AnyArray,
        needs: Any = None,
        dtype: Dtype = "float64",
        *,
        training: bool = False,
        memory: int | None = None,
    ) -> ArrayOps:
        """Decide for arrays of a library and device.

        Parameters
        ----------
        like : array
            The caller's kernels.
        needs : Needs, optional
            The method's.
        dtype : {"float64", "float32"}
            Of the result.
        training : bool
            Whether a training step is taken, which proves nothing.
        memory : int, optional
            Budget in bytes; None: `MEMORY`.
        """
        rounds, precision = (needs.rounds, needs.precision) if needs else ("nearest", "own")
        traced, wide, in_place = backend.is_traced(like), backend.wide_dtype(like), backend.numpy_view(like)
        own = backend.working_dtype(like, dtype)
        proven = own if precision == "own" else backend.working_dtype(like, wide)
        # Rounded to what the library computes in, a wider kernel would be another one.
        too_wide = dtype == "float64" and wide != "float64" and not training
        unknown = rounds != "nearest" and not backend.arithmetic_known
        searches = ((needs is not None and needs.searches) or unknown) and not training and not traced
        if searches or (too_wide and not traced):
            # The proof needs float64; and NumPy, where it reads the arrays in place, is faster at many small matrices.
            away = too_wide or backend.proofs == "host" or wide != "float64"
            in_numpy = away or in_place
            computed_in = "float64 on the host" if away and not in_place else "float64"
        else:
            in_numpy = needs is not None and needs.small_products and in_place and not traced
            computed_in = proven
        return cls(
            backend,
            backend.namespace(like),
            traced=traced,
            on_host=in_place or backend.host().name == backend.name,
            asynchronous=backend.asynchronous(like),
            dtype=proven if precision == "wide" else own,
            own_dtype=own,
            wide_dtype=wide,
            exact_float32=backend.working_dtype(like, "float32") == "float32",
            in_numpy=in_numpy,
            too_wide=too_wide,
            computed_in=computed_in,
            memory=MEMORY if memory is None else memory,
        )

    @property
    def concrete(self) -> bool:
        """Whether values may decide what is done next: they are known, and a new shape costs no compilation."""
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
        found: Array = self.backend.cholesky_ok(a)
        return found

    def cholesky_factors(self, a: Array) -> Array:
        found: Array = self.backend.cholesky_factors(a)
        return found

    def check_cholesky(self, a: Array) -> None:
        self.backend.check_cholesky(a)

    def complex(self, real: Array, imag: Array) -> Array:
        found: Array = self.backend.complex(real, imag)
        return found

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        found: Array = self.backend.from_numpy(x, like)
        return found

    def to_numpy(self, x: Array) -> np.ndarray:
        return self.backend.to_numpy(x)
