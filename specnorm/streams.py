"""Standard streams, which may be missing, full, or read by nobody any more: what is written there never raises."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from specnorm.text import visible


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
