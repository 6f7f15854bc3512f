"""The private names of torch that training uses, with what is done where a release lacks them (last tested: 2.13).

Torch has no public names for operations on lists of tensors, nor for leaving its transformations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def foreach(name: str, tensors: Sequence[Tensor], *arguments: Any, **options: Any) -> Any:
    """Apply a method of tensors, such as ``add_``, to each tensor of a list, in one call where torch has that.

    An argument that is a list has one entry for each tensor.
    """
    if not tensors:
        return []
    together = getattr(torch, f"_foreach_{name}", None)
    if together is not None:
        return together(tensors, *arguments, **options)
    columns = [x if isinstance(x, list | tuple) else [x] * len(tensors) for x in arguments]
    return [getattr(x, name)(*rest, **options) for x, *rest in zip(tensors, *columns, strict=True)]


def is_transforming() -> bool:
    """Whether a ``torch.func`` transformation is running; without torch's name for that, of differentiations alone."""
    try:
        return torch._C._functorch.peek_interpreter_stack() is not None
    except AttributeError:
        tensor = torch.zeros(())
        return torch.func.debug_unwrap(tensor, recurse=False) is not tensor


def outside_of_transformations() -> contextlib.AbstractContextManager[Any]:
    """Leave the active ``torch.func`` transformations: what is computed from plain tensors is a constant of them.

    Raises
    ------
    RuntimeError
        If a transformation is active, and torch has no name for leaving it.
    """
    if not is_transforming():
        return contextlib.nullcontext()
    try:
        from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
    except ImportError:
        raise RuntimeError(
            f"torch {torch.__version__} cannot leave a torch.func transformation, which a constraint needs in train(): "
            "call model.eval() first, or train without torch.func."
        ) from None
    return temporarily_clear_interpreter_stack()
