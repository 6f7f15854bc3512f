"""Array libraries behind one interface, found by entry point. This file names no framework and imports none.

A plugin is one object derived from `Backend`, registered in the entry-point group ``specnorm.backends`` under the root
package of the arrays it owns. Which plugin owns an array is read off the array's class alone (`type(x).__mro__`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from specnorm.errors import (
    BackendConflict,
    BackendError,
    BackendVersion,
    BrokenBackend,
    MixedBackends,
    NoBackend,
    SpecnormError,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from specnorm.runtime.program import Program
    from specnorm.types import Array, Namespace

GROUP = "specnorm.backends"
API_VERSION = 2
"""Version of this interface. A plugin states the one it was written for."""

_EXTRAS = ("torch", "jax", "cupy")


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
    proofs: ClassVar[Literal["device", "host"]] = "device"
    """Where rounding-rigorous work runs; recorded in every result."""
    static_shapes: ClassVar[bool] = False
    """True where each new array shape costs a compilation, so that searches over frequencies do not pay."""
    model_formats: ClassVar[Mapping[str, str]] = {}
    """Model file formats this plugin can read: format name -> name of the method that reads it."""

    # -- which arrays are ours ----------------------------------------------------------------------------------
    def is_array(self, x: object) -> bool:
        """Whether ``x`` is an array (not merely an object defined in the framework)."""
        raise NotImplementedError

    def refusal(self, x: Array) -> str | None:
        """Why an array of this library cannot be used (masked, sparse, distributed...), or None."""
        del x
        return None

    # -- where and how to compute -------------------------------------------------------------------------------
    def namespace(self, x: Array) -> Namespace:
        """Return the array API namespace (array-api-compat's)."""
        raise NotImplementedError

    def device(self, x: Array) -> Any:
        """Device of ``x``, as the namespace's creation functions take it."""
        return x.device

    def devices(self) -> Sequence[str]:
        """Names of the devices present, for ``specnorm backends``."""
        return ("cpu",)

    def version(self) -> str:
        """Version of the framework."""
        raise NotImplementedError

    def is_traced(self, x: Array) -> bool:
        """Whether ``x`` stands for values not known yet (jit, compile, vmap)."""
        del x
        return False

    def wide_dtype(self, x: Array) -> Literal["float32", "float64"]:
        """Widest real dtype that works on the device of ``x``: the one proofs are computed in."""
        del x
        return "float64"

    def asynchronous(self, x: Array) -> bool:
        """Whether work is queued on a device, so that reading a value waits for all of it: a GPU driven from Python."""
        del x
        return False

    def numpy_view(self, x: Array) -> bool:
        """Whether NumPy reads the array where it is: proofs by search then run in NumPy, which is no copy to a host."""
        del x
        return False

    def working_dtype(self, x: Array, dtype: Literal["float32", "float64"]) -> Literal["float32", "float64"]:
        """Dtype to compute in when ``dtype`` was asked for; wider where the library would lower precision."""
        del x
        return dtype

    def precise(self, x: Array) -> contextlib.AbstractContextManager[object]:
        """Context in which the library's arithmetic has full precision for arrays like ``x``."""
        del x
        return contextlib.nullcontext()

    # -- what the algorithms need beyond the array API ------------------------------------------------------------
    def loop(
        self, cond: Callable[[Any], Array], body: Callable[[Any], Any], state: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """``while cond(state): state = body(state)``; shapes and dtypes of the state never change."""
        while bool(cond(state)):
            state = body(state)
        return state

    def cholesky_ok(self, a: Array) -> Array:
        """Whether the lower Cholesky factorisation of each matrix (..., n, n) of a Hermitian stack ran to completion.

        False wherever an entry is not finite. Never raises; reads the lower triangle only.
        """
        raise NotImplementedError

    def check_cholesky(self, like: Array) -> None:
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
        dtype = str(like.dtype).rpartition(".")[2]
        key = (type(self), str(self.device(like)), dtype)
        if key in _factorises:
            return
        bad = np.zeros((5, 4, 4), dtype=dtype) + np.eye(4, dtype=dtype)
        bad[0, 3, 2] = bad[0, 2, 3] = 2
        bad[1] *= -1
        bad[2, 3, 0] = bad[3, 3, 3] = math.nan
        bad[4, 2, 2] = math.inf
        passed = self.to_numpy(self.cholesky_ok(self.from_numpy(bad, like)))
        if passed.any():
            raise BackendError(
                f"{self.name}'s Cholesky factorisation ({dtype}) succeeds for matrices that have none, so every proof "
                "by it would succeed. Arithmetic without NaN does that: remove fast-math flags (XLA_FLAGS, compilers' "
                "-ffast-math), or convert the kernel to NumPy."
            )
        _factorises.add(key)

    def complex(self, real: Array, imag: Array) -> Array:
        """Complex array from its parts; a library's own constructor saves two passes over memory."""
        return real + 1j * imag

    @property
    def shards(self) -> int:
        """Devices that `shard` lays frequencies out over."""
        return 1

    def shard(self, x: Array) -> Array:
        """Lay rows (f, ...), one a frequency, out over several devices; filled up with copies of the last one."""
        return x

    # -- host ----------------------------------------------------------------------------------------------------
    def asarray(self, x: np.ndarray, device: str | None = None) -> Array:
        """Copy a host array to one of `devices`, or to the default one; dtype kept where the library has it."""
        raise NotImplementedError

    def to_numpy(self, x: Array) -> np.ndarray:
        """Copy to the host."""
        raise NotImplementedError

    def from_numpy(self, x: np.ndarray, like: Array) -> Array:
        """Copy a host array to the device of ``like``, dtype kept."""
        xp = self.namespace(like)
        return xp.asarray(x, dtype=getattr(xp, x.dtype.name), device=self.device(like))

    def share_numpy(self, x: np.ndarray, like: Array) -> Array:
        """`from_numpy` for an array that nothing else refers to: its memory may be shared instead of copied."""
        return self.from_numpy(x, like)

    def host(self) -> Backend:
        """Backend that computes on the host: NumPy's."""
        return load("numpy")

    def detach(self, x: Array) -> Array:
        """Same values, cut off from differentiation."""
        return x

    # -- differentiation -------------------------------------------------------------------------------------------
    def apply(self, program: Program, kernels: Array) -> tuple[Array, tuple[Array, ...], bool]:
        """Run a program and register its pullback where the library differentiates.

        Parameters
        ----------
        program : Program
        kernels : array, shape (*batch, *shape)

        Returns
        -------
        value, stats : array and tuple of arrays
            All with leading axes batch.
        known : bool
            Whether the values were known when the program ran, so that it proved what it can prove.
        """
        value, stats, _ = program.forward(kernels, backend=self)
        return value, stats, not self.is_traced(kernels)

    def value_and_grad(self, program: Program, kernel: Array) -> tuple[Array, Array]:
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
        value, _, residuals = program.forward(kernel, backend=self)
        ones = self.namespace(kernel).ones_like(value)
        return value, program.pullback(residuals, ones, backend=self)

    def init(self, program: Program, kernels: Array) -> tuple[Array, ...]:
        """Training state of a program for kernels (*batch, *shape), not differentiated."""
        return program.init(self.detach(kernels), backend=self)

    def step(
        self, program: Program, kernels: Array, state: tuple[Array, ...], sweeps: int
    ) -> tuple[Array, tuple[Array, ...]]:
        """Take a training step of a program, and attach its gradient where the library differentiates.

        Parameters
        ----------
        program : Program
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

    def first_order(self, x: Array) -> Array:
        """Return ``x``, differentiable once: a second derivative raises instead of being zero."""
        return x


@dataclass(frozen=True)
class Listing:
    """One registered plugin, as ``specnorm backends`` shows it."""

    name: str
    distribution: str
    version: str | None
    devices: tuple[str, ...]
    problem: str | None


# -- lookup ------------------------------------------------------------------------------------------------------
# The registries are caches of what is installed; `refresh` empties them.
_loaded: dict[str, Backend] = {}
_factorises: set[tuple[type[Backend], str, str]] = set()
"""Classes, devices and dtypes that `Backend.check_cholesky` has tried."""
_root_of_class: dict[type, str] = {}


def entry_points(*, group: str) -> Iterable[EntryPoint]:
    """Installed entry points of a group; their reader takes as long to import as all of specnorm."""
    from importlib import metadata

    return metadata.entry_points(group=group)


@functools.cache
def _registered() -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        known = found.setdefault(entry.name, [])
        if all((e.value, _distribution(e)) != (entry.value, _distribution(entry)) for e in known):
            known.append(entry)
    return {name: tuple(entries) for name, entries in found.items()}


def refresh() -> None:
    """Forget which plugins are installed, so that the next call looks again."""
    _registered.cache_clear()
    _loaded.clear()
    _root_of_class.clear()


def backend_for(x: object) -> Backend:
    """Return the plugin that owns an array.

    Raises
    ------
    NoBackend
        If no plugin claims the array's library, or the object is no array.
    BrokenBackend, BackendConflict, BackendVersion
        If the plugin that claims it cannot be used.
    """
    # The key goes through a function that returns a plain string, so that a compiler tracing this call (which runs
    # functions marked as constant once, for real) needs no look at importlib.
    backend = _loaded[root_for_class(type(x))]
    if not backend.is_array(x):
        raise NoBackend(f"{_describe(type(x))} is not an array. {_held(x, backend)}{_pass_an_array()}")
    reason = backend.refusal(x)
    if reason is not None:
        raise NoBackend(reason)
    return backend


def root_for_class(cls: type) -> str:
    """Root package under which the owner of a class of arrays is registered; loads the plugin."""
    known = _root_of_class.get(cls)
    if known is not None and known in _loaded:
        return known
    for base in cls.__mro__:
        root = base.__module__.partition(".")[0]
        if root in _registered():
            load(root)
            _root_of_class[cls] = root
            return root
    roots = {base.__module__.partition(".")[0] for base in cls.__mro__} - {"builtins"}
    if not roots:
        raise NoBackend(f"{_describe(cls)} is not an array. {_pass_an_array()}")
    extra = next((e for e in _EXTRAS if e in roots), None)
    advice = (
        f"Install one: pip install 'specnorm-bounds[{extra}]'."
        if extra
        else "Convert it to one of those, or write a plugin: see 'Backends' in the documentation."
    )
    raise NoBackend(
        f"No backend for {_describe(cls)}. Installed: {', '.join(sorted(_registered())) or 'none'}. {advice}"
    )


# Read by PyTorch's compiler: run this function while tracing instead of tracing into it.
root_for_class._dynamo_marked_constant = True  # type: ignore[attr-defined]


def common_backend(arrays: Sequence[object]) -> Backend:
    """Return the one plugin that owns all arrays of a call.

    Raises
    ------
    MixedBackends
        If they belong to different libraries or lie on different devices.
    """
    owners = [backend_for(x) for x in arrays]
    if len({b.name for b in owners}) > 1:
        raise MixedBackends(
            f"arguments come from different array libraries: {', '.join(b.name for b in owners)}. "
            "Convert them to one library first."
        )
    devices = [str(owners[0].device(x)) for x in arrays]
    if len(set(devices)) > 1:
        raise MixedBackends(f"arguments lie on different devices: {', '.join(devices)}. Move them to one first.")
    return owners[0]


def load(root: str) -> Backend:
    """Load the plugin registered for a root package.

    Raises
    ------
    NoBackend
        If nothing is registered under that name.
    BrokenBackend, BackendConflict, BackendVersion
        If what is registered cannot be used.
    """
    if root in _loaded:
        return _loaded[root]
    entries = _registered().get(root)
    if not entries:
        raise NoBackend(
            f"No backend is registered as {root!r}. Installed: {', '.join(sorted(_registered())) or 'none'}."
        )
    if len(entries) > 1:
        owners = " and ".join(f"{_distribution(e)} ({e.value})" for e in entries)
        raise BackendConflict(f"two distributions register a backend for {root!r}: {owners}. Uninstall one of them.")
    (entry,) = entries
    origin = f"backend {root!r} of {_distribution(entry)} ({entry.value})"
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        missing = error.name or ""  # "torch" is not installed, "torch.something" is another version
        if missing == root or (missing in _EXTRAS and missing in entry.value):
            hint = f"pip install 'specnorm-bounds[{missing}]'" if missing in _EXTRAS else f"install {missing}"
            raise BrokenBackend(f"{origin} needs {missing}, which is not installed: {hint}.") from error
        raise BrokenBackend(f"{origin} cannot be imported: {error}. Reinstall it.") from error
    except Exception as error:
        raise BrokenBackend(f"{origin} fails on import: {type(error).__name__}: {error}.") from error
    try:
        backend: Any = functools.reduce(getattr, filter(None, (entry.attr or "").split(".")), module)
    except AttributeError as error:
        raise BrokenBackend(f"{origin} names an object that does not exist: {error}.") from error
    _check(backend, origin)
    return _loaded.setdefault(root, backend)


def _check(backend: Any, origin: str) -> None:
    version = getattr(backend, "api_version", None)
    if not isinstance(version, int):
        raise BrokenBackend(
            f"{origin} is a {type(backend).__name__} without an api_version; expected a Backend object."
        )
    if version != API_VERSION:
        newer = version > API_VERSION
        raise BackendVersion(
            f"{origin} was written for version {version} of the plugin interface; this specnorm has {API_VERSION}. "
            f"Upgrade {'specnorm-bounds' if newer else 'the plugin'}."
        )
    if not isinstance(backend, Backend):
        raise BrokenBackend(f"{origin} is a {type(backend).__name__}; expected an object derived from Backend.")


def listing() -> list[Listing]:
    """Every registered plugin with what it offers, or why it cannot be used."""
    rows = []
    for root, entries in sorted(_registered().items()):
        origin = " and ".join(_distribution(e) for e in entries)
        try:
            backend = load(root)
            rows.append(Listing(root, origin, backend.version(), tuple(backend.devices()), None))
        except Exception as error:
            kind = "" if isinstance(error, SpecnormError) else f"{type(error).__name__}: "
            rows.append(Listing(root, origin, None, (), kind + str(error)))
    return rows


def _distribution(entry: EntryPoint) -> str:
    return "an unnamed distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


def _describe(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _held(x: object, backend: Backend) -> str:
    """Advice for layers: the array that is meant is their weight."""
    if not backend.is_array(getattr(x, "weight", None)):
        return ""
    return "Its `.weight` is one: pass that, with the layer's geometry (stride, padding, groups ...). "


def _pass_an_array() -> str:
    return f"Pass an array of one of these libraries: {', '.join(sorted(_registered())) or 'none is installed'}."
