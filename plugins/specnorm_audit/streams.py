"""Standard streams, which may be missing, full, or read by nobody any more: text written there never raises."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from specnorm.proof import visible

_BAR = 24
"""Characters of a bar."""
Tick = Callable[[int, int, str], None]
"""Is called with what is done, how much there is, and the name of what was done last."""


def complete() -> None:
    """Put streams in the place of those that this process was started without.

    Their numbers are taken then, so that no file is written to in their stead. Standard output refuses what is written,
    since it is lost; messages are dropped.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w", encoding="utf-8"))


def write(stream: TextIO, text: str, raw: bool = False) -> str | None:
    """Write at once; as escapes what the stream's encoding lacks and, on a terminal, what would control it (not raw).

    Why the text is lost, or None. A reader that has gone (head, less) has read what it wanted.
    """
    encoding = stream.encoding or "utf-8"
    try:
        if stream.isatty() and not raw:
            text = "\n".join(map(visible, text.split("\n")))
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):  # else the interpreter tries once more, at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else getattr(error, "strerror", None) or str(error)
    return None


def complain(message: str, prefix: str = "specnorm: ") -> None:
    """Say something on stderr, in one line."""
    write(sys.stderr, f"{prefix}{visible(message)}\n")


@contextmanager
def progress(model: str = "", shown: bool = True) -> Iterator[Tick | None]:
    """A line on stderr that says what is done, if that is a terminal or a notebook, and gone at the end."""
    if not shown or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield None
        return
    longest = 0

    def line(text: str) -> None:
        nonlocal longest
        shortened = visible(text)[: shutil.get_terminal_size().columns - 1]
        write(sys.stderr, f"\r{shortened:<{longest}}\r{shortened}", raw=True)
        longest = len(shortened)

    def tick(done: int, total: int, name: str) -> None:
        full = _BAR * done // max(total, 1)
        line(f"{'#' * full}{'.' * (_BAR - full)} {done}/{total} {name}")

    try:
        line(Path(model).name)
        yield tick
    finally:
        line("")
