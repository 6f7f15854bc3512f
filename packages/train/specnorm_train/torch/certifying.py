"""End a training: shrink kernels until their norms are proven to be within a bound, and check that layers use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from specnorm_torch.backend import BACKEND
from specnorm_torch.baking import SavedModule, bake_tensor, remove_hooks
from specnorm_torch.layers import (
    at_inference,
    check_matrix,
    check_module,
    check_used,
    check_values,
    geometry_of,
    is_layer,
    is_matrix,
    is_quantised,
    makers_of_tensors,
    name_of,
    parametrisations,
    weight_of,
)
from torch import Tensor, nn

import specnorm
from specnorm._internal import at_every_size, check_bound, check_flag
from specnorm.errors import MethodError, SpecnormError
from specnorm_train.torch.constraint import GramRescaling, SpectralNorm


def rescale_(
    model: nn.Module, bound: float | None = None, *, only_shrink: bool = True, bake: bool = False
) -> list[str]:
    """Replace constraints by plain kernels at the end of training, with norms that are *proven* to be within a bound.

    Kernels are scaled down where necessary. Afterwards each layer is run, and the kernel that it uses is compared with
    the proven one.

    Parameters
    ----------
    model : Module
        Changed in place: the parametrizations of `spectral_norm` and `gram_rescaling` are removed. If an error is
        raised, the model is unchanged.
    bound : float, optional
        None: scale the constrained tensors, each to the bound of its constraint. A number: scale all convolutions and
        linear layers to this bound, and the matrices of Embedding, EmbeddingBag and Bilinear.
    only_shrink : bool, default True
        Whether to leave layers whose norms are within the bound unchanged. False: they are enlarged, so that every norm
        is just below the bound, for example for a critic that should attain the largest distance. Biases are not
        changed. A weight that several layers share is enlarged only for the first of them.
    bake : bool, default False
        Whether to remove other parametrizations too, and old-style hooks of ``torch.nn.utils``; see `bake_`. Otherwise
        a layer with one raises an error, since it would recompute its kernel before each call.

    Returns
    -------
    list of str
        Names of the layers for which ``specnorm.certify(weight, bound, **geometry_of(layer))`` is now True, at every
        input size, for the stored kernel. (A circular layer with a stride is scaled by its bound at stride 1, so that
        sizes that the stride does not divide are included.) Also names of other tensors that `spectral_norm`
        constrains, such as ``"lstm.weight_hh_l0"``, whose norm as a matrix is proven to be within the bound.

    Raises
    ------
    MethodError, GeometryError
        If there is nothing to certify, or a layer does not use its stored ``weight``: it has its own forward, its
        weight is a property, or it has hooks. The message names the layer.
    Undecided
        If a norm could not be proven within the budget.
    """
    check_module(model)
    check_flag("only_shrink", only_shrink)
    check_flag("bake", bake)
    if bound is not None:
        check_bound(bound)
        quantised = next((name for name, module in model.named_modules() if is_quantised(module)), None)
        if quantised is not None:
            raise MethodError(f"{quantised or name_of(model)} is quantized: certify the model before it is quantized.")
    for name, x in model.named_parameters():
        reason = BACKEND.refusal(x) if hasattr(x, "device_mesh") else None
        if reason is not None:
            raise MethodError(f"{name}: {reason}")
    selected: list[tuple[str, nn.Module, str]] = []
    for prefix, module in model.named_modules():
        selected += [(prefix, module, name) for name in _tensors_to_shrink(prefix, module, bound)]
    if not selected:
        if bound is None:
            raise MethodError("no layer has a constraint: apply spectral_norm first, or give a bound for every layer.")
        raise MethodError(
            f"{name_of(model)} has no convolution, linear layer, embedding or bilinear layer, and no tensor "
            "with a constraint."
        )
    for prefix, module, _ in selected:
        check_values(module, prefix)
    saved_modules = [SavedModule(module) for module in dict.fromkeys(module for _, module, _ in selected)]
    shrunk_kernels: dict[int, Tensor] = {}
    try:
        with at_inference(model):
            kernels = [
                _ProvenKernel.of(prefix, module, name, bound, only_shrink, bake, shrunk_kernels)
                for prefix, module, name in selected
            ]
        for kernel in kernels:
            kernel.write()
        with at_inference(model):
            for kernel in kernels:
                kernel.check()
    except BaseException:
        for saved in saved_modules:
            saved.restore()
        raise
    remove_hooks(model)
    return [kernel.label for kernel in kernels]


def _tensors_to_shrink(prefix: str, module: nn.Module, bound: float | None) -> list[str]:
    """Names of a module's own tensors that `rescale_` shrinks."""
    if "parametrizations" in prefix.split("."):
        return []
    constrained = []
    for name in getattr(module, "parametrizations", {}):
        if any(parametrisations(module, name, kind) for kind in (SpectralNorm, GramRescaling)):
            constrained.append(name)
    if bound is not None and (is_layer(module) or is_matrix(module)):
        return list(dict.fromkeys(["weight", *constrained]))
    return constrained


@dataclass
class _ProvenKernel:
    """A kernel with a proven norm, and the tensor to which it will be written.

    Parameters
    ----------
    label : str
        Name of the layer, or of the tensor if that is not a layer's weight.
    module : Module
        The module with the tensor.
    name : str
        Name of the tensor in the module.
    kernel : Tensor
    bound : float
    is_layer : bool
        Whether the tensor is the weight of a convolution or linear layer; else its norm as a matrix is bounded.
    geometry : dict
    """

    label: str
    module: nn.Module
    name: str
    kernel: Tensor
    bound: float
    is_layer: bool
    geometry: dict[str, Any]

    @classmethod
    def of(
        cls,
        prefix: str,
        module: nn.Module,
        name: str,
        bound: float | None,
        only_shrink: bool,
        bake: bool,
        shrunk_kernels: dict[int, Tensor],
    ) -> _ProvenKernel:
        """Rescale a kernel, without changing the module.

        Parameters
        ----------
        prefix : str
            Name of the module.
        name : str
            Name of the tensor.
        bound, only_shrink, bake
            As in `rescale_`.
        shrunk_kernels : dict of int to Tensor
            Kernels that were shrunk before, by the identity of their parameter; extended.
        """
        label = f"{prefix}.{name}" if prefix else name
        spectral_norms = parametrisations(module, name, SpectralNorm)
        if bound is None:
            # A Gram rescaling has the bound 1.
            gram_rescalings = parametrisations(module, name, GramRescaling)
            bound = min([x.bound for x in spectral_norms] + [1.0 for _ in gram_rescalings])
        is_layers_weight = is_layer(module) and name == "weight"
        is_plain_matrix = is_matrix(module) and name == "weight" and not spectral_norms
        try:
            if is_plain_matrix:
                check_matrix(module)
            _check_writable(module, name, bake)
            # Also at sizes that the stride does not divide.
            geometry = at_every_size(geometry_of(module)) if is_layers_weight else {}
            if is_layers_weight and not makers_of_tensors(module):
                check_used(module)
            parameter = weight_of(module) if is_layers_weight else getattr(module, name)
        except SpecnormError as error:
            raise type(error)(f"{label}: {error}") from error
        # A parameter that several layers share is rescaled for the first of them, and shrunk for each other in turn.
        weight = shrunk_kernels.get(id(parameter), parameter).detach()
        only_shrink = only_shrink or id(parameter) in shrunk_kernels
        row_axes = [0] if is_plain_matrix else [x.dim for x in spectral_norms if x.dim is not None]
        if row_axes:
            rows_first = weight.movedim(row_axes[0], 0)
            matrix = specnorm.rescale(rows_first.flatten(1), bound, only_shrink=only_shrink)
            kernel = matrix.reshape(rows_first.shape).movedim(0, row_axes[0])
        else:
            kernel = specnorm.rescale(weight, bound, only_shrink=only_shrink, **geometry)
        if isinstance(parameter, nn.Parameter):
            shrunk_kernels[id(parameter)] = kernel
        return cls(prefix if is_layers_weight else label, module, name, kernel, bound, is_layers_weight, geometry)

    @torch.no_grad()
    def write(self) -> None:
        """Replace the tensor by a plain parameter with the kernel."""
        if self.name in makers_of_tensors(self.module):
            bake_tensor(self.module, self.name)
        stored = getattr(self.module, self.name)
        try:
            with torch.inference_mode(stored.is_inference()), torch.no_grad():
                stored.copy_(self.kernel)
        except RuntimeError as error:
            # For example an expanded tensor.
            reason = str(error).partition(". ")[0].rstrip(".")
            raise MethodError(
                f"{self.label}: {self.name} of {name_of(self.module)} cannot be written to: {reason}. "
                "Everything is as it was."
            ) from error

    def check(self) -> None:
        """Compare the kernel that the module uses now with the proven one."""
        kernel_in_use = check_used(self.module) if self.is_layer else getattr(self.module, self.name)
        if torch.equal(kernel_in_use, self.kernel):
            return
        # If a shared weight was shrunk for another layer afterwards, the kernel is another one: prove its norm.
        is_proven = self.is_layer and specnorm.certify(kernel_in_use, self.bound, **self.geometry)
        if not is_proven:
            raise MethodError(
                f"{self.label}: {name_of(self.module)} does not use the kernel that was written to it. Everything "
                "is as it was."
            )


def _check_writable(module: nn.Module, name: str, bake: bool) -> None:
    """Refuse a tensor that the next forward would compute again."""
    maker = makers_of_tensors(module).get(name)
    if maker == "a parametrization":
        all_parametrisations: Any = module.parametrizations
        are_ours = all(isinstance(x, SpectralNorm | GramRescaling) for x in all_parametrisations[name])
        if bake or are_ours:
            return
        maker = "a parametrization of another kind"
    if maker is not None and not bake:
        raise MethodError(
            f"its {name} is computed by {maker} before each call, so that it cannot be set: call "
            "specnorm_torch.bake_(model) first, or give bake=True."
        )
    if maker is None and module._parameters.get(name) is None:
        raise MethodError(
            f"{name} of {name_of(module)} is not a parameter but computed, so that it cannot be set. Put a plain "
            "layer with the kernel that it computes in its place."
        )
