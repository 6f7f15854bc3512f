"""Measure layers: each becomes a row with the geometry that is assumed, the proven interval, and methods' columns."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import replace
from functools import partial, reduce
from time import monotonic
from typing import Any

import numpy as np
from specnorm_networks.model_arrays import Tensor

from specnorm import ConvSpec, Result, SpecnormError, Undecided, certify, enclose_isometry
from specnorm._internal import status_of
from specnorm.errors import BackendError, GeometryError, MethodError
from specnorm.methods import ExactFFT, FantasticFour
from specnorm.proof import ArrayObject, Upper, backends, digest_of, proven
from specnorm_audit.geometry import of_stack, readings, resolve
from specnorm_audit.processes import WorkerLost, Workers, in_order
from specnorm_audit.proof import condition_up
from specnorm_audit.rows import CIRCULAR, CONDITION, Row, Value, either, is_of_the_norm, joined, least_upper
from specnorm_audit.settings import Settings, library

AT_A_SIZE = frozenset({"power", "fft", "gram", "enclose", "smallest", "isometry"})
"""Methods that answer at the input size if one is given. The other methods answer for every size at once."""

ALWAYS = FantasticFour.name
"""Method whose bound is computed for every layer: it costs little, and is exact for isometries, unlike a search."""

IN_FLIGHT = 512 * 2**20
"""Largest number of bytes of kernels that an executor measures at once; a single kernel may be larger."""
_LEAST = 1e-3
"""Time limit in seconds of a column if the layer's time is up: a budget of 0 is invalid."""


def describe(layer: Tensor, settings: Settings) -> Row:
    """Return the row of a layer before it is measured: its geometry, and which facts of it are assumed."""
    row = Row(layer.name, layer.kind or "unknown", layer.shape, None, values=dict.fromkeys(settings.methods),
              reason=layer.refusal, unsettled=layer.unsettled)  # fmt: skip
    if layer.kind == "unknown":
        return row
    size = layer.input_shape if settings.input_shape == "file" else settings.input_shape
    found: dict[ConvSpec, tuple[str, ...]] = {}
    reason = None
    for reading in readings(layer, settings):
        try:
            if reading == "stack":
                spec, assumed = of_stack(layer.shape, sized=size is not None)
            else:
                spec, assumed = resolve(layer, reading, settings, size)
            found.setdefault(spec, assumed)
        except SpecnormError as error:
            reason = str(error)
    if not found:
        return replace(row, reason=layer.refusal or reason)
    spec, *others = found
    assumed = (*_any_of(list(found.values())), *layer.assumed)
    return replace(row, spec=spec, others=tuple(others), assumed=assumed)


def _overflow(kernel: ArrayObject) -> str:
    """Return the reason of a row whose bounds are beyond the numbers of the kernel's precision."""
    precision = "float64" if str(kernel.dtype).endswith("float64") else "float32"
    largest = np.finfo(precision).max
    return f"no bound of its norm is below {largest:.2g}, the largest number of {precision}. Scale the kernel down."


def _any_of(assumed: Sequence[tuple[str, ...]]) -> list[str]:
    """Return what the readings of a kernel assume, with all their layouts: ``layout=OIHW or HWIO``."""
    first, *others = assumed
    words = list(first)
    for other in others:
        for word in other:
            key, _, value = word.partition("=")
            at = next((i for i, known in enumerate(words) if known.startswith(f"{key}=")), None)
            if at is None:
                words.append(f"{word} or convolution" if key == "kind" else word)
            elif words[at] != word and f" or {value}" not in words[at]:
                words[at] += f" or {value}"
    return words


def fill(row: Row, kernel: ArrayObject | None, settings: Settings) -> Row:
    """Return a row with the numbers of its layer. An error becomes the row's reason; earlier numbers are kept."""
    if row.reason is not None or row.spec is None or kernel is None:
        return row
    if row.others:  # the row is to hold for each geometry
        specs = (row.spec, *row.others)
        answers = [fill(replace(row, spec=spec, others=()), kernel, settings) for spec in specs]
        return replace(reduce(either, answers), spec=row.spec, others=row.others)
    results: _Results | None = None
    try:
        if settings.backend is not None:
            kernel = moved_to(kernel, settings.backend, settings.device)
        kernel = _in_shape_of(row.spec, kernel)
        results = _Results(kernel, row.spec, settings)
        interval = results.of("enclose")
        lower = _number(interval.stats["lower"])
        upper = _number(interval.value)
        row = replace(row, lower=lower, upper=upper, note=joined(row.note, _why_wide(interval)))
        row = least_upper(_with_column(row, ALWAYS, results))
        row = _decided(row, results)
        for column in row.values:
            row = _with_column(row, column, results)
    except Exception as error:  # one bad layer must not lose the others
        row = replace(row, reason=in_words(error))
    row = least_upper(row)  # of the interval and of the columns
    if results is not None:
        row = replace(_with_condition(row, results), claim=results.claim)
    row = replace(
        row,
        values={name: x for name, x in row.values.items() if name in settings.methods},
        promises={name: x for name, x in row.promises.items() if name in settings.methods},
    )
    if row.reason is None and row.status == "error":
        row = replace(row, reason=_overflow(kernel))
    is_finite = row.upper is not None and math.isfinite(row.upper)
    return row if is_finite else replace(row, upper=None)


def in_words(error: Exception) -> str:
    """Return what an error says; errors of others with their type."""
    return str(error) if isinstance(error, SpecnormError) else f"{type(error).__name__}: {error}"


def _in_shape_of(spec: ConvSpec, kernel: ArrayObject) -> ArrayObject:
    """Return a kernel, or a stack of matrices as the one matrix that its geometry speaks of."""
    if spec.ndim or len(kernel.shape) == 2:
        return kernel
    xp: Any = backends.backend_for(kernel).namespace(kernel)
    matrix: ArrayObject = xp.reshape(kernel, (spec.cout, kernel.shape[-1]))
    return matrix


def _decided(row: Row, results: _Results) -> Row:
    """Return a row whose interval ends at the gate's bound, if it contained the bound and `certify` decides."""
    bound = results.settings.gate
    if bound is None or not row.lower <= bound < row.upper:
        return row
    try:
        is_within = results.certified(bound)
    except Undecided:
        return row
    if is_within:
        return replace(row, upper=bound)
    return replace(row, lower=bound, note=joined(row.note, f"its norm is proven to be above {bound!r}"))


def _with_column(row: Row, column: str, results: _Results) -> Row:
    """Return a row with the number of one column, or with a note of why there is none."""
    if column == CONDITION:  # `_with_condition` computes it from two other columns
        return row
    if column == CIRCULAR and not _has_circular(results.spec):
        return row
    try:
        result = results.of("fft" if column == CIRCULAR else column)
    except (Undecided, GeometryError) as error:
        if isinstance(error, GeometryError) and is_of_the_norm(column):
            raise
        # If borders cut taps off, a layer has no bound on the smallest singular value, but its norm is bounded.
        return replace(row, note=joined(row.note, f"{column}: {error}"))
    numbers = on_host(result.value).tolist()
    value: Value = tuple(numbers) if isinstance(numbers, list) else numbers
    if column == "isometry":
        value = results.isometry_defect(result)
    return replace(row, values={**row.values, column: value}, promises={**row.promises, column: result.kind})


def _with_condition(row: Row, results: _Results) -> Row:
    """Return a row with a bound of the condition number, if it was asked for and both ends are known."""
    if CONDITION not in row.values or row.reason is not None:
        return row
    try:
        smallest = _number(results.of("smallest").value)
    except SpecnormError:  # the reason is in the column of the smallest singular value, if it was asked for
        return row
    condition = condition_up(row.upper, smallest)
    return replace(row, values={**row.values, CONDITION: condition}, promises={**row.promises, CONDITION: "upper"})


def _why_wide(interval: Result) -> str | None:
    """Return why an interval is wider than was asked for; None if it is not, or if its padding explains it."""
    is_explained = interval.spec.input_shape is None and interval.spec.padding_gain_sq > 1
    upper = backends.backend_for(interval.value).as_proven(interval.value)
    status = status_of(replace(interval, value=upper))
    return None if is_explained or status.startswith("converged") else status


def _has_circular(spec: ConvSpec) -> bool:
    """Return whether a layer may be taken as a circular one at its size, which its stride then divides."""
    if spec.input_shape is None:
        return False
    remainders = [n % s for n, s in zip(spec.input_shape, spec.stride, strict=True)]
    return spec.transposed or not any(remainders)


class _Results:
    """Results of one layer by method name, each computed once, within the layer's budget."""

    def __init__(self, kernel: ArrayObject, spec: ConvSpec, settings: Settings) -> None:
        self.kernel = kernel
        self.spec = spec
        self.settings = settings
        self.computed: dict[str, Result] = {}
        self.claims: list[Upper] = []
        self.begin = monotonic()

    def of(self, name: str) -> Result:
        """Return the result of a method."""
        if name not in self.computed:
            self.computed[name] = self._compute(name)
        return self.computed[name]

    def _compute(self, name: str) -> Result:
        """Run a method, and keep the claims that it makes of the norm."""
        geometry = self._geometry(at_size=name in AT_A_SIZE)
        if name == ExactFFT.name and self.spec.input_shape:  # its answer is that of the circular layer
            geometry |= {"padding_mode": "circular", "padding": "same"}
        limited = replace(self.settings, budget=self._budget_left()).method(name)
        result, claims = proven(self.kernel, limited, **geometry)
        if limited.quantity == "norm":
            self.claims += [upper for _, upper in claims]
        # The report states the budget that was asked for: the remaining budget differs from run to run.
        return replace(result, method=self.settings.method(name))

    def certified(self, bound: float) -> bool:
        """Return whether the norm is at most a bound, by `specnorm.certify` in the time that is left."""
        return certify(self.kernel, bound, budget=self._budget_left(), **self._geometry(at_size=True))

    def _geometry(self, *, at_size: bool) -> dict[str, Any]:
        """Return the layer's geometry, at its size or for every size."""
        geometry = dict(self.spec.geometry)
        if at_size:
            geometry["input_shape"] = self.spec.input_shape
        if not self.spec.ndim:
            # The file says that it is a matrix, or the row does: nobody is to be warned of a filter.
            geometry["layout"] = self.spec.layout or "OI"
        return geometry

    def _budget_left(self) -> float | None:
        """Return the seconds that are left for the layer; None: there is no limit.

        They are at least `_LEAST`, or the whole budget if that is less.
        """
        budget = self.settings.budget
        if budget is None:
            return None
        return max(self.begin + budget - monotonic(), min(_LEAST, budget))

    def isometry_defect(self, by_method: Result) -> float:
        """Return an upper bound of the isometry defect: the smaller one of the method's result and of a search's."""
        geometry = self._geometry(at_size=True)
        by_search = enclose_isometry(self.kernel, rtol=self.settings.rtol, budget=self._budget_left(), **geometry)
        return min(_number(by_method.value), _number(by_search.upper))

    @property
    def claim(self) -> Upper | None:
        """Claim of the least bound of the layer's norm; None: no method made one for this very geometry."""
        claims = [claim for claim in self.claims if self.spec.is_described_by(claim.what)]
        return min(claims, key=float, default=None)


def _number(x: ArrayObject) -> float:
    return float(on_host(x))


def on_host(x: ArrayObject) -> np.ndarray:
    """Return an array in NumPy, exactly; through the plugin, which knows how to detach it."""
    return backends.backend_for(x).to_numpy(x)


def moved_to(kernel: ArrayObject, name: str, device: str | None = None) -> ArrayObject:
    """Return a copy of a kernel in the library of a plugin; refuse a copy with another dtype."""
    values = on_host(kernel)
    copy: ArrayObject = library(name).asarray(values, device)
    dtype_name = str(copy.dtype).rpartition(".")[2]  # without the "torch." of torch's dtypes
    if dtype_name != values.dtype.name:
        raise BackendError(
            f"{name} turned a {values.dtype.name} kernel into {copy.dtype}, which would change what is measured. Use "
            "another backend (JAX does so unless 64-bit values are enabled: set JAX_ENABLE_X64=1)."
        )
    return copy


# -- many layers: here, one after the other, or by an executor ---------------------------------------------------------
def check_executor(executor: object) -> None:
    """Refuse an object that is no `concurrent.futures.Executor`; the message names some."""
    if executor is not None and not isinstance(executor, Executor):
        raise MethodError(
            f"executor={executor!r} is not a concurrent.futures.Executor. Give "
            "concurrent.futures.ProcessPoolExecutor(n), joblib's loky.get_reusable_executor(), or dask's "
            "Client.get_executor()."
        )


def measured(layers: Sequence[Tensor], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Yield the rows of measured layers, in order.

    Without an executor, or if the kernels are too small to start `Workers`, this process measures them, one after the
    other. An executor gets kernels of `IN_FLIGHT` bytes at once. If it loses a layer, the layer's row says how.
    """
    used = executor if executor is not None and _pays_workers(layers, executor) else None
    with closing(in_order(layers, partial(_submitted, settings, used), _bytes, IN_FLIGHT)) as answers:
        for sent, future in answers:
            yield _answer(sent, future)


def _pays_workers(layers: Sequence[Tensor], executor: Executor) -> bool:
    """Return whether the executor measures the layers: `Workers` do from their ``least_bytes`` of kernels."""
    if not isinstance(executor, Workers) or not executor.least_bytes:
        return True
    return len(layers) > 1 and sum(map(_bytes, layers)) >= executor.least_bytes


def _bytes(layer: Tensor) -> int:
    """Return the memory of a layer's kernel; half precision counts as the float32 that it becomes."""
    width = 8 if "64" in layer.dtype else 4
    return math.prod(layer.shape) * width


def _submitted(settings: Settings, executor: Executor | None, layer: Tensor) -> tuple[Row, Future[Row]]:
    """Send a layer to an executor, and return the row that was sent, with the digest of the kernel.

    A layer that cannot be read or sent is answered at once; without an executor it is measured here.
    """
    row, kernel = _loaded(layer, settings)
    done: Future[Row] = Future()
    if executor is None or kernel is None:
        done.set_result(fill(row, kernel, settings))
        return row, done
    row = replace(row, digest=_digest(kernel))
    try:
        return row, executor.submit(_fill_in_worker, row, kernel, settings)
    except Exception as error:  # the executor is broken or shut down, or cannot send the kernel
        done.set_exception(error)
        return row, done


def _fill_in_worker(row: Row, kernel: ArrayObject, settings: Settings) -> Row:
    """Call `fill`, with the digest of the kernel that this process has."""
    return fill(replace(row, digest=_digest(kernel)), kernel, settings)


def _digest(kernel: ArrayObject) -> str:
    return digest_of(on_host(kernel))


def _answer(sent: Row, future: Future[Row]) -> Row:
    """Wait for a layer's row, and return it; a row of another layer, kernel or geometry is refused.

    `fill` raises no errors, so an error is the executor's.
    """
    try:
        failure = future.exception()
    except Exception as error:  # it was cancelled
        failure = error
    if isinstance(failure, KeyboardInterrupt):
        raise failure
    if failure is not None:
        return replace(sent, reason=_why_lost(failure))
    answer: Any = future.result()  # an executor may return any object
    facts = ("name", "digest", "spec", "others")
    if isinstance(answer, Row) and all(getattr(answer, fact) == getattr(sent, fact) for fact in facts):
        return answer
    name = answer.name if isinstance(answer, Row) else type(answer).__name__
    return replace(sent, reason=f"the executor returned another row (of {name}).")


def _why_lost(failure: BaseException) -> str:
    """Return in words how an executor lost a layer."""
    if isinstance(failure, WorkerLost):
        return f"the process that measures it died: {failure}."
    first_line = str(failure).strip().partition("\n")[0].rstrip(".")
    reason = f": {first_line}" if first_line else ""
    return f"the executor failed with {type(failure).__name__}{reason}."


def _loaded(layer: Tensor, settings: Settings) -> tuple[Row, ArrayObject | None]:
    """Return the row of a layer and its kernel; if it is refused or cannot be read, None and a row with the reason."""
    row = describe(layer, settings)
    if row.reason is not None:
        return row, None
    try:
        return row, layer.load()
    except Exception as error:  # a damaged array must not lose the others
        prefix = "" if isinstance(error, SpecnormError) else "cannot be read: "
        return replace(row, reason=prefix + in_words(error)), None
