"""A torch module as an ONNX model: its program is looked at first, and the module is there to compare with.

`torch.export` traces the module in ``eval()``; what no input reaches is evaluated with its own tensors, so that a
parametrised weight is the weight that the module uses. `torch.onnx` then writes what is left, without its optimiser,
which folds batch normalisation in the precision of the file.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import compress
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from specnorm_torch.modules import at_inference, check_module, check_values
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind

from specnorm.errors import MethodError
from specnorm.proof import install
from specnorm_networks.model import Computed, Trial, equal_but_for_rounding
from specnorm_networks.sources.base import TRAINING, Array, Exported
from specnorm_networks.sources.torch_alone import OPERATOR, Alone, computed
from specnorm_networks.sources.torch_fourier import has_complex, is_complex, with_real_layers

OPSET = 23
"""The first with an operator for attention."""
SAMPLES = 2
"""In the example of a module whose batch is free: a trace of one sample knows no batch."""
SMALLEST = 2.0**-126
"""Smallest normal number of single precision, which attributes and constants of a file have."""
LARGEST = 2**22
"""Entries of constants that are folded in the file."""


def export(model: nn.Module, given: Sequence[int] | Tensor | tuple[Tensor, ...]) -> Exported:
    """Export a module for inputs of one shape, with a free batch axis where it has one.

    Parameters
    ----------
    model : Module
        Its state and mode are as before.
    given : sequence of int, Tensor, or tuple of Tensor
        Shape of one input without the batch axis, or inputs with theirs.

    Returns
    -------
    Exported

    Raises
    ------
    MethodError
        If the module cannot be exported, or its program draws random numbers, or reads a state that it writes.
    """
    check_module(model)
    check_values(model)
    if given and hasattr(given[0], "dtype"):
        given = tuple(torch.as_tensor(x).detach().clone() for x in given)
    errors: list[Exception] = []
    for example, free in _examples(model, given):
        try:
            with _silent(), at_inference(model):
                # What a first call computes and keeps, a trace would keep without its numbers.
                _outputs(model, _drawn(example))
                program = _program(model, example, free=free)
                found = _written(model, program, example, free=given is not example)
            return replace(found, note=_mode(model, example), name=type(model).__name__)
        except MethodError:
            raise
        except Exception as error:  # whatever the model's own code raises while it is traced
            errors.append(error)
    first = str(errors[0]).strip().partition("\n")[0]
    raise MethodError(
        f"torch cannot export {type(model).__name__}: {type(errors[0]).__name__}: {first}. Its control flow may "
        "depend on values (of its own buffers alone: specnorm_torch.bake_ replaces modules with a vanilla_export(); "
        "torch.onnx.export(..., dynamo=False) writes a file that is read), or the shape not be one input's without the "
        "batch axis: give an input that it runs on."
    ) from errors[0]


def _examples(model: nn.Module, given: Any) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """Inputs to trace with, and whether their first axis is free."""
    if given and isinstance(given[0], Tensor):
        yield given, False
    else:
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        for count in (SAMPLES, 1):
            yield (torch.zeros(count, *given, dtype=like.dtype, device=like.device),), count == SAMPLES


def _drawn(example: Sequence[Tensor]) -> list[Tensor]:
    """Normal random numbers in the place of floating inputs, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in example]


def _mode(model: nn.Module, example: tuple[Tensor, ...]) -> str:
    """`TRAINING`, if a module in ``train()`` computes something else there; else empty."""
    modes = {module: module.training for module in model.modules()}
    if not any(modes.values()):
        return ""
    inputs = _drawn(example)
    with torch.random.fork_rng(), at_inference(model):
        wanted = _outputs(model, inputs)
        for module, mode in modes.items():
            module.training = mode
        try:
            found = _outputs(model, inputs)
        except Exception:  # whatever the model's own code raises there
            return TRAINING
    same = len(found) == len(wanted) and all(map(equal_but_for_rounding, found, wanted))
    return "" if same else TRAINING


def _program(model: nn.Module, example: tuple[Tensor, ...], *, free: bool) -> ExportedProgram:
    """The program of a module, functional, in which no value is computed from constants alone."""
    name = type(model).__name__
    # An empty table decomposes nothing; it makes in-place operators functional.
    program = _traced(model, example, free=free).run_decompositions({})
    _check_states(program, name)
    _check_operators(program, name)
    whole, changed = _folded(program)
    if any(map(has_complex, whole.graph.nodes)):
        whole = with_real_layers(whole)
        changed = True
    found = _traced(whole, example, free=free) if changed else program
    for node in found.graph.nodes:
        if is_complex(node) and node.users:
            raise MethodError(
                f"{name} computes complex values ({node.target}), by what is not seen to be linear between two real "
                "values: write real and imaginary parts."
            )
    return found


def _traced(model: nn.Module, example: tuple[Tensor, ...], *, free: bool) -> ExportedProgram:
    each = tuple({0: Dim.DYNAMIC} for _ in example) if free else None
    shapes: Any = {"args": each} if each is not None and _is_variadic(model) else each
    return torch.export.export(model, example, dynamic_shapes=shapes, strict=False)


def _is_variadic(model: nn.Module) -> bool:
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return first is not None and first.kind is first.VAR_POSITIONAL


def _check_states(program: ExportedProgram, name: str) -> None:
    """Refuse a state that is written and read; take away what else is written back to inputs and buffers."""
    signature = program.graph_signature
    end = program.graph.output_node()
    kept = [spec.kind == OutputKind.USER_OUTPUT for spec in signature.output_specs]
    written = {spec.target for spec in signature.output_specs if spec.kind == OutputKind.BUFFER_MUTATION}
    end.args = (tuple(compress(end.args[0], kept)),)
    signature.output_specs = [*compress(signature.output_specs, kept)]
    reached = {end}
    waiting = [*end.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += node.all_input_nodes
    read = {signature.inputs_to_buffers.get(node.name) for node in reached}
    for state in sorted(written & read):
        raise MethodError(
            f"{name} keeps a state: {state} is written at each call, and read. Make it a function of its inputs first; "
            "kernels that are computed at each call become plain ones by specnorm_torch.bake_."
        )


def _check_operators(program: ExportedProgram, name: str) -> None:
    """Refuse what draws random numbers, before the exporter sees it."""
    for node in program.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and node.users and _is_drawing(node):
            raise MethodError(
                f"{name} draws random numbers ({node.target}), so that it is no function of its inputs. Make it one "
                "first."
            )
        for number in leaves((node.args, node.kwargs)):
            if isinstance(number, float) and 0 < abs(number) < SMALLEST:
                raise MethodError(
                    f"{name} has the number {number!r} ({node.target}), which an ONNX file would hold as 0: constants "
                    "are of single precision there."
                )


def _is_drawing(node: torch.fx.Node) -> bool:
    """Whether an operator that torch says to be random draws, as its arguments have it."""
    pair = node.normalized_arguments(node.graph.owning_module, normalize_to_only_use_kwargs=True)  # type: ignore[arg-type]
    arguments = dict(node.kwargs) if pair is None else dict(pair.kwargs)
    share = arguments.get("dropout_p", arguments.get("dropout", arguments.get("p", 1.0)))
    return bool(arguments.get("train", arguments.get("training", True))) and bool(share != 0.0)


def leaves(value: Any) -> list[Any]:
    """What a value holds in tuples, lists, slices and mappings, in order."""
    if isinstance(value, Mapping):
        return [x for each in value.values() for x in leaves(each)]
    if isinstance(value, tuple | list):
        return [x for each in value for x in leaves(each)]
    return [value]


def _unlifted(program: ExportedProgram) -> torch.fx.GraphModule:
    """The program with its own tensors inside, its inputs called as there; it checks none."""
    whole = program.module()
    inputs = whole.graph.find_nodes(op="placeholder")
    for node, name in zip(inputs, program.graph_signature.user_inputs, strict=True):
        node.name = name
    for node in reversed(whole.graph.nodes):
        if node.op == "call_module":
            whole.graph.erase_node(node)
    return torch.fx.GraphModule(whole, whole.graph)


def _folded(program: ExportedProgram) -> tuple[torch.fx.GraphModule, bool]:
    """The program with the values of what no input reaches in place of it, and whether there is such a thing."""
    whole = _unlifted(program)
    known = dict[torch.fx.Node, Any]()
    changed = False
    for node in whole.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(whole)
        elif node.op == "call_function" and known.keys() >= {*node.all_input_nodes}:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = found = node.target(*args, **kwargs)
            changed = True
            if isinstance(found, Tensor):
                whole.register_buffer(f"computed_{node.name}", found.detach())
                with whole.graph.inserting_before(node):
                    stored = whole.graph.get_attr(f"computed_{node.name}")
                node.replace_all_uses_with(stored)
                known[stored] = found
    if changed:
        whole.graph.eliminate_dead_code()
        # Without the values that nothing reads any more: complex ones have no form in a file.
        whole = torch.fx.GraphModule(whole, whole.graph)
    return whole, changed


def _written(
    model: nn.Module,
    program: ExportedProgram,
    example: tuple[Tensor, ...],
    *,
    free: bool,
) -> Exported:
    """What torch writes of a program, in ONNX."""
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise MethodError(f"Networks of torch need the package onnxscript: {install('networks')}.") from error
    from specnorm_networks.sources.torch_translations import as_it_is, table

    # Operators, and how many values each gives.
    targets = {
        node.target: len(val) if isinstance(val := node.meta.get("val"), tuple | list) else 1
        for node in program.graph.nodes
        if node.op == "call_function" and isinstance(node.target, OPERATOR)
    }
    own: dict[Any, Callable[..., Any]] = {
        target: as_it_is(target, count)
        for target, count in targets.items()
        if target.namespace not in ("aten", "prims")
    }
    while True:
        try:
            written = torch.onnx.export(
                program, dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
                custom_translation_table=table() | own,
            )  # fmt: skip
            break
        except Exception as error:
            # What has no translation is written by its name, so that the reader names it.
            said = str(error.__cause__)
            missing = {target for target in targets.keys() - own.keys() if f"target=torch.ops.{target}]" in said}
            if not missing:
                raise
            own |= {target: as_it_is(target, targets[target]) for target in missing}
    assert written is not None  # for the type checker: with dynamo
    # Sizes and casts alone: what else no input reaches is folded already.
    optimizer.inline(written.model)
    optimizer.fold_constants(written.model, input_size_limit=LARGEST, output_size_limit=LARGEST)
    optimizer.remove_unused_nodes(written.model)
    for node in written.model.graph:
        node.metadata_props.clear()  # traces of the Python stack, with names of files
    whole = _unlifted(written.exported_program or program)
    return Exported(
        written.model_proto,
        partial(_called, model, example),
        free,
        partial(_inner, model, whole, example),
        partial(_alone, model, whole, example),
    )


def _called(model: nn.Module, example: tuple[Tensor, ...], *arrays: Array) -> list[Computed]:
    """What a module returns, called as its user calls it; tensors alone."""
    given = [_like(x, like) for x, like in zip(arrays, example, strict=True)]
    with at_inference(model):
        return _outputs(model, given)


def _outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Computed]:
    """Tensors that a module returns for copies of inputs."""
    with torch.compiler.set_stance("force_eager"):
        returned = model(*(x.clone() for x in inputs))
    return [computed(x) for x in leaves(returned) if isinstance(x, Tensor)]


def _inner(
    model: nn.Module,
    program: torch.fx.GraphModule,
    example: tuple[Tensor, ...],
    *arrays: Array,
) -> dict[str, Computed]:
    """Every value of the program that was written, by the name that it has in the graph."""
    recorder = _Recorder(program)
    with at_inference(model):  # whose tensors the program has
        recorder.run(*(_like(x, like) for x, like in zip(arrays, example, strict=True)))
    return recorder.seen


def _alone(
    model: nn.Module,
    program: torch.fx.GraphModule,
    example: tuple[Tensor, ...],
    trial: Trial,
    *arrays: Array,
) -> None:
    """Every operator of the same in double precision."""
    pairs = zip(arrays, example, strict=True)
    given = [_like(x, like.double() if like.is_floating_point() else like) for x, like in pairs]
    names = {node.name for node in program.graph.find_nodes(op="placeholder")}
    with at_inference(model):
        Alone(program, names, trial).run(*given)


class _Recorder(torch.fx.Interpreter):
    """Runs a program and keeps every value that is a tensor."""

    def __init__(self, program: torch.fx.GraphModule) -> None:
        super().__init__(program)
        self.seen: dict[str, Computed] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Compute one value."""
        value = super().run_node(n)
        if n.op != "output" and isinstance(value, Tensor):
            self.seen[n.name] = computed(value)
        return value


def _like(values: Array, x: Tensor) -> Tensor:
    return torch.tensor(np.asarray(values, np.float64), dtype=x.dtype, device=x.device)


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out what torch writes of an export, and warnings that are not the user's."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
