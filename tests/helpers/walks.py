"""How far a call walks through the core: ``python -m helpers.walks`` in the folder ``tests``.

A room is one of `test_house.LEVELS`; a climb is a pair of rooms of which the lower calls a function of the higher
(a callback, such as a backend that runs a program). What is imported, and what another thread does, is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import numpy as np
from test_house import CORE, level

import specnorm


def room(frame: FrameType | None) -> str | None:
    """The room of the nearest frame of the core that calls."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(CORE)):
            return name.removeprefix(f"{CORE}/").removesuffix(".py").split("/")[0]
        frame = frame.f_back
    return None


def walk(call: Callable[[], object]) -> tuple[list[str], list[tuple[str, str]]]:
    """Rooms that a call enters, in order, and its climbs."""
    rooms: list[str] = []
    climbs: list[tuple[str, str]] = []

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(str(CORE)):
            return
        here, before = room(frame), room(frame.f_back)
        if here is not None and here not in rooms:
            rooms.append(here)
        if here and before and level(here) > level(before) and (before, here) not in climbs:
            climbs.append((before, here))

    call()  # what is loaded at the first call
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return rooms, climbs


if __name__ == "__main__":
    kernel = np.random.default_rng(0).standard_normal((48, 48, 3, 3))
    for function in (specnorm.enclose, specnorm.tn_bound):
        rooms, climbs = walk(partial(function, kernel))
        sys.stdout.write(
            f"{function.__name__}: {len(rooms)} rooms ({', '.join(rooms)}); {len(climbs)} climbs {climbs}\n"
        )
