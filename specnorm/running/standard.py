"""The default backend, for arrays of libraries that follow the array API standard and have no plugin.

Estimates and spectra are computed in the library's namespace, values that are rounded to a side in NumPy on the host.
Automatic differentiation and compilers need a plugin.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from specnorm.backends.types import Backend
from specnorm.errors import NoBackend, SpecnormError

if TYPE_CHECKING:
    from specnorm.backends.types import AnyArray
    from specnorm.running.base import Evaluation
    from specnorm.running.program import Program
    from specnorm.running.stepping import SteppedProgram

_TEST_SIZE = 64
"""Size of the matrices whose product tests the precision of a library."""


class StandardBackend(Backend):
    """The backend of one library, whose arrays have ``__array_namespace__``.

    Parameters
    ----------
    root : str
        The library's root package. Empty for the registered object, which makes one backend for each library
        (`serving`).
    """

    name: ClassVar[str] = "array-api"
    framework: ClassVar[str] = "array_api_compat"
    api_version: ClassVar[int] = 2
    proofs: ClassVar[Literal["device", "host"]] = "host"
    arithmetic_known: ClassVar[bool] = False

    def __init__(self, root: str = "") -> None:
        self._root = root
        if root:
            self.name = f"{root} (array-api)"  # type: ignore[misc] # a class variable, overridden on the instance
        self._precise_devices: set[str] = set()
        """Devices for which `_computes_precisely` has returned True."""

    def serving(self, root: str) -> StandardBackend:
        """The backend of the library with this root package."""
        return StandardBackend(root)

    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an object of the library with ``__array_namespace__``."""
        is_of_library = type(x).__module__.partition(".")[0] == self._root
        return is_of_library and hasattr(type(x), "__array_namespace__")

    def refusal(self, x: Any) -> str | None:
        """The reason to refuse lazy arrays, arrays without readable values, and libraries that lack basic functions."""
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        advice = "Compute it first, or convert it to NumPy."
        if not all(isinstance(n, int) for n in x.shape):
            return f"{kind} is lazy: its shape {x.shape} is not known. {advice}"
        xp = x.__array_namespace__()
        missing = [name for name in ("float64", "complex64", "complex128", "linalg") if not hasattr(xp, name)]
        if missing:
            return f"{kind} has no {', no '.join(missing)} in its namespace, so that no method can run there. {advice}"
        try:
            self.to_numpy(x[tuple(slice(0, min(n, 1)) for n in x.shape)])
        except Exception as error:
            return f"{kind} gives no values ({type(error).__name__}: {error}). {advice}"
        if not self._computes_precisely(x):
            return f"{kind}: its products are less precise than its dtype. {advice}"
        return None

    def _computes_precisely(self, x: Any) -> bool:
        """Whether products have the precision of their dtype, which is tested once for each device."""
        device = str(self.device(x))
        if device in self._precise_devices:
            return True
        left, right = np.random.RandomState(0).standard_normal((2, _TEST_SIZE, _TEST_SIZE))
        for dtype in ("float32", self.wide_dtype(x)):
            a = left.astype(dtype)
            b = right.astype(dtype)
            product = self.namespace(x).matmul(self.from_numpy(a, x), self.from_numpy(b, x))
            exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
            error = np.max(np.abs(self.to_numpy(product) - exact) / (np.abs(a) @ np.abs(b)))
            if not error <= _TEST_SIZE * float(np.finfo(dtype).eps):
                return False
        self._precise_devices.add(device)
        return True

    def namespace(self, x: Any) -> Any:
        """The namespace by array-api-compat, if it supports the library, else the library's own.

        Using a function that the namespace lacks raises an error with the function's name.
        """
        from array_api_compat import array_namespace

        return _Namespace(array_namespace(x), self._root)

    def device(self, x: Any) -> Any:
        """The device, by array-api-compat."""
        from array_api_compat import device

        return device(x)

    def wide_dtype(self, x: Any) -> Literal["float32", "float64"]:
        """The widest real dtype that the namespace lists for the device."""
        info = x.__array_namespace__().__array_namespace_info__()
        dtypes = info.dtypes(device=self.device(x), kind="real floating")
        return "float64" if "float64" in dtypes else "float32"

    def version(self) -> str:
        """Version of the library; of array-api-compat for the registered object."""
        return str(getattr(importlib.import_module(self._root or "array_api_compat"), "__version__", "unknown"))

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        """Copy a NumPy array to the library's default device."""
        xp = importlib.import_module(self._root)
        return xp.asarray(np.array(x), dtype=getattr(xp, x.dtype.name))

    def to_numpy(self, x: Any) -> np.ndarray:
        """Copy an array to the host by DLPack, or by ``numpy.array``."""
        try:
            copy = np.from_dlpack(x, copy=True, device="cpu")
        except (AttributeError, BufferError, TypeError, ValueError, RuntimeError):
            copy = np.array(x)
        if copy.dtype.kind not in "biufc" or copy.shape != tuple(x.shape):
            raise TypeError(f"numpy.asarray gives an array of dtype {copy.dtype} and shape {copy.shape}")
        return copy

    def cholesky_ok(self, a: Any) -> Any:
        """The check in NumPy: the standard's own function raises for a whole stack, or does not detect NaN."""
        return self.from_numpy(self.host().cholesky_ok(self.to_numpy(a)), a)

    def apply(self, program: Program, kernels: AnyArray) -> Evaluation:
        """Run a program; if the library deviates from the standard, the error names the library."""
        with self._deviations_named():
            ran: Evaluation = super().apply(program, kernels)
            return ran

    def step(
        self, program: SteppedProgram, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Take a training step of a program; errors as in `apply`."""
        with self._deviations_named():
            return super().step(program, kernels, state, sweeps)

    @contextmanager
    def _deviations_named(self) -> Iterator[None]:
        """Replace errors from inside of the library by a `NoBackend` that names the library."""
        try:
            yield
        except SpecnormError:
            raise
        except (AttributeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
            raise NoBackend(
                f"{self._root} does not follow the array API standard in what this method needs "
                f"({type(error).__name__}: {error}). Convert the kernel to NumPy."
            ) from error


class _Namespace:
    """A library's namespace in which a missing function raises an error with its name."""

    def __init__(self, inner: Any, root: str) -> None:
        self._inner, self._root = inner, root

    def __getattr__(self, name: str) -> Any:
        try:
            member = getattr(self._inner, name)
        except AttributeError:
            raise NoBackend(
                f"{self._root} lacks {name}, which this method needs (the array API standard 2024.12 with its "
                "extension linalg). Convert the kernel to NumPy."
            ) from None
        if name == "linalg":
            member = _Namespace(member, f"{self._root}.linalg")
        # So that the next access does not call `__getattr__`.
        setattr(self, name, member)
        return member


BACKEND = StandardBackend()
