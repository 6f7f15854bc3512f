"""Standard streams, which may be missing, full, or read by nobody any more: text written there never raises."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from specnorm.text import visible

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


def write(stream: TextIO, text: str) -> str | None:
    """Write at once; as escapes what the stream's encoding lacks and, on a terminal, what would control it.

    Why the text is lost, or None. A reader that has gone (head, less) has read what it wanted.
    """
    encoding = stream.encoding or "utf-8"
    try:
        if stream.isatty():
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


def progress(model: str) -> AbstractContextManager[Tick | None]:
    """Progress bar on stderr under a file's name, if that is a terminal."""
    return _bar(model) if sys.stderr.isatty() else nullcontext()


@contextmanager
def _bar(model: str) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    # No time left: the layers to come may take a thousand times as long as those that are done.
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(visible(Path(model).name), total=None)

        def tick(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=visible(name))

        yield tick
