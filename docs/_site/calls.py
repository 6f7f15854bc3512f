"""Two calls, frame by frame with the shapes of their arrays: the map on docs/CONTRIBUTING.md.

``python docs/_site/calls.py`` traces `reshaped_norm` and `enclose`, and writes their frames between the page's marks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import specnorm

ROOT = Path(specnorm.__file__).parent
PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
START = "<!-- calls: written by docs/_site/calls.py -->\n"
END = "<!-- end of calls -->"
GROUND = (
    *("errors.py", "backends/", "proofs/arithmetic.py", "proofs/rounding.py", "proofs/host.py", "proofs/bound.py"),
    *("geometry/layers.py", "geometry/spec.py", "running/base.py"),
)
"""Files whose functions are small steps of others, and not shown."""


class Calls:
    """The frames of one call: each function where it is entered first, indented by its depth."""

    def __init__(self, deepest: int) -> None:
        self.lines: list[str] = []
        self._deepest = deepest
        self._seen: set[object] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """The profile function: note a frame of the core when it is entered."""
        if event != "call" or not self._is_shown(frame) or frame.f_code in self._seen:
            return
        self._seen.add(frame.f_code)
        depth = self._depth(frame)
        if depth <= self._deepest:
            place = Path(frame.f_code.co_filename).relative_to(ROOT).with_suffix("").as_posix()
            name = frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
            self.lines.append(f"{'  ' * depth}{name}{self._shapes(frame)}  [{place}]")

    def _depth(self, frame: FrameType) -> int:
        """Number of shown frames that this one was called from."""
        depth = 0
        caller = frame.f_back
        while caller is not None:
            depth += self._is_shown(caller)
            caller = caller.f_back
        return depth

    @staticmethod
    def _is_shown(frame: FrameType) -> bool:
        file = Path(frame.f_code.co_filename)
        is_function = not frame.f_code.co_name.startswith("<") and "<locals>" not in frame.f_code.co_qualname
        if not file.is_relative_to(ROOT) or not is_function or frame.f_code.co_name.startswith("__"):
            return False
        return not file.relative_to(ROOT).as_posix().startswith(GROUND)

    @staticmethod
    def _shapes(frame: FrameType) -> str:
        """The shapes of the arrays among the arguments, in their order."""
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        arguments = [(name, frame.f_locals.get(name)) for name in names]
        shapes = [f"{name} {x.shape}" for name, x in arguments if isinstance(x, np.ndarray) and x.ndim]
        return f"  {', '.join(shapes)}" if shapes else ""


def traced(call: Callable[[], Any], deepest: int) -> str:
    """The frames of a call; the first call of a process makes its program, the second one is traced."""
    call()
    calls = Calls(deepest)
    sys.setprofile(calls)
    try:
        call()
    finally:
        sys.setprofile(None)
    return "\n".join(calls.lines)


def page() -> str:
    """What stands between the marks."""
    kernel = np.random.RandomState(0).standard_normal((64, 64, 3, 3))
    parts = []
    for title, call, deepest in (
        ("specnorm.reshaped_norm(kernel)", lambda: specnorm.reshaped_norm(kernel), 99),
        ("specnorm.enclose(kernel)", lambda: specnorm.enclose(kernel), 9),
    ):
        parts.append(f"`{title}`:\n\n```text\n{traced(call, deepest)}\n```\n")
    return "\n" + "\n".join(parts) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + START + page() + END + after, encoding="utf-8")
