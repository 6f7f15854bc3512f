"""JAX functions, Flax NNX modules and Equinox modules -> ONNX, by jax2onnx."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import install
from specnorm_networks.model import UNITS, Computed, equal_but_for_rounding
from specnorm_networks.sources.base import TRAINING, Exported, no_export


def export(source: Any, input_shape: Any, function: Callable[..., Any] | None = None) -> Exported:
    """Export a function of batches of samples.

    ``function`` is called in place of ``source``, if the source itself is not to be called at inference.
    """
    try:
        import jax
        from jax2onnx import to_onnx

        from specnorm_networks.sources.jax_traces import in_double, with_known_values
    except ModuleNotFoundError as error:
        raise MethodError(f"JAX models need the package jax2onnx: {install('networks-jax')}.") from error
    name = type(source[0] if isinstance(source, tuple) else source).__name__
    note = ""
    if function is None:
        function, note = _inference(source)
    _load_plugins()
    struct: Any = jax.ShapeDtypeStruct
    has_inputs = bool(input_shape) and hasattr(input_shape[0], "dtype")
    if has_inputs:
        examples = [struct(tuple(x.shape), str(x.dtype)) for x in input_shape]
    else:
        examples = [struct((1, *input_shape), "float32")]
        in_default_dtype = struct((1, *input_shape), jax.numpy.zeros(()).dtype)
        if in_default_dtype.dtype == "float64":
            try:
                outputs = jax.tree.leaves(jax.eval_shape(function, *examples))
            except TypeError:  # the function's constants are in double precision, and it refuses another one
                outputs = [in_default_dtype]
            except Exception:  # the model's own code fails, as the export below says
                outputs = []
            if any(output.dtype == "float64" for output in outputs):
                examples = [in_default_dtype]  # jax2onnx would mix both precisions in one operator

    def run(*arrays: Any) -> Sequence[Computed]:
        inputs = [jax.numpy.asarray(x, like.dtype) for x, like in zip(arrays, examples, strict=True)]
        leaves = jax.tree.leaves(function(*inputs))
        # Other devices than the CPU may multiply in less than single precision.
        unit_of_device = 0.0 if jax.default_backend() == "cpu" else UNITS["bfloat16"]
        outputs = [Computed(np.asarray(x), max(unit_of_device, UNITS.get(str(x.dtype), 0))) for x in leaves]
        try:
            more_exact = [Computed(np.asarray(x), UNITS["float64"]) for x in in_double(function, inputs)]
        except Exception:  # one of its primitives takes no other types
            return outputs
        return more_exact if all(map(equal_but_for_rounding, more_exact, outputs)) else outputs

    exported = functools.partial(Exported, run=run, note=note, name=name)
    write = functools.partial(to_onnx, enable_double_precision=any(like.dtype == "float64" for like in examples))

    def by_primitives() -> Exported:
        """Export without jax2onnx's own versions of functions and modules, which do not take all of their arguments."""
        try:
            return exported(write(with_known_values(function, examples), examples))
        except MethodError:
            raise
        except Exception as error:  # whatever the model's own code raises
            raise no_export("jax2onnx", name, error) from error

    if not has_inputs:
        with contextlib.suppress(Exception):  # the module may need a fixed number of samples
            return exported(write(function, [("B", *input_shape)]), free=True, again=by_primitives)
    with contextlib.suppress(Exception):
        return exported(write(function, examples), again=by_primitives)
    return by_primitives()


@functools.cache
def _load_plugins() -> None:
    """Import jax2onnx's modules within an abstract evaluation, so that JAX compiles nothing meanwhile.

    jax2onnx imports them at its first export. Many of them create example layers, and drawing the weights took JAX a
    hundred compilations. Modules that need concrete numbers fail here, and are imported by the export as usual.
    """
    import jax
    from jax2onnx import plugins

    def import_all() -> Any:
        for root in map(Path, plugins.__path__):
            for path in sorted(root.rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                if "__init__" in parts or "examples" in parts:
                    continue
                with contextlib.suppress(Exception):
                    importlib.import_module(".".join((plugins.__name__, *parts)))
        return jax.numpy.zeros(())

    with contextlib.suppress(Exception):  # JAX raises if it checks for leaked tracers
        jax.eval_shape(import_all)


def _inference(source: Any) -> tuple[Callable[..., Any], str]:
    """Return a source as a function of a batch at inference, and a note if the source is in training mode.

    The source itself is not changed. A pair is a model and the state beside it: an Equinox module, whose new state is
    dropped, or a graph definition of Flax NNX.
    """
    model, *states = source if isinstance(source, tuple) else (source,)
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    if "equinox" in packages:
        import equinox
        import jax

        at_inference = equinox.nn.inference_mode(model)
        modules = jax.tree.leaves(model, is_leaf=lambda x: getattr(x, "inference", None) is not None)
        modes = [getattr(module, "inference", None) for module in modules]
        function = (lambda x: at_inference(x, *states)[0]) if states else at_inference
        return jax.vmap(function), TRAINING if False in modes else ""
    if "flax" not in packages:
        return model, ""
    from flax import nnx

    if not isinstance(model, nnx.GraphDef if states else nnx.Module):
        raise MethodError(
            f"{type(model).__name__} has no weights: of a Linen module give lambda x: module.apply(variables, x), of "
            "Flax NNX a module, or the two halves of nnx.split(model)."
        )
    if states:
        model = nnx.merge(model, *states)  # type: ignore[arg-type]  # a GraphDef, as was asked
    modes = []
    for _, module in nnx.iter_modules(model):
        modes.append(getattr(module, "deterministic", None))
        modes.append(getattr(module, "use_running_average", None))
    copy: Any = nnx.clone(model)
    copy.eval()

    # A new copy in each call: normalizations write the weight that they compute into the module.
    def call(*inputs: Any) -> Any:
        return nnx.clone(copy)(*inputs)

    return call, TRAINING if False in modes else ""
