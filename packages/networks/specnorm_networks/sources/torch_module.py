"""Export a torch module to ONNX, and execute the module beside the exported file.

`torch.export` traces the module in ``eval()`` to a program. Values of the program that depend on no input are computed
with the module's tensors: so a parametrized weight is the very weight that the module uses. `torch.onnx` writes the
rest, without its optimizer, which would fold batch normalization in the precision of the file.
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
from itertools import chain, compress, product
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from specnorm_torch.layers import at_inference, check_module, check_values
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._pytree import tree_leaves, tree_map

from specnorm.errors import MethodError
from specnorm.proof import counted, install
from specnorm_networks.model import Computed, equal_but_for_rounding
from specnorm_networks.sources import torch_kept
from specnorm_networks.sources.base import TRAINING, Array, Exported, no_export
from specnorm_networks.sources.torch_fourier import has_complex, with_real_layers
from specnorm_networks.sources.torch_kept import Example
from specnorm_networks.sources.torch_values import computed, in_double, in_single

OPSET = 23
"""The first set of operators of ONNX with one for attention."""
SAMPLES = 2
"""Number of samples in the traced example, if the batch size is free: torch takes a size of 1 for a fixed size."""
SMALLEST = 2.0**-126
"""Smallest normal number of single precision, in which a file has attributes and constants."""
LARGEST = 2**22
"""Largest number of entries of a constant that is folded in the file."""
_BATCHES = (*range(2, 1025), *(2**power + more for power in range(11, 21) for more in (-1, 0, 1)))
"""Numbers of samples at which the guards of a trace are asked."""
_FLAGS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types of buffers on which a module's control flow may depend."""
_OTHERWISE = (
    "If the shape is the cause, give one input's shape without the batch axis, or an input that the model runs on. If "
    "the model's control flow depends on values of its own buffers, specnorm_torch.bake_ replaces modules that have a "
    "vanilla_export(), and torch.onnx.export(..., dynamo=False) writes a file that network_bound reads."
)
"""What to do about other modules that torch does not export."""
OPERATOR = type(torch.ops.aten.relu.default)
"""Class of torch's operators in programs."""


def export(model: nn.Module, input_shape: Sequence[int] | Tensor | Example) -> Exported:
    """Export a module for inputs of one shape, for any number of samples if the module allows it.

    Parameters
    ----------
    model : Module
        The module; its state and mode are not changed.
    input_shape : sequence of int, Tensor, or tuple of Tensor
        Shape of one sample, without the batch axis; or inputs, with their batch axes.

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
    has_inputs = bool(input_shape) and hasattr(input_shape[0], "dtype")
    structure = torch_kept.structure_of(model, tuple(input_shape))
    kept = torch_kept.find(structure)
    if kept is not None:
        return _with_weights_of(model, kept)
    errors: list[Exception] = []
    examples = [*_examples(model, input_shape, has_inputs)]
    ways = (False, True) if _flags(model) else (False,)
    for has_fixed_flags, (example, free) in product(ways, examples):
        try:
            with _silent(), at_inference(model):
                flags = _flags(model)
                # A module may compute values at its first call and keep them: a trace would keep fake tensors.
                _outputs(model, _random_like(example))
                if has_fixed_flags:
                    _fix_flags(model, flags)
                traced = _traced(model, example, free=free)
                program = _program(model, traced, example, free=free)
                exported, module = _written(model, program, example, free=not has_inputs)
            exported = replace(exported, name=type(model).__name__)
            note = _note_on_batches(traced, example) if free else ""
            without_model = replace(exported, run=_run_nothing, inner=None)
            kept = torch_kept.Kept(without_model, module, example, note)
            if not has_fixed_flags:
                torch_kept.keep(structure, kept, model)
            return replace(exported, note=_notes(model, kept))
        except MethodError:
            raise
        except Exception as error:  # whatever the model's own code raises while it is traced
            errors.append(error)
    cause: BaseException = errors[0]
    while cause.__cause__ is not None:  # torch.onnx wraps the error that says why
        cause = cause.__cause__
    if isinstance(cause, GuardOnDataDependentSymNode):
        raise MethodError(
            f"torch cannot export {type(model).__name__}: its control flow or a shape depends on values, as in "
            "if x.sum() > 0 or a loop until convergence. Write it by torch.where, or with a fixed number of steps. "
            "Buffers of one integer or Boolean may decide; for others, specnorm_torch.bake_ replaces modules that have "
            "a vanilla_export()."
        ) from errors[0]
    raise no_export("torch", type(model).__name__, cause, _OTHERWISE) from errors[0]


def _flags(model: nn.Module) -> dict[str, Any]:
    """Buffers of one integer or Boolean, such as ``initialized``, as NumPy's numbers; without counts of batches."""
    flags = {}
    for name, x in model.named_buffers():
        if x.numel() == 1 and x.dtype in _FLAGS and not name.endswith("num_batches_tracked"):
            flags[name] = x.cpu().numpy().copy()[()]
    return flags


def _fix_flags(model: nn.Module, flags: Mapping[str, Any]) -> None:
    """Put numbers in the place of flags, since a trace does not know the values of buffers.

    ``flags``: those before a call of the model, which may not write others.
    """
    after_call = _flags(model)
    for name, flag in flags.items():
        if not np.array_equal(after_call[name], flag):
            raise MethodError(
                f"{type(model).__name__} keeps a state: a call changes its buffer {name} from {flag} to "
                f"{after_call[name]}. If a layer takes its scale from the first input (ActNorm), call the model once "
                "on data before. Otherwise make it a function of its inputs first."
            )
        place, _, own_name = name.rpartition(".")
        module = model.get_submodule(place)
        del module._buffers[own_name]
        vars(module)[own_name] = flag


def _run_nothing(*_: Array) -> list[Computed]:
    """Take the place of a model that is not kept."""
    return []


def _notes(model: nn.Module, kept: torch_kept.Kept) -> str:
    """Return the sentences about a module for the answer."""
    return " ".join(filter(None, (_training_note(model, kept.example), kept.note)))


def _with_weights_of(model: nn.Module, kept: torch_kept.Kept) -> Exported:
    """Return the export of a module of the same structure with the weights of another one."""
    tensors = torch_kept.tensors_of(model)
    return replace(
        kept.exported,
        model=kept.file_with(tensors),
        run=partial(_run, model, kept.example),
        inner=partial(_inner, model, kept.program, kept.example, tensors=tensors),
        note=_notes(model, kept),
        is_kept=True,
    )


def _examples(model: nn.Module, shape_or_inputs: Any, has_inputs: bool) -> Iterator[tuple[Example, bool]]:
    """Yield inputs to trace with, in the order in which to try them, and whether their batch axis is free."""
    if has_inputs:
        yield tuple(torch.as_tensor(x).detach().clone() for x in shape_or_inputs), False
        return
    floating = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    like = next(floating, torch.zeros(()))
    for count in (SAMPLES, 1):
        yield (torch.zeros(count, *shape_or_inputs, dtype=like.dtype, device=like.device),), count > 1


def _random_like(example: Sequence[Tensor]) -> list[Tensor]:
    """Return normal random numbers in place of floating inputs, from a fixed seed; other inputs as they are."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in example]


def _training_note(model: nn.Module, example: Example) -> str:
    """Return `TRAINING` if the module is in ``train()`` and computes other outputs there; else an empty note."""
    modes = {module: module.training for module in model.modules()}
    if not any(modes.values()):
        return ""
    inputs = _random_like(example)
    with torch.random.fork_rng(), at_inference(model):
        outputs_at_inference = _outputs(model, inputs)
        for module, mode in modes.items():
            module.training = mode
        try:
            outputs_in_training = _outputs(model, inputs)
        except Exception:  # whatever the model's own code raises there
            return TRAINING
    if len(outputs_in_training) != len(outputs_at_inference):
        return TRAINING
    is_same = all(map(equal_but_for_rounding, outputs_in_training, outputs_at_inference))
    return "" if is_same else TRAINING


def _note_on_batches(program: ExportedProgram, example: Example) -> str:
    """Return a sentence that names a batch size for which a module takes another path; empty if none is found.

    The trace of a program guards what it assumed of the number of samples.
    """
    module: Any = program.module()
    guards = [module.get_submodule(str(node.target)) for node in module.graph.nodes if node.op == "call_module"]
    others = []
    for count in _BATCHES:
        inputs = [torch.empty(count, *x.shape[1:], dtype=x.dtype, device="meta") for x in example]
        try:
            for guard in guards:
                guard(*inputs)
        except AssertionError:
            others.append(count)
    if not others:
        return ""
    samples = counted(others[0], "sample")
    more = f", and for other numbers up to {others[-1]}," if len(others) > 1 else ""
    return f"For {samples} together{more} the module takes another path than the one that was read and bounded."


def _program(model: nn.Module, traced: ExportedProgram, example: Example, *, free: bool) -> ExportedProgram:
    """Return the program of a module, without in-place operators and without values that depend on no input."""
    name = type(model).__name__
    _check_derivatives(traced, name)
    # An empty table decomposes nothing; it makes in-place operators functional, and takes as long as the trace.
    program: ExportedProgram = traced if _is_functional(traced) else traced.run_decompositions({})
    _check_states(program, name)
    _check_operators(program, name)
    _make_limits_alike(program)
    module, has_folded = _folded(program)
    if any(map(has_complex, module.graph.nodes)):
        module = with_real_layers(module)
        has_folded = True
    if has_folded:
        program = _traced(module, example, free=free)
    for node in program.graph.nodes:
        if has_complex(node) and node.users:
            raise MethodError(
                f"{name} computes complex values ({node.target}), by what is not seen to be a circular convolution of "
                "real values: write real and imaginary parts."
            )
    return program


def _traced(model: nn.Module, example: Example, *, free: bool) -> ExportedProgram:
    """Trace a module; ``free``: for any number of samples."""
    dynamic_shapes: Any = None
    if free:
        dynamic_shapes = tuple({0: Dim.DYNAMIC} for _ in example)
        first = next(iter(inspect.signature(model.forward).parameters.values()), None)
        if first is not None and first.kind is first.VAR_POSITIONAL:
            dynamic_shapes = {first.name: dynamic_shapes}
    return torch.export.export(model, example, dynamic_shapes=dynamic_shapes, strict=False)


def _is_functional(program: ExportedProgram) -> bool:
    """Whether every call of a program is of an operator that writes nothing."""
    nodes = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    return all(isinstance(node.target, OPERATOR) and not _writes(node) for node in nodes)


def _writes(node: Node) -> bool:
    """Whether a call may write a tensor: with statistics of the batch, a batch normalization does without saying so."""
    target: Any = node.target
    if target is torch.ops.aten.batch_norm.default:
        training = dict(zip((x.name for x in target._schema.arguments), node.args, strict=False)) | node.kwargs
        return training["training"] is not False
    return bool(target._schema.is_mutable)


def _check_states(program: ExportedProgram, name: str) -> None:
    """Refuse a buffer that is both written and read; drop outputs that only write inputs and buffers back."""
    signature = program.graph_signature
    output = program.graph.output_node()
    is_user_output = [spec.kind == OutputKind.USER_OUTPUT for spec in signature.output_specs]
    written_buffers = {spec.target for spec in signature.output_specs if spec.kind == OutputKind.BUFFER_MUTATION}
    output.args = (tuple(compress(output.args[0], is_user_output)),)
    signature.output_specs = [*compress(signature.output_specs, is_user_output)]
    nodes_of_outputs = {output}
    waiting = [*output.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in nodes_of_outputs:
            nodes_of_outputs.add(node)
            waiting += node.all_input_nodes
    read_buffers = {signature.inputs_to_buffers.get(node.name) for node in nodes_of_outputs}
    for state in sorted(written_buffers & read_buffers):
        raise MethodError(
            f"{name} keeps a state: {state} is written at each call, and read. Make it a function of its inputs first; "
            "kernels that are computed at each call become plain ones by specnorm_torch.bake_."
        )


def _check_derivatives(program: ExportedProgram, name: str) -> None:
    """Refuse derivatives of convolutions, which cannot be exported; `torch.enable_grad` makes a program of its own."""
    programs = [part for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    nodes = chain.from_iterable(part.graph.nodes for part in programs)
    if any(node.target is torch.ops.aten.convolution_backward.default for node in nodes):
        raise MethodError(
            f"{name} differentiates a convolution when it is called (torch.autograd.grad). Write the gradient by "
            "layers: that of sum(psi(conv2d(x, W))) is conv_transpose2d(dpsi(conv2d(x, W)), W), where dpsi is the "
            "derivative of psi. The gradient of a deeper potential multiplies values that depend on the input, so it "
            "has no bound."
        )


def _check_operators(program: ExportedProgram, name: str) -> None:
    """Refuse operators that draw random numbers, and numbers that are too small for a file."""
    for node in program.graph.nodes:
        may_draw = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if may_draw and node.users and _draws(node):
            raise MethodError(
                f"{name} draws random numbers ({node.target}), so it is not a function of its inputs. Remove them "
                "first."
            )
        for number in tree_leaves((node.args, node.kwargs)):
            if isinstance(number, float) and 0 < abs(number) < SMALLEST:
                raise MethodError(
                    f"{name} has the number {number!r} ({node.target}), which becomes 0 in an ONNX file: constants "
                    "are of single precision there."
                )


def _make_limits_alike(program: ExportedProgram) -> None:
    """Make the ends of a clamp floats if one of them is: torch.onnx knows no clamp with an int and a float."""
    for node in program.graph.nodes:
        if node.target in (torch.ops.aten.clamp.default, torch.ops.aten.clip.default):
            value, *ends = node.args
            if {*map(type, ends)} == {int, float}:
                node.args = (value, *map(float, ends))


def _draws(node: Node) -> bool:
    """Whether an operator that may be random draws numbers with its arguments: dropout with p = 0, say, does not."""
    pair = node.normalized_arguments(node.graph.owning_module, normalize_to_only_use_kwargs=True)  # type: ignore[arg-type]
    arguments = dict(node.kwargs) if pair is None else dict(pair.kwargs)
    probability = arguments.get("dropout_p", arguments.get("dropout", arguments.get("p", 1.0)))
    is_training = arguments.get("train", arguments.get("training", True))
    return bool(is_training) and bool(probability != 0.0)


def _unlifted(program: ExportedProgram) -> GraphModule:
    """Return a program as a module that contains its tensors, without checks of its inputs.

    The inputs keep their names.
    """
    module = program.module()
    inputs = module.graph.find_nodes(op="placeholder")
    for node, name in zip(inputs, program.graph_signature.user_inputs, strict=True):
        node.name = name
    for node in reversed(module.graph.nodes):
        if node.op == "call_module":  # a check
            module.graph.erase_node(node)
    return GraphModule(module, module.graph)


def _folded(program: ExportedProgram) -> tuple[GraphModule, bool]:
    """Return a program with stored tensors in place of values that depend on no input, and whether there were any."""
    module = _unlifted(program)
    constants = dict[Node, Any]()
    has_folded = False
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants[node] = attrgetter(str(node.target))(module)
        elif node.op == "call_function" and constants.keys() >= {*node.all_input_nodes}:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
            value = node.target(*args, **kwargs)
            constants[node] = value
            has_folded = True
            if isinstance(value, Tensor):
                module.register_buffer(f"computed_{node.name}", value.detach())
                with module.graph.inserting_before(node):
                    stored = module.graph.get_attr(f"computed_{node.name}")
                node.replace_all_uses_with(stored)
                constants[stored] = value
    if has_folded:
        module.graph.eliminate_dead_code()
        # A new module drops tensors that nothing reads any more: complex ones cannot be written to a file.
        module = GraphModule(module, module.graph)
    return module, has_folded


def _written(
    model: nn.Module,
    program: ExportedProgram,
    example: Example,
    *,
    free: bool,
) -> tuple[Exported, GraphModule]:
    """Write a program as ONNX by `torch.onnx`; return it with functions that execute the original, and as a module."""
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise MethodError(f"torch models need the package onnxscript: {install('networks')}.") from error
    from specnorm_networks.sources.torch_translations import as_it_is, table

    value_counts = _value_counts(program)
    translations: dict[Any, Callable[..., Any]] = {}
    for target, count in value_counts.items():
        if target.namespace not in ("aten", "prims"):
            translations[target] = as_it_is(target, count)
    while True:
        try:
            written = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                verbose=False,
                custom_translation_table=table() | translations,
            )
            break
        except Exception as error:
            # An operator without a translation is written by its torch name, which the reader of the file reports.
            cause = str(error.__cause__)
            untranslated = value_counts.keys() - translations.keys()
            missing = {target for target in untranslated if f"target=torch.ops.{target}]" in cause}
            if not missing:
                raise
            for target in missing:
                translations[target] = as_it_is(target, value_counts[target])
    assert written is not None  # for the type checker: it is None without dynamo alone
    # This folds sizes and casts alone: other values that depend on no input were folded before.
    optimizer.inline(written.model)
    optimizer.fold_constants(written.model, input_size_limit=LARGEST, output_size_limit=LARGEST)
    _read_sizes_directly(written.model)
    optimizer.remove_unused_nodes(written.model)
    for node in written.model.graph:
        node.metadata_props.clear()  # they have the Python stack of the trace, with names of the user's files
    module = _unlifted(written.exported_program or program)
    inner = partial(_inner, model, module, example)
    return Exported(written.model_proto, run=partial(_run, model, example), free=free, inner=inner), module


def _read_sizes_directly(model: Any) -> None:
    """Let a file read one size as the Shape of one axis, which its shapes are inferred from.

    torch.onnx makes a number of it and a vector again, through which no inference of shapes follows it.
    """
    from onnxscript import ir

    for node in list(model.graph):
        before = [node]
        for operator in ("Reshape", "Squeeze", "Shape"):
            if before[-1] is None or before[-1].op_type != operator:
                break
            before.append(before[-1].inputs[0].producer())
        else:
            size = before[2].outputs[0]
            attributes = {name: attribute.value for name, attribute in before[2].attributes.items()}
            is_of_one_axis = attributes.get("end") == attributes.get("start", 0) + 1
            shape = ir.convenience.get_const_tensor(node.inputs[1])
            if is_of_one_axis and shape is not None and shape.numpy().tolist() == [-1]:
                ir.convenience.replace_all_uses_with(node.outputs[0], size)


def _value_counts(program: ExportedProgram) -> dict[Any, int]:
    """Return the number of values that each operator of a program returns."""
    value_counts: dict[Any, int] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, OPERATOR):
            value = node.meta.get("val")
            value_counts[node.target] = len(value) if isinstance(value, tuple | list) else 1
    return value_counts


def _run(model: nn.Module, example: Example, *arrays: Array) -> list[Computed]:
    """Return the tensors that a module returns for arrays, called as its user calls it."""
    with at_inference(model):
        return _outputs(model, _tensors(arrays, example))


def _outputs(model: nn.Module, inputs: Sequence[Tensor]) -> list[Computed]:
    """Return the tensors that a module returns for copies of inputs."""
    with torch.compiler.set_stance("force_eager"):
        returned = model(*(x.clone() for x in inputs))
    return [computed(x) for x in tree_leaves(returned) if isinstance(x, Tensor)]


def _inner(
    model: nn.Module,
    program: GraphModule,
    example: Example,
    *arrays: Array,
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, Computed]:
    """Return every value of the exported program, by its name in the graph.

    ``tensors``: by their names, in place of those of the program.
    """
    recorder = _Recorder(program, tensors or {})
    with at_inference(model):  # the program has the model's tensors
        recorder.run(*_tensors(arrays, example))
    return recorder.values


class _Recorder(torch.fx.Interpreter):
    """Interpreter of a program that keeps every value that is a tensor, in double precision where it is single.

    Values that depend on no input are computed in the program's precision, as exporters do.
    """

    def __init__(self, program: GraphModule, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(program)
        self.tensors = tensors
        self.values: dict[str, Computed] = {}
        self.insists = False
        """Whether the last operator takes no double precision."""
        self.is_fixed = False
        """Whether the last value depends on no input."""
        self._of_inputs: set[Node] = set()

    def run_node(self, n: Node) -> Any:
        """Compute one value."""
        self.insists = False
        self.is_fixed = n.op != "placeholder" and self._of_inputs.isdisjoint(n.all_input_nodes)
        if not self.is_fixed:
            self._of_inputs.add(n)
        value = super().run_node(n)
        if n.op != "output" and isinstance(value, Tensor):
            self.values[n.name] = computed(value if self.insists else in_double(value))
        return value if self.is_fixed else in_double(value)

    def fetch_attr(self, target: str) -> Any:
        """Return a tensor of the program, or the one that takes its place."""
        return self.tensors[target] if target in self.tensors else super().fetch_attr(target)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator in double precision, also if it is told to return another; in single if it insists on it."""
        if self.is_fixed:
            return super().call_function(target, args, kwargs)
        in_doubles = tree_map(in_double, (args, kwargs))
        try:
            return super().call_function(target, *in_doubles)
        except RuntimeError:
            self.insists = True
            return super().call_function(target, *tree_map(in_single, (args, kwargs)))


def _tensors(arrays: Sequence[Array], example: Sequence[Tensor]) -> list[Tensor]:
    """Return arrays as tensors with the dtypes and devices of others."""
    pairs = zip(arrays, example, strict=True)
    return [torch.tensor(np.asarray(x, np.float64), dtype=like.dtype, device=like.device) for x, like in pairs]


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress messages and warnings of torch during an export."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
