"""What a module asks of tensors that do not depend on its input (`if self.batches > 1`), so that a trace can be told.

`torch.export` knows no values of buffers and refuses such code. Here the module is run first, what it is answered is
noted, and the same answers are given while it is traced. A module that asks anything of its input gets none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from specnorm_torch.models import ASKED, at_inference, called, replaced, tensors, version_of
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DECIDES = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "is_nonzero", "equal", "allclose")
Answer: TypeAlias = tuple[str, Any]
"""What was called, and what it returned."""


def decisions(model: nn.Module, example: tuple[Tensor, ...]) -> list[Answer] | None:
    """Answers that a module gets about its own tensors, in order; None: none, or such as depend on input or chance."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2):
        record, next_number = _Record(inputs := replaced(example, generator)), torch.get_rng_state()
        with at_inference(model), torch.inference_mode(False), torch.no_grad(), record:
            model(*inputs)
        found.append(record.answers)
        drew = not torch.equal(next_number, torch.get_rng_state())
        torch.set_rng_state(next_number)
        if record.escaped or drew:
            return None
    return found[0] if found[0] and found[0] == found[1] else None


@contextmanager
def told(model: nn.Module, answers: Sequence[Answer]) -> Iterator[None]:
    """Give a module the same answers, each time that it is called."""
    replay = _Replay(answers)
    begin = model.register_forward_pre_hook(replay.begin)
    try:
        with replay:
            yield
    finally:
        begin.remove()


class _Record(TorchFunctionMode):
    """Notes answers about what does not depend on given tensors: told by the memory in which values lie."""

    def __init__(self, given: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.answers: list[Answer] = []
        self.escaped = False
        self.data = {_memory(x): x for x in tensors(given)}  # held, so that no other tensor gets their memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call of torch's."""
        del types
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        before = [version_of(x) for x in given]
        depends = any(_memory(x) in self.data for x in given)
        out = func(*args, **kwargs)
        name, results = called(func), list(tensors(out))
        if not depends:
            self.answers += [(name, out)] if name in _DECIDES else []
        elif results or out is None:
            changed = [x for x, count in zip(given, before, strict=True) if version_of(x) != count]
            self.data |= {_memory(x): x for x in (*results, *changed)}
        elif name not in ASKED:
            self.escaped = True
        return out


class _Replay(TorchFunctionMode):
    """Answers as was noted."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        super().__init__()
        self.answers = answers
        self.left: Iterator[Answer] = iter(())

    def begin(self, *_: Any) -> None:
        """Start again, when the module is called."""
        self.left = iter(self.answers)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer one call, or run it."""
        del types
        name = called(func)
        if name not in _DECIDES:
            return func(*args, **(kwargs or {}))
        noted, answer = next(self.left, ("nothing", None))
        if noted != name:
            raise RuntimeError(f"its code calls {name} where it called {noted} before")
        return answer


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata if x.layout == torch.strided else id(x)
