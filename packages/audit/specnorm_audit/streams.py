"""Write to the standard streams, which may be missing or full, without raising."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TextIO

from specnorm.proof import visible

Tick = Callable[[int, int, str], None]
"""Called with (number of steps done, number of steps, name of the last one)."""
_PARAMETER = (
    r"\b(?P<parameter>assume_stored|attention|geometry|ignore|input_range|input_shape|layers|layout|max_bytes"
    r"|methods|padding_mode)=(?=[\s.,:;)]|$|(?P<quote>['\"(]))"
)
"""Parameters of functions that are options of the commands too, as errors and reports name them."""
_BAR = 24
"""Number of characters of a progress bar."""


def open_missing_streams() -> None:
    """Open standard streams in place of those that this process was started without.

    Otherwise the next opened file would get a stream's number, and be written to as that stream. The new standard
    output refuses text, since it would be lost; the new standard error drops messages.
    """
    for name, flags in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(file, "r" if name == "stdin" else "w", encoding="utf-8"))


def in_options(text: str, names: Iterable[str] = ()) -> str:
    """Return a function's text with the options of the command in place of its parameters: of ``layout=``, --layout.

    What the text says of a model's own ``names`` stays as it is.
    """
    kept = sorted(filter(re.compile(_PARAMETER).search, names), key=len, reverse=True)
    return re.sub("|".join([*map(re.escape, kept), _PARAMETER]), _as_option, text)


def _as_option(match: re.Match[str]) -> str:
    parameter = match["parameter"]
    if parameter is None:  # a name
        return match[0]
    return f"--{parameter.replace('_', '-')}{' ' if match['quote'] else ''}"


def write(stream: TextIO, text: str, raw: bool = False) -> str | None:
    """Write and flush text; return the reason why it is lost, or None.

    Characters that the stream's encoding lacks become escapes; on a terminal so do control characters, unless ``raw``.
    If a reader such as head or less has ended, the text does not count as lost.
    """
    encoding = stream.encoding or "utf-8"
    try:
        if stream.isatty() and not raw:
            text = "\n".join(map(visible, text.split("\n")))
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):  # without this the interpreter would try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return None if isinstance(error, BrokenPipeError) else getattr(error, "strerror", None) or str(error)
    return None


def complain(message: str, prefix: str = "specnorm: ") -> None:
    """Write a message to stderr, in one line."""
    write(sys.stderr, f"{prefix}{visible(message)}\n")


@contextmanager
def progress(model: str, shown: bool) -> Iterator[Tick]:
    """Show a line of progress on stderr, if that is a terminal and ``shown``; the line is removed at the end.

    If the program is interrupted, a message says how far it came.
    """
    begin = monotonic()
    longest = 0
    latest: tuple[int, int, str] | None = None
    is_seen = shown and sys.stderr.isatty()

    def line(text: str) -> None:
        nonlocal longest
        if not is_seen:
            return
        shortened = visible(text)[: shutil.get_terminal_size().columns - 1]
        write(sys.stderr, f"\r{shortened:<{longest}}\r{shortened}", raw=True)
        longest = len(shortened)

    def tick(done: int, total: int, name: str) -> None:
        nonlocal latest
        latest = (done, total, name)
        line(_line_of_progress(done, max(total, 1), name, monotonic() - begin))

    try:
        line(Path(model).name)
        yield tick
    except (SystemExit, KeyboardInterrupt):
        line("")
        where = "before the first step" if latest is None else f"after {latest[0]} of {latest[1]} steps ({latest[2]})"
        complain(f"interrupted {where} of {Path(model).name}: no report is written.")
        raise
    finally:
        line("")


def _line_of_progress(done: int, total: int, name: str, seconds: float) -> str:
    """Return a bar, percent, and rate and time left as far as they are known."""
    full = _BAR * done // total
    bar = f"{'#' * full}{'.' * (_BAR - full)} {100 * done // total:3d} % {done}/{total}"
    if not done or seconds < 1:
        return f"{bar} {name}"
    rate = done / seconds
    left = round((total - done) / rate)
    minutes, rest = divmod(left, 60)
    time_left = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{bar} {rate:.2g}/s, {time_left} left, {name}"
