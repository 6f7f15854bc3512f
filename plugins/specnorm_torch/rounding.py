"""How much of a function's values is rounding, by running it again with its intermediate values shaken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

SHARE = 1024
"""Roundings of each entry by which it is shaken: of a sum of so many terms as they may be at worst."""
RUNS = 4


class _Shaking(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Changes each entry that an operator of torch's computes, at random, by up to `SHARE` roundings."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        # A view has entries that were shaken where they were computed; what is written to is shaken in place.
        written = [r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns]
        viewed = [r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns]
        if any(viewed):
            return out
        return tree_map_only(Tensor, self._in_place if any(written) else self._anew, out)

    def _anew(self, x: Tensor) -> Tensor:
        return x * self._factors(x) if x.is_floating_point() or x.is_complex() else x

    def _in_place(self, x: Tensor) -> Tensor:
        return x.mul_(self._factors(x)) if x.is_floating_point() or x.is_complex() else x

    def _factors(self, x: Tensor) -> Tensor:
        share = SHARE * torch.finfo(x.dtype).eps / 2
        made = torch.rand(x.shape, generator=self.numbers, dtype=torch.float64) * 2 - 1
        return (1 + share * made).to(x.device, x.dtype)


def shaken(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Length of what rounding may have changed in f(x): an estimate, not a bound, made large.

    Nothing less sees it all: outputs do not show what cancelled before them, nor the largest value inside how far its
    error grows. So every entry that an operator computes is changed at random by up to `SHARE` of its own roundings,
    which then goes through the rest of f as rounding itself does: of `RUNS` runs the largest change counts. An
    operator's own error is n roundings of the sum of its n terms' magnitudes at worst, and some root of n as a rule;
    what cancels in it is shaken through its inputs.

    Parameters
    ----------
    function : callable
        Of torch's operators.
    x : Tensor

    Returns
    -------
    float
        Infinite or NaN where values are.
    """
    # Compiled code would not be seen.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        plain = function(x)
        changes = []
        for seed in range(RUNS):
            with _Shaking(seed):
                changes.append(float((function(x.clone()) - plain).norm()))
    return max(changes)
