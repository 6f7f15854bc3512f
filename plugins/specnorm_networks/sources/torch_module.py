"""A torch module as an ONNX model: its program is looked at first, and the module is there to compare with.

`torch.export` traces the module in ``eval()``; what no input reaches is evaluated with its own tensors, so that a
parametrised weight is the weight that the module uses. `torch.onnx` then writes what is left, without its optimiser,
which folds batch normalisation in the precision of the file.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from itertools import compress, count, zip_longest
from operator import attrgetter, getitem
from typing import Any

import numpy as np
import torch
from specnorm_torch import baked
from specnorm_torch.modules import at_inference, check_module, check_values
from specnorm_torch.modules import computed as computed_of
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.utils._pytree import tree_leaves

from specnorm import MethodError
from specnorm.proof import install
from specnorm_networks.model import Computed, Trial
from specnorm_networks.sources.base import Array, Exported
from specnorm_networks.sources.torch_alone import Alone
from specnorm_networks.sources.torch_state import check_function, computed, first_call, outputs

OPSET = 23
"""The first with an operator for attention."""
SAMPLES = 2
"""In the example of a module whose batch is free: a trace of one sample knows no batch."""
BAKED = (
    "Its kernels are computed at each call, and move or cannot be traced: the bound is of a copy with the kernels of "
    "its next call."
)
"""What an answer says that is about a copy."""
SMALLEST = 2.0**-126
"""Smallest normal number of single precision, which attributes and constants of a file have."""
_MOVES = ("cat", "clone", "flip", "index", "index_select", "lift_fresh_copy", "roll", "stack", "_to_copy")
"""Operators that move numbers, besides views."""
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
        If the module cannot be exported, or is no function of its floating inputs.
    """
    check_module(model)
    check_values(model)
    if given and hasattr(given[0], "dtype"):
        given = tuple(torch.as_tensor(x).detach().clone() for x in given)
    try:
        return _exported(model, given)
    except MethodError:
        if not any(computed_of(module) for module in model.modules()):
            raise
        try:
            twin = baked(model)
        except Exception:  # it cannot be copied
            twin = None
        if twin is None:
            raise
        return replace(_exported(twin, given), note=BAKED, computed="one of its kernels")


def _exported(model: nn.Module, given: Any) -> Exported:
    errors: list[Exception] = []
    for example, free in _examples(model, given):
        try:
            # What a first call computes and keeps, a trace would keep without its numbers.
            first_call(model, example)
            known = _tensor_names(model)
            with _silent(), at_inference(model):
                program, changed = _program(model, example, free=free)
                made = sorted(_tensor_names(model) - known)
            if made:
                raise MethodError(
                    f"{type(model).__name__} makes {', '.join(made)} at its first call. Call it once on an input, "
                    "then ask again."
                )
            check_function(model, example)
            with _silent(), at_inference(model):
                found = _written(model, program, example, free=given is not example)
            return replace(found, computed=changed, otherwise=partial(_otherwise, model, program, example, free))
        except MethodError:
            raise
        except Exception as error:  # whatever the model's own code raises while it is traced
            errors.append(error)
    first = str(errors[0]).strip().partition("\n")[0]
    raise MethodError(
        f"torch cannot export {type(model).__name__}: {type(errors[0]).__name__}: {first}. Its control flow may "
        "depend on values (of its own buffers alone: torch.onnx.export(..., dynamo=False) writes a file that is read), "
        "or the shape not be one input's without the batch axis: give an input that it runs on."
    ) from errors[0]


def _tensor_names(model: nn.Module) -> set[str]:
    return {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in model.named_modules()
        for name, value in (vars(module) | module._parameters | module._buffers).items()
        if isinstance(value, Tensor)
    }


def _examples(model: nn.Module, given: Any) -> Iterator[tuple[tuple[Tensor, ...], bool]]:
    """Inputs to trace with, and whether their first axis is free."""
    if given and isinstance(given[0], Tensor):
        yield given, False
    else:
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        for count in (SAMPLES, 1):
            yield (torch.zeros(count, *given, dtype=like.dtype, device=like.device),), count == SAMPLES


def _program(model: nn.Module, example: tuple[Tensor, ...], *, free: bool) -> tuple[ExportedProgram, str]:
    """The program of a module, functional, in which no value is computed from constants alone; and as `_folded`."""
    program, name = _traced(model, example, free=free), type(model).__name__
    if any(getattr(getattr(node.target, "_schema", None), "is_mutable", False) for node in program.graph.nodes):
        # An empty table decomposes nothing; it makes in-place operators functional.
        program = program.run_decompositions({})
    _write_nothing(program)
    _look_at(program, name)
    folded, changed = _folded(program)
    found = program if folded is None else _traced(folded, example, free=free)
    for node in found.graph.nodes:
        if any(isinstance(x, Tensor) and x.is_complex() for x in tree_leaves(node.meta.get("val"))):
            raise MethodError(f"{name} computes complex values ({node.target}): write real and imaginary parts.")
    return found, changed


def _write_nothing(program: ExportedProgram) -> None:
    """Take away the outputs that are written back to inputs and buffers."""
    signature, end = program.graph_signature, program.graph.output_node()
    kept = [spec.kind == OutputKind.USER_OUTPUT for spec in signature.output_specs]
    end.args = (tuple(compress(end.args[0], kept)),)
    signature.output_specs = [*compress(signature.output_specs, kept)]


def _traced(model: nn.Module, example: tuple[Tensor, ...], *, free: bool) -> ExportedProgram:
    each = tuple({0: Dim.DYNAMIC} for _ in example) if free else None
    variadic = each is not None and _is_variadic(model)
    shapes: Any = {"args": each} if variadic else each
    program = torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
    if free and (guards := getattr(program, "_guards_code", None)):
        raise MethodError(
            f"{type(model).__name__} looks at the number of samples (it was traced for {guards[0]}), and may compute "
            "something else for others. Give an input with the number that is meant."
        )
    return program


def _is_variadic(model: nn.Module) -> bool:
    code = getattr(model.forward, "__code__", None)
    return code is not None and code.co_argcount <= 1 and bool(code.co_flags & 4)


def _look_at(program: ExportedProgram, name: str) -> None:
    """Refuse what draws random numbers, before the exporter sees it."""
    for node in program.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and node.users and _is_drawing(node):
            raise MethodError(
                f"{name} draws random numbers ({node.target}), so that it is no function of its inputs. Make it one "
                "first."
            )
        for number in tree_leaves((node.args, node.kwargs)):
            if isinstance(number, float) and 0 < abs(number) < SMALLEST:
                raise MethodError(
                    f"{name} has the number {number!r} ({node.target}), which an ONNX file would hold as 0: constants "
                    "are of single precision there."
                )


def _is_drawing(node: torch.fx.Node) -> bool:
    """Whether an operator that torch says to be random draws, as its arguments have it."""
    schema = node.target._schema  # type: ignore[union-attr]
    arguments = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    arguments |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    share = arguments.get("dropout_p", arguments.get("dropout", arguments.get("p", 1.0)))
    return bool(arguments.get("train", arguments.get("training", True))) and share != 0.0


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


def _folded(program: ExportedProgram) -> tuple[torch.fx.GraphModule | None, str]:
    """The program with the values of what no input reaches in place of it; None: there is no such thing.

    And one of these values that is another one in another precision; empty: there is none.
    """
    whole, known, computed, changed = _unlifted(program), dict[torch.fx.Node, Any](), False, ""
    rounded = dict[torch.fx.Node, str]()
    for node in whole.graph.nodes:
        if node.op == "get_attr":
            known[node] = attrgetter(str(node.target))(whole)
        elif node.op == "call_function" and known.keys() >= {*node.all_input_nodes}:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = found = node.target(*args, **kwargs)
            computed = True
            if not rounded.keys().isdisjoint(node.all_input_nodes) or _rounds(node, known):
                rounded[node] = f"what {node.name} gives"
            if isinstance(found, Tensor):
                whole.register_buffer(f"computed_{node.name}", found.detach())
                with whole.graph.inserting_before(node):
                    stored = whole.graph.get_attr(f"computed_{node.name}")
                node.replace_all_uses_with(stored)
                known[stored] = found
                if node in rounded:
                    rounded[stored] = rounded[node]
        else:
            changed = changed or next((rounded[x] for x in node.all_input_nodes if x in rounded), "")
    if not computed:
        return None, changed
    whole.graph.eliminate_dead_code()
    whole.recompile()
    return whole, changed


def _rounds(node: torch.fx.Node, known: Mapping[torch.fx.Node, Any]) -> bool:
    """Whether what is computed of stored numbers is none of them, and would be another one in another precision."""
    found, given = known[node], [known[x] for x in node.all_input_nodes]
    tensors = [x for x in (found, *given) if isinstance(x, Tensor)]
    if node.target is getitem or not any(x.is_floating_point() for x in tensors):
        return False
    moves = getattr(node.target, "is_view", False) or str(node.target).split(".")[1] in _MOVES
    if not moves or not isinstance(found, Tensor) or found.dtype == given[0].dtype:
        return not moves
    # A cast to integers, or to fewer digits, does not move numbers alone.
    return not (found.is_floating_point() and torch.equal(found.double(), given[0].double()))


def _otherwise(
    model: nn.Module, program: ExportedProgram, example: tuple[Tensor, ...], free: bool, execution: str
) -> str:
    """What a module does otherwise where it is converted to another precision; empty: nothing."""
    dtype: torch.dtype = getattr(torch, execution)
    given = tuple(x.to(dtype) if x.is_floating_point() else x for x in example)
    own = next(x.dtype for x in example if x.is_floating_point())
    if own != torch.float64 and (own != torch.float32 or dtype == torch.float64):
        wide = torch.promote_types(dtype, torch.float32)
        return f"the numbers in the module's code are read as those of {own}: give model.to({wide})"
    if own == dtype:
        return ""
    try:
        twin = copy.deepcopy(model).to(dtype)
        with _silent(), at_inference(twin):
            other, _ = _program(twin, given, free=free)
    except Exception as error:  # whatever the model's own code raises
        return f"the module cannot be converted and traced there ({type(error).__name__}: {error})"
    pairs = zip_longest(_calls(program, dtype), _calls(other, dtype))
    return next((f"the module computes {(a or b)[0]} otherwise there" for a, b in pairs if a != b), "")


def _calls(program: ExportedProgram, dtype: torch.dtype) -> Iterator[tuple[str, list[Any]]]:
    """What a program calls, with numbers, tensors in a precision, and places of values; casts to it are left out."""
    signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    seen, places = dict[torch.fx.Node, Any](), count()
    for node in program.graph.nodes:
        stored = tensors.get(names.get(node.name, ""))
        if stored is not None:
            x = stored.to(dtype) if stored.is_floating_point() else stored
            seen[node] = computed(x).value.tobytes()
            continue
        if str(node.target).startswith(("aten.to.", "aten._to_copy.")):
            to = node.meta["val"].dtype
            if torch.promote_types(to, dtype) == to:
                seen[node] = seen[node.all_input_nodes[0]]
                continue
        if node.users or node.op == "output":
            leaves = [x for x in tree_leaves((node.args, node.kwargs)) if not isinstance(x, torch.dtype)]
            yield str(node.target), [seen[x] if isinstance(x, torch.fx.Node) else repr(x) for x in leaves]
            seen[node] = next(places)


def _written(model: nn.Module, program: ExportedProgram, example: tuple[Tensor, ...], *, free: bool) -> Exported:
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise MethodError(f"Networks of torch need the package onnxscript: {install('networks')}.") from error
    from specnorm_networks.sources.torch_translations import as_it_is, table

    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    own: dict[Any, Callable[..., Any]] = {
        target: as_it_is(target)
        for target in targets
        if isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "prims")
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
            missing = {
                target for target in targets - own.keys() if f"target=torch.ops.{target}]" in str(error.__cause__)
            }
            if not missing:
                raise
            own |= {target: as_it_is(target) for target in missing}
    assert written is not None  # for the type checker: with dynamo
    # Sizes and casts alone: what else no input reaches is folded already.
    optimizer.inline(written.model)
    optimizer.fold_constants(written.model, input_size_limit=LARGEST, output_size_limit=LARGEST)
    optimizer.remove_unused_nodes(written.model)
    whole = _unlifted(written.exported_program or program)
    narrow = next((str(node.target) for node in program.graph.nodes if "adaptive" in str(node.target)), "")
    return Exported(
        written.model_proto, partial(_called, model, example), free, partial(_inner, model, whole, example),
        partial(_alone, model, whole, example), narrow,
    )  # fmt: skip


def _called(model: nn.Module, example: tuple[Tensor, ...], *arrays: Array) -> list[Computed]:
    """What a module returns, called as its user calls it; tensors alone."""
    given = [_like(x, like) for x, like in zip(arrays, example, strict=True)]
    with at_inference(model):
        return outputs(model, given)


def _inner(
    model: nn.Module, program: torch.fx.GraphModule, example: tuple[Tensor, ...], *arrays: Array
) -> dict[str, Computed]:
    """Every value of the program that was written, by the name that it has in the graph."""
    recorder = _Recorder(program)
    with at_inference(model):  # whose tensors the program has
        recorder.run(*(_like(x, like) for x, like in zip(arrays, example, strict=True)))
    return recorder.seen


def _alone(
    model: nn.Module, program: torch.fx.GraphModule, example: tuple[Tensor, ...], trial: Trial, *arrays: Array
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
