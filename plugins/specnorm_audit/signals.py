"""What ends the command: an exit code (128 and the signal's number), no traceback, and none of its processes left.

Nothing is touched in a program that imports specnorm.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn


def starting() -> None:
    """While the command's modules are imported nothing is to be cleaned up: a signal ends it at once."""
    module = [*sys.orig_argv, ""]
    as_module = "-m" in module and module[module.index("-m") + 1] == "specnorm_audit"
    if as_module or sys.argv[0].endswith(("/specnorm", "\\specnorm.exe")):
        _answer(_at_once)


def running() -> None:
    """From here on a signal unwinds the command: its processes are ended and its temporary files removed."""
    _answer(_unwinding)


def _answer(how: Any) -> None:
    """Handle each signal so, unless the caller has it ignored (nohup)."""
    import signal  # here, since programs that import specnorm need none of it

    usual = (signal.SIG_DFL, signal.default_int_handler, _at_once)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and (how is signal.SIG_IGN or signal.getsignal(number) in usual):
            signal.signal(number, how)


def _at_once(number: int, _: object) -> NoReturn:
    import os

    os._exit(128 + number)


def _unwinding(number: int, _: object) -> NoReturn:
    import signal

    _answer(signal.SIG_IGN)  # it is ending already, within a second
    raise SystemExit(128 + number)
