"""Which rooms a kernel passes on its way to an answer: from the front door down, and no call goes up."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from test_house import CORE, level, room

import specnorm
from specnorm.numerics.power import composed

OPERATIONS = ("runtime/execution.py", "plugin.py")
"""The operations of the array library: an argument of every algorithm, called from all rooms; so are the plugins."""


class Way:
    """Rooms on the stack of calls of a function, and the calls of a room by one below it.

    Attributes
    ----------
    deepest : tuple of str
        The most rooms that lie on one stack.
    upward : set of str
    """

    def __init__(self) -> None:
        self.deepest: tuple[str, ...] = ()
        self.upward: set[str] = set()
        self.calls: Counter[str] = Counter()

    def __enter__(self) -> Way:
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        here = way_room(frame) if event == "call" else None
        if here is None:
            return
        self.calls[frame.f_code.co_qualname] += 1
        stack = [name for name in map(way_room, callers(frame)) if name is not None]
        above = next((name for name in stack if name != here), here)
        if level(here) > level(above):
            self.upward.add(f"{above} calls {frame.f_code.co_qualname} of {here}")
        rooms = tuple(dict.fromkeys(reversed([here, *stack])))
        self.deepest = max(self.deepest, rooms, key=len)


def callers(frame: FrameType) -> Iterator[FrameType]:
    """From the caller of a frame outwards."""
    while frame.f_back is not None:
        frame = frame.f_back
        yield frame


def way_room(frame: FrameType) -> str | None:
    """Room of the core that a call is in; none of the operations of the array library, and of other code."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(CORE):
        return None
    return None if path.relative_to(CORE).as_posix() in OPERATIONS else room(path).removesuffix(".py")


@pytest.mark.parametrize("at", [{}, {"input_shape": 16}, {"input_shape": 16, "padding_mode": "zeros"}], ids=str)
def test_a_kernel_passes_eight_rooms_and_never_upward(at: dict[str, Any]) -> None:
    """Also through Lanczos, circulants and the layer's own matrix; the plugin is looked up once."""
    kernel = np.random.RandomState(0).standard_normal((12, 12, 3, 3))
    specnorm.enclose(kernel[:2, :2], **at)
    with Way() as way:
        specnorm.enclose(kernel, **at)
        specnorm.enclose(kernel[:2, :3], **at, rtol=1e-6)
    assert way.upward == set()
    assert len(way.deepest) <= 8, way.deepest
    assert way.calls["backend_for"] == 2, "once a call"


def test_a_call_upward_is_seen() -> None:
    with Way() as way:
        one: Any = np.ones(())
        composed(lambda x: float(specnorm.enclose(np.ones((1, 1, 1))).upper) * x, lambda x: x)(one)
    assert {"numerics calls enclose of proving"} <= way.upward
