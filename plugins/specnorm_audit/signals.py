"""What ends the command: an exit code (128 and the signal's number), no traceback, and none of its processes left."""

from __future__ import annotations

import signal
from typing import Any, NoReturn


def running() -> None:
    """From here on a signal unwinds the command: its processes are ended and its temporary files removed."""
    _answer(_unwinding)


def _answer(how: Any) -> None:
    """Handle each signal so, unless the caller has it ignored (nohup)."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, how)


def _unwinding(number: int, _: object) -> NoReturn:
    _answer(signal.SIG_IGN)  # it is ending already, within a second
    raise SystemExit(128 + number)
