"""The default backend: arrays that no plugin owns, but whose library follows the array API standard.

Estimates and norms compute in the library's own namespace; what is proven is computed in NumPy on the host. No
gradients and no compilers: for these a library has a plugin.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from specnorm.errors import NoBackend, SpecnormError
from specnorm.types import Backend

if TYPE_CHECKING:
    from specnorm.runtime.program import Program, Ran
    from specnorm.runtime.stepping import SteppedProgram
    from specnorm.types import AnyArray

_TRIAL = 64
"""Size of the matrices whose product tells with which precision a library computes."""


class StandardBackend(Backend):
    """Arrays with ``__array_namespace__``, of one library.

    Parameters
    ----------
    root : str
        The library's root package; "": not of one yet.
    """

    name: ClassVar[str] = "array-api"
    framework: ClassVar[str] = "array_api_compat"
    api_version: ClassVar[int] = 2
    proofs: ClassVar[Literal["device", "host"]] = "host"
    arithmetic_known: ClassVar[bool] = False

    def __init__(self, root: str = "") -> None:
        self._root = root
        if root:
            self.name = f"{root} (array-api)"  # type: ignore[misc] # of an instance: its library's
        self._precise: set[str] = set()
        """Devices whose products have been seen to be as precise as their dtype."""

    def serving(self, root: str) -> StandardBackend:
        """The backend of one library."""
        return StandardBackend(root)

    def is_array(self, x: object) -> bool:
        """Objects of the library that say which namespace is theirs."""
        own = type(x).__module__.partition(".")[0] == self._root
        return own and hasattr(type(x), "__array_namespace__")

    def refusal(self, x: Any) -> str | None:
        """Lazy arrays, whose values cannot be read, and libraries that lack what every method needs."""
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
        return (
            None if self._computes_precisely(x) else f"{kind}: its products are less precise than its dtype. {advice}"
        )

    def _computes_precisely(self, x: Any) -> bool:
        """Whether products have their dtype's precision, tried once a device: bounds count on it."""
        device = str(self.device(x))
        if device not in self._precise:
            left, right = np.random.RandomState(0).standard_normal((2, _TRIAL, _TRIAL))
            for dtype in ("float32", self.wide_dtype(x)):
                a, b = left.astype(dtype), right.astype(dtype)
                product = self.namespace(x).matmul(self.from_numpy(a, x), self.from_numpy(b, x))
                exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
                error = np.max(np.abs(self.to_numpy(product) - exact) / (np.abs(a) @ np.abs(b)))
                if not error <= _TRIAL * float(np.finfo(dtype).eps):
                    return False
            self._precise.add(device)
        return True

    def namespace(self, x: Any) -> Any:
        """array-api-compat's where it knows the library, else its own; what it lacks is refused by name."""
        from array_api_compat import array_namespace

        return _Namespace(array_namespace(x), self._root)

    def device(self, x: Any) -> Any:
        """As array-api-compat finds it."""
        from array_api_compat import device

        return device(x)

    def wide_dtype(self, x: Any) -> Literal["float32", "float64"]:
        """What the namespace says of the device."""
        info = x.__array_namespace__().__array_namespace_info__()
        dtypes = info.dtypes(device=self.device(x), kind="real floating")
        return "float64" if "float64" in dtypes else "float32"

    def version(self) -> str:
        """The library's; of none yet, array-api-compat's."""
        return str(getattr(importlib.import_module(self._root or "array_api_compat"), "__version__", "unknown"))

    def asarray(self, x: np.ndarray, device: str | None = None) -> Any:
        """Copy to the library's default device."""
        xp = importlib.import_module(self._root)
        return xp.asarray(np.array(x), dtype=getattr(xp, x.dtype.name))

    def to_numpy(self, x: Any) -> np.ndarray:
        """By DLPack, or what ``numpy.asarray`` takes; from another device the library itself moves it."""
        try:
            found = np.from_dlpack(x, copy=True, device="cpu")
        except (AttributeError, BufferError, TypeError, ValueError, RuntimeError):
            found = np.array(x)
        if found.dtype.kind not in "biufc" or found.shape != tuple(x.shape):
            raise TypeError(f"numpy.asarray gives an array of dtype {found.dtype} and shape {found.shape}")
        return found

    def cholesky_ok(self, a: Any) -> Any:
        """In NumPy: the standard's own raises for a whole stack, or lets NaN through."""
        return self.from_numpy(self.host().cholesky_ok(self.to_numpy(a)), a)

    def apply(self, program: Program, kernels: AnyArray) -> Ran:
        """Run a program; what the library does otherwise than the standard says is refused in its name."""
        with self._by_the_standard():
            ran: Ran = super().apply(program, kernels)
            return ran

    def step(
        self, program: SteppedProgram, kernels: AnyArray, state: tuple[AnyArray, ...], sweeps: int
    ) -> tuple[AnyArray, tuple[AnyArray, ...]]:
        """Take a training step of a program, as `apply` runs one."""
        with self._by_the_standard():
            return super().step(program, kernels, state, sweeps)

    @contextmanager
    def _by_the_standard(self) -> Iterator[None]:
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
    """A library's functions; one that it lacks is an error with its name."""

    def __init__(self, inner: Any, root: str) -> None:
        self._inner, self._root = inner, root

    def __getattr__(self, name: str) -> Any:
        try:
            found = getattr(self._inner, name)
        except AttributeError:
            raise NoBackend(
                f"{self._root} lacks {name}, which this method needs (the array API standard 2024.12 with its "
                "extension linalg). Convert the kernel to NumPy."
            ) from None
        if name == "linalg":
            found = _Namespace(found, f"{self._root}.linalg")
        setattr(self, name, found)
        return found


BACKEND = StandardBackend()
