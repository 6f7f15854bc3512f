"""Monitors: norms of a model's layers during training, as numbers for any logger. Plugins read the models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm import Undecided, certify, enclose, init_tracking, track_many
from specnorm._internal import check_function, check_number
from specnorm.errors import KernelError, MethodError, NoBackend, SpecnormError
from specnorm.methods import SymbolNorm
from specnorm.plugin import LayerKernel, LayerReader, backend_for, layer_kernel
from specnorm.proof import Upper, norm_of_neighbour
from specnorm_train.proof import product_up

_METHOD = SymbolNorm()
_SWEEPS = 2
"""Number of sweeps in a report: between two reports the kernels change by many training steps."""
_RTOL = 0.05
"""Relative distance of an upper bound from the norm that is close enough."""
_PROOF_RTOL = 0.02
"""Relative distance of the bounds at which a search stops. The rest is room for kernels nearby, without a search."""

Reading: TypeAlias = Mapping[str, LayerKernel | str]
"""The layers with a kernel that were read from a model, by name; a reason in place of a layer that is not measured."""


class Monitor:
    """The measurement behind the monitors of all frameworks, its state, and its report.

    A report is a dictionary of floats for any logger. ``norm/NAME`` is a lower estimate of a layer's norm over all
    input sizes, tracked from the previous report (`specnorm.methods.SymbolNorm`). ``upper/NAME`` is a proven upper
    bound on the norm, at most 5 % above it if the budget allows. It is in every ``upper``-th report, and holds for
    the weights of that report. `specnorm.enclose` proves it; while a kernel has moved little since then, its distance
    from the enclosed kernel does, by products alone. ``norm/product`` and ``upper/product`` are the products over all
    layers, up to their rounding. A layer that cannot be measured is named in a warning, and the report then has no
    product.

    Parameters
    ----------
    every : int
        Number of steps between two reports.
    upper : int or bool
        Number of reports from one proof to the next. True: a proof in each report. 0 or False: no proofs.
    budget : float
        Time limit in seconds for the proof of one layer. A bound that the limit cuts short is larger, and still proven.

    Attributes
    ----------
    left_out : dict of str to str
        Names of the layers that the last report leaves out, each with the reason.

    Raises
    ------
    MethodError
        If ``every`` or ``upper`` is not a valid number, or no layer is selected.
    """

    def __init__(self, every: int, *, upper: int, budget: float) -> None:
        if not check_number("every", every) >= 1:
            raise MethodError(f"every={every!r} must be a positive number of steps.")
        if not isinstance(upper, bool) and not 0 <= check_number("upper", upper) < math.inf:
            raise MethodError(f"upper={upper!r} must be a number of measurements, or 0 for no proofs.")
        self.every = every
        self.upper = int(upper)
        self.budget = budget
        self.left_out: dict[str, str] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        # The bounds that searches have proven, and the layers that they are of, with kernels on the host.
        self._proofs: dict[str, tuple[Upper, LayerKernel]] = {}
        self._measurements = 0

    def is_due(self, step: int) -> bool:
        """Whether ``every`` divides the step."""
        return check_number("step", step) % self.every == 0

    def measured(self, reading: Reading) -> dict[str, float]:
        """Return a report: the norms of all layers, and their upper bounds if it is time for a proof."""
        layers = {
            name: layer._replace(kernel=backend_for(layer.kernel).detach(layer.kernel))
            for name, layer in _layers_in(reading).items()
        }
        refused = self._start(layers)
        self.tell({**_reasons_in(reading), **refused})
        layers = {name: layer for name, layer in layers.items() if name not in refused}
        norms = self._norms(layers)
        uppers: dict[str, float] = {}
        if self.upper and self._measurements % self.upper == 0:
            norms, uppers = self._proven(layers, norms)
        self._measurements += 1
        report: dict[str, float] = {}
        for kind, values in (("norm", norms), ("upper", uppers)):
            report |= {f"{kind}/{name}": value for name, value in values.items()}
            if values.keys() == norms.keys() and not self.left_out:
                product = product_up(values.values()) if kind == "upper" else math.prod(values.values())
                report[f"{kind}/product"] = product
        return report

    def _proven(
        self,
        layers: Mapping[str, LayerKernel],
        norms: Mapping[str, float],
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Enclose all layers with a finite norm, at all input sizes.

        Returns the norms as tracked, brought between the proven bounds, and the upper bounds.
        """
        raised_norms = dict(norms)
        uppers: dict[str, float] = {}
        for name, layer in layers.items():
            if not math.isfinite(norms[name]):
                continue
            # Of a norm of at most 1, that is to be proven.
            limit = norms[name] * (1 + _RTOL)
            limit = min(limit, 1.0) if norms[name] <= 1 else limit
            upper = _bound_nearby(*self._proofs[name], layer, limit) if name in self._proofs else math.inf
            if upper <= limit:
                uppers[name] = upper
                raised_norms[name] = min(norms[name], upper)
                continue
            enclosure = enclose(layer.kernel, rtol=_PROOF_RTOL, budget=self.budget, **layer.geometry)
            if enclosure.claim is not None:
                self._proofs[name] = enclosure.claim[1], layer._replace(kernel=_on_host(layer))
            uppers[name] = float(enclosure.upper)
            if float(enclosure.lower) <= 1 < uppers[name] and self._is_at_most_one(layer):
                uppers[name] = 1.0
            # The tracked norm is rounded to nearest, so it may exceed an upper bound that is very close to the norm.
            raised_norms[name] = min(max(norms[name], float(enclosure.lower)), uppers[name])
        return raised_norms, uppers

    def _is_at_most_one(self, layer: LayerKernel) -> bool:
        """Whether a norm of at most 1, which layers are scaled to, is proven within the budget."""
        try:
            return certify(layer.kernel, 1.0, budget=self.budget, **layer.geometry)
        except Undecided:
            return False

    def _start(self, layers: Mapping[str, LayerKernel]) -> dict[str, str]:
        """Begin the states of new layers, and of those with another shape; return the reasons against some, by name."""
        refused = {}
        for name, layer in layers.items():
            if self._shapes.get(name) != tuple(layer.kernel.shape):
                try:
                    self._states[name] = init_tracking(layer.kernel, _METHOD, **layer.geometry)
                except KernelError as error:
                    refused[name] = str(error)
                else:
                    self._shapes[name] = tuple(layer.kernel.shape)
        return refused

    def _norms(self, layers: Mapping[str, LayerKernel]) -> dict[str, float]:
        """Move the states of all layers, and return the norms."""
        values, new_states = track_many(
            [layer.kernel for layer in layers.values()],
            _METHOD,
            [self._states[name] for name in layers],
            geometries=[layer.geometry for layer in layers.values()],
            sweeps=_SWEEPS,
        )
        self._states |= zip(layers, new_states, strict=True)
        return {name: float(value) for name, value in zip(layers, values, strict=True)}

    def tell(self, left_out: Mapping[str, str], stacklevel: int = 5) -> None:
        """Warn of layers that are left out, unless they were left out before."""
        newly_left_out = left_out.keys() - self.left_out.keys()
        self.left_out = dict(left_out)
        if newly_left_out:
            reasons = "; ".join(f"{name}: {left_out[name]}" for name in sorted(newly_left_out))
            warnings.warn(f"NormMonitor leaves out layers, and logs no product. {reasons}", stacklevel=stacklevel)


class ModelMonitor(Monitor):
    """A monitor of one model, which reads the model's weights for each report.

    ``monitor(step)`` returns a report at every step that ``every`` divides.

    Parameters
    ----------
    model : object
    every, upper, budget
        See `Monitor`.
    select : callable, optional
        ``select(name, layer)`` returns whether to measure a layer. None: all layers are measured.
    """

    def __init__(
        self,
        model: Any,
        every: int = 100,
        *,
        select: Callable[[str, Any], bool] | None = None,
        upper: int = 10,
        budget: float = 5.0,
    ) -> None:
        super().__init__(every, upper=upper, budget=budget)
        if select is not None:
            check_function("select", select, "select(name, layer), which says whether to measure a layer")
        self.model = model
        self.select = select
        reading = self.read()
        _layers_in(reading)
        self.tell(_reasons_in(reading), stacklevel=3)

    def __call__(self, step: int) -> dict[str, float]:
        """Return a report if ``every`` divides the step, else an empty dictionary."""
        return self.norms() if self.is_due(step) else {}

    def norms(self) -> dict[str, float]:
        """Return a report now."""
        return self.measured(self.read())

    def read(self) -> Reading:
        """Return the model's layers with their present weights."""
        raise NotImplementedError


def _layers_in(reading: Reading) -> dict[str, LayerKernel]:
    """The layers that are to be measured; raises `MethodError` if there are none."""
    layers = {name: layer for name, layer in reading.items() if not isinstance(layer, str)}
    if not layers:
        raise MethodError("the model has no convolution or linear layer, or none is selected.")
    return layers


def _reasons_in(reading: Reading) -> dict[str, str]:
    return {name: reason for name, reason in reading.items() if isinstance(reason, str)}


def _bound_nearby(upper: Upper, proven: LayerKernel, layer: LayerKernel, limit: float) -> float:
    """A bound of a layer by its distance from the layer of a proven bound, if it may be within a limit; else infinite.

    ``proven``: with its kernel on the host.
    """
    kernel = _on_host(layer)
    if kernel.shape != proven.kernel.shape or dict(layer.geometry) != dict(proven.geometry):
        return math.inf
    # The norm of the reshaped difference is at least this.
    least = float(np.linalg.norm(kernel - proven.kernel)) / math.sqrt(kernel.shape[0])
    if not upper.value + least <= limit:
        return math.inf
    return norm_of_neighbour(upper, proven.kernel, kernel).value


def _on_host(layer: LayerKernel) -> NDArray[np.float64]:
    return np.asarray(backend_for(layer.kernel).to_numpy(layer.kernel), dtype=np.float64)


# -- models of which a `LayerReader` knows the parts --------------------------------------------------------------
def read_model(reader: LayerReader, model: Any, select: Callable[[str, Any], bool] | None) -> Reading:
    """Read the layers of a model for which ``select(name, layer)`` is true; None: all layers."""
    reading: dict[str, LayerKernel | str] = {}
    for name, layer, variables in _layers_of(reader, model, "", set()):
        if select is not None and not select(name, layer):
            continue
        try:
            reading[name] = layer_kernel(layer)
        except NoBackend:
            kind = type(layer).__name__
            holds_a_matrix = any(len(variable.shape) > 1 for variable in variables)
            if holds_a_matrix and not any(word in kind for word in reader.without_map):
                reading[name] = f"a {kind} is not measured"
        except SpecnormError as error:
            reading[name] = str(error)
    return reading


def _layers_of(reader: LayerReader, model: Any, start: str, seen: set[int]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield each layer inside of a model or layer once: its name, the layer, and the variables outside of sublayers."""
    for name, layer in (reader.parts(model) or {}).items():
        parts = reader.parts(layer)
        if parts is None or id(layer) in seen:
            continue
        seen.add(id(layer))
        yield f"{start}{name}", layer, [part for part in parts.values() if reader.parts(part) is None]
        yield from _layers_of(reader, layer, f"{start}{name}/", seen)
