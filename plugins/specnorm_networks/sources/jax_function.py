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
from specnorm_networks.certified.operators.formats import UNITS
from specnorm_networks.model import Computed
from specnorm_networks.sources.base import TRAINING, Exported


def export(source: Any, input_shape: Any, function: Callable[..., Any] | None = None) -> Exported:
    """Export a function of batches; ``function`` stands for a source that is called in another way."""
    try:
        import jax
        from jax2onnx import to_onnx
    except ModuleNotFoundError as error:
        raise MethodError("Networks of JAX are read through jax2onnx: pip install jax2onnx.") from error
    name = type(source).__name__
    note = ""
    if function is None:
        function, note = _inference(source)
    _load_plugins()
    # Functions whose constants are in double precision take no other inputs.
    default = str(jax.numpy.zeros(()).dtype)
    examples = input_shape if input_shape and hasattr(input_shape[0], "dtype") else None
    if examples is None and default != "float32":
        try:
            jax.eval_shape(function, jax.numpy.zeros((1, *input_shape), "float32"))
        except TypeError:
            examples = (jax.numpy.zeros((1, *input_shape), default),)
    shapes = [(1, *input_shape)] if examples is None else [tuple(x.shape) for x in examples]
    dtypes = ["float32"] if examples is None else [str(x.dtype) for x in examples]

    def run(*arrays: Any) -> Sequence[Computed]:
        found = function(*(jax.numpy.asarray(x, dtype) for x, dtype in zip(arrays, dtypes, strict=True)))
        # Other devices than the CPU may multiply in less than single precision.
        least = 0.0 if jax.default_backend() == "cpu" else UNITS["bfloat16"]
        leaves = jax.tree.leaves(found)
        return [Computed(np.asarray(x), max(least, UNITS.get(str(x.dtype), 0))) for x in leaves]

    try:
        wide = "float64" in dtypes
        try:
            if examples is not None:
                raise MethodError("the number of samples is given")
            model = to_onnx(function, [("B", *input_shape)], enable_double_precision=wide)
        except Exception:  # modules that need a number of samples
            shape_of: Any = jax.ShapeDtypeStruct
            specs = [shape_of(s, d) for s, d in zip(shapes, dtypes, strict=True)]
            return Exported(to_onnx(function, specs, enable_double_precision=wide), run, note=note)
    except MethodError:
        raise
    except Exception as error:  # whatever the model's own code raises
        first = str(error).strip().partition("\n")[0]
        raise MethodError(f"jax2onnx cannot export {name}: {type(error).__name__}: {first}") from error
    return Exported(model, run, free=True, note=note)


@functools.cache
def _load_plugins() -> None:
    """Import the modules of jax2onnx that its first export imports, in an abstract evaluation, where nothing compiles.

    Many of them make layers as examples of what they export: drawing their weights took JAX a hundred compilations.
    Those that need numbers for it fail here; the export imports them as ever.
    """
    import jax
    from jax2onnx import plugins

    def imported() -> Any:
        for root in map(Path, plugins.__path__):
            for path in sorted(root.rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                if "__init__" in parts or "examples" in parts:
                    continue
                with contextlib.suppress(Exception):
                    importlib.import_module(".".join((plugins.__name__, *parts)))
        return jax.numpy.zeros(())

    with contextlib.suppress(Exception):  # JAX that looks for tracers which stay
        jax.eval_shape(imported)


def _inference(source: Any) -> tuple[Callable[..., Any], str]:
    """The function of a batch that a source is at inference, and `TRAINING` if that is another; it stays as it is."""
    roots = {base.__module__.partition(".")[0] for base in type(source).__mro__}
    if "equinox" in roots:
        import equinox
        import jax

        parts = jax.tree.leaves(source, is_leaf=lambda x: getattr(x, "inference", None) is not None)
        trained = any(getattr(x, "inference", None) is False for x in parts)
        mapped: Callable[..., Any] = jax.vmap(equinox.nn.inference_mode(source))
        return mapped, TRAINING if trained else ""
    if "flax" in roots:
        from flax import nnx

        if not isinstance(source, nnx.Module):
            raise MethodError("A Linen module has no weights: give lambda x: module.apply(variables, x).")
        modes = [
            getattr(module, mode, None)
            for _, module in nnx.iter_modules(source)
            for mode in ("deterministic", "use_running_average")
        ]
        twin: Any = nnx.clone(source)
        twin.eval()
        return twin, TRAINING if False in modes else ""
    call: Callable[..., Any] = source
    return call, ""
