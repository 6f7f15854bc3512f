"""The command ``specnorm``: call `cli`, or say which packages to install if some that it needs are missing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from importlib.util import find_spec
from typing import Any, NoReturn

from specnorm.proof import install
from specnorm_audit.streams import complain, open_missing_streams

_PATIENCE = 3.0
"""Seconds after a signal within which the program ends in order; a long call in a library would delay that."""
_NEEDED = ("click", "jinja2", "safetensors")


def main() -> None:
    """Run the command line and exit with its code; a signal ends its processes and removes its temporary files."""
    open_missing_streams()
    _handle_signals(_unwinding)
    _end_in_time()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        complain(f"the command line needs {', '.join(missing)}: {install('cli')}")
        sys.exit(2)
    from specnorm_audit.cli import run

    sys.exit(run())


def _handle_signals(handler: Any) -> None:
    """Set the handler of each signal that ends a program, unless the caller ignores the signal (nohup)."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _end_in_time() -> None:
    """Start a thread that ends the program `_PATIENCE` seconds after a signal, if it runs then.

    Python calls a signal's handler between two of its own steps, so that a factorization in a library delays it.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait(_kept_open: socket.socket) -> None:
        (number,) = reader.recv(1)
        time.sleep(_PATIENCE)
        os._exit(128 + number)  # other processes of this one notice it, and end

    threading.Thread(target=wait, args=(writer,), daemon=True).start()


def _unwinding(number: int, _: object) -> NoReturn:
    """End the program by an exception, so that temporary files and processes are removed."""
    _handle_signals(signal.SIG_IGN)  # further signals are ignored: the program ends within a second
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
