"""Audit a model: measure its layers, and report a row for each, gates, and the network's bound."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from specnorm_networks.model_arrays import ModelArrays, Stated, Tensor

import specnorm
from specnorm._internal import check_function, check_number, check_pattern
from specnorm.errors import BackendError, GeometryError, MethodError, ModelFileError
from specnorm.proof import AnyArray, Layout, backends, counted, padding_rules
from specnorm_audit import measuring, tables
from specnorm_audit.geometry import FILTER, at_rank, overrides, spatial_sizes
from specnorm_audit.layers import Selection, select
from specnorm_audit.live import dtype_of, of_live_model
from specnorm_audit.readers import MAX_BYTES, isolated, open_model
from specnorm_audit.report import Report, environment
from specnorm_audit.rows import COLUMNS, SMALLEST_COLUMNS, Row, joined
from specnorm_audit.settings import BUDGET, Settings, checked_names, checked_range, library
from specnorm_audit.streams import Tick

if TYPE_CHECKING:
    from specnorm_audit.attention.measuring import LogitRow


def audit(
    source: str | os.PathLike[str] | Mapping[str, AnyArray] | object,
    *,
    input_shape: int | Sequence[int] | Mapping[str, Sequence[int]] | Literal["file"] | None = None,
    input_range: tuple[float, float] | None = None,
    methods: Sequence[str] = (),
    smallest: bool = False,
    rtol: float = 1e-3,
    budget: float | None = BUDGET,
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
    assume_stored: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    attention: Mapping[str, Any] | Literal["auto"] | None = None,
    gate: float | None = None,
) -> Report:
    """Prove bounds on the spectral norm of every convolution and linear layer of a model.

    Parameters
    ----------
    source : path, mapping of str to array, or model
        A file of safetensors (also sharded: its index or folder), ``.npz``, a PyTorch state dict, ONNX or Keras
        (``.keras``, ``.h5``), recognized by content; no code in a file is ever run. Or arrays by name, in mappings and
        lists that may be nested, as in Flax; names are joined by dots. Or a live model of torch, Flax NNX, Equinox or
        Keras, or ``(model, state)`` if Equinox or Flax keeps a state beside it: one row per convolution and linear
        layer, by its path, with the layer's own geometry; other arrays are named. The model is not run.
        `specnorm_torch.audit_module` runs a torch model and measures each layer at its own size.
    input_shape : int or sequence of int or mapping or "file", optional
        Spatial input sizes of the convolutions (an int: every axis). None: every size at once. "file": for each layer
        the size that the file states, or every size if it states none. A mapping: complete shapes of the network's
        inputs by name; layers are then measured at every size.
    input_range : (float, float), optional
        Range of the entries of the network's inputs. Squares, products and similar operators are Lipschitz only on a
        bounded range. Only for files with a graph.
    methods : sequence of str, default ()
        Further methods, by their names in ``METHODS``; "circular" is the exact norm with circular padding at
        ``input_shape``.
    smallest : bool, default False
        Add the columns "smallest", a lower bound on the smallest singular value, and "condition", an upper bound on the
        condition number. If a layer's borders cut off taps, `Row.note` says so.
    rtol : float, default 1e-3
        Relative width of the proven interval.
    budget : float or None, default 60
        Time limit in seconds for the interval of one layer and its columns together. Columns that have not been started
        by then are omitted, and ``Row.note`` says how wide the interval is. Also the time limit of the search for the
        network's bound, as of `specnorm_networks.network_bound`. None: no limit.
    executor : concurrent.futures.Executor, optional
        Executor that measures the layers. None: this process measures them one by one. If an executor loses a layer
        (its worker dies or it breaks), or returns a row with another name, kernel or geometry, the layer's row has
        ``status`` "error" and says so.
    layers : str or sequence of str, optional
        Shell patterns on names; None: every layer.
    layout : str, optional
        Order of the kernels' axes if the file does not state it, such as ``"HWIO"``; kernels with another number of
        axes follow the same convention.
    padding_mode : {"zeros", "circular", "reflect", "symmetric", "replicate"}, optional
        None: the mode that the file states, or else zeros; the row says then that it was assumed.
    geometry : mapping of str to mapping, optional
        Geometry of layers by shell patterns on their names: ``stride``, ``dilation``, ``groups``, ``transposed``,
        ``layout``, ``padding_mode``, ``padding`` (also "valid", "same_lower", or "same_upper" as in TensorFlow). It
        overrides the file; if several patterns match, the last one counts.
    backend, device : str, optional
        Array library to measure with, by the name of its plugin, and one of its devices. None: NumPy for files, the
        arrays' own library for a mapping.
    progress : callable, optional
        Called after each layer with (number of measured layers, number of layers, name of the layer). Also called after
        each step of the search for the network's bound, with (steps done, largest number of steps, text): the text
        "START to END" names the values between which layers are bounded together.
    max_bytes : int, default 8 GiB
        Limit on what a file's arrays may take in memory; a larger file raises an error. Of safetensors, which are read
        array by array, it is the limit on each array.
    certificate : bool, default False
        Search for proofs that others can check (`docs/check-it-yourself.md`), and add ``Report.certificate``: an upper
        bound on each layer at every input size.
    assume_stored : str or sequence of str, optional
        Shell patterns on names of kernels that the layers use as they are stored, whatever other arrays are beside them
        in the file. The report repeats them (``Report.assume_stored``).
    ignore : str or sequence of str, optional
        Shell patterns on names of arrays that no layer uses, as the caller knows. The report repeats them.
    attention : "auto" or mapping, optional
        Also bound the largest logits of attention heads (`specnorm.logit_bound`), in ``Report.attention``. "auto":
        heads, rotary positions and norms are those of ``config.json`` beside the file, for the model types llama,
        mistral, mixtral, qwen2, qwen3, gpt2, bert, roberta and vit. A mapping has further facts, or others, by the same
        names; ``names`` are those of the arrays (`docs/audit.md`).
    gate : float, optional
        If this lies between the bounds of a layer, `specnorm.certify` decides in the rest of the layer's budget whether
        the norm is at most that.

    Returns
    -------
    Report
        A layer that cannot be measured is a row with ``status`` "error"; the others are kept.

    Raises
    ------
    ModelFileError
        If the file cannot be read, has an unsupported format, or contains none of the requested layers.
    MethodError, GeometryError, BackendError
        If an argument is invalid, or the requested library is not available.

    Examples
    --------
    >>> import numpy, specnorm
    >>> report = specnorm.audit({"conv.weight": numpy.ones((4, 3, 3, 3))}, input_shape=8)
    >>> [(row.name, f"{row.upper:.1f}") for row in report.layers]
    [('conv.weight', '28.7')]
    """
    shapes = None
    if isinstance(input_shape, Mapping):
        for name, shape in input_shape.items():
            if not isinstance(shape, Sequence):
                raise GeometryError(f"input_shape of {name!r} is {shape!r}: give a whole shape, such as (1, 3, 8, 8).")
        shapes = {name: tuple(shape) for name, shape in input_shape.items()}
        input_shape = None
    of_layers: Any = tuple(input_shape) if isinstance(input_shape, list | tuple) else input_shape
    settings = Settings(
        methods=checked_names(methods, COLUMNS, SMALLEST_COLUMNS if smallest else ()),
        input_shape=of_layers,
        layout=layout, padding_mode=padding_mode, backend=backend, device=device, geometry=overrides(geometry),
        rtol=rtol, budget=budget, gate=gate,
    )  # fmt: skip
    settings.check()
    sizes = None if of_layers == "file" else of_layers
    patterns = None if layers is None else _patterns("layers", layers)
    stored, ignored = _patterns("assume_stored", assume_stored), _patterns("ignore", ignore)
    check_number("max_bytes", max_bytes)
    if progress is not None:
        check_function("progress", progress, "a function of the counts of measured layers and of layers, and a name")
    input_range = checked_range(input_range)
    for name, value in (("input_range", input_range), ("input_shape by name", shapes)):
        if value is not None and patterns is not None:
            raise MethodError(f"{name} is about the whole network, and layers chooses a part of it: leave one out.")
    if not (attention in (None, "auto") or isinstance(attention, Mapping)):
        raise MethodError(f'attention={attention!r} is neither "auto" nor a mapping of facts, as in config.json.')
    measuring.check_executor(executor)
    with ExitStack() as stack:
        path, model = _opened(stack, source, max_bytes, sizes)
        kind = "mapping" if isinstance(source, Mapping) else type(source).__name__
        label = f"the {kind}" if path is None else path
        if model.network is None:
            _refuse_questions_about_inputs(label, input_range, shapes)
        selection = select(
            model.arrays, patterns, arrays_are_the_callers=path is None, written_in=model.convention,
            assume_stored=stored, ignore=ignored,
        )  # fmt: skip
        selected = selection.layers
        of_layers = spatial_sizes(of_layers, selected, are_filters=selection.are_filters)
        unmeasured = [Row(x.name, "none", x.shape, None, reason=x.refusal) for x in selection.unmeasured]
        _check_selection(selection, patterns, unmeasured, label)
        names = [*selection.names, *(tensor.name for tensor in model.arrays)]
        _check_patterns(stored, names, label, "assume_stored")
        _check_patterns(ignored, names, label, "ignore")
        _check_patterns(list(settings.geometry), selection.names, label, "geometry")
        rows = _measured(selected, replace(settings, input_shape=of_layers), executor, progress)
        if selection.are_filters:
            matrix = "taken as the {}x{} matrix of a linear layer. " + FILTER
            rows = [replace(row, note=joined(matrix.format(*row.shape), row.note)) for row in rows]
        logits: tuple[LogitRow, ...] = ()
        if attention is not None:
            from specnorm_audit.attention.measuring import rows as logit_rows  # most audits do not ask for it

            stated = attention if isinstance(attention, Mapping) else {}
            logits = tuple(logit_rows(model.arrays, selection.matrices, path, stated, executor))
        network = None
        seconds = _seconds_of_network(budget)
        if patterns is None and model.network is not None:  # a part of the layers is no network
            from specnorm_audit.network import network_of  # an audit without a graph imports no code for networks

            network = network_of(
                model, rows, shapes or sizes, input_range=input_range, budget=budget, progress=progress,
                seconds=seconds,
            )  # fmt: skip
        claims = None
        without_claim: list[str] = []
        if certificate:
            from specnorm_audit.certifying import claims_of  # not needed for most audits

            claims, without_claim = claims_of(model, selected, rows, path, network, seconds)
        used_backends = [library(backend)] if backend else []
        if path is None:
            used_backends += _library_of_caller(model)
    is_live_model = path is None and not isinstance(source, Mapping)
    model_of_source = source[0] if isinstance(source, tuple) else source
    return Report(
        version=specnorm.__version__,
        model=type(model_of_source).__name__ if is_live_model else path,
        layers=tuple(rows),
        skipped=tuple(selection.skipped),
        network=network,
        environment=environment(used_backends),
        unmeasured=tuple(unmeasured),
        left_out=len(selection.names) - len(selected),
        certificate=claims,
        without_claim=tuple(without_claim),
        inert=model.inert,
        live=is_live_model,
        assume_stored=stored,
        ignore=ignored,
        attention=logits,
    )


def _patterns(name: str, words: object) -> tuple[str, ...]:
    """One pattern, or the patterns of a list."""
    patterns: tuple[Any, ...] = (words,) if isinstance(words, str) or not isinstance(words, Iterable) else tuple(words)
    for pattern in patterns:
        check_pattern(name, pattern)
    return patterns


def _seconds_of_network(budget: float | None) -> float | None:
    """Return the time limit for a network's bound: that of ten layers; None: no limit."""
    if budget is None or budget == math.inf:
        return None
    return max(isolated.GRAPH_SECONDS, 10 * budget)


def _refuse_questions_about_inputs(label: str | None, input_range: Any, shapes_by_name: Any) -> None:
    """Refuse arguments about a network's inputs for a model that has no graph."""
    if not (input_range or shapes_by_name):
        return
    argument = "input_range=" if input_range else "input_shape= by name"
    raise ModelFileError(
        f"{label} contains weights, but no graph, and {argument} is about a network's inputs: give its ONNX file, "
        f"or leave {argument} out."
    )


def _measured(
    selected: Sequence[Tensor],
    settings: Settings,
    executor: Executor | None,
    progress: Tick | None,
) -> list[Row]:
    """Return the rows of layers, and tell the progress after each."""
    rows: list[Row] = []
    with closing(measuring.measured(selected, settings, executor)) as answers:
        for row in answers:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(selected), row.name)
    return rows


def _library_of_caller(model: ModelArrays) -> list[backends.Backend]:
    """Return the array library of the caller's own arrays, if it is known."""
    arrays = [tensor for tensor in model.arrays if "float" in tensor.dtype]
    with suppress(BackendError):  # the layer's row says so
        return [backends.backend_for(tensor.load()) for tensor in arrays[:1]]
    return []


def _check_selection(
    selection: Selection, patterns: Sequence[str] | None, unmeasured: Sequence[Row], label: str | None
) -> None:
    """Refuse a selection without layers, or a pattern that matches none: an empty report would pass every gate."""
    unmatched = _unmatched(patterns or (), selection.names)
    if selection.layers and not unmatched:
        return
    condition = f" whose name matches {' or '.join(map(repr, unmatched))}" if unmatched else ""
    if selection.names:
        advice = f"Layers are {tables.some(selection.names)}."
        parts = [p for p in unmatched if p and any(p in name for name in selection.names)]
        if parts:
            advice += f" A pattern matches the whole name: give {f'*{parts[0]}*'!r}."
    else:
        advice = _A_LAYER + "".join(f" {row.name} could be one: {row.reason}" for row in unmeasured[:3])
    raise ModelFileError(
        f"{label} holds no layer{condition} ({counted(len(selection.skipped), 'array')} seen). {advice}"
    )


def _check_patterns(patterns: Sequence[str], names: Sequence[str], label: str | None, argument: str) -> None:
    """Refuse a pattern of an argument that matches no array: it was meant for one."""
    for pattern in _unmatched(patterns, names):
        raise ModelFileError(
            f"{label} holds no array whose name matches {argument}={pattern!r}. Arrays are {tables.some(names)}."
        )


def _unmatched(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def _opened(
    stack: ExitStack,
    source: Any,
    max_bytes: int,
    size: Any,
) -> tuple[str | None, ModelArrays]:
    """Return the path of a model (None: it is a mapping or a live model), and its arrays."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        return path, stack.enter_context(open_model(path, max_bytes))
    if not isinstance(source, Mapping):
        return None, ModelArrays(of_live_model(source, size))
    model = ModelArrays(list(_from_tree(source)))
    if len({tensor.name for tensor in model.arrays}) < len(model.arrays):
        raise ModelFileError("two of the mapping's arrays have the same name, joined by dots.")
    return None, model


_A_LAYER = "A layer is a real floating array with 2 axes (linear) or 3 to 5 (convolution)."


def _from_tree(tree: Any, prefix: str = "") -> Iterator[Tensor]:
    """Yield the arrays of nested mappings and lists; names are joined by dots."""
    for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        name = f"{prefix}{key}"
        x = _array_of_variable(value)
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            shape = tuple(int(n) for n in x.shape)
            is_variable = x is not value and len(shape) > 2  # of Flax or Keras, whose kernels are in their order
            stated = Stated(layout=at_rank("HWIO", len(shape))) if is_variable else Stated()
            yield Tensor(name, shape, dtype_of(x), partial(_identity, x), geometry=stated)
        elif len(shape := _shape_of_numbers(x)) > 1:  # a kernel that is no array is named, not lost
            yield Tensor(name, shape, "list", partial(_identity, x))
        elif isinstance(x, Mapping | list | tuple):
            yield from _from_tree(x, f"{name}.")


def _shape_of_numbers(x: Any) -> tuple[int, ...]:
    """Return the shape of nested lists of numbers by their first entries; of anything else ()."""
    shape = []
    while isinstance(x, list | tuple) and x:
        shape.append(len(x))
        x = x[0]
    return tuple(shape) if isinstance(x, int | float) else ()


def _array_of_variable(x: Any) -> Any:
    """Return the array in a variable of Flax; other objects as they are."""
    value = x.get_value() if hasattr(x, "get_value") else getattr(x, "value", x)
    return value if hasattr(value, "shape") else x


def _identity(x: AnyArray) -> AnyArray:
    return x
