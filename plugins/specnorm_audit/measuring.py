"""One layer -> one row: the geometry that is assumed, the proven interval, the methods' columns; and many layers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from time import monotonic
from typing import Any, Literal

from specnorm_networks.tools import speaks_of

from specnorm import ConvSpec, Result, SpecnormError, Undecided, enclose_isometry
from specnorm.errors import BackendError, GeometryError, MethodError, NoBackend
from specnorm.methods import METHODS, Enclose, ExactFFT, FantasticFour, Method, Smallest, TensorNorm
from specnorm.proof import ArrayObject, Upper, backends, digest_of, host, padding_rules, proven, status_of
from specnorm_audit.geometry import Override, resolve
from specnorm_audit.layers import Layer
from specnorm_audit.processes import WorkerLost, Workers
from specnorm_audit.rows import CIRCULAR, CONDITION, Row, Value, either, is_of_the_norm, least_upper

NEEDS_A_SIZE = frozenset({"power", CIRCULAR})
"""Columns of one input size only."""
AT_A_SIZE = frozenset({"power", "fft", "gram", "enclose", "smallest", "isometry"})
"""Methods that answer at the input size where one is given; the others for every size at once."""
CIRCULAR_AT_A_SIZE = frozenset({"fft"})
"""Methods that answer at one input size for a circular layer only."""

ALWAYS = FantasticFour.name
"""Is measured of every layer: it costs little, and is exact for layers that keep norms, where a search is to `rtol`."""

BUDGET = 60.0
"""Seconds of a layer's search, unless others are given."""
IN_FLIGHT = 512 * 2**20
"""Bytes of kernels that an executor is given before its answers are waited for; one kernel may be larger."""
STANDARD = "array-api"
"""Name under which the libraries without a plugin are served."""
_LEAST = 1e-3
"""Seconds for a column where nothing is left: none is no budget."""
_OVERFLOW = "no bound of its norm is below the largest number of float64, 1.8e308. Scale the kernel down."


@dataclass(frozen=True)
class Settings:
    """How to measure, the same for every layer: arguments of `audit`, as plain values that cross process borders."""

    methods: tuple[str, ...] = ()
    input_shape: int | tuple[int, ...] | Literal["file"] | None = None
    layout: str | None = None
    padding_mode: padding_rules.PaddingMode | None = None
    backend: str | None = None
    device: str | None = None
    geometry: tuple[Override, ...] = ()
    rtol: float = 1e-3
    budget: float | None = None

    def method(self, name: str) -> Method:
        """A method by its name, as these settings want it."""
        if name == Enclose.name:
            return Enclose(rtol=self.rtol, budget=self.budget)
        if name == Smallest.name:
            return Smallest(rtol=self.rtol, budget=self.budget)
        found = METHODS[name]()
        return replace(found, budget=self.budget) if isinstance(found, TensorNorm | ExactFFT) else found


def checked_names(methods: Sequence[str], known: Collection[str], also: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of methods and of what is measured besides, each once; refused if one is not ``known``."""
    if isinstance(methods, str):
        raise MethodError(f"methods={methods!r} is one name; expected a sequence of them: methods=[{methods!r}].")
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise MethodError(f"methods={', '.join(map(repr, unknown))} unknown; expected some of {', '.join(known)}.")
    return tuple(dict.fromkeys((*methods, *also)))


def checked_range(between: Sequence[float] | None) -> tuple[float, float] | None:
    """Two numbers, refused unless the first is smaller."""
    if between is None:
        return None
    with suppress(TypeError, ValueError):
        low, high = map(float, between)
        if low < high:
            return low, high
    raise MethodError(f"input_range={between!r}; expected two numbers, the smaller one first.")


def describe(layer: Layer, settings: Settings) -> Row:
    """Row of a layer before it is measured: its geometry and what of it is assumed."""
    tensor = layer.tensor
    blank = Row(
        tensor.name, layer.kind, tensor.shape, None, values=dict.fromkeys(settings.methods), reason=layer.refusal
    )
    if layer.kind == "unknown":
        return replace(blank, reason=layer.refusal or "it is not known what this array is.")
    size = tensor.input_shape if settings.input_shape == "file" else settings.input_shape
    given = (tensor.geometry, settings.geometry, settings.layout, settings.padding_mode, size)
    readings: dict[ConvSpec, tuple[str, ...]] = {}
    reason = None
    for convention in tensor.conventions:
        try:
            spec, assumed = resolve(tensor.name, tensor.shape, *given, convention)
            readings.setdefault(spec, assumed)
        except SpecnormError as error:
            reason = str(error)
    if not readings:
        return replace(blank, reason=layer.refusal or reason)
    spec, *others = readings
    if others:
        orders = [word for each in readings.values() for word in each if word.startswith("layout=")]
        told = f"{orders[0]} or {orders[1].removeprefix('layout=')}"
        return replace(blank, spec=spec, other=others[0], assumed=(
            *(told if word == orders[0] else word for word in readings[spec]), *layer.assumed
        ))  # fmt: skip
    return replace(blank, spec=spec, assumed=(*readings[spec], *layer.assumed))


def fill(row: Row, kernel: ArrayObject | None, settings: Settings) -> Row:
    """Measure a layer. Whatever goes wrong becomes the row's reason; what was measured before it is kept."""
    if row.reason is not None or row.spec is None or kernel is None:
        return row
    if row.other is not None:
        first, second = (fill(replace(row, spec=spec, other=None), kernel, settings) for spec in (row.spec, row.other))
        return replace(either(first, second), other=row.other)
    take: _Results | None = None
    try:
        if settings.backend is not None:
            kernel = place(kernel, settings.backend, settings.device)
        take = _Results(kernel, row.spec, settings)
        found = take("enclose")
        lower, upper = _number(found.stats["lower"]), _number(found.value)
        row = replace(row, lower=lower, upper=upper, note=_joined(row.note, _wide(found)))
        for column in dict.fromkeys((*row.values, ALWAYS)):
            if column == CONDITION or (column == CIRCULAR and not _has_circular(take.spec)):
                continue
            try:
                result = take("fft" if column == CIRCULAR else column)
            except (Undecided, GeometryError) as error:
                if isinstance(error, GeometryError) and is_of_the_norm(column):
                    raise
                # Borders that cut say nothing against the layer's norm.
                row = replace(row, note=_joined(row.note, f"{column}: {error}"))
                continue
            value = take.isometry(result) if column == "isometry" else _value(result)
            row = replace(row, values={**row.values, column: value}, promises={**row.promises, column: result.kind})
    except SpecnormError as error:
        row = replace(row, reason=str(error))
    except Exception as error:  # one bad layer must not lose the others
        row = replace(row, reason=f"{type(error).__name__}: {error}")
    row = _conditioned(least_upper(row), take)
    row = _only(row, settings.methods)
    if row.reason is None and row.status == "error":
        row = replace(row, reason=_OVERFLOW)
    finite = row.upper if row.upper is not None and math.isfinite(row.upper) else None
    return replace(row, upper=finite, claim=None if take is None else take.claim)


def _conditioned(row: Row, take: _Results | None) -> Row:
    """With a bound of the condition number, where it was asked for and both ends are known."""
    if take is None or CONDITION not in row.values or row.reason is not None or row.upper is None:
        return row
    try:
        smallest = _number(take("smallest").value)
    except SpecnormError:  # the column of the smallest singular value says why, if it was asked for
        return row
    most = host.div_up(row.upper, smallest) if smallest > 0 else math.inf
    return replace(row, values={**row.values, CONDITION: most}, promises={**row.promises, CONDITION: "upper"})


def _only(row: Row, columns: tuple[str, ...]) -> Row:
    return replace(
        row,
        values={name: x for name, x in row.values.items() if name in columns},
        promises={name: x for name, x in row.promises.items() if name in columns},
    )


def _wide(found: Result) -> str | None:
    """What an interval at a size, or one that a budget ended, says where it is wider than was asked for."""
    explained = found.spec.input_shape is None and found.spec.padding_gain_sq > 1
    status = status_of(replace(found, value=backends.backend_for(found.value).as_proven(found.value)))
    return None if explained or status.startswith("converged") else status


def _joined(*notes: str | None) -> str | None:
    return "; ".join(note for note in notes if note) or None


def _has_circular(spec: ConvSpec) -> bool:
    if spec.input_shape is None:
        return False
    return spec.transposed or not any(n % s for n, s in zip(spec.input_shape, spec.stride, strict=True))


class _Results:
    """Results of one layer by method name, each computed once."""

    def __init__(self, kernel: ArrayObject, spec: ConvSpec, settings: Settings) -> None:
        self.kernel = kernel
        self.spec = spec
        self.settings = settings
        self.known: dict[str, Result] = {}
        self.claims: list[Upper] = []
        self.deadline = monotonic() + (math.inf if settings.budget is None else settings.budget)

    def __call__(self, name: str) -> Result:
        if name not in self.known:
            geometry = self.spec.geometry
            if name in AT_A_SIZE:
                geometry["input_shape"] = self.spec.input_shape
            if name in CIRCULAR_AT_A_SIZE and self.spec.input_shape:
                geometry |= {"padding_mode": "circular", "padding": "same"}
            asked, least = self.settings.method(name), min(_LEAST, self.settings.budget or _LEAST)
            left = max(self.deadline - monotonic(), least)
            limited = replace(self.settings, budget=None if self.settings.budget is None else left).method(name)
            # A report says what was asked for: what is left of it differs from run to run.
            result, claims = proven(self.kernel, limited, **geometry)
            self.known[name] = replace(result, method=asked)
            self.claims += [upper for _, upper in claims] if limited.quantity == "norm" else []
        return self.known[name]

    def isometry(self, bound: Result) -> float:
        """An isometry defect's upper end: by products alone, or by a search, which comes closer."""
        geometry = {**self.spec.geometry, "input_shape": self.spec.input_shape}
        budget = None if self.settings.budget is None else max(self.deadline - monotonic(), _LEAST)
        found = enclose_isometry(self.kernel, rtol=self.settings.rtol, budget=budget, **geometry)
        return min(_number(bound.value), _number(found.upper))

    @property
    def claim(self) -> Upper | None:
        """The least bound of the layer that is a claim."""
        return min((claim for claim in self.claims if speaks_of(claim, self.spec)), key=float, default=None)


def _value(result: Result) -> Value:
    if len(result.value.shape) == 0:
        return _number(result.value)
    return tuple(float(x) for x in backends.backend_for(result.value).to_numpy(result.value).reshape(-1))


def _number(x: ArrayObject) -> float:
    """The number in a 0-d array, exactly; through the plugin, which knows how to detach it."""
    return float(backends.backend_for(x).to_numpy(x))


def check_target(name: str | None, device: str | None) -> None:
    """Refuse a plugin's name or a device of it that is not there, before any file is read."""
    if name is None:
        if device is not None:
            raise BackendError(f"device={device!r} needs a backend to go with it: say which array library to use.")
        return
    backend = library(name)
    if device is not None and device not in backend.devices():
        raise BackendError(
            f"device={device!r} is not one of {name}'s devices here: {', '.join(backend.devices()) or 'none'}."
        )


def library(name: str) -> backends.Backend:
    """A plugin by its name, or what serves a library of the array API standard that has none, by the library's name."""
    if name == STANDARD:
        raise BackendError(
            f"backend={name!r} serves every library of the array API standard that has no plugin: give the library's "
            "own name, such as array_api_strict."
        )
    try:
        found: backends.Backend = backends.load(name)
    except NoBackend:
        if not (name.isidentifier() and find_spec(name)):
            raise
        module = import_module(name)
        if not hasattr(module, "__array_namespace_info__"):
            raise
        found = backends.backend_for(module.zeros(1))
    return found


def place(kernel: ArrayObject, name: str, device: str | None = None) -> ArrayObject:
    """Copy a kernel to another library, by its plugin's name; refused if that cannot hold the dtype or device."""
    host = backends.backend_for(kernel).to_numpy(kernel)
    target = library(name)
    moved: ArrayObject = target.asarray(host, device)
    if str(moved.dtype).rpartition(".")[2] != host.dtype.name:
        raise BackendError(
            f"{name} turned a {host.dtype.name} kernel into {moved.dtype}, which would change what is measured. Use "
            "another backend (JAX does so unless 64-bit values are enabled: set JAX_ENABLE_X64=1)."
        )
    return moved


# -- many layers: here, one after the other, or by an executor ---------------------------------------------------------
def check_executor(executor: object) -> None:
    """Refuse what is no `concurrent.futures.Executor`, and say what is one."""
    if executor is not None and not isinstance(executor, Executor):
        raise MethodError(
            f"executor={executor!r} is no concurrent.futures.Executor. Give concurrent.futures.ProcessPoolExecutor(n), "
            "joblib's loky.get_reusable_executor(), or dask's Client.get_executor()."
        )


def measured(found: Sequence[Layer], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Measure layers and give their rows in order; `IN_FLIGHT` bytes of kernels are in memory at once.

    Without an executor, or with `Workers` that are not worth it: here, one layer after the other. A layer that the
    executor loses is a row that says how.
    """
    worth = executor.worth if isinstance(executor, Workers) else 0
    if executor is None or (worth and (len(found) < 2 or sum(map(_bytes, found)) < worth)):
        for layer in found:
            yield fill(*_loaded(layer, settings), settings)
        return
    waiting: deque[_Waiting] = deque()
    try:
        for layer in found:
            while waiting and (waiting[0].future.done() or _bytes(layer) + _in_flight(waiting) > IN_FLIGHT):
                yield _row(waiting.popleft(), settings)
            waiting.append(_submitted(layer, settings, executor))
        while waiting:
            yield _row(waiting.popleft(), settings)
    finally:
        for entry in waiting:
            entry.future.cancel()


@dataclass(frozen=True)
class _Waiting:
    """A layer that an executor measures; ``asked`` is its row before, with the digest of the kernel that was sent."""

    layer: Layer
    asked: Row
    future: Future[Row]


def _in_flight(waiting: Iterable[_Waiting]) -> int:
    return sum(_bytes(entry.layer) for entry in waiting if not entry.future.done())


def _bytes(layer: Layer) -> int:
    """Memory of a layer's kernel; half precision counts as the float32 that it becomes."""
    return math.prod(layer.tensor.shape) * (8 if "64" in layer.tensor.dtype else 4)


def _submitted(layer: Layer, settings: Settings, executor: Executor) -> _Waiting:
    row, kernel = _loaded(layer, settings)
    known: Future[Row] = Future()
    if row.reason is not None or kernel is None:
        known.set_result(row)
        return _Waiting(layer, row, known)
    row = replace(row, digest=_digest(kernel))
    try:
        return _Waiting(layer, row, executor.submit(_filled_there, row, kernel, settings))
    except Exception as error:  # broken, shut down, or the kernel cannot be sent: every executor has its own errors
        known.set_exception(error)
        return _Waiting(layer, row, known)


def _filled_there(row: Row, kernel: ArrayObject, settings: Settings) -> Row:
    """`fill`, with the digest of the kernel that was measured."""
    return fill(replace(row, digest=_digest(kernel)), kernel, settings)


def _is_about(answer: Row, asked: Row) -> bool:
    """Whether a row is of the layer that was asked about: its name, kernel and geometry."""
    same = (answer.name, answer.digest, answer.spec, answer.other)
    return same == (asked.name, asked.digest, asked.spec, asked.other)


def _digest(kernel: ArrayObject) -> str:
    return digest_of(backends.backend_for(kernel).to_numpy(kernel))


def _row(waiting: _Waiting, settings: Settings) -> Row:
    """Wait for a layer's row; measuring itself raises nothing, so what is raised is the executor's.

    A row of another layer, kernel or geometry is no answer.
    """
    layer, asked, future = waiting.layer, waiting.asked, waiting.future
    try:
        lost = future.exception()
    except Exception as error:  # it was cancelled
        lost = error
    if lost is None:
        answer: Any = future.result()  # of an executor that may answer anything
        if isinstance(answer, Row) and _is_about(answer, asked):
            return answer
        name = answer.name if isinstance(answer, Row) else type(answer).__name__
        return replace(asked, reason=f"the executor answered with a row that is not about it (of {name}).")
    if isinstance(lost, KeyboardInterrupt):
        raise lost
    row = describe(layer, settings)
    if isinstance(lost, WorkerLost):
        return replace(row, reason=f"the process that measures it dies: {lost}.")
    first = str(lost).strip().partition("\n")[0].rstrip(".")
    return replace(row, reason=f"the executor failed with {type(lost).__name__}{first and ': '}{first}.")


def _loaded(layer: Layer, settings: Settings) -> tuple[Row, ArrayObject | None]:
    row = describe(layer, settings)
    if row.reason is not None:
        return row, None
    try:
        return row, layer.tensor.load()
    except SpecnormError as error:
        return replace(row, reason=str(error)), None
    except Exception as error:  # a damaged array must not lose the others
        return replace(row, reason=f"cannot be read: {type(error).__name__}: {error}"), None
