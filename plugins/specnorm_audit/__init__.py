"""Named layers -> rows of results -> verdict. Readers know file formats, renderers know outputs; neither measures."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from specnorm_networks.tools import ModelArrays, Tensor

import specnorm
from specnorm.errors import BackendError, GeometryError, MethodError, ModelFileError
from specnorm.proof import AnyArray, Layout, backends, padding_rules
from specnorm_audit import measuring, tables
from specnorm_audit.geometry import check_names, overrides, spatial_sizes
from specnorm_audit.layers import select
from specnorm_audit.live import of_live_model
from specnorm_audit.output import Tick
from specnorm_audit.plots import draw
from specnorm_audit.readers import MAX_BYTES, isolated, open_model
from specnorm_audit.renderers import render
from specnorm_audit.report import Report, environment
from specnorm_audit.rows import COLUMNS, OTHER_END, Row

if TYPE_CHECKING:
    from specnorm_networks import Graph

__all__ = ["Report", "Row", "audit", "draw", "read_onnx", "render"]


def audit(
    source: str | os.PathLike[str] | Mapping[str, AnyArray] | object,
    *,
    input_shape: int | Sequence[int] | Mapping[str, Sequence[int]] | Literal["file"] | None = None,
    input_range: tuple[float, float] | None = None,
    methods: Sequence[str] = (),
    smallest: bool = False,
    rtol: float = 1e-3,
    budget: float | None = measuring.BUDGET,
    executor: Executor | None = None,
    layers: str | Sequence[str] | None = None,
    layout: Layout | None = None,
    padding_mode: padding_rules.PaddingMode | None = None,
    geometry: Mapping[str, Mapping[str, Any]] | None = None,
    backend: str | None = None,
    device: str | None = None,
    progress: Tick | None = None,
    max_bytes: int = MAX_BYTES,
    certificate: bool = False,
) -> Report:
    """Measure every convolution and linear layer of a model.

    Parameters
    ----------
    source : path, mapping of str to array, or model
        A file of safetensors (also sharded: its index or folder), ``.npz``, a PyTorch state dict, ONNX or Keras
        (``.keras``, ``.h5``), told apart by content; or arrays by name, in mappings and lists that may be nested as
        those of Flax are: names are joined by dots. No code in a file is ever run. Or a live model of torch, Flax NNX,
        Equinox or Keras: a row for each convolution and linear layer, by its path, with the geometry that the layer
        states; arrays outside of these are named; ``(model, state)`` where Equinox or Flax keeps a state beside it. The
        model is not run: `specnorm.audit_module` runs one of torch, and
        measures each layer at its own size.
    input_shape : int or sequence of int or mapping or "file", optional
        Spatial input sizes of the convolutions (an int: every axis). None: every size at once. "file": of each layer
        the size that the file states, every size where it states none. A mapping: whole shapes of the network's inputs
        by name; layers are measured at every size then.
    input_range : (float, float), optional
        Between which every entry of the network's inputs lies: squares, products and the like have a constant there.
        Only for files that hold a graph.
    methods : sequence of str, default ()
        What else to measure, by the names in ``METHODS``; "circular": the exact norm with circular padding at
        ``input_shape``.
    smallest : bool, default False
        Also the columns "smallest", a lower bound of the smallest singular value, and "condition", an upper bound of
        the condition number. Where a layer's borders cut taps off, `Row.note` says so.
    rtol : float, default 1e-3
        Relative width of the proven interval asked for.
    budget : float or None, default 60
        Seconds for the interval of one layer and its columns together: what has not begun by then is not tried, and
        ``Row.note`` says how wide the interval is. None: as long as it takes.
    executor : concurrent.futures.Executor, optional
        Where to measure; None: here, one layer after the other. A row that is not about its layer (by name, digest of
        the kernel, geometry), and a layer that it loses (its worker dies, it breaks), is a row with ``status`` "error"
        that says so.
    layers : str or sequence of str, optional
        Shell patterns on names; None: every layer.
    layout : str, optional
        Axis order of kernels where the file does not say, such as ``"HWIO"``; kernels with other numbers of axes follow
        the same convention.
    padding_mode : {"zeros", "circular", "reflect", "replicate"}, optional
        None: as the file says, or else zeros, and the row says that it was assumed.
    geometry : mapping of str to mapping, optional
        Shell pattern on names -> what is known of those layers: ``stride``, ``dilation``, ``groups``, ``transposed``,
        ``layout``, ``padding_mode``, ``padding`` (also "valid", or "same_upper" as in TensorFlow). It comes before what
        the file says; of several patterns that match, the last counts.
    backend, device : str, optional
        Array library to measure with, by the name of its plugin, and one of its devices. None: NumPy for files, the
        arrays' own library for a mapping.
    progress : callable, optional
        Called after each layer with (done, in all, name), and after each step of the network's search with (done, at
        most, between which values).
    max_bytes : int, default 8 GiB
        Refuse files whose arrays claim more than that in all.
    certificate : bool, default False
        Also state what somebody else can check, `docs/check-it-yourself.md`, as ``Report.certificate``: a bound of each
        layer at every input size, whose proof is searched for, too.

    Returns
    -------
    Report
        A layer that cannot be measured is a row with ``status`` "error"; the others are kept.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is of a kind that is refused, or holds no layer that was asked for.
    MethodError, GeometryError, BackendError
        If an argument is unknown, or the library asked for is not there.

    Examples
    --------
    >>> import numpy, specnorm
    >>> report = specnorm.audit({"conv.weight": numpy.ones((4, 3, 3, 3))}, input_shape=8)
    >>> [(row.name, f"{row.upper:.1f}") for row in report.layers]
    [('conv.weight', '28.7')]
    """
    patterns = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    size: Any = tuple(input_shape) if isinstance(input_shape, list | tuple) else input_shape
    shapes = {name: tuple(n) for name, n in size.items()} if isinstance(size, Mapping) else None
    size = None if shapes is not None else size
    given = overrides(geometry)
    columns = measuring.checked_names(methods, COLUMNS, OTHER_END if smallest else ())
    settings = measuring.Settings(columns, size, layout, padding_mode, backend, device, given, rtol, budget)
    _check(settings)
    between = measuring.checked_range(input_range)
    for name, value in (("input_range", between), ("input_shape by name", shapes)):
        if value is not None and patterns is not None:
            raise MethodError(f"{name} is about the whole network, and layers chooses a part of it: leave one out.")
    measuring.check_executor(executor)
    with ExitStack() as stack:
        path, model = _opened(stack, source, max_bytes, None if size == "file" else size)
        label = f"the {'mapping' if isinstance(source, Mapping) else type(source).__name__}" if path is None else path
        if model.network is None and (between or shapes):
            told = "input_range" if between else "input_shape by name"
            raise ModelFileError(
                f"{label} holds weights and no graph, and {told} is about a network's inputs: give its ONNX file, or "
                f"leave {told} out."
            )
        selection = select(model.arrays, patterns, of_caller=path is None, written_in=model.convention)
        found = selection.layers
        settings = replace(settings, input_shape=spatial_sizes(size, [layer.tensor for layer in found]))
        unmeasured = tuple(
            Row(x.tensor.name, x.kind, x.tensor.shape, None, reason=x.refusal) for x in selection.unmeasured
        )
        idle = [x for x in patterns or () if not any(fnmatchcase(name, x) for name in selection.names)]
        if not found or idle:
            # An empty report would pass every gate.
            wanted = f" whose name matches {' or '.join(idle)}" if idle else ""
            left = "".join(f" {row.name} could be one: {row.reason}" for row in unmeasured[:3])
            raise ModelFileError(
                f"{label} holds no layer{wanted} ({len(selection.skipped)} arrays seen). "
                + (f"Layers are {tables.some(selection.names)}." if selection.names else f"{_A_LAYER}{left}")
            )
        check_names(settings.geometry, selection.names)
        rows: list[Row] = []
        with closing(measuring.measured(found, settings, executor)) as answers:
            for row in answers:
                rows.append(row)
                if progress is not None:
                    progress(len(rows), len(found), row.name)
        network = None
        limited = budget is not None and budget < math.inf
        seconds = max(isolated.GRAPH_SECONDS, 10 * (budget or 0)) if limited else None
        if patterns is None and model.network is not None:  # of a part of the layers there is no network
            from specnorm_audit.network import network_of  # without a graph nothing of networks is imported

            sizes: Any = shapes or (None if size == "file" else size)
            network = network_of(model, rows, sizes, input_range=between, progress=progress, seconds=seconds)
        stated, missing = None, list[str]()
        if certificate:
            from specnorm_audit.certifying import claim_of, claims_of  # for few

            stated, missing = claims_of(model, found, rows)
            if network is not None and path is not None:
                claim, looser = claim_of(model, path, network, seconds)
                stated, missing = stated + claim, missing + looser
        used = [measuring.library(backend)] if backend else []
        with suppress(BackendError):  # of a row that says so
            used += [backends.backend_for(layer.tensor.load()) for layer in found[: path is None]]
    left_out = len(selection.names) - len(found)
    named = path
    if path is None and not isinstance(source, Mapping):
        named = type(source[0] if isinstance(source, tuple) else source).__name__
    return Report(
        specnorm.__version__, named, tuple(rows), tuple(selection.skipped), network, environment(used), unmeasured,
        left_out, stated, tuple(missing), inert=model.inert,
        live=path is None and not isinstance(source, Mapping),
    )  # fmt: skip


def read_onnx(
    path: str | os.PathLike[str],
    input_shape: int | tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Graph:
    """Read the network of an ONNX file, for `specnorm_networks`.

    Parameters
    ----------
    path : path
        Read in this process: `audit` reads files in one with limits on time and memory.
    input_shape : int, tuple of int, or mapping of str to tuple of int, optional
        Spatial sizes of inputs where the file leaves them open, or whole shapes of inputs by name.
    max_bytes : int, default 8 GiB
        Refuse files whose arrays claim more than that in all.

    Returns
    -------
    Graph
        With what it was read from, so that `specnorm_networks.tools.bound` compares both.

    Raises
    ------
    ModelFileError
        If the file cannot be read.
    GeometryError
        If a shape by name is not that of an input.
    """
    from specnorm_networks.onnx import graph_of_file  # with networks, which few need

    return graph_of_file(os.fspath(path), max_bytes, input_shape)


def _opened(
    stack: ExitStack,
    source: Any,
    max_bytes: int,
    size: Any,
) -> tuple[str | None, ModelArrays]:
    """A model's path, None for a mapping or a live model, and its arrays."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return path, stack.enter_context(open_model(path, max_bytes))
    if not isinstance(source, Mapping):
        return None, ModelArrays(of_live_model(source, size))
    model = ModelArrays(list(_from_tree(source)))
    if len({tensor.name for tensor in model.arrays}) < len(model.arrays):
        raise ModelFileError("two of the mapping's arrays have one name, joined by dots.")
    return None, model


def _check(settings: measuring.Settings) -> None:
    settings.method("enclose")  # refuses a tolerance or a budget that is none
    sized = [name for name in settings.methods if name in measuring.NEEDS_A_SIZE]
    if sized and settings.input_shape is None:
        raise MethodError(f"{', '.join(sized)} needs input_shape, the layer's size: give it, or leave the method out.")
    if settings.layout is not None and settings.layout not in get_args(Layout):
        raise GeometryError(f"layout={settings.layout!r} is not one of {', '.join(get_args(Layout))}, or None.")
    modes = get_args(padding_rules.PaddingMode)
    if settings.padding_mode is not None and settings.padding_mode not in modes:
        raise GeometryError(f"padding_mode={settings.padding_mode!r} is not one of {', '.join(modes)}, or None.")
    sizes = settings.input_shape if isinstance(settings.input_shape, tuple) else (settings.input_shape,)
    if settings.input_shape not in (None, "file") and any(
        isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes
    ):
        raise GeometryError(f"input_shape={settings.input_shape!r} is not a positive integer, or one per spatial axis.")
    measuring.check_target(settings.backend, settings.device)


_A_LAYER = "A layer is a real floating array with 2 axes (linear) or 3 to 5 (convolution)."


def _from_tree(tree: Any, prefix: str = "") -> Iterator[Tensor]:
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        name, x = f"{prefix}{key}", _held(value)
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            shape = tuple(int(n) for n in x.shape)
            dtype = getattr(x.dtype, "name", None) or str(x.dtype).rpartition(".")[2]
            yield Tensor(name, shape, dtype, partial(_identity, x))
        elif isinstance(x, Mapping | list | tuple):
            yield from _from_tree(x, f"{name}.")


def _held(x: Any) -> Any:
    """The array in a variable of Flax."""
    inner = x.get_value() if hasattr(x, "get_value") else getattr(x, "value", x)
    return inner if hasattr(inner, "shape") else x


def _identity(x: AnyArray) -> AnyArray:
    return x
