"""One method on one problem, ready to run: the unit that a backend executes, compiles, batches and differentiates.

A program knows no library. It turns a stack of the caller's kernels into canonical blocks, scales them by powers of
two, calls the method, and undoes both, forwards and backwards. A backend only decides how to run it (`Backend.apply`).
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import arithmetic, rounding
from specnorm.errors import BackendError, KernelError
from specnorm.methods.base import Needs
from specnorm.problem import polyphase, taps
from specnorm.problem.spec import ConvSpec, check_dtype
from specnorm.types import ArrayOps

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.bound import Lower, Upper
    from specnorm.methods import Method
    from specnorm.types import AnyArray, Backend

    Claims = Callable[[], Sequence[tuple[Lower, Upper]]]


class Ran(NamedTuple):
    """What a program computed of kernels (*batch, *shape).

    Parameters
    ----------
    value : array, shape (*batch, *value_shape)
    stats : tuple of arrays, each with leading axes batch
        In the order of ``method.stats``.
    residuals : tuple of arrays
        What `Program.pullback` needs, with the batch flattened into one axis; never differentiated.
    claims : callable, optional
        The bounds of each kernel as claims, which are made when they are asked for: its bits are digested.
    known : bool
        Whether the values were known when the program ran, so that it proved what it can prove.
    """

    value: AnyArray
    stats: tuple[AnyArray, ...]
    residuals: tuple[AnyArray, ...]
    claims: Claims | None = None
    known: bool = True


@dataclass(frozen=True)
class Program:
    """A method bound to a geometry and a kernel's shape and dtype. Hashable; holds no arrays.

    Parameters
    ----------
    key : str
        What `program` finds it by.
    shape : tuple of int
        Shape of one kernel as the caller stores it.
    dtype : str
        The kernel's dtype, short name.
    """

    key: str
    method: Method
    spec: ConvSpec
    shape: tuple[int, ...]
    dtype: str
    needs: Needs = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", self.method.needs(self.spec))

    @property
    def result_dtype(self) -> Literal["float32", "float64"]:
        """float32 or float64: half-precision kernels are measured and answered in float32."""
        return check_dtype(self.dtype, self.shape)

    def forward(self, kernels: AnyArray, *, backend: Backend, differentiated: bool = True) -> Ran:
        """Evaluate the method on a batch of kernels.

        Parameters
        ----------
        kernels : array, shape (*batch, *shape)
            Any number of leading axes, none included.
        differentiated : bool
            Whether the residuals are wanted.
        """
        run = self.execution(kernels, backend=backend)
        if self.needs.searches and run.traced:
            self.method.refuse_tracer(self.spec)
        if run.in_numpy:
            return self._on_host(kernels, run, differentiated)
        with arithmetic.exact(kernels, backend=backend):
            return self._evaluate(kernels, run)

    def _evaluate(self, kernels: Array, run: ArrayOps) -> Ran:
        xp, needs = run.xp, self.needs
        batch = kernels.shape[: kernels.ndim - len(self.shape)]
        if not run.traced:
            check_values(kernels, self.shape, backend=run.backend)
        count, groups = math.prod(batch), self.parts
        blocks = self._blocks(xp.reshape(kernels, (count, *self.shape)), run.dtype, run)
        per_layer = self.spec.groups if needs.blocks else 1
        layers = xp.reshape(blocks, (count, per_layer * math.prod(blocks.shape[1:])))
        exponent = xp.zeros(count, dtype=blocks.dtype, device=run.device(blocks))
        # Under a tracer nothing can be refused: a non-finite kernel then gets the value NaN, never a number.
        nan_mask = xp.sum(layers * 0.0, axis=1) if run.traced else exponent
        if needs.scaled:
            layers, exponent = arrays.scale(layers, xp=xp)
            blocks = xp.reshape(layers, blocks.shape)
        found = self.method.forward(blocks, self.spec, ops=run)

        def grouped(x: Array) -> Array:
            return xp.reshape(x, (count, groups, *x.shape[1:]))

        def unscaled(x: Array) -> Array:
            return arrays.unscale(grouped(x), xp.reshape(exponent, (-1,) + (1,) * x.ndim), xp=xp)

        def over_batch(x: Array) -> Array:
            return xp.reshape(x, (*batch, *x.shape[1:]))

        def finish(x: Array, rounds: rounding.Rounds) -> Array:
            x = rounding.to_dtype(x, getattr(xp, self.result_dtype), rounds, xp=xp)
            # Last of all: rounding down cuts at zero, and a comparison would turn NaN into a number.
            return over_batch(x + xp.reshape(xp.astype(nan_mask, x.dtype), (-1,) + (1,) * (x.ndim - 1)))

        value, chosen = self.method.over_groups(unscaled(found.value), xp=xp)
        if self.factor > 1:
            value = rounding.padded_up(value, self.spec.padding_gain_sq, xp=xp)
        # What is told of one group is told of the one that attains the lower bound, where there is one.
        named = dict(zip(self.method.stats, found.stats, strict=True))
        lead = unscaled(named.get("lower", found.value))
        lead = xp.max(xp.reshape(lead, (count, groups, math.prod(lead.shape[2:]))), axis=2)
        index = xp.argmax(lead, axis=1)
        stats = []
        for name, rounds in self.method.stats.items():
            if rounds is not None:
                stats.append(finish(xp.max(unscaled(named[name]), axis=1), rounds))
            elif name in _OVER_GROUPS:
                stats.append(over_batch(getattr(xp, _OVER_GROUPS[name])(grouped(named[name]), axis=1)))
            else:
                stats.append(over_batch(arrays.pick(grouped(named[name]), index, xp=xp)))
        residuals = found.residuals
        if needs.narrow_gradient:
            residuals = self._at_most(residuals, run.own_dtype, xp=xp)
        claims = partial(self._claims, found.claims, kernels, exponent, run) if found.claims else None
        return Ran(finish(value, needs.rounds), tuple(stats), (*residuals, chosen), claims, not run.traced)

    def _claims(
        self, found: Sequence[tuple[Lower, Upper]], kernels: Array, exponent: Array, run: ArrayOps
    ) -> list[tuple[Lower, Upper]]:
        """The bounds of the scaled blocks of each kernel, as its own."""
        from specnorm.certified.bound import of_kernel  # for few

        each = zip(found, run.to_numpy(kernels).reshape(-1, *self.shape), run.to_numpy(exponent).tolist(), strict=True)
        return [of_kernel(lower, upper, kernel, int(power)) for (lower, upper), kernel, power in each]

    def pullback(
        self, residuals: tuple[AnyArray, ...], cotangent: AnyArray, *, dtype: str | None = None, backend: Backend
    ) -> AnyArray:
        """Gradient with respect to the kernels, for a cotangent of the value.

        Parameters
        ----------
        residuals : tuple of arrays
            From `forward`.
        cotangent : array, shape (*batch, *value_shape)
        dtype : str, optional
            Of the gradient; the kernels' own unless given.

        Returns
        -------
        array, shape (*batch, *shape)
        """
        xp = backend.namespace(cotangent)
        batch = cotangent.shape[: cotangent.ndim - len(self.value_shape)]
        with arithmetic.exact(cotangent, backend=backend):
            working = arrays.real_dtype(residuals[0], xp=xp)
            cotangent = xp.reshape(xp.astype(cotangent, working) * self.factor, (math.prod(batch), *self.value_shape))
            *residuals, chosen = residuals  # type: ignore[assignment]
            parts = self.method.to_groups(cotangent, chosen, self.parts, xp=xp)
            parts = xp.reshape(parts, (math.prod(batch) * self.parts, *parts.shape[2:]))
            gradient = self.method.pullback(tuple(residuals), parts, self.spec, xp=xp)
            restore = polyphase.from_blocks if self.needs.blocks else polyphase.caller_order
            gradient = xp.reshape(restore(gradient, self.spec, xp=xp), (*batch, *self.shape))
            return xp.astype(gradient, getattr(xp, dtype or self.dtype), copy=False)

    @staticmethod
    def _at_most(residuals: tuple[Array, ...], dtype: str, *, xp: Namespace) -> tuple[Array, ...]:
        """Residuals in a given precision at most: a gradient in float64 would be twice a float32 kernel."""
        if dtype == "float64":
            return residuals
        pairs = ((xp.float64, xp.float32), (xp.complex128, xp.complex64))
        return tuple(next((xp.astype(x, lower) for wide, lower in pairs if x.dtype == wide), x) for x in residuals)

    @property
    def parts(self) -> int:
        """Answers that the method gives for one layer, of which the largest counts."""
        return 1 if self.needs.by_layer else self.spec.groups

    @property
    def factor(self) -> float:
        """What padding that repeats pixels multiplies an upper value by (to nearest; counted where it is used)."""
        lifts = self.needs.rounds == "up" and self.needs.blocks
        return math.sqrt(self.spec.padding_gain_sq) if lifts else 1.0

    def _blocks(self, kernels: Array, dtype: str, run: ArrayOps) -> Array:
        xp = run.xp
        kernels = xp.astype(kernels, getattr(xp, dtype), copy=False)
        if self.needs.blocks:
            return polyphase.to_blocks(kernels, self.spec, xp=xp)
        kernels = polyphase.torch_order(kernels, self.spec, xp=xp)
        visible = taps.visible(self.spec)
        if visible is None:
            return kernels
        # As a factor, which leaves NaN what it is.
        return kernels * run.from_numpy(visible.astype(dtype)[None, None, None], kernels)

    @property
    def value_shape(self) -> tuple[int, ...]:
        """Shape of one kernel's value: () for a norm, (r,) for methods with several values."""
        return self.needs.value_shape

    def execution(self, kernels: AnyArray, *, backend: Backend, training: bool = False) -> ArrayOps:
        """Where and in which precision the program runs on these kernels.

        Raises
        ------
        BackendError
            For a float64 kernel under a tracer of a library that computes in float32: rounded to fit, it would be
            another kernel.
        """
        run = ArrayOps.of(backend, kernels, self.needs, self.result_dtype, training=training)
        if run.traced and run.too_wide:
            raise BackendError(
                f"kernel of shape {self.shape} is float64, and {backend.name} computes in float32 here: rounded to "
                "that it would be another kernel. Enable 64-bit values, or convert it to float32 yourself."
            )
        return run

    def computed_in(self, kernels: AnyArray, *, backend: Backend) -> str:
        """Dtype of the computation, and "on the host" where that is not the kernel's own device."""
        return self.execution(kernels, backend=backend).computed_in

    def _on_host(self, kernels: AnyArray, run: ArrayOps, differentiated: bool) -> Ran:
        """Run in NumPy and bring everything back; recorded in the result."""
        backend = run.backend
        value, stats, residuals, claims, _ = self.forward(backend.to_numpy(kernels), backend=backend.host())

        # Where the device has no float64 the bounds are rounded once more, outward; the rest may lose digits.
        to_device = {} if run.wide_dtype == "float64" else {"float64": "float32", "complex128": "complex64"}
        # The backward runs over there, in the dtype of the residuals: a wide one where float32 products lose digits.
        lossy = run.own_dtype != self.result_dtype
        to_products = {"float32": "float64", "complex64": "complex128"} if lossy else to_device

        def back(x: AnyArray, change: dict[str, str], rounds: rounding.Rounds | None = None) -> AnyArray:
            wanted = change.get(x.dtype.name) if change else None
            if wanted and rounds:
                x = rounding.to_dtype(x, getattr(np, wanted), rounds, xp=backend.host().namespace(x))
            return backend.from_numpy(x.astype(wanted) if wanted else x, kernels)

        return Ran(
            back(value, to_device, self.needs.rounds),
            tuple(back(x, to_device, rounds) for x, rounds in zip(stats, self.method.stats.values(), strict=True)),
            tuple(back(x, to_products) for x in residuals) if differentiated else (),
            claims,
        )


_OVER_GROUPS = {
    "proven": "all", "converged": "all", "refuted": "any",
    "cells": "sum", "frequencies": "sum", "levels": "max", "iterations": "max",
}  # fmt: skip
"""How figures that are no norms are reduced over groups; of others, one group's is told."""


def check_values(kernels: Array, shape: tuple[int, ...], *, backend: Backend) -> None:
    """Refuse non-finite values, and what the processor would take for zero; for concrete arrays only.

    Raises
    ------
    KernelError, BackendError
    """
    with np.errstate(all="ignore"):
        xp = backend.namespace(kernels)
        finite = xp.isfinite(kernels)
        if not bool(xp.all(finite)):
            count = int(xp.sum(xp.astype(~finite, xp.int32)))
            raise KernelError(
                f"kernel of shape {shape} holds {count} non-finite value{'s' * (count > 1)} (NaN or infinity). "
                "Expected finite numbers: look where the training diverged, or at how the file was read."
            )
    if not arithmetic.flushes() or not (backend.numpy_view(kernels) or backend.host() is backend):
        return
    if arithmetic.too_small(backend.to_numpy(kernels).reshape(-1, math.prod(shape))):
        raise BackendError(
            f"kernel of shape {shape} is so small that subnormal numbers matter, and the processor takes them "
            "for zero in this thread (torch.set_flush_denormal(True), or a library compiled with -ffast-math). "
            "Switch that off before the call, or measure the kernel in a process without it."
        )


LIMIT = 1024
"""Programs that are kept for their next use, about 1 MB; one that is still referred to is found beyond that."""


# The programs used last are kept; an older one lives as long as somebody holds it (an autograd graph does); one in a
# compiled graph for ever.
_programs: dict[str, Program] = {}
_alive: weakref.WeakValueDictionary[str, Program] = weakref.WeakValueDictionary()
_compiled: set[str] = set()
_keys: dict[str, str] = {}  # of a problem as it was written: the checked key
_lock = threading.Lock()


def program_for(
    method: Method,
    shape: tuple[int, ...],
    dtype: str,
    geometry: tuple[tuple[str, Any], ...],
    kind: type[Program] = Program,
) -> Program:
    """Validate a problem and return its program; the same object for the same problem, however it is written.

    Parameters
    ----------
    shape : tuple of int
        Of one kernel, as the caller stores it.
    dtype : str
        As the library prints it.
    kind : type
        `Program`, or `stepping.SteppedProgram`.

    Raises
    ------
    KernelError, GeometryError, MethodError
    """
    # Compilers run functions marked as constant while tracing, but hand over plain values faithfully, objects not
    # (torch 2.13 replaces a dataclass by its defaults). So the method travels as its class and its values.
    cls = type(method)
    values = tuple([getattr(method, name) for name in _field_names(cls)])
    return _programs[_program_key(kind, cls, values, shape, dtype, geometry)]


def program(key: str) -> Program:
    """Return the program behind a `Program.key`: one of the last `LIMIT`, or one that is still referred to."""
    return _alive[key]


def keep(key: str) -> Program:
    """`program`, kept for ever: for graphs of a compiler, which hold nothing of it but the key."""
    with _lock:
        found = _programs[key] = _alive[key]
        _compiled.add(key)
    return found


def _field_names(cls: type[Method]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _program_key(
    kind: type[Program],
    cls: type[Method],
    values: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: str,
    geometry: tuple[tuple[str, Any], ...],
) -> str:
    # The class by identity too: a class that was defined anew under the same name is another method.
    method_key = (kind.__name__, cls.__module__, cls.__qualname__, id(cls), values)
    written = repr((method_key, shape, dtype, geometry))
    with _lock:
        key = _keys.get(written)
        if key is not None and key in _programs:
            _programs[key] = _programs.pop(key)  # to the end: used last
            return key
    short = dtype.rpartition(".")[2]
    check_dtype(short, shape)
    spec = ConvSpec.of(shape, **dict(geometry))
    key = repr((method_key, spec, shape, short))
    method = cls(**dict(zip(_field_names(cls), values, strict=True)))
    method.check(spec)
    with _lock:
        found = _alive.setdefault(key, kind(key, method, spec, shape, short))
        _programs.pop(key, None)
        _keys[written], _programs[key] = key, found
        _forget()
    return key


def _forget() -> None:
    """Drop what was used longest ago, beyond `LIMIT`; what compiled graphs need does not count."""
    old = [key for key in _programs if key not in _compiled]
    for key in old[: max(0, len(old) - LIMIT)]:
        del _programs[key]
    for written in list(_keys)[: max(0, len(_keys) - LIMIT)]:
        del _keys[written]


_field_names._dynamo_marked_constant = True  # type: ignore[attr-defined]
_program_key._dynamo_marked_constant = True  # type: ignore[attr-defined]
