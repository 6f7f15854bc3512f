"""JAX functions, Flax NNX modules and Equinox modules -> ONNX, by jax2onnx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from specnorm import MethodError
from specnorm_networks.certified.operators.executed import UNITS
from specnorm_networks.model import Computed
from specnorm_networks.sources.base import Exported
from specnorm_networks.sources.held import drawn, held


def export(source: Any, input_shape: Any, function: Callable[..., Any] | None = None) -> Exported:
    """Export a function of batches; ``function`` stands for a source that is called in another way."""
    try:
        import jax
        from jax2onnx import to_onnx
    except ModuleNotFoundError as error:
        raise MethodError("Networks of JAX are read through jax2onnx: pip install jax2onnx.") from error
    function, name = function or _inference(source), type(source).__name__
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

    zeros = [np.zeros(shape) for shape in shapes]
    try:
        _check_pure(lambda: run(*zeros), source, name)
        wide = "float64" in dtypes
        try:
            if examples is not None:
                raise MethodError("the number of samples is given")
            model = to_onnx(function, [("B", *input_shape)], enable_double_precision=wide)
        except Exception:  # modules that need a number of samples
            shape_of: Any = jax.ShapeDtypeStruct
            specs = [shape_of(s, d) for s, d in zip(shapes, dtypes, strict=True)]
            return Exported(to_onnx(function, specs, enable_double_precision=wide), run)
    except MethodError:
        raise
    except Exception as error:  # whatever the model's own code raises
        first = str(error).strip().partition("\n")[0]
        raise MethodError(f"jax2onnx cannot export {name}: {type(error).__name__}: {first}") from error
    return Exported(model, run, free=True)


def _inference(source: Any) -> Callable[..., Any]:
    """The function of a batch that a source is at inference; the source stays as it is."""
    roots = {base.__module__.partition(".")[0] for base in type(source).__mro__}
    if "equinox" in roots:
        import equinox
        import jax

        mapped: Callable[..., Any] = jax.vmap(equinox.nn.inference_mode(source))
        return mapped
    if "flax" in roots:
        from flax import nnx

        if not isinstance(source, nnx.Module):
            raise MethodError("A Linen module has no weights: give lambda x: module.apply(variables, x).")
        twin = nnx.clone(source)
        twin.eval()  # type: ignore[no-untyped-call]
        source = twin
    call: Callable[..., Any] = source
    return call


def _check_pure(call: Callable[[], Sequence[Computed]], source: Any, name: str) -> None:
    def state() -> dict[str, Any]:
        return dict(held(type(source), {"": source} | getattr(source, "__dict__", {}), {}))

    first, before, at = call(), state(), drawn()
    pairs, after = zip(first, call(), strict=True), state()
    same = all(np.array_equal(one.value, other.value, equal_nan=True) for one, other in pairs)
    kept = all(after[key] is x or np.array_equal(after[key], x) for key, x in before.items() if key in after)
    if not (same and kept and drawn() == at):
        raise MethodError(
            f"{name} gives another output for the same input at its next call: it draws random numbers, or keeps a "
            "state. Make it a function of its inputs first."
        )
