"""List a live model's layers, with the geometry that they state, and its other arrays, as arrays to audit."""

from __future__ import annotations

from functools import partial
from typing import Any

from specnorm_networks.model_arrays import Kind, Tensor, as_in_torch

from specnorm.errors import ModelFileError
from specnorm.proof import AnyArray, backends
from specnorm_audit.geometry import spatial_sizes
from specnorm_audit.layers import MIN_AXES
from specnorm_audit.walking import ModelPart, is_pair, model_parts


def of_live_model(model: Any, input_shape: Any) -> list[Tensor]:
    """List the layers of a model of any framework; ``input_shape`` decides the padding of some.

    ``model`` may also be a pair (model, state), as `model_parts` takes it.

    Raises
    ------
    ModelFileError
        If the object holds no layer and no array.
    """
    if backends.is_array(model):
        what = type(model).__name__
        raise ModelFileError(f"{what} is not a model but one array: specnorm.enclose measures one kernel.")
    is_model = is_pair(model) or not isinstance(model, (list, tuple, str, bytes))
    parts = model_parts(model) if is_model else []
    if not parts:
        raise ModelFileError(
            f"{type(model).__name__} is not a model: give the path of its file, a mapping of names to arrays "
            "(of Linen, the variables), or a model of torch, Flax NNX, Equinox or Keras that is built."
        )
    tensors = [_tensor(part) for part in parts]
    if input_shape is None:
        return tensors
    layers = [tensor for tensor in tensors if tensor.kind in ("conv", "linear")]
    sizes = spatial_sizes(input_shape, layers)
    return [_tensor(part) for part in model_parts(model, sizes)]


def _tensor(part: ModelPart) -> Tensor:
    """Return a part of a model as an array to audit."""
    if part.layer is not None:
        kernel, geometry = part.layer.kernel, part.layer.geometry
        stated = as_in_torch(geometry)
        kind: Kind = "conv" if len(kernel.shape) > MIN_AXES else "linear"
        return Tensor(part.path, tuple(kernel.shape), dtype_of(kernel), partial(_detached, kernel), kind, stated)
    if part.array is None:
        return Tensor(part.path, (), "void", partial(_detached, None), "unknown", refusal=part.refusal)
    array = part.array
    shape = tuple(int(n) for n in array.shape)
    may_be_kernel = len(shape) >= MIN_AXES and "float" in dtype_of(array)
    reason = None
    if may_be_kernel:
        reason = f"it belongs to {part.owner}, a layer that specnorm does not support."
        if backends.backend_for(array).name == "torch":
            reason += " specnorm_torch.audit_module(model, input_shape) measures what one product computes."
    return Tensor(part.path, shape, dtype_of(array), partial(_detached, array), "none", refusal=reason)


def dtype_of(array: AnyArray) -> str:
    """Return the short name of an array's dtype, without its library's."""
    return str(getattr(array.dtype, "name", None) or str(array.dtype).rpartition(".")[2])


def _detached(array: AnyArray) -> AnyArray:
    return backends.backend_for(array).detach(array)
