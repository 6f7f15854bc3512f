"""Replace kernels that are computed before each call, by parametrizations or old-style hooks, by plain parameters."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import remove_spectral_norm
from torch.nn.utils.weight_norm import remove_weight_norm

from specnorm_torch.layers import at_inference, check_is_module, makers_of_tensors

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def bake_(model: nn.Module) -> list[str]:
    """Replace every tensor that a parametrization or an old-style hook computes by a plain parameter.

    The parameter has the values that the model currently uses in ``eval()``. Parametrizations of
    `torch.nn.utils.parametrize`, and hooks of ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune``, are
    removed. Other modules in the model that have a method ``vanilla_export()``, such as deel-torchlip's normalizations,
    are replaced by the plain module that it returns.

    Parameters
    ----------
    model : Module
        Changed in place; its training mode is kept. Optimizers have to be created again.

    Returns
    -------
    list of str
        Names of the tensors that are plain parameters now, and of the modules that were replaced.
    """
    check_is_module(model)
    baked_names = []
    for prefix, module in list(model.named_modules()):
        if "parametrizations" in prefix.split("."):
            continue
        tensor_names = makers_of_tensors(module)
        for name in tensor_names:
            bake_tensor(module, name)
            baked_names.append(f"{prefix}.{name}" if prefix else name)
        is_leaf = bool(prefix) and not list(module.children())
        if is_leaf and not tensor_names and hasattr(module, "vanilla_export"):
            plain = _vanilla(module)
            if plain is not module:
                model.set_submodule(prefix, plain)
                baked_names.append(prefix)
    remove_hooks(model)
    return baked_names


def _vanilla(module: nn.Module) -> nn.Module:
    """The plain module that a module's ``vanilla_export()`` returns, in the same training mode."""
    with at_inference(module):
        plain: nn.Module = module.vanilla_export()  # type: ignore[operator]
    return plain.train(module.training)


def baked(model: ModuleT) -> ModuleT:
    """Return a copy of a model with all computed tensors replaced by plain parameters (`bake_`).

    Parameters
    ----------
    model : Module
        Not changed.

    Returns
    -------
    Module
    """
    check_is_module(model)
    # Tensors that old-style hooks computed belong to the graph of a forward pass, which `deepcopy` cannot copy.
    graph_tensors = []
    for module in model.modules():
        graph_tensors += [x for x in vars(module).values() if isinstance(x, Tensor) and x.grad_fn]
    copied_model = copy.deepcopy(model, {id(x): x.detach().clone() for x in graph_tensors})
    bake_(copied_model)
    return copied_model


def bake_tensor(module: nn.Module, name: str) -> None:
    """Replace one tensor of `makers_of_tensors` by a plain parameter."""
    maker = makers_of_tensors(module)[name]
    # Removing a parametrization or a hook reads the tensor, which may change its state in training mode.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        if "weight_norm" in maker:
            remove_weight_norm(module, name)
        elif "spectral_norm" in maker:
            remove_spectral_norm(module, name)
        elif "pruning" in maker:
            prune.remove(module, name)  # type: ignore[no-untyped-call]
        else:
            # Torch deletes the property from the class, which copies of the module share. So the module gets a class of
            # its own first.
            cls = type(module)
            members = {word: x for word, x in vars(cls).items() if word not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls.__name__, cls.__bases__, members)
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    finally:
        for part, mode in modes.items():
            part.training = mode


def remove_hooks(model: nn.Module) -> None:
    """Remove specnorm's hooks from a model without constraints, which is pickled and scripted like any other."""
    for module in model.modules():
        tables: list[Any] = [
            module._forward_pre_hooks, module._forward_hooks, module._load_state_dict_pre_hooks,
            module._load_state_dict_post_hooks,
        ]  # fmt: skip
        for hooks in tables:
            for key, hook in list(hooks.items()):
                if str(getattr(hook, "__module__", "")).startswith("specnorm_"):
                    del hooks[key]


class SavedModule:
    """The state of a module, which can be restored: classes, attributes, and the values of parameters and buffers."""

    def __init__(self, module: nn.Module) -> None:
        self.classes = [(part, type(part)) for part in module.modules()]
        self.tables: list[tuple[Any, Any]] = []
        """Dictionaries of attributes, parameters, buffers and hooks, with copies of their content."""
        for part in module.modules():
            attributes = vars(part)
            tables = [attributes, *(x for x in attributes.values() if isinstance(x, dict))]
            self.tables += [(table, dict(table)) for table in tables]
        with at_inference(module):
            tensors = [*module.parameters(), *module.buffers()]
            self.values = [(x, x.data, x.detach().clone()) for x in tensors]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the state."""
        for part, cls in self.classes:
            part.__class__ = cls
        for table, content in self.tables:
            table.clear()
            table.update(content)
        for x, data, values in self.values:
            x.data = data
            if not torch.equal(x, values):
                with torch.inference_mode(x.is_inference()), torch.no_grad():
                    x.copy_(values)
