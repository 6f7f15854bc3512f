"""Runs of a model that its graph must agree with: twice on one input, and on several samples together and apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specnorm.errors import MethodError
from specnorm_torch.modules import at_inference
from specnorm_torch.tracing import replaced, tensors


def tensor_names(model: nn.Module) -> set[str]:
    """Names of all tensors that its modules hold, in attributes too."""
    return {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        for name, x in (vars(module) | module._parameters | module._buffers).items()
        if isinstance(x, Tensor)
    }


def refuse_first_call(model: nn.Module, known: set[str]) -> None:
    """Refuse a model that made tensors while it was traced: they are no values."""
    made = sorted(tensor_names(model) - known)
    if made:
        told = f"{type(model).__name__} makes {', '.join(made)} at its first call"
        raise MethodError(f"{told}. Call it once on an input, then ask again.")


def check_repeats(model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Refuse a model whose output changes from call to call: what it drew or kept was a constant in the trace."""
    inputs = replaced(example, torch.Generator().manual_seed(0))
    with at_inference(model):
        first, second = (list(tensors(model(*(x.clone() for x in inputs)))) for _ in range(2))
    if not all(_near(a, b) for a, b in zip(first, second, strict=True)):
        raise MethodError(
            f"{type(model).__name__} gives another output for the same input at its next call: it draws random "
            "numbers outside of torch, or keeps a state. Make it a function of its inputs first."
        )


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs differ by no more than rounding may make of one."""
    near = torch.finfo(a.dtype).eps ** 0.5 if a.is_floating_point() or a.is_complex() else 0.0
    largest = float(torch.where(a.isfinite(), a.abs(), 0).max()) if near and a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, near, near * largest, equal_nan=True)


def check_samples(model: nn.Module, example: Tensor) -> None:
    """Refuse a model that makes of several samples something else than of each: it was traced with one.

    What runs on one alone is not refused: of others nothing is said.
    """
    (x,) = replaced((example.expand(3, *example.shape[1:]),), torch.Generator().manual_seed(0))
    with at_inference(model):
        alone = [list(tensors(model(sample.clone()))) for sample in x.split(1)]
    for count in (2, 3):
        try:
            with at_inference(model):
                together = list(tensors(model(x[:count].clone())))
        except Exception:  # whatever the model's own code raises: it does not run on so many
            continue
        apart = zip(*alone[:count], strict=True)
        if len(together) != len(alone[0]) or not all(map(_is_joined, together, apart)):
            raise MethodError(
                f"{type(model).__name__} gives another output for {count} samples together than for each of them: it "
                "mixes samples, or depends on how many there are. Give an input with its batch axis in place of the "
                "shape: the bound is for so many samples then."
            )


def _is_joined(whole: Tensor, parts: tuple[Tensor, ...]) -> bool:
    """Whether outputs of single samples make the whole, along any axis."""
    return any(_near(whole, torch.cat(parts, axis)) for axis in range(whole.ndim) if parts[0].ndim == whole.ndim)
