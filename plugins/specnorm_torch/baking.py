"""Kernels that are computed before each call, by parametrisations or old-style hooks, made plain parameters."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import remove_spectral_norm
from torch.nn.utils.weight_norm import remove_weight_norm

from specnorm_torch.modules import at_inference, computed

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def bake_(model: nn.Module) -> list[str]:
    """Replace every tensor that a parametrisation or an old-style hook computes by a plain parameter.

    Its values are those that the model uses in ``eval()`` now. Parametrisations of `torch.nn.utils.parametrize` are
    removed, and the hooks of ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune``. Other modules inside the
    model that have a method ``vanilla_export()``, as deel-torchlip's normalisations do, are replaced by the plain
    module that it returns.

    Parameters
    ----------
    model : Module
        Changed in place; modes are as before. An optimizer that was given the parameters has to be made anew.

    Returns
    -------
    list of str
        Names of the tensors that are plain parameters now, and of the modules that were replaced.
    """
    done = []
    for prefix, module in list(model.named_modules()):
        if "parametrizations" not in prefix.split("."):
            names = computed(module)
            for name in names:
                bake_tensor(module, name)
                done.append(f"{prefix}.{name}" if prefix else name)
            if prefix and not names and hasattr(module, "vanilla_export") and not list(module.children()):
                plain = _vanilla(module)
                if plain is not module:
                    model.set_submodule(prefix, plain)
                    done.append(prefix)
    return done


def _vanilla(module: nn.Module) -> nn.Module:
    """What a module says to be the same at inference, in the module's mode."""
    with at_inference(module):
        plain: nn.Module = module.vanilla_export()  # type: ignore[operator]
    return plain.train(module.training)


def baked(model: ModuleT) -> ModuleT:
    """Copy a model, baked.

    Parameters
    ----------
    model : Module
        Left as it is.

    Returns
    -------
    Module
    """
    # What old-style hooks computed hangs on the graph of a forward pass, which cannot be copied.
    hanging = [x for module in model.modules() for x in vars(module).values() if isinstance(x, Tensor) and x.grad_fn]
    twin = copy.deepcopy(model, {id(x): x.detach().clone() for x in hanging})
    bake_(twin)
    return twin


def bake_tensor(module: nn.Module, name: str) -> None:
    """Make one tensor of `computed` a plain parameter."""
    how = computed(module)[name]
    # Not to move what is moved in training: in eval(), and removing reads the tensor.
    modes = {x: x.training for x in module.modules()}
    module.eval()
    try:
        if "weight_norm" in how:
            remove_weight_norm(module, name)
        elif "spectral_norm" in how:
            remove_spectral_norm(module, name)
        elif "pruning" in how:
            prune.remove(module, name)  # type: ignore[no-untyped-call]
        else:
            # Torch deletes the property from the class, which copies of the module share.
            kind = type(module)
            members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, members)
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    finally:
        for x, mode in modes.items():
            x.training = mode


class Saved:
    """A module as it is, to go back to."""

    def __init__(self, module: nn.Module) -> None:
        self.kinds = [(x, type(x)) for x in module.modules()]
        self.tables: list[tuple[Any, Any]] = []
        for x in module.modules():
            held = vars(x)
            self.tables += [(held, dict(held)), *((v, dict(v)) for v in held.values() if isinstance(v, dict))]
        with at_inference(module):
            tensors = [*module.parameters(), *module.buffers()]
            self.values = [(x, x.data, x.detach().clone()) for x in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back."""
        for module, kind in self.kinds:
            module.__class__ = kind
        for table, content in self.tables:
            table.clear()
            table.update(content)
        for x, data, values in self.values:
            x.data = data
            if not torch.equal(x, values):
                with torch.inference_mode(x.is_inference()), torch.no_grad():
                    x.copy_(values)
