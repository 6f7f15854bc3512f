"""The end of a training run: kernels shrunk until their norms are proven, and what is then used compared with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import specnorm
from specnorm.errors import MethodError, SpecnormError
from specnorm.plugin import at_every_size, check_bound
from specnorm_torch.baking import Saved, bake_tensor
from specnorm_torch.constraint import GramRescaling, SpectralNorm
from specnorm_torch.modules import (
    at_inference,
    check_module,
    check_used,
    check_values,
    computed,
    geometry_of,
    is_layer,
    is_quantised,
    name_of,
    parametrisations,
    weight_of,
)


def rescale_(model: nn.Module, bound: float | None = None, *, bake: bool = False) -> list[str]:
    """End the training: bake constraints in, and shrink kernels until their norms are *proven* to be within the bound.

    After it has written, it runs each layer and compares the kernel that it then uses with the proven one.

    Parameters
    ----------
    model : Module
        Changed in place: the parametrisations of `spectral_norm` and `gram_rescaling` are removed. Left as it was
        if anything is refused.
    bound : float, optional
        None: what has a constraint, each to its own bound. A number: every convolution and linear layer.
    bake : bool, default False
        Remove also other parametrisations and the old-style hooks of ``torch.nn.utils``, see `bake_`. Otherwise a layer
        with one is refused, since it computes its kernel anew before each call.

    Returns
    -------
    list of str
        Names of the layers for which ``specnorm.certify(weight, bound, **geometry_of(layer))`` now is True, at
        every input size, for the kernel as it is stored (a circular layer with a stride is shrunk by its bound at
        stride 1, since sizes that the stride does not divide count too); and of other tensors that `spectral_norm`
        constrains, such as ``"lstm.weight_hh_l0"``, for which it is True of the matrix.

    Raises
    ------
    MethodError, GeometryError
        If there is nothing to certify, or a layer does not use its ``weight`` as it stands: a forward of its own, a
        weight that is a property, hooks. The message names it.
    Undecided
        If a norm could not be proven within the budget.
    """
    check_module(model)
    if bound is not None:
        check_bound(bound)
        packed = next((name for name, x in model.named_modules() if is_quantised(x)), None)
        if packed is not None:
            raise MethodError(f"{packed or name_of(model)} is quantised: certify the model before it is quantised.")
    shrunk: dict[int, Tensor] = {}
    asked = [
        (prefix, module, name)
        for prefix, module in model.named_modules()
        for name in _constrained(prefix, module, bound)
    ]
    if not asked:
        raise MethodError("no layer has a constraint: apply spectral_norm first, or give a bound for every layer.")
    for prefix, module, _ in asked:
        check_values(module, prefix)
    before = [Saved(module) for module in dict.fromkeys(module for _, module, _ in asked)]
    try:
        with at_inference(model):
            plans = [_Plan.of(*each, bound, bake, shrunk) for each in asked]
        for plan in plans:
            plan.write()
        with at_inference(model):
            for plan in plans:
                plan.check()
    except BaseException:
        for saved in before:
            saved.restore()
        raise
    return [plan.label for plan in plans]


def _constrained(prefix: str, module: nn.Module, bound: float | None) -> list[str]:
    """Names of a module's tensors that are to be certified."""
    if "parametrizations" in prefix.split("."):
        return []
    ours = [
        name
        for name in getattr(module, "parametrizations", {})
        if any(parametrisations(module, name, kind) for kind in (SpectralNorm, GramRescaling))
    ]
    if bound is not None and is_layer(module):
        return list(dict.fromkeys(["weight", *ours]))
    return ours


@dataclass
class _Plan:
    """One kernel to be written, which was proven already."""

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
        bake: bool,
        shrunk: dict[int, Tensor],
    ) -> _Plan:
        """Shrink a kernel; nothing of the module is changed."""
        label = f"{prefix}.{name}" if prefix else name
        norms = parametrisations(module, name, SpectralNorm)
        others = parametrisations(module, name, GramRescaling)
        limit = min([x.bound for x in norms] + [1.0 for _ in others]) if bound is None else bound
        layer = is_layer(module) and name == "weight"
        try:
            _check_writable(module, name, bake)
            # Sizes that the stride does not divide count too.
            geometry = at_every_size(geometry_of(module)) if layer else {}
            if layer and not computed(module):
                check_used(module)
            weight = weight_of(module) if layer else getattr(module, name)
        except SpecnormError as error:
            raise type(error)(f"{label}: {error}") from error
        given = weight
        # Two layers may share it: then it is shrunk for both.
        weight = shrunk.get(id(given), weight).detach()
        rows = [x.dim for x in norms if x.dim is not None]
        if rows:
            matrix = specnorm.rescale(weight.movedim(rows[0], 0).flatten(1), limit)
            kernel = matrix.reshape(weight.movedim(rows[0], 0).shape).movedim(0, rows[0])
        else:
            kernel = specnorm.rescale(weight, limit, **geometry)
        if isinstance(given, nn.Parameter):
            shrunk[id(given)] = kernel
        return cls(prefix if layer else label, module, name, kernel, limit, layer, geometry)

    @torch.no_grad()
    def write(self) -> None:
        """Make the tensor a plain parameter, and store the kernel."""
        if self.name in computed(self.module):
            bake_tensor(self.module, self.name)
        stored = getattr(self.module, self.name)
        try:
            with torch.inference_mode(stored.is_inference()), torch.no_grad():
                stored.copy_(self.kernel)
        except RuntimeError as error:  # expanded
            first = str(error).partition(". ")[0]
            raise MethodError(
                f"{self.label}: {self.name} of {name_of(self.module)} cannot be written to: {first.rstrip('.')}. "
                "Everything is as it was."
            ) from error

    def check(self) -> None:
        """Compare the kernel that is used now with the proven one."""
        used = check_used(self.module) if self.is_layer else getattr(self.module, self.name)
        if torch.equal(used, self.kernel):
            return
        # Of a shared weight, which was shrunk for another layer as well.
        if not (self.is_layer and specnorm.certify(used, self.bound, **self.geometry)):
            raise MethodError(
                f"{self.label}: {name_of(self.module)} does not use the kernel that was written to it. Everything "
                "is as it was."
            )


def _check_writable(module: nn.Module, name: str, bake: bool) -> None:
    """Refuse a tensor that the next forward would compute anew."""
    how = computed(module).get(name)
    if how == "a parametrisation":
        every: Any = module.parametrizations
        if bake or all(isinstance(x, SpectralNorm | GramRescaling) for x in every[name]):
            return
        how = "a parametrisation of another kind"
    if how is not None and not bake:
        raise MethodError(
            f"its {name} is computed by {how} before each call, so that it cannot be set: call "
            "specnorm_torch.bake_(model) first, or give bake=True."
        )
    if how is None and module._parameters.get(name) is None:
        raise MethodError(
            f"{name} of {name_of(module)} is no parameter but computed, so that it cannot be set. Put a plain "
            "layer with the kernel that it computes in its place."
        )
